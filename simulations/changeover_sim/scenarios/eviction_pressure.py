"""A memory budget in which not everything has room that is wanted."""

import attrs

from changeover_sim.scenarios.drawing import BYSTANDER, COMMON, faults, first_of, parts
from changeover_sim.simulate.cast import Part
from changeover_sim.simulate.shape import Scenario, Shape
from changeover_sim.simulate.streams import Streams


def draw(streams: Streams) -> Shape:
    """Draw one run."""
    chance = streams.shape
    drawn = [*parts(streams, ("a", "b", "c"), (1, 2)), BYSTANDER]
    likely = {**COMMON, "budget-of-one": 1.0, "load-hangs": 0.3, "close-hangs": 0.2}
    room = chance.choice((20, 30, 30, 40))  # the bystander has one of them
    shape = Shape(
        tuple(drawn),
        {"calm": "1", **first_of(drawn)},
        (
            ("loader", 3), ("swapper", 1), ("unloader", 2), ("asker", 4), ("keyed asker", 1), ("set asker", 1),
            ("waiting leaser", 2), ("leaser", 1), ("streamer", 1), ("bystander", 1), ("warmer", 1),
            ("group swapper", 1),
        ),
        faults(streams, likely) | {"budget-of-one"},
        options={"memory_budget_bytes": room, "stuck_loads_max": chance.choice((1, 2, 8))},
        traits={
            "plans": ("at once", "confirmed", "canary without a guard"),
            "drains": ("patient", "short", "none", "cancel", "rollback"),
            "force": chance.choice((0.15, 0.7)),
            "hurry": chance.choice((0.1, 0.4)),
        },
    )  # fmt: skip
    return attrs.evolve(shape, parts=tuple(part if part.bystander else _measured(part, streams) for part in drawn))


def _measured(part: Part, streams: Streams) -> Part:
    """Draw what a version turns out to occupy: less than was reserved, or more, which there may be no room for."""
    return attrs.evolve(part, found=streams.shape.choice((None, None, None, 5, 15, 20)))


SCENARIO = Scenario("eviction-pressure", "more models than the memory budget has room for, all of them wanted", draw)
