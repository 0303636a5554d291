"""What a person reads of a fleet: short, whole, and with the one command that shows a failure again."""

from __future__ import annotations

import attrs
import pytest

from changeover_sim.simulate import summary
from changeover_sim.simulate.fleet import Item
from changeover_sim.simulate.play import Outcome
from changeover_sim.simulate.tally import MISSED, SAME_TRACE, Tally

BROKEN = Outcome(
    "swap-storm", 17, "random", "promise 3", "two references are held,\nand one is counted", ("models: a 1/2",),
    ("    0.000  begins",), "0badf00d", 1_234, 100.0, 0.5, {1: 5, 3: 4}, {"cancel": 3, "kill": 9}, {"a-site": 1},
)  # fmt: skip
GOOD = attrs.evolve(BROKEN, broken=None, what="", log=())


def tally_of(*outcomes: Outcome, **options: object) -> Tally:
    """Return the tally of some runs."""
    tally = Tally(**options)  # type: ignore[arg-type]
    for outcome in outcomes:
        tally.add(Item(outcome.scenario, outcome.seed, outcome.policy), outcome)
    return tally


def test_a_scenario_is_a_line() -> None:
    """It says how many runs there were, how fast, how long, and which faults struck, the most frequent first."""
    head, line = summary.table(tally_of(GOOD, attrs.evolve(GOOD, seed=18)))
    assert " ".join(head.split()) == "scenario runs failed a minute virtual s per s steps a run faults struck"
    assert " ".join(line.split()) == "swap-storm 2 0 120 200 1,234 kill 18, cancel 6"


def test_failures_stand_by_promise_with_their_seeds_and_a_command() -> None:
    """Promise 3 before promise 10, the seeds in order, and the command is that of the lowest."""
    ten = attrs.evolve(BROKEN, broken="promise 10", policy="pct")
    text = summary.text(tally_of(ten, attrs.evolve(BROKEN, seed=40), BROKEN, attrs.evolve(BROKEN, broken="deadlock")))
    assert text.index("promise 3: 2 failures") < text.index("promise 10: 1 failure:") < text.index("deadlock: 1")
    assert "swap-storm, seeds 17, 40" in text
    assert "two references are held, and one is counted" in text
    assert "\n    changeover simulate swap-storm --seed 17 --policy random\n" in text
    assert "\n    changeover simulate swap-storm --seed 17 --policy pct\n" in text
    assert text.splitlines()[-1].startswith("4 failures in 4 runs")


def test_a_promise_is_named_once() -> None:
    """What the judge says of it begins with its number already."""
    what = "promise 3 is broken (acquired is released and held): 2 are held"
    broken = attrs.evolve(BROKEN, what=what)
    assert summary.failure_text(broken).splitlines()[0] == what
    assert "\n    2 are held\n" in summary.text(tally_of(broken))


def test_what_one_run_cannot_show_is_shown_by_a_fleet_of_one() -> None:
    """A second trace and a canary need more than the run of the seed."""
    for kind in (SAME_TRACE, MISSED):
        command = summary.replay_command(attrs.evolve(BROKEN, broken=kind))
        assert command == "changeover simulate swap-storm --first 17 --seeds 1 --policy random"


def test_the_report_of_a_failure_is_whole() -> None:
    """It names the promise, the run, its configuration, the last of its log, and the command."""
    told = summary.failure_text(BROKEN).splitlines()
    assert told[0] == "promise 3: two references are held, and one is counted"
    assert told[1] == "  swap-storm, seed 17, policy random, trace 0badf00d"
    assert told[2:] == [
        "  models: a 1/2", "  the last that happened:", "      0.000  begins",
        "  run it again: changeover simulate swap-storm --seed 17 --policy random",
    ]  # fmt: skip


@pytest.mark.parametrize("kinds", [1, 2, 4, 5, 7, 8, 11])
def test_a_summary_fits_a_screen(kinds: int) -> None:
    """Hundreds of failures of many kinds in many scenarios are fewer than 60 lines, none wider than 120."""
    outcomes = [
        attrs.evolve(
            BROKEN, scenario=f"scenario-{n % 12}", broken=f"promise {n // 12 % kinds + 1}", seed=n, what="x " * 200
        )
        for n in range(1_000)
    ]
    tally = tally_of(*outcomes, complete=True, sites=[f"a-rather-long-name-of-a-site-{n}" for n in range(40)])
    lines = summary.text(tally).splitlines()
    assert len(lines) < 60
    assert max(map(len, lines)) <= summary.WIDTH
    assert lines[-1].startswith("1,000 failures in 1,000 runs")
    assert any("FAILED" in line for line in lines)


def test_what_was_not_looked_at_is_said() -> None:
    """Sites that were never reached are named, and what fails the fleet says so."""
    silent = [attrs.evolve(GOOD, seed=seed, judged={1: 0}) for seed in range(20)]
    text = summary.text(tally_of(*silent, complete=True, sites=("a-site", "other")))
    assert "sites reached: 1 of 2; never: other" in text
    assert "FAILED: in 20 runs of swap-storm nothing was judged by the oracles of promise 1" in text
    assert "no promise was broken, but not all was looked at, in 20 runs" in text


def test_machines_read_the_same() -> None:
    """The object has the seeds of each failure and the first one whole."""
    told = summary.as_json(tally_of(BROKEN, GOOD))
    assert (told["ok"], told["runs"]) == (False, 2)
    assert told["failures"][0]["seeds"] == [17]
    assert told["failures"][0]["first"]["log"] == ["    0.000  begins"]
    assert told["scenarios"]["swap-storm"]["struck"] == {"cancel": 6, "kill": 18}
