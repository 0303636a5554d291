"""The results that come with the package: they can be read, and had again."""

from __future__ import annotations

import pytest

from changeover_sim.protocol import subjects
from changeover_sim.protocol.cells import Cell, Trial
from changeover_sim.protocol.running import Task, run
from changeover_sim.protocol.sheet import COMMITTED, Sheet

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


@pytest.mark.slow
@pytest.mark.skipif(not COMMITTED.exists(), reason="no results come with this package")
def test_committed_trials_can_be_had_again() -> None:
    """Whoever runs a trial of the file again needs as many schedules, on whatever machine."""
    trials = cheap()
    if not trials:
        pytest.skip("explorer, policies and kernels have all changed since the results were made")
    for cell, trial in trials:
        subject = subjects.subjects()[cell.key.kernel]
        again = run(Task(subject, cell.key, cell.digest, trial.seed, subject.cap, 60.0, 0))
        assert (again.schedules, again.ended, again.note) == (trial.schedules, "found", trial.note), cell.key
