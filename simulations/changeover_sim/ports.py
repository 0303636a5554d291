"""The engine's ports in a world without threads: time is Trio's clock, and blocking work takes as long as it is told.

A "thread" is a task of the world's own nursery, which outlives every engine: like a real one it cannot be interrupted
by the engine, and it ends with the world. With `trio.testing.MockClock` hours pass in no time. It never touches I/O.
"""

from __future__ import annotations

import random
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import trio

from changeover import Engine
from changeover.core.occupancy import Overlaps
from changeover.plugin import Loader
from changeover.runtime.ports import Ports, Served, TrioWake
from changeover_sim.disk import VirtualDisk

T = TypeVar("T")

Duration = float | trio.Event
"""How long a piece of blocking work takes: seconds, or until somebody sets the event."""

EPOCH_S = 1_700_000_000.0
"""What the wall clock shows when the virtual clock shows zero."""


class VirtualClock:
    """Trio's clock, for everything."""

    now = staticmethod(trio.current_time)

    @staticmethod
    def wall() -> float:
        """Return seconds since 1970, as far from `EPOCH_S` as the virtual clock is from zero."""
        return EPOCH_S + trio.current_time()

    async def sleep(self, seconds: float) -> None:
        """Return `seconds` later on the virtual clock."""
        await trio.sleep(seconds)


class VirtualThreads:
    """Blocking work as tasks; the work itself happens in one step when its time is up."""

    def __init__(self, spawn: Callable[..., None], duration: Callable[[str], Duration]) -> None:
        """Start "threads" by `spawn`; `duration` is asked for each piece of work by its name, `"load m/1"`."""
        self._spawn: Callable[..., None] | None = spawn
        self._duration = duration

    def start(
        self,
        name: str,
        work: Callable[[], T],
        deliver: Callable[[T | None, BaseException | None], None],
        orphaned: Callable[[T | None, BaseException | None], None] | None = None,
    ) -> None:
        """Do `work` once its time is up, then deliver; an engine that has ended still gets its delivery."""
        del orphaned  # the loop of a world never ends before its threads do
        if self._spawn is not None:
            self._spawn(self._run, name, work, deliver, name=name)

    def serve(
        self,
        name: str,
        lane: Served,
        handle: Callable[[Sequence[Any]], None],
        deliver: Callable[[None, BaseException | None], None],
    ) -> None:
        """Take batches from `lane`, each after the time that a piece of work called `name` takes."""
        if self._spawn is not None:
            self._spawn(self._serve, name, lane, handle, deliver, name=name)

    def end(self) -> None:
        """Start nothing any more, as a process that has ended."""
        self._spawn = None

    async def _run(self, name: str, work: Callable[[], T], deliver: Callable[[Any, Any], None]) -> None:
        await self._pass(name)
        value: T | None = None
        error: BaseException | None = None
        try:
            value = work()
        except BaseException as raised:  # noqa: BLE001 - it is delivered, whatever it is
            error = raised
        deliver(value, error)

    async def _serve(
        self, name: str, lane: Served, handle: Callable[[Sequence[Any]], None], deliver: Callable[[Any, Any], None]
    ) -> None:
        try:
            await self._take_batches(name, lane, handle)
        except Exception as error:  # noqa: BLE001 - it is delivered, whatever it is
            deliver(None, error)
        else:
            deliver(None, None)

    async def _take_batches(self, name: str, lane: Served, handle: Callable[[Sequence[Any]], None]) -> None:
        step = lane.next_step(trio.current_time())
        while not step.ended:
            if step.batch:
                await self._pass(name)
                handle(step.batch)
            else:
                woken = trio.Event()
                lane.park(woken.set, step.at_least)
                with trio.move_on_after(float("inf") if step.wait_s is None else step.wait_s):
                    await woken.wait()
                lane.unpark(woken.set)
            step = lane.next_step(trio.current_time())

    async def _pass(self, name: str) -> None:
        duration = self._duration(name)
        if isinstance(duration, trio.Event):
            await duration.wait()
        else:
            await trio.sleep(duration)


class VirtualMemory:
    """What the world's process occupies: what a test says, and nothing that is known unless it does."""

    def __init__(self) -> None:
        """Know nothing, and hand nothing back."""
        self.overlaps = Overlaps()
        self.resident: int | None = None
        """What `resident_bytes` returns; models change it as they are loaded and closed."""
        self.on_give_back: Callable[[bool], None] | None = None
        """Called with whether to collect before; None: nothing can be handed back."""
        self.given_back: list[bool] = []
        """Each time that memory was asked back, whether after a collection."""

    def resident_bytes(self) -> int | None:
        """Return what was set."""
        return self.resident

    def give_back(self, *, collect: bool) -> bool:
        """Do what was set."""
        self.given_back.append(collect)
        if self.on_give_back is None:
            return False
        self.on_give_back(collect)
        return True


class World:
    """A virtual world: hand `ports` to `open_engine`, and say in `durations` how long blocking work takes."""

    def __init__(self, spawn: Callable[..., None], seed: int) -> None:
        """Start "threads" by `spawn`, a nursery's `start_soon`; their work takes no time unless told otherwise."""
        self.durations: dict[str, Duration] = {}
        """By name of the work: `"load m/1"`, `"warm m/1"`, `"close m/1"`, `"worker m/1 0"`, `"journal"`; 0 s where not
        named."""
        wake = TrioWake(trio.lowlevel.current_trio_token())
        self.threads = VirtualThreads(spawn, lambda name: self.durations.get(name, 0.0))
        self.memory = VirtualMemory()
        self.disk = VirtualDisk(self)
        """What journals are written to; it outlives the engines of this world."""
        self.ports = Ports(VirtualClock(), random.Random(seed), wake, self.threads, self.memory)

    @staticmethod
    def add_loader(engine: Engine, name: str, loader: type[Loader]) -> None:
        """Give an engine a loader that is not installed; its `load` may `choose`: it runs in one step of a thread."""
        engine._host.loaders.add(name, loader)  # pyright: ignore[reportPrivateUsage]  # noqa: SLF001 - a program has entry points for it


@asynccontextmanager
async def open_world(seed: int = 0) -> AsyncGenerator[World, None]:
    """Open a world for the block; its "threads" end with it, as those of a process do."""
    async with trio.open_nursery() as nursery:
        world = World(nursery.start_soon, seed)
        try:
            yield world
        finally:
            world.threads.end()
        nursery.cancel_scope.cancel()
