"""What actors draw: pauses, models, versions, plans, drains. Pure but for the stream that is drawn from.

Times are multiples of a quarter of a second, so that things often happen at the very same moment.
"""

from __future__ import annotations

from random import Random
from typing import Any

import trio

from changeover import Drain, Guard, Shift, Timeouts
from changeover_sim.simulate import behind
from changeover_sim.simulate.calls import Does
from changeover_sim.simulate.life import Life

_TIMEOUTS = (
    Timeouts(unload_s=0.25),
    Timeouts(load_s=0.5, unload_s=0.25),
    Timeouts(shift_s=0.75),
    Timeouts(total_s=1.0),
)
KEYS = ("ann", "bob", "cem", "dia")
"""Sessions."""

_GUARD = Guard(window_s=4.0, min_samples=4, min_errors=2)
PLANS: dict[str, Shift | None] = {
    "at once": Shift.at_once(),
    "confirmed": Shift.at_once(confirm_s=0.5, guard=_GUARD),
    "canary": Shift.canary(((0.25, 0.5), (0.5, 0.5)), confirm_s=0.5, guard=_GUARD),
    "canary without a guard": Shift.canary(((0.5, 0.5),), confirm_s=0.25, guard=None),
    "canary without fallback": Shift.canary(((0.5, 0.5),), confirm_s=0.25, fallback=False, guard=_GUARD),
    "samples": Shift.canary(((0.5, 0.0),), confirm_s=0.0, confirm_samples=2, guard=None),
    "guarded": Shift.canary(((0.5, 1.5),), confirm_s=1.0, guard=_GUARD),
    "shadow": Shift.canary(((0.5, 0.75),), confirm_s=0.25, shadow=True, guard=_GUARD),
}
DRAINS: dict[str, Drain] = {
    "patient": Drain(30.0),
    "short": Drain(1.0),
    "none": Drain(0.0),
    "cancel": Drain(0.5, "cancel", 0.5),
    "cancel at once": Drain(0.0, "cancel", 0.25),
    "rollback": Drain(0.75, "rollback"),
    "patient rollback": Drain(2.0, "rollback"),
    "wait": Drain(0.5, "wait"),
    "streams first": Drain(1.5, "cancel", 0.5, stream_deadline_s=0.5),
}


async def pause(life: Life, chance: Random, most_s: float = 1.0) -> None:
    """Pass some time, or only some rounds of everybody else."""
    if chance.random() < life.run.shape.traits.get("hurry", 0.3):
        for _ in range(chance.randrange(1, 6)):
            await trio.lowlevel.checkpoint()
    else:
        await life.sleep(chance.randint(0, int(most_s * 4)) / 4)


def model(life: Life, chance: Random) -> str:
    """Draw a model, no bystander."""
    return chance.choice(life.run.shape.models)


def version(life: Life, chance: Random, of: str) -> str:
    """Draw a version of a model."""
    return chance.choice(life.run.shape.versions(of))


def other_version(life: Life, chance: Random, of: str) -> str:
    """Draw a version of a model, mostly one that is not active."""
    known = life.run.shape.versions(of)
    engine = life.engine
    others = [one for one in known if not (behind.is_known(engine, of, one) and engine.is_active(of, one))]
    return chance.choice(others if others and chance.random() < 0.9 else known)  # noqa: PLR2004 - nine in ten


def does(life: Life, chance: Random) -> Does:
    """Draw what a request does to its model; good ones only where the faults are off."""
    drawn = chance.random()
    poison = life.run.shape.traits.get("poison", 0.04)
    if drawn < poison and "model-beyond-use" in life.run.faults.on:
        return "poison"
    if drawn < poison + 0.12 and "predict-raises" in life.run.faults.on:
        return "bad"
    return "good"


def plan(life: Life, chance: Random) -> tuple[str, Shift | None]:
    """Draw a plan by its name."""
    name = chance.choice(life.run.shape.traits.get("plans", ("at once", "confirmed", "canary")))
    return name, PLANS[name]


def drain(life: Life, chance: Random) -> tuple[str, Drain]:
    """Draw a drain by its name."""
    if life.run.faults.strikes("deadline-zero", 0.3):
        return "none", DRAINS["none"]
    name = chance.choice(life.run.shape.traits.get("drains", ("patient", "short", "cancel")))
    return name, DRAINS[name]


def order(life: Life, chance: Random) -> dict[str, Any]:
    """Draw what a swap is ordered with."""
    plan_name, shift = plan(life, chance)
    drain_name, how = drain(life, chance)
    hurried = chance.random() < 0.15  # noqa: PLR2004 - three in twenty
    return {
        "plan": shift,
        "drain": how,
        "timeouts": chance.choice(_TIMEOUTS) if hurried else None,
        "on_busy": chance.choice(life.run.shape.traits.get("on_busy", ("refuse", "queue", "supersede"))),
        "names": (plan_name, drain_name),
    }
