"""One `infer` on its way: pick and pin, ask, and where a version on trial fails, ask the one that stands by.

A state machine without I/O, the same for Trio, asyncio and plain threads: each waits in its own manner between
`begin` and `next`. It owns the references of its request until they are with a worker, and spawns nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import attrs

from changeover.core.ledger import Account
from changeover.core.messages import RefId
from changeover.core.meter import Meter
from changeover.core.snapshots import Reply
from changeover.errors import (
    ChangeoverError,
    LeaseRevoked,
    Overloaded,
    PredictFailed,
    RequestTimeout,
    VersionCrashed,
)
from changeover.runtime.host import Host
from changeover.runtime.loaded import LoadedModel
from changeover.runtime.router import Pinned, Router
from changeover.runtime.worker import Replies, Request


@attrs.frozen
class InferenceWorld:
    """What a request needs of the engine."""

    router: Router
    host: Host
    now: Callable[[], float]
    """The engine's clock."""
    where: Callable[[], str | None] | None
    """Names the caller's line in debug mode; else None."""


class Asking:
    """What a request and a stream have in common: whom they ask, who stands by, and what is written down of it."""

    __slots__ = (
        "_began_s", "_failure", "_home", "_inputs", "_key", "_meter", "_model", "_pinned", "_version", "_waiter",
        "_world",
    )  # fmt: skip

    def __init__(
        self,
        world: InferenceWorld,
        home: Replies,
        waiter: Any,
        model: str,
        inputs: Mapping[str, Any],
        version: str | None,
        key: str | None,
    ) -> None:
        """Ask nobody yet; `home` wakes `waiter`, or what the request's `waiter` is set to on the home's own loop."""
        self._pinned: Pinned | None = None
        self._world = world
        self._home = home
        self._waiter = waiter
        self._model = model
        self._inputs = inputs
        self._version = version
        self._key = key
        self._began_s = 0.0
        self._meter: Meter | None = None
        self._failure: ChangeoverError | None = None

    def _pin(self, kind: str) -> tuple[Account, RefId]:
        """Pick and pin; raises what `Router.pin` raises."""
        world = self._world
        self._began_s = now = world.now()
        use = (kind, now, None, world.where() if world.where is not None else None)
        if self._version is not None:
            return world.router.pin(use, self._model, self._version)
        account = world.router.direct.get(self._model)  # the fast way of `Router.pin`, without its call
        ref: RefId | None = account.take(use) if account is not None else None
        if account is None or ref is None:
            self._pinned = world.router.pin_request(use, self._model, self._key)
            account, ref = self._pinned.account, self._pinned.ref
        self._meter = account.owner.meter  # for good: the saga may take it off at any moment
        return account, ref

    def _check(self, account: Account, ref: RefId) -> int:
        """Return how many rows the inputs fill; where they do not fit, give everything back and raise."""
        try:
            rows: int = account.owner.check(self._inputs)
        except BaseException as error:
            account.release(ref)
            self._dismiss()
            if self._failure is None or not isinstance(error, ChangeoverError):
                raise
            told = self._told(error)
        else:
            return rows
        raise told

    def _fall_back(self, error: ChangeoverError, *, too_late: bool = False) -> tuple[Account, RefId]:
        """Return the version that stands by and its reference, which are the caller's now; raises where none may."""
        told, pinned = self._told(error), self._pinned
        standby, ref = (pinned.standby, pinned.standby_ref) if pinned is not None else (None, None)
        if too_late or pinned is None or standby is None or ref is None or not falls_back(error):
            self._dismiss()
            raise told
        pinned.standby = None
        if self._meter is not None:
            self._meter.note_fallback()
        return standby, ref

    def _told(self, error: ChangeoverError) -> ChangeoverError:
        """Return what the caller is told: what the picked version did, and in a note what became of the other try."""
        if self._failure is None:
            self._failure = error
        else:
            self._failure.add_note(f"the version before it was asked, too: {type(error).__name__}: {error}")
        return self._failure

    def _note(self, *, failed: bool) -> None:
        """Write the end down where the version is being compared; of who stands by it would say nothing."""
        if self._meter is not None and self._failure is None:
            now = self._world.now()
            self._meter.note(now, now - self._began_s, failed=failed)

    def _dismiss(self) -> None:
        """Let go of the version that stands by."""
        pinned = self._pinned
        if pinned is not None and pinned.standby is not None:
            standby, pinned.standby = pinned.standby, None
            standby.release(pinned.standby_ref)


class Inference(Asking):
    """One request of one caller; its methods are called by the thread that the caller waits on."""

    __slots__ = ("_left", "reply")

    _left: Request
    """Set by `leave`."""
    reply: Reply
    """Set once `begin` or `next` has returned None."""

    def begin(self) -> Request | None:
        """Ask the version that the router picks; return the request to wait for, or None where `reply` is there.

        Raises what `Router.pin` raises, `InvalidInput`, `PredictFailed`, `VersionCrashed` and `Overloaded`.
        """
        return self._ask(*self._pin("request"))

    def next(self, request: Request) -> Request | None:
        """Take the outcome of a request that was waited for; return and raise as `begin` does."""
        if request.error is not None:
            return self._failed(request.error)
        assert request.reply is not None
        self._answered(request.reply)
        return None

    def leave(self, request: Request) -> None:
        """Go away without an answer: what is queued never runs, what runs keeps its version until it is done."""
        self._left = request
        self._home.forget(request)
        if request.account.owner.lane.withdraw(request):
            request.withdrawn = True
            request.account.release(request.ref)
        self._dismiss()

    def timed_out(self, timeout_s: float) -> RequestTimeout:
        """Return the error for a caller who left because its time was up; it counts against the version."""
        loaded: LoadedModel = self._left.account.owner
        self._note(failed=True)
        return RequestTimeout(
            f"{loaded.key} did not answer within {timeout_s:g} s",
            model=loaded.key.model, version=loaded.key.version, ran="no" if self._left.withdrawn else "unknown",
        )  # fmt: skip

    # --- inside ---

    def _ask(self, account: Account, ref: RefId) -> Request | None:
        """Call an inline model right here, or put the request into the version's lane."""
        rows = self._check(account, ref)
        loaded: LoadedModel = account.owner
        if loaded.inline and loaded.take_turn():
            try:
                reply = Reply(loaded.predict(self._inputs, has_turn=True), loaded.key.version)
            except (PredictFailed, VersionCrashed) as error:
                failure: ChangeoverError = error
            except BaseException:
                self._dismiss()
                raise
            else:
                self._answered(reply)
                return None
            finally:
                loaded.end_turn()
                account.release(ref)
            return self._failed(failure)
        return self._queue(loaded, account, ref, rows)

    def _queue(self, loaded: LoadedModel, account: Account, ref: RefId, rows: int) -> Request | None:
        """Put the request into the lane; an inline model whose turn another thread has gets a thread for it."""
        request = Request(account, ref, self._inputs, rows, self._world.now(), self._home, self._waiter)
        self._home.expect(request)
        admitted = self._world.host.run_aside(loaded, request) if loaded.inline else loaded.lane.offer(request)
        if admitted:
            return request
        self._home.forget(request)
        account.release(ref)
        return self._failed(_not_admitted(loaded))

    def _answered(self, reply: Reply) -> None:
        self.reply = reply
        if self._meter is not None:
            self._note(failed=False)
        if self._pinned is None:
            return
        reply.fell_back = self._failure is not None
        self._dismiss()
        copied_to = self._pinned.copy
        shadow = copied_to.owner.shadow if copied_to is not None else None
        if shadow is not None:
            shadow.send(copied_to, self._inputs, reply)

    def _failed(self, error: ChangeoverError) -> Request | None:
        """Let the version that stands by answer, where the failure is the model's own; else raise."""
        if not isinstance(error, LeaseRevoked):  # which says nothing of the model
            self._note(failed=True)
        return self._ask(*self._fall_back(error))


def falls_back(error: ChangeoverError) -> bool:
    """Return whether another version may be asked: the model failed, and the request is not known to kill processes.

    Or the request was revoked in the queue, by a drain that was out of time.
    """
    return isinstance(error, PredictFailed | VersionCrashed | LeaseRevoked) and error.ran != "unknown"


def _not_admitted(loaded: LoadedModel) -> ChangeoverError:
    me: dict[str, Any] = {"model": loaded.key.model, "version": loaded.key.version}
    if loaded.lane.closed:
        return VersionCrashed(f"{loaded.key} went away before the request was queued", ran="no", **me)
    waiting = len(loaded.aside) if loaded.inline else len(loaded.lane)
    return Overloaded(
        f"{waiting} requests wait for {loaded.key}, which has room for {loaded.spec.queue_limit}; try again, or give "
        f"it {'' if loaded.inline else 'more workers or '}a larger queue_limit",
        **me,
    )
