"""The pytest plugin: what a marked test does, how it fails, how that is run again, and what is refused.

Every test runs a pytest of its own over a file that it writes.
"""

from __future__ import annotations

import inspect
import sys

import pytest

from changeover_sim import explore
from tests.simulations.pytest_project import HEAD, Project, command

LOSES = """
@pytest.mark.explore(schedules=20)
async def test_count():
    await lose(2)
"""

BESIDE = {
    "pytest-trio in trio mode": ((), "trio_mode = true"),
    "pytest-trio": ((), ""),
    "no pytest-trio": (("-p", "no:trio"), ""),
}


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Project:
    """Return a folder for tests of their own, which are told as on a developer's machine."""
    return Project(pytester, monkeypatch)


# --- running ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("beside", BESIDE)
def test_a_marked_test_runs_under_every_schedule(project: Project, beside: str) -> None:
    """The marker's arguments are explore's: so many schedules of that policy, with pytest-trio and without it."""
    arguments, setting = BESIDE[beside]
    project.configure(setting)
    project.write("""
@pytest.mark.explore(schedules=30, policy=PCT(depth=2), seed=5)
async def test_good():
    await lose(3, atomic=True)

@pytest.mark.explore(schedules=30)
async def test_bad():
    await lose(3)
""")
    said = project.run(*arguments, "-rP", passed=1, failed=1)
    assert "no failure in 30 schedules (PCT(depth=2), seed 5)" in said


def test_all_arguments_of_explore_are_known(project: Project) -> None:
    """Every keyword argument of explore is one of the marker's."""
    given = {"policy": "RandomWalk()", "mode": "'trio-batch'", "timeouts": "'any-time'", "steps_max": "99"}
    known = {name: given.get(name, "2") for name in inspect.signature(explore).parameters if name != "program"}
    text = ", ".join(f"{name}={value}" for name, value in known.items())
    project.write(f"""
@pytest.mark.explore({text})
async def test_good():
    await lose(2, atomic=True)
""")
    assert "no failure in 2 schedules (RandomWalk(), seed 2)" in project.run("-rP", passed=1)


def test_other_tests_are_left_to_pytest_trio(project: Project) -> None:
    """An async test without the marker is run by pytest-trio, also where the whole file is marked trio."""
    project.configure("")
    project.write("""
pytestmark = pytest.mark.trio

@pytest.mark.explore(schedules=3)
async def test_explored():
    assert choose([1])

async def test_other(nursery, autojump_clock):
    from changeover_sim import NotExploring
    with pytest.raises(NotExploring):
        choose([1])
""")
    project.run(passed=2)


def test_no_other_plugin_sees_an_async_test(project: Project) -> None:
    """A plugin that takes whatever is async, wherever it stands in the order of plugins, finds no marked test."""
    project.pytester.makeconftest("""
import inspect, pytest
def pytest_collection_modifyitems(items):
    assert [inspect.iscoroutinefunction(item.obj) for item in items] == [False, True]
""")
    project.write("@pytest.mark.explore(schedules=3)\nasync def test_it(): pass\nasync def test_other(): pass")
    project.run(passed=2)


def test_fixtures_are_made_once_per_test(project: Project) -> None:
    """Sync fixtures, parameters and setup_method work, and are made once for all schedules of a test."""
    project.write("""
made = []

@pytest.fixture
def number():
    made.append("number")
    yield 2
    made.append("gone")

class TestCounting:
    def setup_method(self):
        made.append("setup")
        self.atomic = True

    @pytest.mark.explore(schedules=9)
    @pytest.mark.parametrize("more", [1, 2])
    async def test_count(self, number, more, tmp_path):
        await lose(number + more, atomic=self.atomic)

def test_made():
    assert made == ["setup", "number", "gone"] * 2
""")
    assert project.run("-rP", passed=3).count("no failure in 9 schedules") == 2


def test_the_command_line_overrides_the_markers(project: Project) -> None:
    """With --explore-schedules and --explore-seed every marked test takes these instead of its own."""
    project.write("""
@pytest.mark.explore(schedules=5, seed=1)
async def test_one():
    await lose(2, atomic=True)

@pytest.mark.explore
async def test_other():
    await lose(2, atomic=True)
""")
    said = project.run("-rP", "--explore-schedules=70", "--explore-seed=7", passed=2)
    assert said.count("no failure in 70 schedules (Portfolio(), seed 7)") == 2


# --- failing, and running it again ------------------------------------------------------------------------------------


def test_a_failure_is_told_shrunk(project: Project) -> None:
    """The report has the error, how many schedules were run, and the schedule with as few detours as will fail."""
    said = project.failing(LOSES)
    assert "FAILED test_it.py::test_count - Failed: AssertionError: 1 lost" in said
    assert "AssertionError: 1 lost (1 schedule was run)" in said
    assert "total = seen + 1" in said
    assert "Stock Trio runs every ready task once" not in said  # it loses in Trio's own order, so no detour is needed
    assert "changeover replay" not in said
    assert "pytest_run.py" not in said
    assert "Traceback" not in said


def test_a_late_failure_says_how_many_schedules_it_took(project: Project) -> None:
    """The count is that of the schedules up to the one that failed, and the schedule's number is told."""
    said = project.failing("""
@pytest.mark.explore(schedules=500, seed=3, policy=RandomWalk())
async def test_dice():
    assert choose(range(40)) != 17
""")
    (line,) = (line for line in said.splitlines() if line.endswith(" schedules were run)"))
    number = int(line.rpartition("(")[2].split()[0])
    assert number > 1
    assert f"({number} schedules were run)" in line
    assert f"schedule {number - 1} of RandomWalk(), seed 3" in said


def test_what_is_no_exception_is_told_by_its_verdict(project: Project) -> None:
    """A deadlock, and a test whose schedules are not of one kind, are told by that word in pytest's summary."""
    project.write("""
kept = []

@pytest.mark.explore(schedules=3)
async def test_stuck():
    await trio.sleep_forever()

@pytest.mark.explore(schedules=3)
async def test_keeps():
    kept.append(1)
    for _ in range(len(kept)):
        choose([1, 2])
""")
    said = project.run(failed=2)
    assert "FAILED test_it.py::test_stuck - Failed: deadlock (1 schedule was run)" in said
    assert "program at test_it.py:22 in test_stuck waits in trio.sleep_forever()" in said
    assert "FAILED test_it.py::test_keeps - Failed: nondeterminism (1 schedule was run)" in said


@pytest.mark.parametrize("smaller", ["pytest.skip('smaller')", "__import__('time').sleep(1)"])
def test_what_cannot_be_shrunk_is_told_as_it_is(project: Project, smaller: str) -> None:
    """Where shrinking comes to a schedule that skips, or that cannot be judged, the failure that was found is told."""
    said = project.failing(f"""
@pytest.mark.explore(schedules=500, seed=3, policy=RandomWalk())
async def test_dice():
    number = choose(range(40))
    async with trio.open_nursery():
        if number == 17:
            pytest.fail("it is 17")
        if number == 0:
            {smaller}
""")
    assert "Failed: it is 17 (51 schedules were run)" in said
    project.run(*command(said), failed=1)


def test_only_the_last_schedule_is_heard(project: Project) -> None:
    """Of what all those schedules have printed, the report shows what the one prints that it is about."""
    said = project.failing(LOSES)
    assert [line for line in said.splitlines() if line.startswith("seen ")] == ["seen 0", "seen 0"]


def test_only_the_last_schedule_is_logged(project: Project) -> None:
    """What others have logged is dropped, too."""
    said = project.failing("""
import logging

@pytest.mark.explore(schedules=500, seed=3)
async def test_dice():
    number = choose(range(40))
    logging.getLogger("dice").warning("it is %s", number)
    assert number != 17
""")
    assert [line.split()[-1] for line in said.splitlines() if " it is " in line] == ["17"]


NAMED = """
class TestIt:
    @pytest.mark.explore(schedules=20)
    @pytest.mark.parametrize("n", [pytest.param(2, id="it's [two] $HOME")])
    async def test_count(self, n, tmp_path):
        await lose(n)
"""


@pytest.mark.parametrize("beside", BESIDE)
@pytest.mark.parametrize("text", [LOSES, NAMED], ids=["function", "method"])
def test_the_command_line_runs_the_schedule_again(project: Project, text: str, beside: str) -> None:
    """The line in the report, given to a shell, fails in the same way in one schedule, and reports the same line."""
    arguments, setting = BESIDE[beside]
    project.configure(setting)
    first = project.failing(text, *arguments)
    again = project.run(*arguments, *command(first), failed=1)
    assert "1 lost (1 schedule was run)" in again
    assert command(again) == command(first)


def test_the_command_line_fits_the_folder(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a folder below the project's the line names the file as it is found from there."""
    folder = project.pytester.mkdir("folder")
    project.write(LOSES)
    monkeypatch.chdir(folder)
    said = project.run("../test_it.py", failed=1)
    assert command(said)[0] == "../test_it.py::test_count"
    project.run(*command(said), failed=1)


def test_the_command_line_selects_the_test(project: Project) -> None:
    """A test that only runs with -m is selected by the line in the report, too."""
    project.write("@pytest.mark.slow" + LOSES)
    said = project.run("-m", "slow and not trio", failed=1)
    assert command(said)[:2] == ["-m", "slow and not trio"]
    project.run(*command(said), failed=1)


def test_a_schedule_that_no_longer_fails_passes(project: Project) -> None:
    """Run again after the bug was removed, the test passes and the summary says that the schedule no longer fails."""
    arguments = command(project.failing(LOSES))
    project.write(LOSES.replace("lose(2)", "lose(2, atomic=True)"))
    said = project.run(*arguments, passed=1)
    assert "test_it.py::test_count: the schedule no longer fails" in said
    assert "note: the steps are not those that the token was made with" in said
    assert "the schedule no longer fails" in project.run("-rP", *arguments, passed=1).partition("= PASSES =")[2]


def test_a_token_is_for_one_test(project: Project) -> None:
    """A token of another test, or of another variant of the same, is refused by both names."""
    project.write("""
@pytest.mark.explore(schedules=20)
@pytest.mark.parametrize("n", [2, 1])
async def test_count(n):
    await lose(n)
""")
    _, *replayed = command(project.run(failed=1, passed=1))
    said = project.run("test_it.py::test_count[1]", *replayed, failed=1)
    assert "the token is for the program 'test_it:test_count[2]', and this is 'test_it:test_count[1]'" in said
    assert "Traceback" not in said


def test_a_damaged_token_is_refused(project: Project) -> None:
    """A token that was not copied whole is one sentence."""
    _, option, token = command(project.failing(LOSES))
    said = project.run(option, token[:-9], failed=1)
    assert "test_it.py::test_count: TokenError: the token" in said
    assert "copy the whole of it" in said
    assert "Traceback" not in said


def test_a_token_needs_an_explored_test(project: Project) -> None:
    """Where no selected test is explored, --explore-replay is an error and not a silent success."""
    project.write("def test_plain(): pass")
    result = project.pytester.runpytest_inprocess("--explore-replay=sx1-x")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "none of the selected tests is marked explore" in str(result.stderr)


# --- other ways to end ------------------------------------------------------------------------------------------------


ENDS = """
@pytest.mark.explore(schedules=9)
async def test_it():
    async with trio.open_nursery():
        pytest.{}("a\\nreason")
"""


@pytest.mark.parametrize(("call", "outcome"), [("skip", "skipped"), ("xfail", "xfailed")])
def test_a_test_can_skip_and_xfail(project: Project, call: str, outcome: str) -> None:
    """pytest.skip() and pytest.xfail() inside a nursery do what they do elsewhere, and the skip has its own line."""
    project.write(ENDS.format(call).replace("\\n", " "))
    said = project.run("-rsx", **{outcome: 1})
    line = (HEAD + ENDS).strip().splitlines().index('        pytest.{}("a\\nreason")') + 1
    assert (f"test_it.py:{line}: a reason" if call == "skip" else "test_it.py::test_it - a reason") in said


def test_a_skip_in_a_later_schedule_says_which(project: Project) -> None:
    """A schedule that skips ends the exploration, and the reason tells its number, since others have passed."""
    project.write("""
@pytest.mark.explore(schedules=500, seed=3)
async def test_dice():
    if choose(range(40)) == 17:
        pytest.skip("bad luck")
""")
    said = project.run("-rs", skipped=1)
    number = said.partition("bad luck (in schedule ")[2].partition(")")[0]
    assert int(number) > 0


def test_a_skip_beside_an_error_is_an_error(project: Project) -> None:
    """Where one task skips and another raises, the test has failed."""
    said = project.failing("""
@pytest.mark.explore(schedules=9)
async def test_it():
    async def skip():
        pytest.skip("a reason")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(skip)
        raise KeyError("gone")
""")
    assert "KeyError: 'gone' (1 schedule was run)" in said


def test_pytest_fail_is_told(project: Project) -> None:
    """What pytest.fail() says stands in the report."""
    assert "Failed: a\nreason" in project.failing(ENDS.format("fail"))


def test_pytest_exit_ends_the_run(project: Project) -> None:
    """pytest.exit() in a schedule ends the whole run of pytest."""
    project.write(ENDS.format("exit").replace("\\n", " ") + "def test_other(): pass")
    result = project.pytester.runpytest_inprocess()
    assert "Exit: a reason" in str(result.stdout)
    assert result.parseoutcomes() == {}


def test_xfail_marker(project: Project) -> None:
    """A marked test that is expected to fail is."""
    project.write("@pytest.mark.xfail(strict=True)" + LOSES)
    project.run(xfailed=1)


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ("import time; time.sleep(1)", "Uncontrolled: time.sleep() blocks the run loop for real"),
        ("trio.run(trio.sleep_forever)", "BadProgram: the program calls trio.run() itself"),
    ],
)
def test_what_the_explorer_cannot_do_is_one_sentence(project: Project, body: str, sentence: str) -> None:
    """An error of the explorer is told by its sentence, with the test's name and without a traceback."""
    said = project.refused(f"@pytest.mark.explore(schedules=3)\nasync def test_it():\n    {body}\n", failed=1)
    assert f"test_it.py::test_it: {sentence}" in said


def test_arguments_without_sense_are_one_sentence(project: Project) -> None:
    """What explore refuses of the marker's arguments is told by its sentence."""
    said = project.refused("@pytest.mark.explore(schedules=0)\nasync def test_it(): pass", failed=1)
    assert "test_it.py::test_it: ValueError: schedules must be a whole number of at least 1, not 0" in said


# --- refused ----------------------------------------------------------------------------------------------------------

ASYNC_FIXTURE = "@pytest.fixture\nasync def number(): yield 1\n"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("@pytest.mark.explore(100)\nasync def test_it(): pass", "takes keyword arguments only"),
        ("@pytest.mark.explore(schedule=1)\nasync def test_it(): pass", "knows no schedule; it takes schedules, "),
        ("@pytest.mark.explore(program=1)\nasync def test_it(): pass", "knows no program; it takes schedules, "),
        ("@pytest.mark.explore\ndef test_it(): pass", "is for async tests; write `async def`"),
        ("@pytest.mark.explore\n@pytest.mark.trio\nasync def test_it(): pass", "take one of them away"),
        (
            "from hypothesis import given\n@pytest.mark.explore\n@given(...)\ndef test_it(n: int): pass",
            "is for async tests; write `async def`",
        ),
        (
            "import unittest as u\nclass test_it(u.TestCase):\n @pytest.mark.explore\n async def test_it(self): pass",
            "only async functions and methods of plain classes",
        ),
        (
            ASYNC_FIXTURE + "@pytest.mark.explore\nasync def test_it(number): pass",
            "the fixture 'number' is async",
        ),
        (
            ASYNC_FIXTURE
            + "@pytest.fixture\ndef more(number): pass\n@pytest.mark.explore\nasync def test_it(more): pass",
            "the fixture 'number' is async",
        ),
        ("@pytest.mark.explore\nasync def test_it(nursery): pass", "the fixture 'nursery' is async"),
    ],
    ids=["positional", "unknown", "program", "sync", "trio", "given", "unittest", "fixture", "indirect", "nursery"],
)
def test_what_cannot_be_explored_is_refused(project: Project, text: str, sentence: str) -> None:
    """A marker that makes no sense is an error of the test, by its name and with the way out, without a traceback."""
    said = project.refused(text)
    assert "test_it.py::test_it" in said
    assert sentence in said


def test_a_clock_of_trio_is_refused(project: Project) -> None:
    """A fixture that pytest-trio would give to trio.run() is not ignored in silence."""
    said = project.refused("@pytest.mark.explore\nasync def test_it(autojump_clock): pass", failed=1)
    assert "test_it.py::test_it: the fixture 'autojump_clock' is a MockClock" in said


def test_a_skipped_test_is_not_refused(project: Project) -> None:
    """A marker that makes no sense does not matter while the test is skipped, which is told with the test's line."""
    text = "@pytest.mark.skip(reason='later')\n@pytest.mark.explore(100)\nasync def test_it(): pass"
    project.write(text)
    line = (HEAD + text).strip().splitlines().index("@pytest.mark.skip(reason='later')") + 1
    assert f"test_it.py:{line}: later" in project.run("-rs", skipped=1)


# --- what it costs others ---------------------------------------------------------------------------------------------


def test_the_marker_is_listed(project: Project) -> None:
    """`pytest --markers` lists the marker, and says that fixtures are made once per test."""
    said = str(project.pytester.runpytest_inprocess("--markers").stdout)
    assert "@pytest.mark.explore(schedules=10_000" in said
    assert "fixtures are made once per test, not once per schedule" in said


def test_without_a_marked_test_nothing_is_imported(pytester: pytest.Pytester) -> None:
    """Where no test is marked, neither Trio nor attrs nor Hypothesis nor anything of the explorer is imported."""
    pytester.makepyfile("""
import sys
def test_loaded():
    assert "changeover_sim.pytest_plugin" in sys.modules
    tops = {name.partition(".")[0] for name in sys.modules}
    assert not tops & {"trio", "attr", "attrs", "hypothesis", "outcome"}
    assert not [name for name in sys.modules if name.startswith("changeover_sim.explorer")]
""")
    others = [word for plugin in ("trio", "hypothesispytest", "anyio") for word in ("-p", f"no:{plugin}")]
    result = pytester.runpytest_subprocess(*others)
    result.assert_outcomes(passed=1)


def test_importing_the_plugin_imports_little(pytester: pytest.Pytester) -> None:
    """In a fresh interpreter the plugin's module imports nothing heavy, not even a policy."""
    code = (
        "import sys, changeover_sim.pytest_plugin as p; print(sorted(n for n in sys.modules if 'changeover_sim' in n))"
    )
    result = pytester.run(sys.executable, "-c", code)
    assert result.outlines == ["['changeover_sim', 'changeover_sim.pytest_plugin']"]
