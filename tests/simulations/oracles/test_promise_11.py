"""The oracle of promise 11 finds traces that cannot be the same twice, and names the line where two have parted."""

from __future__ import annotations

import itertools

import pytest

from changeover_sim.oracles.promise_11_trace import Promise11Trace, repeated
from changeover_sim.simulate.judge import Judge, Line
from changeover_sim.simulate.life import Life
from changeover_sim.simulate.play import Outcome, Player
from changeover_sim.simulate.run import Run

SCENARIO, SEED = "swap-storm", 3


def play_twice() -> Outcome:
    """Play one run two times, and return what came of the second."""
    runs: list[Run] = []
    with Player((Promise11Trace,)) as player:
        first = player.play(SCENARIO, SEED, prepare=runs.append)
    assert first.broken is None, first.what
    with Player((repeated(runs[0]),)) as player:
        second = player.play(SCENARIO, SEED)
    assert second.broken is not None or (second.trace, second.steps) == (first.trace, first.steps)
    return second


def test_silent() -> None:
    """The same seed gives the same trace."""
    outcome = play_twice()
    assert outcome.broken is None, outcome.what
    assert outcome.judged[11] > 0


def test_a_trace_that_differs_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a run depends on what was before it, the first line that is another one is named."""
    began, told = Judge.life_began, itertools.count()

    def count_all(judge: Judge, life: Life) -> None:
        began(judge, life)
        judge.note(f"the engine that this process has opened as number {next(told)}")

    monkeypatch.setattr(Judge, "life_began", count_all)
    outcome = play_twice()
    assert outcome.broken == "promise 11"
    assert "has opened as number 0` the first time" in outcome.what


def test_an_address_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where an object lies in memory is no part of a trace."""
    began = Judge.life_began

    def name_it(judge: Judge, life: Life) -> None:
        began(judge, life)
        judge.note(f"opened {object()}")

    monkeypatch.setattr(Judge, "life_began", name_it)
    with Player((Promise11Trace,)) as player:
        outcome = player.play(SCENARIO, SEED)
    assert outcome.broken == "promise 11"
    assert "names an address" in outcome.what


def test_a_clock_that_goes_back_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Virtual time does not go back."""
    over = Judge.over

    def tell_late(judge: Judge) -> None:
        judge._log.append(Line(0.25, "told late"))
        over(judge)

    monkeypatch.setattr(Judge, "over", tell_late)
    with Player((Promise11Trace,)) as player:
        outcome = player.play(SCENARIO, SEED)
    assert outcome.broken == "promise 11"
    assert "went back" in outcome.what
