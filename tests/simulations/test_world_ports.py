"""The virtual world: its threads behave like threads, its time is told, and the same seed gives the same trace."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import attrs
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from changeover import Batching
from changeover.runtime.mailbox import RequestLane
from changeover_sim import open_world
from changeover_sim.ports import EPOCH_S
from tests.support.models import Broken
from tests.support.rig import Rig, open_rig, run_virtual, settle
from tests.support.workload import Plan, plans, run


@attrs.define
class Delivery:
    """Waits for one delivery."""

    value: Any = None
    error: BaseException | None = None
    at_s: float | None = None

    def __call__(self, value: Any, error: BaseException | None) -> None:
        assert self.at_s is None, "delivered twice"
        self.value, self.error, self.at_s = value, error, trio.current_time()


@attrs.define(eq=False)
class Ask:
    """A request, as far as a lane looks at it."""

    name: int
    rows: int = 1
    queued_at_s: float = 0.0


async def test_work_takes_as_long_as_it_is_told_and_is_then_delivered(autojump_clock: Any) -> None:
    """The work itself happens when its time is up, in one step; nothing is delivered before."""
    done: list[float] = []

    def work() -> str:
        done.append(trio.current_time())
        return "value"

    async with open_world() as world:
        world.durations["work"] = 5.0
        delivery = Delivery()
        world.ports.offload.start("work", work, delivery)
        await trio.sleep(4.9)
        assert (done, delivery.at_s) == ([], None)
        await trio.sleep(1)
        assert (done, delivery.at_s, delivery.value) == ([5.0], 5.0, "value")


async def test_work_that_is_not_named_takes_no_time_but_is_not_done_at_once(autojump_clock: Any) -> None:
    """Like a thread it runs beside its starter, never within him."""
    async with open_world() as world:
        delivery = Delivery()
        world.ports.offload.start("work", lambda: 1, delivery)
        assert delivery.at_s is None
        await settle()
        assert (delivery.value, delivery.at_s) == (1, 0.0)


@pytest.mark.parametrize("error", [Broken("no"), SystemExit(3)])
async def test_whatever_work_raises_is_delivered(error: BaseException, autojump_clock: Any) -> None:
    """An error is an outcome, as with real threads."""

    def work() -> None:
        raise error

    async with open_world() as world:
        delivery = Delivery()
        world.ports.offload.start("work", work, delivery)
        await settle()
        assert (delivery.value, delivery.error) == (None, error)


async def test_work_can_hang_until_somebody_lets_it_go(autojump_clock: Any) -> None:
    """A duration may be an event: a day of virtual time changes nothing."""
    async with open_world() as world:
        go = trio.Event()
        world.durations["work"] = go
        delivery = Delivery()
        world.ports.offload.start("work", lambda: 1, delivery)
        await trio.sleep(86_400)
        assert delivery.at_s is None
        go.set()
        await settle()
        assert delivery.at_s == 86_400


async def test_work_cannot_be_interrupted_by_who_started_it(autojump_clock: Any) -> None:
    """The starter is cancelled, and his nursery gone: the thread goes on and delivers, as a real one does."""
    async with open_world() as world:
        world.durations["work"] = 5.0
        delivery = Delivery()
        with trio.move_on_after(1):
            async with trio.open_nursery():
                world.ports.offload.start("work", lambda: 1, delivery)
                await trio.sleep_forever()
        await trio.sleep(10)
        assert delivery.at_s == 5.0


async def test_threads_end_with_their_world(autojump_clock: Any) -> None:
    """Behind the world nothing is delivered, and nothing can be started; as when a process has ended."""
    delivery = Delivery()
    async with open_world() as world:
        world.durations["work"] = 5.0
        world.ports.offload.start("work", lambda: 1, delivery)
        await settle()
    world.ports.offload.start("later", lambda: 1, delivery)
    await trio.sleep(10)
    assert delivery.at_s is None


async def test_pieces_of_work_do_not_wait_for_each_other(autojump_clock: Any) -> None:
    """Each has a thread of its own."""
    async with open_world() as world:
        deliveries = [Delivery() for _ in range(100)]
        for number, delivery in enumerate(deliveries):
            world.durations[f"work {number}"] = float(number)
            world.ports.offload.start(f"work {number}", lambda: 1, delivery)
        await trio.sleep(1_000)
        assert [delivery.at_s for delivery in deliveries] == [float(number) for number in range(100)]


async def test_a_worker_takes_one_batch_after_the_other(autojump_clock: Any) -> None:
    """Each batch takes its time, during which the lane fills up; when it is closed and empty the worker ends."""
    async with open_world() as world:
        world.durations["worker"] = 2.0
        lane: RequestLane[Ask] = RequestLane(100, Batching(3, 1.0))
        handled: list[tuple[float, list[int]]] = []
        delivery = Delivery()

        def handle(batch: Sequence[Ask]) -> None:
            handled.append((trio.current_time(), [ask.name for ask in batch]))

        world.ports.offload.serve("worker", lane, handle, delivery)
        for name in range(4):
            lane.offer(Ask(name, queued_at_s=trio.current_time()))
        await trio.sleep(10)
        assert handled == [(2.0, [0, 1, 2]), (4.0, [3])]
        lane.offer(Ask(4, queued_at_s=trio.current_time()))
        await trio.sleep(10)
        assert handled[2:] == [(13.0, [4])]
        lane.close()
        await settle()
        assert (delivery.at_s, delivery.error) == (20.0, None)


async def test_a_worker_that_is_closed_in_the_middle_finishes_what_it_has(autojump_clock: Any) -> None:
    """What a worker has taken is handled, whatever happens to its lane."""
    async with open_world() as world:
        world.durations["worker"] = 5.0
        lane: RequestLane[Ask] = RequestLane(100, None)
        handled: list[int] = []
        delivery = Delivery()
        world.ports.offload.serve("worker", lane, lambda batch: handled.append(batch[0].name), delivery)
        for name in range(3):
            lane.offer(Ask(name))
        await trio.sleep(1)
        assert [ask.name for ask in lane.close()] == [1, 2]
        await trio.sleep(10)
        assert (handled, delivery.at_s) == ([0], 5.0)


async def test_a_worker_whose_handler_raises_says_so(autojump_clock: Any) -> None:
    """The error is delivered, as with real threads."""

    def handle(batch: Sequence[Ask]) -> None:
        raise Broken("handler")

    async with open_world() as world:
        lane: RequestLane[Ask] = RequestLane(100, None)
        delivery = Delivery()
        world.ports.offload.serve("worker", lane, handle, delivery)
        lane.offer(Ask(0))
        await settle()
        assert isinstance(delivery.error, Broken)


async def test_time_is_the_runs_own_clock(autojump_clock: Any) -> None:
    """The engine's clock is Trio's, the wall clock is a fixed day and as far on; sleeping is waiting on that clock."""
    async with open_world() as world:
        clock = world.ports.clock
        before = clock.now()
        await clock.sleep(3_600)
        assert clock.now() - before == 3_600
        assert clock.wall() == EPOCH_S + trio.current_time()


async def test_a_world_starts_no_thread(autojump_clock: Any) -> None:
    """Everything happens in the loop's own thread: loads, closes and requests."""
    threads: set[threading.Thread] = set()

    def here(*_ignored: Any) -> None:
        threads.add(threading.current_thread())

    async with open_rig() as rig:
        await rig.ready(execution="worker", on_load=here, on_predict=here, on_close=here)
        await rig.engine.infer("m", {})
    assert threads == {threading.current_thread()}


# --- promise 11, the beginning of it --------------------------------------------------------------------------------


async def traced(plan: Plan) -> list[str]:
    """Play a plan and return everything that happened, in order, with its time."""
    trace: list[str] = []

    def listen(rig: Rig) -> None:
        emit = rig.engine._bus.emit

        def emit_too(kind: str, *args: Any, **detail: Any) -> None:
            trace.append(f"{trio.current_time()} {kind} {args} {detail}")
            emit(kind, *args, **detail)

        rig.engine._bus.emit = emit_too  # type: ignore[method-assign]

    record = await run(plan, None, listen)
    trace += [f"{asked.number} {asked.outcomes} {asked.version} {asked.ended_s}" for asked in record.asked]
    trace += [f"{order} {what}" for order, what in record.ordered]
    trace += [str(operation) for operation in record.swaps]
    return trace


def seeded(plan: Plan, order_seed: int, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Play a plan with Trio's own order of tasks drawn from a seed."""
    from trio._core import _run

    monkeypatch.setattr(_run, "_ALLOW_DETERMINISTIC_SCHEDULING", True)
    _run._r.seed(order_seed)
    return run_virtual(traced, plan)


@settings(derandomize=True, deadline=None, max_examples=15)
@given(plan=plans(faults=True), order_seed=st.integers(0, 1_000))
def test_the_same_seed_gives_the_same_trace(plan: Plan, order_seed: int) -> None:
    """Two runs of a mixed workload tell the same events at the same times, with the same outcomes and the same ids."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        first = seeded(plan, order_seed, monkeypatch)
        assert seeded(plan, order_seed, monkeypatch) == first
    assert len(first) > len(plan.asks)


def test_another_seed_gives_another_trace() -> None:
    """Chance comes from the world's seed: swap ids and jitter differ."""

    async def swap(seed: int) -> str:
        async with open_rig(seed=seed) as rig:
            await rig.ready("m", "1")
            rig.add("m", "2")
            return (await rig.engine.swap("m", "2")).id

    assert len({run_virtual(swap, seed) for seed in (0, 0, 1, 2)}) == 3
