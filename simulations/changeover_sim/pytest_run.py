"""A marked test at work: explored, or one schedule of it run again; and how it passes, fails or skips.

Owns nothing. The plugin imports it when the first marked test is run, and with it Trio and the explorer.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from operator import attrgetter
from typing import Any

import pytest
import trio

from changeover_sim.explorer import machine
from changeover_sim.explorer.compare import parting
from changeover_sim.explorer.errors import ExplorerError
from changeover_sim.explorer.results import Failure
from changeover_sim.explorer.search import explore, replay
from changeover_sim.explorer.shrink import shrink
from changeover_sim.pytest_plugin import MARKER, SECTION, fail
from changeover_sim.pytest_told import Figures, Told, raised_in, report

_SHRINK_RUNS = 500
_MAGIC = (pytest.skip.Exception, pytest.xfail.Exception, pytest.exit.Exception)
"""What a test raises to end in another way than by passing or failing."""

NO_LONGER = "the schedule no longer fails"


class Program:
    """A test with its fixtures: an async callable under the name by which tokens know it."""

    __call__: Any = property(attrgetter("_call"))  # no frame of this file: it would stand in the recorded schedule

    def __init__(self, item: pytest.Function, test: Callable[..., Any], fixtures: Mapping[str, Any]) -> None:
        """Name it like the item, so that the variants of a parametrised test have a name each."""
        classes = [node.name for node in item.listchain() if isinstance(node, pytest.Class)]
        self.__module__ = getattr(item.module, "__name__", "")
        self.__qualname__ = ".".join([*classes, item.name])
        self.__signature__ = inspect.Signature()  # the fixtures are all that it takes
        self._call = partial(test, **fixtures)


def run(item: pytest.Function, test: Callable[..., Any], fixtures: Mapping[str, Any]) -> None:
    """Explore a test, or run the one schedule that was asked for, and end as it does."""
    refuse_clocks(item, fixtures)
    program = Program(item, test, fixtures)
    token = item.config.getoption("explore_replay")
    try:
        if token is None:
            _explored(item, program)
        else:
            _replayed(item, program, token)
    except (ExplorerError, ValueError) as error:
        fail(item, f"{type(error).__name__}: {error}")


def _explored(item: pytest.Function, program: Any) -> None:
    began = machine.stopwatch()
    result = explore(program, **options(item))
    figures = Figures.of(result, machine.stopwatch() - began)
    item.user_properties.extend(figures.properties())
    if result.failure is None:
        say(item, figures.summary(), result.notes)
        return
    end_by_magic(result.failure)
    told = aloud(item, program, shrunk(program, result.failure))
    pytest.fail(report(item, told, figures.ran(), result.notes), pytrace=False)


def _replayed(item: pytest.Function, program: Any, token: str) -> None:
    if item.config.getoption("explore_inputs") is not None:
        raise ValueError("the test draws no inputs; leave --explore-inputs out")
    result = replay(program, token)
    if result.failure is None:
        say(item, NO_LONGER, result.notes)
        return
    end_by_magic(result.failure)
    told = aloud(item, program, beside(program, result.failure))
    pytest.fail(report(item, told, Figures.of(result, 0).ran(), result.notes), pytrace=False)


def say(item: pytest.Function, sentence: str, notes: Iterable[str]) -> None:
    """Put what is to be said of a test that passed into its report."""
    item.add_report_section("call", SECTION, "\n".join([sentence, *(f"note: {note}" for note in notes)]))


def refuse_clocks(item: pytest.Item, fixtures: Mapping[str, Any]) -> None:
    """Refuse what pytest-trio would hand over to `trio.run`, and what would be ignored here in silence."""
    for name, value in fixtures.items():
        if isinstance(value, trio.abc.Clock | trio.abc.Instrument):
            fail(
                item,
                f"the fixture {name!r} is a {type(value).__name__} for trio.run(), and an explored test runs under the "
                "explorer's own virtual clock, which jumps by itself; leave the fixture out",
            )


# --- what is asked for ------------------------------------------------------------------------------------------------


def options(item: pytest.Function) -> dict[str, Any]:
    """Return the marker's arguments; the command line overrides them."""
    marker = item.get_closest_marker(MARKER)
    found = {} if marker is None else dict(marker.kwargs)
    for name in ("schedules", "seed", "seconds", "jobs"):
        given = item.config.getoption(f"explore_{name}")
        if given is not None and (name != "jobs" or _samples(found)):
            found[name] = given
    if type(found.get("jobs")) is int:
        found["jobs"] = _share(item.config, found["jobs"])
    return found


def _samples(found: Mapping[str, Any]) -> bool:
    """Return whether the policy's schedules can be shared out: a search's cannot, and then the option does nothing."""
    return getattr(found.get("policy"), "samples", True) is not False


def _share(config: pytest.Config, jobs: int) -> int:
    """Return how many processes a test may have, so that the workers of pytest-xdist have no more in all than asked."""
    workers = getattr(config, "workerinput", {}).get("workercount", 1)
    return max(1, jobs // workers) if jobs > 0 else jobs


# --- a failure --------------------------------------------------------------------------------------------------------


def shrunk(program: Any, failure: Failure) -> Told:
    """Return the failure shrunk, or as it is where it cannot be, and where it parts from a schedule that passes."""
    if failure.verdict == "nondeterminism":
        return failure, None
    try:
        token = shrink(program, failure.token, runs=_SHRINK_RUNS)
        small = replay(program, token).failure
    except ExplorerError:  # a schedule on the way there could not be judged; the one found was
        return failure, None
    return beside(program, failure if small is None or magic(small) is not None else small)


def beside(program: Any, failure: Failure) -> Told:
    """Return a failure, and where it parts from a schedule that passes."""
    return failure, parting(program, failure.token)


def aloud(item: pytest.Function, program: Any, told: Told) -> Told:
    """Run a failing schedule once more, so that the report shows what this one prints and nothing else."""
    failure, parted = told
    if failure.verdict == "nondeterminism":
        return told
    _forget_output(item)
    return (replay(program, failure.token).failure or failure), parted


def _forget_output(item: pytest.Function) -> None:
    """Drop what thousands of schedules have printed, so that the report shows what the last one prints."""
    capture: Any = item.config.pluginmanager.getplugin("capturemanager")
    if capture is not None:
        capture.read_global_capture()
    logged: Any = item.config.pluginmanager.getplugin("logging-plugin")
    if logged is not None:
        logged.caplog_handler.clear()
        logged.report_handler.clear()


# --- ending in another way --------------------------------------------------------------------------------------------


def end_by_magic(failure: Failure) -> None:
    """Skip, xfail or stop where the test said so in its schedule."""
    raised = magic(failure)
    if raised is not None:
        if failure.schedule_index:
            raised.msg = f"{raised.msg} (in schedule {failure.schedule_index})"
        raise raised from None


def magic(failure: Failure) -> Any:
    """Return the call of `pytest.skip()` and the like that ended a schedule; None where anything else was raised."""
    raised = raised_in(failure)
    return raised[0] if raised and all(isinstance(leaf, _MAGIC) for leaf in raised) else None
