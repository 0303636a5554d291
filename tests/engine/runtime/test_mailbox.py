"""Promises, control lane and request lane: every message has one outcome, in order, within a bound."""

from __future__ import annotations

import threading
from typing import Any

import attrs
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from changeover import Batching
from changeover.errors import LoadFailed, SwapFailed
from changeover.runtime.mailbox import ControlLane, Promise, RequestLane, twin
from tests.support.rig import settle

# --- promises -------------------------------------------------------------------------------------------------------


async def test_all_who_wait_for_a_promise_get_its_value() -> None:
    """Every task that waits gets the value, and so does one that comes later."""
    promise: Promise[int] = Promise()
    got: list[int] = []

    async def wait() -> None:
        got.append(await promise.wait())

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(wait)
        await settle()
        assert got == []
        promise.settle(7)
    assert [*got, await promise.wait()] == [7, 7, 7, 7]


async def test_each_waiter_of_a_failed_promise_raises_an_error_of_its_own() -> None:
    """The error that two tasks raise is equal in all it says and is not the same object."""
    cause = OSError("disk")
    error = LoadFailed("no", model="m", version="1")
    error.__cause__ = cause
    promise: Promise[None] = Promise()
    promise.fail(error)
    raised = []
    for _ in range(2):
        with pytest.raises(LoadFailed, match="no") as caught:
            await promise.wait()
        raised.append(caught.value)
    assert raised[0] is not raised[1]
    assert all(e is not error and e.__cause__ is cause and (e.model, e.version) == ("m", "1") for e in raised)


def test_a_twin_keeps_what_an_error_with_more_fields_knows() -> None:
    """A twin of an error whose constructor needs more arguments has its fields too."""
    error = SwapFailed("no", operation="the operation", model="m")
    copy = twin(error)
    assert (str(copy), copy.operation, copy.model, copy.ran) == ("no", "the operation", "m", "no")


async def test_the_first_to_settle_a_promise_wins() -> None:
    """A promise that was kept is not broken later, nor the other way round."""
    kept: Promise[int] = Promise()
    kept.settle(1)
    kept.settle(2)
    kept.fail(LoadFailed("late"))
    assert await kept.wait() == 1
    broken: Promise[int] = Promise()
    broken.fail(LoadFailed("first"))
    broken.settle(3)
    with pytest.raises(LoadFailed, match="first"):
        await broken.wait()


async def test_a_cancelled_wait_leaves_nothing_in_the_promise(autojump_clock: Any) -> None:
    """Whoever stops to wait is not counted among the waiters, and the others still get the value."""
    promise: Promise[int] = Promise()
    with trio.move_on_after(1) as scope:
        await promise.wait()
    with trio.move_on_after(1):
        await promise.over()
    assert scope.cancelled_caught
    assert promise._lot.statistics().tasks_waiting == 0
    promise.settle(1)
    assert await promise.wait() == 1


async def test_over_says_only_that_a_promise_is_settled() -> None:
    """`over` returns for a broken promise without raising."""
    promise: Promise[int] = Promise()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(promise.over)
        await settle()
        promise.fail(LoadFailed("no"))
    await promise.over()


async def test_a_settled_promise_is_still_a_checkpoint() -> None:
    """Waiting for what is there already lets others run and can be cancelled."""
    promise: Promise[int] = Promise()
    promise.settle(1)
    with trio.CancelScope() as scope:
        scope.cancel()
        await promise.wait()
    assert scope.cancelled_caught


# --- the control lane -----------------------------------------------------------------------------------------------


async def test_control_messages_arrive_in_order() -> None:
    """Messages come out in the order in which they were posted, also when the reader was there first."""
    lane: ControlLane[int] = ControlLane()
    got: list[int] = []

    async def read() -> None:
        while len(got) < 4:
            got.append(await lane.receive())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        await settle()
        for number in range(4):
            lane.post(number)
        assert len(lane) == 4
    assert got == [0, 1, 2, 3]


async def test_a_cancelled_receive_loses_no_message(autojump_clock: Any) -> None:
    """A message that is posted while its reader is being cancelled is there for the next reader."""
    lane: ControlLane[str] = ControlLane()
    with trio.move_on_after(1) as scope:
        await lane.receive()
    assert scope.cancelled_caught
    got: list[str] = []

    async def read() -> None:
        got.append(await lane.receive())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        await settle()
        lane.post("first")
        lane.post("second")
        nursery.cancel_scope.cancel()
    assert got + lane.take_all() == ["first", "second"]
    assert len(lane) == 0


async def test_take_all_hands_over_what_is_left() -> None:
    """A reader that ends gets every message once, so that it can answer them."""
    lane: ControlLane[int] = ControlLane()
    for number in range(3):
        lane.post(number)
    assert lane.take_all() == [0, 1, 2]
    assert lane.take_all() == []


# --- the request lane -----------------------------------------------------------------------------------------------


@attrs.define(eq=False)
class Ask:
    """A request, as far as a lane looks at it."""

    name: int = 0
    rows: int = 1
    queued_at_s: float = 0.0


Lane = RequestLane[Ask]


def filled(*asks: Ask, limit: int = 100, batching: Batching | None = None) -> Lane:
    """Return a lane that has admitted `asks`."""
    lane: Lane = RequestLane(limit, batching)
    assert all(lane.offer(ask) for ask in asks)
    return lane


def take(lane: Lane, now: float = 0.0) -> list[int]:
    """Return the names of the batch that a worker would take now."""
    return [ask.name for ask in lane.next_step(now).batch]


def test_requests_are_taken_in_the_order_of_their_admission() -> None:
    """Without batching one request is taken at a time, the oldest first."""
    lane = filled(*map(Ask, range(3)))
    assert [take(lane) for _ in range(3)] == [[0], [1], [2]]


def test_a_full_lane_refuses_and_admits_again_when_there_is_room() -> None:
    """The bound holds exactly: one more is refused, and leaves nothing behind."""
    lane = filled(Ask(0), Ask(1), limit=2)
    assert not lane.offer(Ask(2))
    assert len(lane) == 2
    assert take(lane) == [0]
    assert lane.offer(Ask(3))
    assert [take(lane), take(lane), take(lane)] == [[1], [3], []]


def test_a_request_is_withdrawn_once_and_only_before_it_is_taken() -> None:
    """A withdrawn request never runs; a taken one cannot be withdrawn."""
    first, second = Ask(1), Ask(2)
    lane = filled(first, second)
    assert lane.withdraw(first)
    assert not lane.withdraw(first)
    assert take(lane) == [2]
    assert not lane.withdraw(second)


def test_a_closed_lane_returns_what_waited_and_admits_nothing() -> None:
    """Whoever closes a lane gets every waiting request once, and its workers are told to end."""
    lane = filled(Ask(1), Ask(2), batching=Batching(10, 5.0))
    assert [ask.name for ask in lane.close()] == [1, 2]
    assert not lane.offer(Ask(3))
    assert lane.close() == []
    assert lane.next_step(0.0).ended


def test_an_empty_lane_has_its_worker_wait_without_a_bound() -> None:
    """An idle worker costs nothing: it waits for a request, not for time."""
    step = filled().next_step(0.0)
    assert (step.batch, step.ended, step.at_least, step.wait_s) == ((), False, 1, None)


@pytest.mark.parametrize(
    ("now", "wait_s"), [(10.0, 0.5), (10.2, pytest.approx(0.3)), (10.4999, pytest.approx(0.0001)), (9.0, 1.5)]
)
def test_the_first_request_of_a_batch_waits_no_longer_than_its_delay(now: float, wait_s: float) -> None:
    """Before the delay of the oldest request is over, a worker waits for the rest of it, or for a full batch."""
    lane = filled(Ask(0, queued_at_s=10.0), Ask(1, queued_at_s=10.1), batching=Batching(3, 0.5))
    step = lane.next_step(now)
    assert (step.batch, step.at_least, step.wait_s) == ((), 3, wait_s)


def test_at_the_end_of_the_delay_the_batch_is_taken_as_it_is() -> None:
    """When the oldest request has waited its delay, all that wait go together, late-comers included."""
    lane = filled(Ask(0, queued_at_s=10.0), Ask(1, queued_at_s=10.5), batching=Batching(3, 0.5))
    assert take(lane, 10.5) == [0, 1]


def test_a_full_batch_waits_for_nothing() -> None:
    """As soon as a batch is full it goes, and the rest begins the next one with a delay of its own."""
    lane = filled(*(Ask(n, queued_at_s=10.0 + n / 10) for n in range(4)), batching=Batching(3, 0.5))
    assert take(lane, 10.3) == [0, 1, 2]
    assert lane.next_step(10.3).wait_s == pytest.approx(0.5)


def test_rows_fill_a_batch_as_requests_do() -> None:
    """A batch is full by rows; a request that would not fit begins the next batch, and none is split."""
    lane = filled(*(Ask(n, rows=2) for n in range(3)), batching=Batching(4, 9.0))
    assert take(lane) == [0, 1]
    assert take(lane) == []
    assert lane.offer(Ask(3, rows=3))
    assert take(lane) == [2]


def test_a_request_with_more_rows_than_a_batch_goes_alone() -> None:
    """A request is never refused for its size; it has a call of its own."""
    lane = filled(Ask(0, rows=9), Ask(1), batching=Batching(4, 9.0))
    assert take(lane) == [0]


def test_a_parked_worker_is_woken_once_when_enough_wait() -> None:
    """A worker that waits for a full batch sleeps through the requests before it."""
    lane = filled(batching=Batching(3, 9.0))
    woken: list[int] = []
    lane.park(lambda: woken.append(1), 3)
    for number in range(5):
        lane.offer(Ask(number))
        assert len(woken) == (number >= 2)


def test_a_worker_that_parks_too_late_is_woken_at_once() -> None:
    """What came between a worker's look and its sleep is not missed."""
    lane = filled(Ask(0))
    woken: list[int] = []
    lane.park(lambda: woken.append(1), 1)
    assert woken == [1]


def test_closing_wakes_every_parked_worker() -> None:
    """No worker sleeps through the end of its lane."""
    lane = filled(batching=Batching(3, 9.0))
    woken: list[int] = []
    for number in range(2):
        lane.park(lambda number=number: woken.append(number), 3)
    lane.close()
    assert woken == [0, 1]


def test_a_worker_that_stopped_to_wait_is_not_woken() -> None:
    """An unparked waker is forgotten, and forgetting it twice does no harm."""
    lane = filled()
    woken: list[int] = []

    def wake() -> None:
        woken.append(1)

    lane.park(wake, 1)
    lane.unpark(wake)
    lane.unpark(wake)
    lane.offer(Ask(0))
    assert woken == []


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("offer"), st.integers(1, 4)),
        st.tuples(st.just("withdraw"), st.integers(0, 30)),
        st.tuples(st.just("take"), st.floats(0, 3)),
        st.tuples(st.just("close"), st.none()),
    ),
    max_size=40,
)


@settings(derandomize=True, deadline=None)
@given(steps=STEPS, limit=st.integers(1, 6), max_batch=st.integers(1, 4))
def test_every_request_has_exactly_one_outcome(  # noqa: C901 - one branch for each thing that can happen
    steps: list[tuple[str, Any]], limit: int, max_batch: int
) -> None:
    """However offers, withdrawals, batches and the end mix: one outcome each, in order, never above the bound."""
    lane: Lane = RequestLane(limit, Batching(max_batch, 1.0))
    asks: list[Ask] = []
    outcomes: dict[int, list[str]] = {}
    taken: list[int] = []
    now = 0.0

    def note(ask: Ask, outcome: str) -> None:
        outcomes.setdefault(ask.name, []).append(outcome)

    for what, value in steps:
        if what == "offer":
            ask = Ask(len(asks), rows=value, queued_at_s=now)
            asks.append(ask)
            if not lane.offer(ask):
                note(ask, "refused")
        elif what == "withdraw" and value < len(asks):
            if lane.withdraw(asks[value]):
                note(asks[value], "withdrawn")
        elif what == "take":
            now += value
            batch = lane.next_step(now).batch
            assert sum(ask.rows for ask in batch) <= max_batch or len(batch) == 1
            for ask in batch:
                taken.append(ask.name)
                note(ask, "taken")
        elif what == "close":
            for ask in lane.close():
                note(ask, "returned")
        assert len(lane) <= limit
    for ask in lane.close():
        note(ask, "returned")
    assert taken == sorted(taken)
    assert {name: len(found) for name, found in outcomes.items()} == {ask.name: 1 for ask in asks}


def test_threads_share_a_lane_without_losing_or_doubling_a_request() -> None:  # noqa: C901 - two kinds of threads
    """With real threads on both sides each admitted request is taken, withdrawn or returned exactly once."""
    lane: Lane = RequestLane(16, Batching(4, 0.0))
    outcomes: list[tuple[int, str]] = []
    senders_n, each_n = 4, 400

    def send(number: int) -> None:
        for n in range(each_n):
            ask = Ask(number * each_n + n)
            if not lane.offer(ask):
                outcomes.append((ask.name, "refused"))
            elif n % 7 == 0 and lane.withdraw(ask):
                outcomes.append((ask.name, "withdrawn"))

    def work() -> None:
        gate = threading.Semaphore(0)
        step = lane.next_step(1.0)
        while not step.ended:
            outcomes.extend((ask.name, "taken") for ask in step.batch)
            if not step.batch:
                lane.park(gate.release, step.at_least)
                gate.acquire(timeout=step.wait_s)
                lane.unpark(gate.release)
            step = lane.next_step(1.0)

    senders = [threading.Thread(target=send, args=(number,)) for number in range(senders_n)]
    workers = [threading.Thread(target=work) for _ in range(3)]
    for thread in (*workers, *senders):
        thread.start()
    for thread in senders:
        thread.join()
    outcomes.extend((ask.name, "returned") for ask in lane.close())
    for thread in workers:
        thread.join()
    assert sorted(name for name, _ in outcomes) == list(range(senders_n * each_n))
