"""Who holds what, taken where: locks and limiters, also where they are handed over, given back or never given back."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.lowlevel import checkpoint

from changeover_sim import Failure, RandomWalk, cancel_anywhere, explore
from changeover_sim.explorer.holding import Held
from changeover_sim.explorer.telling.held import held_at_the_end
from tests.simulations.explorer import must_fail, told


def failure_of(program: Any, picks: tuple[int, ...] = ()) -> Failure:
    """Return how a program fails in one schedule."""
    failure, _ = told.told(program, picks)
    return failure


def brief(held: Held) -> tuple[str, str, str, int | None]:
    """Return what is held by whom, with the text of the line where it was taken, and since when."""
    return held.task, held.primitive, "" if held.place is None else held.place.text, held.step


def left_over(program: Any) -> list[tuple[str, str, str, int | None]]:
    """Return what is held at the end of a program that fails first-in-first-out."""
    return list(map(brief, held_at_the_end(failure_of(program).trace)))


def test_each_holder_of_a_deadlock_is_told_with_his_line() -> None:
    """Two locks, each with who took it, in which line and in which step; and the text says so."""
    failure = failure_of(must_fail.two_locks)
    line = "async with first, second:"
    held = held_at_the_end(failure.trace)
    assert list(map(brief, held)) == [("left", "trio.Lock", line, 2), ("right", "trio.Lock", line, 3)]
    place = held[0].place
    assert f"waits in trio.Lock, held by left, taken at {place} in step 2" in str(failure)


@pytest.mark.parametrize("make", [trio.Lock, trio.StrictFIFOLock, lambda: trio.CapacityLimiter(1)])
def test_what_is_given_back_is_not_held(make: Any) -> None:
    """A lock that was taken and released, by `async with` or by hand, is nobody's at the end."""

    async def program() -> None:
        thing = make()
        async with thing:
            await checkpoint()
        await thing.acquire()
        thing.release()
        thing.acquire_nowait()
        thing.release()
        raise ValueError

    failure = failure_of(program)
    assert held_at_the_end(failure.trace) == ()
    assert [held.task for step in failure.trace for held in step.taken] == ["program", "program"]
    lines = [(held.place.text, step.number) for step in failure.trace for held in step.taken if held.place]
    assert lines == [("async with thing:", 1), ("await thing.acquire()", 3)]
    assert [(held.step, step.number) for step in failure.trace for held in step.given] == [(1, 3), (3, 4)]


@pytest.mark.parametrize("make", [trio.Lock, trio.StrictFIFOLock, lambda: trio.CapacityLimiter(1)])
def test_what_is_handed_over_was_taken_where_it_was_asked_for(make: Any) -> None:
    """Who waited gets it in the step of who let it go, and the line is that of the waiting."""

    async def program() -> None:
        thing = make()

        async def second() -> None:
            await thing.acquire()  # here
            await trio.sleep_forever()

        async with trio.open_nursery() as nursery:
            await thing.acquire()
            nursery.start_soon(second)
            await trio.sleep(1)
            thing.release()
            await trio.sleep_forever()

    failure = failure_of(program)
    ((task, primitive, line, step),) = map(brief, held_at_the_end(failure.trace))
    assert (task, line) == ("second", "await thing.acquire()  # here")
    assert primitive.startswith("trio.")
    assert step is not None
    assert failure.trace[step - 1].task == "program"
    assert f"second holds a {primitive}, taken at " in str(failure)


def test_every_holder_of_a_limiter_is_told() -> None:
    """Two of two tokens are out, each since a step of its own; a token borrowed for somebody else is nobody's."""

    async def program() -> None:
        limiter = trio.CapacityLimiter(3)
        await limiter.acquire_on_behalf_of("somebody")

        async def borrower() -> None:
            await limiter.acquire()
            await trio.sleep_forever()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(borrower)
            nursery.start_soon(borrower)
            await trio.sleep(1)
            await limiter.acquire()

    found = left_over(program)
    assert [(task, line) for task, _, line, _ in found] == [
        ("borrower", "await limiter.acquire()"),
        ("borrower 2", "await limiter.acquire()"),
    ]
    assert [step for *_, step in found] == [3, 4]


def test_a_condition_is_held_by_its_lock() -> None:
    """The lock inside is what Trio knows the owner of; who waits for a notification has let it go."""

    async def program() -> None:
        condition = trio.Condition()

        async def waiter() -> None:
            async with condition:
                await condition.wait()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(waiter)
            await trio.sleep(1)
            await condition.acquire()
            await trio.sleep_forever()

    ((task, primitive, line, _),) = left_over(program)
    assert (task, primitive, line) == ("program", "trio.Lock", "await condition.acquire()")


def test_a_lock_of_a_cancelled_task_is_given_back() -> None:
    """A cancellation while waiting takes nothing, and one while holding gives back what `async with` holds."""

    async def program() -> None:
        lock = trio.Lock()

        async def holds() -> None:
            with trio.CancelScope() as scope:
                cancel_anywhere(scope)
                async with lock:
                    await checkpoint()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(holds)
            nursery.start_soon(holds)
        raise ValueError

    for seed in range(8):
        failure = explore(program, schedules=1, seed=seed, policy=RandomWalk()).failure
        assert failure is not None
        assert held_at_the_end(failure.trace) == ()


def test_a_lock_that_its_task_took_along_is_told() -> None:
    """Who ended without giving it back still is its owner, for Trio as well."""

    async def program() -> None:
        lock = trio.Lock()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lock.acquire, name="gone")
        raise ValueError

    ((task, primitive, _, step),) = left_over(program)
    assert (task, primitive, step) == ("gone", "trio.Lock", 2)


def test_two_things_taken_in_one_line_are_two() -> None:
    """Of two locks taken in the same line and step one is given back, and the other is still held."""

    async def program() -> None:
        one, other = trio.Lock(), trio.Lock()
        one.acquire_nowait(), other.acquire_nowait()
        await checkpoint()
        one.release()
        raise ValueError

    assert left_over(program) == [("program", "trio.Lock", "one.acquire_nowait(), other.acquire_nowait()", 1)]


def test_what_was_taken_before_the_record_began_has_no_line() -> None:
    """Of a schedule with more than 2,000 steps the end is recorded; who holds what is known all the same."""

    async def program() -> None:
        lock = trio.Lock()
        await lock.acquire()
        for _ in range(2_100):
            await checkpoint()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lock.acquire)
            await trio.sleep_forever()

    failure = explore(program, schedules=1, policy=RandomWalk(), steps_max=10_000).failure
    assert failure is not None
    assert failure.trace[0].number > 50
    (held,) = held_at_the_end(failure.trace)
    assert (held.task, held.place, held.step) == ("program", None, None)
    assert "waits in trio.Lock, held by program, taken before what was recorded" in str(failure)
    assert "earlier steps were not recorded" in str(failure)
