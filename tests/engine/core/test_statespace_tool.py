"""The walker that test_statespace.py stands on visits every state once, merges none that differ, and sees who waits.

It is checked on graphs that can be counted by hand, and against the explorer that tries every schedule one by one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial

import pytest

from tests.engine.core.framestate import FrameMemory
from tests.engine.core.graph import Model
from tests.engine.core.interleave import Case, Explorer, Pause, Violation
from tests.engine.core.statespace import Make, Walker


class Till:
    """A number, and ways to raise it that keep what they read where Python does not show it."""

    def __init__(self) -> None:
        self.count = 0
        self.parts = [1]
        self.log: list[int] = []

    def pay(self) -> None:
        self.count = self.count + 1

    def pay_in_calls(self) -> None:
        self.count = self.read() + 1

    def read(self) -> int:
        return self.count

    def pay_in_loop(self) -> None:
        for part in self.parts.copy():
            self.count += part

    def pay_after_error(self) -> None:
        try:
            self.log.remove(self.count)
        except ValueError:
            self.count += 1

    def stumble(self) -> None:
        {}.popitem()

    def hide(self) -> None:
        setattr(self, "count", 7)  # noqa: B010 - a store that nobody can find in the byte code


class Steps:
    """Programs that only stop."""

    def __init__(self, walker: Walker) -> None:
        self.walker = walker
        self.flag = False

    def two(self) -> None:
        self.walker.pause()
        self.walker.pause()

    def also_two(self) -> None:
        self.walker.pause()
        self.walker.pause()

    def wait(self) -> None:
        self.walker.wait(lambda: self.flag)

    def raise_flag(self) -> None:
        self.walker.pause()
        self.flag = True


def steps(*names: str) -> Make:
    """Make programs that only stop."""

    def make(walker: Walker) -> Model:
        it = Steps(walker)
        return Model([getattr(it, name) for name in names], [it], lambda ended: [])

    return make


def payments(*names: str, ends: set[int]) -> Make:
    """Make threads pay into one till; collect what is in it at the end."""

    def make(walker: Walker) -> Model:
        till = Till()

        def wrong(ended: bool) -> Iterator[str]:
            if ended:
                ends.add(till.count)
            return iter(())

        return Model([getattr(till, name) for name in names], [till], wrong)

    return make


def schedules(*names: str) -> set[int]:
    """Return what is in the till after every schedule there is."""
    ends: set[int] = set()

    def make(pause: Pause) -> Case:
        till = Till()

        def check() -> Iterator[str]:
            ends.add(till.count)
            return iter(())

        return Case([getattr(till, name) for name in names], check)

    with Explorer(Till, threads=len(names)) as explorer:
        explorer.explore(make, preemptions=99)
    return ends


def test_a_grid_has_as_many_states_as_it_has() -> None:
    """Two different programs of three steps have 4 x 4 states, 2 x 3 x 4 transitions and one end, six steps away."""
    with Walker(beside=[Steps]) as walker:
        found = walker.walk(steps("two", "also_two"))
    assert (found.states, found.transitions, found.depth, found.ends) == (16, 24, 6, 1)


def test_threads_that_do_the_same_are_the_same() -> None:
    """Of n programs of three steps only it counts how many stand where, and not which."""
    with Walker(beside=[Steps]) as walker:
        assert walker.walk(steps("two", "two")).states == math.comb(5, 2)
        assert walker.walk(steps("two", "two", "two")).states == math.comb(6, 3)


@pytest.mark.parametrize("other", ["pay", "pay_in_calls", "pay_in_loop", "pay_after_error"])
def test_the_walker_finds_every_end_that_schedules_lead_to(other: str) -> None:
    """To merge states loses no end: what every schedule, one by one, leads to is found, and nothing else."""
    ends: set[int] = set()
    with Walker(Till, threads=2) as walker:
        walker.walk(payments("pay", other, ends=ends))
    assert ends == schedules("pay", other)
    assert ends >= {1, 2}


def test_without_the_notes_ends_are_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """The notes are what tells two states apart that differ in a value that only the evaluation stack has."""
    monkeypatch.setattr(FrameMemory, "_mix", lambda self, land, seen, forms: None)
    ends: set[int] = set()
    with Walker(Till, threads=2) as walker:
        walker.walk(payments("pay", "pay", ends=ends))
    assert len(ends) == 1


def test_who_waits_goes_on_when_it_may_and_not_before() -> None:
    """A thread that waits takes no step before its condition holds; one that waits for nothing is reported."""
    with Walker(beside=[Steps]) as walker:
        found = walker.walk(steps("wait", "raise_flag"))
        assert (found.states, found.ends) == (7, 1)
        with pytest.raises(Violation, match=r"threads \[0, 1\] wait for ever"):
            walker.walk(steps("wait", "wait"))


def test_the_nearest_violation_is_raised_and_can_be_replayed() -> None:
    """What is raised says which thread did how much, and the schedule in it leads there again."""

    def make(walker: Walker) -> Model:
        till = Till()
        return Model([till.pay, till.pay], [till], lambda ended: ["lost"] if ended and till.count == 1 else [])

    with Walker(Till) as walker:
        with pytest.raises(Violation, match=r"lost\n  thread .* steps, to before STORE_ATTR in Till\.pay") as found:
            walker.walk(make)
        with pytest.raises(Violation, match="lost"):
            walker.replay(make, found.value.schedule)


def test_what_leaves_a_program_is_a_violation() -> None:
    """An exception is reported with its thread, and the walker works on."""
    with Walker(Till) as walker:
        with pytest.raises(Violation, match="thread 0 raised KeyError"):
            walker.walk(lambda walker: Model([Till.stumble.__get__(till := Till())], [till], lambda ended: []))
        walker.walk(payments("pay", "pay", ends=set()))


def test_what_the_walker_cannot_tell_apart_is_refused() -> None:
    """A value without a form, a caller that is not watched and a store that nobody can see raise; none passes."""

    def unwatched(till: Till) -> None:
        till.pay()

    def run(walker: Walker, program: Callable[[Till], object]) -> None:
        till = Till()
        walker.walk(lambda walker: Model([partial(program, till)], [till], lambda ended: []))

    with Walker(Till.pay) as walker:
        with pytest.raises(TypeError, match="object has no form"):
            walker.walk(lambda walker: Model([partial(unwatched, object())], [], lambda ended: []))
        with pytest.raises(AssertionError, match="unwatched remembers what nobody looks at"):
            run(walker, unwatched)
    with Walker(Till.hide) as walker, pytest.raises(AssertionError, match="count was bound again, by code"):
        run(walker, Till.hide)


def test_code_that_is_promised_to_one_thread_is_held_to_it() -> None:
    """Two threads that run what one was said to run alone, or change what it looks at, are found out."""

    def make(*names: str) -> Make:
        def make(walker: Walker) -> Model:
            till = Till()
            return Model([getattr(till, name) for name in names], [till], lambda ended: [], solo=[till])

        return make

    with Walker(Till, solo=[Till.pay_in_loop]) as walker:
        walker.walk(make("pay_in_loop", "read"))
        with pytest.raises(AssertionError, match=r"two threads run Till\.pay_in_loop"):
            walker.walk(make("pay_in_loop", "pay_in_loop"))
        with pytest.raises(AssertionError, match="another thread changed"):
            walker.walk(make("pay_in_loop", "pay"))
