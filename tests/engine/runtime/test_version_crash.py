"""The version actor when something breaks: crashes, restarts, giving up, and the end of the engine in every state."""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import Any

import pytest
import trio

from changeover import Drain
from changeover.errors import (
    ChangeoverError,
    EngineClosed,
    LoadFailed,
    NotReady,
    VersionCrashed,
    VersionNotLoaded,
)
from changeover.runtime.version import Version
from changeover_sim import open_world
from tests.support.models import Broken
from tests.support.rig import Outcome, Rig, Watch, open_rig, running, settle, until, until_ready_again
from tests.support.threads import Crowd


def poison(inputs: Any) -> bool:
    """Return whether a request is the one that kills the model."""
    return "poison" in inputs


async def crash(rig: Rig, model: str = "m", version: str = "1") -> None:
    """Let a version's model declare itself beyond use."""
    with pytest.raises(VersionCrashed) as caught:
        await rig.engine.infer(model, {"poison": 1}, version=version)
    assert caught.value.ran == "yes"
    await settle()


def state(rig: Rig, version: str = "1") -> str:
    """Return the state of a version, as `load_info` says it."""
    return rig.engine.load_info("m", version).status.value


# --- crash and restart ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("execution", ["inline", "worker"])
async def test_a_model_that_declares_itself_beyond_use_is_loaded_afresh(
    rig: Rig, execution: Any, autojump_clock: Any
) -> None:
    """After a fatal error the old model is closed, and after a delay a new one serves."""
    await rig.ready(fatal_on=poison, execution=execution)
    async with Watch(rig.engine) as watch:
        await crash(rig)
        assert (state(rig), rig.cast.made[0].closed) == ("failed", 1)
        with pytest.raises(NotReady):
            await rig.engine.infer("m", {})
        await trio.sleep(1)
        assert (await rig.engine.infer("m", {})).version == "1"
        assert await watch.states("1") == ["failed", "loading", "warming", "ready"]
        (delay_s,) = await watch.kinds("version_restarting", "delay_s")
        (error,) = await watch.kinds("version_restarting", "error")
    assert 0.08 <= delay_s <= 0.12
    assert "beyond use" in error
    assert rig.engine.statistics().children_restarted == 1


async def test_a_raising_predict_is_no_crash(rig: Rig, autojump_clock: Any) -> None:
    """A model may fail as many requests as it likes; it stays loaded and its errors are counted."""
    await rig.ready(fails_on=poison)
    for _ in range(20):
        with pytest.raises(ChangeoverError, match="cannot answer"):
            await rig.engine.infer("m", {"poison": 1})
    await settle()
    counts = next(iter(rig.engine.statistics().versions.values()))
    assert (state(rig), counts.errors, counts.predictions) == ("ready", 20, 0)
    assert rig.engine.statistics().children_restarted == 0


async def test_a_crash_does_not_close_the_model_under_who_holds_it(rig: Rig, autojump_clock: Any) -> None:
    """A lease outlives the crash of its version; the crashed model is closed when the lease ends."""
    await rig.ready(fatal_on=poison)
    lease = rig.lease()
    await crash(rig)
    await trio.sleep(10)
    assert (state(rig), [made.closed for made in rig.cast.made]) == ("ready", [0, 0])
    assert lease.infer({})["version"] == "1"
    lease.release()
    await settle()
    assert [made.closed for made in rig.cast.made] == [1, 0]


async def test_a_crash_that_is_declared_in_another_thread_is_heard() -> None:
    """A fatal error in a lease on a plain thread restarts the version."""
    async with open_rig(real=True) as rig:
        await rig.ready(fatal_on=poison)
        async with rig.engine.events() as events:
            lease = rig.lease()
            with pytest.raises(VersionCrashed):
                await trio.to_thread.run_sync(lease.infer, {"poison": 1})
            lease.release()
            async for event in events:
                if getattr(event, "detail", {}).get("state") == "ready":
                    break
        assert [made.closed for made in rig.cast.made] == [1, 0]


async def test_queued_requests_of_a_crashed_version_did_not_run(rig: Rig, autojump_clock: Any) -> None:
    """Those that no worker has taken get their outcome at once, and it says that they never ran."""
    await rig.ready(fatal_on=poison, execution="worker")
    rig.takes("worker m/1 0", 2.0)
    first = Outcome(rig.engine.infer, "m", {"poison": 1})
    queued = [Outcome(rig.engine.infer, "m", {"n": n}) for n in range(5)]
    async with running(first, *queued):
        await trio.sleep(2.01)
        waited = [outcome for outcome in queued if outcome.over]
    assert isinstance(first.error, VersionCrashed)
    assert first.error.ran == "yes"
    assert len(waited) >= 4  # one may be in the worker's hands already
    assert [(type(o.error), getattr(o.error, "ran", None)) for o in waited] == [(VersionCrashed, "no")] * len(waited)
    assert len([call for call in rig.cast.made[0].calls if "n" in call]) == 5 - len(waited)


async def test_the_traffic_of_a_crashed_version_goes_to_another_one(rig: Rig, autojump_clock: Any) -> None:
    """Where a model has another ready version, its requests are answered all the while."""
    await rig.ready(version="1", fatal_on=poison)
    await rig.ready(version="2")
    await crash(rig)
    assert (await rig.engine.infer("m", {})).version == "2"
    await trio.sleep(10)
    assert rig.engine.loaded_versions("m") == ("1", "2")
    assert rig.engine.is_active("m", "2")


async def test_a_version_that_keeps_crashing_is_given_up(rig: Rig, autojump_clock: Any) -> None:
    """After five restarts within a minute it is failed for good, and an event says that no restart comes."""
    await rig.ready(fatal_on=poison)
    async with Watch(rig.engine) as watch:
        for _ in range(6):
            await crash(rig)
            await trio.sleep(2.5)
        delays = await watch.kinds("version_restarting", "delay_s")
    assert [delay is None for delay in delays] == [False] * 5 + [True]
    await trio.sleep(1_000)
    assert (state(rig), rig.cast.open()) == ("failed", [])
    with pytest.raises(NotReady):
        await rig.engine.infer("m", {})
    await rig.engine.load("m", "1")
    assert (await rig.engine.infer("m", {})).version == "1"


async def test_a_restart_whose_load_fails_is_tried_again(rig: Rig, autojump_clock: Any) -> None:
    """A version that was in service is not given up because one reload failed."""
    await rig.ready(fatal_on=poison)
    rig.script().load_error = Broken("not yet")
    await crash(rig)
    await trio.sleep(0.2)
    assert state(rig) == "failed"
    rig.script().load_error = None
    await trio.sleep(5)
    assert state(rig) == "ready"


async def test_a_restart_whose_loads_all_fail_ends_as_failed(rig: Rig, autojump_clock: Any) -> None:
    """The tries are bounded, and `load_info` has the last reason."""
    await rig.ready(fatal_on=poison)
    rig.script().load_error = Broken("never again")
    await crash(rig)
    await trio.sleep(1_000)
    assert state(rig) == "failed"
    assert "never again" in str(rig.engine.load_info("m", "1").error)
    assert rig.engine.statistics().children_restarted == 5


async def test_a_failed_first_load_is_not_tried_again(rig: Rig, autojump_clock: Any) -> None:
    """Only what was in service is restarted."""
    rig.add(load_error=Broken("no"))
    with pytest.raises(LoadFailed):
        await rig.engine.load("m", "1")
    await trio.sleep(100)
    assert rig.engine.statistics().children_restarted == 0


async def test_a_load_while_a_version_waits_for_its_restart_joins_it(rig: Rig, autojump_clock: Any) -> None:
    """Whoever wants a version that is about to be restarted gets the restarted one; there are no two loads."""
    await rig.ready(fatal_on=poison)
    await crash(rig)
    await rig.engine.ensure_loaded("m", "1")
    assert (await rig.engine.infer("m", {})).version == "1"
    assert len(rig.cast.made) == 2


async def test_who_stops_to_wait_for_a_restart_does_not_harm_it(rig: Rig, autojump_clock: Any) -> None:
    """An impatient lease or load during the delay is no further crash; the restart comes in its own time."""
    await rig.ready(fatal_on=poison)
    await crash(rig)
    for _ in range(10):
        with pytest.raises(NotReady):
            await rig.engine.lease("m", wait_s=0.0001).__aenter__()
        with trio.move_on_after(0.0001):
            await rig.engine.load("m", "1")
    await trio.sleep(5)
    assert (state(rig), rig.engine.statistics().children_restarted, len(rig.cast.made)) == ("ready", 1, 2)


async def test_an_unload_calls_off_a_pending_restart(rig: Rig, autojump_clock: Any) -> None:
    """A version that is unloaded while it waits for its restart does not come back by itself."""
    await rig.ready(fatal_on=poison)
    await crash(rig)
    with suppress(VersionNotLoaded):
        await rig.engine.unload("m", "1", force=True)
    await trio.sleep(100)
    assert (rig.engine.loaded_versions("m"), rig.cast.open()) == ((), [])


async def test_a_crash_ends_a_drain(rig: Rig, autojump_clock: Any) -> None:
    """A version that crashes on its way out is out: it is not restarted, and its unload has an outcome."""
    await rig.ready(fatal_on=poison)
    lease = rig.lease()
    unload = Outcome(rig.engine.unload, "m", "1", force=True)
    async with running(unload):
        with pytest.raises(VersionCrashed):
            lease.infer({"poison": 1})
        await settle()
        assert unload.over
        lease.release()
    await trio.sleep(100)
    assert (state(rig), rig.cast.open(), rig.engine.statistics().children_restarted) == ("failed", [], 0)


async def test_a_crash_in_quarantine_closes_the_model_when_its_holder_leaves(rig: Rig, autojump_clock: Any) -> None:
    """It is not closed under the holder, and not restarted."""
    await rig.ready(fatal_on=poison)
    lease = rig.lease()
    await rig.engine.unload("m", "1", drain=Drain(0), force=True)
    with pytest.raises(VersionCrashed):
        lease.infer({"poison": 1})
    await settle()
    assert (state(rig), rig.cast.open()) == ("failed", ["m/1"])
    lease.release()
    await trio.sleep(100)
    assert (state(rig), rig.cast.open()) == ("failed", [])


async def test_an_actor_that_fails_is_a_crash_of_its_version_only(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, autojump_clock: Any
) -> None:
    """A bug in the actor itself restarts this version; the order gets an error, and other versions do not notice."""
    await rig.ready(version="1")
    await rig.ready("other", "1")

    def broken(self: Version, order: Any) -> None:
        raise Broken("a bug")

    monkeypatch.setattr(Version, "_on_drain", broken)
    with pytest.raises(VersionCrashed, match="a bug"), trio.fail_after(10):
        await rig.engine.unload("m", "1", force=True)
    monkeypatch.undo()
    await trio.sleep(1)
    assert state(rig) == "ready"
    assert len(rig.cast.of("other", "1")) == 1
    assert [made.closed for made in rig.cast.of("m", "1")] == [1, 0]


async def test_a_worker_thread_that_fails_is_a_crash_of_its_version(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, autojump_clock: Any
) -> None:
    """A version whose worker is gone does not sit there with a queue that nobody serves: it is started again."""
    await rig.ready(execution="worker")
    lane = rig.engine._host.living()[0].lane

    def next_step(now: float) -> Any:
        raise Broken("the worker's thread")

    monkeypatch.setattr(lane, "next_step", next_step)
    asked = Outcome(rig.engine.infer, "m", {})
    async with running(asked):
        await trio.sleep(5)
    assert isinstance(asked.error, VersionCrashed)
    assert (await rig.engine.infer("m", {})).version == "1"
    assert [made.closed for made in rig.cast.made] == [1, 0]


# --- reports that come too late -------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["load", "warm", "close", "lease", "fatal"])
async def test_what_comes_back_after_the_engine_was_closed_does_no_harm(how: str, autojump_clock: Any) -> None:
    """A thread or a lease that outlives its engine ends in peace, and what it held is closed."""
    late = trio.Event()
    async with open_world() as world:
        async with open_rig(world=world, close_timeout_s=1.0) as rig:
            rig.add(warmup=[{}] if how == "warm" else [], fatal_on=poison)
            rig.takes(f"{how} m/1", late)
            with trio.move_on_after(1):
                await rig.engine.load("m", "1")
            lease = rig.lease() if how in ("lease", "fatal") else None
        late.set()
        if how == "fatal":
            with pytest.raises(VersionCrashed):
                lease.infer({"poison": 1})
        if lease is not None:
            assert rig.cast.open() == ["m/1"]
            lease.release()
        await trio.sleep(10)
        assert len(rig.cast.made) == 1
        assert rig.cast.open() == []


# --- the end of the engine ------------------------------------------------------------------------------------------


async def orders_of(rig: Rig, phase: str, hang: trio.Event) -> list[Outcome]:
    """Bring m/1 into a phase of its life and return orders that will wait there."""
    engine = rig.engine
    load, unload = Outcome(engine.load, "m", "1"), Outcome(engine.unload, "m", "1", force=True)
    rig.takes(f"{phase} m/1", hang)
    if phase in ("load", "warm"):
        rig.add(warmup=[{}])
        return [load, Outcome(engine.load, "m", "1")]
    await rig.ready(fatal_on=poison)
    if phase == "close":
        return [unload, load]
    if phase == "drain":
        rig.kept.append(rig.lease())
        return [unload]
    await crash(rig)
    return [load, Outcome(engine.load, "m", "1")]


@pytest.mark.parametrize("phase", ["load", "warm", "drain", "close", "backoff"])
async def test_no_order_stays_unanswered_when_the_engine_is_closed(phase: str, autojump_clock: Any) -> None:
    """In whatever state a version is when its engine is closed: who waits for it elsewhere hears of it."""
    hang = trio.Event()
    async with open_world() as world, trio.open_nursery() as nursery:
        async with open_rig(world=world, close_timeout_s=2.0) as rig:
            orders = await orders_of(rig, phase, hang)
            for order in orders:
                nursery.start_soon(order.run)
                await settle()
            assert not any(order.over for order in orders)
        with trio.move_on_after(100):
            await until(lambda: all(order.over for order in orders))
        assert [order.over for order in orders] == [True] * len(orders)
        hang.set()
        for lease in rig.kept:
            lease.release()
        await settle()
        nursery.cancel_scope.cancel()
    assert all(order.error is None or isinstance(order.error, EngineClosed) for order in orders)


async def test_a_closed_engine_leaves_nothing_open_that_nobody_holds(autojump_clock: Any) -> None:
    """Ready, draining, in quarantine: every model is closed behind the engine, and every version is at rest."""
    async with open_rig(close_timeout_s=3.0) as rig:
        for version in "123":
            await rig.ready(version=version)
        first, second = rig.lease(version="2"), rig.lease(version="3")
        await rig.engine.unload("m", "2", drain=Drain(0))
        with trio.move_on_after(1):
            await rig.engine.unload("m", "3", drain=Drain(100.0))
        assert [state(rig, version) for version in "123"] == ["ready", "quarantined", "draining"]
        first.release()
        second.release()
    assert rig.cast.open() == []
    assert {state(rig, version) for version in "123"} == {"unloaded"}


async def test_crashes_from_many_threads_are_one_crash() -> None:
    """Twenty threads that declare the same model beyond use at once cost one restart."""
    async with open_rig(real=True) as rig:
        await rig.ready(raises=None, fatal_on=poison)
        crowd, ready = Crowd(), threading.Barrier(20)

        def ask() -> None:
            with rig.engine.lease("m") as lease:
                ready.wait()
                with pytest.raises(VersionCrashed):
                    lease.infer({"poison": 1})

        for _ in range(20):
            crowd.add(ask)
        await until_ready_again(rig, crowd)
        assert rig.engine.statistics().children_restarted == 1
        assert len(rig.cast.made) == 2
