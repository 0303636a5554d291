"""The results that come with the package: they can be read, and had again."""

from __future__ import annotations

import statistics
from statistics import geometric_mean

import pytest

from changeover_sim.kernels.port import PORTS
from changeover_sim.protocol import subjects
from changeover_sim.protocol.cells import Cell, Key, Trial
from changeover_sim.protocol.published import CAP, CAPS, PUBLISHED, TRIALS
from changeover_sim.protocol.running import Task, run
from changeover_sim.protocol.sheet import COMMITTED, Sheet
from tests.house.readme import README, commands
from tests.simulations.protocol.runs import typed

CHEAP = 60
"""Schedules: a trial of so many takes no time."""


def cheap() -> list[tuple[Cell, Trial]]:
    """Return the cheapest trial of each kernel under each policy, as far as the source is still that of the results."""
    known, found = subjects.subjects(), dict[tuple[str, str], tuple[Cell, Trial]]()
    for cell in Sheet(COMMITTED).cells:
        subject, place = known.get(cell.key.kernel), (cell.key.kernel, cell.key.policy)
        if subject and cell.digest == subjects.digest(subject, cell.key.port, cell.key.policy):
            for trial in cell.ended("found"):
                if trial.schedules < min(CHEAP, found[place][1].schedules if place in found else CHEAP):
                    found[place] = (cell, trial)
    return list(found.values())


def test_the_portfolio_has_found_every_published_bug() -> None:
    """The results say: in each of 20 trials within 10,000 schedules, in every port, SafeStack apart; else nothing."""
    cells = committed()
    for name, subject in subjects.subjects().items():
        for port in PORTS if name not in CAPS else ():
            cell = cells[Key(name, port, "portfolio")]
            trials = cell.ended("cap" if subject.correct else "found")
            assert sorted(trial.seed for trial in trials) == list(range(TRIALS)), cell.key
            assert all(trial.schedules <= CAP for trial in trials), cell.key


def test_the_readme_shows_what_comes_with_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    """Each line of the table that it shows is printed, number for number, in this order."""
    for command in commands(README.read_text()):
        if command.text.startswith("changeover kernels") and command.output is not None:
            capsys.readouterr()
            assert typed(*command.text.split()[2:]) == 0
            printed = iter(capsys.readouterr().out.splitlines())
            shown = [line for line in command.output.splitlines() if line != "..."]
            assert [line for line in shown if line not in printed] == []
            return
    pytest.fail("README.md shows no results")


def test_the_readme_says_what_the_results_come_to() -> None:
    """How many schedules are needed for each one that is published, and by the portfolio for each one of SURW's."""
    readme, cells = " ".join(README.read_text().split()), committed()
    surw, pct = ([ratio(cells, policy, port) for port in PORTS] for policy in ("surw", "pct-3"))
    assert f"SURW needs {min(surw):.2f} to {max(surw):.2f} of the published schedules" in readme
    assert "PCT needs {:.2f}, {:.2f} and {:.2f} of the published schedules".format(*pct) in readme
    of_each = [ratios(cells, "surw", port) for port in PORTS]
    assert [min(one, key=one.__getitem__) for one in of_each] == ["bluetooth_driver"] * 3
    assert round(4 * min(one["bluetooth_driver"] for one in of_each)) == 1, "a quarter"
    assert max(max(one.values()) for one in of_each) == of_each[2]["deadlock01"]
    assert f"{of_each[2]['deadlock01']:.1f} times as many for deadlock01" in readme
    walk = [cells[Key(f"reorder_{n}", "natural", "random")].found for n in (3, 5, 10, 20)]
    few, many = min(map(statistics.fmean, walk)), max(map(statistics.fmean, walk))
    assert f"finds reorder_3 to reorder_20 in {few:.0f} to {many:.0f} schedules" in readme
    [safe] = cells[Key("safestack", "natural", "surw")].found
    assert f"by schedule {safe:,}" in readme
    means = {
        policy: geometric_mean(
            [
                statistics.fmean(cells[Key(name, port, policy)].found)
                for name, subject in subjects.subjects().items()
                for port in PORTS
                if not subject.correct and name not in CAPS
            ]
        )
        for policy in ("portfolio", "surw")
    }
    found, other = means["portfolio"], means["surw"]
    assert f"The portfolio needs {found / other:.2f} times as many as SURW" in readme
    assert f"1,080 of 1,080, {found:.2g} schedules in the geometric mean; 1,080 of 1,080, {other:.2g} |" in readme


def committed() -> dict[Key, Cell]:
    """Return the cells that come with the package."""
    return {cell.key: cell for cell in Sheet(COMMITTED).cells}


def ratio(cells: dict[Key, Cell], policy: str, port: str) -> float:
    """Return the geometric mean of measured over published schedules."""
    return geometric_mean(ratios(cells, policy, port).values())


def ratios(cells: dict[Key, Cell], policy: str, port: str) -> dict[str, float]:
    """Return measured over published schedules of the kernels whose bug was found in every trial, there and here."""
    return {
        name: statistics.fmean(cells[key].found) / figure.mean
        for name, figures in PUBLISHED.items()
        if (figure := figures.get(policy)) and figure.mean and figure.found == TRIALS
        if len(cells[key := Key(name, port, policy)].found) == TRIALS
    }


@pytest.mark.slow
def test_committed_trials_can_be_had_again() -> None:
    """Whoever runs a trial of the file again needs as many schedules, on whatever machine."""
    trials = cheap()
    if not trials:
        pytest.skip("explorer, policies and kernels have all changed since the results were made")
    for cell, trial in trials:
        subject = subjects.subjects()[cell.key.kernel]
        again = run(Task(subject, cell.key, cell.digest, trial.seed, subject.cap, 60.0, 0))
        assert (again.schedules, again.ended, again.note) == (trial.schedules, "found", trial.note), cell.key
