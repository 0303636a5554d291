"""A ramp that is watched: what trips its guard, what holds it, and what becomes of it when a version crashes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import trio

from changeover import Guard, Shift, SwapState
from changeover.errors import NotReady, SwapFailed, SwapRolledBack, VersionCrashed
from tests.support.canary import asking, check_quiet, check_undone, serving, two
from tests.support.models import Broken
from tests.support.rig import Outcome, Rig, Watch, running, settle, until

RAMP = Shift.canary([(0.5, 5.0)], confirm_s=5.0)


def every(nth: int) -> Callable[[Any], bool]:
    """Return a condition that holds for every n-th request that it is asked about."""
    asked = iter(range(1, 1_000_000))
    return lambda _inputs: next(asked) % nth == 0


async def crash(rig: Rig, version: str) -> None:
    """End a version by a request that names it."""
    with pytest.raises(VersionCrashed):
        await rig.engine.infer("m", {"poison": version}, version=version)
    await settle()


# --- the guard ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("execution", ["inline", "worker"])
@pytest.mark.parametrize("plan", [RAMP, Shift.at_once(confirm_s=10.0)])
async def test_a_version_that_fails_is_taken_back(rig: Rig, plan: Shift, execution: str, autojump_clock: Any) -> None:
    """The swap rolls itself back and says why; the old version serves, the new one is closed, no client saw a thing."""
    await two(rig, execution, fails_on=lambda _inputs: True)
    async with Watch(rig.engine) as watch, asking(rig) as clients:
        with pytest.raises(SwapRolledBack, match="the guard has tripped: 20 of 20 requests failed") as caught:
            await rig.engine.swap("m", "2", plan=plan)
        await settle()
        operation = caught.value.operation
        told = await watch.kinds("guard_tripped")
    assert (operation.state, operation.guard.new.requests, operation.guard.new.errors) == (
        SwapState.ROLLED_BACK,
        20,
        20,
    )
    assert (operation.guard.old.errors, operation.fallbacks) == (0, 20)
    assert operation.guard.reason in (operation.error_message or "")
    assert [step.outcome for step in operation.steps] == ["done", "done", "done", "failed"]
    assert [(event.version, event.swap_id, event.detail["reason"]) for event in told] == [
        ("2", operation.id, operation.guard.reason)
    ]
    assert told[0].detail["new"] == {"requests": 20, "errors": 20, "latency_s": None}
    assert clients.errors == []
    await check_undone(rig, operation)


async def test_the_traffic_is_back_when_the_guard_has_tripped(rig: Rig, autojump_clock: Any) -> None:
    """In the very step of the verdict; the unload of the new version may take its time behind it."""
    await two(rig, fails_on=lambda _inputs: True)
    rig.takes("close m/2", 20.0)
    async with asking(rig) as clients:
        swap = Outcome(rig.engine.swap, "m", "2", plan=RAMP)
        async with running(swap):
            await until(lambda: rig.engine.swaps("m")[0].guard is not None)
            tripped_s, status = trio.current_time(), rig.engine.swaps("m")[0]
            assert (status.share, status.state) == (0.0, SwapState.ROLLING_BACK)
    assert isinstance(swap.error, SwapRolledBack)
    assert swap.ended_s > tripped_s + 19.0
    assert len(rig.cast.of("m", "2")[0].calls) == 20
    assert set(clients.versions()) == {"1"}


async def test_a_version_that_is_slow_is_taken_back(rig: Rig, autojump_clock: Any) -> None:
    """Ten times the latency of the old version, though every answer is right."""
    await two(rig, "worker")
    rig.takes("worker m/1 0", 0.004)
    rig.takes("worker m/2 0", 0.040)
    async with asking(rig, keys=[None] * 3) as clients:
        with pytest.raises(SwapRolledBack, match="the 95% latency is") as caught:
            await rig.engine.swap("m", "2", plan=RAMP)
        await settle()
    verdict = caught.value.operation.guard
    assert verdict.new.errors == 0
    assert verdict.new.latency_s >= 0.04 > 10 * 0.004 - 1e-9
    assert 0.004 <= verdict.old.latency_s < 0.02
    assert clients.errors == []
    await check_undone(rig, caught.value.operation)


async def test_in_the_confirmation_the_new_version_is_compared_with_what_the_old_one_was(
    rig: Rig, autojump_clock: Any
) -> None:
    """With all of the traffic on the new version the old one's last requests are what it is measured by."""
    await two(rig, "worker", fails_on=lambda _inputs: trio.current_time() > 6.0)
    rig.takes("worker m/1 0", 0.001)
    async with asking(rig) as clients:
        with pytest.raises(SwapRolledBack, match="requests failed") as caught:
            await rig.engine.swap("m", "2", plan=RAMP)
        assert 6.0 < trio.current_time() < 9.0
        assert caught.value.operation.guard.old.requests > 20
        await settle()
    assert clients.errors == []
    await check_undone(rig, caught.value.operation)


async def test_without_a_guard_nothing_is_taken_back(rig: Rig, autojump_clock: Any) -> None:
    """`guard=None`: the swap completes, and until its pivot the old version answers what the new one fails on."""
    await two(rig, fails_on=lambda _inputs: True)
    plan = Shift.canary([(0.5, 5.0)], confirm_s=5.0, guard=None)
    async with asking(rig) as clients:
        operation = await rig.engine.swap("m", "2", plan=plan)
        assert clients.errors == []
    assert (operation.state, operation.guard) == (SwapState.COMPLETED, None)
    assert operation.fallbacks == sum(seen.fell_back for seen in clients.seen) > 100


async def test_a_version_that_fails_as_often_as_the_old_one_goes_through(rig: Rig, autojump_clock: Any) -> None:
    """Both fail on every tenth request: the new one is no worse."""
    await two(rig, fails_on=every(10))
    rig.script("m", "1").fails_on = every(10)
    async with asking(rig, 0.01):
        operation = await rig.engine.swap("m", "2", plan=RAMP)
    assert operation.state is SwapState.COMPLETED


async def test_a_doubt_holds_the_ramp_until_it_is_gone(rig: Rig, autojump_clock: Any) -> None:
    """Three early failures are no proof; the stage is held until they have left the window, then it goes on."""
    failures = iter([True] * 3)
    await two(rig, fails_on=lambda _inputs: next(failures, False))
    async with asking(rig, 0.1) as clients:
        swap = Outcome(rig.engine.swap, "m", "2", plan=RAMP)
        async with running(swap):
            await trio.sleep(9.5)
            assert rig.engine.swaps("m")[0].share == 0.5
    assert (swap.value.state, swap.value.fallbacks) == (SwapState.COMPLETED, 3)
    assert 15.0 < swap.ended_s < 16.5
    assert clients.errors == []


async def test_a_pause_does_not_stop_the_guard(rig: Rig, autojump_clock: Any) -> None:
    """While the ramp stands still, a version that begins to fail is taken back."""
    await two(rig, fails_on=lambda _inputs: trio.current_time() > 100.0)
    async with asking(rig) as clients:
        swap = Outcome(rig.engine.swap, "m", "2", plan=RAMP)
        async with running(swap):
            await trio.sleep(1.0)
            rig.engine.pause(rig.engine.swaps("m")[0].id)
    assert isinstance(swap.error, SwapRolledBack)
    assert 100.0 < swap.ended_s < 105.0
    assert clients.errors == []


async def test_a_guard_needs_as_many_requests_as_it_was_told(rig: Rig, autojump_clock: Any) -> None:
    """With `min_samples=200` a version that always fails is on trial for two hundred requests."""
    await two(rig, fails_on=lambda _inputs: True)
    plan = Shift.canary([(0.5, 60.0)], guard=Guard(min_samples=200))
    async with asking(rig, 0.02):
        with pytest.raises(SwapRolledBack) as caught:
            await rig.engine.swap("m", "2", plan=plan)
    assert caught.value.operation.guard.new.requests == 200


async def test_requests_for_a_named_version_say_nothing(rig: Rig, autojump_clock: Any) -> None:
    """Who asks for the new version by name gets its errors, and they are not counted against it."""
    await two(rig, fails_on=lambda inputs: "bad" in inputs)
    swap = Outcome(rig.engine.swap, "m", "2", plan=RAMP)
    async with running(swap):
        for _ in range(50):
            asked = Outcome(rig.engine.infer, "m", {"bad": 1}, version="2")
            await asked.run()
            assert asked.error is not None
        assert rig.engine.swaps("m")[0].fallbacks == 0
    assert (swap.value.state, swap.ended_s) == (SwapState.COMPLETED, 10.0)


@pytest.mark.parametrize("named", [False, True])
async def test_leases_are_counted_where_the_traffic_chose_the_version(
    rig: Rig, named: bool, autojump_clock: Any
) -> None:
    """A lease that got the version on trial is measured like a request; one that named it is not."""
    await two(rig, fails_on=lambda _inputs: True)
    swap = Outcome(rig.engine.swap, "m", "2", plan=Shift.at_once(confirm_s=10.0))
    async with running(swap):
        for _ in range(25):
            with rig.engine.lease("m", version="2" if named else None) as lease:
                lease_fails = Outcome(_infer, lease)
                await lease_fails.run()
    assert (swap.error is None) is named


async def _infer(lease: Any) -> None:
    """Ask a lease."""
    lease.infer({})


# --- crashes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("execution", ["inline", "worker"])
@pytest.mark.parametrize("at_s", [1.0, 7.0])
async def test_a_new_version_that_crashes_on_trial_is_given_up(
    rig: Rig, at_s: float, execution: str, autojump_clock: Any
) -> None:
    """In its stage and in its confirmation: the old version has the traffic in the same moment, the swap fails."""
    await two(rig, execution)
    async with asking(rig) as clients:
        swap = Outcome(rig.engine.swap, "m", "2", plan=RAMP)
        async with running(swap):
            await trio.sleep(at_s)
            await crash(rig, "2")
            assert rig.engine.is_active("m", "1")
        await trio.sleep(60.0)
    assert isinstance(swap.error, SwapFailed)
    assert isinstance(swap.error.__cause__, NotReady)
    assert "m/2 stopped taking requests while it was on trial" in str(swap.error)
    assert "beyond use" in str(swap.error)
    assert clients.errors == []
    assert set(clients.versions(at_s + 0.1)) == {"1"}
    await check_undone(rig, swap.error.operation)


@pytest.mark.parametrize("at_s", [1.0, 7.0])
async def test_a_stage_waits_while_the_old_version_is_down(rig: Rig, at_s: float, autojump_clock: Any) -> None:
    """The new version has everything then; when the old one is back, the stage goes on with its share and its rest."""
    await two(rig)
    async with asking(rig) as clients:
        swap = Outcome(rig.engine.swap, "m", "2", plan=RAMP)
        async with running(swap):
            await trio.sleep(at_s)
            rig.takes("load m/1", 50.0)
            await crash(rig, "1")
            before = 0.5 if at_s < 5.0 else 1.0
            await trio.sleep(40.0)
            status = rig.engine.swaps("m")[0]
            assert (status.share, status.state) == (1.0, SwapState.TRANSITIONING)
            await until(lambda: rig.engine.is_loaded("m", "1"))
            await settle()
            assert rig.engine.swaps("m")[0].share == before
            back_s = trio.current_time()
    assert swap.value.state is SwapState.COMPLETED
    assert swap.ended_s == pytest.approx(back_s + 10.0 - at_s, abs=0.2)
    assert clients.errors == []
    assert rig.engine.loaded_versions("m") == ("2",)
    check_quiet(rig)


async def test_an_old_version_that_is_down_for_good_ends_the_trial(rig: Rig, autojump_clock: Any) -> None:
    """There is nothing to compare with and nothing to go back to: the swap goes through."""
    await two(rig)
    async with asking(rig) as clients:
        swap = Outcome(rig.engine.swap, "m", "2", plan=Shift.canary([(0.1, 100_000.0)]))
        with trio.fail_after(60.0):
            async with running(swap):
                await trio.sleep(1.0)
                rig.script("m", "1").load_error = Broken("the disk is gone")
                await crash(rig, "1")
    assert (swap.value.state, swap.value.share) == (SwapState.COMPLETED, 1.0)
    assert await serving(rig) == "2"
    assert clients.errors == []
    check_quiet(rig)


async def test_a_guard_that_trips_while_the_old_version_is_down_waits_for_it(rig: Rig, autojump_clock: Any) -> None:
    """The bad version serves until the old one is back; then that has the traffic, as after any rollback."""
    await two(rig, fails_on=lambda _inputs: True)
    swap = Outcome(rig.engine.swap, "m", "2", plan=Shift.at_once(confirm_s=60.0))
    async with running(swap):
        await trio.sleep(1.0)
        rig.takes("load m/1", 20.0)
        await crash(rig, "1")
        for _ in range(20):
            asked = Outcome(rig.engine.infer, "m", {})
            await asked.run()
            assert asked.error is not None
        await trio.sleep(10.0)
        assert (rig.engine.swaps("m")[0].state, rig.engine.is_active("m", "2")) == (SwapState.ROLLING_BACK, True)
    assert isinstance(swap.error, SwapRolledBack)
    assert 21.0 < swap.ended_s < 22.0
    assert swap.error.operation.guard.new.errors == 20
    await check_undone(rig, swap.error.operation)
