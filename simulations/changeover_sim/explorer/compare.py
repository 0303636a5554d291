"""Where a schedule that fails first differs from the nearest one that passes.

Runs schedules on a stage: the failing one with a deviation taken back, from its last to its first.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from typing import Literal

import attrs

from changeover_sim.explorer import token
from changeover_sim.explorer.errors import ExplorerError
from changeover_sim.explorer.schedule import Ending, Program
from changeover_sim.explorer.stage import Stage
from changeover_sim.explorer.tape import CANCEL, ORDER, VALUE, Decision, Picks, Played, picks_of
from changeover_sim.explorer.trace import Recorder, Roll, Step, print_of

Kind = Literal["order", "choice", "cancel"]

_KINDS: dict[int, Kind] = {ORDER: "order", VALUE: "choice", CANCEL: "cancel"}
_RUNS_MAX = 64
_LAST_ONES = 16
"""How many deviations are taken back one by one before the rest is halved again and again."""
_ALL_STEPS_MAX = 100_000
"""How many steps the search for a schedule that passes may make in all."""


@attrs.frozen(eq=False)
class Parting:
    """The step in which a failing schedule parts from one that passes."""

    number: int
    """The number of the step, as in `Step.number`."""
    kind: Kind
    """What was decided otherwise: who goes next, what `choose` returns, or whether a scope is cancelled."""
    fails: Step | None
    """The step in the schedule that fails; None: that one has ended."""
    passes: Step | None
    """The step in the schedule that passes; None: that one has ended."""
    token: str
    """The schedule that passes, as a token."""
    runs: int
    """How many schedules were run to find it."""


def parting(program: Program, token_text: str, *, runs: int = _RUNS_MAX) -> Parting | None:
    """Return where a token's schedule parts from the nearest that passes; None: none was found, or it does not fail.

    At most `runs` schedules are tried beside it. One that cannot be judged ends the search. Raises
    `TokenError` and ValueError, as `shrink` does.
    """
    made = token.decode(token_text)
    if made.program != token.name_of(program):
        raise token.for_another(made, token.name_of(program))
    if type(runs) is not int or runs < 1:
        raise ValueError(f"runs must be a whole number of at least 1, not {runs!r}")
    with Stage(made.rules, made.seed).open() as stage:
        return Neighbours(program, stage, made, runs).parting()


class Neighbours:
    """The schedules beside one that fails."""

    def __init__(self, program: Program, stage: Stage, made: token.Token, runs: int = _RUNS_MAX) -> None:
        """`stage` is open; `made` is the failing schedule."""
        self._program = program
        self._stage = stage
        self._made = made
        self._runs_max = runs
        self._runs = 0
        self._steps = 0

    def parting(self) -> Parting | None:
        """Find the nearest that passes, and return where they part; what the program prints meanwhile is dropped."""
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            return self._parting()

    def _parting(self) -> Parting | None:
        roll = Roll()
        try:
            failing = self._stage.play(self._program, Played(self._made.picks), self._made.chance, roll)
            if failing.verdict is None:
                return None
            passing = self._passing(failing.tape)
            return None if passing is None else self._compared(failing, passing, roll)
        except ExplorerError:  # the schedule that fails could be judged, and one beside it cannot
            return None

    # --- the nearest that passes --------------------------------------------------------------------------------------

    def _passing(self, tape: list[Decision]) -> Ending | None:
        """Return the first of the candidates that passes, the one with the longest common beginning first."""
        picks = picks_of(tape)
        deviations = [at for at, taken in enumerate(picks) if taken]
        found = self._first(_without_one(picks, deviations[-_LAST_ONES:]))
        if found is None and len(deviations) > _LAST_ONES:
            found = self._halved(picks, deviations[:-_LAST_ONES])
        return found or self._first(_with_one(tape))

    def _first(self, candidates: Iterator[Picks]) -> Ending | None:
        """Return the first that passes, as long as there is something left to try it with."""
        while not self._is_spent() and (picks := next(candidates, None)) is not None:
            ending = self._play(picks)
            if ending is not None:
                return ending
        return None

    def _halved(self, picks: Picks, deviations: list[int]) -> Ending | None:
        """Return the longest beginning that passes, where more of it fails: found by halving, as git bisect does."""
        passing = self._play(())
        low, high = 0, len(deviations)
        while passing is not None and high - low > 1:
            middle = (low + high) // 2
            ending = self._play(picks[: deviations[middle]])
            passing, low, high = (passing, low, middle) if ending is None else (ending, middle, high)
        return passing

    def _play(self, picks: Picks) -> Ending | None:
        """Run a schedule; return None where it fails, or where enough of them were run."""
        if self._is_spent():
            return None
        self._runs += 1
        ending = self._stage.play(self._program, Played(picks), self._made.chance)
        self._steps += ending.steps
        return ending if ending.verdict is None else None

    def _is_spent(self) -> bool:
        return self._runs >= self._runs_max or self._steps >= _ALL_STEPS_MAX

    # --- where they part ----------------------------------------------------------------------------------------------

    def _compared(self, failing: Ending, passing: Ending, roll: Roll) -> Parting | None:
        pairs = enumerate(zip(failing.tape, passing.tape, strict=False))
        at = next((n for n, (one, other) in pairs if one != other), None)
        if at is None:
            return None
        around = next((number for number, decided in roll.marks if decided > at), roll.marks[-1][0])
        one, other = (self._recorded(ending, around) for ending in (failing, passing))
        number = next((n for n in sorted(one | other) if _shape(one.get(n)) != _shape(other.get(n))), None)
        if number is None:
            return None
        kind = _KINDS[failing.tape[at][0]]
        return Parting(number, kind, one.get(number), other.get(number), self._token(passing), self._runs)

    def _token(self, passing: Ending) -> str:
        """Return the token of the schedule that passes, which takes one more run."""
        picks = picks_of(passing.tape)
        recorded = self._stage.play(self._program, Played(picks), self._made.chance, Recorder(passing.steps))
        made = attrs.evolve(self._made, picks=picks, steps=passing.steps, print=print_of(recorded.trace))
        return token.encode(made)

    def _recorded(self, ending: Ending, around: int) -> dict[int, Step]:
        """Run a schedule again, recorded beside the step in question; return the steps by their numbers."""
        recorder = Recorder(ending.steps, around=around)
        again = self._stage.play(self._program, Played(picks_of(ending.tape)), self._made.chance, recorder)
        return {step.number: step for step in again.trace}


def _without_one(picks: Picks, deviations: list[int]) -> Iterator[Picks]:
    """Yield the schedule up to each deviation, and the schedule without that one, from the last to the first."""
    for at in reversed(deviations):
        yield picks[:at]
        if any(picks[at + 1 :]):
            yield (*picks[:at], 0, *picks[at + 1 :])


def _with_one(tape: list[Decision]) -> Iterator[Picks]:
    """Yield the schedule up to each decision with the next alternative taken there, from the last to the first."""
    for at in reversed(range(len(tape))):
        _, width, taken = tape[at]
        if taken + 1 < width:
            yield (*(pick for _, _, pick in tape[:at]), taken + 1)


def _shape(step: Step | None) -> object:
    """Return what makes two steps the same, whatever was there before."""
    return None if step is None else (step.task, step.begins, step.lines, step.ends, step.cause, step.choices)
