"""What was decided in a schedule, decision by decision: the tape that replays it.

Owns nothing but the tape of one schedule. A decision is a bare tuple: one is made in every step.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any, Protocol

ORDER, VALUE, CANCEL = 0, 1, 2
"""Kinds of decisions: which step is next; which option `choose` returns; whether a scope is cancelled now."""

Decision = tuple[int, int, int]
"""Kind, number of alternatives, and the one that was taken; 0 is always first-in-first-out, the first, or no."""

Picks = tuple[int, ...]
"""The alternatives taken, without those of the tail that are 0."""

Path = tuple[int, ...]
"""How a task came to be: the how manieth of its spawner's tasks it is, behind its spawner's own path."""


class Chooser(Protocol):
    """Decides one schedule."""

    def pick(self, candidates: Sequence[Any]) -> int:
        """Return the index of the step to be made next; candidates are opaque, hashable and in the order of arrival."""
        ...

    def value(self, width: int) -> int:
        """Return one of `range(width)`, for `choose`."""
        ...

    def cancel(self, scope: int, moment: int) -> bool:
        """Return whether to cancel a scope at this of its moments; scopes and moments are counted from 0."""
        ...


class Watcher(Chooser, Protocol):
    """A chooser that looks at conflicts; tasks are the candidates that it is offered, and opaque.

    One that has a method `waits(task)` is also told of each task that waits, or has ended, behind its step.
    """

    def watch(self, ahead: Callable[[Any], frozenset[Hashable]]) -> None:
        """Begin; `ahead(candidate)` returns what its next step uses, as far as it said so by `touch_next`."""
        ...

    def spawned(self, task: Any, path: Path) -> None:
        """See a new task; in every schedule in which the same was spawned in the same order it has the same path."""
        ...

    def made(self, task: Any, used: frozenset[Hashable]) -> None:
        """See that a step was made, also one that was no choice, and what it used; None: of no task's."""
        ...


class Played:
    """Takes the decisions of a tape, and behind its end those of first-in-first-out."""

    def __init__(self, picks: Picks) -> None:
        self._picks = picks
        self._at = 0

    def _next(self, width: int) -> int:
        at, self._at = self._at, self._at + 1
        taken = self._picks[at] if at < len(self._picks) else 0
        return taken if taken < width else 0

    def pick(self, candidates: Sequence[Any]) -> int:
        """Return what the tape says."""
        return self._next(len(candidates))

    def value(self, width: int) -> int:
        """Return what the tape says."""
        return self._next(width)

    def cancel(self, scope: int, moment: int) -> bool:
        """Return what the tape says."""
        return bool(self._next(2))


def picks_of(tape: Iterable[Decision]) -> Picks:
    """Return the alternatives taken in a schedule, the zeros of the tail left out."""
    picks = [taken for _, _, taken in tape]
    while picks and not picks[-1]:
        picks.pop()
    return tuple(picks)


def deviations(picks: Picks) -> int:
    """Return how often a schedule differs from first-in-first-out."""
    return sum(1 for taken in picks if taken)
