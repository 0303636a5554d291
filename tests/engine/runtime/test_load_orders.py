"""Orders that cross: loads and unloads of one version, sources that are away, versions that are forgotten."""

from __future__ import annotations

import errno
from typing import Any

import pytest
import trio

from changeover import Balance, Drain, VersionKey
from changeover.errors import (
    AlreadyRegistered,
    LoadCancelled,
    LoadFailed,
    LoadTimeout,
    ModelNotRegistered,
    NotReady,
    SourceUnavailable,
    SwapFailed,
    VersionInUse,
    VersionNotLoaded,
)
from changeover.plugin import SourceAway
from changeover.runtime.orders import DrainOrder, LoadOrder
from tests.support.models import Broken
from tests.support.rig import Outcome, Rig, Watch, open_rig, running, settle


def state(rig: Rig, version: str = "1") -> str:
    """Return the state of a version of m as its status says."""
    return rig.engine.load_info("m", version).status.value


# --- unload during load, load during unload -------------------------------------------------------------------------


@pytest.mark.parametrize("stage", ["load", "warm"])
async def test_an_unload_calls_a_running_load_off(rig: Rig, stage: str, autojump_clock: Any) -> None:
    """Everybody who waits for it hears `LoadCancelled`; what the thread brings is closed; the unload ends at once."""
    rig.add(warmup={"n": 0})
    rig.takes(f"{stage} m/1", 10.0)
    loads = [Outcome(rig.engine.load, "m", "1"), Outcome(rig.engine.ensure_loaded, "m", "1")]
    async with running(*loads), Watch(rig.engine) as watch:
        await trio.sleep(1)
        outcome = await rig.engine.unload("m", "1")
        assert (outcome.result, trio.current_time(), state(rig)) == ("drained", 1.0, "unloaded")
        await settle()
        assert {type(load.error) for load in loads} == {LoadCancelled}
        await trio.sleep(20)
        assert [made.closed for made in rig.cast.made] == [1]
        assert (await watch.states("1"))[-1] == "unloaded"
    assert rig.engine.statistics().reserved_bytes == 0
    await rig.engine.load("m", "1")
    assert rig.engine.is_loaded("m", "1")


async def test_a_load_during_an_unload_comes_behind_it(rig: Rig, autojump_clock: Any) -> None:
    """The old model is closed first, and then the version is loaded afresh."""
    await rig.ready()
    rig.takes("close m/1", 5.0)
    async with running(Outcome(rig.engine.unload, "m", "1", force=True)):
        await trio.sleep(1)
        await rig.engine.load("m", "1")
    assert (trio.current_time(), state(rig), len(rig.cast.made)) == (5.0, "ready", 2)


async def test_the_newest_of_three_orders_wins(rig: Rig, autojump_clock: Any) -> None:
    """Unload, load and unload again while the model is closed: the load hears that it was called off."""
    await rig.ready()
    rig.takes("close m/1", 5.0)
    unload, load = Outcome(rig.engine.unload, "m", "1", force=True), Outcome(rig.engine.load, "m", "1")
    async with running(unload):
        await trio.sleep(1)
        async with running(load):
            await trio.sleep(1)
            await rig.engine.unload("m", "1")
    assert isinstance(load.error, LoadCancelled)
    assert (trio.current_time(), state(rig), len(rig.cast.made)) == (5.0, "unloaded", 1)


async def test_a_request_that_waits_for_a_load_does_not_call_a_later_unload_off(rig: Rig, autojump_clock: Any) -> None:
    """A drain, a load that calls it off and a second drain are ordered: who waits for the version changes nothing."""
    await rig.ready()
    version = rig.engine._version(VersionKey("m", "1"))
    with rig.engine.lease("m"):
        first, load, second = (DrainOrder(Drain(5.0)), LoadOrder(), DrainOrder(Drain(5.0, "wait")))
        version.post(first)
        await settle()
        version.post(load)
        version.post(second)
        with pytest.raises(NotReady):  # what a request does that finds nobody; itself it has a checkpoint before
            await rig.engine._until_ready("m", None)
        await load.ready.wait()
        assert state(rig) == "draining"
    assert (await first.outcome.wait()).result == "given_back"
    assert (await second.outcome.wait()).result == "drained"
    await second.closed.wait()
    assert (state(rig), len(rig.cast.made)) == ("unloaded", 1)


async def test_a_swap_whose_load_is_shared_leaves_the_load_to_others(rig: Rig, autojump_clock: Any) -> None:
    """A swap that is undone during its load does not end the load of somebody else who wants the version, too."""
    await rig.ready()
    rig.add(version="2")
    rig.takes("load m/2", 5.0)
    swap_id = rig.engine.start_swap("m", "2")
    await settle()
    load = Outcome(rig.engine.load, "m", "2")
    async with running(load):
        await trio.sleep(1)
        rig.engine.abort(swap_id)
    assert load.error is None
    assert (state(rig, "2"), rig.engine.is_active("m", "1")) == ("ready", True)


# --- sources that are away ------------------------------------------------------------------------------------------

AWAY = [SourceAway("later"), ConnectionResetError(), TimeoutError("slow"), OSError(errno.ESTALE, "stale handle")]


@pytest.mark.parametrize("error", AWAY, ids=lambda error: type(error).__name__)
async def test_a_source_that_is_away_is_tried_again(rig: Rig, error: Exception, autojump_clock: Any) -> None:
    """With pauses that double, as an event each, until it is there; the state is LOADING throughout."""
    rig.add(load_error=error)
    load = Outcome(rig.engine.load, "m", "1")
    async with Watch(rig.engine) as watch, running(load):
        await trio.sleep(1.0)
        assert state(rig) == "loading"
        rig.script().load_error = None
    assert load.error is None
    assert await watch.kinds("load_retrying", "attempt") == [1, 2]
    first_s, second_s = await watch.kinds("load_retrying", "delay_s")
    assert 0.4 <= first_s <= 0.6
    assert 0.8 <= second_s <= 1.2
    assert state(rig) == "ready"


async def test_tries_are_bounded(rig: Rig, autojump_clock: Any) -> None:
    """After `load_retries` more tries the load fails with an error that may be retried, and leaves nothing."""
    rig.add(load_error=SourceAway("the disk is away"), load_retries=2)
    async with Watch(rig.engine) as watch:
        with pytest.raises(
            SourceUnavailable, match=r"m/1 was not loaded by 'scripted': SourceAway: the disk"
        ) as raised:
            await rig.engine.load("m", "1")
        assert raised.value.retryable
        assert len(await watch.kinds("load_retrying")) == 2
    assert (state(rig), rig.engine.statistics().reserved_bytes) == ("failed", 0)


async def test_what_is_broken_is_not_tried_again(rig: Rig, autojump_clock: Any) -> None:
    """An error that says nothing of the kind fails the load at once."""
    for number, error in enumerate([Broken("no"), FileNotFoundError("gone"), OSError(errno.ENOSPC, "full")]):
        rig.add(version=str(number), load_error=error)
        with pytest.raises(LoadFailed):
            await rig.engine.load("m", str(number))
    assert trio.current_time() == 0


async def test_the_time_limit_goes_over_all_tries(rig: Rig, autojump_clock: Any) -> None:
    """A load that is tried again and again is late when the version's `load_timeout_s` is over."""
    rig.add(load_error=SourceAway(), load_retries=100, load_timeout_s=10.0)
    with pytest.raises(LoadTimeout):
        await rig.engine.load("m", "1")
    assert (trio.current_time(), state(rig)) == (10.0, "failed")
    assert rig.engine.statistics().stuck_loads == 0
    await trio.sleep(100)
    assert len([made for made in rig.cast.made if not made.closed]) == 0


async def test_a_load_is_called_off_between_two_tries(rig: Rig, autojump_clock: Any) -> None:
    """Cancelled, or overtaken by an unload, it is not tried again."""
    rig.add(load_error=SourceAway())
    with trio.move_on_after(0.1):
        await rig.engine.load("m", "1")
    await settle()
    assert state(rig) == "unloaded"
    load = Outcome(rig.engine.load, "m", "1")
    async with running(load):
        await trio.sleep(0.1)
        await rig.engine.unload("m", "1")
    assert isinstance(load.error, LoadCancelled)
    rig.script().load_error = None
    await trio.sleep(100)
    assert (rig.cast.made, state(rig)) == ([], "unloaded")


async def test_a_swap_waits_for_a_source_that_is_away(rig: Rig, autojump_clock: Any) -> None:
    """The old version serves meanwhile; when the tries are over the swap has failed."""
    await rig.ready()
    rig.add(version="2", load_error=SourceAway(), load_retries=1)
    with pytest.raises(SwapFailed) as raised:
        await rig.engine.swap("m", "2")
    assert isinstance(raised.value.__cause__, SourceUnavailable)
    assert rig.engine.is_active("m", "1")


# --- versions that are forgotten ------------------------------------------------------------------------------------


async def test_a_version_that_is_not_loaded_can_be_forgotten(rig: Rig, autojump_clock: Any) -> None:
    """Its name is free for another source; it is told as an event."""
    rig.add()
    with pytest.raises(AlreadyRegistered):
        rig.add()
    async with Watch(rig.engine) as watch:
        await rig.engine.unregister("m", "1")
        assert len(await watch.kinds("version_unregistered")) == 1
    with pytest.raises(ModelNotRegistered):
        await rig.engine.load("m", "1")
    with pytest.raises(ModelNotRegistered):
        await rig.engine.unregister("m", "1")
    rig.add(source="another")
    await rig.engine.load("m", "1")
    assert rig.engine.statistics().registered == 1


async def test_a_version_in_use_cannot_be_forgotten(rig: Rig, autojump_clock: Any) -> None:
    """Loading, ready, draining: each is refused with its state, and nothing changes."""
    rig.add()
    rig.takes("load m/1", 5.0)
    async with running(Outcome(rig.engine.load, "m", "1")):
        await settle()
        with pytest.raises(VersionInUse, match=r"m/1 is loading"):
            await rig.engine.unregister("m", "1")
    with pytest.raises(VersionInUse, match=r"m/1 is ready; use await engine\.unload"):
        await rig.engine.unregister("m", "1")
    lease = rig.lease()
    async with running(Outcome(rig.engine.unload, "m", "1", force=True)):
        await settle()
        with pytest.raises(VersionInUse, match="draining"):
            await rig.engine.unregister("m", "1")
        lease.release()


async def test_a_version_registered_anew_while_its_old_instance_is_held(rig: Rig, autojump_clock: Any) -> None:
    """In quarantine it is forgotten, registered and loaded anew; the old model is closed when its holder leaves."""
    await rig.ready()
    old = rig.lease()
    unload = Outcome(rig.engine.unload, "m", "1", force=True, drain=Drain(1.0))
    async with running(unload):
        await trio.sleep(2)
    assert unload.value.result == "quarantined"
    await rig.engine.unregister("m", "1")
    rig.add(source="another")
    await rig.engine.load("m", "1")
    (first, second) = rig.cast.made
    with rig.engine.lease("m") as lease:
        assert lease.model is second
        assert old.model is first
        assert len(rig.engine.who_holds("m", "1")) == 2
    assert first.closed == 0
    old.release()
    await settle()
    assert (first.closed, second.closed) == (1, 0)
    assert rig.engine.audit().balances[VersionKey("m", "1")] == Balance(2, 2, 0)
    assert (await rig.engine.infer("m", {})).version == "1"


async def test_a_forgotten_version_and_its_namesake_have_tasks_of_their_own(rig: Rig, autojump_clock: Any) -> None:
    """Loaded in the very moment in which its old self is forgotten, the new one is not lost in the old mailbox."""
    await rig.ready()
    held = rig.lease()
    await rig.engine.unload("m", "1", force=True, drain=Drain(0.0))
    rig.takes("close m/1", 5.0)
    await rig.engine.unregister("m", "1")
    rig.add(source="another")
    load = Outcome(rig.engine.load, "m", "1")
    async with running(load):
        held.release()
    assert load.error is None
    await trio.sleep(10)
    assert [made.closed for made in rig.cast.made] == [1, 0]


async def test_an_evicted_version_is_in_use(autojump_clock: Any) -> None:
    """It has traffic, so it is unloaded before it is forgotten."""
    async with open_rig(memory_budget_bytes=60) as rig:
        for version in "12":
            rig.add("m", version, memory=40, memory_hint_bytes=40)
            await rig.engine.load("m", version)
        with pytest.raises(VersionInUse, match="evicted"):
            await rig.engine.unregister("m", "1")
        await rig.engine.unload("m", "1")
        await rig.engine.unregister("m", "1")
        assert (await rig.engine.infer("m", {})).version == "2"
        with pytest.raises(ModelNotRegistered):
            rig.engine.load_info("m", "1")


async def test_a_load_that_comes_while_a_version_is_forgotten_wins_or_is_refused(rig: Rig, autojump_clock: Any) -> None:
    """Whichever is first: never a version that is loaded and not registered."""
    rig.add()
    load, forget = Outcome(rig.engine.load, "m", "1"), Outcome(rig.engine.unregister, "m", "1")
    async with running(forget, load):
        pass
    if load.error is None:
        assert isinstance(forget.error, VersionInUse)
        assert rig.engine.is_loaded("m", "1")
    else:
        assert isinstance(load.error, ModelNotRegistered | VersionNotLoaded)
