"""Clients that ask a live engine for digits, each again as soon as it has its answer: the load of the benchmarks.

It owns what the clients saw. The clients run in the caller's nursery and end at `stop`. Times are `perf_counter`.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from time import perf_counter
from typing import Any

import trio

from changeover import Engine
from changeover.errors import ChangeoverError

CLIENTS = 32


class Traffic:
    """What the clients of one model saw."""

    def __init__(self, engine: Engine, model: str, images: Any) -> None:
        """Ask `model` for one row of `images`, float32 (n, 64), at a time."""
        self._engine = engine
        self._model = model
        self._images = images
        self._stopped = False
        self._awaited: str | None = None
        self._first_at = 0.0
        self._answered_first = trio.Event()
        self.sent = 0
        self.lost: list[str] = []
        # Arrays, because a million tuples would give the garbage collector work that the engine would be charged with.
        self._ended_at = array("d")
        self._took_s = array("d")

    @property
    def answered(self) -> int:
        """Return how many requests were answered."""
        return len(self._took_s)

    def expect(self, version: str) -> None:
        """Note when this version answers first from now on, for `first_answer`."""
        self._awaited, self._answered_first = version, trio.Event()

    async def first_answer(self) -> float:
        """Return when the expected version answered first, once it has."""
        await self._answered_first.wait()
        return self._first_at

    def latencies_s(self, begin: float, end: float) -> list[float]:
        """Return how long the requests took that ended in a window of time."""
        return self._took_s[bisect_left(self._ended_at, begin) : bisect_left(self._ended_at, end)].tolist()

    async def ask(self, number: int) -> None:
        """Be one client."""
        inputs = {"image": self._images[number % len(self._images)][None, :]}
        engine, model, ended_at, took_s = self._engine, self._model, self._ended_at, self._took_s
        while not self._stopped:
            self.sent += 1
            began = perf_counter()
            try:
                reply = await engine.infer(model, inputs)
            except ChangeoverError as error:
                self.lost.append(f"{type(error).__name__}: {error}")
                continue
            now = perf_counter()
            ended_at.append(now)
            took_s.append(now - began)
            if reply.version == self._awaited:
                self._awaited, self._first_at = None, now
                self._answered_first.set()

    def stop(self) -> None:
        """Let every client end after its present request."""
        self._stopped = True


@asynccontextmanager
async def under_traffic(
    engine: Engine, model: str, images: Any, clients: int = CLIENTS
) -> AsyncGenerator[Traffic, None]:
    """Keep so many clients asking for as long as the block runs; every request that was sent is waited for."""
    traffic = Traffic(engine, model, images)
    async with trio.open_nursery() as nursery:
        for number in range(clients):
            nursery.start_soon(traffic.ask, number)
        yield traffic
        traffic.stop()


async def throughput(engine: Engine, model: str, images: Any, seconds: float, clients: int = CLIENTS) -> float:
    """Return the requests that were answered per second, over some seconds after a short run-up."""
    async with under_traffic(engine, model, images, clients) as traffic:
        await trio.sleep(0.05)
        began, before = perf_counter(), traffic.answered
        await trio.sleep(seconds)
        return (traffic.answered - before) / (perf_counter() - began)
