"""Several models swapped as one: their steps, their one move of the traffic, their drains, and the way back."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
import trio

from changeover import Drain, SwapOperation, SwapState, VersionState
from changeover.core.plan import Step
from changeover.errors import (
    InvalidValue,
    LeaseRevoked,
    ModelNotRegistered,
    SwapInProgress,
    SwapNotAllowed,
    SwapRolledBack,
)
from changeover_sim import open_world
from tests.support.groups import (
    PAIR,
    TRIO,
    check_group_undone,
    check_one_side,
    crash,
    leased,
    mixes,
    shares,
    snapshots,
    swapping,
    to,
    two_of_each,
    versions,
)
from tests.support.journals import BOUNDARIES, at, use_journal
from tests.support.rig import Outcome, Rig, Watch, open_rig, running, settle

STEPS = [step.value for step in Step]


def the_id(rig: Rig) -> str:
    """Return the id of the first swap of `a`."""
    return rig.engine.swaps("a")[0].id


def ends(operation: SwapOperation) -> dict[str, tuple[str | None, bool]]:
    """Return how the drain of each old version ended, and whether it was closed."""
    return {m.model: (m.drain_outcome and m.drain_outcome.result, m.old_unloaded) for m in operation.members}


# --- a group that goes well -----------------------------------------------------------------------------------------


async def test_a_group_goes_through_its_steps(rig: Rig, autojump_clock: Any) -> None:
    """All load side by side, as long as the slowest; drained and unloaded side by side; one operation tells of all."""
    await two_of_each(rig, TRIO, warmup=[{}])
    works = {"load a/2": 2.0, "load b/2": 5.0, "warm c/2": 1.0, "close a/1": 3.0, "close c/1": 2.0}
    for work, seconds in works.items():
        rig.takes(work, seconds)
    operation = await rig.engine.swap_group(to("2", TRIO))
    assert [f"{step.step} {step.outcome} {step.duration_s}" for step in operation.steps] == [
        "validate done 0.0", "load done 5.0", "warm done 0.0", "shift done 0.0", "drain done 0.0", "unload done 3.0",
    ]  # fmt: skip
    assert (operation.model, operation.from_version, operation.to_version) == ("a+b+c", "1+1+1", "2+2+2")
    assert (operation.state, operation.share, operation.old_unloaded) == (SwapState.COMPLETED, 1.0, True)
    assert [str(member) for member in operation.members] == [f"{model} from 1 to 2" for model in TRIO]
    assert ends(operation) == dict.fromkeys(TRIO, ("drained", True))
    assert [rig.engine.swaps(model) for model in TRIO] == [(operation,)] * 3
    assert rig.engine.swaps() == (operation,)
    assert rig.engine.swap_status(operation.id) == operation
    check_one_side(rig, "2", TRIO)


async def test_all_traffic_moves_in_one_step(rig: Rig, autojump_clock: Any) -> None:
    """There is one new snapshot, in which every model has its new version; no snapshot is a mix."""
    await two_of_each(rig, TRIO)
    serial, seen = rig.engine._router.snapshot.serial, snapshots(rig)
    await rig.engine.swap_group(to("2", TRIO))
    assert seen == [{model: {"2": 1.0} for model in TRIO}]
    assert rig.engine._router.snapshot.serial == serial + 1


async def test_models_may_move_to_versions_of_other_names(rig: Rig, autojump_clock: Any) -> None:
    """Each has its own versions, and `from_` says of some of them what must be active."""
    await rig.ready("a", "7")
    await rig.ready("b", "blue")
    rig.add("a", "8")
    rig.add("b", "green")
    with pytest.raises(SwapNotAllowed, match="b/green is not active; the active version is blue"):
        await rig.engine.swap_group({"b": "green", "a": "8"}, from_={"b": "green"})
    operation = await rig.engine.swap_group({"b": "green", "a": "8"}, from_={"b": "blue"})
    assert (operation.model, operation.from_version, operation.to_version) == ("a+b", "7+blue", "8+green")
    assert shares(rig) == {"a": {"8": 1.0}, "b": {"green": 1.0}}


async def test_a_group_of_one_is_a_swap(rig: Rig, autojump_clock: Any) -> None:
    """It ends as the swap of its model would."""
    await two_of_each(rig)
    operation = await rig.engine.swap_group({"a": "2"})
    assert (operation.model, operation.to_version, operation.state) == ("a", "2", SwapState.COMPLETED)
    assert await versions(rig) == "21"


async def test_every_event_is_told_of_every_model(rig: Rig, autojump_clock: Any) -> None:
    """Whoever listens for one model hears the states and steps of the group, with its one id."""
    await two_of_each(rig)
    async with Watch(rig.engine) as watch:
        swap_id = rig.engine.start_group_swap(to("2"))
        await rig.engine.wait_for_swap(swap_id)
        told = [event for event in await watch.read() if event.kind in ("swap_state", "swap_step")]
    assert {event.swap_id for event in told} == {swap_id}
    of = {model: [(e.kind, e.version, dict(e.detail)) for e in told if e.model == model] for model in PAIR}
    assert of["a"] == of["b"]
    assert [detail["state"] for kind, _, detail in of["a"] if kind == "swap_state"] == [
        "loading_new_version", "transitioning", "old_version_draining", "completed",
    ]  # fmt: skip
    assert [d["step"] for kind, _, d in of["a"] if kind == "swap_step" and d["outcome"] == "done"] == STEPS


async def test_a_group_is_one_row_of_the_journal(autojump_clock: Any) -> None:
    """One row from its first boundary to its end; what shall be active changes for all models in one entry."""
    async with open_world() as world:
        world.ports = attrs.evolve(world.ports, journal=world.disk.journal())
        async with open_rig(world=world) as rig:
            await two_of_each(rig)
            operation = await rig.engine.swap_group(to("2"))
        assert len(world.disk.kept().swaps) == 1
        assert world.disk.records()[-1].operation == operation
        assert world.disk.lines()[2:] == [
            "load", "shift", "drain; a: 2; b: 2", "unload", "completed; a: 2; b: 2",
        ]  # fmt: skip


async def test_a_member_that_is_loaded_already_only_gets_the_traffic(rig: Rig, autojump_clock: Any) -> None:
    """The others are loaded; a group that fails leaves it loaded as it was."""
    await two_of_each(rig)
    await rig.engine.load("a", "2")
    rig.takes("load b/2", 5.0)
    swap = swapping(rig)
    async with running(swap):
        await trio.sleep(1.0)
        rig.engine.abort(the_id(rig))
    await trio.sleep(5.0)
    assert (rig.engine.loaded_versions("a"), rig.engine.loaded_versions("b")) == (("1", "2"), ("1",))
    operation = await rig.engine.swap_group(to("2"))
    assert (operation.state, len(rig.cast.of("a", "2"))) == (SwapState.COMPLETED, 1)
    check_one_side(rig, "2")


# --- orders that are refused ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("order", "options", "error", "match"),
    [
        ({"a": "2", "x": "2"}, {}, ModelNotRegistered, "x"),
        ({"a": "2", "b": "3"}, {}, ModelNotRegistered, "b has no version"),
        ({"a": "2", "b": "1"}, {}, SwapNotAllowed, "b/1 is active already; there is nothing to swap"),
        ({"a": "2", "b": "2"}, {"from_": {"b": "2"}}, SwapNotAllowed, "b/2 is not active; the active version is 1"),
        ({"a": "2", "b": "2"}, {"from_": {"c": "1"}}, InvalidValue, "from_ names c, which the group does not swap"),
        ({}, {}, InvalidValue, "at least one"),
        ("ab", {}, InvalidValue, "mapping of models to versions"),
    ],
)
async def test_one_member_that_may_not_be_swapped_keeps_all_from_it(
    rig: Rig, order: Any, options: Any, error: type[Exception], match: str, autojump_clock: Any
) -> None:
    """The order is refused with the reason, nothing has begun, and no model is busy."""
    await two_of_each(rig)
    with pytest.raises(error, match=match):
        await rig.engine.swap_group(order, **options)
    assert rig.engine.swaps() == ()
    assert sorted(rig.cast.open()) == ["a/1", "b/1"]
    check_one_side(rig, "1")


async def test_a_group_whose_model_is_busy_is_refused_with_the_name_of_whom(rig: Rig, autojump_clock: Any) -> None:
    """By a single and by a group; a single is refused for a group as well, and told of its own model."""
    await two_of_each(rig, TRIO)
    rig.add("b", "3")
    rig.add("a", "3")
    rig.takes("load b/2", 5.0)
    first = rig.engine.start_group_swap({"a": "3", "b": "2"})
    with pytest.raises(SwapInProgress, match=f"a is being swapped to 3 by swap {first}"):
        await rig.engine.swap("a", "2")
    with pytest.raises(SwapInProgress, match=f"b is being swapped to 2 by swap {first}"):
        await rig.engine.swap("b", "3")
    with pytest.raises(SwapInProgress, match=f"b is being swapped to 2 by swap {first}") as caught:
        await rig.engine.swap_group({"b": "3", "c": "2"})
    assert caught.value.model == "b"
    assert [len(rig.engine.swaps(model)) for model in TRIO] == [1, 1, 0]
    await rig.engine.swap("c", "2")
    await rig.engine.wait_for_swap(first)
    assert await versions(rig, TRIO) == "322"


async def test_a_group_that_waited_may_find_one_of_its_models_there_already(rig: Rig, autojump_clock: Any) -> None:
    """It is refused as if it were ordered now, and what is active stays; where all are there, it is done."""
    await two_of_each(rig)
    rig.takes("load a/2", 5.0)
    first = swapping(rig, ("a",))
    group, single, same = (swapping(rig, models, on_busy="queue") for models in (PAIR, ("b",), PAIR))
    async with running(first, group, single, same):
        pass
    assert isinstance(group.error.__cause__, SwapNotAllowed)
    assert "a/2 is active already" in str(group.error)
    assert [outcome.value.state for outcome in (first, single, same)] == [SwapState.COMPLETED] * 3
    assert [len(rig.cast.of(model, "2")) for model in PAIR] == [1, 1]
    check_one_side(rig, "2")


# --- drains ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("held", PAIR)
async def test_one_old_version_that_is_held_too_long_goes_to_quarantine(
    rig: Rig, held: str, autojump_clock: Any
) -> None:
    """The other one is drained and closed; the swap is done, tells each model's part, and the worst of all."""
    await two_of_each(rig)
    lease = rig.lease(held)
    operation = await rig.engine.swap_group(to("2"), drain=Drain(5.0))
    (free,) = set(PAIR) - {held}
    assert (operation.state, operation.old_unloaded, trio.current_time()) == (SwapState.COMPLETED, False, 5.0)
    assert ends(operation) == {held: ("quarantined", False), free: ("drained", True)}
    assert operation.drain_outcome is not None
    assert (operation.drain_outcome.result, len(operation.drain_outcome.holders)) == ("quarantined", 1)
    assert operation.steps[-1].step == "unload"
    lease.release()
    await settle()
    check_one_side(rig, "2")


async def test_a_group_whose_old_versions_are_all_held_has_nothing_to_unload(rig: Rig, autojump_clock: Any) -> None:
    """All go to quarantine at the same moment, and the drain is the last step."""
    await two_of_each(rig)
    leases = [rig.lease(model) for model in PAIR]
    operation = await rig.engine.swap_group(to("2"), drain=Drain(5.0))
    assert (operation.steps[-1].step, trio.current_time()) == ("drain", 5.0)
    assert ends(operation) == dict.fromkeys(PAIR, ("quarantined", False))
    for lease in leases:
        lease.release()
    await settle()
    check_one_side(rig, "2")


async def test_a_drain_that_cancels_ends_the_leases_of_its_member(rig: Rig, autojump_clock: Any) -> None:
    """The holder of one model's old version is told; all are drained."""
    await two_of_each(rig)

    async def hold() -> None:
        async with rig.engine.lease("b"):
            await trio.sleep_forever()

    holder = Outcome(hold)
    async with running(holder):
        operation = await rig.engine.swap_group(to("2"), drain=Drain(5.0, "cancel"))
    assert isinstance(holder.error, LeaseRevoked)
    assert (ends(operation), trio.current_time()) == (dict.fromkeys(PAIR, ("drained", True)), 5.0)
    check_one_side(rig, "2")


@pytest.mark.parametrize("held", [("a",), ("b",), PAIR])
async def test_a_drain_that_rolls_back_takes_the_whole_group_back(
    rig: Rig, held: tuple[str, ...], autojump_clock: Any
) -> None:
    """In one step, once those that were closed meanwhile are loaded again; until then the new versions answer."""
    await two_of_each(rig)
    leases, seen = [rig.lease(model) for model in held], snapshots(rig)
    for model in PAIR:
        rig.takes(f"load {model}/1", 2.0)
    swap = swapping(rig, drain=Drain(5.0, "rollback"))
    async with running(swap):
        await trio.sleep(6.0)
        assert await versions(rig) == ("11" if held == PAIR else "22")
    assert isinstance(swap.error, SwapRolledBack)
    olds = " and ".join(f"{model}/1" for model in held)
    assert f"{olds} was still held when its drain was out of time: it rolls back" in str(swap.error)
    assert seen == [{model: {version: 1.0} for model in PAIR} for version in "21"]
    assert [len(rig.cast.of(model, "1")) for model in PAIR] == [1 if model in held else 2 for model in PAIR]
    for lease in leases:
        lease.release()
    await settle()
    await check_group_undone(rig, swap.error.operation)


async def test_a_drain_does_not_roll_back_what_has_moved_on(rig: Rig, autojump_clock: Any) -> None:
    """One model of the group has been swapped further: nothing turns, and what was given back is drained once more."""
    await two_of_each(rig)
    rig.add("b", "3")
    lease, swap = rig.lease("a"), swapping(rig, drain=Drain(5.0, "rollback"))
    async with running(swap):
        await rig.engine.swap("b", "3")
        await trio.sleep(10.0)
        assert swap.over
        assert await versions(rig) == "23"
        assert rig.engine.load_info("a", "1").status is VersionState.QUARANTINED
        lease.release()
    await settle()
    assert swap.value.state is SwapState.COMPLETED
    assert ends(swap.value) == {"a": ("quarantined", False), "b": ("drained", True)}
    assert sorted(rig.cast.open()) == ["a/2", "b/3"]


async def test_a_drain_rolls_back_though_another_old_version_crashed_in_it(rig: Rig, autojump_clock: Any) -> None:
    """The one that crashed is loaded again, and all have the traffic back; nothing is forgotten between the two."""
    await two_of_each(rig)
    leases, swap = [rig.lease(model) for model in PAIR], swapping(rig, drain=Drain(5.0, "rollback"))
    async with running(swap):
        await crash_by(leases[0])
        await trio.sleep(10.0)
        leases[1].release()
    assert isinstance(swap.error, SwapRolledBack)
    await settle()
    await check_group_undone(rig, swap.error.operation)


async def crash_by(lease: Any) -> None:
    """End a version by who holds it."""
    with pytest.raises(Exception, match="beyond use"):
        lease.infer({"poison": "1"})
    lease.release()
    await settle()


# --- the way back ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", BOUNDARIES)
async def test_a_group_can_be_rolled_back_at_any_boundary(rig: Rig, step: str, autojump_clock: Any) -> None:
    """Ordered while the record of a boundary is being written: all old versions serve, and no snapshot was a mix."""
    await two_of_each(rig, TRIO)
    seen, swap = snapshots(rig), swapping(rig, TRIO)
    use_journal(rig, slow_for=at(step))
    async with running(swap):
        await trio.sleep(5.0)
        operation = await rig.engine.rollback(the_id(rig))
    assert (operation.state, operation.rollback_of) == (
        (SwapState.COMPLETED, the_id(rig)) if step == "unload" else (SwapState.ROLLED_BACK, None)
    )
    assert mixes(seen) == []
    assert await versions(rig, TRIO) == "111"
    check_one_side(rig, "1", TRIO)


@pytest.mark.parametrize("work", ["load", "warm"])
async def test_a_group_can_be_rolled_back_while_one_of_it_comes_up(rig: Rig, work: str, autojump_clock: Any) -> None:
    """It is undone at once; the thread that is not done brings what is closed on arrival."""
    await two_of_each(rig, warmup=[{}])
    rig.takes(f"{work} b/2", 5.0)
    swap = swapping(rig)
    async with running(swap):
        await trio.sleep(2.0)
        operation = await rig.engine.rollback(the_id(rig))
        assert trio.current_time() == 2.0
        assert all(step.compensation == "done" for step in operation.steps)
    await trio.sleep(10.0)
    await check_group_undone(rig, operation)


async def test_a_rollback_in_the_drain_loads_again_what_was_closed(rig: Rig, autojump_clock: Any) -> None:
    """One old version is held, the other one gone already: all have the traffic back in one step."""
    await two_of_each(rig)
    lease, seen, swap = rig.lease("a"), snapshots(rig), swapping(rig)
    rig.takes("load b/1", 3.0)
    async with running(swap):
        assert sorted(rig.cast.open()) == ["a/1", "a/2", "b/2"]
        rollback = Outcome(rig.engine.rollback, the_id(rig))
        async with running(rollback):
            await trio.sleep(1.0)
            assert await versions(rig) == "22"
    assert rollback.value.state is SwapState.ROLLED_BACK
    assert (seen, rollback.ended_s) == ([{m: {v: 1.0} for m in PAIR} for v in "21"], 3.0)
    lease.release()
    await settle()
    await check_group_undone(rig, rollback.value)


async def test_a_rollback_of_a_group_that_is_done_is_a_group(rig: Rig, autojump_clock: Any) -> None:
    """It swaps all models back in one step; taken back itself, it brings all of them forward again."""
    await two_of_each(rig, TRIO)
    done = await rig.engine.swap_group(to("2", TRIO))
    seen = snapshots(rig)
    back = await rig.engine.rollback(done.id)
    assert (back.model, back.to_version, back.rollback_of, back.state) == (
        "a+b+c", "1+1+1", done.id, SwapState.COMPLETED,
    )  # fmt: skip
    again = await rig.engine.rollback(back.id)
    assert (again.to_version, again.rollback_of) == ("2+2+2", back.id)
    assert seen == [{model: {version: 1.0} for model in TRIO} for version in "12"]
    check_one_side(rig, "2", TRIO)


async def test_a_rollback_of_a_group_of_which_one_has_moved_on_is_refused(rig: Rig, autojump_clock: Any) -> None:
    """It says which model, and nothing moves."""
    await two_of_each(rig)
    rig.add("b", "3")
    done = await rig.engine.swap_group(to("2"))
    await rig.engine.swap("b", "3")
    with pytest.raises(SwapNotAllowed, match="b/2 is not active; the active version is 3"):
        await rig.engine.rollback(done.id)
    assert await versions(rig) == "23"


async def test_a_rollback_whose_old_version_is_gone_keeps_all_of_the_new_ones(rig: Rig, autojump_clock: Any) -> None:
    """One was closed and cannot be loaded any more: no traffic moves, and the operation says what stands."""
    await two_of_each(rig)
    lease, seen, swap = rig.lease("a"), snapshots(rig), swapping(rig)
    async with running(swap):
        rig.script("b", "1").load_error = RuntimeError("the file is gone")
        with pytest.raises(Exception, match="could not") as caught:
            await rig.engine.rollback(the_id(rig))
        lease.release()
    operation: SwapOperation = caught.value.operation
    assert (operation.state, mixes(seen)) == (SwapState.FAILED, [])
    assert await versions(rig) == "22"
    assert operation.aftermath is not None
    assert {"a/2 has the traffic", "b/2 has the traffic"} <= set(operation.aftermath.stands)
    assert rig.engine._slots.everybody() == ()


@pytest.mark.parametrize("at_s", [0.0, 1.0])
async def test_a_group_whose_caller_leaves_before_the_pivot_is_undone(
    rig: Rig, at_s: float, autojump_clock: Any
) -> None:
    """Cancelled, he is free at once; with `detach` the group goes on without him."""
    await two_of_each(rig)
    rig.takes("load b/2", 3.0)
    for on_cancel, end in (("abort", SwapState.CANCELLED), ("detach", SwapState.COMPLETED)):
        began_s = trio.current_time()
        with trio.move_on_after(at_s) as scope:
            await rig.engine.swap_group(to("2"), on_cancel=on_cancel)
        assert (scope.cancelled_caught, trio.current_time() - began_s) == (True, at_s)
        await trio.sleep(10.0)
        assert rig.engine.swaps("b")[-1].state is end
    check_one_side(rig, "2")


# --- beside each other ----------------------------------------------------------------------------------------------


async def test_fifty_swaps_of_fifty_models_go_side_by_side(rig: Rig, autojump_clock: Any) -> None:
    """All at once, some of which fail: each has its own end, in the time of its own load."""
    models = [f"m{number}" for number in range(50)]
    for number, model in enumerate(models):
        await rig.ready(model, "1")
        rig.add(model, "2", load_error=RuntimeError("no") if number % 7 == 3 else None)
        rig.takes(f"load {model}/2", float(number % 10))
    swaps = [Outcome(rig.engine.swap, model, "2") for model in models]
    async with running(*swaps):
        assert rig.engine.statistics().swaps_open > 20
    for number, (model, swap) in enumerate(zip(models, swaps, strict=True)):
        assert (swap.error is not None, swap.ended_s - swap.began_s) == (number % 7 == 3, float(number % 10))
        assert rig.engine.loaded_versions(model) == (("1",) if swap.error else ("2",))
    assert rig.engine._slots.everybody() == ()


async def test_twenty_groups_among_thirty_models_all_have_their_turn(rig: Rig, autojump_clock: Any) -> None:
    """Each of three models, many of them in several groups: they wait for each other, none for ever, none is a mix."""
    models = [f"m{number}" for number in range(30)]
    for model in models:
        await rig.ready(model, "1")
        for number in range(20):
            rig.add(model, f"g{number}")
            rig.takes(f"load {model}/g{number}", 1.0)
    groups = [[models[(number * 7 + step * (number % 3 + 1)) % 30] for step in range(3)] for number in range(20)]
    seen = snapshots(rig)
    swaps = [swapping(rig, group, f"g{number}", on_busy="queue") for number, group in enumerate(groups)]
    async with running(*swaps):
        pass
    assert [swap.value.state for swap in swaps] == [SwapState.COMPLETED] * 20
    moved: dict[str, str] = dict.fromkeys(models, "1")
    for one in seen:  # each snapshot moves one whole group
        change = {model for model in models if one[model] != {moved[model]: 1.0}}
        assert sorted(change) in [sorted(group) for group in groups]
        moved |= {model: next(iter(one[model])) for model in change}
    last = {model: f"g{number}" for number, group in enumerate(groups) for model in group}
    assert moved == dict.fromkeys(models, "1") | last
    assert max(swap.ended_s for swap in swaps) < 10.0
    assert [leased(rig, [model]) for model in models] == [moved[model] for model in models]


async def test_a_new_version_that_crashes_behind_the_pivot_comes_back(rig: Rig, autojump_clock: Any) -> None:
    """The group goes forward: the others serve on, the old versions go, and the supervisor restarts what crashed."""
    await two_of_each(rig)
    lease, swap = rig.lease("b"), swapping(rig)
    async with running(swap):
        await crash(rig, "a", "2")
        lease.release()
    assert swap.value.state is SwapState.COMPLETED
    await trio.sleep(100.0)
    check_one_side(rig, "2")
