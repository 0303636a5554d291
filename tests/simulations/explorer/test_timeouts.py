"""Time-outs against progress: when idle, progress wins; at any time, both do; and what else a program asks of time."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.lowlevel import checkpoint

from changeover_sim import Exhaustive, RandomWalk, explore
from tests.simulations.explorer.orders import Say, must_pass, orders_of

BOTH_MODES = pytest.mark.parametrize("mode", ["any-runnable", "trio-batch"])


def races(timeouts: Any, checkpoints: int, **how: Any) -> set[bool]:
    """Return whether a deadline of an hour beat a few checkpoints, over all schedules."""
    ends: set[bool] = set()

    async def program() -> None:
        with trio.move_on_after(3_600) as scope:
            for _ in range(checkpoints):
                await checkpoint()
        ends.add(scope.cancelled_caught)

    must_pass(program, timeouts=timeouts, policy=Exhaustive(None), **how)
    return ends


@BOTH_MODES
def test_when_idle_a_deadline_never_beats_progress(mode: Any) -> None:
    """As long as there is something to do, no time passes."""
    assert races("when-idle", 5, mode=mode) == {False}


@BOTH_MODES
def test_at_any_time_a_deadline_may_beat_progress(mode: Any) -> None:
    """Both ends happen: the machine may have been that slow."""
    assert races("any-time", 1, mode=mode) == {False, True}
    assert races("any-time", 3, mode=mode) == {False, True}


def test_at_any_time_no_deadline_comes_before_its_time() -> None:
    """Time moves from deadline to deadline: an early one is never overtaken by a later one."""

    async def program() -> None:
        woken: list[int] = []

        async def sleeper(seconds: int) -> None:
            await trio.sleep_until(seconds)
            assert trio.current_time() >= seconds
            woken.append(seconds)

        async with trio.open_nursery() as nursery:
            for seconds in (1, 2, 3):
                nursery.start_soon(sleeper, seconds)
        assert trio.current_time() == 3

    must_pass(program, timeouts="any-time", policy=RandomWalk(), schedules=300)


def test_at_any_time_every_checkpoint_can_be_the_one() -> None:
    """A deadline cuts a series of checkpoints at each of them, or not at all."""
    reached: set[int] = set()

    async def program() -> None:
        passed = 0
        with trio.move_on_after(1):
            for _ in range(4):
                await checkpoint()
                passed += 1
        reached.add(passed)

    must_pass(program, timeouts="any-time", policy=Exhaustive(None))
    assert reached == {0, 1, 2, 3, 4}


@BOTH_MODES
def test_without_deadlines_any_time_is_when_idle(mode: Any) -> None:
    """Where no deadline is set there is nothing more to decide, and the schedules are the same."""

    async def body(say: Say) -> None:
        first, second = trio.Event(), trio.Event()

        async def one() -> None:
            await checkpoint()
            first.set()
            await second.wait()
            say("x")
            await checkpoint()
            say("X")

        async def two() -> None:
            await first.wait()
            second.set()
            await checkpoint()
            say("y")
            await checkpoint()
            say("Y")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(one)
            nursery.start_soon(two)

    plain, told = orders_of(body, mode=mode)
    anytime, also_told = orders_of(body, mode=mode, timeouts="any-time")
    assert plain.failure is None
    assert anytime.schedules_run == plain.schedules_run
    assert also_told == told


def test_with_one_deadline_the_deadlock_is_only_put_off() -> None:
    """Time goes on as long as there is a deadline, and then it is told who waits."""

    async def program() -> None:
        with trio.move_on_after(1_000):
            await trio.sleep_forever()
        await trio.sleep_forever()

    failure = explore(program).failure
    assert failure is not None
    assert failure.verdict == "deadlock"
    assert failure.trace[-1].time_s == 1_000


def test_waking_up_is_one_step() -> None:
    """A deadline and the one task that it wakes are one step of the schedule: asleep, awake."""

    async def program() -> None:
        await trio.sleep(1)
        raise ValueError

    failure = explore(program).failure
    assert failure is not None
    assert [step.time_s for step in failure.trace] == [0.0, 1.0]
    assert "deadline 1 s" in failure.trace[1].cause


def test_what_a_program_may_ask_of_its_run() -> None:
    """Clock, statistics, root task and instruments are those of a Trio run."""
    steps: list[str] = []

    class Steps(trio.abc.Instrument):
        def before_task_step(self, task: trio.lowlevel.Task) -> None:
            steps.append(task.name)

    async def program() -> None:
        assert trio.lowlevel.current_clock().current_time() == 0.0
        with trio.CancelScope(deadline=7):
            await checkpoint()
            assert trio.current_effective_deadline() == 7.0
            seen = trio.lowlevel.current_statistics()
            assert seen.seconds_to_next_deadline == 7.0
            assert seen.tasks_living >= 2
        assert trio.lowlevel.current_root_task() is not None
        instrument = Steps()
        trio.lowlevel.add_instrument(instrument)
        await checkpoint()
        trio.lowlevel.remove_instrument(instrument)
        assert steps

    must_pass(program, schedules=2)
