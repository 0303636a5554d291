"""Shrinking: the same failure with fewer deviations from first-in-first-out.

Owns the stage while it works. Zeller, Hildebrandt: Simplifying and Isolating Failure-Inducing Input, 2002, over the
decisions that are not 0; what a decision means shifts with those before it, so every attempt is a run.
"""

from __future__ import annotations

from collections.abc import Iterator

import attrs

from changeover_sim.explorer import token
from changeover_sim.explorer.errors import TokenError
from changeover_sim.explorer.judge import fingerprint
from changeover_sim.explorer.schedule import Ending, Program, leaves
from changeover_sim.explorer.stage import Stage
from changeover_sim.explorer.tape import Picks, Played, deviations, picks_of
from changeover_sim.explorer.trace import Recorder

Kind = tuple[str | None, tuple[str, ...]]
"""The verdict, and the types of what was raised."""


def shrink(program: Program, token_text: str, *, runs: int = 2_000) -> str:
    """Return the token of a schedule that fails in the same way and deviates less from first-in-first-out.

    The same way: the same verdict, and for exceptions the same types. At most `runs` schedules are tried. Raises
    `TokenError` where the token's schedule does not fail, and what `replay` raises.
    """
    made = token.decode(token_text)
    if made.program != token.name_of(program):
        raise token.for_another(made, token.name_of(program))
    if type(runs) is not int or runs < 1:
        raise ValueError(f"runs must be a whole number of at least 1, not {runs!r}")
    with Stage(made.rules, made.seed).open() as stage:
        shrinker = _Shrinker(program, stage, made.chance, runs)
        best = shrinker.run(made.picks)
        if best is None:
            raise TokenError("the schedule of the token does not fail when it is run again, so it cannot be shrunk")
        steps = stage.play(program, Played(best), made.chance).steps
        ending = stage.play(program, Played(best), made.chance, Recorder(steps))
    return token.encode(attrs.evolve(made, picks=best, steps=steps, print=fingerprint(ending)))


class _Shrinker:
    """One schedule being shrunk."""

    def __init__(self, program: Program, stage: Stage, chance: int, runs: int) -> None:
        self._program = program
        self._stage = stage
        self._chance = chance
        self._left = runs
        self._kind: Kind = (None, ())
        self.best: Picks = ()

    def run(self, picks: Picks) -> Picks | None:
        """Return the smallest tape found; None where the given one does not fail."""
        ending = self._play(picks)
        if ending.verdict is None:
            return None
        self._kind = _kind(ending)
        self.best = picks_of(ending.tape)
        while self._left and self._pass():
            pass
        return self.best

    def _pass(self) -> bool:
        """Try every simplification once; return whether any of them was one."""
        before = self.best
        size = max(deviations(self.best), 1)
        while size and self._left:
            self._without_blocks(size)
            size //= 2
        for at, smaller in self._smaller():
            self._try((*self.best[:at], smaller, *self.best[at + 1 :]))
        return _weight(self.best) < _weight(before)

    def _without_blocks(self, size: int) -> None:
        """Take deviations back, `size` at a time, from the last to the first."""
        end = deviations(self.best)
        while end > 0 and self._left:
            places = [at for at, taken in enumerate(self.best) if taken]
            block = set(places[max(0, end - size) : end])
            self._try(tuple(0 if at in block else taken for at, taken in enumerate(self.best)))
            end = min(end - size, deviations(self.best))

    def _smaller(self) -> Iterator[tuple[int, int]]:
        for at in range(len(self.best)):
            if self._left and at < len(self.best) and self.best[at] > 1:
                yield at, 1

    def _try(self, picks: Picks) -> None:
        if not self._left:
            return
        ending = self._play(picks)
        found = picks_of(ending.tape)
        if _kind(ending) == self._kind and _weight(found) < _weight(self.best):
            self.best = found

    def _play(self, picks: Picks) -> Ending:
        self._left -= 1
        return self._stage.play(self._program, Played(picks), self._chance)


def _weight(picks: Picks) -> tuple[int, int, int]:
    """Return what is made smaller: deviations, then their sum, then the length."""
    return deviations(picks), sum(picks), len(picks)


def _kind(ending: Ending) -> Kind:
    raised = [] if ending.error is None else sorted({type(leaf).__qualname__ for leaf in leaves(ending.error)})
    return ending.verdict, tuple(raised)
