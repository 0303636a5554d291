"""Swaps of several models by several operators at once, under many clients."""

from changeover_sim.scenarios.drawing import BYSTANDER, COMMON, faults, first_of, parts
from changeover_sim.simulate.shape import Scenario, Shape
from changeover_sim.simulate.streams import Streams


def draw(streams: Streams) -> Shape:
    """Draw one run."""
    drawn = [*parts(streams, ("a", "b")[: streams.shape.randint(1, 2)], (2, 4)), BYSTANDER]
    if streams.shape.random() < 0.15:  # noqa: PLR2004 - three in twenty
        drawn = [*parts(streams, ("a",), (3, 3), queue_limit=1, execution="worker", batched=False), BYSTANDER]
    return Shape(
        tuple(drawn),
        first_of(drawn),
        (
            ("swapper", 2), ("turner", 1), ("steerer", 1), ("undoer", 1), ("asker", 3), ("keyed asker", 2),
            ("streamer", 1), ("leaser", 1), ("waiting leaser", 1), ("thread", 1), ("bystander", 1), ("tracker", 1),
        ),
        faults(streams, {**COMMON, "close-hangs": 0.4}),
        traits={
            "plans": ("at once", "at once", "confirmed", "canary", "samples"),
            "drains": ("patient", "short", "none", "cancel", "rollback", "patient rollback", "wait"),
            "hurry": streams.shape.choice((0.1, 0.4, 0.8)),
        },
    )  # fmt: skip


SCENARIO = Scenario("swap-storm", "many swaps of a few models at once, turned round, superseded and queued", draw)
