"""Journals that fail when a test says so, and what is in one.

A `FlakyJournal` owns its records; it spawns nothing.
"""

from __future__ import annotations

from collections.abc import Callable

import trio

from changeover.core import wire
from changeover.core.wire import JournalRecord
from tests.support.rig import Rig

Refuses = Callable[[JournalRecord], bool]


class DiskFull(OSError):
    """What a journal raises that cannot write."""


class FlakyJournal:
    """A journal in memory that refuses the records that `refuses` names, and takes `delay_s` for each."""

    def __init__(self, refuses: Refuses = lambda _record: False, delay_s: float = 0.0) -> None:
        self.refuses = refuses
        self.delay_s = delay_s
        self.refused = 0
        self._records: list[bytes] = []

    async def append(self, record: bytes) -> None:
        await trio.sleep(self.delay_s)
        if self.refuses(wire.decode(record)):
            self.refused += 1
            raise DiskFull("no space left")
        self._records.append(record)

    async def records(self) -> tuple[bytes, ...]:
        await trio.lowlevel.checkpoint()
        return tuple(self._records)

    def decoded(self) -> list[JournalRecord]:
        """Return all records that were kept."""
        return [wire.decode(record) for record in self._records]


def use_journal(rig: Rig, refuses: Refuses = lambda _record: False, delay_s: float = 0.0) -> FlakyJournal:
    """Give a rig's engine a journal of this kind, before its first swap."""
    journal = FlakyJournal(refuses, delay_s)
    engine = rig.engine
    engine._saga_world = attrs_evolve(engine._saga_world, journal)
    return journal


def attrs_evolve(world, journal):  # noqa: D103
    import attrs

    return attrs.evolve(world, journal=journal)
