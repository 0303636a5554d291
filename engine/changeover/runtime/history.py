"""The swaps that are over, of this process and of those before it, and those that are being recovered.

It owns their records, as bytes until somebody asks; changed on the loop, read from any thread. It spawns nothing.
"""

from __future__ import annotations

from collections.abc import Iterable

from changeover.core import wire
from changeover.core.operations import SwapOperation
from changeover.core.records import HISTORY_MAX, SwapRecord, SwapRow
from changeover.core.wire import BadRecord
from changeover.runtime.events import logger


class _Slot:
    """One swap; whoever asks first, in whatever thread, decodes it."""

    __slots__ = ("record",)

    def __init__(self, record: SwapRecord | bytes | None) -> None:
        """Keep a record; None: one that cannot be read."""
        self.record = record


class History:
    """The last swaps, by id, oldest first."""

    def __init__(self) -> None:
        """Begin with none."""
        self._slots: dict[str, _Slot] = {}

    def take(self, rows: Iterable[SwapRow]) -> None:
        """Add what a journal has kept; whether it makes sense is seen when somebody asks for it."""
        for row in rows:
            self._slots[row.id] = _Slot(row.record)

    def put(self, record: SwapRecord) -> None:
        """Add a swap, or change it."""
        self._slots[record.operation.id] = _Slot(record)
        while len(self._slots) > HISTORY_MAX:
            del self._slots[next(iter(self._slots))]

    def find(self, swap_id: str) -> SwapRecord | None:
        """Return a swap; None where it is unknown, or cannot be read."""
        slot = self._slots.get(swap_id)
        return None if slot is None else _read(swap_id, slot)

    def operations(self, model: str | None, limit: int) -> list[SwapOperation]:
        """Return the last swaps, of one model or of all, oldest first."""
        mention = b"" if model is None else wire.mention(model)
        found: list[SwapOperation] = []
        for swap_id, slot in reversed(list(self._slots.items())):
            if len(found) >= limit:
                break
            if isinstance(slot.record, bytes) and mention not in slot.record:
                continue  # thousands are passed by without being decoded
            record = _read(swap_id, slot)
            if record is not None and (model is None or model in models_of(record)):
                found.append(record.operation)
        return found[::-1]


def _read(swap_id: str, slot: _Slot) -> SwapRecord | None:
    """Return a record, decoded once; which swaps there are changes on the loop only."""
    data = slot.record
    if not isinstance(data, bytes):
        return data
    try:
        slot.record = record = wire.decode(SwapRecord, data)
    except BadRecord as error:
        logger.warning("swap %s in the journal's history cannot be read, and is left out: %s", swap_id, error)
        slot.record = None
        return None
    return record


def models_of(record: SwapRecord) -> tuple[str, ...]:
    """Return the models that a swap moves."""
    return tuple(member.model for member in record.operation.members)
