"""The search that leaves out permutations: what conflicts with what, beside that which steps say that they use."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

import pytest
import trio
from trio.lowlevel import checkpoint

from changeover_sim import Result, cancel_anywhere, choose, explore, touch, touch_next
from changeover_sim.policies.dpor import DPOR
from tests.simulations.explorer.orders import EVERYTHING


def same_outcomes(program: Callable[[set[Any]], Any], **how: Any) -> tuple[Result, Result]:
    """Explore with and without leaving out, to the end; the outcomes that the program notes must be the same."""
    both: list[tuple[Result, set[Any]]] = []
    for policy in (EVERYTHING, DPOR()):
        seen: set[Any] = set()

        async def run(seen: set[Any] = seen) -> None:
            await program(seen)

        result = explore(run, policy=policy, **how)
        assert result.failure is None, result
        assert result.exhausted
        both.append((result, seen))
    (all_, every), (some, found) = both
    assert found == every
    return all_, some


async def announced(thing: Hashable) -> None:
    """Let others run before a step that uses a thing."""
    touch_next(thing)
    await checkpoint()


def test_a_step_that_cancels_conflicts_with_all() -> None:
    """One task cancels a scope and does not say so; the other is cancelled at each of its steps, or later."""

    async def program(seen: set[Any]) -> None:
        scope, done = trio.CancelScope(), 0

        async def canceller() -> None:
            touch("mine")
            await announced("mine")
            scope.cancel()

        async def cancelled() -> None:
            nonlocal done
            touch("other")
            with scope:
                for _ in range(3):
                    await announced("other")
                    done += 1

        async with trio.open_nursery() as nursery:
            nursery.start_soon(cancelled)
            nursery.start_soon(canceller)
        seen.add(done)

    same_outcomes(program)


def test_a_step_that_leaves_a_scope_conflicts_with_all() -> None:
    """A task leaves a scope, and is no longer cancelled with it, or does so too late; neither says so."""

    async def program(seen: set[Any]) -> None:
        scope, then = trio.CancelScope(), 0

        async def leaver() -> None:
            nonlocal then
            with scope:
                await announced("inside")
                then = 1
            await announced("outside")
            then += 1

        async def canceller() -> None:
            touch("mine")
            for _ in range(3):
                await announced("mine")
            scope.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(canceller)
            nursery.start_soon(leaver)
        seen.add(then)

    same_outcomes(program)


def test_a_step_that_fails_conflicts_with_all() -> None:
    """A task raises, and the one beside it is cancelled at each of its steps, or later."""

    async def program(seen: set[Any]) -> None:
        done = 0

        async def failing() -> None:
            touch("mine")
            await announced("mine")
            raise KeyError

        async def other() -> None:
            nonlocal done
            touch("other")
            for _ in range(3):
                await announced("other")
                done += 1

        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(other)
                nursery.start_soon(failing)
        except* KeyError:
            seen.add(done)

    same_outcomes(program)


def test_the_end_of_the_main_task_conflicts_with_all() -> None:
    """A system task is still there when the program has returned, or has just gone: neither order is left out."""

    async def program() -> None:
        async def system() -> None:
            touch("other")
            await announced("other")

        trio.lowlevel.spawn_system_task(system)
        for _ in range(3):
            await announced("mine")

    first = explore(program, policy=DPOR(), schedules=1)
    assert first.failure is None
    result = explore(program, policy=DPOR())
    assert result.failure is not None
    assert result.failure.verdict == "leftover"


def test_a_step_that_spawns_into_a_nursery_of_others_conflicts_with_all() -> None:
    """The last task of a nursery ends, or a task that is not in it has spawned one more before: both are made."""

    async def program(seen: set[Any]) -> None:
        ran: list[str] = []

        async def late() -> None:
            ran.append("late")

        async def only() -> None:
            touch("only")
            for _ in range(4):
                await announced("only")

        async def spawner(nursery: trio.Nursery) -> None:
            touch("spawner")
            await announced("spawner")
            try:
                nursery.start_soon(late)
            except RuntimeError:
                ran.append("closed")

        async with trio.open_nursery() as outer, trio.open_nursery() as inner:
            inner.start_soon(only)
            outer.start_soon(spawner, inner)
        seen.add(tuple(ran))

    same_outcomes(program)


def test_to_spawn_into_an_own_nursery_conflicts_with_nothing() -> None:
    """Two tasks spawn into the nursery that they are in; nobody has anything in common, so there is one schedule."""

    async def program() -> None:
        async def child(name: str) -> None:
            touch(name)
            await announced(name)

        async def spawner(around: trio.Nursery, name: str) -> None:
            touch(name)
            await announced(name)
            around.start_soon(child, name + "1")
            await announced(name)
            around.start_soon(child, name + "2")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(spawner, nursery, "a")
            nursery.start_soon(spawner, nursery, "b")

    result = explore(program, policy=DPOR())
    assert (result.schedules_run, result.exhausted, result.failure) == (1, True, None)


def test_who_waits_for_a_nursery_is_not_taken_for_one_who_was_woken_otherwise() -> None:
    """The last task of a nursery sets an event in its last step, for which the parent waits inside the nursery.

    The parent goes on before the others have ended, or after.
    """

    async def program(seen: set[Any]) -> None:
        event, ended = trio.Event(), 0

        async def setter() -> None:
            touch("event")
            for _ in range(2):
                await announced("event")
            event.set()

        async def other() -> None:
            nonlocal ended
            touch("other")
            await announced("ended")
            ended += 1

        async with trio.open_nursery() as nursery:
            nursery.start_soon(other)
            nursery.start_soon(setter)
            touch_next("event")
            touch_next("ended")
            await event.wait()
            seen.add(ended)

    same_outcomes(program)


def test_a_lock_that_is_touched_leaves_the_orders_in_which_it_is_asked_for() -> None:
    """Two tasks, and either can be first; the other asks for the lock before it is given back, or behind: 4 of 50."""

    async def program(seen: set[Any]) -> None:
        lock, owners = trio.Lock(), list[int]()

        async def task(number: int) -> None:
            touch(number)
            await announced(number)
            await announced("lock")
            touch_next("lock")
            async with lock:
                owners.append(number)
                touch_next("lock")

        async with trio.open_nursery() as nursery:
            for number in range(2):
                nursery.start_soon(task, number)
        seen.add(tuple(owners))

    all_, some = same_outcomes(program)
    assert (all_.schedules_run, some.schedules_run) == (50, 4)


def test_who_was_woken_is_not_in_a_race_with_who_woke_him() -> None:
    """A task waits for an event, or finds it set: 2 schedules, with a third task that uses neither."""

    async def program(seen: set[Any]) -> None:
        event = trio.Event()

        async def waiter() -> None:
            touch("event")
            seen.add(event.is_set())
            if not event.is_set():
                touch_next("event")
                await event.wait()

        async def setter() -> None:
            touch("setter")
            await announced("event")
            event.set()

        async def other() -> None:
            touch("other")
            for _ in range(3):
                await announced("other")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(waiter)
            nursery.start_soon(setter)
            nursery.start_soon(other)

    _, some = same_outcomes(program)
    assert some.schedules_run == 2


def test_options_are_all_tried_and_what_each_leads_to_counts() -> None:
    """Two steps choose what they use: only one of their options, in the middle, conflicts with a third task."""

    async def program(seen: set[Any]) -> None:
        values: list[str] = []

        async def chooser(name: str) -> None:
            touch(name)
            await announced(name)
            thing = choose([name, "values", name])
            touch(thing)
            if thing == "values":
                values.append(name)

        async def other() -> None:
            touch("other")
            await announced("values")
            values.append("other")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(chooser, "a")
            nursery.start_soon(chooser, "b")
            nursery.start_soon(other)
        seen.add(tuple(values))

    same_outcomes(program)


def test_moments_of_a_cancellation_are_all_tried() -> None:
    """Two tasks in a scope are cancelled at any moment: the same pairs of how far they have come."""

    async def program(seen: set[Any]) -> None:
        counts = [0, 0]

        async def count(number: int) -> None:
            touch(number)
            for _ in range(2):
                await announced(number)
                counts[number] += 1

        async with trio.open_nursery() as nursery:
            for number in range(2):
                nursery.start_soon(count, number)
            cancel_anywhere(nursery.cancel_scope)
        seen.add(tuple(counts))

    same_outcomes(program)


def test_a_deadline_that_may_not_come_at_all_is_not_left_out() -> None:
    """A task leaves a scope before time has passed, or time passes before; where it has left, nothing tells of it."""

    async def program(seen: set[Any]) -> None:
        done = 0
        with trio.move_on_after(1):
            for _ in range(3):
                await announced("mine")
                done += 1
        seen.add(done)

    same_outcomes(program, timeouts="any-time")


@pytest.mark.parametrize("how", [{}, {"timeouts": "any-time"}, {"mode": "trio-batch"}], ids=str)
def test_deadlines_are_left_out_of_nothing(how: Any) -> None:
    """A deadline comes before or behind each step that uses something: in each mode the same outcomes."""

    async def program(seen: set[Any]) -> None:
        events: list[str] = []

        async def timed() -> None:
            with trio.move_on_after(1) as scope:
                await announced("mine")
                touch_next("events")
                await trio.sleep(1)
            touch("events")
            events.append("late" if scope.cancelled_caught else "done")

        async def other() -> None:
            touch("other")
            touch_next("events")
            await trio.sleep(1)
            events.append("slept")
            await announced("events")
            events.append("other")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(timed)
            nursery.start_soon(other)
        seen.add(tuple(events))

    same_outcomes(program, **how)


def test_threads_are_left_out_of_nothing() -> None:
    """Work in a worker thread conflicts with all: it comes before or behind the other task's step."""

    async def program(seen: set[Any]) -> None:
        events: list[str] = []

        async def working() -> None:
            touch("thread")
            await trio.to_thread.run_sync(lambda: events.append("thread"))

        async def other() -> None:
            await announced("events")
            events.append("other")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(working)
            nursery.start_soon(other)
        seen.add(tuple(events))

    same_outcomes(program)
