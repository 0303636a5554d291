"""No state that requests, leases, a drain, an unload and an eviction can reach together is wrong; all are visited.

The model is drain_model.py, the search statespace.py: real `Router`, `Account` and life table, no bound on preemptions.
What is looked at in each state, also in the middle of an acquire, is `World.faults`. Planted mistakes can make it fail.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from changeover.core.ledger import Account, RefId
from changeover.core.lifecycle import Action, Event
from tests.engine.core.broken_accounts import (
    CallsBeforeItTakesOut,
    LooksBeforeItAnnounces,
    LooksBeforeItDeletes,
    LooksBeforeItWatches,
)
from tests.engine.core.drain_model import (
    RACES,
    RACES_OF_THREE,
    Program,
    World,
    leave_first,
    leave_second,
    walker,
    world,
)
from tests.engine.core.interleave import Violation
from tests.engine.core.statespace import Make, Walker

LEAST = 300
"""So many states have the smallest of the races at least, or the search has seen next to nothing."""


@pytest.fixture(scope="module")
def walks() -> Iterator[Walker]:
    """Threads that walk through the real classes."""
    with walker() as walks:
        yield walks


def look_everywhere(walks: Walker, make: Make, least: int, record: Callable[[str, object], None]) -> None:
    """Visit every state; leave how many there were in the test's report."""
    found = walks.walk(make)
    for name in ("states", "transitions", "depth", "ends"):
        record(name, getattr(found, name))
    assert found.states > least, found
    assert found.ends > 0, found


LONG = frozenset({"a request, a swap", "a request by name, a swap", "an acquire, a release, a drain"})
"""These races take many seconds each."""


@pytest.mark.parametrize(
    "race", [pytest.param(race, marks=[pytest.mark.slow] if race in LONG else []) for race in RACES]
)
def test_every_state_of_a_drain_is_sound(
    walks: Walker, race: str, record_property: Callable[[str, object], None]
) -> None:
    """In no state is anything used that is closed, or closed twice, or lost in the books; and nobody waits for ever."""
    look_everywhere(walks, RACES[race], LEAST, record_property)


@pytest.mark.slow
@pytest.mark.parametrize("race", RACES_OF_THREE)
def test_every_state_of_a_drain_of_what_two_use_is_sound(
    walks: Walker, race: str, record_property: Callable[[str, object], None]
) -> None:
    """The same while two threads request, acquire and release."""
    look_everywhere(walks, RACES_OF_THREE[race], 10 * LEAST, record_property)


# --- planted mistakes -----------------------------------------------------------------------------------------------


class ForgetsTheGate(Account):
    """A shut account goes on letting in."""

    def shut(self) -> None:
        """Do nothing."""


class LeavesRefusedBehind(Account):
    """A refused acquire stays in the account."""

    def _drop(self, ref: RefId) -> None:
        """Forget to take the announcement back."""


class CountsLate(Account):
    """Whoever is told of zero may find the books not balanced for good, because the release counts nothing."""

    def release(self, ref: RefId | None) -> None:
        del self.held[ref]  # type: ignore[arg-type]  # it is held
        if self._watchers and not self.held:
            self._call_watchers()


def watch_then_shut(it: World) -> None:
    """Drain, and begin to watch while the gate is open."""
    it.advance(Event.DRAIN, Action.SHUT)
    it.router.shut(it.old)
    it.watch()
    it.shut()
    it.end_drain()


def unload_at_once(it: World) -> None:
    """Shut the account, leave the version routed, and close it without waiting."""
    it.advance(Event.DRAIN, Action.SHUT)
    it.shut()
    it.close()


def close_at_once(it: World) -> None:
    """Drain, and close without waiting for zero."""
    it.begin_drain()
    it.close()


def close_twice(it: World) -> None:
    """Drain, and close once more because of a second news of zero."""
    it.drain()
    it.old.closed += 1
    it.walker.pause()


def end_twice(it: World) -> None:
    """Drain, and take a second news of zero for one that counts."""
    it.drain()
    it.close()


IN_THE_ACCOUNT: tuple[tuple[type[Account], tuple[Program, ...], int, str], ...] = (
    (LooksBeforeItAnnounces, (World.acquire, World.drain), 0, "closed while .* used it|told of zero|was let in"),
    # This one takes most of a minute: it is the only one with three programs.
    (LooksBeforeItDeletes, (leave_first, leave_second, World.drain), 2, "wait for ever"),
    (LooksBeforeItWatches, (leave_first, World.drain), 1, "wait for ever"),
    (CallsBeforeItTakesOut, (leave_first, World.drain), 1, "told of zero once more than it was watched for"),
    (ForgetsTheGate, (World.acquire, World.drain), 0, "open after it was shut"),
    (LeavesRefusedBehind, (World.acquire, World.drain), 0, "was held, .* on the way"),
    (CountsLate, (leave_first, World.drain), 1, "more than held"),
)
"""A mistake, the programs that run into it, how many references are held before, and what it leads to."""


def evict_after_a_look(it: World) -> None:
    """Evict, and look whether somebody is there before the gate is shut."""
    it.advance(Event.EVICT, Action.PARK)
    is_held = bool(it.old.account.held)
    it.walker.pause()
    it.park()
    it.end_eviction(is_held)


def evict_without_a_look(it: World) -> None:
    """Evict whoever is there."""
    it.advance(Event.EVICT, Action.PARK)
    it.park()
    it.end_eviction(is_held=False)


def park_what_is_shut(it: World) -> None:
    """Evict, and shut the gate before the router knows."""
    it.advance(Event.EVICT, Action.PARK)
    it.shut()
    it.walker.pause()
    it.park()
    it.end_eviction(bool(it.old.account.held))


IN_THE_DRAIN: tuple[tuple[Program, str], ...] = (
    (watch_then_shut, "told of zero while the gate was open"),
    (unload_at_once, "routed to with its gate shut"),
    (close_at_once, "closed while .* used it"),
    (close_twice, "closed 2 times"),
    (end_twice, "raised IllegalEvent: ZERO in state UNLOADED"),
    (evict_after_a_look, "closed while .* used it"),
    (evict_without_a_look, "closed while .* used it"),
    (park_what_is_shut, "routed to with its gate shut"),
)


@pytest.mark.parametrize(
    ("kind", "programs", "held", "wrong"),
    [
        pytest.param(*row, id=row[0].__name__, marks=[pytest.mark.slow] if row[0] is LooksBeforeItDeletes else [])
        for row in IN_THE_ACCOUNT
    ],
)
def test_a_mistake_in_the_account_is_found(
    kind: type[Account], programs: tuple[Program, ...], held: int, wrong: str
) -> None:
    """A state is found in which this mistake shows, and the way there that is printed leads there again."""
    make = world(*programs, held=held, account=kind)
    with walker(kind) as walks:
        with pytest.raises(Violation, match=wrong) as found:
            walks.walk(make)
        with pytest.raises(Violation, match=wrong):
            walks.replay(make, found.value.schedule)


@pytest.mark.parametrize(("drain", "wrong"), IN_THE_DRAIN, ids=[drain.__name__ for drain, _ in IN_THE_DRAIN])
def test_a_mistake_in_the_drain_is_found(drain: Program, wrong: str) -> None:
    """A state is found in which a drain, or an eviction, that goes about it like this does harm."""
    with walker(beside=[drain]) as walks, pytest.raises(Violation, match=wrong):
        walks.walk(world(World.request, drain))
