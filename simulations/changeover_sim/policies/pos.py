"""POS, partial order sampling: each pending step has a random priority, new for those whose order has just mattered.

Yuan, Yang, Gu: Partial Order Aware Concurrency Sampling, CAV 2018. Steps that have nothing in common are not shuffled
again and again, so that orders which differ come evenly; it needs `touch_next`, or at least `touch`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import Any, ClassVar

import attrs

from changeover_sim.explorer.tape import Path
from changeover_sim.policies.base import PROBES, Drawing, Measured, Measures
from changeover_sim.policies.foresight import Foresight, Sight, Used


@attrs.frozen
class POS:
    """Runs the pending step of the highest priority; it and those that use the same draw new ones."""

    samples: ClassVar[bool] = True

    def begin(self) -> PartialOrders:
        """Return a strategy that has seen nothing yet."""
        return PartialOrders()


class PartialOrders(Measured):
    """POS over one program."""

    def __init__(self) -> None:
        super().__init__()
        self._foresight = Foresight()

    def chooser(self, index: int, rng: Random) -> Pending:
        """Return the priorities of schedule `index`; it never runs out."""
        probe = index < PROBES
        if not probe and not self._foresight.touched:
            return Pending(rng, self.measures, index)  # nothing is ever touched: there is nothing to look at
        return Racing(rng, self.measures, index, self._foresight.sight(probe=probe))


class Pending(Drawing):
    """One schedule in which a step draws its priority when it is first seen; one that was no choice leaves its own."""

    def __init__(self, rng: Random, measures: Measures, index: int) -> None:
        super().__init__(rng, measures, index)
        self._priority: dict[Any, float] = {}

    def pick(self, candidates: Sequence[Any]) -> int:
        """Return the one of the highest priority, which has none from then on."""
        found = priorities(self._priority, candidates, self._random)
        first = found.index(max(found))
        del self._priority[candidates[first]]
        return first


class Racing(Pending):
    """One schedule of POS."""

    def __init__(self, rng: Random, measures: Measures, index: int, sight: Sight) -> None:
        super().__init__(rng, measures, index)
        self._sight = sight
        self._uses: dict[Any, Used] = {}
        """What the next step of each task uses, of those that use anything."""
        self.watch = sight.watch

    def spawned(self, task: Any, path: Path) -> None:
        """Expect the first step of a task."""
        self._sight.spawned(task, path)
        self._expect(task)

    def made(self, task: Any, used: Used) -> None:
        """Let those draw anew that are about to use what this step has used."""
        self._sight.made(task, used)
        self._priority.pop(task, None)  # it was no choice, perhaps
        self._uses.pop(task, None)
        if used:
            for other, uses in self._uses.items():
                if not used.isdisjoint(uses):
                    self._priority.pop(other, None)
        self._expect(task)

    def _expect(self, task: Any) -> None:
        uses = self._sight.next(task)
        if uses:
            self._uses[task] = uses


def priorities(priority: dict[Any, float], candidates: Sequence[Any], draw: Callable[[], float]) -> list[float]:
    """Return the priorities of the candidates; those that have none draw one, in the order in which they stand."""
    found = list(map(priority.get, candidates))
    if None in found:
        for candidate in candidates:
            if candidate not in priority:
                priority[candidate] = draw()
        found = list(map(priority.get, candidates))
    return found  # type: ignore[return-value]
