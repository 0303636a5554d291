"""What the reference tracker costs: its calls beside the specification's bounds, and how soon a waiter is woken.

Sides run in turn in one process. It spawns threads and loops and ends them. Run it on a quiet machine: a wake-up is
measured from the last release, in another thread, to the waiter's next line.
"""

from __future__ import annotations

import asyncio
import threading
from time import perf_counter, sleep, thread_time

import measure
import trio
from measure import Figure, Spread
from pairs import Loop, bare, per_pair

from changeover import ReferenceTracker
from changeover.core.ledger import Account, Use
from changeover.core.messages import RefId

CALL_MOST_S = 1e-6
PAIR_MOST = 2.5
UPDATES_LEAST = 500_000
WAKE_MOST_S = 100e-6
PAUSE_S = 0.003
"""Between two wake-ups, so that the loop sleeps when the next one comes."""


def bench(quick: bool) -> list[Figure]:
    """Return the figures of the tracker."""
    rounds, count = (5, 5_000) if quick else (41, 40_000)
    figures = [*_calls(rounds, 1_000 if quick else 5_000)]
    for threads in (1, 8):
        figures += _pairs(threads, rounds, count)
    figures += _extras(rounds, count)
    samples = 30 if quick else 300
    for name, run in (("Trio", _on_trio), ("asyncio", _on_asyncio), ("a thread", _in_thread)):
        figures.append(_wake(name, [run() for _ in range(samples)]))
    return figures


# --- single calls ---


def _calls(rounds: int, count: int) -> list[Figure]:
    """Measure each call alone, on ids that are all held at once in between."""
    tracker, ids = ReferenceTracker(), [f"request-{n}" for n in range(count)]

    def acquire() -> float:
        began = thread_time()
        for name in ids:
            tracker.acquire("m", "1", name)
        return (thread_time() - began) / count

    def look() -> float:
        began = thread_time()
        for _ in ids:
            tracker.count("m", "1")
        return (thread_time() - began) / count

    def release() -> float:
        began = thread_time()
        for name in ids:
            tracker.release("m", "1", name)
        return (thread_time() - began) / count

    times = measure.alternate(rounds, acquire, look, release)
    names = ("acquire", "count", "release")
    return [_call(name, Spread.of(spent)) for name, spent in zip(names, times, strict=True)]


def _call(name: str, cost: Spread) -> Figure:
    wanted = "at most 1 µs (spec: 10 µs)"
    return Figure(f"{name}, 1 thread", wanted, cost.text("µs", scale=1e6, digits=3), cost.median <= CALL_MOST_S)


# --- pairs ---


def _pairs(threads: int, rounds: int, count: int) -> list[Figure]:
    plain, pair = bare(), _tracked(ReferenceTracker())
    bare_s, pair_s = measure.alternate(
        rounds, lambda: per_pair(plain, threads, count), lambda: per_pair(pair, threads, count)
    )
    ratio, at = Spread.ratio(pair_s, bare_s), f"{threads} thread{'s' if threads > 1 else ''}"
    updates = Spread.of(2 / s for s in pair_s)
    return [
        Figure(f"acquire + release / bare lock and dict, {at}", f"at most {PAIR_MOST}x", ratio.text("x"),
               ratio.median <= PAIR_MOST),
        Figure(f"updates, {at}", "over 500,000/s (spec: 100,000/s)", updates.text("/s", digits=0),
               updates.median >= UPDATES_LEAST),
    ]  # fmt: skip


def _tracked(tracker: ReferenceTracker) -> Loop:
    def loop(count: int, number: int) -> None:
        name = f"request-{number}"
        for _ in range(count):
            tracker.acquire("m", "1", name)
            tracker.release("m", "1", name)

    return loop


class Bare(Account):
    """The account as it was without statistics: what they cost is the difference."""

    def acquire(self, use: Use) -> RefId | None:
        """Announce, count, look."""
        name = use[2]
        ref: RefId
        if name is None:
            ref = next(self._acquires)
            self.held[ref] = use
        else:
            ref = name
            self.held.setdefault(ref, use)
            next(self._acquires)
        return ref if self.open else None

    def release(self, ref: RefId | None) -> None:
        """Strike out, count, look."""
        del self.held[ref]  # type: ignore[arg-type]  # as in the original
        next(self._releases)
        if self._watchers and not self.held:
            self._call_watchers()


def _extras(rounds: int, count: int) -> list[Figure]:
    """Measure what statistics and debug mode cost."""
    whole, less = _accounted(Account()), _accounted(Bare())
    off, on = _tracked(ReferenceTracker()), _tracked(ReferenceTracker(debug_references=True))
    times = measure.alternate(rounds, *(lambda loop=loop: per_pair(loop, 1, count) for loop in (whole, less, off, on)))
    statistics = Spread.ratio(times[0], times[1])
    debug = Spread.ratio(times[3], times[2])
    return [
        Figure("account with / without statistics, 1 thread", "", statistics.text("x")),
        Figure("debug mode on / off, 1 thread", "", debug.text("x")),
    ]


def _accounted(account: Account) -> Loop:
    use: Use = ("request", 0.0, None, None)

    def loop(count: int, _number: int) -> None:
        for _ in range(count):
            account.release(account.acquire(use))

    return loop


# --- waking up ---


def _wake(where: str, times: list[float]) -> Figure:
    wake = Spread.of(times)
    wanted = "below 100 µs (spec: 1 ms)"
    return Figure(
        f"waiter woken by another thread, {where}", wanted, wake.text("µs", scale=1e6, digits=0),
        wake.median < WAKE_MOST_S,
    )  # fmt: skip


def _releasing(tracker: ReferenceTracker, began: list[float]) -> threading.Thread:
    """Return a thread that gives the last reference back while everybody sleeps."""

    def run() -> None:
        sleep(PAUSE_S)
        began.append(perf_counter())
        tracker.release("m", "1", "last")

    tracker.acquire("m", "1", "last")
    thread = threading.Thread(target=run)
    thread.start()
    return thread


def _on_trio() -> float:
    async def main() -> float:
        tracker, began = ReferenceTracker(), list[float]()
        thread = _releasing(tracker, began)
        await tracker.wait_for_zero("m", "1", 60.0)
        woken = perf_counter()
        thread.join()
        return woken - began[0]

    return trio.run(main)


def _on_asyncio() -> float:
    async def main() -> float:
        tracker, began = ReferenceTracker(), list[float]()
        thread = _releasing(tracker, began)
        await tracker.wait_for_zero("m", "1", 60.0)
        woken = perf_counter()
        thread.join()
        return woken - began[0]

    return asyncio.run(main())


def _in_thread() -> float:
    tracker, began = ReferenceTracker(), list[float]()
    thread = _releasing(tracker, began)
    tracker.wait_for_zero_blocking("m", "1", 60.0)
    woken = perf_counter()
    thread.join()
    return woken - began[0]


if __name__ == "__main__":
    measure.command("References", bench)
