"""Nothing keeps a closed model: weak references say so, while no garbage is collected but by order of the engine."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import weakref
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any, ClassVar

import pytest
import trio

import changeover
from changeover import Drain, Engine, Event
from changeover.errors import ChangeoverError
from changeover.plugin import API_VERSION, FatalModelError, Signature, Source
from changeover.runtime.ports import SystemMemory
from tests.support.memory import MB, in_its_own_process, no_collections, on_linux, trim_as_at_the_start
from tests.support.models import Broken
from tests.support.rig import Watch, until
from tests.support.threads import PATIENCE_S

SIZE = 32 * MB
PIECE = 32_000


class Watched:
    """A model that holds 32 MB in small pieces, and that a test keeps only a weak reference to."""

    signature = Signature(checked=False)
    made: ClassVar[list[weakref.ref[Watched]]] = []

    def __init__(self, *, thread_safe: bool) -> None:
        self.thread_safe = thread_safe
        self.pieces: list[Any] = [bytearray(b"x") * PIECE for _ in range(SIZE // PIECE)]
        self.made.append(weakref.ref(self))

    def predict(self, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        if inputs.get("fatal"):
            raise FatalModelError("beyond use")
        if inputs.get("bad"):
            raise Broken("no")
        return dict(inputs)

    def predict_stream(self, inputs: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
        for number in range(3):
            if inputs.get("bad") and number:
                raise Broken("no")
            yield {"n": number}

    def memory_bytes(self) -> int:
        return SIZE

    def close(self) -> None:
        return


def watched_loader(*, thread_safe: bool) -> type:
    """Return a loader of such models."""

    class WatchedLoader:
        api_version: ClassVar[int] = API_VERSION
        executes_code_on_load: ClassVar[bool] = False

        def load(self, source: Source) -> Any:
            return Watched(thread_safe=thread_safe)

    return WatchedLoader


Use = Callable[[Engine], Awaitable[None]]


async def rest(engine: Engine) -> None:
    """Do nothing."""


async def infer(engine: Engine) -> None:
    """Ask it."""
    for number in range(3):
        await engine.infer("m", {"n": number})


async def infer_badly(engine: Engine) -> None:
    """Have it raise."""
    with suppress(ChangeoverError):
        await engine.infer("m", {"bad": True})


async def stream(engine: Engine) -> None:
    """Take all chunks."""
    async with engine.infer_stream("m", {}) as chunks:
        async for _ in chunks:
            pass


async def stream_and_leave(engine: Engine) -> None:
    """Take one chunk."""
    async with engine.infer_stream("m", {}) as chunks:
        async for _ in chunks:
            break


async def stream_badly(engine: Engine) -> None:
    """Have it raise behind the first chunk."""
    with suppress(ChangeoverError):
        async with engine.infer_stream("m", {"bad": True}) as chunks:
            async for _ in chunks:
                pass


async def warm(engine: Engine) -> None:
    """Warm it again."""
    await engine.warm_up("m", "1", [{"n": 1}, {"n": 2}])


async def warm_badly(engine: Engine) -> None:
    """Have it raise."""
    with suppress(ChangeoverError):
        await engine.warm_up("m", "1", [{"bad": True}])


async def lease(engine: Engine) -> None:
    """Hold it, and ask it so and so."""
    with engine.lease("m") as held:
        held.infer({"n": 1})
        with suppress(ChangeoverError):
            held.model.predict({"n": 1})
    async with engine.lease("m") as held:
        held.infer({"n": 1})


async def lease_badly(engine: Engine) -> None:
    """Hold it, and have it raise."""
    with suppress(ChangeoverError), engine.lease("m") as held:
        held.infer({"bad": True})


CLEAN: tuple[Use, ...] = (rest, infer, stream, stream_and_leave, warm, warm_badly, lease, lease_badly)
"""Uses behind which a model goes with its last reference."""

RAISING: tuple[Use, ...] = (infer_badly, stream_badly)
"""Uses whose error may have left a cycle of frames that hold the model."""


@asynccontextmanager
async def used(use: Use, *, thread_safe: bool = True, debug: bool = False, **spec: Any) -> AsyncGenerator[Engine, None]:
    """Open an engine with one version that was used, no garbage collected but by the engine itself."""
    trim_as_at_the_start()
    SystemMemory().give_back(collect=True)  # or what others left behind would come back in place of the model
    Watched.made.clear()
    with no_collections():
        async with changeover.open_engine(debug_references=debug) as engine:
            engine._host.loaders.add("watched", watched_loader(thread_safe=thread_safe))
            engine.register("m", "1", "s", loader="watched", **spec)
            with suppress(ChangeoverError):
                await engine.load("m", "1")
            await use(engine)
            yield engine


async def let_go() -> None:
    """Wait until whoever was told of an error, and the thread in which it was raised, let go of its frames."""
    with trio.fail_after(PATIENCE_S):
        await until(lambda: gc.collect() >= 0 and Watched.made[0]() is None)


@on_linux
@pytest.mark.parametrize(
    ("thread_safe", "debug"), [(True, False), (False, False), (True, True)], ids=["plain", "one at a time", "debug"]
)
@pytest.mark.parametrize("execution", ["inline", "worker"])
@pytest.mark.parametrize("use", [*CLEAN, *RAISING])
async def test_nothing_keeps_a_model_that_was_unloaded(
    use: Use, execution: str, thread_safe: bool, debug: bool
) -> None:
    """However it was used, it is gone when `unload` returns, and no collection was needed where nothing was raised."""
    async with used(use, thread_safe=thread_safe, debug=debug, execution=execution) as engine, Watch(engine) as watch:
        await engine.unload("m", "1", drain=Drain(5.0), force=True)
        if use in RAISING:
            await let_go()
        assert [made() for made in Watched.made] == [None]
        (told,) = await watch.kinds("memory_returned")
        assert not (told.detail["collected"] and use in CLEAN), told


@pytest.mark.parametrize("execution", ["inline", "worker"])
async def test_nothing_keeps_a_model_whose_load_failed(execution: str) -> None:
    """A warm-up that fails leaves an error, and the error no model."""
    async with used(rest, execution=execution, warmup={"bad": True}) as engine:
        assert engine.load_info("m", "1").error is not None
        assert [made() for made in Watched.made] == [None]


@on_linux
@pytest.mark.parametrize("execution", ["inline", "worker"])
async def test_nothing_keeps_a_model_that_crashed(execution: str) -> None:
    """Nothing holds on to one that declared itself beyond use, once its caller has let go of the error."""
    async with used(rest, execution=execution) as engine, engine.events() as events:
        with suppress(ChangeoverError):
            await engine.infer("m", {"fatal": True})
        with trio.fail_after(PATIENCE_S):
            async for event in events:
                if isinstance(event, Event) and event.kind == "memory_returned":
                    break
        await let_go()
        assert Watched.made[0]() is None


# --- how much really comes back -------------------------------------------------------------------------------------


@on_linux
@in_its_own_process
async def test_a_model_in_small_pieces_gives_its_memory_back() -> None:
    """32 MB in 32 kB, which the C library would keep for itself, are gone from the process when they go."""
    async with used(rest) as engine, Watch(engine) as watch:
        for _ in range(2):
            await engine.unload("m", "1", force=True)
            await engine.load("m", "1")
        await engine.unload("m", "1", force=True)
        returned = await watch.kinds("memory_returned", "returned_bytes")
    assert all(0.9 * SIZE < size < 1.2 * SIZE for size in returned), returned


@on_linux
@in_its_own_process
async def test_a_model_that_holds_itself_costs_a_collection_and_is_gone() -> None:
    """What only a collection can free is freed by the unload, which says that it paid for it."""

    async def tie(_engine: Engine) -> None:
        made = Watched.made[0]()
        assert made is not None
        made.pieces.append(made)

    async with used(tie) as engine, Watch(engine) as watch:
        await engine.unload("m", "1", force=True)
        assert Watched.made[0]() is None
        (told,) = await watch.kinds("memory_returned")
    assert told.detail["collected"]
    assert told.detail["returned_bytes"] > 0.9 * SIZE


@on_linux
@in_its_own_process
async def test_the_growth_around_a_load_is_what_the_model_took(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that does not know its size is measured to within a few percent."""
    monkeypatch.setattr(Watched, "memory_bytes", lambda self: None)
    async with used(rest) as engine:
        await engine.unload("m", "1", force=True)
        await engine.load("m", "1")
        info = engine.load_info("m", "1")
    assert info.memory_method == "resident_set"
    assert info.memory_bytes is not None
    assert 0.9 * SIZE < info.memory_bytes < 1.2 * SIZE


# --- what the C library keeps ---------------------------------------------------------------------------------------

ARENA = """
import sys, threading
from changeover.runtime.ports import SystemMemory
memory, pieces = SystemMemory(), []
large = bytearray(30 * 2**20)
del large
def in_thread(work):
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
in_thread(lambda: pieces.extend(bytearray(b"x") * 32768 for _ in range(1000)))
before = memory.resident_bytes()
in_thread(lambda: (pieces.clear(), memory.give_back(collect=False)))
print(before - memory.resident_bytes())
"""


@on_linux
def test_the_environment_decides_what_the_library_keeps_at_the_end_of_an_arena() -> None:
    """Behind a large array that was freed, 32 MB in pieces come back with the setting that the README names."""
    environment = {**os.environ, "MALLOC_TRIM_THRESHOLD_": "131072"}
    done = subprocess.run(
        [sys.executable, "-c", ARENA], check=True, capture_output=True, text=True, env=environment, timeout=60
    )
    assert int(done.stdout) > 0.9 * 32768 * 1000
