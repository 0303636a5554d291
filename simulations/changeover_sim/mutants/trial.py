"""One trial: is a mutant found in a scenario, under a policy, by one of these seeds; run in a process of its own.

`python -m changeover_sim.mutants.trial NAME|none SCENARIO POLICY FIRST LAST [SECONDS]` prints one line of JSON. It
plants the mutant before anything of the engine is imported, so nothing here may import the engine at its top.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import attrs

from changeover_sim.explorer import machine
from changeover_sim.mutants import planting
from changeover_sim.mutants.catalogue import MUTANTS
from changeover_sim.mutants.mutant import Mutant
from changeover_sim.simulate.fleet import Item, Performer, player_of_the_engine

NONE = "none"
"""The name of the engine without a bug: what is found in it is a false alarm, or a bug of its own."""

_ARGUMENTS = 5
_HERE = f"{Path(__file__).resolve().parents[3]}/"
"""A sheet says which file of the engine it was, and not on what machine."""


@attrs.frozen
class Trial:
    """What came of one trial."""

    mutant: str
    scenario: str
    policy: str
    first: int
    last: int
    """The last seed; it is played as well."""
    patch: str
    """The hash of what was patched; another patch is another mutant."""
    found_at_seed: int | None = None
    schedules: int | None = None
    """So many were played, the one that found it included; None where the process had to be killed."""
    broken: str | None = None
    """What was found: `promise 3`, or what the explorer says."""
    what: str = ""
    seconds: float = 0.0

    @property
    def key(self) -> tuple[str, str, str, int, int, str]:
        """What was tried."""
        return self.mutant, self.scenario, self.policy, self.first, self.last, self.patch

    @property
    def promise(self) -> int | None:
        """The promise whose oracle has found it."""
        word, _, number = (self.broken or "").partition(" ")
        return int(number) if word == "promise" else None

    def as_json(self) -> dict[str, Any]:
        """Return it as an object."""
        return attrs.asdict(self)


def patch_of(mutant: Mutant | None) -> str:
    """Return the hash of a patch; empty for none."""
    if mutant is None:
        return ""
    return hashlib.sha256(repr((mutant.module, mutant.old, mutant.new)).encode()).hexdigest()[:12]


def run(trial: Trial, limit_s: float = float("inf")) -> Trial:
    """Play seed after seed until one is broken; no run begins behind `limit_s`."""
    began, schedules = machine.stopwatch(), 0
    with Performer(player_of_the_engine) as performer:
        for seed in range(trial.first, trial.last + 1):
            if machine.stopwatch() - began > limit_s:
                break
            schedules += 1
            broken, what = _played(performer, Item(trial.scenario, seed, trial.policy))
            what = what.replace(_HERE, "")
            if broken is not None:
                seconds = round(machine.stopwatch() - began, 2)
                return attrs.evolve(
                    trial, found_at_seed=seed, schedules=schedules, broken=broken, what=what, seconds=seconds
                )
    return attrs.evolve(trial, schedules=schedules, seconds=round(machine.stopwatch() - began, 2))


def _played(performer: Performer, item: Item) -> tuple[str | None, str]:
    try:
        outcome = performer.perform(item)
    except Exception as error:  # noqa: BLE001 - the bug has come up to here: it is found
        return "exception", f"{type(error).__name__}: {error}"
    return outcome.broken, outcome.what


def begun(name: str, scenario: str, policy: str, seeds: Iterable[int]) -> Trial:
    """Return a trial that has not been run; raises `KeyError` for a mutant that there is not."""
    first, *_, last = [*seeds] * 2
    return Trial(name, scenario, policy, first, last, patch_of(None if name == NONE else MUTANTS[name]))


def main(arguments: Sequence[str]) -> int:
    """Run the trial that the arguments name, and print what came of it."""
    name, scenario, policy, first, last = arguments[:_ARGUMENTS]
    limit_s = float(arguments[_ARGUMENTS]) if len(arguments) > _ARGUMENTS else float("inf")
    trial = begun(name, scenario, policy, (int(first), int(last)))
    if name != NONE:
        planting.plant(MUTANTS[name])
    print(json.dumps(run(trial, limit_s).as_json()), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
