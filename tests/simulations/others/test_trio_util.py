"""trio-util 0.8.0: values that can be waited for, repeated events, generators in a task of their own."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

import pytest
import trio
from trio_util import AsyncBool, AsyncValue, RepeatedEvent, azip, compose_values, move_on_when, trio_async_generator

from changeover_sim import cancel_anywhere
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


async def triggering_transition() -> None:
    """Who waits for the next transition is told of the one that woke it."""
    value, got = AsyncValue(0), list[tuple[int, int]]()

    async def waiter() -> None:
        got.append(await value.wait_transition())

    async def setter() -> None:
        value.value = 1
        await checkpoint()
        value.value = 2

    async with trio.open_nursery() as nursery:
        nursery.start_soon(waiter)
        await at_rest()
        nursery.start_soon(setter)
    assert got == [(1, 0)], "not the transition that woke it"


async def held_for_latest() -> None:
    """A value that was waited for long enough is the most recent one."""
    value = AsyncValue(1)

    async def setter() -> None:
        await trio.sleep(5)
        value.value = 2

    async with trio.open_nursery() as nursery:
        nursery.start_soon(setter)
        got = await value.wait_value(lambda number: number > 0, held_for=10)
    assert got == value.value, "an old value"


async def held_for_values() -> None:
    """A value that is iterated has matched for as long as was asked for."""
    value, since = AsyncValue(0), 0.0

    async def setter() -> None:
        nonlocal since
        await at_rest()
        value.value = 1
        await checkpoint()
        value.value = 0
        await trio.sleep(100)
        since = trio.current_time()
        value.value = 2

    async with trio.open_nursery() as nursery:
        nursery.start_soon(setter)
        async with aclosing(value.eventual_values(lambda number: number > 0, held_for=10)) as numbers:
            number = await anext(numbers)
    assert number == 2, "it did not match all the time"
    assert trio.current_time() >= since + 10


async def leave_generator() -> None:
    """Leaving the block of a generator ends the generator."""

    @trio_async_generator
    async def ticks() -> AsyncGenerator[int, None]:
        yield 1
        await trio.sleep_forever()

    async with ticks() as numbers:
        async for _ in numbers:
            break


FOUND = (
    Finding(
        "trio-util==0.8.0",
        "AsyncValue.wait_transition, wait_value",
        triggering_transition,
        "a second change before the waiter has run is what it is told of, and the change that woke it is lost: "
        "`_wait_predicate` in `_async_value.py` reads `result.value`, which waiters share, after it has slept",
        "the specific value that triggered the wakeup is always returned",
        "AssertionError: not the transition that woke it",
    ),
    Finding(
        "trio-util==0.8.0",
        "AsyncValue.wait_value(held_for=)",
        held_for_latest,
        "the value from the beginning of the time is returned, although it has changed since: `wait_value` in "
        "`_async_value.py` takes it before it waits",
        "when held_for > 0, it's the most recent value",
        "AssertionError: an old value",
    ),
    Finding(
        "trio-util==0.8.0",
        "AsyncValue.eventual_values(held_for=)",
        held_for_values,
        "a value that matched for a moment only is yielded after the whole time: `eventual_values` in "
        "`_async_value.py` waits for it to stop matching without looking whether it has already",
        "If held_for > 0, the predicate must match for that duration",
        "AssertionError: it did not match all the time",
    ),
    Finding(
        "trio-util==0.8.0",
        "trio_async_generator",
        leave_generator,
        "leaving the block waits until the generator comes to its next `yield`, for ever where it does not: "
        "`_trio_async_generator.py` closes the channel and cancels nothing",
        "",
        "deadlock",
    ),
)


# --- what goes well ---------------------------------------------------------------------------------------------------


async def eventual() -> None:
    """However the value changes, its latest state arrives."""
    value, seen = AsyncValue(0), list[int]()

    async def listener() -> None:
        async with aclosing(value.eventual_values()) as numbers:
            async for number in numbers:
                seen.append(number)
                await checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(listener)
        for number in (1, 0, 2, 1):
            await checkpoint()
            value.value = number
        await at_rest()
        assert seen[-1] == value.value
        nursery.cancel_scope.cancel()


async def events() -> None:
    """After the last event its state is seen."""
    event, state, seen = RepeatedEvent(), 0, list[int]()

    async def listener() -> None:
        async with aclosing(event.events(repeat_last=True)) as events:
            async for _ in events:
                seen.append(state)
                await checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(listener)
        for number in (1, 2, 3):
            await checkpoint()
            state = number
            event.set()
        await at_rest()
        assert seen[-1] == 3
        nursery.cancel_scope.cancel()


async def cancelled_waiters() -> None:
    """Those who gave up leave nothing behind, and the others are woken."""
    value, scope = AsyncBool(), trio.CancelScope()

    async def waiter(scope: trio.CancelScope) -> None:
        with scope:
            await value.wait_value(True)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(waiter, scope)
        nursery.start_soon(waiter, trio.CancelScope())
        nursery.start_soon(cancel_later, scope)
        await checkpoint()
        value.value = True
    assert not value._level_results


async def generator_items() -> None:
    """A reader that is cancelled and comes again misses no item."""

    @trio_async_generator
    async def numbers() -> AsyncGenerator[int, None]:
        for number in range(3):
            yield number

    got: list[int] = []
    async with numbers() as channel:
        with trio.CancelScope() as scope:
            cancel_anywhere(scope)
            got.append(await channel.receive())
        got.extend([number async for number in channel])
    assert got == [0, 1, 2]


async def move_on() -> None:
    """Behind the block the body has ended, or the event has come."""
    event, done = trio.Event(), False

    async def setter() -> None:
        await checkpoint()
        event.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(setter)
        async with move_on_when(event.wait):
            await checkpoint()
            await checkpoint()
            done = True
        assert done or event.is_set()


async def composed() -> None:
    """A composition waits for a state of all its parts."""
    one, other = AsyncValue(0), AsyncValue(0)

    async def change(value: AsyncValue[int], *numbers: int) -> None:
        for number in numbers:
            await checkpoint()
            value.value = number

    with compose_values(one=one, other=other) as both:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(change, one, 1, 2)
            nursery.start_soon(change, other, 1)
            assert await both.wait_value(lambda now: now == (2, 1)) == (2, 1)


async def zipped() -> None:
    """Two iterators that are read at once stay in step."""

    async def numbers() -> AsyncGenerator[int, None]:
        for number in range(2):
            await checkpoint()
            yield number

    assert [pair async for pair in azip(numbers(), numbers())] == [(0, 0), (1, 1)]


WELL = (eventual, events, cancelled_waiters, generator_items, move_on, composed, zipped)


@pytest.mark.parametrize("finding", FOUND, ids=str)
def test_what_was_found_fails_again_and_is_found_again(finding: Finding) -> None:
    """The schedule that is kept fails in the same way, and a random walk comes to the same."""
    assert_fails_again(finding)
    assert_found(finding)


@pytest.mark.parametrize("program", WELL, ids=lambda program: program.__name__)
def test_the_rest_goes_well(program: Program, part: int) -> None:
    """No schedule of these fails."""
    assert_well(program, part)
