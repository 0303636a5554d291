"""A player for tests of the fleet: its scenarios are named after what they do, and nothing of the engine runs.

Other processes import it, so it lies in a module of its own.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import attrs

from changeover_sim.explorer.errors import Stalled
from changeover_sim.simulate.play import Outcome

BREAKS_AT = 3
"""The seed at which `breaks` breaks, `stalls` stalls and `dies` dies."""


@attrs.define
class Troupe:
    """Plays what a scenario's name says."""

    played: list[tuple[str, int, str, bool]] = attrs.field(factory=list)
    """Scenario, seed, policy, and whether a lie was planted, of each run that was begun."""

    def play(
        self, scenario: str, seed: int, policy: str = "random", prepare: Callable[[Any], None] | None = None
    ) -> Outcome:
        """Play one run."""
        self.played.append((scenario, seed, policy, prepare is not None))
        outcome = Outcome(
            scenario, seed, policy, header=("models: a 1/2", "faults: cancel"), trace=f"{seed:x}", steps=100 + seed,
            virtual_s=10.0, real_s=0.5, judged={1: 2, 3: 0 if scenario == "silent" else 1},
            struck={"cancel": seed, "kill": 0}, reached={"a-sometimes-site": 1},
        )  # fmt: skip
        if prepare is not None and scenario != "deaf":
            return attrs.evolve(outcome, broken="promise 2", what="found the lie")
        if scenario == "by-process":
            return attrs.evolve(outcome, trace=str(os.getpid()))
        if scenario == "differs":
            return attrs.evolve(outcome, steps=len(self.played))
        return outcome if seed != BREAKS_AT else self._at_its_seed(outcome)

    def _at_its_seed(self, outcome: Outcome) -> Outcome:
        if outcome.scenario == "dies":
            os._exit(7)
        if outcome.scenario == "stalls":
            raise Stalled("it stood still")
        if outcome.scenario == "raises":
            raise ZeroDivisionError("in the player")
        if outcome.scenario == "breaks":
            log = ("    1.000  begins", "    2.000  BROKEN")
            return attrs.evolve(outcome, broken="promise 3", what="it is broken: 2 != 3", log=log)
        return outcome


opened: list[Troupe] = []
"""Those that were opened in this process."""


@contextmanager
def open_troupe() -> Generator[Troupe, None, None]:
    """Open one."""
    opened.append(Troupe())
    yield opened[-1]


def fresh() -> None:
    """Forget those that were opened."""
    opened.clear()
