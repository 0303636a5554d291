"""Many runs: which are made, which twice, which with a lie, what is a failure, and how a fleet ends."""

from __future__ import annotations

import itertools
import multiprocessing
import signal
from typing import Any

import pytest

from changeover_sim.explorer.errors import ExplorerError
from changeover_sim.scenarios import SCENARIOS
from changeover_sim.simulate import canary, summary
from changeover_sim.simulate import fleet as fleets
from changeover_sim.simulate.fleet import CANARY_EVERY, TWICE_EVERY
from changeover_sim.simulate.play import Player
from changeover_sim.simulate.tally import MISSED, RUNS_FOR_ORACLES, RUNS_FOR_SITES, SAME_TRACE, Tally
from tests.simulations.simulate import troupe


@pytest.fixture(autouse=True)
def nobody_left() -> Any:
    """No process of a fleet outlives it."""
    troupe.fresh()
    yield
    assert not multiprocessing.active_children()


def fleet(*scenarios: str, seeds: Any = range(4), **options: Any) -> Tally:
    """Play the troupe's scenarios."""
    return fleets.fleet(scenarios, seeds, open_player=troupe.open_troupe, **options)


def failures(tally: Tally) -> dict[tuple[str, str], list[int]]:
    """Return the seeds of each kind of failure."""
    return {key: sorted(broken.seeds) for key, broken in tally.broken.items()}


def test_every_scenario_is_played_with_every_seed_in_turns() -> None:
    """A fleet that is stopped has played each scenario as often as the others, or once more."""
    fleet("good", "fine", seeds=range(1, 4), policy="pct")
    assert troupe.opened[0].played == [(name, s, "pct", False) for s in (1, 2, 3) for name in ("good", "fine")]


def test_a_fleet_adds_up_what_its_runs_were() -> None:
    """Runs, steps, virtual seconds, faults, judgements and sites are those of all runs, canaries left out."""
    row = fleet("good", seeds=range(5)).rows["good"]
    assert (row.runs, row.failed, row.steps, row.virtual_s, row.real_s) == (5, 0, 510, 50.0, 2.5)
    assert row.struck == {"cancel": 10, "kill": 0}
    assert row.judged == {1: 10, 3: 5}


def test_what_is_broken_fails_the_fleet() -> None:
    """A run in which a promise is broken is told at once, and stands in the tally with its seed."""
    told = []
    tally = fleet("good", "breaks", on_played=lambda item, failed, _: told.append((item.seed, failed)))
    assert failures(tally) == {("promise 3", "breaks"): [troupe.BREAKS_AT]}
    assert not tally.ok
    assert [failed.what for _, failed in told if failed] == ["it is broken: 2 != 3"]


def test_a_seed_in_twenty_one_is_run_twice() -> None:
    """Of 43 seeds three are run twice, and nothing is wrong where both runs are the same."""
    tally = fleet("good", seeds=range(2 * TWICE_EVERY + 1))
    twice = [seed for _, seed, _, lie in troupe.opened[0].played if not lie]
    assert sorted({seed for seed in twice if twice.count(seed) == 2}) == [0, TWICE_EVERY, 2 * TWICE_EVERY]
    assert (tally.again, tally.ok, tally.runs) == (3, True, 43)


def test_what_was_broken_is_run_twice() -> None:
    """A failure that goes another way the second time breaks promise 11 as well: its seed alone does not show it."""
    tally = fleet("breaks", seeds=[troupe.BREAKS_AT])
    assert (tally.again, list(failures(tally))) == (1, [("promise 3", "breaks")])


def test_two_traces_of_one_seed_break_promise_11() -> None:
    """A run that goes another way the second time fails the fleet."""
    assert failures(fleet("differs", seeds=range(2))) == {(SAME_TRACE, "differs"): [0]}


def test_the_second_time_is_in_another_process() -> None:
    """What depends on the process, as on its hashes, is found where there are two."""
    assert fleet("by-process", seeds=[0, TWICE_EVERY]).ok
    tally = fleet("by-process", seeds=[0, TWICE_EVERY], jobs=2)
    assert failures(tally) == {(SAME_TRACE, "by-process"): [0, TWICE_EVERY]}


def test_beside_a_seed_in_a_hundred_and_one_a_lie_is_planted() -> None:
    """The seed is played as well; a lie that is found is no failure."""
    tally = fleet("good", seeds=range(CANARY_EVERY + 1))
    assert [seed for _, seed, _, lie in troupe.opened[0].played if lie] == [0, CANARY_EVERY]
    assert (tally.canaries, tally.runs, tally.ok) == (2, CANARY_EVERY + 1, True)


def test_a_lie_that_is_believed_fails_the_fleet() -> None:
    """An oracle that does not find what was planted would not find a bug."""
    tally = fleet("deaf", seeds=range(2))
    assert failures(tally) == {(MISSED, "deaf"): [0]}
    assert not tally.ok


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_the_oracles_find_each_lie(scenario: str) -> None:
    """In real runs of the engine each lie is found, as a breach of the promise that it contradicts."""
    with fleets.Performer(Player) as performer:
        for seed, (_, promise) in enumerate(canary.LIES, len(canary.LIES)):
            item = fleets.Item(scenario, seed, "random", "canary")
            assert performer.perform(item).broken == f"promise {promise}"


def test_processes_find_what_one_finds() -> None:
    """The tally is the same, in whichever order runs have come in."""
    first, second = (fleet("good", "breaks", "differs", seeds=range(22), jobs=jobs) for jobs in (1, 3))
    one, three = summary.as_json(first), summary.as_json(second)
    for told in (one, three):
        told.pop("wall_s")
        told["scenarios"].pop("differs")  # how long its runs are depends on who makes them, which is what is found
        told["failures"] = [failure for failure in told["failures"] if failure["scenario"] != "differs"]
    assert one == three
    assert one["runs"] == 66


def test_a_run_that_stands_still_is_a_failure() -> None:
    """The runs behind it are made by a new player."""
    tally = fleet("stalls", seeds=range(6))
    assert failures(tally) == {("stalled", "stalls"): [troupe.BREAKS_AT]}
    assert tally.runs == 6
    assert len(troupe.opened) == 3  # it stood still when it was run again, too


@pytest.mark.slow
@pytest.mark.parametrize(("name", "why"), [("dies", "exit status 7"), ("raises", "ZeroDivisionError: in the player")])
def test_a_process_that_cannot_go_on_is_told(name: str, why: str) -> None:
    """The error names the run at which it was; no process is left."""
    with pytest.raises(ExplorerError, match=rf"{name}, seed 3, policy random: .*{why}"):
        fleet(name, jobs=2)


@pytest.mark.parametrize("jobs", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_fleet_without_end_can_be_stopped(jobs: int) -> None:
    """It is asked before each run; those that were begun are made to their end."""
    tally = Tally()
    fleet("good", seeds=itertools.count(1), jobs=jobs, tally=tally, stop=lambda: tally.runs >= 30)
    assert 30 <= tally.runs <= 30 + 2 * jobs
    assert tally.ok
    assert not tally.interrupted


@pytest.mark.parametrize("jobs", [1, 2])
def test_ctrl_c_ends_a_fleet_with_what_it_has(jobs: int) -> None:
    """What was made so far is there; all processes have ended."""

    def press(_: object, __: object, tally: Tally) -> None:
        if tally.runs == 5:
            signal.raise_signal(signal.SIGINT)

    tally = fleet("good", seeds=itertools.count(1), jobs=jobs, on_played=press)
    assert (tally.interrupted, tally.runs) == (True, 5)


def test_an_oracle_that_never_judges_fails_the_fleet() -> None:
    """With runs enough; each scenario for itself."""
    few, many = (fleet("silent", "good", seeds=range(1, runs + 1)) for runs in (RUNS_FOR_ORACLES - 1, RUNS_FOR_ORACLES))
    assert few.ok
    assert many.defects() == ["in 20 runs of silent nothing was judged by the oracles of promise 3"]
    assert not many.ok


def test_a_site_that_is_never_reached_fails_the_fleet() -> None:
    """With runs enough of all scenarios."""
    for runs, complete, told in (
        (RUNS_FOR_SITES - 1, True, []),
        (RUNS_FOR_SITES, False, []),
        (RUNS_FOR_SITES, True, [f"in {RUNS_FOR_SITES:,} runs the site other was never reached"]),
    ):
        tally = Tally(complete=complete, sites=("a-sometimes-site", "other"))
        assert fleet("good", seeds=range(1, runs + 1), tally=tally).defects() == told
