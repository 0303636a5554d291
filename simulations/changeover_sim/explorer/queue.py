"""The run queue that hands Trio one chosen step per pass: here every schedule is decided.

Owns what is ready, the tape and the step count of one schedule. Spawns nothing; Trio appends to it, and asks it for
what to run by iterating over it. This is the hot path: a few hundred nanoseconds in every step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, Literal

from changeover_sim.explorer import inside_trio
from changeover_sim.explorer.errors import BadPolicy
from changeover_sim.explorer.tape import ORDER, Chooser, Decision
from changeover_sim.explorer.timers import Clock, Due, Timers
from changeover_sim.explorer.watching import Watching

Mode = Literal["any-runnable", "trio-batch"]
Timeouts = Literal["when-idle", "any-time"]

_Task = inside_trio.Task
_NOBODY: tuple[Any, ...] = ()
_GIVING_UP_STEPS = 2_000


class PassingTime:
    """The candidate that is no task: time passes up to the next deadline although something can run."""

    _counter = -1


_TIME = PassingTime()
_IDLE = object()


class RunQueue(list[Any]):
    """Everything that could be the next step, in the order in which it became ready.

    What became ready within one step is sorted by its counter: Trio wakes the tasks of a cancelled scope, for one, in
    the order of a set, which is that of memory addresses. `settled` counts those that are sorted already.
    """

    def __init__(self, chooser: Chooser, mode: Mode, timeouts: Timeouts, steps_max: int) -> None:
        """`steps_max`: where the chooser's part ends, see `Rules`."""
        super().__init__()
        self.tape: list[Decision] = []
        self.steps = 0
        self.halted: str | None = None
        """Why nothing is handed out any more: `"stuck"`, `"too long"` or `"broken"`."""
        self.clock = Clock()
        self.broken: BaseException | None = None
        """What was raised while choosing: by the policy, by a thread that blocks, by Ctrl-C."""
        ready = self._act if mode == "trio-batch" else self.append
        self.timers = Timers(self.clock, ready, self._withdraw)
        self.before_step: Callable[[Any, Any], None] | None = None
        """Told each task that is about to run and the deadline that woke it, or None and what else happens instead."""
        self.after_step: Callable[[], None] | None = None
        """Called between two steps; it may make more steps ready."""
        self.watching: Watching | None = None
        """Told of each step, for a policy that looks at conflicts."""
        self.idle_cushion_s: Callable[[], float] = lambda: math.inf
        """After how many seconds without a step somebody wants to be woken; infinity: nobody does."""
        self.last: Any = None
        """The task that made the last step."""
        self._pick = chooser.pick
        self._any_time = timeouts == "any-time"
        self._batched = mode == "trio-batch"
        self._by_mode = self._in_batches if self._batched else self._among_all
        self._decide = self._with_time if self._any_time else self._by_mode
        self._choose: Callable[[int], int] = self._boot
        self._steps_max = steps_max
        self._limit = steps_max
        self._batch = 0
        self._settled = 0
        self._unseen = 0
        self.idle_first = False
        """Set where worker threads are used: they do not keep those waiting who wait for all tasks to be blocked."""
        self._aside: list[Any] = []

    def clear(self) -> None:
        """Keep everything: Trio clears its queue once it has made a copy, and the copy holds one step only."""

    def __iter__(self) -> Iterator[Any]:  # noqa: C901, PLR0912 - the hot path, in one piece on purpose
        """Choose the next step; nothing where there is none."""
        try:
            while self.halted is None:
                if self.watching is not None:
                    self.watching.ended()
                if self.after_step is not None:
                    self._unseen = self._settled
                    self.after_step()
                if self.idle_first and self._idle_goes_first():
                    break
                count = len(self)
                if count > self._settled + 1:
                    self._settle()
                if not count:
                    if self._let_time_pass():
                        continue
                    break
                self.steps = steps = self.steps + 1
                if steps > self._limit:
                    self._over_limit()
                    continue
                if count == 1 and not self._any_time:
                    chosen, self._batch = self.pop(), 0
                else:
                    chosen = self.pop(self._choose(count))
                self._settled = len(self)
                task = chosen if type(chosen) is _Task else self._fire(chosen)
                if self.before_step is not None:
                    self.before_step(task, chosen)
                if self.watching is not None:
                    self.watching.begins(task)
                if task is not None:
                    self.last = task
                    return iter((task,))
        except BaseException as error:  # noqa: BLE001 - raised through Trio it would be an error of Trio's own
            self.fail(error)
        return iter(_NOBODY)

    def fail(self, error: BaseException) -> None:
        """Decide nothing any more: whoever runs the schedule raises `error`."""
        if self.broken is None:
            self.broken, self.halted = error, "broken"

    def drain(self) -> Iterator[Any]:
        """Return what is ready, and keep it: for those who look and do not run."""
        return super().__iter__()

    # --- one decision: `_choose` is one of these ----------------------------------------------------------------------

    def _boot(self, count: int) -> int:
        """Let Trio start: its own task for `run_sync_soon` goes before the program, undecided."""
        if count > 1:
            self._choose = self._decide
        return count - 1

    def _among_all(self, count: int) -> int:
        taken = self._pick(self[:])
        if taken.__class__ is not int or not 0 <= taken < count:
            raise BadPolicy(f"the policy picked {taken!r} of {count} candidates")
        self.tape.append((ORDER, count, taken))
        return taken

    def _in_batches(self, count: int) -> int:
        """Choose among those that were ready when the batch began, and threads, which know nothing of batches."""
        if not any(type(step) is _Task for step in self[: self._batch]):
            self._batch = count
        places = [at for at in range(count) if at < self._batch or type(self[at]) is not _Task]
        at = places[self._among([self[at] for at in places]) if len(places) > 1 else 0]
        if at < self._batch:
            self._batch -= 1
        return at

    def _with_time(self, count: int) -> int:
        """Choose among what is ready and the next deadline, although it has not come; in batches only between them."""
        amid = self._batched and any(type(step) is _Task for step in self[: self._batch])
        if amid or self.timers.next_deadline() == math.inf:
            if count > 1:
                return self._by_mode(count)
            self._batch = 0
            return 0
        taken = self._among([*self[:], _TIME])
        if taken == count:
            self.append(_TIME)
        elif self._batched:
            self._batch = count - 1
        return taken

    def _among(self, candidates: list[Any]) -> int:
        taken = self._pick(candidates)
        if taken.__class__ is not int or not 0 <= taken < len(candidates):
            raise BadPolicy(f"the policy picked {taken!r} of {len(candidates)} candidates")
        self.tape.append((ORDER, len(candidates), taken))
        return taken

    def _act(self, due: Due) -> None:
        """Let a deadline have its effect the moment that it comes, as stock Trio does."""
        self.timers.fire(due)

    def _fire(self, chosen: Any) -> Any | None:
        """Let a deadline or a thread have its effect; return the task to be run with it, where there is just one."""
        if isinstance(chosen, Due):
            self.timers.fire(chosen)
            if len(self) == self._settled + 1 and type(self[-1]) is _Task:
                task = self.pop()  # the only one that was woken: the deadline and its step are one
                self._settled = len(self)
                return task
        elif isinstance(chosen, PassingTime):
            self.timers.jump()
        else:
            chosen.run()
        return None

    def fresh(self) -> list[Any]:
        """Return what became ready since the last decision."""
        return self[self._unseen :]

    # --- what is ready ------------------------------------------------------------------------------------------------

    def _idle_goes_first(self) -> bool:
        """Where only threads could go on, let those who wait until all tasks are blocked be woken before, or not.

        Trio wakes them in its next pass, and only from an empty queue: the threads stand aside for that long.
        """
        if self._aside:
            self._bring_back()
            return False
        self._settle()
        cushion_s = self.idle_cushion_s()
        if not self or cushion_s == math.inf or any(isinstance(step, _Task | Due) for step in self.drain()):
            return False
        soon = cushion_s < self.timers.next_deadline() - self.clock.now
        if not soon or self._among([*self[:], _IDLE]) < len(self):
            return False
        self._aside = self[:]
        del self[:]
        self._settled = self._batch = 0
        return True

    def _bring_back(self) -> None:
        if not self._aside:
            return
        self.extend(self._aside)
        self._aside.clear()
        self._settled = 0

    def _settle(self) -> None:
        fresh = self[self._settled :]
        fresh.sort(key=inside_trio.spawn_order)
        self[self._settled :] = fresh
        self._settled = len(self)

    def _withdraw(self, due: Due) -> None:
        at = self.index(due)
        del self[at]
        if at < self._settled:
            self._settled -= 1
        if at < self._batch:
            self._batch -= 1

    def _let_time_pass(self) -> bool:
        if self.idle_cushion_s() < self.timers.next_deadline() - self.clock.now:
            return False  # Trio wakes them in its next pass; no time passes for that
        if not self.timers.jump():
            self.halted = "stuck"
            return False
        return True

    def _over_limit(self) -> None:
        """Go on first-in-first-out, which is fair, and give up where that does not end either."""
        if self._limit > self._steps_max:
            self.halted = "too long"
        self._limit = 2 * self._steps_max
        self._decide_nothing()

    def hand_over(self) -> None:
        """Decide nothing any more: run first-in-first-out without an end, for a schedule that is given up."""
        self.halted = None
        self._limit = self.steps + _GIVING_UP_STEPS
        self._steps_max = 0
        self.after_step = self.watching = None
        self._any_time = False
        self._decide_nothing()

    def _decide_nothing(self) -> None:
        self._choose = self._first
        self.idle_first = False
        self._bring_back()

    def _first(self, _: int) -> int:
        """Take whoever was ready first; no decision, and none on the tape, so that a replay goes the same way."""
        return 0
