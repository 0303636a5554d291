"""The scenes of an engine that is opened and closed: cancelled in the middle of it, it is closed in order all the same.

Each opens a house of its own, and behind the engine that was cancelled another one, on the same disk, which works.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any

import attrs
import trio

import changeover
from changeover import Drain, Shift
from changeover.errors import ChangeoverError
from tests.simulations.cancel.past import a_ramp_that_was_killed
from tests.simulations.cancel.scene import DONE, WORKER, Play, assert_still, nobody_before, use
from tests.simulations.cancel.versions import REPOSITORY
from tests.simulations.cancel.watch import Block, Log, Pause, Watch, When
from tests.simulations.first_use.stage import (
    Call,
    House,
    Stage,
    assert_nothing_left,
    inputs,
    open_house,
    open_stage_in,
)
from tests.support.rig import Rig

Live = Callable[[Stage], Awaitable[None]]
HURRY = {"close_timeout_s": 0.0}
RAMP = Shift.canary(((0.5, 0.5),), confirm_s=0.25, guard=None)


@attrs.frozen
class Opening:
    """An engine whose opening or closing is cancelled."""

    end: Any
    """Which end of its block it is about."""
    live: Live
    """What is done in the block."""
    before: Callable[[House], Awaitable[None]] = nobody_before
    """What an earlier process did on this disk."""
    engine: Mapping[str, Any] = {}
    """Options of the engine."""
    pause: Pause = "waits"
    ends: frozenset[str] = DONE
    others: frozenset[str] = DONE | {"EngineClosed", "SwapRolledBack", "SwapFailed", "VersionCrashed"}
    """How the calls may end under which it is closed."""

    async def play(self, log: Log, when: When) -> None:
        """Open and close an engine, cancel that at some moment, and open another one."""
        async with open_house() as house:
            await self.before(house)
            house.world.ports = attrs.evolve(house.world.ports, journal=house.world.disk.journal("process"))
            here, opened = Watch(log, when), list[Stage]()
            call = Call(log.name, lambda: self._open(house, here, opened))
            here.scope = call.scope
            house.callers.start_soon(here.cancel_beside)
            await call.run()
            log.ends[call.end] += 1
            assert call.end in self.ends, (call.end, call.error)
            await trio.sleep(1_000.0)  # the threads that nobody waits for come to their end
            assert house.cast.open() == [], "the engine is closed, and a model is open"
            for stage in opened:
                assert {one.end for one in stage.calls} <= self.others, [one.end for one in stage.calls]
                assert_nothing_left(stage)
            await self._open_another(house)

    async def _open(self, house: House, here: Watch, opened: list[Stage]) -> None:
        """Open an engine, do something with it, and close it."""
        options = {"debug_references": True, **self.engine}
        manager = changeover.open_engine(ports=house.world.ports, **options)
        async with Block(manager, here, self.end) as engine:
            stage = Stage(Rig(engine, house.cast, house.world), house)
            opened.append(stage)
            await self.live(stage)

    async def _open_another(self, house: House) -> None:
        """Open the next engine on this disk, and use it."""
        async with open_stage_in(house, on_disk="process") as stage:
            stage.add("1", "2")
            await stage.engine.recovered()
            await stage.engine.ensure_loaded("m", "1")
            await stage.rest()
            await assert_still(stage)
            await use(stage)


async def nothing(stage: Stage) -> None:
    """Do nothing in the block."""


async def serve(stage: Stage) -> None:
    """Serve by one version, with another one loaded."""
    stage.add("1", "2", **WORKER)
    await stage.engine.load("m", "1")
    await stage.engine.load("m", "2")


async def be_busy(stage: Stage) -> None:
    """Load, ask, hold and swap, in the middle of which the block is left."""
    engine = stage.engine
    await serve(stage)
    stage.add("3")
    stage.add("1", model="n")
    stage.rig.takes("load n/1", 1.0)
    stage.rig.takes("worker m/1 0", 0.5)

    async def hold() -> None:
        async with engine.lease("m", version="1"):
            await trio.sleep(1.5)

    stage.call(hold, "hold")
    stage.call(lambda: engine.infer("m", inputs(1)), "infer")
    stage.call(lambda: engine.load("n", "1"), "load")
    stage.call(lambda: engine.swap("m", "3", plan=RAMP, drain=Drain(5.0)), "swap")
    await trio.sleep(0.25)


async def swap(stage: Stage) -> None:
    """Swap in the block itself, while somebody asks."""
    await serve(stage)
    stage.call(lambda: stage.engine.infer("m", inputs(1)), "infer")
    await stage.engine.swap("m", "2", plan=RAMP)


async def be_revoked(stage: Stage) -> None:
    """Hold for longer than the engine waits."""
    await serve(stage)

    async def hold() -> None:
        with suppress(ChangeoverError):
            async with stage.engine.lease("m", version="1"):
                await trio.sleep(30.0)

    stage.call(hold, "hold")
    await trio.sleep(0.25)


ENGINES: Mapping[str, Mapping[str, Play]] = {
    "open_engine.__aenter__": {
        "alone": Opening("__aenter__", nothing, pause="yields"),
        "with a repository": Opening("__aenter__", nothing, engine={"repository": REPOSITORY}),
        "with a past": Opening("__aenter__", nothing, before=a_ramp_that_was_killed, pause="yields"),
        "before all that follows": Opening("__aenter__", swap, engine={"repository": REPOSITORY}),
        "before all that follows, in a hurry": Opening("__aenter__", swap, engine=HURRY, pause="yields"),
    },
    "open_engine.__aexit__": {
        "alone": Opening("__aexit__", nothing, pause="shielded"),
        "with two versions": Opening("__aexit__", serve, pause="shielded"),
        "in the middle of everything": Opening("__aexit__", be_busy, pause="shielded"),
        "with a holder who stays": Opening("__aexit__", be_revoked, pause="shielded", engine={"close_timeout_s": 1.0}),
        "in a hurry": Opening("__aexit__", be_busy, pause="shielded", engine=HURRY),
    },
}
