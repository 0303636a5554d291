"""The results that come with the package: they can be read, and had again."""

from __future__ import annotations

import pytest

from changeover_sim.kernels.port import PORTS
from changeover_sim.protocol import subjects
from changeover_sim.protocol.cells import Cell, Key, Trial
from changeover_sim.protocol.published import CAP, CAPS, TRIALS
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


def test_the_portfolio_finds_every_published_bug() -> None:
    """In each of 20 trials within 10,000 schedules, in every port, SafeStack apart; in correct ones none."""
    cells = {cell.key: cell for cell in Sheet(COMMITTED).cells}
    for name, subject in subjects.subjects().items():
        for port in PORTS if name not in CAPS else ():
            cell = cells[Key(name, port, "portfolio")]
            trials = cell.ended("cap" if subject.correct else "found")
            assert sorted(trial.seed for trial in trials) == list(range(TRIALS)), cell.key
            assert all(trial.schedules <= CAP for trial in trials), cell.key


def test_the_readme_shows_what_comes_with_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    """Each line of the table that it shows is printed, number for number."""
    for command in commands(README.read_text()):
        if command.text.startswith("changeover kernels") and command.output is not None:
            capsys.readouterr()
            assert typed(*command.text.split()[2:]) == 0
            printed = capsys.readouterr().out.splitlines()
            assert [line for line in command.output.splitlines() if line not in (*printed, "...")] == []
            return
    pytest.fail("README.md shows no results")


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
