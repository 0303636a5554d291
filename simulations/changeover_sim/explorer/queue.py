"""The run queue that hands Trio one chosen step per pass: here every schedule is decided.

Owns what is ready, the tape and the step count of one schedule. Spawns nothing; Trio appends to it, and asks it for
what to run by iterating over it. This is the hot path: a few hundred nanoseconds in every step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Literal

from changeover_sim.explorer import inside_trio
from changeover_sim.explorer.tape import ORDER, Chooser, Decision, FirstInFirstOut
from changeover_sim.explorer.timers import Clock, Due, Timers

Mode = Literal["any-runnable", "trio-batch"]
Timeouts = Literal["when-idle", "any-time"]

_Task = inside_trio.Task
_NOBODY: tuple[Any, ...] = ()
_GIVING_UP_STEPS = 2_000
_BOOT_STEPS = 2
"""Trio's own first steps: its root task, and the task for `run_sync_soon`, which goes before the program undecided."""


class PassingTime:
    """The candidate that is no task: time passes up to the next deadline although something can run."""


_TIME = PassingTime()


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
        """Why nothing is handed out any more: `"stuck"` or `"too long"`."""
        self.beyond_batch = False
        """Whether a step was taken that stock Trio would have kept for its next batch."""
        self.clock = Clock()
        self.broken: BaseException | None = None
        """What was raised while choosing: by the policy, by a thread that blocks, by Ctrl-C."""
        self.timers = Timers(self.clock, self._fire if mode == "trio-batch" else self.append, self._withdraw)
        self.before_step: Callable[[Any, Any], None] | None = None
        """Told each task that is about to run and the deadline that woke it, or None and what else happens instead."""
        self.after_step: Callable[[], None] | None = None
        """Called between two steps; it may make more steps ready."""
        self.is_waiting_for_idle: Callable[[], object] = bool
        self.last: Any = None
        """The task that made the last step."""
        self._pick = chooser.pick
        self._batched = mode == "trio-batch"
        self._any_time = timeouts == "any-time"
        self._steps_max = steps_max
        self._limit = steps_max
        self._batch = 0
        self._settled = 0
        self._unseen = 0

    def clear(self) -> None:
        """Keep everything: Trio clears its queue once it has made a copy, and the copy holds one step only."""

    def __iter__(self) -> Iterator[Any]:
        """Choose the next step; nothing where there is none."""
        try:
            return self._next()
        except BaseException as error:
            self.broken = error  # Trio would call it an error of its own
            raise

    def _next(self) -> Iterator[Any]:
        while self.halted is None:
            if self.after_step is not None:
                self._unseen = self._settled
                self.after_step()
            if len(self) > self._settled + 1:
                self._settle()
            count = len(self)
            if not count:
                if not self._let_time_pass():
                    break
                continue
            self.steps += 1
            if self.steps > self._limit:
                self._over_limit()
                continue
            chosen = self.pop(self._choose(count) if count > 1 or self._any_time else self._only_one())
            self._settled = len(self)
            task = chosen if type(chosen) is _Task else self._fire(chosen)
            if self.before_step is not None:
                self.before_step(task, chosen)
            if task is not None:
                self.last = task
                return iter((task,))
        return iter(_NOBODY)

    def drain(self) -> Iterator[Any]:
        """Return what is ready, and keep it: for those who look and do not run."""
        return super().__iter__()

    # --- one decision -------------------------------------------------------------------------------------------------

    def _only_one(self) -> int:
        self._batch = 0
        return 0

    def _choose(self, count: int) -> int:
        if self.steps <= _BOOT_STEPS:
            return count - 1
        if not self._batch:
            self._batch = count
        width = self._batch if self._batched else count
        if self._any_time and self._may_pass():
            return self._choose_with_time(width)
        taken = 0
        if width > 1:
            taken = self._pick(self[:width])
            self.tape.append((ORDER, width, taken))
        if taken < self._batch:
            self._batch -= 1
        else:
            self.beyond_batch = True
        return taken

    def _may_pass(self) -> bool:
        return self.timers.next_deadline() < float("inf")

    def _choose_with_time(self, width: int) -> int:
        candidates = [*self[:width], _TIME]
        taken = self._pick(candidates)
        self.tape.append((ORDER, width + 1, taken))
        if taken == width:
            self.insert(width, _TIME)
        return taken

    def _fire(self, chosen: Any) -> Any | None:
        """Let a deadline or a thread have its effect; return the task to be run with it, where there is just one."""
        if isinstance(chosen, Due):
            self.timers.fire(chosen)
            if len(self) == self._settled + 1:  # one task was woken by its deadline: both are one step
                task = self.pop()
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
        if self.is_waiting_for_idle():
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
        self._pick = FirstInFirstOut().pick

    def hand_over(self) -> None:
        """Decide nothing any more: run first-in-first-out without an end, for a schedule that is given up."""
        self.halted = None
        self._limit = self.steps + _GIVING_UP_STEPS
        self._steps_max = 0
        self._pick = FirstInFirstOut().pick
        self.after_step = None
        self._any_time = False
