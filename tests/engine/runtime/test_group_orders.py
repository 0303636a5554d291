"""Orders for groups that meet others: they wait, are refused, take the place of others, or are called off."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from changeover import Drain, Shift, SwapState
from changeover.errors import (
    EngineClosed,
    Superseded,
    SwapFailed,
    SwapInProgress,
    SwapNotAllowed,
    SwapNotDone,
    SwapRolledBack,
)
from changeover.runtime.slots import WAITING_MAX
from changeover_sim import open_world
from tests.support.groups import (
    PAIR,
    TRIO,
    check_group_undone,
    check_one_side,
    mixes,
    shares,
    snapshots,
    swapping,
    two_of_each,
    versions,
)
from tests.support.journals import at, use_journal
from tests.support.rig import Outcome, Rig, open_rig, running, settle

HALF = Shift.canary([(0.5, 5.0)], confirm_s=0.0)


async def three_of_each(rig: Rig, models: tuple[str, ...] = TRIO, load_s: float = 1.0) -> None:
    """Make version 1 of each model serve, and register two more, which take a while to load."""
    await two_of_each(rig, models)
    for model in models:
        rig.add(model, "3")
        for version in "23":
            rig.takes(f"load {model}/{version}", load_s)


def states(*swaps: Outcome) -> list[SwapState]:
    """Return how swaps have ended."""
    return [(swap.error.operation if swap.error is not None else swap.value).state for swap in swaps]


# --- queue ----------------------------------------------------------------------------------------------------------


async def test_groups_that_cross_have_their_turn_one_after_the_other(rig: Rig, autojump_clock: Any) -> None:
    """Each begins when the one before it is at its pivot, in the order of the orders; a single in the ring as well."""
    await two_of_each(rig, TRIO)
    orders = [PAIR, ("b", "c"), ("a", "c"), ("a",), TRIO]
    for number, models in enumerate(orders):
        for model in models:
            rig.add(model, f"g{number}")
            rig.takes(f"load {model}/g{number}", 1.0)
    swaps = [swapping(rig, models, f"g{number}", on_busy="queue") for number, models in enumerate(orders)]
    async with running(*swaps):
        pass
    assert states(*swaps) == [SwapState.COMPLETED] * 5
    assert [swap.ended_s for swap in swaps] == [1.0, 2.0, 3.0, 4.0, 5.0]
    assert [swap.value.from_version for swap in swaps] == ["1+1", "g0+1", "g0+g1", "g2", "g3+g1+g2"]
    check_one_side(rig, "g4", TRIO)


async def test_a_group_holds_nothing_while_it_waits(rig: Rig, autojump_clock: Any) -> None:
    """Its free model serves as before, and who wants that one waits behind the group or is refused for its sake."""
    await three_of_each(rig)
    first = swapping(rig, ("a",))
    single = swapping(rig, ("b",), "3", on_busy="queue")
    async with running(first):
        group_id = rig.engine.start_group_swap({"a": "3", "b": "2"}, on_busy="queue")
        with pytest.raises(SwapInProgress, match=f"b is being swapped to 2 by swap {group_id}"):
            await rig.engine.swap("b", "3")
        assert rig.engine.swap_status(group_id).state is SwapState.NOT_STARTED
        async with running(single):
            await rig.engine.swap("c", "2")
            assert (await rig.engine.infer("b", {})).version == "1"
    assert rig.engine.swap_status(group_id).from_version == "2+1"
    assert single.value.from_version == "2"
    assert shares(rig) == {"a": {"3": 1.0}, "b": {"3": 1.0}, "c": {"2": 1.0}}


@pytest.mark.parametrize("way", ["abort", "rollback", "cancel"])
async def test_a_group_that_waits_can_be_called_off(rig: Rig, way: str, autojump_clock: Any) -> None:
    """It ends at once, without a step; whoever waited behind it for a free model begins."""
    await three_of_each(rig)
    first, scope = swapping(rig, ("a",)), trio.CancelScope()
    single = swapping(rig, ("b",), on_busy="queue")

    async def ordered() -> None:
        with scope:
            await rig.engine.swap_group({"a": "3", "b": "3"}, on_busy="queue")

    group = Outcome(ordered)
    async with running(first, group, single):
        await trio.sleep(0.5)
        group_id = next(op.id for op in rig.engine.swaps("a") if op.model == "a+b")
        if way == "cancel":
            scope.cancel()
        elif way == "abort":
            rig.engine.abort(group_id)
        else:
            await rig.engine.rollback(group_id)
        await settle()
        assert group.over
    assert (isinstance(group.error, SwapRolledBack), single.ended_s) == (way != "cancel", 1.5)
    operation = rig.engine.swap_status(group_id)
    assert operation.state is (SwapState.ROLLED_BACK if way == "rollback" else SwapState.CANCELLED)
    assert operation.steps == ()
    assert await versions(rig) == "22"


async def test_so_many_may_wait_for_a_model_and_a_group_counts_for_each(rig: Rig, autojump_clock: Any) -> None:
    """The next group is refused for the model whose line is full, though the other one has room."""
    await three_of_each(rig)
    rig.takes("load b/2", 100.0)
    rig.engine.start_swap("b", "2")
    ids = [rig.engine.start_group_swap({"a": "2", "b": "3"}, on_busy="queue") for _ in range(WAITING_MAX)]
    with pytest.raises(SwapInProgress, match=f"{WAITING_MAX} swaps of b wait already"):
        rig.engine.start_group_swap({"b": "3", "c": "2"}, on_busy="queue")
    for swap_id in ids:
        rig.engine.abort(swap_id)
    rig.engine.abort(rig.engine.swaps("b", limit=200)[0].id)
    await trio.sleep(200.0)
    check_one_side(rig, "1", TRIO)


async def test_a_group_that_fails_lets_who_waits_go_on(rig: Rig, autojump_clock: Any) -> None:
    """The groups behind it find the versions of before."""
    await three_of_each(rig)
    rig.script("b", "2").load_error = RuntimeError("no")
    failing, after = swapping(rig), swapping(rig, ("b", "c"), "3", on_busy="queue")
    async with running(failing, after):
        pass
    assert isinstance(failing.error, SwapFailed)
    assert (after.value.from_version, after.ended_s) == ("1+1", 2.0)
    assert await versions(rig, TRIO) == "133"


# --- supersede ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at_s", [0.5, 2.0, 5.5], ids=["in its load", "in its trial", "in its confirmation"])
async def test_a_single_takes_the_place_of_a_group(rig: Rig, at_s: float, autojump_clock: Any) -> None:
    """The whole group is undone, in one step; then the newer order has its turn with the one model."""
    await three_of_each(rig)
    seen, plan = snapshots(rig), Shift.canary([(0.5, 4.0)], confirm_s=4.0)
    group, single = swapping(rig, TRIO, plan=plan), swapping(rig, ("b",), "3", on_busy="supersede")
    async with running(group):
        await trio.sleep(at_s)
        async with running(single):
            assert mixes(seen) == []
    assert isinstance(group.error, Superseded)
    assert group.error.operation.superseded_by == single.value.id
    assert single.value.from_version == "1"
    assert await versions(rig, TRIO) == "131"
    assert sorted(rig.cast.open()) == ["a/1", "b/3", "c/1"]


async def test_a_group_takes_the_place_of_all_who_want_one_of_its_models(rig: Rig, autojump_clock: Any) -> None:
    """Singles that run, a group that waits and those behind it; whoever wants something else is left alone."""
    await three_of_each(rig, (*TRIO, "d"), load_s=2.0)
    rig.add("d", "4")
    singles = [swapping(rig, (model,)) for model in "ab"]
    waiting = [swapping(rig, models, "3", on_busy="queue") for models in (("b", "c"), ("c",), ("c", "d"))]
    other, group = swapping(rig, ("d",), "2", on_busy="queue"), swapping(rig, TRIO, on_busy="supersede")
    async with running(*singles, *waiting, other):
        await trio.sleep(1.0)
        async with running(group):
            pass
    ended = [*singles, *waiting]
    assert all(isinstance(swap.error, Superseded) for swap in ended)
    assert {swap.error.operation.superseded_by for swap in ended} == {group.value.id}
    assert (other.value.state, group.value.state) == (SwapState.COMPLETED, SwapState.COMPLETED)
    assert group.value.from_version == "1+1+1"
    check_one_side(rig, "2", (*TRIO, "d"))


async def test_a_group_waits_for_whom_nothing_can_turn_any_more(rig: Rig, autojump_clock: Any) -> None:
    """The single is just being undone for another reason: the newer group begins when that is over."""
    await three_of_each(rig, PAIR)
    use_journal(rig, refuses=at("shift"))
    rig.takes("close b/2", 5.0)
    single = swapping(rig, ("b",))
    group = swapping(rig, PAIR, "3", on_busy="supersede")
    async with running(single):
        await trio.sleep(2.0)
        use_journal(rig)
        async with running(group):
            pass
    assert states(single, group) == [SwapState.FAILED, SwapState.COMPLETED]
    assert group.ended_s == 7.0
    check_one_side(rig, "3")


async def test_the_newest_of_three_groups_wins(rig: Rig, autojump_clock: Any) -> None:
    """Each takes the place of the one before it, and all that was loaded meanwhile is gone."""
    await three_of_each(rig)
    rig.add("a", "4")
    swaps = [
        swapping(rig, TRIO, "2"),
        swapping(rig, TRIO, "3", on_busy="supersede"),
        swapping(rig, ("b", "c"), "2", on_busy="supersede"),
    ]
    async with running(swaps[0]):
        await trio.sleep(0.5)
        async with running(swaps[1]):
            await trio.sleep(0.5)
            async with running(swaps[2]):
                pass
    assert states(*swaps) == [SwapState.SUPERSEDED, SwapState.SUPERSEDED, SwapState.COMPLETED]
    await trio.sleep(10.0)
    assert sorted(rig.cast.open()) == ["a/1", "b/2", "c/2"]


# --- behind the pivot -----------------------------------------------------------------------------------------------


async def test_behind_its_pivot_a_group_is_in_nobodys_way(rig: Rig, autojump_clock: Any) -> None:
    """While its old versions drain, a newer swap of one model begins at once; then nothing takes the group back."""
    await three_of_each(rig, PAIR)
    leases, group = [rig.lease(model) for model in PAIR], swapping(rig)
    async with running(group):
        await trio.sleep(2.0)
        newer = await rig.engine.swap("b", "3", drain=Drain(0.0))
        rollback = Outcome(rig.engine.rollback, rig.engine.swaps("a")[0].id)
        async with running(rollback):
            assert not rollback.over
            for lease in leases:
                lease.release()
    assert isinstance(rollback.error, SwapNotAllowed)
    assert states(group) == [SwapState.COMPLETED]
    assert newer.from_version == "2"
    assert await versions(rig) == "23"


async def test_a_group_that_is_taken_back_in_its_drain_goes_before_who_waits(rig: Rig, autojump_clock: Any) -> None:
    """It needs all of its slots once more; an order that comes meanwhile waits for its end, and finds the old ones."""
    await three_of_each(rig, PAIR)
    lease, group = rig.lease("a"), swapping(rig, PAIR, plan=HALF)
    later_one = swapping(rig, PAIR, "3", on_busy="queue")
    async with running(group):
        await trio.sleep(7.0)
        new = rig.lease("b")
        rollback = Outcome(rig.engine.rollback, rig.engine.swaps("a")[0].id)
        async with running(rollback, later_one):
            await trio.sleep(1.0)
            assert (rollback.over, rig.engine.swap_status(rig.engine.swaps("a")[1].id).steps) == (False, ())
            new.release()
            lease.release()
    assert rollback.value.state is SwapState.ROLLED_BACK
    assert later_one.value.from_version == "1+1"
    check_one_side(rig, "3")


# --- the end of the engine ------------------------------------------------------------------------------------------


async def test_groups_that_run_and_wait_end_with_the_engine(autojump_clock: Any) -> None:
    """Whoever waits for one is told, and nothing stays loaded."""
    async with open_world() as world, trio.open_nursery() as nursery:
        async with open_rig(world=world) as rig:
            await three_of_each(rig)
            swaps = [swapping(rig, models, "2", on_busy="queue") for models in (PAIR, ("b", "c"), ("a", "c"))]
            for swap in swaps:
                nursery.start_soon(swap.run)
                await settle()
        await settle()
        assert all(isinstance(swap.error, SwapNotDone | EngineClosed) for swap in swaps)
        assert all(operation.state.ended for operation in rig.engine.swaps())
    assert rig.cast.open() == []


async def test_a_group_that_was_undone_can_be_followed_by_any_other(rig: Rig, autojump_clock: Any) -> None:
    """No slot of it is left taken, of whichever model."""
    await three_of_each(rig)
    group = swapping(rig, TRIO, plan=HALF)
    async with running(group):
        await trio.sleep(2.0)
        rig.engine.abort(rig.engine.swaps("c")[0].id)
    assert isinstance(group.error, SwapRolledBack)
    await check_group_undone(rig, group.error.operation, TRIO)
    for model in TRIO:
        await rig.engine.swap(model, "3")
    check_one_side(rig, "3", TRIO)
