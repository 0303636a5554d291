"""Processes that end at any moment of a swap, and again at any moment of the recovery, on a simulated disk.

What each program asserts comes on top of `read`, which looks behind every entry whether a process may end there.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any

import attrs
import pytest
import trio

from changeover import Drain, Shift
from changeover.errors import ChangeoverError
from changeover_sim import PCT, Exhaustive, RandomWalk, choose, explore
from tests.simulations.first_use.lives import (
    Death,
    Live,
    assert_brought_back,
    disk_of,
    later,
    live_and_die,
    recover,
    use,
)
from tests.simulations.first_use.stage import House, Search, Stage, assert_explored, open_house, open_stage_in

RAMP = Shift.canary(((0.5, 0.5),), confirm_s=0.25, guard=None)
ROUNDS = 70
"""So many rounds of the others are enough for the longest way from one wait for time to the next."""


# --- what goes on when the process ends -----------------------------------------------------------------------------


async def load(stage: Stage) -> None:
    """Load, and nothing else."""
    stage.call(lambda: stage.engine.load("b", "1"))


async def swap(stage: Stage) -> None:
    """Swap at once."""
    stage.call(lambda: stage.engine.swap("a", "2"))


async def swap_in_vain(stage: Stage) -> None:
    """Swap to what cannot be loaded."""
    stage.rig.script("a", "2").load_error = RuntimeError("cannot be loaded")
    stage.call(lambda: stage.engine.swap("a", "2"))


async def ramp(stage: Stage) -> None:
    """Swap by a canary."""
    stage.call(lambda: stage.engine.swap("a", "2", plan=RAMP))


async def ramp_and_turn(stage: Stage) -> None:
    """Order a canary back."""
    swap_id = stage.engine.start_swap("a", "2", plan=RAMP)
    stage.call(later(0.25, lambda: stage.engine.rollback(swap_id)))


async def hold(stage: Stage) -> None:
    """Hold the old version, so that its drain takes a second."""

    async def hold_on() -> None:
        async with stage.engine.lease("a"):
            await trio.sleep(1.0)

    stage.call(hold_on)
    await trio.lowlevel.checkpoint()
    await trio.lowlevel.checkpoint()


async def turn_in_the_drain(stage: Stage) -> None:
    """Order a swap back that is past its pivot."""
    await hold(stage)
    swap_id = stage.engine.start_swap("a", "2", drain=Drain(5.0))
    stage.call(later(0.5, lambda: stage.engine.rollback(swap_id)))


async def swap_and_swap_back(stage: Stage) -> None:
    """Take a swap back that is completed."""

    async def there_and_back() -> None:
        operation = await stage.engine.swap("a", "2")
        await stage.engine.rollback(operation.id)

    stage.call(there_and_back)


async def swap_a_group(stage: Stage) -> None:
    """Swap two models as one."""
    stage.call(lambda: stage.engine.swap_group({"a": "2", "b": "2"}, plan=choose([Shift.at_once(), RAMP])))


async def swap_a_group_in_vain(stage: Stage) -> None:
    """Swap two models as one, of which one cannot be loaded."""
    stage.rig.script("b", "2").load_error = RuntimeError("cannot be loaded")
    stage.call(lambda: stage.engine.swap_group({"a": "2", "b": "2"}))


async def turn_a_group(stage: Stage) -> None:
    """Order a group back that is past its pivot."""
    await hold(stage)
    swap_id = stage.engine.start_group_swap({"a": "2", "b": "2"}, drain=Drain(5.0))
    stage.call(later(0.5, lambda: stage.engine.rollback(swap_id)))


async def swap_side_by_side(stage: Stage) -> None:
    """Swap two models that have nothing to do with each other."""
    for model in "ab":
        stage.call(partial(stage.engine.swap, model, "2"))


async def swap_one_behind_the_other(stage: Stage) -> None:
    """Order a swap that begins in the drain of another one."""
    await hold(stage)
    stage.call(lambda: stage.engine.swap("a", "2", drain=Drain(5.0)))
    await trio.lowlevel.checkpoint()
    stage.call(lambda: stage.engine.swap("a", "3", on_busy=choose(["queue", "supersede"])))


@attrs.frozen
class Scene:
    """What goes on, and when something happens in it."""

    live: Live
    times_s: tuple[float, ...] = (0.0,)


SCENES: Mapping[str, Scene] = {
    "a load": Scene(load),
    "a swap": Scene(swap),
    "a swap in vain": Scene(swap_in_vain),
    "a ramp": Scene(ramp, (0.0, 0.5, 0.75)),
    "a ramp that is turned": Scene(ramp_and_turn, (0.0, 0.25)),
    "a turn in the drain": Scene(turn_in_the_drain, (0.0, 0.5, 1.0)),
    "a swap back": Scene(swap_and_swap_back),
    "a group": Scene(swap_a_group, (0.0, 0.5, 0.75)),
    "a group in vain": Scene(swap_a_group_in_vain),
    "a group that is turned": Scene(turn_a_group, (0.0, 0.5, 1.0)),
    "two models": Scene(swap_side_by_side),
    "two swaps": Scene(swap_one_behind_the_other, (0.0, 1.0)),
}


# --- the programs ---------------------------------------------------------------------------------------------------


async def prepare(stage: Stage) -> None:
    """Register everything, and load what most scenes begin with."""
    await register(stage)
    await stage.engine.load("a", "1")
    if choose([True, False]):
        await stage.engine.load("b", "1")


async def register(stage: Stage) -> None:
    """Register three versions of two models."""
    for model in "ab":
        stage.add("1", "2", "3", model=model)


async def both(stage: Stage) -> None:
    """Register everything, and load version 1 of both models."""
    await register(stage)
    for model in "ab":
        await stage.engine.load(model, "1")


async def one(stage: Stage) -> None:
    """Register everything, and load version 1 of one model."""
    await register(stage)
    await stage.engine.load("a", "1")


async def a_process_ends(name: str, seen: set[str] | None = None) -> None:
    """Kill an engine at any moment of a scene, and have the next one recover what it has left."""
    scene = SCENES[name]
    async with open_house() as house:
        death = Death("process", "kill", choose(scene.times_s), choose(range(ROUNDS)))
        left = await live_and_die(house, scene.live, death, prepare=one if scene.live is load else both)
        if seen is not None:
            seen.update(house.world.disk.lines()[-1:])
        mend(house)
        async with open_stage_in(house, on_disk="process") as stage:
            await recover(stage, register)
            assert_brought_back(stage, left)
            if seen is None:
                await use(stage)


def mend(house: House) -> None:
    """Let everything be loaded again."""
    for model in "ab":
        house.cast.script(model, "2").load_error = None
