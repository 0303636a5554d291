"""What a journal keeps, as values: swaps with how far they are, and which version of each model shall be active.

Pure. `wire.py` turns a record into bytes; a journal keeps rows of bytes and looks into none of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import attrs

from changeover.core.operations import SetAside, SwapOperation
from changeover.core.plan import Progress
from changeover.core.values import Drain, Timeouts

HISTORY_MAX = 10_000
"""So many swaps that have ended a journal keeps; older ones are forgotten."""

HOLDERS_MAX = 50
"""So many holders of a drain's outcome are written down."""

TEXT_MAX = 2_000
"""So many characters of an error are written down."""


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
    """Return a record without what is too long to be written down at every boundary."""
    operation = record.operation
    members = tuple(
        attrs.evolve(m, drain_outcome=attrs.evolve(m.drain_outcome, holders=m.drain_outcome.holders[:HOLDERS_MAX]))
        if m.drain_outcome is not None
        else m
        for m in operation.members
    )
    steps = tuple(attrs.evolve(step, error=_cut(step.error)) for step in operation.steps)
    outcome = operation.drain_outcome
    return attrs.evolve(
        record,
        operation=attrs.evolve(
            operation,
            members=members,
            steps=steps,
            error_message=_cut(operation.error_message),
            drain_outcome=outcome and attrs.evolve(outcome, holders=outcome.holders[:HOLDERS_MAX]),
        ),
    )


def _cut(text: str | None) -> str | None:
    return text if text is None or len(text) <= TEXT_MAX else text[: TEXT_MAX - 1] + "…"
