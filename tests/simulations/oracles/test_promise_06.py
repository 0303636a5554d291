"""The oracles of promise 6 find drains without end, outcomes that no policy names, and holders whom nobody names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
import pytest

from changeover import Drain, DrainOutcome
from changeover.core.ledger import Account, RecordingAccount
from changeover.runtime import version_drains
from changeover.runtime.orders import Draining, Limit
from changeover.runtime.part import Part as SwapPart
from changeover.runtime.version_drains import Drains
from changeover.runtime.waiting import Waits
from changeover_sim.oracles.drains import bound_s, limit_s
from changeover_sim.oracles.promise_06_drain import Promise06Drain
from changeover_sim.oracles.zero_waits import ZeroWaits
from changeover_sim.simulate.shape import Shape
from tests.simulations.oracles.small_runs import assert_found, assert_silent, parts, shape

HOLDERS = (("leaser", 3), ("waiting leaser", 2), ("streamer", 1), ("tracker", 1), ("loader", 2), ("unloader", 2))


def drained(*names: str) -> Shape:
    """Return a shape in which one version is drained by these policies while many hold it."""
    return shape(HOLDERS, parts("1", "2", close_s=(0.25,)), drains=names, force=1.0, horizon_s=5.0)


SWAPPED = shape((("swapper", 2), ("leaser", 3)), parts("1", "2", close_s=(0.25,)), drains=("short",), horizon_s=5.0)
WAITED = shape((("waiter", 3), ("leaser", 3)), parts("1", "2"), horizon_s=4.0)


@pytest.mark.parametrize("name", ["short", "none", "cancel", "rollback", "wait", "streams first"])
def test_silent(name: str) -> None:
    """Nothing is wrong with the drains of the engine as it is."""
    assert_silent(Promise06Drain, drained(name))


def test_silent_beside_swaps_and_waits() -> None:
    """Nor with those of its swaps, nor with its waits for zero."""
    assert_silent(Promise06Drain, SWAPPED)
    assert_silent(ZeroWaits, WAITED)


def test_a_drain_without_end_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A deadline that is not looked at leaves the drain to its holders."""
    monkeypatch.setattr(Drains, "_on_deadline", lambda _version: None)
    assert_found(Promise06Drain, drained("short"), "and was to end by")


def test_a_drain_that_cannot_hurry_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who joins with less time is not to wait for those who have more."""
    hurry = Draining.hurry

    def once(draining: Draining, drain: Drain, now: float) -> bool:
        return len(draining.orders) == 1 and hurry(draining, drain, now)

    monkeypatch.setattr(Draining, "hurry", once)
    assert_found(Promise06Drain, drained("streams first", "short", "none"), "and was to end by")


def test_a_quarantine_without_end_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who does not watch for the last holder any more keeps what nobody holds."""
    end: Callable[[Drains], None] = Drains._on_deadline

    def forget(version: Drains) -> None:
        end(version)
        if version.loaded is not None and version._draining is not None:
            version.loaded.account.unwatch(version._draining.on_zero)

    monkeypatch.setattr(Drains, "_on_deadline", forget)
    assert_found(Promise06Drain, drained("none"), "and it is still quarantined")


@pytest.mark.parametrize(
    ("name", "verdict", "says"),
    [
        ("rollback", "quarantine", "which is nobody's policy"),
        ("short", "give back", "by its deadline, which is nobody's policy"),
    ],
)
def test_an_outcome_of_another_policy_is_found(
    monkeypatch: pytest.MonkeyPatch, name: str, verdict: str, says: str
) -> None:
    """What happens at the deadline is what was ordered."""
    expire: Callable[..., Any] = Draining.expire

    def other(draining: Draining, held: Any, now: float) -> Any:
        found = expire(draining, held, now)
        return verdict if found in ("quarantine", "give back") else found

    monkeypatch.setattr(Draining, "expire", other)
    assert_found(Promise06Drain, drained(name), says)


def test_a_quarantine_before_its_time_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Holders have the time that the order gives them."""
    ring: Callable[..., Any] = Draining.next_ring_s

    def early(draining: Draining, now: float) -> float | None:
        for limit in draining.limits:
            limit.deadline_s = None if limit.deadline_s is None else limit.deadline_s - 0.25
        return ring(draining, now)

    monkeypatch.setattr(Draining, "next_ring_s", early)
    assert_found(Promise06Drain, drained("short"), "had time until")


def test_a_revocation_that_does_not_come_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A drain that cancels asks whoever can be asked."""
    for account in (Account, RecordingAccount):
        monkeypatch.setattr(account, "revoke", lambda _account, _kinds: None)
    assert_found(Promise06Drain, drained("cancel"), "was never asked to let go")


def test_a_revocation_without_a_drain_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who was given back asks nobody to leave."""
    monkeypatch.setattr(Account, "reopen", lambda account: setattr(account, "open", True))
    assert_found(Promise06Drain, drained("cancel", "wait"), "revoked at")


@pytest.mark.parametrize(
    "lie",
    [
        lambda told: attrs.evolve(told, holders=()),
        lambda told: attrs.evolve(told, holders=told.holders[:-1]),
        lambda told: attrs.evolve(told, duration_s=told.duration_s + 0.25),
        lambda told: attrs.evolve(told, result="given_back"),
    ],
    ids=["nobody", "one too few", "longer", "another result"],
)
def test_an_outcome_that_is_not_true_is_found(
    monkeypatch: pytest.MonkeyPatch, lie: Callable[[DrainOutcome], DrainOutcome]
) -> None:
    """Who is told how a drain ended is told what has happened, and who held it then."""
    outcome: Callable[..., DrainOutcome] = Draining.outcome

    def tell(draining: Draining, *what: Any) -> DrainOutcome:
        told = outcome(draining, *what)
        return lie(told) if told.result == "quarantined" else told

    monkeypatch.setattr(Draining, "outcome", tell)
    assert_found(Promise06Drain, drained("short", "none"), "unload")


def test_an_unload_that_is_told_too_early_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is told to be unloaded is closed."""
    settle: Callable[..., None] = Drains._settle_drain

    def early(version: Drains, result: Any) -> None:
        settle(version, result)
        for order in version._draining.orders if version._draining is not None and result == "drained" else ():
            order.closed.settle(None)

    monkeypatch.setattr(version_drains.Drains, "_settle_drain", early)
    assert_found(Promise06Drain, drained("wait"), "is not closed")
    assert_found(Promise06Drain, SWAPPED, "is not closed")


def test_a_swap_that_drains_otherwise_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A swap drains its old version as it was ordered."""
    drain_old = SwapPart.drain_old
    monkeypatch.setattr(SwapPart, "drain_old", lambda part, _drain: drain_old(part, Drain(0.25)))
    assert_found(Promise06Drain, SWAPPED, "was not drained by")


def test_a_drain_that_is_never_answered_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everybody who has ordered a drain hears how it ended."""
    monkeypatch.setattr(Draining, "settle", lambda _draining, _outcome: None)
    monkeypatch.setattr(Draining, "end", lambda _draining, _error: None)
    assert_found(Promise06Drain, drained("wait"), "without end")


def test_a_grace_without_end_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who was asked to leave has the grace, and no more."""
    expire: Callable[..., Any] = Limit.expire

    def patient(limit: Limit, held: Any, now: float) -> Any:
        verdict = expire(limit, held, now)
        limit.deadline_s = None if verdict == "revoke" else limit.deadline_s
        return verdict

    monkeypatch.setattr(Limit, "expire", patient)
    assert_found(Promise06Drain, drained("cancel at once"), "and was to end by")


def test_a_zero_that_wakes_nobody_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who waits for zero is woken by it."""
    join: Callable[..., Any] = Waits._join

    def deaf(waits: Waits, key: Any, accounts: Any) -> Any:
        for account in accounts:
            monkeypatch.setattr(type(account), "_call_watchers", lambda _account: None)
        return join(waits, key, accounts)

    monkeypatch.setattr(Waits, "_join", deaf)
    assert_found(ZeroWaits, WAITED, "is not woken")


def test_a_wait_that_is_too_long_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has waited for as long as he wants to is told so."""
    zero: Callable[..., Any] = Waits.zero
    monkeypatch.setattr(Waits, "zero", lambda waits, key, accounts, s: zero(waits, key, accounts, s + 0.25))
    assert_found(ZeroWaits, WAITED, "it was to end by")


def test_the_bounds_of_policies() -> None:
    """A drain is bounded by the later of its deadlines and its grace; one that waits by nothing."""
    assert bound_s(Drain(1.0)) == 1.0
    assert bound_s(Drain(0.5, "cancel", 0.25)) == 0.75
    assert bound_s(Drain(0.5, "wait")) == float("inf")
    streams = Drain(1.5, "cancel", 0.5, stream_deadline_s=0.5)
    assert (bound_s(streams), limit_s(streams, "stream"), limit_s(streams, "lease")) == (2.0, 1.0, 2.0)
