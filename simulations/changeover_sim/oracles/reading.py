"""What the entries of a disk say, read by rules that are not the engine's: an oracle for recoveries.

Read an entry at a time, as if the process had ended behind each: what is wanted must follow from the swaps that are
there. Owns nothing and spawns nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

import attrs

from changeover.core import wire
from changeover.core.operations import Member
from changeover.core.plan import ORDER
from changeover.core.records import DesiredVersion, Entry, SwapRecord
from changeover.core.values import SwapState

BEHIND_PIVOT = ("drain", "unload")

decode = lru_cache(20_000)(wire.decode)
"""Most schedules of a search write the same."""


@attrs.define(eq=False)
class Reading:
    """What is known behind some entries."""

    wanted: dict[str, str] = attrs.field(factory=dict[str, str])
    """By model: the version that the rows say shall be active."""
    meant: dict[str, str] = attrs.field(factory=dict[str, str])
    """By model: the one that shall be, by what became of the swaps."""
    swaps: dict[str, SwapRecord] = attrs.field(factory=dict[str, SwapRecord])
    """By id: what was written of it last."""
    spoken: set[str] = attrs.field(factory=set[str])
    """Models of which some row has said what is wanted, or that nothing is."""
    _news: dict[str, set[str]] = attrs.field(factory=dict[str, set[str]])
    """By swap, the models of which a row by itself has said since whom they want."""
    moved: set[str] = attrs.field(factory=set[str])
    """Swaps whose pivot is there and was not taken back."""

    @property
    def open(self) -> dict[str, SwapState]:
        """By id, how each swap ends that has not ended: as its pivot says, or as what it was turned round for."""
        ends: dict[str, SwapState] = {}
        for swap_id, record in self.swaps.items():
            if not record.operation.state.ended:
                turned = SwapState.FAILED if record.progress.forward else record.progress.end
                ends[swap_id] = SwapState.COMPLETED if swap_id in self.moved else turned
        return ends

    def open_members(self, model: str) -> list[Member]:
        """Return what the swaps that have not ended mean for a model."""
        records = [record for record in self.swaps.values() if not record.operation.state.ended]
        return [member for record in records for member in record.operation.members if member.model == model]

    def take(self, entry: Entry) -> None:
        """Read one more entry; nothing in it may contradict what is there."""
        told: set[str] = set()
        says: set[str] = set()
        for row in entry.swaps:
            record = decode(SwapRecord, row.record)
            assert row.ended == record.operation.state.ended, f"{row.id} is a row that ended: {row.ended}"
            assert_follows(self.swaps.get(record.operation.id), record)
            if not row.ended:  # how a swap has ended may be told late, when its models have gone on
                models = {member.model for member in record.operation.members}
                told |= models
                # One that begins says whom with, if that is news, and one that turns round whom it gives it back to.
                says |= models if record.operation.id not in self.swaps or not record.progress.forward else set()
            self._take_swap(record, entry)
        for model, data in entry.desired.items():
            version = None if data is None else decode(DesiredVersion, data).version
            # What is no news follows from what became of the swaps.
            is_news = model not in told or model in says or model not in self.meant
            if not entry.swaps:  # the end of a swap says who is active, whatever else is on its way
                assert not self._is_tried(model, version), f"{model}: {version} is wanted before its pivot"
            self.spoken.add(model)
            if model not in told:
                for swap_id in self.swaps:
                    self._news.setdefault(swap_id, set()).add(model)
            for known in (self.wanted, self.meant) if is_news else (self.wanted,):
                if version is None:
                    known.pop(model, None)
                else:
                    known[model] = version
        for model, version in self.meant.items():
            found = self.wanted.get(model, version)
            assert found == version, f"{model}: {self.wanted}, and it should be {self.meant}"

    def _is_tried(self, model: str, version: str | None) -> bool:
        """Return whether a swap brings a version that has neither come to its pivot nor let go of it again."""
        return any(
            member.model == model and member.to_version == version
            for swap_id, record in self.swaps.items()
            if not record.operation.state.ended and swap_id not in self.moved and not has_let_go(record)
            for member in record.operation.members
        )

    def _take_swap(self, record: SwapRecord, entry: Entry) -> None:
        operation, progress = record.operation, record.progress
        known, moved = operation.id in self.swaps, operation.id in self.moved
        self._news.setdefault(operation.id, set())
        self.swaps[operation.id] = record
        ended_well = moved and operation.state is SwapState.COMPLETED
        moves = ended_well or (not operation.state.ended and progress.forward and progress.step.value in BEHIND_PIVOT)
        (self.moved.add if moves else self.moved.discard)(operation.id)
        turns = not progress.forward and not operation.state.ended
        gave_up = progress.forward and operation.state is SwapState.FAILED  # neither version could be had: as it was
        for member in operation.members:
            if moves and not moved:
                self.meant[member.model] = member.to_version
            elif (moved and not moves and not gave_up) or (turns and member.model not in self._news[operation.id]):
                self.meant[member.model] = member.from_version  # which may be news that could not be written
            elif not known and not operation.state.ended and member.model not in self.spoken:
                self.meant.setdefault(member.model, member.from_version)


def read(entries: Iterable[Entry]) -> Reading:
    """Read all of these, and look behind each whether it makes sense to end there."""
    reading = Reading()
    for entry in entries:
        reading.take(entry)
    return reading


def has_let_go(record: SwapRecord) -> bool:
    """Return whether a swap has turned round and undone all but its slot: whoever loads its version now wants it."""
    return not record.progress.forward and record.progress.step is ORDER[0]


def assert_follows(before: SwapRecord | None, record: SwapRecord) -> None:
    """See that a swap goes forward step by step, turns at most once, goes back step by step and ends once."""
    if before is None or (before.operation.state.ended and record == before):
        return  # an end that could not be written goes with every entry until one of them is kept
    was, now = before.progress, record.progress
    assert not before.operation.state.ended, "written behind its end"
    assert [str(one) for one in before.operation.members] == [str(one) for one in record.operation.members]
    assert was.forward or not now.forward, "turned round twice"
    if record.operation.state.ended:
        assert was.forward or record.operation.state is not SwapState.COMPLETED, "turned round, and completed"
        return
    at, next_ = ORDER.index(was.step), ORDER.index(now.step)
    if was.forward and not now.forward and was.step.value == "load":
        at += 1  # a warm-up begins unwritten
    assert next_ > at if now.forward else next_ <= at - (not was.forward), f"{now.step} behind {was.step}"
