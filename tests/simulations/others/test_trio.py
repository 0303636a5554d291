"""Trio itself: locks, limiters, channels and `nursery.start` keep what they promise; what does not is in `FOUND`."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from contextlib import contextmanager

import pytest
import trio

from changeover_sim import cancel_anywhere
from tests.simulations.others import patterns
from tests.simulations.others.record import (
    Finding,
    Program,
    assert_fails_again,
    assert_found,
    assert_well,
    at_rest,
    checkpoint,
)

condition = patterns.no_lost_wakeup("condition", trio.Condition, lambda made: made.statistics().tasks_waiting)
condition.__module__ = __name__


async def limiter_on_behalf() -> None:
    """One borrower holds at most one token, or is told."""
    limiter, borrower, held = trio.CapacityLimiter(2), object(), 0

    async def on_behalf() -> None:
        nonlocal held
        try:
            await limiter.acquire_on_behalf_of(borrower)
        except RuntimeError:
            return
        held += 1
        assert held == 1, "one borrower holds two tokens"
        await checkpoint()
        held -= 1
        limiter.release_on_behalf_of(borrower)

    async def hold() -> None:
        async with limiter:
            await checkpoint()

    async with trio.open_nursery() as nursery:
        for task in (hold, hold, on_behalf, on_behalf):
            nursery.start_soon(task)


async def safe_channel() -> None:
    """The generator behind a channel makes what was asked for, and no more."""
    made, got = list[int](), list[int]()

    @trio.as_safe_channel
    async def numbers() -> AsyncGenerator[int, None]:
        for number in range(5):
            made.append(number)
            yield number

    async with numbers() as channel:
        with trio.CancelScope() as scope:
            cancel_anywhere(scope)
            got.append(await channel.receive())
        got.append(await channel.receive())
        await at_rest()
        assert made == got, "the generator is ahead of its reader"


FOUND = (
    Finding(
        "trio==0.35.0",
        "Condition",
        condition,
        "a notification is lost: who was notified and waits for the lock can still be cancelled; `wait()` then takes "
        "the lock and raises, and wakes nobody in its place (`_sync.py`, the `except` in `Condition.wait`)",
        "Wake one or more tasks that are blocked in wait",
        "AssertionError: an item is there, and a consumer sleeps",
        known="mended in asyncio (python/cpython#112202) and in AnyIO (agronholm/anyio#1075)",
    ),
    Finding(
        "trio==0.35.0",
        "CapacityLimiter.acquire_on_behalf_of",
        limiter_on_behalf,
        "two tasks that wait on behalf of one borrower both get in, for one token; the second release raises: the "
        "borrower is looked up before the wait and not after it (`_sync.py`, `_wake_waiters` adds to a set)",
        "RuntimeError: if borrower task already holds one of this sack's tokens",
        "AssertionError: one borrower holds two tokens",
    ),
    Finding(
        "trio==0.35.0",
        "as_safe_channel",
        safe_channel,
        "after a `receive()` that was cancelled the generator works one item ahead of its reader, for good: the "
        "permit of the cancelled call stays (`_channel.py`, `RecvChanWrapper.receive` releases before it waits)",
        "",
        "AssertionError: the generator is ahead of its reader",
    ),
)


# --- what goes well ---------------------------------------------------------------------------------------------------


@contextmanager
def channel(room: int) -> Generator[patterns.Ends, None, None]:
    """Open a channel that has room for so many."""
    send, receive = trio.open_memory_channel[int](room)
    with send, receive:
        yield send.send, receive.receive, receive.receive_nowait


async def start() -> None:
    """A `start` that was cancelled leaves no child behind, and one that returned has its child alive."""
    alive, value = False, None

    async def child(*, task_status: trio.TaskStatus[str]) -> None:
        nonlocal alive
        alive = True
        try:
            await checkpoint()
            task_status.started("value")
            await trio.sleep_forever()
        finally:
            alive = False

    async with trio.open_nursery() as nursery:
        with trio.CancelScope() as scope:
            cancel_anywhere(scope)
            value = await nursery.start(child)
        assert alive == (value == "value")
        nursery.cancel_scope.cancel()


async def safe_channel_items() -> None:
    """A cancelled `receive` loses no item."""

    @trio.as_safe_channel
    async def numbers() -> AsyncGenerator[int, None]:
        for number in range(3):
            await checkpoint()
            yield number

    got: list[int] = []
    async with numbers() as channel:
        with trio.CancelScope() as scope:
            cancel_anywhere(scope)
            got.append(await channel.receive())
        got.extend([number async for number in channel])
    assert got == [0, 1, 2]


WELL = (
    patterns.mutual_exclusion("lock", trio.Lock),
    patterns.mutual_exclusion("strict_lock", trio.StrictFIFOLock),
    patterns.mutual_exclusion("semaphore", lambda: trio.Semaphore(1, max_value=1)),
    patterns.mutual_exclusion("limiter", lambda: trio.CapacityLimiter(1)),
    patterns.nothing_lost("channel", lambda: channel(1), trio.WouldBlock),
    patterns.nothing_lost("rendezvous", lambda: channel(0), trio.WouldBlock),
    start,
    safe_channel_items,
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
