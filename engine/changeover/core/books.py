"""The books: every account by its version, what is left of those that were closed, and the audit over all of them.

Accounts are entered and struck out by whoever owns the models, on one loop or under one lock; everything else may be
called from any thread.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping

import attrs

from changeover.core.checks import seconds
from changeover.core.ledger import MESSAGES_KEPT, Account
from changeover.core.messages import Message
from changeover.core.snapshots import Audit, Balance, Holder, ReferenceStatistics
from changeover.core.usage import Used
from changeover.core.values import VersionKey
from changeover.errors import InvalidValue

AGE_LIMITS_S: Mapping[str, float] = {
    "request": 60.0,
    "fallback": 60.0,
    "shadow": 60.0,
    "warmup": 600.0,
    "lease": 600.0,
    "stream": 3_600.0,
}
"""For how long a use of each kind is held before an audit suspects that it was forgotten."""

DRAINS_KEPT = 100
"""So many durations of drains are remembered of each version."""


@attrs.define(eq=False)
class _Past:
    """What is left of the closed accounts of one version."""

    balance: Balance = attrs.field(factory=lambda: Balance(0, 0, 0))
    closing: list[Account] = attrs.field(factory=list[Account])
    """Those of which a thread may still stand between two of its counts."""
    used: Used = attrs.field(factory=Used)
    messages: deque[Message] = attrs.field(factory=lambda: deque[Message](maxlen=MESSAGES_KEPT))
    drains_s: deque[float] = attrs.field(factory=lambda: deque[float](maxlen=DRAINS_KEPT))

    def sum(self) -> Balance:
        """Return the balance of all of them, and let go of those that will not change any more."""
        for account in self.closing.copy():
            balance = account.balance()
            if balance.conserved:
                self.balance += balance
                self.closing.remove(account)
        return sum((account.balance() for account in self.closing), self.balance)


class Books:
    """The accounts of one engine, or of one tracker that is used alone."""

    def __init__(self) -> None:
        """Begin empty."""
        self.accounts: dict[tuple[str, str], tuple[Account, ...]] = {}
        """By model and version, oldest first: a new incarnation may be used while an old one is still held."""
        self._past: dict[VersionKey, _Past] = {}
        # For those who add up, while an account moves into the past; a release never takes it.
        self._lock = threading.RLock()

    def enter(self, key: VersionKey, account: Account) -> None:
        """Add an account."""
        with self._lock:
            self.accounts[key] = (*self.accounts.get(key, ()), account)

    def strike(self, key: VersionKey, account: Account) -> None:
        """Take out an account that nobody holds any more, and keep its sums."""
        with self._lock:
            past = self._of(key)
            past.closing.append(account)
            past.used += account.usage.read()
            past.messages.extend(account.messages())
            self._remove(key, account)

    def orphan(self) -> None:
        """Let go of every account, and of a lock that another thread may hold: this is a copy in a forked process."""
        self._lock = threading.RLock()
        self.accounts.clear()

    def note_drain(self, key: VersionKey, duration_s: float) -> None:
        """Remember how long a drain took; takes no lock, because whoever releases last may be the garbage collector."""
        self._of(key).drains_s.append(duration_s)

    # --- any thread ---

    def of(self, model: str, version: str) -> tuple[Account, ...]:
        """Return the accounts of a version, oldest first."""
        return self.accounts.get((model, version), ())

    def settle(self) -> None:
        """Strike out what waits for it; nothing, where accounts are struck out by whoever closes their models."""

    def balances(self) -> dict[VersionKey, Balance]:
        """Return the balance of every version that ever had an account."""
        with self._lock:
            self.settle()
            balances = {key: past.sum() for key, past in self._past.copy().items()}
            for key, accounts in self._listed():
                for account in accounts:
                    balances[key] = balances.get(key, Balance(0, 0, 0)) + account.balance()
            return balances

    def holders(self, model: str, version: str, now: float) -> tuple[Holder, ...]:
        """Return who holds a version at engine time `now`, oldest first."""
        return tuple(holder for account in self.of(model, version) for holder in account.holders(now))

    def audit(self, now: float, limits: float | Mapping[str, float] | None = None) -> Audit:
        """Return every balance, who holds what, and whom to suspect by `limits`, as `age_limit` has them."""
        limit_of = age_limit(limits)
        held = {key: found for key, _ in self._listed() if (found := self.holders(*key, now))}
        suspected = tuple((k, h) for k, found in held.items() for h in found if h.age_s > limit_of(h.kind))
        return Audit(self.balances(), held, suspected)

    def messages(self, model: str, version: str) -> tuple[Message, ...]:
        """Return the last messages of a version, oldest first, those of its closed accounts before the others."""
        with self._lock:
            past = self._past.get(VersionKey(model, version))
            found: deque[Message] = deque(past.messages if past else (), MESSAGES_KEPT)
            for account in self.of(model, version):
                found.extend(account.messages())
            return tuple(found)

    def statistics(self) -> dict[VersionKey, ReferenceStatistics]:
        """Return the figures of every version that ever had an account."""
        return {key: self.figures(key, balance) for key, balance in self.balances().items()}

    def figures(self, key: VersionKey, balance: Balance) -> ReferenceStatistics:
        """Return the figures of one version beside its balance."""
        with self._lock:
            past = self._past.get(key)
            used = past.used if past else Used()
            for account in self.of(*key):
                used += account.usage.read()
        return ReferenceStatistics(
            current=balance.held,
            peak=max(used.peak, balance.held),  # of several incarnations at once
            average=used.average,
            acquired=balance.acquired,
            over_releases=balance.over_releases,
            drains_s=tuple(past.drains_s.copy()) if past else (),
        )

    # --- inside ---

    def _listed(self) -> list[tuple[VersionKey, tuple[Account, ...]]]:
        return [(VersionKey(*key), accounts) for key, accounts in self.accounts.copy().items()]

    def _of(self, key: VersionKey) -> _Past:
        return self._past.setdefault(key, _Past())  # one step, for those who come without the lock

    def _remove(self, key: VersionKey, account: Account) -> None:
        left = tuple(other for other in self.accounts[key] if other is not account)
        if left:
            self.accounts[key] = left
        else:
            del self.accounts[key]


def age_limit(limits: float | Mapping[str, float] | None) -> Callable[[str], float]:
    """Return the age limit of each kind, in seconds: one for all, one for some kinds, or the usual ones.

    Raises `InvalidValue` for what is no time, and for a kind that there is not.
    """
    if limits is None:
        return AGE_LIMITS_S.__getitem__
    if not isinstance(limits, Mapping):
        limit_s = seconds("suspect_after_s", limits)
        return lambda _kind: limit_s
    for kind, limit_s in limits.items():
        if kind not in AGE_LIMITS_S:
            raise InvalidValue(f"suspect_after_s: there is no kind {kind!r}; the kinds are {', '.join(AGE_LIMITS_S)}")
        seconds(f"suspect_after_s[{kind!r}]", limit_s)
    return {**AGE_LIMITS_S, **limits}.__getitem__
