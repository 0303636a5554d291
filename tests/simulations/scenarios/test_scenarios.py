"""Each scenario does what its name says: what it is there for happens in a handful of its runs."""

from __future__ import annotations

from collections import Counter

import pytest

from changeover_sim.scenarios import SCENARIOS
from changeover_sim.simulate.faults import FAULTS
from changeover_sim.simulate.play import Player
from changeover_sim.simulate.run import Run
from changeover_sim.simulate.streams import Streams

SEEDS = 12
HAPPENS = {
    "swap-storm": {"completed", "rolled_back", "superseded", "swap-waited-in-line", "swap-turned-in-shift"},
    "canary-storm": {"completed", "rolled_back", "guarded", "fell back", "guard-tripped", "model-beyond-use"},
    "drain-race": {"holders-revoked", "stream-revoked", "quarantine-ended", "drain-joined", "drain-given-back"},
    "crash-recovery": {"kill", "power-cut", "recovery-undid-a-swap", "recovery-finished-a-swap", "aftermath"},
    "eviction-pressure": {"version-evicted", "evicted-version-reloaded", "no-room-to-be-made", "OverBudget"},
    "supervisor-storm": {"model-beyond-use", "VersionCrashed", "restarts-given-up", "restart-failed"},
    "group-swap": {"group completed", "group rolled_back", "group superseded", "swap_group returned"},
    "shutdown-any-time": {"close-early", "cancel-early", "EngineClosed", "close-timeout-spent"},
    "everything": {"kill", "close-early", "completed", "VersionCrashed", "drain-joined"},
}
"""By scenario: faults, marks of the engine, ends of swaps and calls that its runs are about."""


def happened(run: Run) -> Counter[str]:
    """Return what has happened in a run: faults, marks, and how calls and swaps have ended."""
    seen = Counter({name: count for name, count in (*run.faults.struck.items(), *run.sink.reached.items()) if count})
    seen.update(str(call.end) for call in run.calls)
    seen.update(f"{call.kind} {call.end}" for call in run.calls)
    for life in run.lives:
        for operation in life.engine.swaps(limit=1_000) if life.began else ():
            seen[operation.state.value] += 1
            seen[f"group {operation.state.value}"] += len(operation.members) > 1
            seen["fell back"] += operation.fallbacks > 0
            seen["guarded"] += operation.guard is not None
            seen["aftermath"] += operation.aftermath is not None
    return seen


def test_every_scenario_is_asked() -> None:
    """The list here is that of the scenarios."""
    assert HAPPENS.keys() == SCENARIOS.keys()


@pytest.mark.parametrize("name", SCENARIOS)
def test_it_does_what_its_name_says(name: str) -> None:
    """In a dozen seeds everything that a scenario is about has happened, and no promise was broken."""
    seen: Counter[str] = Counter()
    with Player() as player:
        for seed in range(SEEDS):
            runs: list[Run] = []
            outcome = player.play(name, seed, prepare=runs.append)
            assert outcome.broken is None, (outcome.seed, outcome.what)
            seen += happened(runs[0])
    assert {what: seen[what] for what in sorted(HAPPENS[name]) if not seen[what]} == {}


@pytest.mark.parametrize("name", SCENARIOS)
def test_its_shape_is_drawn_from_the_seed_alone(name: str) -> None:
    """The same seed draws the same shape; in two hundred seeds every kind of shape and most faults come up."""
    scenario = SCENARIOS[name]
    shapes = [scenario.draw(Streams(name, seed)) for seed in range(200)]
    assert shapes == [scenario.draw(Streams(name, seed)) for seed in range(200)]
    drawn = frozenset[str]().union(*(shape.faults for shape in shapes))
    assert drawn <= FAULTS.keys()
    assert len(drawn) >= 10, sorted(drawn)
    assert any(not shape.faults - {life.how for life in shape.lives} for shape in shapes) or name in (
        "eviction-pressure", "supervisor-storm",
    )  # fmt: skip
