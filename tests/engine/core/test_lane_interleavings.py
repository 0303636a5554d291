"""No request is lost, run twice or slept through: the request lane under every interleaving of its byte code.

See test_ledger_interleavings.py for the model. Traced are `RequestLane` and its `_discard`. A worker that would sleep
ends its program instead, and the check asks whether somebody would have woken it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import pytest

from changeover.core.values import Batching
from changeover.runtime.mailbox import RequestLane, _discard
from tests.engine.core.interleave import Case, Explorer, Make, Pause, Violation


class Row:
    """A request."""

    def __init__(self, name: int, rows: int) -> None:
        self.name = name
        self.rows = rows
        self.queued_at_s = 0.0
        self.admitted = False
        self.sender: object = None
        self.outcomes: list[str] = []


class World:
    """A lane, requests for it, and workers."""

    def __init__(
        self, pause: Pause, kind: type[RequestLane[Row]], limit: int, batching: Batching | None, rows: Sequence[int]
    ) -> None:
        self.pause = pause
        self.limit = limit
        self.lane = kind(limit, batching)
        self.requests = [Row(name, count) for name, count in enumerate(rows)]
        self.halted = False
        self.wakers: list[list[None]] = []
        self.asleep: list[tuple[list[None], int]] = []
        self.wrong: list[str] = []

    def offer(self, name: int) -> bool:
        """Offer a request, and look at the bound."""
        request = self.requests[name]
        if not self.lane.offer(request):
            request.outcomes.append("refused")
            return False
        request.admitted = True
        waiting = [r.name for r in self.lane._waiting if r.admitted]
        if len(waiting) > self.limit:
            self.wrong.append(f"{waiting} were admitted where {self.limit} may wait")
        return True

    def offer_and_leave(self, name: int) -> None:
        """Offer a request, and go away before it is answered."""
        if self.offer(name):
            self.pause()
            if self.lane.withdraw(self.requests[name]):
                self.requests[name].outcomes.append("withdrawn")

    def work(self) -> None:
        """Be a worker, as `ports.Threads` is one, until there is nothing to do."""
        last: dict[object, int] = {}
        step = self.lane.next_step(0.0)
        while not step.ended:
            if step.batch:
                self.run(step.batch, last)
            else:
                woken: list[None] = []
                self.wakers.append(woken)
                waker = partial(woken.append, None)
                self.lane.park(waker, step.at_least)
                self.pause()
                if not woken:
                    self.asleep.append((woken, step.at_least))
                    return
                self.lane.unpark(waker)
            step = self.lane.next_step(0.0)

    def run(self, batch: Sequence[Row], last: dict[object, int]) -> None:
        """Run requests; those of one sender must come to a worker in the order in which he put them in."""
        for request in batch:
            request.outcomes.append("run")
            if last.get(request.sender, -1) > request.name:
                self.wrong.append(f"request {request.name} came late")
            last[request.sender] = request.name

    def close(self) -> None:
        """Close the lane and answer what waited."""
        for request in self.lane.close():
            request.outcomes.append("answered")

    def halt(self) -> None:
        """Let the workers end: what they have not taken is left for the close."""
        self.halted = True
        self.lane.halt()

    def check(self) -> Iterator[str]:
        """Yield what is wrong at rest, then let those who were woken finish."""
        yield from self.wrong
        if any(len(woken) > 1 for woken in self.wakers):
            yield "a waker was called twice"
        for woken, at_least in self.asleep:
            rows = sum(request.rows for request in self.lane._waiting)
            if not woken and (self.lane.closed or self.halted or rows >= at_least):
                yield f"a worker sleeps for {at_least} while {rows} rows wait, closed: {self.lane.closed}"
        if self.asleep or not self.lane.closed:
            self.close()
        for request in self.requests:
            if len(request.outcomes) != 1:
                yield f"request {request.name}: {request.outcomes}"


def world(
    *programs: Callable[[World], object],
    kind: type[RequestLane[Row]] = RequestLane,
    limit: int = 4,
    batching: Batching | None = None,
    rows: Sequence[int] = (1,),
) -> Make:
    """Make cases with one request for each entry of `rows`."""

    def make(pause: Pause) -> Case:
        it = World(pause, kind, limit, batching, rows)
        return Case([partial(program, it) for program in programs], it.check)

    return make


def offer(*names: int) -> Callable[[World], None]:
    """Make a program that offers requests one after the other."""

    def program(it: World) -> None:
        for name in names:
            it.requests[name].sender = names
            it.offer(name)

    return program


def offer_and_leave(name: int) -> Callable[[World], None]:
    """Make a program that offers a request and withdraws it."""
    return lambda it: it.offer_and_leave(name)


PAIR = Batching(max_batch=2, max_delay_s=1.0)

PROGRAMS: dict[str, Make] = {
    "an offer and a worker": world(offer(0), World.work),
    "two offers and a worker": world(offer(0, 1), World.work, rows=(1, 1)),
    "two offers and a worker that waits for both": world(offer(0, 1), World.work, batching=PAIR, rows=(1, 1)),
    "a long offer and a worker that waits for a batch": world(offer(0), World.work, batching=PAIR, rows=(2,)),
    "a long offer fills the batch that a worker waits for": world(
        offer(0, 1), World.work, batching=Batching(max_batch=3, max_delay_s=1.0), rows=(1, 2)
    ),
    "an offer longer than any batch and a worker": world(offer(0), World.work, batching=PAIR, rows=(5,)),
    "a withdrawal and a worker": world(offer_and_leave(0), World.work),
    "an offer and a close": world(offer(0), World.close),
    "a worker and a halt": world(World.work, lambda it: (it.offer(0), it.halt())),
    "a worker and a close": world(World.work, lambda it: (it.offer(0), it.close())),
    "three offers into a lane for two": world(offer(0, 1), offer(2), limit=2, rows=(1, 1, 1)),
}
"""Races of two threads."""

PROGRAMS_OF_THREE: dict[str, Make] = {
    "an offer, a worker and a close": world(offer(0), World.work, World.close),
    "a withdrawal, a worker and a close": world(offer_and_leave(0), World.work, World.close),
    "two offers into a lane for one, and a worker": world(offer(0), offer(1), World.work, limit=1, rows=(1, 1)),
    "two threads offer one batch to a worker": world(offer(0), offer(1), World.work, batching=PAIR, rows=(1, 1)),
    "two workers and two offers": world(World.work, World.work, offer(0, 1), rows=(1, 1)),
}
"""Races of three threads."""


@pytest.fixture(scope="module")
def explorer() -> Iterator[Explorer]:
    """Threads that switch wherever the lane looks at, or changes, what others see."""
    with Explorer(RequestLane, _discard) as explorer:
        yield explorer


@pytest.mark.parametrize(("preemptions", "least"), [(1, 20), pytest.param(2, 100, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", PROGRAMS)
def test_every_request_has_one_outcome(explorer: Explorer, name: str, preemptions: int, least: int) -> None:
    """Each request is refused, run, withdrawn or answered, once; no worker sleeps through one; the bound holds."""
    explored = explorer.explore(PROGRAMS[name], preemptions=preemptions)
    assert explored > least, "the trace function saw next to nothing"


@pytest.mark.parametrize("name", PROGRAMS_OF_THREE)
def test_every_request_has_one_outcome_among_three(explorer: Explorer, name: str) -> None:
    """The same with three threads."""
    assert explorer.explore(PROGRAMS_OF_THREE[name], preemptions=1) > 100


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in PROGRAMS_OF_THREE if name != "two workers and two offers"])
def test_every_request_has_one_outcome_among_three_preempted_once_more(explorer: Explorer, name: str) -> None:
    """The same with three threads and one more preemption."""
    assert explorer.explore(PROGRAMS_OF_THREE[name], preemptions=2) > 1_000


@pytest.mark.slow
@pytest.mark.parametrize("name", ["an offer and a close", "a withdrawal and a worker"])
def test_every_request_has_one_outcome_preempted_once_more(explorer: Explorer, name: str) -> None:
    """The same with one more preemption."""
    assert explorer.explore(PROGRAMS[name], preemptions=3) > 10_000


# --- planted mistakes -----------------------------------------------------------------------------------------------


class ParksWithoutLookingAgain(RequestLane[Row]):
    """A request may come between the worker's look and its sleep."""

    def park(self, waker: Callable[[], None], at_least: int) -> None:
        self._parked.append((waker, at_least))


class LooksForSleepersFirst(RequestLane[Row]):
    """A worker may fall asleep between the look and the request."""

    def offer(self, request: Row) -> bool:
        sleepers = bool(self._parked)
        self._waiting.append(request)
        if len(self._waiting) > self._limit or self.closed:
            return not self.withdraw(request)
        if sleepers:
            self._rouse()
        return True


class LooksBeforeItAppends(RequestLane[Row]):
    """Two threads may see the same last place."""

    def offer(self, request: Row) -> bool:
        if len(self._waiting) >= self._limit or self.closed:
            return False
        self._waiting.append(request)
        if self._parked:
            self._rouse()
        return True


class LooksThenPops(RequestLane[Row]):
    """What is popped need not be what was looked at."""

    def _take(self, count: int, *, rows_max: int | None) -> list[Row]:
        taken: list[Row] = []
        while self._waiting and len(taken) < count:
            request = self._waiting[0]
            self._waiting.popleft()
            taken.append(request)
        return taken


class AnswersBeforeItCloses(RequestLane[Row]):
    """A request that comes in between is nobody's."""

    def close(self) -> list[Row]:
        rest = self._take(len(self._waiting), rows_max=None)
        self.closed = True
        self._rouse()
        return rest


class ClosesInSilence(RequestLane[Row]):
    """A worker sleeps on."""

    def close(self) -> list[Row]:
        self.closed = True
        return self._take(len(self._waiting) + 1, rows_max=None)


class HaltsInSilence(RequestLane[Row]):
    """A worker sleeps on beside a model that is beyond use."""

    def halt(self) -> None:
        self._halted = True


class WakesBeforeItStrikesOut(RequestLane[Row]):
    """Two threads may call the same waker."""

    def _rouse(self) -> None:
        for entry in list(self._parked):
            if self.closed or len(self._waiting) >= entry[1]:
                entry[0]()
                _discard(self._parked, entry)


class CountsRequestsForRows(RequestLane[Row]):
    """A worker waits for a second request where the first one fills the batch."""

    def _is_full(self) -> bool:
        return len(self._waiting) >= self._max_batch


PLANTED: tuple[tuple[type[RequestLane[Row]], Make], ...] = (
    (ParksWithoutLookingAgain, world(offer(0), World.work, kind=ParksWithoutLookingAgain)),
    (LooksForSleepersFirst, world(offer(0), World.work, kind=LooksForSleepersFirst)),
    (LooksBeforeItAppends, world(offer(0), offer(1), kind=LooksBeforeItAppends, limit=1, rows=(1, 1))),
    (LooksThenPops, world(offer_and_leave(0), offer(1), World.work, kind=LooksThenPops, rows=(1, 1))),
    (AnswersBeforeItCloses, world(offer(0), World.close, kind=AnswersBeforeItCloses)),
    (ClosesInSilence, world(World.work, World.close, kind=ClosesInSilence)),
    (HaltsInSilence, world(World.work, World.halt, kind=HaltsInSilence)),
    (WakesBeforeItStrikesOut, world(offer(0), World.work, kind=WakesBeforeItStrikesOut)),
    (CountsRequestsForRows, world(offer(0), World.work, kind=CountsRequestsForRows, batching=PAIR, rows=(2,))),
)
"""A mistake, and the programs that run into it."""


@pytest.mark.parametrize(("kind", "make"), PLANTED, ids=[kind.__name__ for kind, _ in PLANTED])
def test_a_planted_mistake_is_found(kind: type[RequestLane[Row]], make: Make) -> None:
    """The check fails for this mistake, and the schedule that it prints fails again."""
    with Explorer(RequestLane, kind, _discard) as explorer:
        with pytest.raises(Violation) as found:
            explorer.explore(make, preemptions=2)
        with pytest.raises(Violation):
            explorer.replay(make, found.value.schedule)
