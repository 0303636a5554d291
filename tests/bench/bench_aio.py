"""The engine from asyncio: what `infer` costs beside `asyncio.to_thread` of the same call, and a lease beside Trio's.

All sides run in turn in one process. Each side opens and closes its own loop; the engine's thread sleeps meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from time import perf_counter, thread_time
from typing import Any

import measure
import trio
from measure import Figure, Spread

from changeover import aio, open_engine

RATIO_MOST = 0.7
LEASE_RATIO_MOST = 1.15
"""As cheap as in Trio, but for what the machine adds to either."""
INPUTS = {"x": 1.0}

Ask = Callable[[], Awaitable[Any]]


def bench(quick: bool) -> list[Figure]:
    """Return the figures of the asyncio face."""
    rounds, count = (5, 400) if quick else (21, 2_000)
    requests = [figure for callers in (1, 32) for figure in asyncio.run(_requests(callers, rounds, count))]
    return requests + _leases(rounds, 20 * count)


async def _requests(callers: int, rounds: int, count: int) -> list[Figure]:
    """Measure both ways to have a call made by another thread."""
    async with aio.open_engine() as engine:
        engine.register("m", "1", "models:trivial", loader="callable", allow_code=True, execution="worker")
        await engine.load("m", "1")
        with engine.lease("m") as lease:
            model = lease.model

            async def infer() -> None:
                await engine.infer("m", INPUTS)

            async def to_thread() -> None:
                await asyncio.to_thread(model.predict, INPUTS)

            sides: list[list[float]] = [[], []]
            for turn in range(rounds + 1):
                for values, ask in zip(sides, (to_thread, infer), strict=True):
                    took_s = await _per_request(ask, callers, count)
                    values.extend([took_s] if turn else [])  # the first is waste
    ratio = Spread.ratio(sides[1], sides[0])
    at = f"{callers} caller{'s' if callers > 1 else ''}"
    return [
        Figure(f"asyncio.to_thread, {at}", "", Spread.of(sides[0]).text("µs", scale=1e6, digits=1)),
        Figure(f"await infer by a worker, {at}", "", Spread.of(sides[1]).text("µs", scale=1e6, digits=1)),
        Figure(f"infer / to_thread, {at}", f"at most {RATIO_MOST}x", ratio.text("x"), ratio.median <= RATIO_MOST),
    ]


async def _per_request(ask: Ask, callers: int, count: int) -> float:
    """Return the elapsed seconds that one request takes, with so many callers at once."""

    async def loop() -> None:
        for _ in range(count // callers):
            await ask()

    began = perf_counter()
    await asyncio.gather(*(loop() for _ in range(callers)))
    return (perf_counter() - began) / (count // callers * callers)


def _leases(rounds: int, count: int) -> list[Figure]:
    """Measure a lease in a Trio task and in an asyncio task."""
    on_trio, on_asyncio = measure.alternate(
        rounds, lambda: trio.run(_lease_on_trio, count), lambda: asyncio.run(_lease_on_asyncio(count))
    )
    ratio = Spread.ratio(on_asyncio, on_trio)
    return [
        Figure("lease + release, Trio", "", Spread.of(on_trio).text("µs", scale=1e6, digits=3)),
        Figure("lease + release, asyncio", "", Spread.of(on_asyncio).text("µs", scale=1e6, digits=3)),
        Figure("lease, asyncio / Trio", "as cheap", ratio.text("x"), ratio.median <= LEASE_RATIO_MOST),
    ]


async def _lease_on_trio(count: int) -> float:
    async with open_engine() as engine:
        engine.register("m", "1", "models:trivial", loader="callable", allow_code=True)
        await engine.load("m", "1")
        return _per_lease(engine, count)


async def _lease_on_asyncio(count: int) -> float:
    async with aio.open_engine() as engine:
        engine.register("m", "1", "models:trivial", loader="callable", allow_code=True)
        await engine.load("m", "1")
        return _per_lease(engine, count)


def _per_lease(engine: Any, count: int) -> float:
    """Return the CPU seconds of this thread that one lease takes."""
    began = thread_time()
    for _ in range(count):
        with engine.lease("m"):
            pass
    return (thread_time() - began) / count


if __name__ == "__main__":
    measure.command("From asyncio", bench)
