"""The swap saga ends, either done or undone, whatever happens to it and in whatever order.

Owns no state.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from changeover.core.plan import (
    NO_RETURN,
    ORDER,
    PIVOT,
    STATE_WHILE,
    UNDONE_BY,
    Command,
    Compensate,
    Done,
    Failed,
    Finish,
    Happening,
    IllegalHappening,
    Ordered,
    Progress,
    Run,
    Step,
    Undone,
    advance,
    start,
)
from changeover.core.values import SwapState

TURNS: tuple[Any, ...] = (SwapState.ROLLED_BACK, SwapState.CANCELLED, SwapState.SUPERSEDED)
PLAIN: tuple[Happening, ...] = (Done(), Failed(), *map(Ordered, TURNS), Undone(), Undone(ok=False))
HAPPENINGS = st.sampled_from(PLAIN)
UP_TO_PIVOT = ORDER[: ORDER.index(PIVOT) + 1]
AFTER_PIVOT = ORDER[ORDER.index(PIVOT) + 1 :]


@attrs.define
class Story:
    """A saga from its start to its end: each command, and what happened to it."""

    commands: list[Command] = attrs.field(factory=list)
    answers: list[Happening] = attrs.field(factory=list)

    @property
    def end(self) -> SwapState:
        """How it ended."""
        last = self.commands[-1]
        assert isinstance(last, Finish)
        return last.state

    @property
    def run(self) -> list[Step]:
        """The steps that were run, in order."""
        return [command.step for command in self.commands if isinstance(command, Run)]

    @property
    def undone(self) -> list[Step]:
        """The steps that were compensated, in order."""
        return [command.step for command in self.commands if isinstance(command, Compensate)]


def play(happenings: Iterable[Happening]) -> Story:
    """Let things happen to a saga; what cannot happen is left out, and in the end all that is left to do works."""
    progress, command = start()
    story = Story([command])
    for happening in (*happenings, *[h for _ in ORDER * 2 for h in (Done(), Undone())]):
        if isinstance(command, Finish):
            break
        try:
            progress, command = advance(progress, happening)
        except IllegalHappening:
            continue
        story.commands.append(command)
        story.answers.append(happening)
    return story


def at(step: Step) -> list[Happening]:
    """Return what happens before `step` is at hand."""
    return [Done()] * ORDER.index(step)


def back_from(step: Step) -> list[Step]:
    """Return what must be undone when the saga turns round at `step`, in order."""
    return list(reversed(ORDER[: ORDER.index(step) + 1]))


# --- whatever happens -----------------------------------------------------------------------------------------------


@given(happenings=st.lists(HAPPENINGS, max_size=40))
def test_a_saga_always_ends(happenings: Sequence[Happening]) -> None:
    """After at most one command for each step forward, one for each back and the end, it is over, in a final state."""
    story = play(happenings)
    assert story.end.ended
    assert len(story.commands) <= 2 * len(ORDER) + 1
    assert not any(isinstance(command, Finish) for command in story.commands[:-1])


@given(happenings=st.lists(HAPPENINGS, max_size=40))
def test_steps_run_in_order_and_compensations_in_reverse(happenings: Sequence[Happening]) -> None:
    """Steps run from the first on, each once; where it turns round, from the step at hand back, each once."""
    story = play(happenings)
    assert tuple(story.run) == ORDER[: len(story.run)]
    assert story.undone in ([], back_from(story.run[-1]))
    assert story.commands == [*map(Run, story.run), *map(Compensate, story.undone), Finish(story.end)]


@given(happenings=st.lists(HAPPENINGS, max_size=40))
def test_a_saga_ends_as_what_happened_to_it_says(happenings: Sequence[Happening]) -> None:
    """It is COMPLETED or undone; FAILED after a failure or a broken compensation, else what was ordered."""
    story = play(happenings)
    if not story.undone:
        assert story.end is SwapState.COMPLETED
        assert tuple(story.run) == ORDER
        return
    turned_by = story.answers[len(story.run) - 1]
    wanted = turned_by.end if isinstance(turned_by, Ordered) else SwapState.FAILED
    assert story.end is (SwapState.FAILED if Undone(ok=False) in story.answers else wanted)


@given(happenings=st.lists(HAPPENINGS, max_size=12), happening=HAPPENINGS)
def test_what_cannot_happen_raises_and_changes_nothing(happenings: Sequence[Happening], happening: Happening) -> None:
    """Forward there is no Undone, backward nothing else, from the point of no return no order; progress is a value."""
    progress, command = start()
    for earlier in happenings:
        if isinstance(command, Finish):
            return
        try:
            progress, command = advance(progress, earlier)
        except IllegalHappening:
            continue
    if isinstance(command, Finish):
        return
    before = attrs.evolve(progress)
    if isinstance(happening, Undone):
        legal = isinstance(command, Compensate)
    else:
        legal = isinstance(command, Run) and not (isinstance(happening, Ordered) and command.step is NO_RETURN)
    if legal:
        advance(progress, happening)
    else:
        with pytest.raises(IllegalHappening):
            advance(progress, happening)
    assert progress == before


# --- each step ------------------------------------------------------------------------------------------------------


def test_an_undisturbed_saga_runs_every_step() -> None:
    """Where everything works it runs all steps and is COMPLETED."""
    assert play([]).commands == [*map(Run, ORDER), Finish(SwapState.COMPLETED)]


@pytest.mark.parametrize("step", UP_TO_PIVOT)
def test_a_failure_up_to_the_pivot_undoes_everything(step: Step) -> None:
    """A step that fails before the end of the shift ends the swap FAILED, with that step and all before it undone."""
    story = play([*at(step), Failed()])
    assert story.undone == back_from(step)
    assert story.end is SwapState.FAILED


@pytest.mark.parametrize("step", AFTER_PIVOT)
def test_a_failure_after_the_pivot_rolls_forward(step: Step) -> None:
    """A drain or an unload that fails compensates nothing: the swap has happened and is COMPLETED."""
    story = play([*at(step), Failed()])
    assert story.undone == []
    assert tuple(story.run) == ORDER
    assert story.end is SwapState.COMPLETED


@pytest.mark.parametrize("end", TURNS)
@pytest.mark.parametrize("step", [step for step in ORDER if step is not NO_RETURN])
def test_an_order_turns_it_until_the_unload_begins(step: Step, end: Any) -> None:
    """An order at any step before the unload undoes that step and all before it, and names the end."""
    story = play([*at(step), Ordered(end)])
    assert story.undone == back_from(step)
    assert story.end is end


@pytest.mark.parametrize("end", TURNS)
def test_an_order_is_illegal_from_the_unload_on(end: Any) -> None:
    """Once the unload has begun an order raises, and the swap is COMPLETED."""
    progress, command = start()
    for happening in at(NO_RETURN):
        progress, command = advance(progress, happening)
    assert command == Run(Step.UNLOAD)
    assert not progress.can_turn
    with pytest.raises(IllegalHappening):
        advance(progress, Ordered(end))
    assert advance(progress, Done())[1] == Finish(SwapState.COMPLETED)


@pytest.mark.parametrize("second", [Done(), Failed(), *map(Ordered, TURNS)])
def test_a_saga_turns_round_only_once(second: Happening) -> None:
    """While it is being undone neither another order nor a step's end can be: it goes on back."""
    progress, command = start()
    for happening in (*at(PIVOT), Ordered(SwapState.ROLLED_BACK)):
        progress, command = advance(progress, happening)
    assert command == Compensate(PIVOT)
    assert not progress.can_turn
    assert not progress.past_pivot
    with pytest.raises(IllegalHappening):
        advance(progress, second)


@pytest.mark.parametrize("broken", range(5))
def test_a_compensation_that_fails_ends_the_swap_failed(broken: int) -> None:
    """Whichever compensation fails for good, the rest is undone all the same, and the swap ends FAILED."""
    answers = [Undone(ok=number != broken) for number in range(5)]
    story = play([*at(Step.DRAIN), Ordered(SwapState.ROLLED_BACK), *answers])
    assert story.undone == back_from(Step.DRAIN)
    assert story.end is SwapState.FAILED


def test_a_drain_that_ends_in_quarantine_is_the_last_step() -> None:
    """Where nothing is left to do after the drain there is no unload, and the swap is COMPLETED."""
    story = play([*at(Step.DRAIN), Done(last=True)])
    assert story.commands[-2:] == [Run(Step.DRAIN), Finish(SwapState.COMPLETED)]


def test_the_pivot_is_the_end_of_the_shift() -> None:
    """`past_pivot` is true exactly for the steps after the shift, while they run forward."""
    assert [step for step in ORDER if Progress(step).past_pivot] == [Step.DRAIN, Step.UNLOAD]
    assert not any(Progress(step, forward=False).past_pivot for step in ORDER)


def test_the_tables_cover_every_step() -> None:
    """Every step has a state to show and a line that says what undoes it; only what cannot turn has nothing there."""
    assert tuple(STATE_WHILE) == tuple(UNDONE_BY) == ORDER
    assert [step for step, text in UNDONE_BY.items() if text is None] == [NO_RETURN]
    assert not any(state.ended for state in STATE_WHILE.values())
