"""Programs that must fail, each in one way; every one of them leaves a mess behind on purpose."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import attrs
import trio
from trio.lowlevel import checkpoint

from changeover_sim import RandomWalk

Program = Callable[[], Awaitable[None]]


class Broken(Exception):
    """Raised on purpose."""


# --- exception --------------------------------------------------------------------------------------------------------


async def raises() -> None:
    """It raises behind its first checkpoint."""
    await checkpoint()
    raise Broken("at once")


async def loses_an_update() -> None:
    """Both read, both write: one update is lost."""
    count = 0

    async def add() -> None:
        nonlocal count
        seen = count
        await checkpoint()
        count = seen + 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(add, name="add")
        nursery.start_soon(add, name="add")
    assert count == 2, f"an update is lost: {count}"


async def three_leaves() -> None:
    """Three tasks fail in the same batch, one of them in a nursery of its own."""

    async def fails(text: str) -> None:
        raise Broken(text)

    async def inner() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fails, "the inner leaf")
            nursery.start_soon(fails, "the second inner leaf")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(inner)
        nursery.start_soon(fails, "the outer leaf")


async def thread_raises() -> None:
    """Its thread raises."""

    def work() -> None:
        raise Broken("in a thread")

    await trio.to_thread.run_sync(work)


async def fails_while_others_wait() -> None:
    """When it fails a task waits in a shield, a thread waits for the loop, and a lock is held."""
    lock = trio.Lock()

    def work() -> None:
        trio.from_thread.run(trio.sleep, 100)

    async def shielded() -> None:
        with trio.CancelScope(shield=True):
            async with lock:
                await trio.sleep(1_000)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.to_thread.run_sync, work)
        nursery.start_soon(shielded)
        await trio.sleep(1)
        raise Broken("in the middle")


async def system_task_raises() -> None:
    """Trio takes that for an error of its own."""
    trio.lowlevel.spawn_system_task(raises)
    await trio.sleep(1)


async def breaks_trio() -> None:
    """Raise where Trio allows nobody to raise, so that its loop ends in the middle: others wait, one in a thread."""

    def abort(_: object) -> trio.lowlevel.Abort:
        raise Broken("in the abort function")

    async with trio.open_nursery() as nursery:
        for task in (catches_everything, shielded_for_ever, thread_waits_for_ever):
            nursery.start_soon(task)
        await trio.sleep(1)
        nursery.start_soon(raises)
        await trio.lowlevel.wait_task_rescheduled(abort)


async def exits() -> None:
    """It asks for the end of the process."""
    raise SystemExit(3)


async def awaits_what_is_not_trios() -> None:
    """It awaits something of asyncio."""
    import asyncio

    await asyncio.sleep(0)


# --- deadlock ---------------------------------------------------------------------------------------------------------


async def two_locks() -> None:
    """Each holds one and waits for the other."""
    a, b = trio.Lock(), trio.Lock()

    async def take(first: trio.Lock, second: trio.Lock) -> None:
        async with first, second:
            await checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(take, a, b, name="left")
        nursery.start_soon(take, b, a, name="right")


async def event_that_nobody_sets() -> None:
    """It waits for nobody."""
    await trio.Event().wait()


async def shielded_for_ever() -> None:
    """It cannot even be cancelled, nor can its clean-up."""
    with trio.CancelScope(shield=True):
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep_forever()


async def catches_everything() -> None:
    """Nothing that is raised at its checkpoint makes it end."""
    while True:
        with suppress(BaseException):
            await trio.sleep_forever()


async def catches_everything_in_children() -> None:
    """Three that refuse to end, in a nursery, and a fourth that is about to begin when all is given up."""
    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(catches_everything)


async def partial() -> None:
    """Two wait for each other for ever while a third goes on, so that time never stands still."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(two_locks_in_step)
        nursery.start_soon(ticker)


async def two_locks_in_step() -> None:
    """Fail in every schedule: each takes its second lock when both have their first."""
    a, b = trio.Lock(), trio.Lock()

    async def take(first: trio.Lock, second: trio.Lock) -> None:
        async with first:
            await trio.sleep(1)
            async with second:
                pass

    async with trio.open_nursery() as nursery:
        nursery.start_soon(take, a, b, name="left")
        nursery.start_soon(take, b, a, name="right")


async def ticker() -> None:
    """It sleeps again and again."""
    while True:  # noqa: ASYNC110 - on purpose
        await trio.sleep(1)


async def channel_without_reader() -> None:
    """It sends to nobody."""
    send, receive = trio.open_memory_channel[int](0)
    with receive:
        await send.send(1)


async def limiter_of_nobody() -> None:
    """The one token is borrowed on behalf of something that is no task."""
    limiter = trio.CapacityLimiter(1)
    await limiter.acquire_on_behalf_of("somebody")
    async with limiter:
        pass


async def thread_waits_for_ever() -> None:
    """A worker thread waits for the loop, where nobody ever answers; and once more when it is told to end."""

    def work() -> None:
        try:
            trio.from_thread.run(trio.sleep_forever)
        finally:
            trio.from_thread.run(trio.sleep_forever)

    await trio.to_thread.run_sync(work)


async def three_threads_wait_for_ever() -> None:
    """The same, three times."""
    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(thread_waits_for_ever)


async def generator_left_open() -> None:
    """An async generator, half-way through, belongs to a task that waits for ever."""

    async def numbers() -> Any:
        try:
            while True:
                yield 1
                await checkpoint()
        finally:
            pass

    generator = numbers()
    await generator.__anext__()
    await trio.sleep_forever()
    await generator.aclose()


# --- livelock, leftover -----------------------------------------------------------------------------------------------


async def spins() -> None:
    """It yields for ever."""
    while True:
        await checkpoint()


async def ticks_for_ever() -> None:
    """It sleeps for ever, a second at a time."""
    await ticker()


async def leaves_a_system_task() -> None:
    """Nobody waits for its system task."""
    trio.lowlevel.spawn_system_task(trio.sleep_forever, name="the forgotten one")
    await checkpoint()


# --- nondeterminism ---------------------------------------------------------------------------------------------------

_grown: list[None] = []


async def global_that_grows() -> None:
    """One task more in every run."""
    _grown.append(None)
    async with trio.open_nursery() as nursery:
        for _ in range(len(_grown)):
            nursery.start_soon(checkpoint)


async def number_from_outside() -> None:
    """The operating system says how many tasks there are."""
    async with trio.open_nursery() as nursery:
        for _ in range(1 + os.urandom(1)[0] % 16):
            nursery.start_soon(checkpoint)


async def order_from_outside() -> None:
    """The operating system says which of two tasks of the same length is spawned first."""

    async def heads() -> None:
        await checkpoint()

    async def tails() -> None:
        await checkpoint()

    async with trio.open_nursery() as nursery:
        for task in (heads, tails) if os.urandom(1)[0] % 2 else (tails, heads):
            nursery.start_soon(task)


async def one_from_outside() -> None:
    """The operating system says which one task there is; how many are ready is always the same."""

    async def heads() -> None:
        await checkpoint()

    async def tails() -> None:
        await checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(heads if os.urandom(1)[0] % 2 else tails)


@attrs.frozen
class Case:
    """A program, its verdict, and how it is explored."""

    program: Program
    verdict: str
    how: dict[str, Any] = attrs.field(factory=dict)

    def __str__(self) -> str:
        return self.program.__name__


_SHORT = {"steps_max": 200}

CASES = (
    *(Case(program, "exception") for program in (raises, loses_an_update, three_leaves, thread_raises)),
    Case(fails_while_others_wait, "exception"),
    Case(breaks_trio, "exception"),
    *(Case(program, "exception") for program in (system_task_raises, exits, awaits_what_is_not_trios)),
    *(Case(program, "deadlock") for program in (two_locks, event_that_nobody_sets, shielded_for_ever)),
    *(Case(program, "deadlock") for program in (catches_everything, catches_everything_in_children)),
    *(Case(program, "deadlock") for program in (channel_without_reader, limiter_of_nobody, two_locks_in_step)),
    *(Case(program, "deadlock") for program in (thread_waits_for_ever, three_threads_wait_for_ever)),
    Case(generator_left_open, "deadlock"),
    Case(partial, "deadlock", _SHORT),
    Case(spins, "livelock", _SHORT),
    Case(ticks_for_ever, "livelock", _SHORT),
    Case(leaves_a_system_task, "leftover"),
    Case(global_that_grows, "nondeterminism"),
    Case(number_from_outside, "nondeterminism", {"schedules": 800}),
    Case(order_from_outside, "nondeterminism", {"schedules": 3_000, "policy": RandomWalk()}),
    Case(one_from_outside, "nondeterminism", {"schedules": 3_000, "policy": RandomWalk()}),
)
