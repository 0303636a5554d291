"""How many steps of each kind the tasks of a program make, counted in its probes, by the path of each task.

Owns the counts. A kind is a resource that steps use, or `EVERY`, or `LIFE`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping
from typing import Any

import attrs

from changeover_sim.explorer.tape import Path
from changeover_sim.policies.foresight import Used


@attrs.frozen
class Kind:
    """A kind of steps that is no resource."""

    name: str


EVERY = Kind("every")
LIFE = Kind("life")
"""A task's first step, and each first step behind a wait."""


class Tally:
    """The counts of one schedule; it is told all that a `Watcher` is told, and who waits."""

    def __init__(self) -> None:
        self.counts: dict[Path, Counter[Hashable]] = {}
        self._of: dict[Any, Counter[Hashable]] = {}
        self._rising: set[Any] = set()

    def spawned(self, task: Any, path: Path) -> None:
        """Begin to count for a task."""
        self._of[task] = self.counts[path] = Counter()
        self._rising.add(task)

    def made(self, task: Any, used: Used) -> None:
        """Count a step; that of a deadline or a thread is nobody's."""
        if task is None:
            return
        counts = self._of[task]
        counts[EVERY] += 1
        if task in self._rising:
            self._rising.remove(task)
            counts[LIFE] += 1
        for resource in sorted(used, key=repr) if len(used) > 1 else used:  # a set has no order that one could rely on
            counts[resource] += 1

    def waits(self, task: Any) -> None:
        """See that a task waits."""
        self._rising.add(task)


class Census:
    """The counts of all probes."""

    def __init__(self) -> None:
        self.probes = 0
        self._counts: dict[Path, Counter[Hashable]] = {}
        self._shared: dict[Hashable, int] | None = None
        self._expected: dict[Hashable, Mapping[Path, float]] = {}

    def add(self, tally: Tally) -> None:
        """Add what was counted in one more schedule."""
        self.probes += 1
        for path, counts in tally.counts.items():
            self._counts.setdefault(path, Counter()).update(counts)
        self._shared = None
        self._expected = {}

    def shared(self) -> Mapping[Hashable, int]:
        """Return how often each resource was used, of those that at least two tasks use."""
        if self._shared is None:
            used: dict[Hashable, list[int]] = {}
            for counts in self._counts.values():
                for kind, count in counts.items():
                    if not isinstance(kind, Kind):
                        used.setdefault(kind, []).append(count)
            self._shared = {resource: sum(counts) for resource, counts in used.items() if len(counts) > 1}
        return self._shared

    def expected(self, kind: Hashable) -> Mapping[Path, float]:
        """Return how many steps of a kind each task and those that it spawns make in a schedule, on the average."""
        if kind not in self._expected:
            totals: dict[Path, float] = {}
            for path, counts in self._counts.items():
                for end in range(1, len(path) + 1):
                    totals[path[:end]] = totals.get(path[:end], 0.0) + counts[kind] / self.probes
            self._expected[kind] = totals
        return self._expected[kind]
