"""What a version's mailbox carries: orders with promises, reports, and the two attempts that orders gather round.

An attempt (`Loading`, `Draining`) is what joined orders share; a report about an attempt that is over is stale.
Owned by one version actor; spawns nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Literal

import attrs
import trio

from changeover.core.lifecycle import Event
from changeover.core.messages import STREAMS, USES
from changeover.core.snapshots import DrainOutcome
from changeover.core.values import Drain, VersionSpec, WarmUpData
from changeover.errors import ChangeoverError
from changeover.runtime import sites
from changeover.runtime.host import LoadJob
from changeover.runtime.loaded import LoadedModel
from changeover.runtime.mailbox import Promise


@attrs.define(eq=False)
class LoadOrder:
    """Somebody wants the version ready."""

    timeout_s: float | None = None
    """Until it is ready, in seconds; None: the spec's."""
    loaded: Promise[None] = attrs.field(factory=Promise[None])
    """Kept when the loader has returned."""
    ready: Promise[None] = attrs.field(factory=Promise[None])
    """Kept when the version can take requests; fails with why it cannot."""
    began: bool = False
    """True where this order brought the version into use, and did not join another one."""
    timer: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    """Its time limit."""
    timed: bool = False
    """True once the limit runs."""

    def limit_s(self, spec: VersionSpec) -> float:
        """Return how long loading and warming up may take, in seconds."""
        return self.timeout_s or spec.load_timeout_s

    def settle(self) -> None:
        """Say that the version is ready."""
        self.timer.cancel()
        self.loaded.settle(None)
        self.ready.settle(None)

    def fail(self, error: ChangeoverError) -> None:
        """Say why it is not."""
        self.timer.cancel()
        self.loaded.fail(error)
        self.ready.fail(error)


@attrs.define(eq=False)
class DrainOrder:
    """Somebody wants the version empty and closed."""

    drain: Drain
    outcome: Promise[DrainOutcome] = attrs.field(factory=Promise[DrainOutcome])
    """Kept when nobody holds it, when the time is up, or when the drain is called off."""
    closed: Promise[None] = attrs.field(factory=Promise[None])
    """Kept when the model is closed; fails where this order will not lead to that."""
    calls_off_load: bool = False
    """True where it also ends a load that somebody waits for: the newest order wins."""
    rolled_back: bool = False
    """True where it was given back because its own time was up, and not because somebody wanted the version."""

    def settle(self) -> None:
        """Say that there was nothing left to close."""
        self.outcome.settle(DrainOutcome("drained", (), 0.0))
        self.closed.settle(None)

    def fail(self, error: ChangeoverError) -> None:
        """Say why it will not be."""
        self.outcome.fail(error)
        self.closed.fail(error)


@attrs.define(eq=False)
class WarmOrder:
    """Somebody wants data run through the version."""

    data: WarmUpData
    done: Promise[None] = attrs.field(factory=Promise[None])

    def fail(self, error: ChangeoverError) -> None:
        """Say why it was not."""
        self.done.fail(error)


@attrs.define(eq=False)
class DropOrder:
    """Somebody wants to forget the version; who holds it still keeps the model until he leaves."""

    done: Promise[None] = attrs.field(factory=Promise[None])
    """Kept when it rests; fails where it is in use."""

    def fail(self, error: ChangeoverError) -> None:
        """Say why it cannot be."""
        self.done.fail(error)


Order = LoadOrder | DrainOrder | WarmOrder | DropOrder


@attrs.define(eq=False)
class CalledOff:
    """Who gave a load order does not wait any more."""

    order: LoadOrder
    done: Promise[None] = attrs.field(factory=Promise[None])
    """Kept when the actor knows: from then on the version's state says what became of the load."""


@attrs.frozen
class Evict:
    """The memory of a model that nobody uses is wanted for another."""

    loaded: LoadedModel


@attrs.frozen
class Late:
    """A load order is out of time."""

    order: LoadOrder


@attrs.define(eq=False)
class Loading:
    """One attempt to load, and everybody who waits for it."""

    orders: list[LoadOrder]
    job: LoadJob | None = None
    tries: int = 0
    """How often it has failed."""
    timer: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    """Until it is tried again."""

    def end(self, error: ChangeoverError | None) -> None:
        """Answer everybody: the version is ready, or why not."""
        for order in self.orders:
            if error is None:
                order.settle()
            else:
                order.fail(error)


def _nobody() -> None:
    """Watch nothing."""


Result = Literal["drained", "quarantined", "given_back"]


@attrs.define(eq=False)
class Limit:
    """How long holders of some kinds are waited for."""

    kinds: frozenset[str]
    deadline_s: float | None = None
    """By the engine's clock; None: no bound, or none of them is left."""
    drain: Drain = attrs.field(factory=Drain)
    """What the order with the earliest deadline says: it decides what happens then."""
    revoked: bool = False
    """True once they were asked to let go."""
    is_spent: bool = False
    """True once all was done to them that is done."""
    _bounds_s: list[float] = attrs.field(factory=list[float])
    """When each order must be answered, its grace included: no grace of one outlasts another's bound."""
    _own_bound_s: float = 0.0
    """That of the order that decides."""

    def hurry(self, drain: Drain, deadline_s: float) -> bool:
        """Bring the deadline forward as an order wants it; False where that would put it off."""
        bound_s = deadline_s + (drain.grace_s if drain.then == "cancel" else 0.0)
        self._bounds_s.append(bound_s)
        if self.revoked:
            deadline_s = bound_s  # they are asked already; at its deadline a "cancel" would only wait for them
        if self.deadline_s is not None and self.deadline_s <= deadline_s:
            return False
        self.drain, self._own_bound_s = drain, bound_s
        self.deadline_s = deadline_s
        return True

    def expire(self, held: Collection[str], now: float) -> Literal["wait", "revoke", "give back", "quarantine"]:
        """Return what happens at engine time `now`, with holders of the kinds `held`."""
        if self.deadline_s is None or self.deadline_s > now:
            return "wait"
        if self.kinds.isdisjoint(held):
            self.deadline_s = None
            return "wait"
        if self.drain.then == "rollback":
            return "give back"
        if self.drain.then == "cancel" and not self.revoked:
            self.revoked = True
            self._bounds_s.remove(self._own_bound_s)
            self.deadline_s = min([now + self.drain.grace_s, *self._bounds_s])  # from now: the loop may be late
            return "revoke"
        if sites.ON and self.revoked:
            sites.sometimes("grace-spent")
        self.is_spent, self.deadline_s = True, None
        return "quarantine"

    def is_asking(self, held: Collection[str]) -> bool:
        """Return whether holders of its kinds were asked to leave, or will be, and still have time.

        Once that is spent nobody who joins begins it anew.
        """
        has_time = self.deadline_s is not None and not self.is_spent
        return has_time and self.drain.then == "cancel" and not self.kinds.isdisjoint(held)


@attrs.define(eq=False)
class Draining:
    """One attempt to empty the version, and everybody who waits for it."""

    orders: list[DrainOrder]
    began_s: float
    """By the engine's clock."""
    note: Callable[[float], None]
    """Told, once, how long it took."""
    on_zero: Callable[[], None] = _nobody
    """Watches the account for zero."""
    timer: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    limits: tuple[Limit, Limit] = attrs.field(factory=lambda: (Limit(USES), Limit(STREAMS)))
    _is_settled: bool = False
    _rings_s: float = 0.0
    """For when the timer was last set."""

    def hurry(self, drain: Drain, now: float) -> bool:
        """Bring the deadlines forward as an order of engine time `now` wants them; False where that changes nothing."""
        if drain.then == "wait":
            return False
        uses, streams = self.limits
        stream_s = drain.deadline_s if drain.stream_deadline_s is None else drain.stream_deadline_s
        sooner = uses.hurry(drain, now + drain.deadline_s)
        return streams.hurry(drain, now + stream_s) or sooner

    def next_ring_s(self, now: float) -> float | None:
        """Set the timer anew, and return in how many seconds it must ring; None: never."""
        self.timer.cancel()
        self.timer = trio.CancelScope()
        deadlines_s = [limit.deadline_s for limit in self.limits if limit.deadline_s is not None]
        self._rings_s = min(deadlines_s, default=0.0)
        return max(0.0, self._rings_s - now) if deadlines_s else None

    def expire(self, held: Collection[str], now: float) -> frozenset[str] | Literal["give back", "quarantine"]:
        """Return what is left for the version to do: which kinds of holders it revokes now, or how the drain ends.

        It ends in quarantine when one limit is passed and the other has nobody whom it asks, or will ask, to leave.
        """
        now = max(now, self._rings_s)  # the timer may be a rounding early
        revoked: frozenset[str] = frozenset()
        for limit in self.limits:
            verdict = limit.expire(held, now)
            if verdict == "give back":
                for order in self.orders:
                    order.rolled_back = True
                return verdict
            if verdict == "revoke":
                revoked |= limit.kinds
        is_out_of_time = any(limit.is_spent and not limit.kinds.isdisjoint(held) for limit in self.limits)
        if is_out_of_time and not any(limit.is_asking(held) for limit in self.limits):
            return "quarantine"
        return revoked

    def outcome(self, result: Result, loaded: LoadedModel | None, now: float) -> DrainOutcome:
        """Return how it ends at engine time `now`, with who holds it then."""
        held = loaded is not None and result != "drained"
        return DrainOutcome(result, loaded.account.holders(now) if loaded and held else (), now - self.began_s)

    def settle(self, outcome: DrainOutcome) -> None:
        """Tell everybody how it ended."""
        if not self._is_settled:
            self._is_settled = True
            self.note(outcome.duration_s)
        self.timer.cancel()
        for order in self.orders:
            order.outcome.settle(outcome)

    def end(self, error: ChangeoverError | None) -> None:
        """Answer everybody: the model is closed, or why it will not be."""
        self.timer.cancel()
        for order in self.orders:
            if error is None:
                order.closed.settle(None)
            else:
                order.fail(error)


@attrs.frozen
class Happened:
    """What a thread, a timer or a watcher reports."""

    event: Event
    about: Loading | Draining | LoadedModel
    """What it is about; where that is over, the report is stale."""
    loaded: LoadedModel | None = None
    """What a load brought."""
    error: BaseException | None = None


Message = Order | CalledOff | Late | Evict | Happened
