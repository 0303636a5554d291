"""Journal records as msgpack bytes and back; the one importer of msgpack.

What comes in is hostile until it was decoded: every field is checked by name and type, and nothing is ever unpickled.
"""

from __future__ import annotations

from typing import Any, TypeGuard, cast

import attrs
import msgpack  # pyright: ignore[reportMissingTypeStubs] - it ships none

from changeover.core.plan import Step
from changeover.core.values import SwapState

_msgpack = cast("Any", msgpack)

VERSION = 1
"""The format of the records that this code writes."""

RECORD_BYTES_MAX = 64 * 1024
"""A longer record is not ours."""


class BadRecord(ValueError):
    """Bytes that are not a journal record of a known version."""


@attrs.frozen
class JournalRecord:
    """One boundary of one swap: the step that is about to be run or undone, or the end."""

    swap_id: str
    model: str
    from_version: str
    to_version: str
    state: SwapState
    step: Step
    forward: bool
    """False while it is being undone."""
    at_s: float
    """In seconds since 1970."""


def encode(record: JournalRecord) -> bytes:
    """Return a record as bytes."""
    fields = attrs.asdict(record) | {"state": record.state.value, "step": record.step.value, "v": VERSION}
    packed: bytes = _msgpack.packb(fields)
    return packed


def decode(data: bytes) -> JournalRecord:
    """Return the record that `encode` made; raises `BadRecord` for anything else."""
    if len(data) > RECORD_BYTES_MAX:
        raise BadRecord(f"a record of {len(data)} bytes; at most {RECORD_BYTES_MAX} are allowed")
    try:
        fields = _msgpack.unpackb(data, strict_map_key=True)
    except Exception as error:  # msgpack raises ValueError, its own errors, and UnicodeDecodeError
        raise BadRecord(f"not msgpack: {error}") from error
    if not _is_map(fields):
        raise BadRecord(f"not a journal record: {type(fields).__name__}")
    return _build(fields)


def _is_map(value: object) -> TypeGuard[dict[Any, Any]]:
    return isinstance(value, dict)


def _build(fields: dict[Any, Any]) -> JournalRecord:
    version = fields.pop("v", None)
    if type(version) is not int or version != VERSION:
        raise BadRecord(f"a record of version {version!r}; this engine reads version {VERSION}")
    wanted = {field.name for field in attrs.fields(JournalRecord)}
    if fields.keys() != wanted:
        raise BadRecord(f"fields {sorted(map(str, fields))}; a record has {sorted(wanted)}")
    texts = ("swap_id", "model", "from_version", "to_version", "state", "step")
    if not all(isinstance(fields[name], str) for name in texts) or not isinstance(fields["forward"], bool):
        raise BadRecord("a field has the wrong type")
    if not isinstance(fields["at_s"], float):
        raise BadRecord("at_s is not a float")
    try:
        state, step = SwapState(fields["state"]), Step(fields["step"])
    except ValueError as error:
        raise BadRecord(str(error)) from error
    fields.update(state=state, step=step)
    return JournalRecord(**fields)
