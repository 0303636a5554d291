"""References by name: take, give back, count and wait for zero, for code that has no block to tie them to.

A `ReferenceTracker` is an engine's, or stands alone and then owns its books. Any thread may call it; a wait belongs to
the loop, Trio's or asyncio's, or to the thread that it is called in. It spawns nothing.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import NoReturn, Self

import attrs
import trio

from changeover.core.books import Books
from changeover.core.checks import seconds, text
from changeover.core.ledger import Account, Use
from changeover.core.messages import Message, RefId
from changeover.core.snapshots import Audit, Holder, ReferenceStatistics, WaitOutcome
from changeover.core.values import VersionKey
from changeover.errors import AlreadyHeld, ChangeoverError, DrainTimeout, InvalidValue, ReferenceNotHeld
from changeover.runtime.lease import caller
from changeover.runtime.mailbox import twin
from changeover.runtime.own_books import OwnBooks
from changeover.runtime.ports import Clock, SystemClock
from changeover.runtime.waiting import Wait, Waits


@attrs.frozen
class ReferenceWorld:
    """What a tracker needs of whoever makes the accounts."""

    books: Books
    open: Mapping[tuple[str, str], Account]
    """The accounts that can be acquired from just now."""
    pin: Callable[[Use, str, str], tuple[Account, RefId]]
    """Acquires where `open` has no account, or raises why that cannot be."""
    now: Callable[[], float]
    """The clock."""
    where: Callable[[], str | None] | None
    """Names the caller's line in debug mode; else None."""
    is_leaving: Callable[[Wait], bool]
    """Tells of a version that is not open whether it will not be soon."""
    waits: Waits = attrs.field(factory=Waits)
    """Who waits for zero."""
    refusal: Callable[[], ChangeoverError | None] = lambda: None
    """Returns why an engine answers nobody any more; None while it does."""


def alone(*, debug_references: bool, clock: Clock) -> ReferenceWorld:
    """Return the world of a tracker without an engine."""
    books = OwnBooks(clock.now, record=debug_references)
    where = caller if debug_references else None

    def is_leaving(wait: Wait) -> bool:
        return bool(wait.accounts) or books.is_retired(wait.key)

    return ReferenceWorld(books, books.open, books.pin, clock.now, where, is_leaving)


class ReferenceTracker:
    """References under the caller's own request ids."""

    def __init__(
        self, *, debug_references: bool = False, clock: Clock | None = None, world: ReferenceWorld | None = None
    ) -> None:
        """Count alone, on books of its own; with `debug_references` it records who took what, and where.

        An engine has one, `engine.references`, which counts what the engine itself does (`world`). `clock` is for
        simulators.
        """
        self._world = world = world or alone(debug_references=debug_references, clock=clock or SystemClock())
        # What `acquire` and `release` need, without a step in between.
        self._open = world.open
        self._accounts = world.books.accounts
        self._now = world.now
        self._where = world.where

    # --- taking and giving back ---

    @trio.lowlevel.enable_ki_protection
    def acquire(self, model: str, version: str, request_id: str) -> None:
        """Hold the version under `request_id`; an engine's must be loaded, and alone the first use makes it known.

        Raises `AlreadyHeld`, `VersionNotLoaded`, `InvalidValue`, and with an engine `ModelNotRegistered`.
        """
        if request_id.__class__ is not str or not request_id:
            text("request_id", request_id)
        where = self._where
        use = ("request", self._now(), request_id, None if where is None else where())
        try:
            account = self._open.get((model, version))
        except TypeError:  # it cannot be hashed, so it is no text
            _named(model, version)
            raise
        if account is None or account.acquire(use) is None:
            self._world.pin(use, model, version)

    @trio.lowlevel.enable_ki_protection
    def release(self, model: str, version: str, request_id: str) -> None:
        """Give it back, on any thread; raises `ReferenceNotHeld`, counts and changes nothing where it is not held."""
        if request_id.__class__ is not str or not request_id:
            text("request_id", request_id)
        accounts = self._of(model, version)
        for account in accounts:
            if request_id in account.held:
                account.release(request_id)
                return
        if accounts:
            accounts[-1].release(request_id)  # counts the mistake and raises
            return  # or somebody has taken it meanwhile
        self.over_release(model, version, request_id)

    def over_release(self, model: str, version: str, request_id: str) -> NoReturn:
        """Count a release of what is not held, and raise `ReferenceNotHeld`; nothing else changes."""
        for account in self._of(model, version)[-1:]:
            account.miss(request_id)
        why = f"{model}/{version} is not loaded, so {request_id!r} does not hold it"
        raise ReferenceNotHeld(why, model=model, version=version)

    # --- looking ---

    def count(self, model: str, version: str) -> int:
        """Return how many references of any kind are held on the version."""
        held = 0
        for account in self._of(model, version):
            held += len(account.held)
        return held

    def has_references(self, model: str, version: str) -> bool:
        """Return whether any reference is held on the version."""
        return self.count(model, version) > 0

    def counts(self) -> dict[tuple[str, str], int]:
        """Return the count of every version that is loaded, or alone, of every one that is known."""
        self._world.books.settle()
        return {key: sum(len(a.held) for a in accounts) for key, accounts in self._accounts.copy().items()}

    def holders(self, model: str, version: str) -> tuple[Holder, ...]:
        """Return who holds the version, oldest first."""
        return self._world.books.holders(*_named(model, version), self._now())

    def audit(self, *, suspect_after_s: float | Mapping[str, float] | None = None) -> Audit:
        """Return every balance, who holds what, and who has held it for too long; any thread, at any time.

        `suspect_after_s` is one limit for all, or one for each kind that is named (`request`, `fallback`, `shadow`,
        `lease`, `stream`, `warmup`); else requests are suspected after a minute, leases and warm-ups after ten, streams
        after an hour. Raises `InvalidValue`.
        """
        return self._world.books.audit(self._now(), suspect_after_s)

    def statistics(self) -> dict[VersionKey, ReferenceStatistics]:
        """Return how every version was used: current, peak and average count, what was taken, how long drains took."""
        return self._world.books.statistics()

    def messages(self, model: str, version: str) -> tuple[Message, ...]:
        """Return the version's last 10,000 messages, oldest first, each of which prints as one line.

        Raises `InvalidValue` where nothing is recorded.
        """
        if self._world.where is None:
            raise InvalidValue("reference messages are recorded with debug_references=True only")
        return self._world.books.messages(*_named(model, version))

    # --- waiting ---

    async def wait_for_zero(self, model: str, version: str, timeout_s: float) -> WaitOutcome:
        """Return once nobody holds the version, on Trio or asyncio; cancelled, it leaves nothing behind.

        Any number may wait; each is woken once, by whoever makes the zero. Raises `DrainTimeout`, which names the
        holders, after `timeout_s`, `EngineClosed` or `EngineFailed` where the engine ends before, and `WrongLoop`.
        """
        seconds("timeout_s", timeout_s)
        key, began_s = _named(model, version), self._now()
        wait = await self._world.waits.zero(key, self._of(*key), timeout_s)
        return self._outcome(wait, began_s, timeout_s)

    def wait_for_zero_blocking(self, model: str, version: str, timeout_s: float) -> WaitOutcome:
        """Return once nobody holds the version; blocks its thread.

        Raises `DrainTimeout`, which names the holders, after `timeout_s`, `EngineClosed` and `EngineFailed`.
        """
        seconds("timeout_s", timeout_s)
        key, began_s = _named(model, version), self._now()
        wait = self._world.waits.zero_blocking(key, self._of(*key), timeout_s, self._now)
        return self._outcome(wait, began_s, timeout_s)

    # --- without an engine ---

    def retire(self, model: str, version: str) -> None:
        """Let nobody acquire the version any more, as before its unload; those who hold it stay.

        Raises `InvalidValue` on an engine's tracker, for which `engine.unload` does it.
        """
        self._own().retire(_named(model, version))

    def forget(self, model: str, version: str, *, force: bool = False) -> None:
        """Let go of a version that is unloaded; its next acquire begins anew.

        Raises `ReferenceLeakError` where it is held. With `force` it does not: who waits for zero hears that it is
        gone, and who holds it is counted until the release, but is in nobody's way. Raises `InvalidValue` on an
        engine's tracker.
        """
        held = self._own().forget(_named(model, version), force=force)
        if held:
            self._world.waits.give_up(held)

    # --- inside ---

    def _of(self, model: str, version: str) -> tuple[Account, ...]:
        """Return the accounts of a version; raises `InvalidValue` for names that are no text."""
        try:
            return self._accounts.get((model, version), ())
        except TypeError:  # it cannot be hashed
            _named(model, version)
            raise

    def _own(self) -> OwnBooks:
        books = self._world.books
        if not isinstance(books, OwnBooks):
            raise InvalidValue("these references are counted by an engine; use await engine.unload(...)")
        return books

    def _outcome(self, wait: Wait, began_s: float, timeout_s: float) -> WaitOutcome:
        waited_s = self._now() - began_s
        if wait.is_gone or not wait.in_time:
            model, version = wait.key
            holders = self.holders(model, version)
            refusal = self._world.refusal()
            if holders and wait.is_gone and refusal is not None:
                raise twin(refusal)
            if holders and wait.is_gone:
                return WaitOutcome("gone", waited_s, holders)
            if holders:
                names = "; ".join(map(str, holders))
                raise DrainTimeout(
                    f"{model}/{version} is still held after {timeout_s:g} s by {names}",
                    holders=holders, model=model, version=version,
                )  # fmt: skip
        can_be_taken = wait.key in self._open or not self._world.is_leaving(wait)
        return WaitOutcome("zero" if can_be_taken else "drained", waited_s)


def _named(model: str, version: str) -> VersionKey:
    """Return a key; raises `InvalidValue`."""
    return VersionKey(text("model", model), text("version", version))


class RequestTracker:
    """One reference for a block: `with RequestTracker(tracker, model, version, request_id): ...`."""

    __slots__ = ("_is_held", "_request_id", "_tracker", "_version_of")

    def __init__(self, tracker: ReferenceTracker, model: str, version: str, request_id: str) -> None:
        """Remember what to hold; nothing is held before the block is entered."""
        self._is_held = False
        self._tracker = tracker
        self._version_of = (model, version)
        self._request_id = request_id

    @trio.lowlevel.enable_ki_protection  # Ctrl-C between the reference and its note would lose it
    def __enter__(self) -> Self:
        """Acquire; raises what `ReferenceTracker.acquire` raises."""
        if self._is_held:
            raise AlreadyHeld(f"this tracker of request {self._request_id!r} is entered already")
        self._tracker.acquire(*self._version_of, self._request_id)
        self._is_held = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Release, however the block ended; raises `ReferenceNotHeld` where that was done before."""
        self.release()

    @trio.lowlevel.enable_ki_protection
    def release(self) -> None:
        """Give the reference back, on any thread; raises `ReferenceNotHeld` where this tracker does not hold it."""
        if not self._is_held:  # whoever holds that id now is somebody else
            self._tracker.over_release(*self._version_of, self._request_id)
        self._is_held = False
        self._tracker.release(*self._version_of, self._request_id)

    def __del__(self) -> None:
        """Give back what was forgotten, and say so."""
        if getattr(self, "_is_held", False):  # it may not have come as far as that
            self.release()  # first, because the warning may be made an error
            text = f"the request {self._request_id!r} was dropped without being released; use `with`"
            warnings.warn(text, ResourceWarning, 2, self)
