"""What each candidate's next step will use: what it has said, or else what the same step used in earlier schedules.

Owns both. The same step is the one of the same number of the task of the same path.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

from changeover_sim.explorer.tape import Path

Used = frozenset[Hashable]
NOTHING: Used = frozenset()

_Place = tuple[Path, int]


class Foresight:
    """What is known of all schedules of a program."""

    def __init__(self) -> None:
        self.touched = False
        """Whether a step of any probe used anything."""
        self.unsaid: dict[_Place, Used] = {}
        """What steps used that had not said so before, in the last probe in which they did."""

    def sight(self, *, probe: bool) -> Sight:
        """Return what is known of the next schedule."""
        return Sight(self, probe=probe)


class Sight:
    """What is known of one schedule; it is told all that a `Watcher` is told."""

    def __init__(self, foresight: Foresight, *, probe: bool) -> None:
        self._foresight = foresight
        self._probe = probe
        self.counts = probe or bool(foresight.unsaid)
        """Whether it needs to be told of steps at all."""
        self._ahead: Callable[[Any], Used]
        self._next: dict[Any, _Place] = {}
        self._said: dict[Any, Used] = {}

    def watch(self, ahead: Callable[[Any], Used]) -> None:
        """Take how to ask what a candidate has said; until something was used before it was said, that is all."""
        self._ahead = ahead

    def spawned(self, task: Any, path: Path) -> None:
        """Begin to count the steps of a task."""
        if self.counts:
            self._next[task] = (path, 0)

    def made(self, task: Any, used: Used) -> None:
        """Count a step, and remember what it used without having said so."""
        if not self.counts or task is None:
            return
        path, number = place = self._next[task]
        self._next[task] = (path, number + 1)
        if self._probe:
            said = self._said.get(task, NOTHING)
            if used != said:
                self._foresight.unsaid[place] = used - said
            self._foresight.touched = self._foresight.touched or bool(used)
            self._said[task] = self._ahead(task)

    def next(self, candidate: Any) -> Used:
        """Return what a candidate's next step uses, as far as anybody knows."""
        said = self._ahead(candidate)
        if said or not self.counts:
            return said
        place = self._next.get(candidate)
        return NOTHING if place is None else self._foresight.unsaid.get(place, NOTHING)
