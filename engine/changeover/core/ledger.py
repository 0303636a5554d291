"""References as messages, and the account of one loaded model: the running fold over its messages.

Thread-safe without a lock: a reference is announced in a dict and the gate is read after it, so that whoever shuts
the gate and then reads the dict cannot miss it. `tests/engine/core/test_ledger_interleavings.py` runs every
interleaving of the byte code of `acquire`, `release`, `shut` and `watch`; a lock costs ten times as much at 8 threads.
"""

from __future__ import annotations

import itertools
import threading
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

import attrs

from changeover.core.snapshots import Balance, Holder
from changeover.core.tally import peek
from changeover.errors import AlreadyHeld, ReferenceNotHeld

_READS_MAX = 1_000
"""How often a balance is read again when threads are at work in the middle of it."""

RefId = int | str
"""A number that the account gave out, or the caller's own request id."""


Use = tuple[str, float, str | None, str | None]
"""One use, for as long as it is held: kind, taken at (engine clock, s), the caller's request id, `file:line`.

A bare tuple, because it is made for every request: a frozen class costs ten times as much.
"""


@attrs.frozen
class Acquire:
    """Somebody takes a reference."""

    ref: RefId
    kind: str


@attrs.frozen
class Release:
    """Somebody gives a reference back."""

    ref: RefId


Message = Acquire | Release


def fold(messages: Iterable[Message]) -> tuple[Balance, dict[RefId, str]]:
    """Return the balance of a message log and the kind of every reference that is still held.

    A release of what is not held changes nothing but its count, and so does a second acquire of the same id.
    """
    held: dict[RefId, str] = {}
    acquired = released = over = 0
    for message in messages:
        match message:
            case Acquire(ref, kind) if ref not in held:
                held[ref] = kind
                acquired += 1
            case Release(ref) if ref in held:
                del held[ref]
                released += 1
            case Release():
                over += 1
            case _:
                pass
    return Balance(acquired, released, len(held), over), held


class Account:
    """The references of one loaded model; every method may be called from any thread.

    All its mutable state: `held` (what is held), `open` (the gate), two counters that only grow, `_over`,
    `_watchers` (called once each, by whoever made the balance zero), `_revokers` (how to end a hold) and `_revoked`.
    """

    __slots__ = ("_acquires", "_over", "_releases", "_revoked", "_revokers", "_watchers", "held", "open", "owner")

    def __init__(self, owner: Any = None, *, is_open: bool = True) -> None:
        """Make an empty account for `owner`, the thing that its references keep alive."""
        self.owner = owner
        self.held: dict[RefId, Use] = {}
        self.open = is_open
        # `next` on a count is one step that no other thread can split; `+= 1` on an attribute is not.
        self._acquires = itertools.count()
        self._releases = itertools.count()
        self._over = itertools.count()
        self._watchers: list[Callable[[], None]] = []
        self._revokers: dict[RefId, Callable[[], None]] = {}
        self._revoked = False

    def acquire(self, use: Use) -> RefId | None:
        """Write `use` in and return its reference; None, with nothing left behind, where the gate is shut.

        The reference is a fresh number, or the caller's own request id where `use` names one. Raises `AlreadyHeld`.
        """
        ref: RefId
        if use[2] is None:
            ref = next(self._acquires)
            self.held[ref] = use  # announce ...
        else:
            ref = self._named(use, use[2])
        if self.open:  # ... then look: in the other order a drain could see zero in between
            return ref
        self._drop(ref)
        return None

    def _named(self, use: Use, ref: str) -> str:
        """Announce under the caller's own id, which nobody else may hold."""
        if self.held.setdefault(ref, use) is not use:
            raise AlreadyHeld(f"request id {ref!r} holds a reference already; release it first or use another id")
        next(self._acquires)
        return ref

    def release(self, ref: RefId | None) -> None:
        """Strike out a reference; raises `ReferenceNotHeld`, and changes nothing, if it is not held; None never is."""
        try:
            del self.held[ref]  # type: ignore[arg-type]  # None is a key that no reference has
        except KeyError:
            next(self._over)
            raise ReferenceNotHeld(
                f"reference {ref!r} is not held: it was released before, or never taken; release each exactly once"
            ) from None
        next(self._releases)
        if self._watchers and not self.held:
            self._call_watchers()

    def shut(self) -> None:
        """Refuse new references from now on; those that are held stay."""
        self.open = False

    def reopen(self) -> None:
        """Let references be taken again, and keep them."""
        self._revoked = False
        self.open = True

    def revocable(self, ref: RefId, revoke: Callable[[], None]) -> None:
        """Have `revoke` called, on any thread and perhaps twice, when whoever holds `ref` is asked to let go."""
        self._revokers[ref] = revoke  # announce, then look: in the other order a revocation could pass in between
        if self._revoked:
            revoke()

    def irrevocable(self, ref: RefId) -> None:
        """Forget how to revoke a reference, which is being given back."""
        self._revokers.pop(ref, None)

    def revoke(self) -> None:
        """Ask every holder that can be asked to let go, also those that become so while the gate stays shut."""
        self._revoked = True
        for revoke in self._revokers.copy().values():
            revoke()

    def orphan(self) -> None:
        """Forget who waits: this is the copy of an account in a forked process, whose loops and threads are gone."""
        self._watchers.clear()
        self._revokers.clear()

    def watch(self, watcher: Callable[[], None]) -> None:
        """Call `watcher` once when nothing is held: now, or from the thread that releases the last reference.

        It must be quick, must not raise, and must look again itself where the gate is open: a new reference may be
        taken before it is looked at.
        """
        self._watchers.append(watcher)
        if not self.held:
            self._call_watchers()

    def unwatch(self, watcher: Callable[[], None]) -> None:
        """Forget a watcher; nothing happens where it was called already."""
        # A stale entry would be harmless, and a growing number of them would not.
        if watcher in self._watchers:
            try:
                self._watchers.remove(watcher)
            except ValueError:  # pragma: no cover - another thread called it in between
                return

    def balance(self) -> Balance:
        """Return the present balance: exact at rest; under traffic from other threads a count may be off by one."""
        balance = self._read()
        for _ in range(_READS_MAX):
            if balance.conserved:
                break
            balance = self._read()  # another thread stood between its two counts
        return balance

    def _read(self) -> Balance:
        return Balance(peek(self._acquires), peek(self._releases), len(self.held), peek(self._over))

    def holders(self, now: float) -> tuple[Holder, ...]:
        """Return who holds what at engine time `now`, oldest first."""
        return tuple(
            Holder(kind, name or f"#{ref}", max(0.0, now - since_s), where)
            for ref, (kind, since_s, name, where) in self.held.copy().items()
        )

    def _drop(self, ref: RefId) -> None:
        """Take an announcement back, as one who has released."""
        if self.held.pop(ref, None) is None:
            return  # a caller's own id: somebody released it while it was being taken
        next(self._releases)
        if self._watchers and not self.held:
            self._call_watchers()

    def _call_watchers(self) -> None:
        """Call every watcher; each is taken out before it is called, so two threads never call the same one."""
        while True:
            try:
                watcher = self._watchers.pop(0)
            except IndexError:
                return
            watcher()


class RecordingAccount(Account):
    """An account that also keeps its last messages, for debug mode and for audits that replay them."""

    __slots__ = ("_lock", "log")

    def __init__(self, owner: Any = None, *, is_open: bool = True, keep: int = 10_000) -> None:
        """Keep the last `keep` messages."""
        super().__init__(owner, is_open=is_open)
        self.log: deque[Message] = deque(maxlen=keep)
        # A lock is affordable here, and without one the log could name a release before its acquire.
        self._lock = threading.RLock()

    def acquire(self, use: Use) -> RefId | None:
        """Do as `Account.acquire`, and write it down."""
        with self._lock:
            ref = super().acquire(use)
            if ref is not None:
                self.log.append(Acquire(ref, use[0]))
            return ref

    def release(self, ref: RefId | None) -> None:
        """Do as `Account.release`, and write it down, also where it raises."""
        with self._lock:
            self.log.append(Release(-1 if ref is None else ref))
            super().release(ref)

    def orphan(self) -> None:
        """Do as `Account.orphan`, and let go of a lock whose owner may have stayed in the other process."""
        self._lock = threading.RLock()
        super().orphan()

    def _drop(self, ref: RefId) -> None:
        self.log.append(Acquire(ref, self.held[ref][0]))  # nobody releases it meanwhile: the lock is held
        self.log.append(Release(ref))
        super()._drop(ref)
