"""Accounts with one mistake each: every check of a drain must find them.

Each is a subclass that takes one step of the real account in the wrong order.
"""

from __future__ import annotations

from collections.abc import Callable

from changeover.core.ledger import Account, Use
from changeover.core.messages import RefId


class LooksBeforeItAnnounces(Account):
    """A drain between the look and the announcement sees nobody."""

    def acquire(self, use: Use) -> RefId | None:
        """Acquire in the wrong order."""
        if not self.open:
            return None
        ref = next(self._acquires)
        self.held[ref] = use
        return ref


class LooksBeforeItDeletes(Account):
    """Of two last holders each sees the other."""

    def release(self, ref: RefId | None) -> None:
        """Release in the wrong order."""
        last = len(self.held) == 1
        del self.held[ref]  # type: ignore[arg-type]  # it is held
        next(self._releases)
        if last and self._watchers:
            self._call_watchers()


class LooksBeforeItWatches(Account):
    """The last holder may leave between the look and the watching."""

    def watch(self, watcher: Callable[[], None]) -> None:
        """Watch in the wrong order."""
        if not self.held:
            watcher()
            return
        self._watchers.append(watcher)


class CallsBeforeItTakesOut(Account):
    """Two threads may call the same watcher."""

    def _call_watchers(self) -> None:
        while self._watchers:
            watcher = self._watchers[0]
            watcher()
            if self._watchers:
                self._watchers.pop(0)
