"""What a policy is: a frozen value that begins a strategy, which decides one schedule after the other.

Owns nothing. A policy knows decisions, and nothing of Trio: candidates are opaque and hashable.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import ClassVar, Protocol

from changeover_sim.explorer.tape import ORDER, Chooser, Decision

PROBES = 100
"""How many schedules a sampling policy takes its measure from, such as how long they are."""

_QUIET_EVERY = 10


class Strategy(Protocol):
    """A policy at work on one program."""

    def chooser(self, index: int, rng: Random) -> Chooser | None:
        """Return who decides schedule `index`, drawing from `rng` only; None: there is nothing left to try."""
        ...

    def learn(self, index: int, tape: Sequence[Decision]) -> bool:
        """See what was decided in schedule `index`, which has just ended; False: it cannot have been that program's.

        A policy that `samples` learns from the first `PROBES` only, which every process runs: so each schedule is the
        same whoever runs it.
        """
        ...


class Policy(Protocol):
    """How schedules are chosen; its `repr` is what people read."""

    samples: ClassVar[bool]
    """Whether each schedule is drawn by its index alone, so that several processes can share the indices out."""

    def begin(self) -> Strategy:
        """Return a strategy that has seen nothing yet."""
        ...


class Measures:
    """What is measured in the probes by all policies that draw over the length of a schedule; a portfolio has one."""

    def __init__(self) -> None:
        self.cancels = Cancels()
        self.decisions_max = 1
        """How many decisions of order a schedule can have."""

    def learn(self, index: int, tape: Sequence[Decision]) -> None:
        """Learn how long a schedule can be."""
        if index < PROBES:
            self.decisions_max = max(self.decisions_max, sum(1 for kind, _, _ in tape if kind == ORDER))


class Measured:
    """A strategy that has measures."""

    def __init__(self) -> None:
        self.measures = Measures()

    def learn(self, index: int, tape: Sequence[Decision]) -> bool:
        """Learn how long a schedule can be."""
        self.measures.learn(index, tape)
        return True


class Drawing:
    """What all who draw have in common: an option is any, with the same probability."""

    def __init__(self, rng: Random, measures: Measures, index: int) -> None:
        self._random: Callable[[], float] = rng.random
        self.cancel = measures.cancels.drawn(index, rng).cancel

    def value(self, width: int) -> int:
        """Return any option."""
        return int(self._random() * width)


class Cancels:
    """Where scopes are cancelled: at a moment drawn evenly from as many as there were in the probes, or never.

    Asked at each moment with a fixed probability, a cancellation would nearly always come early.
    """

    def __init__(self) -> None:
        self.moments: dict[int, int] = {}
        """The most moments that each scope of a schedule had."""

    def drawn(self, index: int, rng: Random) -> Drawn:
        """Return the cancellations of schedule `index`."""
        return Drawn(self.moments, index, rng)


class Drawn:
    """The cancellations of one schedule; a tenth of the probes has none, so that it is seen how long scopes can be."""

    def __init__(self, moments: dict[int, int], index: int, rng: Random) -> None:
        self._moments = moments
        self._probe = index < PROBES
        self._quiet = self._probe and index % _QUIET_EVERY == 0
        self._rng = rng
        self._at: dict[int, int] = {}

    def cancel(self, scope: int, moment: int) -> bool:
        """Return whether the moment that was drawn for the scope has come."""
        if moment == 0:
            self._at[scope] = self._rng.randrange(self._moments.get(scope, 1) + 2)
        if self._probe:
            self._moments[scope] = max(self._moments.get(scope, 1), moment + 1)
        return not self._quiet and moment == self._at[scope]
