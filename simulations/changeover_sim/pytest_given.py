"""A marked test with @given at work: Hypothesis draws inputs and shrinks them, and with each of them it is explored.

Owns what it keeps of one search. Nothing of a schedule is drawn from Hypothesis, so its database has inputs only, and
what they mean does not depend on the explorer.
"""

from __future__ import annotations

import functools
import inspect
from collections import deque
from collections.abc import Callable
from typing import Any

import attrs
import pytest
from hypothesis.errors import Flaky, HypothesisException, StopTest
from hypothesis.reporting import with_reporter

from changeover_sim.explorer import machine
from changeover_sim.explorer.errors import ExplorerError
from changeover_sim.explorer.results import Failure, Result
from changeover_sim.explorer.schedule import leaves
from changeover_sim.explorer.search import explore, replay
from changeover_sim.pytest_inputs import DrawnProgram, Ends, Given, deaf
from changeover_sim.pytest_plugin import fail
from changeover_sim.pytest_run import (
    NO_LONGER,
    aloud,
    beside,
    end_by_magic,
    magic,
    options,
    refuse_clocks,
    say,
    shrunk,
)
from changeover_sim.pytest_told import Figures, Inputs, Told, raised_in, report, shown

SCHEDULES = 100
"""How many schedules an example gets unless told otherwise: with 100 examples as many as a test without @given gets."""

_CASES_MAX = 100
"""How many of the examples that failed are kept: Hypothesis runs the smallest of each kind again, and last."""
_SHRINK_LEAST_S = 5.0
"""How long inputs are shrunk at least where the test has a budget; one that is longer holds for the shrinking, too."""
_ADDRESS = " at 0x"
"""Part of the `repr` of what has none of its own, which differs from run to run."""


class _Found(Exception):
    """A schedule failed without an exception, or with one that Hypothesis would not take for a failure."""


@functools.cache
def _kind(name: str) -> type[_Found]:
    """Return the exception for one kind of failure: Hypothesis keeps to the kind while it shrinks."""
    return type(name, (_Found,), {})


@attrs.frozen(eq=False)
class _Case:
    """An example with a schedule that failed."""

    number: int
    """How many examples there were before it."""
    error: BaseException
    """What Hypothesis was told."""
    notes: int
    """How many notes the error had before Hypothesis wrote its own."""
    failure: Failure


def run(item: pytest.Function, test: Callable[..., Any]) -> None:
    """Explore a test, or run the one schedule that was asked for, and end as it does; `test` is what @given wraps."""
    names = inspect.signature(item.obj).parameters
    fixtures = {name: value for name, value in item.funcargs.items() if name in names}
    refuse_clocks(item, fixtures)
    given = Given(item, test, fixtures)
    token = item.config.getoption("explore_replay")
    try:
        if token is None:
            _Exploration(item, given).run()
        else:
            _replayed(item, given, token)
    except (ExplorerError, ValueError) as error:
        fail(item, f"{type(error).__name__}: {error}")


# --- the search -------------------------------------------------------------------------------------------------------


class _Exploration:
    """One search, over inputs and schedules."""

    def __init__(self, item: pytest.Function, given: Given) -> None:
        self._item = item
        self._given = given
        self._options: dict[str, Any] = {"schedules": SCHEDULES} | options(item)
        self._seconds = self._options.pop("seconds", None)
        self._until_s: float | None = None
        """When the budget is spent: first that of the search, then that of the shrinking."""
        self._figures = Figures(examples=0)
        self._notes: dict[str, None] = {}
        self._number = 0
        self._cases: deque[_Case] = deque(maxlen=_CASES_MAX)
        self._failing: set[str] = set()
        """The `repr` of every example that failed."""

    def run(self) -> None:
        """Let Hypothesis draw, and end as the test does."""
        raised: BaseException | None = None
        try:
            self._given.call(self._example)
        except BaseException as error:  # noqa: BLE001 - told, or raised again below
            raised = error
        self._item.user_properties.extend(self._figures.properties())
        if raised is None:
            say(self._item, self._figures.summary(), self._notes)
            return
        for leaf in leaves(raised):
            if isinstance(leaf, Ends):
                leaf.end()
        told = self._unsure(raised) if isinstance(raised, Flaky) else map(self._told, self._cases_of(raised))
        pytest.fail("\n\n\n".join(told), pytrace=False)

    def _example(self, program: DrawnProgram) -> None:
        """Explore an example, and raise for Hypothesis what it is to do with it."""
        number, self._number = self._number, self._number + 1
        if self._is_over(program):
            return
        failure = self._explored(program).failure
        if failure is None:
            return
        error = _error(failure)
        if _is_control(error):
            raise error
        if magic(failure) is not None:
            raise Ends(functools.partial(end_by_magic, failure))
        self._failed(_Case(number, error, len(getattr(error, "__notes__", ())), failure), program)
        raise error

    def _explored(self, program: DrawnProgram) -> Result:
        """Explore an example, and count it unless Hypothesis is shrinking another."""
        began = machine.stopwatch()
        seconds = self._seconds if self._until_s is None else self._until_s - began
        try:
            with with_reporter(deaf):
                result = explore(program, **self._options, seconds=None if self._cases else seconds)
        except (ExplorerError, ValueError) as error:
            inputs = ", ".join(f"{name}={value!r}" for name, value in program.inputs.items())
            sentence = f"{type(error).__name__}: {error} (with {inputs})"
            raise Ends(functools.partial(fail, self._item, sentence)) from None
        self._notes |= dict.fromkeys(result.notes)
        if not self._cases:
            self._figures.add(result, machine.stopwatch() - began)
            if self._seconds is not None and self._until_s is None:
                self._until_s = began + self._seconds
        return result

    def _failed(self, case: _Case, program: DrawnProgram) -> None:
        if self._seconds is not None and not self._cases:
            self._until_s = machine.stopwatch() + max(self._seconds, _SHRINK_LEAST_S)
        self._cases.append(case)
        self._failing.add(repr(program.inputs))

    def _is_over(self, program: DrawnProgram) -> bool:
        """Return whether there is no time for an example; those that failed are run again: Hypothesis relies on it."""
        if self._until_s is None or machine.stopwatch() < self._until_s:
            return False
        if not self._cases:
            self._figures.stopped = True
            return True
        known = repr(program.inputs)
        return known not in self._failing and _ADDRESS not in known

    # --- what it came to ----------------------------------------------------------------------------------------------

    def _cases_of(self, raised: BaseException) -> list[_Case]:
        """Return the cases that Hypothesis ends with, one for each kind of failure; raise an error of its own."""
        errors = [raised] if self._case_of(raised) else list(getattr(raised, "exceptions", ()))
        cases = [case for error in errors if (case := self._case_of(error))]
        if not cases or len(cases) < len(errors):
            raise raised
        return cases

    def _unsure(self, raised: BaseException) -> list[str]:
        """Return the report of a case that did not fail when Hypothesis ran it again, which is said by `raised`."""
        case = next((case for leaf in leaves(raised) if (case := self._case_of(leaf))), None)
        if case is None:
            raise raised
        self._notes[f"{type(raised).__name__}: {raised}".partition("\n")[0]] = None
        return [report(self._item, (case.failure, None), self._figures.ran(), self._notes, Inputs(pin=None))]

    def _case_of(self, error: BaseException) -> _Case | None:
        return next((case for case in reversed(self._cases) if case.error is error), None)

    def _told(self, case: _Case) -> str:
        """Return the report of a case, with its schedule shrunk."""
        notes: list[str] = getattr(case.error, "__notes__", [])
        pin = self._given.pin(case.number, notes[case.notes :])
        if pin is None:
            raise case.error
        try:
            told, inputs = _again(self._item, self._given, pin, lambda program: shrunk(program, case.failure))
        except ValueError as error:
            self._notes[str(error)] = None
            told, inputs = None, Inputs(pin=pin)
        return report(self._item, told or (case.failure, None), self._figures.ran(), self._notes, inputs)


def _error(failure: Failure) -> BaseException:
    """Return what Hypothesis is told of a failure: what the test raised, where it raised one thing that is an error."""
    raised = raised_in(failure)
    error = next((leaf for leaf in raised if _is_control(leaf)), raised[0] if len(raised) == 1 else failure.exception)
    if isinstance(error, Exception | StopTest | pytest.fail.Exception):
        return error
    return _kind(failure.verdict if error is None else type(error).__name__)(failure.verdict)


def _is_control(error: BaseException) -> bool:
    """Return whether it is Hypothesis's own, such as what `assume()` raises."""
    return isinstance(error, HypothesisException | StopTest)


# --- one example ------------------------------------------------------------------------------------------------------


def _again(
    item: pytest.Function, given: Given, pin: str, tell: Callable[[DrawnProgram], Told | None]
) -> tuple[Told | None, Inputs]:
    """Run one example again; return what `tell` returns of it, heard once more, and the example as it is shown.

    Raises ValueError where the test no longer has this example.
    """
    found: list[Told] = []
    notes: list[str] = []
    names: list[str] = []

    def action(program: DrawnProgram) -> None:
        names.extend(program.inputs)
        told = tell(program)
        if told is not None:
            with with_reporter(lambda text: notes.append(str(text))):
                found.append(aloud(item, program, told))

    call = given.again(pin, action)
    return (found[0] if found else None), Inputs(shown(call, names, notes), pin)


def _replayed(item: pytest.Function, given: Given, token: str) -> None:
    """Run one schedule of one example again, and end as it does."""
    pin = item.config.getoption("explore_inputs") or ""
    if not pin and not given.is_reproduced:
        raise ValueError(
            "the test draws inputs, so --explore-replay needs --explore-inputs, too: copy the whole command"
        )
    results: list[Result] = []

    def tell(program: DrawnProgram) -> Told | None:
        result = replay(program, token)
        results.append(result)
        if result.failure is None or _is_control(_error(result.failure)):
            return None
        end_by_magic(result.failure)
        return beside(program, result.failure)

    told, inputs = _again(item, given, pin, tell)
    if told is None:
        say(item, NO_LONGER, results[0].notes)
    else:
        pytest.fail(report(item, told, Figures.of(results[0], 0).ran(), results[0].notes, inputs), pytrace=False)
