"""One `infer` on its way: pick and pin, ask; where a version on trial fails, or one goes before it began, ask another.

A state machine without I/O, the same for Trio, asyncio and plain threads: each waits in its own manner between
`begin` and `next`. It owns the references of its request until they are with a worker, and spawns nothing.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

import attrs

from changeover.core.checks import describe
from changeover.core.ledger import Account
from changeover.core.messages import RefId
from changeover.core.meter import Meter
from changeover.core.snapshots import Reply
from changeover.errors import (
    CallerError,
    ChangeoverError,
    Evicted,
    LeaseRevoked,
    NotReady,
    Overloaded,
    PredictFailed,
    Ran,
    RequestTimeout,
    VersionCrashed,
)
from changeover.runtime.host import Host
from changeover.runtime.loaded import LoadedModel
from changeover.runtime.router import Pinned, Router
from changeover.runtime.worker import Replies, Request

T = TypeVar("T")

UntilReady = Callable[[str, "str | None"], Awaitable[None]]
"""Waits for a version of a model that is being loaded or was evicted; raises `NotReady` where that comes to nothing."""

MOVES_MAX = 8
"""So often a request goes to another version before it is told that the last one went; each is a crash or a drain."""


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
        "_began_s", "_failure", "_home", "_inputs", "_key", "_left_behind", "_meter", "_model", "_pinned", "_version",
        "_waiter", "_world",
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
        self._left_behind: tuple[ChangeoverError, ...] = ()
        """How each version ended that the request waited for in vain."""

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
            if not isinstance(error, ChangeoverError) or (self._failure is None and not self._left_behind):
                raise
            self._write_down(error)
        else:
            return rows
        raise self._told()

    def _elsewhere(self, error: ChangeoverError, kind: str, *, too_late: bool = False) -> tuple[Account, RefId] | None:
        """Return whom to ask next, pinned: who stands by, or where nothing has run yet whoever takes requests now.

        None where nobody may be asked.
        """
        told, pinned = self._write_down(error), self._pinned
        standby, ref = (pinned.standby, pinned.standby_ref) if pinned is not None else (None, None)
        if too_late or not falls_back(error):
            self._dismiss()
            return None
        if pinned is not None and standby is not None and ref is not None:
            pinned.standby = None
            if self._meter is not None:
                self._meter.note_fallback()
            return standby, ref
        if self._version is not None or error.ran != "no" or told.ran != "no" or len(self._left_behind) >= MOVES_MAX:
            return None
        self._left_behind = (*self._left_behind, told)
        self._failure = self._pinned = self._meter = None
        try:
            return self._pin(kind)
        except ChangeoverError as nobody:
            self._write_down(nobody.with_traceback(None))
            return None

    def _write_down(self, error: ChangeoverError) -> ChangeoverError:
        """Return what the caller would be told: what the picked version did, and what became of other tries."""
        if self._failure is not None:
            self._failure.add_note(f"the version before it was asked, too: {describe(error)}")
            if self._failure.ran == "no":
                self._failure.ran = error.ran
        elif self._left_behind and isinstance(error, CallerError | NotReady):  # it could not be asked at all
            self._failure = self._left_behind[-1]
            self._failure.__cause__ = error
        else:
            self._failure = error
            for gone in self._left_behind:
                error.add_note(f"before that it had waited in vain: {gone}")
        return self._failure

    def _told(self) -> ChangeoverError:
        """Return what the caller is told, to be raised at once and kept nowhere.

        Who keeps an error that is raised, in a frame that is left or in something that the frame names, makes a circle
        through its traceback; and that leads to the model, which nothing may keep when it is unloaded.
        """
        told, self._failure, self._left_behind = self._failure, None, ()
        assert told is not None
        return told

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


async def begun(begin: Callable[[], T], until_ready: UntilReady) -> T:
    """Begin a request, on any loop; where its version was evicted, wait until it is there again."""
    while True:
        try:
            return begin()
        except Evicted as error:
            await until_back(error, until_ready)


async def until_back(missing: Evicted, until_ready: UntilReady) -> None:
    """Wait for a version that was evicted; where it does not come, `ran` of what is raised is that of the eviction."""
    try:
        await until_ready(missing.model or "", missing.version)
    except ChangeoverError as error:
        if error.ran == "no":
            error.ran = missing.ran  # another of the same set may have run
        raise


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
        error = request.error
        if error is not None:
            request.error = None
            try:
                return self._failed(error)
            finally:
                del error
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
        if not hasattr(self, "_left"):
            text = f"{self._model} was not loaded again within {timeout_s:g} s"
            return RequestTimeout(text, model=self._model, ran="no")
        loaded: LoadedModel = self._left.account.owner
        self._note(failed=True)
        before: Ran = "no" if self._failure is None else self._failure.ran
        return RequestTimeout(
            f"{loaded.key} did not answer within {timeout_s:g} s",
            model=loaded.key.model, version=loaded.key.version, ran=before if self._left.withdrawn else "unknown",
        )  # fmt: skip

    # --- inside ---

    def _ask(self, account: Account, ref: RefId) -> Request | None:
        """Call an inline model right here, or put the request into the version's lane."""
        rows = self._check(account, ref)
        loaded: LoadedModel = account.owner
        if loaded.inline and not loaded.lane.halted and loaded.take_turn():
            try:
                # A model that takes its inputs apart leaves nothing to who answers in its place.
                inputs = self._inputs if self._pinned is None else dict(self._inputs)
                reply = Reply(loaded.predict(inputs, has_turn=True), loaded.key.version)
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
            try:
                return self._failed(failure)
            finally:
                del failure
        return self._queue(loaded, account, ref, rows)

    def _queue(self, loaded: LoadedModel, account: Account, ref: RefId, rows: int) -> Request | None:
        """Put the request into the lane; an inline model whose turn another thread has gets a thread for it.

        A lane that is halted is served by nobody: who waits in it is told when the version has gone, and its traffic.
        """
        request = Request(account, ref, self._inputs, rows, self._world.now(), self._home, self._waiter)
        self._home.expect(request)
        aside = loaded.inline and not loaded.lane.halted
        admitted = self._world.host.run_aside(loaded, request) if aside else loaded.lane.offer(request)
        if admitted:
            return request
        self._home.forget(request)
        account.release(ref)
        return self._failed(not_admitted(loaded))

    def _answered(self, reply: Reply) -> None:
        self.reply = reply
        if self._meter is not None:
            self._note(failed=False)
        if self._pinned is None:
            return
        reply.fell_back = self._failure is not None
        self._failure = None  # its traceback leads through this request to the model that failed
        self._dismiss()
        copied_to = self._pinned.copy
        shadow = copied_to.owner.shadow if copied_to is not None else None
        if shadow is not None:
            shadow.send(copied_to, self._inputs, reply)

    def _failed(self, error: ChangeoverError) -> Request | None:
        """Let another version answer, where one may; else raise."""
        if not isinstance(error, LeaseRevoked):  # which says nothing of the model
            self._note(failed=True)
        other = self._elsewhere(error, "request")
        del error
        if other is None:
            raise self._told()
        return self._ask(*other)


def falls_back(error: ChangeoverError) -> bool:
    """Return whether another version may be asked: the model failed, and the request is not known to kill processes.

    Or the request was revoked in the queue, by a drain that was out of time.
    """
    if isinstance(error, LeaseRevoked):
        return error.ran == "no"
    return isinstance(error, PredictFailed | VersionCrashed) and error.ran != "unknown"


def not_admitted(loaded: LoadedModel) -> ChangeoverError:
    """Return why a lane took no request: its version went, or it is full."""
    me: dict[str, Any] = {"model": loaded.key.model, "version": loaded.key.version}
    if loaded.lane.closed:
        return VersionCrashed(f"{loaded.key} went away before the request was queued", ran="no", **me)
    waiting = len(loaded.aside) + len(loaded.lane)
    return Overloaded(
        f"{waiting} requests wait for {loaded.key}, which has room for {loaded.spec.queue_limit}; try again, or give "
        f"it {'' if loaded.inline else 'more workers or '}a larger queue_limit",
        **me,
    )
