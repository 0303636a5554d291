"""A marked test at work: explored, or one schedule of it run again; and how it passes, fails or skips.

Owns nothing. The plugin imports it when the first marked test is run, and with it Trio and the explorer.
"""

from __future__ import annotations

import inspect
import os
import shlex
import traceback
from collections.abc import Callable
from functools import partial
from operator import attrgetter
from typing import Any

import pytest
import trio

from changeover_sim.explorer.errors import ExplorerError
from changeover_sim.explorer.report import failure_text
from changeover_sim.explorer.results import Failure, Result
from changeover_sim.explorer.schedule import leaves
from changeover_sim.explorer.search import explore, replay
from changeover_sim.explorer.shrink import shrink
from changeover_sim.pytest_plugin import MARKER, SECTION, fail

_SHRINK_RUNS = 500
_MAGIC = (pytest.skip.Exception, pytest.xfail.Exception, pytest.exit.Exception)
"""What a test raises to end in another way than by passing or failing."""


class Program:
    """A test with its fixtures: an async callable under the name by which tokens know it."""

    __call__: Any = property(attrgetter("_call"))  # no frame of this file: it would stand in the recorded schedule

    def __init__(self, item: pytest.Function, test: Callable[..., Any], fixtures: dict[str, Any]) -> None:
        """Name it like the item, so that the variants of a parametrised test have a name each."""
        classes = [node.name for node in item.listchain() if isinstance(node, pytest.Class)]
        self.__module__ = getattr(item.module, "__name__", "")
        self.__qualname__ = ".".join([*classes, item.name])
        self.__signature__ = inspect.Signature()  # the fixtures are all that it takes
        self._call = partial(test, **fixtures)


def run(item: pytest.Function, test: Callable[..., Any], fixtures: dict[str, Any]) -> None:
    """Explore a test, or run the one schedule that was asked for, and end as it does."""
    _refuse_clocks(item, fixtures)
    program: Any = Program(item, test, fixtures)
    token = item.config.getoption("explore_replay")
    try:
        result = explore(program, **_options(item)) if token is None else replay(program, token)
        failure = result.failure
        if failure is not None:
            _end_by_magic(failure)
            failure = _smaller(item, program, failure) if token is None else failure
    except (ExplorerError, ValueError) as error:
        fail(item, f"{type(error).__name__}: {error}")
    if failure is not None:
        pytest.fail(_report(item, result, failure), pytrace=False)
    passed = str(result) if token is None else "\n".join(["the schedule no longer fails", *_notes(result)])
    item.add_report_section("call", SECTION, passed)


def _refuse_clocks(item: pytest.Item, fixtures: dict[str, Any]) -> None:
    """Refuse what pytest-trio would hand over to `trio.run`, and what would be ignored here in silence."""
    for name, value in fixtures.items():
        if isinstance(value, trio.abc.Clock | trio.abc.Instrument):
            fail(
                item,
                f"the fixture {name!r} is a {type(value).__name__} for trio.run(), and an explored test runs under the "
                "explorer's own virtual clock, which jumps by itself; leave the fixture out",
            )


def _options(item: pytest.Function) -> dict[str, Any]:
    """Return the marker's arguments; the command line overrides them."""
    marker = item.get_closest_marker(MARKER)
    options = {} if marker is None else dict(marker.kwargs)
    for name in ("schedules", "seed"):
        given = item.config.getoption(f"explore_{name}")
        if given is not None:
            options[name] = given
    return options


def _smaller(item: pytest.Function, program: Any, failure: Failure) -> Failure:
    """Return the failure shrunk, or as it is where it cannot be."""
    if failure.verdict == "nondeterminism":
        return failure
    try:
        token = shrink(program, failure.token, runs=_SHRINK_RUNS)
        _forget_output(item)
        smaller = replay(program, token).failure
    except ExplorerError:  # a schedule on the way there could not be judged; the one found was
        return failure
    return failure if smaller is None or _magic(smaller) is not None else smaller


def _forget_output(item: pytest.Function) -> None:
    """Drop what thousands of schedules have printed, so that the report shows what the last one prints."""
    capture: Any = item.config.pluginmanager.getplugin("capturemanager")
    if capture is not None:
        capture.read_global_capture()


# --- how it ends ------------------------------------------------------------------------------------------------------


def _end_by_magic(failure: Failure) -> None:
    """Skip, xfail or stop where the test said so in its schedule."""
    raised = _magic(failure)
    if raised is not None:
        if failure.schedule_index:
            raised.msg = f"{raised.msg} (in schedule {failure.schedule_index})"
        raise raised from None


def _magic(failure: Failure) -> Any:
    """Return the call of `pytest.skip()` and the like that ended a schedule; None where anything else was raised."""
    raised = _raised(failure)
    return raised[0] if raised and all(isinstance(leaf, _MAGIC) for leaf in raised) else None


def _raised(failure: Failure) -> list[BaseException]:
    """Return what the test raised, out of the groups that nurseries make."""
    return [] if failure.exception is None else leaves(failure.exception)


def _report(item: pytest.Function, result: Result, failure: Failure) -> str:
    """Return the failure as the explorer tells it, with a command line of pytest that runs it again."""
    count = "1 schedule was run" if result.schedules_run == 1 else f"{result.schedules_run:,} schedules were run"
    command = ["pytest", *_selection(item), _nodeid(item), "--explore-replay", failure.token]
    told = failure_text(failure, again=["Run it again with:", shlex.join(command)])
    return "\n".join([f"{_headline(failure)} ({count})", "", told, *_notes(result)])


def _notes(result: Result) -> list[str]:
    return [f"note: {note}" for note in result.notes]


def _headline(failure: Failure) -> str:
    """Return what stands in pytest's summary, which has one line."""
    raised = _raised(failure)
    return traceback.format_exception_only(raised[0])[0].partition("\n")[0] if raised else failure.verdict


def _nodeid(item: pytest.Function) -> str:
    """Return the node id as it must be typed in the folder that pytest was started in."""
    path = os.path.relpath(item.path, item.config.invocation_params.dir)
    return f"{path}::{item.nodeid.partition('::')[2]}"


def _selection(item: pytest.Function) -> list[str]:
    """Return the option `-m` where the test was selected by one that is not in the project's settings."""
    expression = item.config.getoption("markexpr")
    return ["-m", expression] if expression and expression not in item.config.getini("addopts") else []
