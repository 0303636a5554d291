"""What is written of a swap is short, whatever happened to it, and says where something was left out."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from changeover.core import wire
from changeover.core.operations import Aftermath, Member, Sample, StepRecord, SwapOperation, Verdict
from changeover.core.plan import ORDER, Progress
from changeover.core.records import (
    HOLDERS_MAX,
    LEFT_OUT,
    LINES_MAX,
    TEXT_MAX,
    WORD_MAX,
    DesiredVersion,
    SwapRecord,
    shortened,
)
from changeover.core.snapshots import DrainOutcome, Holder
from changeover.core.values import Drain, SwapState, Timeouts
from changeover.core.wire import RECORD_BYTES_MAX, decode, encode
from changeover.errors import InvalidValue, JournalFailed

MEGABYTE = "\U0001f600" * 250_000
"""A megabyte as UTF-8."""


def holders(count: int, text: str = "x") -> tuple[Holder, ...]:
    """Return so many holders, each a second older than the one before."""
    return tuple(Holder(text, f"{text}{n}", float(n), text, text) for n in range(count))


def a_record(**fields: Any) -> SwapRecord:
    """Return a swap with some fields."""
    fields = {"members": (Member("m", "1", "2"),)} | fields
    operation = SwapOperation("a1", "m", "1", "2", SwapState.FAILED, 1.0, **fields)
    return SwapRecord(operation, Progress(), Drain(), Timeouts())


def the_worst(members: int) -> SwapRecord:
    """Return a swap of which everything is far too long."""
    outcome = DrainOutcome("quarantined", holders(10_000 // members, MEGABYTE[:2_500]), 30.0)
    lines = (MEGABYTE[:10_000],) * 1_000
    return a_record(
        members=tuple(Member(f"m{n}", "1", "2", outcome) for n in range(members)),
        drain_outcome=attrs.evolve(outcome, holders=outcome.holders * members),
        steps=tuple(StepRecord(step.value, "failed", 1.0, MEGABYTE) for step in ORDER),
        error_message=MEGABYTE,
        guard=Verdict(MEGABYTE, Sample(1, 1, None), Sample(1, 0, None)),
        aftermath=Aftermath(lines, lines, lines),
    )


@pytest.mark.parametrize("members", [1, 2, 40, 60, 2_000])
def test_the_worst_swap_can_be_written_and_read(members: int) -> None:
    """10,000 holders, errors of a megabyte and an aftermath of 3,000 lines keep within what a journal reads again."""
    short = shortened(the_worst(members))
    data = encode(short)
    assert len(data) <= RECORD_BYTES_MAX
    assert decode(SwapRecord, data) == short
    assert [member.model for member in short.operation.members] == [f"m{n}" for n in range(members)]


def test_what_is_short_is_left_alone() -> None:
    """Up to the limits nothing is cut."""
    text, word = "x" * TEXT_MAX, "y" * WORD_MAX
    outcome = DrainOutcome("quarantined", (Holder(word, word, 1.0, word, word),) * HOLDERS_MAX, 30.0)
    record = a_record(
        members=(Member("m", "1", "2", outcome),), drain_outcome=outcome, error_message=text,
        steps=(StepRecord("load", "failed", 1.0, text), StepRecord("warm", "done", 1.0)),
        guard=Verdict(text, Sample(1, 1, None), Sample(1, 0, None)), aftermath=Aftermath((text,) * LINES_MAX, (), ()),
    )  # fmt: skip
    assert shortened(record) == record
    assert shortened(a_record()) == a_record()


def test_cuts_of_texts_are_marked() -> None:
    """A text one character too long ends in an ellipsis, and is as long as allowed."""
    text = "x" * (TEXT_MAX + 1)
    operation = shortened(
        a_record(
            error_message=text,
            steps=(StepRecord("load", "failed", 1.0, text),),
            guard=Verdict(text, Sample(1, 1, None), Sample(1, 0, None)),
            aftermath=Aftermath((text,), (text,), (text,)),
        )
    ).operation
    assert operation.guard is not None
    assert operation.aftermath is not None
    left = operation.aftermath
    for cut in (
        operation.error_message, operation.steps[0].error, operation.guard.reason,
        *left.stands, *left.does_not, *left.remedies,
    ):  # fmt: skip
        assert cut == "x" * (TEXT_MAX - 1) + LEFT_OUT


def test_holders_that_are_left_out_are_counted() -> None:
    """One more stands for them, and is as old as the oldest of them; nobody's name is too long."""
    outcome = DrainOutcome("quarantined", holders(HOLDERS_MAX + 7, "n" * (WORD_MAX + 1)), 30.0)
    operation = shortened(a_record(drain_outcome=outcome, members=(Member("m", "1", "2", outcome),))).operation
    for short in (operation.drain_outcome, operation.members[0].drain_outcome):
        assert short is not None
        assert (short.result, short.duration_s, len(short.holders)) == ("quarantined", 30.0, HOLDERS_MAX + 1)
        assert short.holders[-1] == Holder(LEFT_OUT, "7 more", HOLDERS_MAX + 6.0, None)
        name = "n" * (WORD_MAX - 1) + LEFT_OUT
        assert short.holders[0] == Holder(name, name, 0.0, name, name)


def test_members_share_what_holders_may_be_written() -> None:
    """Of a group each member tells its share of them, and says how many it leaves out."""
    outcome = DrainOutcome("quarantined", holders(HOLDERS_MAX), 30.0)
    record = a_record(members=tuple(Member(f"m{n}", "1", "2", outcome) for n in range(5)))
    for member in shortened(record).operation.members:
        assert member.drain_outcome is not None
        assert len(member.drain_outcome.holders) == HOLDERS_MAX // 5 + 1
        assert member.drain_outcome.holders[-1].holder == f"{HOLDERS_MAX - HOLDERS_MAX // 5} more"


def test_lines_that_are_left_out_are_counted() -> None:
    """The last line says how many."""
    left = shortened(a_record(aftermath=Aftermath(("a",) * (LINES_MAX + 3), ("b",), ()))).operation.aftermath
    assert left == Aftermath((*("a",) * LINES_MAX, f"{LEFT_OUT} 3 more"), ("b",), ())


@given(members=st.integers(1, 4), held=st.integers(0, 200), size=st.integers(0, 5_000), lines=st.integers(0, 30))
def test_shortening_keeps_within_its_own_limits(members: int, held: int, size: int, lines: int) -> None:
    """What is shortened is short, and nothing but holders, lines and texts has changed."""
    outcome = DrainOutcome("quarantined", holders(held, "w" * (size // 10)), 30.0)
    record = a_record(
        members=tuple(Member(f"m{n}", "1", "2", outcome) for n in range(members)),
        drain_outcome=outcome, error_message="e" * size, aftermath=Aftermath(("l" * size,) * lines, (), ()),
    )  # fmt: skip
    operation = shortened(record).operation
    assert len(operation.error_message or "") <= TEXT_MAX
    assert operation.aftermath is not None
    assert len(operation.aftermath.stands) <= LINES_MAX + 1
    found = [one for m in operation.members for one in (m.drain_outcome.holders if m.drain_outcome else ())]
    assert len(found) <= HOLDERS_MAX + members
    assert all(len(one.holder) <= WORD_MAX for one in found)
    again = attrs.evolve(
        operation, members=record.operation.members, drain_outcome=outcome, aftermath=record.operation.aftermath,
        error_message=record.operation.error_message,
    )  # fmt: skip
    assert again == record.operation


def test_a_swap_moves_something_and_ends() -> None:
    """A record of a swap without members, with one twice, or that shall end as what is no end, cannot be made."""
    for members in ((), (Member("m", "1", "2"), Member("m", "2", "3"))):
        with pytest.raises(InvalidValue, match="at least one model"):
            a_record(members=members)
    with pytest.raises(InvalidValue, match="does not end as loading_new_version"):
        attrs.evolve(a_record(), progress=Progress(end=SwapState.LOADING_NEW_VERSION))


def test_what_could_not_be_read_again_is_not_written() -> None:
    """A record beyond the limit is the writer's failure, and not the next engine's corrupt file."""
    members = tuple(Member(f"model {number}" * 10, "1", "2") for number in range(10_000))
    record = shortened(a_record(members=members))
    with pytest.raises(JournalFailed, match=r"a SwapRecord of \d+ bytes is too long"):
        encode(record)


def test_a_record_at_the_limit_is_written_and_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit is the last size that fits."""
    wanted = DesiredVersion("m", "1", "loader", "source", None)
    size = len(encode(wanted))
    monkeypatch.setattr(wire, "RECORD_BYTES_MAX", size)
    assert decode(DesiredVersion, encode(wanted)) == wanted
    monkeypatch.setattr(wire, "RECORD_BYTES_MAX", size - 1)
    with pytest.raises(JournalFailed):
        encode(wanted)
