"""One trial of a mutant: what it plays, when it ends, and what it says."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator

import pytest

from changeover_sim.explorer import machine
from changeover_sim.mutants import planting, trial
from changeover_sim.mutants.catalogue import MUTANTS
from tests.simulations.simulate import troupe

FOUND_AT_ONCE = "deadline-closes-what-is-held"
"""A mutant that its scenario shows within a few seeds."""


@pytest.fixture(autouse=True)
def players(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Have the troupe play."""
    troupe.fresh()
    with monkeypatch.context() as patch:
        patch.setattr(trial, "player_of_the_engine", troupe.open_troupe)
        yield


def test_a_trial_ends_with_the_first_seed_that_is_broken() -> None:
    """It says which seed that was, behind how many schedules, and what was found."""
    found = trial.run(trial.begun(trial.NONE, "breaks", "pct", range(1, 10)))
    assert (found.found_at_seed, found.schedules, found.broken, found.promise) == (3, 3, "promise 3", 3)
    assert found.what == "it is broken: 2 != 3"
    assert [seed for _, seed, _, _ in troupe.opened[0].played] == [1, 2, 3]


def test_a_trial_that_finds_nothing_has_played_every_seed() -> None:
    """The last one as well."""
    found = trial.run(trial.begun(trial.NONE, "good", "random", range(5, 9)))
    assert (found.found_at_seed, found.schedules, found.broken) == (None, 4, None)
    assert [seed for _, seed, _, _ in troupe.opened[0].played] == [5, 6, 7, 8]


@pytest.mark.parametrize(("scenario", "broken"), [("stalls", "stalled"), ("raises", "exception")])
def test_a_bug_that_stops_the_simulation_is_found(scenario: str, broken: str) -> None:
    """What stands still, or comes up to the player, was found at that seed."""
    found = trial.run(trial.begun(trial.NONE, scenario, "random", range(9)))
    assert (found.found_at_seed, found.broken, found.promise) == (3, broken, None)


def test_no_run_of_a_trial_begins_behind_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """The trial says how many it has made, and has found nothing."""
    monkeypatch.setattr(machine, "stopwatch", iter(range(100)).__next__)
    found = trial.run(trial.begun(trial.NONE, "good", "random", range(50)), limit_s=7.5)
    assert (found.found_at_seed, found.schedules) == (None, 7)


def test_another_patch_is_another_mutant() -> None:
    """The engine without a bug has none, and no two mutants have the same."""
    patches = [trial.patch_of(mutant) for mutant in MUTANTS.values()]
    assert len({*patches, trial.patch_of(None)}) == len(patches) + 1


def test_a_mutant_is_planted_before_the_engine_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process the engine is there already: the trial refuses, and names the mutant."""
    name = next(iter(MUTANTS))
    with pytest.raises(planting.NotPlanted, match=name):
        trial.main([name, "good", "random", "0", "1"])


def test_importing_a_trial_imports_nothing_of_the_engine() -> None:
    """Else a mutant of what was imported could not be planted any more."""
    code = (
        "import sys, changeover_sim.mutants.trial; print([m for m in sys.modules if m.split('.')[0] == 'changeover'])"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.strip() == "[]"


@pytest.mark.slow
@pytest.mark.parametrize(("name", "is_found"), [(FOUND_AT_ONCE, True), (trial.NONE, False)])
def test_a_planted_bug_is_found_in_a_process_of_its_own(name: str, is_found: bool) -> None:
    """And without it the same seeds are clean."""
    scenario = MUTANTS[FOUND_AT_ONCE].scenario
    command = [sys.executable, "-m", "changeover_sim.mutants.trial", name, scenario, "random", "0", "9"]
    said = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert (said["mutant"], said["scenario"], said["policy"]) == (name, scenario, "random")
    assert (said["found_at_seed"] is not None) == is_found
    assert bool(said["broken"]) == is_found
