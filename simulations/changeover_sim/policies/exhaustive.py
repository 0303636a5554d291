"""Exhaustive search: every schedule, or every one that skips the first in line at most so many times.

Emmi, Qadeer, Rakamaric: Delay-Bounded Scheduling, POPL 2011. What was skipped stays first in line. Every value of
`choose` and every moment of `cancel_anywhere` is tried, whatever the bound: they cost nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any, ClassVar

import attrs

from changeover_sim.explorer.tape import ORDER, Chooser, Decision, Played


def _bound(_: object, __: object, value: Any) -> None:
    if value is not None and (type(value) is not int or value < 0):
        raise ValueError(f"Exhaustive needs a bound of at least 0 delays, or None for no bound, not {value!r}")


@attrs.frozen
class Exhaustive:
    """Tries all schedules with at most `delays` skips, in lexical order, or all there are where that is None.

    Where steps say what they use, `DPOR` comes to the same as without a bound in fewer schedules.
    """

    delays: int | None = attrs.field(default=2, validator=_bound)
    """How often the first in line may be passed over; None: no bound, for small programs."""

    samples: ClassVar[bool] = False

    def begin(self) -> AllOfThem:
        """Return a strategy that has seen nothing yet."""
        return AllOfThem(self.delays)


class AllOfThem:
    """A depth-first search over tapes; the only state is the tape of the last schedule."""

    def __init__(self, delays: int | None) -> None:
        self._delays = delays
        self._next: tuple[int, ...] | None = ()
        self._last: list[Decision] = []

    def chooser(self, index: int, rng: Random) -> Chooser | None:
        """Return the next tape; None when every one was played."""
        return None if self._next is None else Played(self._next)

    def learn(self, index: int, tape: Sequence[Decision]) -> bool:
        """Find the next tape; False where the program did not get to the decision that was to be taken differently."""
        told = len(self._next or ())
        same = list(tape[: told - 1]) == self._last[: told - 1] if told else True
        self._next, self._last = following(tape, self._delays), list(tape)
        return same


def following(tape: Sequence[Decision], delays: int | None) -> tuple[int, ...] | None:
    """Return the picks of the tape after this one in lexical order; None behind the last."""
    spent = sum(taken for kind, _, taken in tape if kind == ORDER)
    for at in reversed(range(len(tape))):
        kind, width, taken = tape[at]
        if kind == ORDER:
            spent -= taken
        affordable = kind != ORDER or delays is None or spent + taken + 1 <= delays
        if taken + 1 < width and affordable:
            return (*(pick for _, _, pick in tape[:at]), taken + 1)
    return None
