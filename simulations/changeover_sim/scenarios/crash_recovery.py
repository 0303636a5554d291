"""Processes that are killed, or lose their power, at every boundary of a swap, and again while they recover."""

from changeover_sim.scenarios.drawing import BYSTANDER, faults, first_of, parts, sudden
from changeover_sim.simulate.shape import End, Ending, Scenario, Shape
from changeover_sim.simulate.streams import Streams

_ALL = (
    ("swapper", 2), ("group swapper", 1), ("undoer", 1), ("steerer", 1), ("loader", 1), ("unloader", 1), ("asker", 2),
    ("leaser", 3), ("set asker", 1),
)  # fmt: skip
_HELD = (("leaser", 3), ("waiting leaser", 5), ("asker", 1), ("undoer", 1))


def draw(streams: Streams) -> Shape:
    """Draw one run."""
    chance = streams.shape
    drawn = [*parts(streams, ("a", "b"), (2, 3), bad=0.0), BYSTANDER]
    deaths = chance.randint(1, 3)
    lives = [sudden(streams, 5.0, entries=30 if number == 0 else 6) for number in range(deaths)]
    is_held = chance.random() < 0.35  # noqa: PLR2004 - versions are held for long: drains overlap, and are turned round
    is_alone = chance.random() < 0.6  # noqa: PLR2004 - most of them: no younger swap keeps one from being turned round
    if is_held and is_alone:
        lives[0] = Ending(lives[0].how, line="undo drain", rounds=chance.randrange(8))
    elif chance.random() < 0.4:  # noqa: PLR2004 - two in five of the others die on either side of a pivot
        lives[0] = Ending(lives[0].how, line=chance.choice(("shift", "drain")), rounds=chance.randrange(25))
    if chance.random() < 0.3:  # noqa: PLR2004 - three in ten: what is being brought back is left to the next one
        how: End = chance.choice(("close-early", "cancel-early", "cancel-early"))
        lives.insert(1, Ending(how, after_s=chance.choice((0.0, 0.0, 0.25)), rounds=chance.randrange(12)))
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
        (("swapper", 1 if is_alone else 4), *_HELD) if is_held else _ALL,
        faults(streams, likely) | {life.how for life in lives if life.how != "close"},
        tuple(lives),
        horizon_s=10.0 if is_held else 5.0,
        durability=chance.choice(("process", "power")),
        traits={
            "plans": ("at once",) if is_held else ("at once", "at once", "confirmed", "canary"),
            "drains": ("patient", "rollback") if is_held else ("patient", "short", "none", "rollback"),
            "hurry": chance.choice((0.2, 0.6)),
            "rotten": chance.choice((0.25, 0.8)),
        },
    )  # fmt: skip


SCENARIO = Scenario("crash-recovery", "kills and power cuts at each entry of the journal, and again in recovery", draw)
