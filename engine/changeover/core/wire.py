"""Journal records as msgpack bytes and back; the one importer of msgpack.

What comes in is hostile until it was decoded: `plain.py` checks every field, and nothing is ever unpickled.
"""

from __future__ import annotations

from typing import Any, TypeVar, cast

import msgpack  # pyright: ignore[reportMissingTypeStubs] - it ships none

from changeover.core.plain import BadData, build, is_map, plain, told
from changeover.core.records import DesiredVersion, SwapRecord
from changeover.errors import JournalFailed

_msgpack = cast("Any", msgpack)
T = TypeVar("T", SwapRecord, DesiredVersion)

VERSION = 2
"""The format of the records that this code writes; version 1 was never in a file."""

RECORD_BYTES_MAX = 1024 * 1024
"""A longer record is not ours: `encode` makes none."""

_SURROGATES = "surrogatepass"
"""The name of a file, and an error's text with it, may hold lone surrogates, which UTF-8 has no place for."""


class BadRecord(ValueError):
    """Bytes that are not a journal record of a known version."""


class NewerRecord(BadRecord):
    """A record of a later version of this code."""


def encode(record: SwapRecord | DesiredVersion) -> bytes:
    """Return a record as bytes; raises `JournalFailed` where it is too long to be read again: a group of thousands."""
    name = type(record).__name__
    packed: bytes = _msgpack.packb({"v": VERSION, name: plain(record)}, unicode_errors=_SURROGATES)
    if len(packed) > RECORD_BYTES_MAX:
        raise JournalFailed(f"a {name} of {len(packed)} bytes is too long to be written down; {RECORD_BYTES_MAX} fit")
    return packed


def mention(model: str) -> bytes:
    """Return bytes that are in every `SwapRecord` of a model, and in hardly any other."""
    named: bytes = _msgpack.packb("model") + _msgpack.packb(model, unicode_errors=_SURROGATES)
    return named


def decode(kind: type[T], data: bytes) -> T:
    """Return the record of this kind that `encode` was given; raises `BadRecord` for anything else."""
    if len(data) > RECORD_BYTES_MAX:
        raise BadRecord(f"a record of {len(data)} bytes; at most {RECORD_BYTES_MAX} are allowed")
    try:
        envelope: object = _msgpack.unpackb(data, strict_map_key=True, unicode_errors=_SURROGATES)
    except Exception as error:  # msgpack raises ValueError, its own errors, and UnicodeDecodeError
        raise BadRecord(f"not msgpack: {type(error).__name__}: {error}") from error
    if not is_map(envelope):
        raise BadRecord(f"not a journal record: {type(envelope).__name__}")
    version = envelope.get("v")
    if type(version) is not int or version != VERSION:
        newer = type(version) is int and version > VERSION
        text = f"a record of version {told(version)}; this engine reads version {VERSION}"
        raise NewerRecord(text) if newer else BadRecord(text)
    if set(envelope) != {"v", kind.__name__}:
        raise BadRecord(f"fields {told(sorted(map(str, envelope)))}; it should be a {kind.__name__}")
    try:
        return build(kind, envelope[kind.__name__])
    except (BadData, RecursionError) as error:
        raise BadRecord(str(error)) from error
