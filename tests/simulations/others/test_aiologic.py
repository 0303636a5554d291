"""aiologic 0.17.1, and culsans 0.11.0 that is made of it: locks, conditions, queues, barriers."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager, suppress

import aiologic
import culsans
import pytest
import trio

from tests.simulations.others import patterns
from tests.simulations.others.record import (
    Finding,
    Program,
    assert_fails_again,
    assert_found,
    assert_well,
    at_rest,
    cancel_later,
    checkpoint,
)


async def cancelled_writer() -> None:
    """Readers behind a writer that gave up are in with the reader that is in."""
    lock, scope, read = culsans.RWLock(), trio.CancelScope(), list[str]()

    async def reader(name: str) -> None:
        async with lock.reading:
            read.append(name)
            await trio.sleep_forever()

    async def writer() -> None:
        with scope:
            async with lock.writing:
                pass

    async with trio.open_nursery() as nursery:
        nursery.start_soon(reader, "first")
        nursery.start_soon(writer)
        nursery.start_soon(reader, "second")
        nursery.start_soon(cancel_later, scope)
        await at_rest()
        assert sorted(read) == ["first", "second"], "a reader waits for a reader"
        nursery.cancel_scope.cancel()


async def cancelled_at_barrier() -> None:
    """A barrier for two lets two through, or nobody."""
    barrier, scope, passed = aiologic.RBarrier(2), trio.CancelScope(), list[int]()

    async def task(scope: trio.CancelScope) -> None:
        with scope, suppress(aiologic.BrokenBarrierError):
            passed.append(await barrier)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(task, scope)
        await at_rest()
        nursery.start_soon(task, trio.CancelScope())
        nursery.start_soon(cancel_later, scope)
    assert len(passed) != 1, "one has passed alone"


FOUND = (
    Finding(
        "aiologic==0.17.1",
        "RBarrier, Barrier",
        cancelled_at_barrier,
        "a task that is cancelled and has not run yet still counts: the next to arrive passes, alone, and the barrier "
        "is broken behind it (`_barriers.py`, `_wakeup_if_reached` looks at how many wait, and not for whether they "
        "could be woken)",
        "The initial number of tasks required to pass the barrier",
        "AssertionError: one has passed alone",
    ),
    Finding(
        "culsans==0.11.0",
        "RWLock",
        cancelled_writer,
        "readers that wait behind a writer sleep on when that writer is cancelled, and so do all that come later, "
        "until every reader that is in has left: `async_acquire_on_behalf_of` in `_groupers/_types.py` takes the "
        "cancelled event back and wakes nobody",
        "",
        "AssertionError: a reader waits for a reader",
    ),
)


# --- what goes well ---------------------------------------------------------------------------------------------------


@contextmanager
def queue() -> Generator[patterns.Ends, None, None]:
    """Make a queue of aiologic that has room for one."""
    made = aiologic.Queue[int](1)
    yield made.async_put, made.async_get, lambda: made.green_get(blocking=False)


@contextmanager
def simple_queue() -> Generator[patterns.Ends, None, None]:
    """Make one that has no end."""
    made = aiologic.SimpleQueue[int]()
    yield made.async_put, made.async_get, lambda: made.green_get(blocking=False)


@contextmanager
def culsans_queue() -> Generator[patterns.Ends, None, None]:
    """Make a queue of culsans that has room for one."""
    made = culsans.Queue[int](1)
    yield made.async_put, made.async_get, made.get_nowait


async def readers_and_writers() -> None:
    """Nobody is in with a writer, whoever is cancelled; afterwards nobody is."""
    lock, scope, inside = culsans.RWLock(), trio.CancelScope(), list[str]()

    async def task(kind: str, scope: trio.CancelScope) -> None:
        with scope:
            async with lock.writing if kind == "writer" else lock.reading:
                inside.append(kind)
                try:
                    assert inside == ["writer"] or "writer" not in inside
                    await checkpoint()
                finally:
                    inside.remove(kind)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(task, "reader", trio.CancelScope())
        nursery.start_soon(task, "writer", scope)
        nursery.start_soon(task, "reader", trio.CancelScope())
        nursery.start_soon(task, "writer", trio.CancelScope())
        nursery.start_soon(cancel_later, scope)
    assert not lock


async def barrier() -> None:
    """Four tasks pass a barrier for two in pairs."""
    made, numbers = aiologic.RBarrier(2), list[int]()

    async def task() -> None:
        numbers.append(await made)

    async with trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(task)
    assert sorted(numbers) == [0, 0, 1, 1]


async def countdown() -> None:
    """Who waits is woken at zero, whoever else gives up."""
    event, scope, woken = aiologic.CountdownEvent(2), trio.CancelScope(), list[bool]()

    async def waiter(scope: trio.CancelScope) -> None:
        with scope:
            await event
            woken.append(not event.value)

    async def down() -> None:
        event.down()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(waiter, scope)
        nursery.start_soon(waiter, trio.CancelScope())
        nursery.start_soon(down)
        nursery.start_soon(down)
        nursery.start_soon(cancel_later, scope)
    assert woken
    assert all(woken)


async def timed() -> None:
    """Who waits for a lock for so long only gets it or does not, and never keeps it."""
    lock, inside = aiologic.Lock(), 0

    async def task(timeout_s: float | None) -> None:
        nonlocal inside
        if await lock.async_acquire(timeout=timeout_s):
            inside += 1
            assert inside == 1
            await trio.sleep(1)
            inside -= 1
            lock.async_release()

    async with trio.open_nursery() as nursery:
        for timeout_s in (None, 1, 2):
            nursery.start_soon(task, timeout_s)
    assert await lock.async_acquire(blocking=False)


async def peeked() -> None:
    """Who only looks at an item leaves it, and the wake-up, to the next."""
    made, got = culsans.Queue[int](1), list[int]()

    async def get() -> None:
        got.append(await made.async_get())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(made.async_peek)
        nursery.start_soon(get)
        await made.async_put(1)
        await at_rest()
        assert got == [1]
        nursery.cancel_scope.cancel()


async def joined() -> None:
    """A queue is joined when every item was worked off."""
    made, done = culsans.Queue[int](1), list[int]()

    async def work() -> None:
        done.append(await made.async_get())
        await checkpoint()
        made.task_done()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(work)
        nursery.start_soon(work)
        await made.async_put(1)
        await made.async_put(2)
        await made.async_join()
        assert sorted(done) == [1, 2]


WELL = (
    patterns.mutual_exclusion("lock", aiologic.Lock),
    patterns.mutual_exclusion("rlock", aiologic.RLock),
    patterns.mutual_exclusion("semaphore", lambda: aiologic.BoundedSemaphore(1)),
    patterns.mutual_exclusion("binary_semaphore", lambda: aiologic.BoundedBinarySemaphore(1)),
    patterns.mutual_exclusion("limiter", lambda: aiologic.CapacityLimiter(1)),
    patterns.mutual_exclusion("culsans_writers", lambda: culsans.RWLock().writing),
    patterns.no_lost_wakeup(
        "condition", lambda: aiologic.Condition(aiologic.Lock()), lambda made: made.waiting, lambda made: made
    ),
    patterns.nothing_lost("queue", queue, aiologic.QueueEmpty),
    patterns.nothing_lost("simple_queue", simple_queue, aiologic.QueueEmpty),
    patterns.nothing_lost("culsans_queue", culsans_queue, culsans.QueueEmpty),
    readers_and_writers,
    barrier,
    countdown,
    timed,
    peeked,
    joined,
)


@pytest.mark.parametrize("finding", FOUND, ids=str)
def test_what_was_found_fails_again_and_is_found_again(finding: Finding) -> None:
    """The schedule that is kept fails in the same way, and a random walk comes to the same."""
    assert_fails_again(finding)
    assert_found(finding)


@pytest.mark.parametrize("program", WELL, ids=lambda program: program.__name__)
def test_the_rest_goes_well(program: Program, part: int) -> None:
    """No schedule of these fails."""
    assert_well(program, part)
