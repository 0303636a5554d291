"""What scenarios draw in the same way: versions of models, faults, and how lives end. Pure but for the streams."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import attrs

from changeover_sim.simulate.cast import Part
from changeover_sim.simulate.shape import End, Ending
from changeover_sim.simulate.streams import Streams

BYSTANDER = Part("calm", "1", execution="worker", predict_s=(0.25,), bystander=True)
"""A model beside all others, to which nothing happens."""

_TIMES = ((0.0,), (0.0,), (0.0, 0.25), (0.25,), (0.0, 0.5, 1.0))


def parts(streams: Streams, models: Iterable[str], versions: tuple[int, int] = (2, 3), **fields: Any) -> list[Part]:
    """Draw some models, each with some versions; what is in `fields` is not drawn."""
    chance = streams.shape
    drawn: list[Part] = []
    for model in models:
        execution = fields.get("execution") or chance.choice(("inline", "worker", "worker"))
        batched = execution == "worker" and chance.random() < 0.25  # noqa: PLR2004 - a quarter
        for number in range(chance.randint(*versions)):
            part = Part(
                model,
                str(number + 1),
                execution=execution,
                workers=chance.choice((1, 1, 2)) if execution == "worker" else 1,
                batched=batched,
                errors_in_a_row_max=chance.choice((None, None, 3)),
                warm_ups=chance.choice((0, 0, 1, 2)),
                load_s=chance.choice(_TIMES),
                warm_s=chance.choice(_TIMES),
                predict_s=chance.choice(_TIMES),
                close_s=chance.choice(_TIMES),
                bad=chance.choice((0.0, 0.0, 0.1, 0.6)),
            )
            drawn.append(attrs.evolve(part, **{**fields, "execution": execution}))
    return drawn


def first_of(drawn: Iterable[Part]) -> dict[str, str]:
    """Return the first version of each model."""
    first: dict[str, str] = {}
    for part in drawn:
        first.setdefault(part.model, part.version)
    return first


def faults(streams: Streams, likely: Mapping[str, float]) -> frozenset[str]:
    """Draw which faults are on, each by its own probability; in one run of ten none is."""
    chance = streams.shape
    quiet = chance.random() < 0.1  # noqa: PLR2004 - one in ten
    drawn = {name for name, probability in likely.items() if chance.random() < probability}
    return frozenset() if quiet else frozenset(drawn)


COMMON: Mapping[str, float] = {
    "cancel": 0.6, "disconnect": 0.5, "predict-raises": 0.4, "predict-slow": 0.25, "predict-hangs": 0.2,
    "load-raises": 0.25, "load-leaks": 0.1, "load-slow": 0.2, "load-hangs": 0.2, "warm-up-raises": 0.2,
    "close-raises": 0.15, "close-hangs": 0.1, "model-beyond-use": 0.15, "late-wake": 0.3, "clock-jump": 0.2,
    "deadline-zero": 0.2, "buggify": 0.3, "journal-slow": 0.1, "journal-full": 0.1,
}  # fmt: skip
"""What may go wrong nearly everywhere."""


def sudden(streams: Streams, most_s: float, *, entries: int = 30) -> Ending:
    """Draw how a process ends by force: at some time, or behind some entry of its journal."""
    chance = streams.shape
    hows: tuple[End, ...] = ("kill", "kill", "power-cut")
    how = chance.choice(hows)
    rounds = chance.randrange(0, 30)
    if chance.random() < 0.25:  # noqa: PLR2004 - a quarter of them in the middle of something rare
        return Ending(how, line=chance.choice(("undo", "undo", "drain", "unload", "completed")), rounds=rounds % 8)
    if chance.random() < 0.6:  # noqa: PLR2004 - most of the others at a boundary
        return Ending(how, entry=chance.randrange(entries), rounds=chance.randrange(0, 12))
    return Ending(how, after_s=chance.randint(0, int(most_s * 4)) / 4, rounds=rounds)
