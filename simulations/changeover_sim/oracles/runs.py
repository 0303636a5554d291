"""How often models have really run each request, and which of them: the books beside what callers are told of it.

Owns the counts of one life; it judges only what no request may ever have done to it.
"""

# pyright: reportPrivateUsage=false

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from changeover_sim.simulate.calls import Call
from changeover_sim.simulate.cast import CHUNKS

if TYPE_CHECKING:
    from changeover_sim.simulate.cast import Made

ORIGINALS = 2
"""So many models may run one request: the version on trial, and the one that answers in its place."""


@attrs.define(eq=False)
class Runs:
    """How often one model has run one request."""

    made: Made
    alone: int = 0
    batched: int = 0
    """Together with others; where that fails, each is run again alone."""
    is_copy: bool = False
    """True where it was a copy for a shadow, that no caller hears of."""


class Ran:
    """All that was run for one call, in order of the first run of each model."""

    def __init__(self, call: Call) -> None:
        """Have run nothing."""
        self.call = call
        self.runs: list[Runs] = []

    @property
    def count(self) -> int:
        """How often it was run for its caller."""
        return sum(runs.alone + runs.batched for runs in self.runs if not runs.is_copy)

    def originals(self, model: str) -> list[Made]:
        """Return the models of a name that ran it for its caller, in order."""
        return [runs.made for runs in self.runs if not runs.is_copy and runs.made.part.model == model]

    def note(self, made: Made, numbers: tuple[int, ...]) -> Runs:
        """Count one more run."""
        for runs in self.runs:
            if runs.made is made:
                break
        else:
            runs = Runs(made, is_copy=bool(self.runs) and self._is_copy(made))
            self.runs.append(runs)
        if len(numbers) > 1:
            runs.batched += 1
        else:
            runs.alone += 1
        return runs

    def wrong(self, runs: Runs) -> str | None:
        """Return what is wrong with having been run that often; None: nothing.

        A set that begins anew may run what others of it have answered already; its caller says whether it may.
        """
        most = CHUNKS if self.call.kind == "stream" else 1
        if runs.alone > most or runs.batched > 1:
            return f"{runs.made} has run it {runs.alone} times alone and {runs.batched} times with others"
        made = self.originals(runs.made.part.model)
        if len(made) > ORIGINALS:
            return f"{', '.join(map(str, made))} have run it"
        if len([one for one in self.runs if one.is_copy]) > 1:
            return "it was copied more than once"
        return None

    def _is_copy(self, made: Made) -> bool:
        """Return whether a shadow holds this model, after another one has answered.

        Looked up inside, in the account, because a copy is just what nobody sees from outside.
        """
        if self.call.kind != "infer" or self.call.number in self.runs[-1].made.failed:
            return False  # whoever runs what failed runs it in the place of that one
        for loaded in made.life.engine._host.living():
            if loaded.is_open and loaded.model is made:
                return "shadow" in loaded.account.kinds()
        return False

    def __str__(self) -> str:
        """Return a clause."""
        ran = [
            f"{runs.made} {runs.alone + runs.batched} times{' as a copy' if runs.is_copy else ''}" for runs in self.runs
        ]
        return f"run by {', '.join(ran) or 'nobody'}"
