"""The worlds that a use can live in: Trio, asyncio, uvloop and plain threads, with what each does to end a use.

A world runs one scenario, beside which it owns the uses that were begun, and a `HandClock`, which stands still until
it is told to go on. A wait for a real thread is bounded.
"""

from __future__ import annotations

import asyncio
import queue
import signal
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any

import trio
import trio.testing
import uvloop

import changeover
import changeover.aio
import changeover.threads
from tests.support.faces import run_through
from tests.support.threads import PATIENCE_S

Call = Callable[[], Coroutine[Any, Any, Any]]

TICK = threading.Event()
"""Never set: to wait for it is to leave the processor to the other threads."""
TICK_S, TICK_MOST_S = 0.0005, 0.02
LOOKS_MAX = 1_000
"""So often somebody looks whether something has come true; where all is well it is a few times."""

ASLEEP = frozenset({"_pass", "__next__", "wait"})
"""The functions in which a thread waits that can be interrupted, those of `changeover.threads` and an event's."""


class HandClock:
    """The engine's clock, which stands still until `advance`; any thread."""

    def __init__(self) -> None:
        self._now_s = 1_000.0
        self._lock = threading.Lock()
        self._sleepers: dict[trio.Event, tuple[float, trio.lowlevel.TrioToken]] = {}

    def now(self) -> float:
        return self._now_s

    def wall(self) -> float:
        return 1_700_000_000.0 + self._now_s

    async def sleep(self, seconds: float) -> None:
        woken = trio.Event()
        with self._lock:
            if seconds > 0:
                self._sleepers[woken] = (self._now_s + seconds, trio.lowlevel.current_trio_token())
            else:
                woken.set()
        try:
            await woken.wait()
        finally:
            with self._lock:
                self._sleepers.pop(woken, None)

    def advance(self, seconds: float) -> None:
        with self._lock:
            self._now_s += seconds
            for woken, (until_s, token) in self._sleepers.items():
                if until_s <= self._now_s:
                    token.run_sync_soon(woken.set)

    def is_awaited(self, within_s: float) -> bool:
        """Return whether one of the engine's tasks waits for a time that comes so soon."""
        with self._lock:
            return any(0 < until_s - self._now_s <= within_s for until_s, _ in self._sleepers.values())


class Use:
    """A use that was begun beside the scenario, and what came of it."""

    def __init__(self, call: Call) -> None:
        self.call = call
        self.value: Any = None
        self.error: BaseException | None = None
        self.over = threading.Event()

    async def run(self) -> None:
        """Be it; a loop hears of what cancelled it."""
        try:
            self.value = await self.call()
        except BaseException as error:
            self.error = error
            if isinstance(error, trio.Cancelled | asyncio.CancelledError):
                raise
        finally:
            self.over.set()


class World(ABC):
    """One world; `play` once."""

    name: str
    cancelled: type[BaseException]
    """What a use raises that is called off."""
    open_engine: Callable[..., Any]
    is_async = True
    """Whether a use is a task of a loop: what can be cancelled and revoked, with the others of a fan-out too."""
    has_time = True
    """Whether the deadlines of the loop itself follow the hand clock."""

    def __init__(self) -> None:
        self.clock = HandClock()

    @abstractmethod
    def play(self, scenario: Call) -> None:
        """Run a scenario to its end."""

    @abstractmethod
    def spawn(self, call: Call, *, cancellable: bool = False) -> Use:
        """Begin a use; in threads `cancellable` ones, one at a time, run where Ctrl-C is heard."""

    @abstractmethod
    async def interrupt(self, use: Use) -> None:
        """Call a use off, which waits."""

    async def cancel(self, use: Use) -> None:
        """Call a use off, which waits, and return when it has ended."""
        await self.interrupt(use)
        await self.end(use)

    @abstractmethod
    async def fan_out(self, calls: Sequence[Call], begun: Callable[[int], bool]) -> None:
        """Make calls, each when the n before it have begun; raises their errors as a group, when all have ended."""

    @abstractmethod
    def event(self) -> Any:
        """Return an event of this world."""

    @abstractmethod
    async def wait(self, event: Any) -> None:
        """Wait for one, inside of a use, which may be called off meanwhile."""

    @abstractmethod
    async def turn(self) -> None:
        """Let the others of this loop go on."""

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.clock.advance(seconds)

    def let_time_flow(self) -> None:  # noqa: B027 - where the engine's own loop has a real clock there is nothing to do
        """Let the loop's own deadlines come, whatever the hand clock says."""

    async def until(self, condition: Callable[[], bool]) -> None:
        """Return when something is true that threads or tasks bring about."""
        for look in range(LOOKS_MAX):
            if condition():
                return
            TICK.wait(min(TICK_MOST_S, TICK_S * (1 + look // 10)))
            await self.turn()
        raise AssertionError("it does not come true")

    async def end(self, use: Use) -> Use:
        """Return when a use has ended."""
        await self.until(use.over.is_set)
        return use


class OnTrio(World):
    name = "trio"
    cancelled = trio.Cancelled
    open_engine = staticmethod(changeover.open_engine)

    def play(self, scenario: Call) -> None:
        self._loop_clock = trio.testing.MockClock()
        trio.run(self._main, scenario, clock=self._loop_clock)

    async def _main(self, scenario: Call) -> None:
        self._scopes: dict[Use, trio.CancelScope] = {}
        async with trio.open_nursery() as self._nursery:
            await scenario()

    def spawn(self, call: Call, *, cancellable: bool = False) -> Use:
        use = Use(call)
        self._scopes[use] = trio.CancelScope()
        self._nursery.start_soon(self._run, use)
        return use

    async def _run(self, use: Use) -> None:
        with self._scopes[use]:
            await use.run()

    async def interrupt(self, use: Use) -> None:
        self._scopes[use].cancel()

    async def fan_out(self, calls: Sequence[Call], begun: Callable[[int], bool]) -> None:
        async with trio.open_nursery() as nursery:
            for n, call in enumerate(calls, 1):
                nursery.start_soon(call)
                await self.until(partial(begun, n))

    def event(self) -> Any:
        return trio.Event()

    async def wait(self, event: Any) -> None:
        await event.wait()

    async def turn(self) -> None:
        await trio.lowlevel.checkpoint()

    def advance(self, seconds: float) -> None:
        super().advance(seconds)
        self._loop_clock.jump(seconds)

    def let_time_flow(self) -> None:
        self._loop_clock.rate = 1.0


class OnAsyncio(World):
    name = "asyncio"
    cancelled = asyncio.CancelledError
    open_engine = staticmethod(changeover.aio.open_engine)
    make_loop: Callable[[], asyncio.AbstractEventLoop] = staticmethod(asyncio.new_event_loop)

    def play(self, scenario: Call) -> None:
        with asyncio.Runner(loop_factory=type(self).make_loop) as runner:
            if self.has_time:
                runner.get_loop().time = self.clock.now  # type: ignore[method-assign]
            self._tasks: dict[Use, asyncio.Task[None]] = {}
            runner.run(scenario())

    def spawn(self, call: Call, *, cancellable: bool = False) -> Use:
        use = Use(call)
        self._tasks[use] = asyncio.get_running_loop().create_task(use.run())
        return use

    async def interrupt(self, use: Use) -> None:
        self._tasks[use].cancel()

    async def fan_out(self, calls: Sequence[Call], begun: Callable[[int], bool]) -> None:
        async with asyncio.TaskGroup() as group:
            for n, call in enumerate(calls, 1):
                group.create_task(call())
                await self.until(partial(begun, n))

    def event(self) -> Any:
        return asyncio.Event()

    async def wait(self, event: Any) -> None:
        await event.wait()

    async def turn(self) -> None:
        await asyncio.sleep(0)


class OnUvloop(OnAsyncio):
    name = "uvloop"
    make_loop = staticmethod(uvloop.new_event_loop)
    has_time = False


class InThreads(World):
    """The scenario has a thread, every use too; the main one, which hears Ctrl-C, is for those that are cancelled."""

    name = "threads"
    cancelled = KeyboardInterrupt
    open_engine = staticmethod(changeover.threads.open_engine)
    is_async = False

    def play(self, scenario: Call) -> None:
        self._jobs: queue.SimpleQueue[Use | None] = queue.SimpleQueue()
        whole = Use(scenario)
        thread = threading.Thread(target=lambda: (run_through(whole.run), self._jobs.put(None)), name="scenario")
        thread.start()
        while (use := self._jobs.get(timeout=2 * PATIENCE_S)) is not None:
            run_through(use.run)
        thread.join(PATIENCE_S)
        if whole.error is not None:
            raise whole.error

    def spawn(self, call: Call, *, cancellable: bool = False) -> Use:
        use = Use(call)
        if cancellable:
            self._jobs.put(use)
        else:
            threading.Thread(target=run_through, args=(use.run,), name="user", daemon=True).start()
        return use

    async def interrupt(self, use: Use) -> None:
        main = threading.main_thread().ident
        assert main is not None
        # Asleep, and not on its way there: between two steps of a request Ctrl-C may lose its reference.
        await self.until(lambda: sys._current_frames()[main].f_code.co_name in ASLEEP)
        signal.pthread_kill(main, signal.SIGINT)

    async def fan_out(self, calls: Sequence[Call], begun: Callable[[int], bool]) -> None:
        uses: list[Use] = []
        for n, call in enumerate(calls, 1):
            uses.append(self.spawn(call))
            await self.until(partial(begun, n))
        for use in uses:
            await self.end(use)
        errors = [use.error for use in uses if use.error is not None]
        if errors:
            raise BaseExceptionGroup("branches failed", errors)

    def event(self) -> Any:
        return threading.Event()

    async def wait(self, event: Any) -> None:
        for _ in range(LOOKS_MAX):
            if event.wait(TICK_MOST_S):  # in slices: Ctrl-C in the moment in which a lock falls asleep does not wake it
                return
        raise AssertionError("nobody sets it")

    async def turn(self) -> None:
        pass


WORLDS: tuple[type[World], ...] = (OnTrio, OnAsyncio, OnUvloop, InThreads)
