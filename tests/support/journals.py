"""Journals that fail when a test says so, and what is in one.

A `FlakyJournal` owns its records; it spawns nothing.
"""

from __future__ import annotations

from collections.abc import Callable

import attrs
import trio

from changeover.core import wire
from changeover.core.wire import JournalRecord
from tests.support.rig import Rig

Names = Callable[[JournalRecord], bool]


class DiskFull(OSError):
    """What a journal raises that cannot write."""


@attrs.define
class FlakyJournal:
    """A journal in memory that refuses some records, and takes its time with others."""

    refuses: Names = lambda _record: False
    """Which records it raises for."""
    slow_for: Names = lambda _record: False
    """Which records it takes its time for."""
    slow_s: float = 10.0
    """How much."""
    tried: list[JournalRecord] = attrs.field(factory=list)
    """Every record that it was given."""
    kept: list[JournalRecord] = attrs.field(factory=list)
    """Every record that it has kept."""

    async def append(self, data: bytes) -> None:
        record = wire.decode(data)
        self.tried.append(record)
        await trio.sleep(self.slow_s if self.slow_for(record) else 0.0)
        if self.refuses(record):
            raise DiskFull("no space left")
        self.kept.append(record)

    async def records(self) -> tuple[bytes, ...]:
        await trio.lowlevel.checkpoint()
        return tuple(map(wire.encode, self.kept))

    def lines(self) -> list[str]:
        """Return what was kept, in short: `load`, `undo load`, `completed`."""
        return [
            r.state.value if r.state.ended else r.step.value if r.forward else f"undo {r.step.value}" for r in self.kept
        ]


def use_journal(rig: Rig, refuses: Names | None = None, slow_for: Names | None = None) -> FlakyJournal:
    """Give a rig's engine a journal of this kind, before its first swap."""
    never: Names = lambda _record: False  # noqa: E731 - as short as it is
    journal = FlakyJournal(refuses or never, slow_for or never)
    rig.engine._swap_world = attrs.evolve(rig.engine._swap_world, journal=journal)
    return journal


def at(step: str, *, forward: bool = True) -> Names:
    """Name the record of one boundary."""
    return lambda record: not record.state.ended and (record.step.value, record.forward) == (step, forward)
