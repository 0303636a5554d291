"""What was explored in a run of pytest, in a few lines for people and as a file for machines.

Pure functions over the reports of the tests. It imports nothing of the explorer, for a process that runs no test.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from changeover_sim.pytest_plugin import PREFIX

_SLOWEST = 5
_NAMED = 10


def tests(reports: Sequence[pytest.TestReport]) -> list[dict[str, Any]]:
    """Return what each explored test has come to, by the names that stand in the file for machines."""
    return [
        {"test": report.nodeid, "outcome": report.outcome}
        | {name.removeprefix(PREFIX): value for name, value in report.user_properties if name.startswith(PREFIX)}
        for report in reports
    ]


def total(found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the sums over all tests; the speed is that of a test while it explores."""
    schedules, seconds = (sum(test[name] for test in found) for name in ("schedules", "seconds"))
    return {
        "tests": len(found),
        "schedules": schedules,
        "exhausted": sum(test["exhausted"] for test in found),
        "stopped": sum(test["stopped"] for test in found),
        "seconds": round(seconds, 3),
        "schedules_per_s": round(schedules / seconds) if seconds else 0,
    }


def lines(found: Sequence[dict[str, Any]], *, verbose: bool) -> Iterator[str]:
    """Yield what stands below the tests in a terminal: a line, the tests that explored nothing, and the slowest."""
    sums = total(found)
    parts = [
        _counted(sums["tests"], "test"),
        _counted(sums["schedules"], "schedule"),
        f"{sums['exhausted']:,} exhausted" if sums["exhausted"] else "",
        f"{sums['stopped']:,} stopped by {'its' if sums['stopped'] == 1 else 'their'} budget"
        if sums["stopped"]
        else "",
        f"{sums['schedules_per_s']:,}/s",
    ]
    yield f"explored: {', '.join(filter(None, parts))}"
    yield from _cut([f"  explored nothing: {test['test']}" for test in found if not test["schedules"]])
    if verbose:
        yield from _cut([_stopped(test) for test in found if test["stopped"] and test["schedules"]])
        slowest = sorted(found, key=lambda test: (-test["seconds"], test["test"]))
        yield from (_slow(test) for test in slowest[:_SLOWEST])


def as_json(found: Sequence[dict[str, Any]]) -> str:
    """Return the file for machines: the tests, and the sums over them."""
    return json.dumps({"total": total(found), "tests": list(found)}, indent=1) + "\n"


def _stopped(test: dict[str, Any]) -> str:
    return f"  stopped by its budget after {_counted(test['schedules'], 'schedule')}: {test['test']}"


def _slow(test: dict[str, Any]) -> str:
    return f"  {test['seconds']:8.2f} s  {_counted(test['schedules'], 'schedule'):>17}  {test['test']}"


def _cut(found: Sequence[str]) -> Iterator[str]:
    yield from found[:_NAMED]
    if len(found) > _NAMED:
        yield f"  ... and {len(found) - _NAMED:,} more"


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
