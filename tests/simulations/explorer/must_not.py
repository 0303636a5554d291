"""Programs that must not fail, under any schedule: each uses a part of Trio as it is meant to be used, and checks it.

`EVERY` has them by name.
"""

from __future__ import annotations

import contextvars
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from types import MappingProxyType

import trio
import trio.testing
from trio.lowlevel import checkpoint

from changeover_sim import cancel_anywhere, choose, touch

Program = Callable[[], Awaitable[None]]


# --- tasks and primitives ---------------------------------------------------------------------------------------------


async def lock() -> None:
    """A counter that is read and written under a lock is right."""
    count = 0
    guard = trio.Lock()

    async def add() -> None:
        nonlocal count
        async with guard:
            seen = count
            await checkpoint()
            count = seen + 1

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(add)
    assert count == 3
    assert not guard.locked()


async def strict_lock() -> None:
    """One is inside, the others wait."""
    guard, inside = trio.StrictFIFOLock(), 0

    async def task() -> None:
        nonlocal inside
        async with guard:
            inside += 1
            await checkpoint()
            assert inside == 1
            inside -= 1

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(task)


async def semaphore() -> None:
    """At most two are inside."""
    free, inside, most = trio.Semaphore(2), 0, 0

    async def task() -> None:
        nonlocal inside, most
        async with free:
            inside += 1
            most = max(most, inside)
            await checkpoint()
            inside -= 1

    async with trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(task)
    assert most <= 2
    assert free.value == 2


async def limiter() -> None:
    """At most two are inside, and all is given back."""
    free = trio.CapacityLimiter(2)

    async def task() -> None:
        async with free:
            await checkpoint()
            assert free.borrowed_tokens <= 2

    async with trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(task)
    assert free.borrowed_tokens == 0


async def condition() -> None:
    """Two producers and two consumers hand things over, one at a time."""
    cond, full = trio.Condition(), False

    async def consumer() -> None:
        nonlocal full
        async with cond:
            while not full:
                await cond.wait()
            full = False
            cond.notify_all()

    async def producer() -> None:
        nonlocal full
        async with cond:
            while full:
                await cond.wait()
            full = True
            cond.notify_all()

    async with trio.open_nursery() as nursery:
        for task in (consumer, consumer, producer, producer):
            nursery.start_soon(task)
    assert not full


async def event() -> None:
    """Who waits is woken, and not before."""
    done, order = trio.Event(), list[str]()

    async def waiter() -> None:
        await done.wait()
        order.append("woken")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(waiter)
        nursery.start_soon(waiter)
        await checkpoint()
        order.append("set")
        done.set()
    assert order == ["set", "woken", "woken"]


async def channel() -> None:
    """Two producers and two consumers share a channel: nothing is lost, nothing comes twice."""
    send, receive = trio.open_memory_channel[int](1)
    got: list[int] = []

    async def producer(sender: trio.MemorySendChannel[int], first: int) -> None:
        async with sender:
            for number in range(first, first + 3):
                await sender.send(number)

    async def consumer(receiver: trio.MemoryReceiveChannel[int]) -> None:
        async with receiver:
            async for number in receiver:
                got.append(number)  # noqa: PERF401 - a comprehension would keep them from the other consumer

    async with trio.open_nursery() as nursery:
        for first in (0, 10):
            nursery.start_soon(producer, send.clone(), first)
            nursery.start_soon(consumer, receive.clone())
        send.close()
        receive.close()
    assert sorted(got) == [0, 1, 2, 10, 11, 12]


async def start() -> None:
    """A service is up when `start` returns."""
    order: list[str] = []

    async def service(task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED) -> None:
        await checkpoint()
        order.append("up")
        task_status.started("port")
        await checkpoint()

    async with trio.open_nursery() as nursery:
        assert await nursery.start(service) == "port"
        assert order == ["up"]


async def failing_start() -> None:
    """What a service raises before it is up, `start` raises."""

    async def service(task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        await checkpoint()
        raise ValueError("not up")

    async with trio.open_nursery() as nursery:
        try:
            await nursery.start(service)
        except ValueError:
            return
    raise AssertionError("started")


async def group() -> None:
    """One fails, its sibling is cancelled and cleans up, the error comes out once."""
    cleaned: list[str] = []

    async def fails() -> None:
        await checkpoint()
        raise ValueError

    async def sibling() -> None:
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await checkpoint()
            cleaned.append("clean")

    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sibling)
            await checkpoint()
            nursery.start_soon(fails)
    except* ValueError as errors:
        number = len(errors.exceptions)
    else:
        raise AssertionError("no error")
    assert number == 1
    assert cleaned in ([], ["clean"])


async def context() -> None:
    """Each task has context variables of its own."""
    mine = contextvars.ContextVar("mine", default=0)

    async def task(number: int) -> None:
        mine.set(number)
        await checkpoint()
        assert mine.get() == number
        assert await trio.to_thread.run_sync(mine.get) == number

    async with trio.open_nursery() as nursery:
        for number in (1, 2):
            nursery.start_soon(task, number)
    assert mine.get() == 0


# --- time and cancellation --------------------------------------------------------------------------------------------


async def timeouts() -> None:
    """Deadlines come when they should."""
    with trio.move_on_after(5) as scope:
        await trio.sleep(10)
    assert scope.cancelled_caught
    assert trio.current_time() == 5
    try:
        with trio.fail_after(1):
            await trio.sleep_forever()
    except trio.TooSlowError:
        pass
    else:
        raise AssertionError("not too slow")
    with trio.fail_at(100):
        await trio.sleep_until(99)
    assert trio.current_time() == 99


async def cancelled_anywhere() -> None:
    """Wherever it is cancelled, the lock is free behind it, and the others get theirs."""
    guard, got = trio.Lock(), list[int]()

    async def task(number: int) -> None:
        with trio.CancelScope() as scope:
            cancel_anywhere(scope)
            async with guard:
                await trio.sleep(1)
                got.append(number)
        assert scope.cancelled_caught == (number not in got)

    async with trio.open_nursery() as nursery:
        for number in range(3):
            nursery.start_soon(task, number)
    assert not guard.locked()


async def shield() -> None:
    """What is shielded goes on to its end."""
    with trio.move_on_after(1) as scope:
        with trio.CancelScope(shield=True):
            await trio.sleep(3)
        assert trio.current_time() == 3
        await checkpoint()
        raise AssertionError("not cancelled")
    assert scope.cancelled_caught


async def idle() -> None:
    """Who waits until all is idle waits for what is ready, and not for what sleeps."""
    order: list[str] = []

    async def busy() -> None:
        for _ in range(3):
            await checkpoint()
        order.append("busy")
        await trio.sleep(1)
        order.append("slept")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(busy)
        await trio.testing.wait_all_tasks_blocked()
        order.append("idle")
        await trio.testing.wait_all_tasks_blocked(0.5)
        order.append("idle again")
    assert order == ["busy", "idle", "idle again", "slept"]


async def sequence() -> None:
    """Who must be first is first."""
    seq, order = trio.testing.Sequencer(), list[int]()

    async def task(first: int) -> None:
        for number in (first, first + 2):
            async with seq(number):
                order.append(number)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(task, 0)
        nursery.start_soon(task, 1)
    assert order == [0, 1, 2, 3]


async def streams() -> None:
    """Bytes arrive in order."""
    one, other = trio.testing.memory_stream_pair()

    async def sender() -> None:
        await one.send_all(b"hello ")
        await one.send_all(b"world")
        await one.send_eof()

    async def receiver() -> None:
        assert b"".join([chunk async for chunk in other]) == b"hello world"

    async with trio.open_nursery() as nursery:
        nursery.start_soon(sender)
        nursery.start_soon(receiver)


# --- other -----------------------------------------------------------------------------------------------------------


async def generators() -> None:
    """An async generator that is closed, and one that runs to its end; and a context manager made of one."""
    log: list[str] = []

    async def numbers() -> AsyncIterator[int]:
        try:
            for number in range(3):
                await checkpoint()
                yield number
        finally:
            log.append("closed")

    @asynccontextmanager
    async def service() -> AsyncIterator[trio.Nursery]:
        async with trio.open_nursery() as nursery:
            yield nursery
            nursery.cancel_scope.cancel()

    async with aclosing(numbers()) as generator:
        async for number in generator:
            if number:
                break
    assert [number async for number in numbers()] == [0, 1, 2]
    async with service() as nursery:
        nursery.start_soon(trio.sleep_forever)
    assert log == ["closed", "closed"]


async def chance() -> None:
    """`random` is the schedule's own; choices and marks are no more than that."""
    before = random.random()
    touch("resource")
    await checkpoint()
    assert choose("abc") in "abc"
    assert random.random() != before


EVERY: Mapping[str, Program] = MappingProxyType(
    {
        program.__name__: program
        for program in (
            *(lock, strict_lock, semaphore, limiter, condition, event, channel, start, failing_start, group, context),
            *(timeouts, cancelled_anywhere, shield, idle, sequence, streams),
            *(generators, chance),
        )
    }
)
