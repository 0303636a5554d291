"""AnyIO 4.16.0 on Trio: its cache, its streams, conditions, task groups and futures."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager

import anyio
import anyio.functools
import pytest
import trio

from changeover_sim import cancel_anywhere
from tests.simulations.others import patterns
from tests.simulations.others.record import Finding, Program, assert_fails_again, assert_found, assert_well, checkpoint


def cached(maxsize: int, calls: list[int]) -> Callable[[int], Awaitable[int]]:
    """Return a function with a cache of its own, which notes each call that the cache did not answer."""

    @anyio.functools.lru_cache(maxsize=maxsize)
    async def double(number: int) -> int:
        calls.append(number)
        await checkpoint()
        return 2 * number

    return double


async def cache_error() -> None:
    """Callers get the result of the function, whatever the cache does, and nothing else."""
    double = cached(1, [])

    async def call(number: int, *, patient: bool) -> None:
        with trio.CancelScope() as scope:
            if not patient:
                cancel_anywhere(scope)
            assert await double(number) == 2 * number

    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: call(1, patient=False))
        nursery.start_soon(lambda: call(1, patient=True))
        nursery.start_soon(lambda: call(2, patient=True))


async def cache_size() -> None:
    """A cache for one result answers at most one of two calls without calling the function."""
    calls: list[int] = []
    double = cached(1, calls)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(double, 1)
        nursery.start_soon(double, 2)
    calls.clear()
    await double(1)
    await double(2)
    assert calls, "two results are in a cache for one"


async def cache_shrinks() -> None:
    """A cache for two results keeps two, however often a call was cancelled before."""
    calls: list[int] = []
    double = cached(2, calls)
    for _ in range(2):
        with trio.CancelScope() as scope:
            cancel_anywhere(scope)
            await double(0)
    for number in (1, 2, 1):
        await double(number)
    assert calls.count(1) == 1, "there is no room for two results in a cache for two"


@contextmanager
def streams() -> Generator[patterns.Ends, None, None]:
    """Open a stream that has no room."""
    send, receive = anyio.create_memory_object_stream[int](0)
    with send, receive:
        yield send.send, receive.receive, receive.receive_nowait


cancelled_send = patterns.nothing_lost("cancelled_send", streams, anyio.WouldBlock)
cancelled_send.__module__ = __name__

FOUND = (
    Finding(
        "anyio==4.16.0",
        "functools.lru_cache",
        cache_error,
        "a caller gets `KeyError`: an entry is evicted while its first call is on its way and others wait for it; "
        "where that call fails or is cancelled, they look for the entry (`functools.py`, `cache_entry[key][0]`)",
        "An asynchronous version of functools.lru_cache",
        "KeyError: (1,)",
    ),
    Finding(
        "anyio==4.16.0",
        "functools.lru_cache(maxsize=)",
        cache_size,
        "a cache for one result keeps two: a call on its way is evicted, and puts its result in when it is done "
        "(`functools.py`, `popitem` before the call and the assignment behind it)",
        "An asynchronous version of functools.lru_cache",
        "AssertionError: two results are in a cache for one",
    ),
    Finding(
        "anyio==4.16.0",
        "functools.lru_cache(maxsize=)",
        cache_shrinks,
        "a call that fails or is cancelled and is made again takes one more place of the cache each time, for good: "
        "`_currsize` in `functools.py` is counted up before each attempt, and not down when it fails",
        "An asynchronous version of functools.lru_cache",
        "AssertionError: there is no room for two results in a cache for two",
    ),
    Finding(
        "anyio==4.16.0",
        "MemoryObjectSendStream.send",
        cancelled_send,
        "the item of a `send` that raises the cancellation is received all the same: a receiver takes it from "
        "`waiting_senders` (`streams/memory.py`) until the cancelled task has run; cancelled receivers are skipped",
        "",
        "AssertionError: not what was sent was received",
    ),
)


# --- what goes well ---------------------------------------------------------------------------------------------------


async def cancelled_receive() -> None:
    """A cancelled receiver takes no item with it, and two senders are heard."""
    send, receive = anyio.create_memory_object_stream[int](1)
    got: list[int] = []

    async def impatient() -> None:
        with trio.CancelScope() as scope:
            cancel_anywhere(scope)
            got.append(await receive.receive())

    with send, receive:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(impatient)
            nursery.start_soon(send.send, 1)
            nursery.start_soon(send.send, 2)
            got.append(await receive.receive())
        if len(got) == 1:
            got.append(receive.receive_nowait())
    assert sorted(got) == [1, 2]


async def closing() -> None:
    """When both ends are closed, what a `send` returned from was received, and nothing else."""
    send, receive = anyio.create_memory_object_stream[int](0)
    sent, got = list[int](), list[int]()

    async def sender(item: int) -> None:
        try:
            await send.send(item)
        except (anyio.ClosedResourceError, anyio.BrokenResourceError):
            return
        sent.append(item)

    async def receiver() -> None:
        try:
            while True:
                got.append(await receive.receive())
        except (anyio.EndOfStream, anyio.ClosedResourceError):
            pass

    async with trio.open_nursery() as nursery:
        nursery.start_soon(sender, 1)
        nursery.start_soon(sender, 2)
        nursery.start_soon(receiver)
        nursery.start_soon(send.aclose)
        nursery.start_soon(receive.aclose)
    assert sorted(sent) == sorted(got)


async def handle() -> None:
    """A task that is cancelled by its handle ends as finished or as cancelled, and its waiter is told which."""

    async def work() -> int:
        await checkpoint()
        return 1

    async with anyio.create_task_group() as group:
        task = group.create_task(work())

        async def cancel() -> None:
            task.cancel()

        group.start_soon(cancel)
        try:
            assert await task == 1
        except anyio.TaskCancelled:
            assert task.status.name == "CANCELLED"
        else:
            assert task.status.name == "FINISHED"


async def completed() -> None:
    """Every task comes once, in whatever order, and none is waited for behind the block."""

    async def work(number: int) -> int:
        await checkpoint()
        return number

    with trio.CancelScope() as scope:
        cancel_anywhere(scope)
        async with anyio.as_completed(work(1), work(2)) as results:
            assert sorted([task.return_value async for task in results]) == [1, 2]


async def future() -> None:
    """A future that is set and cancelled at once is one or the other for everybody."""
    made, seen = anyio.Future[int](), set[str]()

    async def setter() -> None:
        try:
            made.return_value = 1
        except anyio.FutureCancelled:
            seen.add("cancelled")

    async def cancel() -> None:
        made.cancel()

    async def waiter() -> None:
        try:
            seen.add(f"value {await made}")
        except anyio.FutureCancelled:
            seen.add("cancelled")

    async with trio.open_nursery() as nursery:
        for task in (setter, cancel, waiter, waiter):
            nursery.start_soon(task)
    assert len(seen) == 1


WELL = (
    patterns.mutual_exclusion("fast_lock", lambda: anyio.Lock(fast_acquire=True)),
    patterns.mutual_exclusion("fast_semaphore", lambda: anyio.Semaphore(1, max_value=1, fast_acquire=True)),
    patterns.mutual_exclusion("limiter", lambda: anyio.CapacityLimiter(1)),
    patterns.no_lost_wakeup("condition", anyio.Condition, lambda made: made.statistics().tasks_waiting),
    cancelled_receive,
    closing,
    handle,
    completed,
    future,
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
