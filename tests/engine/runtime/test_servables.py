"""What a manager of servables must survive, by name: on the real machine, with models that are files.

A model is a file with a number of lines, each of which is answered in turn; its size is what it takes.
"""

from __future__ import annotations

import threading
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, ClassVar

import pytest
import trio

import changeover
from changeover import Drain, Engine, VersionState
from changeover.errors import LoadCancelled, LoadFailed, NotReady, OverBudget, SwapFailed
from changeover.plugin import API_VERSION, Signature, Source
from tests.support.memory import TELLS, resident_bytes
from tests.support.rig import Outcome, Watch, running
from tests.support.threads import patient

LOADER = "lines"
SIZE = 1_000
"""What each file takes, in bytes, and so the model that is made of it."""


class Lines:
    """A model that was read from a file."""

    thread_safe = True
    signature = Signature(checked=False)

    def __init__(self, text: str) -> None:
        self.word = text.split(maxsplit=1)[0]
        self.closed = 0
        self.closes_at: Gate | None = None

    def predict(self, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        assert not self.closed
        return {"word": self.word}

    def memory_bytes(self) -> int:
        return SIZE

    def close(self) -> None:
        if self.closes_at is not None:
            self.closes_at.wait()
        self.closed += 1


class Gate:
    """Where the load of one file, or the close of one model, waits until it is told to go on."""

    def __init__(self) -> None:
        self.inside = threading.Event()
        self.go = threading.Event()

    def wait(self) -> None:
        """Stand here."""
        self.inside.set()
        assert patient(self.go)


class Files:
    """A folder of models, what is read from it, and the engine that serves them."""

    def __init__(self, folder: Path, engine: Engine) -> None:
        self.folder = folder
        self.engine = engine
        self.made: list[Lines] = []
        self.gates: dict[str, Gate] = {}
        files = self

        class LinesLoader:
            api_version: ClassVar[int] = API_VERSION
            executes_code_on_load: ClassVar[bool] = False

            def load(self, source: Source) -> Any:
                return files.read(Path(source.location))

        engine._host.loaders.add(LOADER, LinesLoader)

    def read(self, path: Path) -> Lines:
        """Be the loader."""
        gate = self.gates.get(path.name)
        if gate is not None:
            gate.wait()
        model = Lines(path.read_text())
        self.made.append(model)
        return model

    def gate(self, name: str) -> Gate:
        """Have the load of a file wait."""
        return self.gates.setdefault(name, Gate())

    def put(self, model: str, version: str, word: str, name: str | None = None) -> Path:
        """Write a model's file, and register it."""
        path = self.folder / (name or f"{model}-{version}")
        path.write_text(word.ljust(SIZE))
        self.engine.register(model, version, path, loader=LOADER)
        return path

    async def word(self, model: str) -> str:
        """Ask a model."""
        word: str = (await self.engine.infer(model, {})).outputs["word"]
        return word

    def state(self, model: str, version: str) -> VersionState:
        """Return the state of a version."""
        return self.engine.load_info(model, version).status


@asynccontextmanager
async def open_files(folder: Path, **options: Any) -> AsyncGenerator[Files, None]:
    """Open an engine on the real machine; in the end every model that was read is closed, once."""
    async with changeover.open_engine(**options) as engine:
        files = Files(folder, engine)
        yield files
    assert [model.closed for model in files.made] == [1] * len(files.made)


async def inside(gate: Gate) -> None:
    """Return when a load stands at its gate."""
    await trio.to_thread.run_sync(patient, gate.inside)


async def test_a_version_registered_anew_while_its_old_instance_is_held(tmp_path: Path) -> None:
    """The new file is served under the old name, and whoever holds the old model keeps it until he leaves."""
    async with open_files(tmp_path) as files:
        engine = files.engine
        files.put("m", "1", "old")
        await engine.load("m", "1")
        lease = engine.lease("m").__enter__()
        outcome = await engine.unload("m", "1", drain=Drain(0.0), force=True)
        assert outcome.result == "quarantined"
        await engine.unregister("m", "1")
        files.put("m", "1", "new", name="another")
        await engine.load("m", "1")
        assert await files.word("m") == "new"
        assert lease.infer({})["word"] == "old"
        assert [model.closed for model in files.made] == [0, 0]
        lease.release()
        with trio.fail_after(60):
            while not files.made[0].closed:
                await trio.lowlevel.checkpoint()
        assert await files.word("m") == "new"
        assert engine.audit().clean


async def test_a_failing_second_version_and_then_a_good_third(tmp_path: Path) -> None:
    """A version whose file is gone fails its swap; the first one serves on, and the third takes its place."""
    async with open_files(tmp_path) as files:
        engine = files.engine
        files.put("m", "1", "first")
        await engine.load("m", "1")
        files.put("m", "2", "second").unlink()
        with pytest.raises(SwapFailed) as failed:
            await engine.swap("m", "2")
        assert isinstance(failed.value.__cause__, LoadFailed)
        assert (files.state("m", "2"), await files.word("m")) == (VersionState.FAILED, "first")
        files.put("m", "3", "third")
        operation = await engine.swap("m", "3")
        assert (operation.old_unloaded, await files.word("m")) == (True, "third")
        assert engine.loaded_versions("m") == ("3",)


async def test_an_unload_ordered_during_a_load(tmp_path: Path) -> None:
    """The unload returns at once, the load is called off, and what its thread brings later is closed."""
    async with open_files(tmp_path) as files:
        engine, gate = files.engine, files.gate("m-1")
        files.put("m", "1", "late")
        load = Outcome(engine.load, "m", "1")
        async with running(load):
            await inside(gate)
            assert (await engine.unload("m", "1")).result == "drained"
        assert isinstance(load.error, LoadCancelled)
        assert files.state("m", "1") is VersionState.UNLOADED
        gate.go.set()
        await engine.load("m", "1")
        assert await files.word("m") == "late"


async def test_a_load_ordered_during_an_unload(tmp_path: Path) -> None:
    """The load begins when the old model is closed, and brings a new one."""
    async with open_files(tmp_path) as files:
        engine, gate = files.engine, Gate()
        files.put("m", "1", "again")
        await engine.load("m", "1")
        files.made[0].closes_at = gate
        load = Outcome(engine.load, "m", "1")
        async with running(Outcome(engine.unload, "m", "1", force=True)):
            await inside(gate)
            async with running(load):
                assert (files.state("m", "1"), len(files.made)) == (VersionState.UNLOADING, 1)
                gate.go.set()
        assert (load.error, await files.word("m")) == (None, "again")
        assert [model.closed for model in files.made] == [1, 0]


async def test_two_loads_of_half_the_budget_run_side_by_side(tmp_path: Path) -> None:
    """Both stand in their loaders at the same time, and the budget is full when both are through."""
    async with open_files(tmp_path, memory_budget_bytes=2 * SIZE) as files:
        engine = files.engine
        gates = [files.gate(f"{model}-1") for model in "ab"]
        for model in "ab":
            files.put(model, "1", model)
        async with trio.open_nursery() as nursery:
            for model in "ab":
                nursery.start_soon(engine.load, model, "1")
            for gate in gates:
                await inside(gate)
            assert engine.statistics().reserved_bytes == 2 * SIZE
            for gate in gates:
                gate.go.set()
        assert [await files.word(model) for model in "ab"] == ["a", "b"]
        assert engine.statistics().reserved_bytes == 2 * SIZE


async def test_one_that_is_too_large_is_refused_and_leaves_no_bytes_behind(tmp_path: Path) -> None:
    """Its file is larger than the budget: it is not read; nobody was evicted for it, and the next one has its room."""
    async with open_files(tmp_path, memory_budget_bytes=2 * SIZE) as files:
        engine = files.engine
        files.put("a", "1", "small")
        await engine.load("a", "1")
        files.put("b", "1", "large" + " " * 3 * SIZE)
        with pytest.raises(OverBudget, match=r"b/1 needs 3,005 bytes"):
            await engine.load("b", "1")
        assert (engine.statistics().reserved_bytes, len(files.made)) == (SIZE, 1)
        assert (files.state("a", "1"), files.state("b", "1")) == (VersionState.READY, VersionState.FAILED)
        files.put("c", "1", "other")
        await engine.load("c", "1")
        assert [await files.word(model) for model in "ac"] == ["small", "other"]


async def test_events_come_in_the_order_of_a_life(tmp_path: Path) -> None:
    """Loaded, evicted, asked for, unloaded and forgotten: each version tells its steps in their order."""
    async with open_files(tmp_path, memory_budget_bytes=SIZE) as files, Watch(files.engine) as watch:
        engine = files.engine
        for model in "ab":
            files.put(model, "1", model)
            await engine.load(model, "1")
        assert await files.word("a") == "a"
        await engine.unload("a", "1", force=True)
        await engine.unregister("a", "1")
        up, away = ["loading", "warming", "ready"], ["draining", "unloading"]
        assert await watch.states("1", "a") == [*up, *away, "evicted", *up, *away, "unloaded"]
        assert await watch.states("1", "b") == [*up, *away, "evicted"]
        kinds = [event.kind for event in watch.seen if event.model == "a" and event.kind.startswith("version_")]
        assert (kinds[0], kinds[-1]) == ("version_registered", "version_unregistered")
        assert await watch.kinds("traffic_shifted", "to") == ["1", "1", None]


async def test_ten_models_take_turns_where_one_fits(tmp_path: Path) -> None:
    """Asked by ten tasks at once, each is answered or told to try again, a hundred times, and the budget is kept."""
    async with open_files(tmp_path, memory_budget_bytes=SIZE) as files:
        answered: list[str] = []
        for number in range(10):
            files.put(f"m{number}", "1", f"w{number}")
            await files.engine.load(f"m{number}", "1")

        async def ask(number: int) -> None:
            while len(answered) < 100:
                try:
                    assert await files.word(f"m{number}") == f"w{number}"
                    answered.append(f"m{number}")
                except NotReady:
                    await trio.lowlevel.checkpoint()

        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                for number in range(10):
                    nursery.start_soon(ask, number)
        assert files.engine.statistics().reserved_bytes <= SIZE


# --- very many ------------------------------------------------------------------------------------------------------

REGISTERED, LOADED = 10_000, 1_000
IDLE_BYTES_MAX = 100_000
"""What an idle version may take; 15 kB were measured, of which most is its task's."""


async def test_ten_thousand_registered_and_one_thousand_loaded_versions_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record_property: Callable[[str, object], None]
) -> None:
    """Each of the loaded ones answers, one of them is swapped, an idle one takes little, and in the end all is free."""
    (tmp_path / "servable_that_echoes.py").write_text("def make():\n    return lambda asked: dict(asked)\n")
    monkeypatch.syspath_prepend(tmp_path)
    async with changeover.open_engine() as engine:
        for number in range(REGISTERED):
            name, version = f"m{number % LOADED}", str(number // LOADED)
            engine.register(name, version, "servable_that_echoes:make", loader="callable", allow_code=True)
        before, began_s = resident_bytes() if TELLS else 0, time.monotonic()
        limiter = trio.CapacityLimiter(16)

        async def load(number: int) -> None:
            async with limiter:
                await engine.load(f"m{number}", "0")

        async with trio.open_nursery() as nursery:
            for number in range(LOADED):
                nursery.start_soon(load, number)
        record_property("load_s", time.monotonic() - began_s)
        idle_bytes = ((resident_bytes() if TELLS else 0) - before) / LOADED
        record_property("idle_bytes", idle_bytes)
        assert idle_bytes < IDLE_BYTES_MAX
        for number in range(LOADED):
            assert (await engine.infer(f"m{number}", {"n": number})).outputs == {"n": number}
        counts = engine.statistics()
        assert (counts.registered, len(counts.versions), counts.children_restarted) == (REGISTERED, LOADED, 0)
        assert engine.audit().clean
        await engine.swap("m7", "3")
        assert engine.loaded_versions("m7") == ("3",)
    assert engine.statistics().reserved_bytes == 0
