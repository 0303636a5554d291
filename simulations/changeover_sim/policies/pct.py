"""PCT, probabilistic concurrency testing: strict random priorities, and a few moments at which the first is demoted.

Burckhardt, Kothari, Musuvathi, Nagarakatte: A Randomized Scheduler with Probabilistic Guarantees of Finding Bugs,
ASPLOS 2010. Finds what needs one task to be starved for long, which a random walk practically never does.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any, ClassVar

import attrs

from changeover_sim.policies.base import Drawing, Measured, Measures


def _at_least_one(_: object, __: object, value: Any) -> None:
    if type(value) is not int or value < 1:
        raise ValueError(f"PCT needs a depth of at least 1, not {value!r}")


@attrs.frozen
class PCT:
    """Finds a bug of depth `depth` in n tasks and k decisions with probability at least 1 / (n * k ** (depth - 1))."""

    depth: int = attrs.field(default=3, validator=_at_least_one)
    """How many ordering constraints the bug needs; one demotion fewer is made."""

    samples: ClassVar[bool] = True

    def begin(self) -> Priorities:
        """Return a strategy that has seen nothing yet."""
        return Priorities(self.depth)


class Priorities(Measured):
    """PCT over one program: it measures how many decisions a schedule has, and spreads its demotions over them."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self._demotions = depth - 1

    def chooser(self, index: int, rng: Random) -> Prioritised:
        """Return the priorities of schedule `index`; it never runs out."""
        at = sorted(rng.randrange(self.measures.decisions_max) for _ in range(self._demotions))
        return Prioritised(rng, self.measures, index, at)


class Prioritised(Drawing):
    """One schedule of PCT."""

    def __init__(self, rng: Random, measures: Measures, index: int, demotions: Sequence[int]) -> None:
        super().__init__(rng, measures, index)
        self._rng = rng
        self._demotions = list(reversed(demotions))
        self._decision = 0
        self._lowest = 0.0
        self._priority: dict[Any, float] = {}

    def pick(self, candidates: Sequence[Any]) -> int:
        """Return the one of the highest priority, once those whose moment it is were demoted."""
        first = self._first(candidates)
        while self._demotions and self._demotions[-1] <= self._decision:
            self._demotions.pop()
            self._lowest -= 1.0
            self._priority[candidates[first]] = self._lowest
            first = self._first(candidates)
        self._decision += 1
        return first

    def _first(self, candidates: Sequence[Any]) -> int:
        found = list(map(self._priority.get, candidates))
        if None in found:
            for candidate in candidates:
                if candidate not in self._priority:
                    self._priority[candidate] = self._random()
            return self._first(candidates)
        return found.index(max(found))  # type: ignore[type-var]

    def value(self, width: int) -> int:
        """Return any option."""
        return self._rng.randrange(width)
