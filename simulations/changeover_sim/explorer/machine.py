"""What the explorer takes from the machine: a stopwatch, chance from a seed, the garbage collector, an alarm.

Owns the process-wide audit hook, which is installed once and never does anything outside an exploration.
"""

from __future__ import annotations

import gc
import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from changeover_sim.explorer.errors import Stalled, Uncontrolled

stopwatch: Callable[[], float] = time.perf_counter
"""Seconds, for saying how fast an exploration was; no decision depends on it."""

_COLLECT_EVERY_S = 0.5


def chance(seed: int, stream: int, index: int = 0) -> random.Random:
    """Return a generator of its own for one purpose: one more draw in one stream moves no other."""
    return random.Random((seed << 72) ^ (stream << 64) ^ index)


@contextmanager
def borrowed_chance() -> Generator[None, None, None]:
    """Give the `random` module back as it was."""
    state = random.getstate()
    try:
        yield
    finally:
        random.setstate(state)


def seed_chance(seed: int) -> None:
    """Seed the `random` module, of which the program may draw."""
    random.seed(seed)


@contextmanager
def collected_between() -> Generator[Callable[[], None], None, None]:
    """Switch the garbage collector off and hand out a function that collects now and then, between two schedules."""
    was_on, last = gc.isenabled(), stopwatch()

    def collect() -> None:
        nonlocal last
        if stopwatch() - last > _COLLECT_EVERY_S:
            gc.collect()
            last = stopwatch()

    gc.disable()
    try:
        yield collect
    finally:
        if was_on:
            gc.enable()


# --- what blocks for real ---------------------------------------------------------------------------------------------


class Alarm:
    """Interrupts a program that makes no step for a while: the signal SIGALRM, and so in the main thread only."""

    def __init__(self, progress: Callable[[], int], stall_s: float) -> None:
        """`progress()` counts steps."""
        self.fired: str | None = None
        """Where the program stood, once it was interrupted."""
        self._progress = progress
        self._stall_s = stall_s
        self._seen = -1

    @contextmanager
    def set(self) -> Generator[None, None, None]:
        """Watch over the block; where signals cannot be had, or somebody else has this one, nothing is watched."""
        if not _can_have_alarm():
            yield
            return
        signal.signal(signal.SIGALRM, self._ring)
        signal.setitimer(signal.ITIMER_REAL, self._stall_s, self._stall_s)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, signal.SIG_DFL)

    def _ring(self, _: int, frame: FrameType | None) -> None:
        seen, self._seen = self._seen, self._progress()
        if seen == self._seen:
            where = "" if frame is None else f"{frame.f_code.co_filename}:{frame.f_lineno} ({frame.f_code.co_qualname})"
            self.fired = where
            raise StalledHere(where)


class StalledHere(BaseException):
    """Raised in a program that made no step for too long, so that it ends; `Alarm.fired` says where it stood."""


def _can_have_alarm() -> bool:
    return (
        hasattr(signal, "SIGALRM")
        and threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGALRM) in {signal.SIG_DFL, signal.SIG_IGN}
        and signal.getitimer(signal.ITIMER_REAL)[0] == 0
    )


def stalled(where: str, stall_s: float) -> Stalled:
    """Return the error for a program that was interrupted."""
    return Stalled(
        f"the program made no step for {stall_s:g} s: it stood at {where}. It blocks for real, or never comes to a "
        "checkpoint; await something there, or give such work to trio.to_thread.run_sync"
    )


# --- what cannot be controlled ----------------------------------------------------------------------------------------

_REFUSED = {
    "socket.connect": "opens a real connection; use trio.testing.memory_stream_pair()",
    "socket.bind": "binds a real socket; use trio.testing.memory_stream_pair()",
    "socket.getaddrinfo": "asks a real name server",
    "subprocess.Popen": "starts a real process",
    "os.posix_spawn": "starts a real process",
    "os.system": "starts a real process",
    "os.fork": "forks",
}
"""Audit events that end an exploration, and what to say of them."""

_WRITING = frozenset("wax+")

_local = threading.local()
_hooked = False


class Guard:
    """Watches one thread for the use of something real, from `watching` to its end."""

    def __init__(self) -> None:
        self.refused: str | None = None
        """The first thing that cannot be controlled."""
        self.notes: dict[str, None] = {}
        """What was seen that outlives a schedule, in order."""
        self.paused = False

    def see(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Look at an audit event; raises `Uncontrolled` for what is refused."""
        if self.paused:
            return
        if event == "open":
            path, mode, _ = arguments
            if isinstance(path, str | bytes) and mode and _WRITING & set(mode):
                self.notes[f"the program writes the file {_text(path)}, whose content outlives the schedule"] = None
        elif event in _REFUSED:
            self.refuse(f"the program {_REFUSED[event]} ({event})")

    def refuse(self, sentence: str) -> None:
        """Remember what cannot be controlled, and raise `Uncontrolled` where it is done."""
        self.refused = self.refused or sentence
        raise Uncontrolled(sentence)

    @contextmanager
    def pause(self) -> Generator[None, None, None]:
        """See nothing for the length of the block: it is the explorer itself that acts."""
        before, self.paused = self.paused, True
        try:
            yield
        finally:
            self.paused = before

    def over(self, work: Callable[[], None]) -> None:
        """Watch this worker thread while it does its work."""
        _local.guard, _local.is_worker = self, True
        try:
            work()
        finally:
            _local.guard = None

    @contextmanager
    def watching(self) -> Generator[None, None, None]:
        """Watch this thread for the length of the block."""
        global _hooked  # noqa: PLW0603 - an audit hook cannot be taken back: one for the process, and only once
        if not _hooked:
            sys.addaudithook(_audit)
            _hooked = True
        before, _local.guard = getattr(_local, "guard", None), self
        sleep, start = time.sleep, threading.Thread.start
        time.sleep = _sleep_with(sleep)  # type: ignore[assignment]
        threading.Thread.start = _start_with(start)  # type: ignore[assignment,method-assign]
        try:
            yield
        finally:
            _local.guard = before
            time.sleep = sleep
            threading.Thread.start = start  # type: ignore[method-assign]


def current_guard() -> Guard | None:
    """Return the guard of this thread, if it is exploring."""
    return getattr(_local, "guard", None)


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    guard = getattr(_local, "guard", None)
    if guard is not None:
        guard.see(event, arguments)


def _sleep_with(sleep: Callable[[float], None]) -> Callable[[float], None]:
    """Return a `time.sleep` that refuses; Python tells its audit hooks nothing of sleeping."""

    def refusing(seconds: float) -> None:
        guard = getattr(_local, "guard", None)
        if guard is not None and getattr(_local, "is_worker", False):
            guard.notes["a worker thread sleeps for real; it stops the whole schedule for as long"] = None
        elif guard is not None and seconds > 0:
            guard.refuse("time.sleep() blocks the run loop for real; await trio.sleep(), which takes no real time here")
        sleep(seconds)

    return refusing


def _start_with(start: Callable[[threading.Thread], None]) -> Callable[[threading.Thread], None]:
    """Return a `Thread.start` that refuses; Python before 3.12 tells its audit hooks nothing of threads."""

    def refusing(thread: threading.Thread) -> None:
        guard = getattr(_local, "guard", None)
        if guard is not None and not guard.paused:
            guard.refuse(
                f"the program starts a real thread ({thread.name}); use trio.to_thread.run_sync, whose threads are "
                "controlled"
            )
        start(thread)

    return refusing


def _text(path: str | bytes) -> str:
    return path if isinstance(path, str) else path.decode(errors="replace")
