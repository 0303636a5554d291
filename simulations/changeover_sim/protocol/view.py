"""What of a results file is shown: rows of cells, which of them are old, and what they come to.

Values only; it reads no file but the sources behind the cells' digests.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import attrs

from changeover_sim.protocol import ranks
from changeover_sim.protocol.cells import Cell, Key, Trial, per_second
from changeover_sim.protocol.plan import Plan
from changeover_sim.protocol.published import RANKED
from changeover_sim.protocol.sheet import Made
from changeover_sim.protocol.subjects import Subject, digest


@attrs.frozen
class Row:
    """One port of one kernel."""

    subject: Subject
    port: str
    cells: Mapping[str, Cell]
    """By policy; one that was not tried is not here."""
    old: frozenset[str]
    """The policies whose trials were made before explorer, policy or kernel changed."""

    @property
    def always(self) -> bool:
        """Whether every schedule fails, as far as anybody has seen: it says nothing of who is better."""
        done = [cell for cell in self.cells.values() if cell.done]
        return bool(done) and all(cell.always for cell in done)

    @property
    def ranking(self) -> ranks.Ranking | None:
        """The ranking that was measured; None where a policy is missing, or nothing can be ranked."""
        return None if self.always else ranks.measured([self.cells.get(policy) for policy in RANKED])


@attrs.frozen
class Score:
    """How one policy did, over the rows that do not always fail."""

    policy: str
    found: int
    done: int
    """So many trials ran to their end, and `found` of them found the bug."""
    whole: int
    rows: int
    """In so many rows it was tried, and in `whole` of them every trial found the bug."""
    average: float | None
    """The geometric mean of the means, over the rows in which every policy has found the bug in every trial."""
    per_second: float | None
    """Schedules, in the geometric mean of the rows in which each policy has made a long trial."""


@attrs.frozen
class View:
    """A part of a results file."""

    rows: Sequence[Row]
    policies: Sequence[str]
    trials: int
    """So many are wanted in each cell."""
    seconds_a_cell: float
    """A cell that had so many is out of time."""
    made: Sequence[Made]

    @property
    def buggy(self) -> list[Row]:
        """The rows of programs with a bug."""
        return [row for row in self.rows if not row.subject.correct]

    @property
    def correct(self) -> list[Row]:
        """The rows of programs without one."""
        return [row for row in self.rows if row.subject.correct]

    @property
    def telling(self) -> list[Row]:
        """The rows that say something of a policy."""
        return [row for row in self.buggy if not row.always]

    @property
    def common(self) -> list[Row]:
        """The rows in which every policy has found the bug in every trial."""
        return [row for row in self.telling if all(self._in_full(row.cells.get(policy)) for policy in self.policies)]

    def _in_full(self, cell: Cell | None) -> bool:
        return cell is not None and len(cell.found) == cell.done >= self.trials

    def scores(self) -> list[Score]:
        """Return how each policy did."""
        return [self._score(policy) for policy in self.policies]

    def _score(self, policy: str) -> Score:
        cells = [row.cells[policy] for row in self.telling if policy in row.cells]
        means = [row.cells[policy].mean or 1.0 for row in self.common]
        return Score(
            policy,
            sum(len(cell.found) for cell in cells),
            sum(cell.done for cell in cells),
            sum(self._in_full(cell) for cell in cells),
            len(cells),
            statistics.geometric_mean(means) if means else None,
            self._per_second(policy),
        )

    def _per_second(self, policy: str) -> float | None:
        rates = [
            [per_second(row.cells[one]) if one in row.cells else None for one in self.policies] for row in self.rows
        ]
        place = self.policies.index(policy)
        common = [rate for row in rates if None not in row and (rate := row[place]) is not None]
        return statistics.geometric_mean(common) if common else None

    def arms(self, policy: str) -> Counter[str]:
        """Return who has found the bugs for a policy, and how often."""
        cells = (row.cells[policy] for row in self.telling if policy in row.cells)
        return sum((cell.arms for cell in cells), Counter[str]())

    def kernels(self) -> dict[str, dict[str, Row]]:
        """Return the rows with a bug by kernel and port."""
        found: dict[str, dict[str, Row]] = {}
        for row in self.buggy:
            found.setdefault(row.subject.name, {})[row.port] = row
        return found

    # --- what is wrong ------------------------------------------------------------------------------------------------

    def false_alarms(self) -> Iterator[tuple[Key, Trial]]:
        """Yield the trials that have found something in a program without a bug."""
        return ((cell.key, one) for row in self.correct for cell in row.cells.values() for one in cell.ended("other"))

    def strange(self) -> Iterator[tuple[Key, Trial]]:
        """Yield the trials of kernels that failed, but not by the kernel's bug."""
        return ((cell.key, one) for row in self.buggy for cell in row.cells.values() for one in cell.ended("other"))

    def broken(self) -> Iterator[tuple[Key, Trial]]:
        """Yield the trials that could not be run."""
        return ((cell.key, one) for row in self.rows for cell in row.cells.values() for one in cell.ended("broken"))


def view(plan: Plan) -> View:
    """Return what the results file of a plan has of what was asked for."""
    cells = {cell.key: cell for cell in plan.sheet.cells}
    rows = [_row(cells, subject, port, plan.policies) for subject in plan.subjects for port in plan.ports]
    shown = [row for row in rows if row.cells]
    return View(shown, plan.policies, plan.trials, plan.seconds_a_cell, plan.sheet.made)


def _row(all_cells: Mapping[Key, Cell], subject: Subject, port: str, policies: Sequence[str]) -> Row:
    keys = {policy: Key(subject.name, port, policy) for policy in policies}
    cells = {policy: all_cells[key].at(subject.cap) for policy, key in keys.items() if key in all_cells}
    old = frozenset(policy for policy, cell in cells.items() if cell.digest != digest(subject, port, policy))
    return Row(subject, port, cells, old)
