"""The ports: every clock, thread, random number, wake-up and record by which the engine touches the world.

The simulator supplies its own. This is the one module of the engine that may read a clock or sleep. It owns no task;
its threads belong to whoever started them and are daemons of Trio's thread cache.
"""

from __future__ import annotations

import gc
import mmap
import random
import threading
import time
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

import attrs
import trio

from changeover.core.occupancy import Overlaps
from changeover.core.records import Entry, Kept
from changeover.runtime import fork

T = TypeVar("T")


class Clock(Protocol):
    """Time."""

    @property
    def now(self) -> Callable[[], float]:
        """The engine's clock in seconds, from any thread; it never goes back, and its zero means nothing.

        An attribute and no method, so that the request path calls the computer's own function and no wrapper.
        """
        ...

    @property
    def wall(self) -> Callable[[], float]:
        """Seconds since 1970, from any thread; for people."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Return `seconds` later on the engine's clock; cancelled, it leaves nothing behind."""
        ...


class Random(Protocol):
    """Chance, from any thread."""

    def random(self) -> float:
        """Return a number drawn evenly from [0, 1)."""
        ...

    def getrandbits(self, k: int, /) -> int:
        """Return `k` random bits."""
        ...


class Wake(Protocol):
    """The way from any thread onto the engine's loop."""

    def soon(self, callback: Callable[[], None], *, idempotent: bool = False) -> bool:
        """Have `callback` called on the loop; False, and it never will be, where the loop has ended.

        An idempotent callback that is waiting to be called already is not called twice.
        """
        ...


class Served(Protocol):
    """A lane of requests, as a serving thread sees it: `mailbox.RequestLane`."""

    def next_step(self, now: float) -> Step:
        """Return what to do at engine time `now`."""
        ...

    def park(self, waker: Callable[[], None], at_least: int) -> None:
        """Have `waker` called once when so many requests wait, or the lane is closed; perhaps at once."""
        ...

    def unpark(self, waker: Callable[[], None]) -> None:
        """Forget a waker that was not called."""
        ...


class Step(NamedTuple):
    """What a serving thread does next: handle `batch`, or end, or wait. A tuple, because it is made for every batch."""

    batch: Sequence[Any] = ()
    """Requests to handle now."""
    ended: bool = False
    """True: the lane is closed and empty."""
    at_least: int = 1
    """Wait until so many requests wait ..."""
    wait_s: float | None = None
    """... but for no longer than this, in seconds; None: no bound."""


class Offload(Protocol):
    """Blocking work, each piece in a thread of its own that nobody can interrupt."""

    def start(
        self,
        name: str,
        work: Callable[[], T],
        deliver: Callable[[T | None, BaseException | None], None],
        orphaned: Callable[[T | None, BaseException | None], None] | None = None,
    ) -> None:
        """Run `work` and have `deliver(value, error)` called on the loop; never raises, also where no thread starts.

        Where the loop has ended by then, `orphaned(value, error)` is called in the thread instead.
        """
        ...

    def serve(
        self,
        name: str,
        lane: Served,
        handle: Callable[[Sequence[Any]], None],
        deliver: Callable[[None, BaseException | None], None],
    ) -> None:
        """Run `handle` on batch after batch of `lane` until it is closed and empty; then deliver as `start` does."""
        ...


class Journal(Protocol):
    """Where swaps are written down; the bytes are `core/wire.py`'s, and a journal looks into none of them."""

    async def open(self) -> Kept:
        """Open it and return what it holds; cancelled, it is not open. Raises `JournalInUse` and `JournalFailed`."""
        ...

    def write(self, entry: Entry, deliver: Callable[[Exception | None], None]) -> None:
        """Keep an entry, behind all that were ordered before it; never raises, and waits for nothing.

        `deliver(error)` is called on the loop: None once it is kept for good, else nothing of it is kept.
        """
        ...

    async def begin_anew(self, reason: str, *, newer: bool = False) -> Kept:
        """Set aside what `open` has returned, because it makes no sense or is newer, and begin with nothing.

        Raises as `open` does.
        """
        ...

    async def close(self) -> None:
        """Write what was ordered and let go; cancelled, that goes on by itself."""
        ...


class Memory(Protocol):
    """What the process occupies, from any thread."""

    @property
    def overlaps(self) -> Overlaps:
        """Everything that changes it at a time, in all engines that share it."""
        ...

    def resident_bytes(self) -> int | None:
        """Return its resident set; None where the system does not tell."""
        ...

    def give_back(self, *, collect: bool) -> bool:
        """Hand what is free back to the system, after a full garbage collection where told; False: there is no way.

        Blocks, for milliseconds; never raises. Those who ask at the same time share one.
        """
        ...


class SystemClock:
    """The computer's clocks."""

    now = staticmethod(time.monotonic)
    wall = staticmethod(time.time)

    async def sleep(self, seconds: float) -> None:
        """Return `seconds` later."""
        await trio.sleep(seconds)


class TrioWake:
    """The entry queue of one Trio run."""

    def __init__(self, token: trio.lowlevel.TrioToken) -> None:
        """Wake the run that `token` belongs to."""
        self._token = token

    def soon(self, callback: Callable[[], None], *, idempotent: bool = False) -> bool:
        """Queue `callback`; False where the run is over."""
        try:
            self._token.run_sync_soon(callback, idempotent=idempotent)
        except trio.RunFinishedError:
            return False
        return True


class Threads:
    """Real threads; there is no limit on them here, because one hung load must not hold up others."""

    def __init__(self, clock: Clock, wake: Wake) -> None:
        """Serve by `clock` and deliver through `wake`."""
        self._clock = clock
        self._wake = wake

    def start(
        self,
        name: str,
        work: Callable[[], T],
        deliver: Callable[[T | None, BaseException | None], None],
        orphaned: Callable[[T | None, BaseException | None], None] | None = None,
    ) -> None:
        """Run `work` in a daemon thread of Trio's cache."""

        def run() -> None:
            value: T | None = None
            error: BaseException | None = None
            me = threading.current_thread()
            before, me.name = me.name, name  # audits name the thread that holds a version
            try:
                value = work()
            except BaseException as raised:  # noqa: BLE001 - it is delivered, whatever it is
                error = raised
            me.name = before
            if not self._wake.soon(lambda: deliver(value, error)) and orphaned is not None:
                orphaned(value, error)

        try:
            trio.lowlevel.start_thread_soon(run, lambda _outcome: None, name=name)
        except RuntimeError as error:  # the system has no thread left to give
            refused = error
            self._wake.soon(lambda: deliver(None, refused))

    def serve(
        self,
        name: str,
        lane: Served,
        handle: Callable[[Sequence[Any]], None],
        deliver: Callable[[None, BaseException | None], None],
    ) -> None:
        """Run the serving loop in a daemon thread."""
        self.start(name, lambda: self._serve(lane, handle), deliver)

    def _serve(self, lane: Served, handle: Callable[[Sequence[Any]], None]) -> None:
        """Take batches until the lane ends; between them sleep on a lock that the lane's waker lets go."""
        gate = threading.Lock()
        gate.acquire()

        def wake() -> None:
            try:  # and not `suppress`, which costs as much again as all else here
                gate.release()
            except RuntimeError:  # somebody was quicker
                return

        step = lane.next_step(self._clock.now())
        while not step.ended:
            if step.batch:
                handle(step.batch)
            else:
                lane.park(wake, step.at_least)
                gate.acquire(timeout=-1 if step.wait_s is None else min(step.wait_s, threading.TIMEOUT_MAX))
                lane.unpark(wake)
            step = lane.next_step(self._clock.now())


class Shared:
    """An act that those who ask at the same time share: each returns when one has ended that began after it asked."""

    def __init__(self, act: Callable[[], object]) -> None:
        """Do `act`, which never asks for itself."""
        self._act = act
        self._begun = 0
        self._lock = threading.Lock()

    def __call__(self) -> None:
        """Do it, or wait for somebody else who does."""
        asked = self._begun
        with self._lock:
            if self._begun == asked:
                self._begun += 1
                self._act()


_IN_PROCESS = Overlaps()
"""What goes on in this process, in whichever engine."""
fork.tell(_IN_PROCESS)


class SystemMemory:
    """This process, on Linux; with glibc its free memory can be handed back. Elsewhere it knows and does nothing."""

    def __init__(self, statm: Path = Path("/proc/self/statm")) -> None:
        """Read the resident set from `statm`."""
        self.overlaps = _IN_PROCESS
        self._statm = statm
        self._trim = Shared(lambda: trim(0) if (trim := _malloc_trim()) else None)
        self._collect = Shared(gc.collect)

    def resident_bytes(self) -> int | None:
        """Return the resident set, as the kernel counts it (15 µs; on many cores it is off by some pages for each)."""
        try:
            return int(self._statm.read_bytes().split()[1]) * mmap.PAGESIZE
        except (OSError, ValueError, IndexError):
            return None

    def give_back(self, *, collect: bool) -> bool:
        """Collect where told, then have glibc hand free pages back; other threads run on during the latter."""
        if collect:
            self._collect()
        self._trim()
        return _malloc_trim() is not None


@cache
def _malloc_trim() -> Callable[[int], int] | None:
    """Return glibc's function, which runs without the interpreter's lock; None where there is another C library."""
    try:
        import ctypes  # noqa: PLC0415 - 4 ms that a program need not pay that closes no large model

        trim = ctypes.CDLL(None).malloc_trim
    except (ImportError, OSError, AttributeError, TypeError):
        return None
    trim.argtypes = [ctypes.c_size_t]
    return trim


@attrs.frozen
class Ports:
    """The world, as one engine sees it."""

    clock: Clock
    random: Random
    wake: Wake
    offload: Offload
    memory: Memory
    journal: Journal | None = None
    """None: what `open_engine` was told; the simulator has its own."""

    @classmethod
    def system(cls) -> Ports:
        """Return the real world, for the Trio run that this is called in."""
        clock, wake = SystemClock(), TrioWake(trio.lowlevel.current_trio_token())
        return cls(clock, random.Random(), wake, Threads(clock, wake), SystemMemory())
