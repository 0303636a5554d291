"""Random walk: at each step any that is ready, with the same probability. Finds shallow bugs fast, starves nobody."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import Any, ClassVar

import attrs

from changeover_sim.explorer.tape import Decision
from changeover_sim.policies.base import Cancels


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
        return Walk(rng, self._cancels)

    def learn(self, tape: Sequence[Decision]) -> None:
        """Learn how many moments there are to cancel at."""
        self._cancels.learn(tape)


class Walk:
    """One random walk."""

    def __init__(self, rng: Random, cancels: Cancels) -> None:
        self._random: Callable[[], float] = rng.random
        self._rng = rng
        self._cancels = cancels
        self._cancel_at = -1

    def pick(self, candidates: Sequence[Any]) -> int:
        """Return any of them."""
        return int(self._random() * len(candidates))

    def value(self, width: int) -> int:
        """Return any option."""
        return int(self._random() * width)

    def cancel(self, moment: int) -> bool:
        """Return whether the drawn moment has come."""
        if moment == 0:
            self._cancel_at = self._cancels.draw(self._rng)
        return moment == self._cancel_at
