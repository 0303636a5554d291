"""All of it at once."""

import attrs

from changeover_sim.scenarios.drawing import BYSTANDER, COMMON, faults, first_of, parts, sudden
from changeover_sim.simulate.actors.chance import DRAINS, PLANS
from changeover_sim.simulate.shape import Ending, Scenario, Shape
from changeover_sim.simulate.streams import Streams


def draw(streams: Streams) -> Shape:
    """Draw one run."""
    chance = streams.shape
    drawn = [*parts(streams, ("a", "b")[: chance.randint(1, 2)], (2, 3)), BYSTANDER]
    lives = tuple(
        chance.choice((
            Ending(),
            sudden(streams, 5.0),
            Ending("close-early", chance.randint(0, 16) / 4, chance.randrange(20)),
        ))
        for _ in range(chance.randint(1, 3))
    )  # fmt: skip
    everybody = (
        "swapper", "group swapper", "steerer", "turner", "undoer", "loader", "unloader", "hasty unloader", "warmer",
        "registrar", "asker", "keyed asker", "set asker", "streamer", "leaser", "waiting leaser", "set leaser",
        "thread", "tracker", "waiter", "reader",
    )  # fmt: skip
    likely = {
        **COMMON, "journal-hung": 0.1, "journal-fsync": 0.1, "not-registered": 0.1, "mailbox-of-one": 0.1,
        "warm-up-slow": 0.4,
    }  # fmt: skip
    many = len({part.model for part in drawn})
    options = {"memory_budget_bytes": 10 * many + 10} if chance.random() < 0.2 else {}  # noqa: PLR2004 - a fifth
    actors = (("asker", 2), ("swapper", 1), ("bystander", 1), *((name, 1) for name in chance.sample(everybody, 9)))
    on = faults(streams, likely) | {life.how for life in lives if life.how != "close"}
    if options:
        on |= {"budget-of-one"}
    if "mailbox-of-one" in on:
        drawn = [part if part.bystander else attrs.evolve(part, queue_limit=1) for part in drawn]
    return Shape(
        tuple(drawn),
        first_of(drawn),
        actors,
        on,
        lives,
        horizon_s=5.0,
        options={**options, "close_timeout_s": chance.choice((1.0, 10.0))},
        durability=chance.choice(("process", "power")),
        traits={
            "plans": tuple(PLANS), "drains": tuple(DRAINS), "force": 0.3, "hurry": chance.choice((0.1, 0.4, 0.8)),
        },
    )  # fmt: skip


SCENARIO = Scenario("everything", "a little of all that the other scenarios do, in several lives", draw)
