"""What a version's mailbox carries: orders with promises, reports, and the two attempts that orders gather round.

An attempt (`Loading`, `Draining`) is what joined orders share; a report about an attempt that is over is stale.
Owned by one version actor; spawns nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import attrs
import trio

from changeover.core.ledger import Account
from changeover.core.lifecycle import Event
from changeover.core.snapshots import DrainOutcome
from changeover.core.values import Drain, VersionSpec
from changeover.errors import ChangeoverError
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

    data: tuple[Mapping[str, Any], ...]
    done: Promise[None] = attrs.field(factory=Promise[None])

    def fail(self, error: ChangeoverError) -> None:
        """Say why it was not."""
        self.done.fail(error)


Order = LoadOrder | DrainOrder | WarmOrder


@attrs.define(eq=False)
class CalledOff:
    """Who gave a load order does not wait any more."""

    order: LoadOrder
    done: Promise[None] = attrs.field(factory=Promise[None])
    """Kept when the actor knows: from then on the version's state says what became of the load."""


@attrs.frozen
class Late:
    """A load order is out of time."""

    order: LoadOrder


@attrs.define(eq=False)
class Loading:
    """One attempt to load, and everybody who waits for it."""

    orders: list[LoadOrder]
    job: LoadJob | None = None

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
class Draining:
    """One attempt to empty the version, and everybody who waits for it."""

    orders: list[DrainOrder]
    began_s: float
    """By the engine's clock."""
    deadline_s: float | None = None
    """By the engine's clock; None: no bound."""
    on_zero: Callable[[], None] = _nobody
    """Watches the account for zero."""
    timer: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    drain: Drain = attrs.field(factory=Drain)
    """What the order with the earliest deadline says: it decides what happens then."""
    revoked: bool = False
    """True once the async leases were asked to let go."""
    _bounds_s: list[float] = attrs.field(factory=list[float])
    """The deadlines of all orders: no grace of one outlasts another's."""

    def hurry(self, drain: Drain, now: float) -> bool:
        """Bring the deadline forward as an order of engine time `now` wants it; False where that would put it off."""
        if drain.then == "wait":
            return False
        deadline_s = now + drain.deadline_s
        if self.revoked and drain.then == "cancel":
            deadline_s += drain.grace_s  # the leases are asked already; at its deadline it would only wait for them
        self._bounds_s.append(deadline_s)
        if self.deadline_s is not None and self.deadline_s <= deadline_s:
            return False
        self.drain = drain
        self._until(deadline_s)
        return True

    def revoke(self, account: Account, now: float) -> bool:
        """Ask the async leases to let go, and give them their grace; False where that was done already."""
        if self.revoked:
            return False
        self.revoked = True
        account.revoke()
        passed_s = self.deadline_s if self.deadline_s is not None else now  # not `now`, which may be a rounding before
        self._until(min([now + self.drain.grace_s, *(bound_s for bound_s in self._bounds_s if bound_s > passed_s)]))
        return True

    def _until(self, deadline_s: float) -> None:
        self.deadline_s = deadline_s
        self.timer.cancel()
        self.timer = trio.CancelScope()

    def expire(self, loaded: LoadedModel | None, now: float) -> Literal["give back", "grace", "quarantine"]:
        """Do to orders and holders what the drain says of its deadline; return what is left for the version to do."""
        if self.drain.then == "rollback":
            for order in self.orders:
                order.rolled_back = True
            return "give back"
        revoked = self.drain.then == "cancel" and loaded is not None and self.revoke(loaded.account, now)
        return "grace" if revoked else "quarantine"

    def answer_late(self, order: DrainOrder, loaded: LoadedModel | None, now: float) -> None:
        """Answer an order that finds the version in quarantine; one that cancels asks its holders to leave."""
        if order.drain.then == "cancel" and loaded is not None:
            loaded.account.revoke()
        order.outcome.settle(self.outcome("quarantined", loaded, now))

    def outcome(self, result: Result, loaded: LoadedModel | None, now: float) -> DrainOutcome:
        """Return how it ends at engine time `now`, with who holds it then."""
        held = loaded is not None and result != "drained"
        return DrainOutcome(result, loaded.account.holders(now) if loaded and held else (), now - self.began_s)

    def settle(self, outcome: DrainOutcome) -> None:
        """Tell everybody how it ended."""
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


Message = Order | CalledOff | Late | Happened
