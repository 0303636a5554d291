"""A program that uses everything at once, to see whether the same seed does the same.

It imports nothing of pytest, so that it starts fast in a process of its own.
"""

from __future__ import annotations

import hashlib
import random
import sys
from typing import Any

import trio
from trio.lowlevel import checkpoint

from changeover_sim import Result, cancel_anywhere, choose, explore

logs: list[list[str]] = []
"""What happened in each run of the program."""


async def busy() -> None:
    """Fail in one of twenty schedules, after tasks, locks, events, channels, threads, deadlines and cancellations."""
    log: list[str] = []
    lock, go = trio.Lock(), trio.Event()
    send, receive = trio.open_memory_channel[str](1)

    async def locker(name: str) -> None:
        async with lock:
            log.append(f"{name} at {trio.current_time()}")
            await trio.sleep(1)
        await go.wait()
        log.append(f"{name} goes on")
        await send.send(name)

    async def threader(name: str) -> None:
        await trio.to_thread.run_sync(lambda: log.append(name))
        await trio.to_thread.run_sync(lambda: trio.from_thread.run(locker, f"{name} inside"))

    async def sleeper(name: str) -> None:
        with trio.CancelScope() as scope:
            cancel_anywhere(scope)
            async with trio.open_nursery() as inner:
                for _ in range(4):
                    inner.start_soon(trio.sleep, 2)
            log.append(f"{name} slept")

    async def reader() -> None:
        for _ in range(4):
            name = await receive.receive()
            log.append(f"read {name}")

    async with trio.open_nursery() as nursery:
        for number in range(3):
            nursery.start_soon(locker, f"locker {number}")
        nursery.start_soon(threader, "thread")
        nursery.start_soon(sleeper, "sleeper")
        nursery.start_soon(reader)
        await trio.sleep(random.random() * 5)
        go.set()
        await checkpoint()
    logs.append(log)
    assert choose(range(20)), f"the first of twenty, {random.random()}"


def digest(**how: Any) -> tuple[str, Result]:
    """Explore it, and return a digest of all that happened, in every schedule."""
    logs.clear()
    result = explore(busy, **how)
    failure = result.failure
    assert failure is not None, result
    told = [repr(logs), *map(repr, failure.trace), failure.token, repr(failure.exception), str(result.schedules_run)]
    return hashlib.sha256("\n".join(told).encode()).hexdigest(), result


def tell(seed: int) -> None:
    """Print the digest and the token, for a process of its own."""
    told, result = digest(seed=seed)
    assert result.failure is not None
    sys.stdout.write(f"{told} {result.failure.token}\n")
