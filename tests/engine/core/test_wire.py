"""A journal record comes back as it was written; anything else is a `BadRecord` and nothing worse.

Owns no state.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import attrs
import msgpack
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from changeover.core.operations import Aftermath, Member, Sample, ShadowReport, StepRecord, SwapOperation, Verdict
from changeover.core.plan import Progress, Step
from changeover.core.records import DesiredVersion, SwapRecord
from changeover.core.snapshots import DrainOutcome, Holder
from changeover.core.values import Drain, SwapState, Timeouts
from changeover.core.wire import RECORD_BYTES_MAX, VERSION, BadRecord, NewerRecord, decode, encode

GOLDEN = Path(__file__).parents[2] / "golden" / "records_2.txt"

TEXTS = st.text(st.sampled_from("abc019 ._-+/\\'\"\0\n\x7fäß中\u202e\uffff\ud800\udcff\U0001f600"), max_size=12)
FLOATS = st.floats(allow_nan=False)
SECONDS = st.floats(0.0, 1e300)
LIMITS = st.none() | st.floats(1e-9, 1e300) | st.integers(1, 10**40)
ENDS = st.sampled_from([state for state in SwapState if state.ended])
OUTCOMES = st.builds(
    DrainOutcome,
    st.sampled_from(["drained", "quarantined", "given_back"]),
    st.lists(st.builds(Holder, TEXTS, TEXTS, FLOATS, st.none() | TEXTS, st.none() | TEXTS), max_size=2).map(tuple),
    FLOATS,
)
STEPS = st.builds(
    StepRecord,
    st.sampled_from([step.value for step in Step]),
    st.sampled_from(["running", "done", "failed", "interrupted"]),
    st.none() | FLOATS,
    st.none() | TEXTS,
    st.sampled_from(["none", "done", "failed"]),
)
SAMPLES = st.builds(Sample, st.integers(0, 2**40), st.integers(0, 2**40), st.none() | FLOATS)
COUNTS = st.integers(0, 2**63)
LINES = st.lists(TEXTS, max_size=2).map(tuple)
MEMBERS = st.lists(
    st.builds(Member, TEXTS, TEXTS, TEXTS, st.none() | OUTCOMES, st.booleans()),
    min_size=1, max_size=3, unique_by=lambda member: member.model,
).map(tuple)  # fmt: skip
OPERATIONS = st.builds(
    SwapOperation,
    id=TEXTS, model=TEXTS, from_version=TEXTS, to_version=TEXTS, state=st.sampled_from(SwapState),
    start_time=FLOATS, end_time=st.none() | FLOATS, error_message=st.none() | TEXTS, share=FLOATS,
    steps=st.lists(STEPS, max_size=2).map(tuple), drain_outcome=st.none() | OUTCOMES, old_unloaded=st.booleans(),
    rollback_of=st.none() | TEXTS, superseded_by=st.none() | TEXTS, paused=st.booleans(),
    guard=st.none() | st.builds(Verdict, TEXTS, SAMPLES, SAMPLES), fallbacks=COUNTS,
    shadow=st.none() | st.builds(ShadowReport, COUNTS, COUNTS, COUNTS, COUNTS, COUNTS),
    members=MEMBERS, aftermath=st.none() | st.builds(Aftermath, LINES, LINES, LINES),
)  # fmt: skip
DRAINS = st.builds(
    Drain,
    deadline_s=SECONDS, then=st.sampled_from(["quarantine", "cancel", "rollback", "wait"]), grace_s=SECONDS,
    stream_deadline_s=st.none() | SECONDS,
)  # fmt: skip
TIMEOUTS = st.builds(
    Timeouts,
    load_s=LIMITS, shift_s=LIMITS, unload_s=LIMITS.filter(lambda limit: limit is not None), total_s=LIMITS,
)  # fmt: skip
PROGRESS = st.builds(Progress, st.sampled_from(Step), st.booleans(), ENDS)
RECORDS = st.builds(SwapRecord, OPERATIONS, PROGRESS, DRAINS, TIMEOUTS)
DESIRED = st.builds(DesiredVersion, TEXTS, TEXTS, TEXTS, TEXTS, st.none() | TEXTS)

HOLDER = Holder("lease", "käse", 2.5, "app.py:7", "worker m/1 0")
OUTCOME = DrainOutcome("quarantined", (HOLDER,), 30.0)
WHOLE = SwapRecord(
    SwapOperation(
        "a1b2", "digits+words", "1+3", "2+4", SwapState.ROLLING_BACK, 1.5e9, 1.5e9 + 40, "it was ordered back", 0.25,
        (StepRecord("shift", "failed", 3.0, "worse", "done"), StepRecord("drain", "running", None)), OUTCOME,
        old_unloaded=False, rollback_of="0f0f", superseded_by="1e1e", paused=True,
        guard=Verdict("5 of 10 failed", Sample(10, 5, 0.5), Sample(90, 0, None)), fallbacks=5,
        shadow=ShadowReport(5, 1, 2, 1, 1),
        members=(Member("digits", "1", "2", OUTCOME, old_unloaded=True), Member("words", "3", "4")),
        aftermath=Aftermath(("digits/2 has the traffic",), ("could not",), ('await engine.swap("digits", "1")',)),
    ),
    Progress(Step.DRAIN, forward=False, end=SwapState.ROLLED_BACK),
    Drain(12.5, "cancel", 2.0, 60.0),
    Timeouts(5.0, None, 30.0, 600.0),
)  # fmt: skip
WANTED = DesiredVersion("digits", "2", "onnx", "models/digits/2/model.onnx", "ab" * 32)
ENVELOPE: dict[str, Any] = msgpack.unpackb(encode(WHOLE))
RECORD: dict[str, Any] = ENVELOPE["SwapRecord"]

SIMPLE = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | TEXTS | st.binary(max_size=20)
ANYTHING = st.recursive(
    SIMPLE,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS | st.binary(max_size=5), inner, max_size=4),
    max_leaves=10,
)


def packed(value: Any) -> bytes:
    """Return plain data as bytes."""
    data: bytes = msgpack.packb(value, unicode_errors="surrogatepass")
    return data


Place = tuple[str | int, ...]


def places(data: Any, at: Place = ()) -> list[Place]:
    """Return where something stands in plain data, maps and lists included."""
    inner = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    return [at, *(place for key, value in inner for place in places(value, (*at, key)))]


def changed(place: Place, value: Any) -> bytes:
    """Return the bytes of a whole record with something else in one place; `...`: with nothing there."""
    again = msgpack.unpackb(packed(ENVELOPE))
    inner = again
    for key in place[:-1]:
        inner = inner[key]
    if value is ...:
        del inner[place[-1]]
    else:
        inner[place[-1]] = value
    return packed(again)


# --- what was written -----------------------------------------------------------------------------------------------


@settings(max_examples=50, suppress_health_check=[HealthCheck.too_slow])
@given(record=RECORDS)
def test_every_swap_comes_back(record: SwapRecord) -> None:
    """A whole operation survives bytes, with its members, evidence and aftermath, and the strangest of texts."""
    again = decode(SwapRecord, encode(record))
    assert attrs.evolve(again, timeouts=record.timeouts) == record
    for ours, theirs in zip(attrs.astuple(again.timeouts), attrs.astuple(record.timeouts), strict=True):
        assert ours is theirs or math.isclose(ours, theirs)


@given(record=DESIRED)
def test_every_desired_version_comes_back(record: DesiredVersion) -> None:
    """Whatever its source is called."""
    assert decode(DesiredVersion, encode(record)) == record


@pytest.mark.parametrize("forward", [True, False])
@pytest.mark.parametrize("end", [state for state in SwapState if state.ended])
@pytest.mark.parametrize("step", Step)
def test_every_boundary_comes_back(step: Step, end: SwapState, forward: bool) -> None:
    """As the very enum members."""
    again = decode(SwapRecord, encode(attrs.evolve(WHOLE, progress=Progress(step, forward, end))))
    assert (again.progress.step, again.progress.end, again.progress.forward) == (step, end, forward)
    assert again.progress.step is step
    assert again.progress.end is end


@pytest.mark.parametrize("state", SwapState)
def test_every_state_comes_back(state: SwapState) -> None:
    """As the very enum member."""
    record = attrs.evolve(WHOLE, operation=attrs.evolve(WHOLE.operation, state=state))
    assert decode(SwapRecord, encode(record)).operation.state is state


def test_a_record_is_plain_msgpack_that_names_its_version_and_kind() -> None:
    """Maps, lists, texts, numbers, booleans and nothing else: any language can read it."""
    assert ENVELOPE == {"v": VERSION, "SwapRecord": RECORD}
    kinds = {type(value_at(place)) for place in places(ENVELOPE)}
    assert kinds <= {dict, list, str, int, float, bool, type(None)}
    assert RECORD["progress"] == {"step": "drain", "forward": False, "end": "rolled_back"}


def value_at(place: Place) -> Any:
    """Return what stands in one place of the whole record."""
    inner: Any = ENVELOPE
    for key in place:
        inner = inner[key]
    return inner


@pytest.mark.parametrize("record", [WHOLE, WANTED], ids=["swap", "desired"])
def test_records_of_version_2_can_be_read_for_ever(record: SwapRecord | DesiredVersion) -> None:
    """These bytes were written by version 2; a field more or less needs a new version, and a way from this one."""
    lines = dict(line.split(": ") for line in GOLDEN.read_text("utf-8").splitlines() if not line.startswith("#"))
    data = bytes.fromhex(lines[type(record).__name__])
    assert decode(type(record), data) == record
    if VERSION == 2:
        assert encode(record) == data


# --- what was not ---------------------------------------------------------------------------------------------------


def check_bad(data: bytes) -> str:
    """Check that bytes are neither kind of record, and return why not: in few words, which can be printed."""
    for kind in (SwapRecord, DesiredVersion):
        with pytest.raises(BadRecord) as caught:
            decode(kind, data)
    text = str(caught.value)
    assert len(text) < 5_000
    assert text.encode()
    return text


@given(data=st.binary(max_size=300))
@example(b"")
@example(b"\xc1")
@example(b"\x80")
@example(b"\x91" * 2_000)
@example(b"\x91" * 100_000)
@example(b"\x81\xa1v" * 1_000 + b"\x02")
@example(b"\xdf\xff\xff\xff\xff")
@example(b"\xc6\xff\xff\xff\xff")
@example(b"\xd6\xff\x00\x00\x00\x00")
@example(b"\x81\x90\x00")
def test_random_bytes_are_a_bad_record(data: bytes) -> None:
    """Bytes that nobody wrote raise `BadRecord`, also where they nest 100,000 deep, or promise a million entries."""
    check_bad(data)


@given(value=ANYTHING)
@example({"v": VERSION, "SwapRecord": {}})
@example({"v": VERSION, "SwapRecord": {}, "DesiredVersion": {}})
def test_other_msgpack_is_a_bad_record(value: Any) -> None:
    """Good msgpack that is no record raises `BadRecord`."""
    check_bad(packed(value))


@pytest.mark.parametrize("char", ["x", "\udcff"])
@pytest.mark.parametrize("where", ["alone", "kind", "version", "field", "value"])
def test_what_is_wrong_is_told_in_few_words(where: str, char: str) -> None:
    """However long the text is that stands in the wrong place, and also where it cannot be printed."""
    text = char * 100_000
    check_bad(
        packed(
            {
                "alone": text,
                "kind": {"v": VERSION, text: 1},
                "version": {"v": text},
                "field": {"v": VERSION, "DesiredVersion": {text: 1}},
                "value": ENVELOPE | {"SwapRecord": RECORD | {"progress": {"step": text, "forward": True, "end": text}}},
            }[where]
        )
    )


def test_one_kind_of_record_is_not_the_other() -> None:
    """A swap is no desired version."""
    with pytest.raises(BadRecord, match="should be a DesiredVersion"):
        decode(DesiredVersion, encode(WHOLE))
    with pytest.raises(BadRecord, match="should be a SwapRecord"):
        decode(SwapRecord, encode(WANTED))


def test_a_torn_record_is_a_bad_record() -> None:
    """However much of its end is missing."""
    data = encode(WHOLE)
    for size in range(len(data)):
        check_bad(data[:size])


@given(tail=st.binary(min_size=1, max_size=20))
@example(encode(WHOLE))
def test_a_record_with_a_tail_is_a_bad_record(tail: bytes) -> None:
    """Bytes behind a record are not overlooked, also where they are a record as well."""
    check_bad(encode(WHOLE) + tail)


def test_a_flipped_bit_makes_no_other_kind_of_error() -> None:
    """A record with one bit flipped, in each byte another one, is another record or a bad one."""
    data, others = encode(WHOLE), 0
    for place in range(len(data)):
        flipped = bytearray(data)
        flipped[place] ^= 1 << place % 8
        try:
            assert decode(SwapRecord, bytes(flipped)) != WHOLE
            others += 1
        except BadRecord:
            continue
    assert 0 < others < len(data)


@pytest.mark.parametrize("size", [RECORD_BYTES_MAX + 1, 10 * RECORD_BYTES_MAX])
def test_a_huge_record_is_refused_unread(size: int) -> None:
    """More bytes than a record may have are refused by their number."""
    with pytest.raises(BadRecord, match=f"a record of {size} bytes; at most {RECORD_BYTES_MAX}"):
        decode(SwapRecord, bytes(size))


@pytest.mark.parametrize(
    "place", [place for place in places(ENVELOPE) if place and isinstance(place[-1], str)], ids=str
)
def test_a_missing_field_is_a_bad_record(place: Place) -> None:
    """Wherever it is missing, the version and the kind included."""
    check_bad(changed(place, ...))


@pytest.mark.parametrize("place", [p for p in places(ENVELOPE) if isinstance(value_at(p), dict)], ids=str)
def test_a_field_too_many_is_a_bad_record(place: Place) -> None:
    """A field that nobody knows is named."""
    assert "'surprise'" in check_bad_swap(changed((*place, "surprise"), 1))


def check_bad_swap(data: bytes) -> str:
    """Check that bytes are no swap, and return why not."""
    with pytest.raises(BadRecord) as caught:
        decode(SwapRecord, data)
    return str(caught.value)


OTHERS: tuple[Any, ...] = (None, 0, -1, 2**64 - 1, 1.5, True, "shift", b"shift", [], ["a"], [[]], {}, {"a": 1})


def test_a_field_of_another_type_is_a_bad_record() -> None:
    """No field takes a value of another type for its own: no number for a boolean, no text for a list."""
    for place in places(ENVELOPE):
        was = value_at(place)
        for value in OTHERS if place[:1] == ("SwapRecord",) else ():
            may = type(value) is type(was) or (type(was) is float and type(value) is int)
            may_be_empty = value is None or was is None  # what type it has otherwise, a missing member shows
            try:
                decode(SwapRecord, changed(place, value))
            except BadRecord:
                continue
            assert may or may_be_empty, (place, value)


@pytest.mark.parametrize("value", OTHERS, ids=repr)
@pytest.mark.parametrize(
    "place", [("operation", "error_message"), ("operation", "guard"), ("timeouts", "total_s")], ids=str
)
def test_an_empty_field_takes_only_its_own_type(place: Place, value: Any) -> None:
    """A text, a verdict, a number of seconds; or nothing."""
    takes = {"error_message": (str,), "guard": (), "total_s": (int, float)}[str(place[-1])]
    if value is None or (type(value) in takes and value not in (-1, 0)):
        assert decode(SwapRecord, changed(("SwapRecord", *place), value))
    else:
        check_bad_swap(changed(("SwapRecord", *place), value))


@pytest.mark.parametrize("version", [0, 1, -1, None, "2", b"2", [2], {"v": 2}, 2.0, True])
def test_another_version_is_a_bad_record(version: Any) -> None:
    """A record of no version that ever was is refused by it, and is not taken for a newer one."""
    with pytest.raises(BadRecord, match="version") as caught:
        decode(SwapRecord, packed(ENVELOPE | {"v": version}))
    assert not isinstance(caught.value, NewerRecord)


@pytest.mark.parametrize("version", [VERSION + 1, 2**63])
def test_a_newer_version_is_told_apart(version: int) -> None:
    """Whatever is in it: a later engine wrote it, and will read it again."""
    for record in (ENVELOPE | {"v": version}, {"v": version, "Other": []}):
        with pytest.raises(NewerRecord, match=f"version {version}; this engine reads version {VERSION}"):
            decode(SwapRecord, packed(record))


# --- what makes no sense --------------------------------------------------------------------------------------------


def test_what_is_only_told_may_be_any_number() -> None:
    """A journal is not refused because a clock was wrong: times and shares decide nothing, and may be NaN."""
    for number in (-1.0, math.inf, -math.inf):
        assert (
            decode(SwapRecord, changed(("SwapRecord", "operation", "start_time"), number)).operation.start_time
            == number
        )
    assert math.isnan(decode(SwapRecord, changed(("SwapRecord", "operation", "share"), math.nan)).operation.share)


@pytest.mark.parametrize("number", [math.nan, math.inf, -1.0])
@pytest.mark.parametrize(
    "place", [(part, field) for part in ("drain", "timeouts") for field in RECORD[part] if field != "then"], ids=str
)
def test_a_limit_that_is_waited_for_must_make_sense(place: Place, number: float) -> None:
    """A rollback after a restart waits by it: NaN, infinite and negative ones are refused."""
    assert place[-1] in check_bad_swap(changed(("SwapRecord", *place), number))


@pytest.mark.parametrize("members", [[], [RECORD["operation"]["members"][0]] * 2], ids=["none", "one twice"])
def test_a_swap_that_moves_nothing_or_something_twice_is_a_bad_record(members: Any) -> None:
    """No recovery could end it."""
    assert "at least one model" in check_bad_swap(changed(("SwapRecord", "operation", "members"), members))


@pytest.mark.parametrize("end", [state.value for state in SwapState if not state.ended])
def test_a_swap_that_shall_not_end_is_a_bad_record(end: str) -> None:
    """It would never leave the journal."""
    assert "does not end" in check_bad_swap(changed(("SwapRecord", "progress", "end"), end))
