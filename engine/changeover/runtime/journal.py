"""Journals: where swaps are written down. This one keeps the last records in memory and forgets them at the end.

It owns its records and spawns nothing.
"""

from __future__ import annotations

from collections import deque

import trio


class MemoryJournal:
    """A journal for engines that need no recovery, and for tests."""

    def __init__(self, keep: int = 10_000) -> None:
        """Keep the last `keep` records."""
        self._records: deque[bytes] = deque(maxlen=keep)

    async def append(self, record: bytes) -> None:
        """Keep one record; cancelled, it was not kept."""
        await trio.lowlevel.checkpoint()
        self._records.append(record)

    async def records(self) -> tuple[bytes, ...]:
        """Return every record, oldest first."""
        await trio.lowlevel.checkpoint()
        return tuple(self._records)
