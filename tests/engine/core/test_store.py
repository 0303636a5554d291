"""The sum of all reservations never exceeds the budget, and only what is idle and was not used for long has to go.

Owns no state.
"""

from __future__ import annotations

import attrs
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from changeover.core.store import Store

KEYS = st.sampled_from("abcdef")
SIZES = st.sampled_from([-1, 0, 1, 20, 40, 50]) | st.integers(-2, 60)


@attrs.define
class Held:
    """What the model knows of one reservation."""

    size: int
    pinned: bool


class Shelf(RuleBasedStateMachine):
    """A store beside a dict in the order of the reservations."""

    @initialize(budget=st.none() | st.integers(0, 100))
    def begin(self, budget: int | None) -> None:
        """Begin empty."""
        self.store: Store[str] = Store(budget)
        self.held: dict[str, Held] = {}

    @property
    def total(self) -> int:
        """The sum of what the model holds."""
        return sum(entry.size for entry in self.held.values())

    def fits(self, more: int) -> bool:
        """Return whether so many more bytes keep to the budget."""
        return self.store.budget_bytes is None or self.total + more <= self.store.budget_bytes

    @rule(key=KEYS, wanted=SIZES, pinned=st.booleans())
    def reserve(self, key: str, wanted: int, pinned: bool) -> None:
        """Reserve; refused for a key that is there, for what does not fit, and for less than nothing."""
        expected = key not in self.held and wanted >= 0 and self.fits(wanted)
        assert self.store.reserve(key, wanted, pinned=pinned) is expected
        if expected:
            self.held[key] = Held(wanted, pinned)

    @precondition(lambda self: self.held)
    @rule(data=st.data(), measured=SIZES)
    def correct(self, data: st.DataObject, measured: int) -> None:
        """Correct a reservation; refused where it does not fit, and no use."""
        key = data.draw(st.sampled_from(list(self.held)))
        expected = measured >= 0 and self.fits(measured - self.held[key].size)
        assert self.store.correct(key, measured) is expected
        if expected:
            self.held[key].size = measured

    @rule(key=KEYS)
    def free(self, key: str) -> None:
        """Free what is there, or nothing."""
        gone = self.held.pop(key, Held(0, pinned=False))
        assert self.store.free(key) == gone.size

    @rule(key=KEYS)
    def use_what_is_not_there(self, key: str) -> None:
        """Correcting an unknown key raises, and it has no bytes."""
        if key not in self.held:
            assert self.store.bytes_of(key) == 0
            with pytest.raises(KeyError):
                self.store.correct(key, 0)

    @rule(wanted=st.integers(0, 120), ages=st.dictionaries(KEYS, st.floats(0, 9)), leaving=st.sets(KEYS))
    def victims(self, wanted: int, ages: dict[str, float], leaving: set[str]) -> None:
        """Ask who would have to go: the shortest run of the oldest ones that may, beside those that go already."""
        coming = sum(entry.size for key, entry in self.held.items() if key in leaving)
        idle = [k for k, it in self.held.items() if k in ages and k not in leaving and not it.pinned and it.size > 0]
        may_go = sorted(idle, key=ages.__getitem__)
        runs = [tuple(may_go[:length]) for length in range(len(may_go) + 1)]
        enough = [run for run in runs if self.fits(wanted - coming - sum(self.held[key].size for key in run))]
        found = self.store.victims(wanted, last_used=ages.get, is_leaving=leaving.__contains__)
        assert found == (enough[0] if enough else None)

    @invariant()
    def the_sum_is_right_and_within_the_budget(self) -> None:
        """The store's sum is the sum of the reservations, and never above the budget."""
        assert self.store.reserved_bytes == self.total
        assert self.store.room_for(0)
        assert self.store.budget_bytes is None or self.total <= self.store.budget_bytes
        assert {key for key in "abcdef" if key in self.store} == self.held.keys()


Shelf.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


class TestShelf(Shelf.TestCase):
    """Whatever is done to it, a store keeps to its budget and to its order."""


def filled(*sizes: int, budget: int = 100) -> Store[int]:
    """Make a store with keys 0, 1, ... of the given sizes, oldest first."""
    store: Store[int] = Store(budget)
    for key, size in enumerate(sizes):
        assert store.reserve(key, size)
    return store


def victims(store: Store[int], wanted: int, last_used: dict[int, float] | None = None, *leaving: int) -> object:
    """Ask who would have to go; without `last_used` all are idle, and the order of their reservation is their age."""
    ages = dict.fromkeys(range(9), 0.0) if last_used is None else last_used
    return store.victims(wanted, last_used=ages.get, is_leaving=leaving.__contains__)


def test_the_least_recently_used_goes_first() -> None:
    """Of the idle ones the one whose last use is longest ago goes, and of equals the one that was reserved first."""
    store = filled(30, 30, 30)
    assert victims(store, 40) == (0,)
    assert victims(store, 40, {0: 3.0, 1: 2.0, 2: 5.0}) == (1,)


def test_no_more_go_than_must() -> None:
    """Victims end with the one that makes enough room; where there is room already nobody goes."""
    store = filled(30, 30, 30)
    assert victims(store, 10) == ()
    assert victims(store, 60) == (0, 1)
    assert victims(store, 100) == (0, 1, 2)


def test_who_is_busy_or_pinned_stays() -> None:
    """Neither a key in use nor a pinned one goes; where the others do not suffice there are no victims at all."""
    store = filled(30, 30)
    assert store.reserve(2, 30, pinned=True)
    assert victims(store, 40, {1: 0.0, 2: 0.0}) == (1,)
    assert victims(store, 70) == (0, 1)
    assert victims(store, 71) is None
    assert victims(store, 101) is None


def test_who_is_on_the_way_out_is_waited_for() -> None:
    """Bytes that are on their way back are room to come: nobody else goes for them, and none goes twice."""
    store = filled(30, 30, 30)
    assert victims(store, 40, None, 0) == ()
    assert victims(store, 60, None, 0) == (1,)
    assert victims(store, 60, {}, 0) is None
    assert store.reserve(3, 10, pinned=True)
    assert victims(store, 10, {}, 3) == ()


def test_who_has_nothing_need_not_go() -> None:
    """A reservation of no bytes makes no room, so it stays, however old it is."""
    store = filled(0, 60, 0, 40)
    assert victims(store, 70) == (1, 3)


def test_asking_for_victims_changes_nothing() -> None:
    """Who would go is still there afterwards."""
    store = filled(50, 50)
    assert victims(store, 100) == (0, 1)
    assert store.reserved_bytes == 100
    assert 0 in store
    assert 1 in store


def test_a_correction_beyond_the_budget_changes_nothing() -> None:
    """A model that turns out too large keeps its old reservation, so that it can be closed and freed."""
    store = filled(40, 40)
    assert not store.correct(0, 61)
    assert store.reserved_bytes == 80
    assert store.correct(0, 60)
    assert store.free(0) == 60
    assert store.reserved_bytes == 40


def test_without_a_budget_everything_fits() -> None:
    """A store without a budget only counts."""
    store: Store[str] = Store()
    assert store.reserve("a", 10**15)
    assert store.reserve("b", 10**15)
    assert store.victims(10**18, last_used=lambda _key: None, is_leaving=lambda _key: False) == ()
    assert store.reserved_bytes == 2 * 10**15
