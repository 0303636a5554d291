"""Rolling a swap back: before, in and behind every step; and the end of the engine in the middle of it."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from changeover import Drain, Shift, SwapState, VersionKey
from changeover.core.plan import Step
from changeover.errors import (
    ChangeoverError,
    EngineClosed,
    SwapFailed,
    SwapNotAllowed,
    SwapNotDone,
    SwapNotFound,
    SwapRolledBack,
    VersionCrashed,
)
from changeover_sim import open_world
from tests.support.journals import BOUNDARIES, at, use_journal
from tests.support.models import Broken
from tests.support.rig import Outcome, Rig, later, open_rig, running, settle

STEPS = [step.value for step in Step]


async def two(rig: Rig, **fields: Any) -> None:
    """Make version 1 serve and register version 2 with `fields`."""
    await rig.ready("m", "1")
    rig.add("m", "2", **fields)


async def serving(rig: Rig) -> str:
    """Return the version that answers now."""
    return (await rig.engine.infer("m", {})).version


def swapping(rig: Rig, **options: Any) -> Outcome:
    """Return a swap from 1 to 2, to be run beside the test."""
    return Outcome(rig.engine.swap, "m", "2", **options)


def the_id(rig: Rig) -> str:
    """Return the id of the only swap."""
    (operation,) = rig.engine.swaps("m")
    return operation.id


async def check_back(rig: Rig, swap: Outcome) -> None:
    """Check that a swap was rolled back, and that nothing is left of it."""
    assert isinstance(swap.error, SwapRolledBack)
    assert swap.error.operation.state is SwapState.ROLLED_BACK
    assert await serving(rig) == "1"
    assert rig.engine.loaded_versions("m") == ("1",)
    assert rig.cast.open() == ["m/1"]
    assert len(rig.cast.of("m", "1")) == 1
    assert rig.engine._slots.everybody() == ()


@pytest.mark.parametrize("work", ["load", "warm"])
async def test_a_rollback_while_the_new_version_comes_up(rig: Rig, work: str, autojump_clock: Any) -> None:
    """The swap is undone at once; what the thread still brings is closed on arrival."""
    await two(rig, warmup=[{}])
    rig.takes(f"{work} m/2", 5.0)
    swap = swapping(rig)
    async with running(swap):
        await trio.sleep(2)
        operation = await rig.engine.rollback(the_id(rig))
        assert (operation.state, trio.current_time()) == (SwapState.ROLLED_BACK, 2.0)
    assert [step.outcome for step in operation.steps][-1] == "interrupted"
    await trio.sleep(10)
    await check_back(rig, swap)


async def test_a_rollback_while_the_old_version_drains(rig: Rig, autojump_clock: Any) -> None:
    """The very same old model takes the traffic again, its holders notice nothing, and the new one is unloaded."""
    await two(rig)
    lease, swap = rig.lease(), swapping(rig)
    async with running(swap):
        assert await serving(rig) == "2"
        operation = await rig.engine.rollback(the_id(rig))
        assert operation.state is SwapState.ROLLED_BACK
        assert lease.infer({})["version"] == "1"
    lease.release()
    await settle()
    await check_back(rig, swap)


async def test_a_rollback_waits_for_who_holds_the_new_version(rig: Rig, autojump_clock: Any) -> None:
    """What began on the new version ends on it; new requests are on the old one meanwhile."""
    await two(rig)
    old, swap = rig.lease(), swapping(rig)
    async with running(swap):
        new = rig.lease()
        rollback = Outcome(rig.engine.rollback, the_id(rig))
        async with running(rollback):
            await trio.sleep(5)
            assert (rollback.over, await serving(rig), new.infer({})["version"]) == (False, "1", "2")
            new.release()
    assert rollback.value.state is SwapState.ROLLED_BACK
    old.release()
    await settle()
    await check_back(rig, swap)


async def test_a_rollback_leaves_a_new_version_that_is_held_too_long_in_quarantine(
    rig: Rig, autojump_clock: Any
) -> None:
    """The reverse drain ends at its deadline, never in another rollback."""
    await two(rig)
    old, swap = rig.lease(), swapping(rig, drain=Drain(deadline_s=5.0))
    async with running(swap):
        new = rig.lease()
        operation = await rig.engine.rollback(the_id(rig))
        assert (operation.state, trio.current_time()) == (SwapState.ROLLED_BACK, 5.0)
        assert rig.engine.load_info("m", "2").status.value == "quarantined"
    new.release()
    old.release()
    await settle()
    await check_back(rig, swap)


async def test_a_rollback_of_what_is_done_is_a_swap_back(rig: Rig, autojump_clock: Any) -> None:
    """After the end the old version is loaded again and takes over; the new operation names the one it takes back."""
    await two(rig)
    operation = await rig.engine.swap("m", "2")
    back = await rig.engine.rollback(operation.id)
    assert (back.from_version, back.to_version, back.state) == ("2", "1", SwapState.COMPLETED)
    assert (back.rollback_of, back.id != operation.id) == (operation.id, True)
    assert await serving(rig) == "1"
    assert rig.engine.swap_status(operation.id).state is SwapState.COMPLETED


async def test_a_rollback_behind_the_point_of_no_return_waits_and_swaps_back(rig: Rig, autojump_clock: Any) -> None:
    """While the old model is being closed nothing turns the swap round: it ends, and then the old one is loaded."""
    await two(rig)
    rig.takes("close m/1", 5.0)
    swap = swapping(rig)
    async with running(swap):
        await trio.sleep(2)
        back = await rig.engine.rollback(the_id(rig))
    assert (swap.value.state, back.rollback_of, trio.current_time()) == (SwapState.COMPLETED, swap.value.id, 5.0)
    assert await serving(rig) == "1"
    assert len(rig.cast.of("m", "1")) == 2


async def test_a_rollback_out_of_quarantine_loads_nothing(rig: Rig, autojump_clock: Any) -> None:
    """An old version that is still there is given back as it is."""
    await two(rig)
    lease = rig.lease()
    operation = await rig.engine.swap("m", "2", drain=Drain(deadline_s=1.0))
    await rig.engine.rollback(operation.id)
    assert (await serving(rig), len(rig.cast.of("m", "1"))) == ("1", 1)
    lease.release()


@pytest.mark.parametrize("step", BOUNDARIES)
async def test_a_rollback_at_any_boundary_leaves_one_version_serving(rig: Rig, step: str, autojump_clock: Any) -> None:
    """Ordered while the record of a boundary is being written, the rollback is undone from there, or comes after."""
    await two(rig)
    journal = use_journal(rig, slow_for=at(step))
    swap = swapping(rig)
    async with running(swap):
        await trio.sleep(5)
        await rig.engine.rollback(the_id_of_first(rig))
    assert await serving(rig) == "1"
    assert rig.engine.loaded_versions("m") == ("1",)
    if step == "unload":
        assert swap.value.state is SwapState.COMPLETED
    else:
        undone = [f"undo {name}" for name in reversed(STEPS[: STEPS.index(step)])]
        assert journal.lines() == [*BOUNDARIES[: BOUNDARIES.index(step) + 1], *undone, "rolled_back"]


def the_id_of_first(rig: Rig) -> str:
    """Return the id of the oldest swap."""
    return rig.engine.swaps("m")[0].id


async def test_traffic_that_comes_to_the_new_version_while_a_swap_is_undone_goes_back(
    rig: Rig, autojump_clock: Any
) -> None:
    """Both versions crash on trial; while the undoing is written down, first the new one is there again, then the old.

    Found by the simulator (canary-storm).
    """
    poison = {"fatal_on": lambda inputs: "poison" in inputs}
    await rig.ready("m", "1", **poison)
    rig.add("m", "2", **poison)
    use_journal(rig, slow_for=at("warm", forward=False))
    swap = swapping(rig, plan=Shift.canary(((0.5, 60.0),), guard=None))
    async with running(swap):
        await trio.sleep(1.0)
        rig.takes("load m/1", 5.0)
        for version in "12":
            with pytest.raises(VersionCrashed):
                await rig.engine.infer("m", {"poison": 1}, version=version)
    assert swap.error.operation.aftermath is None, swap.error.operation.error_message
    assert await serving(rig) == "1"
    await trio.sleep(100)
    assert rig.engine.loaded_versions("m") == ("1",)


async def test_two_rollbacks_of_one_swap_are_one(rig: Rig, autojump_clock: Any) -> None:
    """Whoever orders it second waits for the first."""
    await two(rig)
    old, swap = rig.lease(), swapping(rig)
    async with running(swap):
        new = rig.lease()
        rollbacks = [Outcome(rig.engine.rollback, the_id(rig)) for _ in range(2)]
        async with running(*rollbacks):
            assert not any(rollback.over for rollback in rollbacks)
            new.release()
    assert rollbacks[0].value == rollbacks[1].value
    old.release()
    await settle()
    await check_back(rig, swap)


async def test_what_did_not_happen_cannot_be_rolled_back(rig: Rig, autojump_clock: Any) -> None:
    """A swap that failed, and one that was rolled back, say so."""
    await two(rig, load_error=Broken("no"))
    with pytest.raises(SwapFailed) as caught:
        await rig.engine.swap("m", "2")
    with pytest.raises(SwapNotAllowed, match=r"did not happen \(failed\)"):
        await rig.engine.rollback(caught.value.operation.id)


async def test_an_unknown_swap_cannot_be_rolled_back(rig: Rig, autojump_clock: Any) -> None:
    """The message has the id."""
    with pytest.raises(SwapNotFound, match="nonsense"):
        await rig.engine.rollback("nonsense")
    with pytest.raises(SwapNotFound, match="nonsense"):
        rig.engine.swap_status("nonsense")


async def test_a_swap_that_is_no_longer_the_newest_cannot_be_rolled_back(rig: Rig, autojump_clock: Any) -> None:
    """After 1 -> 2 -> 3 taking back the first one makes no sense; nothing happens."""
    await two(rig)
    rig.add("m", "3")
    first = await rig.engine.swap("m", "2")
    await rig.engine.swap("m", "3")
    with pytest.raises(SwapNotAllowed, match="active version is 3"):
        await rig.engine.rollback(first.id)
    assert await serving(rig) == "3"
    assert len(rig.engine.swaps("m")) == 2


async def test_a_younger_swap_keeps_an_older_one_from_being_turned_round(rig: Rig, autojump_clock: Any) -> None:
    """While 1 still drains, 2 -> 3 has begun: the rollback of 1 -> 2 waits for its end and is then refused."""
    await two(rig)
    rig.add("m", "3")
    lease, swap = rig.lease(), swapping(rig)
    async with running(swap):
        await rig.engine.swap("m", "3")
        rollback = Outcome(rig.engine.rollback, the_id_of_first(rig))
        async with running(rollback):
            await trio.sleep(1)
            assert not rollback.over
            lease.release()
    assert isinstance(rollback.error, SwapNotAllowed)
    assert swap.value.state is SwapState.COMPLETED
    assert await serving(rig) == "3"


async def test_a_cancelled_rollback_goes_on(rig: Rig, autojump_clock: Any) -> None:
    """Who ordered it may leave."""
    await two(rig)
    lease, swap = rig.lease(), swapping(rig)
    async with running(swap):
        new = rig.lease()
        with trio.move_on_after(1) as scope:
            await rig.engine.rollback(the_id(rig))
        assert scope.cancelled_caught
        new.release()
        lease.release()
    await settle()
    await check_back(rig, swap)


async def test_a_rollback_whose_old_version_does_not_come_back_keeps_the_new_one(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, autojump_clock: Any
) -> None:
    """Ordered in the moment in which the old version was drained: it cannot be loaded again, so the new one stays."""
    await two(rig)
    lease, swap = rig.lease(), swapping(rig)
    async with running(swap):
        saga = rig.engine._saga(the_id(rig))
        version = rig.engine._versions[VersionKey("m", "1")]
        settle_drain = version._settle_drain

        def and_turn(result: Any) -> None:
            settle_drain(result)
            saga.turn(SwapState.ROLLED_BACK)

        monkeypatch.setattr(version, "_settle_drain", and_turn)
        rig.script("m", "1").load_error = Broken("the file is gone")
        lease.release()
    assert isinstance(swap.error, SwapFailed)
    assert "could not" in str(swap.error)
    assert await serving(rig) == "2"
    assert rig.engine.loaded_versions("m") == ("2",)


async def test_a_rollback_while_a_failed_swap_is_undone_hears_of_the_failure(rig: Rig, autojump_clock: Any) -> None:
    """It is going back already; the rollback waits and tells how that ended."""
    await two(rig)
    use_journal(rig, refuses=at("shift"))
    rig.takes("close m/2", 5.0)
    swap = swapping(rig)
    async with running(swap):
        await trio.sleep(1)
        with pytest.raises(SwapFailed):
            await rig.engine.rollback(the_id(rig))
    assert isinstance(swap.error, SwapFailed)
    assert await serving(rig) == "1"


# --- the end of the engine ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("direction", "step"), [*(("forward", step) for step in BOUNDARIES), *(("backward", step) for step in STEPS[:3])]
)
async def test_every_swap_ends_with_its_engine(step: str, direction: str, autojump_clock: Any) -> None:
    """Closed while a swap stands at any boundary, forward or back: its caller hears of it, and all models close."""
    async with open_world() as world, trio.open_nursery() as nursery:
        async with open_rig(world=world) as rig:
            await two(rig)
            forward = direction == "forward"
            use_journal(
                rig,
                refuses=None if forward else at("shift"),
                slow_for=at(step, forward=forward),
            )
            swap = swapping(rig)
            nursery.start_soon(swap.run)
            await trio.sleep(5)
        await settle()
        assert swap.over
        operation = rig.engine.swap_status(the_id(rig))
        assert operation.state.ended
        if swap.error is not None:
            assert isinstance(swap.error, SwapNotDone | EngineClosed)
    assert rig.cast.open() == []


@pytest.mark.parametrize("what", ["journal", "journal back", "close", "close of the new version"])
async def test_a_swap_that_hangs_does_not_hold_up_the_end_of_the_engine(what: str, autojump_clock: Any) -> None:
    """Whatever never answers, forward or back, costs no more than the time that closing may take."""
    hang = trio.Event()
    async with open_world() as world, trio.open_nursery() as nursery:
        nursery.start_soon(later, 1_000.0, hang.set)
        async with open_rig(world=world, close_timeout_s=3.0) as rig:
            await two(rig)
            back = what in ("journal back", "close of the new version")
            journal = use_journal(rig, refuses=at("shift") if back else None)
            journal.slow_s = 1_000.0
            if what.startswith("journal"):
                journal.slow_for = at("load", forward=not back)
            rig.takes("close m/2" if back else "close m/1", hang)
            swap_id = rig.engine.start_swap("m", "2")
            await settle()
            began_s = trio.current_time()
        assert trio.current_time() - began_s <= 10.0
        assert rig.engine.swap_status(swap_id).state.ended
    assert rig.cast.open() == []


async def test_a_new_model_whose_close_hangs_does_not_hang_the_swap(autojump_clock: Any) -> None:
    """Undoing a swap waits for the new model's `close` for a bounded time, and then says so."""
    hang = trio.Event()
    async with trio.open_nursery() as nursery, open_rig() as rig:
        nursery.start_soon(later, 1_000.0, hang.set)
        await two(rig)
        use_journal(rig, refuses=at("shift"))
        rig.takes("close m/2", hang)
        with pytest.raises(SwapFailed):
            await rig.engine.swap("m", "2")
        assert trio.current_time() < 500.0
        assert await serving(rig) == "1"
        hang.set()


async def test_an_engine_that_is_closed_starts_no_swap(autojump_clock: Any) -> None:
    """Neither a swap nor a rollback is begun behind the block."""
    async with open_rig() as rig:
        await two(rig)
        operation = await rig.engine.swap("m", "2")
    for call in (
        lambda: rig.engine.swap("m", "1"),
        lambda: rig.engine.rollback(operation.id),
    ):
        with pytest.raises(EngineClosed):
            await call()
    with pytest.raises(ChangeoverError):
        rig.engine.start_swap("m", "1")
    assert rig.engine.swap_status(operation.id).state is SwapState.COMPLETED


async def test_a_drain_gives_nothing_back_that_younger_swaps_have_moved_there_and_back(
    rig: Rig, autojump_clock: Any
) -> None:
    """Its version has the traffic again, by a younger swap: the old drain that is out of time does not take it."""
    for version in "123":
        rig.add("m", version)
    await rig.engine.load("m", "3")
    held = rig.lease()
    oldest = Outcome(rig.engine.swap, "m", "1", drain=Drain(5.0, "rollback"))
    async with running(oldest):
        await rig.engine.swap("m", "2")
        youngest = await rig.engine.swap("m", "1")
        assert youngest.state is SwapState.COMPLETED
        await trio.sleep(10.0)
        assert rig.engine.is_active("m", "1")
        held.release()
    assert oldest.value.state is SwapState.COMPLETED
