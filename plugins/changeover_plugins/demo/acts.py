"""The acts of the demo: each orders something of the engine while the clients ask, and checks what came of it.

These are the first five; those with a version on trial are in `trials.py`. Owns no state; an act may open a nursery,
and closes it.
"""

from __future__ import annotations

import trio

from changeover import VersionState
from changeover.errors import LoadFailed, LoadTimeout, SwapFailed
from changeover_plugins.demo.clients import SlowRequest
from changeover_plugins.demo.digits import MODEL
from changeover_plugins.demo.repository import (
    BROKEN,
    HANG_S,
    HANGING,
    LINEAR,
    LOAD_TIMEOUT_S,
    NETWORK,
    REBUILT,
)
from changeover_plugins.demo.stage import Act, ActFailed, Stage, answers_still, appears, changed_over, expect, swap
from changeover_plugins.demo.trials import TRIALS

SLOW_S = 1.5
"""How long the slow request of act 4 takes."""


async def first_load(stage: Stage) -> str:
    """Load the version that the clients begin with."""
    await stage.engine.load(MODEL, LINEAR)
    return f"{LINEAR} is loaded"


async def changeover(stage: Stage) -> str:
    """Change over from 1 to 2."""
    operation, said = await swap(stage, LINEAR, NETWORK)
    stage.first_swap = operation.id
    return said


async def broken_file(stage: Stage) -> str:
    """Order an update whose file was cut short."""
    stage.repository.publish(BROKEN, like=NETWORK, share=0.5)
    refused, took_s = await _refused(stage, BROKEN, active=NETWORK)
    cause = refused.__cause__
    expect(
        isinstance(cause, LoadFailed) and not isinstance(cause, LoadTimeout),
        "the cause is LoadFailed",
        type(cause).__name__,
    )
    return f"refused after {took_s * 1000:.0f} ms, {NETWORK} stays: {stage.repository.shorten(str(cause))}"


async def hanging_load(stage: Stage) -> str:
    """Order an update that never comes back from its load, and straight after it one that does."""
    stage.repository.publish(HANGING, like=NETWORK, hang_s=HANG_S)
    refused, took_s = await _refused(stage, HANGING, active=NETWORK)
    cause = refused.__cause__
    expect(isinstance(cause, LoadTimeout), "the cause is LoadTimeout", type(cause).__name__)
    expect(took_s < 2 * LOAD_TIMEOUT_S, f"the time limit of {LOAD_TIMEOUT_S} s ended it", f"{took_s:.1f} s")
    stage.repository.publish(REBUILT, like=NETWORK)
    await appears(stage, REBUILT)
    _, said = await swap(stage, NETWORK, REBUILT)
    _expect_hanging(stage)
    return f"given up after {took_s:.1f} s; while its thread still hangs, {REBUILT} took over: {said}"


async def slow_request(stage: Stage) -> str:
    """Change over while a request is under way that takes its time."""
    engine, living = stage.engine, stage.ledger.living
    slow = SlowRequest(
        lambda: (engine.is_active(MODEL, NETWORK), engine.load_info(MODEL, REBUILT).status, living(REBUILT))
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stage.traffic.ask_slowly, slow, SLOW_S)
        await slow.begun.wait()
        _, said = await swap(stage, REBUILT, NETWORK)
    expect(slow.version == REBUILT, f"the slow request holds {REBUILT}", slow.version)
    expect(slow.held_s >= SLOW_S, f"it is answered after {SLOW_S:g} s", f"after {slow.held_s:.1f} s")
    waits = (True, VersionState.DRAINING, 1)
    expect(slow.saw == waits, f"just before, {NETWORK} is active and {REBUILT} drains, not closed", slow.saw)
    return f"{said}: not before it had answered its slow request, after {slow.held_s:.1f} s"


async def rollback(stage: Stage) -> str:
    """Take the first changeover back, long after it."""
    watch, began_s = stage.traffic.watch(LINEAR), trio.current_time()
    operation = await stage.engine.rollback(stage.first_swap)
    expect(operation.rollback_of == stage.first_swap, "it says which swap it took back", operation.rollback_of)
    return await changed_over(stage, operation, watch, trio.current_time() - began_s)


OPENING = Act("first load", f"load {LINEAR}", first_load)
"""What comes before the clients."""

ACTS = (
    Act("changeover", f"changeover {LINEAR} -> {NETWORK}", changeover),
    Act("broken file", f"update to {BROKEN}, whose file was cut short", broken_file),
    Act("hanging load", f"update to {HANGING}, which hangs while it loads, then to {REBUILT}", hanging_load),
    Act("slow request", f"changeover {REBUILT} -> {NETWORK} with a slow request in flight", slow_request),
    Act("rollback", f"rollback of the first changeover, {NETWORK} -> {LINEAR}", rollback),
    *TRIALS,
)
"""What is played, in order; each begins where the one before it left off."""


async def _refused(stage: Stage, version: str, *, active: str) -> tuple[SwapFailed, float]:
    """Order an update that cannot succeed; return how it failed and after how many seconds."""
    await appears(stage, version)
    began_s = trio.current_time()
    try:
        operation = await stage.engine.swap(MODEL, version)
    except SwapFailed as error:
        took_s = trio.current_time() - began_s
        expect(stage.engine.is_active(MODEL, active), f"{active} is still active", "it is not")
        status = stage.engine.load_info(MODEL, version).status
        expect(status is VersionState.FAILED, f"{version} has failed", status.value)
        await answers_still(stage, active)
        return error, took_s
    raise ActFailed(f"expected: the update to {version} fails; instead: it is {operation.state.value}")


def _expect_hanging(stage: Stage) -> None:
    """Check that the load that was given up hangs on, for the engine and for the witness."""
    stuck = stage.engine.statistics().stuck_loads
    expect(stuck == 1, "the engine counts one load that hangs", stuck)
    hanging = stage.ledger.hanging[HANGING]
    expect(hanging == 1, f"the load of {HANGING} still hangs", f"{hanging} of them do")
