"""Swaps whose journal is slow, fails or hangs, whose callers go away, and whose engine is closed, at any moment.

What each program asserts comes on top of what `open_stage` and `assert_at_rest` look at: every swap is completed or
undone whole, whoever waits is told that, and the journal says so where it could be written.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import pytest
import trio

from changeover import Shift, SwapOperation, SwapState
from changeover.core.records import Entry
from changeover.errors import JournalFailed, SwapRolledBack
from changeover.runtime.desires import CatchingUp
from changeover.runtime.recovery import Recovery
from changeover.runtime.saga import Saga
from changeover.runtime.swaps import Swapping
from changeover_sim import PCT, Exhaustive, RandomWalk, choose, explore
from changeover_sim.disk import line_of
from tests.simulations.first_use.lives import (
    Death,
    Trouble,
    assert_brought_back,
    assert_kept,
    assert_recorded,
    live_and_die,
    recover,
)
from tests.simulations.first_use.reading import read
from tests.simulations.first_use.stage import (
    Call,
    Search,
    Stage,
    assert_at_rest,
    assert_explored,
    open_house,
    open_stage_in,
)
from tests.simulations.first_use.test_rollbacks import TOLD, assert_whole

RAMP = Shift.canary(((0.5, 0.5),), confirm_s=0.25, guard=None)


async def prepare(stage: Stage) -> None:
    """Register three versions of two models, and load the first ones."""
    await register(stage)
    for model in "ab":
        await stage.engine.load(model, "1")


async def register(stage: Stage) -> None:
    """Register three versions of two models."""
    for model in "ab":
        stage.add("1", "2", "3", model=model)


# --- the disk is in trouble -----------------------------------------------------------------------------------------

BEFORE_PIVOT = ("load", "shift", "drain")
"""Where one of these is not written, the swap does not go on."""
BOUNDARIES = (*BEFORE_PIVOT, "unload", "completed", "rolled_back", "undo", "")


async def a_disk_is_in_trouble(begins: str | None = None) -> None:
    """Fail, delay or hang some entries of a swap that may be ordered back; then heal the disk, and swap once more."""
    trouble = Trouble(choose(BOUNDARIES) if begins is None else begins, choose([1, 2, 99]))
    kind: Any = choose(["full", "full", "fsync", "slow", "hung"])
    group = choose([True, False])
    models = ("a", "b") if group else ("a",)
    async with open_house() as house:
        disk = house.world.disk
        async with open_stage_in(house, on_disk="power") as stage:
            await prepare(stage)
            disk.fails(trouble.is_about, kind, {"slow": 0.25, "hung": trio.Event()}.get(kind, choose([0.0, 0.25])))
            swap = await order_and_turn(stage, dict.fromkeys(models, "2"))
            await trio.sleep(10.0)
            disk.heal("hung")
            await stage.rest()
            assert_at_rest(stage)
            assert_whole(stage, models)
            failed = kind in ("full", "fsync") and bool(trouble.met)
            early = failed and any(line_of(entry).startswith(BEFORE_PIVOT) for entry in trouble.met)
            for operation in stage.engine.swaps()[:1]:
                assert operation.state is not (SwapState.COMPLETED if early else SwapState.FAILED)
                assert_told(operation, swap)
            if not failed:
                assert_recorded(stage)
            disk.heal()
            operation = await stage.engine.swap_group(dict.fromkeys(models, "3"))
            assert operation.state is SwapState.COMPLETED
            await stage.rest()
            assert_recorded(stage, exactly=not failed)
        left = read(disk.entries)
        assert left.wanted == {"a": "3", "b": "3" if group else "1"}
        async with open_stage_in(house, on_disk="power") as stage:
            await recover(stage, register)
            assert_brought_back(stage, left)


async def order_and_turn(stage: Stage, to: Mapping[str, str]) -> Call:
    """Order a swap, whose caller may go away, or which is ordered back, at any moment."""
    what = choose(["wait", "turn", "leave"])
    plan = choose([Shift.at_once(), RAMP])
    if what == "leave":
        return stage.cancelled_call(lambda: stage.engine.swap_group(to, plan=plan), "swap")
    swap_id = stage.engine.start_group_swap(to, plan=plan)
    swap = stage.call(lambda: stage.engine.wait_for_swap(swap_id), "swap")
    if what == "turn":
        await trio.sleep(choose([0.0, 0.25, 0.5, 0.75]))
        for _ in range(choose(range(30))):
            await trio.lowlevel.checkpoint()
        stage.call(lambda: stage.engine.rollback(swap_id), "rollback")
    return swap


def assert_told(operation: SwapOperation, swap: Call) -> None:
    """Whoever waited for a swap was told how it stands."""
    if swap.end != "cancelled":
        assert swap.end == TOLD[operation.state], (swap.end, operation.state)
        assert (swap.value or getattr(swap.error, "operation", None)) == operation


# --- the caller goes away -------------------------------------------------------------------------------------------


async def swap(stage: Stage) -> None:
    """Swap, and wait for it."""
    await or_undone(stage, stage.engine.swap("a", "2", plan=choose([Shift.at_once(), RAMP])))


async def swap_detached(stage: Stage) -> None:
    """Swap so that it goes on alone."""
    await stage.engine.swap("a", "2", on_cancel="detach")


async def swap_a_group(stage: Stage) -> None:
    """Swap two models as one, and wait for it."""
    await or_undone(stage, stage.engine.swap_group({"a": "2", "b": "2"}, plan=choose([Shift.at_once(), RAMP])))


async def or_undone(stage: Stage, wait: Awaitable[object]) -> None:
    """Wait for a swap; where its waiter goes away before it has shifted the traffic, it is undone."""
    try:
        await wait
    except trio.Cancelled:
        for operation in stage.engine.swaps():
            shifted = any((step.step, step.outcome) == ("shift", "done") for step in operation.steps)
            with trio.CancelScope(shield=True), suppress(SwapRolledBack):
                await stage.engine.wait_for_swap(operation.id)
            ended = stage.engine.swap_status(operation.id)
            assert shifted or ended.state is SwapState.CANCELLED, ended.state
        raise


async def turn(stage: Stage) -> None:
    """Order a swap back that runs."""
    await stage.engine.rollback(stage.engine.start_group_swap({"a": "2", "b": "2"}, plan=RAMP))


async def swap_back(stage: Stage) -> None:
    """Order a swap back that is completed."""
    operation = await stage.engine.swap_group({"a": "2", "b": "2"}, on_cancel="detach")
    await stage.engine.rollback(operation.id)


CALLS: Mapping[str, Callable[[Stage], Awaitable[None]]] = {
    "swap": swap,
    "swap that is detached": swap_detached,
    "group": swap_a_group,
    "rollback": turn,
    "swap back": swap_back,
}


async def a_caller_goes_away(name: str) -> None:
    """Cancel who waits for a swap, at any of his checkpoints or between any two steps of the swap."""
    async with open_house() as house, open_stage_in(house, on_disk="process") as stage:
        await prepare(stage)
        house.world.durations["journal"] = choose([0.0, 0.25])
        call = stage.cancelled_call(lambda: CALLS[name](stage), name, most=40)
        await stage.rest()
        assert_at_rest(stage)
        assert_recorded(stage)
        assert call.end in {"returned", "cancelled"}
        states = [operation.state.value for operation in stage.engine.swaps()]
        assert states in LEFT[name], states
        if name in ("swap", "group"):
            assert states == ["completed"] or call.end == "cancelled"
        assert_whole(stage, stage.engine.swaps()[0].model.split("+") if states else ["a"])


LEFT: Mapping[str, tuple[list[str], ...]] = {
    "swap": ([], ["cancelled"], ["completed"]),
    "swap that is detached": ([], ["completed"]),
    "group": ([], ["cancelled"], ["completed"]),
    "rollback": ([], ["rolled_back"], ["completed"], ["completed", "completed"]),
    "swap back": ([], ["completed"], ["completed", "completed"]),
}
"""What may be left of the swaps of a call that was cancelled."""


# --- who waits for a recovery goes away -----------------------------------------------------------------------------


async def who_waits_for_a_recovery_goes_away(ends: Sequence[int] = range(40)) -> None:
    """Cancel who waits for a recovery, at any moment of it; the process before ended after so many rounds."""
    async with open_house() as house:
        house.world.durations["journal"] = choose([0.0, 0.25])
        death = Death("process", "kill", 0.0, choose(ends))
        left = await live_and_die(house, swap_and_stay, death, prepare=prepare)
        async with open_stage_in(house, on_disk="process") as stage:
            if choose([True, False]):
                await register(stage)
            call = stage.cancelled_call(stage.engine.recovered, "recovered", most=20)
            await stage.until(lambda: call.is_over or bool(stage.engine.recovery().waiting))
            if not stage.engine._registry:
                await register(stage)
            await stage.rest()
            assert call.end in {"returned", "cancelled"}
            assert stage.engine.recovery().waiting == ()
            assert_at_rest(stage)
            assert_brought_back(stage, left)
            assert_recorded(stage, exactly=False)


async def swap_and_stay(stage: Stage) -> None:
    """Swap two models as one."""
    stage.call(lambda: stage.engine.swap_group({"a": "2", "b": "2"}), "swap")


# --- the engine is closed -------------------------------------------------------------------------------------------


async def the_engine_is_closed() -> None:
    """Close an engine at any moment of a swap, while its journal is slow or hangs; the next one goes on from there."""
    name, patience_s = choose(list(CALLS)), choose([0.0, 10.0])
    async with open_house() as house:
        disk = house.world.disk
        healed = trio.Event()
        async with open_stage_in(house, on_disk="process", close_timeout_s=patience_s) as stage:
            await prepare(stage)
            takes = choose([0.0, 0.25, healed])
            house.world.durations["journal"] = takes
            stage.call(lambda: CALLS[name](stage), name)
            await trio.sleep(choose([0.0, 0.25, 0.75]))
            for _ in range(choose(range(30))):
                await trio.lowlevel.checkpoint()
        told = stage.engine.swaps()
        healed.set()
        house.world.durations["journal"] = 0.0
        await trio.sleep(1_000.0)  # what hung goes on by itself
        left = read(disk.entries)
        if takes is not healed and patience_s:
            assert_kept(told, left)
            assert left.open == {}, "closed in order, and left open"
        async with open_stage_in(house, on_disk="process") as stage:
            await recover(stage, register)
            assert_brought_back(stage, left)


# --- the tests ------------------------------------------------------------------------------------------------------


def test_a_swap_ends_whole_whatever_becomes_of_its_entries(search: Search) -> None:
    """An entry that fails before the pivot undoes a swap, one behind it does not; a disk that is well has it all."""
    search(a_disk_is_in_trouble, policy=RandomWalk(), schedules=160)
    search(a_disk_is_in_trouble, policy=PCT(depth=3), schedules=40)


@pytest.mark.parametrize("call", CALLS)
def test_who_goes_away_leaves_a_swap_that_is_whole(search: Search, call: str) -> None:
    """Whoever waits for a swap or a rollback and is cancelled: it is completed or undone, and the journal says so."""
    search(partial(a_caller_goes_away, call), policy=RandomWalk(), schedules=60)


@pytest.mark.slow
@pytest.mark.parametrize("call", CALLS)
def test_who_goes_away_at_whatever_moment_leaves_a_swap_that_is_whole(call: str) -> None:
    """The same at each of his checkpoints, and between any two steps of the others."""
    assert_explored(partial(a_caller_goes_away, call), policy=Exhaustive(delays=0), exhausted=True)


def test_a_recovery_goes_on_without_who_waits_for_it(search: Search) -> None:
    """Whoever waits for it and is cancelled, the recovery comes to its end."""
    search(who_waits_for_a_recovery_goes_away, policy=RandomWalk(), schedules=80)


@pytest.mark.slow
def test_a_recovery_goes_on_without_who_waits_for_it_at_whatever_moment() -> None:
    """The same at each of his checkpoints, and between any two steps of the recovery, before and behind a pivot."""
    program = partial(who_waits_for_a_recovery_goes_away, (10, 32))
    assert_explored(program, policy=Exhaustive(delays=0), exhausted=True)


def test_an_engine_that_is_closed_leaves_to_the_next_what_it_could_not_end(search: Search) -> None:
    """Closed at any moment with time to end, it leaves nothing open; without time, the next one brings it to an end."""
    search(the_engine_is_closed, policy=RandomWalk(), schedules=120)


# --- these tests see what is wrong ----------------------------------------------------------------------------------


async def goes_on_without_its_pivot(saga: Saga, step: Any, following: Any) -> None:
    """Cross a boundary that could not be written down."""
    with suppress(JournalFailed):
        await CROSS(saga, step, following)


async def fails_behind_its_pivot(saga: Saga, state: SwapState) -> None:
    """Take an end that could not be written down for a failure of the swap."""
    await FINISH(saga, state)
    if isinstance(saga._cause, JournalFailed):
        saga._book.update(state=SwapState.FAILED)


def owes_nothing(journal: CatchingUp, entry: Entry, *, kept: bool) -> None:
    """Forget what could not be written."""


async def leaves_it_alone(engine: Swapping, saga: Saga, on_cancel: str) -> Any:
    """Wait for a swap, and go away without a word."""
    return await saga.ended.wait()


async def takes_it_with_him(recovery: Recovery, timeout_s: float | None) -> Any:
    """Wait for a recovery, and end it with the waiting."""
    try:
        return await WAIT(recovery, timeout_s)
    except trio.Cancelled:
        recovery.stop()
        raise


CROSS, FINISH, WAIT = Saga._cross, Saga._finish, Recovery.wait
CALLER = partial(a_caller_goes_away, "group")
BROKEN: Mapping[str, tuple[type, str, Callable[..., Any], Callable[[], Awaitable[None]]]] = {
    "goes on without its pivot": (Saga, "_cross", goes_on_without_its_pivot, partial(a_disk_is_in_trouble, "drain")),
    "fails behind its pivot": (Saga, "_finish", fails_behind_its_pivot, partial(a_disk_is_in_trouble, "completed")),
    "owes nothing": (CatchingUp, "_note", owes_nothing, partial(a_disk_is_in_trouble, "completed")),
    "leaves it alone": (Swapping, "_ended", leaves_it_alone, CALLER),
    "takes it with him": (Recovery, "wait", takes_it_with_him, who_waits_for_a_recovery_goes_away),
}


@pytest.mark.parametrize("broken", BROKEN)
def test_what_is_broken_is_found(broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The program that is there for a mistake fails where it is made."""
    owner, name, wrong, program = BROKEN[broken]
    monkeypatch.setattr(owner, name, wrong)
    assert explore(program, policy=RandomWalk(), schedules=300).failure is not None
