"""The account keeps its promises under every interleaving of its byte code with a bounded number of preemptions.

This runs the real `Account`. The model: a byte code instruction is one step, and so is a call into C that runs no
Python code (`next` on a count, what a dict or a deque does with numbers, texts and functions), because both happen
under the interpreter's lock. Planted mistakes at the end show that the check can fail.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial

import attrs
import pytest

from changeover.core.ledger import Account, Use
from changeover.core.messages import RefId
from changeover.core.snapshots import Balance
from changeover.errors import AlreadyHeld, ReferenceNotHeld
from tests.engine.core.broken_accounts import (
    CallsBeforeItTakesOut,
    LooksBeforeItAnnounces,
    LooksBeforeItDeletes,
    LooksBeforeItWatches,
)
from tests.engine.core.interleave import Case, Explorer, Make, Pause, Violation


class World:
    """An account, the thing that it keeps alive, and whoever uses, drains and closes that thing."""

    def __init__(self, pause: Pause, account: Account) -> None:
        self.pause = pause
        self.account = account
        self.using: list[RefId] = []
        self.closed = 0
        self.drained = 0
        self.wrong: list[str] = []

    def take(self, name: str | None = None) -> RefId | None:
        """Acquire, and note that the thing may be used from now on."""
        ref = self.account.acquire(("request", 0.0, name, None))
        if ref is not None:
            if self.closed:
                self.wrong.append(f"{ref!r} was acquired after the close")
            if ref in self.using:
                self.wrong.append(f"{ref!r} is held twice")
            self.using.append(ref)
        return ref

    def give_back(self, ref: RefId) -> None:
        """Release; from here on the thing must not be used."""
        self.using.remove(ref)
        self.account.release(ref)

    def use(self, name: str | None = None) -> None:
        """Acquire, use, release."""
        ref = self.take(name)
        if ref is not None:
            self.pause()
            self.give_back(ref)

    def drain(self) -> None:
        """Do as a version does: no new references, then close at zero."""
        self.account.shut()
        self.watch()

    def watch(self) -> None:
        """Watch for zero, once more."""
        self.drained += 1
        self.account.watch(self.close)

    def close(self) -> None:
        """Be the watcher."""
        self.closed += 1
        if self.using:
            self.wrong.append(f"closed while {self.using} used it")
        if self.account.open:
            self.wrong.append("closed with the gate open")

    def check(self) -> Iterator[str]:
        """Yield what is wrong at rest."""
        yield from self.wrong
        if self.closed != self.drained:
            yield f"{self.closed} of {self.drained} watchers were called"
        if self.account._watchers:
            yield "a watcher is left behind"
        balance = self.account.balance()
        if not balance.conserved or balance.held or self.account.held:
            yield f"at rest {balance} with {self.account.held}"


def world(
    *programs: Callable[[World], None], held: int = 0, is_open: bool = True, kind: type[Account] = Account
) -> Make:
    """Make cases: references 0, 1, ... are held before, and every program runs in a thread of its own."""

    def make(pause: Pause) -> Case:
        it = World(pause, kind())
        for _ in range(held):
            it.take()
        it.account.open = is_open
        return Case([partial(program, it) for program in programs], it.check)

    return make


def release(ref: RefId) -> Callable[[World], None]:
    """Make a program that gives back what was held before."""
    return lambda it: it.give_back(ref)


def use_named(it: World) -> None:
    """Use the thing under the one request id, or find it taken."""
    with suppress(AlreadyHeld):
        it.use("id")


PROGRAMS: dict[str, Make] = {
    "a use against a drain": world(World.use, World.drain),
    "a named use against a drain": world(use_named, World.drain),
    "two releases against a drain": world(release(0), release(1), World.drain, held=2),
    "a release and a use against a drain": world(release(0), World.use, World.drain, held=1),
    "two uses against a drain": world(World.use, World.use, World.drain),
    "two named uses against a drain": world(use_named, use_named, World.drain),
    "two releases, the drain began before": world(release(0), release(1), World.watch, held=2, is_open=False),
    "a refused use and a release, the drain began before": world(
        World.use, release(0), World.watch, held=1, is_open=False
    ),
    "two refused uses, the drain began before": world(World.use, World.use, World.watch, is_open=False),
    "two watchers and a release": world(World.drain, World.watch, release(0), held=1, is_open=False),
}
"""Every race that a drain can be in."""

OF_TWO = ("a use against a drain", "a named use against a drain")
"""Those of two threads, for which one more preemption is cheap."""

USE: Use = ("lease", 0.0, None, None)


@pytest.fixture(scope="module")
def explorer() -> Iterator[Explorer]:
    """Threads that switch wherever the account looks at, or changes, what others see."""
    with Explorer(Account) as explorer:
        yield explorer


@pytest.mark.parametrize(
    ("less", "least"), [pytest.param(1, 40, id="shallow"), pytest.param(0, 1_000, id="deep", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("name", PROGRAMS)
def test_a_drain_sees_every_use(explorer: Explorer, name: str, less: int, least: int) -> None:
    """Nothing is closed in use or acquired after the close; each watcher is called once; the balance adds up.

    The deep ones are slow. Without any bound test_statespace.py looks at every state of a use, of two releases, and of
    a release and a use against a drain.
    """
    explored = explorer.explore(PROGRAMS[name], preemptions=(3 if name in OF_TWO else 2) - less)
    assert explored > least, "the trace function saw next to nothing"


@pytest.mark.slow
@pytest.mark.parametrize("name", OF_TWO)
def test_a_drain_sees_every_use_at_every_instruction(name: str) -> None:
    """The same where threads also switch before instructions that only touch their own frame."""
    with Explorer(Account, every=True) as explorer:
        assert explorer.explore(PROGRAMS[name], preemptions=2) > 1_000


# --- one reference, two opinions ------------------------------------------------------------------------------------


def test_one_of_two_releases_of_the_same_reference_wins(explorer: Explorer) -> None:
    """Of two threads that release the same reference one is told that it is not held; it is counted, and no more."""

    def make(pause: Pause) -> Case:
        account = Account()
        ref = account.acquire(USE)
        refused: list[int] = []

        def release(me: int) -> None:
            try:
                account.release(ref)
            except ReferenceNotHeld:
                refused.append(me)

        def check() -> Iterator[str]:
            if len(refused) != 1 or account.balance() != Balance(1, 1, 0, over_releases=1):
                yield f"{refused} were refused, {account.balance()}"

        return Case([partial(release, 0), partial(release, 1)], check)

    assert explorer.explore(make, preemptions=3) > 100


@pytest.mark.parametrize("draining", [False, True])
def test_a_named_reference_is_released_once_even_while_it_is_being_taken(explorer: Explorer, draining: bool) -> None:
    """A release by request id that races the acquire ends it or is refused; afterwards the balance adds up."""

    def make(pause: Pause) -> Case:
        account = Account()
        told: list[str] = []

        def acquire() -> None:
            told.append("refused" if account.acquire(("request", 0.0, "id", None)) is None else "acquired")

        def release() -> None:
            try:
                account.release("id")
            except ReferenceNotHeld:
                told.append("not held")
            else:
                told.append("released")

        def check() -> Iterator[str]:
            held = ["id"] if set(told) == {"acquired", "not held"} else []
            if list(account.held) != held or not account.balance().conserved:
                yield f"{told}, then {account.held} is held and {account.balance()}"

        return Case([acquire, release, *([account.shut] if draining else [])], check)

    assert explorer.explore(make, preemptions=2) > 100


def test_a_drain_that_is_called_off_calls_its_watcher_at_most_once(explorer: Explorer) -> None:
    """Whoever calls a drain off leaves no watcher behind, and references can be taken again."""

    def make(pause: Pause) -> Case:
        account = Account()
        ref = account.acquire(USE)
        called: list[None] = []

        def watcher() -> None:
            called.append(None)

        def drain() -> None:
            account.shut()
            account.watch(watcher)
            account.unwatch(watcher)
            account.reopen()

        def check() -> Iterator[str]:
            if len(called) > 1 or account._watchers or account.acquire(USE) is None:
                yield f"called {len(called)} times, {len(account._watchers)} left, open: {account.open}"

        return Case([drain, partial(account.release, ref), partial(account.release, account.acquire(USE))], check)

    assert explorer.explore(make, preemptions=2) > 1_000


# --- planted mistakes -----------------------------------------------------------------------------------------------


class TellsBeforeItDeletes(Account):
    """Watchers hear of a zero that is not there yet, and a use may come in between."""

    def release(self, ref: RefId) -> None:
        if self._watchers and len(self.held) == 1:
            self._call_watchers()
        del self.held[ref]
        next(self._releases)


class DropsInSilence(Account):
    """A refused acquire may be the last one that a drain saw."""

    def _drop(self, ref: RefId) -> None:
        del self.held[ref]
        next(self._releases)


class LeavesRefusedBehind(Account):
    """A refused acquire stays in the account."""

    def _drop(self, ref: RefId) -> None:
        """Forget to take the announcement back."""


class ChecksThenClaims(Account):
    """Two threads may find the same request id free."""

    def acquire(self, use: Use) -> RefId | None:
        ref = use[2]
        assert ref is not None
        if ref in self.held:
            raise AlreadyHeld(ref)
        self.held[ref] = use
        next(self._acquires)
        if self.open:
            return ref
        self._drop(ref)
        return None


class CountsInTwoSteps(Account):
    """Two threads may count to the same number."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def release(self, ref: RefId) -> None:
        self.count += 1
        super().release(ref)

    def _read(self) -> Balance:
        return attrs.evolve(super()._read(), released=self.count)


PLANTED: tuple[tuple[type[Account], Sequence[Callable[[World], None]], int], ...] = (
    (LooksBeforeItAnnounces, (World.use, World.drain), 0),
    (LooksBeforeItWatches, (release(0), World.drain), 1),
    (LooksBeforeItDeletes, (release(0), release(1), World.drain), 2),
    (TellsBeforeItDeletes, (release(0), World.use, World.drain), 1),
    (DropsInSilence, (World.use, World.drain), 0),
    (LeavesRefusedBehind, (World.use, World.drain), 0),
    (CallsBeforeItTakesOut, (release(0), World.use, World.drain), 1),
    (ChecksThenClaims, (use_named, use_named), 0),
    (CountsInTwoSteps, (release(0), release(1)), 2),
)
"""A mistake, the programs that run into it, and how many references are held before."""


@pytest.mark.parametrize(("kind", "programs", "held"), PLANTED, ids=[kind.__name__ for kind, _, _ in PLANTED])
def test_a_planted_mistake_is_found(
    kind: type[Account], programs: Sequence[Callable[[World], None]], held: int
) -> None:
    """The check fails for this mistake, and the schedule that it prints fails again."""
    make = world(*programs, held=held, kind=kind)
    with Explorer(Account, kind) as explorer:
        with pytest.raises(Violation) as found:
            explorer.explore(make, preemptions=2)
        with pytest.raises(Violation):
            explorer.replay(make, found.value.schedule)


def test_a_drain_that_watches_before_it_shuts_is_found(explorer: Explorer) -> None:
    """The check fails where the gate is still open when the watching begins."""

    def drain(it: World) -> None:
        it.watch()
        it.account.shut()

    with pytest.raises(Violation, match="closed with the gate open"):
        explorer.explore(world(World.use, drain), preemptions=2)
