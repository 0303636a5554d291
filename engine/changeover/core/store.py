"""Bytes under a budget: reservations, pins, and the order in which idle ones would go.

Pure bookkeeping over keys; it loads and frees nothing. One owner, one thread; the sum never exceeds the budget:
what does not fit is refused and changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from typing import Generic, TypeVar

import attrs

K = TypeVar("K", bound=Hashable)


@attrs.define
class _Entry:
    bytes: int
    pinned: bool
    used: int


@attrs.define
class Store(Generic[K]):
    """Reservations by key."""

    budget_bytes: int | None = None
    """The most that may be reserved; None: no limit."""
    reserved_bytes: int = attrs.field(default=0, init=False)
    """The sum of all reservations."""
    _entries: dict[K, _Entry] = attrs.field(factory=dict[K, _Entry], init=False)
    _uses: int = attrs.field(default=0, init=False)

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
        self._entries[key] = _Entry(wanted, pinned, self._tick())
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

    def touch(self, key: K) -> None:
        """Make `key` the most recently used."""
        self._entries[key].used = self._tick()

    def victims(self, wanted: int, *, idle: Callable[[K], bool]) -> tuple[K, ...] | None:
        """Return the fewest least recently used, idle, unpinned keys whose end makes room; None where none suffice."""
        going: list[K] = []
        missing = 0 if self.budget_bytes is None else self.reserved_bytes + wanted - self.budget_bytes
        for key, entry in self._by_age():
            if missing <= 0:
                break
            if idle(key) and not entry.pinned and entry.bytes > 0:
                going.append(key)
                missing -= entry.bytes
        return tuple(going) if missing <= 0 else None

    def _by_age(self) -> Iterable[tuple[K, _Entry]]:
        return sorted(self._entries.items(), key=lambda item: item[1].used)

    def _tick(self) -> int:
        self._uses += 1
        return self._uses
