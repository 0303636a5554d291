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


class History:
    """The last swaps, by id, oldest first."""

    def __init__(self) -> None:
        """Begin with none."""
        self._records: dict[str, SwapRecord | bytes] = {}

    def take(self, rows: Iterable[SwapRow]) -> None:
        """Add what a journal has kept; whether it makes sense is seen when somebody asks for it."""
        for row in rows:
            self._records[row.id] = row.record

    def put(self, record: SwapRecord) -> None:
        """Add a swap, or change it."""
        self._records[record.operation.id] = record
        while len(self._records) > HISTORY_MAX:
            del self._records[next(iter(self._records))]

    def find(self, swap_id: str) -> SwapRecord | None:
        """Return a swap; None where it is unknown, or cannot be read."""
        record = self._records.get(swap_id)
        return self._read(swap_id, record) if isinstance(record, bytes) else record

    def operations(self, model: str | None, limit: int) -> list[SwapOperation]:
        """Return the last swaps, of one model or of all, oldest first."""
        found: list[SwapOperation] = []
        for swap_id in reversed(list(self._records)):
            if len(found) >= limit:
                break
            kept = self._records.get(swap_id)
            if isinstance(kept, bytes) and model is not None and model.encode() not in kept:
                continue  # its name is not even in the bytes: thousands are passed by without being decoded
            record = self.find(swap_id)
            if record is not None and (model is None or model in models_of(record)):
                found.append(record.operation)
        return found[::-1]

    def _read(self, swap_id: str, data: bytes) -> SwapRecord | None:
        try:
            record = wire.decode(SwapRecord, data)
        except BadRecord as error:
            logger.warning("swap %s in the journal's history cannot be read, and is left out: %s", swap_id, error)
            self._records.pop(swap_id, None)
            return None
        self._records[swap_id] = record
        return record


def models_of(record: SwapRecord) -> tuple[str, ...]:
    """Return the models that a swap moves."""
    return tuple(member.model for member in record.operation.members)
