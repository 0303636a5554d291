"""Programs with worker threads that must not fail, under any schedule; `EVERY` has them by name."""

from __future__ import annotations

import queue
import threading
from collections.abc import Mapping
from types import MappingProxyType

import trio
from trio.lowlevel import checkpoint

from changeover_sim import cancel_anywhere
from tests.simulations.explorer.must_not import Program


async def threads() -> None:
    """Each thread does its work once."""
    got: list[int] = []

    async def task(number: int) -> None:
        assert await trio.to_thread.run_sync(lambda: got.append(number) or number) == number

    async with trio.open_nursery() as nursery:
        for number in range(3):
            nursery.start_soon(task, number)
    assert sorted(got) == [0, 1, 2]


async def thread_that_may_be_abandoned() -> None:
    """Whoever waits goes on at once; what the thread returns later is dropped."""
    with trio.move_on_after(1) as scope:
        await trio.to_thread.run_sync(lambda: None, abandon_on_cancel=True)
        await trio.sleep_forever()
    assert scope.cancelled_caught


async def abandoned_thread() -> None:
    """A thread whose starter is cancelled runs or does not, and disturbs nobody either way."""
    ran: list[None] = []
    with trio.CancelScope() as scope:
        cancel_anywhere(scope)
        await trio.to_thread.run_sync(ran.append, None, abandon_on_cancel=True)
    await checkpoint()
    assert len(ran) <= 1


async def thread_that_is_not_abandoned() -> None:
    """Cancelled or not, a thread that has begun is waited for."""
    log: list[str] = []
    with trio.CancelScope() as scope:
        cancel_anywhere(scope)
        log.append("begin")
        await trio.to_thread.run_sync(log.append, "work")
        log.append("end")
    assert log in (["begin"], ["begin", "work"], ["begin", "work", "end"])
    if log[-1] == "end":
        return
    assert scope.cancelled_caught


async def back_into_trio() -> None:
    """A thread calls async and plain functions in the loop, which may wait and raise."""
    order: list[str] = []

    async def inside(number: int) -> int:
        await trio.sleep(number)
        order.append("inside")
        return number

    def fails() -> None:
        raise ValueError("inside")

    def work() -> int:
        total = trio.from_thread.run(inside, 2) + trio.from_thread.run_sync(lambda: 5)
        try:
            trio.from_thread.run_sync(fails)
        except ValueError:
            order.append("raised")
        return total

    async with trio.open_nursery() as nursery:
        nursery.start_soon(checkpoint)
        assert await trio.to_thread.run_sync(work) == 7
    assert order == ["inside", "raised"]
    assert trio.current_time() == 2


async def cancelled_in_a_thread() -> None:
    """A thread that asks learns that its starter was cancelled."""

    def work() -> str:
        trio.from_thread.run(trio.sleep, 2)
        try:
            trio.from_thread.check_cancelled()
        except trio.Cancelled:
            return "cancelled"
        return "not"

    with trio.move_on_after(1):
        assert await trio.to_thread.run_sync(work) == "cancelled"


async def threads_with_a_limit() -> None:
    """With one token one thread is inside."""
    free = trio.CapacityLimiter(1)
    inside = threading.Semaphore(1)

    def work() -> None:
        assert inside.acquire(blocking=False)
        trio.from_thread.run(checkpoint)
        inside.release()

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(lambda: trio.to_thread.run_sync(work, limiter=free))


async def thread_in_a_thread() -> None:
    """A thread asks the loop for a task that starts a thread."""

    def inner() -> int:
        return 7

    def outer() -> int:
        return trio.from_thread.run(trio.to_thread.run_sync, inner)

    assert await trio.to_thread.run_sync(outer) == 7


async def soon() -> None:
    """What is handed in by the token runs in order, once each."""
    token, order = trio.lowlevel.current_trio_token(), list[int]()
    done = trio.Event()
    for number in range(3):
        token.run_sync_soon(order.append, number)
    token.run_sync_soon(done.set)
    await done.wait()
    assert order == [0, 1, 2]


async def plain_queue() -> None:
    """What does not block is free to use, threads' locks among it."""
    things: queue.SimpleQueue[int] = queue.SimpleQueue()
    guard = threading.Lock()

    async def task(number: int) -> None:
        with guard:
            things.put(number)
        await checkpoint()
        things.get_nowait()

    async with trio.open_nursery() as nursery:
        for number in (1, 2):
            nursery.start_soon(task, number)
    assert things.empty()


EVERY: Mapping[str, Program] = MappingProxyType(
    {
        program.__name__: program
        for program in (
            *(threads, thread_that_may_be_abandoned, abandoned_thread, thread_that_is_not_abandoned, back_into_trio),
            *(cancelled_in_a_thread, threads_with_a_limit, thread_in_a_thread, soon, plain_queue),
        )
    }
)
