"""The pytest plugin: an async test marked `explore` runs under schedule after schedule, beside pytest-trio or without.

Its fixtures are made once per test and not once per schedule: what a schedule changes must be made inside the test.
Owns the plain function that stands for such a test; Trio, the explorer and Hypothesis are left to the first such test.
"""

from __future__ import annotations

import functools
import inspect
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn
from unittest import TestCase

import pytest

import changeover_sim

MARKER = "explore"
SECTION = "explore"
"""What a test that passed says stands in a section of its report; `pytest -rP` shows it."""
PREFIX = "explore_"
"""How the properties begin that the report of an explored test carries."""

_TITLE = f"Captured {SECTION} call"  # as pytest has it
_ABOUT = (
    f"{MARKER}(schedules=10_000, policy=Portfolio(), seed=0, jobs=1, seconds=None, ...): run an async test by "
    "changeover_sim.explore(), whose keyword arguments these are; fixtures are made once per test, not once per "
    "schedule. With @given, Hypothesis draws the inputs, and each example gets its own schedules, 100 unless told "
    "otherwise; seconds are for the whole test."
)
_PIN = re.compile(r"explicit:[0-9]+|[0-9][0-9a-z.+]*:[A-Za-z0-9+/]+=*")

_replaced = pytest.StashKey[bool]()
"""Set on an item whose async function was replaced."""
_drawn = pytest.StashKey[Callable[..., Any]]()
"""On an item with @given: the async function inside it."""
_own_trio = pytest.StashKey[bool]()
"""Whether the test itself is marked trio, and not by pytest-trio."""
_reports = pytest.StashKey["_Reports"]()


# --- hooks ------------------------------------------------------------------------------------------------------------


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options that hold for all explored tests."""
    group = parser.getgroup(MARKER, "tests that are explored schedule by schedule (changeover)")
    for name, kind, text in (
        ("schedules", int, "schedules per test, and with @given per example"),
        ("seed", int, "the seed of the schedules"),
        ("jobs", int, "processes per test; the workers of pytest-xdist have no more than these in all"),
        ("seconds", float, "stop exploring a test after so many real seconds"),
    ):
        group.addoption(f"--explore-{name}", type=kind, metavar="N", help=f"{text}; whatever a test's marker says")
    group.addoption(
        "--explore-replay", metavar="TOKEN", help="run this one schedule of the explored test that is selected"
    )
    group.addoption("--explore-inputs", metavar="WORD", help="with --explore-replay: the inputs of a test with @given")
    group.addoption("--explore-json", metavar="FILE", help="write what was explored, test by test, to a file")


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known, for `--strict-markers`; raise `pytest.UsageError` for options that make no sense."""
    config.addinivalue_line("markers", _ABOUT)
    if not hasattr(config, "workerinput"):  # with pytest-xdist the controller has said all this, and gets all reports
        _check_options(config)
        config.stash[_reports] = _Reports()
        config.pluginmanager.register(config.stash[_reports])


@pytest.hookimpl(tryfirst=True)  # before pytest-trio marks whatever is async as its own
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put a plain function in the place of every marked async function, which no other plugin feels called to run."""
    for item in items:
        if item.get_closest_marker(MARKER) is None or not isinstance(item, pytest.Function):
            continue
        item.stash[_own_trio] = any(mark.name == "trio" for mark in item.own_markers)
        if inspect.iscoroutinefunction(item.obj):
            item.obj = _plain(item, item.obj)
            item.stash[_replaced] = True
        elif _is_given(item) and inspect.iscoroutinefunction(item.obj.hypothesis.inner_test):
            item.stash[_drawn] = item.obj.hypothesis.inner_test


def pytest_collection_finish(session: pytest.Session) -> None:
    """Refuse a token that no selected test would look at."""
    if session.config.getoption("explore_replay") is None or not session.items:
        return
    if not any(item.get_closest_marker(MARKER) for item in session.items):
        raise pytest.UsageError(f"--explore-replay: none of the selected tests is marked {MARKER}")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Refuse a marked test that cannot be explored, before anything is made for it."""
    marker = item.get_closest_marker(MARKER)
    reason = None if marker is None else _refusal(item, marker)
    if reason is not None:
        fail(item, reason)


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Explore a test with @given; whatever other plugins have put inside of it by now is not asked."""
    if _drawn not in pyfuncitem.stash:
        return None
    from changeover_sim.pytest_given import run  # noqa: PLC0415 - it imports Trio, the explorer and Hypothesis

    run(pyfuncitem, pyfuncitem.stash[_drawn])
    return True


@pytest.hookimpl(tryfirst=True)
def pytest_fixture_setup(fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest) -> None:
    """Refuse async fixtures: they live in one run of Trio, and every schedule is a run of its own."""
    node: Any = request.node
    function: Any = fixturedef.func
    is_async = inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)
    is_trio = is_async or getattr(function, "_force_trio_fixture", False)  # by which pytest-trio knows its own
    if is_trio and node.get_closest_marker(MARKER) is not None:
        fail(
            node,
            f"the fixture {fixturedef.argname!r} is async and lives in one run of Trio, and every schedule is a run of "
            "its own; make it an async context manager that the test enters itself",
        )


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say how much was explored, and which tests passed although a schedule was run that had failed."""
    config = terminalreporter.config
    if config.getoption("explore_replay") is not None:
        for report in terminalreporter.stats.get("passed", ()):
            for title, text in report.sections:
                if title == _TITLE:
                    terminalreporter.write_line(f"{report.nodeid}: {text}")
    reports = config.stash[_reports].kept
    if reports and config.option.verbose > -2:  # noqa: PLR2004 - with -qq pytest says nothing of its own, either
        from changeover_sim.pytest_summary import lines, tests  # noqa: PLC0415 - only where there is anything to say

        for line in lines(tests(reports), verbose=config.option.verbose > 0):
            terminalreporter.write_line(line)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Write the file for machines."""
    path = session.config.getoption("explore_json")
    if path is not None and _reports in session.config.stash:
        from changeover_sim.pytest_summary import as_json, tests  # noqa: PLC0415 - only where it was asked for

        Path(session.config.invocation_params.dir, path).write_text(as_json(tests(session.config.stash[_reports].kept)))


class _Reports:
    """Keeps the reports of explored tests."""

    def __init__(self) -> None:
        self.kept: list[pytest.TestReport] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep the report of an explored test's call."""
        if report.when == "call" and any(name.startswith(PREFIX) for name, _ in report.user_properties):
            self.kept.append(report)


def _check_options(config: pytest.Config) -> None:
    option = config.getoption
    for name, least in (("schedules", 1), ("jobs", 1), ("seed", 0)):
        number = option(f"explore_{name}")
        if number is not None and number < least:
            raise pytest.UsageError(f"--explore-{name}: must be at least {least}, not {number}")
    seconds, pin, path = (option(f"explore_{name}") for name in ("seconds", "inputs", "json"))
    if seconds is not None and not 0 < seconds < math.inf:
        raise pytest.UsageError(f"--explore-seconds: must be a number of seconds above 0, not {seconds}")
    if pin is not None and option("explore_replay") is None:
        raise pytest.UsageError("--explore-inputs: goes together with --explore-replay; copy the whole command")
    if pin is not None and _PIN.fullmatch(pin) is None:
        raise pytest.UsageError("--explore-inputs: these are no inputs as a report has them; copy the whole command")
    if path is not None:
        try:
            Path(config.invocation_params.dir, path).touch()
        except OSError as error:
            raise pytest.UsageError(f"--explore-json: {path} cannot be written: {error.strerror}") from None


# --- what can be explored ---------------------------------------------------------------------------------------------


def _refusal(item: pytest.Item, marker: pytest.Mark) -> str | None:
    """Return why a marked test cannot be explored, and the way out."""
    if marker.args:
        return f"@pytest.mark.{MARKER} takes keyword arguments only, such as {MARKER}(schedules=1000)"
    if not isinstance(item, pytest.Function) or (item.cls is not None and issubclass(item.cls, TestCase)):
        return "only async functions and methods of plain classes can be explored; make it one of these"
    if _replaced not in item.stash and _drawn not in item.stash:
        return f"@pytest.mark.{MARKER} is for async tests; write `async def`, or take the marker away"
    if item.stash[_own_trio]:
        return f"@pytest.mark.trio and @pytest.mark.{MARKER} each want to run the test; take one of them away"
    parameters = inspect.signature(changeover_sim.explore).parameters.values()
    known = [parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY]
    unknown = [name for name in marker.kwargs if name not in known]
    if unknown:
        return f"@pytest.mark.{MARKER} knows no {', '.join(unknown)}; it takes {', '.join(known)}"
    return None


def _is_given(item: pytest.Function) -> bool:
    """Return whether @given is on a test."""
    return bool(getattr(item.obj, "is_hypothesis_test", False)) and hasattr(item.obj, "hypothesis")


def _plain(item: pytest.Function, test: Callable[..., Any]) -> Callable[..., None]:
    """Return the function that explores a test; it has the test's name, place and documentation."""

    @functools.wraps(test)
    def explored(**fixtures: Any) -> None:
        from changeover_sim.pytest_run import run  # noqa: PLC0415 - it imports Trio and the explorer

        run(item, test, fixtures)

    setattr(explored, "_trio_test_runner_wrapped", True)  # noqa: B010 - so pytest-trio, where all is marked trio, lets it be
    return explored


def fail(item: pytest.Item, reason: str) -> NoReturn:
    """End a test with one sentence and without a traceback."""
    raise pytest.fail.Exception(f"{item.nodeid}: {reason}", pytrace=False) from None
