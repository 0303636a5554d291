"""The real ports: threads deliver onto the loop, and find out where it is gone. No virtual time here."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import attrs
import pytest
import trio

from changeover import Batching
from changeover.runtime.mailbox import RequestLane
from changeover.runtime.ports import Ports, SystemClock, Threads, TrioWake
from tests.support.models import Broken
from tests.support.threads import patient


@attrs.define
class Delivery:
    """Waits for one delivery, and notes the thread that it came in."""

    value: Any = None
    error: BaseException | None = None
    thread: threading.Thread | None = None
    there: trio.Event = attrs.field(factory=trio.Event)

    def __call__(self, value: Any, error: BaseException | None) -> None:
        self.value, self.error, self.thread = value, error, threading.current_thread()
        self.there.set()


@attrs.define(eq=False)
class Ask:
    """A request, as far as a lane looks at it."""

    name: int
    rows: int = 1
    queued_at_s: float = 0.0


async def test_work_runs_in_a_thread_of_its_own_and_is_delivered_on_the_loop() -> None:
    """The loop goes on while a thread works; the value comes back in the loop's own thread."""
    ports, delivery, gate = Ports.system(), Delivery(), threading.Event()

    def work() -> threading.Thread:
        assert patient(gate)
        return threading.current_thread()

    ports.offload.start("work", work, delivery)
    await trio.lowlevel.checkpoint()
    gate.set()
    await delivery.there.wait()
    assert delivery.thread is threading.current_thread()
    assert isinstance(delivery.value, threading.Thread)
    assert delivery.value is not delivery.thread
    assert delivery.value.daemon


@pytest.mark.parametrize("error", [Broken("no"), SystemExit(3), KeyboardInterrupt()])
async def test_whatever_work_raises_is_delivered(error: BaseException) -> None:
    """No exception ends a thread in silence, not even one that would end the process."""

    def work() -> None:
        raise error

    delivery = Delivery()
    Ports.system().offload.start("work", work, delivery)
    await delivery.there.wait()
    assert (delivery.value, delivery.error) == (None, error)


async def test_hung_threads_starve_nobody() -> None:
    """With a hundred pieces of work that hang, the next one runs all the same."""
    ports, gate, hung = Ports.system(), threading.Event(), [Delivery() for _ in range(100)]
    for delivery in hung:
        ports.offload.start("hangs", lambda: patient(gate), delivery)
    quick = Delivery()
    ports.offload.start("quick", lambda: 1, quick)
    await quick.there.wait()
    assert not any(delivery.there.is_set() for delivery in hung)
    gate.set()
    for delivery in hung:
        await delivery.there.wait()


def test_what_comes_back_after_the_end_of_the_loop_is_orphaned() -> None:
    """A thread that outlives its loop hands its value to `orphaned`, in its own thread; nothing is delivered."""
    gate, done = threading.Event(), threading.Event()
    delivered: list[Any] = []
    orphans: list[Any] = []

    def orphaned(value: Any, error: BaseException | None) -> None:
        orphans.append((value, error, threading.current_thread() is threading.main_thread()))
        done.set()

    async def main() -> None:
        Ports.system().offload.start(
            "late", lambda: patient(gate), lambda value, error: delivered.append((value, error)), orphaned
        )

    trio.run(main)
    gate.set()
    assert patient(done)
    assert (orphans, delivered) == ([(True, None, False)], [])


def test_a_loop_that_has_ended_cannot_be_woken() -> None:
    """`soon` says whether the callback will be called."""
    called: list[int] = []

    async def main() -> TrioWake:
        wake = TrioWake(trio.lowlevel.current_trio_token())
        assert wake.soon(lambda: called.append(1))
        return wake

    wake = trio.run(main)
    assert not wake.soon(lambda: called.append(2))
    assert called == [1]


async def test_an_idempotent_wake_up_is_queued_once() -> None:
    """Many answers at once wake the loop once."""
    wake, called = TrioWake(trio.lowlevel.current_trio_token()), []

    def callback() -> None:
        called.append(1)

    for _ in range(10):
        wake.soon(callback, idempotent=True)
    await trio.testing.wait_all_tasks_blocked()
    assert called == [1]


@pytest.mark.parametrize("batching", [None, Batching(4, 0.0)])
async def test_a_serving_thread_handles_all_that_is_offered_and_ends_with_its_lane(batching: Batching | None) -> None:
    """Requests from this thread are handled in order in another one, until the lane is closed and empty."""
    lane: RequestLane[Ask] = RequestLane(1_000, batching)
    handled: list[int] = []
    threads: set[threading.Thread] = set()
    delivery = Delivery()

    def handle(batch: Sequence[Ask]) -> None:
        handled.extend(ask.name for ask in batch)
        threads.add(threading.current_thread())

    Ports.system().offload.serve("worker", lane, handle, delivery)
    for name in range(500):
        assert lane.offer(Ask(name))
        if name % 50 == 0:
            await trio.lowlevel.checkpoint()
    rest = [ask.name for ask in lane.close()]
    await delivery.there.wait()
    assert delivery.error is None
    assert handled + rest == list(range(500))
    assert threading.current_thread() not in threads


async def test_an_idle_serving_thread_is_woken_by_a_request() -> None:
    """A worker that sleeps is woken by the next request, again and again."""
    lane: RequestLane[Ask] = RequestLane(10, None)
    answered: dict[int, trio.Event] = {n: trio.Event() for n in range(20)}
    ports, delivery = Ports.system(), Delivery()
    ports.offload.serve("worker", lane, lambda batch: void(ports.wake.soon(answered[batch[0].name].set)), delivery)
    for name, event in answered.items():
        lane.offer(Ask(name))
        await event.wait()
    lane.close()
    await delivery.there.wait()


async def test_a_worker_whose_handler_raises_is_over_and_says_so() -> None:
    """The error of a serving thread is delivered; who is responsible for it decides."""
    lane: RequestLane[Ask] = RequestLane(10, None)
    delivery = Delivery()

    def handle(batch: Sequence[Ask]) -> None:
        raise Broken("handler")

    Ports.system().offload.serve("worker", lane, handle, delivery)
    lane.offer(Ask(1))
    await delivery.there.wait()
    assert isinstance(delivery.error, Broken)


async def test_the_system_clock_never_goes_back() -> None:
    """Two looks at the clock are in order, and a sleep of no time is a checkpoint."""
    clock = SystemClock()
    before = clock.now()
    with trio.CancelScope() as scope:
        scope.cancel()
        await clock.sleep(0)
    assert scope.cancelled_caught
    assert clock.now() >= before
    assert clock.wall() > 1_600_000_000


async def test_the_system_has_all_ports() -> None:
    """The real world is made of the real clock, the real threads and the run that it was asked for in."""
    ports = Ports.system()
    assert isinstance(ports.offload, Threads)
    assert 0 <= ports.random.random() < 1
    assert ports.random.getrandbits(8) < 256


def void(_value: object) -> None:
    """Drop a value."""
