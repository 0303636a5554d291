"""What the runs of a fleet come to: a row per scenario, what was broken, and what the fleet itself must not miss.

Owns its counts; the order in which runs are added changes nothing that is told of them.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from changeover_sim.simulate.fleet import Item
    from changeover_sim.simulate.play import Outcome

SAME_TRACE = "promise 11"
MISSED = "canary"
"""What is broken where a planted lie was not found: an oracle."""

RUNS_FOR_ORACLES = 20
"""In so many runs of a scenario each of its oracles must have judged."""
RUNS_FOR_SITES = 1_000
"""In so many runs of all scenarios each `sometimes` site must have been reached."""
_KEPT = 50
"""So many failures of one kind are kept whole; of the others only the seeds are known."""

NOTHING_TO_JUDGE: dict[str, frozenset[int]] = {}
"""By scenario, the promises that it has no occasion to break."""
NEVER_SIMULATED: dict[str, str] = {}
"""By name, why a `sometimes` site of the engine cannot be reached in the simulated world."""


@attrs.define
class Row:
    """The runs of one scenario."""

    runs: int = 0
    failed: int = 0
    steps: int = 0
    virtual_s: float = 0.0
    real_s: float = 0.0
    """Summed up over all processes."""
    struck: Counter[str] = attrs.field(factory=Counter[str])
    judged: Counter[int] = attrs.field(factory=Counter[int])
    """By promise; one that was never judged is there with 0."""

    def add(self, outcome: Outcome) -> None:
        """Count a run."""
        self.runs += 1
        self.steps += outcome.steps
        self.virtual_s += outcome.virtual_s
        self.real_s += outcome.real_s
        self.struck.update(outcome.struck)
        self.judged.update(outcome.judged)


@attrs.define
class Broken:
    """One kind of failure in one scenario."""

    seeds: list[int] = attrs.field(factory=list[int])
    kept: list[Outcome] = attrs.field(factory=list["Outcome"])
    """The first ones that came in."""

    @property
    def first(self) -> Outcome:
        """Return the one of the lowest seed among those that were kept."""
        return min(self.kept, key=lambda outcome: outcome.seed)


class Tally:
    """All runs of a fleet."""

    def __init__(self, *, complete: bool = False, sites: Iterable[str] = ()) -> None:
        """Begin with none; `complete`: all scenarios are played, so that they must reach all these sites."""
        self.complete = complete
        self.sites = frozenset(sites)
        self.rows: dict[str, Row] = {}
        self.broken: defaultdict[tuple[str, str], Broken] = defaultdict(Broken)
        """By what was broken and in which scenario."""
        self.reached: Counter[str] = Counter()
        self.again = 0
        """So many runs were made twice."""
        self.canaries = 0
        self.interrupted = False
        self.wall_s = 0.0
        self._traces: dict[tuple[str, int], tuple[str, int]] = {}

    @property
    def runs(self) -> int:
        """How many runs there were, without canaries and second times."""
        return sum(row.runs for row in self.rows.values())

    @property
    def failed(self) -> int:
        """How often something was broken."""
        return sum(len(broken.seeds) for broken in self.broken.values())

    def add(self, item: Item, outcome: Outcome) -> Outcome | None:
        """Count a run, and return how it failed, if it did."""
        if item.kind == "canary":
            return self._canary(outcome)
        if item.kind == "again":
            return self._compare(outcome)
        row = self.rows.setdefault(outcome.scenario, Row())
        row.add(outcome)
        self.reached.update(outcome.reached)
        if item.again(outcome) is not None:
            self._traces[outcome.scenario, outcome.seed] = (outcome.trace, outcome.steps)
        return None if outcome.broken is None else self._fail(outcome)

    def _canary(self, outcome: Outcome) -> Outcome | None:
        self.canaries += 1
        if outcome.broken is not None:
            return None
        return self._fail(attrs.evolve(outcome, broken=MISSED, what="a planted lie was believed by all oracles"))

    def _compare(self, outcome: Outcome) -> Outcome | None:
        self.again += 1
        first, second = self._traces.pop((outcome.scenario, outcome.seed)), (outcome.trace, outcome.steps)
        if first == second:
            return None
        told = "the same seed gave trace {} in {:,} steps, and then {} in {:,}".format(*first, *second)
        return self._fail(attrs.evolve(outcome, broken=SAME_TRACE, what=told))

    def _fail(self, outcome: Outcome) -> Outcome:
        assert outcome.broken is not None
        self.rows.setdefault(outcome.scenario, Row()).failed += 1
        broken = self.broken[outcome.broken, outcome.scenario]
        broken.seeds.append(outcome.seed)
        if len(broken.kept) < _KEPT:
            broken.kept.append(outcome)
        return outcome

    # --- what the fleet must not miss ---------------------------------------------------------------------------------

    @property
    def unreached(self) -> list[str]:
        """The sites that no run has reached and that one could."""
        return sorted(self.sites - NEVER_SIMULATED.keys() - {name for name, count in self.reached.items() if count})

    def defects(self) -> list[str]:
        """Return, a sentence each, what was not looked at though there were runs enough to."""
        return [*self._silent(), *self._sites()]

    def _silent(self) -> Iterator[str]:
        for name, row in sorted(self.rows.items()):
            silent = sorted(
                p for p, count in row.judged.items() if not count and p not in NOTHING_TO_JUDGE.get(name, ())
            )
            if silent and row.runs >= RUNS_FOR_ORACLES:
                numbers = ", ".join(map(str, silent))
                yield f"in {row.runs:,} runs of {name} nothing was judged by the oracles of promise {numbers}"

    def _sites(self) -> Iterator[str]:
        if self.complete and self.runs >= RUNS_FOR_SITES:
            yield from (f"in {self.runs:,} runs the site {name} was never reached" for name in self.unreached)

    @property
    def ok(self) -> bool:
        """Whether nothing was broken, and nothing missed."""
        return not self.broken and not self.defects()
