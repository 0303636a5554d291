"""The programs that found bugs of the engine; `test_found.py` has the schedules that did. Each makes a stage afresh."""

from __future__ import annotations

import trio

from changeover import Drain, VersionState
from tests.simulations.first_use.stage import Stage, open_stage


async def _unloading(stage: Stage) -> None:
    """Order an unload of version 2, and return when its model is being closed, or was."""
    call = stage.call(lambda: stage.engine.unload("m", "2"), "unload")
    await stage.until(lambda: stage.state("2") is VersionState.UNLOADING or call.is_over)


async def swap_at_close() -> None:
    """A swap that was ordered in the moment of closing was never answered: its task never made a step."""
    async with open_stage(close_timeout_s=0.0) as stage:
        stage.add("1", "2")
        await stage.engine.load("m", "1")
        stage.call(lambda: stage.engine.swap("m", "2"), "swap")
        await trio.lowlevel.checkpoint()


async def cancelled_at_its_opening() -> None:
    """An engine in a scope that was cancelled before it had started hung for ever."""
    with trio.CancelScope() as scope:
        scope.cancel()
        async with open_stage():
            await trio.sleep_forever()


async def load_called_off_as_the_model_closes() -> None:
    """A load that waited for the old model's close could not be called off in the moment of that close."""
    async with open_stage() as stage:
        stage.add("1", "2")
        await stage.engine.load("m", "1")
        await stage.engine.load("m", "2")
        stage.rig.takes("load m/2", 5.0)
        await _unloading(stage)
        call = stage.cancelled_call(lambda: stage.engine.load("m", "2"), "load", most=10)
        await stage.rest()
        assert call.end != "cancelled" or stage.state("2") is not VersionState.READY, "loaded for nobody"


async def load_late_as_the_model_closes() -> None:
    """A load whose time was up in the moment of that close had no time limit any more."""
    async with open_stage() as stage:
        stage.add("1")
        stage.add("2", load_timeout_s=3.0)
        await stage.engine.load("m", "1")
        await stage.engine.load("m", "2")
        stage.rig.takes("close m/2", 3.0)
        stage.rig.takes("load m/2", 500.0)
        await _unloading(stage)
        call = stage.call(lambda: stage.engine.load("m", "2"), "load")
        await stage.rest()
        assert (call.end, call.ended_s) == ("LoadTimeout", 3.0)


async def drain_that_ends_as_its_time_is_up() -> None:
    """A last holder who left in the moment of the deadline was told as a quarantine that nobody held."""
    async with open_stage() as stage:
        stage.add("1")
        await stage.engine.load("m", "1")

        async def hold() -> None:
            async with stage.engine.lease("m"):
                await trio.sleep(1.0)

        stage.call(hold, "hold")
        await stage.until(lambda: bool(stage.engine.audit().holders))
        outcome = await stage.engine.unload("m", "1", force=True, drain=Drain(1.0))
        assert outcome.result == "drained" or outcome.holders, outcome
        await stage.rest()


async def rollback_at_close() -> None:
    """A rollback of an engine that was being closed said that nothing was active."""
    async with open_stage() as stage:
        stage.add("1", "2")
        await stage.engine.load("m", "1")
        swap = await stage.engine.swap("m", "2", drain=Drain(0.0))
        call = stage.call(lambda: stage.engine.rollback(swap.id), "rollback")
        await trio.lowlevel.checkpoint()
    assert call.end in {"EngineClosed", "returned", "SwapRolledBack", "SwapFailed"}, (call.end, call.error)


PROGRAMS = (
    swap_at_close,
    cancelled_at_its_opening,
    load_called_off_as_the_model_closes,
    load_late_as_the_model_closes,
    drain_that_ends_as_its_time_is_up,
    rollback_at_close,
)
