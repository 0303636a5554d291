"""The end of an engine in the middle of whatever goes on: nobody waits for ever, and every model is closed once."""

from __future__ import annotations

from contextlib import suppress

import trio

from changeover import Drain
from changeover.errors import ChangeoverError, NotReady
from changeover_sim import PCT, RandomWalk, choose
from tests.simulations.first_use.stage import (
    Search,
    Stage,
    assert_nothing_left,
    inputs,
    open_house,
    open_stage,
)
from tests.support.rig import open_rig

KINDS = ({"execution": "inline"}, {"execution": "worker"}, {"execution": "worker", "batched": True})


async def a_swap_is_ordered_while_the_engine_closes() -> None:
    """Order a swap in the moment in which the engine is closed."""
    async with open_stage(close_timeout_s=choose([0.0, 10.0])) as stage:
        await stage.rig.ready()
        stage.rig.add(version="2")
        swap = stage.call(lambda: stage.engine.swap("m", "2"), "swap")
        await trio.lowlevel.checkpoint()
    assert swap.end in {"EngineClosed", "SwapFailed", "SwapRolledBack", "returned"}


def test_a_swap_that_has_not_begun_when_the_engine_closes_is_answered(search: Search) -> None:
    """Whoever ordered a swap is told its end, also where the engine is closed before the swap's first step."""
    search(a_swap_is_ordered_while_the_engine_closes, policy=RandomWalk(), schedules=300)
    search(a_swap_is_ordered_while_the_engine_closes, schedules=300, mode="trio-batch")


async def the_end_of_an_engine_where_all_hangs() -> None:
    """Close an engine whose threads hang as the schedule has it."""
    patience_s, hang_s = choose([0.0, 1.0, 10.0]), 1_000.0
    async with open_stage(patience_s=patience_s, close_timeout_s=patience_s) as stage:
        engine = stage.engine
        stage.add("1", "2", "3", execution=choose(["inline", "worker"]))
        await engine.load("m", "1")
        await engine.load("m", "3")
        for version in "123":
            for work in ("load m/{}", "warm m/{}", "close m/{}", "worker m/{} 0"):
                stage.rig.takes(work.format(version), choose([0.0, 0.0, 1.0, hang_s]))
        stage.call(lambda: engine.infer("m", inputs(1)), "infer")
        stage.call(lambda: engine.swap("m", "2", drain=choose([Drain(), Drain(then="wait")])), "swap")
        stage.call(lambda: engine.warm_up("m", "3", inputs(-1)), "warm up")
        if choose([True, False]):
            stage.call(lambda: engine.unload("m", "3"), "unload")
        for _ in range(choose(range(20))):
            await trio.lowlevel.checkpoint()


def test_an_engine_is_closed_in_time_whatever_hangs(search: Search) -> None:
    """It takes twice `close_timeout_s` at most, everybody is answered then, and what comes back later is closed."""
    search(the_end_of_an_engine_where_all_hangs, policy=RandomWalk(), schedules=300)


async def leases_outlive_the_engine() -> None:
    """Hold leases to before, within and beyond the end of the engine."""
    async with open_stage(close_timeout_s=choose([0.0, 1.0])) as stage:
        stage.add("1", **choose(KINDS))
        await stage.engine.load("m", "1")

        async def hold() -> None:
            with suppress(NotReady):
                async with stage.engine.lease("m") as lease:
                    await trio.sleep(choose([0.0, 1.0, 5.0]))
                    with suppress(ChangeoverError):
                        lease.infer(inputs(1))

        for number in range(2):
            stage.call(hold, f"hold {number}")
        await trio.lowlevel.checkpoint()


def test_a_model_that_is_held_at_the_end_is_closed_by_its_last_holder(search: Search) -> None:
    """Leases that end before, while and after the engine is closed: the model works for them, and is closed once."""
    search(leases_outlive_the_engine, policy=RandomWalk(), schedules=300)
    search(leases_outlive_the_engine, policy=PCT(depth=3), schedules=300)


async def models_that_nobody_holds() -> None:
    """Close an engine with three models, one of them broken, whose closing takes its time."""
    async with open_house() as house:
        options = {"world": house.world, "cast": house.cast}
        async with open_rig(**options, close_timeout_s=100.0) as rig:
            stage = Stage(rig, house)
            stage.add(
                "1", "2", "3", execution=choose(["inline", "worker"]), fatal_on=lambda asked: asked["x"][0, 0] > 0
            )
            for version in "123":
                await rig.engine.load("m", version)
                rig.takes(f"close m/{version}", choose([0.0, 1.0, 2.0]))
            if choose([True, False]):
                stage.call(lambda: rig.engine.infer("m", inputs(1), version="2"))
                await trio.lowlevel.checkpoint()
        assert len(house.cast.made) - len(house.cast.open()) >= 3, "the engine is closed and its models are not"
    assert_nothing_left(stage)


def test_an_engine_is_closed_when_its_models_are(search: Search) -> None:
    """The block of an engine ends once every model that nobody holds is closed, and not before."""
    search(models_that_nobody_holds, policy=RandomWalk(), schedules=300)
