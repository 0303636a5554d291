"""`changeover score`: which trials are run, what the sheet keeps of them, and what the table tells."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import attrs
import pytest

from changeover.cli import main
from changeover_sim.mutants import score, trial
from changeover_sim.mutants.catalogue import MUTANTS
from changeover_sim.mutants.score import Sheet
from changeover_sim.mutants.trial import NONE, Trial, patch_of
from tests.house.readme import README

Saw = pytest.CaptureFixture[str]
PARROT = """#!{python}
# Stands in for the interpreter that runs a trial: answers by the name of the mutant.
import json, pathlib, sys, time
name, scenario, policy, first, last = sys.argv[3:8]
if name == "fails":
    sys.exit("what was wrong")
if name == "slow":
    time.sleep(5)
    pathlib.Path(__file__ + ".ended").touch()
told = dict(mutant=name, scenario=scenario, policy=policy, first=int(first), last=int(last), patch="", schedules=7)
print(json.dumps(told))
"""
ONE, TWO, THREE = list(MUTANTS)[:3]


def tried(name: str, policy: str = "random", schedules: int | None = None, promise: int = 3) -> Trial:
    """Return a trial of ten seeds that has found a bug behind so many schedules, or none."""
    begun = attrs.evolve(trial.begun(name, MUTANTS[ONE].scenario, policy, range(10)), schedules=10, seconds=1.0)
    if schedules is None:
        return begun
    return attrs.evolve(
        begun, found_at_seed=schedules - 1, schedules=schedules, broken=f"promise {promise}", what="two are held"
    )


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., tuple[int, list[str]]]:
    """Return the command, in an empty folder; what is found is that each mutant is found by its second seed."""
    monkeypatch.chdir(tmp_path)
    begun: list[str] = []

    def run_all(trials: Iterable[Trial], jobs: int, done: Callable[[Trial], None]) -> None:
        assert jobs == 2
        for one in trials:
            begun.append(f"{one.mutant} {one.policy}")
            found = tried(one.mutant, one.policy, None if one.mutant == NONE else 2)
            done(attrs.evolve(found, scenario=one.scenario, first=one.first, last=one.last))

    monkeypatch.setattr(score, "run_all", run_all)
    monkeypatch.setattr(score, "commit", lambda: "0badf00d")

    def command(*arguments: str) -> tuple[int, list[str]]:
        begun.clear()
        return main(["score", *arguments]), list(begun)

    return command


# --- what is run ---


def test_every_mutant_is_tried_under_every_policy() -> None:
    """In its own scenario; and the engine without a bug in each of these scenarios, with the same seeds."""
    planned = score.planned(MUTANTS, ["random", "pct"], range(5, 65))
    assert {(t.mutant, t.scenario, t.policy) for t in planned if t.mutant != NONE} == {
        (name, mutant.scenario, policy) for name, mutant in MUTANTS.items() for policy in ("random", "pct")
    }
    assert {t.scenario for t in planned if t.mutant == NONE} == {mutant.scenario for mutant in MUTANTS.values()}
    assert {(t.first, t.last) for t in planned} == {(5, 64)}
    assert len({t.key for t in planned}) == len(planned)


def test_what_the_sheet_has_is_not_run_again(run: Callable[..., tuple[int, list[str]]]) -> None:
    """The same mutant, policy and seeds; another policy, other seeds and `--again` are run."""
    only = ("--only", ONE, "--seeds", "10")
    assert run(*only, "--policy", "random") == (0, ["none random", f"{ONE} random"])
    assert run(*only, "--policy", "random") == (0, [])
    assert run(*only, "--policy", "random", "pct") == (0, ["none pct", f"{ONE} pct"])
    assert run("--only", ONE, "--seeds", "11", "--policy", "pct")[1] == ["none pct", f"{ONE} pct"]
    assert run(*only, "--policy", "random", "--again")[1] == ["none random", f"{ONE} random"]


def test_a_mutant_that_was_changed_is_tried_again(run: Callable[..., tuple[int, list[str]]]) -> None:
    """Its old trial says nothing of its new patch."""
    run("--only", ONE, "--policy", "random")
    sheet = Sheet(Path("score.json"))
    [before] = [one for one in sheet.trials if one.mutant == ONE]
    assert sheet.has(before)
    assert not sheet.has(attrs.evolve(before, patch="another"))


def test_each_trial_is_written_down_at_once(tmp_path: Path) -> None:
    """Another sheet of the same file reads what was added so far, and the commit; no second file is left."""
    sheet = Sheet(tmp_path / "score.json")
    for count, one in enumerate([tried(ONE, schedules=4), tried(TWO), tried(NONE)], 1):
        sheet.add(one, f"commit {count}")
        again = Sheet(sheet.path)
        assert (again.trials, again.made_at, len(again.trials)) == (sheet.trials, f"commit {count}", count)
    assert list(tmp_path.iterdir()) == [sheet.path]


def test_trials_run_in_processes_of_their_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Each is handed out when it is done; one that cannot be run says why and does not stop the others."""
    parrot = tmp_path / "parrot"
    parrot.write_text(PARROT.format(python=sys.executable), "utf-8")
    parrot.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(parrot))
    done: list[Trial] = []
    names = ["echo", "fails", "slow", "echo"]
    trials = [Trial(name, "everything", "random", n, 9, "") for n, name in enumerate(names)]
    score.run_all(trials, 2, done.append, limit_s=0.0, kill_s=0.5)
    told = {one.first: (one.schedules, one.broken, one.what) for one in done}
    assert told == {
        0: (7, None, ""),
        1: (None, "no trial", "exit status 1: what was wrong"),
        2: (None, None, "killed behind 0.5 s"),
        3: (7, None, ""),
    }
    assert list(tmp_path.iterdir()) == [parrot]  # the slow one was killed, not waited for


# --- what is told ---


def test_the_table_tells_what_found_a_mutant_and_when() -> None:
    """A line per mutant, a cell per policy, and under them how many were found and the median of the schedules."""
    trials = [tried(ONE, schedules=4), tried(TWO, schedules=9, promise=1), tried(THREE), tried(ONE, "pct", 1)]
    lines = [" ".join(line.split()) for line in score.table(trials)]
    scenario, promises = MUTANTS[ONE].scenario, [MUTANTS[name].promise for name in (ONE, TWO, THREE)]
    assert lines == [
        "mutant promise scenario random pct",
        f"{ONE} {promises[0]} {scenario} promise 3 after 4 promise 3 after 1",
        f"{TWO} {promises[1]} {scenario} promise 1 after 9 -",
        f"{THREE} {promises[2]} {scenario} x (10) -",
        "found 2 of 3 1 of 1",
        "median schedules 6.5 1",
    ]


def test_a_mutant_that_nobody_finds_fails_the_score(tmp_path: Path, capsys: Saw) -> None:
    """It is named; one that is found under one policy is found."""
    sheet = Sheet(tmp_path / "sheet.json")
    for one in (tried(ONE, schedules=4), tried(ONE, "pct"), tried(TWO), tried(NONE)):
        sheet.add(one, "0badf00d")
    assert main(["score", "--show", str(sheet.path)]) == 1
    said = capsys.readouterr().out.splitlines()
    assert said[-1] == f"not found: {TWO}"
    assert said[-2] == "made at 0badf00d"
    assert main(["score", "--show", str(sheet.path), "--only", ONE]) == 0


def test_what_is_found_without_a_bug_fails_the_score(tmp_path: Path, capsys: Saw) -> None:
    """A false alarm is told with its seed: whatever was found at that seed was not the mutant."""
    sheet = Sheet(tmp_path / "sheet.json")
    for one in (tried(ONE, schedules=4), tried(NONE, schedules=8)):
        sheet.add(one, "0badf00d")
    assert main(["score", "--show", str(sheet.path)]) == 1
    assert f"FALSE ALARM: promise 3 in {MUTANTS[ONE].scenario}, seed 7, policy random" in capsys.readouterr().out


def test_a_mutant_is_not_found_where_the_engine_fails_without_it() -> None:
    """What is found at the seed of a false alarm is no credit to the oracles; at another seed, or policy, it is."""
    alarm = tried(NONE, schedules=8)
    trials = [alarm, tried(ONE, schedules=8), tried(TWO, schedules=7), tried(THREE, "pct", 8)]
    assert score.missed(trials) == [ONE]
    assert score.found(trials) == trials[2:]
    assert any(line.endswith("false alarm after 8  -") for line in score.table(trials))
    assert [(one.found, one.tried) for one in score.scores(trials)] == [(1, 2), (1, 1)]


def test_a_trial_that_could_not_be_run_fails_the_score(tmp_path: Path, capsys: Saw) -> None:
    """It is neither found nor missed for good, and is run again the next time."""
    sheet = Sheet(tmp_path / "sheet.json")
    sheet.add(tried(ONE, schedules=4), "")
    sheet.add(attrs.evolve(tried(TWO), broken="no trial", what="exit status 1: it fell"), "")
    assert [sheet.has(tried(name)) for name in (ONE, TWO)] == [True, False]
    assert main(["score", "--show", str(sheet.path)]) == 1
    assert f"NO TRIAL: {TWO} under random: exit status 1: it fell" in capsys.readouterr().out


def test_machines_get_one_object(run: Callable[..., tuple[int, list[str]]], capsys: Saw) -> None:
    """Nothing else is printed."""
    assert run("--only", ONE, TWO, "--policy", "pct", "--json")[0] == 0
    told = json.loads(capsys.readouterr().out)
    assert told["scores"] == [{"policy": "pct", "tried": 2, "found": 2, "median": 2}]
    assert (told["missed"], told["false_alarms"], told["made_at"]) == ([], 0, "0badf00d")
    assert sorted({one["mutant"] for one in told["trials"]}) == sorted([ONE, TWO, NONE])


def test_what_cannot_be_scored_is_refused(run: Callable[..., tuple[int, list[str]]], capsys: Saw) -> None:
    """One line says why; the exit status is 2, and no file is written or changed."""
    Path("broken.json").write_text("{}", "utf-8")
    for arguments, says in (
        (["--only", "no-such-bug"], "there is no mutant no-such-bug; see changeover score --list"),
        (["--show", "nowhere.json"], "there is no sheet nowhere.json"),
        (["--show", "broken.json"], "broken.json is no sheet of a score"),
        (["--out", "broken.json"], "broken.json is no sheet of a score"),
    ):
        assert run(*arguments) == (2, [])
        assert capsys.readouterr().err.startswith(f"changeover: {says}")
    assert list(Path().iterdir()) == [Path("broken.json")]
    assert Path("broken.json").read_text("utf-8") == "{}"


def test_the_mutants_are_listed(capsys: Saw) -> None:
    """Each is a line with what somebody careless did."""
    assert main(["score", "--list"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in said] == list(MUTANTS)
    assert said[0].endswith(MUTANTS[ONE].says)


def test_the_readme_tells_what_the_sheet_says() -> None:
    """How many planted bugs the random walk finds, within how many seeds, and after how many in the median."""
    trials = Sheet(Path(score.__file__).with_name("score.json")).trials
    (walk,) = score.scores(trials)
    assert (walk.policy, {trial.mutant for trial in trials} - {NONE}) == ("random", set(MUTANTS))
    assert {trial.patch for trial in trials} == {patch_of(mutant) for mutant in (None, *MUTANTS.values())}
    seeds = max(trial.last for trial in trials) + 1
    told = README.read_text()
    assert f"finds {walk.found} of {walk.tried} within {seeds} seeds, in the median after {walk.median:g}" in told
    assert f"within {seeds} seeds, and after how many in the median | all | {walk.found} of {walk.tried}," in told
