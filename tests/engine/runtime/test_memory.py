"""Memory: what a load took is measured, what a close left behind is fetched back, and nothing keeps a closed model."""

from __future__ import annotations

import ctypes
import gc
import os
import threading
import weakref
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from changeover.core.occupancy import MemoryMethod, Overlaps, Returned
from changeover.core.values import VersionSpec
from changeover.errors import OverBudget
from changeover.plugin import Signature
from changeover.runtime import fork, memory, ports
from changeover.runtime.accounts import make_account
from changeover.runtime.loaded import LoadedModel
from changeover.runtime.loaders import Brought
from changeover.runtime.ports import Ports, Shared, SystemMemory
from changeover_sim.ports import VirtualMemory
from tests.support.memory import MB, TELLS, no_collections
from tests.support.models import Broken
from tests.support.rig import Rig, Watch, open_rig
from tests.support.threads import PATIENCE_S, Crowd, patient

BASE = 50 * MB


# --- what a version occupies ----------------------------------------------------------------------------------------


def grows(rig: Rig, by: int, version: str = "1") -> None:
    """Have the process grow while a version is loaded, and shrink when it is closed."""
    it = rig.world.memory
    it.resident = BASE if it.resident is None else it.resident

    def change(sign: int) -> None:
        assert it.resident is not None
        it.resident += sign * by

    rig.script(version=version).on_load = partial(change, 1)
    rig.script(version=version).on_close = partial(change, -1)


@pytest.mark.parametrize(
    ("stated", "grown", "hint", "size", "method"),
    [
        (5, 9 * MB, 7, 5, "model"),
        (None, 9 * MB, 7, 9 * MB, "resident_set"),
        (None, 9 * MB, 10 * MB, 10 * MB, "hint"),
        (None, 6, 7, 7, "hint"),
        (None, 0, 7, 7, "hint"),
        (None, -9 * MB, 7, 7, "hint"),
        (None, 0, None, None, "unknown"),
    ],
)
async def test_what_a_version_occupies(
    rig: Rig, stated: int | None, grown: int, hint: int | None, size: int | None, method: MemoryMethod
) -> None:
    """The model says it, else the growth of the process, if that is more than the hint; the reservation goes by it."""
    grows(rig, grown)
    await rig.ready(memory=stated, memory_hint_bytes=hint)
    info = rig.engine.load_info("m", "1")
    assert (info.memory_bytes, info.memory_method) == (size, method)
    assert rig.engine.statistics().reserved_bytes == (size or 0)


async def test_where_the_system_does_not_tell_nothing_is_measured(rig: Rig) -> None:
    """Without a resident set there are the hint and the size of the source, and nothing is told of what came back."""
    async with Watch(rig.engine) as watch:
        await rig.ready(memory=None, memory_hint_bytes=7)
        info, counts = rig.engine.load_info("m", "1"), rig.engine.statistics()
        assert (info.memory_bytes, info.memory_method) == (7, "hint")
        assert (counts.resident_bytes, counts.baseline_bytes) == (None, None)
        await rig.engine.unload("m", "1", force=True)
        assert await watch.kinds("memory_returned") == []
    assert rig.engine.load_info("m", "1").memory_returned_bytes is None


async def test_what_grows_over_the_budget_is_closed_and_its_load_fails(autojump_clock: Any) -> None:
    """A measured figure counts as the model's own: over the budget, the load fails and nothing stays reserved."""
    async with open_rig(memory_budget_bytes=100 * MB) as rig:
        grows(rig, 101 * MB)
        rig.add(memory=None, memory_hint_bytes=1)
        with pytest.raises(OverBudget):
            await rig.engine.load("m", "1")
        assert rig.cast.open() == []
        assert rig.engine.statistics().reserved_bytes == 0


@pytest.mark.parametrize("beside", ["load", "warm", "close"])
async def test_nothing_is_guessed_from_what_others_had_a_part_in(beside: str) -> None:
    """A load beside another load, a warm-up or a close falls back to its hint; the next one alone is measured."""
    inside, go = threading.Event(), threading.Event()

    def hang(*_asked: Any) -> None:
        inside.set()
        patient(go)

    async with open_rig(real=True, ports=with_memory(Growing())) as rig:
        rig.add(version="1", memory=None, memory_hint_bytes=7)
        rig.add(version="2", memory=None, memory_hint_bytes=7, on_load=hang if beside == "load" else None)
        if beside != "load":
            await rig.engine.load("m", "2")
            assert rig.engine.load_info("m", "2").memory_method == "resident_set"
            rig.script(version="2").on_predict = rig.script(version="2").on_close = hang
        other = {
            "load": partial(rig.engine.load, "m", "2"),
            "warm": partial(rig.engine.warm_up, "m", "2", {"n": 1}),
            "close": partial(rig.engine.unload, "m", "2", force=True),
        }[beside]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(other)
            await trio.to_thread.run_sync(patient, inside)
            await rig.engine.load("m", "1")
            go.set()
        assert rig.engine.load_info("m", "1").memory_method == "hint"
        if beside == "load":
            assert rig.engine.load_info("m", "2").memory_method == "hint"
        await rig.engine.unload("m", "1", force=True)
        await rig.engine.load("m", "1")
        assert rig.engine.load_info("m", "1").memory_method == "resident_set"


class Growing(VirtualMemory):
    """A process that grows by a megabyte each time that somebody looks."""

    def resident_bytes(self) -> int | None:
        self.resident = (self.resident or BASE) + MB
        return self.resident


def with_memory(it: Any) -> Ports:
    """Return the real world with another memory."""
    return attrs.evolve(Ports.system(), memory=it)


# --- what a close brings back ---------------------------------------------------------------------------------------


class Plain:
    """A model that says what it occupies."""

    signature = Signature(checked=False)
    thread_safe = True

    def __init__(self, on_close: Callable[[], None]) -> None:
        self.on_close = on_close

    def predict(self, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        return inputs

    def memory_bytes(self) -> int | None:
        return 100 * MB

    def close(self) -> None:
        self.on_close()


@attrs.define
class Closed:
    """A close in a process where memory comes back as it is told."""

    at_once: int = 0
    """What comes back with the close itself ..."""
    by_trim: int = 0
    """... what a trim gives back ..."""
    by_collection: int = 0
    """... and what a collection frees, for a trim to give back."""
    size: int | None = 100 * MB
    grown: int | None = 100 * MB
    kept: bool = False
    """Whether somebody keeps the model."""
    blind: bool = False
    """Whether the system does not tell what the process occupies."""
    is_glibc: bool = True
    beside: bool = False
    """Whether something else was going on."""
    error: Exception | None = None

    def run(self) -> tuple[list[bool], Returned | None]:
        """Close; return what was asked of the memory, and what the close tells."""
        it = VirtualMemory()
        it.resident = None if self.blind else 200 * MB

        def free(size: int) -> None:
            it.resident = None if it.resident is None else it.resident - size

        def close() -> None:
            free(self.at_once)
            if self.error is not None:
                raise self.error

        it.on_give_back = (
            (lambda collect: free(self.by_collection if collect else self.by_trim)) if self.is_glibc else None
        )
        model = Plain(close)
        loaded = loaded_model(model, self.size, self.grown)
        if self.beside:
            it.overlaps.begin()
        keeps = [model] if self.kept else []
        del model
        with suppress(Broken):
            memory.close(loaded, it)
        del keeps
        return it.given_back, loaded.returned


def loaded_model(model: Any, size: int | None, grown: int | None) -> LoadedModel:
    """Return a model as a load leaves it."""
    spec = VersionSpec("m", "1", "s", loader="plain")
    account = make_account(spec.key, lambda: 0.0, record=False)
    brought = Brought(model, model.signature, model.thread_safe, None)
    loaded = LoadedModel(spec, brought, account, number=1, loaded_at=0.0, load_s=0.0)
    loaded.memory, loaded.grown_bytes = (size, "model"), grown
    return loaded


ROWS: list[tuple[str, Closed, list[bool], int | None]] = [
    # the close; each give-back, and whether behind a collection; what is told to have come back
    ("all at once", Closed(at_once=100 * MB), [], 100 * MB),
    ("by a trim", Closed(by_trim=95 * MB), [False], 95 * MB),
    ("some by each", Closed(at_once=40 * MB, by_trim=60 * MB), [False], 100 * MB),
    ("by a collection", Closed(by_collection=100 * MB), [False, True], 100 * MB),
    ("never", Closed(), [False, True], 0),
    ("never, and kept", Closed(kept=True), [False, True], 0),
    ("the process grew meanwhile", Closed(at_once=-5 * MB), [False, True], 0),
    ("small", Closed(size=MB - 1), [], 0),
    ("not glibc", Closed(is_glibc=False), [False, True], 0),
    ("not glibc, all at once", Closed(at_once=100 * MB, is_glibc=False), [], 100 * MB),
    ("nothing known", Closed(blind=True), [False], None),
    ("nothing known, and kept", Closed(blind=True, kept=True), [False, True], None),
    ("nothing known and not glibc", Closed(blind=True, kept=True, is_glibc=False), [False], None),
    ("beside others", Closed(beside=True), [False], None),
    ("beside others, and kept", Closed(beside=True, kept=True), [False, True], None),
    ("nobody knows its size", Closed(at_once=MB, size=None, grown=None), [False], MB),
    ("its close raises", Closed(by_trim=100 * MB, error=Broken("no")), [False], 100 * MB),
]


@pytest.mark.parametrize(("closed", "asked", "returned"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS])
def test_what_is_done_for_the_memory_of_a_closed_model(closed: Closed, asked: list[bool], returned: int | None) -> None:
    """A trim where something is missing, a collection where that was not enough, and no more than is needed."""
    given_back, told = closed.run()
    resident = None if closed.blind else 200 * MB - closed.at_once
    resident = (
        None
        if resident is None
        else resident
        - sum((closed.by_collection if collect else closed.by_trim) for collect in asked if closed.is_glibc)
    )
    assert given_back == asked
    assert told == Returned(closed.size, returned, resident, collected=True in asked)


def test_a_model_that_cannot_be_watched_is_closed_like_any_other() -> None:
    """A class without weak references is no obstacle, and counts as gone."""

    class Bare:
        __slots__ = ()
        signature, thread_safe = Signature(checked=False), True
        predict = memory_bytes = close = lambda self, *_: None

    it = VirtualMemory()
    it.on_give_back = lambda _collect: None
    loaded = loaded_model(Bare(), None, None)
    memory.close(loaded, it)
    assert (it.given_back, loaded.is_open) == ([False], False)


def test_what_a_close_raises_comes_out_and_keeps_nothing() -> None:
    """The error of the model's own `close` is raised as it is, and the frames that it came through hold no model."""
    error = Broken("no")

    def close() -> None:
        raise ValueError("why") from error

    loaded = loaded_model(Plain(close), 100 * MB, None)
    gone = weakref.ref(loaded.model)
    with pytest.raises(ValueError, match="why") as raised:
        memory.close(loaded, VirtualMemory())
    assert raised.value.__cause__ is error
    assert gone() is None


def test_a_memory_that_breaks_breaks_no_close() -> None:
    """Whatever the port raises, the model is closed and its close is a success."""

    def break_down(_collect: bool) -> None:
        raise Broken("memory")

    it = VirtualMemory()
    it.on_give_back = break_down
    loaded = loaded_model(Plain(lambda: None), 100 * MB, None)
    memory.close(loaded, it)
    assert (loaded.is_open, loaded.returned, it.given_back) == (False, None, [False])


def test_a_second_close_does_nothing() -> None:
    """A model that is closed already is not measured either."""
    it = VirtualMemory()
    loaded = loaded_model(Plain(lambda: None), 100 * MB, None)
    loaded.close()
    memory.close(loaded, it)
    assert (it.given_back, loaded.returned) == ([], None)


# --- what is told ---------------------------------------------------------------------------------------------------


async def test_an_unload_tells_what_came_back(rig: Rig) -> None:
    """An event, the version's info and the engine's counts say what was expected, what came and what is left."""
    grows(rig, 100 * MB)
    async with Watch(rig.engine) as watch:
        await rig.ready(memory=None)
        assert rig.engine.load_info("m", "1").memory_returned_bytes is None
        assert rig.engine.statistics().resident_bytes == BASE + 100 * MB
        await rig.engine.unload("m", "1", force=True)
        (event,) = await watch.kinds("memory_returned")
    assert (event.model, event.version) == ("m", "1")
    assert event.detail == {
        "expected_bytes": 100 * MB, "returned_bytes": 100 * MB, "resident_bytes": BASE, "baseline_bytes": None,
        "collected": False,
    }  # fmt: skip
    assert rig.engine.load_info("m", "1").memory_returned_bytes == 100 * MB
    assert rig.world.memory.given_back == []


async def test_the_last_unload_is_the_one_that_counts(rig: Rig) -> None:
    """Each unload replaces what is told of the one before, also by the news that nobody could tell."""
    grows(rig, 100 * MB)
    await rig.ready(memory=None)
    for beside, told in ((False, 100 * MB), (True, None)):
        span = rig.world.memory.overlaps.begin() if beside else None
        await rig.engine.unload("m", "1", force=True)
        assert rig.engine.load_info("m", "1").memory_returned_bytes == told
        if span is not None:
            rig.world.memory.overlaps.end(span)
        await rig.engine.load("m", "1")


async def test_nothing_is_kept_of_a_version_that_was_unregistered(rig: Rig) -> None:
    """What its last unload gave back goes with it."""
    grows(rig, 100 * MB)
    await rig.ready(memory=None)
    await rig.engine.unload("m", "1", force=True)
    await rig.engine.unregister("m", "1")
    rig.add()
    assert rig.engine.load_info("m", "1").memory_returned_bytes is None


async def test_the_baseline_is_what_the_process_occupied_at_first() -> None:
    """It is looked at when the engine is opened, and stays."""
    it = VirtualMemory()
    it.resident = BASE
    async with open_rig(real=True, ports=with_memory(it)) as rig:
        it.resident = 2 * BASE
        counts = rig.engine.statistics()
        assert (counts.resident_bytes, counts.baseline_bytes) == (2 * BASE, BASE)


async def test_memory_is_given_back_off_the_loop_and_before_the_unload_is_over() -> None:
    """Trims and collections happen in the close thread; `unload` returns, and bytes are free, when they are done."""
    where: list[tuple[str, int]] = []
    it = VirtualMemory()
    async with open_rig(real=True, ports=with_memory(it)) as rig:
        it.on_give_back = lambda _collect: where.append(
            (threading.current_thread().name, rig.engine.statistics().reserved_bytes)
        )
        await rig.ready(memory=2 * MB)
        await rig.engine.unload("m", "1", force=True)
        assert where == [("close m/1", 2 * MB)] * 2
        assert rig.engine.statistics().reserved_bytes == 0


# --- the real process -----------------------------------------------------------------------------------------------


def test_a_process_knows_what_it_occupies() -> None:
    """On Linux the resident set is more than an interpreter and less than the machine; it sees what is touched."""
    it = SystemMemory()
    before = it.resident_bytes()
    if not TELLS:
        assert before is None
        return
    assert before is not None
    assert 5 * MB < before < os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    ballast = bytearray(b"x") * (64 * MB)
    after = it.resident_bytes()
    assert after is not None
    assert after - before > 60 * MB
    del ballast


@pytest.mark.parametrize("content", [None, "", "1", "1 x", "a folder"])
def test_a_system_that_does_not_tell_is_no_error(tmp_path: Path, content: str | None) -> None:
    """No such file, an empty one and one in other words all mean that it is not known."""
    path = tmp_path / "statm"
    if content == "a folder":
        path.mkdir()
    elif content is not None:
        path.write_text(content)
    assert SystemMemory(path).resident_bytes() is None


@pytest.mark.parametrize("why", [OSError("no"), TypeError("no"), AttributeError("no"), ImportError("no")])
def test_without_glibc_there_is_nothing_to_hand_back(monkeypatch: pytest.MonkeyPatch, why: Exception) -> None:
    """Another C library, or none that can be called, is no error: nothing is handed back, and that is said."""

    def refuse(_name: str | None) -> Any:
        raise why

    monkeypatch.setattr(ctypes, "CDLL", refuse)
    ports._malloc_trim.cache_clear()
    try:
        assert [SystemMemory().give_back(collect=collect) for collect in (False, True)] == [False, False]
    finally:
        ports._malloc_trim.cache_clear()


def test_a_collection_is_made_only_where_it_is_ordered(monkeypatch: pytest.MonkeyPatch) -> None:
    """A plain give-back leaves garbage lie; with `collect` it is gone."""
    gc.collect()
    gone = weakref.ref(cycle())
    it = SystemMemory()
    with no_collections():
        it.give_back(collect=False)
        assert gone() is not None
        it.give_back(collect=True)
        assert gone() is None


def cycle() -> Any:
    """Return an object that keeps itself."""

    class Ring:
        ring: Any = None

    it = Ring()
    it.ring = it
    return it


class Announced:
    """A lock that says when somebody comes to it."""

    def __init__(self) -> None:
        self.came = threading.Semaphore(0)
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        self.came.release()
        self._lock.acquire()

    def __exit__(self, *exc: object) -> None:
        self._lock.release()


def test_those_who_ask_at_once_share_one() -> None:
    """Who asks while an act goes on shares the next one; one that began before he asked is not enough."""
    began, go = threading.Event(), threading.Event()
    begun, told = list[int](), list[int]()

    def act() -> None:
        begun.append(1)
        began.set()
        assert patient(go)

    def ask() -> None:
        shared()
        told.append(len(begun))

    shared, first, others = Shared(act), Crowd(), Crowd()
    shared._lock = gate = Announced()  # type: ignore[assignment]
    first.add(shared)
    for _ in range(10):
        others.add(ask)
    first.start()
    assert patient(began)
    others.start()
    for _ in range(11):
        assert gate.came.acquire(timeout=PATIENCE_S)
    assert told == []
    go.set()
    first.join()
    others.join()
    assert told == [2] * 10
    shared()
    assert len(begun) == 3


def test_an_act_that_raises_blocks_nobody() -> None:
    """Who asks after an act that broke gets one of his own."""
    done: list[int] = []

    def act() -> None:
        done.append(1)
        if len(done) == 1:
            raise Broken("once")

    shared = Shared(act)
    with pytest.raises(Broken):
        shared()
    shared()
    assert len(done) == 2


def test_all_engines_of_a_process_see_each_others_loads() -> None:
    """There is one resident set, so there is one count of what changes it; a forked process begins a new one."""
    one, other = SystemMemory(), SystemMemory()
    assert isinstance(one.overlaps, Overlaps)
    assert one.overlaps is other.overlaps
    assert one.overlaps in fork._open
