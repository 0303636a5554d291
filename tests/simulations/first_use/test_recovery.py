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
    later,
    live_and_die,
    recover,
    use,
)
from tests.simulations.first_use.reading import Reading
from tests.simulations.first_use.stage import House, Search, Stage, assert_explored, open_house, open_stage_in

RAMP = Shift.canary(((0.5, 0.5),), confirm_s=0.25, guard=None)
RECOVERING = 40
"""So many rounds of the others are enough for an opening and a recovery."""


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
    """What goes on, when something happens in it, and what is loaded before."""

    live: Live
    moments: tuple[tuple[float, int], ...]
    """So many rounds of the others behind each of these times are enough for what happens then."""
    loaded: str = "ab"


SCENES: Mapping[str, Scene] = {
    "a load": Scene(load, ((0.0, 12),), "a"),
    "a swap": Scene(swap, ((0.0, 36),)),
    "a swap in vain": Scene(swap_in_vain, ((0.0, 26),)),
    "a ramp": Scene(ramp, ((0.0, 21), (0.75, 18))),
    "a ramp that is turned": Scene(ramp_and_turn, ((0.0, 20), (0.25, 25))),
    "a turn in the drain": Scene(turn_in_the_drain, ((0.0, 25), (0.5, 30))),
    "a swap back": Scene(swap_and_swap_back, ((0.0, 72),)),
    "a group": Scene(swap_a_group, ((0.0, 38), (0.75, 20))),
    "a group in vain": Scene(swap_a_group_in_vain, ((0.0, 32),)),
    "a group that is turned": Scene(turn_a_group, ((0.0, 30), (0.5, 38))),
    "two models": Scene(swap_side_by_side, ((0.0, 40),)),
    "two swaps": Scene(swap_one_behind_the_other, ((0.0, 50), (1.0, 18))),
}


# --- the programs ---------------------------------------------------------------------------------------------------


async def register(stage: Stage) -> None:
    """Register three versions of two models."""
    for model in "ab":
        stage.add("1", "2", "3", model=model)


async def prepare(stage: Stage, models: str = "ab") -> None:
    """Register everything, and load version 1 of some models."""
    await register(stage)
    for model in models:
        await stage.engine.load(model, "1")


def mend(house: House) -> None:
    """Let everything be loaded again."""
    for model in "ab":
        house.cast.script(model, "2").load_error = None


async def a_process_ends(name: str, seen: set[str] | None = None) -> None:
    """Kill an engine at any moment of a scene, and have the next one recover what it has left."""
    scene = SCENES[name]
    after_s, rounds = choose(scene.moments)
    death = Death("process", "kill", after_s, choose(range(rounds)))
    async with open_house() as house:
        left = await live_and_die(house, scene.live, death, prepare=partial(prepare, models=scene.loaded))
        if seen is not None:
            seen.update(house.world.disk.lines()[-1:])
        mend(house)
        async with open_stage_in(house, on_disk="process") as stage:
            await recover(stage, register)
            assert_brought_back(stage, left)


async def processes_end(name: str) -> None:
    """Kill an engine, and the next one in its recovery, or cut the power; the third one brings everything back."""
    scene = SCENES[name]
    async with open_house() as house:
        house.world.durations["journal"] = choose([0.0, 0.0, 0.125])
        first, second = choose_death(scene.moments), choose_death(((0.0, RECOVERING), (0.125, RECOVERING)))
        from_the_start = choose([False, False, True])
        live = partial(open_and_live, scene) if from_the_start else scene.live
        left = await live_and_die(house, live, first, prepare=None if from_the_start else prepare)
        mend(house)
        instead = choose_what_is_lost(house, left)
        again = await live_and_die(house, register_anyhow, second)
        assert_came_no_further(left, again, instead)
        async with open_stage_in(house, on_disk=first.durability) as stage:
            await recover(stage, register_anyhow)
            assert_brought_back(stage, again, instead)
            mend(house)
            if choose([False, False, True]):
                await use(stage)


def choose_death(moments: tuple[tuple[float, int], ...]) -> Death:
    """Return any death at any of these moments."""
    after_s, rounds = choose(moments)
    return Death(choose(["process", "power"]), choose(["kill", "power_cut"]), after_s, choose(range(rounds)))


async def open_and_live(scene: Scene, stage: Stage) -> None:
    """Play a scene with all that comes before it."""
    await prepare(stage)
    await scene.live(stage)


async def register_anyhow(stage: Stage) -> None:
    """Register what there is in any order, and not at once."""
    for model in choose(["ab", "ba"]):
        for version in choose(["123", "321"]):
            stage.add(version, model=model)
        if choose([True, False]):
            await trio.lowlevel.checkpoint()


def choose_what_is_lost(house: House, left: Reading) -> dict[str, str]:
    """Perhaps lose version 2 of a model that an open swap has moved to it; return who goes back, and to what."""
    for swap_id in sorted(left.moved & left.open.keys()):
        members = left.swaps[swap_id].operation.members
        if choose([False, True]) and all(left.meant[member.model] == member.to_version for member in members):
            house.cast.script(choose(members).model, members[0].to_version).load_error = RuntimeError("is lost")
            return {member.model: member.from_version for member in members}
    return {}


def assert_came_no_further(left: Reading, again: Reading, instead: Mapping[str, str]) -> None:
    """A recovery that was killed has changed nothing but the ends of what was open."""
    for model, version in again.meant.items():
        assert version in {left.meant.get(model), instead.get(model)}
    for swap_id, record in again.swaps.items():
        before = left.swaps[swap_id]
        assert record == before or swap_id in left.open
