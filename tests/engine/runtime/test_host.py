"""The host: loads, closes and reserves; what a thread left behind keeps its name and its bytes until it is back."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any

import attrs
import pytest
import trio

from changeover import Event, VersionKey, VersionSpec
from changeover.core.store import Store
from changeover.errors import LoadFailed, OverBudget, TooManyStuckLoads, VersionCrashed
from changeover.runtime.events import Bus, Events
from changeover.runtime.host import Host
from changeover.runtime.loaded import LoadedModel
from changeover_sim import Duration, World, open_world
from tests.support.models import Broken, Cast
from tests.support.rig import LOADER, settle

USE = ("lease", 0.0, None, None)


@attrs.define
class Waiting:
    """Who waits for a load, and what he was told."""

    got: list[tuple[LoadedModel | None, BaseException | None]] = attrs.field(factory=list)

    def __call__(self, loaded: LoadedModel | None, error: BaseException | None) -> None:
        self.got.append((loaded, error))

    @property
    def loaded(self) -> LoadedModel:
        """The model, where one came."""
        ((loaded, error),) = self.got
        assert loaded is not None
        assert error is None
        return loaded

    @property
    def error(self) -> BaseException:
        """The error, where one came."""
        ((loaded, error),) = self.got
        assert loaded is None
        assert error is not None
        return error


@attrs.define
class Stage:
    """A host, with what it works on."""

    host: Host
    world: World
    cast: Cast
    store: Store[int]
    events: Events

    def load(self, version: str = "1", takes: Duration = 0.0, **fields: Any) -> tuple[Waiting, Any]:
        """Begin a load that takes so long; return who waits, and the job."""
        self.world.durations[f"load m/{version}"] = takes
        waiting = Waiting()
        return waiting, self.host.load(VersionSpec("m", version, "script", loader=LOADER, **fields), waiting)

    def told(self) -> list[str]:
        """Return the kinds of all events since the last look."""
        kinds = [event.kind for event in self.events._unread if isinstance(event, Event)]
        self.events._unread.clear()
        return kinds


@asynccontextmanager
async def stage(budget: int | None = None, stuck_max: int = 8) -> AsyncGenerator[Stage, None]:
    """Set up a host in a world of virtual time; afterwards no model may have been misused."""
    cast = Cast()
    async with open_world() as world:
        store: Store[int] = Store(budget)
        bus = Bus(world.ports.clock)
        async with Events(bus, 1_000) as events:
            host = Host(world.ports, store, bus, record_references=False, stuck_max=stuck_max)
            host.loaders.add(LOADER, cast.loader)
            yield Stage(host, world, cast, store, events)
    assert cast.wrongs() == []


def closer() -> tuple[Callable[[BaseException | None], None], list[BaseException | None]]:
    """Return somebody to be told of a close, and what he was told."""
    told: list[BaseException | None] = []
    return told.append, told


async def test_a_load_is_handed_to_who_waits_for_it(autojump_clock: Any) -> None:
    """The model comes with how long its loader took, when it came and what it occupies."""
    async with stage() as s:
        s.cast.script("m", "1").memory = 77
        waiting, _ = s.load(takes=3.0)
        await trio.sleep(2.9)
        assert (waiting.got, s.host.living()) == ([], ())
        await trio.sleep(0.2)
        loaded = waiting.loaded
        assert (loaded.key, loaded.memory) == (VersionKey("m", "1"), (77, "model"))
        assert s.host.living() == (loaded,)
        assert s.store.reserved_bytes == 77


async def test_a_load_that_raises_leaves_nothing(autojump_clock: Any) -> None:
    """The error is handed over; no reservation, no model and no job stay behind."""
    async with stage(budget=100) as s:
        s.cast.script("m", "1").load_error = Broken("no")
        waiting, _ = s.load(memory_hint_bytes=50)
        assert s.store.reserved_bytes == 50
        await settle()
        assert isinstance(waiting.error, LoadFailed)
        assert (s.store.reserved_bytes, s.host.living(), s.host.jobs) == (0, (), {})


async def test_what_is_not_a_model_is_closed_and_refused(autojump_clock: Any) -> None:
    """A thing that is no model fails the load, is closed, and leaves nothing."""
    closed: list[int] = []

    class Thing:
        def close(self) -> None:
            closed.append(1)

    async with stage(budget=100) as s:
        s.cast.script("m", "1").loads = Thing()
        waiting, _ = s.load(memory_hint_bytes=50)
        await settle()
        assert isinstance(waiting.error, LoadFailed)
        assert (closed, s.store.reserved_bytes, s.host.living()) == ([1], 0, ())


# --- what threads leave behind --------------------------------------------------------------------------------------


async def test_an_abandoned_load_is_named_and_keeps_its_reservation(autojump_clock: Any) -> None:
    """A load that nobody waits for stays on the list of stuck ones, with its bytes, until its thread returns."""
    async with stage(budget=100) as s:
        hang = trio.Event()
        waiting, job = s.load(takes=hang, memory_hint_bytes=60)
        await settle()
        s.host.abandon(job)
        assert s.host.stuck() == (VersionKey("m", "1"),)
        assert s.store.reserved_bytes == 60
        refused, _ = s.load("2", memory_hint_bytes=60)
        assert isinstance(refused.error, OverBudget)
        hang.set()
        await settle()
        assert (s.host.stuck(), s.store.reserved_bytes, waiting.got) == ((), 0, [])
        assert s.told() == ["load_stuck", "load_stuck_ended"]


async def test_what_an_abandoned_load_brings_is_closed_on_arrival(autojump_clock: Any) -> None:
    """Nobody waits for it, so nobody gets it: it is closed and buried."""
    async with stage() as s:
        hang = trio.Event()
        waiting, job = s.load(takes=hang)
        s.host.abandon(job)
        hang.set()
        await settle()
        assert [made.closed for made in s.cast.made] == [1]
        assert (s.host.living(), waiting.got) == ((), [])


async def test_an_abandoned_load_that_raises_is_gone(autojump_clock: Any) -> None:
    """A zombie that ends with an error frees its bytes and its name."""
    async with stage(budget=100) as s:
        hang = trio.Event()
        s.cast.script("m", "1").load_error = Broken("late")
        _, job = s.load(takes=hang, memory_hint_bytes=60)
        s.host.abandon(job)
        hang.set()
        await settle()
        assert (s.host.stuck(), s.store.reserved_bytes) == ((), 0)


async def test_a_new_order_adopts_the_load_that_hangs(autojump_clock: Any) -> None:
    """The same version is never loaded twice at once: the new order gets what the old thread brings."""
    async with stage(budget=100) as s:
        hang = trio.Event()
        first, job = s.load(takes=hang, memory_hint_bytes=60)
        s.host.abandon(job)
        second, adopted = s.load(memory_hint_bytes=60)
        assert adopted is job
        assert (s.host.stuck(), s.store.reserved_bytes) == ((), 60)
        hang.set()
        await settle()
        assert (first.got, second.loaded.key) == ([], VersionKey("m", "1"))
        assert len(s.cast.made) == 1


async def test_an_adopted_load_can_be_abandoned_again(autojump_clock: Any) -> None:
    """Adopting and giving up may go on for as long as the thread hangs; it is one thread and one reservation."""
    async with stage(stuck_max=1) as s:
        hang = trio.Event()
        for _ in range(5):
            _, job = s.load(takes=hang)
            s.host.abandon(job)
        assert s.host.stuck() == (VersionKey("m", "1"),)
        hang.set()
        await settle()
        assert [made.closed for made in s.cast.made] == [1]


async def test_too_many_stuck_loads_stop_further_ones_by_name(autojump_clock: Any) -> None:
    """At the cap a load of another version is refused, naming what hangs; the stuck one itself may be adopted."""
    async with stage(stuck_max=2) as s:
        hang = trio.Event()
        for version in "12":
            _, job = s.load(version, takes=hang)
            s.host.abandon(job)
        with pytest.raises(TooManyStuckLoads, match=r"m/3.*m/1, m/2.*stuck_loads_max"):
            s.load("3")
        assert s.store.reserved_bytes == 0
        adopted, _ = s.load("2")
        waiting, _ = s.load("3")  # one of the two is wanted again, so there is room for one more
        hang.set()
        await settle()
        assert adopted.loaded.key.version == "2"
        assert waiting.loaded.key.version == "3"


async def test_loads_do_not_wait_for_each_other(autojump_clock: Any) -> None:
    """A load that hangs does not delay another one."""
    async with stage() as s:
        hang = trio.Event()
        slow, _ = s.load("1", takes=hang)
        quick, _ = s.load("2", takes=1.0)
        await trio.sleep(1.1)
        assert (slow.got, quick.loaded.key.version) == ([], "2")
        hang.set()
        await settle()


# --- the budget -----------------------------------------------------------------------------------------------------


async def test_a_load_over_the_budget_does_not_begin(autojump_clock: Any) -> None:
    """What does not fit by its hint is refused with the figures, before a thread is started; nothing is left."""
    async with stage(budget=100) as s:
        waiting, _ = s.load(memory_hint_bytes=1_000)
        assert isinstance(waiting.error, OverBudget)
        assert re.search(r"m/1 needs 1,000 bytes.*100 bytes.*memory_budget_bytes", str(waiting.error))
        await settle()
        assert (s.cast.made, s.store.reserved_bytes, s.host.jobs) == ([], 0, {})


async def test_a_model_that_turns_out_too_large_is_closed_and_its_load_fails(autojump_clock: Any) -> None:
    """Measured over the budget: the load fails with `OverBudget` once the model is closed, and nothing is left."""
    async with stage(budget=100) as s:
        s.cast.script("m", "1").memory = 101
        s.world.durations["close m/1"] = 5.0
        waiting, _ = s.load(memory_hint_bytes=1)
        await trio.sleep(1)
        assert waiting.got == []
        await trio.sleep(5)
        assert isinstance(waiting.error, OverBudget)
        assert [made.closed for made in s.cast.made] == [1]
        assert (s.store.reserved_bytes, s.host.living()) == (0, ())


async def test_a_model_that_is_smaller_than_its_hint_gives_the_rest_back(autojump_clock: Any) -> None:
    """After the load what the model says counts."""
    async with stage(budget=100) as s:
        s.cast.script("m", "1").memory = 10
        waiting, _ = s.load(memory_hint_bytes=90)
        await settle()
        assert (waiting.loaded.memory, s.store.reserved_bytes) == ((10, "model"), 10)


async def test_a_model_that_does_not_know_its_size_keeps_its_hint(autojump_clock: Any) -> None:
    """Where nobody measures, the hint stays."""
    async with stage(budget=100) as s:
        s.cast.script("m", "1").memory = None
        waiting, _ = s.load(memory_hint_bytes=90)
        await settle()
        assert (waiting.loaded.memory, s.store.reserved_bytes) == ((90, "hint"), 90)


async def test_the_size_of_the_source_is_the_hint_where_none_is_given(autojump_clock: Any, tmp_path: Any) -> None:
    """A file says how large its model may be; what is no file says nothing."""
    path = tmp_path / "model.bin"
    path.write_bytes(b"x" * 40)
    async with stage(budget=100) as s:
        s.cast.script("m", "1").memory = None
        s.cast.script("m", "2").memory = None
        waiting = Waiting()
        s.host.load(VersionSpec("m", "1", path, loader=LOADER), waiting)
        assert s.store.reserved_bytes == 40
        unknown, _ = s.load("2")
        await settle()
        assert waiting.loaded.memory == (40, "source_size")
        assert unknown.loaded.memory == (None, "unknown")


async def test_a_model_that_is_still_closing_keeps_its_bytes(autojump_clock: Any) -> None:
    """Room is there when `close` has returned, not when it was called."""
    async with stage(budget=100) as s:
        s.cast.script("m", "1").memory = 80
        waiting, _ = s.load()
        await settle()
        s.world.durations["close m/1"] = 5.0
        closed, told = closer()
        s.host.close(waiting.loaded, closed)
        await trio.sleep(1)
        assert (s.store.reserved_bytes, told) == (80, [])
        await trio.sleep(5)
        assert (s.store.reserved_bytes, told) == (0, [None])


# --- closing and retiring -------------------------------------------------------------------------------------------


async def test_a_close_that_raises_is_told_and_is_a_close(autojump_clock: Any) -> None:
    """The model is gone all the same, its bytes are free, and an event says what went wrong."""
    async with stage() as s:
        s.cast.script("m", "1").close_error = Broken("close")
        waiting, _ = s.load()
        await settle()
        closed, told = closer()
        s.host.close(waiting.loaded, closed)
        await settle()
        assert [type(error) for error in told] == [Broken]
        assert (s.host.living(), s.store.reserved_bytes, s.told()) == ((), 0, ["close_failed"])


async def test_a_retired_model_is_closed_when_its_last_holder_leaves(autojump_clock: Any) -> None:
    """Retired in use, it takes no more references and stays open until the last one is given back."""
    async with stage() as s:
        waiting, _ = s.load()
        await settle()
        loaded = waiting.loaded
        refs = [loaded.account.acquire(USE) for _ in range(2)]
        s.host.retire(loaded, "a reason")
        assert loaded.account.acquire(USE) is None
        await settle()
        assert s.cast.open() == ["m/1"]
        for ref in refs:
            assert s.cast.open() == ["m/1"]
            assert ref is not None
            loaded.account.release(ref)
        await settle()
        assert (s.cast.open(), s.host.living()) == ([], ())
        assert s.host.books.balances()[VersionKey("m", "1")].conserved


async def test_a_retired_model_answers_what_is_queued(autojump_clock: Any) -> None:
    """Requests that no worker has taken get their outcome, with the reason, and say that they did not run."""
    async with stage() as s:
        waiting, _ = s.load(execution="worker")
        await settle()
        loaded = waiting.loaded
        outcomes: list[Any] = []

        async def ask() -> None:
            from changeover.runtime.worker import Request

            ref = loaded.account.acquire(USE)
            assert ref is not None
            request = Request(loaded.account, ref, {}, 1, 0.0, s.host.replies, trio.lowlevel.current_task())
            assert loaded.lane.offer(request)
            await trio.lowlevel.wait_task_rescheduled(lambda _raise: trio.lowlevel.Abort.FAILED)
            outcomes.append(request.error)

        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(ask)
            await settle()
            s.host.retire(loaded, "a reason")
        assert [(type(e), e.ran) for e in outcomes] == [(VersionCrashed, "no")] * 3
        assert all("a reason" in str(e) for e in outcomes)
        await settle()
        assert s.cast.open() == []


async def test_quiet_waits_for_all_that_nobody_holds(autojump_clock: Any) -> None:
    """`quiet` returns when everything that can be closed is, and does not wait for what is held."""
    async with stage() as s:
        first, _ = s.load("1")
        second, _ = s.load("2")
        await settle()
        ref = second.loaded.account.acquire(USE)
        assert ref is not None
        s.world.durations["close m/1"] = 7.0
        began_s = trio.current_time()
        s.host.retire(first.loaded, "a reason")
        await s.host.quiet()
        assert trio.current_time() - began_s == 7.0
        assert s.cast.open() == ["m/2"]
        second.loaded.account.release(ref)


async def test_warming_holds_the_model_until_its_thread_is_done(autojump_clock: Any) -> None:
    """Warm-up data is a use like any other: it is counted, named, and keeps the model open."""
    async with stage() as s:
        waiting, _ = s.load()
        await settle()
        loaded = waiting.loaded
        s.world.durations["warm m/1"] = 4.0
        ended, told = closer()
        s.host.warm(loaded, ({"a": 1}, {"a": 2}), ended)
        assert [holder.kind for holder in loaded.account.holders(0.0)] == ["warmup"]
        s.host.retire(loaded, "a reason")
        await trio.sleep(3)
        assert s.cast.open() == ["m/1"]
        await trio.sleep(2)
        assert (s.cast.open(), s.cast.made[0].calls) == ([], [])
        assert "taken out of use after 0 of 2 requests" in str(told)
