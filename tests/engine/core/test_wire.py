"""A journal record comes back as it was written; anything else is a `BadRecord` and nothing worse.

Owns no state.
"""

from __future__ import annotations

import math
from typing import Any

import attrs
import msgpack
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from changeover.core.plan import Step
from changeover.core.values import SwapState
from changeover.core.wire import RECORD_BYTES_MAX, VERSION, BadRecord, JournalRecord, decode, encode

TEXTS = st.text(st.sampled_from("abc019 ._-+/\\'\"\0\n\x7fäß中\u202e\uffff\U0001f600"), max_size=40)
RECORDS = st.builds(
    JournalRecord,
    swap_id=TEXTS,
    model=TEXTS,
    from_version=TEXTS,
    to_version=TEXTS,
    state=st.sampled_from(SwapState),
    step=st.sampled_from(Step),
    forward=st.booleans(),
    at_s=st.floats(allow_nan=False),
)
RECORD = JournalRecord("a1b2", "digits", "1", "2", SwapState.TRANSITIONING, Step.SHIFT, forward=True, at_s=1.5e9)
FIELDS: dict[str, Any] = msgpack.unpackb(encode(RECORD))

SIMPLE = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | TEXTS | st.binary(max_size=20)
ANYTHING = st.recursive(
    SIMPLE,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS | st.binary(max_size=5), inner, max_size=4),
    max_leaves=10,
)


def packed(**changes: Any) -> bytes:
    """Return the bytes of a good record with some fields changed, added or, by `...`, left out."""
    fields = {name: value for name, value in (FIELDS | changes).items() if value is not ...}
    data: bytes = msgpack.packb(fields)
    return data


# --- what was written -----------------------------------------------------------------------------------------------


@given(record=RECORDS)
def test_every_record_comes_back(record: JournalRecord) -> None:
    """A record survives bytes, whatever its texts, state, step and time."""
    data = encode(record)
    assert len(data) <= RECORD_BYTES_MAX
    assert decode(data) == record


@pytest.mark.parametrize("state", SwapState)
@pytest.mark.parametrize("step", Step)
def test_every_boundary_comes_back(state: SwapState, step: Step) -> None:
    """A record of every state and step survives bytes, as the very enum members."""
    record = attrs.evolve(RECORD, state=state, step=step, forward=False)
    again = decode(encode(record))
    assert again.state is state
    assert again.step is step
    assert again == record


def test_a_record_is_plain_msgpack_with_a_version() -> None:
    """The bytes are a map of texts, booleans and one float, which any language can read, and name their format."""
    assert FIELDS == {
        "swap_id": "a1b2", "model": "digits", "from_version": "1", "to_version": "2", "state": "transitioning",
        "step": "shift", "forward": True, "at_s": 1.5e9, "v": VERSION,
    }  # fmt: skip


def test_records_of_version_1_can_be_read_for_ever() -> None:
    """These bytes were written by the first version of the format."""
    data = bytes.fromhex(
        "89a7737761705f6964a461316232a56d6f64656ca6646967697473ac66726f6d5f76657273696f6ea131aa746f5f7665"
        "7273696f6ea132a57374617465ad7472616e736974696f6e696e67a473746570a57368696674a7666f7277617264c3a4"
        "61745f73cb41d65a0bc0000000a17601"
    )
    assert decode(data) == RECORD


# --- what was not ---------------------------------------------------------------------------------------------------


@given(data=st.binary(max_size=300))
@example(b"")
@example(b"\xc1")
@example(b"\x80")
@example(b"\x91" * 2_000)
@example(b"\xdf\xff\xff\xff\xff")
@example(b"\xc6\xff\xff\xff\xff")
@example(b"\xd6\xff\x00\x00\x00\x00")
@example(b"\x81\x90\x00")
def test_random_bytes_are_a_bad_record(data: bytes) -> None:
    """Bytes that nobody wrote raise `BadRecord`."""
    with pytest.raises(BadRecord):
        decode(data)


@given(value=ANYTHING)
def test_other_msgpack_is_a_bad_record(value: Any) -> None:
    """Good msgpack that is no record raises `BadRecord`."""
    with pytest.raises(BadRecord):
        decode(msgpack.packb(value))


@given(record=RECORDS, cut=st.integers(0, 400))
def test_a_torn_record_is_a_bad_record(record: JournalRecord, cut: int) -> None:
    """However much of its end is missing, a torn record raises `BadRecord`."""
    data = encode(record)
    with pytest.raises(BadRecord):
        decode(data[: cut % len(data)])


@given(record=RECORDS, tail=st.binary(min_size=1, max_size=20))
def test_a_record_with_a_tail_is_a_bad_record(record: JournalRecord, tail: bytes) -> None:
    """Bytes behind a record are not overlooked."""
    with pytest.raises(BadRecord):
        decode(encode(record) + tail)


@given(record=RECORDS, place=st.integers(0, 400), bit=st.integers(0, 7))
def test_a_flipped_bit_makes_no_other_kind_of_error(record: JournalRecord, place: int, bit: int) -> None:
    """A record with one bit flipped is another record or a bad one."""
    data = bytearray(encode(record))
    data[place % len(data)] ^= 1 << bit
    try:
        assert isinstance(decode(bytes(data)), JournalRecord)
    except BadRecord:
        return


@pytest.mark.parametrize("extra", [1, RECORD_BYTES_MAX, 10 * RECORD_BYTES_MAX])
def test_a_huge_record_is_refused_unread(extra: int) -> None:
    """More bytes than a record may have are refused by their number."""
    with pytest.raises(BadRecord, match=f"a record of {RECORD_BYTES_MAX + extra} bytes; at most {RECORD_BYTES_MAX}"):
        decode(bytes(RECORD_BYTES_MAX + extra))


@pytest.mark.parametrize("name", FIELDS)
def test_a_missing_field_is_a_bad_record(name: str) -> None:
    """A record without one of its fields, the version included, is none."""
    with pytest.raises(BadRecord):
        decode(packed(**{name: ...}))


def test_a_field_too_many_is_a_bad_record() -> None:
    """A record with a field that nobody knows is none, and the message names the fields."""
    with pytest.raises(BadRecord, match="'surprise'"):
        decode(packed(surprise=1))


@pytest.mark.parametrize("version", [0, 2, -1, None, "1", b"1", [1], {"v": 1}, 1.5, True])
def test_another_version_is_a_bad_record(version: Any) -> None:
    """A record of any version but 1 is refused by it."""
    with pytest.raises(BadRecord, match="version"):
        decode(packed(v=version))


@pytest.mark.parametrize("name", [name for name in FIELDS if name != "v"])
@pytest.mark.parametrize("value", [None, 0, 1, 1.5, True, "shift", b"shift", [], ["a"], {}, {"a": 1}])
def test_a_field_of_another_plain_type_is_a_bad_record(name: str, value: Any) -> None:
    """No field takes a value of another type for its own: no number for a boolean, no whole number for a time."""
    if type(value) is not type(FIELDS[name]):
        with pytest.raises(BadRecord):
            decode(packed(**{name: value}))


@given(name=st.sampled_from(sorted(FIELDS.keys() - {"v"})), value=ANYTHING)
def test_a_field_of_the_wrong_type_is_a_bad_record(name: str, value: Any) -> None:
    """A field whose value has another type than it was written with makes no record."""
    if type(value) is type(FIELDS[name]):
        return
    with pytest.raises(BadRecord):
        decode(packed(**{name: value}))


@pytest.mark.parametrize("name", ["state", "step"])
@pytest.mark.parametrize("value", ["", "SHIFT", "running", "Step.SHIFT", "shift "])
def test_an_unknown_state_or_step_is_a_bad_record(name: str, value: str) -> None:
    """A state or a step that this version does not know makes no record, and the message has it."""
    with pytest.raises(BadRecord, match=repr(value)):
        decode(packed(**{name: value}))


def test_times_need_not_be_sensible() -> None:
    """A time is any float: a journal is not refused because a clock was wrong."""
    for at_s in (-1.0, 0.0, math.inf):
        assert decode(packed(at_s=at_s)).at_s == at_s
    assert math.isnan(decode(packed(at_s=math.nan)).at_s)
