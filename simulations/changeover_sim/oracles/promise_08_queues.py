"""Promise 8: queues are bounded, first-in-first-out, and no message ends without an outcome.

The queues are looked at inside: what waits in them is what nobody has an answer to, and nobody outside can see it.
"""

# pyright: reportPrivateUsage=false

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from changeover import VersionState
from changeover_sim.oracles.base import Oracle

if TYPE_CHECKING:
    from changeover.runtime.loaded import LoadedModel
    from changeover_sim.simulate.life import Left, Life
    from changeover_sim.simulate.run import Run

_EMPTY: tuple[Any, ...] = ()


class Promise08Queues(Oracle):
    """Looks at every queue after every step, and behind every door at rest."""

    promise = 8
    says = "queues are bounded, FIFO per sender and version, and no message ends without an outcome"

    def __init__(self, run: Run) -> None:
        """Know of no queue yet."""
        super().__init__(run)
        self._waited: dict[int, tuple[Any, ...]] = {}
        """By number of the incarnation, what waited in its lane after the last step; nothing for one that was empty."""

    def life_began(self, life: Life) -> None:
        """Forget the queues of the life before."""
        self._waited = {}

    # --- at every step ------------------------------------------------------------------------------------------------

    def step(self, life: Life) -> None:
        """Look at the lanes in which something waits, or did."""
        waited = self._waited
        for number, loaded in life.engine._host._living.items():
            waiting: deque[Any] = loaded.lane._waiting
            if waiting or number in waited:
                self._look(number, loaded, tuple(waiting))
            if loaded.aside and len(loaded.aside) > loaded.spec.queue_limit:
                self.broken(f"{loaded.key} answers {len(loaded.aside)} aside, and may {loaded.spec.queue_limit}")

    def _look(self, number: int, loaded: LoadedModel, waiting: tuple[Any, ...]) -> None:
        before = self._waited.get(number, _EMPTY)
        if waiting:
            self._waited[number] = waiting
        else:
            del self._waited[number]
        if waiting == before:
            return
        self.judged += 1
        if len(waiting) > loaded.spec.queue_limit:
            self.broken(f"{len(waiting)} requests wait for {loaded.key}, which has room for {loaded.spec.queue_limit}")
        stayed = [request for request in before if request in waiting]
        if list(waiting[: len(stayed)]) != stayed:
            self.broken(f"the queue of {loaded.key} was {_numbers(before)} and is {_numbers(waiting)}")
        if stayed:
            first = before.index(stayed[0])
            passed = [r for r in before[first:] if r not in waiting and not _left(r)]
            if passed:
                self.broken(f"{_numbers(passed)} of {loaded.key} went before {_numbers(stayed)}, who came first")

    # --- at rest ------------------------------------------------------------------------------------------------------

    def stuck(self, life: Life, left: Left) -> None:
        """Name the orders that have no outcome."""
        orders = [str(call) for call in left.calls if not call.is_request]
        if orders:
            self.broken(f"without an outcome: {'; '.join(orders)}; {left}")

    def at_rest(self, life: Life) -> None:
        """Look behind every door of an engine in which nothing goes on."""
        self._nobody_waits(life)
        self._nobody_compares(life)

    def life_over(self, life: Life) -> None:
        """Do the same, of an engine that is closed."""
        engine = life.engine
        self._nobody_waits(life)
        left = (engine._version_supervisor._children, engine._saga_supervisor._children)
        if any(left):
            self.broken(f"the engine is closed, and these tasks are left: {[sorted(map(str, some)) for some in left]}")

    def _nobody_waits(self, life: Life) -> None:
        """No order, reply, swap or watcher is left without its outcome."""
        self.judged += 1
        engine = life.engine
        host = engine._host
        left: dict[str, Any] = {
            "loads": list(host.jobs),
            "wants of room": list(host.room._line),
            "answers expected": list(host.replies._expected.values()),
            "answers that nobody took": list(host.replies._done),
            "swaps in line": [str(one) for one in engine._slots.everybody()],
            "swaps": [i for i, saga in engine._sagas.items() if not saga.ended.settled],
            "waits for zero": list(engine._waits._waiting),
        }
        for key, version in engine._versions.items():
            left[f"orders of {key}"] = [
                one
                for one in (version._loading, version._draining, version._current, *version._later, *version._warming)
                if one is not None
            ]
            left[f"messages to {key}"] = list(version._lane.waiting())
        for loaded in host.living():
            left[f"watchers of {loaded.key}"] = list(loaded.account._watchers)
            left[f"revokers of {loaded.key}"] = list(loaded.account._revokers)
            left[f"requests to {loaded.key}"] = [*loaded.lane._waiting, *loaded.aside]
        left = {what: some for what, some in left.items() if some}
        if left:
            told = "; ".join(f"{what}: {some}" for what, some in left.items())
            self.broken(f"without an outcome, though nothing goes on: {told}")

    def _nobody_compares(self, life: Life) -> None:
        """No trial, listener, meter, shadow or half of the traffic is left where no swap is on its way."""
        self.judged += 1
        engine = life.engine
        router = engine._router
        if router.listeners:
            self.broken(f"nothing is tried out, and {sorted(router.listeners)} is listened to")
        for model, route in router.snapshot.routes.items():
            weights = {share.version: share.weight for share in route.shares}
            if route.trial is not None or list(weights.values()) != [1.0]:
                self.broken(f"nothing is tried out, and the traffic of {model} is {weights}, on trial {route.trial}")
        for key, version in engine._versions.items():
            is_open = key in router._open
            if is_open != (version.state is VersionState.READY):
                self.broken(f"{key} is {version.state.value}, and {'can' if is_open else 'cannot'} be pinned")
            if is_open and router.active(key.model) is None:
                self.broken(f"{key} is ready, and {key.model} has no traffic")
            active = router.active(key.model) == key.version
            if is_open and active and key.model not in router.direct:
                self.broken(f"{key} has all traffic, and requests are led to it by the slow way")
            loaded = version.loaded
            if loaded is not None and (loaded.meter is not None or loaded.shadow is not None):
                self.broken(f"nothing is tried out, and {key} is compared: {loaded.meter}, {loaded.shadow}")


def _left(request: Any) -> bool:
    """Return whether a request was taken out of the queue, and not by a worker: its caller went, or it was answered."""
    return bool(request.withdrawn or request.error is not None or request.waiter is None)


def _numbers(requests: Any) -> list[int]:
    """Return the numbers of requests."""
    return [int(request.inputs["x"][0, 0]) if request.inputs else -1 for request in requests]
