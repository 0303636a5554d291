"""The five acts of the demo: each orders something of the engine while the clients ask, and checks what came of it.

An act returns what there is to say about it, or raises `ActFailed` with the expectation that did not hold. Owns no
state but the stage; an act may open a nursery, and closes it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import attrs
import trio

from changeover import Engine, SwapOperation, SwapState, VersionState
from changeover.errors import LoadFailed, LoadTimeout, SwapFailed
from changeover_plugins.demo.clients import SlowRequest, Traffic, Watch
from changeover_plugins.demo.digits import MODEL
from changeover_plugins.demo.repository import (
    BROKEN,
    HANG_S,
    HANGING,
    LINEAR,
    LOAD_TIMEOUT_S,
    NETWORK,
    REBUILT,
    Repository,
)
from changeover_plugins.demo.witness import Ledger

SLOW_S = 1.5
"""How long the slow request of act 4 takes."""
ANSWER_S = 10.0
"""How long the first answer of a new version may take before the act has failed."""


class ActFailed(Exception):
    """An expectation of an act did not hold; the message is the expectation, and what was there instead."""


@attrs.define(eq=False)
class Stage:
    """What the acts play with."""

    engine: Engine
    traffic: Traffic
    ledger: Ledger
    repository: Repository
    first_swap: str = ""
    """The id of act 1's swap, which act 5 takes back."""


@attrs.frozen
class Act:
    """One act."""

    name: str
    """What the tables call it."""
    title: str
    """What happens in it, in one line."""
    play: Callable[[Stage], Awaitable[str]]


async def first_load(stage: Stage) -> str:
    """Load the version that the clients begin with."""
    await stage.engine.load(MODEL, LINEAR)
    return f"{LINEAR} is loaded"


async def changeover(stage: Stage) -> str:
    """Change over from 1 to 2."""
    operation, said = await _swap(stage, LINEAR, NETWORK)
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
    await _appears(stage, REBUILT)
    _, said = await _swap(stage, NETWORK, REBUILT)
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
        _, said = await _swap(stage, REBUILT, NETWORK)
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
    return await _changed_over(stage, operation, watch, trio.current_time() - began_s)


OPENING = Act("first load", f"load {LINEAR}", first_load)
"""What comes before the clients."""

ACTS = (
    Act("changeover", f"changeover {LINEAR} -> {NETWORK}", changeover),
    Act("broken file", f"update to {BROKEN}, whose file was cut short", broken_file),
    Act("hanging load", f"update to {HANGING}, which hangs while it loads, then to {REBUILT}", hanging_load),
    Act("slow request", f"changeover {REBUILT} -> {NETWORK} with a slow request in flight", slow_request),
    Act("rollback", f"rollback of the first changeover, {NETWORK} -> {LINEAR}", rollback),
)
"""What is played, in order; each begins where the one before it left off."""


def expect(holds: bool, expectation: str, instead: object) -> None:  # noqa: FBT001 - it is the first thing to read
    """Raise `ActFailed` unless something holds."""
    if not holds:
        raise ActFailed(f"expected: {expectation}; instead: {instead}")


async def _appears(stage: Stage, version: str) -> None:
    """Let the engine find a version that was put into its repository."""
    found = [spec.version for spec in await stage.engine.scan()]
    expect(found == [version], f"the scan finds version {version}", found)


async def _swap(stage: Stage, old: str, new: str) -> tuple[SwapOperation, str]:
    """Change over, check all that a changeover promises, and say how long it took."""
    watch, began_s = stage.traffic.watch(new), trio.current_time()
    operation = await stage.engine.swap(MODEL, new, from_=old)
    return operation, await _changed_over(stage, operation, watch, trio.current_time() - began_s)


async def _changed_over(stage: Stage, operation: SwapOperation, watch: Watch, took_s: float) -> str:
    """Check that the traffic is with the new version and that the old one is closed."""
    old, new = operation.from_version, operation.to_version
    expect(operation.state is SwapState.COMPLETED, "the swap is completed", operation.state.value)
    expect(stage.engine.is_active(MODEL, new), f"{new} is active", "it is not")
    expect(operation.old_unloaded, f"{old} is unloaded", operation.error_message)
    status = stage.engine.load_info(MODEL, old).status
    expect(status is VersionState.UNLOADED, f"{old} is unloaded", status.value)
    living = stage.ledger.living(old)
    expect(living == 0, f"every model of {old} was closed", f"{living} was not")
    with trio.move_on_after(ANSWER_S):
        await watch.seen.wait()
    if watch.after_ms is None:
        raise ActFailed(f"expected: {new} answers; instead: no answer in {ANSWER_S:g} s")
    return f"{new} answered after {watch.after_ms:.0f} ms, {old} was closed after {took_s * 1000:.0f} ms"


async def _refused(stage: Stage, version: str, *, active: str) -> tuple[SwapFailed, float]:
    """Order an update that cannot succeed; return how it failed and after how many seconds."""
    await _appears(stage, version)
    began_s = trio.current_time()
    try:
        operation = await stage.engine.swap(MODEL, version)
    except SwapFailed as error:
        took_s = trio.current_time() - began_s
        expect(stage.engine.is_active(MODEL, active), f"{active} is still active", "it is not")
        status = stage.engine.load_info(MODEL, version).status
        expect(status is VersionState.FAILED, f"{version} has failed", status.value)
        await _answers_still(stage, active)
        return error, took_s
    raise ActFailed(f"expected: the update to {version} fails; instead: it is {operation.state.value}")


async def _answers_still(stage: Stage, version: str) -> None:
    """Wait for one answer more of the version that was to be replaced."""
    watch = stage.traffic.watch(version)
    with trio.move_on_after(ANSWER_S):
        await watch.seen.wait()
    expect(watch.after_ms is not None, f"{version} goes on answering", f"no answer in {ANSWER_S:g} s")


def _expect_hanging(stage: Stage) -> None:
    """Check that the load that was given up hangs on, for the engine and for the witness."""
    stuck = stage.engine.statistics().stuck_loads
    expect(stuck == 1, "the engine counts one load that hangs", stuck)
    hanging = stage.ledger.hanging[HANGING]
    expect(hanging == 1, f"the load of {HANGING} still hangs", f"{hanging} of them do")
