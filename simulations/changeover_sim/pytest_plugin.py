"""The pytest plugin: an async test marked `explore` runs under schedule after schedule, beside pytest-trio or without.

Its fixtures are made once per test and not once per schedule: what a schedule changes must be made inside the test.
Owns the plain function that stands for such a test; Trio and the explorer are imported by the first marked test only.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, NoReturn
from unittest import TestCase

import pytest

import changeover_sim

MARKER = "explore"
SECTION = "explore"
"""What a test that passed says stands in a section of its report; `pytest -rP` shows it."""

_TITLE = f"Captured {SECTION} call"  # as pytest has it
_ABOUT = (
    f"{MARKER}(schedules=10_000, policy=RandomWalk(), seed=0, ...): run an async test by changeover_sim.explore(), "
    "whose keyword arguments these are; fixtures are made once per test, not once per schedule."
)

_replaced = pytest.StashKey[bool]()
"""Set on an item whose async function was replaced."""


# --- hooks ------------------------------------------------------------------------------------------------------------


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options that hold for all explored tests."""
    group = parser.getgroup(MARKER, "tests that are explored schedule by schedule (changeover)")
    group.addoption("--explore-schedules", type=int, metavar="N", help="schedules per test, whatever its marker says")
    group.addoption("--explore-seed", type=int, metavar="N", help="the seed, whatever a test's marker says")
    group.addoption(
        "--explore-replay", metavar="TOKEN", help="run this one schedule of the explored test that is selected"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known, for `--strict-markers`."""
    config.addinivalue_line("markers", _ABOUT)


@pytest.hookimpl(tryfirst=True)  # before pytest-trio marks whatever is async as its own
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put a plain function in the place of every marked async function, which no other plugin feels called to run."""
    for item in items:
        is_marked = item.get_closest_marker(MARKER) is not None
        if is_marked and isinstance(item, pytest.Function) and inspect.iscoroutinefunction(item.obj):
            item.obj = _plain(item, item.obj)
            item.stash[_replaced] = True


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
    """Say which tests passed although a schedule was run that had failed."""
    if terminalreporter.config.getoption("explore_replay") is None:
        return
    for report in terminalreporter.stats.get("passed", ()):
        for title, text in report.sections:
            if title == _TITLE:
                terminalreporter.write_line(f"{report.nodeid}: {text}")


# --- what can be explored ---------------------------------------------------------------------------------------------


def _refusal(item: pytest.Item, marker: pytest.Mark) -> str | None:
    """Return why a marked test cannot be explored, and the way out."""
    function: Any = getattr(item, "obj", None)
    if marker.args:
        return f"@pytest.mark.{MARKER} takes keyword arguments only, such as {MARKER}(schedules=1000)"
    if not isinstance(item, pytest.Function) or (item.cls is not None and issubclass(item.cls, TestCase)):
        return "only async functions and methods of plain classes can be explored; make it one of these"
    if getattr(function, "is_hypothesis_test", False):
        return (
            f"@given and @pytest.mark.{MARKER} do not go together; let a plain test that has @given call "
            "changeover_sim.explore() with a functools.partial of the program and the example"
        )
    if _replaced not in item.stash:
        return f"@pytest.mark.{MARKER} is for async tests; write `async def`, or take the marker away"
    if any(mark.name == "trio" for mark in item.own_markers):
        return f"@pytest.mark.trio and @pytest.mark.{MARKER} each want to run the test; take one of them away"
    parameters = inspect.signature(changeover_sim.explore).parameters.values()
    known = [parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY]
    unknown = [name for name in marker.kwargs if name not in known]
    if unknown:
        return f"@pytest.mark.{MARKER} knows no {', '.join(unknown)}; it takes {', '.join(known)}"
    return None


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
