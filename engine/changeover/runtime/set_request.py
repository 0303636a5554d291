"""One request of a set, and where the answers of the set come in: the parts of `gathering.py`.

A `SetRequest` owns its reference until that is with a worker, and that of the version which stands by. `Arrivals` is
filled from any thread, and wakes whoever waits; neither spawns anything.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from changeover.core.ledger import Account
from changeover.core.messages import RefId
from changeover.core.snapshots import Reply
from changeover.core.values import VersionKey
from changeover.errors import CallerError, ChangeoverError, LeaseRevoked
from changeover.runtime.inference import Asking, InferenceWorld, not_admitted
from changeover.runtime.loaded import LoadedModel
from changeover.runtime.router import Pinned
from changeover.runtime.worker import Replies, Request


class Arrivals:
    """Where the answers of one set come in, from any thread; whoever waits is woken, and looks himself."""

    __slots__ = ("_now", "come", "sleeper")

    def __init__(self, now: Callable[[], float]) -> None:
        """Begin empty; `now` is the engine's clock."""
        self._now = now
        self.come: deque[tuple[Request, float]] = deque()
        """What was answered, and when, and was not looked at yet."""
        self.sleeper: Request | None = None
        """What is taken home with the next answer, to wake its waiter; only who waits changes it."""

    def take(self, request: Request) -> None:
        """Take an answered request in; any thread."""
        self.come.append((request, self._now()))

    def knock(self) -> None:
        """Wake whoever waits, perhaps twice; any thread."""
        sleeper = self.sleeper
        if sleeper is not None:
            sleeper.home.take(sleeper)
            sleeper.home.knock()

    def may_sleep(self, sleeper: Request) -> bool:
        """Have `sleeper` taken home with the next answer; False where one is here already."""
        self.sleeper = sleeper  # announce, then look: in the other order an answer could come in between
        return not self.come


class SetRequest(Asking):
    """The request to one model of a set: to be asked, with a worker, or answered."""

    __slots__ = ("_arrivals", "_due", "_request", "_rows", "cause", "group", "has_stood_in", "may_have_run", "reply")

    def __init__(
        self, world: InferenceWorld, home: Replies, arrivals: Arrivals, model: str, inputs: Mapping[str, Any]
    ) -> None:
        """Ask nobody yet; the answer of a worker goes to `arrivals`."""
        super().__init__(world, home, None, model, inputs, None, None)
        self._arrivals = arrivals
        self._due: tuple[Account, RefId] | None = None
        """Whom to ask, pinned."""
        self._request: Request | None = None
        """What a worker has, or will have."""
        self._rows = 0
        self.reply: Reply | None = None
        self.group: str | None = None
        """Of the trial in which another version may stand in for the one that was picked; None: there is none."""
        self.has_stood_in = False
        """Whether it is the other one that was asked."""
        self.cause: SetRequest | None = None
        """Whose failure that was for."""
        self.may_have_run = False
        """Whether any version may have run it, in this try or one before."""

    # --- how it is ---

    @property
    def is_due(self) -> bool:
        """Whether somebody has to be asked."""
        return self._due is not None

    @property
    def is_inline(self) -> bool:
        """Whether that is done right here."""
        return self._due is not None and self._due[0].owner.inline

    @property
    def request(self) -> Request | None:
        """What a worker has, or will have."""
        return self._request

    @property
    def can_stand_in(self) -> bool:
        """Whether the version before is held for it."""
        return self._pinned is not None and self._pinned.standby is not None

    @property
    def model(self) -> str:
        """Whom it asks."""
        return self._model

    @property
    def key(self) -> VersionKey:
        """The version that was asked last, or is to be."""
        assert self._pinned is not None, "a version was picked"
        account = self._request.account if self._request is not None else self._pinned.account
        key: VersionKey = account.owner.key
        return key

    @property
    def has_run(self) -> bool:
        """Whether a version may have run it in vain."""
        return self._failure is not None and self._failure.ran != "no"

    # --- what is done with it ---

    def hold(self, pinned: Pinned, group: str | None, began_s: float) -> None:
        """Begin, anew perhaps, with what was pinned."""
        self._pinned, self.group, self._began_s = pinned, group, began_s
        self._due = pinned.account, pinned.ref
        self._meter = pinned.account.owner.meter  # for good: the saga may take it off at any moment
        self._failure, self.reply, self.has_stood_in, self.cause = None, None, False, None

    def check(self) -> None:
        """Check the inputs by whom is to be asked; raises `InvalidInput`."""
        assert self._due is not None, "somebody is to be asked"
        self._rows = self._due[0].owner.check(self._inputs)
        self._inputs = dict(self._inputs)  # what was checked is what is run, whatever the caller does next

    def ask(self) -> None:
        """Call an inline model right here, or put the request into the version's lane; raises what comes of that."""
        assert self._due is not None, "somebody is to be asked"
        (account, ref), self._due = self._due, None
        loaded: LoadedModel = account.owner
        if loaded.inline and not loaded.lane.halted and loaded.take_turn():
            try:
                reply = Reply(loaded.predict(dict(self._inputs), has_turn=True), loaded.key.version)
            finally:
                loaded.end_turn()
                account.release(ref)
            self.answer(reply, self._world.now())
            return
        request = Request(account, ref, self._inputs, self._rows, self._world.now(), self._arrivals, self)
        aside = loaded.inline and not loaded.lane.halted
        if self._world.host.run_aside(loaded, request) if aside else loaded.lane.offer(request):
            self._request = request
            return
        account.release(ref)
        raise not_admitted(loaded)

    def answer(self, reply: Reply, at_s: float) -> None:
        """Keep an answer, which came at engine time `at_s`."""
        reply.fell_back = self.has_stood_in
        self._request, self.reply, self.may_have_run = None, reply, True
        self.note(at_s, failed=False)

    def fail(self, error: ChangeoverError, at_s: float) -> None:
        """Keep in mind how it failed."""
        self._request = None
        self.may_have_run |= error.ran != "no"
        if not isinstance(error, LeaseRevoked | CallerError):  # which say nothing of the model
            self.note(at_s, failed=True)
        self._write_down(error)

    def told(self) -> ChangeoverError:
        """Return what the caller is told of it, and keep that no more."""
        return self._told()

    def note(self, at_s: float, *, failed: bool) -> None:
        """Write an end down where the version is being compared; of who stands in it would say nothing."""
        if self._meter is not None and not self.has_stood_in:
            self._meter.note(at_s, at_s - self._began_s, failed=failed)

    def stand_in(self, cause: SetRequest) -> None:
        """Have the version before asked, whatever became of the one on trial, because of who failed there."""
        pinned = self._pinned
        assert pinned is not None, "there is a trial"
        (standby, ref), pinned.standby = (pinned.standby, pinned.standby_ref), None
        self.let_go()
        assert standby is not None, "it is held"
        assert ref is not None, "it is held"
        if self._meter is not None:
            self._meter.note_fallback()
        self._due, self.reply, self.group = (standby, ref), None, None
        self.has_stood_in, self.cause = True, cause

    def forget(self) -> None:
        """Let go of an error that nobody will be told of: its frames lead back here, and to the model."""
        self._failure = self.cause = None

    def settle(self) -> None:
        """Let go of the version before: the trial's own answers count."""
        self.group = None
        self._dismiss()

    def let_go(self) -> None:
        """Go away without an answer: what is queued never runs, what runs keeps its version until it is done."""
        if self._due is not None:
            (account, ref), self._due = self._due, None
            account.release(ref)
        if self._request is not None:
            request, self._request = self._request, None
            request.waiter = None
            if request.account.owner.lane.withdraw(request):
                request.withdrawn = True
                request.account.release(request.ref)
            else:
                self.may_have_run = True
        self._dismiss()
