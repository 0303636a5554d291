"""The swap saga: its steps, what it writes down, and how each failure is undone or lived with."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from changeover import Drain, SwapOperation, SwapState, Timeouts, VersionState
from changeover.core import wire
from changeover.errors import (
    JournalFailed,
    LoadFailed,
    LoadTimeout,
    SwapFailed,
    SwapInProgress,
    SwapNotAllowed,
    SwapNotFound,
    SwapRolledBack,
    VersionCrashed,
    WarmUpFailed,
)
from changeover.runtime.saga import Saga
from tests.support.journals import BOUNDARIES, at, use_journal
from tests.support.models import Broken
from tests.support.rig import Outcome, Rig, Watch, running, settle, until

STEPS = ["validate", "load", "warm", "shift", "drain", "unload"]


async def two(rig: Rig, **fields: Any) -> None:
    """Make version 1 serve and register version 2 with `fields`."""
    await rig.ready("m", "1", fatal_on=lambda inputs: "poison" in inputs)
    rig.add("m", "2", **fields)


async def serving(rig: Rig) -> str:
    """Return the version that answers now."""
    return (await rig.engine.infer("m", {})).version


async def check_undone(rig: Rig, operation: SwapOperation) -> None:
    """Check that nothing is left of a swap from 1 to 2."""
    assert operation.state.ended
    assert operation.share == 0.0
    assert await serving(rig) == "1"
    assert rig.engine.loaded_versions("m") == ("1",)
    assert [made.closed for made in rig.cast.of("m", "1")] == [0]
    assert rig.engine._slots.everybody() == ()
    assert rig.engine.audit().clean


def steps_of(operation: SwapOperation) -> list[str]:
    """Return the steps of a swap, in short."""
    return [f"{step.step} {step.outcome}" for step in operation.steps]


# --- a swap that goes well ------------------------------------------------------------------------------------------


async def test_a_swap_goes_through_its_steps(rig: Rig, autojump_clock: Any) -> None:
    """Load, warm up, shift, drain, unload: the operation tells how long each took, and success is true when told."""
    await two(rig, warmup=[{}])
    rig.takes("load m/2", 5.0)
    rig.takes("warm m/2", 3.0)
    rig.takes("close m/1", 2.0)
    operation = await rig.engine.swap("m", "2")
    assert steps_of(operation) == [f"{step} done" for step in STEPS]
    assert [step.duration_s for step in operation.steps] == [0.0, 5.0, 3.0, 0.0, 0.0, 2.0]
    assert (operation.model, operation.from_version, operation.to_version) == ("m", "1", "2")
    assert (operation.state, operation.share, operation.old_unloaded) == (SwapState.COMPLETED, 1.0, True)
    assert operation.end_time is not None
    assert operation.end_time - operation.start_time == 10.0
    assert operation.error_message is None
    assert operation.drain_outcome is not None
    assert operation.drain_outcome.result == "drained"
    assert await serving(rig) == "2"
    assert rig.cast.open() == ["m/2"]
    assert rig.engine.swap_status(operation.id) == operation


async def test_the_state_of_a_swap_can_be_seen_at_every_step(rig: Rig, autojump_clock: Any) -> None:
    """`swap_status` and `is_active` follow the swap; both versions are loaded while the traffic moves."""
    await two(rig)
    rig.takes("load m/2", 5.0)
    lease = rig.lease()
    swap_id = rig.engine.start_swap("m", "2")
    assert rig.engine.swap_status(swap_id).state is SwapState.NOT_STARTED
    await trio.sleep(1)
    assert rig.engine.swap_status(swap_id).state is SwapState.LOADING_NEW_VERSION
    assert (rig.engine.is_active("m", "1"), rig.engine.loaded_versions("m")) == (True, ("1",))
    await trio.sleep(5)
    status = rig.engine.swap_status(swap_id)
    assert (status.state, status.share, status.end_time) == (SwapState.OLD_VERSION_DRAINING, 1.0, None)
    assert (rig.engine.is_active("m", "2"), rig.engine.loaded_versions("m")) == (True, ("1", "2"))
    assert rig.engine.statistics().swaps_open == 1
    lease.release()
    await settle()
    assert rig.engine.swap_status(swap_id).state is SwapState.COMPLETED
    assert rig.engine.statistics().swaps_open == 0


async def test_each_boundary_is_written_down_before_it_is_crossed(rig: Rig, autojump_clock: Any) -> None:
    """The journal has every step that changes something, and then how the swap ended, in records to be read back."""
    await two(rig)
    journal = use_journal(rig)
    operation = await rig.engine.swap("m", "2")
    assert journal.lines() == [*BOUNDARIES, "completed"]
    last = journal.kept[-1]
    assert last.operation == operation
    assert journal.desired == [{}, {}, {"m": "2"}, {}, {"m": "2"}]


@pytest.mark.parametrize("step", BOUNDARIES)
async def test_nothing_of_a_step_happens_before_its_record_is_kept(rig: Rig, step: str, autojump_clock: Any) -> None:
    """While the journal is slow, the swap stands before the boundary."""
    await two(rig)
    use_journal(rig, slow_for=at(step))
    swap_id = rig.engine.start_swap("m", "2")
    await trio.sleep(5)
    reached = STEPS.index(step)
    before = rig.engine.swap_status(swap_id).steps[-1]
    assert (before.step, before.outcome) == (STEPS[reached - 1], "running")
    assert len(rig.cast.of("m", "2")) == (reached > 1)
    assert await serving(rig) == ("2" if reached > 3 else "1")
    assert rig.engine.load_info("m", "1").status.value == ("unloaded" if reached > 4 else "ready")
    await trio.sleep(10)
    assert rig.engine.swap_status(swap_id).state is SwapState.COMPLETED


async def test_a_swap_to_a_version_that_is_ready_loads_nothing(rig: Rig, autojump_clock: Any) -> None:
    """What is loaded already only gets the traffic."""
    await two(rig)
    await rig.engine.load("m", "2")
    await rig.engine.swap("m", "2")
    assert len(rig.cast.of("m", "2")) == 1
    assert await serving(rig) == "2"


async def test_a_swap_whose_old_version_is_held_too_long_is_done(rig: Rig, autojump_clock: Any) -> None:
    """The swap completes with the old version in quarantine, says who holds it, and it is closed when he leaves."""
    await two(rig)
    lease = rig.lease()
    operation = await rig.engine.swap("m", "2", drain=Drain(deadline_s=5.0))
    assert (operation.state, operation.old_unloaded, trio.current_time()) == (SwapState.COMPLETED, False, 5.0)
    assert operation.drain_outcome is not None
    assert operation.drain_outcome.result == "quarantined"
    assert [holder.kind for holder in operation.drain_outcome.holders] == ["lease"]
    assert steps_of(operation)[-1] == "drain done"
    assert rig.engine.loaded_versions("m") == ("1", "2")
    lease.release()
    await settle()
    assert rig.engine.loaded_versions("m") == ("2",)


async def test_an_old_version_that_is_wanted_again_ends_the_drain(rig: Rig, autojump_clock: Any) -> None:
    """Somebody loads the old version while it drains: the swap is done, and both stay loaded."""
    await two(rig)
    lease = rig.lease()
    swap = Outcome(rig.engine.swap, "m", "2")
    async with running(swap):
        await trio.sleep(1)
        await rig.engine.load("m", "1")
    assert (swap.value.state, swap.value.drain_outcome.result) == (SwapState.COMPLETED, "given_back")
    assert rig.engine.loaded_versions("m") == ("1", "2")
    assert await serving(rig) == "2"
    lease.release()


# --- steps that fail ------------------------------------------------------------------------------------------------


async def test_a_swap_whose_old_version_is_not_active_any_more_does_not_happen(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, autojump_clock: Any
) -> None:
    """Between the order and the first step the old version crashed: nothing is loaded."""
    await two(rig)
    await rig.ready("m", "3")
    journal, run = use_journal(rig), Saga.run

    async def run_late(saga: Saga) -> None:
        await trio.sleep(10)
        await run(saga)

    monkeypatch.setattr(Saga, "run", run_late)
    swap = Outcome(rig.engine.swap, "m", "2")
    async with running(swap):
        with pytest.raises(VersionCrashed):
            await rig.engine.infer("m", {"poison": 1})
    assert isinstance(swap.error, SwapFailed)
    assert isinstance(swap.error.__cause__, SwapNotAllowed)
    assert (journal.lines(), rig.cast.of("m", "2")) == (["failed"], [])
    assert await serving(rig) == "3"


@pytest.mark.parametrize(
    ("fields", "cause", "step"),
    [
        ({"load_error": Broken("no weights")}, LoadFailed, "load"),
        ({"loads": 5}, LoadFailed, "load"),
        ({"load_timeout_s": 3.0}, LoadTimeout, "load"),
        ({"warmup": [{}], "raises": Broken("cold")}, WarmUpFailed, "warm"),
    ],
)
async def test_a_new_version_that_does_not_come_up_changes_nothing(
    rig: Rig, fields: dict[str, Any], cause: type[Exception], step: str, autojump_clock: Any
) -> None:
    """The swap fails with the reason, everything is undone, and the model is free for the next swap."""
    await two(rig, **fields)
    journal = use_journal(rig)
    rig.takes("load m/2", 5.0)
    with pytest.raises(SwapFailed, match="from 1 to 2 did not happen") as caught:
        await rig.engine.swap("m", "2")
    operation = caught.value.operation
    assert isinstance(caught.value.__cause__, cause)
    assert (operation.state, steps_of(operation)[-1]) == (SwapState.FAILED, f"{step} failed")
    assert str(caught.value.__cause__) in operation.error_message
    back = [f"undo {name}" for name in reversed(STEPS[: STEPS.index(step) + 1])]
    assert journal.lines() == ["load", *back, "failed"]
    assert all(record.compensation == "done" for record in operation.steps)
    await check_undone(rig, operation)
    await trio.sleep(10)
    rig.add("m", "3")
    await rig.engine.swap("m", "3")
    assert await serving(rig) == "3"


async def test_a_swap_may_have_a_time_limit_of_its_own(rig: Rig, autojump_clock: Any) -> None:
    """`timeouts.load_s` comes before the version's own limit, also where the swap joins a load of somebody else."""
    await two(rig)
    rig.takes("load m/2", 20.0)
    load = Outcome(rig.engine.load, "m", "2")
    async with running(load):
        with pytest.raises(SwapFailed) as caught:
            await rig.engine.swap("m", "2", timeouts=Timeouts(load_s=4.0))
        assert isinstance(caught.value.__cause__, LoadTimeout)
        assert trio.current_time() == 4.0
    assert (load.value, trio.current_time()) == (None, 20.0)
    assert rig.engine.loaded_versions("m") == ("1", "2")


async def test_a_new_version_that_crashes_before_the_shift_is_not_shifted_to(rig: Rig, autojump_clock: Any) -> None:
    """The traffic never reaches it."""
    await two(rig, fatal_on=lambda inputs: "poison" in inputs)
    use_journal(rig, slow_for=at("shift"))
    swap = Outcome(rig.engine.swap, "m", "2")
    async with running(swap):
        await trio.sleep(9.99)
        with pytest.raises(VersionCrashed):
            await rig.engine.infer("m", {"poison": 1}, version="2")
    assert isinstance(swap.error, SwapFailed)
    assert await serving(rig) == "1"
    await trio.sleep(100)
    assert rig.engine.loaded_versions("m") == ("1",)
    assert rig.cast.open() == ["m/1"]


async def test_an_old_version_that_crashes_in_its_drain_does_not_stop_the_swap(rig: Rig, autojump_clock: Any) -> None:
    """Behind the pivot the swap goes forward; the operation says what went wrong."""
    await two(rig)
    lease = rig.lease()
    swap = Outcome(rig.engine.swap, "m", "2")
    async with running(swap):
        with pytest.raises(VersionCrashed):
            lease.infer({"poison": 1})
        lease.release()
    assert swap.value.state is SwapState.COMPLETED
    assert "beyond use" in swap.value.error_message
    assert await serving(rig) == "2"
    await trio.sleep(100)
    assert (rig.engine.loaded_versions("m"), rig.cast.open()) == (("2",), ["m/2"])


async def test_an_old_version_that_crashed_before_its_drain_does_not_come_back(rig: Rig, autojump_clock: Any) -> None:
    """A restart of the old version that was pending when the swap reached it is called off."""
    await two(rig)
    rig.takes("load m/2", 5.0)
    swap = Outcome(rig.engine.swap, "m", "2")
    async with running(swap):
        await trio.sleep(4.95)
        with pytest.raises(VersionCrashed):
            await rig.engine.infer("m", {"poison": 1})
    assert swap.value.state is SwapState.COMPLETED
    await trio.sleep(100)
    assert (rig.engine.loaded_versions("m"), rig.cast.open()) == (("2",), ["m/2"])


async def test_an_old_model_whose_close_hangs_does_not_stop_the_swap(rig: Rig, autojump_clock: Any) -> None:
    """After `unload_s` the swap is done, and says that the old version is not unloaded yet."""
    await two(rig)
    hang = trio.Event()
    rig.takes("close m/1", hang)
    operation = await rig.engine.swap("m", "2", timeouts=Timeouts(unload_s=7.0))
    assert (operation.state, operation.old_unloaded, trio.current_time()) == (SwapState.COMPLETED, False, 7.0)
    assert "m/1 did not return within 7 s" in str(operation.error_message)
    assert await serving(rig) == "2"
    hang.set()
    await settle()
    assert rig.engine.load_info("m", "1").status is VersionState.UNLOADED


async def test_an_old_model_whose_close_raises_is_unloaded(rig: Rig, autojump_clock: Any) -> None:
    """The error of `close` is an event and not the swap's."""
    await two(rig)
    rig.script("m", "1").close_error = Broken("close")
    async with Watch(rig.engine) as watch:
        operation = await rig.engine.swap("m", "2")
        assert (operation.state, operation.old_unloaded) == (SwapState.COMPLETED, True)
        assert len(await watch.kinds("close_failed")) == 1


# --- a journal that fails -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", BOUNDARIES[:3])
async def test_a_boundary_that_cannot_be_written_is_not_crossed(rig: Rig, step: str, autojump_clock: Any) -> None:
    """Up to the pivot a journal that raises fails the step before it, and all is undone, the traffic included."""
    await two(rig)
    journal = use_journal(rig, refuses=at(step))
    with pytest.raises(SwapFailed) as caught:
        await rig.engine.swap("m", "2")
    assert isinstance(caught.value.__cause__, JournalFailed)
    assert caught.value.operation.state is SwapState.FAILED
    await check_undone(rig, caught.value.operation)
    undone = [f"undo {name}" for name in reversed(STEPS[: STEPS.index(step)])]
    assert journal.lines() == [*BOUNDARIES[: BOUNDARIES.index(step)], *undone, "failed"]


@pytest.mark.parametrize("step", BOUNDARIES[3:])
async def test_behind_the_pivot_a_journal_that_fails_does_not_stop_the_swap(
    rig: Rig, step: str, autojump_clock: Any
) -> None:
    """The swap goes forward and says what was not written down."""
    await two(rig)
    use_journal(rig, refuses=at(step))
    operation = await rig.engine.swap("m", "2")
    assert operation.state is SwapState.COMPLETED
    assert "no space left" in str(operation.error_message)
    assert rig.cast.open() == ["m/2"]


async def test_an_end_that_cannot_be_written_is_an_end(rig: Rig, autojump_clock: Any) -> None:
    """What happened has happened: the swap is complete, with a message."""
    await two(rig)
    use_journal(rig, refuses=lambda record: record.operation.state.ended)
    operation = await rig.engine.swap("m", "2")
    assert operation.state is SwapState.COMPLETED
    assert "no space left" in str(operation.error_message)


@pytest.mark.parametrize("step", BOUNDARIES[:3])
async def test_what_cannot_be_written_down_is_undone_all_the_same(rig: Rig, step: str, autojump_clock: Any) -> None:
    """A compensation waits for no journal: a recovery from the record before it would do the same."""
    await two(rig)
    use_journal(rig, refuses=lambda record: at(step)(record) or not record.progress.forward)
    with pytest.raises(SwapFailed) as caught:
        await rig.engine.swap("m", "2")
    assert all(record.compensation == "done" for record in caught.value.operation.steps)
    await check_undone(rig, caught.value.operation)


def break_router(rig: Rig, monkeypatch: pytest.MonkeyPatch, *, to: str, times: int) -> list[float]:
    """Let the next moves of the traffic to a version fail, and return when they did."""
    router, failed = rig.engine._router, []
    shift = router.shift

    def broken(moves: Any) -> None:
        if to in moves.values() and len(failed) < times:
            failed.append(trio.current_time())
            raise Broken("the router is stuck")
        shift(moves)

    monkeypatch.setattr(router, "shift", broken)
    return failed


async def test_a_router_that_cannot_be_updated_fails_the_swap(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, autojump_clock: Any
) -> None:
    """The traffic stays where it is, and everything else is undone."""
    await two(rig)
    break_router(rig, monkeypatch, to="2", times=1)
    with pytest.raises(SwapFailed, match="the router is stuck") as caught:
        await rig.engine.swap("m", "2")
    await check_undone(rig, caught.value.operation)
    operation = await rig.engine.swap("m", "2")
    assert operation.state is SwapState.COMPLETED


@pytest.mark.parametrize("failures", [1, 3])
async def test_a_compensation_that_fails_is_tried_again(
    rig: Rig, failures: int, monkeypatch: pytest.MonkeyPatch, autojump_clock: Any
) -> None:
    """After some failures it succeeds, with a growing pause between; the swap is undone as if nothing had been."""
    await two(rig)
    use_journal(rig, refuses=at("drain"))
    failed = break_router(rig, monkeypatch, to="1", times=failures)
    with pytest.raises(SwapFailed) as caught:
        await rig.engine.swap("m", "2")
    assert trio.current_time() == pytest.approx({1: 0.1, 3: 0.7}[failures])
    assert len(failed) == failures
    assert all(step.compensation == "done" for step in caught.value.operation.steps)
    assert "no space left" in caught.value.operation.error_message
    await check_undone(rig, caught.value.operation)


async def test_a_compensation_that_fails_for_good_is_reported(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, autojump_clock: Any
) -> None:
    """After four tries the swap says what it could not undo and why it had to, what stands, and what can be done."""
    await two(rig)
    use_journal(rig, refuses=at("drain"))
    failed = break_router(rig, monkeypatch, to="1", times=100)
    with pytest.raises(SwapFailed) as caught:
        await rig.engine.swap("m", "2")
    operation = caught.value.operation
    assert len(failed) == 4
    assert [step.compensation for step in operation.steps] == ["done", "failed", "failed", "failed"]
    assert "being undone because of no space left" in operation.error_message
    assert operation.aftermath is not None
    assert operation.aftermath.stands == ("m/2 has the traffic", "m/1 is ready", "m/2 is ready")
    assert "could not give the traffic back: Broken: the router is stuck" in operation.aftermath.does_not
    assert operation.aftermath.remedies == ('m/2 serves on until await engine.swap("m", "1") brings m/1 back',)
    assert await serving(rig) == "2"
    assert rig.engine._slots.everybody() == ()
    monkeypatch.undo()
    use_journal(rig)
    assert (await rig.engine.swap("m", "1")).state is SwapState.COMPLETED  # as the remedy says


async def test_a_journal_that_is_gone_for_good_leaves_the_traffic_where_it_was(rig: Rig, autojump_clock: Any) -> None:
    """Nothing can be written any more, from the shift on: the swap fails, the old version serves, the slot is free."""
    await two(rig)
    broken = [False]

    def refuses(record: Any) -> bool:
        broken[0] = broken[0] or at("shift")(record)
        return broken[0]

    use_journal(rig, refuses=refuses)
    with pytest.raises(SwapFailed):
        await rig.engine.swap("m", "2")
    assert await serving(rig) == "1"
    assert rig.engine._slots.everybody() == ()
    assert rig.engine.statistics().swaps_open == 0


@pytest.mark.parametrize("heir", ["1", "3"])
async def test_a_new_version_that_crashes_at_its_pivot_has_not_been_swapped_to(
    rig: Rig, heir: str, autojump_clock: Any
) -> None:
    """Whoever has its traffic meanwhile, the old version or a third one that is newer: the old one gets it back."""
    await two(rig, fatal_on=lambda inputs: "poison" in inputs)
    if heir == "3":
        await rig.ready("m", "3")
    use_journal(rig, slow_for=at("drain"))
    swap = Outcome(rig.engine.swap, "m", "2")
    async with running(swap):
        await trio.sleep(5)
        with pytest.raises(VersionCrashed):
            await rig.engine.infer("m", {"poison": 1}, version="2")
        assert await serving(rig) == heir
    assert isinstance(swap.error, SwapRolledBack)
    assert "stopped taking requests at its pivot" in str(swap.error)
    assert await serving(rig) == "1"
    assert rig.cast.of("m", "1")[0].closed == 0


async def test_a_group_too_large_to_be_written_down_can_be_called_off(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, autojump_clock: Any
) -> None:
    """While it waits in line, and as it begins: its waiters hear of it, and nothing is left."""
    await two(rig)
    rig.takes("load m/2", 5.0)
    first, group = Outcome(rig.engine.swap, "m", "2"), Outcome(rig.engine.swap_group, {"m": "2"}, on_busy="queue")
    async with running(first, group):
        monkeypatch.setattr(wire, "RECORD_BYTES_MAX", 10)
        rig.engine.abort(rig.engine.swaps()[-1].id)
        await settle()
        assert isinstance(group.error, SwapRolledBack)
        monkeypatch.undo()
    assert first.value.state is SwapState.COMPLETED
    monkeypatch.setattr(wire, "RECORD_BYTES_MAX", 10)
    with pytest.raises(SwapFailed, match="too long to be written down"):
        await rig.engine.swap_group({"m": "1"})
    assert rig.engine._slots.everybody() == ()


# --- one at a time --------------------------------------------------------------------------------------------------


async def test_a_model_has_one_swap_before_its_pivot(rig: Rig, autojump_clock: Any) -> None:
    """A second order is refused with the first one's name, and nothing of it begins."""
    await two(rig)
    rig.add("m", "3")
    rig.takes("load m/2", 5.0)
    swap_id = rig.engine.start_swap("m", "2")
    for at_s in (0.0, 1.0):
        await trio.sleep(at_s)
        with pytest.raises(SwapInProgress, match=rf"m is being swapped to 2 by swap {swap_id}"):
            await rig.engine.swap("m", "3")
    assert len(rig.engine.swaps("m")) == 1
    with pytest.raises(SwapInProgress, match=swap_id):
        await rig.engine.unload("m", "1", force=True)


async def test_behind_the_pivot_the_next_swap_may_begin(rig: Rig, autojump_clock: Any) -> None:
    """Three versions live: one that drains, one that drains after it, and the newest with the traffic."""
    await two(rig)
    rig.add("m", "3")
    first, swap = rig.lease(), Outcome(rig.engine.swap, "m", "2")
    async with running(swap):
        second, again = rig.lease(), Outcome(rig.engine.swap, "m", "3")
        async with running(again):
            assert rig.engine.loaded_versions("m") == ("1", "2", "3")
            assert await serving(rig) == "3"
            first.release()
            second.release()
    assert [outcome.value.state for outcome in (swap, again)] == [SwapState.COMPLETED] * 2
    assert rig.cast.open() == ["m/3"]


async def test_swaps_of_different_models_do_not_wait_for_each_other(rig: Rig, autojump_clock: Any) -> None:
    """Ten models are swapped in the time that the slowest takes."""
    models = [f"m{n}" for n in range(10)]
    for n, model in enumerate(models):
        await rig.ready(model, "1")
        rig.add(model, "2")
        rig.takes(f"load {model}/2", float(n))
    swaps = [Outcome(rig.engine.swap, model, "2") for model in models]
    began_s = trio.current_time()
    async with running(*swaps):
        pass
    assert [round(swap.ended_s - began_s, 6) for swap in swaps] == [float(n) for n in range(10)]


# --- who ordered it -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("work", ["load", "warm"])
async def test_a_swap_whose_caller_leaves_before_the_pivot_is_undone(rig: Rig, work: str, autojump_clock: Any) -> None:
    """Cancelled, the caller is free at once, and the swap is undone behind his back."""
    await two(rig, warmup=[{}])
    rig.takes(f"{work} m/2", 5.0)
    with trio.move_on_after(2) as scope:
        await rig.engine.swap("m", "2")
    assert (scope.cancelled_caught, trio.current_time()) == (True, 2.0)
    await settle()
    (operation,) = rig.engine.swaps("m")
    assert operation.state is SwapState.CANCELLED
    await trio.sleep(10)
    await check_undone(rig, operation)
    assert rig.cast.open() == ["m/1"]


async def test_a_swap_whose_caller_leaves_behind_the_pivot_goes_on(rig: Rig, autojump_clock: Any) -> None:
    """The drain belongs to the engine."""
    await two(rig)
    lease = rig.lease()
    with trio.move_on_after(2) as scope:
        await rig.engine.swap("m", "2")
    assert scope.cancelled_caught
    lease.release()
    await settle()
    assert rig.engine.swaps("m")[0].state is SwapState.COMPLETED
    assert await serving(rig) == "2"


async def test_a_caller_who_leaves_while_a_failed_swap_is_undone_is_free_at_once(rig: Rig, autojump_clock: Any) -> None:
    """Cancellation comes out as cancellation, and the compensation goes on to its end."""
    await two(rig)
    use_journal(rig, refuses=at("shift"))
    rig.takes("close m/2", 5.0)
    with trio.move_on_after(2) as scope:
        await rig.engine.swap("m", "2")
    assert (scope.cancelled_caught, trio.current_time()) == (True, 2.0)
    await until(lambda: rig.engine.swaps("m")[0].state.ended)
    assert rig.engine.swaps("m")[0].state is SwapState.FAILED
    await check_undone(rig, rig.engine.swaps("m")[0])


async def test_a_swap_that_was_only_started_can_be_waited_for(rig: Rig, autojump_clock: Any) -> None:
    """`wait_for_swap` returns or raises what `swap` would have, before and after the end; leaving it harms nothing."""
    await two(rig)
    rig.add("m", "3", load_error=Broken("no"))
    rig.takes("load m/2", 5.0)
    swap_id = rig.engine.start_swap("m", "2")
    with trio.move_on_after(1):
        await rig.engine.wait_for_swap(swap_id)
    for _ in range(2):
        operation = await rig.engine.wait_for_swap(swap_id)
        assert (operation.state, operation.id, trio.current_time()) == (SwapState.COMPLETED, swap_id, 5.0)
    swap_id = rig.engine.start_swap("m", "3")
    for _ in range(2):
        with pytest.raises(SwapFailed):
            await rig.engine.wait_for_swap(swap_id)
    with pytest.raises(SwapNotFound, match="nonsense"):
        await rig.engine.wait_for_swap("nonsense")


# --- history --------------------------------------------------------------------------------------------------------


async def test_past_swaps_are_remembered_by_model(rig: Rig, autojump_clock: Any) -> None:
    """`swaps` lists them oldest first, of one model or of all, and no more than the limit."""
    for model in ("a", "b"):
        await rig.ready(model, "1")
        rig.add(model, "2")
    for to in ("2", "1", "2"):
        await rig.engine.swap("a", to)
    await rig.engine.swap("b", "2")
    assert [(op.model, op.to_version) for op in rig.engine.swaps()] == [("a", "2"), ("a", "1"), ("a", "2"), ("b", "2")]
    assert [op.to_version for op in rig.engine.swaps("a", limit=2)] == ["1", "2"]
    assert rig.engine.swaps("a", limit=0) == ()
    assert rig.engine.swaps("nobody") == ()


async def test_the_history_is_bounded(rig: Rig, monkeypatch: pytest.MonkeyPatch, autojump_clock: Any) -> None:
    """Only so many ended swaps are kept, the newest ones: some whole, and of older ones what the journal has."""
    from changeover.runtime import history, ordering

    monkeypatch.setattr(ordering, "SWAPS_KEPT", 5)
    monkeypatch.setattr(history, "HISTORY_MAX", 3)
    await rig.ready()
    rig.add("m", "2")
    ids = [(await rig.engine.swap("m", "2" if n % 2 == 0 else "1")).id for n in range(12)]
    assert [op.id for op in rig.engine.swaps("m")] == ids[-8:]
    assert len(rig.engine._sagas) == 5
