"""Ramps, confirmations, shadows and guards, with versions that fail on trial."""

import attrs

from changeover_sim.scenarios.drawing import BYSTANDER, COMMON, faults, first_of, parts
from changeover_sim.simulate.shape import Scenario, Shape
from changeover_sim.simulate.streams import Streams


def draw(streams: Streams) -> Shape:
    """Draw one run."""
    drawn = parts(streams, ("a", "b")[: streams.shape.randint(1, 2)], (2, 3))
    cramped = streams.shape.random() < 0.2  # noqa: PLR2004 - a fifth: queues of one, behind new versions that are slow
    if cramped:
        drawn = [
            attrs.evolve(part, queue_limit=1, execution="worker", predict_s=(1.0,) if part.version == "2" else (0.0,))
            for part in drawn
        ]
    hopeless = streams.shape.random() < 0.5  # noqa: PLR2004 - half of them: the second version is, and none interferes
    if hopeless:
        drawn = [attrs.evolve(part, bad=1.0 if part.version == "2" else 0.0) for part in drawn]
    drawn.append(BYSTANDER)
    likely = {**COMMON, "predict-raises": 0.8, "model-beyond-use": 0.25, "load-raises": 0.1, "load-slow": 0.1}
    return Shape(
        tuple(drawn),
        first_of(drawn),
        (
            *(() if hopeless else (("steerer", 2), ("undoer", 1))),
            ("swapper", 1), ("asker", 6), ("keyed asker", 4), ("set asker", 1), ("streamer", 1), ("leaser", 1),
            ("waiting leaser", 1), ("bystander", 1),
        ),
        faults(streams, likely),
        horizon_s=8.0,
        traits={
            "plans": ("shadow", "guarded") if cramped else (
                "canary", "guarded", "guarded", "canary without a guard", "canary without fallback", "shadow",
                "confirmed", "samples",
            ),
            "drains": ("patient", "short", "cancel", "rollback"),
            "on_busy": ("refuse",) if hopeless else ("refuse", "queue", "supersede"),
            "pace_s": 0.5,
            "hurry": streams.shape.choice((0.1, 0.3, 0.6)),
        },
    )  # fmt: skip


SCENARIO = Scenario("canary-storm", "versions on trial that fail, crash, are paused, promoted and taken back", draw)
