"""Orders to swap that meet each other, a pivot, a rollback and the end of the engine: the newest order wins.

What each program asserts comes on top of what `open_stage` and `assert_at_rest` look at.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import trio

from changeover import Drain, Shift, SwapOperation, SwapState, VersionState
from changeover.errors import NotReady, SwapInProgress, SwapNotAllowed
from changeover_sim import PCT, RandomWalk, choose
from tests.simulations.first_use.stage import Call, Search, Stage, assert_at_rest, open_stage

HALF = ((0.5, 0.5),)
PLANS = (Shift.at_once(), Shift.at_once(confirm_s=0.5), Shift.canary(HALF, confirm_s=0.5))
TOLD = {
    SwapState.COMPLETED: "returned",
    SwapState.FAILED: "SwapFailed",
    SwapState.CANCELLED: "SwapRolledBack",
    SwapState.ROLLED_BACK: "SwapRolledBack",
    SwapState.SUPERSEDED: "Superseded",
}
"""What whoever ordered a swap is told of its end."""


class Orders:
    """The orders that a model got, in their order."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.given: list[tuple[str, str, str]] = []
        """Swap id, version, `on_busy`."""
        self.waits: dict[str, Call] = {}

    def give(self, to: str, on_busy: Any, drain: Drain) -> str | None:
        """Order a swap; None where that is refused."""
        engine = self.stage.engine
        holder, waiting = engine._slots.holder("m"), engine._slots.waiting("m")
        in_the_way = [saga for saga in (holder, *waiting) if saga is not None and saga.can_turn]
        try:
            swap_id = engine.start_swap("m", to, plan=choose(PLANS), drain=drain, on_busy=on_busy)
        except SwapInProgress:
            assert on_busy == "refuse"
            assert engine._slots.holder("m") is not None
            return None
        except SwapNotAllowed:
            assert engine.is_active("m", to)
            return None
        for saga in in_the_way:
            assert saga.operation.superseded_by == (swap_id if on_busy == "supersede" else None)
        self.given.append((swap_id, to, on_busy))
        self.waits[swap_id] = self.stage.call(lambda: engine.wait_for_swap(swap_id), f"swap to {to}")
        return swap_id

    def assert_told(self) -> None:
        """Every order has ended, in one way, and whoever waited was told that."""
        engine = self.stage.engine
        for swap_id, to, _ in self.given:
            operation = engine.swap_status(swap_id)
            call = self.waits[swap_id]
            assert TOLD[operation.state] == call.end, (to, operation.state, call.end)
            if call.error is not None:
                told: Any = call.error
                assert told.operation.state is operation.state
                assert told.operation.superseded_by == operation.superseded_by
            if operation.state is SwapState.SUPERSEDED:
                assert operation.superseded_by is not None
            if operation.superseded_by is not None:
                # It may have failed by itself in the moment in which it was superseded.
                assert operation.state in {SwapState.SUPERSEDED, SwapState.FAILED}, operation
                newer = [given for given, _, _ in self.given]
                assert newer.index(operation.superseded_by) > newer.index(swap_id), "an older order took its place"

    @property
    def done(self) -> list[SwapOperation]:
        """Return the swaps that moved the traffic, in their order."""
        found = [self.stage.engine.swap_status(swap_id) for swap_id, _, _ in self.given]
        return [operation for operation in found if operation.state is SwapState.COMPLETED]


async def orders_meet() -> None:
    """Give three or four orders at about the same time, some of which cannot be fulfilled, while a lease is held."""
    async with open_stage() as stage:
        engine, orders = stage.engine, Orders(stage)
        stage.add("1", "2", "3", "4", execution=choose(["inline", "worker"]))
        await engine.load("m", "1")
        broken = choose([None, None, "3", "4"])
        if broken is not None:
            stage.rig.script("m", broken).load_error = RuntimeError("cannot be loaded")
        for version in "234":
            stage.rig.takes(f"load m/{version}", choose([0.0, 0.0, 1.0]))

        async def hold() -> None:
            with suppress(NotReady):
                async with engine.lease("m"):
                    await trio.sleep(choose([0.0, 1.0, 3.0]))

        stage.call(hold, "hold")
        drain = Drain(choose([0.0, 1.0, 30.0]))
        for to, on_busy in choose(
            [
                (("2", "refuse"), ("3", "supersede"), ("4", "supersede")),
                (("2", "refuse"), ("3", "queue"), ("4", "queue")),
                (("2", "refuse"), ("3", "queue"), ("4", "supersede")),
                (("2", "refuse"), ("3", "supersede"), ("4", "queue"), ("2", "queue")),
                (("2", "refuse"), ("1", "queue"), ("2", "queue")),
                (("2", "refuse"), ("3", "supersede"), ("1", "supersede")),
                (("2", "refuse"), ("2", "supersede"), ("2", "queue"), ("3", "refuse")),
            ]
        ):
            orders.give(to, on_busy, drain)
            await trio.sleep(choose([0.0, 0.0, 0.25, 0.75, 2.0]))
        await stage.rest()
        assert_at_rest(stage)
        orders.assert_told()
        assert_the_newest_won(stage, orders, broken)


def assert_the_newest_won(stage: Stage, orders: Orders, broken: str | None) -> None:
    """What was ordered last has the traffic, unless it could not be loaded; then what was ordered before that."""
    states = [(to, on_busy, stage.engine.swap_status(swap_id).state.value) for swap_id, to, on_busy in orders.given]
    fulfilled = [to for _, to, _ in orders.given if to != broken]
    last = orders.given[-1][1]
    if last != broken:
        assert stage.traffic() == last, (stage.traffic(), states)
    elif orders.done:
        assert stage.traffic() == orders.done[-1].to_version, (stage.traffic(), states)
    else:
        assert stage.traffic() == "1", (stage.traffic(), states)
    for to, _, state in states:
        assert (state == "failed") == (to == broken) or (to == broken and state == "superseded"), states
    assert fulfilled or broken
    (serving,) = [version for version in "1234" if stage.state(version) is VersionState.READY]
    assert serving == stage.traffic()


def test_the_newest_order_wins(search: Search) -> None:
    """Whatever is refused, queued or superseded, before or behind a pivot: the newest order's version is active."""
    search(orders_meet, policy=RandomWalk(), schedules=300)
    search(orders_meet, policy=PCT(depth=3), schedules=200)
    search(orders_meet, schedules=100, mode="trio-batch")


async def orders_meet_a_rollback() -> None:
    """Order a swap back at any time, beside newer orders; then perhaps close the engine in the middle of it all."""
    patience_s = choose([None, 0.0, 10.0])
    async with open_stage(close_timeout_s=patience_s or 0.0) as stage:
        engine, orders = stage.engine, Orders(stage)
        stage.add("1", "2", "3", execution=choose(["inline", "worker"]))
        await engine.load("m", "1")
        stage.rig.takes("load m/3", choose([0.0, 1.0]))
        drain = Drain(choose([0.0, 1.0]), choose(["quarantine", "rollback", "wait"]))

        async def hold() -> None:
            with suppress(NotReady):
                async with engine.lease("m"):
                    await trio.sleep(choose([0.0, 1.0, 3.0]))

        async def take_back(swap_id: str) -> None:
            await trio.sleep(choose([0.0, 0.5, 1.0, 2.0]))
            if choose([True, False]):
                await engine.rollback(swap_id)
            else:
                engine.abort(swap_id)

        stage.call(hold, "hold")
        first = orders.give("2", "refuse", drain)
        assert first is not None
        back = stage.call(lambda: take_back(first), "take back")
        await trio.sleep(choose([0.0, 0.5, 1.0]))
        orders.give("3", choose(["queue", "supersede", "refuse"]), Drain(1.0))
        if patience_s is None:
            await stage.rest()
            assert_at_rest(stage)
            orders.assert_told()
            assert_taken_back(stage, orders, back)
        else:
            for _ in range(choose(range(12))):
                await trio.lowlevel.checkpoint()
    for call in stage.calls:
        assert call.end in {*TOLD.values(), "EngineClosed", "SwapNotAllowed", "SwapInProgress"}, (call.name, call.end)


def assert_taken_back(stage: Stage, orders: Orders, back: Call) -> None:
    """Version 3 has the traffic where it was ordered and not refused; else who was told of a rollback finds it true."""
    first = stage.engine.swap_status(orders.given[0][0])
    newer = [to for _, to, _ in orders.given[1:]]
    assert (serving := stage.traffic()) is not None
    if newer:
        assert serving == "3", (serving, first.state)
    elif back.end == "returned" or first.state is not SwapState.COMPLETED:
        assert serving == "1", (serving, first.state, back.end)
    else:
        assert serving == "2", (serving, first.state, back.end)


def test_orders_against_a_rollback_and_the_end_of_the_engine(search: Search) -> None:
    """A rollback beside newer orders does what it says or says that it cannot; at the end everybody is answered."""
    search(orders_meet_a_rollback, policy=RandomWalk(), schedules=300)
    search(orders_meet_a_rollback, policy=PCT(depth=3), schedules=200)
