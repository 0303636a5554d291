"""A swap's record: the operation as it stands, the events that tell of it, and its lines in the journal.

Owned by one saga; spawns nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Literal

import attrs

from changeover.core import wire
from changeover.core.checks import describe
from changeover.core.operations import Member, StepRecord, SwapOperation
from changeover.core.plan import UNDONE_BY, Progress, Step
from changeover.core.records import Entry, SwapRecord, SwapRow, shortened
from changeover.core.values import SwapState
from changeover.errors import JournalFailed
from changeover.runtime.events import Bus, logger
from changeover.runtime.mailbox import Promise
from changeover.runtime.ports import Journal, Ports
from changeover.runtime.swap import Swap


class Logbook:
    """What is known of one swap."""

    def __init__(self, swap: Swap, ports: Ports, bus: Bus, journal: Journal) -> None:
        """Begin with a swap that has not begun."""
        self.operation = _operation(swap, ports.clock.wall())
        self._news = [pair.new for pair in swap.pairs]
        self._drain, self._timeouts = swap.drain, swap.timeouts
        self.is_written = False
        """Whether a boundary was ordered to be written: else no other process can know of the swap."""
        self._ports = ports
        self._bus = bus
        self._journal = journal

    def begin(self, swap: Swap) -> None:
        """Hear of the versions that it replaces, now that its turn has come."""
        fresh = _operation(swap, self.operation.start_time)
        self.operation = attrs.evolve(self.operation, from_version=fresh.from_version, members=fresh.members)

    def conclude(self, operation: SwapOperation) -> None:
        """Take the operation as it has ended, and announce that."""
        self.operation = attrs.evolve(operation, state=self.operation.state)  # first all else: who hears may look
        self.update(state=operation.state)

    def update(self, **changes: object) -> None:
        """Change fields of the operation; a new state is announced."""
        before = self.operation.state
        self.operation = attrs.evolve(self.operation, **changes)  # type: ignore[arg-type]  # evolve checks the names
        if self.operation.state is not before:
            logger.info("swap %s of %s: %s", self.operation.id, self.operation.model, self.operation.state.value)
            for new in self._news:
                self._bus.emit(
                    "swap_state", new, swap_id=self.operation.id, state=self.operation.state.value,
                    error=self.operation.error_message,
                )  # fmt: skip

    def ended(self, state: SwapState, message: str | None, **facts: Any) -> SwapOperation:
        """Return the operation as it shall be told when it has ended."""
        return attrs.evolve(
            self.operation, state=state, end_time=self._ports.clock.wall(),
            error_message=self.operation.error_message or message, **facts,
        )  # fmt: skip

    def note_step(self, record: StepRecord) -> None:
        """Add a step's record, or replace it where the step was begun."""
        steps = tuple(step for step in self.operation.steps if step.step != record.step)
        self.update(steps=(*steps, record))
        self._tell(record.step, record.outcome, record.duration_s, record.error)

    def note_undone(self, step: Step, error: Exception | None, cause: Exception | None) -> str:
        """Note that a step was undone, or could not be; return why not, in one clause."""
        result: Literal["done", "failed"] = "done" if error is None else "failed"
        steps = tuple(
            attrs.evolve(record, compensation=result) if record.step == step.value else record
            for record in self.operation.steps
        )
        self.update(steps=steps)
        text = f"could not {UNDONE_BY[step]}: {describe(error)}" if error is not None else ""
        if text:
            because = f"; it was being undone because of {cause}" if cause else ""
            self.update(error_message=f"{text}{because}")
        self._tell(step.value, "undone" if error is None else "undo_failed", None, str(error) if error else None)
        return text

    async def write(
        self, progress: Progress, desired: Mapping[str, bytes | None], end: SwapOperation | None = None
    ) -> None:
        """Put the boundary that is about to be crossed into the journal, or how the swap ended; raises `JournalFailed`.

        Cancelled, it is kept all the same, or not at all.
        """
        written: Promise[None] = Promise()
        self.is_written = True
        entry = Entry((self._row(progress, end),), desired)
        self._journal.write(entry, lambda error: written.settle(None) if error is None else written.fail(error))
        await written.wait()

    def write_end(self, progress: Progress, end: SwapOperation) -> None:
        """Put the end of a swap that never began into the journal, without waiting: only its history wants it."""
        with suppress(JournalFailed):  # too long to be written down
            self._journal.write(Entry((self._row(progress, end),)), lambda _error: None)

    def _row(self, progress: Progress, end: SwapOperation | None) -> SwapRow:
        record = shortened(SwapRecord(end or self.operation, progress, self._drain, self._timeouts))
        return SwapRow(record.operation.id, end is not None, wire.encode(record))

    def _tell(self, step: str, outcome: str, duration_s: float | None, error: str | None) -> None:
        level = (
            logging.WARNING if outcome == "undo_failed" else logging.INFO
        )  # a failure is told to who ordered the swap
        logger.log(level, "swap %s: %s %s%s", self.operation.id, step, outcome, f": {error}" if error else "")
        for new in self._news:
            self._bus.emit(
                "swap_step", new, swap_id=self.operation.id, step=step, outcome=outcome, duration_s=duration_s,
                error=error,
            )  # fmt: skip


def _operation(swap: Swap, start_time: float) -> SwapOperation:
    """Return a swap that has not begun."""
    return SwapOperation(
        swap.id, swap.name, "+".join(pair.old.version for pair in swap.pairs),
        "+".join(pair.new.version for pair in swap.pairs), SwapState.NOT_STARTED, start_time,
        rollback_of=swap.rollback_of,
        members=tuple(Member(pair.model, pair.old.version, pair.new.version) for pair in swap.pairs),
    )  # fmt: skip
