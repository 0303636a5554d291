"""Shrinking: the same failure with fewer deviations from first-in-first-out, each of which is needed.

Owns nothing between two runs; every attempt is a run. First delta debugging (Zeller, Hildebrandt: Simplifying and
Isolating Failure-Inducing Input, 2002), then what Hypothesis makes of it, where it is installed.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from contextlib import suppress

import attrs

from changeover_sim.explorer import shrink_hypothesis, token
from changeover_sim.explorer.anchors import Anchored, Deviation, Moment, Noted, Reordered
from changeover_sim.explorer.errors import TokenError
from changeover_sim.explorer.judge import fingerprint
from changeover_sim.explorer.schedule import Ending, Program, leaves
from changeover_sim.explorer.stage import Stage
from changeover_sim.explorer.tape import ORDER, Chooser, Decision, Picks, Played, deviations, picks_of
from changeover_sim.explorer.trace import Recorder

Play = Callable[[Chooser], Ending]
"""Runs the program once, decided by this."""

Kind = tuple[str | None, tuple[str, ...]]
"""The verdict, and the types of what was raised."""

Weight = tuple[int, int, int, int]
"""What is made smaller: deviations, then steps, then how far the deviations go, then how late the last one is."""


def shrink(program: Program, token_text: str, *, runs: int = 2_000) -> str:
    """Return the token of a schedule that fails in the same way and deviates less from first-in-first-out.

    The same way: the same verdict, and for exceptions the same types. Without any one of the deviations that are left
    it fails in another way or not at all, unless all `runs` were spent: at most so many schedules are tried, and two
    more for the token. The same token shrinks to the same one. Hypothesis, which the extra `changeover[sim]` brings,
    makes it smaller still now and then; it is left out where it is not installed, and inside a test that is its own.

    Raises `TokenError` where the token's schedule does not fail, and what `replay` raises.
    """
    made = token.decode(token_text)
    if made.program != token.name_of(program):
        raise token.for_another(made, token.name_of(program))
    if type(runs) is not int or runs < 1:
        raise ValueError(f"runs must be a whole number of at least 1, not {runs!r}")

    def play(chooser: Chooser, recorder: Recorder | None = None) -> Ending:
        # A stage for each: the alarm must not ring, nor anything be refused, while Hypothesis thinks.
        with Stage(made.rules, made.seed).open() as stage:
            return stage.play(program, chooser, made.chance, recorder)

    best = smaller(play, made.picks, runs=runs)
    if best is None:
        raise TokenError("the schedule of the token does not fail when it is run again, so it cannot be shrunk")
    steps = play(Played(best)).steps
    ending = play(Played(best), Recorder(steps))
    return token.encode(attrs.evolve(made, picks=best, steps=steps, print=fingerprint(ending)))


def smaller(play: Play, picks: Picks, *, runs: int, proposals: bool = True) -> Picks | None:
    """Return the tape of a schedule that fails like that of `picks` and deviates least; None where that does not fail.

    `proposals`: whether Hypothesis is asked, too. Raises what `play` raises.
    """
    shrinker = _Shrinker(play, runs)
    if shrinker.fails(Played(picks)):
        with suppress(_Spent):
            shrinker.settle()
            while proposals and shrinker.propose():
                shrinker.settle()
    return shrinker.picks


class _Spent(Exception):
    """All runs were made."""


@attrs.frozen
class _Run:
    """A schedule that fails as it should."""

    tape: Sequence[Decision]
    taken: Sequence[Deviation]
    order: dict[Moment, int]
    weight: Weight


class _Shrinker:
    """One failure being made smaller."""

    def __init__(self, play: Play, runs: int) -> None:
        self._play = play
        self._left = runs
        self._kind: Kind | None = None
        """How the first run failed, which every other one must."""
        self._best: _Run | None = None
        self._tried: set[Hashable] = set()

    @property
    def best(self) -> _Run:
        """Return the smallest failure so far."""
        assert self._best is not None
        return self._best

    @property
    def picks(self) -> Picks | None:
        """Return its tape; None where nothing has failed."""
        return None if self._best is None else picks_of(self._best.tape)

    def settle(self) -> None:
        """Make it smaller until no deviation can be taken back or made less."""
        weight = None
        while weight != self.best.weight:
            weight = self.best.weight
            self._take_back_blocks()
            self._reorder()
            self._lower()

    def propose(self) -> bool:
        """Play what Hypothesis proposes; return whether something of it was smaller."""
        before = self.best
        if 0 < len(before.taken) <= shrink_hypothesis.DEVIATIONS_MAX and shrink_hypothesis.usable():
            shrink_hypothesis.propose(before.tape, self.fails)
        return self.best is not before

    def fails(self, chooser: Chooser) -> bool:
        """Run once; return whether it fails as it should, and keep it where it is the smallest that does."""
        if not self._left:
            raise _Spent
        self._left -= 1
        noted = chooser if isinstance(chooser, Noted) else Noted(chooser)
        ending = self._play(noted)
        kind = _kind(ending)
        if ending.verdict is None or kind != (self._kind or kind):
            return False
        self._kind = kind
        weight = _weight(ending)
        if self._best is None or weight < self._best.weight:
            self._best = _Run(ending.tape, noted.taken, noted.order, weight)
        return True

    def _is_smaller(self, chooser: Chooser, what: Hashable) -> bool:
        """Run once, if that was not tried before; return whether it is the smallest now."""
        if what in self._tried:
            return False
        self._tried.add(what)
        before = self.best
        self.fails(chooser)
        return self.best is not before

    def _take_back_blocks(self) -> None:
        """Take deviations back, fewer and fewer at a time, from the last to the first."""
        size = len(self.best.taken)
        while size:
            end = len(self.best.taken)
            while end > 0:
                self._take_back(max(0, end - size), end)
                end = min(end - size, len(self.best.taken))
            size //= 2

    def _take_back(self, start: int, end: int) -> None:
        """Take some back: those behind them are told by whom they pass over, and if that fails by their places."""
        taken = self.best.taken
        kept = (*taken[:start], *taken[end:])
        if not self._is_smaller(Anchored(kept), kept):
            picks = [pick for _, _, pick in self.best.tape]
            for place in [at for at, pick in enumerate(picks) if pick][start:end]:
                picks[place] = 0
            self._is_smaller(Played(tuple(picks)), tuple(picks))

    def _reorder(self) -> None:
        """Take each back by letting whoever was passed over go, and then all in the order in which they went."""
        at = len(self.best.taken)
        while at > 0:
            at = min(at, len(self.best.taken)) - 1
            if at >= 0 and self.best.taken[at][0] == ORDER:
                chooser = Reordered(self.best.taken, at, self.best.order)
                self._is_smaller(chooser, (at, *self.best.taken))

    def _lower(self) -> None:
        """Take an earlier alternative where a late one was taken: the second, one half as late, or the one before."""
        for at in range(len(self.best.tape)):
            for how in range(3):
                picks = [pick for _, _, pick in self.best.tape]
                if at < len(picks) and picks[at] > 1:
                    picks[at] = (1, picks[at] // 2, picks[at] - 1)[how]
                    self._is_smaller(Played(tuple(picks)), tuple(picks))


def _weight(ending: Ending) -> Weight:
    picks = picks_of(ending.tape)
    return deviations(picks), ending.steps, sum(picks), len(picks)


def _kind(ending: Ending) -> Kind:
    raised = [] if ending.error is None else sorted({_name(type(leaf)) for leaf in leaves(ending.error)})
    return ending.verdict, tuple(raised)


def _name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"
