"""Several models that move as one, under clients who must see all of the old or all of the new."""

import attrs

from changeover_sim.scenarios.drawing import BYSTANDER, COMMON, faults, first_of, parts, sudden
from changeover_sim.simulate.shape import Ending, Scenario, Shape
from changeover_sim.simulate.streams import Streams


def draw(streams: Streams) -> Shape:
    """Draw one run."""
    chance = streams.shape
    drawn = [*parts(streams, ("a", "b", "c")[: chance.randint(2, 3)], (2, 2)), BYSTANDER]
    if chance.random() < 0.5:  # noqa: PLR2004 - half of them: one member's second version is bad
        worst, row = chance.choice([part for part in drawn if part.version == "2"]), chance.choice((None, 2))
        bad = attrs.evolve(worst, bad=0.6, errors_in_a_row_max=row)  # with a row of two it crashes on trial
        drawn = [bad if part is worst else attrs.evolve(part, bad=0.0) for part in drawn]
    likely = {**COMMON, "predict-raises": 0.7, "model-beyond-use": 0.35}
    operators: tuple[tuple[str, int], ...] = (("group swapper", 3), ("swapper", 1), ("undoer", 1), ("steerer", 1))
    if chance.random() < 0.5:  # noqa: PLR2004 - half of them: nobody takes back, or supersedes, what is on trial
        operators = (("group swapper", 1),)
    lives = (sudden(streams, 5.0), Ending()) if chance.random() < 0.25 else (Ending(),)  # noqa: PLR2004 - a quarter
    return Shape(
        tuple(drawn),
        first_of(drawn),
        (
            *operators, ("set asker", 5), ("set leaser", 3), ("asker", 1), ("keyed asker", 1), ("bystander", 1),
        ),
        faults(streams, likely) | {life.how for life in lives if life.how != "close"},
        lives,
        horizon_s=6.0,
        traits={
            "plans": ("at once", "confirmed", "canary", "guarded", "canary without a guard", "canary without a guard"),
            "drains": ("patient", "short", "none", "rollback"),
            "poison": 0.08,
            "hurry": chance.choice((0.1, 0.4, 0.8)),
        },
    )  # fmt: skip


SCENARIO = Scenario("group-swap", "several models that move as one, seen by sets of requests and leases", draw)
