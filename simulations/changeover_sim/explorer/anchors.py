"""A schedule as what deviates in it from first-in-first-out, each told by whom it passes over and at which step of his.

Told by its place on the tape, a deviation means something else as soon as one before it is taken back; told so, it
stays what it is. Owns what it sees of one schedule, and decides it.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any

from changeover_sim.explorer.tape import CANCEL, ORDER, VALUE, Chooser, Path

Who = tuple[Any, ...]
"""A task by its path; what is no task by its type and by how many of that type were seen before."""

Moment = tuple[Who, int]
"""Somebody, and how many steps he had made."""

Deviation = tuple[int, Hashable, Any]
"""Kind, where, and what was taken: for a step the `Moment` of the first in line, and who went before him; for `choose`
how many values were chosen before, and which one was; for a cancellation scope and moment, and True."""

_LAST = 1 << 62


class Noted:
    """Decides as another does, and notes all that deviates."""

    def __init__(self, by: Chooser) -> None:
        """`by`: who decides."""
        self.taken: list[Deviation] = []
        self.order: dict[Moment, int] = {}
        """Which step of the schedule each was."""
        self._by = by
        self._who: dict[Any, Who] = {}
        self._others: dict[str, int] = {}
        self._steps: dict[Who, int] = {}
        self._values = 0

    def watch(self, ahead: Callable[[Any], frozenset[Hashable]]) -> None:
        """Begin; what a step will use is no matter here."""

    def spawned(self, task: Any, path: Path) -> None:
        """Know a task by its path."""
        self._who[task] = path

    def made(self, task: Any, used: frozenset[Hashable]) -> None:
        """Count the steps of each task."""
        if task in self._who:
            moment = self._moment(task)
            self.order[moment] = len(self.order)
            self._steps[moment[0]] = moment[1] + 1

    def pick(self, candidates: Sequence[Any]) -> int:
        """Return who goes next."""
        for candidate in candidates:
            if candidate not in self._who:  # numbered when it is first seen, whoever is asked about
                self._moment(candidate)
        first = self._moment(candidates[0])
        at = self._step(candidates, first)
        return self._note(at, (ORDER, first, self._moment(candidates[at])[0]))

    def value(self, width: int) -> int:
        """Return what `choose` returns."""
        where, self._values = self._values, self._values + 1
        value = self._value(where, width)
        return self._note(value, (VALUE, where, value))

    def cancel(self, scope: int, moment: int) -> bool:
        """Return whether the scope is cancelled now."""
        cancelled = self._cancel(scope, moment)
        return bool(self._note(cancelled, (CANCEL, (scope, moment), True)))

    def _step(self, candidates: Sequence[Any], first: Moment) -> int:
        return self._by.pick(candidates)

    def _value(self, where: int, width: int) -> int:
        return self._by.value(width)

    def _cancel(self, scope: int, moment: int) -> bool:
        return self._by.cancel(scope, moment)

    def _note(self, taken: int, deviation: Deviation) -> int:
        if taken:
            self.taken.append(deviation)
        return taken

    def _moment(self, candidate: Any) -> Moment:
        who = self._who.get(candidate)
        if who is None:
            kind = type(candidate).__name__
            number = self._others.get(kind, 0)
            self._others[kind] = number + 1
            who = self._who[candidate] = (kind, number)
        return who, self._steps.get(who, 0)


class Anchored(Noted):
    """Lets these deviations come about where they belong, and else decides first-in-first-out."""

    def __init__(self, wanted: Iterable[Deviation]) -> None:
        """Want them; one that nothing comes of is left out."""
        super().__init__(self)
        self._wanted: dict[tuple[int, Hashable], list[Any]] = {}
        for kind, where, what in reversed(list(wanted)):
            self._wanted.setdefault((kind, where), []).append(what)

    def _step(self, candidates: Sequence[Any], first: Moment) -> int:
        # Somebody may be passed over several times at the same step: what is wanted there comes in its order.
        if (ORDER, first) in self._wanted:
            ready = [self._moment(candidate)[0] for candidate in candidates]
            while (who := self._next(ORDER, first)) is not None:
                if who in ready:
                    return ready.index(who)
        return 0

    def _value(self, where: int, width: int) -> int:
        return min(self._next(VALUE, where) or 0, width - 1)

    def _cancel(self, scope: int, moment: int) -> bool:
        return self._next(CANCEL, (scope, moment)) is not None

    def _next(self, kind: int, where: Hashable) -> Any:
        wanted = self._wanted.get((kind, where))
        return wanted.pop() if wanted else None


class Reordered(Anchored):
    """Lets the first in line go where he was passed over, and keeps to the order of that run from there."""

    def __init__(self, taken: Sequence[Deviation], at: int, order: Mapping[Moment, int]) -> None:
        """`at`: which of the deviations of a run is taken back, that of a step; `order`: that of its steps."""
        super().__init__(one for number, one in enumerate(taken) if number < at or one[0] != ORDER)
        self._back = taken[at][1]
        self._order = order
        self._turned = False

    def _step(self, candidates: Sequence[Any], first: Moment) -> int:
        if self._turned:
            turns = [self._order.get(self._moment(candidate), _LAST) for candidate in candidates]
            return turns.index(min(turns))
        at = super()._step(candidates, first)
        self._turned = not at and first == self._back
        return at
