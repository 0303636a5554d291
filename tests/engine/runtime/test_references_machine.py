"""A tracker that stands alone beside a naive model, step by step: sets of ids, and time added up second by second."""

from __future__ import annotations

import attrs
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from changeover import Balance, ReferenceTracker, RequestTracker, VersionKey
from changeover.core.messages import fold
from changeover.errors import AlreadyHeld, DrainTimeout, ReferenceLeakError, ReferenceNotHeld, VersionNotLoaded
from tests.support.trackers import HandClock, watchers

KEYS = st.sampled_from([VersionKey("m", "1"), VersionKey("m", "2"), VersionKey("n", "1")])
NAMES = st.sampled_from("abc")


@attrs.define(eq=False)
class Account:
    """Who holds one incarnation of a version."""

    held: dict[str, float] = attrs.field(factory=dict)
    """Ids, and since when."""
    is_open: bool = True
    is_forgotten: bool = False
    retired_s: float | None = None
    """Since when it has been waiting for its last holder."""
    peak: int = 0
    held_s: float = 0.0
    lived_s: float = 0.0


@attrs.define(eq=False)
class Version:
    """All that was ever done to one version."""

    accounts: list[Account] = attrs.field(factory=list)
    gone: list[Account] = attrs.field(factory=list)
    is_retired: bool = False
    acquired: int = 0
    released: int = 0
    over: int = 0
    drains_s: list[float] = attrs.field(factory=list)

    @property
    def held(self) -> list[str]:
        """Everybody who holds it, those of older incarnations first."""
        return [name for account in self.accounts for name in account.held]

    @property
    def open(self) -> Account | None:
        """The account that can be acquired from."""
        return next((account for account in self.accounts if account.is_open), None)

    def settle(self, now_s: float) -> None:
        """Take in what happens by itself once nobody holds an account."""
        for account in self.accounts.copy():
            if account.held:
                continue
            if account.retired_s is not None:
                self.drains_s.append(now_s - account.retired_s)
                account.retired_s = None
            if account.is_forgotten:
                self.accounts.remove(account)
                self.gone.append(account)

    def retire(self, now_s: float) -> None:
        """Take no more references."""
        self.is_retired = True
        account = self.open
        if account is not None:
            account.is_open, account.retired_s = False, now_s


class Tracked(RuleBasedStateMachine):
    """The tracker and its model; every step is done to both."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = HandClock()
        self.tracker = ReferenceTracker(clock=self.clock, debug_references=True)
        self.versions: dict[VersionKey, Version] = {}

    def version(self, key: VersionKey) -> Version:
        """Return the model of a version."""
        return self.versions.setdefault(key, Version())

    @rule(pause_s=st.integers(1, 100))
    def time_passes(self, pause_s: int) -> None:
        """Let time pass."""
        self.clock.now_s += pause_s
        for version in self.versions.values():
            for account in version.accounts:
                account.lived_s += pause_s
                account.held_s += pause_s * len(account.held)

    @rule(key=KEYS, name=NAMES, is_block=st.booleans())
    def acquire(self, key: VersionKey, name: str, is_block: bool) -> None:
        """Acquire, perhaps an id that is held, or of a version that was retired; perhaps for a moment only."""
        version = self.version(key)
        if version.is_retired or (version.open and name in version.open.held):
            with pytest.raises(VersionNotLoaded if version.is_retired else AlreadyHeld):
                self.tracker.acquire(*key, name)
            return
        if version.open is None:
            version.accounts.append(Account())
        account = version.open
        assert account is not None
        account.held[name] = self.clock.now_s
        account.peak = max(account.peak, len(account.held))
        version.acquired += 1
        if is_block and version.held.count(name) == 1:
            with RequestTracker(self.tracker, *key, name):
                assert name in [holder.holder for holder in self.tracker.holders(*key)]
            del account.held[name]
            version.released += 1
        else:
            self.tracker.acquire(*key, name)

    @rule(key=KEYS, name=NAMES | st.just("never"))
    def release(self, key: VersionKey, name: str) -> None:
        """Release what is held, was released before, or was never there; the oldest first."""
        version = self.version(key)
        account = next((account for account in version.accounts if name in account.held), None)
        if account is None:
            version.over += bool(version.accounts)
            with pytest.raises(ReferenceNotHeld):
                self.tracker.release(*key, name)
            return
        self.tracker.release(*key, name)
        del account.held[name]
        version.released += 1
        version.settle(self.clock.now_s)

    @rule(key=KEYS)
    def retire(self, key: VersionKey) -> None:
        """Take no more references, also of what nobody knows, and also twice."""
        version = self.version(key)
        self.tracker.retire(*key)
        version.retire(self.clock.now_s)
        version.settle(self.clock.now_s)

    @rule(key=KEYS, force=st.booleans())
    def forget(self, key: VersionKey, force: bool) -> None:
        """Forget what is held, retired, unknown or free."""
        version = self.version(key)
        if any(account.held for account in version.accounts if not account.is_forgotten) and not force:
            with pytest.raises(ReferenceLeakError):
                self.tracker.forget(*key)
            return
        self.tracker.forget(*key, force=force)
        version.retire(self.clock.now_s)
        version.is_retired = False
        for account in version.accounts:
            account.is_forgotten = True
        version.settle(self.clock.now_s)

    @rule(key=KEYS)
    def wait(self, key: VersionKey) -> None:
        """Wait for no time at all: the typed outcome, or who holds it."""
        version = self.version(key)
        if version.held:
            with pytest.raises(DrainTimeout) as caught:
                self.tracker.wait_for_zero_blocking(*key, 0.0)
            assert [holder.holder for holder in caught.value.holders] == version.held
            return
        outcome = self.tracker.wait_for_zero_blocking(*key, 0.0)
        assert (outcome.result, outcome.holders) == ("drained" if version.is_retired else "zero", ())

    @invariant()
    def counts_are_those_of_the_sets(self) -> None:
        """Counts, holders and their ages."""
        known = {key: version for key, version in self.versions.items() if version.accounts}
        assert self.tracker.counts() == {key: len(version.held) for key, version in known.items()}
        for key, version in self.versions.items():
            assert self.tracker.count(*key) == len(version.held)
            assert self.tracker.has_references(*key) == bool(version.held)
            ages = [self.clock.now_s - since_s for account in version.accounts for since_s in account.held.values()]
            assert [(h.holder, h.age_s) for h in self.tracker.holders(*key)] == list(
                zip(version.held, ages, strict=True)
            )

    @invariant()
    def books_balance(self) -> None:
        """Balances are conserved, and are the fold of the messages; nobody is left who waits."""
        audit = self.tracker.audit()
        for key, version in self.versions.items():
            balance = Balance(version.acquired, version.released, len(version.held), version.over)
            assert balance.conserved
            assert audit.balances.get(key, Balance(0, 0, 0)) == balance
            told, held = fold(self.tracker.messages(*key))
            if len(version.accounts) == 1:
                assert (told, list(held)) == (balance, version.held)
            assert len(audit.holders.get(key, ())) == balance.held
            leaving = any(account.retired_s is not None or account.is_forgotten for account in version.accounts)
            assert (watchers(self.tracker, *key) > 0) == leaving
        suspects = sum(1 for v in self.versions.values() for a in v.accounts for s in a.held.values()
                       if self.clock.now_s - s > 60.0)  # fmt: skip
        assert len(audit.suspected) == suspects

    @invariant()
    def figures_add_up(self) -> None:
        """Peak, average and drains are those that were added up second by second."""
        found = self.tracker.statistics()
        for key, version in self.versions.items():
            accounts = version.accounts + version.gone
            if not accounts:
                assert key not in found
                continue
            lived_s, held_s = sum(a.lived_s for a in accounts), sum(a.held_s for a in accounts)
            assert found[key].average == pytest.approx(held_s / lived_s if lived_s else 0.0)
            assert found[key].peak == max(len(version.held), *(account.peak for account in accounts))
            assert (found[key].current, found[key].acquired) == (len(version.held), version.acquired)
            assert (found[key].over_releases, list(found[key].drains_s)) == (version.over, version.drains_s)


Tracked.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


class TestTracked(Tracked.TestCase):
    """Whatever is done to it, a tracker is what its model says."""
