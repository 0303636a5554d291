"""One `infer_many` on its way: pick and pin a set in one step, ask it, and keep it one until all have answered.

A state machine without I/O, the same for Trio, asyncio and plain threads: each waits in its own manner between `begin`
and `next`. Its members own their references until they are with a worker; it spawns nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from changeover.core.checks import describe, text
from changeover.core.snapshots import Reply
from changeover.core.values import VersionKey
from changeover.errors import CallerError, ChangeoverError, Evicted, InvalidValue, NotReady, Ran, RequestTimeout
from changeover.runtime.inference import MOVES_MAX, InferenceWorld, falls_back
from changeover.runtime.set_request import Arrivals, SetRequest
from changeover.runtime.worker import Replies, Request

RELOADS_MAX = 2
"""So often a set waits for each of its models that was evicted: more often, and one of them makes the other go."""


class Gathering:
    """One set of requests of one caller; its methods are called by the thread that the caller waits on."""

    __slots__ = (
        "_arrivals", "_home", "_is_pinned", "_key", "_late", "_left_behind", "_members", "_reloads",
        "_waiter", "_world",
    )  # fmt: skip

    def __init__(
        self,
        world: InferenceWorld,
        home: Replies,
        waiter: Any,
        requests: Mapping[str, Mapping[str, Any]],
        key: str | None,
    ) -> None:
        """Ask nobody yet; `home` wakes `waiter`, or what a request's `waiter` is set to. Raises `InvalidValue`."""
        arrivals = self._arrivals = Arrivals(world.now)
        self._members = [SetRequest(world, home, arrivals, model, inputs) for model, inputs in _named(requests)]
        self._world = world
        self._home = home
        self._waiter = waiter
        self._key = key
        self._is_pinned = False
        self._reloads = 0
        self._left_behind: tuple[ChangeoverError, ...] = ()
        """How each version ended that the set waited for in vain."""
        self._late: list[tuple[SetRequest, VersionKey]] = []
        """Who had not answered when the caller left."""

    @property
    def replies(self) -> dict[str, Reply]:
        """What all have answered, in the order asked; once `begin` or `next` has returned None."""
        return {member.model: member.reply for member in self._members if member.reply is not None}

    def begin(self) -> Request | None:
        """Pin the set and ask all of it; return what to wait for, or None where all have answered.

        Raises what `Router.pin` raises, `InvalidInput`, `PredictFailed`, `VersionCrashed` and `Overloaded`, whose `ran`
        is that of the set; then nothing is held any more. After `Evicted` it may be called again.
        """
        try:
            return self._go_on()
        except ChangeoverError as error:
            self._let_go()
            if error.ran == "no" and self._has_run:
                error.ran = "unknown"  # the one that failed has not; others of the set have
            raise
        except BaseException:
            self._let_go()
            raise

    def next(self, sleeper: Request) -> Request | None:
        """Look at what has come when that was waited for; return and raise as `begin` does, also anew."""
        self._get_up(sleeper)
        error, sleeper.error = sleeper.error, None
        if error is None:
            return self.begin()
        try:
            self._let_go()
            raise error  # the engine was closed, and somebody's thread hangs
        finally:
            del error

    def leave(self, sleeper: Request) -> None:
        """Go away without the answers: what is queued never runs, what runs keeps its version until it is done."""
        self._get_up(sleeper)
        self._late = [(member, member.key) for member in self._members if member.request is not None]
        self._let_go()

    def timed_out(self, timeout_s: float) -> RequestTimeout:
        """Return the error for a caller who left because the time was up; it counts against who had not answered."""
        ran: Ran = "unknown" if self._has_run else "no"
        if not self._late:
            models = ", ".join(member.model for member in self._members)
            return RequestTimeout(f"of {models} not all were loaded again within {timeout_s:g} s", ran=ran)
        for member, _key in self._late:
            member.note(self._world.now(), failed=True)
        keys = ", ".join(str(key) for _member, key in self._late)
        first = self._late[0][1]
        return RequestTimeout(
            f"{keys} did not answer within {timeout_s:g} s", model=first.model, version=first.version, ran=ran
        )

    # --- inside ---

    def _go_on(self) -> Request | None:
        """Ask whoever is to be asked, workers first, and look at what has come; return what to wait for."""
        if not self._is_pinned:
            self._pin()
        while True:
            self._take_in()
            due = [member for member in self._members if member.is_due]
            if due:
                self._ask(min(due, key=lambda member: member.is_inline))
                continue
            asked = next((member.request for member in self._members if member.request is not None), None)
            if asked is None:
                self._forget()
                return None
            sleeper = Request(asked.account, asked.ref, {}, 1, self._world.now(), self._home, self._waiter)
            self._home.expect_again(sleeper)
            if self._arrivals.may_sleep(sleeper):
                return sleeper
            self._get_up(sleeper)

    def _pin(self) -> None:
        """Pin the set, and check its inputs; raises what `Router.pin` raises, and `InvalidInput`."""
        world, members = self._world, self._members
        now = world.now()
        use = ("request", now, None, world.where() if world.where is not None else None)
        try:
            pins = world.router.pin_many(use, [member.model for member in members], self._key, attend=True)
        except Evicted as error:
            self._reloads += 1
            if self._reloads <= RELOADS_MAX * len(members):
                raise
            raise NotReady(f"{error}; the set was not there as a whole before", model=error.model) from error
        except (CallerError, NotReady) as error:
            if not self._left_behind:
                raise
            nobody: ChangeoverError = error
        else:
            self._is_pinned = True
            for member, (pinned, group) in zip(members, pins, strict=True):
                member.hold(pinned, group, now)
            for member in members:
                self._check(member)
            return
        try:
            raise self._in_vain(nobody)
        finally:
            del nobody

    def _check(self, member: SetRequest) -> None:
        try:
            member.check()
        except ChangeoverError as error:
            failure = error
        else:
            return
        try:
            self._failed(member, failure, 0.0)
        finally:
            del failure

    def _ask(self, member: SetRequest) -> None:
        try:
            member.ask()
        except ChangeoverError as error:
            failure = error
        else:
            self._settle(member)
            return
        try:
            self._failed(member, failure, self._world.now())
        finally:
            del failure

    def _take_in(self) -> None:
        """Take in what has come since."""
        while self._arrivals.come:
            request, at_s = self._arrivals.come.popleft()
            member, request.waiter = request.waiter, None
            error, request.error = request.error, None
            if member is None:
                continue  # the set goes on without it
            if error is None:
                assert request.reply is not None
                member.answer(request.reply, at_s)
                self._settle(member)
                continue
            try:
                self._failed(member, error, at_s)
            finally:
                del error

    def _failed(self, member: SetRequest, error: ChangeoverError, at_s: float) -> None:
        """Have the set answered by others, where that may be; else raise."""
        member.fail(error, at_s)
        elsewhere = falls_back(error)
        if elsewhere:
            error.with_traceback(None)  # which would keep the model, by way of this set
        del error
        group = self._group(member)
        if elsewhere and group and all(one.can_stand_in for one in group):
            for one in group:
                one.stand_in(member)
            for one in group:
                self._check(one)
        elif elsewhere and not self._was_heard and len(self._left_behind) < MOVES_MAX:
            self._left_behind = (*self._left_behind, member.told())
            self._let_go()
            self._pin()
        else:
            raise self._told(member)

    @property
    def _was_heard(self) -> bool:
        """Whether a version has failed on a request of the set after it began: nobody else is given that."""
        return any(member.has_run for member in self._members)

    @property
    def _has_run(self) -> bool:
        """Whether any of the set may have been run, also by a version that was left."""
        return any(member.may_have_run for member in self._members)

    def _group(self, member: SetRequest) -> list[SetRequest]:
        """Return who is on the same trial as a member, that included; nobody where it is on none."""
        return [one for one in self._members if one.group == member.group] if member.group is not None else []

    def _settle(self, member: SetRequest) -> None:
        """Let go of the versions that stand by, where everybody in the trial of a member has answered."""
        group = self._group(member)
        if all(one.reply is not None for one in group):
            for one in group:
                one.settle()

    def _told(self, last: SetRequest) -> ChangeoverError:
        """Return what the caller is told: how it failed, or for whom it stood in, and then what came after that."""
        first = last.cause or last
        told = first.told()
        if isinstance(told, CallerError | NotReady) and self._left_behind:
            told = self._in_vain(told)
        for gone in self._left_behind:
            told.add_note(f"before that it had waited in vain: {gone}")
        if last is not first:
            told.add_note(f"the version before it was asked of {last.model}, too: {describe(last.told())}")
        told.add_note(f"it was asked of {first.model} in one set of {', '.join(one.model for one in self._members)}")
        self._left_behind = ()
        return told

    def _in_vain(self, nobody: ChangeoverError) -> ChangeoverError:
        """Return how the last version ended that was waited for, because of whom nobody else can be asked."""
        *others, told = self._left_behind
        self._left_behind = tuple(others)
        told.__cause__ = nobody.with_traceback(None)
        return told

    def _get_up(self, sleeper: Request) -> None:
        """Wait no more: what comes now wakes nobody, and one that is being woken twice is not there any more."""
        self._arrivals.sleeper = None
        self._home.forget(sleeper)

    def _let_go(self) -> None:
        """Leave every request where it is, and hold nothing but what runs."""
        self._is_pinned = False
        for member in self._members:
            member.let_go()
            member.forget()

    def _forget(self) -> None:
        """Let go of the errors of others who were asked before."""
        self._left_behind = ()
        for member in self._members:
            member.forget()


def _named(requests: object) -> list[tuple[str, Mapping[str, Any]]]:
    """Return what is asked of whom; raises `InvalidValue` where that is nobody."""
    if not isinstance(requests, Mapping) or not requests:
        raise InvalidValue(f"requests must map at least one model to its inputs, not {requests!r}")
    asked = cast("Mapping[object, Mapping[str, Any]]", requests)
    return [(text("model", model), inputs) for model, inputs in asked.items()]
