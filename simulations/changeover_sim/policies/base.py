"""What a policy is: a frozen value that begins a strategy, which decides one schedule after the other.

Owns nothing. A policy knows decisions, and nothing of Trio: candidates are opaque and hashable.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import ClassVar, Protocol

from changeover_sim.explorer.tape import CANCEL, Chooser, Decision


class Strategy(Protocol):
    """A policy at work on one program."""

    def chooser(self, index: int, rng: Random) -> Chooser | None:
        """Return who decides schedule `index`, drawing from `rng` only; None: there is nothing left to try."""
        ...

    def learn(self, tape: Sequence[Decision]) -> None:
        """See what was decided in the schedule that has just ended."""
        ...


class Policy(Protocol):
    """How schedules are chosen; its `repr` is what people read."""

    samples: ClassVar[bool]
    """Whether each schedule is drawn by its index alone, so that several processes can share the indices out."""

    def begin(self) -> Strategy:
        """Return a strategy that has seen nothing yet."""
        ...


class Cancels:
    """Where a scope is cancelled: at a moment drawn evenly from as many as the longest schedule so far had, or never.

    Asked at each moment with a fixed probability, a cancellation would nearly always come early.
    """

    def __init__(self) -> None:
        self.moments_max = 1

    def draw(self, rng: Random) -> int:
        """Return the moment at which to cancel; one that never comes stands for not at all."""
        return rng.randrange(self.moments_max + 2)

    def learn(self, tape: Sequence[Decision]) -> None:
        """Count the moments of a schedule."""
        asked = sum(1 for kind, _, _ in tape if kind == CANCEL)
        self.moments_max = max(self.moments_max, asked)
