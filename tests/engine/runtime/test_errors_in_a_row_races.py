"""A row of errors is counted without a lock: under no schedule of its byte code is one found that was none.

See tests/engine/core/test_ledger_interleavings.py for the method. Threads that overtake each other may hide a row.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from itertools import combinations
from typing import Any

import pytest

from changeover.core.tally import peek
from changeover.core.values import VersionSpec
from changeover.errors import PredictFailed
from changeover.plugin import FatalModelError
from changeover.runtime.accounts import make_account
from changeover.runtime.loaded import LoadedModel
from changeover.runtime.loaders import Brought
from tests.engine.core.interleave import Case, Explorer, Make, Pause, Violation
from tests.support.models import Script, ScriptedModel


def loaded(most: int, kind: type[LoadedModel]) -> LoadedModel:
    """Return a model that nobody serves."""
    spec = VersionSpec("m", "1", "script", loader="scripted", errors_in_a_row_max=most)
    model = ScriptedModel(Script(fails_on=lambda inputs: "bad" in inputs), "m", "1")
    account = make_account(spec.key, lambda: 0.0, record=False)
    brought = Brought(model, model.signature, model.thread_safe, None)
    return kind(spec, brought, account, number=1, loaded_at=0.0, load_s=0.0)


class AddsOne(LoadedModel):
    """A number that errors add to and answers set back: an old one may be written over a new one."""

    count = 0

    def predict(self, inputs: Mapping[str, Any], **how: Any) -> Mapping[str, Any]:
        outputs = super().predict(inputs, **how)
        self.count = 0
        return outputs

    def _lengthen(self, row: deque[int], error: Exception) -> None:
        self.count += 1
        if self.count == row.maxlen:
            self._crash(FatalModelError("so many"))


class SetsAMark(LoadedModel):
    """Each answer marks how many errors came before it: an old mark may be written over a new one."""

    mark = 0

    def predict(self, inputs: Mapping[str, Any], **how: Any) -> Mapping[str, Any]:
        outputs = super().predict(inputs, **how)
        errors = peek(self.errors)
        self.mark = errors
        return outputs

    def _lengthen(self, row: deque[int], error: Exception) -> None:
        if peek(self.errors) - self.mark >= (row.maxlen or 0):
            self._crash(FatalModelError("so many"))


def due(most: int, history: list[tuple[str, str]]) -> bool:
    """Return whether so many errors may have come in a row: none surely before an answer that another came after.

    The history lists the beginning and the end of each call, by its name; calls that overlap may be taken either way.
    """
    at = {event: place for place, event in enumerate(history)}
    calls = [name for name, _ in history if (name, "ends") in at]
    errors = {name for name in calls if "b" in name}
    goods = {name for name in calls if "g" in name}

    def between(good: str, row: tuple[str, ...]) -> bool:
        before = any(at[error, "ends"] < at[good, "begins"] for error in row)
        return before and any(at[good, "ends"] < at[error, "begins"] for error in row)

    return any(not any(between(good, row) for good in goods) for row in combinations(errors, most))


def race(most: int, *threads: str, kind: type[LoadedModel] = LoadedModel) -> Make:
    """Make cases of threads that make calls, `b` ones that raise and `g` ones that do not, and of what is no crash."""

    def make(_pause: Pause) -> Case:
        model, told, history = loaded(most, kind), list[Exception](), list[tuple[str, str]]()
        model.on_fatal = told.append

        def calls(thread: int, what: str) -> Callable[[], None]:
            def program() -> None:
                for number, letter in enumerate(what):
                    name = f"{letter}{number} of {thread}"
                    history.append((name, "begins"))
                    with suppress(PredictFailed):
                        model.predict({"bad": 1} if letter == "b" else {})
                    history.append((name, "ends"))

            return program

        def check() -> list[str]:
            return [f"a crash out of nothing: {history}"] if told and not due(most, history) else []

        return Case([calls(*thread) for thread in enumerate(threads)], check)

    return make


RACES = {
    "an answer of one thread": (3, "b", "b", "gb"),
    "an answer between two errors": (3, "bgb", "b"),
    "two answers": (3, "bb", "bg", "g"),
}


@pytest.fixture(scope="module")
def explorer() -> Iterator[Explorer]:
    """Threads that switch wherever a count of errors or answers is looked at, or moved."""
    with Explorer(LoadedModel.predict, LoadedModel._lengthen, AddsOne, SetsAMark) as explorer:
        yield explorer


@pytest.mark.parametrize(("preemptions", "least"), [(1, 20), pytest.param(2, 500, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", RACES)
def test_no_race_makes_a_row_of_what_is_none(explorer: Explorer, name: str, preemptions: int, least: int) -> None:
    """Under every schedule of the byte code: threads that overtake each other cause no crash."""
    most, *threads = RACES[name]
    assert explorer.explore(race(most, *threads), preemptions=preemptions) > least


@pytest.mark.parametrize(
    ("kind", "name"),
    [pytest.param(AddsOne, "an answer of one thread", marks=pytest.mark.slow), (SetsAMark, "two answers")],
)
def test_counts_that_are_set_back_are_found(explorer: Explorer, kind: type[LoadedModel], name: str) -> None:
    """What does not hold is seen: a count that answers set back makes crashes out of nothing."""
    most, *threads = RACES[name]
    with pytest.raises(Violation, match="a crash out of nothing"):
        explorer.explore(race(most, *threads, kind=kind), preemptions=2)


def test_a_row_that_goes_on_is_one_crash() -> None:
    """Who holds a model on that has crashed may go on failing: nobody is told again."""
    model, told = loaded(3, LoadedModel), list[Exception]()
    model.on_fatal = told.append
    for _ in range(10):
        with pytest.raises(PredictFailed):
            model.predict({"bad": 1})
    assert [str(error) for error in told] == ["3 errors in a row, the last: Broken: m/1 cannot answer that"]
