"""Every schedule that can come to something else: an exhaustive search that leaves out mere permutations of others.

Two steps that use different things can change places. Of all schedules that differ by such changes one is made, told
apart by what races (Source-DPOR, Abdulla et al., POPL 2014) and by sleep sets (Godefroid, LNCS 1032, 1996).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import Any, ClassVar

import attrs

from changeover_sim.explorer.tape import CANCEL, ORDER, VALUE, Decision, Path
from changeover_sim.policies.races import UNKNOWN, Step, Used, conflict, reversals


@attrs.frozen
class DPOR:
    """Tries all schedules, but of those that differ only in the order of steps that do not conflict just one.

    It takes the program at its word: a step that touches something must touch everything shared that it uses: locks,
    events, channels, nurseries of others, draws from `random` and whatever else another step can notice. Where one does
    not, a schedule that matters may be left out. A step that touches nothing conflicts with all, so a program that
    touches nothing is searched as by `Exhaustive(None)`; and so does one that cancels, fails, enters or leaves a scope,
    may be cancelled, or spawns into a nursery that it is not in. A schedule that proves to be a permutation of an
    earlier one is run to its end, and counts.
    """

    samples: ClassVar[bool] = False

    def begin(self) -> Search:
        """Return a strategy that has seen nothing yet."""
        return Search()


@attrs.define(eq=False)
class Node:
    """One decision of the schedule that was run last: a place where the search may go on."""

    kind: int
    width: int
    taken: int
    steps: int
    """How many steps were made before it."""
    todo: set[int]
    """The alternatives that must be tried, those that were tried among them."""
    asleep: dict[int, Used] = attrs.field(factory=dict[int, Used])
    """The alternatives that were tried in the place of an earlier step, which they do not conflict with."""
    done: dict[int, Used] = attrs.field(factory=dict[int, Used])
    """The alternatives that were tried to their end, and what their steps used."""
    used: Used | None = None
    """What the step that is being tried has used, whatever was chosen in it; None: it was not made yet."""

    def saw(self, used: Used) -> None:
        """Note what the step used in one more schedule."""
        before = used if self.used is None else self.used
        self.used = before | used if before and used else UNKNOWN

    def goes_on(self) -> bool:
        """Turn to the next alternative; False where there is none left."""
        self.done[self.taken], self.used = self.used or UNKNOWN, None
        left = self.todo - set(self.done) - set(self.asleep)
        self.taken = min(left, default=self.taken)
        return bool(left)


class Search:
    """A depth-first search; its state are the decisions of the last schedule, with what is left to try at each."""

    def __init__(self) -> None:
        self._path: list[Node] = []
        self._last: list[Decision] = []
        self._course = Course(self._path)
        self._over = False

    def chooser(self, index: int, rng: Random) -> Course | None:
        """Return who decides the next schedule; None when there is nothing left to try."""
        self._course = Course(self._path)
        return None if self._over else self._course

    def learn(self, index: int, tape: Sequence[Decision]) -> bool:
        """Find the next schedule; False where the program did not get to the decision that was to be another."""
        told = self._course.told
        same = list(tape[: told - 1]) == self._last[: told - 1] if told else True
        self._last = list(tape)
        path, steps = self._path, self._course.ended()
        for step in steps:
            if step.node is not None:
                path[step.node].saw(step.used)
        self._reverse(steps, path[told - 1].steps if told else 0)
        while path and not path[-1].goes_on():
            path.pop()
        self._over = not path
        return same

    def _reverse(self, steps: Sequence[Step], since: int) -> None:
        """See to it that each race is tried the other way round, too."""
        for step, first in reversals(steps, since):
            if step.node is not None:
                node = self._path[step.node]
                able = [step.candidates.index(task) for task in first if task in step.candidates]
                if able and not any(one in node.todo or one in node.asleep for one in able):
                    node.todo.add(able[0])


class Course:
    """One schedule: that of the path so far, and then whoever stands first and does not sleep."""

    def __init__(self, path: list[Node]) -> None:
        self.told = len(path)
        """How many decisions were taken beforehand."""
        self._path = path
        self._at = 0
        self._steps: list[Step] = []
        self._open: Step | None = None
        """The step that was chosen or made last."""
        self._made = False
        self._far = False
        """Whether the step that is being made reached beyond what it uses."""
        self._redundant = False
        """Whether what follows is a permutation of what was tried: nothing of it is noted."""
        self._asleep: dict[Any, Used] = {}
        """Who need not run next, because whatever could follow was tried, and what the step would use."""
        self._tasks: set[Any] = set()
        self._ready: set[Any] = set()
        """Who could run when that was seen last, and `_seen`: before which step."""
        self._seen = 0
        self._causes: dict[Any, frozenset[int]] = {}
        """The steps that made the next one of a task possible."""
        self._joined: dict[Any, Sequence[Any]] = {}
        self._last: dict[Any, int] = {}
        """The last step of each task."""

    # --- what is decided ----------------------------------------------------------------------------------------------

    def pick(self, candidates: Sequence[Any]) -> int:
        """Return what the path says; behind its end the first that does not sleep."""
        self._close()
        self._see(candidates)
        asleep = {at: self._asleep[one] for at, one in enumerate(candidates) if one in self._asleep}
        self._redundant = self._redundant or len(asleep) == len(candidates)
        if self._redundant:
            return 0
        first = min(at for at in range(len(candidates)) if at not in asleep)
        # What is no task may go away without having run, so that no race would tell of it.
        others = {at for at, one in enumerate(candidates) if one not in self._tasks}
        node = self._node(ORDER, len(candidates), first, {first, *others} - set(asleep), asleep)
        self._asleep = {candidates[at]: used for at, used in (node.asleep | node.done).items() if used}
        taken = node.taken if node.taken < len(candidates) else 0
        self._begin(candidates[taken], candidates, self._at - 1)
        self._far = False
        return taken

    def value(self, width: int) -> int:
        """Return what the path says; all options are tried."""
        return 0 if self._redundant else self._node(VALUE, width, 0, set(range(width)), {}).taken

    def cancel(self, scope: int, moment: int) -> bool:
        """Return what the path says; both are tried. The step that it follows, or is part of, conflicts with all."""
        self._far = True
        if self._open is not None:
            self._open.used = UNKNOWN
        return not self._redundant and bool(self._node(CANCEL, 2, 0, {0, 1}, {}).taken)

    def _node(self, kind: int, width: int, taken: int, todo: set[int], asleep: dict[int, Used]) -> Node:
        if self._at == len(self._path):
            self._path.append(Node(kind, width, taken, len(self._steps), todo, asleep))
        self._at += 1
        return self._path[self._at - 1]

    # --- what is seen -------------------------------------------------------------------------------------------------

    def watch(self, ahead: Callable[[Any], Used]) -> None:
        """Begin; what is known ahead is not needed."""

    def spawned(self, task: Any, path: Path) -> None:
        """See that a candidate is a task."""
        self._tasks.add(task)

    def far(self) -> None:
        """See that the step which is about to be told reached beyond what it used."""
        self._far = True

    def joined(self, task: Any, others: Sequence[Any]) -> None:
        """See that a task which waited for all of these to end can go on."""
        self._joined[task] = others

    def made(self, task: Any, used: Used) -> None:
        """See what a step used; one that nobody chose was the only one that there was."""
        if self._redundant:
            return
        if self._open is None or self._made:
            self._close()
            self._see([task])
            self._begin(task)
        step = self._open
        assert step is not None
        step.used = UNKNOWN if self._far or step.task is not task else used
        self._made, self._far = True, False

    def ended(self) -> Sequence[Step]:
        """Return the steps, without those of a part that is redundant."""
        self._close()
        return self._steps

    def _begin(self, task: Any, candidates: Sequence[Any] = (), node: int | None = None) -> None:
        causes = self._causes.pop(task, frozenset[int]())
        causes |= {self._last[one] for one in self._joined.pop(task, ()) if one in self._last}
        self._open, self._made = Step(task, causes, candidates, node), False

    def _close(self) -> None:
        step, self._open = self._open, None
        if step is None or self._redundant:
            return
        if step.task in self._asleep:
            self._redundant = True
            return
        self._last[step.task] = len(self._steps)
        self._steps.append(step)
        self._asleep = {one: used for one, used in self._asleep.items() if not conflict(used, step.used)}

    def _see(self, candidates: Sequence[Any]) -> None:
        """Note who made those ready that were not before: known where just one step was made in between."""
        if len(self._steps) == self._seen + 1:
            self._causes.update((one, frozenset({self._seen})) for one in candidates if one not in self._ready)
        self._ready, self._seen = set(candidates), len(self._steps)
