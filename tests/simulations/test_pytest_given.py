"""The marker together with @given: inputs and schedules are searched, shrunk, told and run again together.

Every test runs a pytest of its own over a file that it writes.
"""

from __future__ import annotations

import re

import pytest

from tests.simulations.pytest_project import Project, command

HEAD = """
from hypothesis import HealthCheck, assume, example, given, note, settings, strategies as st

fixed = settings(derandomize=True, database=None, max_examples=20)
"""

LOSES = """
@pytest.mark.explore(schedules=20)
@fixed
@given(n=st.integers(0, 9))
async def test_count(n):
    await lose(n)
"""
"""Loses from the second task on, in most schedules."""

BESIDE = {
    "pytest-trio in trio mode": ((), "trio_mode = true"),
    "pytest-trio": ((), ""),
    "no pytest-trio": (("-p", "no:trio"), ""),
}


class GivenProject(Project):
    """A folder with tests that draw inputs."""

    def write(self, text: str, name: str = "test_it") -> None:
        super().write(HEAD + text, name)


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> GivenProject:
    """Return a folder for tests of their own."""
    return GivenProject(pytester, monkeypatch)


def commands(said: str) -> list[list[str]]:
    """Return the arguments of all command lines in what pytest said."""
    return [list(command(f"Run it again with:\n{line}")) for line in said.splitlines() if line.startswith("pytest ")]


# --- running ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("beside", BESIDE)
def test_either_order_of_the_decorators_will_do(project: GivenProject, beside: str) -> None:
    """Hypothesis draws and the explorer explores, whichever decorator comes first, with pytest-trio and without it."""
    arguments, setting = BESIDE[beside]
    project.configure(setting)
    project.write("""
@pytest.mark.explore(schedules=5)
@given(n=st.integers(2, 9))
@fixed
async def test_outside(n):
    await lose(n, atomic=True)

@given(n=st.integers(2, 9))
@fixed
@pytest.mark.explore(schedules=5)
async def test_inside(n):
    await lose(n)
""")
    said = project.run(*arguments, "-rP", passed=1, failed=1)
    assert "no failure in 40 schedules of 8 examples (Portfolio(), seed 0)" in said
    assert "AssertionError: 1 lost (" in said
    assert "\ninputs: n=2\n" in said
    (line,) = commands(said)
    again = project.run(*arguments, *line, failed=1)
    assert "AssertionError: 1 lost (1 schedule was run)\n\ninputs: n=2\n" in again


def test_the_settings_of_hypothesis_hold(project: GivenProject) -> None:
    """Its own max_examples hold, not its deadline, and an example gets 100 schedules unless the marker says else."""
    project.write("""
@pytest.mark.explore
@settings(fixed, max_examples=2, deadline=1)
@given(n=st.integers())
async def test_few(n):
    await lose(2, atomic=True)

@pytest.mark.explore(schedules=4, policy=PCT(depth=2), seed=5)
@settings(fixed, max_examples=20)
@given(n=st.integers())
async def test_many(n):
    assume(n % 2)
    await lose(2, atomic=True)
""")
    said = project.run("-rP", passed=2)
    assert "no failure in 200 schedules of 2 examples (Portfolio(), seed 0)" in said
    found = re.search(r"no failure in ([\d,]+) schedules of (\d+) examples \(PCT\(depth=2\), seed 5\)", said)
    assert found is not None
    assert int(found[2]) >= 20  # those that assume() rejects are drawn again
    assert int(found[1]) < 4 * int(found[2])  # and they are no more than one schedule each


def test_every_schedule_has_the_inputs_to_itself(project: GivenProject) -> None:
    """What a test does to its inputs is gone in the next schedule; what cannot be copied is the same in all of them."""
    project.write("""
import threading

@pytest.mark.explore(schedules=9)
@fixed
@given(numbers=st.lists(st.integers(), max_size=2))
async def test_copied(numbers):
    assert len(numbers) < 3
    numbers += [1, 2, 3]

@pytest.mark.explore(schedules=9)
@fixed
@given(lock=st.builds(threading.Lock))
async def test_shared(lock):
    with lock:
        await trio.lowlevel.checkpoint()
""")
    project.run(passed=2)


def test_fixtures_and_parameters_come_along(project: GivenProject) -> None:
    """Methods, parameters and fixtures go together with inputs; Hypothesis objects to a function's fixture as ever."""
    project.write("""
@pytest.fixture(scope="module")
def wide():
    return 2

@pytest.fixture
def narrow():
    return 2

class TestCounting:
    def setup_method(self):
        self.atomic = True

    @pytest.mark.explore(schedules=9)
    @pytest.mark.parametrize("more", [1, 2])
    @fixed
    @given(st.integers(0, 3))
    async def test_wide(self, wide, more, n):
        await lose(n + wide + more, atomic=self.atomic)

@pytest.mark.explore(schedules=9)
@settings(fixed, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(n=st.integers(0, 3))
async def test_allowed(narrow, n):
    await lose(narrow + n, atomic=True)

@pytest.mark.explore(schedules=9)
@fixed
@given(n=st.integers(0, 3))
async def test_narrow(narrow, n):
    await lose(narrow + n, atomic=True)
""")
    said = project.run("-rP", passed=3, failed=1)
    assert said.count("no failure in 36 schedules of 4 examples") == 3
    assert "uses a function-scoped fixture 'narrow'" in said


def test_the_same_test_elsewhere_is_left_alone(project: GivenProject) -> None:
    """A test that two classes inherit is explored in the one that is marked, and run by pytest-trio in the other."""
    project.write(
        """
class Inherited:
    @settings(fixed, suppress_health_check=[HealthCheck.differing_executors])
    @given(n=st.integers(0, 9))
    async def test_it(self, n):
        if self.is_explored:
            assert choose([1])
        else:
            from changeover_sim import NotExploring
            with pytest.raises(NotExploring):
                choose([1])

class TestBefore(Inherited):
    is_explored = False

@pytest.mark.explore(schedules=3)
class TestExplored(Inherited):
    is_explored = True

class TestBehind(Inherited):
    is_explored = False
"""
    )
    project.run(passed=3)


# --- failing, and running it again ------------------------------------------------------------------------------------


def test_inputs_shrink_while_a_schedule_fails(project: GivenProject) -> None:
    """The smallest inputs with a schedule that fails are told, with that schedule shrunk and how much was explored."""
    said = project.failing("""
@pytest.mark.explore(schedules=50)
@fixed
@given(numbers=st.lists(st.integers(), max_size=6), lucky=st.integers(0, 9))
async def test_rare(numbers, lucky):
    note(f"{len(numbers)} numbers")
    await lose(2, atomic=True)
    if sum(numbers) > 100 and choose(range(10)) == 7:
        raise KeyError("gone")
""")
    assert "\ninputs: numbers=[101], lucky=0\nnoted: 1 numbers\n\n" in said
    head = re.search(r"KeyError: 'gone' \(([\d,]+) schedules of (\d+) examples? were run\)", said)
    assert head is not None
    assert int(head[1]) <= 50 * int(head[2]) <= 50 * 20
    assert "pytest_given.py" not in said
    assert "pytest_inputs.py" not in said
    assert "Traceback" not in said
    assert "reproduce_failure" not in said


AGAIN = """
@pytest.fixture(scope="module")
def place():
    return object()

class TestIt:
    @pytest.mark.explore(schedules=20)
    @fixed
    @given(m=st.integers(0, 9))
    @pytest.mark.parametrize("n", [1, pytest.param(2, id="it's [two] $HOME")])
    async def test_count(self, n, place, m):
        await lose(n + m)

@pytest.mark.explore(schedules=20)
@settings(fixed, report_multiple_bugs=False)
@example(n=0).xfail(raises=KeyError)
@example(n=1)
@example(n=3)
@given(n=st.integers(0, 1))
async def test_example(n):
    note("here")
    await lose(n)
    if not n:
        raise KeyError

@pytest.mark.explore(schedules=20)
@fixed
@given(n=st.integers(0, 9))
async def test_stuck(n):
    if n > 4:
        await trio.sleep_forever()
"""


def test_the_command_line_runs_inputs_and_schedule_again(project: GivenProject) -> None:
    """Each line in the report, given to a shell, runs one schedule of one example, and reports itself again."""
    project.write(AGAIN)
    said = project.run(failed=4)
    shown = ["inputs: m=1", "inputs: m=0", "inputs: n=3\nnoted: here", "inputs: n=5"]
    for line, inputs in zip(commands(said), shown, strict=True):
        assert f"\n{inputs}\n" in said
        again = project.run(*line, failed=1)
        assert " (1 schedule was run)" in again
        assert f"\n{inputs}\n" in again
        assert commands(again) == [line]
        assert "place=" not in again


def test_two_kinds_of_failures_are_both_told(project: GivenProject) -> None:
    """Where inputs fail in two ways each is told, with a command line of its own."""
    said = project.failing("""
@pytest.mark.explore(schedules=30)
@settings(fixed, max_examples=100)
@given(n=st.integers(0, 6))
async def test_two(n):
    if n > 1 and choose([1, 2, 3]) == 2:
        raise KeyError(n)
    if n > 3 and choose([1, 2, 3]) == 3:
        raise ValueError(n)
""")
    assert {("KeyError", "2"), ("ValueError", "4")} == set(
        re.findall(r"^(\w+): \d \(.* were run\)\n\ninputs: n=(\d)", said, re.MULTILINE)
    )
    assert len(commands(said)) == 2


def test_a_test_that_says_its_inputs_itself(project: GivenProject) -> None:
    """A test with @reproduce_failure has its inputs, so that its command line needs none."""
    (line,) = commands(project.failing(LOSES))
    version, _, blob = line[-1].partition(":")
    said = project.failing(
        LOSES.replace("@given", f"@reproduce_failure({version!r}, {blob.encode()!r})\n@given").replace(
            "\n@pytest", "\nfrom hypothesis import reproduce_failure\n@pytest", 1
        )
    )
    assert "AssertionError: 1 lost (1 schedule of 1 example was run)\n\ninputs: n=2\n" in said
    (again,) = commands(said)
    assert "--explore-inputs" not in again
    assert "(1 schedule was run)\n\ninputs: n=2\n" in project.run(*again, failed=1)


def test_a_schedule_that_no_longer_fails_passes(project: GivenProject) -> None:
    """Run again after the bug was removed, or when the inputs are rejected, the test passes and the summary says so."""
    (line,) = commands(project.failing(LOSES))
    for mended in ("await lose(n, atomic=True)", "assume(n > 9)"):
        project.write(LOSES.replace("await lose(n)", mended))
        assert "test_it.py::test_count: the schedule no longer fails" in project.run(*line, passed=1)


def test_what_no_longer_fits_is_refused(project: GivenProject) -> None:
    """Inputs that are missing, of another Hypothesis or no longer those of the test are one sentence each."""
    (line,) = commands(project.failing(LOSES))
    *replayed, option, word = line
    others = {
        (): "ValueError: the test draws inputs, so --explore-replay needs --explore-inputs, too",
        (option, f"6.0.0:{word.partition(':')[2]}"): "cannot be had from this test (InvalidArgument: Attempting to",
        (option, "explicit:1"): "the inputs 'explicit:1' cannot be had from this test",
        (option, f"{word.partition(':')[0]}:AA"): "cannot be had from this test (InvalidArgument: ",
    }
    for arguments, sentence in others.items():
        said = project.run(*replayed, *arguments, failed=1)
        assert sentence in said
        assert "Traceback" not in said
    project.write(LOSES.replace("@given(n=st.integers(0, 9))", "@given(n=st.tuples(st.integers(), st.integers()))"))
    assert "cannot be had from this test (DidNotReproduce: " in project.run(*line, failed=1)
    project.write("@pytest.mark.explore(schedules=2)\nasync def test_count(): pass")
    assert "the test draws no inputs; leave --explore-inputs out" in project.run(*line, failed=1)


def test_inputs_that_fail_once_are_told_as_such(project: GivenProject) -> None:
    """Where a test keeps something, and the same inputs do not fail again, the report has no command and says why."""
    said = project.failing("""
kept = []

@pytest.mark.explore(schedules=5)
@fixed
@given(n=st.integers(0, 9))
async def test_once(n):
    kept.append(n)
    if len(kept) == 20:
        raise KeyError("gone")
""")
    assert re.search(r"^nondeterminism \(.* were run\)", said, re.MULTILINE)
    assert "It did not fail again with the same inputs, so there is no command for it" in said
    assert "note: Flaky" in said
    assert "Traceback" not in said
    assert commands(said) == []


# --- other ways to end ------------------------------------------------------------------------------------------------


def test_a_test_can_end_in_other_ways(project: GivenProject) -> None:
    """pytest.skip() and pytest.xfail() end the test at the first example; pytest.fail() is a failure with inputs."""
    project.write(
        """
@pytest.mark.parametrize("end", [pytest.skip, pytest.xfail, pytest.fail])
@pytest.mark.explore(schedules=5)
@fixed
@given(n=st.integers(0, 9))
async def test_ends(end, n):
    async with trio.open_nursery():
        if n > 3:
            end("a reason")

@pytest.mark.explore(schedules=5)
@fixed
@given(n=st.integers(0, 9))
@example(n=3).xfail(raises=KeyError)
async def test_example(n):
    if n == 3 and choose([1, 2]) == 2:
        raise KeyError

@pytest.mark.xfail(strict=True)
@pytest.mark.explore(schedules=5)
@fixed
@given(n=st.integers(0, 9))
async def test_expected(n):
    await lose(n)
""".replace("@given(n=st.integers(0, 9))\n@example", "@given(n=st.integers(0, 2))\n@example")
    )
    said = project.run("-rsx", skipped=1, xfailed=2, failed=1, passed=1)
    assert ": a reason" in said
    assert "Failed: a reason (" in said
    assert "\ninputs: n=4\n" in said


def test_what_the_explorer_cannot_do_ends_the_search(project: GivenProject) -> None:
    """An error of the explorer is told once, by its sentence and with the inputs, and so is st.data()."""
    project.write("""
@pytest.mark.explore(schedules=5)
@fixed
@given(n=st.integers(0, 9))
async def test_sleeps(n):
    import time
    if n > 3:
        time.sleep(1)

@pytest.mark.explore(schedules=0)
@fixed
@given(n=st.just(1))
async def test_senseless(n):
    pass

@pytest.mark.explore(schedules=5)
@fixed
@given(data=st.data())
async def test_data(data):
    data.draw(st.integers())
""")
    said = project.run(failed=3)
    assert re.search(r"test_sleeps: Uncontrolled: time.sleep\(\) blocks .* \(with n=[4-9]\)", said)
    assert "ValueError: schedules must be a whole number of at least 1, not 0 (with n=1)" in said
    assert "test_it.py::test_data: st.data() draws while the test runs" in said
    assert "Traceback" not in said


# --- what Hypothesis keeps --------------------------------------------------------------------------------------------

KEPT = """
from hypothesis import seed
from hypothesis.database import DirectoryBasedExampleDatabase

MENDED = False

@pytest.mark.explore(schedules=2)
@settings(database=DirectoryBasedExampleDatabase("kept"), max_examples=10)
@given(n=st.integers(0, 999))
@pytest.mark.parametrize("more", [0, 1])
@seed(1)
async def test_count(n, more):
    await lose(2, atomic=MENDED or n < 300 * more + 10)

@pytest.mark.explore(schedules=2)
@settings(database=DirectoryBasedExampleDatabase("kept"), max_examples=10)
@given(n=st.integers(0, 999))
@seed(1)
async def test_other(n):
    await lose(2, atomic=MENDED or n < 20)
"""


def test_the_database_keeps_inputs(project: GivenProject) -> None:
    """What failed is tried first the next time, each variant for itself; what passes is given up again."""
    project.write(KEPT)
    late = ("-p", "no:hypothesispytest", "-p", "_hypothesis_pytestplugin")  # behind pytest-trio, which wraps the test
    said = project.run(*late, failed=3)
    assert re.findall(r"^inputs: n=(\d+)", said, re.MULTILINE) == ["10", "310", "20"]
    kept = [path for path in (project.pytester.path / "kept").glob("*/*") if path.is_file()]
    assert len(kept) < 60
    assert max(path.stat().st_size for path in kept) < 100  # an integer, or a key: no schedule
    assert len({path.parent for path in kept}) == 1 + 2 * 3  # the names of the keys, and two keys for every test
    assert project.run(failed=3).count(" of 1 example w") == 3
    project.write(KEPT.replace("MENDED = False", "MENDED = True"))
    project.run(passed=3)
    assert len([path for path in kept if path.is_file()]) < len(kept)


def test_the_seed_of_hypothesis_holds(project: GivenProject) -> None:
    """With --hypothesis-seed two runs draw the same, and tell the same."""
    project.write(LOSES.replace("@fixed\n", ""))
    one, other = (commands(project.run("--hypothesis-seed=3", failed=1)) for _ in range(2))
    assert one == other
