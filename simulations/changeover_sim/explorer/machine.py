"""What the explorer takes from the machine: a stopwatch, chance from a seed, the garbage collector, an alarm.

Owns nothing between two explorations. No decision depends on what it measures.
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

from changeover_sim.explorer.errors import Stalled

stopwatch: Callable[[], float] = time.perf_counter
"""Seconds, for saying how fast an exploration was; no decision depends on it."""

_COLLECT_EVERY_S = 0.5


def chance(seed: int, stream: int, index: int = 0) -> random.Random:
    """Return a generator of its own for one purpose: one more draw in one stream moves no other."""
    return random.Random((seed << 72) ^ (stream << 64) ^ index)


def fresh_seed() -> int:
    """Return a seed that nobody has seen."""
    return random.SystemRandom().getrandbits(31)


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
    was_on, last, keeps = gc.isenabled(), stopwatch(), not gc.get_freeze_count()

    def collect() -> None:
        nonlocal last
        if stopwatch() - last > _COLLECT_EVERY_S:
            gc.collect()
            last = stopwatch()

    gc.disable()
    if keeps:
        gc.freeze()  # what was there before is not garbage of a schedule, and looking through it takes long
    try:
        yield collect
    finally:
        if keeps:
            gc.unfreeze()
        if was_on:
            gc.enable()


# --- what blocks for real ---------------------------------------------------------------------------------------------


class Alarm:
    """Interrupts a program that makes no step for a while: the signal SIGALRM, and so in the main thread only."""

    def __init__(self, progress: Callable[[], int], stall_s: float) -> None:
        """`progress()` counts steps."""
        self.fired: str | None = None
        """Where the program stood, once it was interrupted."""
        self.patience = 1
        """How many times in a row it may be found in the same step: more than once where it is recorded, and slow."""
        self._silent = 0
        self._progress = progress
        self._stall_s = stall_s
        self._seen = -1

    @contextmanager
    def set(self) -> Generator[None, None, None]:
        """Watch over the block; where signals cannot be had, or somebody else has this one, nothing is watched."""
        if not can_have_alarm():
            yield
            return
        before, tracing = signal.signal(signal.SIGALRM, self._ring), sys.gettrace()
        signal.setitimer(signal.ITIMER_REAL, self._stall_s, self._stall_s)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
            if self.fired is not None:
                sys.settrace(tracing)

    def _ring(self, _: int, frame: FrameType | None) -> None:
        seen, self._seen = self._seen, self._progress()
        self._silent = self._silent + 1 if seen == self._seen else 0
        if self._silent >= self.patience:
            if self.fired is not None and frame is not None:  # it has caught one, and may go on catching them
                frame.f_trace = self._insist
                sys.settrace(_not_new)
            self.fired = "" if frame is None else place_of(frame)
            raise StalledHere(self.fired)

    def _insist(self, frame: FrameType, event: str, _: object) -> Any:
        """Raise once more in the first line that runs then: that of the `except` is not inside its `try`."""
        if event == "line":
            raise StalledHere(place_of(frame))
        return self._insist


def _not_new(_: FrameType, __: str, ___: object) -> None:
    """Trace no frame that begins; those that have a trace function of their own already are traced all the same."""


class StalledHere(BaseException):
    """Raised in a program that made no step for too long, so that it ends; `Alarm.fired` says where it stood."""


class Interrupts:
    """Notes Ctrl-C, and raises it at once in the program's own code only, never in the middle of Trio's.

    A schedule that was interrupted is not judged, wherever it was. A second Ctrl-C is raised where it comes.
    """

    def __init__(self, noticed: Callable[[], None], may_raise: Callable[[str], bool]) -> None:
        """`noticed` is called at each; `may_raise(file)` says whether code of that file may be interrupted."""
        self.pending = False
        self._noticed = noticed
        self._may_raise = may_raise

    @contextmanager
    def set(self) -> Generator[None, None, None]:
        """Take Ctrl-C for the length of the block, in the main thread and where nobody else has taken it."""
        mine = threading.current_thread() is threading.main_thread()
        if not mine or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
            yield
            return
        signal.signal(signal.SIGINT, self._interrupt)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def _interrupt(self, _: int, frame: FrameType | None) -> None:
        again, self.pending = self.pending, True
        self._noticed()
        if again or (frame is not None and self._may_raise(frame.f_code.co_filename)):
            raise KeyboardInterrupt


def place_of(frame: FrameType) -> str:
    """Return file, line and function of where something stands."""
    return f"{frame.f_code.co_filename}:{frame.f_lineno} ({frame.f_code.co_qualname})"


def can_have_alarm() -> bool:
    """Return whether the alarm can be set: in the main thread, and where nobody else has taken SIGALRM."""
    return (
        hasattr(signal, "SIGALRM")
        and threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGALRM) in {signal.SIG_DFL, signal.SIG_IGN}
        and signal.getitimer(signal.ITIMER_REAL)[0] == 0
    )


def stalled(where: str, stall_s: float, *, in_thread: bool) -> Stalled:
    """Return the error for a program that was interrupted."""
    advice = (
        "Threads run one at a time here: one that waits for another, other than by trio.from_thread, waits for ever"
        if in_thread
        else "It blocks for real, or never comes to a checkpoint; await something there, or give such work to "
        "trio.to_thread.run_sync"
    )
    return Stalled(f"the program made no step for {stall_s:g} s: it stood at {where}. {advice}")
