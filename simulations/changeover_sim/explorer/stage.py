"""The stage of an exploration: it takes over a thread, and gives everything back as it was.

Owns the guard, the alarm, the way to real threads, and the one schedule that is being played.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

from changeover_sim.explorer import choices as choices_
from changeover_sim.explorer import inside_trio, machine, threads
from changeover_sim.explorer.errors import BadProgram, ExplorerError, Uncontrolled
from changeover_sim.explorer.guard import Guard
from changeover_sim.explorer.places import is_own
from changeover_sim.explorer.queue import RunQueue
from changeover_sim.explorer.schedule import Ending, Program, Rules, Schedule
from changeover_sim.explorer.tape import Chooser
from changeover_sim.explorer.trace import Recorder, Roll

_alone = threading.Lock()
"""Held while an exploration goes on: it puts stand-ins where the whole process looks for Trio's threads."""


_UNWATCHED = "a program that blocks would not be noticed: this is not the main thread, or SIGALRM is taken"

_RECORDED = 10
"""How many times as long a step may take where each of its lines is recorded."""


class Stage:
    """What lives as long as an exploration: the guard, the alarm, and the way to threads."""

    def __init__(self, rules: Rules, seed: int) -> None:
        self.rules = rules
        self.seed = seed
        self.guard = Guard()
        self.alarm = machine.Alarm(lambda: self.steps, rules.stall_s)
        self.interrupts = machine.Interrupts(self._interrupt, is_own)
        self.running: Schedule | None = None
        self._queue: RunQueue | None = None
        self._steps_before = 0

    @property
    def steps(self) -> int:
        """Return how many steps were made on this stage."""
        return self._steps_before + (0 if self._queue is None else self._queue.steps)

    @contextmanager
    def open(self) -> Generator[Stage, None, None]:
        """Take over this thread for the length of the block; refused inside `trio.run`."""
        inside_trio.check()
        if inside_trio.in_run():
            raise BadProgram("explore() was called inside trio.run(); it runs Trio itself: call it from plain code")
        if not _alone.acquire(blocking=False):
            raise ExplorerError("another thread explores already, and Trio's threads can obey one only; take turns")
        watched = machine.can_have_alarm()
        with ExitStack() as stack:
            stack.callback(_alone.release)
            cache = stack.enter_context(inside_trio.threads_by(self._start_thread, threads.mailbox))
            self._real_threads = cache.real
            stack.enter_context(machine.borrowed_chance())
            stack.enter_context(self.alarm.set())
            stack.enter_context(self.interrupts.set())
            stack.enter_context(self.guard.watching())
            self.collect = stack.enter_context(machine.collected_between())
            if not watched:
                self.guard.notes[_UNWATCHED] = None
            yield self
            if self.interrupts.pending:
                raise KeyboardInterrupt

    def play(self, program: Program, chooser: Chooser, chance: int, recorder: Recorder | Roll | None = None) -> Ending:
        """Run the program once; raises `Uncontrolled`, `Stalled` or `BadProgram` where it cannot be judged."""
        machine.seed_chance(chance)
        self.alarm.patience = _RECORDED if isinstance(recorder, Recorder) else 1
        run = Schedule(program, chooser, self.rules, self.launch, recorder)
        self._steps_before, self._queue, self.running = self.steps, run.queue, run
        ending = None
        try:
            self.collect()
            ending = run.play()
        except machine.StalledHere:
            assert self.alarm.fired is not None
        finally:
            self._steps_before, self._queue, self.running = self.steps, None, None
            if self.interrupts.pending:
                raise KeyboardInterrupt
        if self.alarm.fired is not None or ending is None:
            where, in_thread = run.blocked_at or str(self.alarm.fired), run.blocked_at is not None
            raise machine.stalled(where, self.rules.stall_s, in_thread=in_thread)
        if run.threads.foreign:
            self.guard.refused = f"a thread that is not controlled ({run.threads.foreign[0]}) reached into the run"
        if self.guard.refused is not None:
            raise Uncontrolled(self.guard.refused)
        return ending

    def _interrupt(self) -> None:
        if self._queue is not None:
            self._queue.fail(KeyboardInterrupt())
        if self.running is not None:
            self.running.threads.interrupted = True

    def _start_thread(self, work: Any, deliver: Any, name: Any) -> bool:
        job = threads.current_job()
        if self.running is None or (job is None and self.running.threads.is_elsewhere()):
            return False
        self.running.queue.idle_first = True
        self.running.threads.start(work, deliver, name)
        return True

    def launch(self, body: Callable[[], None], name: str) -> None:
        """Run something in a real thread of Trio's own cache, under the same guard."""
        assert self.running is not None
        with self.guard.pause():
            self._real_threads.start_thread_soon(partial(self._in_thread, self.running, body), _ignore, name)

    def _in_thread(self, run: Schedule, body: Callable[[], None]) -> None:
        choices_.install(run.choices)  # a thread that has the turn may choose, too
        try:
            self.guard.over(body)
        finally:
            choices_.install(None)


def _ignore(_: object) -> None:
    """Nobody asks how a thread's turn ended: the thread has delivered its result itself."""
