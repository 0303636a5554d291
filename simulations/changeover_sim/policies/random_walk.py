"""Random walk: at each step any that is ready, with the same probability. Finds shallow bugs fast, starves nobody."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any, ClassVar

import attrs

from changeover_sim.policies.base import Drawing, Measured


@attrs.frozen
class RandomWalk:
    """Chooses evenly among what is ready, in every step anew."""

    samples: ClassVar[bool] = True

    def begin(self) -> RandomWalks:
        """Return a strategy that has seen nothing yet."""
        return RandomWalks()


class RandomWalks(Measured):
    """Random walks over one program."""

    def chooser(self, index: int, rng: Random) -> Walk:
        """Return the walk of schedule `index`; it never runs out."""
        return Walk(rng, self.measures, index)


class Walk(Drawing):
    """One random walk."""

    def pick(self, candidates: Sequence[Any]) -> int:
        """Return any of them."""
        return int(self._random() * len(candidates))
