"""The books of a tracker that stands alone: a version has an account from its first acquire until it is forgotten.

It owns a lock for what comes and goes; acquire and release never take it. It spawns nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial

from changeover.core.books import Books
from changeover.core.checks import text
from changeover.core.ledger import Account, Use
from changeover.core.messages import RefId
from changeover.core.values import VersionKey
from changeover.errors import ReferenceLeakError, VersionNotLoaded
from changeover.runtime.accounts import make_account


class OwnBooks(Books):
    """Books without an engine."""

    def __init__(self, now: Callable[[], float], *, record: bool) -> None:
        """Measure by the clock `now`; `record`: keep messages, too."""
        super().__init__()
        self.open: dict[tuple[str, str], Account] = {}
        """The accounts that can be acquired from."""
        self._retired: set[VersionKey] = set()
        self._now = now
        self._record = record
        self._lock = threading.RLock()

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
        ref = account.acquire(use)
        if ref is None:
            raise _retired(key)
        return account, ref

    def retire(self, key: VersionKey) -> None:
        """Let nobody acquire the version any more; remember how long its last holders stay."""
        with self._lock:
            self._retired.add(key)
            account = self.open.pop(key, None)
        if account is not None:
            began_s = self._now()
            account.shut()
            account.watch(lambda: self.note_drain(key, self._now() - began_s))

    def forget(self, key: VersionKey, *, force: bool) -> bool:
        """Count the version no more; return whether somebody held it. Raises `ReferenceLeakError` without `force`."""
        held = bool(self.holders(*key, self._now()))
        if held and not force:
            names = "; ".join(map(str, self.holders(*key, self._now())))
            text = f"{key} is still held by {names}; wait for zero first, or use force=True"
            raise ReferenceLeakError(text, model=key.model, version=key.version)
        self.retire(key)
        for account in self.of(*key):
            account.watch(partial(self._strike, key, account))
        with self._lock:
            self._retired.discard(key)
        return held

    def _strike(self, key: VersionKey, account: Account) -> None:
        with self._lock:
            if account in self.of(*key):
                self.strike(key, account)


def _retired(key: VersionKey) -> VersionNotLoaded:
    text = f"{key} was retired and takes no more references; forget it before it is used anew"
    return VersionNotLoaded(text, model=key.model, version=key.version)
