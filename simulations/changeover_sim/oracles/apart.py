"""Promise 7, of swaps: those of different models never wait for each other.

Owns since when a swap waits for nobody. Who waits, and who has his turn, it reads in the line itself: nobody tells.
"""

# pyright: reportPrivateUsage=false

from __future__ import annotations

from typing import TYPE_CHECKING

from changeover_sim.oracles.base import Oracle
from changeover_sim.oracles.states import Clockwork

if TYPE_CHECKING:
    from changeover.runtime.slots import Contender
    from changeover_sim.simulate.life import Life
    from changeover_sim.simulate.run import Run


class Apart(Oracle):
    """Looks who stands in line for what."""

    promise = 7
    says = "swaps of different models never wait for each other"

    def __init__(self, run: Run) -> None:
        """Watch a run."""
        super().__init__(run)
        self._clock = Clockwork()
        self._idle: tuple[Contender, ...] = ()
        """Who was seen to wait for nobody at the last look."""

    def life_began(self, life: Life) -> None:
        """Begin anew."""
        self._slots = life.engine._slots
        self._idle = ()

    def step(self, life: Life) -> None:
        """When time has passed, look whether somebody waits whom nobody is in the way of, and has done so before."""
        if not self._clock.has_moved():
            return
        contenders = self._slots.everybody()
        if not contenders:
            self._idle = ()
            return
        idle = tuple(one for one in contenders if self._waits(one) and not _is_blocked(one, contenders))
        self.judged += 1
        for one in idle:
            if one in self._idle:
                self.broken(f"a swap of {' and '.join(one.models)} waits at {self._clock.at_s:g}, and for no other")
        self._idle = idle

    def _waits(self, one: Contender) -> bool:
        return any(self._slots.holder(model) is not one for model in one.models)


def _is_blocked(one: Contender, contenders: tuple[Contender, ...]) -> bool:
    """Return whether another one wants, or has, the slot of one of its models."""
    models = set(one.models)
    return any(other is not one and models.intersection(other.models) for other in contenders)
