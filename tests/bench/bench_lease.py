"""What a lease costs beside a bare lock around a dict, at one thread and at eight.

Both sides run in turn in one process. It spawns the threads and ends them; the engine's loop sleeps meanwhile.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from time import perf_counter, thread_time

import measure
import trio
from measure import Figure, Spread

from changeover import Engine, open_engine

Loop = Callable[[int, int], None]
"""Does the thing so many times, as the thread of a number."""

BARE_MOST = 2.5
LEASE_MOST_S = 1e-6


def bench(quick: bool) -> list[Figure]:
    """Return the figures of the lease."""
    return trio.run(_bench, 5 if quick else 41, 5_000 if quick else 40_000)


async def _bench(rounds: int, count: int) -> list[Figure]:
    async with open_engine() as engine:
        engine.register("m", "1", "models:trivial", loader="callable", allow_code=True)
        await engine.load("m", "1")
        return [figure for threads in (1, 8) for figure in _figures(engine, threads, rounds, count)]


def _figures(engine: Engine, threads: int, rounds: int, count: int) -> list[Figure]:
    """Measure both sides with so many threads."""
    bare, lease = _bare(), _lease(engine)
    bare_s, lease_s = measure.alternate(
        rounds, lambda: _per_use(bare, threads, count), lambda: _per_use(lease, threads, count)
    )
    ratio, cost = Spread.ratio(lease_s, bare_s), Spread.of(lease_s)
    at = f"{threads} thread{'s' if threads > 1 else ''}"
    only_once = threads == 1
    return [
        Figure(f"bare lock and dict, {at}", "", Spread.of(bare_s).text("µs", scale=1e6, digits=3)),
        Figure(
            f"lease + release, {at}", "at most 1 µs" if only_once else "",
            cost.text("µs", scale=1e6, digits=3), cost.median <= LEASE_MOST_S if only_once else None,
        ),
        Figure(f"lease / bare, {at}", f"at most {BARE_MOST}x", ratio.text("x"), ratio.median <= BARE_MOST),
    ]  # fmt: skip


def _bare() -> Loop:
    """Return the least that a safe counter of holders could do: all threads share one lock and one dict."""
    lock, held = threading.Lock(), dict[int, int]()

    def loop(count: int, key: int) -> None:
        for _ in range(count):
            with lock:
                held[key] = key
            with lock:
                del held[key]

    return loop


def _lease(engine: Engine) -> Loop:
    def loop(count: int, _key: int) -> None:
        for _ in range(count):
            with engine.lease("m"):
                pass

    return loop


def _per_use(loop: Loop, threads: int, count: int) -> float:
    """Return the seconds that one use takes: CPU time of one thread, or elapsed time of several over all their uses."""
    if threads == 1:
        began = thread_time()  # not charged with what other programs take of the machine
        loop(count, 0)
        return (thread_time() - began) / count
    start = threading.Barrier(threads)
    times: list[float] = []

    def run(number: int) -> None:
        start.wait()
        times.append(perf_counter())  # by the threads themselves: who waits for them gets the interpreter late
        loop(count, number)
        times.append(perf_counter())

    workers = [threading.Thread(target=run, args=(number,)) for number in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return (max(times) - min(times)) / (count * threads)


if __name__ == "__main__":
    measure.command("Lease", bench)
