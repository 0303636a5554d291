"""Starvation: a random walk in which now and then one task is kept waiting, for a power of two of decisions.

How long a task must wait until something goes wrong nobody knows: one decision or a thousand are as likely. A random
walk keeps nobody waiting for long, and priorities alone (PCT) keep somebody waiting nearly always.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any, ClassVar

import attrs

from changeover_sim.policies.base import Drawing, Measured, Measures


def _at_least_one(_: object, __: object, value: Any) -> None:
    if type(value) is not int or value < 1:
        raise ValueError(f"Starvation needs at least 1 freeze in a schedule, not {value!r}")


@attrs.frozen
class Starvation:
    """Freezes any task, `freezes` times in a schedule: half of them at once, half at any decision."""

    freezes: int = attrs.field(default=2, validator=_at_least_one)
    """How often; never the only one that is ready."""

    samples: ClassVar[bool] = True

    def begin(self) -> Starvations:
        """Return a strategy that has seen nothing yet."""
        return Starvations(self.freezes)


class Starvations(Measured):
    """Starvation over one program: it measures how many decisions a schedule has."""

    def __init__(self, freezes: int) -> None:
        super().__init__()
        self._freezes = freezes

    def chooser(self, index: int, rng: Random) -> Freezing:
        """Return the freezes of schedule `index`; it never runs out."""
        length = self.measures.decisions_max
        drawn = [
            # With the last power it lasts to the end of the schedule.
            (rng.randrange(length) * rng.randrange(2), 1 << rng.randrange(length.bit_length() + 1))
            for _ in range(self._freezes)
        ]
        return Freezing(rng, self.measures, index, drawn)


class Freezing(Drawing):
    """One schedule with freezes, each from one decision on and for so many."""

    def __init__(self, rng: Random, measures: Measures, index: int, drawn: Sequence[tuple[int, int]]) -> None:
        super().__init__(rng, measures, index)
        self._coming = sorted(drawn, reverse=True)
        self._decision = 0
        self._frozen: dict[Any, int] = {}
        """Up to which decision each is frozen."""

    def pick(self, candidates: Sequence[Any]) -> int:
        """Return any that is not frozen, or any where all are."""
        now = self._decision
        self._decision = now + 1
        while self._coming and self._coming[-1][0] <= now:
            _, length = self._coming.pop()
            self._frozen[candidates[int(self._random() * len(candidates))]] = now + length
        if self._frozen:
            free = [at for at, candidate in enumerate(candidates) if self._frozen.get(candidate, 0) <= now]
            if free:
                return free[int(self._random() * len(free))]
        return int(self._random() * len(candidates))
