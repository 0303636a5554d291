"""Versions that crash again and again, while they are swapped, drained and held."""

from changeover_sim.scenarios.drawing import BYSTANDER, COMMON, faults, first_of, parts
from changeover_sim.simulate.shape import Scenario, Shape
from changeover_sim.simulate.streams import Streams


def draw(streams: Streams) -> Shape:
    """Draw one run."""
    storm = streams.shape.random() < 0.3  # noqa: PLR2004 - three in ten: more crashes than are forgiven
    drawn = [*parts(streams, ("a", "b")[: streams.shape.randint(1, 2)], (2, 3)), BYSTANDER]
    likely = {**COMMON, "model-beyond-use": 1.0, "predict-raises": 0.6, "load-raises": 0.4, "warm-up-raises": 0.3}
    return Shape(
        tuple(drawn),
        first_of(drawn),
        (
            ("asker", 5), ("keyed asker", 2), ("streamer", 1), ("leaser", 1), ("waiting leaser", 1), ("swapper", 1),
            ("loader", 1), ("unloader", 1), ("undoer", 1), ("warmer", 1), ("bystander", 1), ("set asker", 1),
            ("registrar", 1),
        ),
        faults(streams, likely) | {"model-beyond-use"},
        horizon_s=16.0 if storm else 8.0,
        traits={
            "plans": ("at once", "confirmed", "canary"),
            "drains": ("patient", "short", "cancel", "rollback"),
            "poison": 0.5 if storm else 0.04,
            "hurry": streams.shape.choice((0.1, 0.3)),
        },
    )  # fmt: skip


SCENARIO = Scenario("supervisor-storm", "versions that crash, are started again, and crash once more", draw)
