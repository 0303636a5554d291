"""Engines that are closed, or cancelled, in the middle of everything."""

from changeover_sim.scenarios.drawing import BYSTANDER, COMMON, faults, first_of, parts
from changeover_sim.simulate.shape import Ending, Scenario, Shape
from changeover_sim.simulate.streams import Streams


def draw(streams: Streams) -> Shape:
    """Draw one run."""
    chance = streams.shape
    drawn = [*parts(streams, ("a", "b"), (2, 3)), BYSTANDER]
    lives = tuple(
        Ending(
            chance.choice(("close-early", "close-early", "cancel-early")),
            after_s=chance.randint(0, 16) / 4,
            rounds=chance.randrange(0, 30),
        )
        for _ in range(chance.randint(1, 2))
    )
    return Shape(
        tuple(drawn),
        first_of(drawn),
        (
            ("swapper", 2), ("group swapper", 1), ("unloader", 1), ("loader", 1), ("asker", 3), ("keyed asker", 1),
            ("streamer", 2), ("leaser", 1), ("waiting leaser", 2), ("set asker", 1), ("set leaser", 1), ("waiter", 1),
            ("warmer", 1), ("tracker", 1), ("reader", 1), ("undoer", 1), ("bystander", 1),
        ),
        faults(streams, {**COMMON, "model-beyond-use": 0.5}) | {life.how for life in lives},
        lives,
        horizon_s=5.0,
        options={"close_timeout_s": chance.choice((0.0, 1.0, 10.0))},
        traits={
            "poison": 0.15,
            "plans": ("at once", "confirmed", "canary"),
            "drains": ("patient", "short", "cancel", "rollback", "wait"),
            "hurry": chance.choice((0.2, 0.6)),
        },
    )  # fmt: skip


SCENARIO = Scenario("shutdown-any-time", "engines closed under their callers, at any moment, patiently or not", draw)
