"""Operators that interfere with swaps which are on their way: pause, resume, promote, abort, and take back.

They find swaps by their ids, as people do who read a dashboard.
"""

from __future__ import annotations

from random import Random
from typing import Any

from changeover import SwapOperation
from changeover_sim.simulate.actors import chance as draw
from changeover_sim.simulate.actors.holders import hold
from changeover_sim.simulate.calls import Call
from changeover_sim.simulate.life import Life


async def steerer(life: Life, chance: Random) -> None:
    """Pause, resume, promote or abort any swap that runs; or start one and leave it alone."""
    while life.goes_on:
        await draw.pause(life, chance)
        running = _running(life)
        if not running:
            model = draw.model(life, chance)
            await _start(life, model, draw.other_version(life, chance, model), draw.order(life, chance))
            continue
        operation = chance.choice(running)
        kind = chance.choice(("pause", "resume", "promote", "abort", "wait_for_swap"))
        await _steer(life, kind, operation)


def _running(life: Life) -> list[SwapOperation]:
    return [operation for operation in life.engine.swaps() if not operation.state.ended]


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


async def turner(life: Life, chance: Random) -> None:
    """Move a model on, further on and back again, while the first of its versions is still in use."""
    while life.goes_on:
        await draw.pause(life, chance, 2.0)
        if _running(life):
            continue  # else the line would grow and grow
        model = draw.model(life, chance)
        first = draw.other_version(life, chance, model)
        others = [one for one in life.run.shape.versions(model) if one != first]
        second = chance.choice(others or [first])
        life.start(hold, life, model, 3.0)
        await draw.pause(life, chance, 0.25)
        for version, name in ((first, "patient rollback"), (second, "none"), (first, "none")):
            order = {
                "plan": draw.PLANS["at once"],
                "drain": draw.DRAINS[name],
                "timeouts": None,
                "on_busy": "queue",
                "names": ("at once", name),
            }
            await _start(life, model, version, order)
            await draw.pause(life, chance, 0.25)


async def _start(life: Life, model: str, version: str, order: dict[str, Any]) -> None:
    async def work(call: Call) -> Any:
        asked = {name: value for name, value in call.options.items() if name != "names"}
        assert call.model is not None
        assert call.version is not None
        return life.engine.start_swap(call.model, call.version, **asked)

    await life.call("start_swap", work, model=model, version=version, options=order)


async def undoer(life: Life, chance: Random) -> None:
    """Take a swap back, while it runs or after it."""
    while life.goes_on:
        await draw.pause(life, chance, 2.0)
        known = life.engine.swaps(limit=5)
        if known:
            await _steer(life, "rollback", chance.choice(known))
