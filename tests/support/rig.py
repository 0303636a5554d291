"""An engine on a stage: scripted models, in a world of virtual time or on the real machine.

`open_rig` owns the engine and looks, when it is closed, whether any model was misused. A rig spawns nothing.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any, Self, TypeVar

import attrs
import trio
import trio.testing

import changeover
from changeover import Engine, Event, EventsDropped, VersionSpec
from changeover.errors import ChangeoverError
from changeover_sim import Duration, World, open_world
from tests.support.models import Cast, Script
from tests.support.threads import Crowd

T = TypeVar("T")

LOADER = "scripted"
SCRIPT_FIELDS = frozenset(field.name for field in attrs.fields(Script))


class Rig:
    """One engine, its world (None: the real one) and the cast of its models."""

    def __init__(self, engine: Engine, cast: Cast, world: World | None) -> None:
        self.engine = engine
        self.cast = cast
        self.kept: list[Any] = []
        """What a test wants to live as long as the rig, a lease say."""
        self._world = world
        engine._host.loaders.add(LOADER, cast.loader)

    @property
    def world(self) -> World:
        """The virtual world; only where there is one."""
        assert self._world is not None
        return self._world

    def add(self, model: str = "m", version: str = "1", *, source: Any = "script", **fields: Any) -> VersionSpec:
        """Register a version; fields are those of `Script` and of `VersionSpec`."""
        script = self.cast.script(model, version)
        for name in SCRIPT_FIELDS & fields.keys():
            setattr(script, name, fields.pop(name))
        return self.engine.register(model, version, source, loader=LOADER, **fields)

    async def ready(self, model: str = "m", version: str = "1", **fields: Any) -> None:
        """Register a version and load it."""
        self.add(model, version, **fields)
        await self.engine.load(model, version)

    def takes(self, work: str, duration: Duration) -> None:
        """Say how long a piece of work takes: `"load m/1"`, `"warm m/1"`, `"close m/1"`, `"worker m/1 0"`."""
        self.world.durations[work] = duration

    def script(self, model: str = "m", version: str = "1") -> Script:
        """Return what a version does, to be changed."""
        return self.cast.script(model, version)

    def lease(self, model: str = "m", version: str | None = None) -> Any:
        """Take a lease and keep it; `release()` gives it back."""
        return self.engine.lease(model, version=version).__enter__()


@asynccontextmanager
async def open_rig(
    *, world: World | None = None, seed: int = 0, real: bool = False, cast: Cast | None = None, **options: Any
) -> AsyncGenerator[Rig, None]:
    """Open an engine in `world`, in one of its own, or on the real machine; no model may have been misused in it."""
    cast = cast or Cast()
    async with AsyncExitStack() as stack:
        if real:
            engine = await stack.enter_async_context(changeover.open_engine(**options))
        else:
            world = world or await stack.enter_async_context(open_world(seed))
            engine = await stack.enter_async_context(changeover.open_engine(ports=world.ports, **options))
        yield Rig(engine, cast, world)
    assert cast.wrongs() == []


async def settle(cushion_s: float = 0.0) -> None:
    """Return when every other task waits for time to pass or for somebody outside."""
    await trio.testing.wait_all_tasks_blocked(cushion_s)


def run_virtual(main: Callable[..., Awaitable[T]], *args: Any) -> T:
    """Run `main` under a clock that jumps; for tests that run many worlds."""
    return trio.run(main, *args, clock=trio.testing.MockClock(autojump_threshold=0))


async def until_ready_again(rig: Rig, crowd: Crowd) -> None:
    """Let threads that crash a version loose, and return when it is ready again and they have ended."""
    async with rig.engine.events() as events:
        crowd.start()
        async for event in events:
            if isinstance(event, Event) and event.detail.get("state") == "ready":
                break
    await trio.to_thread.run_sync(crowd.join)


class Watch:
    """Everything that an engine tells, from the moment that it is entered."""

    def __init__(self, engine: Engine) -> None:
        self.seen: list[Event] = []
        self._events = engine.events(buffer=100_000)

    async def __aenter__(self) -> Self:
        await self._events.__aenter__()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._events.__aexit__(*exc)

    async def read(self) -> list[Event]:
        """Return all events up to now; none may have been dropped."""
        await settle()
        while self._events._unread:
            event = await self._events.__anext__()
            assert not isinstance(event, EventsDropped)
            self.seen.append(event)
        return self.seen

    async def kinds(self, kind: str, field: str | None = None) -> list[Any]:
        """Return the events of one kind, or one field of their details."""
        found = [event for event in await self.read() if event.kind == kind]
        return found if field is None else [event.detail.get(field) for event in found]

    async def states(self, version: str, model: str = "m") -> list[str]:
        """Return the states that a version went through."""
        return [
            event.detail["state"]
            for event in await self.read()
            if event.kind == "version_state" and (event.model, event.version) == (model, version)
        ]


class Outcome:
    """A call, and what came of it: a value, an error of ours, or nothing yet."""

    def __init__(self, call: Callable[..., Awaitable[Any]], *args: Any, **kwargs: Any) -> None:
        self._call = partial(call, *args, **kwargs)
        self._value: Any = None
        self.error: Exception | None = None
        self.over = False
        self.began_s = self.ended_s = 0.0

    async def run(self) -> None:
        """Make the call and keep what comes of it."""
        self.began_s = trio.current_time()
        try:
            self._value = await self._call()
        except ChangeoverError as error:
            self.error = error
        self.ended_s = trio.current_time()
        self.over = True

    @property
    def value(self) -> Any:
        """What was returned; raises what was raised."""
        assert self.over, "the call has not ended"
        if self.error is not None:
            raise self.error
        return self._value


@asynccontextmanager
async def running(*outcomes: Outcome) -> AsyncGenerator[None, None]:
    """Make the calls beside the block, one after the other, and wait for their ends behind it."""
    async with trio.open_nursery() as nursery:
        for outcome in outcomes:
            nursery.start_soon(outcome.run)
            await settle()  # Trio starts the tasks of one batch in any order
        yield


async def until(condition: Callable[[], bool]) -> None:
    """Return when `condition` holds; looks again ten times a second of virtual time."""
    while not condition():  # noqa: ASYNC110 - the condition is an engine's state, and tells nobody
        await trio.sleep(0.1)


async def later(seconds: float, call: Callable[[], object]) -> None:
    """Make a call in so many seconds of virtual time: what ends a hang, so that a test fails and does not hang too."""
    await trio.sleep(seconds)
    call()
