"""Orders that meet: they are refused, wait in line, or take each other's place; the newest one wins."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from changeover import Shift, SwapOperation, SwapState
from changeover.errors import InvalidValue, Superseded, SwapFailed, SwapInProgress, SwapNotAllowed, SwapRolledBack
from changeover.runtime.slots import WAITING_MAX
from tests.support.canary import check_quiet, serving
from tests.support.models import Broken
from tests.support.rig import Outcome, Rig, open_rig, running, settle

LOAD_S = 2.0
RAMP = Shift.canary([(0.5, 5.0)], confirm_s=5.0)


@pytest.fixture
async def versions(rig: Rig) -> Rig:
    """Return a rig whose model has version 1 active and versions 2 to 6 registered; each loads for two seconds."""
    await rig.ready("m", "1")
    for version in "23456":
        rig.add("m", version)
        rig.takes(f"load m/{version}", LOAD_S)
    return rig


def ordered(rig: Rig, to: str, on_busy: str = "queue", **options: Any) -> Outcome:
    """Return a swap to be ordered."""
    return Outcome(rig.engine.swap, "m", to, on_busy=on_busy, **options)


def operations(rig: Rig) -> list[tuple[str, str, str]]:
    """Return every swap: from, to, and how it ended."""
    return [(op.from_version, op.to_version, op.state.value) for op in rig.engine.swaps("m")]


async def check_served_by(rig: Rig, version: str) -> None:
    """Check that one version is loaded and serves, every other one is closed, and no swap is open."""
    await trio.sleep(10.0)  # loads that were called off come back
    assert await serving(rig) == version
    assert rig.engine.loaded_versions("m") == (version,)
    assert rig.cast.open() == [f"m/{version}"]
    assert rig.engine.statistics().swaps_open == 0
    check_quiet(rig)


def superseded(outcome: Outcome) -> SwapOperation:
    """Return the operation of a swap whose place was taken."""
    assert isinstance(outcome.error, Superseded)
    operation: SwapOperation = outcome.error.operation
    assert operation.state is SwapState.SUPERSEDED
    return operation


# --- refuse and queue -----------------------------------------------------------------------------------------------


async def test_without_a_word_a_second_order_is_refused(versions: Rig, autojump_clock: Any) -> None:
    """It is told of the swap that is in its way, and nothing has begun."""
    first = versions.engine.start_swap("m", "2")
    with pytest.raises(SwapInProgress, match=f"being swapped to 2 by swap {first}"):
        await versions.engine.swap("m", "3")
    await versions.engine.wait_for_swap(first)
    assert operations(versions) == [("1", "2", "completed")]


async def test_queued_orders_run_one_after_the_other(versions: Rig, autojump_clock: Any) -> None:
    """In the order of their coming, each from the version that the one before it brought."""
    swaps = [ordered(versions, version) for version in "2345"]
    async with running(*swaps):
        assert [op.state for op in versions.engine.swaps("m")][1:] == [SwapState.NOT_STARTED] * 3
    assert [swap.ended_s for swap in swaps] == [2.0, 4.0, 6.0, 8.0]
    chain = [("1", "2"), ("2", "3"), ("3", "4"), ("4", "5")]
    assert operations(versions) == [(*pair, "completed") for pair in chain]
    await check_served_by(versions, "5")


async def test_a_queued_order_begins_at_the_pivot_of_the_one_before_it(versions: Rig, autojump_clock: Any) -> None:
    """The drain of the old version is not waited for: three versions live."""
    lease = versions.lease()
    swaps = [ordered(versions, version) for version in "23"]
    async with running(*swaps):
        await trio.sleep(5.0)
        assert versions.engine.loaded_versions("m") == ("1", "3")
        assert (swaps[0].over, swaps[1].over, await serving(versions)) == (False, True, "3")
        lease.release()
    await check_served_by(versions, "3")


async def test_a_queued_order_comes_after_one_that_fails(versions: Rig, autojump_clock: Any) -> None:
    """It starts from what is active then."""
    versions.script("m", "2").load_error = Broken("no weights")
    swaps = [ordered(versions, version) for version in "23"]
    async with running(*swaps):
        pass
    assert isinstance(swaps[0].error, SwapFailed)
    assert operations(versions) == [("1", "2", "failed"), ("1", "3", "completed")]
    await check_served_by(versions, "3")


async def test_a_queued_order_for_what_is_active_by_then_has_nothing_to_do(versions: Rig, autojump_clock: Any) -> None:
    """Two operators want the same version: both are told that it serves, and it was loaded once."""
    swaps = [ordered(versions, "2"), ordered(versions, "2")]
    async with running(*swaps):
        pass
    assert [swap.value.state for swap in swaps] == [SwapState.COMPLETED] * 2
    assert [step.step for step in swaps[1].value.steps] == ["validate"]
    assert len(versions.cast.of("m", "2")) == 1
    await check_served_by(versions, "2")


async def test_the_line_is_bounded(versions: Rig, autojump_clock: Any) -> None:
    """One more than may wait is refused; an order that supersedes needs no place in the line."""
    ids = [versions.engine.start_swap("m", "2")]
    ids += [versions.engine.start_swap("m", "3", on_busy="queue") for _ in range(WAITING_MAX)]
    with pytest.raises(SwapInProgress, match=f"{WAITING_MAX} swaps of m wait already"):
        versions.engine.start_swap("m", "4", on_busy="queue")
    newest = versions.engine.start_swap("m", "5", on_busy="supersede")
    await versions.engine.wait_for_swap(newest)
    assert {versions.engine.swap_status(old).superseded_by for old in ids} == {newest}
    await check_served_by(versions, "5")


async def test_models_do_not_wait_for_each_other(rig: Rig, autojump_clock: Any) -> None:
    """While the line of one model stands still, another one is swapped at once."""
    for model in ("m", "n"):
        await rig.ready(model, "1")
        rig.add(model, "2")
        rig.add(model, "3")
    rig.takes("load m/2", 60.0)
    async with running(ordered(rig, "2"), ordered(rig, "3")):
        operation = await rig.engine.swap("n", "2")
        assert (operation.state, trio.current_time()) == (SwapState.COMPLETED, 0.0)


async def test_an_order_that_waits_can_be_steered(versions: Rig, autojump_clock: Any) -> None:
    """Paused in the line it stands still when its turn has come; aborted it never begins."""
    first, second, third = (versions.engine.start_swap("m", v, on_busy="queue") for v in "234")
    versions.engine.pause(second)
    versions.engine.abort(third)
    with pytest.raises(SwapRolledBack) as caught:
        await versions.engine.wait_for_swap(third)
    assert (caught.value.operation.state, caught.value.operation.steps) == (SwapState.CANCELLED, ())
    await versions.engine.wait_for_swap(first)
    await trio.sleep(50.0)
    status = versions.engine.swap_status(second)
    assert (status.state, status.share, status.paused) == (SwapState.TRANSITIONING, 0.0, True)
    versions.engine.promote(second)
    await versions.engine.wait_for_swap(second)
    await check_served_by(versions, "3")


@pytest.mark.parametrize("options", [{"on_busy": "later"}, {"on_cancel": "never"}, {"plan": "fast"}])
async def test_an_order_that_makes_no_sense_is_refused(
    versions: Rig, options: dict[str, Any], autojump_clock: Any
) -> None:
    """The message names what there is; nothing has begun."""
    with pytest.raises(InvalidValue, match=next(iter(options))):
        await versions.engine.swap("m", "2", **options)
    assert operations(versions) == []


# --- supersede ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at_s", [0.0, 1.0, 3.0, 9.0])
async def test_a_newer_order_takes_the_place_of_a_running_one(versions: Rig, at_s: float, autojump_clock: Any) -> None:
    """While it loads, in its ramp and in its confirmation: it is undone, then the newer one goes its own way."""
    first, second = ordered(versions, "2", plan=RAMP), ordered(versions, "3", "supersede")
    async with running(first):
        await trio.sleep(at_s)
        async with running(second):
            pass
    operation = superseded(first)
    assert (operation.superseded_by, operation.share) == (second.value.id, 0.0)
    assert f"swap {second.value.id} took its place" in str(first.error)
    assert operations(versions) == [("1", "2", "superseded"), ("1", "3", "completed")]
    assert second.ended_s == at_s + LOAD_S
    await check_served_by(versions, "3")


async def test_a_load_that_hangs_does_not_hold_up_a_newer_order(versions: Rig, autojump_clock: Any) -> None:
    """It is left behind, and closed when it comes back."""
    gate = trio.Event()
    versions.takes("load m/2", gate)
    first, second = ordered(versions, "2"), ordered(versions, "3", "supersede")
    async with running(first, second):
        pass
    superseded(first)
    assert second.ended_s == LOAD_S
    assert versions.engine.statistics().stuck_loads == 1
    gate.set()
    await check_served_by(versions, "3")
    assert [made.closed for made in versions.cast.of("m", "2")] == [1]


async def test_who_holds_the_version_that_was_superseded_is_not_waited_for_long(
    versions: Rig, autojump_clock: Any
) -> None:
    """Out of time it goes into quarantine with its holder, and the newer order begins."""
    first, second = ordered(versions, "2", plan=RAMP), ordered(versions, "3", "supersede")
    async with running(first):
        await trio.sleep(3.0)
        lease = versions.lease(version="2")
        async with running(second):
            pass
    superseded(first)
    assert second.ended_s == pytest.approx(3.0 + 1.0 + LOAD_S)
    assert lease.infer({})["version"] == "2"
    lease.release()
    await check_served_by(versions, "3")


async def test_behind_the_pivot_both_happen(versions: Rig, autojump_clock: Any) -> None:
    """What serves already is not undone: the newer order starts from it, beside the drain."""
    lease = versions.lease()
    first, second = ordered(versions, "2"), ordered(versions, "3", "supersede")
    async with running(first):
        await trio.sleep(3.0)
        assert versions.engine.swaps("m")[0].state is SwapState.OLD_VERSION_DRAINING
        async with running(second):
            pass
        lease.release()
    assert operations(versions) == [("1", "2", "completed"), ("2", "3", "completed")]
    assert first.value.superseded_by is None
    await check_served_by(versions, "3")


async def test_a_swap_on_its_way_back_is_waited_for(versions: Rig, autojump_clock: Any) -> None:
    """It ends as what it was turned round for; the newer order comes next."""
    versions.takes("close m/2", 5.0)
    first, second = ordered(versions, "2", plan=RAMP), ordered(versions, "3", "supersede")
    async with running(first):
        await trio.sleep(3.0)
        versions.engine.abort(versions.engine.swaps("m")[0].id)
        await settle()
        async with running(second):
            pass
    assert isinstance(first.error, SwapRolledBack)
    assert operations(versions) == [("1", "2", "cancelled"), ("1", "3", "completed")]
    assert second.ended_s == pytest.approx(3.0 + 5.0 + LOAD_S)
    await check_served_by(versions, "3")


@pytest.mark.parametrize("gap_s", [0.0, 0.5, 3.0])
async def test_of_five_orders_the_newest_wins(versions: Rig, gap_s: float, autojump_clock: Any) -> None:
    """All others are superseded, and what they loaded is closed; those that never had a turn loaded nothing."""
    swaps = [ordered(versions, version, "supersede", plan=RAMP) for version in "23456"]
    async with trio.open_nursery() as nursery:
        for swap in swaps:
            nursery.start_soon(swap.run)
            await settle()
            await trio.sleep(gap_s)
    followers = [op.id for op in versions.engine.swaps("m")][1:]
    assert [superseded(swap).superseded_by for swap in swaps[:-1]] == followers
    assert (swaps[-1].value.from_version, swaps[-1].value.to_version) == ("1", "6")
    assert [len(versions.cast.of("m", v)) for v in "3456"][-1] == 1
    await check_served_by(versions, "6")


async def test_a_newer_order_takes_the_place_of_all_that_wait(versions: Rig, autojump_clock: Any) -> None:
    """Each of them is told by which swap, and none of them begins."""
    waiting = [ordered(versions, version) for version in "234"]
    newest = ordered(versions, "5", "supersede")
    async with running(*waiting, newest):
        pass
    assert {superseded(swap).superseded_by for swap in waiting} == {newest.value.id}
    assert [versions.cast.of("m", version) for version in "34"] == [[], []]
    await check_served_by(versions, "5")


@pytest.mark.parametrize("at_s", [1.0, 3.0, 9.0])
async def test_a_newer_order_for_the_old_version_calls_a_swap_off(
    versions: Rig, at_s: float, autojump_clock: Any
) -> None:
    """It is complete as soon as the other one is undone, and its version was never touched."""
    first, second = ordered(versions, "2", plan=RAMP), ordered(versions, "1", "supersede")
    async with running(first):
        await trio.sleep(at_s)
        async with running(second):
            pass
    superseded(first)
    assert (second.value.state, [step.step for step in second.value.steps]) == (SwapState.COMPLETED, ["validate"])
    assert [made.closed for made in versions.cast.of("m", "1")] == [0]
    await check_served_by(versions, "1")


async def test_without_another_swap_to_supersede_is_to_swap(versions: Rig, autojump_clock: Any) -> None:
    """The word has no other effect; to swap to what is active is refused as ever."""
    operation = await versions.engine.swap("m", "2", on_busy="supersede")
    assert (operation.from_version, operation.state) == ("1", SwapState.COMPLETED)
    with pytest.raises(SwapNotAllowed, match="is active already"):
        await versions.engine.swap("m", "2", on_busy="supersede")


# --- callers and engines that go away -------------------------------------------------------------------------------


@pytest.mark.parametrize("on_cancel", ["abort", "detach"])
@pytest.mark.parametrize("waits", [False, True])
async def test_a_caller_who_goes_away_takes_the_swap_with_him_or_not(
    versions: Rig, on_cancel: str, waits: bool, autojump_clock: Any
) -> None:
    """`abort` undoes it, or takes it out of the line; with `detach` it goes on without him."""
    ahead = ordered(versions, "2", plan=RAMP)
    async with running(*([ahead] if waits else [])):
        with trio.move_on_after(3.0) as scope:
            await versions.engine.swap("m", "3", plan=RAMP, on_busy="queue", on_cancel=on_cancel)
        assert scope.cancelled_caught
    await trio.sleep(60.0)
    ends = [state for _, to, state in operations(versions) if to == "3"]
    assert ends == ["cancelled" if on_cancel == "abort" else "completed"]
    await check_served_by(versions, "3" if on_cancel == "detach" else "2" if waits else "1")


@pytest.mark.parametrize("on_cancel", ["abort", "detach"])
async def test_behind_the_pivot_a_swap_goes_on_without_its_caller(
    versions: Rig, on_cancel: str, autojump_clock: Any
) -> None:
    """Whatever he said: the traffic has moved."""
    lease = versions.lease()
    with trio.move_on_after(5.0) as scope:
        await versions.engine.swap("m", "2", on_cancel=on_cancel)
    assert scope.cancelled_caught
    lease.release()
    await settle()
    assert operations(versions) == [("1", "2", "completed")]


async def test_the_end_of_an_engine_answers_all_who_wait(autojump_clock: Any) -> None:
    """The running swap is undone, nobody of the line begins, and every caller is told."""
    swaps: list[Outcome] = []
    async with trio.open_nursery() as nursery:
        async with open_rig() as rig:
            await rig.ready("m", "1")
            for version in "2345":
                rig.add("m", version)
            swaps = [ordered(rig, version, plan=RAMP) for version in "2345"]
            for swap in swaps:
                nursery.start_soon(swap.run)
                await settle()
            await trio.sleep(1.0)
        assert [made.name for made in rig.cast.made] == ["m/1", "m/2"]
        assert rig.cast.open() == []
    assert all(isinstance(swap.error, SwapRolledBack) for swap in swaps)
    assert {swap.error.operation.state for swap in swaps} == {SwapState.CANCELLED}


@pytest.mark.parametrize("version", ["1", "2"])
@pytest.mark.parametrize("force", [False, True])
async def test_a_version_of_a_swap_is_not_unloaded_by_hand(
    versions: Rig, version: str, force: bool, autojump_clock: Any
) -> None:
    """Neither the old nor the new one, before the pivot; the message names the swap."""
    swap_id = versions.engine.start_swap("m", "2", plan=RAMP)
    await trio.sleep(3.0)
    with pytest.raises(SwapInProgress, match=swap_id):
        await versions.engine.unload("m", version, force=force)
    await versions.engine.wait_for_swap(swap_id)
    await check_served_by(versions, "2")
