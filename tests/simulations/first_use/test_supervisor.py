"""The supervisor and the actor under every order of crashes, restarts, messages and the stop."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Literal

import attrs
import trio

from changeover.runtime.actor import Actor
from changeover.runtime.mailbox import Promise
from changeover.runtime.supervisor import ChildSpec, Restart, Supervisor
from changeover_sim import PCT, Exhaustive, RandomWalk, cancel_anywhere, choose, open_world
from tests.simulations.first_use.stage import Search, assert_explored
from tests.support.models import Broken

checkpoint = trio.lowlevel.checkpoint
STOPPED = "while it was stopped"
SHORT = Restart(most=2, within_s=60.0, first_s=0.1, longest_s=1.0)


@asynccontextmanager
async def supervised() -> AsyncGenerator[Supervisor, None]:
    """Run a supervisor; whoever opens it stops it, and its task must come to an end then."""
    async with open_world() as world, trio.open_nursery() as nursery:
        supervisor = Supervisor(world.ports)
        await nursery.start(lambda task_status: supervisor.run(task_status=task_status))
        yield supervisor
        assert supervisor._children == {}


@attrs.define(eq=False)
class Child:
    """Runs, and crashes or ends as the schedule has it; notes everything."""

    name: str
    restart: Restart | None = SHORT
    younger: list[Child] = attrs.field(factory=list)
    running: int = 0
    runs: int = 0
    crashes: int = 0
    told: list[float | None] = attrs.field(factory=list)
    ended: int = 0

    async def run(self) -> None:
        assert self.running == 0, "two of one child run at once"
        assert self.ended == 0, "run after its end was told"
        self.running += 1
        self.runs += 1
        try:
            await checkpoint()
            await self._live(choose(["crash", "return", "stay"]))
        except trio.Cancelled:
            assert all(child.ended for child in self.younger), "stopped before those that were started later"
            raise
        finally:
            self.running -= 1

    async def _live(self, how: Literal["crash", "return", "stay"]) -> None:
        if how == "stay":
            try:
                await trio.sleep_forever()
            finally:
                if choose([False, True]):
                    self.crashes += 1
                    raise Broken(STOPPED)
        if how == "crash":
            self.crashes += 1
            raise Broken(self.name)

    def start(self, supervisor: Supervisor) -> None:
        def crashed(error: Exception, delay_s: float | None) -> None:
            assert self.running == 0
            assert delay_s is None or str(error) != STOPPED, "to be restarted after its stop"
            self.told.append(delay_s)

        def ended() -> None:
            assert self.name not in supervisor
            self.ended += 1

        supervisor.start(ChildSpec(self.name, self.run, crashed, self.restart, ended))

    def assert_over(self) -> None:
        """It ended once; every crash was told; it was not started again after the last."""
        assert (self.running, self.ended) == (0, 1)
        assert len(self.told) == self.crashes
        assert None not in self.told[:-1], "started again though it was given up"
        restarts = len([delay_s for delay_s in self.told if delay_s is not None])
        assert restarts - 1 <= self.runs - 1 <= restarts
        assert restarts <= (self.restart.most if self.restart else 0)


async def children_until_the_stop() -> None:
    """Run three children that crash, return or stay, and stop the supervisor at any time."""
    children = [Child("a"), Child("b", restart=None), Child("c")]
    async with supervised() as supervisor:
        for number, child in enumerate(children):
            child.younger = children[number + 1 :]
            child.start(supervisor)
        for _ in range(choose(range(6))):
            await checkpoint()
        await trio.sleep(choose([0.0, 0.1, 50.0]))
        await supervisor.stop()
        assert not supervisor.is_running
        for child in children:
            child.assert_over()


def test_a_stop_ends_every_child_once_whatever_it_does(search: Search) -> None:
    """A child ends once, also one that waits or has not begun; every crash is told; its runs never overlap."""
    search(children_until_the_stop, policy=RandomWalk(), schedules=600)
    search(children_until_the_stop, policy=PCT(depth=3), schedules=400, timeouts="any-time")


async def a_stop_that_is_cancelled() -> None:
    """Cancel a stop at any moment, then stop twice at once."""
    children = [Child("a"), Child("b")]
    async with supervised() as supervisor:
        for child in children:
            child.start(supervisor)
        await checkpoint()
        with trio.CancelScope() as scope:
            cancel_anywhere(scope)
            await supervisor.stop()
        assert supervisor.is_running == scope.cancelled_caught
        async with trio.open_nursery() as nursery:
            nursery.start_soon(supervisor.stop)
            nursery.start_soon(supervisor.stop)
        assert not supervisor.is_running
        for child in children:
            child.assert_over()


def test_a_stop_that_was_cancelled_can_be_ordered_again(search: Search) -> None:
    """A stop that is cancelled at any moment is finished by the next one, also by two at once."""
    search(a_stop_that_is_cancelled, policy=Exhaustive(delays=0))
    search(a_stop_that_is_cancelled, policy=RandomWalk(), schedules=400)


async def a_child_starts_another() -> None:
    """Start a child out of the last moment of another, while all are stopped."""
    late, begun = Child("late", restart=None), list[str]()
    async with supervised() as supervisor:

        async def run() -> None:
            try:
                await checkpoint()
            finally:
                late.start(supervisor)
                begun.append("late")

        supervisor.start(ChildSpec("early", run, lambda _error, _delay_s: None))
        await checkpoint()
        await supervisor.stop()
        if begun:
            late.assert_over()


def test_what_is_started_while_all_are_stopped_is_stopped_too() -> None:
    """A child that starts another in its last moment leaves nothing behind."""
    assert_explored(a_child_starts_another, policy=Exhaustive(delays=3), exhausted=True)


# --- the actor ------------------------------------------------------------------------------------------------------


@attrs.define(eq=False)
class Order:
    """A message: what it does to the actor, and the promise of an answer."""

    does: Literal["good", "crash", "work", "rest"]
    answer: Promise[str] = attrs.field(factory=Promise[str])
    answers: int = 0

    def settle(self, text: str) -> None:
        self.answers += 1
        self.answer.settle(text)


class Clerk(Actor[Order]):
    """Answers every order, and has work to do between `work` and `rest`."""

    working = False
    handling = False
    cleaned = 0

    def _starting(self) -> None:
        assert not self.handling

    def _has_work(self) -> bool:
        return self.working

    def _handle(self, message: Order) -> None:
        self.handling = True
        if message.does == "crash":
            raise Broken("as ordered")
        self.working = message.does == "work" or (self.working and message.does != "rest")
        if message.does == "good":
            self._post_later(0.0, trio.CancelScope(), Order("rest"))
        message.settle("done")
        self.handling = False

    def _is_wanted(self) -> bool:
        return self.working

    def _clean_up(self, error: BaseException) -> None:
        self.handling = False
        self.cleaned += 1

    def _refuse(self, message: Order) -> None:
        message.settle("refused")

    def _crashed(self, error: Exception, delay_s: float | None) -> None:
        self.working = self.working and delay_s is not None


async def orders_to_a_clerk() -> None:
    """Send orders, some of which crash the actor, some from a thread, and stop the supervisor meanwhile."""
    orders: list[Order] = []
    async with supervised() as supervisor, trio.open_nursery() as senders:
        world_ports = supervisor._ports
        clerk = Clerk("clerk", world_ports, supervisor)

        async def send() -> None:
            for _ in range(2):
                order = Order(choose(["good", "good", "crash", "work", "rest"]))
                orders.append(order)
                if choose([True, False]):
                    clerk.post(order)
                else:
                    clerk.post_soon(order)
                with trio.CancelScope() as scope:
                    cancel_anywhere(scope)
                    assert await order.answer.wait() in {"done", "refused"}

        async def stop() -> None:
            for _ in range(choose(range(8))):
                await checkpoint()
            await supervisor.stop()

        senders.start_soon(send)
        senders.start_soon(send)
        senders.start_soon(stop)
    await trio.testing.wait_all_tasks_blocked()
    assert [order.answers for order in orders] == [1] * len(orders)
    assert (len(clerk._lane), clerk._current, len(clerk._lane._lot)) == (0, None, 0)
    assert "clerk" not in supervisor


def test_every_order_is_answered_once_also_behind_the_stop(search: Search) -> None:
    """An order that comes before, in the middle of or after a crash or the stop is done or refused, once."""
    search(orders_to_a_clerk, policy=RandomWalk(), schedules=1_000)
    search(orders_to_a_clerk, policy=PCT(depth=3), schedules=500)
