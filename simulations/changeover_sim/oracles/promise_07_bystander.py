"""Promise 7: a slow, hung or failing model never delays another: those that nothing happens to are never disturbed.

Owns the queue of each bystander as it must be: each request has a worker as soon as those before it have let go of one.
Memory is the one thing that all share: under a budget a bystander that is not there just now may be waited for.
"""

# pyright: reportPrivateUsage=false

from __future__ import annotations

from heapq import heappop, heappush
from typing import TYPE_CHECKING

import attrs

from changeover_sim.oracles.base import Oracle
from changeover_sim.oracles.states import EPS_S, Move, States

if TYPE_CHECKING:
    from changeover import Event
    from changeover_sim.simulate.calls import Call
    from changeover_sim.simulate.cast import Part
    from changeover_sim.simulate.life import Left, Life
    from changeover_sim.simulate.run import Run

_NEVER = ("version_restarting", "load_stuck", "load_retrying", "close_failed")
"""What is never told of a version that no fault has struck; but who waits for one to be back may have gone away."""
_COURSE = ("loading", "warming", "ready")
"""The states that a version goes through of which nothing is ordered, until its engine is closed."""
_WORKER = "worker "


@attrs.define(eq=False)
class _Queue:
    """The workers of a bystander, and when each of them is free at the latest."""

    part: Part
    free_s: list[float]
    undisturbed_s: float | None = None
    """Since when it has been ready; None: it is not."""

    open: set[int] = attrs.field(factory=set[int])
    """Requests that have not ended. Those that are there when it becomes ready come first."""
    last: tuple[float, list[int]] = attrs.field(factory=lambda: (-1.0, list[int]()))
    """A moment, and the requests that began in it: which of them comes first in the queue is nobody's business."""

    def take(self, number: int, now: float) -> tuple[float, list[int]]:
        """Return when a request of now has its answer at the latest, and all that share this time with it."""
        if self.last[0] != now:
            self.last = (now, [])
        self.last[1].append(number)
        if self.part.execution == "inline":
            return self.last
        end_s = max(now, heappop(self.free_s)) + max(self.part.predict_s)
        heappush(self.free_s, end_s)
        return end_s, self.last[1]


class Promise07Bystander(Oracle):
    """Times the requests and the loads of bystanders, and looks for threads without end."""

    promise = 7
    says = "a slow, hung or failing model never delays another"

    def __init__(self, run: Run) -> None:
        """Watch a run."""
        super().__init__(run)
        self._shares_memory = run.shape.options.get("memory_budget_bytes") is not None
        self._begin_anew()

    def _begin_anew(self) -> None:
        self._states = States()
        self._queues = {
            part.model: _Queue(part, [0.0] * part.workers) for part in self.run.shape.parts if part.bystander
        }
        self._loading_s: dict[str, float] = {}
        """By model, when the load of a bystander began."""
        self._due_s: dict[int, float] = {}
        """By number, when a request has its answer at the latest."""

    def life_began(self, life: Life) -> None:
        """Begin anew, with workers that are free."""
        self._begin_anew()

    # --- versions -----------------------------------------------------------------------------------------------------

    def event(self, life: Life, event: Event) -> None:
        """Hear what becomes of a bystander: it is loaded, and stays."""
        move = self._states.hear(event)
        queue = self._queues.get(event.model or "")
        if queue is None or life.closing:
            return
        if event.kind in _NEVER and not (event.kind == "load_stuck" and self._shares_memory):
            self.broken(f"{event.kind} of {queue.part.name}, which no fault has struck: {dict(event.detail)}")
        elif move is not None and move.now != "registered":
            self._follow(queue, move)

    def _follow(self, queue: _Queue, move: Move) -> None:
        allowed = self._shares_memory or move.now in _COURSE
        self.holds(allowed, f"{move.name} is {move.now} at {move.at_s:g}, and nobody has ordered that")
        queue.undisturbed_s = move.at_s if move.now == "ready" else None
        if move.now == "ready":
            queue.free_s = [move.at_s] * queue.part.workers
            for number in sorted(queue.open):
                queue.take(number, move.at_s)
        if move.now == "loading":
            self._loading_s[move.model] = move.at_s
        elif move.now == "ready" and move.before == "warming":
            self._judge_load(queue.part, move)

    def _judge_load(self, part: Part, move: Move) -> None:
        """Judge how long a load took; under a budget it may have waited for room."""
        took_s = move.at_s - self._loading_s.pop(move.model)
        most_s = max(part.load_s) + part.warm_ups * max(part.warm_s)
        in_time = took_s <= most_s + EPS_S or self._shares_memory
        self.holds(in_time, f"{move.name} was ready after {took_s:g} s, and its load takes {most_s:g} s")

    # --- requests -----------------------------------------------------------------------------------------------------

    def began(self, call: Call) -> None:
        """Give a request its place in the queue."""
        queue = self._queues.get(call.model or "")
        if queue is None or call.kind != "infer" or call.life.closing:
            return
        queue.open.add(call.number)
        if queue.undisturbed_s is None:
            return
        due_s, together = queue.take(call.number, call.began_s)
        self._due_s[call.number] = due_s
        self._due_s.update((number, due_s) for number in together if number in self._due_s)

    def ended(self, call: Call) -> None:
        """Judge a request that had nothing to wait for but its own model."""
        if call.model in self._queues:
            self._queues[call.model].open.discard(call.number)
        due_s = self._due_s.pop(call.number, None)
        if due_s is None or call.life.closing or call.ended_s is None:
            return
        queue = self._queues[call.model or ""]
        if call.scope.cancel_called:
            return  # whether it still ran, nobody knows
        if queue.undisturbed_s is None or queue.undisturbed_s > call.began_s:
            return  # its model was evicted, which `event` judges
        self.judged += 1
        took_s, least_s = (
            call.ended_s - call.began_s,
            0.0 if queue.part.execution == "inline" else min(queue.part.predict_s),
        )
        if call.end != "returned":
            self.broken(f"{call}, though nothing was wrong with its model: {call.error}")
        elif call.ended_s > due_s + EPS_S:
            self.broken(f"{call}: it took {took_s:g} s, and was to be answered by {due_s:g}")
        elif took_s < least_s - EPS_S:
            self.broken(f"{call}: it took {took_s:g} s, and its model takes {least_s:g} s")

    # --- threads ------------------------------------------------------------------------------------------------------

    def at_rest(self, life: Life) -> None:
        """Look whether exactly those workers are there that serve something."""
        serving = {f"{_WORKER}{name} " for name, state in self._states.of.items() if state == "ready"}
        names = [task.name for task in life._threads.child_tasks if task.name.startswith(_WORKER)]  # of the world
        lost = sorted(name for name in names if f"{name.rpartition(' ')[0]} " not in serving)
        self.holds(not lost, f"at rest there are still threads of versions that are not there: {lost}")
        for name, part in life.cast.parts.items():
            if self._states.get(name) == "ready" and part.execution == "worker":
                many = sum(thread.startswith(f"{_WORKER}{name} ") for thread in names)
                self.holds(many == part.workers, f"at rest {name} has {many} workers, and was to have {part.workers}")

    def stuck(self, life: Life, left: Left) -> None:
        """Look whether a thread has no end, though everything that hung was let go."""
        self.holds(not left.threads, f"threads without end: {left}")
