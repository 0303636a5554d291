"""Operators that interfere with swaps which are on their way: pause, resume, promote, abort, and take back.

They find swaps by their ids, as people do who read a dashboard.
"""

from __future__ import annotations

from random import Random
from typing import Any

from changeover import SwapOperation
from changeover_sim.simulate.actors import chance as draw
from changeover_sim.simulate.calls import Call
from changeover_sim.simulate.life import Life


async def steerer(life: Life, chance: Random) -> None:
    """Pause, resume, promote or abort any swap that runs; or start one and leave it alone."""
    while life.goes_on:
        await draw.pause(life, chance)
        running = [operation for operation in life.engine.swaps() if not operation.state.ended]
        if not running:
            await _start(life, chance)
            continue
        operation = chance.choice(running)
        kind = chance.choice(("pause", "resume", "promote", "abort", "wait_for_swap"))
        await _steer(life, kind, operation)


async def _steer(life: Life, kind: str, operation: SwapOperation) -> None:
    async def work(call: Call) -> Any:
        done = getattr(life.engine, call.kind)(call.options["swap_id"])
        return await done if call.kind in ("wait_for_swap", "rollback") else done

    models = tuple(member.model for member in operation.members)
    model = operation.model if len(models) <= 1 else None
    await life.call(kind, work, model=model, models=models, options={"swap_id": operation.id})
    if kind == "pause" and not life.closing:
        life.start(_resume_later, life, operation)


async def _resume_later(life: Life, operation: SwapOperation) -> None:
    """Have nothing stand still for ever."""
    await draw.pause(life, Random(operation.id))
    if not (life.closing or life.dead):
        await _steer(life, "resume", operation)


async def _start(life: Life, chance: Random) -> None:
    model = draw.model(life, chance)
    order = draw.order(life, chance)

    async def work(call: Call) -> Any:
        asked = {name: value for name, value in call.options.items() if name != "names"}
        assert call.model is not None
        assert call.version is not None
        return life.engine.start_swap(call.model, call.version, **asked)

    version = draw.other_version(life, chance, model)
    await life.call("start_swap", work, model=model, version=version, options=order)


async def undoer(life: Life, chance: Random) -> None:
    """Take a swap back, while it runs or after it."""
    while life.goes_on:
        await draw.pause(life, chance, 2.0)
        known = life.engine.swaps(limit=5)
        if known:
            await _steer(life, "rollback", chance.choice(known))
