"""Promises and lanes under every order of those who settle, wait, leave, send, take and close.

The workers here park as threads do: between the look at the lane and the parking anything may happen.
"""

from __future__ import annotations

from collections import Counter

import attrs
import trio

from changeover import Batching
from changeover.errors import LoadFailed
from changeover.runtime.mailbox import ControlLane, Promise, RequestLane
from changeover_sim import PCT, Exhaustive, RandomWalk, cancel_anywhere, choose
from tests.simulations.first_use.stage import Search

checkpoint = trio.lowlevel.checkpoint


# --- promises -------------------------------------------------------------------------------------------------------


async def three_wait_for_a_promise() -> None:
    """Settle a promise twice and fail it; of the three who wait for it one goes away at any moment."""
    promise: Promise[str] = Promise()
    error = LoadFailed("no", model="m", version="1")
    ends: list[object] = []

    async def wait(*, leaves: bool = False) -> None:
        with trio.CancelScope() as scope:
            if leaves:
                cancel_anywhere(scope)
            try:
                ends.append(await promise.wait())
            except LoadFailed as raised:
                ends.append(raised)
        if scope.cancelled_caught:
            ends.append("left")

    async def over() -> None:
        await promise.over()
        assert promise.settled
        ends.append("over")

    async def settle(value: str) -> None:
        await checkpoint()
        promise.settle(value)

    async def fail() -> None:
        await checkpoint()
        promise.fail(error)

    async with trio.open_nursery() as nursery:
        for task in (wait, wait, over, fail):
            nursery.start_soon(task)
        nursery.start_soon(settle, "yes")
        nursery.start_soon(settle, "perhaps")
        await wait(leaves=True)
    values = [end for end in ends if end in ("yes", "perhaps")]
    errors = [end for end in ends if isinstance(end, LoadFailed)]
    assert len({*values, *map(str, errors)}) <= 1, "one was told this and another that"
    assert len(values) + len(errors) + ends.count("left") == 3
    assert ends.count("over") == 1
    assert error not in errors, "raised in a task that shares it with others"
    assert len(set(map(id, errors))) == len(errors)
    assert len(promise._lot) == 0


def test_a_promise_tells_everybody_the_same_once(search: Search) -> None:
    """Whoever waits for a promise hears the first outcome, in an error object of his own; one who leaves hears none."""
    search(three_wait_for_a_promise, policy=Exhaustive(delays=1), exhausted=True)
    search(three_wait_for_a_promise, policy=RandomWalk(), schedules=1_000)


# --- the control lane -----------------------------------------------------------------------------------------------


async def messages_to_a_reader_that_is_replaced() -> None:
    """Send from three tasks to a reader that is cancelled at any moment, then to the next one."""
    lane: ControlLane[tuple[str, int]] = ControlLane()
    read: list[tuple[str, int]] = []

    async def send(name: str) -> None:
        for number in range(2):
            lane.post((name, number))
            await checkpoint()

    async def urgent() -> None:
        lane.post_first(("urgent", 0))
        assert lane.waiting()[0] == ("urgent", 0)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send, "a")
        nursery.start_soon(send, "b")
        nursery.start_soon(urgent)
        with trio.CancelScope() as scope:
            cancel_anywhere(scope)
            while True:
                read.append(await lane.receive())
                if len(read) == 5:
                    break
        while len(read) < 3:
            read.append(await lane.receive())
    read += lane.take_all()
    assert Counter(read) == Counter([("a", 0), ("a", 1), ("b", 0), ("b", 1), ("urgent", 0)])
    for name in ("a", "b"):
        assert [number for sender, number in read if sender == name] == [0, 1]
    assert (len(lane), len(lane._lot)) == (0, 0)


def test_every_message_is_read_once_whoever_reads(search: Search) -> None:
    """A reader that is cancelled at any moment loses no message and reads none twice; each sender's order is kept."""
    search(messages_to_a_reader_that_is_replaced, policy=Exhaustive(delays=1), exhausted=True)
    search(messages_to_a_reader_that_is_replaced, policy=PCT(depth=3), schedules=500)


# --- the request lane -----------------------------------------------------------------------------------------------


@attrs.define(eq=False)
class Ask:
    """A request as far as a lane looks at it, and all that became of it."""

    name: str
    rows: int
    queued_at_s: float
    ends: list[str] = attrs.field(factory=list)


@attrs.define(eq=False)
class Desk:
    """A lane, those who ask, and workers that take."""

    lane: RequestLane[Ask]
    limit: int
    max_batch: int
    asked: list[Ask] = attrs.field(factory=list)
    taken: list[Ask] = attrs.field(factory=list)

    async def ask(self, name: str, count: int) -> None:
        """Ask so often, and sometimes withdraw."""
        for number in range(count):
            ask = Ask(f"{name}{number}", choose([1, 2]), trio.current_time())
            self.asked.append(ask)
            if not self.lane.offer(ask):
                ask.ends.append("refused")
            assert len(self.lane) <= self.limit
            await checkpoint()
            if choose([False, True]) and self.lane.withdraw(ask):
                ask.ends.append("withdrawn")

    async def work(self) -> None:
        """Take batches as a thread does, with a moment between any two looks at the lane."""
        step = self.lane.next_step(trio.current_time())
        while not step.ended:
            if step.batch:
                assert len(step.batch) == 1 or sum(ask.rows for ask in step.batch) <= self.max_batch
                for ask in step.batch:
                    ask.ends.append("taken")
                    self.taken.append(ask)
            await checkpoint()
            if not step.batch:
                woken = trio.Event()
                self.lane.park(woken.set, step.at_least)
                with trio.move_on_after(float("inf") if step.wait_s is None else step.wait_s):
                    await woken.wait()
                self.lane.unpark(woken.set)
            step = self.lane.next_step(trio.current_time())

    def assert_answered(self) -> None:
        """Every request has one outcome, each sender's were taken in order, and nobody is parked."""
        assert all(len(ask.ends) == 1 for ask in self.asked), self.asked
        for sender in {ask.name[0]: None for ask in self.asked}:
            names = [ask.name for ask in self.taken if ask.name.startswith(sender)]
            assert names == sorted(names)
        assert (len(self.lane), self.lane._parked) == (0, [])


def _desk(batching: Batching | None, limit: int) -> Desk:
    return Desk(RequestLane(limit, batching), limit, batching.max_batch if batching else 1)


async def requests_until_the_lane_closes() -> None:
    """Ask and withdraw, with two workers, until the lane is closed."""
    desk = _desk(choose([None, Batching(2, 0.0), Batching(3, 1.0)]), limit=2)
    async with trio.open_nursery() as workers:
        workers.start_soon(desk.work)
        workers.start_soon(desk.work)
        async with trio.open_nursery() as senders:
            senders.start_soon(desk.ask, "a", 2)
            senders.start_soon(desk.ask, "b", 2)
        for ask in desk.lane.close():
            ask.ends.append("returned")
    late = Ask("late", 1, 0.0)
    assert not desk.lane.offer(late)
    desk.assert_answered()


def test_every_request_gets_one_outcome_until_the_lane_closes(search: Search) -> None:
    """A request is refused, withdrawn, taken or handed back, exactly one of these, and both workers come to an end."""
    for timeouts in ("when-idle", "any-time"):
        search(requests_until_the_lane_closes, schedules=500, timeouts=timeouts)
    search(requests_until_the_lane_closes, policy=PCT(depth=3), schedules=500)


async def requests_are_taken_without_a_close() -> None:
    """Ask, with two workers, and close only once everything was taken."""
    desk = _desk(choose([None, Batching(2, 0.0), Batching(2, 1.0)]), limit=9)
    async with trio.open_nursery() as workers:
        workers.start_soon(desk.work)
        workers.start_soon(desk.work)
        async with trio.open_nursery() as senders:
            senders.start_soon(desk.ask, "a", 2)
            senders.start_soon(desk.ask, "b", 1)
        while len(desk.lane):  # noqa: ASYNC110 - a lane tells its workers, and nobody else
            await trio.sleep(10.0)
        assert desk.lane.close() == []
    desk.assert_answered()


def test_no_wake_up_is_lost_between_look_and_parking(search: Search) -> None:
    """What is offered is taken within its batching delay, though a worker looked just before and parked just after."""
    search(requests_are_taken_without_a_close, policy=PCT(depth=3), schedules=500, steps_max=500)
    search(requests_are_taken_without_a_close, policy=RandomWalk(), schedules=500, steps_max=500)


async def a_model_breaks_while_requests_wait() -> None:
    """Ask, with two workers, and halt the lane in the middle; close it when the workers have ended."""
    desk = _desk(choose([None, Batching(2, 1.0)]), limit=9)
    taken = 0
    async with trio.open_nursery() as nursery:
        nursery.start_soon(desk.work)
        nursery.start_soon(desk.work)
        nursery.start_soon(desk.ask, "a", 2)
        nursery.start_soon(desk.ask, "b", 2)
        for _ in range(choose(range(4))):
            await checkpoint()
        desk.lane.halt()
        taken = len(desk.taken)
    for ask in desk.lane.close():
        ask.ends.append("returned")
    assert len(desk.taken) == taken, "taken though the lane was halted"
    desk.assert_answered()


def test_a_halted_lane_gives_out_no_more(search: Search) -> None:
    """After a halt every worker ends without taking more, and what waits is handed back by the close."""
    search(a_model_breaks_while_requests_wait, schedules=500)
