"""The record of one schedule: step by step, which task ran which of the program's lines, and where it stopped.

Owns Python's trace function while it records, and gives it back; only a replay is recorded, because it is slow.
"""

from __future__ import annotations

import math
import sys
import zlib
from collections import deque
from collections.abc import Iterable
from types import CodeType, FrameType
from typing import Any

import attrs

from changeover_sim.explorer import inside_trio
from changeover_sim.explorer.holding import Held, Ledger
from changeover_sim.explorer.places import Names, Place, is_own, of_thread, place
from changeover_sim.explorer.queue import PassingTime, RunQueue
from changeover_sim.explorer.tape import CANCEL, ORDER, VALUE, Decision
from changeover_sim.explorer.timers import Due

STEPS_MAX = 2_000
"""How many steps of a schedule are recorded."""

CANCELLED = "cancel_anywhere"
"""The cause of a step before which the explorer cancelled a scope."""

_LINES_MAX = 1_000
"""How many lines of a step are recorded from its beginning, and how many from its end: a loop makes millions."""

_AROUND = 3
"""How many steps behind one are recorded where only that one is wanted, and what came before."""


@attrs.frozen
class Step:
    """One step of a schedule: all that a task does between two checkpoints, or what happens instead of a task."""

    task: str
    """The task's name; empty where none ran."""
    time_s: float
    """When, in virtual seconds."""
    begins: Place | None
    """The line that the task stood at; None at its very first step."""
    lines: tuple[Place, ...]
    """The program's own lines that ran, in order; of more than 2,000 the first and the last 1,000."""
    ends: Place | None
    """The line of the next checkpoint; None: the task has ended."""
    cause: str
    """What happened beside it or instead of it: a deadline that came, an exception that the checkpoint raised."""
    skipped: int
    """How many others were ready before it and were passed over; 0: first-in-first-out would have done the same."""
    number: int = 0
    """Which step of the schedule it is, from 1; those that Trio makes for itself are not counted."""
    choices: tuple[int, ...] = ()
    """What `choose` returned in it, each as the option's index."""
    taken: tuple[Held, ...] = ()
    """What was taken in it: most often by its task, by another where it was handed over."""
    given: tuple[Held, ...] = ()
    """What was given back in it."""

    @property
    def deviates(self) -> bool:
        """Whether first-in-first-out, without a cancellation and with first options only, would have it otherwise."""
        return bool(self.skipped) or CANCELLED in self.cause or any(self.choices)

    def __str__(self) -> str:
        return f"{self.task} {self.begins} -> {self.ends} {self.cause}".strip()


_NAMED_MAX = 20


class Roll:
    """Notes of a schedule, cheaply, who was ready before each step and who was taken: to compare two runs of it."""

    stock = True

    def __init__(self) -> None:
        self.calls: list[str] = []
        """A line for each step."""
        self.marks: list[tuple[int, int]] = []
        """For each step its number in the queue, and how many decisions had been made when it began."""
        self._names = Names()
        self._queue: RunQueue

    def follow(self, queue: RunQueue, names: Names) -> None:
        """Note what this queue hands out."""
        self._queue, self._names = queue, names
        queue.before_step = self._step

    def steps(self) -> tuple[Step, ...]:
        """Return nothing: no step is recorded."""
        return ()

    def stop(self) -> None:
        """Note nothing any more."""
        self._queue.before_step = None

    def _step(self, task: Any, chosen: Any) -> None:
        ready = [one for one in self._queue.drain() if isinstance(one, inside_trio.Task)]
        named = sorted(ready, key=inside_trio.spawn_order)[:_NAMED_MAX]
        others = [*map(self._names.of, named), *([f"{len(ready)} in all"] if len(ready) > _NAMED_MAX else [])]
        name = _cause(chosen) if task is None else self._names.of(task)
        self.marks.append((self._queue.steps, len(self._queue.tape)))
        self.calls.append(f"{name}, ready beside it: {', '.join(others) or 'nobody'}")


class Recorder:
    """Records one schedule, the last `STEPS_MAX` steps of it."""

    def __init__(self, steps: int, *, around: int | None = None) -> None:
        """Take down the end of a schedule of so many steps: what is long past is left out, since it takes long.

        With `around` that is the end of what came before that step of the queue's, and a few steps more.
        """
        self._from = (steps if around is None else around) - STEPS_MAX
        self._until = math.inf if around is None else around + _AROUND
        self._steps: list[Step] = []
        self._names = Names()
        self._queue: RunQueue
        self._task: Any = None
        self._open: tuple[str, float, Place | None, str, int] | None = None
        self._seen = 0
        self._number = 0
        self._ledger = Ledger()
        self._is_trios = False
        """Whether the step that is open is one of Trio's own tasks'."""
        self._passed = 0
        """How many were passed over by such a step, which counts for the next one of the program's."""
        self.stock = True
        """Whether stock Trio could have made the schedule up to here."""
        self.calls: list[str] = []
        self._batch: set[Any] = set()
        """Those of stock Trio's batch that have not run yet."""
        self._lines: list[tuple[CodeType, int]] = []
        self._last: deque[tuple[CodeType, int]] = deque(maxlen=_LINES_MAX)
        """What ran behind the first lines of a step; places are made of them when it is over, which takes longer."""
        self._before: Any = None

    def follow(self, queue: RunQueue, names: Names) -> None:
        """Record what this queue hands out."""
        self._queue, self._names = queue, names
        queue.before_step = self._step
        self._before = sys.gettrace()

    def steps(self) -> tuple[Step, ...]:
        """Return what was recorded so far; what the program never sees, Trio's own tasks, is left out."""
        return tuple(self._steps)

    def stop(self) -> None:
        """Close the last step, and give Python's trace function back."""
        self._close()
        self._queue.before_step = None

    def _step(self, task: Any, chosen: Any) -> None:
        decisions = self._close()
        name = "" if task is None else self._names.of(task)
        skipped = max(decisions[-1][2] if decisions and decisions[-1][0] == ORDER else 0, self._passed)
        self._is_trios = task is not None and inside_trio.is_of_the_loop(task)
        self._passed = skipped if self._is_trios else 0
        self._number += not self._is_trios
        self._follow_batches(task, chosen)
        if not self._from <= self._queue.steps <= self._until:
            return
        begins = error = None
        if task is not None:
            begins = None if inside_trio.is_fresh(task) else place(task)
            error = inside_trio.error_of(task)
        cancelled = any(kind == CANCEL and taken for kind, _, taken in decisions)
        causes = [_cause(chosen), CANCELLED if cancelled else "", type(error).__name__ if error else ""]
        self._task, self._open = task, (name, self._queue.clock.now, begins, ", ".join(filter(None, causes)), skipped)
        sys.settrace(self._trace)

    def _follow_batches(self, task: Any, chosen: Any) -> None:
        """See whether stock Trio could do the same: deadlines between two batches, and each batch to its end.

        Worker threads go on whenever they like, and time passes between two batches.
        """
        amid = any(task in self._batch for task in self._queue.drain())
        if isinstance(chosen, Due | PassingTime):
            self.stock = self.stock and not amid
        elif isinstance(chosen, inside_trio.Task):
            if chosen not in self._batch and not amid:
                ready = list(self._queue.drain())
                self.stock = self.stock and not any(isinstance(step, Due) for step in ready)
                self._batch = {chosen, *(step for step in ready if isinstance(step, inside_trio.Task))}
            self.stock = self.stock and chosen in self._batch
        self._batch.discard(chosen if task is None else task)

    def _close(self) -> list[Decision]:
        """Close the step that is open, if any; return what was decided since it began."""
        sys.settrace(self._before)
        decisions = self._queue.tape[self._seen :]
        self._seen = len(self._queue.tape)
        if self._open is None:
            return decisions
        (name, time_s, begins, cause, skipped), self._open = self._open, None
        ends = None if self._task is None else place(self._task)
        choices = tuple(taken for kind, _, taken in decisions if kind == VALUE)
        changes = self._ledger.settle(self._number, self._names)
        lines = tuple(Place(code.co_filename, line, code.co_qualname) for code, line in (*self._lines, *self._last))
        if not self._is_trios:
            self._steps.append(Step(name, time_s, begins, lines, ends, cause, skipped, self._number, choices, *changes))
        self._lines.clear()
        self._last.clear()
        return decisions

    def _trace(self, frame: FrameType, event: str, argument: object) -> Any:
        if is_own(frame.f_code.co_filename):
            return self._line
        self._ledger.called(frame, self._task)
        return None

    def _line(self, frame: FrameType, event: str, argument: object) -> Any:
        if event == "line":
            (self._lines if len(self._lines) < _LINES_MAX else self._last).append((frame.f_code, frame.f_lineno))
        return self._line


def print_of(steps: Iterable[Step]) -> int:
    """Return a checksum over who did what in these steps, by line and not by folder."""
    return zlib.crc32("\n".join(map(str, steps)).encode(errors="backslashreplace"))


def _cause(chosen: Any) -> str:
    if isinstance(chosen, Due):
        return f"deadline {chosen.time_s:g} s"
    if isinstance(chosen, PassingTime):
        return "time passes"
    return "" if isinstance(chosen, inside_trio.Task) else f"thread {of_thread(chosen.name)}"
