"""Journals that fail when a test says so, and what is in one.

A `FlakyJournal` owns its entries; what is slow waits in a system task of Trio's.
"""

from __future__ import annotations

from collections.abc import Callable

import attrs
import trio

from changeover.core import wire
from changeover.core.records import DesiredVersion, Entry, Kept, SwapRecord
from changeover.errors import JournalFailed
from tests.support.rig import Rig

Names = Callable[[SwapRecord], bool]

BOUNDARIES = ["load", "shift", "drain", "unload"]
"""The steps that are written down before they begin."""


@attrs.define
class FlakyJournal:
    """A journal in memory that refuses some records, and takes its time with others."""

    refuses: Names = lambda _record: False
    """Which records it raises for."""
    slow_for: Names = lambda _record: False
    """Which records it takes its time for."""
    slow_s: float = 10.0
    """How much."""
    tried: list[SwapRecord] = attrs.field(factory=list)
    """Every record that it was given."""
    kept: list[SwapRecord] = attrs.field(factory=list)
    """Every record that it has kept."""
    desired: list[dict[str, str | None]] = attrs.field(factory=list)
    """By entry that was kept: which versions it says shall be active."""

    async def open(self) -> Kept:
        await trio.lowlevel.checkpoint()
        return Kept()

    def write(self, entry: Entry, deliver: Callable[[Exception | None], None]) -> None:
        records = [wire.decode(SwapRecord, row.record) for row in entry.swaps]
        assert [row.ended for row in entry.swaps] == [record.operation.state.ended for record in records]
        self.tried += records

        def keep() -> None:
            if any(map(self.refuses, records)):
                deliver(JournalFailed("no space left"))
                return
            self.kept += records
            texts = {model: data and wire.decode(DesiredVersion, data).version for model, data in entry.desired.items()}
            self.desired.append(texts)
            deliver(None)

        async def keep_later() -> None:
            await trio.sleep(self.slow_s)
            keep()

        if any(map(self.slow_for, records)):
            trio.lowlevel.spawn_system_task(keep_later)
        else:
            keep()

    async def close(self) -> None:
        await trio.lowlevel.checkpoint()

    def lines(self) -> list[str]:
        """Return what was kept, in short: `load`, `undo load`, `completed`."""
        return list(map(line, self.kept))


def line(record: SwapRecord) -> str:
    """Return a record in short."""
    state, progress = record.operation.state, record.progress
    if state.ended:
        return state.value
    return progress.step.value if progress.forward else f"undo {progress.step.value}"


def use_journal(rig: Rig, refuses: Names | None = None, slow_for: Names | None = None) -> FlakyJournal:
    """Give a rig's engine a journal of this kind, before its first swap."""
    never: Names = lambda _record: False  # noqa: E731 - as short as it is
    journal = FlakyJournal(refuses or never, slow_for or never)
    rig.engine._swap_world = attrs.evolve(rig.engine._swap_world, journal=journal)
    return journal


def at(step: str, *, forward: bool = True) -> Names:
    """Name the record of one boundary."""
    return lambda record: line(record) == (step if forward else f"undo {step}")
