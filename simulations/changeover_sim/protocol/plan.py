"""Which trials are still to be run: what was asked for, less what the results file has, within each cell's seconds.

Owns nothing; it looks at the file's cells anew whenever a task is asked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import attrs

from changeover_sim.protocol.cells import Key, Trial
from changeover_sim.protocol.running import Task
from changeover_sim.protocol.sheet import Made, Sheet
from changeover_sim.protocol.subjects import Subject, digest


@attrs.define(eq=False)
class Plan:
    """What was asked for."""

    sheet: Sheet
    subjects: Sequence[Subject]
    ports: Sequence[str]
    policies: Sequence[str]
    trials: int
    seconds_a_cell: float
    """A trial begins with what is left of them, and ends when they are over; trials side by side share none."""

    def keys(self) -> list[tuple[Subject, Key, str]]:
        """Return the cells, with the digest of what they are made by."""
        return [
            (subject, Key(subject.name, port, policy), digest(subject, port, policy))
            for subject in self.subjects
            for port in self.ports
            for policy in self.policies
        ]

    def left(self) -> int:
        """Return how many trials are to be run, as far as the seconds go."""
        return sum(1 for _ in self._missing())

    def tasks(self, made: Made) -> Iterator[Task]:
        """Yield the trials that are to be run: all cells' first, then all cells' second, and so on.

        So a run that is interrupted has a whole table, of fewer trials.
        """
        place = self.sheet.under(made)
        return (attrs.evolve(task, made=place) for task in self._missing())

    def _missing(self) -> Iterator[Task]:
        keys = self.keys()
        for seed in range(self.trials):
            for subject, key, made_by in keys:
                cell = self.sheet.cell(key, made_by)
                if not any(trial.seed == seed and trial.answers(subject.cap) for trial in cell.trials):
                    seconds = cell.left_s(seed, self.seconds_a_cell)
                    if seconds > 0:
                        yield Task(subject, key, made_by, seed, subject.cap, seconds, 0)

    def keep(self, task: Task, trial: Trial) -> None:
        """Write a trial down."""
        self.sheet.add(task.key, task.digest, trial)
