"""A reference tracker without an engine: its versions come and go, its figures, and what it refuses."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from changeover import Balance, ReferenceStatistics, ReferenceTracker, VersionKey
from changeover.core.ledger import Account
from changeover.errors import (
    AlreadyHeld,
    DrainTimeout,
    InvalidValue,
    ReferenceLeakError,
    ReferenceNotHeld,
    VersionNotLoaded,
)
from tests.support.rig import Rig
from tests.support.threads import Crowd
from tests.support.trackers import HandClock

KEY = VersionKey("m", "1")


@pytest.fixture
def clock() -> HandClock:
    """Make a clock that stands still."""
    return HandClock()


@pytest.fixture
def tracker(clock: HandClock) -> ReferenceTracker:
    """Make a tracker on that clock."""
    return ReferenceTracker(clock=clock)


def look(tracker: ReferenceTracker) -> Any:
    """Return all that can be seen of a tracker."""
    return tracker.counts(), tracker.audit(), tracker.statistics()


# --- taking and giving back -----------------------------------------------------------------------------------------


def test_it_needs_nothing_around_it() -> None:
    """No engine, no loop, no registration: the first use makes a version known."""
    tracker = ReferenceTracker()
    tracker.acquire("m", "1", "request")
    assert tracker.counts() == {KEY: 1}
    tracker.release("m", "1", "request")
    assert tracker.audit().clean


def test_versions_are_counted_apart(tracker: ReferenceTracker) -> None:
    """The same id may hold several versions, and each version of each model has its own count."""
    for model, version in (("m", "1"), ("m", "2"), ("n", "1")):
        tracker.acquire(model, version, "request")
    tracker.acquire("m", "2", "other")
    assert tracker.counts() == {("m", "1"): 1, ("m", "2"): 2, ("n", "1"): 1}
    assert all(isinstance(key, tuple) for key in tracker.counts())
    tracker.release("m", "2", "request")
    assert (tracker.count("m", "2"), tracker.count("m", "1")) == (1, 1)


def test_an_id_is_held_once(tracker: ReferenceTracker) -> None:
    """The second acquire is refused and changes nothing; after the release the id is free."""
    tracker.acquire("m", "1", "request")
    before = look(tracker)
    with pytest.raises(AlreadyHeld, match="request"):
        tracker.acquire("m", "1", "request")
    assert look(tracker) == before
    tracker.release("m", "1", "request")
    tracker.acquire("m", "1", "request")
    assert tracker.count("m", "1") == 1


def test_a_mistaken_release_is_counted_where_it_can_be(tracker: ReferenceTracker) -> None:
    """On a known version it is an over-release; on an unknown one nothing is made known by it."""
    with pytest.raises(ReferenceNotHeld, match=r"m/9 is not loaded, so 'never'") as caught:
        tracker.release("m", "9", "never")
    assert caught.value.model == "m"
    assert (tracker.counts(), tracker.statistics()) == ({}, {})
    tracker.acquire("m", "1", "request")
    for _ in range(2):
        with pytest.raises(ReferenceNotHeld, match="never"):
            tracker.release("m", "1", "never")
    assert tracker.audit().total == Balance(1, 0, 1, over_releases=2)
    assert tracker.statistics()[KEY].over_releases == 2


def test_holders_are_named_oldest_first(tracker: ReferenceTracker, clock: HandClock) -> None:
    """Each with its id and age; without debug mode nobody knows where, nor in which thread."""
    tracker.acquire("m", "1", "old")
    clock.now_s = 7.0
    tracker.acquire("m", "1", "new")
    assert [(h.kind, h.holder, h.age_s, h.where, h.thread) for h in tracker.holders("m", "1")] == [
        ("request", "old", 7.0, None, None),
        ("request", "new", 0.0, None, None),
    ]
    assert tracker.holders("m", "2") == ()


# --- bad input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", ["", None, 5, b"1", [], {}, 1.5], ids=repr)
@pytest.mark.parametrize("position", [0, 1, 2])
def test_an_acquire_of_no_text_is_refused_by_name(tracker: ReferenceTracker, position: int, bad: Any) -> None:
    """The error names the argument and its value, and nothing is made known."""
    names: list[Any] = ["m", "1", "request"]
    names[position] = bad
    culprit = ("model", "version", "request_id")[position]
    with pytest.raises(InvalidValue, match=f"^{culprit} must be a non-empty string") as caught:
        tracker.acquire(*names)
    assert repr(bad) in str(caught.value)
    assert look(tracker) == ({}, ReferenceTracker().audit(), {})


CALLS: dict[str, Callable[..., object]] = {
    "release": lambda tracker, *key: tracker.release(*key, "request"),
    "count": ReferenceTracker.count,
    "has_references": ReferenceTracker.has_references,
    "holders": ReferenceTracker.holders,
    "wait": lambda tracker, *key: tracker.wait_for_zero_blocking(*key, 0.0),
    "retire": ReferenceTracker.retire,
    "forget": ReferenceTracker.forget,
    "force": lambda tracker, *key: tracker.forget(*key, force=True),
}


@pytest.mark.parametrize("position", [0, 1])
@pytest.mark.parametrize("name", CALLS)
def test_a_version_that_is_no_text_is_refused_by_name(tracker: ReferenceTracker, name: str, position: int) -> None:
    """Every call says which name is wrong, also of what cannot even be looked up, and changes nothing."""
    tracker.acquire("m", "1", "request")
    before = look(tracker)
    key: list[Any] = ["m", "1"]
    key[position] = []
    with pytest.raises(InvalidValue, match=f"^{('model', 'version')[position]} must"):
        CALLS[name](tracker, *key)
    assert look(tracker) == before


@pytest.mark.parametrize("name", ["retire", "forget", "force", "wait"])
@pytest.mark.parametrize("bad", ["", None, 5])
def test_a_version_that_cannot_be_is_not_retired(tracker: ReferenceTracker, name: str, bad: Any) -> None:
    """A call that would do nothing says so, where the name cannot be right."""
    with pytest.raises(InvalidValue, match="version must"):
        CALLS[name](tracker, "m", bad)


@pytest.mark.parametrize("timeout_s", [-1.0, float("nan"), float("inf"), "soon", None, True])
def test_a_time_that_makes_no_sense_is_refused_by_name(tracker: ReferenceTracker, timeout_s: Any) -> None:
    """`timeout_s` is a finite number of seconds, also where there is nothing to wait for."""
    with pytest.raises(InvalidValue, match="timeout_s"):
        tracker.wait_for_zero_blocking("m", "1", timeout_s)


def test_messages_are_recorded_in_debug_mode_only(tracker: ReferenceTracker) -> None:
    """The error says how to have them."""
    with pytest.raises(InvalidValue, match="debug_references=True"):
        tracker.messages("m", "1")


async def test_an_engines_versions_are_not_retired_by_hand(rig: Rig, autojump_clock: Any) -> None:
    """On an engine's tracker `retire` and `forget` point to `unload`, and nothing is changed."""
    await rig.ready()
    tracker = rig.engine.references
    for call in (tracker.retire, tracker.forget, lambda *key: tracker.forget(*key, force=True)):
        with pytest.raises(InvalidValue, match="unload"):
            call("m", "1")
    with rig.engine.lease("m"):
        assert tracker.count("m", "1") == 1


# --- retire, forget, force ------------------------------------------------------------------------------------------


def test_a_retired_version_takes_no_more_references(tracker: ReferenceTracker) -> None:
    """Who holds it stays, nobody joins, and a second retire changes nothing."""
    tracker.acquire("m", "1", "request")
    for _ in range(2):
        tracker.retire("m", "1")
        with pytest.raises(VersionNotLoaded, match="m/1 was retired") as caught:
            tracker.acquire("m", "1", "late")
        assert (caught.value.model, caught.value.version) == ("m", "1")
        assert [holder.holder for holder in tracker.holders("m", "1")] == ["request"]
    tracker.release("m", "1", "request")
    with pytest.raises(VersionNotLoaded):
        tracker.acquire("m", "1", "late")
    tracker.acquire("m", "2", "late")  # another version is another matter
    assert tracker.audit().balances[KEY] == Balance(1, 1, 0)


def test_a_version_that_nobody_used_may_be_retired(tracker: ReferenceTracker) -> None:
    """Then its first acquire is refused, too, until it is forgotten."""
    tracker.retire("m", "1")
    with pytest.raises(VersionNotLoaded):
        tracker.acquire("m", "1", "request")
    assert tracker.wait_for_zero_blocking("m", "1", 0.0).result == "drained"
    tracker.forget("m", "1")
    tracker.acquire("m", "1", "request")


def test_a_forgotten_version_is_counted_anew(tracker: ReferenceTracker) -> None:
    """It is not among the counts any more; its sums stay, and the next acquire opens a new account."""
    tracker.acquire("m", "1", "request")
    tracker.release("m", "1", "request")
    tracker.forget("m", "1")
    assert (tracker.counts(), tracker.count("m", "1")) == ({}, 0)
    assert tracker.audit().balances == {KEY: Balance(1, 1, 0)}
    tracker.acquire("m", "1", "request")
    assert (tracker.counts(), tracker.audit().balances) == ({KEY: 1}, {KEY: Balance(2, 1, 1)})


def test_a_held_version_is_not_forgotten(tracker: ReferenceTracker) -> None:
    """The leak is named, the version goes on as it was, retired or not."""
    tracker.acquire("m", "1", "mine")
    tracker.acquire("m", "1", "yours")
    with pytest.raises(ReferenceLeakError, match=r"request mine .*; request yours .*force=True"):
        tracker.forget("m", "1")
    tracker.acquire("m", "1", "another")
    tracker.retire("m", "1")
    with pytest.raises(ReferenceLeakError):
        tracker.forget("m", "1")
    with pytest.raises(VersionNotLoaded):
        tracker.acquire("m", "1", "late")
    assert tracker.count("m", "1") == 3


def test_a_version_forgotten_by_force_is_used_anew_beside_its_last_holders(tracker: ReferenceTracker) -> None:
    """The same id may hold both; the older one is released first, and then nothing is left of the old account."""
    tracker.acquire("m", "1", "request")
    tracker.forget("m", "1", force=True)
    assert tracker.count("m", "1") == 1
    tracker.acquire("m", "1", "request")
    assert tracker.count("m", "1") == 2
    tracker.release("m", "1", "request")
    assert (tracker.count("m", "1"), len(tracker._world.books.of("m", "1"))) == (1, 1)
    tracker.acquire("m", "1", "other")  # the new account is not shut by the end of the old one
    tracker.release("m", "1", "request")
    tracker.release("m", "1", "other")
    with pytest.raises(ReferenceNotHeld):
        tracker.release("m", "1", "request")
    assert tracker.audit().total == Balance(3, 3, 0, over_releases=1)


def test_what_nobody_knows_can_be_forgotten(tracker: ReferenceTracker) -> None:
    """As often as one likes, with and without force."""
    for force in (False, True, False):
        tracker.forget("m", "1", force=force)
    assert look(tracker) == ({}, ReferenceTracker().audit(), {})


def test_an_acquire_during_a_forget_is_not_forgotten() -> None:
    """Threads acquire while others forget: whoever holds is counted, and a version is never forgotten in use."""
    tracker, crowd, wrong = ReferenceTracker(), Crowd(), list[str]()

    def use(name: str) -> None:
        for turn in range(400):
            try:
                tracker.acquire("m", "1", name)
            except VersionNotLoaded:
                continue  # another thread is just about to forget it
            if name not in [holder.holder for holder in tracker.holders("m", "1")]:
                wrong.append(f"{name} was forgotten in turn {turn}")
            tracker.release("m", "1", name)

    def forget() -> None:
        for _ in range(400):
            try:
                tracker.forget("m", "1")
            except ReferenceLeakError:
                continue

    for number in range(3):
        crowd.add(use, str(number))
    crowd.add(forget)
    crowd.start()
    crowd.join()
    assert wrong == []
    total = tracker.audit().total
    assert (total.conserved, total.held, total.over_releases) == (True, 0, 0)


def test_an_acquire_that_meets_a_forget_is_of_the_time_after_it(
    tracker: ReferenceTracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the moment in which a forget has found nobody, another thread acquires: it holds a new account."""
    tracker.acquire("m", "1", "request")
    tracker.release("m", "1", "request")
    look_for = Account.holders
    acquirer = threading.Thread(target=tracker.acquire, args=("m", "1", "late"), daemon=True)

    def holders(account: Account, now: float) -> Any:
        found = look_for(account, now)
        if acquirer.ident is None:
            acquirer.start()
            acquirer.join(0.05)
        return found

    monkeypatch.setattr(Account, "holders", holders)
    tracker.forget("m", "1")
    acquirer.join(30)
    assert tracker.counts() == {KEY: 1}
    tracker.release("m", "1", "late")
    assert tracker.counts() == {KEY: 0}  # known and free, and not on its way out


# --- figures --------------------------------------------------------------------------------------------------------


def test_figures_of_a_version(tracker: ReferenceTracker, clock: HandClock) -> None:
    """Current, peak and time-weighted average, how many were taken, and how long its drains took."""
    tracker.acquire("m", "1", "a")
    clock.now_s = 5.0
    tracker.acquire("m", "1", "b")
    clock.now_s = 10.0
    assert tracker.statistics() == {KEY: ReferenceStatistics(2, 2, 1.5, 2, 0, ())}
    tracker.retire("m", "1")
    clock.now_s = 12.0
    tracker.release("m", "1", "a")
    clock.now_s = 20.0
    tracker.release("m", "1", "b")
    assert tracker.statistics() == {KEY: ReferenceStatistics(0, 2, 27.0 / 20.0, 2, 0, (10.0,))}


def test_figures_go_over_all_times_that_a_version_was_used(tracker: ReferenceTracker, clock: HandClock) -> None:
    """Forgotten and used anew, its sums and drains go on; the time in between does not count."""
    for drain_s in (1.0, 3.0):
        tracker.acquire("m", "1", "a")
        clock.now_s += 6.0
        tracker.retire("m", "1")
        clock.now_s += drain_s
        tracker.release("m", "1", "a")
        tracker.forget("m", "1")
        clock.now_s += 100.0
    assert tracker.statistics() == {KEY: ReferenceStatistics(0, 1, 1.0, 2, 0, (1.0, 3.0))}


def test_a_drain_of_nobody_takes_no_time(tracker: ReferenceTracker) -> None:
    """A version that nobody holds is drained in the moment in which it is retired, and counted once."""
    tracker.acquire("m", "1", "a")
    tracker.release("m", "1", "a")
    tracker.retire("m", "1")
    tracker.retire("m", "1")
    tracker.forget("m", "1")
    assert tracker.statistics()[KEY].drains_s == (0.0,)


def test_the_audit_suspects_by_age_and_kind(tracker: ReferenceTracker, clock: HandClock) -> None:
    """A request after a minute, or after as long as the caller says, for all kinds or for this one."""
    tracker.acquire("m", "1", "a")
    clock.now_s = 61.0
    assert [holder.holder for _, holder in tracker.audit().suspected] == ["a"]
    for limits in (90.0, {"request": 90.0}):
        assert tracker.audit(suspect_after_s=limits).suspected == ()
    assert len(tracker.audit(suspect_after_s={"lease": 1.0}).suspected) == 1
    with pytest.raises(InvalidValue, match="'requests'"):
        tracker.audit(suspect_after_s={"requests": 1.0})


# --- threads --------------------------------------------------------------------------------------------------------


def test_many_threads_make_one_account() -> None:
    """Of threads that use a version for the first time, all find the same account."""
    for turn in range(50):
        tracker, crowd, together = ReferenceTracker(), Crowd(), threading.Barrier(4)

        def work(name: str, tracker: ReferenceTracker = tracker, together: threading.Barrier = together) -> None:
            together.wait()
            tracker.acquire("m", "1", name)

        for number in range(4):
            crowd.add(work, str(number))
        crowd.start()
        crowd.join()
        assert (tracker.count("m", "1"), len(tracker._world.books.of("m", "1"))) == (4, 1), f"in turn {turn}"
        with pytest.raises(DrainTimeout):
            tracker.wait_for_zero_blocking("m", "1", 0.0)
