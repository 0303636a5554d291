"""The acts of the demo with a version on trial: a canary ramp, a bad update, and an order that a newer one overtakes.

Each checks what the clients saw of it. Owns no state; an act may open a nursery, and closes it.
"""

from __future__ import annotations

import math
from itertools import pairwise

import attrs
import trio

from changeover import Event, Events, Shift, SwapOperation, SwapState, VersionState
from changeover.errors import Superseded, SwapRolledBack
from changeover_plugins.demo.digits import MODEL
from changeover_plugins.demo.repository import LINEAR, NETWORK, OVERTAKEN, RAISE_TIMES, RAISING, REBUILT
from changeover_plugins.demo.stage import Act, ActFailed, Stage, answers_still, appears, expect, swap

RAMP = (0.05, 0.25, 0.5)
"""The shares of the canary ramp."""
HOLD_S = 0.6
"""How long each of them is held, and the whole before the pivot."""
SHARE_ERROR = 0.1
"""How far a share of the answers may be from the share that was ordered."""
BACK_S = 0.5
"""From the tripped guard, how long the last request may take to leave the new version; the time it took is told."""


@attrs.frozen
class _Change:
    """Where the clients' counts stood when the engine changed the shares."""

    share: float
    """What the new version has from now on."""
    answered: int
    answered_by_new: int


async def canary(stage: Stage) -> str:
    """Change over from 1 to 2 by way of a ramp."""
    plan = Shift.canary([(share, HOLD_S) for share in RAMP], confirm_s=HOLD_S)
    changes: list[_Change] = []
    async with stage.engine.events() as events, trio.open_nursery() as nursery:
        nursery.start_soon(_follow, stage, events, NETWORK, changes)
        operation, said = await swap(stage, LINEAR, NETWORK, plan=plan)
        nursery.cancel_scope.cancel()
    stage.fallbacks += operation.fallbacks
    ordered = tuple(change.share for change in changes)
    expect(ordered == (*RAMP, 1.0), f"the shares of the ramp are {RAMP} and all", ordered)
    seen = [_share_until(before, after) for before, after in pairwise(changes)]
    for wanted, share in zip(RAMP, seen, strict=True):
        expect(abs(share - wanted) < SHARE_ERROR, f"{NETWORK} gives {wanted:.0%} of the answers", f"{share:.1%}")
    return f"{NETWORK} gave {', '.join(f'{share:.1%}' for share in seen)} of the answers, then all; {said}"


async def bad_update(stage: Stage) -> str:
    """Order an update that loads, warms up, and then raises on its first requests."""
    stage.engine.register(stage.repository.raising())
    before = stage.traffic.lost.total(), stage.traffic.fell_back.total()
    async with stage.engine.events() as events:
        operation = await _rolled_back(stage, RAISING, Shift.canary([(share, HOLD_S) for share in RAMP]))
        back_s = await _back_after(events, RAISING)
    await answers_still(stage, NETWORK)
    stage.fallbacks += operation.fallbacks
    lost, fell_back = stage.traffic.lost.total() - before[0], stage.traffic.fell_back.total() - before[1]
    raised = stage.ledger.raised[RAISING]
    verdict = operation.guard
    if verdict is None:
        raise ActFailed(f"expected: the guard took it back; instead: {operation.error_message}")
    expect(lost == 0, "no client sees an error", f"{lost} were seen")
    expect(0 < raised <= RAISE_TIMES, f"it raised, at most {RAISE_TIMES} times", raised)
    expect(fell_back == raised, f"{NETWORK} answers each of the {raised} requests it raised on", fell_back)
    expect(back_s < BACK_S, f"the last request has left it within {BACK_S:g} s", f"{back_s:.2f} s")
    return (
        f"it raised on {raised} requests, {NETWORK} answered all of them, no client saw an error; the guard tripped: "
        f"{verdict.reason}; the last request had left it {back_s * 1000:.1f} ms later"
    )


async def overtaken(stage: Stage) -> str:
    """Order one update, and, while that is on trial, another that takes its place."""
    stage.repository.publish(OVERTAKEN, like=NETWORK)
    await appears(stage, OVERTAKEN)
    told: list[SwapOperation] = []
    async with trio.open_nursery() as nursery:
        watch = stage.traffic.watch(OVERTAKEN)
        nursery.start_soon(_order_in_vain, stage, told)
        await watch.seen.wait()
        await stage.traffic.let_pass(HOLD_S)
        operation, said = await swap(stage, NETWORK, REBUILT, on_busy="supersede")
    expect(len(told) == 1, "who ordered first is told Superseded", "nothing of the kind")
    expect(told[0].superseded_by == operation.id, "it is told by which order", told[0].superseded_by)
    expect(told[0].state is SwapState.SUPERSEDED, "its swap is superseded", told[0].state.value)
    stage.fallbacks += operation.fallbacks + told[0].fallbacks
    living = stage.ledger.living(OVERTAKEN)
    expect(living == 0, f"what was loaded of {OVERTAKEN} is closed", f"{living} is not")
    return f"the first order was told Superseded, and {OVERTAKEN}, which had answered, was closed; {said}"


TRIALS = (
    Act("canary ramp", f"canary ramp {LINEAR} -> {NETWORK}: {', '.join(f'{share:.0%}' for share in RAMP)}", canary),
    Act("bad update", f"update to {RAISING}, which loads, warms up, and raises on {RAISE_TIMES} requests", bad_update),
    Act("new order", f"update to {OVERTAKEN}, and before it is done one to {REBUILT} instead", overtaken),
)
"""What is played behind the first five acts."""


async def _follow(stage: Stage, events: Events, version: str, changes: list[_Change]) -> None:
    """Note where the clients' counts stand each time that the shares change."""
    async for event in events:
        if isinstance(event, Event) and event.kind == "traffic_shifted":
            share, traffic = event.detail["shares"].get(version, 0.0), stage.traffic
            if not changes or share != changes[-1].share:
                changes.append(_Change(share, traffic.answered_count, traffic.answered[version]))


def _share_until(before: _Change, after: _Change) -> float:
    """Return the share of the answers that the new version gave between two changes."""
    return (after.answered_by_new - before.answered_by_new) / max(1, after.answered - before.answered)


async def _rolled_back(stage: Stage, version: str, plan: Shift) -> SwapOperation:
    """Order an update that its guard takes back, and check that nothing of it stays."""
    try:
        operation = await stage.engine.swap(MODEL, version, plan=plan)
    except SwapRolledBack as error:
        undone: SwapOperation = error.operation
    else:
        raise ActFailed(f"expected: the update to {version} is rolled back; instead: it is {operation.state.value}")
    expect(undone.state is SwapState.ROLLED_BACK, "the swap is rolled back", undone.state.value)
    old = undone.from_version
    expect(stage.engine.is_active(MODEL, old), f"{old} is active", "it is not")
    status = stage.engine.load_info(MODEL, version).status
    expect(status is VersionState.UNLOADED, f"{version} is unloaded", status.value)
    living = stage.ledger.living(version)
    expect(living == 0, f"what was loaded of {version} is closed", f"{living} is not")
    return undone


async def _back_after(events: Events, version: str) -> float:
    """Return how long after the guard had tripped the last request had left the version, in seconds.

    The engine moves the routes first and then says why, so the trip is the earlier of the two events.
    """
    moved_s = tripped_s = math.inf
    async for event in events:
        match event:
            case Event(kind="traffic_shifted", at_s=at_s, detail={"shares": {**shares}}) if version not in shares:
                moved_s = at_s
            case Event(kind="guard_tripped", at_s=at_s):
                tripped_s = at_s
            case Event(kind="version_state", at_s=at_s, version=of, detail={"state": "unloading"}) if of == version:
                expect(tripped_s < math.inf, "its guard has tripped", "it has not")
                return at_s - min(moved_s, tripped_s)
            case _:
                pass
    raise ActFailed(f"expected: the last request leaves {version}; instead: the events ended")


async def _order_in_vain(stage: Stage, told: list[SwapOperation]) -> None:
    """Order the update that will be overtaken; whoever waits for it is told."""
    try:
        await stage.engine.swap(MODEL, OVERTAKEN, plan=Shift.canary([(RAMP[1], 60.0)]))
    except Superseded as error:
        told.append(error.operation)
