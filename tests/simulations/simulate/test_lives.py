"""A life that does not end as its ending says is told: a crash of the engine is no end of a run."""

from __future__ import annotations

import logging

import pytest
import trio

from changeover.runtime.keeper import Keeper
from changeover_sim.explorer.errors import ExplorerError
from changeover_sim.scenarios import SCENARIOS
from changeover_sim.simulate.faults import FAULTS
from changeover_sim.simulate.play import Player
from changeover_sim.simulate.run import Run


def test_an_engine_that_crashes_fails_its_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody ordered its end: what comes out of its block comes out of the run."""

    def crash(*_: object) -> None:
        raise RuntimeError("a bug of the engine's own")

    monkeypatch.setattr(Keeper, "put", crash)
    with Player() as player:
        outcome = player.play("swap-storm", 0)
    assert outcome.broken is not None


@pytest.mark.parametrize("fault", sorted(FAULTS))
def test_each_fault_strikes_somewhere(fault: str) -> None:
    """In some scenario it is on and has an effect, which is counted."""
    with Player() as player:
        for name, scenario in SCENARIOS.items():
            for seed in range(60):
                run = Run(scenario, seed, lambda _run: ())
                if fault in run.shape.faults and player.play(name, seed).struck.get(fault):
                    return
    pytest.fail(f"{fault} strikes nowhere")


def test_a_player_leaves_the_log_as_it_was() -> None:
    """The engine says nothing while it is played, and what it said before when that is over or refused."""
    logger = logging.getLogger("changeover")
    level = logger.level
    with Player() as player:
        player.play("swap-storm", 0)
        assert not logger.isEnabledFor(logging.CRITICAL)
    assert logger.level == level

    async def inside_trio() -> None:
        with pytest.raises(ExplorerError), Player():
            pass

    trio.run(inside_trio)
    assert logger.level == level
