"""A version's mailbox: a control lane that its actor reads, and a request lane that its workers take from.

Both are bounded and first-in-first-out, and every message in them gets an outcome: whoever closes a lane answers
what is still in it. Neither spawns anything. The control lane belongs to the loop, the request lane to any thread.
"""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Generic, Protocol, TypeVar

import trio

from changeover.core.values import Batching
from changeover.errors import ChangeoverError
from changeover.runtime.ports import Step

M = TypeVar("M")
T = TypeVar("T")
E = TypeVar("E", bound=BaseException)


def twin(error: E) -> E:
    """Return a copy of `error` to raise in one more task; one exception object must not be raised in two at once."""
    ours = isinstance(error, ChangeoverError)
    # The constructors of ours want keywords, so that `copy` cannot call them; others keep more than their arguments.
    double: E = type(error).__new__(type(error), *error.args) if ours else copy.copy(error)
    double.args = error.args
    double.__dict__.update(error.__dict__)
    if hasattr(error, "__notes__"):
        double.__notes__ = list(error.__notes__)
    double.__cause__ = error.__cause__
    return double


class Promise(Generic[T]):
    """A value or an error that is there later; any number of tasks may wait, and a cancelled one leaves nothing."""

    __slots__ = ("_error", "_listeners", "_lot", "_value", "settled")

    def __init__(self) -> None:
        """Begin unsettled."""
        self.settled = False
        self._value: T | None = None
        self._error: BaseException | None = None
        self._lot = trio.lowlevel.ParkingLot()
        self._listeners: list[Callable[[BaseException | None], None]] = []

    def tell(self, listener: Callable[[BaseException | None], None]) -> None:
        """Call `listener(error)` once it is settled, perhaps at once; None where it has a value."""
        if self.settled:
            listener(self._error)
        else:
            self._listeners.append(listener)

    def settle(self, value: T) -> None:
        """Give it its value; the first to settle or to fail wins."""
        if not self.settled:
            self.settled, self._value = True, value
            self._spread()

    def fail(self, error: BaseException) -> None:
        """Give it an error; the first to settle or to fail wins."""
        if not self.settled:
            self.settled, self._error = True, error
            self._spread()

    def _spread(self) -> None:
        self._lot.unpark_all()
        listeners, self._listeners = self._listeners, []
        for listener in listeners:
            listener(self._error)

    async def wait(self) -> T:
        """Return the value, or raise the error; cancelled, it leaves nothing behind."""
        if self.settled:
            await trio.lowlevel.checkpoint()
        else:
            await self._lot.park()
        if self._error is not None:
            raise twin(self._error)
        return self._value  # type: ignore[return-value]  # settled without an error: it is a T

    async def over(self) -> None:
        """Return once it is settled, either way; cancelled, it leaves nothing behind."""
        while not self.settled:
            await self._lot.park()


async def all_of(promises: Iterable[Promise[Any]], *, happy_with: type[Exception] | None = None) -> None:
    """Return once all promises are kept, or raise what the first one to fail was given; the others go on.

    One that fails with `happy_with` counts as kept. Cancelled, it leaves nothing that matters behind.
    """
    everything: Promise[None] = Promise()
    waiting = 1

    def hear(error: BaseException | None) -> None:
        nonlocal waiting
        if error is not None and not (happy_with is not None and isinstance(error, happy_with)):
            everything.fail(error)
        waiting -= 1
        if waiting == 0:
            everything.settle(None)

    for promise in promises:
        waiting += 1
        promise.tell(hear)
    hear(None)
    await everything.wait()


class ControlLane(Generic[M]):
    """Messages for one reader, its actor; posted on the loop, and never refused until it is closed.

    What bounds it: each caller waits for the outcome of its order, and each timer or thread posts once.
    """

    def __init__(self) -> None:
        """Begin empty and open."""
        self._messages: deque[M] = deque()
        self._lot = trio.lowlevel.ParkingLot()

    def __len__(self) -> int:
        """Return how many messages wait."""
        return len(self._messages)

    def post(self, message: M) -> None:
        """Put a message at the end."""
        self._messages.append(message)
        self._lot.unpark()

    def post_first(self, message: M) -> None:
        """Put a message before all others."""
        self._messages.appendleft(message)
        self._lot.unpark()

    def waiting(self) -> tuple[M, ...]:
        """Return what waits, in order."""
        return tuple(self._messages)

    async def receive(self) -> M:
        """Return the next message; cancelled, no message is lost."""
        while not self._messages:
            await self._lot.park()
        return self._messages.popleft()

    def take_all(self) -> list[M]:
        """Empty the lane, for a reader that ends and must answer what is left."""
        rest = list(self._messages)
        self._messages.clear()
        return rest


class Row(Protocol):
    """What a request lane needs to know of a request."""

    rows: int
    """How many rows of a batch it fills."""
    queued_at_s: float
    """When it was admitted, by the engine's clock."""


R = TypeVar("R", bound=Row)


_IDLE = Step()
_END = Step(ended=True)


class RequestLane(Generic[R]):
    """Requests for the workers of one version; thread-safe without a lock.

    A request is taken by exactly one `popleft` or `remove`, each a single step of the interpreter, so it is either
    withdrawn or run. A request is announced before the bound and the gate are looked at, so under a race a lane that
    is nearly full may refuse one too many, and never admits one too many.
    """

    def __init__(self, limit: int, batching: Batching | None) -> None:
        """Hold at most `limit` requests, and gather them as `batching` says."""
        self._limit = limit
        self._max_batch = batching.max_batch if batching else 1
        self._max_delay_s = batching.max_delay_s if batching else 0.0
        self._waiting: deque[R] = deque()
        self._parked: list[tuple[Callable[[], None], int]] = []
        self.closed = False
        self.halted = False
        self._has_long = False

    def __len__(self) -> int:
        """Return how many requests wait."""
        return len(self._waiting)

    def offer(self, request: R) -> bool:
        """Put a request at the end; False where the lane is full or closed and it was not admitted."""
        if request.rows > 1:
            self._has_long = True
        self._waiting.append(request)
        if len(self._waiting) > self._limit or self.closed:
            return not self.withdraw(request)
        if self._parked:
            self._rouse()
        return True

    def withdraw(self, request: R) -> bool:
        """Take a request out that no worker has taken; False where it is too late."""
        return _discard(self._waiting, request)

    def halt(self) -> None:
        """Let the workers end without taking more: their model is beyond use; `close` answers what waits."""
        self.halted = True
        self._rouse()

    def close(self) -> list[R]:
        """Admit nothing more, wake every worker, and return what waited: the caller answers it."""
        self.closed = True
        rest = self.empty()
        self._rouse()
        return rest

    def empty(self) -> list[R]:
        """Take out and return what waits: the caller answers it."""
        return self._take(len(self._waiting) + 1, rows_max=None)

    def next_step(self, now: float) -> Step:
        """Return what a worker does at engine time `now`: take a batch, wait for a fuller one, or end."""
        if self.halted:
            return _END
        try:
            oldest = self._waiting[0]
        except IndexError:
            return _END if self.closed else _IDLE
        late_s = oldest.queued_at_s + self._max_delay_s - now
        if late_s <= 0 or self.closed or self._is_full():
            return Step(batch=self._take(self._max_batch, rows_max=self._max_batch))
        return Step(at_least=self._max_batch, wait_s=late_s)

    def park(self, waker: Callable[[], None], at_least: int) -> None:
        """Have `waker` called once when so many requests wait or the lane is closed; perhaps at once."""
        self._parked.append((waker, at_least))
        self._rouse()  # what came between the look and the parking is not missed

    def unpark(self, waker: Callable[[], None]) -> None:
        """Forget a waker."""
        for entry in list(self._parked):
            if entry[0] == waker:
                _discard(self._parked, entry)

    def _is_full(self) -> bool:
        """Return whether a whole batch waits; rows are counted only where some request had several."""
        if len(self._waiting) >= self._max_batch:
            return True
        return self._has_long and sum(r.rows for r in self._waiting.copy()) >= self._max_batch

    def _rouse(self) -> None:
        for entry in list(self._parked):
            waker, at_least = entry
            ready = self.closed or self.halted or len(self._waiting) >= at_least or (at_least > 1 and self._is_full())
            if ready and _discard(self._parked, entry):
                waker()

    def _take(self, count: int, *, rows_max: int | None) -> list[R]:
        """Take requests from the front, up to `count` and, but for the first, up to `rows_max` rows."""
        taken: list[R] = []
        rows = 0
        while len(taken) < count:
            try:
                request = self._waiting[0]
            except IndexError:
                break
            if taken and rows_max is not None and rows + request.rows > rows_max:
                break
            if _discard(self._waiting, request):  # else it was withdrawn, or another worker has it
                taken.append(request)
                rows += request.rows
        return taken


def _discard(entries: deque[Any] | list[Any], entry: Any) -> bool:
    """Remove `entry`; False where another thread was quicker."""
    try:
        entries.remove(entry)
    except ValueError:
        return False
    return True
