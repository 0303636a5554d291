"""Orders back at every moment of a swap: rolled back, aborted, superseded, and the way back taken back in its turn.

What each program asserts comes on top of what `open_stage`, `assert_at_rest` and `assert_recorded` look at: every swap
is completed or undone whole, its slots are free, nobody is held, no version is left over, and the journal says so.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any

import attrs
import pytest
import trio

from changeover import Drain, Shift, SwapOperation, SwapState
from changeover.core.plan import Step
from changeover.runtime.part import Part
from changeover.runtime.saga import Saga
from changeover.runtime.shifting import Shifting
from changeover.runtime.steps import Steps
from changeover_sim import PCT, Exhaustive, RandomWalk, choose, explore
from tests.simulations.first_use.lives import assert_recorded
from tests.simulations.first_use.stage import (
    Call,
    Search,
    Stage,
    assert_at_rest,
    assert_explored,
    open_stage,
)

RAMP = Shift.canary(((0.5, 0.5),), confirm_s=0.25, guard=None)
TOLD = {
    SwapState.COMPLETED: "returned",
    SwapState.FAILED: "SwapFailed",
    SwapState.CANCELLED: "SwapRolledBack",
    SwapState.ROLLED_BACK: "SwapRolledBack",
    SwapState.SUPERSEDED: "Superseded",
}
"""What whoever ordered a swap is told of its end."""


@attrs.frozen
class Way:
    """A swap, and when something happens in it."""

    to: Mapping[str, str]
    plan: Shift
    moments: tuple[tuple[float, int], ...]
    """So many rounds of the others behind each of these times are enough for what happens then."""
    held: bool = False
    """Whether the old version is held for a second."""


ONE, GROUP = {"a": "2"}, {"a": "2", "b": "2"}
WAYS = {
    "at once": Way(ONE, Shift(), ((0.0, 38),)),
    "by a ramp": Way(ONE, RAMP, ((0.0, 20), (0.5, 3), (0.75, 20))),
    "while it is held": Way(ONE, Shift(), ((0.0, 25), (0.5, 1), (1.0, 12)), held=True),
    "a group": Way(GROUP, Shift(), ((0.0, 40),)),
    "a group by a ramp": Way(GROUP, RAMP, ((0.0, 24), (0.5, 3), (0.75, 24))),
    "a group that is held": Way(GROUP, Shift(), ((0.0, 30), (1.0, 14)), held=True),
}


# --- orders back ----------------------------------------------------------------------------------------------------


async def roll_back(stage: Stage, swap_id: str) -> SwapOperation:
    """Take it back, whatever it takes."""
    return await stage.engine.rollback(swap_id)


async def abort(stage: Stage, swap_id: str) -> None:
    """Take it back before its pivot, or not at all."""
    stage.engine.abort(swap_id)


async def supersede(stage: Stage, swap_id: str) -> SwapOperation:
    """Swap to a third version in its place."""
    to = {member.model: "3" for member in stage.engine.swap_status(swap_id).members}
    return await stage.engine.swap_group(to, on_busy="supersede")


async def roll_back_twice(stage: Stage, swap_id: str) -> SwapOperation:
    """Take it back, and take the way back back where there is one."""
    back = await stage.engine.rollback(swap_id)
    return await stage.engine.rollback(back.id)


async def roll_back_and_supersede(stage: Stage, swap_id: str) -> None:
    """Take it back, and order a third version while that goes on."""
    stage.call(lambda: stage.engine.rollback(swap_id), "rollback")
    for _ in range(choose([1, 4, 9, 16, 25])):
        await trio.lowlevel.checkpoint()
    await supersede(stage, swap_id)


BACK = {
    "roll back": roll_back,
    "abort": abort,
    "supersede": supersede,
    "roll back twice": roll_back_twice,
    "roll back and supersede": roll_back_and_supersede,
}


# --- the program ----------------------------------------------------------------------------------------------------


async def begin(stage: Stage, way: Way) -> str:
    """Register everything, load what is old, and order the swap."""
    for model in way.to:
        stage.add("1", "2", "3", model=model)
        await stage.engine.load(model, "1")
    if way.held:
        stage.call(partial(hold, stage), "hold")
        await stage.until(lambda: bool(stage.engine.audit().holders))
    swap_id = stage.engine.start_group_swap(way.to, plan=way.plan, drain=Drain(5.0))
    stage.call(lambda: stage.engine.wait_for_swap(swap_id), f"swap {swap_id}")
    return swap_id


async def hold(stage: Stage) -> None:
    """Hold version 1 for a second."""
    async with stage.engine.lease("a"):
        await trio.sleep(1.0)


async def an_order_back(way: str, back: str, seen: set[str] | None = None) -> None:
    """Order a swap back at any moment of it; `seen` gets the step that was going on, or how the swap had ended."""
    after_s, rounds = choose(WAYS[way].moments)
    async with open_stage(on_disk="process") as stage:
        swap_id = await begin(stage, WAYS[way])
        await trio.sleep(after_s)
        for _ in range(choose(range(rounds))):
            await trio.lowlevel.checkpoint()
        if seen is not None:
            seen.add(at(stage.engine.swap_status(swap_id)))
        order = stage.call(lambda: BACK[back](stage, swap_id), "order")
        await stage.rest()
        assert_at_rest(stage)
        assert_recorded(stage)
        assert_whole(stage, tuple(WAYS[way].to))
        assert_told(stage, order)


def at(operation: SwapOperation) -> str:
    """Return the step that is going on, or how a swap has ended."""
    return operation.state.value if operation.state.ended or not operation.steps else operation.steps[-1].step


def assert_whole(stage: Stage, models: Sequence[str]) -> None:
    """All models have the same version, that of the last swap that was completed, and only that one is loaded."""
    done = [operation for operation in stage.engine.swaps() if operation.state is SwapState.COMPLETED]
    for model in models:
        last = done[-1].members[models.index(model)].to_version if done else "1"
        assert stage.engine._router.active(model) == last
        assert stage.engine.loaded_versions(model) == (last,)


def assert_told(stage: Stage, order: Call) -> None:
    """Every swap ended in one way, and whoever waited or ordered was told that."""
    engine = stage.engine
    for call in stage.calls:
        if call.name.startswith("swap "):
            operation = engine.swap_status(call.name.removeprefix("swap "))
            assert call.end == TOLD[operation.state], (call.end, operation.state)
            assert call.value == operation or getattr(call.error, "operation", None) == operation
    first, *newer = engine.swaps()
    assert first.state is not SwapState.FAILED, first
    if order.end == "returned" and order.name == "order" and isinstance(order.value, SwapOperation):
        assert engine.swap_status(order.value.id) == order.value
    if order.end == "returned":
        assert order.error is None
    else:
        assert order.end in {"SwapNotAllowed", "SwapInProgress", "SwapRolledBack", "Superseded"}, order.end
    assert all(operation.state.ended for operation in newer)


@pytest.mark.parametrize("way", WAYS)
def test_an_order_back_at_any_moment_leaves_a_swap_that_is_whole(search: Search, way: str) -> None:
    """Rolled back, aborted or superseded, and that again: each swap ends once, all models agree, nothing is left."""
    search(partial(any_order_back, way), policy=RandomWalk(), schedules=60)


async def any_order_back(way: str) -> None:
    """Order a swap back in any way."""
    await an_order_back(way, choose(list(BACK)))


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_an_order_back_between_any_two_steps(way: str) -> None:
    """The same at every moment in the order in which Trio would run it anyway, and with one task held back for long."""
    for back in BACK:
        seen: set[str] = set()
        assert_explored(partial(an_order_back, way, back, seen), policy=Exhaustive(delays=0), exhausted=True)
        assert seen == {"not_started", *(step.value for step in Step), "completed"}, seen
    assert_explored(partial(any_order_back, way), policy=PCT(depth=3), schedules=60)


# --- these tests see what is wrong ----------------------------------------------------------------------------------


async def skips_a_member(steps: Steps, call: Callable[[Part], Awaitable[None]], parts: list[Part]) -> None:
    """Do it with the first part alone."""
    await EACH(steps, call, parts[:1])


def gives_the_traffic_of_one_back(shift: Shifting) -> None:
    """Move the traffic of the first model back, and of no other."""
    watch = shift._watches[0]
    shift._world.router.shift({watch.pair.model: watch.pair.old.version})
    shift._world.router.end_trial(tuple(one.pair.model for one in shift._watches))
    shift.settle()


def takes_any_slot(saga: Saga) -> bool:
    """Turn a swap round whoever came behind it."""
    return True


def keeps_its_slot(saga: Saga) -> None:
    """End, and leave the slot to nobody."""


async def reopens_nothing(steps: Steps) -> None:
    """Leave the old versions where they are."""


EACH = Steps._each
BROKEN: Mapping[str, tuple[type, str, Callable[..., Any], tuple[str, str]]] = {
    "skips a member": (Steps, "_each", skips_a_member, ("a group", "roll back")),
    "gives the traffic of one back": (Shifting, "back", gives_the_traffic_of_one_back, ("a group by a ramp", "abort")),
    "takes any slot": (Saga, "_may_take_slot", takes_any_slot, ("while it is held", "roll back and supersede")),
    "keeps its slot": (Saga, "_give_up_slot", keeps_its_slot, ("at once", "abort")),
    "reopens nothing": (Steps, "_reopen_old", reopens_nothing, ("while it is held", "roll back")),
}


@pytest.mark.parametrize("broken", BROKEN)
def test_what_is_broken_is_found(broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The order that is there for a mistake fails where it is made."""
    owner, name, wrong, order = BROKEN[broken]
    monkeypatch.setattr(owner, name, wrong)
    assert explore(partial(an_order_back, *order), policy=RandomWalk(), schedules=300).failure is not None
