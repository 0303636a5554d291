"""The scenes of what an earlier process has left: a swap that is finished or undone, a version that is brought back.

A process that is waited for goes on without whoever waits. Those that came before end in order, or are killed.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import trio

from changeover import SwapState, VersionState
from tests.simulations.cancel.scene import DONE, Play, Scene, later
from tests.simulations.cancel.swaps import PATIENT, RAMP, a_swap, a_way_back, states
from tests.simulations.cancel.watch import Watch
from tests.simulations.first_use.lives import Death, live_and_die
from tests.simulations.first_use.stage import Call, House, Stage, open_stage_in

KILLED = Death("process", "kill", 0.25, 0)
"""In the middle of a ramp, or of a drain."""
Past = partial(Scene, on_disk="process", is_loaded=False)


# --- those who wait for it --------------------------------------------------------------------------------------------


def undone(stage: Stage, call: Call) -> None:
    """What the earlier process had not done, this one has undone, whoever waits."""
    assert states(stage.engine) in ([], ["failed"])
    assert stage.state("1") is VersionState.READY


async def _wait_for_a_past_swap(stage: Stage, here: Watch) -> None:
    (operation,) = stage.engine.swaps()
    assert operation.state is SwapState.RECOVERING
    await register_later(stage)
    await here(stage.engine.wait_for_swap(operation.id))


async def _rollback_of_a_past_swap(stage: Stage, here: Watch) -> None:
    (operation,) = stage.engine.swaps()
    await register_later(stage)
    await stage.engine.recovered()
    await here(stage.engine.rollback(operation.id))


async def _rollback_of_what_is_being_recovered(stage: Stage, here: Watch) -> None:
    (operation,) = stage.engine.swaps()
    assert operation.state is SwapState.RECOVERING
    await register_later(stage)
    await here(stage.engine.rollback(operation.id))


async def register_later(stage: Stage) -> None:
    """Have somebody register both versions in half a second, which the engine waits for to bring the model back."""
    assert stage.engine.recovery().waiting

    async def register() -> None:
        stage.add("1", "2")

    stage.rig.takes("load m/1", 0.25)
    later(stage, 0.5, register)


async def _recovered(stage: Stage, here: Watch) -> None:
    await register_later(stage)
    report = await here(stage.engine.recovered())
    assert (len(report.done), report.waiting) == (1, ())


async def _recovered_in_vain(stage: Stage, here: Watch) -> None:
    await register_later(stage)
    await here(stage.engine.recovered(timeout_s=0.25))


# --- the processes that came before -----------------------------------------------------------------------------------


async def a_load(house: House) -> None:
    """Be a process that has loaded a version, and has ended in order."""
    async with open_stage_in(house, on_disk="process") as stage:
        await prepare(stage)


async def a_completed_swap(house: House) -> None:
    """Be a process that has swapped, and has ended in order."""
    async with open_stage_in(house, on_disk="process") as stage:
        await prepare(stage)
        await stage.engine.swap("m", "2")


async def a_ramp_that_was_killed(house: House) -> None:
    """Be a process that has ended in the middle of a ramp."""

    async def ramp(stage: Stage) -> None:
        stage.call(lambda: stage.engine.swap("m", "2", plan=RAMP))

    await live_and_die(house, ramp, KILLED, prepare=prepare)


async def a_drain_that_was_killed(house: House) -> None:
    """Be a process that has ended when its swap was past the pivot."""

    async def drain(stage: Stage) -> None:
        async def stay() -> None:
            async with stage.engine.lease("m"):
                await trio.sleep(1.0)

        stage.call(stay)
        await stage.until(lambda: bool(stage.engine.audit().holders))
        stage.call(lambda: stage.engine.swap("m", "2", drain=PATIENT))

    await live_and_die(house, drain, KILLED, prepare=prepare)


async def prepare(stage: Stage) -> None:
    """Serve by the first of two versions."""
    stage.add("1", "2")
    await stage.engine.load("m", "1")


PAST: Mapping[str, Mapping[str, Play]] = {
    "Engine.wait_for_swap": {
        "of an earlier process": Past(
            _wait_for_a_past_swap, undone, before=a_ramp_that_was_killed, ends=frozenset({"SwapFailed", "cancelled"})
        ),
    },
    "Engine.rollback": {
        "of an earlier process": Past(_rollback_of_a_past_swap, a_way_back(0.5), before=a_completed_swap),
        "of what is being recovered": Past(
            _rollback_of_what_is_being_recovered, a_way_back(0.75), before=a_drain_that_was_killed
        ),
    },
    "Engine.recovered": {
        "behind a load": Past(_recovered, undone, before=a_load),
        "behind a swap": Past(_recovered, undone, before=a_ramp_that_was_killed),
        "behind a drain": Past(_recovered, a_swap, before=a_drain_that_was_killed),
        "in vain": Past(_recovered_in_vain, undone, before=a_load, ends=DONE | {"NotReady"}),
    },
}
