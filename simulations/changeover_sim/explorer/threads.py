"""Trio's worker threads under control: real threads, of which one runs at a time, and only when it was chosen.

Owns the threads of one schedule; each is finished or given up with it. A thread's work is one step up to its end or to
its next call of `trio.from_thread`, and the explorer waits meanwhile, for real.
"""

from __future__ import annotations

import sys
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

import outcome

from changeover_sim.explorer import machine
from changeover_sim.explorer.errors import Abandoned
from changeover_sim.explorer.places import is_own
from changeover_sim.explorer.timers import FIRST_COUNTER

THREADS_COUNTER = FIRST_COUNTER << 1

_LOOK_S = 0.2
"""How often whoever waits for a thread looks whether he was interrupted."""

_here = threading.local()


class Answer:
    """Where a thread waits for the answer of the run loop; what Trio takes for a queue."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._got: list[Any] = []

    def put_nowait(self, answer: Any) -> None:
        """Let the thread go on, once it is chosen; called by the run loop."""
        self._got.append(answer)
        self._job.ready()

    put = put_nowait

    def get(self) -> Any:
        """Give the turn back until there is an answer and the thread is chosen; called by the thread."""
        self._job.pause()
        return self._got.pop()


class Job:
    """One piece of work in a thread: a step to be chosen, like a task's."""

    __slots__ = ("_counter", "_deliver", "_go", "_threads", "_work", "given_up", "ident", "name", "paused", "started")

    def __init__(
        self, threads: Threads, counter: int, work: Callable[[], Any], deliver: Callable[[Any], object], name: str
    ) -> None:
        self._counter = counter
        self._threads = threads
        self._work = work
        self._deliver = deliver
        self._go = threading.Semaphore(0)
        self.name = name
        self.ident = 0
        """Of the real thread, once it has begun."""
        self.started = False
        self.paused = False
        self.given_up = False

    def ready(self) -> None:
        """Stand in the run queue."""
        self._threads.enqueue(self)

    def run(self) -> None:
        """Let the thread run until it ends or asks the run loop for something; called by the explorer."""
        if self.started:
            self._go.release()
        else:
            self.started = True
            self._threads.launch(self._body, self.name)
        self._threads.wait_for_turn()

    def pause(self) -> None:
        """Give the turn back; called in the thread."""
        if self.given_up:
            raise Abandoned  # nobody will ever answer: it was told so before, and asks once more
        self.paused = True
        self._threads.give_turn()
        self._go.acquire()
        self.paused = False
        if self.given_up:
            raise Abandoned

    def _body(self) -> None:
        _here.job = self
        self.ident = threading.get_ident()
        try:
            result = _capture(self._work)
            if not self.given_up:
                self._deliver(result)
        finally:
            _here.job = None
            self._work = self._deliver = _nothing
            self._threads.ended(self)
            self._threads.give_turn()


class Threads:
    """The worker threads of one schedule."""

    def __init__(self, enqueue: Callable[[Job], None], launch: Callable[[Callable[[], None], str], None]) -> None:
        """`enqueue` makes a thread's next step ready; `launch` runs something in a real thread."""
        self.enqueue = enqueue
        self.launch = launch
        self.living: dict[Job, None] = {}
        self._turn = threading.Semaphore(0)
        self._made = THREADS_COUNTER
        self._home = threading.get_ident()
        self.interrupted = False
        """Whether Ctrl-C was pressed: a thread that blocks is not waited for any more."""
        self.foreign: deque[str] = deque()
        """Names of threads that reached into the run and are not controlled."""

    def start(self, work: Any, deliver: Any, name: Any) -> None:
        """Take a piece of work from Trio; it waits for its turn."""
        self._made += 1
        job = Job(self, self._made, work, deliver, name or "a worker thread")
        self.living[job] = None
        job.ready()

    def is_foreign(self) -> bool:
        """Return whether the calling thread is nobody's, and remember its name."""
        if threading.get_ident() == self._home or current_job() is not None:
            return False
        self.foreign.append(threading.current_thread().name)
        return True

    def is_elsewhere(self) -> bool:
        """Return whether the calling thread is not the one that explores."""
        return threading.get_ident() != self._home

    def wait_for_turn(self) -> None:
        """Wait, for real, until the thread that was let go gives the turn back."""
        while not self._turn.acquire(timeout=_LOOK_S):
            if self.interrupted:
                raise KeyboardInterrupt

    def give_turn(self) -> None:
        """Let the explorer go on."""
        self._turn.release()

    def ended(self, job: Job) -> None:
        """Forget a thread."""
        self.living.pop(job, None)

    def give_up(self) -> None:
        """End every thread: one that never ran is dropped, one that waits finds `Abandoned`; one that blocks stays."""
        for job in list(self.living):
            job.given_up = True
            if job.paused:
                job.run()
            else:
                self.ended(job)

    def blocking(self) -> tuple[str, str] | None:
        """Return name and place of the thread that has the turn and does not give it back."""
        for job in self.living:
            frame = sys._current_frames().get(job.ident)  # noqa: SLF001  # pyright: ignore[reportPrivateUsage] - the only way
            while frame is not None and frame.f_back is not None and not is_own(frame.f_code.co_filename):
                frame = frame.f_back
            if job.started and not job.paused and frame is not None:
                return job.name, machine.place_of(frame)
        return None


def _capture(work: Callable[[], Any]) -> Any:
    return outcome.capture(work)


def _nothing(*_: object) -> None:
    """Stand for work that is done, so that nothing of it is kept."""


def current_job() -> Job | None:
    """Return the piece of work whose thread is calling, where it is one of ours."""
    return getattr(_here, "job", None)


def mailbox() -> Answer | None:
    """Return where the calling thread shall wait for its answer; None for a thread that is not ours."""
    job = current_job()
    return None if job is None else Answer(job)
