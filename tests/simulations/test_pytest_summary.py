"""What is said of a whole run: how much was explored, within what time, by how many processes.

Every test runs a pytest of its own over a file that it writes.
"""

from __future__ import annotations

import itertools
import json
import re
from types import SimpleNamespace
from xml.etree import ElementTree as ET

import pytest

from changeover_sim import pytest_given
from tests.simulations.pytest_project import Project, command

SEVERAL = """
from changeover_sim import Exhaustive
from hypothesis import given, settings, strategies as st

@pytest.mark.explore(schedules=30)
async def test_walk():
    await lose(2, atomic=True)

@pytest.mark.explore(policy=Exhaustive(delays=None))
async def test_all():
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.sleep, 0)

@pytest.mark.explore(schedules=5)
@settings(max_examples=4, derandomize=True, database=None)
@given(n=st.integers())
async def test_given(n):
    pass

@pytest.mark.explore(schedules=30)
async def test_fails():
    await lose(2)

@pytest.mark.explore
async def test_skips():
    pytest.skip()

def test_other():
    pass
"""

ENDLESS = """
@pytest.mark.explore(schedules=10_000_000)
async def test_endless():
    await lose(2, atomic=True)
"""


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Project:
    """Return a folder for tests of their own."""
    return Project(pytester, monkeypatch)


# --- how much ---------------------------------------------------------------------------------------------------------


def test_the_run_says_how_much_was_explored(project: Project) -> None:
    """Below the tests stands what was explored in all; with -v the slowest tests; for machines there are files."""
    project.write(SEVERAL)
    said = project.run("-v", "--explore-json=said.json", "--junitxml=said.xml", passed=4, failed=1, skipped=1)
    found = json.loads((project.pytester.path / "said.json").read_text())
    every = next(test["schedules"] for test in found["tests"] if test["test"].endswith("test_all"))
    total = 30 + every + 20 + 1 + 1
    assert f"explored: 5 tests, {total} schedules, 1 exhausted, {found['total']['schedules_per_s']:,}/s\n" in said
    slowest = re.findall(r"^ +([\d.]+) s +\d+ schedules?  test_it.py::test_(\w+)$", said, re.MULTILINE)
    assert {name for _, name in slowest} == {"walk", "all", "given", "fails", "skips"}
    assert [seconds for seconds, _ in slowest] == sorted((seconds for seconds, _ in slowest), key=float, reverse=True)
    walk = found["tests"][0]
    assert walk.pop("seconds") > 0
    assert walk == {
        "test": "test_it.py::test_walk",
        "outcome": "passed",
        "schedules": 30,
        "exhausted": False,
        "stopped": False,
        "policy": "Portfolio()",
        "seed": 0,
    }
    assert [test.get("examples") for test in found["tests"]] == [None, None, 4, None, None]
    cases = ET.parse(project.pytester.path / "said.xml").iter("testcase")
    named = {case.get("name"): {p.get("name"): p.get("value") for p in case.iter("property")} for case in cases}
    assert named["test_given"]["explore_schedules"] == "20"
    assert named["test_given"]["explore_examples"] == "4"
    assert named["test_other"] == {}


def test_nothing_is_said_where_nothing_was_explored(project: Project) -> None:
    """Without an explored test, or where one schedule was run again, there is no such line; nor with -qq."""
    project.write("def test_other(): pass")
    assert "explored:" not in project.run(passed=1)
    project.write("@pytest.mark.explore(schedules=20)\nasync def test_count():\n    await lose(2)")
    assert "explored: 1 test, 1 schedule, " in project.run("-q", failed=1)
    assert "explored:" not in project.run(*command(project.run(failed=1)), failed=1)
    assert "explored:" not in str(project.pytester.runpytest_inprocess("-qq").stdout)


@pytest.mark.slow
def test_with_xdist_the_controller_says_it(project: Project) -> None:
    """Workers hand their figures over, and two of them that share two processes explore in one process each."""
    project.write("""
import multiprocessing
from changeover_sim import Exhaustive

@pytest.mark.explore(schedules=30, jobs=2)
@pytest.mark.parametrize("n", [1, 2, 3])
async def test_shared(n):
    assert multiprocessing.parent_process() is None
""")
    result = project.pytester.runpytest_subprocess("-n", "2", "--explore-json=said.json", "-p", "no:cacheprovider")
    assert result.parseoutcomes() == {"passed": 3}, str(result.stdout)
    assert "explored: 3 tests, 90 schedules, " in str(result.stdout)
    assert json.loads((project.pytester.path / "said.json").read_text())["total"]["schedules"] == 90


# --- how long, and by how many ----------------------------------------------------------------------------------------


def test_a_budget_ends_the_exploration(project: Project) -> None:
    """When its time is over a test passes with what it has explored, and the run says that it was stopped by that."""
    project.write(
        ENDLESS
        + """
from hypothesis import given, strategies as st

@pytest.mark.explore(seconds=100, schedules=1000)
@given(n=st.integers())
async def test_given(n):
    await lose(2, atomic=True)
"""
    )
    said = project.run("--explore-seconds=0.2", "-rP", "-v", passed=2)
    ended = re.search(
        r"stopped by its budget after ([\d,]+) schedules? \(Portfolio\(\), seed 0\), .*: no failure", said
    )
    assert ended is not None
    examples = re.search(r"stopped by its budget after [\d,]+ schedules? of (\d+) examples? \(", said)
    assert examples is not None
    assert int(examples[1]) < 100  # all of them together have the time
    assert re.search(r"^explored: 2 tests, [\d,]+ schedules, 2 stopped by their budget, ", said, re.MULTILINE)
    assert re.search(
        rf"^  stopped by its budget after {ended[1]} schedules?: test_it.py::test_endless$", said, re.MULTILINE
    )


def test_a_test_without_time_says_that_it_explored_nothing(project: Project) -> None:
    """A budget so small that no schedule was begun does not fail the test, and is not passed over in silence."""
    project.write(ENDLESS.replace("schedules=10_000_000", "seconds=1e-9"))
    said = project.run("-rP", passed=1)
    assert "explored nothing: its budget was spent before the first schedule" in said
    assert (
        "explored: 1 test, 0 schedules, 1 stopped by its budget, 0/s\n  explored nothing: test_it.py::test_end" in said
    )


def test_inputs_are_shrunk_within_the_budget(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shrinking, too, ends with a budget: what is told then are the smallest inputs so far, and they still fail."""
    ticks = itertools.count()
    monkeypatch.setattr(pytest_given, "machine", SimpleNamespace(stopwatch=lambda: next(ticks) / 10))
    monkeypatch.setattr(pytest_given, "_SHRINK_LEAST_S", 0)
    project.write("""
from hypothesis import given, settings, strategies as st

@pytest.mark.explore(seconds=2, schedules=2)
@settings(derandomize=True, database=None)
@given(numbers=st.lists(st.integers(0, 10**9), min_size=3))
async def test_count(numbers):
    await lose(2, atomic=sum(numbers) <= 100)
""")
    said = project.run(failed=1)
    inputs = re.search(r"^inputs: numbers=\[.*\]$", said, re.MULTILINE)
    assert inputs is not None
    assert inputs[0] != "inputs: numbers=[0, 0, 101]"
    assert inputs[0] in project.run(*command(said), failed=1)


def test_processes_share_a_test(project: Project) -> None:
    """With jobs a test is explored by so many processes; the option leaves alone what cannot be shared out."""
    project.write("""
import os
from changeover_sim import Exhaustive

@pytest.fixture
def folder(tmp_path_factory):
    return tmp_path_factory.getbasetemp()

@pytest.mark.explore(schedules=30)
async def test_shared(folder):
    (folder / str(os.getpid())).touch()

@pytest.mark.explore(policy=Exhaustive(delays=1))
async def test_alone():
    await lose(2, atomic=True)

def test_how_many(folder):
    assert len([path for path in folder.iterdir() if path.name.isdecimal()]) == 2
""")
    project.run("--explore-jobs=2", passed=3)


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--explore-schedules=0"], "--explore-schedules: must be at least 1, not 0"),
        (["--explore-jobs=0"], "--explore-jobs: must be at least 1, not 0"),
        (["--explore-seed=-1"], "--explore-seed: must be at least 0, not -1"),
        (["--explore-seconds=nan"], "--explore-seconds: must be a number of seconds above 0, not nan"),
        (["--explore-json=none/said.json"], "--explore-json: none/said.json cannot be written: No such file"),
        (["--explore-inputs=explicit:1"], "--explore-inputs: goes together with --explore-replay"),
        (
            ["--explore-replay=sx1-x", "--explore-inputs=?"],
            "--explore-inputs: these are no inputs as a report has them",
        ),
    ],
    ids=["schedules", "jobs", "seed", "seconds", "json", "inputs alone", "inputs"],
)
def test_options_without_sense_are_refused(project: Project, arguments: list[str], sentence: str) -> None:
    """An option that makes no sense ends the run before it begins, by its name."""
    project.write("def test_other(): pass")
    result = project.pytester.runpytest_inprocess(*arguments)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert f"ERROR: {sentence}" in str(result.stderr)
