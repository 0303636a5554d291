"""Memory: idle versions go to make room, stay routed, and come back when somebody asks for them."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import trio

from changeover import Drain, Engine, Shift, VersionKey, VersionState
from changeover.errors import (
    Evicted,
    LastVersion,
    LoadCancelled,
    LoadFailed,
    NotReady,
    OverBudget,
    RequestTimeout,
    VersionNotLoaded,
)
from changeover.runtime.orders import CalledOff, DrainOrder, LoadOrder
from tests.support.models import Broken
from tests.support.rig import Outcome, Rig, Watch, open_rig, running, settle


async def three(rig: Rig, **fields: Any) -> None:
    """Register models a, b and c of 40 bytes each; 100 are there, so two of them fit."""
    for model in "abc":
        rig.add(model, "1", memory=40, memory_hint_bytes=40, **fields)


def state(rig: Rig, model: str, version: str = "1") -> str:
    """Return the state of a version as its status says."""
    return rig.engine.load_info(model, version).status.value


# --- who goes -------------------------------------------------------------------------------------------------------


async def test_the_least_recently_used_goes(autojump_clock: Any) -> None:
    """Of the idle ones the one goes that was asked for longest ago; a request, a lease and a load are uses."""
    async with open_rig(memory_budget_bytes=100) as rig:
        await three(rig)
        await rig.engine.load("a", "1")
        await trio.sleep(1)
        await rig.engine.load("b", "1")
        await trio.sleep(1)
        await rig.engine.infer("a", {})
        await rig.engine.load("c", "1")
        assert [state(rig, model) for model in "abc"] == ["ready", "evicted", "ready"]
        await trio.sleep(1)
        with rig.engine.lease("a"):
            pass
        await rig.engine.infer("b", {})
        assert [state(rig, model) for model in "abc"] == ["ready", "ready", "evicted"]
        assert rig.engine.statistics().reserved_bytes == 80


async def test_what_is_held_stays(autojump_clock: Any) -> None:
    """A version with a lease, a stream, a queued request or a warm-up is not idle: the load is refused instead."""
    async with open_rig(memory_budget_bytes=100) as rig:
        await three(rig)
        await rig.engine.load("a", "1")
        await rig.engine.load("b", "1")
        with rig.engine.lease("a"):
            async with rig.engine.infer_stream("b", {}):
                with pytest.raises(OverBudget, match=r"c/1 needs 40 bytes.*80"):
                    await rig.engine.load("c", "1")
        assert [state(rig, model) for model in "abc"] == ["ready", "ready", "failed"]
        assert rig.engine.statistics().reserved_bytes == 80


async def test_what_is_pinned_stays(autojump_clock: Any) -> None:
    """A pinned version never goes, however long nobody asked for it."""
    async with open_rig(memory_budget_bytes=100) as rig:
        rig.add("a", "1", memory=40, memory_hint_bytes=40, pinned=True)
        rig.add("b", "1", memory=40, memory_hint_bytes=40)
        rig.add("c", "1", memory=40, memory_hint_bytes=40)
        for model in "abc":
            await rig.engine.load(model, "1")
            await trio.sleep(1)
        assert [state(rig, model) for model in "abc"] == ["ready", "evicted", "ready"]


async def test_nobody_goes_for_what_will_never_fit(autojump_clock: Any) -> None:
    """A version larger than the whole budget is refused, reserves nothing, and evicts nobody."""
    async with open_rig(memory_budget_bytes=100) as rig:
        await three(rig)
        await rig.engine.load("a", "1")
        rig.add("huge", "1", memory_hint_bytes=101)
        with pytest.raises(OverBudget):
            await rig.engine.load("huge", "1")
        assert (state(rig, "a"), rig.engine.statistics().reserved_bytes) == ("ready", 40)


async def test_a_model_that_turns_out_larger_makes_room_or_goes(autojump_clock: Any) -> None:
    """Measured above its hint, a model evicts idle ones for the difference; where that is not enough it is closed."""
    async with open_rig(memory_budget_bytes=100) as rig:
        await three(rig)
        await rig.engine.load("a", "1")
        rig.add("b", "2", memory=90, memory_hint_bytes=10)
        await rig.engine.load("b", "2")
        assert (state(rig, "a"), state(rig, "b", "2")) == ("evicted", "ready")
        assert rig.engine.statistics().reserved_bytes == 90
        rig.add("b", "3", memory=20, memory_hint_bytes=5)
        with rig.engine.lease("b"), pytest.raises(OverBudget):
            await rig.engine.load("b", "3")
        assert rig.engine.statistics().reserved_bytes == 90


async def test_two_that_need_half_each_load_side_by_side(autojump_clock: Any) -> None:
    """Two loads of half the budget run at once, and neither waits for the other."""
    async with open_rig(memory_budget_bytes=100) as rig:
        for model in "ab":
            rig.add(model, "1", memory=50, memory_hint_bytes=50)
            rig.takes(f"load {model}/1", 10.0)
        async with trio.open_nursery() as nursery:
            for model in "ab":
                nursery.start_soon(rig.engine.load, model, "1")
        assert trio.current_time() == 10.0


async def test_who_takes_part_in_a_swap_stays(autojump_clock: Any) -> None:
    """Neither the old nor the new version of a swap goes before its pivot, though nobody uses them."""
    async with open_rig(memory_budget_bytes=100) as rig:
        for version in "12":
            rig.add("m", version, memory=40, memory_hint_bytes=40)
        rig.add("c", "1", memory=40, memory_hint_bytes=40)
        await rig.engine.load("m", "1")
        swap_id = rig.engine.start_swap("m", "2", plan=Shift.at_once(confirm_s=100.0, guard=None))
        await trio.sleep(10)
        with pytest.raises(OverBudget):
            await rig.engine.load("c", "1")
        assert (state(rig, "m", "1"), state(rig, "m", "2")) == ("ready", "ready")
        await rig.engine.wait_for_swap(swap_id)
        await rig.engine.load("c", "1")


# --- waiting for room -----------------------------------------------------------------------------------------------


async def test_a_load_waits_for_what_is_being_closed(autojump_clock: Any) -> None:
    """Bytes that are on their way back count as room to come: the load begins when the close has ended."""
    async with open_rig(memory_budget_bytes=100) as rig:
        await three(rig)
        rig.takes("close a/1", 5.0)
        await rig.engine.load("a", "1")
        await rig.engine.load("b", "1")
        async with running(Outcome(rig.engine.unload, "a", "1", force=True)):
            await trio.sleep(1)
            with rig.engine.lease("b"):
                await rig.engine.load("c", "1")
        assert trio.current_time() == 5.0
        assert state(rig, "c") == "ready"


async def test_a_load_waits_for_a_drain_and_hears_of_its_quarantine(autojump_clock: Any) -> None:
    """A version that is drained is on its way out; in quarantine it is not, and then there is no room."""
    async with open_rig(memory_budget_bytes=100) as rig:
        await three(rig)
        await rig.engine.load("a", "1")
        await rig.engine.load("b", "1")
        with rig.engine.lease("a"), rig.engine.lease("b"):
            unload = Outcome(rig.engine.unload, "a", "1", force=True, drain=Drain(5.0))
            load = Outcome(rig.engine.load, "c", "1")
            async with running(unload), running(load):
                await trio.sleep(4.9)
                assert (load.over, state(rig, "c")) == (False, "loading")
                await trio.sleep(0.2)
                assert isinstance(load.error, OverBudget)


async def test_who_came_first_is_served_first(autojump_clock: Any) -> None:
    """Loads that wait for room get it in the order in which they came, also where a later one would fit sooner."""
    async with open_rig(memory_budget_bytes=100) as rig:
        for model, size, close_s in (("a", 40, 5.0), ("d", 40, 8.0), ("b", 60, 0.0), ("c", 40, 0.0)):
            rig.add(model, "1", memory=size, memory_hint_bytes=size)
            rig.takes(f"close {model}/1", close_s)
        for model in "ad":
            await rig.engine.load(model, "1")
        unloads = [Outcome(rig.engine.unload, model, "1", force=True) for model in "ad"]
        async with running(*unloads), trio.open_nursery() as nursery:
            await settle()
            for model in "bc":
                nursery.start_soon(rig.engine.load, model, "1")
                await settle()
            await trio.sleep(5.1)
            assert (state(rig, "b"), state(rig, "c")) == ("ready", "loading")
            lease = rig.lease("b")
        assert (state(rig, "c"), trio.current_time()) == ("ready", 8.0)
        lease.release()


async def test_a_load_that_is_called_off_in_the_line_leaves_nothing(autojump_clock: Any) -> None:
    """Cancelled, or out of time, while it waits for room, a load leaves no job, no zombie and no bytes."""
    async with open_rig(memory_budget_bytes=40) as rig:
        await three(rig, load_timeout_s=3.0)
        rig.takes("close a/1", 5.0)
        await rig.engine.load("a", "1")
        b = Outcome(rig.engine.load, "b", "1")
        async with running(b):
            await settle()
            with trio.move_on_after(1.0):
                await rig.engine.load("c", "1")
            await trio.sleep(2.5)
            assert isinstance(b.error, LoadFailed)
            assert (rig.engine.statistics().stuck_loads, rig.engine._host.jobs) == (0, {})
        await trio.sleep(5)
        await rig.engine.load("c", "1")
        assert rig.engine.statistics().reserved_bytes == 40


# --- an evicted version ---------------------------------------------------------------------------------------------


async def evicted(rig: Rig, **fields: Any) -> None:
    """Have model a evicted by model b, both of 40 bytes in a budget of 60."""
    for model in "ab":
        rig.add(model, "1", memory=40, memory_hint_bytes=40, **fields)
        await rig.engine.load(model, "1")
    assert state(rig, "a") == "evicted"


async def test_an_evicted_version_keeps_its_traffic(autojump_clock: Any) -> None:
    """It is active still, holds no model, and its events say what happened in the order of its life."""
    async with open_rig(memory_budget_bytes=60) as rig, Watch(rig.engine) as watch:
        await evicted(rig)
        assert (rig.engine.is_active("a", "1"), rig.engine.is_loaded("a", "1")) == (True, False)
        assert rig.engine.loaded_versions("a") == ()
        life = ["loading", "warming", "ready", "draining", "unloading", "evicted"]
        assert await watch.states("1", "a") == life
        await rig.engine.infer("a", {})
        assert await watch.states("1", "a") == [*life, "loading", "warming", "ready"]
        assert await watch.kinds("traffic_shifted", "to") == ["1", "1"]


@pytest.mark.parametrize("execution", ["inline", "worker"])
async def test_a_request_waits_for_the_reload(execution: str, autojump_clock: Any) -> None:
    """`infer` answers once the version is there again; all that wait share one load."""
    async with open_rig(memory_budget_bytes=60) as rig:
        await evicted(rig, execution=execution)
        rig.takes("load a/1", 5.0)
        asks = [Outcome(rig.engine.infer, "a", {"n": n}, version=v) for n in range(3) for v in (None, "1")]
        async with running(*asks):
            await trio.sleep(4.9)
            assert not any(ask.over for ask in asks)
        assert {ask.value.version for ask in asks} == {"1"}
        assert len(rig.cast.of("a", "1")) == 2
        assert rig.engine.audit().clean
        assert state(rig, "b") == "evicted"


async def test_a_stream_and_an_async_lease_wait_too(autojump_clock: Any) -> None:
    """Both are entered when the version is there again."""
    async with open_rig(memory_budget_bytes=60) as rig:
        await evicted(rig)
        rig.takes("load a/1", 5.0)
        async with rig.engine.infer_stream("a", {"n": 1}) as chunks:
            assert trio.current_time() == 5.0
            assert [chunk.version async for chunk in chunks] == ["1"]
        await rig.engine.infer("b", {})
        async with rig.engine.lease("a") as lease:
            assert (lease.version, trio.current_time()) == ("1", 10.0)


async def test_a_synchronous_lease_is_refused_and_orders_the_reload(autojump_clock: Any) -> None:
    """It raises the retryable `NotReady` at once; soon afterwards the version is there."""
    async with open_rig(memory_budget_bytes=60) as rig:
        await evicted(rig)
        rig.takes("load a/1", 5.0)
        for _ in range(3):
            with pytest.raises(NotReady, match="a/1 was evicted") as raised:
                rig.engine.lease("a").__enter__()
            assert isinstance(raised.value, Evicted)
            assert raised.value.retryable
        with pytest.raises(Evicted):
            rig.engine.references.acquire("a", "1", "request")
        await trio.sleep(5.1)
        with rig.engine.lease("a") as lease:
            assert lease.version == "1"
        assert len(rig.cast.of("a", "1")) == 2


async def test_a_request_out_of_time_leaves_the_reload_to_others(autojump_clock: Any) -> None:
    """`timeout_s` goes on over the wait, an async lease has its `wait_s`; nothing is held afterwards."""
    async with open_rig(memory_budget_bytes=60) as rig:
        await evicted(rig)
        rig.takes("load a/1", 5.0)
        with pytest.raises(RequestTimeout, match="a was not loaded again within 2 s") as raised:
            await rig.engine.infer("a", {}, timeout_s=2.0)
        assert (raised.value.ran, trio.current_time()) == ("no", 2.0)
        with pytest.raises(NotReady):
            async with rig.engine.lease("a", wait_s=1.0):
                pass
        assert rig.engine.audit().clean
        reply = await rig.engine.infer("a", {}, timeout_s=30.0)
        assert reply.version == "1"


async def test_a_reload_without_room_is_put_off(autojump_clock: Any) -> None:
    """Where everything else is in use the request hears `NotReady`; the version stays evicted and comes back later."""
    async with open_rig(memory_budget_bytes=60) as rig:
        await evicted(rig)
        with rig.engine.lease("b"):
            with pytest.raises(NotReady, match="a/1 was awaited and is not coming: a/1 needs 40 bytes"):
                await rig.engine.infer("a", {})
            assert (state(rig, "a"), rig.engine.is_active("a", "1")) == ("evicted", True)
        assert (await rig.engine.infer("a", {})).version == "1"


async def test_a_reload_that_fails_lets_the_traffic_go(autojump_clock: Any) -> None:
    """A version that cannot be loaded again is FAILED and loses its traffic to another one of its model."""
    async with open_rig(memory_budget_bytes=100) as rig:
        for version in "12":
            rig.add("a", version, memory=40, memory_hint_bytes=40)
            await rig.engine.load("a", version)
        rig.add("b", "1", memory=40, memory_hint_bytes=40)
        with rig.engine.lease("a", version="2"):
            await rig.engine.load("b", "1")
        assert (state(rig, "a", "1"), rig.engine.is_active("a", "1")) == ("evicted", True)
        rig.script("a", "1").load_error = Broken("gone")
        with pytest.raises(NotReady, match="gone"):
            await rig.engine.infer("a", {})
        assert (state(rig, "a", "1"), rig.engine.is_active("a", "2")) == ("failed", True)
        assert (await rig.engine.infer("a", {})).version == "2"


async def test_a_reload_that_nobody_waits_for_any_more_is_put_off(autojump_clock: Any) -> None:
    """`load` ordered and cancelled: the version is evicted as before, and still has its traffic."""
    async with open_rig(memory_budget_bytes=60) as rig:
        await evicted(rig)
        rig.takes("load a/1", 5.0)
        with trio.move_on_after(1.0):
            await rig.engine.load("a", "1")
        await settle()
        assert (state(rig, "a"), rig.engine.is_active("a", "1")) == ("evicted", True)
        await trio.sleep(10)
        assert rig.engine.statistics().reserved_bytes == 0 + (40 if state(rig, "b") == "ready" else 0)
        assert (await rig.engine.infer("a", {})).version == "1"


async def test_an_evicted_version_can_be_unloaded(autojump_clock: Any) -> None:
    """It gives its traffic up; without `force` the last one of its model does not."""
    async with open_rig(memory_budget_bytes=60) as rig:
        await evicted(rig)
        with pytest.raises(LastVersion):
            await rig.engine.unload("a", "1")
        outcome = await rig.engine.unload("a", "1", force=True)
        assert (outcome.result, state(rig, "a"), rig.engine.is_active("a", "1")) == ("drained", "unloaded", False)
        with pytest.raises(NotReady, match="no version that takes requests"):
            await rig.engine.infer("a", {})


async def test_an_unload_ends_a_reload(autojump_clock: Any) -> None:
    """The newest order wins: who waited for the reload hears that it was called off."""
    async with open_rig(memory_budget_bytes=60) as rig:
        await evicted(rig)
        rig.takes("load a/1", 5.0)
        load, ask = Outcome(rig.engine.load, "a", "1"), Outcome(rig.engine.infer, "a", {})
        async with running(load, ask):
            await trio.sleep(1)
            await rig.engine.unload("a", "1", force=True)
        assert isinstance(load.error, LoadCancelled)
        assert isinstance(ask.error, NotReady)
        assert (state(rig, "a"), rig.engine.is_active("a", "1")) == ("unloaded", False)


@pytest.mark.parametrize("way", ["with", "wait"])
async def test_who_asks_behind_an_unload_does_not_call_it_off(way: str, autojump_clock: Any) -> None:
    """A drain that is ordered stands: who finds it in the mailbox is refused, and brings nothing back."""
    async with open_rig(memory_budget_bytes=60) as rig:
        await evicted(rig)
        order, lease = DrainOrder(Drain(0.0), calls_off_load=True), rig.engine.lease("a")
        rig.engine._version(VersionKey("a", "1")).post(order)
        with pytest.raises(NotReady) as caught:
            lease.__enter__() if way == "with" else await rig.engine._until_ready("a", "1")
        assert type(caught.value) is NotReady  # and not `Evicted`, which says that it is being loaded again
        await order.closed.wait()
        await settle()
        assert (state(rig, "a"), rig.engine.is_active("a", "1"), state(rig, "b")) == ("unloaded", False, "ready")


@pytest.mark.parametrize("way", ["infer", "with", "async with"])
async def test_a_request_behind_an_unload_that_waits_for_a_close_does_not_call_it_off(
    way: str, autojump_clock: Any
) -> None:
    """The unload of what is being evicted comes behind the close; who asks meanwhile brings nothing back."""
    async with open_rig(memory_budget_bytes=60) as rig:
        await three(rig)
        await rig.engine.load("a", "1")
        rig.takes("close a/1", 5.0)
        unload = Outcome(rig.engine.unload, "a", "1", force=True)
        async with running(Outcome(rig.engine.load, "b", "1"), unload):
            lease = rig.engine.lease("a")
            asks = {"infer": partial(rig.engine.infer, "a", {}), "async with": lease.__aenter__}
            with pytest.raises(NotReady) as caught:
                lease.__enter__() if way == "with" else await asks[way]()
            assert type(caught.value) is NotReady
        await trio.sleep(10)
        assert (state(rig, "a"), rig.engine.is_active("a", "1"), state(rig, "b")) == ("unloaded", False, "ready")
        assert unload.value.result == "drained"


async def test_an_evicted_version_is_swapped_away(autojump_clock: Any) -> None:
    """A swap from an evicted version moves the traffic at once, loads the old one no more, and unloads nothing."""
    async with open_rig(memory_budget_bytes=60) as rig:
        await evicted(rig)
        rig.add("a", "2", memory=40, memory_hint_bytes=40)
        operation = await rig.engine.swap("a", "2")
        assert (operation.old_unloaded, rig.engine.is_active("a", "2"), state(rig, "a")) == (True, True, "unloaded")
        assert len(rig.cast.of("a", "1")) == 1


async def test_a_trial_brings_an_evicted_version_back(autojump_clock: Any) -> None:
    """A canary compares two versions, so the old one is loaded again before the ramp; both fit, or the swap fails."""
    async with open_rig(memory_budget_bytes=90) as rig:
        rig.add("a", "1", memory=40, memory_hint_bytes=40)
        await rig.engine.load("a", "1")
        rig.add("b", "1", memory=60, memory_hint_bytes=60)
        await rig.engine.load("b", "1")
        assert state(rig, "a") == "evicted"
        rig.add("a", "2", memory=40, memory_hint_bytes=40)
        plan = Shift.canary([(0.5, 5.0)], confirm_s=0.0, guard=None)
        operation = await rig.engine.swap("a", "2", plan=plan)
        assert operation.old_unloaded
        assert len(rig.cast.of("a", "1")) == 2
        assert state(rig, "b") == "evicted"


async def test_a_use_in_the_moment_of_the_eviction_wins(autojump_clock: Any) -> None:
    """Asked for between the order and the look, a version is not evicted, and its workers serve on, one of each."""
    async with open_rig(memory_budget_bytes=60) as rig:
        rig.add("a", "1", memory=40, memory_hint_bytes=40, execution="worker")
        await rig.engine.load("a", "1")
        rig.add("b", "1", memory=40, memory_hint_bytes=40)
        load = Outcome(rig.engine.load, "b", "1")
        version = rig.engine._versions[VersionKey("a", "1")]
        loaded = version.loaded
        assert loaded is not None
        evict, lease = loaded.on_evict, rig.engine.lease("a")
        assert evict is not None

        def ordered() -> None:
            lease.__enter__()
            evict()

        loaded.on_evict = ordered
        async with running(load):
            await settle()
        assert isinstance(load.error, OverBudget)
        assert version.state is VersionState.READY
        assert rig.engine.is_active("a", "1")
        assert [name for name in version._nursery.child_tasks if "work" in name.name] != []
        assert len([task for task in version._nursery.child_tasks if "work" in task.name]) == 1
        lease.release()
        assert (await rig.engine.infer("a", {})).version == "1"


async def test_an_unload_of_what_is_being_evicted_comes_behind_it(autojump_clock: Any) -> None:
    """Ordered while the evicted model is closed, the unload takes the traffic away when that has ended."""
    async with open_rig(memory_budget_bytes=60) as rig:
        for model in "ab":
            rig.add(model, "1", memory=40, memory_hint_bytes=40)
        rig.takes("close a/1", 5.0)
        await rig.engine.load("a", "1")
        load = Outcome(rig.engine.load, "b", "1")
        async with running(load):
            await trio.sleep(1)
            assert state(rig, "a") == "unloading"
            outcome = await rig.engine.unload("a", "1", force=True)
            assert (outcome.result, trio.current_time()) == ("drained", 5.0)
        assert (state(rig, "a"), rig.engine.is_active("a", "1")) == ("unloaded", False)
        with pytest.raises(VersionNotLoaded):
            rig.engine.lease("a", version="1").__enter__()


async def test_an_engine_closes_with_evicted_versions(autojump_clock: Any) -> None:
    """Nothing is reloaded, and nobody waits, when the engine ends; who waits for a reload then hears of it."""
    async with open_rig(memory_budget_bytes=60) as rig:
        await evicted(rig)
        engine: Engine = rig.engine
        rig.takes("load a/1", 5.0)
        with trio.move_on_after(1.0):
            await engine.infer("a", {})
    assert len(rig.cast.of("a", "1")) <= 2
    assert all(made.closed == 1 for made in rig.cast.made)


async def test_a_load_called_off_in_the_moment_in_which_it_arrives_is_in_nobodys_way(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: Any
) -> None:
    """What it brought counts as leaving though nobody has read of it yet: who asks anew waits for its bytes."""
    async with open_rig(memory_budget_bytes=60) as rig:
        rig.add(memory=40, memory_hint_bytes=40)
        host, arrived, again = rig.engine._host, rig.engine._host._ended, LoadOrder()

        def arrives(*args: Any) -> None:
            monkeypatch.undo()
            version = rig.engine._versions[VersionKey("m", "1")]
            assert version._loading is not None
            version.post(CalledOff(version._loading.orders[0]))
            version.post(again)
            arrived(*args)

        monkeypatch.setattr(host, "_ended", arrives)
        with pytest.raises(LoadCancelled):
            await rig.engine.load("m", "1")
        await again.ready.wait()
        assert [made.closed for made in rig.cast.made] == [1, 0]
        assert rig.engine.statistics().reserved_bytes == 40
