"""What a version occupies, and what to do for its bytes to come back: pure decisions over what was measured.

`Overlaps` tells which measurements say something; any thread may use it. Touches nothing, spawns nothing.
"""

from __future__ import annotations

import itertools
from typing import Literal

import attrs

from changeover.core.tally import peek

MemoryMethod = Literal["model", "resident_set", "hint", "source_size", "unknown"]
"""Where a figure comes from: the model itself, the growth of the process, the spec's hint, its file, nowhere."""

Size = tuple[int | None, MemoryMethod]
"""What a version occupies in bytes, None where nobody knows, and who says so."""

Step = Literal["trim", "collect"]
"""`trim`: hand free pages back to the system; `collect`: the same behind a full garbage collection."""

WORTH_BYTES = 2**20
"""Less than this is worth neither: both cost milliseconds, and such models find room in what is free anyway."""

ENOUGH = 0.9
"""So much of what a version occupied counts as all of it: allocators keep a little, and figures are round."""


@attrs.frozen
class Returned:
    """What came back of one model's memory."""

    expected_bytes: int | None
    """What the model occupied; None where nobody knew."""
    returned_bytes: int | None
    """What the process gave back, 0 or more; None where that cannot be told."""
    resident_bytes: int | None
    """The resident set of the process afterwards; None where the system does not tell."""
    collected: bool
    """Whether a garbage collection was paid for it."""


def occupied(stated_bytes: int | None, grown_bytes: int | None, guess: Size) -> Size:
    """Return what a version occupies: what its model says, else the growth around its load, else the guess.

    A process that did not grow says nothing: the model lies in memory that was free in it before. Nor does one that
    grew by less than a hint: the rest may come with use, as that of a mapped file does.
    """
    if stated_bytes is not None:
        return stated_bytes, "model"
    hinted = guess[0] or 0 if guess[1] == "hint" else 0
    if grown_bytes is not None and grown_bytes > hinted:
        return grown_bytes, "resident_set"
    return guess


def next_step(
    done: Step | None, *,
    expected_bytes: int | None, grown_bytes: int | None, returned_bytes: int | None, is_alive: bool,
) -> Step | None:  # fmt: skip
    """Return what to do next for a closed model's memory, given what was done last; None: nothing more.

    A trim holds nobody up but who allocates, so it is worth the leftovers of a load, too. A collection stops every
    thread: it is paid only where bytes are missing, and either the load took them for certain or the model still
    exists; where nobody knows how many are missing, only for a model that exists.
    """
    if done == "collect" or (expected_bytes is not None and expected_bytes < WORTH_BYTES):
        return None
    if returned_bytes is None or expected_bytes is None:
        return "trim" if done is None else "collect" if is_alive else None
    taken = (expected_bytes, expected_bytes if grown_bytes is None else grown_bytes)
    if done is None:
        return "trim" if _is_short(returned_bytes, max(taken)) else None
    if returned_bytes >= ENOUGH * expected_bytes or not _is_short(returned_bytes, expected_bytes):
        return None
    return "collect" if is_alive or _is_short(returned_bytes, min(taken)) else None


def _is_short(returned_bytes: int, taken_bytes: int) -> bool:
    """Return whether so much is missing that it is worth anything."""
    return taken_bytes - returned_bytes >= WORTH_BYTES


class Span:
    """A piece of work that changes what the process occupies."""

    __slots__ = ("began_alone", "number")

    def __init__(self) -> None:
        self.number = 0
        self.began_alone = False


class Overlaps:
    """Which pieces of work change what the process occupies at the same time; takes no lock."""

    def __init__(self) -> None:
        self._open: dict[Span, None] = {}
        self._begun: itertools.count[int] = itertools.count()

    def begin(self) -> Span:
        """Enter a piece of work, before anything is measured for it."""
        span = Span()
        # Entered first, counted after: of two that begin at once, each sees the other among the open ones, or the
        # later one is counted while the earlier one is open.
        self._open[span] = None
        span.number = next(self._begun)
        span.began_alone = len(self._open) == 1
        return span

    def is_alone(self, span: Span) -> bool:
        """Return whether nothing else was going on since it began, and nothing when it began."""
        return span.began_alone and peek(self._begun) == span.number + 1

    def end(self, span: Span) -> None:
        """Take a piece of work out, after everything was measured for it."""
        self._open.pop(span, None)

    def orphan(self) -> None:
        """Forget what goes on, in a forked process: those threads stayed in the other one."""
        self._open.clear()
