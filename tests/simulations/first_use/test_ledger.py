"""The account of a loaded model under every order of its holders, its drain and those who wait for zero.

One call of the account is one step, as `core/ledger` promises; what is explored is every order of such steps. (The
byte code inside of a call has tests of its own: `tests/engine/core/test_ledger_interleavings.py`.)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
import trio

from changeover.core.ledger import Account, RecordingAccount
from changeover.core.messages import RefId, fold
from changeover.errors import AlreadyHeld, ReferenceNotHeld
from changeover_sim import PCT, Exhaustive, RandomWalk, cancel_anywhere, choose
from tests.simulations.first_use.stage import assert_explored

checkpoint = trio.lowlevel.checkpoint


@attrs.define(eq=False)
class Used:
    """A model and its account; a use of the model is between `acquire` and `release`."""

    account: Account = attrs.field(factory=RecordingAccount)
    in_use: int = 0
    closed: bool = False
    refused: int = 0
    log: list[str] = attrs.field(factory=list)

    async def use(self, name: str | None = None) -> None:
        """Hold the model for a moment, if it can be had; nobody closes it meanwhile."""
        ref = self.account.acquire(("request", 0.0, name, None))
        if ref is None:
            self.refused += 1
            return
        self.in_use += 1
        assert not self.closed, "taken after it was closed"
        await checkpoint()
        assert not self.closed, "closed while it was held"
        self.in_use -= 1
        self.account.release(ref)

    def close(self) -> None:
        """Close the model, once, and while nobody uses it."""
        assert not self.closed, "closed twice"
        assert self.in_use == 0, "closed while it was held"
        self.closed = True

    def assert_even(self) -> None:
        """The balance is the fold of the messages, nothing is held, and nobody watches any more."""
        assert isinstance(self.account, RecordingAccount)
        balance = self.account.balance()
        assert fold(self.account.log) == (balance, {})
        assert (balance.conserved, balance.held) == (True, 0)
        assert self.account._watchers == []


async def _at_once(*tasks: Callable[[], Any]) -> None:
    async with trio.open_nursery() as nursery:
        for task in tasks:
            nursery.start_soon(task)


# --- drains ---------------------------------------------------------------------------------------------------------


async def drain_against_holders() -> None:
    """Shut the gate and close at zero, beside two who hold."""
    used = Used()

    async def drain() -> None:
        await checkpoint()
        used.account.shut()
        await checkpoint()
        used.account.watch(used.close)

    await _at_once(used.use, used.use, drain)
    assert used.closed, "the last holder left and nobody was told"
    assert used.account.acquire(("late", 0.0, None, None)) is None
    used.assert_even()


def test_a_drain_closes_once_when_the_last_holder_has_left() -> None:
    """Under every order of two holders and a drain, the model is closed once, when nobody holds it, and never later."""
    assert_explored(drain_against_holders, policy=Exhaustive(delays=None), exhausted=True)


async def two_drains_share_one_zero() -> None:
    """Wait for zero twice, beside two who hold."""
    used = Used()
    told: list[int] = []

    async def wait(number: int) -> None:
        event = trio.Event()

        def zero() -> None:
            assert not used.account.held, "told of a zero that is none"
            event.set()

        used.account.watch(zero)
        await event.wait()
        told.append(number)

    async def drain() -> None:
        await checkpoint()
        used.account.shut()

    await _at_once(used.use, used.use, drain, lambda: wait(1), lambda: wait(2))
    assert sorted(told) == [1, 2]
    used.assert_even()


def test_everybody_who_waits_for_zero_is_told_once() -> None:
    """Two who wait for zero are both woken, whoever releases last and whenever they began to wait."""
    assert_explored(two_drains_share_one_zero, policy=RandomWalk(), schedules=1_000)
    assert_explored(two_drains_share_one_zero, policy=Exhaustive(delays=2), exhausted=True)


async def drain_with_a_deadline() -> None:
    """Wait for zero up to a deadline, beside three who hold for a while; open again behind it."""
    used = Used()
    given_back = False

    async def drain() -> None:
        nonlocal given_back
        zero = trio.Event()
        used.account.shut()
        used.account.watch(zero.set)
        with trio.move_on_after(1.0) as scope:
            await zero.wait()
        if scope.cancelled_caught:
            used.account.unwatch(zero.set)
            used.account.reopen()
            given_back = True
        else:
            used.close()

    async def hold() -> None:
        ref = used.account.acquire(("lease", 0.0, None, None))
        if ref is not None:
            used.in_use += 1
            await trio.sleep(choose([0.0, 1.0, 2.0]))
            used.in_use -= 1
            used.account.release(ref)

    await _at_once(hold, hold, drain, used.use)
    assert used.closed != given_back
    assert (used.account.acquire(("late", 0.0, "late", None)) is not None) == given_back
    if given_back:
        used.account.release("late")
    used.assert_even()


def test_a_drain_ends_with_zero_or_with_its_deadline_never_with_both() -> None:
    """At the deadline the gate is opened again and the waiter forgotten, or the model is closed; never both."""
    assert_explored(drain_with_a_deadline, policy=Exhaustive(delays=None), schedules=2_000, exhausted=True)
    assert_explored(drain_with_a_deadline, policy=RandomWalk(), schedules=600, timeouts="any-time")


async def a_waiter_goes_away() -> None:
    """Wait for zero twice, and cancel one of them at any moment."""
    used = Used()
    woken: list[str] = []

    async def wait(name: str, scope: trio.CancelScope) -> None:
        event = trio.Event()
        with scope:
            if name == "leaves":
                cancel_anywhere(scope)
            used.account.watch(event.set)
            try:
                await event.wait()
                woken.append(name)
            finally:
                used.account.unwatch(event.set)
                assert event.set not in used.account._watchers

    scopes = trio.CancelScope(), trio.CancelScope()
    await _at_once(used.use, lambda: wait("leaves", scopes[0]), lambda: wait("stays", scopes[1]), used.use)
    assert "stays" in woken
    used.assert_even()


def test_a_waiter_who_goes_away_takes_nobody_s_wake_up_with_him() -> None:
    """One who waits for zero is cancelled at any moment; the other one is woken, and no watcher is left."""
    assert_explored(a_waiter_goes_away, policy=Exhaustive(delays=2), exhausted=True)
    assert_explored(a_waiter_goes_away, policy=PCT(depth=3), schedules=500)


# --- names and mistakes ---------------------------------------------------------------------------------------------


async def two_with_one_name() -> None:
    """Hold twice under one request id."""
    used = Used()
    ends: list[str] = []

    async def use() -> None:
        try:
            await used.use("r-1")
            ends.append("used")
        except AlreadyHeld:
            ends.append("refused")

    await _at_once(use, use)
    assert "used" in ends
    assert used.account.balance().acquired == ends.count("used")
    used.assert_even()


def test_a_request_id_holds_once_at_a_time() -> None:
    """Of two who hold under one id at the same time one is refused, and neither releases the other's reference."""
    assert_explored(two_with_one_name, policy=Exhaustive(delays=None), exhausted=True)


async def released_by_two() -> None:
    """Release one reference twice, beside another that holds the drain up."""
    used = Used()
    ref = used.account.acquire(("lease", 0.0, None, None))
    other = used.account.acquire(("lease", 0.0, None, None))
    closed: list[int] = []
    raised: list[RefId | None] = []
    used.account.shut()
    used.account.watch(lambda: closed.append(1))

    async def release(it: RefId | None) -> None:
        await checkpoint()
        try:
            used.account.release(it)
        except ReferenceNotHeld:
            raised.append(it)
        assert bool(closed) == (not used.account.held)

    await _at_once(lambda: release(ref), lambda: release(ref), lambda: release(other))
    assert (raised, closed) == ([ref], [1])
    assert used.account.balance().over_releases == 1


def test_a_second_release_is_refused_and_moves_no_drain() -> None:
    """Two release the same reference: one of them is refused, and the drain ends with the other holder's release."""
    assert_explored(released_by_two, policy=Exhaustive(delays=None), exhausted=True)
