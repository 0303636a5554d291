"""One drain of a version as an oracle sees it: who ordered it and when, how long it may take, and how it may end.

Owns the orders of one drain, each with the moment in which it was posted. It decides nothing and looks at nothing else.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

import attrs
import trio

from changeover_sim.oracles.states import EPS_S

if TYPE_CHECKING:
    from changeover import Drain
    from changeover.runtime.orders import DrainOrder
    from changeover.runtime.version import Version
    from changeover_sim.simulate.cast import Made

NEVER = float("inf")


def limit_s(drain: Drain, kind: str) -> float:
    """Return for how long a drain waits for holders of a kind, with the grace of those who are asked to let go."""
    if drain.then == "wait":
        return NEVER
    is_other = kind == "stream" and drain.stream_deadline_s is not None
    deadline_s = drain.stream_deadline_s if is_other else drain.deadline_s
    return (deadline_s or 0.0) + (drain.grace_s if drain.then == "cancel" else 0.0)


def bound_s(drain: Drain) -> float:
    """Return for how long a drain may go on, whoever holds the version."""
    return max(limit_s(drain, "request"), limit_s(drain, "stream"))


@attrs.frozen
class Ordered:
    """One order that a drain has."""

    drain: Drain
    at_s: float

    @property
    def asks_s(self) -> float:
        """When it asks the first holders to let go; never where that is not its policy."""
        if self.drain.then != "cancel":
            return NEVER
        streams_s = self.drain.stream_deadline_s
        return self.at_s + min(self.drain.deadline_s, self.drain.deadline_s if streams_s is None else streams_s)

    def __str__(self) -> str:
        """Return what it says, and when it was posted."""
        drain = self.drain
        grace = f" and {drain.grace_s:g} s" if drain.then == "cancel" else ""
        streams = f", streams {drain.stream_deadline_s:g} s" if drain.stream_deadline_s is not None else ""
        return f"{drain.then} after {drain.deadline_s:g} s{grace}{streams} (ordered at {self.at_s:g})"


@attrs.define(eq=False)
class Episode:
    """One drain, from the moment in which its version takes no more requests until it is closed, or taken back."""

    name: str
    version: Version
    began_s: float
    orders: list[DrainOrder]
    """Those of the engine, which grow while others join; empty for an eviction, which nobody ordered by a drain."""
    known: list[Ordered] = attrs.field(factory=list[Ordered])
    due_s: float = NEVER
    """When it must have had an outcome."""
    is_certain: bool = True
    """False where somebody has joined at a time that is not known."""
    empty_s: float | None = None
    """Since when nobody holds it; None: somebody does."""
    left_s: float | None = None
    """When it had its outcome."""
    result: str = ""
    """The state that it went to then."""
    made: Made | None = None
    """The model that was closed then, or is about to be; None: it was kept."""
    held: int = 0
    """How many references were held then."""
    named: tuple[str, ...] = ()
    """The ids of those who told that they hold it then."""

    def look(self, *, late: bool = False) -> None:
        """Note the orders that have come since the last look; `late`: that may be some time ago."""
        now = trio.current_time()
        for order in self.orders[len(self.known) :]:
            at_s = now if self.known else self.began_s  # the first one has begun it
            self.is_certain &= not (late and self.known)
            self.known.append(Ordered(order.drain, at_s))
            self.due_s = min(self.due_s, at_s + bound_s(order.drain))

    @property
    def policies(self) -> frozenset[str]:
        """What its orders want to be done where it is out of time."""
        return frozenset(order.drain.then for order in self.known)

    def earliest_s(self, kinds: Collection[str], *thens: str) -> float:
        """Return the first moment at which an order of these policies has no more time for one of these kinds."""
        times = (
            order.at_s + limit_s(order.drain, kind)
            for order in self.known
            for kind in kinds
            if order.drain.then in thens
        )
        return min(times, default=NEVER)

    @property
    def only(self) -> Ordered | None:
        """The order that it has; None where several have joined, who may hurry each other, or none."""
        return self.known[0] if len(self.known) == 1 else None

    def is_at(self, moment_s: float) -> bool:
        """Return whether it had its outcome at a moment."""
        return self.left_s is not None and abs(self.left_s - moment_s) <= EPS_S

    def __str__(self) -> str:
        """Return a clause."""
        orders = "; ".join(map(str, self.known)) or "nobody's"
        return f"the drain of {self.name} since {self.began_s:g}: {orders}"
