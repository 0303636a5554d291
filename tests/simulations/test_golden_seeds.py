"""Runs to remember: each seed in `tests/golden/seeds.json` once showed a bug, and must not show it again.

A seed with a mutant has found that one, and must go on finding it. Who mends a bug that a seed has shown adds a line:
`{"scenario": "swap-storm", "seed": 17, "policy": "random", "mutant": null, "says": "what it was"}`.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import attrs
import pytest

from changeover_sim.mutants.catalogue import MUTANTS
from changeover_sim.mutants.trial import NONE
from changeover_sim.scenarios import SCENARIOS
from changeover_sim.simulate.play import POLICIES, Outcome, Player
from changeover_sim.simulate.summary import replay_command

GOLDEN = Path(__file__).parents[1] / "golden" / "seeds.json"
EXAMPLE = """[
  {"scenario": "swap-storm", "seed": 17, "policy": "random", "mutant": null, "says": "a lease was lost"},
  {"scenario": "drain-race", "seed": 0, "policy": "pct", "mutant": "deadline-closes-what-is-held", "says": "it is seen"}
]"""


@attrs.frozen
class Seed:
    """One line of the file."""

    scenario: str = attrs.field(validator=attrs.validators.in_(SCENARIOS))
    seed: int = attrs.field(validator=attrs.validators.and_(attrs.validators.instance_of(int), attrs.validators.ge(0)))
    policy: str = attrs.field(validator=attrs.validators.in_(POLICIES))
    mutant: str | None = attrs.field(validator=attrs.validators.in_([None, *MUTANTS]))
    says: str = attrs.field(validator=attrs.validators.min_len(10))

    def __str__(self) -> str:
        return "-".join(filter(None, (self.scenario, str(self.seed), self.policy, self.mutant)))


def read(text: str) -> list[Seed]:
    """Return the seeds of a file; raises `ValueError` or `TypeError` for a line that is none, or that stands twice."""
    seeds = [Seed(**fields) for fields in json.loads(text)]
    names = [str(seed) for seed in seeds]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"these stand there twice: {', '.join(twice)}")
    return seeds


def chosen(*, mutants: bool) -> list[object]:
    """Return the seeds with mutants, or those without, as parameters."""
    seeds = read(GOLDEN.read_text("utf-8"))
    return [pytest.param(seed, id=str(seed)) for seed in seeds if (seed.mutant is not None) == mutants]


@pytest.fixture
def player() -> Iterator[Player]:
    """A player; it has the thread for itself while it is there, so that nobody may start a process."""
    with Player() as player:
        yield player


@pytest.mark.parametrize("seed", chosen(mutants=False))
def test_a_bug_that_was_mended_does_not_come_back(seed: Seed, player: Player) -> None:
    """All promises hold in the run that once broke one."""
    outcome = player.play(seed.scenario, seed.seed, seed.policy)
    assert outcome.broken is None, f"{seed.says}: {outcome.broken}: {outcome.what}; {replay_command(outcome)}"


@pytest.mark.slow
@pytest.mark.parametrize("seed", chosen(mutants=True))
def test_a_planted_bug_is_found_where_it_was(seed: Seed) -> None:
    """The one run of this seed finds the mutant; an oracle or a scenario that was changed may have lost it."""
    assert seed.mutant is not None
    assert trial(seed, seed.mutant)["found_at_seed"] == seed.seed, seed.says
    assert trial(seed, NONE)["found_at_seed"] is None, "it is found without the mutant, too"


def trial(seed: Seed, mutant: str) -> dict[str, object]:
    """Play one seed with a mutant in a process of its own."""
    arguments = [mutant, seed.scenario, seed.policy, str(seed.seed), str(seed.seed)]
    command = [sys.executable, "-m", "changeover_sim.mutants.trial", *arguments]
    said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    return json.loads(said.stdout)  # type: ignore[no-any-return]


def test_a_bug_that_comes_back_is_told_with_its_command() -> None:
    """What the seed is there for, what was broken, and how to see it."""
    seed = Seed("swap-storm", 17, "pct", None, "a lease was lost")
    broken = Outcome(seed.scenario, seed.seed, seed.policy, "promise 3", "one is held and none is counted")
    told = "a lease was lost: promise 3: one is held and none is counted; .*simulate swap-storm --seed 17 --policy pct"
    with pytest.raises(AssertionError, match=told):
        test_a_bug_that_was_mended_does_not_come_back(seed, SimpleNamespace(play=lambda *_: broken))


@pytest.mark.slow
def test_a_planted_bug_that_is_found_no_more_is_told() -> None:
    """A seed that does not show its mutant is red: here one of a scenario that has no use for what is broken."""
    seed = Seed("drain-race", 1, "fifo", "group-canary-draws-for-each-model", "nothing moves as a group there")
    with pytest.raises(AssertionError, match="nothing moves as a group there"):
        test_a_planted_bug_is_found_where_it_was(seed)


def test_the_seeds_are_read() -> None:
    """A line names a scenario, a seed, a policy, a mutant or none, and says what it is there for."""
    first, second = read(EXAMPLE)
    assert (first.scenario, first.seed, first.mutant) == ("swap-storm", 17, None)
    assert str(second) == "drain-race-0-pct-deadline-closes-what-is-held"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("swap-storm", "no-such-storm"),
        ('"random"', '"best"'),
        ("17", "-17"),
        ("17", '"17"'),
        ("deadline-closes-what-is-held", "no-such-mutant"),
        ("a lease was lost", "bug"),
        ('"seed": 17,', ""),
        ('"seed": 17,', '"seed": 17, "index": 3,'),
        ('"drain-race", "seed": 0, "policy": "pct", "mutant": "deadline-closes-what-is-held"',
         '"swap-storm", "seed": 17, "policy": "random", "mutant": null'),
    ],
)  # fmt: skip
def test_a_line_that_names_nothing_is_refused(old: str, new: str) -> None:
    """A seed of a scenario, a policy or a mutant that has another name now would test nothing."""
    assert old in EXAMPLE
    with pytest.raises((ValueError, TypeError)):
        read(EXAMPLE.replace(old, new))
