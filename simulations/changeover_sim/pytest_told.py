"""What is told of an explored test: its failure, with the command that runs it again, and its figures.

Pure functions and values.
"""

from __future__ import annotations

import os
import re
import shlex
import traceback
from collections.abc import Container, Iterable

import attrs
import pytest

from changeover_sim.explorer.compare import Parting
from changeover_sim.explorer.report import failure_text
from changeover_sim.explorer.report import notes as note_lines
from changeover_sim.explorer.results import Failure, Result
from changeover_sim.explorer.schedule import leaves
from changeover_sim.pytest_plugin import PREFIX

_WIDTH = 116
_LINES_MAX = 12
"""How many lines the inputs of a test may have."""

_ONCE = [
    "It did not fail again with the same inputs, so there is no command for it: the test keeps something from one",
    "example to the next, such as a module's variable, a cache or a file.",
]

NOTHING = "explored nothing: its budget was spent before the first schedule"


@attrs.define
class Figures:
    """How much of a test was explored."""

    schedules: int = 0
    """Schedules run, and none that was run again to check or to shrink it."""
    seconds: float = 0.0
    """Real seconds spent on them."""
    exhausted: bool = True
    """Whether these are all the schedules that there are; with `@given`, for every example."""
    stopped: bool = False
    """Whether the budget of time ended it."""
    policy: str = ""
    seed: int = 0
    examples: int | None = None
    """How many examples of Hypothesis were explored; None where it draws none."""

    @classmethod
    def of(cls, result: Result, seconds: float) -> Figures:
        """Return the figures of one exploration."""
        figures = cls()
        figures.add(result, seconds)
        return figures

    def add(self, result: Result, seconds: float) -> None:
        """Count an exploration in."""
        self.schedules += result.schedules_run
        self.seconds += seconds
        self.exhausted = self.exhausted and result.exhausted
        self.stopped = self.stopped or result.stopped
        self.policy, self.seed = result.policy, result.seed
        if self.examples is not None and result.schedules_run:
            self.examples += 1

    def properties(self) -> Iterable[tuple[str, object]]:
        """Return what the test's report carries: to the controller of pytest-xdist, to junit, and to the summary."""
        found = attrs.asdict(self) | {
            "seconds": round(self.seconds, 3),
            "exhausted": self.exhausted and bool(self.schedules),
        }
        return [(PREFIX + name, value) for name, value in found.items() if value is not None]

    def __str__(self) -> str:
        of = "" if self.examples is None else f" of {counted(self.examples, 'example')}"
        return f"{counted(self.schedules, 'schedule')}{of}"

    def ran(self) -> str:
        """Return what is said of them where the test failed."""
        return f"{self} {'was' if self.schedules == 1 else 'were'} run"

    def summary(self) -> str:
        """Return what is said of them where the test passed."""
        if not self.schedules:
            return NOTHING if self.stopped else "explored nothing: Hypothesis drew no example that could be run"
        how = "all there are" if self.exhausted else f"{self.policy}, seed {self.seed}"
        speed = f"{self.schedules / self.seconds:,.0f}/s" if self.seconds else "0 s"
        if self.stopped:
            return f"stopped by its budget after {self} ({how}), {speed}: no failure until then"
        return f"no failure in {self} ({how}), {speed}"


def counted(number: int, noun: str) -> str:
    """Return `1 schedule` or `1,234 schedules`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def raised_in(failure: Failure) -> list[BaseException]:
    """Return what the test raised, out of the groups that nurseries make."""
    return [] if failure.exception is None else leaves(failure.exception)


@attrs.frozen
class Inputs:
    """What Hypothesis drew for a test."""

    shown: str = ""
    """The inputs as Hypothesis shows them, and what the test noted."""
    pin: str | None = ""
    """The word by which they are found again; empty where the test itself says which they are, None: they are not."""


Told = tuple[Failure, Parting | None]
"""A failure, and where it parts from a schedule that passes."""


def shown(call: str, names: Container[str], notes: Iterable[str]) -> str:
    """Return an example in a few lines: the inputs with these names, as Hypothesis shows them, and what was noted."""
    found: list[str] = []
    of_input = False
    for line in call.splitlines()[1:-1]:  # the first and the last line are those of the call
        if re.match(r" {4}[^ ]", line):
            of_input = line.strip().partition("=")[0] in names
        found += [line.removeprefix("    ")] if of_input else []
    together = f"inputs: {' '.join(map(str.strip, found)).removesuffix(',')}"
    if len(together) > _WIDTH or "#" in together:
        together = "\n".join(["inputs:", *(f"  {line}" for line in found)])
    lines = together.splitlines() if found else []
    lines += [f"noted: {line}" for note in notes for line in note.splitlines()]
    more = [f"... {len(lines) - _LINES_MAX} more lines"] if len(lines) > _LINES_MAX else []
    return "\n".join([*lines[:_LINES_MAX], *more])


def report(item: pytest.Function, told: Told, ran: str, notes: Iterable[str], inputs: Inputs | None = None) -> str:
    """Return a failure as the explorer tells it, with a command line of pytest that runs it again.

    `ran` says how much was explored, `notes` what was not controlled.
    """
    failure, parting = told
    inputs = inputs or Inputs()
    command = ["pytest", *_selection(item), nodeid(item), "--explore-replay", failure.token]
    command += ["--explore-inputs", inputs.pin] if inputs.pin else []
    again = _ONCE if inputs.pin is None else ["Run it again with:", shlex.join(command)]
    spare = len(inputs.shown.splitlines()) + bool(inputs.shown)
    text = failure_text(failure, again, parting=parting, spare=spare)
    blocks = [f"{headline(failure)} ({ran})", inputs.shown, text]
    return "\n".join(["\n\n".join(filter(None, blocks)), *note_lines(notes)])


def headline(failure: Failure) -> str:
    """Return what stands in pytest's summary, which has one line."""
    raised = raised_in(failure)
    return traceback.format_exception_only(raised[0])[0].partition("\n")[0] if raised else failure.verdict


def nodeid(item: pytest.Function) -> str:
    """Return the node id as it must be typed in the folder that pytest was started in."""
    path = os.path.relpath(item.path, item.config.invocation_params.dir)
    return f"{path}::{item.nodeid.partition('::')[2]}"


def _selection(item: pytest.Function) -> list[str]:
    """Return the option `-m` where the test was selected by one that is not in the project's settings."""
    expression = item.config.getoption("markexpr")
    return ["-m", expression] if expression and expression not in item.config.getini("addopts") else []
