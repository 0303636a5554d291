"""The oracle of guards finds those that look away, those that trip without a reason, and swaps that do not care."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import attrs
import pytest

from changeover import Guard, Sample, Verdict
from changeover.core import guard
from changeover.core.guard import Judgement
from changeover.core.operations import SwapOperation
from changeover.runtime.saga import Saga
from changeover.runtime.shifting import Shifting
from changeover_sim.oracles.evidence import Use, Watched, lower_rate, unfounded
from changeover_sim.oracles.guard import Guarding
from changeover_sim.simulate.actors import chance
from changeover_sim.simulate.cast import Part
from changeover_sim.simulate.shape import Shape
from tests.simulations.oracles.small_runs import assert_found, assert_silent, shape

ASKED = (("asker", 6), ("keyed asker", 3), ("swapper", 1))
VERSIONS = (Part("a", "1"), Part("a", "2", bad=0.9))


def on_trial(plan: str, **options: Any) -> Shape:
    """Return a shape in which a version that fails is tried out."""
    return shape(ASKED, VERSIONS, plans=(plan,), faults=["predict-raises"], horizon_s=6.0, hurry=0.1, **options)


GROUP = shape(
    (("asker", 6), ("keyed asker", 3), ("group swapper", 1)),
    (*VERSIONS, Part("b", "1"), Part("b", "2", bad=0.5)), plans=("canary",), faults=["predict-raises"], horizon_s=6.0,
)  # fmt: skip


@pytest.mark.parametrize("plan", ["canary", "confirmed", "canary without fallback", "shadow"])
def test_silent(plan: str) -> None:
    """Nothing is wrong with the guards of the engine as it is."""
    assert_silent(Guarding, on_trial(plan))


def test_silent_beside_groups() -> None:
    """Nor with those of a group."""
    assert_silent(Guarding, GROUP)


@pytest.mark.parametrize("plan", ["canary", "canary without fallback", "shadow"])
def test_a_guard_that_looks_away_is_found(monkeypatch: pytest.MonkeyPatch, plan: str) -> None:
    """A version that fails for certain does not stay on trial."""
    judge = guard.judge
    monkeypatch.setattr(chance, "does", lambda *_what: "good")  # or the old version fails as well

    def blind(*what: Any, **options: Any) -> Judgement:
        return attrs.evolve(judge(*what, **options), mark="fine")

    monkeypatch.setattr(guard, "judge", blind)
    assert_found(Guarding, on_trial(plan), "goes on at")


def test_a_guard_without_evidence_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A guard that trips has seen what it says."""
    verdict = Verdict("it looks bad", Sample(3, 1, None), Sample(9, 0, None))
    monkeypatch.setattr(guard, "judge", lambda *_what, **_options: Judgement("worse", verdict))
    assert_found(Guarding, on_trial("canary"), "without evidence: it is of 3 requests")


def test_a_guard_with_false_evidence_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a guard has seen has happened."""
    verdict = Verdict("it looks bad", Sample(900, 700, None), Sample(9, 0, None))
    monkeypatch.setattr(guard, "judge", lambda *_what, **_options: Judgement("worse", verdict))
    assert_found(Guarding, on_trial("canary"), "are known at most")


def test_a_swap_that_goes_on_behind_its_guard_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A guard that trips turns its swap round."""
    look: Callable[..., None] = Shifting._look

    def deaf(shifting: Shifting, now: float, elapsed_s: float) -> None:
        try:
            look(shifting, now, elapsed_s)
        except Exception:  # noqa: BLE001 - this is the bug
            shifting._promoted = True

    monkeypatch.setattr(Shifting, "_look", deaf)
    assert_found(Guarding, on_trial("canary"), "is completed, and its guard has tripped")


def test_a_verdict_that_is_not_told_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A swap that its guard has turned round says so."""
    tell: Callable[..., SwapOperation] = Saga._ended
    monkeypatch.setattr(Saga, "_ended", lambda saga, *what: attrs.evolve(tell(saga, *what), guard=None))
    assert_found(Guarding, on_trial("canary"), "with None, and its guard has tripped")


# --- the arithmetic -------------------------------------------------------------------------------------------------

LOOSE = Guard(window_s=4.0, min_samples=6, min_errors=3)


def watched(*uses: tuple[float, bool], guarded: Guard = LOOSE) -> tuple[Watched, dict[int, Any]]:
    """Return a trial of plain requests that failed, or did not, at these times, and their calls."""
    scope = SimpleNamespace(cancel_called=False)
    calls = dict[int, Any]()
    trial = Watched("s", guarded, "a", "a/2", "a/1", 0.0)
    for number, (at_s, failed) in enumerate(uses):
        calls[number] = SimpleNamespace(kind="infer", version=None, began_s=at_s, scope=scope)
        trial.uses.append(Use("a/2", (number,), at_s, failed))
    return trial, calls


def test_when_a_version_fails_for_certain() -> None:
    """So many errors of so many requests within the window are certain; fewer, or older ones, are not."""
    trial, calls = watched(*[(1.0, True)] * 4, *[(1.0, False)] * 4, (1.5, True))
    assert "5 of at most 9 requests" in trial.is_clear(calls, 2.0)
    assert trial.is_clear(calls, 1.5) == ""  # of what has just happened not all may have been looked at
    few, calls = watched(*[(1.0, True)] * 4, (1.5, True))
    assert few.is_clear(calls, 2.0) == ""
    old, calls = watched(*[(1.0, True)] * 3, *[(1.0, False)] * 4, (6.0, True))
    assert old.is_clear(calls, 7.0) == ""


@pytest.mark.parametrize("change", [{"version": "2"}, {"kind": "stream"}, {"began_s": 0.0}])
def test_what_a_guard_need_not_have_counted(change: dict[str, Any]) -> None:
    """Requests that name a version, that began before the trial, and those of other kinds are left out."""
    trial, calls = watched(*[(1.0, True)] * 8, (1.5, True))
    assert trial.is_clear(calls, 2.0) != ""
    for call in calls.values():
        call.__dict__.update(change)
    assert trial.is_clear(calls, 2.0) == ""


def test_evidence_that_is_sound() -> None:
    """A guard may trip by errors that are certain, or by a latency that is worse."""
    fails, fine = {"requests": 10, "errors": 5, "latency_s": None}, {"requests": 10, "errors": 0, "latency_s": 0.25}
    slow, few = {"requests": 10, "errors": 0, "latency_s": 1.0}, {"requests": 3, "errors": 3, "latency_s": None}
    assert unfounded(LOOSE, cast("Any", fails), cast("Any", fine)) == ""
    assert unfounded(LOOSE, cast("Any", slow), cast("Any", fine)) == ""
    assert unfounded(LOOSE, cast("Any", fine), cast("Any", slow)) != ""
    assert unfounded(LOOSE, cast("Any", few), cast("Any", fine)) != ""
    assert 0.0 < lower_rate(3, 10) < 0.3 < lower_rate(9, 10) < 0.9
