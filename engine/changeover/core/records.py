"""What a journal keeps, as values: swaps with how far they are, and which version of each model shall be active.

Pure. `wire.py` turns a record into bytes; a journal keeps rows of bytes and looks into none of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import attrs

from changeover.core.operations import Aftermath, SetAside, SwapOperation
from changeover.core.plan import Progress
from changeover.core.snapshots import DrainOutcome, Holder
from changeover.core.values import Drain, Timeouts
from changeover.errors import InvalidValue

HISTORY_MAX = 10_000
"""So many swaps that have ended a journal keeps; older ones are forgotten."""

HOLDERS_MAX = 50
"""So many holders of a drain's outcome are written down, and as many for all members together; one more, the mark,
tells how many were left out."""

TEXT_MAX = 2_000
"""So many characters of an error are written down, an ellipsis included."""

WORD_MAX = 200
"""So many of a holder's name, or of where he is."""

LINES_MAX = 10
"""So many lines of each part of an aftermath."""

LEFT_OUT = "…"
"""What marks a cut: at the end of a text, as a line of its own, as the kind of a holder."""


@attrs.frozen
class SwapRecord:
    """One swap at one boundary: the step that is about to be run or undone, or how it ended."""

    operation: SwapOperation
    """The swap as it stands, whole but for what is too long."""
    progress: Progress
    """Where it is, in which direction it goes, and how it shall end."""
    drain: Drain
    """How the old versions are emptied, also if the swap is taken back later."""
    timeouts: Timeouts
    """The same for its time limits."""

    def __attrs_post_init__(self) -> None:
        """Refuse a swap that nobody can have ordered, and no recovery could end; raises `InvalidValue`."""
        models = [member.model for member in self.operation.members]
        if not models or len(set(models)) != len(models):
            raise InvalidValue(f"a swap moves at least one model, and each once; not {len(models)}, some of them twice")
        if not self.progress.end.ended:
            raise InvalidValue(f"a swap does not end as {self.progress.end.value}")


@attrs.frozen
class DesiredVersion:
    """Which version of a model shall be active, and what that was made of."""

    model: str
    version: str
    loader: str
    """The loader's entry-point name."""
    source: str
    """What the loader read: a path, or the loader's own notation."""
    sha256: str | None
    """The digest that the source file had to have; None: any."""


@attrs.frozen
class SwapRow:
    """A swap as a journal keeps it."""

    id: str
    ended: bool
    """True where nothing more will happen to it."""
    record: bytes
    """A `SwapRecord`; it takes the place of the one before it."""


@attrs.frozen
class Entry:
    """One transaction: all of it is kept, or nothing."""

    swaps: tuple[SwapRow, ...] = ()
    desired: Mapping[str, bytes | None] = MappingProxyType({})
    """By model: a `DesiredVersion`, or None where nothing shall be active any more."""


@attrs.frozen
class Kept:
    """What a journal held when it was opened."""

    swaps: tuple[SwapRow, ...] = ()
    """In the order in which they began: all that are open, and the last `HISTORY_MAX` that have ended."""
    desired: Mapping[str, bytes] = MappingProxyType({})
    """By model: a `DesiredVersion`."""
    set_aside: SetAside | None = None
    """The file that was in its place, where that could not be read."""


def shortened(record: SwapRecord) -> SwapRecord:
    """Return a record without what is too long to be written down at every boundary; every cut is marked."""
    operation = record.operation
    each = HOLDERS_MAX // len(operation.members)
    verdict, left = operation.guard, operation.aftermath
    return attrs.evolve(
        record,
        operation=attrs.evolve(
            operation,
            members=tuple(attrs.evolve(m, drain_outcome=_fewer(m.drain_outcome, each)) for m in operation.members),
            steps=tuple(attrs.evolve(step, error=_cut_error(step.error)) for step in operation.steps),
            error_message=_cut_error(operation.error_message),
            drain_outcome=_fewer(operation.drain_outcome, HOLDERS_MAX),
            guard=verdict and attrs.evolve(verdict, reason=cut(verdict.reason)),
            aftermath=left and Aftermath(_lines(left.stands), _lines(left.does_not), _lines(left.remedies)),
        ),
    )


def _fewer(outcome: DrainOutcome | None, most: int) -> DrainOutcome | None:
    """Return an outcome with no more holders than `most`, and one that stands for all others."""
    if outcome is None:
        return None
    holders = tuple(
        attrs.evolve(
            one, kind=_word(one.kind), holder=_word(one.holder), where=one.where and _word(one.where),
            thread=one.thread and _word(one.thread),
        )
        for one in outcome.holders[:most]
    )  # fmt: skip
    others = outcome.holders[most:]
    if others:
        longest_s = max(one.age_s for one in others)
        holders += (Holder(LEFT_OUT, f"{len(others)} more", longest_s, None),)
    return attrs.evolve(outcome, holders=holders)


def _lines(lines: tuple[str, ...]) -> tuple[str, ...]:
    first = tuple(cut(line) for line in lines[:LINES_MAX])
    others = len(lines) - len(first)
    return (*first, f"{LEFT_OUT} {others} more") if others else first


def _word(text: str) -> str:
    return cut(text, WORD_MAX)


def cut(text: str, most: int = TEXT_MAX) -> str:
    """Return a text that is not too long to be written down, with a mark where it was cut."""
    return text if len(text) <= most else text[: most - 1] + LEFT_OUT


def _cut_error(text: str | None) -> str | None:
    return text and cut(text)
