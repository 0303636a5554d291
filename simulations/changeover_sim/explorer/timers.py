"""Time in a schedule: a clock that stands still while anything can run, and deadlines that are steps like any other.

Owns the clock and the heap of deadlines. Spawns nothing. A deadline that has come waits in the run queue for its turn,
because on a real machine, too, others may run between the moment and its consequence.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from heapq import heappop, heappush

import trio

from changeover_sim.explorer import inside_trio

FIRST_COUNTER = 1 << 60
"""Counters of timers and threads begin here: what became ready in the same step is sorted, and tasks come first."""


class Clock:
    """Trio's clock, in seconds since the start of the schedule."""

    __slots__ = ("now",)

    def __init__(self) -> None:
        self.now = 0.0

    def start_clock(self) -> None:
        """There is nothing to start."""

    def current_time(self) -> float:
        """Return the virtual time."""
        return self.now

    def deadline_to_sleep_time(self, deadline: float) -> float:
        """Return the virtual seconds up to a deadline; nobody sleeps them, the clock is moved."""
        return max(0.0, deadline - self.now)


class Due:
    """The deadlines that have come and were not acted upon: one step, as they are for Trio."""

    __slots__ = ("_counter", "scopes", "time_s")

    def __init__(self, counter: int, time_s: float) -> None:
        self._counter = counter
        self.time_s = time_s
        """When the first of them came."""
        self.scopes: dict[trio.CancelScope, None] = {}
        """In the order of their deadlines, and of equal ones that of their making, which real time would give them."""


class Timers:
    """All deadlines of a run, in the order of time and then of their making; Trio's own breaks ties by address."""

    def __init__(self, clock: Clock, ready: Callable[[Due], None], unready: Callable[[Due], None]) -> None:
        """`ready` takes what has come, `unready` takes it back where it was moved or left before its turn."""
        self.clock = clock
        self._ready = ready
        self._unready = unready
        self._heap: list[tuple[float, int, trio.CancelScope]] = []
        self._made = FIRST_COUNTER
        self._due: Due | None = None

    def add(self, deadline: float, scope: trio.CancelScope) -> None:
        """Take a deadline, as Trio's own does."""
        self._made += 1
        heappush(self._heap, (deadline, self._made, scope))

    def remove(self, deadline: float, scope: trio.CancelScope) -> None:
        """Forget a deadline; what stands in the heap is recognised as stale when its time comes."""
        due = self._due
        if due is not None and scope in due.scopes:
            del due.scopes[scope]
            if not due.scopes:
                self._due = None
                self._unready(due)

    def next_deadline(self) -> float:
        """Return when the next deadline comes; infinity: none will."""
        while self._heap and not inside_trio.is_due(self._heap[0][2], self._heap[0][0]):
            heappop(self._heap)
        return self._heap[0][0] if self._heap else math.inf

    def expire(self, now: float) -> bool:
        """Make ready whatever is due, and return whether anything was."""
        if not self._heap or self._heap[0][0] > now:
            return False
        found = self._due
        while self.next_deadline() <= now:
            deadline, counter, scope = heappop(self._heap)
            if found is None:
                found = Due(counter, deadline)
            found.scopes[scope] = None
        if found is None or found is self._due:
            return found is not None
        self._due = found
        self._ready(found)
        return True

    def fire(self, due: Due) -> None:
        """Cancel the scopes whose deadlines have come: all in one step, as Trio does."""
        self._due = None
        for scope in due.scopes:
            inside_trio.expire(scope)

    def jump(self) -> bool:
        """Move the clock to the next deadline; False where there is none."""
        deadline = self.next_deadline()
        if deadline == math.inf:
            return False
        self.clock.now = max(self.clock.now, deadline)
        return self.expire(self.clock.now)
