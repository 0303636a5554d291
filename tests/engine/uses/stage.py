"""A stage for one use: an engine with one scripted version, and what must be true before and after the use has ended.

It owns the engine, which it closes, and the gates at which models wait; `Way` is a row of the matrix.
"""

from __future__ import annotations

import re
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import attrs
import pytest

import changeover.runtime.engine
from changeover import Drain, Reply, VersionState
from changeover.runtime import thread_parts
from changeover.runtime.loaded import LoadedModel
from changeover.runtime.ports import Ports, Threads
from changeover.runtime.ports import Random as RandomPort
from tests.engine.uses.worlds import WORLDS, OnAsyncio, OnTrio, OnUvloop, Use, World
from tests.support.faces import done, entered
from tests.support.models import Cast, ScriptedModel
from tests.support.threads import patient

WORKER = "worker m/1 0"
PULLER = "stream m/1"
CLOSE_S = 0.02
"""How long an engine waits for holders when it is closed with some."""

TIMER_S = 20.0
"""Later than any drain of these rows, and sooner than the engine gives up a load."""

ASYNC = (OnTrio, OnAsyncio, OnUvloop)
LINE = re.compile(r"/tests/.+\.py:\d+$")

MADE_BY_THE_ENGINE = frozenset({"warmup", "shadow"})
"""These uses were taken by no line of the caller's."""


@attrs.frozen
class Seen:
    """A holder as the row expects it."""

    kind: str
    age_s: float = 0.0
    thread: str | None = None
    """None: nobody who cannot be interrupted."""
    name: str | None = None
    """The caller's request id, where it has one."""


class Gate:
    """Where a model waits in its thread until it may go on."""

    def __init__(self) -> None:
        self.began, self.go = threading.Event(), threading.Event()

    def wait(self, *_inputs: object) -> None:
        """Be the model."""
        self.began.set()
        assert patient(self.go)


class Middle:
    """Always the same number: chance has no part in any row."""

    def random(self) -> float:
        return 0.5

    def getrandbits(self, k: int, /) -> int:
        return 0


Call = Callable[[], Coroutine[Any, Any, Any]]
Act = Callable[["Stage"], Coroutine[Any, Any, None]]


@attrs.frozen
class Way:
    """A way that a use can end: one row."""

    act: Act
    worlds: tuple[type[World], ...]
    script: Mapping[str, Any]
    spec: Mapping[str, Any]

    @property
    def name(self) -> str:
        words = self.act.__name__.replace("_", " ")
        return f"{words} ({self.spec['execution']})" if "execution" in self.spec else words


class Ways(list[Way]):
    """A table of rows, each of which is a function; its name and its docstring say what it shows."""

    def row(
        self, worlds: tuple[type[World], ...] = WORLDS, *, script: Mapping[str, Any] = {}, **spec: Any
    ) -> Callable[[Act], Act]:
        """Add a row, to be played in these worlds with such a version."""

        def add(act: Act) -> Act:
            self.append(Way(act, worlds, script, spec))
            return act

        return add


class Stage:
    """What a row plays on."""

    engine: Any

    def __init__(self, world: World, *, debug: bool = False) -> None:
        self.world = world
        self.debug = debug
        self.cast = Cast()
        self.ended: list[str] = []
        """The model's own generators that came to their end, in whichever way."""
        self.inside: list[tuple[Seen, ...]] = []
        """Who held the version whenever a model that spies was called."""
        self._gates: list[Gate] = []
        self._known: dict[int, LoadedModel] = {}
        self._block = AsyncExitStack()
        self._is_closed = False

    # --- the engine ---

    @asynccontextmanager
    async def opened(self, way: Way, monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[None, None]:
        """Open an engine on the hand clock, with m/1 loaded; close it behind the row, if the row did not."""
        monkeypatch.setattr(changeover.runtime.engine, "_system_ports", self._ports)
        monkeypatch.setattr(thread_parts, "SLICE_S", 0.01)
        script = self.cast.script("m", "1")
        for name, value in way.script.items():
            setattr(script, name, value(self) if name == "chunks" else value)
        options: dict[str, Any] = {"close_timeout_s": CLOSE_S, "debug_references": self.debug}
        self.engine = await self._block.enter_async_context(entered(type(self.world).open_engine(**options)))
        try:
            self.engine._host.loaders.add("scripted", self.cast.loader)
            self.engine.register("m", "1", "s", loader="scripted", **way.spec)
            await done(self.engine.load("m", "1"))
            self.look_round()
            yield
        finally:
            for gate in self._gates:
                gate.go.set()
            await self.close()

    def _ports(self) -> Ports:
        ports, clock = Ports.system(), self.world.clock
        chance: RandomPort = Middle()
        threads = Threads(clock, ports.wake)  # type: ignore[arg-type]  # a bound `now`
        return Ports(clock, chance, ports.wake, threads, ports.memory)  # type: ignore[arg-type]  # the same

    async def close(self) -> None:
        """Close the engine, in the middle of a row or behind it."""
        if not self._is_closed:
            self._is_closed = True
            self.world.let_time_flow()
            await self._block.aclose()

    # --- the model ---

    @property
    def model(self) -> ScriptedModel:
        """The youngest model of m/1."""
        return self.cast.of("m", "1")[-1]

    def hang(self, when: str | None = None, version: str = "1") -> Gate:
        """Let requests wait at a gate, all or those whose inputs name `when`."""
        gate = self.gate()
        script = self.cast.script("m", version)
        before = script.on_predict

        def wait(inputs: Mapping[str, Any]) -> None:
            if before is not None:
                before(inputs)
            if when is None or when in inputs:
                gate.wait()

        script.on_predict = wait
        return gate

    def gate(self) -> Gate:
        """Return a gate, which is opened at the end at the latest."""
        gate = Gate()
        self._gates.append(gate)
        return gate

    def spy(self) -> None:
        """Have every request write down who holds the version, in the middle of its prediction."""
        self.cast.script("m", "1").on_predict = lambda _inputs: self.inside.append(self.holders())

    # --- uses ---

    def infer(self, timeout_s: float | None = None, **inputs: Any) -> Call:
        """Return a request to be made."""

        async def call() -> Any:
            return await done(self.engine.infer("m", inputs, timeout_s=timeout_s))

        return call

    def reader(self, **inputs: Any) -> Call:
        """Return a stream to be read to its end."""

        async def call() -> int:
            count = 0
            async with entered(self.engine.infer_stream("m", inputs)) as chunks:
                while await self.next(chunks) is not None:
                    count += 1
            return count

        return call

    def holder(self, leave: Any) -> Call:
        """Return a lease to be held, `async with` where there is that, until `leave` is set."""

        async def call() -> None:
            async with self.leased():
                await self.world.wait(leave)

        return call

    def leased(self) -> Any:
        """Return a lease to enter, by `async with` where the world has that."""
        lease = self.engine.lease("m")
        return lease if self.world.is_async else entered_plainly(lease)

    async def next(self, chunks: Any) -> Reply | None:
        """Return the next chunk, or None at the end."""
        try:
            return next(chunks) if hasattr(chunks, "__next__") else await anext(chunks)
        except (StopIteration, StopAsyncIteration):
            return None

    async def elsewhere(self, work: Callable[[], object]) -> None:
        """Do something in a thread of its own."""
        errors: list[BaseException] = []

        def run() -> None:
            try:
                work()
            except BaseException as error:  # noqa: BLE001 - it is raised below
                errors.append(error)

        thread = threading.Thread(target=run, name="elsewhere")
        thread.start()
        await self.world.until(lambda: not thread.is_alive())
        thread.join()
        if errors:
            raise errors[0]

    def unload(self, drain: Drain) -> Use:
        """Begin to unload m/1."""

        async def call() -> Any:
            return await done(self.engine.unload("m", "1", force=True, drain=drain))

        return self.world.spawn(call)

    async def until_state(self, state: VersionState) -> None:
        """Return when m/1 is in a state."""
        await self.world.until(lambda: self.engine.load_info("m", "1").status is state)

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.world.advance(seconds)

    async def timer(self) -> None:
        """Return when the engine waits for a time to come: a deadline of a drain, or a restart."""
        await self.world.until(lambda: self.world.clock.is_awaited(TIMER_S))

    async def until_held(self, count: int) -> None:
        """Return when so many references are held."""
        await self.world.until(lambda: self.engine.references.count("m", "1") == count)

    async def until_queued(self, count: int) -> None:
        """Return when so many requests wait in queues: one is held before it stands there."""
        living = self.engine._host.living
        await self.world.until(lambda: sum(len(loaded.lane) for loaded in living()) == count)

    # --- what must be true ---

    def holders(self, version: str = "1") -> tuple[Seen, ...]:
        """Return who holds a version."""
        found: list[Seen] = []
        for holder in self.engine.who_holds("m", version):
            running = [use for loaded in self.look_round() for use in loaded.account.running().values()]
            thread = holder.thread
            if self.debug:
                assert LINE.search(holder.where or "") or holder.kind in MADE_BY_THE_ENGINE, holder
                assert thread is not None, holder
                thread = thread if thread in running else None
            else:
                assert holder.where is None
            name = None if "#" in holder.holder else holder.holder
            found.append(Seen(holder.kind, holder.age_s, thread, name))
        return tuple(found)

    def sees(self, *expected: Seen, version: str = "1") -> None:
        """Exactly these hold the version just now, and its model is open as long as there are any."""
        found = self.holders(version)
        assert sorted(map(str, found)) == sorted(map(str, expected)), found
        assert self.engine.references.count("m", version) == len(expected)
        assert all(loaded.is_open for loaded in self.look_round() if loaded.account.held)

    def closed(self) -> list[int]:
        """Return how often each model was closed, in the order in which they were made."""
        return [made.closed for made in self.cast.made]

    def look_round(self) -> tuple[LoadedModel, ...]:
        """Note every incarnation that there is, for the end."""
        self._known |= {id(loaded): loaded for loaded in self.engine._host.living()}
        return tuple(self._known.values())

    async def given_back(self) -> None:
        """Nothing is held any more: the audit is clean, and an unload with no time at all drains."""
        engine = self.engine
        await done(engine.wait_for_drain("m", "1", 30.0))
        self.sees()
        assert engine.audit().clean, engine.audit()
        if engine.is_loaded("m", "1"):
            outcome = await done(engine.unload("m", "1", force=True, drain=Drain(0.0)))
            assert (outcome.result, outcome.holders, outcome.duration_s) == ("drained", (), 0.0)

    async def at_rest(self) -> None:
        """Behind the engine: every model is closed once, was not used after it, and nobody is remembered anywhere."""
        await self.world.until(lambda: all(made.closed for made in self.cast.made))
        engine = self.engine
        homes = [engine._host.replies, *engine._host.homes]
        await self.world.until(lambda: not any(home._expected or home._done for home in homes))
        assert self.closed() == [1] * len(self.cast.made)
        assert self.cast.wrongs() == []
        for loaded in self._known.values():
            account = loaded.account
            left = (account.held, account._watchers, account._revokers, account.usage.timed)
            assert not any((*left, loaded.running, loaded.aside, len(loaded.lane)))
            assert account.balance().conserved
        assert not engine.references._world.waits._waiting
        assert engine.audit().clean


@asynccontextmanager
async def entered_plainly(block: Any) -> AsyncGenerator[Any, None]:
    """Enter a block with `with`, also where it has `async with`."""
    with block as value:
        yield value


def chunks_of(stage: Stage) -> Callable[[Mapping[str, Any]], Iterator[Mapping[str, Any]]]:
    """Return a model's `predict_stream`: at chunk `at` it waits at `gate`, or raises `raises`; it notes its end."""

    def chunks(inputs: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
        try:
            for n in range(inputs.get("most", 3)):
                if n == inputs.get("at"):
                    if "gate" in inputs:
                        inputs["gate"].wait()
                    if "raises" in inputs:
                        raise inputs["raises"]
                yield {"n": n}
        finally:
            stage.ended.append("ended")

    return chunks


def play(way: Way, world: World, *, debug: bool, monkeypatch: pytest.MonkeyPatch) -> Stage:
    """Play one row in one world; return the stage as it was left."""
    stage = Stage(world, debug=debug)

    async def scenario() -> None:
        async with stage.opened(way, monkeypatch):
            await way.act(stage)
            if not stage._is_closed:
                await stage.given_back()
        await stage.at_rest()

    world.play(scenario)
    return stage
