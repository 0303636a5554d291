"""What gathering requests into batches brings, on the digits models, beside the same calls one by one in threads.

The sides take turns, some tenths of a second each, in one process. It spawns the clients and the bare threads.
"""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import measure
import trio
from measure import Figure, Spread
from traffic import CLIENTS, throughput

from changeover import Batching, Engine, VersionSpec, open_engine
from changeover_plugins.demo.digits import write_repository

GAIN_LEAST = 2.0

Side = Callable[[], Awaitable[float]]
"""Runs for a while and returns requests per second."""

WAYS: dict[str, dict[str, Any]] = {
    "max_batch 32": {"execution": "worker", "batching": Batching(max_batch=CLIENTS)},
    "max_batch 1": {"execution": "worker", "batching": Batching(max_batch=1)},
    "inline": {},
}


def bench(quick: bool) -> list[Figure]:
    """Return the figures of batching, for the larger model first."""
    rounds, seconds = (3, 0.2) if quick else (15, 0.5)
    with tempfile.TemporaryDirectory() as folder:
        images = write_repository(Path(folder)).images
        return [f for version in "21" for f in trio.run(_bench, Path(folder), images, version, rounds, seconds)]


async def _bench(folder: Path, images: Any, version: str, rounds: int, seconds: float) -> list[Figure]:
    """Measure every side in turn."""
    path = folder / "digits" / version / "model.onnx"
    async with open_engine() as engine:
        for way, settings in WAYS.items():
            engine.register(VersionSpec(_model(way), version, path, loader="onnx", **settings))
            await engine.load(_model(way), version)
        sides: dict[str, Side] = {
            way: partial(throughput, engine, _model(way), images, seconds) for way in WAYS
        }  # fmt: skip
        run = _session_run(engine, images)
        sides[f"{CLIENTS} plain threads"] = partial(_plain_threads, run, seconds)
        sides["trio.to_thread.run_sync"] = partial(_trio_threads, run, seconds)
        measured: dict[str, list[float]] = {name: [] for name in sides}
        for _ in range(rounds):
            for name, side in sides.items():
                measured[name].append(await side())
    return _figures(version, measured)


def _figures(version: str, measured: dict[str, list[float]]) -> list[Figure]:
    base = measured["max_batch 1"]
    gain = Spread.ratio(measured["max_batch 32"], base)
    wanted = f"at least {GAIN_LEAST:.0f}x"
    figures = [
        Figure(
            f"digits {version}, {CLIENTS} clients: batching / max_batch 1", wanted, gain.text("x"),
            gain.median >= GAIN_LEAST,
        )
    ]  # fmt: skip
    for name, values in measured.items():
        beside = Spread.ratio(values, base).median
        figures.append(Figure(f"  {name}", "", f"{Spread.of(values).text('per s', digits=0)}, {beside:.2f}x"))
    return figures


def _model(way: str) -> str:
    return way.replace(" ", "_")


# --- the same calls without an engine ---


def _session_run(engine: Engine, images: Any) -> Callable[[int], object]:
    """Return a function that answers one image by a bare ONNX session."""
    loaded = next(one for one in engine._host.living() if one.key.model == "inline")
    session: Any = loaded.model._session  # the very session, so that both sides run the same
    names = [spec.name for spec in loaded.signature.outputs]
    return lambda number: session.run(names, {"image": images[number % len(images)][None, :]})


async def _plain_threads(run: Callable[[int], object], seconds: float) -> float:
    """Call in as many threads as there are clients, each again at once."""
    counts = [0] * CLIENTS
    start = threading.Barrier(CLIENTS)
    ends = perf_counter() + seconds

    def work(number: int) -> None:
        start.wait()
        while perf_counter() < ends:
            run(number)
            counts[number] += 1

    threads = [threading.Thread(target=work, args=(number,)) for number in range(CLIENTS)]
    began = perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) / (perf_counter() - began)


async def _trio_threads(run: Callable[[int], object], seconds: float) -> float:
    """Call through Trio's thread pool, by as many tasks as there are clients."""
    limiter = trio.CapacityLimiter(CLIENTS)
    counts = [0] * CLIENTS

    async def work(number: int) -> None:
        while perf_counter() < ends:
            await trio.to_thread.run_sync(run, number, limiter=limiter)
            counts[number] += 1

    began = perf_counter()
    ends = began + seconds
    async with trio.open_nursery() as nursery:
        for number in range(CLIENTS):
            nursery.start_soon(work, number)
    return sum(counts) / (perf_counter() - began)


if __name__ == "__main__":
    measure.command("Batching", bench)
