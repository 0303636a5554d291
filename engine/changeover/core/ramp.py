"""How far a shift has come: its stages, and the time and the requests that each of them wants. Pure; time is told.

`runtime/shifting.py` holds one and does what it says.
"""

from __future__ import annotations

import attrs

from changeover.core.shift import Shift, Stage

_ROUNDING_S = 1e-6
"""What is left of a sum of differences is nothing to wait for: a clock may have no number for so short a time."""


@attrs.frozen
class Ramp:
    """A place in the stages of a shift."""

    stages: tuple[Stage, ...]
    """With the confirmation as the last one."""
    index: int = 0
    held_s: float = 0.0
    """How long the present stage has been held, pauses left out, in seconds."""
    before: int = 0
    """How many requests the new version had ended when the stage began."""

    @property
    def over(self) -> bool:
        """True where no stage is left."""
        return self.index == len(self.stages)

    @property
    def stage(self) -> Stage:
        """The present stage; not where it is over."""
        return self.stages[self.index]

    @property
    def rest_s(self) -> float:
        """How much longer the present stage is held at least, in seconds."""
        rest_s = self.stage.hold_s - self.held_s
        return rest_s if rest_s > _ROUNDING_S else 0.0


def of(plan: Shift) -> Ramp:
    """Return the beginning of a plan."""
    return Ramp(plan.stages + ((plan.confirmation,) if plan.confirmation is not None else ()))


def advance(ramp: Ramp, elapsed_s: float, ended: int, *, doubtful: bool) -> Ramp:
    """Return the ramp `elapsed_s` later, when the new version has ended `ended` requests in all.

    It goes on by one stage at most, and by none while the guard has its doubts.
    """
    if ramp.over:
        return ramp
    held = attrs.evolve(ramp, held_s=ramp.held_s + elapsed_s)
    enough = ended - held.before >= held.stage.samples
    if doubtful or not enough or held.rest_s > 0:
        return held
    return Ramp(ramp.stages, ramp.index + 1, 0.0, ended)
