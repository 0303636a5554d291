"""The account of one loaded model: who holds it, as the running fold over its messages (`core/messages.py`).

Thread-safe without a lock: a reference is announced in a dict and the gate is read after it, so that whoever shuts
the gate and then reads the dict cannot miss it. `tests/engine/core/test_ledger_interleavings.py` runs every
interleaving of the byte code of `acquire`, `release`, `shut` and `watch`; a lock costs ten times as much at 8 threads.
"""

from __future__ import annotations

import itertools
import threading
from collections import deque
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from typing import Any, NoReturn, TypeVar

from changeover.core.messages import Acquire, Message, RefId, Release, name_of
from changeover.core.snapshots import Balance, Holder
from changeover.core.tally import peek
from changeover.core.usage import Usage
from changeover.errors import AlreadyHeld, ReferenceNotHeld

_READS_MAX = 1_000
"""How often a balance is read again when threads are at work in the middle of it."""

MESSAGES_KEPT = 10_000
"""So many messages a recording account keeps."""

R = TypeVar("R", bound=RefId)

Use = tuple[str, float, str | None, str | None]
"""One use, for as long as it is held: kind, taken at (engine clock, s), the caller's request id, `file:line`.

A bare tuple, because it is made for every request: a frozen class costs ten times as much.
"""


class Account:
    """The references of one loaded model; every method may be called from any thread.

    All its mutable state: `held` (what is held), `_last` (the last use of all), `open` (the gate), two counters
    that only grow, `_over`, `usage`, `_watchers` (called once each, by whoever made the balance zero), `_revokers` (how
    to end a hold) and `_revoked` (the kinds whose holders were asked to let go).
    """

    __slots__ = (
        "_acquires", "_last", "_mask", "_now", "_over", "_peak", "_releases", "_revoked", "_revokers", "_timed",
        "_watchers", "held", "open", "owner", "running", "usage",
    )  # fmt: skip

    def __init__(self, owner: Any = None, *, is_open: bool = True, now: Callable[[], float] = lambda: 0.0) -> None:
        """Make an empty account for `owner`, the thing that its references keep alive; `now` is the engine's clock."""
        self.owner = owner
        self._now = now
        self.usage = usage = Usage(now)
        # What `usage` wants to be told of, at hand for the request path.
        self._peak, self._mask, self._timed = usage.peak, usage.mask, usage.timed
        self.running: Callable[[], Mapping[RefId, str]] = dict
        """Names the threads that run a use just now and cannot be interrupted."""
        self.held: dict[RefId, Use] = {}
        self._last: Use = ("made", now(), None, None)
        self.open = is_open
        # `next` on a count is one step that no other thread can split; `+= 1` on an attribute is not.
        self._acquires = itertools.count()
        self._releases = itertools.count()
        self._over = itertools.count()
        self._watchers: list[Callable[[], None]] = []
        self._revokers: dict[RefId, Callable[[], None]] = {}
        self._revoked: frozenset[str] = frozenset()

    @property
    def used_s(self) -> float:
        """When it was last acquired, or made, by the engine's clock."""
        return self._last[1]

    def acquire(self, use: Use) -> RefId | None:
        """Write `use` in and return its reference; None, with nothing left behind, where the gate is shut.

        The reference is a fresh number, or the caller's own request id where `use` names one. Raises `AlreadyHeld`.
        """
        ref, held = use[2], self.held
        if ref is None:
            return self.take(use)
        if held.setdefault(ref, use) is not use:  # announce ...
            raise AlreadyHeld(f"request id {ref!r} holds a reference already; release it first or use another id")
        number = next(self._acquires)
        self._last = use
        if self.open:  # ... then look: in the other order a drain could see zero in between
            if len(held) > self._peak or not number & self._mask:
                self._note(ref, number, use[1])
            return ref
        self._drop(ref)
        return None

    def take(self, use: Use) -> int | None:
        """Do as `acquire`, for a use without an id of its own, in as few steps as can be."""
        held, number = self.held, next(self._acquires)
        held[number] = use
        self._last = use
        if self.open:
            if len(held) > self._peak or not number & self._mask:
                self._note(number, number, use[1])
            return number
        self._drop(number)
        return None

    def release(self, ref: RefId | None) -> None:
        """Strike out a reference; raises `ReferenceNotHeld`, and changes nothing, if it is not held; None never is."""
        try:
            del self.held[ref]  # type: ignore[arg-type]  # None is a key that no reference has
        except KeyError:
            raise self._missed(ref) from None
        next(self._releases)
        if self._timed and ref in self._timed:
            self.usage.end(ref)
        if self._watchers and not self.held:
            self._call_watchers()

    def miss(self, ref: RefId) -> NoReturn:
        """Count a release of what its caller does not hold, whoever may; raises `ReferenceNotHeld`."""
        raise self._missed(ref)

    def shut(self) -> None:
        """Refuse new references from now on; those that are held stay."""
        self.open = False

    def reopen(self) -> None:
        """Let references be taken again, and keep them."""
        self._revoked = frozenset()
        self.open = True

    def revocable(self, ref: RefId, revoke: Callable[[], None]) -> None:
        """Have `revoke` called, on any thread and perhaps twice, when whoever holds `ref` is asked to let go."""
        self._revokers[ref] = revoke  # announce, then look: in the other order a revocation could pass in between
        use = self.held.get(ref)
        if use is not None and use[0] in self._revoked:
            revoke()

    def irrevocable(self, ref: RefId) -> None:
        """Forget how to revoke a reference, which is being given back."""
        self._revokers.pop(ref, None)

    def revoke(self, kinds: frozenset[str]) -> None:
        """Ask holders of some kinds to let go, also those that can be asked only while the gate stays shut."""
        self._revoked |= kinds
        for ref, revoke in self._revokers.copy().items():
            use = self.held.get(ref)
            if use is not None and use[0] in kinds:
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
        """Return who holds what at engine time `now`, oldest first, and in which thread."""
        threads = self._threads_of()
        return tuple(
            Holder(kind, name or name_of(ref), max(0.0, now - since_s), where, threads.get(ref))
            for ref, (kind, since_s, name, where) in self.held.copy().items()
        )

    def kinds(self) -> frozenset[str]:
        """Return the kinds of all that is held."""
        return frozenset(use[0] for use in self.held.copy().values())

    def messages(self) -> tuple[Message, ...]:
        """Return the last messages, oldest first; an account that does not record has none."""
        return ()

    def _missed(self, ref: RefId | None) -> ReferenceNotHeld:
        next(self._over)
        text = f"reference {ref!r} is not held: it was released before, or never taken; release each exactly once"
        return ReferenceNotHeld(text)

    def _threads_of(self) -> Mapping[RefId, str]:
        return self.running()

    def _note(self, ref: RefId, number: int, since_s: float) -> None:
        """Let a use be counted that is above the peak, or timed."""
        usage = self.usage
        usage.note(ref, number, since_s, len(self.held))
        self._peak, self._mask = usage.peak, usage.mask
        if ref not in self.held:
            usage.end(ref)  # a caller's own id: somebody released it while it was being taken

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

    __slots__ = ("_lock", "_postponed", "_tell", "_threads", "log")

    def __init__(
        self,
        owner: Any = None,
        *,
        is_open: bool = True,
        now: Callable[[], float] = lambda: 0.0,
        keep: int = MESSAGES_KEPT,
        tell: Callable[[Message], None] | None = None,
    ) -> None:
        """Keep the last `keep` messages, and have `tell` called with each in the thread that made it."""
        super().__init__(owner, is_open=is_open, now=now)
        self.log: deque[Message] = deque(maxlen=keep)
        self._tell = tell
        self._threads: dict[RefId, str] = {}
        # A lock is affordable here, and without one the log could name a release before its acquire.
        self._lock = threading.RLock()
        self._postponed: dict[int, bool] = {}
        """By thread that holds the lock: whether it has watchers to call, which it does behind it."""

    def acquire(self, use: Use) -> RefId | None:
        """Do as `Account.acquire`, and write it down."""
        if use[2] is None:
            return self.take(use)
        return self._write_down(super().acquire, use)

    def take(self, use: Use) -> int | None:
        """Do as `Account.take`, and write it down."""
        return self._write_down(super().take, use)

    def release(self, ref: RefId | None) -> None:
        """Do as `Account.release`, and write it down, also where it raises."""
        number = -1 if ref is None else ref  # no reference has that number either
        thread, was_held = threading.current_thread().name, False
        try:
            with self._watchers_later(), self._lock:
                was_held = number in self.held
                self.log.append(Release(number, self._now(), thread, was_held))
                self._threads.pop(number, None)
                super().release(ref)
        finally:
            if self._tell is not None:
                self._tell(Release(number, self._now(), thread, was_held))

    def _write_down(self, acquire: Callable[[Use], R | None], use: Use) -> R | None:
        thread = threading.current_thread().name
        with self._watchers_later(), self._lock:
            ref = acquire(use)
            if ref is None:
                return None
            self._threads[ref] = thread
            message = _acquired(ref, use, thread)
            self.log.append(message)
        if self._tell is not None:
            try:
                self._tell(message)  # outside of the lock: who knows what a handler of the log does
            except BaseException:
                super().release(ref)  # nobody would know of it
                raise
        return ref

    def miss(self, ref: RefId) -> NoReturn:
        """Do as `Account.miss`, and write it down."""
        message = Release(ref, self._now(), threading.current_thread().name, was_held=False)
        with self._lock:
            self.log.append(message)
        if self._tell is not None:
            self._tell(message)
        super().miss(ref)

    @contextmanager
    def _watchers_later(self) -> Generator[None, None, None]:
        """Call watchers behind the block, and not inside it."""
        me = threading.get_ident()
        if me in self._postponed:  # the garbage collector came by, and gives back what somebody forgot
            yield
            return
        self._postponed[me] = False
        try:
            yield
        finally:
            if self._postponed.pop(me, False):  # a fork in the middle has forgotten it
                super()._call_watchers()

    def _call_watchers(self) -> None:
        me = threading.get_ident()
        if me in self._postponed:
            self._postponed[me] = True
        else:
            super()._call_watchers()

    def _threads_of(self) -> Mapping[RefId, str]:
        """Return the thread that runs each use, or else the one that took it."""
        return {**self._threads.copy(), **super()._threads_of()}

    def messages(self) -> tuple[Message, ...]:
        """Return the last messages, oldest first."""
        return tuple(self.log.copy())

    def orphan(self) -> None:
        """Do as `Account.orphan`, and let go of a lock whose owner may have stayed in the other process."""
        self._lock = threading.RLock()
        self._postponed.clear()  # threads of this process may be given the same numbers
        super().orphan()

    def _drop(self, ref: RefId) -> None:
        thread = threading.current_thread().name
        self.log.append(_acquired(ref, self.held[ref], thread))  # nobody releases it meanwhile: the lock is held
        self.log.append(Release(ref, self._now(), thread))
        super()._drop(ref)


def _acquired(ref: RefId, use: Use, thread: str) -> Acquire:
    kind, since_s, _name, where = use
    return Acquire(ref, kind, since_s, where, thread)
