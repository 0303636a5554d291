"""How traffic moves to a new version: by the clock of its plan, and by the orders of who watches it."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import trio

from changeover import Shift, SwapState, Timeouts
from changeover.core.shift import Stage
from changeover.errors import SwapFailed, SwapNotAllowed, SwapNotFound, SwapRolledBack, SwapTimeout
from changeover_sim.ports import EPOCH_S
from tests.support.canary import asking, check_quiet, check_undone, serving, two
from tests.support.rig import Outcome, Rig, Watch, running, settle

RAMP = Shift.canary([(0.25, 4.0), (0.5, 2.0)], confirm_s=3.0)
"""Nine seconds in all."""
LOAD_S = 2.0
MOMENTS = [1.0, 3.0, 6.5, 9.0]
"""While the load runs, in each of the two stages, and in the confirmation; the swap was ordered at 0."""


@pytest.fixture
async def ramp(rig: Rig) -> str:
    """Order a swap by `RAMP`, whose load takes two seconds, and return its id."""
    await two(rig)
    rig.takes("load m/2", LOAD_S)
    return rig.engine.start_swap("m", "2", plan=RAMP)


def share(rig: Rig, swap_id: str) -> float:
    """Return the share of the new version as the swap tells it."""
    return rig.engine.swap_status(swap_id).share


async def ended(rig: Rig, swap_id: str) -> float:
    """Wait for a swap to complete, and return when it did."""
    operation = await rig.engine.wait_for_swap(swap_id)
    assert (operation.state, operation.share, operation.paused) == (SwapState.COMPLETED, 1.0, False)
    assert await serving(rig) == "2"
    assert rig.engine.loaded_versions("m") == ("2",)
    check_quiet(rig)
    return trio.current_time()


# --- by the clock ---------------------------------------------------------------------------------------------------


async def test_at_once_is_one_step(rig: Rig, autojump_clock: Any) -> None:
    """No time passes, the shares change once, and nobody stands by."""
    await two(rig)
    async with Watch(rig.engine) as watch:
        operation = await rig.engine.swap("m", "2", plan=Shift.at_once())
        assert await watch.kinds("traffic_shifted", "shares") == [{"2": 1.0}]
    assert (operation.steps[3].step, operation.steps[3].duration_s, operation.guard) == ("shift", 0.0, None)


async def test_at_once_may_be_looked_at_before_the_pivot(rig: Rig, autojump_clock: Any) -> None:
    """For `confirm_s` the new version has all the traffic and the swap can still be undone; then it is done."""
    await two(rig)
    swap_id = rig.engine.start_swap("m", "2", plan=Shift.at_once(confirm_s=5.0))
    await trio.sleep(4.9)
    status = rig.engine.swap_status(swap_id)
    assert (status.state, status.share, status.steps[-1].step) == (SwapState.TRANSITIONING, 1.0, "shift")
    assert (await serving(rig), rig.engine.loaded_versions("m")) == ("2", ("1", "2"))
    assert await ended(rig, swap_id) == 5.0


async def test_a_confirmation_may_want_requests(rig: Rig, autojump_clock: Any) -> None:
    """After its time it waits until the new version has answered so many."""
    await two(rig)
    swap_id = rig.engine.start_swap("m", "2", plan=Shift.at_once(confirm_s=1.0, confirm_samples=3))
    for at_s in (2.0, 30.0, 30.1):
        await trio.sleep(at_s - trio.current_time())
        assert not rig.engine.swap_status(swap_id).state.ended
        await rig.engine.infer("m", {})
    assert await ended(rig, swap_id) == pytest.approx(30.1, abs=0.26)


@pytest.mark.parametrize(
    ("plan", "expected"),
    [
        (RAMP, [(0.0, 0.25), (4.0, 0.5), (6.0, 1.0), (9.0, None)]),
        (Shift.canary(), [(0.0, 0.05), (5.0, 0.5), (10.0, 1.0), (15.0, None)]),
        (Shift.canary([(0.1, 0.0), (0.3, 7.0)], confirm_s=0.0), [(0.0, 0.3), (7.0, 1.0), (7.0, None)]),
        (Shift.canary([(1.0, 2.0)], confirm_s=0.0), [(0.0, 1.0), (2.0, None)]),
        (Shift.at_once(confirm_s=2.0, guard=None), [(0.0, 1.0), (2.0, None)]),
        (Shift.canary([(0.5, 600.0)], guard=None, fallback=False), [(0.0, 0.5), (600.0, 1.0), (605.0, None)]),
    ],
)
async def test_the_shares_rise_by_the_clock(rig: Rig, plan: Shift, expected: list[Any], autojump_clock: Any) -> None:
    """Each stage begins at the very moment that the plan says, and the swap ends behind the last one."""
    await two(rig)
    async with Watch(rig.engine) as watch:
        await rig.engine.swap("m", "2", plan=plan)
        told = [(event.at_s - EPOCH_S, event.detail["shares"]["2"]) for event in await watch.kinds("traffic_shifted")]
    assert [at_s for at_s, _ in told] == pytest.approx([at_s for at_s, part in expected if part is not None], abs=1e-6)
    assert [part for _, part in told if part != 0.1] == [part for _, part in expected if part is not None]
    assert trio.current_time() == pytest.approx(expected[-1][0], abs=1e-6)
    check_quiet(rig)


async def test_a_stage_may_want_requests(rig: Rig, autojump_clock: Any) -> None:
    """Without traffic it stands still; with traffic it goes on after the last request that was missing."""
    await two(rig)
    swap_id = rig.engine.start_swap("m", "2", plan=Shift.canary([Stage(0.5, 1.0, samples=10)], confirm_s=1.0))
    await trio.sleep(100.0)
    assert share(rig, swap_id) == 0.5
    async with asking(rig, 0.1) as clients:
        assert 101.0 < await ended(rig, swap_id) < 105.0
    assert clients.errors == []


async def test_clients_are_split_as_the_stage_says(rig: Rig, ramp: str, autojump_clock: Any) -> None:
    """Of the requests of each stage the new version gets its share, and of the confirmation all."""
    async with asking(rig, 0.01) as clients:
        await ended(rig, ramp)
    for since_s, until_s, part in ((0.0, 2.0, 0.0), (2.1, 6.0, 0.25), (6.1, 8.0, 0.5), (8.1, 11.0, 1.0)):
        found = clients.versions(since_s, until_s)
        assert found.count("2") / len(found) == pytest.approx(part, abs=0.08)
    assert clients.errors == []


@pytest.mark.parametrize(("sticky", "moved"), [(True, 0), (False, 40)])
async def test_only_sticky_shares_keep_keys(rig: Rig, sticky: bool, moved: int, autojump_clock: Any) -> None:
    """With `sticky=False` a key is no more than a request of its own."""
    await two(rig)
    keys = [str(number) for number in range(20)]
    rig.engine.start_swap("m", "2", plan=Shift.canary([(0.5, 5.0)], sticky=sticky))
    async with asking(rig, 0.5, keys) as clients:
        await trio.sleep(4.9)
    runs = [[seen.version for seen in clients.seen[1:] if seen.key == key and seen.began_s] for key in keys]
    assert sum(before != after for run in runs for before, after in pairwise(run)) >= moved
    assert sticky is all(len(set(run)) == 1 for run in runs)


# --- by order -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at_s", MOMENTS)
async def test_a_pause_stops_the_clock_of_the_ramp(rig: Rig, ramp: str, at_s: float, autojump_clock: Any) -> None:
    """The share stays for a hundred seconds, and what was left of the ramp is left after them."""
    await trio.sleep(at_s)
    before = share(rig, ramp)
    rig.engine.pause(ramp)
    assert rig.engine.swap_status(ramp).paused
    await trio.sleep(100.0)
    assert share(rig, ramp) == before
    rig.engine.resume(ramp)
    assert not rig.engine.swap_status(ramp).paused
    lost_s = 100.0 if at_s > LOAD_S else 100.0 - (LOAD_S - at_s)
    assert await ended(rig, ramp) == pytest.approx(LOAD_S + 9.0 + lost_s, abs=1e-6)


async def test_a_pause_that_ends_before_the_shift_costs_nothing(rig: Rig, ramp: str, autojump_clock: Any) -> None:
    """There was nothing to stop."""
    rig.engine.pause(ramp)
    await trio.sleep(1.0)
    rig.engine.resume(ramp)
    assert await ended(rig, ramp) == pytest.approx(LOAD_S + 9.0, abs=1e-6)


async def test_at_once_can_be_paused_before_it_moves_anything(rig: Rig, autojump_clock: Any) -> None:
    """Ordered while the load runs, it stands before the one step that it has."""
    await two(rig)
    rig.takes("load m/2", LOAD_S)
    swap_id = rig.engine.start_swap("m", "2")
    rig.engine.pause(swap_id)
    await trio.sleep(50.0)
    assert (share(rig, swap_id), rig.engine.swap_status(swap_id).state) == (0.0, SwapState.TRANSITIONING)
    rig.engine.resume(swap_id)
    assert await ended(rig, swap_id) == 50.0


@pytest.mark.parametrize("paused", [False, True])
@pytest.mark.parametrize("at_s", MOMENTS)
async def test_a_promotion_leaves_out_the_rest(
    rig: Rig, ramp: str, at_s: float, paused: bool, autojump_clock: Any
) -> None:
    """The new version has everything in the same moment, or as soon as it is loaded; a pause is over by it."""
    await trio.sleep(at_s)
    if paused:
        rig.engine.pause(ramp)
    rig.engine.promote(ramp)
    assert await ended(rig, ramp) == max(at_s, LOAD_S)


@pytest.mark.parametrize("paused", [False, True])
@pytest.mark.parametrize("at_s", [0.0, *MOMENTS])
async def test_an_abort_gives_the_traffic_back(
    rig: Rig, ramp: str, at_s: float, paused: bool, autojump_clock: Any
) -> None:
    """At any moment before the pivot: the old version serves, the new one is closed, the swap is CANCELLED."""
    await trio.sleep(at_s)
    if paused:
        rig.engine.pause(ramp)
    rig.engine.abort(ramp)
    with pytest.raises(SwapRolledBack, match="it was ordered back") as caught:
        await rig.engine.wait_for_swap(ramp)
    assert (caught.value.operation.state, trio.current_time()) == (SwapState.CANCELLED, at_s)
    await trio.sleep(LOAD_S)  # a load that was called off ends in its own time
    await settle()
    await check_undone(rig, caught.value.operation)
    await rig.engine.swap("m", "2")


@pytest.mark.parametrize("order", ["pause", "resume", "promote", "abort"])
async def test_behind_the_pivot_nothing_can_be_steered(rig: Rig, order: str, autojump_clock: Any) -> None:
    """In the drain, after the end, and on the way back each order is refused and changes nothing."""
    await two(rig)
    steer, lease = getattr(rig.engine, order), rig.lease()
    swap_id = rig.engine.start_swap("m", "2")
    await settle()
    with pytest.raises(SwapNotAllowed, match="is old_version_draining"):
        steer(swap_id)
    lease.release()
    await rig.engine.wait_for_swap(swap_id)
    with pytest.raises(SwapNotAllowed, match="is completed"):
        steer(swap_id)
    with pytest.raises(SwapNotFound):
        steer("nobody")
    assert await serving(rig) == "2"


@pytest.mark.parametrize("order", ["pause", "resume", "promote"])
async def test_a_swap_on_its_way_back_cannot_be_steered(rig: Rig, ramp: str, order: str, autojump_clock: Any) -> None:
    """Once it is turned round nothing but its end is to come; a second abort is content with the first."""
    await trio.sleep(3.0)
    lease = rig.lease(version="2")
    rig.engine.abort(ramp)
    with pytest.raises(SwapNotAllowed):
        getattr(rig.engine, order)(ramp)
    await settle()
    assert rig.engine.swap_status(ramp).state is SwapState.ROLLING_BACK
    with pytest.raises(SwapNotAllowed, match="is rolling_back"):
        getattr(rig.engine, order)(ramp)
    rig.engine.abort(ramp)
    lease.release()
    with pytest.raises(SwapRolledBack):
        await rig.engine.wait_for_swap(ramp)
    with pytest.raises(SwapNotAllowed, match="is cancelled"):
        rig.engine.abort(ramp)


async def test_every_order_is_told(rig: Rig, ramp: str, autojump_clock: Any) -> None:
    """One event each, with the swap's id; the operation shows share, pause and steps as they are."""
    async with Watch(rig.engine) as watch:
        await trio.sleep(3.0)
        rig.engine.pause(ramp)
        status = rig.engine.swap_status(ramp)
        assert (status.share, status.paused, status.state) == (0.25, True, SwapState.TRANSITIONING)
        assert [f"{step.step} {step.outcome}" for step in status.steps] == [
            "validate done", "load done", "warm done", "shift running",
        ]  # fmt: skip
        rig.engine.resume(ramp)
        rig.engine.promote(ramp)
        await ended(rig, ramp)
        told = [event for event in await watch.read() if event.kind in ("swap_paused", "swap_resumed", "swap_promoted")]
    assert [event.kind for event in told] == ["swap_paused", "swap_resumed", "swap_promoted"]
    assert {(event.swap_id, event.version) for event in told} == {(ramp, "2")}


async def test_a_rollback_order_turns_a_ramp_round(rig: Rig, ramp: str, autojump_clock: Any) -> None:
    """It ends as ROLLED_BACK, and the caller of the rollback gets the operation."""
    await trio.sleep(6.5)
    operation = await rig.engine.rollback(ramp)
    assert (operation.state, operation.id) == (SwapState.ROLLED_BACK, ramp)
    await check_undone(rig, operation)


@pytest.mark.parametrize("paused", [False, True])
async def test_a_shift_may_have_a_time_limit(rig: Rig, paused: bool, autojump_clock: Any) -> None:
    """`timeouts.shift_s` counts stages and pauses; a shift that is late is undone as one that failed."""
    await two(rig)
    swap = Outcome(rig.engine.swap, "m", "2", plan=RAMP, timeouts=Timeouts(shift_s=7.0))
    async with running(swap):
        await trio.sleep(1.0)
        if paused:
            rig.engine.pause(rig.engine.swaps("m")[0].id)
    assert isinstance(swap.error, SwapFailed)
    assert isinstance(swap.error.__cause__, SwapTimeout)
    assert "had not come to its end after 7 s" in str(swap.error)
    assert (swap.error.operation.state, swap.ended_s) == (SwapState.FAILED, 7.0)
    await check_undone(rig, swap.error.operation)


async def test_a_time_limit_that_is_kept_changes_nothing(rig: Rig, autojump_clock: Any) -> None:
    """A ramp of nine seconds has ten."""
    await two(rig)
    operation = await rig.engine.swap("m", "2", plan=RAMP, timeouts=Timeouts(shift_s=10.0))
    assert (operation.state, trio.current_time()) == (SwapState.COMPLETED, 9.0)
