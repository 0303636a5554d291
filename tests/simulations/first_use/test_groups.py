"""Groups that cross, singles, rollbacks, callers who leave and the end of the engine: each group is one step, or none.

What each program asserts comes on top of what `open_stage` and `assert_at_rest` look at.
"""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from functools import partial
from typing import Any

import trio

from changeover import Drain, Shift, SwapState
from changeover.errors import ChangeoverError
from changeover_sim import PCT, RandomWalk, choose
from tests.simulations.first_use.stage import Call, Search, Stage, assert_at_rest, cancel_later, inputs, open_stage
from tests.support.models import BATCHED, first_column

MODELS = ("a", "b", "c")
MOMENTS = 12
PLANS = (Shift.at_once(), Shift.at_once(confirm_s=0.5), Shift.canary(((0.5, 0.5),), confirm_s=0.5))
DRAINS = (Drain(0.0), Drain(1.0), Drain(1.0, "rollback"), Drain(1.0, "cancel", 1.0))
ENDS = {
    "returned", "cancelled", "SwapFailed", "SwapRolledBack", "Superseded", "SwapInProgress", "SwapNotAllowed",
}  # fmt: skip
PROGRAMS = (
    ({"a": "2", "b": "2"}, {"b": "3", "c": "2"}, {"b": "4"}),
    ({"a": "2", "b": "2"}, {"b": "2", "c": "2"}, {"c": "3", "a": "3"}),
    ({"b": "2"}, {"a": "2", "b": "3"}, {"b": "4", "c": "2"}),
    ({"a": "2"}, {"b": "2"}, {"a": "2", "b": "3", "c": "2"}),
)
"""Three orders each."""


class Groups:
    """What was ordered, and each step of the routes since."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.calls: list[Call] = []
        self.wishes: list[frozenset[str]] = []
        """The models of each order."""
        self.wrongs: list[str] = []
        """What the routes must not do; an error raised in a step of a swap would only fail that."""
        self._router = stage.engine._router
        self._apply = self._router._apply
        self._router._apply = self._look

    def _look(self, event: Any) -> None:
        """Pass on, and see that the traffic of a whole group has moved, to the same share for all of it."""
        before = self._router.snapshot.routes
        self._apply(event)
        after = self._router.snapshot.routes
        changed = frozenset(model for model in before if model in after and before[model].shares != after[model].shares)
        if not changed:
            return
        if changed not in self.wishes:
            self.wrongs.append(f"{sorted(changed)} moved, which nobody ordered as one")
        parts = {tuple(sorted(share.weight for share in after[model].shares)) for model in changed}
        if len(parts) > 1:
            self.wrongs.append(f"{sorted(changed)} moved to different shares")

    def order(self, to: dict[str, str], on_busy: Any, *, leaves: bool) -> None:
        """Order a group, whose caller may leave at any moment."""
        self.wishes.append(frozenset(to))
        make = partial(self.stage.engine.swap_group, to, plan=choose(PLANS), drain=choose(DRAINS), on_busy=on_busy)
        call = self.stage.cancelled_call(make, "swap", most=MOMENTS) if leaves else self.stage.call(make, "swap")
        self.calls.append(call)

    def assert_told(self) -> None:
        """Every swap has ended, whoever waited was told how, and each model is where its swaps have brought it."""
        engine = self.stage.engine
        assert self.wrongs == []
        assert {call.end for call in self.calls} <= ENDS, [call.end for call in self.calls]
        moves: dict[str, Counter[str]] = {model: Counter({"1": 1}) for model in MODELS}
        for operation in engine.swaps():
            assert operation.state.ended
            undone = [step.step for step in operation.steps if step.compensation != "done"]
            if operation.state is SwapState.COMPLETED:
                for member in operation.members:
                    moves[member.model] += Counter({member.to_version: 1})
                    moves[member.model].subtract({member.from_version: 1})
            else:
                assert not undone, operation
        for model, found in moves.items():
            assert [version for version, count in found.items() if count] == [engine._router.active(model)], found


async def begin(stage: Stage) -> Groups:
    """Load version 1 of each model; one of the others may be broken, some take their time."""
    for model in MODELS:
        for version in "1234":
            stage.rig.add(model, version, execution="inline", signature=BATCHED, answers=first_column)
        await stage.engine.load(model, "1")
    for name in ("a/2", "b/2", "b/3"):
        stage.rig.takes(f"load {name}", choose([0.0, 0.0, 1.0]))
    if choose([False, False, True]):
        stage.rig.script("b", choose("23")).load_error = RuntimeError("cannot be loaded")
    return Groups(stage)


async def hold(stage: Stage) -> None:
    """Hold one version for a while, or a set."""
    await trio.sleep(choose([0.0, 0.5]))
    with suppress(ChangeoverError):
        async with stage.engine.lease_many(choose([("a",), ("b",), MODELS])) as leases:
            await trio.sleep(choose([0.0, 1.5, 3.0]))
            for lease in leases.values():
                lease.infer(inputs(1))


async def roll_back(stage: Stage) -> None:
    """Order one of the swaps back, at some moment."""
    await trio.sleep(choose([0.0, 0.0, 0.75, 2.5]))
    for _ in range(choose(range(MOMENTS))):
        await trio.lowlevel.checkpoint()
    swaps = stage.engine.swaps()
    if swaps:
        with suppress(ChangeoverError):
            await stage.engine.rollback(choose(swaps).id)


# --- groups that cross ----------------------------------------------------------------------------------------------


async def groups_meet() -> None:
    """Order two groups that cross and a single, or the like, while a version is held and somebody rolls back."""
    async with open_stage() as stage:
        groups = await begin(stage)
        stage.call(partial(hold, stage), "hold")
        leaver = choose([0, 1, 2, None])
        for number, to in enumerate(choose(PROGRAMS)):
            groups.order(to, choose(["queue", "queue", "supersede", "refuse"]), leaves=number == leaver)
            await trio.sleep(choose([0.0, 0.0, 0.25, 2.0]))
        for _ in range(choose([0, 1, 2])):
            stage.call(partial(roll_back, stage), "rollback")
        await stage.rest()
        assert_at_rest(stage)
        groups.assert_told()


def test_groups_that_cross_move_whole_and_end(search: Search) -> None:
    """No deadlock, no half of a group, whoever waits, leaves, or turns round whom; and nothing is left over."""
    search(groups_meet, policy=RandomWalk(), schedules=400)
    search(groups_meet, policy=PCT(depth=3), schedules=240)
    search(groups_meet, schedules=120, mode="trio-batch")


# --- the end of the engine ------------------------------------------------------------------------------------------


async def an_engine_is_closed_under_groups() -> None:
    """Close the engine at any moment of groups that run and wait; whoever waits is told one thing."""
    patience_s = choose([10.0, 0.0])
    async with open_stage(close_timeout_s=patience_s) as stage:
        groups = await begin(stage)
        for to in choose(PROGRAMS):
            groups.order(to, "queue", leaves=False)
        stage.call(partial(hold, stage), "hold")
        stage.call(partial(roll_back, stage), "rollback")
        await trio.sleep(choose([0.0, 0.25, 1.25]))
        await cancel_later(trio.CancelScope(), choose(range(MOMENTS)))
        groups._router._apply = groups._apply  # what goes down goes one by one
    assert {call.end for call in groups.calls} <= ENDS | {"EngineClosed"}, [call.end for call in groups.calls]
    assert all(operation.state.ended for operation in stage.engine.swaps())


def test_groups_end_with_their_engine(search: Search) -> None:
    """However far they are, and however many wait: each has one end, and no model is left open."""
    search(an_engine_is_closed_under_groups, policy=RandomWalk(), schedules=240)
    search(an_engine_is_closed_under_groups, policy=PCT(depth=3), schedules=120)
