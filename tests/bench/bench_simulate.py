"""How many runs of each scenario one core makes in a minute, what a step costs, and how much of it the oracles take.

It runs in this process alone, and counts that process' own time, as nothing in a run waits; the same seeds are played
with the oracles and without, in turns.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from time import process_time

import measure
from measure import Figure, Spread

from changeover_sim.scenarios import SCENARIOS
from changeover_sim.simulate.play import Player

RUNS_LEAST = 300
ORACLES_MOST = 0.5
"""The oracles shall take less of a run's time than the engine and its world."""


def bench(quick: bool) -> list[Figure]:
    """Return the figures of the simulation."""
    seeds, rounds = (range(4), 1) if quick else (range(24), 5)
    return [figure for scenario in SCENARIOS for figure in _figures(scenario, seeds, rounds)]


def _figures(scenario: str, seeds: range, rounds: int) -> Iterator[Figure]:
    with_oracles, without = measure.alternate(
        rounds, partial(_seconds, scenario, seeds), partial(_seconds, scenario, seeds, oracles=False)
    )
    steps, virtual_s = _extent(scenario, seeds)
    rate = Spread.of(len(seeds) / seconds * 60 for seconds in with_oracles)
    wanted = f"above {RUNS_LEAST:,} a minute"
    yield Figure(f"{scenario}, runs", wanted, rate.text("/min", digits=0), rate.median > RUNS_LEAST)
    yield Figure("  virtual seconds in one", "", Spread.of(virtual_s / s for s in with_oracles).text("s", digits=0))
    yield Figure("  a step", "", Spread.of(s / steps for s in with_oracles).text("us", scale=1e6, digits=1))
    share = Spread.of(1 - bare / judged for bare, judged in zip(without, with_oracles, strict=True))
    text = share.text("%", scale=100, digits=0)
    yield Figure("  of it the oracles", f"below {ORACLES_MOST:.0%}", text, share.median < ORACLES_MOST)


def _seconds(scenario: str, seeds: range, *, oracles: bool = True) -> float:
    """Play some seeds; none may break off, or the time would be that of a part."""
    with Player() if oracles else Player(()) as player:
        began = process_time()
        for seed in seeds:
            player.play(scenario, seed)
        return process_time() - began


def _extent(scenario: str, seeds: range) -> tuple[int, float]:
    """Return the steps and the virtual seconds of some seeds."""
    with Player() as player:
        outcomes = [player.play(scenario, seed) for seed in seeds]
    for outcome in outcomes:
        if outcome.broken is not None:
            measure.say(f"{scenario}, seed {outcome.seed} ends early: {outcome.broken}")
    return sum(outcome.steps for outcome in outcomes), sum(outcome.virtual_s for outcome in outcomes)


if __name__ == "__main__":
    measure.command("Simulating", bench)
