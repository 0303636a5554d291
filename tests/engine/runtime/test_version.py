"""The version actor, one transition after the other: loading, warming up, draining and closing."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from changeover import Drain, DrainOutcome, Engine, VersionKey, VersionState
from changeover.errors import (
    AlreadyLoaded,
    LoadFailed,
    LoadTimeout,
    NotReady,
    VersionNotLoaded,
    WarmUpFailed,
)
from tests.support.models import Broken
from tests.support.rig import Outcome, Rig, Watch, running, settle

M1 = VersionKey("m", "1")


def state(rig: Rig, version: str = "1") -> str:
    """Return the state of a version, as `load_info` says it."""
    return rig.engine.load_info("m", version).status.value


def actor_runs(rig: Rig, version: str = "1") -> bool:
    """Return whether the version has a task."""
    known = rig.engine._versions.get(VersionKey("m", version))
    return known is not None and known.has_task


# --- loading --------------------------------------------------------------------------------------------------------


async def test_a_load_goes_through_loading_and_warming_to_ready(rig: Rig, autojump_clock: Any) -> None:
    """A version without warm-up data is ready when its loader has returned, and `load_info` knows all about it."""
    rig.add(memory=55)
    rig.takes("load m/1", 3.0)
    async with Watch(rig.engine) as watch:
        await rig.engine.load("m", "1")
        assert await watch.states("1") == ["loading", "warming", "ready"]
    info = rig.engine.load_info("m", "1")
    assert (info.model, info.version, info.is_loaded, info.status) == ("m", "1", True, VersionState.READY)
    assert (info.memory_bytes, info.memory_method, info.request_count, info.error) == (55, "model", 0, None)
    assert info.loaded_at == pytest.approx(1_700_000_003.0)


async def test_a_version_that_nobody_wants_has_no_task(rig: Rig, autojump_clock: Any) -> None:
    """A registered version costs no task; a loaded one has one, and an unloaded one has none again."""
    rig.add()
    assert (actor_runs(rig), state(rig)) == (False, "registered")
    await rig.engine.load("m", "1")
    assert actor_runs(rig)
    await rig.engine.unload("m", "1", force=True)
    await settle()
    assert (actor_runs(rig), state(rig)) == (False, "unloaded")


async def test_two_who_want_the_same_version_share_one_load(rig: Rig, autojump_clock: Any) -> None:
    """A call that finds the version loading joins it: one thread, one model, both return."""
    rig.add()
    rig.takes("load m/1", 5.0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(rig.engine.load, "m", "1")
        await trio.sleep(3)
        nursery.start_soon(rig.engine.ensure_loaded, "m", "1")
    assert trio.current_time() == 5.0
    assert len(rig.cast.made) == 1


async def test_joining_while_it_is_warmed_up_waits_for_the_same_end(rig: Rig, autojump_clock: Any) -> None:
    """A call that finds the version warming up joins it, too."""
    rig.add(warmup=[{}])
    rig.takes("warm m/1", 5.0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(rig.engine.load, "m", "1")
        await trio.sleep(3)
        assert state(rig) == "warming"
        await rig.engine.load("m", "1")
    assert (trio.current_time(), state(rig)) == (5.0, "ready")


async def test_a_loaded_version_is_not_loaded_again(rig: Rig, autojump_clock: Any) -> None:
    """`load` of a ready version raises `AlreadyLoaded`; `ensure_loaded` is content."""
    await rig.ready()
    with pytest.raises(AlreadyLoaded, match="m/1"):
        await rig.engine.load("m", "1")
    await rig.engine.ensure_loaded("m", "1")
    assert len(rig.cast.made) == 1


async def test_a_load_goes_on_while_one_of_two_still_waits(rig: Rig, autojump_clock: Any) -> None:
    """Cancelling one of two who wait for a load costs the other one nothing."""
    rig.add()
    rig.takes("load m/1", 5.0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(rig.engine.load, "m", "1")
        await settle()
        with trio.move_on_after(2) as scope:
            await rig.engine.load("m", "1")
        assert scope.cancelled_caught
    assert (trio.current_time(), state(rig)) == (5.0, "ready")


@pytest.mark.parametrize("work", ["load", "warm"])
async def test_a_load_that_nobody_waits_for_any_more_is_called_off(rig: Rig, work: str, autojump_clock: Any) -> None:
    """When the last waiter is cancelled the version is unloaded; what its thread brings is closed on arrival."""
    rig.add(warmup=[{}])
    rig.takes(f"{work} m/1", 5.0)
    with trio.move_on_after(2) as scope:
        await rig.engine.load("m", "1")
    await settle()
    assert scope.cancelled_caught
    info = rig.engine.load_info("m", "1")
    assert (info.status, info.is_loaded) == (VersionState.UNLOADED, False)
    assert "called off" in str(info.error)
    assert rig.engine.statistics().stuck_loads == 1
    await trio.sleep(10)
    assert (rig.cast.open(), rig.engine.statistics().stuck_loads) == ([], 0)
    assert rig.engine.statistics().reserved_bytes == 0


async def test_a_called_off_load_is_adopted_by_the_next_order(rig: Rig, autojump_clock: Any) -> None:
    """A new order for the same version takes over the thread that still runs, and is ready when that returns."""
    rig.add()
    rig.takes("load m/1", 5.0)
    with trio.move_on_after(2):
        await rig.engine.load("m", "1")
    await rig.engine.load("m", "1")
    assert (trio.current_time(), state(rig), len(rig.cast.made)) == (5.0, "ready", 1)


async def test_a_load_that_fails_says_why_and_can_be_tried_again(rig: Rig, autojump_clock: Any) -> None:
    """A failed version keeps its error for `load_info`, and a later load starts afresh."""
    rig.add(load_error=Broken("no weights"))
    with pytest.raises(LoadFailed, match=r"m/1.*no weights"):
        await rig.engine.load("m", "1")
    info = rig.engine.load_info("m", "1")
    assert (info.status, info.is_loaded) == (VersionState.FAILED, False)
    assert "no weights" in str(info.error)
    rig.script().load_error = None
    await rig.engine.load("m", "1")
    assert rig.engine.load_info("m", "1").error is None


async def test_everybody_who_waits_hears_that_a_load_failed(rig: Rig, autojump_clock: Any) -> None:
    """Joined loads fail together, each with an error of its own."""
    rig.add(load_error=Broken("no"))
    rig.takes("load m/1", 5.0)
    outcomes = [Outcome(rig.engine.load, "m", "1") for _ in range(3)]
    async with running(*outcomes):
        await trio.sleep(6)
    assert all(isinstance(outcome.error, LoadFailed) for outcome in outcomes)
    assert len({id(outcome.error) for outcome in outcomes}) == 3


async def test_a_load_that_takes_too_long_is_left_behind(rig: Rig, autojump_clock: Any) -> None:
    """At the time limit the caller gets `LoadTimeout`; the thread is named as stuck until it comes back."""
    rig.add(load_timeout_s=10.0)
    hang = trio.Event()
    rig.takes("load m/1", hang)
    with pytest.raises(LoadTimeout, match="m/1 was not ready within 10 s"):
        await rig.engine.load("m", "1")
    assert trio.current_time() == 10.0
    assert (state(rig), rig.engine.statistics().stuck_loads) == ("failed", 1)
    hang.set()
    await settle()
    assert (rig.cast.open(), rig.engine.statistics().stuck_loads) == ([], 0)


async def test_the_time_limit_is_for_loading_and_warming_up_together(rig: Rig, autojump_clock: Any) -> None:
    """Six seconds of loading and six of warming up are too long for a limit of ten."""
    rig.add(load_timeout_s=10.0, warmup=[{}])
    rig.takes("load m/1", 6.0)
    rig.takes("warm m/1", 6.0)
    with pytest.raises(LoadTimeout):
        await rig.engine.load("m", "1")
    assert (trio.current_time(), state(rig)) == (10.0, "failed")
    assert rig.cast.open() == ["m/1"]
    await trio.sleep(3)
    assert rig.cast.open() == []


async def test_a_warm_up_that_hangs_counts_as_a_stuck_load(rig: Rig, autojump_clock: Any) -> None:
    """A thread that hangs in the warm-up data is named and counted until it returns, as one that hangs in a load."""
    hang = trio.Event()
    rig.add(load_timeout_s=1.0, warmup=[{}])
    rig.takes("warm m/1", hang)
    with pytest.raises(LoadTimeout):
        await rig.engine.load("m", "1")
    assert rig.engine.statistics().stuck_loads == 1
    hang.set()
    await settle()
    assert rig.engine.statistics().stuck_loads == 0
    assert rig.cast.open() == []


async def test_a_load_in_time_is_not_disturbed_by_its_limit_later(rig: Rig, autojump_clock: Any) -> None:
    """The time limit of a load that came in time is forgotten."""
    await rig.ready(load_timeout_s=10.0)
    await trio.sleep(100)
    assert state(rig) == "ready"


# --- warming up -----------------------------------------------------------------------------------------------------


async def test_warm_up_data_runs_before_any_traffic(rig: Rig, autojump_clock: Any) -> None:
    """All warm-up data goes through the model, in order and under a reference, before a request can."""
    rig.add(warmup=[{"n": 1}, {"n": 2}])
    rig.takes("warm m/1", 5.0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(rig.engine.load, "m", "1")
        await trio.sleep(1)
        assert rig.engine.load_info("m", "1").is_warming_up
        assert [holder.kind for holder in rig.engine.who_holds("m", "1")] == ["warmup"]
        with pytest.raises(NotReady):
            await rig.engine.infer("m", {"n": 3})
    info = rig.engine.load_info("m", "1")
    assert (info.is_warming_up, info.warmed_at) == (False, pytest.approx(1_700_000_005.0))
    assert [call["n"] for call in rig.cast.made[0].calls] == [1, 2]


async def test_a_failed_warm_up_is_a_failed_load(rig: Rig, autojump_clock: Any) -> None:
    """The caller hears of it when the model is closed; it never saw traffic."""
    rig.add(warmup=[{}], raises=Broken("cold"))
    rig.takes("close m/1", 5.0)
    async with Watch(rig.engine) as watch:
        with pytest.raises(WarmUpFailed, match=r"m/1.*cold"):
            await rig.engine.load("m", "1")
        assert trio.current_time() == 5.0
        assert (rig.cast.open(), state(rig)) == ([], "failed")
        assert await watch.states("1") == ["loading", "warming", "unloading", "failed"]
        assert await watch.kinds("traffic_shifted") == []


async def test_a_model_that_gives_up_in_its_warm_up_failed_it(rig: Rig, autojump_clock: Any) -> None:
    """A fatal error on warm-up data is a failed warm-up: the version was not in service, so nothing is restarted."""
    rig.add(warmup=[{}], fatal_on=lambda _inputs: True)
    async with Watch(rig.engine) as watch:
        with pytest.raises(WarmUpFailed):
            await rig.engine.load("m", "1")
        await trio.sleep(100)
        assert (state(rig), rig.cast.open(), len(rig.cast.made)) == ("failed", [], 1)
        assert await watch.kinds("version_restarting") == []


async def test_warm_up_data_that_does_not_fit_is_a_failed_warm_up(rig: Rig, autojump_clock: Any) -> None:
    """Warm-up data is checked against the signature as requests are."""
    from tests.support.models import BATCHED

    rig.add(warmup=[{"nonsense": 1}], signature=BATCHED)
    with pytest.raises(WarmUpFailed, match="nonsense"):
        await rig.engine.load("m", "1")


async def test_a_waiter_who_leaves_while_a_failed_version_is_closed_changes_nothing(
    rig: Rig, autojump_clock: Any
) -> None:
    """Cancelled between the failed warm-up and the end of `close`, the version still ends as failed, once."""
    rig.add(warmup=[{}], raises=Broken("cold"))
    rig.takes("close m/1", 5.0)
    async with Watch(rig.engine) as watch:
        with trio.move_on_after(2) as scope:
            await rig.engine.load("m", "1")
        await trio.sleep(10)
        assert scope.cancelled_caught
        assert (state(rig), await watch.kinds("version_restarting")) == ("failed", [])
        assert "cold" in str(rig.engine.load_info("m", "1").error)


async def test_a_time_limit_that_ends_while_a_failed_version_is_closed_changes_nothing(
    rig: Rig, autojump_clock: Any
) -> None:
    """The failed warm-up is what the caller hears of, however long `close` takes."""
    rig.add(warmup=[{}], raises=Broken("cold"), load_timeout_s=2.0)
    rig.takes("close m/1", 5.0)
    with pytest.raises(WarmUpFailed, match="cold"):
        await rig.engine.load("m", "1")


async def test_warming_a_ready_version_again_leaves_its_state_alone(rig: Rig, autojump_clock: Any) -> None:
    """More warm-up data runs under a reference of its own, beside the traffic."""
    await rig.ready()
    rig.takes("warm m/1", 5.0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(rig.engine.warm_up, "m", "1", {"n": 1})
        await trio.sleep(1)
        info = rig.engine.load_info("m", "1")
        assert (info.status, info.is_warming_up, info.request_count) == (VersionState.READY, True, 1)
        assert (await rig.engine.infer("m", {"n": 2})).version == "1"
    assert rig.engine.load_info("m", "1").warmed_at == pytest.approx(1_700_000_005.0)
    assert [call["n"] for call in rig.cast.made[0].calls] == [2, 1]


async def test_a_second_warm_up_that_fails_is_told_to_its_caller_only(rig: Rig, autojump_clock: Any) -> None:
    """The version stays ready."""
    await rig.ready(fails_on=lambda inputs: "bad" in inputs)
    with pytest.raises(WarmUpFailed):
        await rig.engine.warm_up("m", "1", [{"good": 1}, {"bad": 1}])
    assert state(rig) == "ready"
    assert (await rig.engine.infer("m", {})).version == "1"


async def test_only_a_ready_version_is_warmed_up_again(rig: Rig, autojump_clock: Any) -> None:
    """A version that is not loaded, or on its way out, refuses warm-up data."""
    rig.add()
    with pytest.raises(VersionNotLoaded, match="m/1"):
        await rig.engine.warm_up("m", "1", {})
    await rig.engine.load("m", "1")
    lease = rig.lease()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: rig.engine.unload("m", "1", force=True))
        await settle()
        with pytest.raises(VersionNotLoaded, match="draining"):
            await rig.engine.warm_up("m", "1", {})
        lease.release()


# --- draining -------------------------------------------------------------------------------------------------------


async def test_a_version_that_nobody_holds_is_drained_at_once(rig: Rig, autojump_clock: Any) -> None:
    """An unload of an idle version closes it and says that it was drained."""
    await rig.ready()
    outcome = await rig.engine.unload("m", "1", force=True)
    assert outcome == DrainOutcome("drained", (), 0.0)
    assert (rig.cast.open(), rig.engine.loaded_versions("m")) == ([], ())


async def test_a_drain_waits_for_the_last_holder(rig: Rig, autojump_clock: Any) -> None:
    """No new reference is given out, and the model is closed when the last one has come back."""
    await rig.ready()
    first, second = rig.lease(), rig.lease()
    unload = Outcome(rig.engine.unload, "m", "1", force=True)
    async with running(unload):
        await trio.sleep(1)
        assert state(rig) == "draining"
        with pytest.raises(NotReady):
            rig.lease()
        first.release()
        await trio.sleep(1)
        assert (unload.over, first.version if unload.over else second.infer({})["version"]) == (False, "1")
        second.release()
    assert unload.value == DrainOutcome("drained", (), 2.0)


async def test_at_the_deadline_a_version_in_use_goes_into_quarantine(rig: Rig, autojump_clock: Any) -> None:
    """The outcome names who still holds it; it stays open and keeps its bytes until the last one leaves."""
    await rig.ready()
    await trio.sleep(1)
    lease = rig.lease()
    outcome = await rig.engine.unload("m", "1", drain=Drain(deadline_s=10.0), force=True)
    assert (outcome.result, outcome.duration_s) == ("quarantined", 10.0)
    assert [(holder.kind, holder.age_s) for holder in outcome.holders] == [("lease", 10.0)]
    assert (state(rig), rig.engine.is_loaded("m", "1"), rig.engine.statistics().reserved_bytes) == (
        "quarantined", True, 10,
    )  # fmt: skip
    assert lease.infer({})["version"] == "1"
    lease.release()
    await settle()
    assert (state(rig), rig.cast.open(), rig.engine.statistics().reserved_bytes) == ("unloaded", [], 0)


async def test_a_drain_that_waits_has_no_deadline(rig: Rig, autojump_clock: Any) -> None:
    """With `then="wait"` an hour is not too long."""
    await rig.ready()
    lease = rig.lease()
    unload = Outcome(rig.engine.unload, "m", "1", drain=Drain(deadline_s=1.0, then="wait"), force=True)
    async with running(unload):
        await trio.sleep(3600)
        assert (unload.over, state(rig)) == (False, "draining")
        lease.release()
    assert unload.value.result == "drained"


@pytest.mark.parametrize("attempt", range(5))
async def test_a_deadline_of_zero_quarantines_only_what_is_held(rig: Rig, attempt: int, autojump_clock: Any) -> None:
    """With no time at all an idle version is drained, and one in use goes into quarantine at once."""
    await rig.ready()
    assert (await rig.engine.unload("m", "1", drain=Drain(0), force=True)).result == "drained"
    await rig.engine.load("m", "1")
    lease = rig.lease()
    outcome = await rig.engine.unload("m", "1", drain=Drain(0), force=True)
    assert (outcome.result, len(outcome.holders), outcome.duration_s) == ("quarantined", 1, 0.0)
    lease.release()


async def test_a_second_unload_joins_the_first(rig: Rig, autojump_clock: Any) -> None:
    """Both hear how the one drain ended."""
    await rig.ready()
    lease = rig.lease()
    unloads = [Outcome(rig.engine.unload, "m", "1", force=True) for _ in range(2)]
    async with running(*unloads):
        await trio.sleep(1)
        lease.release()
    assert unloads[0].value == unloads[1].value
    assert rig.cast.made[0].closed == 1


async def test_who_is_in_more_of_a_hurry_brings_the_deadline_forward(rig: Rig, autojump_clock: Any) -> None:
    """A joined unload may shorten the drain for all, and never lengthens it."""
    await rig.ready()
    lease = rig.lease()
    unloads = [
        Outcome(rig.engine.unload, "m", "1", drain=Drain(deadline_s), force=True) for deadline_s in (20.0, 5.0, 60.0)
    ]
    async with running(*unloads):
        await trio.sleep(10)
    assert [unload.value.duration_s for unload in unloads] == [5.0] * 3
    lease.release()


async def test_an_unload_while_the_model_is_closed_joins_that(rig: Rig, autojump_clock: Any) -> None:
    """It returns when `close` has, and says that the version was drained."""
    await rig.ready()
    rig.takes("close m/1", 5.0)
    unloads = [Outcome(rig.engine.unload, "m", "1", force=True) for _ in range(2)]
    async with running(unloads[0]):
        await trio.sleep(2)
        assert state(rig) == "unloading"
        async with running(unloads[1]):
            await settle()
            assert not unloads[1].over
    assert [unload.value.result for unload in unloads] == ["drained", "drained"]


async def test_an_unload_that_takes_the_last_holder_out_of_quarantine_has_drained_it(
    rig: Rig, autojump_clock: Any
) -> None:
    """The only holder waits in the queue and is revoked: the unload tells of the close, and not of a quarantine."""
    await rig.ready(execution="worker")
    rig.takes("worker m/1 0", 20.0)
    asked = [Outcome(rig.engine.infer, "m", {}) for _ in range(2)]
    async with running(*asked):
        first = Outcome(rig.engine.unload, "m", "1", force=True, drain=Drain(0.5))
        async with running(first):
            pass
        assert first.value.result == "quarantined"
        rig.engine._host.living()[0].lane.halt()  # whoever is in the queue stays there
        await trio.sleep(20.0)
        (holder,) = rig.engine.who_holds("m", "1")
        second = Outcome(rig.engine.unload, "m", "1", force=True, drain=Drain(0.5, "cancel", 0.5))
        async with running(second):
            pass
    assert (second.value.result, second.value.holders) == ("drained", ()), (second.value, holder)
    assert not rig.engine.is_loaded("m", "1")


async def test_an_unload_of_a_quarantined_version_tells_who_holds_it(rig: Rig, autojump_clock: Any) -> None:
    """It does not wait: nothing more can be done before the last holder leaves."""
    await rig.ready()
    lease = rig.lease()
    await rig.engine.unload("m", "1", drain=Drain(0), force=True)
    outcome = await rig.engine.unload("m", "1", force=True)
    assert (outcome.result, len(outcome.holders)) == ("quarantined", 1)
    lease.release()


async def test_a_cancelled_unload_goes_on(rig: Rig, autojump_clock: Any) -> None:
    """Who ordered it may leave; the version is drained and closed all the same."""
    await rig.ready()
    lease = rig.lease()
    with trio.move_on_after(1):
        await rig.engine.unload("m", "1", force=True)
    assert state(rig) == "draining"
    lease.release()
    await settle()
    assert (state(rig), rig.cast.open()) == ("unloaded", [])


@pytest.mark.parametrize("deadline_s", [100.0, 0.0])
async def test_a_load_gives_a_leaving_version_back(rig: Rig, deadline_s: float, autojump_clock: Any) -> None:
    """Wanted again while it drains, or out of quarantine, it is ready at once, with the same model and its traffic."""
    await rig.ready()
    lease = rig.lease()
    unload = Outcome(rig.engine.unload, "m", "1", drain=Drain(deadline_s), force=True)
    async with running(unload):
        await trio.sleep(1)
        assert state(rig) == ("draining" if deadline_s else "quarantined")
        await rig.engine.load("m", "1")
    assert unload.value.result == ("given_back" if deadline_s else "quarantined")
    assert (state(rig), trio.current_time(), len(rig.cast.made)) == ("ready", 1.0, 1)
    assert (await rig.engine.infer("m", {})).version == "1"
    lease.release()
    await trio.sleep(200)
    assert (state(rig), rig.cast.open()) == ("ready", ["m/1"])


async def test_a_version_that_was_given_back_drains_like_any_other(rig: Rig, autojump_clock: Any) -> None:
    """The second drain is not ended by what the first one left: neither its zero nor its deadline."""
    await rig.ready(execution="worker")
    first = rig.lease()
    async with running(Outcome(rig.engine.unload, "m", "1", drain=Drain(5.0), force=True)):
        await trio.sleep(1)
        await rig.engine.load("m", "1")
    assert (await rig.engine.infer("m", {})).version == "1"
    second = rig.lease()
    unload = Outcome(rig.engine.unload, "m", "1", drain=Drain(100.0), force=True)
    async with running(unload):
        first.release()
        await trio.sleep(50)
        assert (unload.over, state(rig)) == (False, "draining")
        second.release()
    assert unload.value.result == "drained"


async def test_a_load_while_the_old_model_is_closed_waits_and_loads_afresh(rig: Rig, autojump_clock: Any) -> None:
    """There are never two models of one version at once for no reason: the load begins when `close` has returned."""
    await rig.ready()
    rig.takes("close m/1", 5.0)
    async with running(Outcome(rig.engine.unload, "m", "1", force=True)):
        await trio.sleep(1)
        await rig.engine.load("m", "1")
    assert (trio.current_time(), state(rig)) == (5.0, "ready")
    assert [made.closed for made in rig.cast.made] == [1, 0]


async def test_a_load_that_waits_for_a_close_can_be_called_off(rig: Rig, autojump_clock: Any) -> None:
    """Cancelled before `close` has returned, it never begins."""
    await rig.ready()
    rig.takes("close m/1", 5.0)
    async with running(Outcome(rig.engine.unload, "m", "1", force=True)):
        with trio.move_on_after(1):
            await rig.engine.load("m", "1")
    await trio.sleep(10)
    assert (state(rig), len(rig.cast.made)) == ("unloaded", 1)


async def test_a_load_behind_a_close_that_hangs_ends_at_its_time_limit(rig: Rig, autojump_clock: Any) -> None:
    """The time limit of a load begins with the order, also where the version must be closed first."""
    hang = trio.Event()
    await rig.ready(load_timeout_s=5.0)
    rig.takes("close m/1", hang)
    async with running(Outcome(rig.engine.unload, "m", "1", force=True)):
        await settle()
        with trio.fail_after(100), pytest.raises(LoadTimeout):
            await rig.engine.load("m", "1")
        hang.set()


async def test_a_close_that_raises_is_still_the_end(rig: Rig, autojump_clock: Any) -> None:
    """The unload returns, the version is unloaded, and an event tells of the error."""
    await rig.ready(close_error=Broken("close"))
    async with Watch(rig.engine) as watch:
        assert (await rig.engine.unload("m", "1", force=True)).result == "drained"
        assert state(rig) == "unloaded"
        (error,) = await watch.kinds("close_failed", "error")
        assert "Broken: close" in error


async def test_what_is_not_loaded_cannot_be_unloaded(rig: Rig, engine: Engine, autojump_clock: Any) -> None:
    """Registered, failed, unloaded: each is refused with its state."""
    rig.add(load_error=Broken("no"))
    with pytest.raises(VersionNotLoaded, match=r"m/1.*registered"):
        await engine.unload("m", "1")
    with pytest.raises(LoadFailed):
        await engine.load("m", "1")
    with pytest.raises(VersionNotLoaded, match=r"m/1.*failed"):
        await engine.unload("m", "1")
    rig.script("m", "1").load_error = None
    await engine.load("m", "1")
    await engine.unload("m", "1", force=True)
    with pytest.raises(VersionNotLoaded, match=r"m/1.*unloaded"):
        await engine.unload("m", "1")
