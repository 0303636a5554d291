"""The books of a tracker that stands alone: a version has an account from its first acquire until it is forgotten.

It owns a lock for what comes and goes, which a release never takes and an acquire only where there is no account yet.
It spawns nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from changeover.core.books import Books
from changeover.core.checks import text
from changeover.core.ledger import Account, Use
from changeover.core.messages import RefId
from changeover.core.values import VersionKey
from changeover.errors import ReferenceLeakError, VersionNotLoaded
from changeover.runtime import fork
from changeover.runtime.accounts import make_account


class OwnBooks(Books):
    """Books without an engine."""

    def __init__(self, now: Callable[[], float], *, record: bool) -> None:
        """Measure by the clock `now`; `record`: keep messages, too."""
        super().__init__()
        self.open: dict[tuple[str, str], Account] = {}
        """The accounts that can be acquired from."""
        self._retired: set[VersionKey] = set()
        self._leaving: dict[Account, VersionKey] = {}
        """Forgotten, and still held when somebody last looked."""
        self._now = now
        self._record = record
        fork.tell(self)

    def pin(self, use: Use, model: str, version: str) -> tuple[Account, RefId]:
        """Acquire, from a new account where there is none; raises `VersionNotLoaded` for a version that was retired."""
        key = VersionKey(text("model", model), text("version", version))
        with self._lock:
            if key in self._retired:
                raise _retired(key)
            account = self.open.get(key)
            if account is None:
                account = make_account(key, self._now, record=self._record)
                self.enter(key, account)
                self.open[key] = account
            ref = account.acquire(use)  # under the lock: `forget` may have it shut for a moment
        assert ref is not None, "an account is listed as open until it is shut for good"
        return account, ref

    def is_retired(self, key: tuple[str, str]) -> bool:
        """Return whether the version cannot be acquired just now."""
        return key in self._retired

    def retire(self, key: VersionKey) -> None:
        """Let nobody acquire the version any more; remember how long its last holders stay."""
        with self._lock:
            self._retired.add(key)
            account = self.open.pop(key, None)
            if account is not None:
                account.shut()
        if account is not None:
            began_s = self._now()
            account.watch(lambda: self.note_drain(key, self._now() - began_s))

    def forget(self, key: VersionKey, *, force: bool) -> frozenset[Account]:
        """Let go of a version; return its accounts that are still held. Raises `ReferenceLeakError` without `force`."""
        with self._lock:
            self._strike_empty()
            account = self.open.get(key)
            if account is not None:
                account.shut()  # then looked: in the other order one that is taken meanwhile would be forgotten
            staying = [one for one in self.of(*key) if one not in self._leaving]
            holders = [holder for one in staying for holder in one.holders(self._now())]
            if holders and not force:
                if account is not None:
                    account.reopen()
                names = "; ".join(map(str, holders))
                why = f"{key} is still held by {names}; wait for zero first, or use force=True"
                raise ReferenceLeakError(why, model=key.model, version=key.version)
            self.retire(key)
            self._retired.discard(key)
            self._leaving.update(dict.fromkeys(staying, key))
            self._strike_empty()
            held = frozenset(one for one in staying if one in self._leaving)
        for one in held:
            one.watch(self._try_to_settle)
        return held

    def orphan(self) -> None:
        """Keep what is held, in a forked process too, but let go of locks and waits that were left in the other one."""
        self._lock = threading.RLock()
        for accounts in self.accounts.values():
            for account in accounts:
                account.orphan()

    def settle(self) -> None:
        """Strike out what was forgotten by force and is not held any more."""
        with self._lock:
            self._strike_empty()

    def _try_to_settle(self) -> None:
        """Do so unless somebody else has the lock: who gives the last reference back may be the garbage collector."""
        if self._lock.acquire(blocking=False):
            try:
                self._strike_empty()
            finally:
                self._lock.release()

    def _strike_empty(self) -> None:
        for account, key in [(one, key) for one, key in self._leaving.items() if not one.held]:
            del self._leaving[account]
            self.strike(key, account)


def _retired(key: VersionKey) -> VersionNotLoaded:
    why = f"{key} was retired and takes no more references; forget it before it is used anew"
    return VersionNotLoaded(why, model=key.model, version=key.version)
