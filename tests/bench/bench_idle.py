"""What a thousand loaded versions cost at rest: CPU time, and memory beside the models themselves.

Each measurement has a process of its own, which ends with it: what one leaves behind must not count for the next.
"""

from __future__ import annotations

import gc
import multiprocessing
import resource
import time
import tracemalloc
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import attrs
import measure
import trio
from measure import Figure

from changeover import Engine, open_engine

VERSIONS = 1_000
CPU_MOST = 1e-3
"""Seconds of CPU time per second of rest: what nobody can tell from none."""
MEMORY_MOST_BYTES = 20_000
WORTH_A_LOOK_BYTES = 10_000

WAYS: dict[str, dict[str, Any]] = {"inline": {}, "worker": {"execution": "worker"}}


@attrs.frozen
class Rest:
    """What was measured in one process."""

    cpu_share: float
    """Seconds of CPU time per second."""
    empty_cpu_share: float
    """The same before the first version was loaded."""
    rss_bytes: float
    """Per version, as the operating system sees it."""
    traced_bytes: float
    """Per version, as Python's allocator sees it; 0 where it was not asked."""
    by_file: tuple[tuple[str, float], ...]
    """The largest parts of that, by the file that allocated them."""


def bench(quick: bool) -> list[Figure]:
    """Return the figures of rest."""
    seconds = 1.0 if quick else 5.0
    return [figure for way in WAYS for figure in _figures(way, seconds)]


def _figures(way: str, seconds: float) -> list[Figure]:
    bare, traced = _in_a_process(way, seconds, False), _in_a_process(way, 0.0, True)
    held = max(bare.rss_bytes, traced.traced_bytes)
    if held > WORTH_A_LOOK_BYTES:
        lines = (f"  {size:8,.0f} bytes  {name}" for name, size in traced.by_file)
        measure.say("\n".join([f"per version, {way}, by file:", *lines]))
    wanted = f"below {MEMORY_MOST_BYTES / 1e3:.0f} kB"
    return [
        Figure(
            f"CPU of {VERSIONS} versions at rest, {way}", f"below {CPU_MOST * 1e3:.0f} ms/s",
            f"{bare.cpu_share * 1e3:.3f} ms/s (none loaded: {bare.empty_cpu_share * 1e3:.3f})",
            bare.cpu_share < CPU_MOST,
        ),
        Figure(
            f"  memory per version, {way}", wanted,
            f"{traced.traced_bytes / 1e3:.1f} kB traced, {bare.rss_bytes / 1e3:.1f} kB resident",
            held < MEMORY_MOST_BYTES,
        ),
    ]  # fmt: skip


def _in_a_process(way: str, seconds: float, trace: bool) -> Rest:
    fresh = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=fresh) as pool:
        return pool.submit(_measure, way, seconds, trace).result()


def _measure(way: str, seconds: float, trace: bool) -> Rest:
    return trio.run(_rest, way, seconds, trace)


async def _rest(way: str, seconds: float, trace: bool) -> Rest:
    """Load the versions of as many models, then do nothing."""
    async with open_engine() as engine:
        await _load(engine, way, range(-10, 0))  # what only the first ones cost: imports, caches, threads
        empty_cpu = await _cpu_share(seconds)
        if trace:
            tracemalloc.start()
        rss, before = _rss_bytes(), _snapshot(trace)
        await _load(engine, way, range(VERSIONS))
        held, after = _rss_bytes() - rss, _snapshot(trace)
        traced, by_file = _grown(before, after) if before and after else (0.0, ())
        return Rest(await _cpu_share(seconds), empty_cpu, held / VERSIONS, traced, by_file)


async def _load(engine: Engine, way: str, numbers: range) -> None:
    for number in numbers:
        engine.register(f"m{number}", "1", "models:trivial", loader="callable", allow_code=True, **WAYS[way])
        await engine.load(f"m{number}", "1")
    gc.collect()


async def _cpu_share(seconds: float) -> float:
    """Return the CPU time of all threads per second of doing nothing."""
    if not seconds:
        return 0.0
    await trio.sleep(0.1)
    began = time.process_time()
    await trio.sleep(seconds)
    return (time.process_time() - began) / seconds


def _rss_bytes() -> int:
    """Return the resident memory of this process."""
    return int(Path("/proc/self/statm").read_text("ascii").split()[1]) * resource.getpagesize()


def _snapshot(trace: bool) -> tracemalloc.Snapshot | None:
    return tracemalloc.take_snapshot() if trace else None


def _grown(
    before: tracemalloc.Snapshot, after: tracemalloc.Snapshot
) -> tuple[float, tuple[tuple[str, float], ...]]:  # fmt: skip
    """Return the bytes per version that came between two snapshots, and by whom the most of them."""
    sizes: Counter[str] = Counter()
    for difference in after.compare_to(before, "lineno"):
        frame = difference.traceback[0]
        sizes["/".join(Path(frame.filename).parts[-3:]) + f":{frame.lineno}"] += difference.size_diff
    lines = tuple((name, size / VERSIONS) for name, size in sizes.most_common(16))
    return sizes.total() / VERSIONS, lines


if __name__ == "__main__":
    measure.command("Idle", bench)
