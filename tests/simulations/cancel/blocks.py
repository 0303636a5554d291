"""The scenes of leases: entered while their version is there, comes, or was evicted; left in order, or revoked."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from typing import Any

import trio

from changeover import Drain, VersionState
from changeover.errors import LeaseRevoked, VersionCrashed
from tests.simulations.cancel.scene import DONE, TWO, Play, Scene, evict, later, until
from tests.simulations.cancel.versions import a_reload, an_unload
from tests.simulations.cancel.watch import Block, Watch
from tests.simulations.first_use.stage import Call, Stage, inputs

POISON = 13.0
"""What ends a version."""
MODELS = ("m", "n")


def a_load(stage: Stage, call: Call) -> None:
    """The load that was waited for is somebody else's, and comes to its end."""
    assert (stage.state("1"), stage.state("2")) == (VersionState.READY, VersionState.READY)


def use(held: Any) -> None:
    """Ask whoever is held, one or several."""
    for lease in held.values() if isinstance(held, Mapping) else [held]:
        lease.infer(inputs(1))


async def _enter(stage: Stage, here: Watch, **options: Any) -> None:
    async with Block(stage.engine.lease("m", **options), here, "__aenter__") as lease:
        use(lease)


async def _enter_what_comes(stage: Stage, here: Watch, **options: Any) -> None:
    stage.rig.takes("load m/2", 0.5)
    stage.call(lambda: stage.engine.load("m", "2"), "load")
    await until(stage, VersionState.LOADING, "2")
    await _enter(stage, here, version="2", **options)


async def _enter_what_was_evicted(stage: Stage, here: Watch) -> None:
    await evict(stage)
    stage.rig.takes("load m/1", 0.5)
    await _enter(stage, here)


async def _enter_what_is_started_again(stage: Stage, here: Watch) -> None:
    stage.rig.script("m", "1").fatal_on = lambda asked: bool((asked["x"] == POISON).any())
    with suppress(VersionCrashed):
        await stage.engine.infer("m", inputs(POISON), version="1")
    await stage.until(lambda: stage.state("1") is not VersionState.READY)
    stage.rig.takes("load m/1", 0.5)
    await _enter(stage, here)


async def _leave(stage: Stage, here: Watch) -> None:
    async with Block(stage.engine.lease("m"), here, "__aexit__") as lease:
        use(lease)


async def revoke(stage: Stage, model: str = "m") -> None:
    """Have somebody drain the first version of a model, in a while, for whom there is no time."""
    drain = Drain(0.25, "cancel", 1.0)
    later(stage, 0.25, lambda: stage.engine.unload(model, "1", force=True, drain=drain), "unload")


async def _leave_what_was_revoked(stage: Stage, here: Watch) -> None:
    await revoke(stage)
    try:
        async with Block(stage.engine.lease("m"), here, "__aexit__"):
            await trio.sleep(10.0)
    except LeaseRevoked:
        return
    raise AssertionError("it was not revoked")


async def second(stage: Stage) -> None:
    """Have a second model."""
    stage.add("1", "2", model="n")
    await stage.engine.load("n", "1")


async def _enter_many(stage: Stage, here: Watch, **options: Any) -> None:
    async with Block(stage.engine.lease_many(MODELS, **options), here, "__aenter__") as leases:
        use(leases)


async def _enter_both(stage: Stage, here: Watch) -> None:
    await second(stage)
    await _enter_many(stage, here)


async def _enter_many_of_which_one_comes(stage: Stage, here: Watch, **options: Any) -> None:
    stage.add("1", "2", model="n")
    stage.rig.takes("load n/1", 0.5)
    stage.call(lambda: stage.engine.load("n", "1"), "load")
    await until(stage, VersionState.LOADING, model="n")
    await _enter_many(stage, here, **options)


async def _enter_many_of_which_one_was_evicted(stage: Stage, here: Watch) -> None:
    await evict(stage)
    stage.rig.takes("load m/1", 0.5)
    await _enter_many(stage, here)


async def _leave_many(stage: Stage, here: Watch) -> None:
    await second(stage)
    async with Block(stage.engine.lease_many(MODELS), here, "__aexit__") as leases:
        use(leases)


async def _leave_many_of_which_one_was_revoked(stage: Stage, here: Watch) -> None:
    await second(stage)
    await revoke(stage)
    try:
        async with Block(stage.engine.lease_many(MODELS), here, "__aexit__"):
            await trio.sleep(10.0)
    except LeaseRevoked:
        return
    raise AssertionError("it was not revoked")


OUT_OF_TIME = DONE | {"NotReady"}
BLOCKS: Mapping[str, Mapping[str, Play]] = {
    "Lease.__aenter__": {
        "at once": Scene(_enter, pause="yields"),
        "of what comes": Scene(_enter_what_comes, a_load),
        "of what comes too late": Scene(partial(_enter_what_comes, wait_s=0.25), a_load, ends=OUT_OF_TIME),
        "of what is started again": Scene(_enter_what_is_started_again, a_reload),
        "of what was evicted": Scene(_enter_what_was_evicted, a_reload, engine=TWO),
    },
    "Lease.__aexit__": {
        "in order": Scene(_leave, pause="never"),
        "revoked": Scene(_leave_what_was_revoked, an_unload, pause="never"),
    },
    "Leases.__aenter__": {
        "at once": Scene(_enter_both, pause="yields"),
        "of what comes": Scene(_enter_many_of_which_one_comes),
        "of what comes too late": Scene(partial(_enter_many_of_which_one_comes, wait_s=0.25), ends=OUT_OF_TIME),
        "of what was evicted": Scene(_enter_many_of_which_one_was_evicted, a_reload, engine=TWO),
    },
    "Leases.__aexit__": {
        "in order": Scene(_leave_many, pause="never"),
        "revoked": Scene(_leave_many_of_which_one_was_revoked, an_unload, pause="never"),
    },
}
