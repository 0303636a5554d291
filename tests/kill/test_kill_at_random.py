"""Killed at any moment under load, twenty times in a row on one journal: what was told to be complete stays so."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.kill.forge import Forge
from tests.support.disks import look_at_once

LIVES = 20
SWAPS_MAX = 400


@pytest.mark.kill
@pytest.mark.parametrize("durability", ["process", "power"])
def test_what_was_complete_is_complete_after_any_death(forge: Forge, tmp_path: Path, durability: str) -> None:
    """No process serves what is older than the last swap that its ancestor called complete, nor newer than it began."""
    chance = random.Random(7)
    path = tmp_path / "j"
    least, most, swaps = 1, 1, 0
    for n in range(LIVES):
        life = forge.begin("goes on", str(path), durability, SWAPS_MAX)
        report = life.until("report")
        for _ in range(chance.randint(1, 6)):
            life.until("complete")
        life.lives_for(chance.choice((0.0, chance.uniform(0.0, 0.1))))  # at once: nothing told may be on its way yet
        assert life.ends() == -9
        assert life.facts("wrong") + life.facts("crashed") == []
        if report is None:
            assert n == 0
        else:
            assert report["serves"]["m"] in {str(version) for version in (least, most)}
            assert report["loaded"] == {"m": [report["serves"]["m"]]}
            assert (report["open"], report["waiting"], report["set_aside"], report["clean"]) == ([], 0, False, True)
            assert report["errors"] == []
            ended = [state for _, _, state in report["swaps"]]
            assert set(ended[:-1]) <= {"completed", "failed"}
            least = int(report["serves"]["m"])
        completed = life.facts("complete")
        swaps += len(completed)
        answered = [int(version) for (version,) in life.facts("answer")]
        least = max([least, *completed])
        most = max([least, *life.facts("begun")])
        assert set(answered) <= set(range(1, most + 1))
        assert most - least <= 1
    assert swaps > LIVES
    kept = look_at_once(path)
    assert kept.set_aside is None
    assert sum(not row.ended for row in kept.swaps) <= 1


@pytest.mark.kill
def test_killed_in_a_storm(forge: Forge, tmp_path: Path) -> None:
    """While a model and a group are swapped in every way at once: each serves one of the versions that it died between.

    Both models of the group serve the same one, every swap has ended, and nothing else is loaded.
    """
    chance = random.Random(7)
    possible: dict[tuple[str, ...], set[str | None]] = {("a", "b"): {None}, ("m",): {None}}
    swaps = 0
    for n in range(LIVES):
        life = forge.begin("storms", str(tmp_path / "j"), "process", n)
        report = life.until("report")
        for models, versions in possible.items():
            assert {report["serves"][model] for model in models} <= versions, (n, versions)
            assert len({report["serves"][model] for model in models}) == 1
        assert report["loaded"] == {model: [version] if version else [] for model, version in report["serves"].items()}
        assert (report["open"], report["waiting"], report["set_aside"], report["clean"]) == ([], 0, False, True)
        assert report["errors"] == []
        for _ in range(chance.randint(1, 12)):
            life.until("now")
        life.lives_for(chance.uniform(0.0, 0.1))
        assert life.ends() == -9
        assert life.facts("wrong") + life.facts("crashed") == []
        for models in possible:
            told = [fact for fact in life.told if fact.get("models") == list(models)]
            settled = [at for at, fact in enumerate(told) if "now" in fact]
            since = told[settled[-1] :] if settled else []
            possible[models] = {fact.get("now", fact.get("begun")) for fact in since} or {report["serves"][models[0]]}
            swaps += sum("begun" in fact for fact in told)
    assert swaps > LIVES
