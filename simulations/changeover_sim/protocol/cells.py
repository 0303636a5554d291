"""Cells and trials: what came of one kernel, in one port, under one policy, and the figures that are made of it.

Values only; no file, no process.
"""

from __future__ import annotations

import statistics
from collections import Counter
from typing import Literal, get_args

import attrs

Ended = Literal["found", "cap", "time", "other", "broken", "short"]
"""`found`: by the kernel's bug; `cap`: not within so many schedules; `time`: the cell's seconds were over; `other`: it
failed in a way that is not the kernel's; `broken`: the trial could not be run; `short`: not within fewer schedules than
are asked for now, which no file says."""
ENDINGS: tuple[Ended, ...] = get_args(Ended)

LONG = 100
"""In a trial of fewer schedules most of the time goes into beginning, and into running a failure again."""


@attrs.frozen(order=True)
class Key:
    """Which cell."""

    kernel: str
    port: str
    policy: str


@attrs.frozen
class Trial:
    """One search, by one seed."""

    seed: int
    schedules: int
    """So many were run, the one that failed included; 0 where that is not known."""
    ended: Ended
    seconds: float
    """Real time."""
    made: int
    """Under which conditions: a place in the list of the results file."""
    note: str = ""
    """Found: the policy that found it, of a portfolio the arm; other, broken: what happened."""

    def answers(self, cap: int) -> bool:
        """Return whether there is nothing more to learn by running it again, with this cap."""
        return self.ended in {"found", "other"} or (self.ended == "cap" and self.schedules >= cap)


@attrs.frozen
class Cell:
    """The trials of one cell, all made by the same source."""

    key: Key
    digest: str
    """Of the source that decides what is found: see `sources.digest`."""
    trials: tuple[Trial, ...] = ()
    """By seed."""

    def with_trial(self, trial: Trial) -> Cell:
        """Return the cell with this trial, in place of the one of its seed."""
        others = (old for old in self.trials if old.seed != trial.seed)
        return attrs.evolve(self, trials=tuple(sorted((*others, trial), key=lambda one: one.seed)))

    def at(self, cap: int) -> Cell:
        """Return the cell as it looks where so many schedules are asked for: what tried fewer is `short`."""
        return attrs.evolve(
            self,
            trials=tuple(
                attrs.evolve(trial, ended="short") if trial.ended == "cap" and trial.schedules < cap else trial
                for trial in self.trials
            ),
        )

    def ended(self, *how: Ended) -> list[Trial]:
        """Return the trials that ended in one of these ways."""
        return [trial for trial in self.trials if trial.ended in how]

    def left_s(self, seed: int, limit_s: float) -> float:
        """Return the seconds that the trial of a seed may take, where the cell's other trials have taken theirs.

        None are left, so 0, where it has had as many already.
        """
        left = limit_s - sum(trial.seconds for trial in self.trials if trial.seed != seed)
        had = sum(trial.seconds for trial in self.trials if trial.seed == seed and trial.ended == "time")
        return left if left > had else 0.0

    # --- what it comes to ---------------------------------------------------------------------------------------------

    @property
    def found(self) -> list[int]:
        """Return how many schedules each trial needed that found the bug."""
        return [trial.schedules for trial in self.ended("found")]

    @property
    def done(self) -> int:
        """Return how many trials ran to their end."""
        return len(self.ended("found", "cap"))

    @property
    def mean(self) -> float | None:
        """Return the mean of `found`; None where there is none."""
        return statistics.fmean(self.found) if self.found else None

    @property
    def deviation(self) -> float | None:
        """Return the standard deviation of `found`; None for less than two."""
        return statistics.stdev(self.found) if len(self.found) > 1 else None

    @property
    def run(self) -> int:
        """Return how many schedules were run, in whatever way their trials ended."""
        return sum(trial.schedules for trial in self.ended("found", "cap", "time", "short"))

    @property
    def expected(self) -> float | None:
        """Return all schedules that were run over the bugs that were found: the mean where each trial found its own.

        It is how cells are ranked that have missed some. The maximum-likelihood estimate of a mean whose samples are
        cut off, if each schedule finds the bug with the same probability; None where nothing was found.
        """
        return self.run / len(self.found) if self.found else None

    @property
    def out_of_time(self) -> bool:
        """Whether a trial was stopped by the clock."""
        return bool(self.ended("time"))

    @property
    def tried_out(self) -> bool:
        """Whether there are trials, and all of them ran to their end."""
        return bool(self.trials) and self.done == len(self.trials)

    @property
    def always(self) -> bool:
        """Whether the very first schedule failed in every trial."""
        ended = self.ended("found", "cap")
        return bool(ended) and all(one.ended == "found" and one.schedules == 1 for one in ended)

    @property
    def arms(self) -> Counter[str]:
        """Return who found it, and how often."""
        return Counter(trial.note for trial in self.ended("found"))


def per_second(cell: Cell) -> float | None:
    """Return how many schedules were run in a second of a cell's trials; None where there was no long trial."""
    every = cell.ended("found", "cap", "time", "short")
    timed = [one for one in every if one.schedules >= LONG and one.seconds]
    seconds = sum(trial.seconds for trial in timed)
    return sum(trial.schedules for trial in timed) / seconds if seconds else None
