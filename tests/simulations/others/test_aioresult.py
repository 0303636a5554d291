"""aioresult 1.3 and asyncer 0.0.18: results of tasks. Nothing was found in them."""

from __future__ import annotations

import asyncer
import pytest
import trio
from aioresult import Future, ResultCapture, results_to_channel, wait_any

from changeover_sim import cancel_anywhere
from tests.simulations.others.record import Finding, Program, assert_well, cancel_later, checkpoint

FOUND: tuple[Finding, ...] = ()


async def work(number: int) -> int:
    """Return a number, a little later."""
    await checkpoint()
    return number


async def any_of_two() -> None:
    """What `wait_any` returns is done, and whoever gives up waiting disturbs nobody."""
    async with trio.open_nursery() as nursery:
        results = [ResultCapture.start_soon(nursery, work, number) for number in range(2)]
        with trio.CancelScope() as scope:
            cancel_anywhere(scope)
            assert (await wait_any(results)).result() in {0, 1}
    assert [result.result() for result in results] == [0, 1]


async def through_channel() -> None:
    """Each result comes through the channel once."""
    send, receive = trio.open_memory_channel[ResultCapture[int]](1)
    async with trio.open_nursery() as nursery:
        results = [ResultCapture.start_soon(nursery, work, number) for number in range(3)]
        nursery.start_soon(results_to_channel, results, send)
        assert sorted([result.result() async for result in receive]) == [0, 1, 2]


async def started_and_done() -> None:
    """Both results are there in the end, whenever the start is cancelled."""

    async def service(*, task_status: trio.TaskStatus[str]) -> None:
        await checkpoint()
        task_status.started("up")
        await checkpoint()

    async with trio.open_nursery() as run_in, trio.open_nursery() as start_in:
        cancel_anywhere(start_in.cancel_scope)
        started, done = ResultCapture.capture_start_and_done_results(run_in, service, start_nursery=start_in)
    assert started.is_done()
    assert done.is_done()


async def future() -> None:
    """Everybody who waits for a future is woken, but for those who gave up."""
    made, scope, woken = Future[int](), trio.CancelScope(), list[int]()

    async def waiter(scope: trio.CancelScope) -> None:
        with scope:
            await made.wait_done()
            woken.append(made.result())

    async def setter() -> None:
        made.set_result(1)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(waiter, scope)
        nursery.start_soon(waiter, trio.CancelScope())
        nursery.start_soon(setter)
        nursery.start_soon(cancel_later, scope)
    assert woken in ([1], [1, 1])


async def soon() -> None:
    """A value of asyncer is there behind the block, unless the block was cancelled."""
    with trio.CancelScope() as scope:
        cancel_anywhere(scope)
        async with asyncer.create_task_group() as group:
            values = [group.soonify(work)(number) for number in range(2)]
        assert [value.value for value in values] == [0, 1]


WELL = (any_of_two, through_channel, started_and_done, future, soon)


@pytest.mark.parametrize("program", WELL, ids=lambda program: program.__name__)
def test_all_goes_well(program: Program, part: int) -> None:
    """No schedule of these fails."""
    assert_well(program, part)
