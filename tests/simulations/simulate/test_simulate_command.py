"""`changeover simulate`: what it plays, what it prints, and its exit status."""

from __future__ import annotations

import functools
import itertools
import json
import signal
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from changeover.cli import main
from changeover_sim import scenarios
from changeover_sim.oracles.base import Oracle
from changeover_sim.simulate import command as commands
from changeover_sim.simulate import fleet as fleets
from changeover_sim.simulate import play, sites
from tests.simulations.simulate import troupe

if TYPE_CHECKING:
    from changeover_sim.simulate.life import Life

Saw = pytest.CaptureFixture[str]
REAL = scenarios.SCENARIOS["swap-storm"]


class Fussy(Oracle):
    """An oracle that nothing is good enough for."""

    promise = 4
    says = "nothing ever happens"

    def life_began(self, life: Life) -> None:
        self.broken("something has happened")


@pytest.fixture
def simulate(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Return the command, with the troupe's scenarios."""
    names = ("good", "breaks", "differs", "raises")
    troupe.fresh()
    monkeypatch.setattr(scenarios, "SCENARIOS", dict.fromkeys(names, REAL))
    monkeypatch.setattr(fleets, "player_of_the_engine", troupe.open_troupe)
    monkeypatch.setattr(sites, "names", lambda kind: [f"a-{kind}-site"])
    return lambda *arguments: main(["simulate", *arguments])


def played() -> list[tuple[str, int]]:
    """Return scenario and seed of all runs that were neither canaries nor second times."""
    return list(dict.fromkeys((name, seed) for one in troupe.opened for name, seed, _, lie in one.played if not lie))


def test_the_policies_are_those_that_there_are() -> None:
    """The help text names every policy that a run can be played under, and no other."""
    assert tuple(play.POLICIES) == commands.POLICIES


def test_the_scenarios_are_listed(capsys: Saw) -> None:
    """Each is a line with what it is about."""
    assert main(["simulate", "--list"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in said] == list(scenarios.SCENARIOS)
    assert said[0].endswith(REAL.says)


def test_a_fleet_prints_its_seeds_and_a_summary(simulate: Callable[..., int], capsys: Saw) -> None:
    """Where no promise was broken the exit status is 0."""
    assert simulate("good", "--seeds", "5", "--first", "7", "--policy", "pct") == 0
    said = capsys.readouterr().out
    assert said.startswith("good\nseeds 7 to 11, policy pct, 1 at a time\n")
    assert "no failure in 5 runs" in said.splitlines()[-1]
    assert played() == [("good", seed) for seed in range(7, 12)]


def test_all_plays_every_scenario(simulate: Callable[..., int], capsys: Saw) -> None:
    """All of them, and then the sites must be reached."""
    assert simulate("all", "--seeds", "1", "--first", "1") == 0
    assert played() == [("good", 1), ("breaks", 1), ("differs", 1), ("raises", 1)]
    assert "sites reached: 1 of 1" in capsys.readouterr().out


def test_a_failure_is_told_with_its_command(simulate: Callable[..., int], capsys: Saw) -> None:
    """Its header, its promise, its log and the command that replays it are printed; the exit status is 1."""
    assert simulate("breaks", "--seeds", "5") == 1
    said = capsys.readouterr().out
    for part in ("promise 3: it is broken: 2 != 3", "models: a 1/2", "    2.000  BROKEN", "1 failure in 5 runs"):
        assert part in said
    assert said.count("changeover simulate breaks --seed 3 --policy random") == 2  # at once, and in the summary


def test_machines_get_one_object(simulate: Callable[..., int], capsys: Saw) -> None:
    """Nothing else is printed."""
    assert simulate("breaks", "--seeds", "5", "--json") == 1
    told = json.loads(capsys.readouterr().out)
    assert (told["ok"], told["runs"], told["first_seed"]) == (False, 5, 0)
    assert told["failures"][0]["first"]["again"] == "changeover simulate breaks --seed 3 --policy random"


def test_fresh_seeds_are_drawn_and_printed(
    simulate: Callable[..., int], capsys: Saw, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first of them is drawn, the others follow."""
    monkeypatch.setattr(commands.machine, "fresh_seed", lambda: 65_537)
    assert simulate("good", "--fresh", "--seeds", "2") == 0
    assert "seeds 65537 to 65538" in capsys.readouterr().out
    assert played() == [("good", 65_537), ("good", 65_538)]


def test_forever_ends_with_ctrl_c(simulate: Callable[..., int], capsys: Saw, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was played so far is summed up, and the exit status says that it was interrupted."""
    real = troupe.Troupe.play

    def play_(self: troupe.Troupe, scenario: str, seed: int, *rest: Any) -> Any:
        if seed == 30:
            signal.raise_signal(signal.SIGINT)
        return real(self, scenario, seed, *rest)

    monkeypatch.setattr(troupe.Troupe, "play", play_)
    assert simulate("good", "--forever") == 130
    said = capsys.readouterr().out
    assert "seeds from 0 on, until Ctrl-C" in said
    assert said.splitlines()[-1].startswith("stopped by Ctrl-C: no failure in 30 runs")


def test_the_time_can_be_limited(simulate: Callable[..., int], capsys: Saw, monkeypatch: pytest.MonkeyPatch) -> None:
    """No run begins behind so many minutes."""
    ticks = itertools.count()
    monkeypatch.setattr(commands.machine, "stopwatch", lambda: float(next(ticks)))
    assert simulate("good", "--forever", "--minutes", "1") == 0
    assert 5 < len(played()) < 62
    assert "Ctrl-C:" not in capsys.readouterr().out.splitlines()[-1]


def test_a_terminal_shows_how_far_it_is(
    simulate: Callable[..., int], capsys: Saw, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A line on stderr, which is taken away at the end; a pipe gets none."""
    assert simulate("good", "--seeds", "3") == 0
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(commands, "_PROGRESS_S", -1.0)
    assert simulate("good", "--seeds", "3") == 0
    said = capsys.readouterr().err
    assert "3/3 runs, 0 failures" in said
    assert said.endswith("\r\x1b[K")


def test_one_seed_is_told_whole(capsys: Saw) -> None:
    """The real engine: what the run was like, the last that happened, and that it went the same way twice."""
    assert main(["simulate", "swap-storm", "--seed", "2"]) == 0
    said = capsys.readouterr().out
    for part in ("swap-storm, seed 2, policy random, trace ", "models: a ", "faults: ", "life 2 is over"):
        assert part in said
    assert said.splitlines()[-1].startswith("all promises held: ")


def test_one_seed_that_breaks_a_promise_is_told_whole(capsys: Saw, monkeypatch: pytest.MonkeyPatch) -> None:
    """Promise and what broke it stand at the end, and the exit status is 1."""
    monkeypatch.setattr(play, "Player", functools.partial(play.Player, (Fussy,)))
    assert main(["simulate", "swap-storm", "--seed", "2"]) == 1
    said = capsys.readouterr().out
    assert "BROKEN: promise 4: something has happened" in said
    assert said.splitlines()[-1].startswith("promise 4 is broken (nothing ever happens): something")
    assert main(["simulate", "swap-storm", "--seed", "2", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["broken"] == "promise 4"


def test_one_seed_that_goes_two_ways_is_told(capsys: Saw, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first line of the log that differs is named, and the exit status is 1."""
    real, count = play.Run.play, itertools.count(1)

    async def play_(self: play.Run) -> None:
        self.judge.note(f"time {next(count)}")
        await real(self)

    monkeypatch.setattr(play.Run, "play", play_)
    assert main(["simulate", "swap-storm", "--seed", "2"]) == 1
    said = capsys.readouterr().out.splitlines()[-1]
    assert said.startswith("promise 11: played again, the same seed went another way: line 1 of the log was `")
    assert "time 1`, and then `" in said


@pytest.mark.slow
def test_a_fleet_that_cannot_go_on_says_why(simulate: Callable[..., int], capsys: Saw) -> None:
    """One line names the run at which one of its processes stopped; the exit status is 2."""
    assert simulate("raises", "--seeds", "5", "--jobs", "2") == 2
    told = capsys.readouterr().err
    assert told == "changeover: raises, seed 3, policy random: ZeroDivisionError: in the player\n"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "name a scenario, or all: swap-storm"),
        (["swap-strom"], "there is no scenario 'swap-strom'; did you mean 'swap-storm'?"),
        (["all", "--seed", "3"], "--seed plays one run; name its scenario"),
    ],
)
def test_what_cannot_be_played_is_refused(arguments: list[str], says: str, capsys: Saw) -> None:
    """One line says what to type instead; the exit status is 2."""
    assert main(["simulate", *arguments]) == 2
    assert capsys.readouterr().err.startswith(f"changeover: {says}")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--seeds", "0"], ["--seeds", "many"], ["--first", "-1"], ["--seed", "4294967296"], ["--jobs", "0"],
        ["--minutes", "nan"], ["--minutes", "0"], ["--minutes", "soon"], ["--policy", "best"],
        ["--seed", "1", "--fresh"],
    ],
)  # fmt: skip
def test_numbers_that_make_no_sense_are_refused(arguments: list[str], capsys: Saw) -> None:
    """Before anything is played; the message names the argument."""
    with pytest.raises(SystemExit) as exited:
        main(["simulate", "swap-storm", *arguments])
    assert exited.value.code == 2
    assert arguments[0] in capsys.readouterr().err
