"""From an ending to a failure: the schedule is run again and recorded, and must go the same way.

Owns nothing.
"""

from __future__ import annotations

from typing import Any, Protocol, cast

from changeover_sim.explorer import token
from changeover_sim.explorer.results import Failure, Verdict
from changeover_sim.explorer.schedule import Ending, Program
from changeover_sim.explorer.stage import Stage
from changeover_sim.explorer.tape import Decision, Played, picks_of
from changeover_sim.explorer.trace import Recorder, Step, print_of


class Plan(Protocol):
    """What is known of the exploration."""

    @property
    def program(self) -> Program:
        """The program."""
        ...

    def chance(self, index: int) -> int:
        """Return the seed of the program's own draws in a schedule."""
        ...

    def token(self, index: int, ending: Ending, print_: int) -> token.Token:
        """Return what replays a schedule."""
        ...


def confirm(plan: Plan, stage: Stage, index: int, first: Ending, other: Ending | None = None) -> Failure:
    """Run a schedule again, recorded; where it goes another way, that is the failure, and `other` is such a run."""
    again, third = (_recorded(plan, stage, index, first) for _ in range(2))
    made = plan.token(index, first, fingerprint(again))
    same = again.tape == first.tape and again.verdict == first.verdict and fingerprint(again) == fingerprint(third)
    if same and other is None:
        return failure_of(made, again)
    return failure_of(made, again, _difference(first, other or again, again, third))


def _recorded(plan: Plan, stage: Stage, index: int, first: Ending) -> Ending:
    return stage.play(plan.program, Played(picks_of(first.tape)), plan.chance(index), Recorder(first.steps))


def failure_of(made: token.Token, ending: Ending, difference: str = "") -> Failure:
    """Return the failure that an ending stands for."""
    verdict = "nondeterminism" if difference else ending.verdict
    return Failure(
        cast("Verdict", verdict),
        None if difference else ending.error,
        token.encode(made),
        made.index,
        made.policy,
        made.seed,
        made.program,
        ending.trace,
        ending.waiting,
        ending.leftover,
        difference,
        stock=ending.stock,
    )


def fingerprint(ending: Ending) -> int:
    """Return the checksum of what was recorded of a schedule."""
    return print_of(ending.trace)


def _difference(first: Ending, second: Ending, recorded: Ending, again: Ending) -> str:
    """Say where two runs of the same schedule part, and what that means."""
    steps = _first_difference(recorded.trace, again.trace)
    if steps is not None:
        at, one, other = steps
        return f"step {at + 1} was {one or 'no step at all'} and, run again, {other or 'no step at all'}. {_LOOSE}"
    calls = _first_difference(first.roll, second.roll) if second.roll else None
    if calls is not None:
        return f"step {calls[0] + 1} was that of {calls[1]}; and, run again, of {calls[2]}. {_LOOSE}"
    decisions = _first_difference(first.tape, second.tape)
    if decisions is None:
        ended = f"it ended with {first.verdict or 'success'} and then with {second.verdict or 'success'}"
        return f"{ended}. {_LOOSE}"
    at, one, other = decisions
    return f"decision {at + 1} was {_shown(one)} and, run again, {_shown(other)}. {_LOOSE}"


_LOOSE = (
    "Something that is not controlled decides there: the wall clock, a set of strings, os.urandom, an address, the "
    "order in which Trio aborts the tasks of one cancelled scope where they have abort functions of their own; or "
    "something that the program keeps from one run to the next, such as a module's variable, a cache or a file"
)


def _shown(decision: Decision | None) -> str:
    if decision is None:
        return "not made at all"
    kind, width, _ = decision
    return f"{('among steps', 'of choose()', 'about a cancellation')[kind]}, with {width} alternatives"


def _first_difference(one: Any, other: Any) -> tuple[int, Any, Any] | None:
    for at in range(max(len(one), len(other))):
        left = one[at] if at < len(one) else None
        right = other[at] if at < len(other) else None
        if _plain(left) != _plain(right):
            return at, left, right
    return None


def _plain(thing: Any) -> Any:
    return str(thing) if isinstance(thing, Step) else thing
