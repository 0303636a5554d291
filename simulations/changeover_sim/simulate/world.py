"""The hostile world of one life: threads that take their time or hang, wake-ups that come late, a disk that fails.

One world is one process: its threads die with it, its disk does not. Spawns threads in the nursery that it is given.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING, Any

import trio

from changeover.runtime.ports import Journal, Ports, TrioWake
from changeover_sim.disk import VirtualDisk
from changeover_sim.ports import EPOCH_S, Duration, VirtualClock, VirtualMemory, VirtualThreads
from changeover_sim.simulate.cast import Part

if TYPE_CHECKING:
    from changeover_sim.simulate.life import Life

LATE_MOST = 6
"""After so many rounds of everybody else the latest wake-up comes."""
_KINDS = {
    "load": "load_s", "warm": "warm_s", "close": "close_s",
    "worker": "predict_s", "predict": "predict_s", "stream": "predict_s",
}  # fmt: skip


class JumpingClock(VirtualClock):
    """Trio's clock; the wall clock beside it jumps, forwards and back, where that fault is on."""

    def __init__(self, life: Life) -> None:
        """Show the right time."""
        self._life = life
        self._off_s = 0.0
        self.wall = self._wall  # type: ignore[method-assign]

    def _wall(self) -> float:
        faults = self._life.run.faults
        if faults.strikes("clock-jump", 0.02):
            self._off_s += self._life.run.streams.faults.choice((-3_600.0, -1.0, 1.0, 3_600.0))
        return EPOCH_S + trio.current_time() + self._off_s


class LateWake(TrioWake):
    """The way onto the loop, which can take its time; what was handed in first comes first."""

    def __init__(self, life: Life, spawn: Callable[..., None]) -> None:
        """Wake the run that this is made in."""
        super().__init__(trio.lowlevel.current_trio_token())
        self._life = life
        self._spawn = spawn
        self._waiting: list[tuple[Callable[[], None], bool]] = []

    def soon(self, callback: Callable[[], None], *, idempotent: bool = False) -> bool:
        """Hand a callback on, now or some rounds later, and never before those that were handed in before it."""
        if not self._waiting and not self._life.run.faults.strikes("late-wake", 0.2):
            return super().soon(callback, idempotent=idempotent)
        self._waiting.append((callback, idempotent))
        if len(self._waiting) == 1:
            self._spawn(self._later, self._life.run.streams.faults.randrange(1, LATE_MOST), name="late wake-up")
        return True

    async def _later(self, rounds: int) -> None:
        for _ in range(rounds):
            await trio.lowlevel.checkpoint()
        waiting, self._waiting = self._waiting, []
        for callback, idempotent in waiting:
            super().soon(callback, idempotent=idempotent)


class WatchedThreads(VirtualThreads):
    """Threads of which it is known what each worker has taken and not handled yet."""

    def __init__(self, life: Life, spawn: Callable[..., None], duration: Callable[[str], Duration]) -> None:
        """Start "threads" by `spawn`."""
        super().__init__(spawn, duration)
        self._life = life
        self.at_work: dict[str, int] = {}
        """By the name of the work, how many threads of it are at it just now."""

    async def _pass(self, name: str) -> None:
        self.at_work[name] = self.at_work.get(name, 0) + 1
        try:
            await super()._pass(name)
        finally:
            self.at_work[name] -= 1
            if not self.at_work[name]:
                del self.at_work[name]


class HostileWorld:
    """The ports of one life of the engine."""

    def __init__(self, life: Life, spawn: Callable[..., None], journal: Journal) -> None:
        """Start threads by `spawn`, a nursery's `start_soon`."""
        self._life = life
        self._timing: Random = life.run.streams.timing
        self.threads = WatchedThreads(life, spawn, self.duration)
        self.memory = VirtualMemory()
        self.ports = Ports(
            JumpingClock(life), life.run.streams.engine, LateWake(life, spawn), self.threads, self.memory, journal
        )

    def duration(self, name: str) -> Duration:
        """Draw how long a piece of work takes; a fault may make it hang, or take long."""
        kind, _, rest = name.partition(" ")
        if kind == "journal":
            return self._life.run.desk.durations.get(name, self._timing.choice((0.0, 0.0, 0.0, 0.25)))
        part = self._life.cast.parts.get(rest.partition(" ")[0])
        if part is None or kind not in _KINDS:
            return 0.0
        if not part.bystander:
            bad = self._trouble(kind, part)
            if bad is not None:
                return bad
        times: tuple[float, ...] = getattr(part, _KINDS[kind])
        return self._timing.choice(times)

    def _trouble(self, kind: str, part: Part) -> Duration | None:
        faults = self._life.run.faults
        if kind == "load":
            if faults.strikes("load-hangs", 0.1):
                return faults.hang
            if faults.strikes("load-slow", 0.1):
                return part.load_timeout_s + self._timing.choice((0.0, 0.25, 2.0))
        elif kind == "close":
            if faults.strikes("close-hangs", 0.15):
                return faults.hang
        elif kind == "warm":
            if faults.strikes("warm-up-slow", 0.2):
                return part.load_timeout_s + self._timing.choice((0.0, 0.25, 2.0))
        else:
            if faults.strikes("predict-hangs", 0.02):
                return faults.hang
            if faults.strikes("predict-slow", 0.05):
                return self._timing.choice((2.0, 5.0))
        return None


class Desk:
    """Where the disk of a run stands: it needs threads, and those are of the life that goes on just now."""

    def __init__(self) -> None:
        """Have nobody's threads yet."""
        self.durations: dict[str, Duration] = {}
        self.threads: Any = None
        self.disk = VirtualDisk(self)
