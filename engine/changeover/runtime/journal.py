"""The journal in memory: for engines that need no recovery, and for tests.

It owns its rows, which outlive the engine that wrote them where a test opens another one on it. It spawns nothing.
"""

from __future__ import annotations

from collections.abc import Callable

import trio

from changeover.core.operations import SetAside
from changeover.core.records import HISTORY_MAX, Entry, Kept, SwapRow


class Rows:
    """The rows of a journal: what entry after entry makes of them."""

    def __init__(self) -> None:
        """Begin empty."""
        self._swaps: dict[str, SwapRow] = {}
        self._ended: dict[str, None] = {}
        """The ids of those that have ended, in that order."""
        self._desired: dict[str, bytes] = {}

    def apply(self, entry: Entry) -> None:
        """Do what one transaction says."""
        for row in entry.swaps:
            self._swaps[row.id] = row
            if row.ended:
                self._ended[row.id] = None
        for model, record in entry.desired.items():
            if record is None:
                self._desired.pop(model, None)
            else:
                self._desired[model] = record
        while len(self._ended) > HISTORY_MAX:
            oldest = next(iter(self._ended))
            del self._ended[oldest], self._swaps[oldest]

    def kept(self) -> Kept:
        """Return what is there."""
        return Kept(tuple(self._swaps.values()), dict(self._desired))


class MemoryJournal:
    """A journal that forgets everything with the process."""

    def __init__(self) -> None:
        """Begin empty."""
        self.rows = Rows()

    async def open(self) -> Kept:
        """Return what earlier engines of this process have written."""
        await trio.lowlevel.checkpoint()
        return self.rows.kept()

    def write(self, entry: Entry, deliver: Callable[[Exception | None], None]) -> None:
        """Keep an entry at once."""
        self.rows.apply(entry)
        deliver(None)

    async def begin_anew(self, reason: str, *, newer: bool = False) -> Kept:
        """Forget everything."""
        await trio.lowlevel.checkpoint()
        self.rows = Rows()
        return Kept(set_aside=SetAside("memory", reason))

    async def close(self) -> None:
        """Let go of nothing."""
        await trio.lowlevel.checkpoint()
