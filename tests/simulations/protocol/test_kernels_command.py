"""`changeover kernels`: what is run, what the file has already, and what is said."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import attrs
import pytest

from changeover_sim.protocol import command as command_module
from changeover_sim.protocol import plan as plans
from changeover_sim.protocol import running, sources, subjects
from changeover_sim.protocol.cells import Trial
from changeover_sim.protocol.running import Done, Task, Tick
from changeover_sim.protocol.sheet import Sheet
from tests.simulations.protocol.runs import trial, typed

Saw = pytest.CaptureFixture[str]
Ran = Callable[..., list[str]]
FEW = ("account", "stack", "--policy", "random", "pos", "--port", "natural", "--trials", "2")


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Ran:
    """Return the command in an empty folder: it returns the trials that were run; each finds its bug in 3 schedules."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sources, "commit", lambda: "0badf00d0bad")
    monkeypatch.setattr(command_module, "machine", SimpleNamespace(stopwatch=lambda: 0.0))
    begun: list[str] = []

    def run_all(tasks: Iterator[Task], jobs: int, done: Done, tick: Tick) -> None:
        for task in tasks:
            tick([task])
            begun.append(f"{task.key.kernel} {task.key.policy} {task.seed}")
            correct = trial(task.seed, task.cap, "cap")
            found = trial(task.seed, min(3, task.cap), "found" if task.cap >= 3 else "cap")
            done(task, attrs.evolve(correct if task.subject.correct else found, made=task.made))

    monkeypatch.setattr(running, "run_all", run_all)

    def command(*arguments: object, status: int = 0) -> list[str]:
        begun.clear()
        assert typed(*arguments) == status
        return list(begun)

    return command


def first(ran: list[str]) -> list[str]:
    """Return the kernels and policies of the first seed."""
    return [one.removesuffix(" 0") for one in ran if one.endswith(" 0")]


# --- what is run ---


def test_every_cell_has_its_first_trial_before_any_has_its_second(ran: Ran) -> None:
    """So a run that is interrupted has a whole table, of fewer trials; policies come in the order of the table."""
    cells = ["account pos", "account random", "stack pos", "stack random"]
    assert ran(*FEW) == [f"{cell} {seed}" for seed in range(2) for cell in cells]


def test_what_the_file_has_is_not_run_again(ran: Ran) -> None:
    """More trials, another policy and another port are; and so is a cell whose source has changed."""
    ran(*FEW)
    assert ran(*FEW) == []
    assert ran(*FEW[:-1], 3) == ["account pos 2", "account random 2", "stack pos 2", "stack random 2"]
    assert ran("stack", "--policy", "surw", "pos", "--port", "natural", "--trials", 1) == ["stack surw 0"]


def test_a_table_has_the_policies_that_were_tried(ran: Ran, capsys: Saw) -> None:
    """Unless one is named; of what was never run there is no table."""
    ran(*FEW)
    ran("--results", "kernels.json", "--table-only")
    assert "starvation" not in capsys.readouterr().out
    ran("--results", "kernels.json", "--table-only", "--policy", "pos", "surw")
    assert " surw" in capsys.readouterr().out
    ran("--results", "kernels.json", "--table-only", "--policy", "starvation", status=2)
    assert "there are no results of what was asked for; leave --table-only out to make them" in capsys.readouterr().err


def test_a_policy_may_have_the_name_of_a_kernel(ran: Ran) -> None:
    """Behind `--policy` it is the policy that is meant."""
    ran_now = ran("starvation", "--policy", "starvation", "--port", "natural", "--trials", 1)
    assert ran_now == ["starvation starvation 0"]


def test_a_cell_of_another_source_is_run_anew(ran: Ran, monkeypatch: pytest.MonkeyPatch) -> None:
    """All its trials are, and no other's."""
    ran(*FEW)
    real = subjects.digest
    monkeypatch.setattr(plans, "digest", lambda s, port, p: "new" if p == "pos" else real(s, port, p))
    assert ran(*FEW) == ["account pos 0", "stack pos 0", "account pos 1", "stack pos 1"]


def test_a_higher_cap_runs_only_what_was_not_found(ran: Ran) -> None:
    """A bug that was found is found behind any cap; KEY=N is for one kernel."""
    assert len(ran(*FEW, "--cap", 2, "stack=5")) == 8
    assert ran(*FEW, "--cap", 9, "stack=2") == [f"account {p} {seed}" for seed in range(2) for p in ("pos", "random")]
    assert ran(*FEW) == []


def test_a_cap_for_all_does_not_lengthen_what_always_runs_to_its_end(ran: Ran, capsys: Saw) -> None:
    """A program without a bug runs all of its schedules: it has 1,000 unless it is named, or fewer are asked for."""
    caps = []
    for words in ((), (9_000,), (500,), (9_000, "counter=3000")):
        ran("counter", "safestack", "--trials", "1", "--json", *(["--cap", *words] if words else []))
        caps.append(tuple(json.loads(capsys.readouterr().out)["caps"].values()))
    assert caps == [(1_000_000, 1_000), (9_000, 1_000), (500, 500), (9_000, 3_000)]


def test_all_are_run_unless_some_are_named(ran: Ran) -> None:
    """Every kernel and every program without a bug, in three ports, under every policy."""
    known = subjects.subjects()
    begun = ran("--trials", "1")
    assert len(begun) == len(known) * 3 * len(subjects.POLICIES)
    assert first(begun)[:6] == [f"account {policy}" for policy in subjects.POLICIES]


def test_a_trial_that_could_not_be_run_is_run_again(ran: Ran) -> None:
    """It has told nothing."""
    ran(*FEW)
    sheet = Sheet(Path("kernels.json"))
    key, digest = sheet.cells[0].key, sheet.cells[0].digest
    sheet.add(key, digest, trial(0, 0, "broken", note="it fell"))
    assert ran(*FEW) == [f"{key.kernel} {key.policy} 0"]


def test_a_cell_that_has_had_its_seconds_is_left(ran: Ran) -> None:
    """A trial that the clock has stopped is run again only where it would get more than it had."""
    ran(*FEW)
    sheet = Sheet(Path("kernels.json"))
    key, digest = sheet.cells[0].key, sheet.cells[0].digest
    sheet.add(key, digest, trial(1, 700, "time", seconds=9.0))
    assert ran(*FEW, "--seconds-a-cell", 10) == []
    assert ran(*FEW[:-1], 3, "--seconds-a-cell", 10).count(f"{key.kernel} {key.policy} 2") == 0
    assert ran(*FEW, "--seconds-a-cell", 11) == [f"{key.kernel} {key.policy} 1"]


def test_ctrl_c_says_how_to_go_on(ran: Ran, monkeypatch: pytest.MonkeyPatch, capsys: Saw) -> None:
    """What was done is in the file; the same command does the rest."""
    keep, kept = plans.Plan.keep, list[Trial]()

    def interrupted(plan: plans.Plan, task: Task, one: Trial) -> None:
        keep(plan, task, one)
        kept.append(one)
        if len(kept) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(plans.Plan, "keep", interrupted)
    assert len(ran(*FEW, status=130)) == 3
    said = capsys.readouterr()
    assert said.err.splitlines()[-1] == (
        "changeover: interrupted; kernels.json has 3 new trials, 5 are left: the same command goes on from there"
    )
    assert said.out == ""
    assert len(ran(*FEW)) == 5


# --- what is said ---


def test_a_terminal_sees_how_far_it_is(ran: Ran, monkeypatch: pytest.MonkeyPatch, capsys: Saw) -> None:
    """One line, drawn over itself and taken away; a pipe gets none of it, and machines nothing at all."""
    ran(*FEW)
    quiet = capsys.readouterr()
    assert quiet.err.splitlines() == ["8 trials are left to run", "8 trials in 0 s; they are in kernels.json"]
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    ran(*FEW[:-1], "3")
    drawn = capsys.readouterr().err.split("\r\x1b[K")
    assert drawn[1] == "[....................] 0/4, 0 s: account natural pos seed 2"
    assert drawn[3].startswith("[##########..........] 2/4")
    assert all(len(line) < 120 for line in drawn)
    ran(*FEW, "--json")
    assert capsys.readouterr().err == ""


def test_machines_get_one_object(ran: Ran, capsys: Saw) -> None:
    """With the figures, the published ones and the ranks of what was asked for, and nothing of the rest."""
    ran(*FEW)
    capsys.readouterr()
    ran("account", "--port", "natural", "--trials", "2", "--json")
    told = json.loads(capsys.readouterr().out)
    assert (told["trials"], told["caps"], told["no_trial"], told["false_alarms"]) == (2, {"account": 10_000}, 0, 0)
    assert [cell["policy"] for cell in told["cells"]] == list(subjects.POLICIES)
    surw = told["cells"][0]
    assert {
        key: surw[key] for key in ("kernel", "port", "done", "found", "mean", "deviation", "out_of_time", "old")
    } == {
        "kernel": "account",
        "port": "natural",
        "done": 2,
        "found": 2,
        "mean": 3.0,
        "deviation": 0.0,
        "out_of_time": False,
        "old": False,
    }
    assert surw["published"] == {"mean": 6, "found": 20}
    assert told["ranks"][0]["measured"] == [2.5] * 4
    assert {one["commit"] for one in told["made"]} == {"0badf00d0bad"}


def test_a_table_alone_runs_nothing(ran: Ran, capsys: Saw) -> None:
    """It is that of the file; where there is none, that is said, and none is made."""
    assert ran("--results", "kernels.json", "--table-only", "--results", "none.json", status=2) == []
    assert capsys.readouterr().err.startswith("changeover: there are no results at none.json")
    assert list(Path().iterdir()) == []
    ran(*FEW)
    capsys.readouterr()
    assert ran("account", "--trials", "3", "--table-only", "--results", "kernels.json") == []
    out = capsys.readouterr().out
    assert "* account, natural: of 3 trials, not all run: pos 2, random 2" in out
    assert "stack" not in out


def test_a_false_alarm_fails_the_run(ran: Ran, capsys: Saw) -> None:
    """So do a failure that is not the kernel's bug, and a trial that could not be run; each is named."""
    words = ("account", "counter", "--policy", "pos", "--port", "natural", "--trials", "1")
    assert ran(*words) == ["account pos 0", "counter pos 0"]
    for name, ended, says in (
        ("counter", "other", "FALSE ALARM: counter, natural, pos, seed 0: deadlock; changeover replay T"),
        ("account", "other", "NOT ITS BUG: account, natural, pos, seed 0: deadlock; changeover replay T"),
        ("account", "broken", "NO TRIAL: account, natural, pos, seed 0: deadlock; changeover replay T"),
    ):
        sheet = Sheet(Path("kernels.json"))
        before = Path("kernels.json").read_bytes()
        [cell] = [one for one in sheet.cells if one.key.kernel == name]
        sheet.add(cell.key, cell.digest, trial(0, 3, ended, note="deadlock; changeover replay T"))  # type: ignore[arg-type]
        ran(*words, "--table-only", "--results", "kernels.json", status=1)
        assert says in capsys.readouterr().out.splitlines()
        Path("kernels.json").write_bytes(before)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["acount"], "there is no kernel 'acount'; did you mean 'account'? there are: account, bluetooth_driver, "),
        (["--policy", "pct"], "there is no policy 'pct'; did you mean 'pct-3'? there are: surw, pct-3, pos, random, "),
        (
            ["--port", "spawned"],
            "there is no port 'spawned'; did you mean 'spawned_4'? there are: natural, spawned_1, ",
        ),
        (["--policy", "pos", "stack"], "stack: kernels are named first, before the options"),
        (["--cap", "stak=5"], "there is no kernel 'stak'; did you mean 'stack'? there are: "),
        (["--cap", "stack=0"], "--cap stack=0: 0 must be at least 1"),
        (["--cap", "many"], "--cap many: 'many' is no whole number"),
        (["--svg", "picture.png"], "--svg picture.png must end in .svg"),
        (["--svg", "no/such/picture.svg"], "--svg no/such/picture.svg is in no folder that there is"),
        (["--results", "no/such/kernels.json"], "--results no/such/kernels.json is in no folder that there is"),
    ],
)
def test_what_cannot_be_meant_is_refused(ran: Ran, capsys: Saw, words: list[str], says: str) -> None:
    """One line names the culprit and the way out; the exit status is 2 and no file is made."""
    ran(*words, status=2)
    said = capsys.readouterr()
    assert said.err.splitlines()[-1].startswith(f"changeover: {says}")
    assert said.out == ""
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize("words", [["--trials", "0"], ["--seconds-a-cell", "nan"], ["--jobs", "x"]])
def test_numbers_are_checked_by_the_parser(words: list[str], capsys: Saw) -> None:
    """As in the other commands."""
    with pytest.raises(SystemExit):
        typed(*words)
    assert f"argument {words[0]}: " in capsys.readouterr().err


def test_all_are_listed(capsys: Saw) -> None:
    """Each kernel with its bug, its cap and its ports; and the policies."""
    assert typed("--list") == 0
    *lines, policies = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(subjects.subjects())
    assert lines[0].endswith("exception  at most    10,000 schedules  natural spawned_1 spawned_4")
    assert policies == "policies: surw pct-3 pos random portfolio starvation"
