"""Small runs for the tests of oracles: a shape that the test states, played by some seeds, with or without a bug in it.

They stand beside the scenarios, so that a scenario may be drawn anew without a test of an oracle going blind.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pytest

from changeover_sim.oracles.base import Oracle
from changeover_sim.scenarios import SCENARIOS
from changeover_sim.simulate.cast import Part
from changeover_sim.simulate.play import Outcome, Player
from changeover_sim.simulate.shape import Ending, Scenario, Shape
from changeover_sim.simulate.streams import Streams

SMALL = "small"
"""The name of the scenario while a small run is played."""
SEEDS = range(6)

Actors = tuple[tuple[str, int], ...]


def parts(*versions: str, model: str = "a", execution: str = "inline", **fields: Any) -> tuple[Part, ...]:
    """Return versions of one model that are alike."""
    return tuple(Part(model, version, execution=execution, **fields) for version in versions)


def shape(
    actors: Actors,
    versions: tuple[Part, ...],
    *,
    faults: Iterable[str] = (),
    lives: tuple[Ending, ...] = (Ending(),),
    horizon_s: float = 3.0,
    options: Mapping[str, Any] | None = None,
    **traits: Any,
) -> Shape:
    """Return a shape in which the first version of each model is loaded at first."""
    first: dict[str, str] = {}
    for part in versions:
        first.setdefault(part.model, part.version)
    traits = {"hurry": 0.3, "plans": ("at once",), "drains": ("short",), **traits}
    return Shape(
        versions,
        first,
        actors,
        frozenset(faults),
        lives,
        horizon_s=horizon_s,
        options=dict(options or {}),
        traits=traits,
    )


def play_small(oracle: type[Oracle], small: Shape, seeds: Iterable[int] = SEEDS) -> Outcome:
    """Return the first run in which something is broken; else the last."""

    def draw(_streams: Streams) -> Shape:
        return small

    outcome: Outcome | None = None
    with pytest.MonkeyPatch.context() as patch, Player((oracle,)) as player:
        patch.setitem(SCENARIOS, SMALL, Scenario(SMALL, "what a test states", draw))
        for seed in seeds:
            outcome = player.play(SMALL, seed)
            if outcome.broken is not None:
                return outcome
    assert outcome is not None, "no seed was given"
    return outcome


def assert_silent(oracle: type[Oracle], small: Shape) -> None:
    """Nothing is broken in these runs as the engine is, and the oracle has judged."""
    outcome = play_small(oracle, small)
    assert outcome.broken is None, outcome.what
    assert outcome.judged[oracle.promise] > 0


def assert_found(oracle: type[Oracle], small: Shape, says: str) -> None:
    """The oracle finds what is wrong in one of these runs, and says so."""
    outcome = play_small(oracle, small)
    assert outcome.broken == f"promise {oracle.promise}", (outcome.broken, outcome.what)
    assert says in outcome.what, outcome.what
