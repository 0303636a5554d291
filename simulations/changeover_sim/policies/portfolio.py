"""Portfolio: several policies take turns, because each finds what the others are slow at.

Owns one strategy for each of them, and the measures of all that measure the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any, ClassVar

import attrs

from changeover_sim.explorer.tape import Chooser, Decision
from changeover_sim.policies.base import Measured, Measures, Policy, Strategy
from changeover_sim.policies.pct import PCT
from changeover_sim.policies.pos import POS
from changeover_sim.policies.random_walk import RandomWalk
from changeover_sim.policies.starvation import Starvation
from changeover_sim.policies.surw import SURW


def _arms() -> tuple[Policy, ...]:
    """Return those that take turns unless told otherwise: every second turn is that of the one that finds most."""
    return RandomWalk(), SURW(), PCT(3), SURW(), POS(), SURW(), Starvation(), SURW()


def _draws(arm: Any) -> bool:
    """Return whether it is a policy of which any schedule can be asked for."""
    return getattr(arm, "samples", False) is True and hasattr(arm, "begin") and not isinstance(arm, type)


_WANTED = "Portfolio needs policies that draw each schedule by its index, such as PCT(), not"


def _taken(value: Any) -> tuple[Any, ...]:
    try:
        return tuple(value)
    except TypeError:
        raise ValueError(f"{_WANTED} {value!r}") from None


def _samplers(_: object, __: object, value: Any) -> None:
    if not value or not all(map(_draws, value)):
        raise ValueError(f"{_WANTED} {value!r}")


@attrs.frozen(repr=False)
class Portfolio:
    """Lets its arms take turns, one schedule each."""

    arms: tuple[Policy, ...] = attrs.field(factory=_arms, converter=_taken, validator=_samplers)
    """Who takes turns; one that stands there twice has two turns in each round, and learns from both."""

    samples: ClassVar[bool] = True

    def __repr__(self) -> str:
        return "Portfolio()" if self.arms == _arms() else f"Portfolio({self.arms!r})"

    def turn(self, index: int) -> int:
        """Return whose turn schedule `index` is.

        Each round begins with another arm, so that each of several processes has its share of all of them.
        """
        round_, place = divmod(index, len(self.arms))
        return (round_ + place) % len(self.arms)

    def arm(self, index: int) -> Policy:
        """Return the policy that draws schedule `index`."""
        return self.arms[self.turn(index)]

    def begin(self) -> Turns:
        """Return a strategy that has seen nothing yet."""
        return Turns(self)


class Turns:
    """A portfolio at work on one program. The arms share the probes: what all of them measure, each learns from all."""

    def __init__(self, portfolio: Portfolio) -> None:
        self._turn = portfolio.turn
        self._strategies: list[Strategy] = []
        """One for each turn of a round; equal arms have the same."""
        measures = Measures()
        for at, arm in enumerate(portfolio.arms):
            first = portfolio.arms.index(arm)
            strategy = self._strategies[first] if first < at else arm.begin()
            if isinstance(strategy, Measured):
                strategy.measures = measures
            self._strategies.append(strategy)

    def chooser(self, index: int, rng: Random) -> Chooser | None:
        """Return who decides schedule `index`, as the arm has it: one that does not look at conflicts does not pay."""
        return self._strategies[self._turn(index)].chooser(index, rng)

    def learn(self, index: int, tape: Sequence[Decision]) -> bool:
        """Let the arm learn whose schedule it was."""
        return self._strategies[self._turn(index)].learn(index, tape)
