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

FAR_S = 1e9
"""What Trio is told instead of a time to sleep: it never sleeps here, the clock is moved."""

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
        """Return zero for what is due."""
        return 0.0 if deadline <= self.now else FAR_S


class Due:
    """A deadline that has come and has not been acted upon."""

    __slots__ = ("_counter", "deadline", "scope")

    def __init__(self, counter: int, deadline: float, scope: trio.CancelScope) -> None:
        self._counter = counter
        self.deadline = deadline
        self.scope = scope


class Timers:
    """All deadlines of a run, in the order of time and then of their making; Trio's own breaks ties by address."""

    def __init__(self, clock: Clock, ready: Callable[[Due], None], unready: Callable[[Due], None]) -> None:
        """`ready` takes a deadline that has come, `unready` one that was moved or left before its turn."""
        self.clock = clock
        self._ready = ready
        self._unready = unready
        self._heap: list[tuple[float, int, trio.CancelScope]] = []
        self._made = FIRST_COUNTER
        self._due: dict[trio.CancelScope, Due] = {}

    def add(self, deadline: float, scope: trio.CancelScope) -> None:
        """Take a deadline, as Trio's own does."""
        self._made += 1
        heappush(self._heap, (deadline, self._made, scope))

    def remove(self, deadline: float, scope: trio.CancelScope) -> None:
        """Forget a deadline; what stands in the heap is recognised as stale when its time comes."""
        due = self._due.pop(scope, None)
        if due is not None:
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
        found = False
        while self.next_deadline() <= now:
            deadline, counter, scope = heappop(self._heap)
            if scope not in self._due:
                found = True
                self._due[scope] = due = Due(counter, deadline, scope)
                self._ready(due)
        return found

    def fire(self, due: Due) -> None:
        """Cancel the scope whose deadline has come."""
        self._due.pop(due.scope, None)
        inside_trio.expire(due.scope)

    def jump(self) -> bool:
        """Move the clock to the next deadline; False where there is none."""
        deadline = self.next_deadline()
        if deadline == math.inf:
            return False
        self.clock.now = max(self.clock.now, deadline)
        return self.expire(self.clock.now)
