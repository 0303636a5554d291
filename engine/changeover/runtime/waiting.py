"""Waits for zero references, on Trio, on asyncio or in a thread: each is woken once, by whoever makes the zero.

`Waits` owns who waits just now; a wait that ends, or is cancelled, is forgotten, by the accounts too. Spawns nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Container, Sequence
from contextlib import suppress
from functools import partial

import trio

from changeover.core.ledger import Account
from changeover.errors import WrongLoop
from changeover.runtime.stay import OnTrio, World

Key = tuple[str, str]


class Wait:
    """One wait for the accounts of one version."""

    __slots__ = ("accounts", "in_time", "is_gone", "key", "ring")

    def __init__(self, key: Key, accounts: Sequence[Account]) -> None:
        """Wait for nothing yet."""
        self.key = key
        self.accounts = accounts
        self.is_gone = False
        """True where nobody will keep the count any more."""
        self.in_time = False
        """True where it did not run out of time."""
        self.ring: Callable[[], None] = _nobody
        """Wakes whoever waits; any thread."""


class Waits:
    """Everybody who waits for a version of one tracker; any thread may join, each in its own world."""

    def __init__(self, on_trio: World | None = None) -> None:
        """Wait on Trio as `on_trio` does."""
        self._on_trio = on_trio or OnTrio()
        self._waiting: set[Wait] = set()
        self._is_over = False

    async def zero(self, key: Key, accounts: Sequence[Account], timeout_s: float) -> Wait:
        """Return once each account was empty, time is up or all is over; cancelled, it leaves nothing behind."""
        world, wait = self._here(), self._join(key, accounts)
        try:
            await world.within(timeout_s, partial(self._each, world, wait))
        finally:
            self._waiting.discard(wait)
        return wait

    def zero_blocking(self, key: Key, accounts: Sequence[Account], timeout_s: float, now: Callable[[], float]) -> Wait:
        """Do as `zero`, and block the thread."""
        until_s, wait = now() + timeout_s, self._join(key, accounts)
        try:
            wait.in_time = all(_empty(wait, account, until_s, now) for account in accounts)
        finally:
            self._waiting.discard(wait)
        return wait

    def give_up(self, accounts: Container[Account] | None = None) -> None:
        """Wake everybody who waits, or who waits for one of these accounts, which nobody keeps any more; any thread."""
        if accounts is None:
            self._is_over = True  # announced, then looked: who joins meanwhile sees it, or is seen
        for wait in self._waiting.copy():
            if accounts is None or any(account in accounts for account in wait.accounts):
                wait.is_gone = True
                wait.ring()

    # --- inside ---

    def _join(self, key: Key, accounts: Sequence[Account]) -> Wait:
        wait = Wait(key, accounts)
        self._waiting.add(wait)
        if self._is_over:  # and never write False: somebody may have given it up since
            wait.is_gone = True
        return wait

    async def _each(self, world: World, wait: Wait) -> None:
        for account in wait.accounts:
            bell = world.bell()
            wait.ring = bell.ring_soon
            account.watch(bell.ring_soon)
            try:
                if not wait.is_gone:
                    await bell.rung()
            finally:
                account.unwatch(bell.ring_soon)
        wait.in_time = True

    def _here(self) -> World:
        """Return the world that this is awaited in."""
        if trio.lowlevel.in_trio_task():
            return self._on_trio
        from changeover.runtime.aio_stay import OnAsyncio, running_loop  # noqa: PLC0415 - most need no asyncio

        try:
            running_loop()
        except WrongLoop:
            text = "wait_for_zero is awaited on Trio or asyncio; a plain thread calls wait_for_zero_blocking"
            raise WrongLoop(text) from None
        return OnAsyncio()


def _empty(wait: Wait, account: Account, until_s: float, now: Callable[[], float]) -> bool:
    """Block until the account was empty; False where that took too long."""
    gate = threading.Lock()  # one that is held wakes whoever waits with fewer hand-overs than an Event
    gate.acquire()

    def ring() -> None:
        with suppress(RuntimeError):  # it has rung
            gate.release()

    wait.ring = ring
    account.watch(ring)
    try:
        return wait.is_gone or gate.acquire(timeout=min(threading.TIMEOUT_MAX, max(0.0, until_s - now())))
    finally:
        account.unwatch(ring)


def _nobody() -> None:
    """Wake nobody: the wait has not begun."""
