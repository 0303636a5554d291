"""Everything that can hold a version, and unloads that cannot wait."""

from changeover_sim.scenarios.drawing import BYSTANDER, COMMON, faults, first_of, parts
from changeover_sim.simulate.shape import Scenario, Shape
from changeover_sim.simulate.streams import Streams


def draw(streams: Streams) -> Shape:
    """Draw one run."""
    drawn = [*parts(streams, ("a",), (2, 3)), BYSTANDER]
    likely = {**COMMON, "deadline-zero": 0.4, "cancel": 0.8, "close-hangs": 0.2}
    return Shape(
        tuple(drawn),
        first_of(drawn),
        (
            ("unloader", 1), ("hasty unloader", 1), ("loader", 2), ("swapper", 1), ("leaser", 2), ("waiting leaser", 3),
            ("thread", 1), ("streamer", 3), ("asker", 2), ("tracker", 2), ("waiter", 2), ("warmer", 1),
            ("bystander", 1),
        ),
        faults(streams, likely),
        traits={
            "plans": ("at once",),
            "drains": ("short", "none", "cancel", "cancel at once", "rollback", "wait", "streams first"),
            "force": 0.6,
            "hurry": streams.shape.choice((0.1, 0.4, 0.8)),
        },
    )  # fmt: skip


SCENARIO = Scenario("drain-race", "drains of every policy against leases, streams, references and threads", draw)
