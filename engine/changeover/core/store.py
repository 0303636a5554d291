"""Bytes under a budget: reservations, pins, and which idle ones go where there is no room.

Pure bookkeeping over keys; it loads and frees nothing. One owner, one thread; the sum never exceeds the budget:
what does not fit is refused and changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

import attrs

K = TypeVar("K", bound=Hashable)


@attrs.define
class _Entry:
    bytes: int
    pinned: bool


@attrs.define
class Store(Generic[K]):
    """Reservations by key."""

    budget_bytes: int | None = None
    """The most that may be reserved; None: no limit."""
    reserved_bytes: int = attrs.field(default=0, init=False)
    """The sum of all reservations."""
    _entries: dict[K, _Entry] = attrs.field(factory=dict[K, _Entry], init=False)

    def __contains__(self, key: object) -> bool:
        """Return whether `key` has a reservation."""
        return key in self._entries

    def room_for(self, wanted: int) -> bool:
        """Return whether `wanted` more bytes fit."""
        return self.budget_bytes is None or self.reserved_bytes + wanted <= self.budget_bytes

    def reserve(self, key: K, wanted: int, *, pinned: bool = False) -> bool:
        """Reserve for a new key; False, and no change, where it does not fit or the key has a reservation."""
        if key in self._entries or wanted < 0 or not self.room_for(wanted):
            return False
        self._entries[key] = _Entry(wanted, pinned)
        self.reserved_bytes += wanted
        return True

    def correct(self, key: K, measured: int) -> bool:
        """Replace a reservation by what was measured; False, and no change, where that does not fit."""
        entry = self._entries[key]
        if measured < 0 or not self.room_for(measured - entry.bytes):
            return False
        self.reserved_bytes += measured - entry.bytes
        entry.bytes = measured
        return True

    def free(self, key: K) -> int:
        """Drop a reservation and return its bytes; 0 where there is none."""
        entry = self._entries.pop(key, None)
        if entry is None:
            return 0
        self.reserved_bytes -= entry.bytes
        return entry.bytes

    def bytes_of(self, key: K) -> int:
        """Return what is reserved for `key`, 0 where it has no reservation."""
        entry = self._entries.get(key)
        return entry.bytes if entry is not None else 0

    def victims(
        self, wanted: int, *, last_used: Callable[[K], float | None], is_leaving: Callable[[K], bool]
    ) -> tuple[K, ...] | None:
        """Return the least recently used keys whose end makes room for `wanted` more bytes; None where none suffice.

        `last_used` returns None for what is in use; what is pinned never goes. What is leaving already counts as room
        to come: the empty tuple says that waiting for it is enough.
        """
        if self.budget_bytes is None:
            return ()
        missing = self.reserved_bytes + wanted - self.budget_bytes
        idle: list[tuple[float, int, K, int]] = []
        for order, (key, entry) in enumerate(self._entries.items()):
            if is_leaving(key):
                missing -= entry.bytes
            elif not entry.pinned and entry.bytes > 0 and (used := last_used(key)) is not None:
                idle.append((used, order, key, entry.bytes))
        going: list[K] = []
        for _used, _order, key, size in sorted(idle, key=lambda item: item[:2]):
            if missing <= 0:
                break
            going.append(key)
            missing -= size
        return tuple(going) if missing <= 0 else None
