"""Processes that are killed, or lose their power, at every boundary of a swap, and again while they recover."""

from changeover_sim.scenarios.drawing import BYSTANDER, faults, first_of, parts, sudden
from changeover_sim.simulate.shape import Ending, Scenario, Shape
from changeover_sim.simulate.streams import Streams


def draw(streams: Streams) -> Shape:
    """Draw one run."""
    chance = streams.shape
    drawn = [*parts(streams, ("a", "b"), (2, 3), bad=0.0), BYSTANDER]
    deaths = chance.randint(1, 3)
    lives = [sudden(streams, 5.0, entries=30 if number == 0 else 6) for number in range(deaths)]
    if chance.random() < 0.4:  # noqa: PLR2004 - two in five
        lives.append(Ending())
    likely = {
        "journal-full": 0.2, "journal-fsync": 0.2, "journal-slow": 0.3, "journal-hung": 0.15, "load-raises": 0.5,
        "load-slow": 0.1, "warm-up-raises": 0.15, "cancel": 0.3, "not-registered": 0.25, "late-wake": 0.2,
        "clock-jump": 0.3, "model-beyond-use": 0.1, "predict-raises": 0.2, "buggify": 0.3,
    }  # fmt: skip
    return Shape(
        tuple(drawn),
        first_of(drawn),
        (
            ("swapper", 2), ("group swapper", 1), ("undoer", 1), ("steerer", 1), ("loader", 1), ("unloader", 1),
            ("asker", 2), ("leaser", 3), ("set asker", 1),
        ),
        faults(streams, likely) | {life.how for life in lives if life.how != "close"},
        tuple(lives),
        horizon_s=5.0,
        durability=chance.choice(("process", "power")),
        traits={
            "plans": ("at once", "at once", "confirmed", "canary"),
            "drains": ("patient", "short", "none", "rollback"),
            "hurry": chance.choice((0.2, 0.6)),
        },
    )  # fmt: skip


SCENARIO = Scenario("crash-recovery", "kills and power cuts at each entry of the journal, and again in recovery", draw)
