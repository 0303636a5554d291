"""A swap's record: the operation as it stands, the events that tell of it, and its lines in the journal.

Owned by one saga; spawns nothing.
"""

from __future__ import annotations

from typing import Literal

import attrs

from changeover.core import wire
from changeover.core.checks import describe
from changeover.core.plan import UNDONE_BY, Step
from changeover.core.snapshots import StepRecord, SwapOperation
from changeover.core.values import SwapState, VersionKey
from changeover.runtime.events import Bus
from changeover.runtime.ports import Journal, Ports


class Logbook:
    """What is known of one swap."""

    def __init__(self, operation: SwapOperation, ports: Ports, bus: Bus, journal: Journal) -> None:
        """Begin with a swap that has not begun."""
        self.operation = operation
        self._new = VersionKey(operation.model, operation.to_version)
        self._ports = ports
        self._bus = bus
        self._journal = journal

    def update(self, **changes: object) -> None:
        """Change fields of the operation; a new state is announced."""
        before = self.operation.state
        self.operation = attrs.evolve(self.operation, **changes)  # type: ignore[arg-type]  # evolve checks the names
        if self.operation.state is not before:
            self._bus.emit(
                "swap_state", self._new, swap_id=self.operation.id, state=self.operation.state.value,
                error=self.operation.error_message,
            )  # fmt: skip

    def end(self, state: SwapState, message: str | None) -> None:
        """Close the record."""
        message = self.operation.error_message or message
        self.update(state=state, end_time=self._ports.clock.wall(), error_message=message)

    def note_step(self, record: StepRecord) -> None:
        """Add a step's record, or replace it where the step was begun."""
        steps = tuple(step for step in self.operation.steps if step.step != record.step)
        self.update(steps=(*steps, record))
        self._tell(record.step, record.outcome, record.duration_s, record.error)

    def note_undone(self, step: Step, error: Exception | None, cause: Exception | None) -> None:
        """Note that a step was undone, or could not be."""
        result: Literal["done", "failed"] = "done" if error is None else "failed"
        steps = tuple(
            attrs.evolve(record, compensation=result) if record.step == step.value else record
            for record in self.operation.steps
        )
        self.update(steps=steps)
        if error is not None:
            because = f"; it was being undone because of {cause}" if cause else ""
            self.update(error_message=f"could not {UNDONE_BY[step]}: {describe(error)}{because}")
        self._tell(step.value, "undone" if error is None else "undo_failed", None, str(error) if error else None)

    async def write(self, step: Step, *, forward: bool, end: SwapState | None = None) -> None:
        """Put the boundary that is about to be crossed into the journal, or how the swap ended."""
        swap, state = self.operation, end or self.operation.state
        record = wire.JournalRecord(
            swap.id,
            swap.model,
            swap.from_version,
            swap.to_version,
            state,
            step,
            forward,
            float(self._ports.clock.wall()),
        )
        await self._journal.append(wire.encode(record))

    def _tell(self, step: str, outcome: str, duration_s: float | None, error: str | None) -> None:
        self._bus.emit(
            "swap_step", self._new, swap_id=self.operation.id, step=step, outcome=outcome, duration_s=duration_s,
            error=error,
        )  # fmt: skip
