"""Promise 11: a scenario, a seed and a policy decide everything that happens, in any process."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from changeover_sim.scenarios import SCENARIOS
from changeover_sim.simulate.play import POLICIES, Player

SEEDS = (3, 4)
PLAY = """
from changeover_sim.scenarios import SCENARIOS
from changeover_sim.simulate.play import Player
with Player() as player:
    for scenario in SCENARIOS:
        for seed in (3, 4):
            print(scenario, seed, player.play(scenario, seed).trace)
"""


def test_the_same_run_again_is_the_same_run() -> None:
    """Twice in one process, in another order, a scenario tells the same trace under every policy."""
    scenarios = ("swap-storm", "crash-recovery", "everything")
    runs = [(scenario, 3, policy) for scenario in scenarios for policy in POLICIES]
    with Player() as player:
        first = {run: player.play(*run).trace for run in runs}
        again = {run: player.play(*run).trace for run in reversed(runs)}
    assert again == first
    assert len(set(first.values())) == len(runs), "two of them are one and the same"


@pytest.mark.slow
def test_hash_seeds_decide_nothing() -> None:
    """Processes whose sets and dictionaries of strings are in another order play the same runs."""
    told: list[str] = []
    for hash_seed in ("0", "1", "4242"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        done = subprocess.run([sys.executable, "-c", PLAY], env=environment, capture_output=True, text=True, check=True)
        told.append(done.stdout)
    assert len(told[0].splitlines()) == len(SCENARIOS) * len(SEEDS)
    assert told[1:] == told[:1] * 2
