"""Where a schedule that fails first differs from the nearest one that passes: the step is right, and it does pass."""

from __future__ import annotations

import time
from typing import Any

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.lowlevel import checkpoint

from changeover_sim import RandomWalk, TokenError, cancel_anywhere, choose, explore, replay
from changeover_sim.explorer import compare, token
from changeover_sim.explorer.compare import Parting, parting
from changeover_sim.explorer.schedule import Rules
from changeover_sim.explorer.stage import Stage
from changeover_sim.explorer.tape import Played
from changeover_sim.explorer.telling.words import parting_lines
from changeover_sim.explorer.trace import Recorder, Step
from tests.simulations.explorer import must_fail, told
from tests.simulations.explorer.test_any_program import program_of, tasks


def parting_of(program: Any, picks: tuple[int, ...] = (), **rules: Any) -> Parting:
    """Return where a schedule parts from what passes."""
    found = parting(program, told.token_of(program, picks, **rules))
    assert found is not None
    return found


def names(found: Parting) -> tuple[int, str, str | None, str | None]:
    """Return the step, what was decided there, and who makes it here and there."""
    fails, passes = found.fails, found.passes
    return found.number, found.kind, None if fails is None else fails.task, None if passes is None else passes.task


def passes_again(program: Any, found: Parting) -> bool:
    """Return whether the schedule that is said to pass does."""
    return replay(program, found.token).failure is None


# --- the step is the right one ----------------------------------------------------------------------------------------


def test_the_one_bad_order_is_found() -> None:
    """It fails only where the writer gets ahead of the reader in step 4, and that is what is told."""
    found = parting_of(told.exception, told.PICKS[told.exception])
    assert names(found) == (4, "order", "writer", "reader")
    assert passes_again(told.exception, found)
    assert found.runs == 1
    assert replay(told.exception, found.token).notes == ()
    (first, second) = parting_lines(found)
    assert first.startswith(
        "Step 4 is the first that differs from the nearest schedule that passes: here writer goes on"
    )
    assert second.startswith("reader goes on from told.py:")


def test_the_last_of_several_deviations_is_told() -> None:
    """The lock is wanted too early by two steps; the second of them, taken back, is enough to pass."""
    found = parting_of(told.deadlock, told.PICKS[told.deadlock])
    assert names(found) == (5, "order", "late", "early")
    assert passes_again(told.deadlock, found)


def test_what_choose_returned_is_told() -> None:
    """Where the first option passes, the step is that in which another was returned."""
    found = parting_of(told.leftover, (1,))
    assert names(found) == (1, "choice", "program", "program")
    assert "here choose() returns option 2, there choose() returns option 1" in " ".join(parting_lines(found))


def test_a_cancellation_is_told() -> None:
    """Where nobody is cancelled it passes, and the step is the first behind the cancellation."""
    found = parting_of(told.cancel, (0, 1))
    assert names(found) == (3, "cancel", "patient", "patient")
    assert "here a scope is cancelled right before it, there it is not" in " ".join(parting_lines(found))


def test_a_cancellation_that_is_missing_is_told() -> None:
    """Where it fails because nobody is cancelled, it is the other way round."""

    async def program() -> None:
        with trio.CancelScope() as scope:
            cancel_anywhere(scope)
            await checkpoint()
            await checkpoint()
        assert scope.cancelled_caught

    found = parting_of(program)
    assert found.kind == "cancel"
    assert "there a scope is cancelled right before it, here it is not" in " ".join(parting_lines(found))
    assert passes_again(program, found)


def test_what_fails_in_order_is_compared_with_what_does_not() -> None:
    """First-in-first-out fails itself: the nearest that passes lets somebody go first."""
    found = parting_of(told.livelock)
    assert names(found) == (2, "order", "impatient", "doer")
    assert passes_again(told.livelock, found)


def test_a_deviation_in_the_middle_is_found() -> None:
    """Of three deviations only the first matters: the others are kept where the first is taken back."""

    async def program() -> None:
        taken = [choose(range(3)) for _ in range(3)]
        await checkpoint()
        assert taken[0] != 2

    found = parting_of(program, (2, 1, 1))
    assert (found.number, found.kind) == (1, "choice")
    assert found.passes is not None
    assert found.passes.choices == (0, 0, 0)
    assert passes_again(program, found)


def test_what_comes_behind_a_deviation_is_kept() -> None:
    """One deviation is to blame and the one behind it is needed to pass: the first alone is taken back."""

    async def program() -> None:
        bad, needed = choose([False, True]), choose([False, True])
        await checkpoint()
        assert needed
        assert not bad

    found = parting_of(program, (1, 1))
    assert found.passes is not None
    assert (found.number, found.passes.choices) == (1, (0, 1))
    assert passes_again(program, found)


def test_who_waits_for_ever_makes_no_step_that_differs() -> None:
    """Nobody is cancelled, so nothing comes behind the last step; where it passes, something does."""

    async def program() -> None:
        with trio.CancelScope() as scope:
            cancel_anywhere(scope)
            await trio.sleep_forever()

    failure, found = told.told(program, ())
    assert failure.verdict == "deadlock"
    assert found is not None
    assert names(found) == (2, "cancel", None, "program")


def test_the_beginning_of_many_deviations_is_found() -> None:
    """Hundreds of deviations, of which the fortieth matters: halving finds it."""

    async def program() -> None:
        for number in range(200):
            if choose([False, True]) and number == 39:
                raise ValueError
            await checkpoint()

    found = parting_of(program, (1,) * 200, steps_max=1_000)
    assert (found.number, found.kind) == (40, "choice")

    async def late() -> None:
        taken = []
        for _ in range(200):
            taken.append(choose([False, True]))
            await checkpoint()
        assert not taken[39]

    found = parting_of(late, (1,) * 200, steps_max=1_000)
    assert (found.number, found.kind) == (40, "choice")
    assert found.runs < 64
    assert passes_again(late, found)


def test_the_end_of_a_schedule_is_a_difference() -> None:
    """Where one schedule is over and the other goes on, that is told."""

    async def program() -> None:
        if choose([False, True]):
            await checkpoint()
            raise ValueError

    found = parting_of(program, (1,))
    assert (found.number, found.kind) == (1, "choice")
    step = Step("t", 0.0, None, (), None, "", 0)
    (line,) = parting_lines(Parting(3, "order", None, step, "sx1-", 1))
    assert line.endswith("here all is over, there t begins.")


def test_steps_far_from_the_beginning_are_numbered_the_same() -> None:
    """Behind 2,500 steps, of which a failure records only the last, the step has its number all the same."""

    async def program() -> None:
        for _ in range(2_500):
            await checkpoint()
        assert not choose([False, True])

    picks = (1,)
    failure, found = told.told(program, picks, steps_max=10_000)
    assert found is not None
    assert found.fails == failure.trace[-1]
    assert found.number == 2_501


def steps_of(program: Any, text: str) -> list[Step]:
    """Return all steps of a schedule, whether it fails or not."""
    made = token.decode(text)
    with Stage(made.rules, made.seed).open() as stage:
        return list(stage.play(program, Played(made.picks), made.chance, Recorder(0)).trace)


@settings(derandomize=True, deadline=None, max_examples=30)
@given(all_moves=tasks, seed=st.integers(0, 1_000))
def test_of_any_program_the_first_difference_is_the_first(all_moves: Any, seed: int) -> None:
    """All steps before are the same in both, this one is not, and the other schedule passes."""
    program = program_of(all_moves, [])
    failure = explore(program, schedules=12, steps_max=120, seed=seed, policy=RandomWalk()).failure
    found = None if failure is None else parting(program, failure.token)
    if failure is None or found is None:
        return
    here, there = steps_of(program, failure.token), steps_of(program, found.token)
    before = found.number - 1
    assert here[:before] == there[:before]
    assert (here[before : before + 1] or [None])[0] == found.fails
    assert (there[before : before + 1] or [None])[0] == found.passes
    assert found.fails != found.passes
    assert passes_again(program, found)


# --- where there is none ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("program", [must_fail.raises, must_fail.event_that_nobody_sets, must_fail.two_locks_in_step])
def test_what_always_fails_parts_from_nothing(program: Any) -> None:
    """Where no order passes nothing is told."""
    assert parting(program, told.token_of(program, ())) is None


def test_what_passes_parts_from_nothing() -> None:
    """A token whose schedule does not fail any more has no first difference."""
    assert parting(told.exception, told.token_of(told.exception, ())) is None


def test_no_more_schedules_are_run_than_allowed() -> None:
    """Besides the failing one, `runs` at most; and in the default case so many that nobody waits for long."""
    runs: list[None] = []

    async def program() -> None:
        runs.append(None)
        for _ in range(100):
            choose([False, True])
            await checkpoint()
        raise ValueError

    text = told.token_of(program, (1,) * 100, steps_max=1_000)
    assert parting(program, text, runs=7) is None
    assert len(runs) == 1 + 7
    assert parting(program, text) is None
    assert len(runs) < 1 + 7 + 1 + 65


def test_long_schedules_are_tried_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """What makes too many steps in all ends the search: by default a hundred thousand, here five thousand."""
    monkeypatch.setattr(compare, "_ALL_STEPS_MAX", 5_000)
    runs: list[None] = []

    async def program() -> None:
        runs.append(None)
        choose([False, True])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(must_fail.spins)
            nursery.start_soon(must_fail.spins)

    assert parting(program, told.token_of(program, (1,), steps_max=1_000)) is None
    assert len(runs) == 1 + 3


def test_what_cannot_be_judged_ends_the_search() -> None:
    """A schedule beside the failing one that uses something real is no reason to tell nothing of the failing one."""

    async def program() -> None:
        if not choose([False, True]):
            time.sleep(1)  # noqa: ASYNC251 - on purpose
        raise ValueError

    assert parting(program, told.token_of(program, (1,))) is None


def test_nothing_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    """What the program prints in schedules that nobody asked for is dropped."""

    async def program() -> None:
        print("printed")  # noqa: T201 - it is what the test is about
        assert not choose([False, True])

    assert parting(program, told.token_of(program, (1,))) is not None
    assert capsys.readouterr().out == ""


# --- bad input --------------------------------------------------------------------------------------------------------


def test_a_token_of_another_program_is_refused() -> None:
    """The token names the program that it is for."""
    with pytest.raises(TokenError, match="the token is for the program"):
        parting(told.deadlock, told.token_of(told.exception, ()))


@pytest.mark.parametrize("runs", [0, -1, 1.5, True])
def test_runs_must_be_a_number(runs: Any) -> None:
    """At least one schedule must be allowed."""
    with pytest.raises(ValueError, match="runs must be a whole number of at least 1"):
        parting(told.exception, told.token_of(told.exception, ()), runs=runs)


def test_the_rules_of_the_token_hold() -> None:
    """In batches the step of another batch is not offered, and the schedule that passes has the same mode."""
    found = parting_of(told.leftover, (1,), mode="trio-batch")
    assert token.decode(found.token).rules == Rules("trio-batch", "when-idle", told.STEPS_MAX, 5.0)
