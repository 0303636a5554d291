"""SURW, selectively uniform random walk: every order of the steps of one set comes with the same probability.

Zhao, Wolff, Mathur, Roychoudhury: Selectively Uniform Concurrency Testing, ASPLOS 2025. Each schedule draws its set:
the steps that use one resource, or all steps, or those with which tasks begin or go on behind a wait.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Hashable, Mapping, Sequence
from itertools import accumulate
from random import Random
from typing import Any, ClassVar

import attrs

from changeover_sim.explorer.tape import Decision, Path
from changeover_sim.policies.base import PROBES, Drawing, Measured, Measures
from changeover_sim.policies.census import EVERY, LIFE, Census, Tally
from changeover_sim.policies.foresight import Foresight, Sight, Used
from changeover_sim.policies.pos import priorities

_GENERAL = 0.1
"""How many of the schedules have all steps for their set, and how many those with which tasks go on, where some of the
steps are known to use something; else half of them each."""


@attrs.frozen
class SURW:
    """Chooses in proportion to the steps of the set that each task and those that it has yet to spawn still have."""

    samples: ClassVar[bool] = True

    def begin(self) -> UniformWalks:
        """Return a strategy that has seen nothing yet."""
        return UniformWalks()


class UniformWalks(Measured):
    """SURW over one program: the probes count the steps of each task, and what they use."""

    def __init__(self) -> None:
        super().__init__()
        self._foresight = Foresight()
        self._census = Census()
        self._tally: Tally | None = None

    def chooser(self, index: int, rng: Random) -> Weighted:
        """Return the walk of schedule `index`; it never runs out. The first is a random walk: nothing is known yet."""
        probe = index < PROBES
        self._tally = Tally() if probe else None
        chosen = self.drawn(rng)
        made: Weighted
        if chosen is EVERY:
            made = Uniform(rng, self.measures, index)
        elif chosen is LIFE:
            made = Rising(rng, self.measures, index)
        else:
            made = Using(rng, self.measures, index, chosen)
        made.know(self._census.expected(chosen), self._tally, self._foresight.sight(probe=probe))
        return made

    def drawn(self, rng: Random) -> Hashable:
        """Return a kind of steps; a resource as likely as it is used, where several tasks use it."""
        shared, drawn = self._census.shared(), rng.random()
        general = _GENERAL if shared else 0.5
        if not self._census.probes or drawn < general:
            return EVERY
        if drawn < 2 * general:
            return LIFE
        return rng.choices(list(shared), list(shared.values()))[0]

    def learn(self, index: int, tape: Sequence[Decision]) -> bool:
        """Learn how long schedules are, and how many steps of each kind each task makes."""
        if self._tally is not None:
            self._census.add(self._tally)
            self._tally = None
        return super().learn(index, tape)


class Weighted(Drawing):
    """One schedule, in which each task is weighed by the steps of the set that are still expected of it.

    Those of the tasks that it has yet to spawn are its own: a new task takes its share along.
    """

    _least: ClassVar[float] = 0.0
    """How many steps are expected of a task at least."""

    def __init__(self, rng: Random, measures: Measures, index: int) -> None:
        super().__init__(rng, measures, index)
        self._left: dict[Any, float] = {}
        self._intended: Any = None
        """Who makes the next step of the set, once that was drawn."""
        self._at: dict[Path, Any] = {}

    def know(self, expected: Mapping[Path, float], tally: Tally | None, sight: Sight) -> None:
        """Take what is known of the program; what is seen is counted in `tally`, where this is a probe."""
        self._expected, self._tally, self._sight = expected, tally, sight
        self._noting = sight.counts

    def watch(self, ahead: Callable[[Any], Used]) -> None:
        """Take how to ask what a candidate has said."""
        self._sight.watch(ahead)

    def spawned(self, task: Any, path: Path) -> None:
        """Give a new task its share of its spawner's steps, and of the chance that the spawner is intended."""
        self._sight.spawned(task, path)
        if self._tally is not None:
            self._tally.spawned(task, path)
        self._at[path] = task
        share = self._expected.get(path, 0.0)
        self._left[task] = max(share, self._least)
        spawner = self._at.get(path[:-1])
        if spawner is not None:
            before = self._left[spawner]
            if spawner is self._intended and self._random() * before < share:
                self._intended = task
            self._left[spawner] = max(before - share, self._least)

    def made(self, task: Any, used: Used) -> None:
        """See a step."""
        if self._noting:
            self._sight.made(task, used)
            if self._tally is not None:
                self._tally.made(task, used)

    def pick(self, candidates: Sequence[Any]) -> int:
        """Return one of the candidates."""
        raise NotImplementedError

    def waits(self, task: Any) -> None:
        """See that a task waits."""
        if self._tally is not None:
            self._tally.waits(task)

    def _counted(self, task: Any) -> None:
        """Count a step of the set."""
        self._left[task] = max(self._left[task] - 1.0, self._least)

    def _weighed(self, weights: Sequence[float]) -> int:
        """Return one of as many as there are weights, in proportion."""
        sums = list(accumulate(weights))
        return bisect_right(sums, self._random() * sums[-1], hi=len(sums) - 1)


class Uniform(Weighted):
    """A schedule in which all steps are in the set: whoever is ready has one at least."""

    _least = 1.0

    def pick(self, candidates: Sequence[Any]) -> int:
        """Return one in proportion to the steps that are left to it; what is no task has one."""
        try:
            return self._weighed([self._left[candidate] for candidate in candidates])
        except KeyError:
            return self._weighed([self._left.get(candidate, 1.0) for candidate in candidates])

    def made(self, task: Any, used: Used) -> None:
        """Count a step."""
        super().made(task, used)
        if task is not None:
            self._counted(task)


class Selective(Weighted):
    """A schedule in which some steps are in the set; the others come in the order of random priorities.

    Whose step of the set is next is drawn when the first such step is due. Until that task comes to one, all others
    that come to one wait for it; where nobody else is left it is drawn anew.
    """

    def __init__(self, rng: Random, measures: Measures, index: int) -> None:
        super().__init__(rng, measures, index)
        self._priority: dict[Any, float] = {}
        self._held: set[Any] = set()
        """Those that wait for the one that is intended."""

    def _is_in(self, candidate: Any) -> bool:
        """Return whether a candidate's next step is in the set."""
        raise NotImplementedError

    def pick(self, candidates: Sequence[Any]) -> int:
        """Return the first by priority whose step is not in the set, or who is intended."""
        found = priorities(self._priority, candidates, self._random)
        for at, candidate in enumerate(candidates if self._held else ()):
            if candidate in self._held:
                found[at] = -1.0
        while True:
            first = found.index(max(found))
            chosen = candidates[first]
            if found[first] < 0.0:
                self._intended = None
                self._held.clear()
                found = [self._priority[candidate] for candidate in candidates]
            elif not self._is_in(chosen) or self._intends(chosen, candidates):
                break
            else:
                self._held.add(chosen)
                found[first] = -1.0
        # Whose step is in the set draws anew, too: in the authors' program it does not, and some orders never come;
        # test_what_is_no_task_has_its_turn_as_well fails then.
        del self._priority[chosen]
        return first

    def made(self, task: Any, used: Used) -> None:
        """Let a task whose step was no choice draw anew, too."""
        super().made(task, used)
        self._priority.pop(task, None)

    def _intends(self, due: Any, candidates: Sequence[Any]) -> bool:
        """Return whether it is the turn of the one whose step is due; draw whose it is where nobody has it."""
        if self._intended is None:
            self._left[due] = max(self._left[due], 1.0)
            self._intended = candidates[self._weighed([self._left.get(candidate, 0.0) for candidate in candidates])]
        return self._intended is due

    def _counted(self, task: Any) -> None:
        """Count a step of the set; the next one is drawn anew."""
        super()._counted(task)
        self._intended = None
        self._held.clear()


class Using(Selective):
    """A schedule in which the steps that use a resource are in the set."""

    def __init__(self, rng: Random, measures: Measures, index: int, resource: Hashable) -> None:
        super().__init__(rng, measures, index)
        self._resource = resource

    def _is_in(self, candidate: Any) -> bool:
        return self._resource in self._sight.next(candidate)

    def made(self, task: Any, used: Used) -> None:
        """Count a step."""
        super().made(task, used)
        if self._resource in used and task is not None:
            self._counted(task)


class Rising(Selective):
    """A schedule in which the first steps are in the set: of a task, and behind a wait."""

    def __init__(self, rng: Random, measures: Measures, index: int) -> None:
        super().__init__(rng, measures, index)
        self._rising: set[Any] = set()

    def spawned(self, task: Any, path: Path) -> None:
        """Expect the first step of a task."""
        super().spawned(task, path)
        self._rising.add(task)

    def waits(self, task: Any) -> None:
        """Expect the first step behind the wait."""
        super().waits(task)
        self._rising.add(task)

    def _is_in(self, candidate: Any) -> bool:
        return candidate in self._rising

    def made(self, task: Any, used: Used) -> None:
        """Count a step."""
        super().made(task, used)
        if task in self._rising:
            self._rising.remove(task)
            self._counted(task)
