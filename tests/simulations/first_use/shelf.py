"""A shelf with too little room: an engine with a budget for one or two of its models, and whoever wants them.

`open_shelf` owns the engine and the callers, watches every event for what must never be, and looks behind itself. The
models are of ten bytes each; a is loaded first, and so is the one that goes.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import trio

from changeover import Drain, VersionKey, VersionState
from changeover.core import lifecycle
from changeover.errors import ChangeoverError, NotReady
from changeover.plugin import SourceAway
from tests.simulations.first_use.stage import (
    Call,
    Stage,
    assert_accounts_even,
    assert_nobody_waits,
    assert_nothing_left,
    open_house,
)
from tests.support.rig import open_rig

SIZE = 10
EDGES = {(state, to.state) for state, row in lifecycle.TABLE.items() for to in row.values()}
"""Every step that a version may take."""


class Watcher:
    """A reader of the bus that looks, at every event, at the bytes and at the way that the version takes."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.lives: dict[VersionKey, list[VersionState]] = {}
        """The states of each version since it was registered last."""
        self.rings_s = 0.0
        """When a source that is away is tried again."""

    def put(self, event: Any) -> None:
        """Look; what is raised here fails the schedule."""
        key = VersionKey(event.model, event.version) if event.version else None
        if key is not None and event.kind in ("version_registered", "version_unregistered"):
            self.lives[key] = [VersionState.REGISTERED]
        elif key is not None and event.kind == "version_state":
            life = self.lives.setdefault(key, [VersionState.REGISTERED])
            life.append(VersionState(event.detail["state"]))
            assert tuple(life[-2:]) in EDGES, f"{key} went {[state.value for state in life]}"
        elif event.kind == "load_retrying":
            self.rings_s = trio.current_time() + event.detail["delay_s"]
        self.look()

    def look(self) -> None:
        """Look at the bytes."""
        engine = self.stage.engine
        store, host = engine._store, engine._host
        assert store.budget_bytes is None or store.reserved_bytes <= store.budget_bytes, store
        entries = store._entries
        assert store.reserved_bytes == sum(entry.bytes for entry in entries.values())
        in_line = [job for job in host.jobs.values() if job.want is not None]
        assert all(job.listener is not None for job in in_line), "somebody stands in line who went away"
        loading = {job.number for job in host.jobs.values() if job.want is None or job.loaded is not None}
        assert set(entries) == loading | set(host._living), "bytes of what is neither loading nor loaded nor closing"

    def wake(self) -> None:
        """Hear that there are no more events."""


class Shelf(Stage):
    """A stage whose models are called by name, and where whoever uses one stays as long as he is told."""

    watcher: Watcher
    has_begun: trio.Event
    """Set when somebody was called."""

    def add_model(self, model: str, version: str = "1", **fields: Any) -> None:
        """Register a version that takes all of the bytes that it says."""
        fields = {"memory": SIZE, "memory_hint_bytes": SIZE, **fields}
        self.rig.add(model, version, chunks=_one_chunk, fatal_on=lambda asked: "poison" in asked, **fields)

    async def fill(self, *models: str, **fields: Any) -> None:
        """Register models and load them one after the other."""
        for model in models:
            self.add_model(model, **fields)
            await self.engine.load(model, "1")
            await trio.sleep(1.0)

    def status(self, model: str, version: str = "1") -> VersionState:
        """Return the state of a version."""
        return self.engine._state(VersionKey(model, version))

    # --- who calls ---

    def use(self, kind: str, model: str, stay_s: float = 0.0, *, anywhere: bool = False) -> Call:
        """Use a model in some way."""
        ways: dict[str, Callable[[str, float], Awaitable[None]]] = {
            "infer": self._infer, "stream": self._stream, "async lease": self._async_lease, "lease": self._lease,
            "thread": self._thread,
        }  # fmt: skip
        return self.call(partial(ways[kind], model, stay_s), f"{kind} {model}", anywhere=anywhere)

    async def _infer(self, model: str, _stay_s: float) -> None:
        reply = await self.engine.infer(model, {"n": 1})
        assert reply.outputs["n"] == 1

    async def _stream(self, model: str, stay_s: float) -> None:
        async with self.engine.infer_stream(model, {"n": 1}) as chunks:
            assert [chunk.outputs async for chunk in chunks] == [{"n": 1}]
            await trio.sleep(stay_s)

    async def _async_lease(self, model: str, stay_s: float) -> None:
        async with self.engine.lease(model) as lease:
            assert lease.infer({"n": 1})["n"] == 1
            await trio.sleep(stay_s)
            assert lease.infer({"n": 2})["n"] == 2

    async def _lease(self, model: str, stay_s: float) -> None:
        with self.engine.lease(model) as lease:
            await trio.sleep(stay_s)
            assert lease.infer({"n": 2})["n"] == 2

    async def _thread(self, model: str, _stay_s: float) -> None:
        def use() -> None:
            with self.engine.lease(model) as lease:
                trio.from_thread.run_sync(int)  # others go on meanwhile
                assert lease.infer({"n": 2})["n"] == 2

        await trio.to_thread.run_sync(use)

    def call(self, make: Callable[[], Awaitable[Any]], name: str = "call", *, anywhere: bool = False) -> Call:
        """Make a call beside the program."""
        if name != "scene":
            self.has_begun.set()
        return super().call(make, name, anywhere=anywhere)

    def load(self, model: str, version: str = "1", *, anywhere: bool = False) -> Call:
        """Order a load."""
        make = partial(self.engine.ensure_loaded, model, version)
        return self.call(make, f"load {model}/{version}", anywhere=anywhere)

    def unload(self, model: str, version: str = "1", drain: Drain | None = None) -> Call:
        """Order an unload, of the last version too."""
        make = partial(self.engine.unload, model, version, force=True, drain=drain)
        return self.call(make, f"unload {model}/{version}")

    def forget(self, model: str, version: str = "1") -> Call:
        """Order that a version is forgotten."""
        return self.call(partial(self.engine.unregister, model, version), f"unregister {model}/{version}")

    def kill(self, model: str) -> Call:
        """Have a model declare that it is beyond use."""
        return self.call(partial(self.engine.infer, model, {"poison": 1}), f"kill {model}")

    def away(self, model: str, version: str = "1", *, tries: int = 1) -> None:
        """Have the source of a version away for so many tries."""
        script, left = self.rig.script(model, version), [tries]

        def on_load() -> None:
            if left[0]:
                left[0] -= 1
                raise SourceAway("for a moment")

        script.on_load = on_load

    def heal(self) -> None:
        """Have every source there, and whole."""
        for script in self.rig.cast.scripts.values():
            script.on_load = script.load_error = None


def _one_chunk(asked: Any) -> Any:
    yield dict(asked)


@asynccontextmanager
async def open_shelf(budget: int, **options: Any) -> AsyncGenerator[Shelf, None]:
    """Open an engine with room for so many models; behind the block nothing of it may be left."""
    async with open_house() as house:
        clock: Any = house.world.ports.clock
        clock.now = trio.lowlevel.current_clock().current_time  # threads may read it as well
        options = {"debug_references": True, "memory_budget_bytes": budget * SIZE, **options}
        async with open_rig(world=house.world, cast=house.cast, **options) as rig:
            shelf = Shelf(rig, house)
            shelf.watcher, shelf.has_begun = Watcher(shelf), trio.Event()
            rig.engine._bus.readers.append(shelf.watcher)
            yield shelf
    shelf.watcher.look()
    assert_nothing_left(shelf)


async def answer(shelf: Shelf, model: str) -> Any:
    """Return what a model answers to 1, or why it does not answer.

    It is asked twice: the order of a reload may have been late, and then that load is in the way of the first request.
    """
    try:
        return (await shelf.engine.infer(model, {"n": 1})).outputs["n"]
    except NotReady:
        await shelf.rest()
    try:
        return (await shelf.engine.infer(model, {"n": 1})).outputs["n"]
    except ChangeoverError as error:
        return error


async def assert_shelf_at_rest(shelf: Shelf) -> None:
    """Nothing goes on: what is ready is open, what was evicted has its traffic, and the bytes are those of the ready.

    Then every model that is ready or evicted answers, one after the other.
    """
    await shelf.rest()
    look_at_rest(shelf)
    shelf.heal()
    for model in sorted(known(shelf, VersionState.READY) | known(shelf, VersionState.EVICTED)):
        said = await answer(shelf, model)
        assert said == 1, f"{model} does not answer: {said!r}"
    await shelf.rest()
    look_at_rest(shelf)


def known(shelf: Shelf, state: VersionState) -> set[str]:
    """Return the models that have a version in this state."""
    return {key.model for key, version in shelf.engine._versions.items() if version.state is state}


def look_at_rest(shelf: Shelf) -> None:
    """Look at everything in an engine in which nothing goes on."""
    engine, router = shelf.engine, shelf.engine._router
    assert shelf.rig.cast.wrongs() == []
    assert_accounts_even(shelf)
    assert_nobody_waits(shelf)
    versions = engine._versions
    ready = sorted(key for key, version in versions.items() if version.state is VersionState.READY)
    evicted = sorted(key for key, version in versions.items() if version.state is VersionState.EVICTED)
    assert sorted(shelf.rig.cast.open()) == [str(key) for key in ready], "open models are not those that are ready"
    assert sorted(router._open) == sorted(router.named) == ready, "routed are not those that are ready"
    assert sorted(router._parked) == evicted, "parked are not those that were evicted"
    for key, version in versions.items():
        assert key in engine._registry, f"{key} is known and not registered"
        assert key in ready or version.state in lifecycle.RESTING, (key, version.state)
        assert (version.loaded is not None, version.has_task) == (key in ready, key in ready), key
        assert version.is_evicted == (key in evicted), key
        assert version.loaded is None or not version.loaded.is_leaving, f"{key} is not on its way out"
        life = shelf.watcher.lives[key]
        assert life[-1] is version.state, (key, life)
    counts = engine.statistics()
    assert (counts.stuck_loads, counts.swaps_open, counts.reserved_bytes) == (0, 0, SIZE * len(ready)), counts
    assert len(engine._host.room._line) == 0
    for model in {key.model for key in (*ready, *evicted)}:
        active = router.active(model)
        assert active is not None, f"{model} has versions and no traffic"
        assert VersionKey(model, active) in (*ready, *evicted), f"the traffic of {model} goes to {active}"
        assert (model in router.direct) == (VersionKey(model, active) in ready), "the slow way is left behind"
    assert set(router.snapshot.routes) == {key.model for key in (*ready, *evicted)}
    shelf.watcher.look()
