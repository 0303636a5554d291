"""The swap saga as a table: steps, what undoes each, the pivot and the point of no return.

`start` and `advance` are pure: they take what happened and return what to do next. `runtime/saga.py` does it.
After Garcia-Molina and Salem, "Sagas" (1987): compensations run in reverse order; past the pivot it rolls forward.
"""

from __future__ import annotations

from enum import Enum
from typing import Literal

import attrs

from changeover.core.values import SwapState


class Step(Enum):
    """The steps, in order."""

    VALIDATE = "validate"
    LOAD = "load"
    WARM = "warm"
    SHIFT = "shift"
    DRAIN = "drain"
    UNLOAD = "unload"


ORDER: tuple[Step, ...] = tuple(Step)

PIVOT = Step.SHIFT
"""Once this step is done a failure no longer turns the swap round; an order still may."""

NO_RETURN = Step.UNLOAD
"""Once this step is begun nothing turns the swap round."""

WRITTEN = frozenset({Step.LOAD, Step.SHIFT, Step.DRAIN, Step.UNLOAD})
"""What is written into the journal before it begins. To validate changes nothing, and a load warms up unasked."""

STATE_WHILE: dict[Step, SwapState] = {
    Step.VALIDATE: SwapState.NOT_STARTED,
    Step.LOAD: SwapState.LOADING_NEW_VERSION,
    Step.WARM: SwapState.LOADING_NEW_VERSION,
    Step.SHIFT: SwapState.TRANSITIONING,
    Step.DRAIN: SwapState.OLD_VERSION_DRAINING,
    Step.UNLOAD: SwapState.OLD_VERSION_DRAINING,
}

UNDONE_BY: dict[Step, str | None] = {
    Step.VALIDATE: "give up the model's swap slot",
    Step.LOAD: "unload the new version",
    Step.WARM: "take the new version out of use",
    Step.SHIFT: "give the traffic back",
    Step.DRAIN: "open the old version again",
    Step.UNLOAD: None,
}
"""What compensates each step; None where nothing can."""


# --- what happened --------------------------------------------------------------------------------------------------


@attrs.frozen
class Done:
    """The current step is done."""

    last: bool = False
    """True where nothing is left to do: the old version went into quarantine."""


@attrs.frozen
class Failed:
    """The current step failed."""


@attrs.frozen
class Ordered:
    """Somebody wants the swap turned round."""

    end: Literal[SwapState.ROLLED_BACK, SwapState.CANCELLED, SwapState.SUPERSEDED]
    """What the swap shall be called when it was."""


@attrs.frozen
class Undone:
    """The current compensation ended."""

    ok: bool = True
    """False where it failed for good: the swap ends as FAILED, and the rest is undone all the same."""


# --- what to do -----------------------------------------------------------------------------------------------------


@attrs.frozen
class Run:
    """Run this step."""

    step: Step


@attrs.frozen
class Compensate:
    """Undo this step; it may have been done, or begun, or both undone before: compensations are idempotent."""

    step: Step


@attrs.frozen
class Finish:
    """End the swap."""

    state: SwapState


Command = Run | Compensate | Finish
Happening = Done | Failed | Ordered | Undone


@attrs.frozen
class Progress:
    """How far a swap is: its direction, the step at hand, and how it shall end."""

    step: Step = Step.VALIDATE
    forward: bool = True
    end: SwapState = SwapState.COMPLETED

    @property
    def past_pivot(self) -> bool:
        """True while the drain or the unload runs forward."""
        return self.forward and ORDER.index(self.step) > ORDER.index(PIVOT)

    @property
    def can_turn(self) -> bool:
        """True while an order may still turn the swap round."""
        return self.forward and self.step is not NO_RETURN


class IllegalHappening(Exception):
    """Something happened that this progress cannot take; nothing was changed."""


def start() -> tuple[Progress, Command]:
    """Return the beginning of every swap."""
    return Progress(), Run(Step.VALIDATE)


def advance(progress: Progress, happening: Happening) -> tuple[Progress, Command]:
    """Return the progress after `happening` and what to do next; raises `IllegalHappening` where it cannot be."""
    match happening:
        case Done(last) if progress.forward:
            return _forward(progress, finished=last)
        case Failed() if progress.forward and progress.past_pivot:
            return _forward(progress, finished=False)
        case Failed() if progress.forward:
            return _turn(progress, SwapState.FAILED)
        case Ordered(end) if progress.can_turn:
            return _turn(progress, end)
        case Undone(ok) if not progress.forward:
            return _backward(progress, ok=ok)
        case _:
            raise IllegalHappening(f"{happening} at {progress}")


def _forward(progress: Progress, *, finished: bool) -> tuple[Progress, Command]:
    """Go on to the next step, or end."""
    if finished or progress.step is ORDER[-1]:
        return progress, Finish(progress.end)
    following = attrs.evolve(progress, step=ORDER[ORDER.index(progress.step) + 1])
    return following, Run(following.step)


def _turn(progress: Progress, end: SwapState) -> tuple[Progress, Command]:
    """Begin to undo, with the step at hand: it may have had half of its effect."""
    turned = attrs.evolve(progress, forward=False, end=end)
    return turned, Compensate(turned.step)


def _backward(progress: Progress, *, ok: bool) -> tuple[Progress, Command]:
    """Go back to the step before, or end."""
    end = progress.end if ok else SwapState.FAILED
    if progress.step is ORDER[0]:
        return attrs.evolve(progress, end=end), Finish(end)
    previous = attrs.evolve(progress, step=ORDER[ORDER.index(progress.step) - 1], end=end)
    return previous, Compensate(previous.step)
