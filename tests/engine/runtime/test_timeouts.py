"""Order and time: what swaps may take, in step and in all; whose turn it is; and many models at once."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from changeover import Drain, Shift, SwapState, Timeouts
from changeover.errors import (
    DrainTimeout,
    LoadTimeout,
    Superseded,
    SwapFailed,
    SwapInProgress,
    SwapNotDone,
    SwapRolledBack,
    SwapTimeout,
)
from changeover.runtime import ordering
from tests.support.journals import at, use_journal
from tests.support.rig import Outcome, Rig, running, settle

RAMP = Shift.canary(((0.5, 20.0),), confirm_s=0.0)


async def versions(rig: Rig, *others: str, model: str = "m") -> None:
    """Make version 1 serve, and register others."""
    await rig.ready(model, "1")
    for version in others:
        rig.add(model, version)


def swap(rig: Rig, to: str = "2", **options: Any) -> Outcome:
    """Return a swap, to be run beside the test."""
    return Outcome(rig.engine.swap, "m", to, **options)


def the_ids(rig: Rig) -> dict[str, str]:
    """Return the ids of the swaps, by what they lead to."""
    return {operation.to_version: operation.id for operation in rig.engine.swaps("m")}


def check_late(outcome: Outcome, text: str) -> None:
    """Check that a swap failed because it was late."""
    assert isinstance(outcome.error, SwapFailed)
    assert isinstance(outcome.error.__cause__, SwapTimeout)
    assert text in str(outcome.error.__cause__)
    assert outcome.error.operation.state is SwapState.FAILED


async def check_nothing_left(rig: Rig, version: str = "1") -> None:
    """Check that a version serves, and is the only one that is loaded."""
    await settle()
    assert (await rig.engine.infer("m", {})).version == version
    assert (rig.engine.loaded_versions("m"), rig.cast.open()) == ((version,), [f"m/{version}"])
    assert rig.engine._slots.everybody() == ()
    assert rig.engine.audit().clean


# --- the whole ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", ["load", "warm", "shift"])
async def test_a_swap_that_is_late_before_its_pivot_is_undone(rig: Rig, step: str, autojump_clock: Any) -> None:
    """In whichever step its time ends, the traffic is where it was, and the cause is a `SwapTimeout`."""
    await rig.ready("m", "1")
    rig.add("m", "2", warmup=[{}])
    late = swap(rig, plan=RAMP if step == "shift" else None, timeouts=Timeouts(total_s=7.0))
    if step != "shift":
        rig.takes(f"{step} m/2", 10.0)
    async with running(late):
        pass
    check_late(late, "had not come to its pivot after 7 s")
    assert (late.ended_s, late.error.operation.steps[-1].step) == (7.0, step)
    await trio.sleep(10)
    await check_nothing_left(rig)


async def test_the_steps_share_the_time_of_the_whole(rig: Rig, autojump_clock: Any) -> None:
    """Each is in its own time; together they are not."""
    await rig.ready("m", "1")
    rig.add("m", "2", warmup=[{}])
    rig.takes("load m/2", 3.0)
    rig.takes("warm m/2", 3.0)
    late = swap(rig, plan=RAMP, timeouts=Timeouts(load_s=7.0, shift_s=21.0, total_s=9.0))
    async with running(late):
        pass
    check_late(late, "pivot after 9 s")
    assert late.ended_s == 9.0
    await check_nothing_left(rig)


async def test_a_swap_that_is_in_time_by_a_second_is_done(rig: Rig, autojump_clock: Any) -> None:
    """The limit is a limit, and not a wait."""
    await versions(rig, "2")
    rig.takes("load m/2", 3.0)
    operation = await rig.engine.swap("m", "2", plan=RAMP, timeouts=Timeouts(total_s=24.0))
    assert (operation.state, trio.current_time()) == (SwapState.COMPLETED, 23.0)


@pytest.mark.parametrize("work", ["drain", "unload"])
async def test_behind_its_pivot_a_swap_is_never_late(rig: Rig, work: str, autojump_clock: Any) -> None:
    """However long the old version is held, or takes to close."""
    await versions(rig, "2")
    if work == "unload":
        rig.takes("close m/1", 20.0)
    lease, on_time = rig.lease(), swap(rig, timeouts=Timeouts(total_s=2.0))
    async with running(on_time):
        await trio.sleep(0.0 if work == "unload" else 20.0)
        lease.release()
    assert (on_time.value.state, trio.current_time()) == (SwapState.COMPLETED, 20.0)
    assert on_time.value.error_message is None


async def test_the_time_of_an_order_that_waits_does_not_run(rig: Rig, autojump_clock: Any) -> None:
    """It begins with its turn: after twice its limit in the queue it has all of it."""
    await versions(rig, "2", "3")
    rig.takes("load m/2", 10.0)
    rig.takes("load m/3", 4.0)
    first, second = swap(rig), swap(rig, "3", on_busy="queue", timeouts=Timeouts(total_s=5.0))
    async with running(first, second):
        pass
    assert (second.value.state, second.ended_s) == (SwapState.COMPLETED, 14.0)


async def test_a_pause_does_not_stop_the_time_of_the_whole(rig: Rig, autojump_clock: Any) -> None:
    """A ramp that stands still for too long is late as any other."""
    await versions(rig, "2")
    late = swap(rig, plan=RAMP, timeouts=Timeouts(total_s=30.0))
    async with running(late):
        await trio.sleep(1)
        rig.engine.pause(the_ids(rig)["2"])
    check_late(late, "pivot after 30 s")
    assert late.ended_s == 30.0
    await check_nothing_left(rig)


async def test_a_journal_that_is_slow_counts_as_well(rig: Rig, autojump_clock: Any) -> None:
    """The boundary is written all the same, and the next step has no time left: the swap is undone."""
    await versions(rig, "2")
    journal = use_journal(rig, slow_for=at("shift"))
    late = swap(rig, timeouts=Timeouts(total_s=5.0))
    async with running(late):
        pass
    check_late(late, "pivot after 5 s")
    assert (late.ended_s, journal.lines()[-1]) == (5.0, "failed")
    await check_nothing_left(rig)


async def test_a_journal_that_hangs_holds_no_swap_beyond_its_time(rig: Rig, autojump_clock: Any) -> None:
    """Every entry takes a thousand seconds: the swap is undone in time, before the last of them is written."""
    await versions(rig, "2")
    use_journal(rig, slow_for=lambda record: record.progress.forward and not record.operation.state.ended).slow_s = 1e3
    late = swap(rig, timeouts=Timeouts(total_s=5.0))
    async with running(late):
        pass
    check_late(late, "pivot after 5 s")
    assert late.ended_s == 5.0
    await check_nothing_left(rig)


async def test_what_is_undone_late_takes_the_time_that_it_takes(rig: Rig, autojump_clock: Any) -> None:
    """Whoever holds the new version when the time ends keeps it, and the swap ends when he leaves."""
    await versions(rig, "2")
    late = swap(rig, plan=Shift.canary(((0.999, 20.0),)), timeouts=Timeouts(total_s=5.0))
    async with running(late):
        await trio.sleep(1)
        lease = rig.lease(version="2")
        await trio.sleep(9)
        assert (late.over, (await rig.engine.infer("m", {})).version) == (False, "1")
        lease.release()
    check_late(late, "pivot after 5 s")
    await check_nothing_left(rig)


# --- single steps ---------------------------------------------------------------------------------------------------


async def test_a_load_may_have_less_time_than_its_version_allows(rig: Rig, autojump_clock: Any) -> None:
    """`load_s` is for load and warm-up together."""
    await rig.ready("m", "1")
    rig.add("m", "2", warmup=[{}])
    rig.takes("load m/2", 3.0)
    rig.takes("warm m/2", 3.0)
    with pytest.raises(SwapFailed) as caught:
        await rig.engine.swap("m", "2", timeouts=Timeouts(load_s=5.0))
    assert isinstance(caught.value.__cause__, LoadTimeout)
    assert trio.current_time() == 5.0
    await trio.sleep(5)
    await check_nothing_left(rig)


async def test_a_shift_may_have_a_time_limit(rig: Rig, autojump_clock: Any) -> None:
    """Shorter than its plan, it fails the swap; as long as that, it does not; pauses count."""
    await versions(rig, "2")
    late = swap(rig, plan=RAMP, timeouts=Timeouts(shift_s=19.0))
    async with running(late):
        pass
    check_late(late, "the shift to m/2 had not come to its end after 19 s")
    await check_nothing_left(rig)
    operation = await rig.engine.swap("m", "2", plan=RAMP, timeouts=Timeouts(shift_s=21.0))
    assert operation.state is SwapState.COMPLETED
    rig.add("m", "3")
    paused = swap(rig, "3", plan=RAMP, timeouts=Timeouts(shift_s=25.0))
    async with running(paused):
        await trio.sleep(1)
        rig.engine.pause(the_ids(rig)["3"])
        await trio.sleep(10)
        rig.engine.resume(the_ids(rig)["3"])
    check_late(paused, "after 25 s")
    await check_nothing_left(rig, "2")


async def test_a_close_may_have_a_time_limit(rig: Rig, autojump_clock: Any) -> None:
    """Behind the point of no return it fails nothing: the swap is done, and says that the old one is still there."""
    await versions(rig, "2")
    rig.takes("close m/1", 10.0)
    operation = await rig.engine.swap("m", "2", timeouts=Timeouts(unload_s=4.0))
    assert (operation.state, operation.old_unloaded, trio.current_time()) == (SwapState.COMPLETED, False, 4.0)
    assert "m/1 did not return within 4 s" in str(operation.error_message)
    await trio.sleep(10)
    await check_nothing_left(rig, "2")


# --- whose turn it is -----------------------------------------------------------------------------------------------


async def test_orders_that_wait_are_done_in_their_order(rig: Rig, autojump_clock: Any) -> None:
    """Each swaps from what the one before it has left."""
    await versions(rig, *"2345")
    orders = [swap(rig, version, on_busy="queue") for version in "2345"]
    for version in "2345":
        rig.takes(f"load m/{version}", 2.0)
    async with running(*orders):
        ids = the_ids(rig)
        assert [rig.engine.swap_status(ids[v]).state.value for v in "2345"] == [
            "loading_new_version",
            *["not_started"] * 3,
        ]
    assert [order.ended_s for order in orders] == [2.0, 4.0, 6.0, 8.0]
    assert [order.value.from_version for order in orders] == list("1234")
    await check_nothing_left(rig, "5")


@pytest.mark.parametrize("way", ["abort", "rollback", "caller"])
async def test_an_order_that_waits_can_be_called_off(rig: Rig, way: str, autojump_clock: Any) -> None:
    """It is told at once, nothing of it ever happens, and those behind it move up."""
    await versions(rig, *"234")
    rig.takes("load m/2", 10.0)
    first, last = swap(rig), swap(rig, "4", on_busy="queue")
    async with trio.open_nursery() as nursery, running(first):
        second = swap(rig, "3", on_busy="queue")
        scope = trio.CancelScope()

        async def order() -> None:
            with scope:
                await second.run()

        nursery.start_soon(order)
        await settle()
        nursery.start_soon(last.run)
        await trio.sleep(1)
        swap_id = the_ids(rig)["3"]
        if way == "caller":
            scope.cancel()
        elif way == "abort":
            rig.engine.abort(swap_id)
        else:
            back = await rig.engine.rollback(swap_id)
            assert back.state is SwapState.ROLLED_BACK
        await settle()
        state = SwapState.ROLLED_BACK if way == "rollback" else SwapState.CANCELLED
        operation = rig.engine.swap_status(swap_id)
        assert (operation.state, operation.steps, trio.current_time()) == (state, (), 1.0)
        assert second.over is (way != "caller")
    assert last.value.from_version == "2"
    assert rig.cast.of("m", "3") == []
    await check_nothing_left(rig, "4")


async def test_an_order_may_outlive_its_caller_in_the_queue(rig: Rig, autojump_clock: Any) -> None:
    """With `on_cancel="detach"` it has its turn all the same."""
    await versions(rig, "2", "3")
    rig.takes("load m/2", 10.0)
    async with running(swap(rig)):
        with trio.move_on_after(1):
            await rig.engine.swap("m", "3", on_busy="queue", on_cancel="detach")
    operation = await rig.engine.wait_for_swap(the_ids(rig)["3"])
    assert (operation.state, operation.from_version) == (SwapState.COMPLETED, "2")
    await check_nothing_left(rig, "3")


async def test_a_newer_order_takes_the_place_of_all_others(rig: Rig, autojump_clock: Any) -> None:
    """The one that runs and those that wait are each told by whom; only the newest happens."""
    await versions(rig, *"2345")
    rig.takes("load m/2", 10.0)
    older = [swap(rig), swap(rig, "3", on_busy="queue"), swap(rig, "4", on_busy="queue")]
    newest = swap(rig, "5", on_busy="supersede")
    async with running(*older, newest):
        pass
    newest_id = newest.value.id
    for order in older:
        assert isinstance(order.error, Superseded)
        assert newest_id in str(order.error)
        operation = order.error.operation
        assert (operation.state, operation.superseded_by) == (SwapState.SUPERSEDED, newest_id)
    assert newest.value.from_version == "1"
    await trio.sleep(20)
    await check_nothing_left(rig, "5")


async def test_the_line_is_bounded(rig: Rig, monkeypatch: pytest.MonkeyPatch, autojump_clock: Any) -> None:
    """One more than may wait is refused, and the rest is done."""
    monkeypatch.setattr(ordering, "WAITING_MAX", 5)
    await versions(rig, "2", "3")
    rig.takes("load m/2", 10.0)
    swap_ids = [rig.engine.start_swap("m", "2")]
    await settle()
    swap_ids += [rig.engine.start_swap("m", "32"[n % 2], on_busy="queue") for n in range(5)]
    with pytest.raises(SwapInProgress, match="5 swaps of m wait already"):
        rig.engine.start_swap("m", "3", on_busy="queue")
    for swap_id in swap_ids:
        assert (await rig.engine.wait_for_swap(swap_id)).state is SwapState.COMPLETED


# --- many models ----------------------------------------------------------------------------------------------------


async def test_fifty_models_are_swapped_side_by_side(rig: Rig, autojump_clock: Any) -> None:
    """Each in its own time: some are rolled back, fail, or hang, and none of the others waits for them."""
    models = [f"m{number:02}" for number in range(50)]
    hang = trio.Event()
    for number, model in enumerate(models):
        await versions(rig, "2", model=model)
        rig.takes(f"load {model}/2", hang if number % 5 == 4 else 5.0 + number)
    orders = {
        model: Outcome(rig.engine.swap, model, "2", timeouts=Timeouts(total_s=40.0 if number % 5 == 4 else 60.0))
        for number, model in enumerate(models)
    }
    async with running(*orders.values()):
        assert rig.engine.statistics().swaps_open == 50
        await trio.sleep(1)
        for model in models[::5]:
            rig.engine.abort(rig.engine.swaps(model)[0].id)
    for number, (model, order) in enumerate(orders.items()):
        ended_s = {0: 1.0, 4: 40.0}.get(number % 5, 5.0 + number)
        assert order.ended_s == ended_s, model
        assert isinstance(order.error, SwapNotDone) is (number % 5 in (0, 4))
        assert rig.engine.is_active(model, "1" if order.error else "2")
    hang.set()
    await trio.sleep(100)
    assert len(rig.cast.open()) == 50


async def test_a_drain_can_be_waited_for_beside_its_swap(rig: Rig, autojump_clock: Any) -> None:
    """Whoever waits hears of the zero with the swap, or that his own time is over; the swap goes on."""
    await versions(rig, "2")
    lease, order = rig.lease(), swap(rig)
    early = Outcome(rig.engine.wait_for_drain, "m", "1", 2.0)
    patient = Outcome(rig.engine.wait_for_drain, "m", "1", 20.0)
    async with running(order, early, patient):
        await trio.sleep(5)
        assert isinstance(early.error, DrainTimeout)
        lease.release()
    assert (patient.error, patient.ended_s) == (None, 5.0)
    assert (order.value.state, order.ended_s) == (SwapState.COMPLETED, 5.0)


async def test_a_drain_that_is_turned_round_can_still_be_waited_for(rig: Rig, autojump_clock: Any) -> None:
    """It waits for the references and not for the swap: when the old version serves again it is busy again."""
    await versions(rig, "2")
    lease, order = rig.lease(), swap(rig, drain=Drain(deadline_s=3.0, then="rollback"))
    patient = Outcome(rig.engine.wait_for_drain, "m", "1", 20.0)
    async with running(order, patient):
        await trio.sleep(5)
        assert isinstance(order.error, SwapRolledBack)
        assert not patient.over
        lease.release()
    assert (patient.error, patient.ended_s) == (None, 5.0)
    await check_nothing_left(rig)
