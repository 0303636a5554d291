"""The engine's references by name: take, give back, count and wait for zero, for code that has no block to tie them to.

It owns nothing: the accounts belong to the loaded models. Any thread may call it, but for `wait_for_zero`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import trio

from changeover.core.checks import seconds, text
from changeover.core.ledger import Account
from changeover.core.snapshots import Holder
from changeover.core.values import VersionKey
from changeover.errors import DrainTimeout, ReferenceNotHeld
from changeover.runtime.host import Host
from changeover.runtime.ports import Ports
from changeover.runtime.router import Router


class ReferenceTracker:
    """References under the caller's own request ids."""

    def __init__(self, router: Router, host: Host, ports: Ports, where: Callable[[], str | None]) -> None:
        """Pin through `router`; `where` names the caller's line in debug mode."""
        self._router = router
        self._host = host
        self._ports = ports
        self._where = where

    def acquire(self, model: str, version: str, request_id: str) -> None:
        """Hold the version under `request_id`; raises `AlreadyHeld`, `VersionNotLoaded` and `ModelNotRegistered`."""
        text("request_id", request_id)
        self._router.pin(("request", self._ports.clock.now(), request_id, self._where()), model, version)

    def release(self, model: str, version: str, request_id: str) -> None:
        """Give it back; raises `ReferenceNotHeld`, and changes nothing, where it is not held."""
        text("request_id", request_id)
        accounts = self._accounts(model, version)
        for account in accounts:
            if request_id in account.held:
                account.release(request_id)
                return
        if accounts:
            accounts[-1].release(request_id)  # counts the mistake and raises
        raise ReferenceNotHeld(f"{model}/{version} is not loaded, so {request_id!r} does not hold it", model=model)

    def count(self, model: str, version: str) -> int:
        """Return how many references of any kind are held on the version."""
        return sum(len(account.held) for account in self._accounts(model, version))

    def has_references(self, model: str, version: str) -> bool:
        """Return whether any reference is held on the version."""
        return self.count(model, version) > 0

    def counts(self) -> dict[tuple[str, str], int]:
        """Return the count of every version that is loaded."""
        counts: dict[tuple[str, str], int] = {}
        for loaded in self._host.living():
            counts[loaded.key] = counts.get(loaded.key, 0) + len(loaded.account.held)
        return counts

    def holders(self, model: str, version: str) -> tuple[Holder, ...]:
        """Return who holds the version, oldest first."""
        now = self._ports.clock.now()
        return tuple(holder for account in self._accounts(model, version) for holder in account.holders(now))

    async def wait_for_zero(self, model: str, version: str, timeout_s: float) -> None:
        """Return once nobody holds the version; cancelled, it leaves nothing behind.

        Raises `DrainTimeout`, which names the holders, after `timeout_s`.
        """
        seconds("timeout_s", timeout_s)
        await trio.lowlevel.checkpoint()
        with trio.move_on_after(timeout_s) as scope:
            for account in self._accounts(model, version):
                await self._zero(account)
        if scope.cancelled_caught:
            self._check_empty(model, version, timeout_s)

    def wait_for_zero_blocking(self, model: str, version: str, timeout_s: float) -> None:
        """Return once nobody holds the version; blocks its thread, so it is not for loops.

        Raises `DrainTimeout`, which names the holders, after `timeout_s`.
        """
        seconds("timeout_s", timeout_s)
        until_s = self._ports.clock.now() + timeout_s
        for account in self._accounts(model, version):
            empty = threading.Event()
            account.watch(empty.set)
            try:
                in_time = empty.wait(min(threading.TIMEOUT_MAX, max(0.0, until_s - self._ports.clock.now())))
            finally:
                account.unwatch(empty.set)
            if not in_time:
                self._check_empty(model, version, timeout_s)

    def _check_empty(self, model: str, version: str, timeout_s: float) -> None:
        if holders := self.holders(model, version):
            names = "; ".join(map(str, holders))
            raise DrainTimeout(
                f"{model}/{version} is still held after {timeout_s:g} s by {names}",
                holders=holders, model=model, version=version,
            )  # fmt: skip

    async def _zero(self, account: Account) -> None:
        """Wait for one account's next zero, woken by whoever makes it."""
        event = trio.Event()

        def wake() -> None:
            self._ports.wake.soon(event.set)

        account.watch(wake)
        try:
            await event.wait()
        finally:
            account.unwatch(wake)

    def _accounts(self, model: str, version: str) -> list[Account]:
        key = VersionKey(model, version)
        return [loaded.account for loaded in self._host.living() if loaded.key == key]
