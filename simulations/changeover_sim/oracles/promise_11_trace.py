"""Promise 11: the same seed gives the same trace, so nothing in a trace may depend on where things lie in memory.

`repeated` makes the oracle for the second time of a run: it compares the two line by line, and names the first that
differs. A fleet compares hashes, and asks this one where two runs have parted.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise, zip_longest
from typing import TYPE_CHECKING, ClassVar

from changeover_sim.oracles.base import Oracle

if TYPE_CHECKING:
    from changeover_sim.simulate.judge import Line
    from changeover_sim.simulate.run import Run

_ADDRESS = re.compile(r"\b(?:at )?0x[0-9a-fA-F]{6,}")
"""Where an object lies in memory, as `repr` tells it."""


class Promise11Trace(Oracle):
    """Reads the log of a run when that is over."""

    promise = 11
    says = "the same seed gives the same trace"
    before: ClassVar[Sequence[Line] | None] = None
    """The whole log of the same run, made before; None: it is made for the first time."""

    def over(self) -> None:
        """Look for what cannot be the same twice; then compare it with the run before."""
        log = self.run.judge.log(0)
        self._look_for_addresses(log)
        self._look_at_times(log)
        if self.before is not None:
            self._compare(self.before, log)

    def _look_for_addresses(self, log: Sequence[Line]) -> None:
        found = next((line for line in log if _ADDRESS.search(line.what)), None)
        self.holds(found is None, f"a line of the trace names an address, which is another one each time: {found}")

    def _look_at_times(self, log: Sequence[Line]) -> None:
        back = next((pair for pair in pairwise(log) if pair[1].at_s < pair[0].at_s), None)
        self.holds(back is None, f"the virtual clock went back: {back}")

    def _compare(self, before: Sequence[Line], now: Sequence[Line]) -> None:
        for number, (then, line) in enumerate(zip_longest(before, now)):
            if then != line:
                self.broken(f"line {number} is `{line}`, and was `{then}` the first time")
                return
        self.judged += 1


def repeated(run: Run) -> type[Promise11Trace]:
    """Return the oracle for the second time of a run, which is over."""
    log = run.judge.log(0)

    class Repeated(Promise11Trace):
        """Knows how the run went the first time."""

        before = log

    return Repeated
