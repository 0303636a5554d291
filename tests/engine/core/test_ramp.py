"""A ramp goes on stage by stage: never back, never past a stage, never before its time.

Owns no state.
"""

from __future__ import annotations

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from changeover.core import ramp
from changeover.core.ramp import Ramp, advance
from changeover.core.shift import Shift, Stage

STAGES = st.lists(
    st.builds(Stage, st.just(0.5), st.sampled_from([0.0, 0.5, 1.0, 5.0]), st.integers(0, 5)), min_size=1, max_size=5
).map(tuple)


@attrs.frozen
class Tick:
    """What happens between two looks."""

    elapsed_s: float
    ended: int
    """How many requests ended in the meantime."""
    doubtful: bool


TICKS = st.lists(st.builds(Tick, st.sampled_from([0.0, 0.25, 0.5, 1.0]), st.integers(0, 3), st.booleans()), max_size=80)


def walk(stages: tuple[Stage, ...], ticks: list[Tick]) -> list[tuple[Ramp, Tick, Ramp]]:
    """Return every step of a ramp: before, what happened, after."""
    now, ended, steps = Ramp(stages), 0, []
    for tick in ticks:
        ended += tick.ended
        after = advance(now, tick.elapsed_s, ended, doubtful=tick.doubtful)
        steps.append((now, tick, after))
        now = after
    return steps


@settings(derandomize=True, deadline=None)
@given(stages=STAGES, ticks=TICKS)
def test_it_never_skips_a_stage_and_never_goes_back(stages: tuple[Stage, ...], ticks: list[Tick]) -> None:
    """Each look leaves it where it is, or takes it to the next stage; behind the last one it stays."""
    for before, _, after in walk(stages, ticks):
        assert after.index - before.index in (0, 1)
        assert after.stages == stages
        if before.over:
            assert after is before


@settings(derandomize=True, deadline=None)
@given(stages=STAGES, ticks=TICKS)
def test_it_holds_each_stage_for_its_time_and_its_requests(stages: tuple[Stage, ...], ticks: list[Tick]) -> None:
    """A stage that was left was held for `hold_s` or more and saw `samples` requests or more, counted in it alone."""
    held_s, ended = 0.0, 0
    for before, tick, after in walk(stages, ticks):
        held_s, ended = held_s + tick.elapsed_s, ended + tick.ended
        if after.index > before.index:
            assert held_s >= before.stage.hold_s
            assert ended >= before.stage.samples
            held_s, ended = 0.0, 0


@settings(derandomize=True, deadline=None)
@given(stages=STAGES, ticks=TICKS)
def test_it_goes_on_as_soon_as_it_may(stages: tuple[Stage, ...], ticks: list[Tick]) -> None:
    """Without doubts it leaves a stage at the first look at which time and requests are enough."""
    held_s, ended = 0.0, 0
    for before, tick, after in walk(stages, ticks):
        held_s, ended = held_s + tick.elapsed_s, ended + tick.ended
        if before.over:
            break
        enough = held_s >= before.stage.hold_s and ended >= before.stage.samples
        assert (after.index > before.index) is (enough and not tick.doubtful)
        if after.index > before.index:
            held_s, ended = 0.0, 0


@settings(derandomize=True, deadline=None)
@given(stages=STAGES, ticks=TICKS)
def test_a_doubt_stops_it_and_costs_no_time(stages: tuple[Stage, ...], ticks: list[Tick]) -> None:
    """While the guard has doubts no stage is left; what was held meanwhile counts as held."""
    for before, tick, after in walk(stages, ticks):
        if tick.doubtful and not before.over:
            assert after == attrs.evolve(before, held_s=before.held_s + tick.elapsed_s)


@settings(derandomize=True, deadline=None)
@given(stages=STAGES, ticks=TICKS, pauses=st.lists(st.integers(0, 80), max_size=20))
def test_a_pause_costs_nothing(stages: tuple[Stage, ...], ticks: list[Tick], pauses: list[int]) -> None:
    """Looks at which no time has passed and no request has ended change nothing of what comes after them."""
    steady = [attrs.evolve(tick, doubtful=False) for tick in ticks]
    halted = list(steady)
    for place in sorted(pauses, reverse=True):
        halted.insert(min(place, len(halted)), Tick(0.0, 0, doubtful=True))
    indices = [after.index for _, _, after in walk(stages, steady)]
    with_pauses = [after.index for _, tick, after in walk(stages, halted) if not tick.doubtful]
    assert with_pauses == indices


@given(held_s=st.floats(0.0, 20.0))
def test_the_rest_of_a_stage_is_what_is_left_of_it(held_s: float) -> None:
    """It is never negative, and a stage without a rest is left."""
    now = Ramp((Stage(0.5, 5.0), Stage(0.6, 5.0)), held_s=held_s)
    assert now.rest_s == pytest.approx(max(0.0, 5.0 - held_s), abs=1e-5)
    assert (now.rest_s == 0.0) is (advance(now, 0.0, 0, doubtful=False).index == 1)


def test_a_plan_begins_with_its_first_stage_and_ends_with_its_confirmation() -> None:
    """The confirmation is a stage with the whole traffic; a plan with neither is over at once."""
    begun = ramp.of(Shift.canary([(0.1, 1.0), (0.2, 2.0)], confirm_s=3.0, confirm_samples=4))
    assert begun.stages == (Stage(0.1, 1.0), Stage(0.2, 2.0), Stage(1.0, 3.0, 4))
    assert (begun.index, begun.stage, begun.rest_s, begun.over) == (0, Stage(0.1, 1.0), 1.0, False)
    assert ramp.of(Shift.at_once()).over
    assert ramp.of(Shift.at_once(confirm_samples=1)).stages == (Stage(1.0, 0.0, 1),)
    assert ramp.of(Shift.canary([(0.1, 1.0)], confirm_s=0.0)).stages == (Stage(0.1, 1.0),)


def test_requests_are_counted_from_the_beginning_of_the_stage() -> None:
    """What the new version has ended before a stage says nothing of that stage."""
    first = Ramp((Stage(0.1, 0.0, 3), Stage(0.5, 0.0, 3)))
    second = advance(first, 0.0, 7, doubtful=False)
    assert (second.index, second.before) == (1, 7)
    assert advance(second, 0.0, 9, doubtful=False).index == 1
    assert advance(second, 0.0, 10, doubtful=False).over
