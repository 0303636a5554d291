"""Random walk: at each step any that is ready, with the same probability. Finds shallow bugs fast, starves nobody."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import Any, ClassVar

import attrs

from changeover_sim.explorer.tape import Decision
from changeover_sim.policies.base import Cancels, Drawn


@attrs.frozen
class RandomWalk:
    """Chooses evenly among what is ready, in every step anew."""

    samples: ClassVar[bool] = True

    def begin(self) -> RandomWalks:
        """Return a strategy that has seen nothing yet."""
        return RandomWalks()


class RandomWalks:
    """Random walks over one program."""

    def __init__(self) -> None:
        self._cancels = Cancels()

    def chooser(self, index: int, rng: Random) -> Walk:
        """Return the walk of schedule `index`; it never runs out."""
        return Walk(rng, self._cancels.drawn(index, rng))

    def learn(self, index: int, tape: Sequence[Decision]) -> bool:
        """Learn nothing: walks are alike."""
        return True


class Walk:
    """One random walk."""

    def __init__(self, rng: Random, drawn: Drawn) -> None:
        self._random: Callable[[], float] = rng.random
        self.cancel = drawn.cancel

    def pick(self, candidates: Sequence[Any]) -> int:
        """Return any of them."""
        return int(self._random() * len(candidates))

    def value(self, width: int) -> int:
        """Return any option."""
        return int(self._random() * width)
