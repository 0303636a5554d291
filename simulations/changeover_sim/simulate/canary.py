"""The canary of a fleet: a run in which the judge is told one thing that is not true, and that an oracle must find.

Owns nothing but the lie. An oracle that let it pass would let a bug of the engine pass.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from changeover_sim.oracles.base import Oracle
from changeover_sim.simulate.cast import WARM_UP

if TYPE_CHECKING:
    from changeover_sim.simulate.cast import Made
    from changeover_sim.simulate.run import Run

Lie = Callable[["Made"], None]


_NOBODY = 10**9
"""The number of a request that no run comes to."""


def use(made: Made) -> None:
    """Say that a closed model is warmed up."""
    made.life.run.judge.used(made, (WARM_UP,))


def close_again(made: Made) -> None:
    """Say that it is closed a second time."""
    made.closes += 1
    made.life.run.judge.closed(made)


def answer_nobody(made: Made) -> None:
    """Say that it was asked something that nobody has asked."""
    made.life.run.judge.used(made, (_NOBODY,))


LIES: tuple[tuple[Lie, int], ...] = ((use, 2), (close_again, 2), (answer_nobody, 1))
"""What is said of the first model that is closed, and which promise would be broken; every run closes one."""


class Canary(Oracle):
    """Sits among the oracles, and lies once."""

    promise = 0
    says = "a lie is found"

    def __init__(self, run: Run, lie: Lie) -> None:
        """Have one lie to tell."""
        super().__init__(run)
        self.told = False
        """Whether it was told."""
        self._lie = lie

    def closed(self, made: Made) -> None:
        """Tell it, unless it was told."""
        if not self.told:
            self.told = True
            self._lie(made)


def plant(run: Run) -> None:
    """Have a canary behind the oracles of a run, so that they have heard the truth first; its lie is by the seed."""
    run.judge.appoint((*run.judge.oracles, Canary(run, LIES[run.seed % len(LIES)][0])))
