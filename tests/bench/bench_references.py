"""What the reference tracker costs: its calls beside the specification's bounds, and how soon a waiter is woken.

Sides run in turn in one process. It spawns threads and loops and ends them. Run it on a quiet machine: a wake-up is
measured from the last release, in another thread, to the waiter's next line.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Sequence
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
    figures = [*_calls(rounds, 20 if quick else 200)]
    for threads in (1, 8):
        figures += _pairs(threads, rounds, count)
    figures += _extras(rounds, count)
    return figures + _wakes(30 if quick else 300)


# --- single calls ---


def _calls(rounds: int, turns: int) -> list[Figure]:
    """Measure each call alone, on a hundred ids that are all held at once in between, in many turns a round."""
    tracker, ids = ReferenceTracker(), [f"request-{n}" for n in range(100)]

    def acquire() -> None:
        for name in ids:
            tracker.acquire("m", "1", name)

    def count() -> None:
        for _ in ids:
            tracker.count("m", "1")

    def release() -> None:
        for name in ids:
            tracker.release("m", "1", name)

    spent: dict[str, list[float]] = {"acquire": [], "count": [], "release": []}
    for _ in range(rounds + 1):
        for name, value in _timed_in_turn((acquire, count, release), turns).items():
            spent[name].append(value / (turns * len(ids)))
    return [_call(name, Spread.of(values[1:])) for name, values in spent.items()]  # the first round is waste


def _timed_in_turn(calls: Sequence[Callable[[], None]], turns: int) -> dict[str, float]:
    """Return the CPU time of each of the calls, by name, made one after the other so many times."""
    times = {call.__name__: 0.0 for call in calls}
    for _ in range(turns):
        for call in calls:
            began = thread_time()
            call()
            times[call.__name__] += thread_time() - began
    return times


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

Wait = Callable[[], Awaitable[object]]


def _wakes(samples: int) -> list[Figure]:
    """Measure how soon a waiter goes on, in each world beside its own bare event, in turn."""
    figures: list[Figure] = []
    for where, once in (("Trio", _on_trio), ("asyncio", _on_asyncio), ("a thread", _in_thread)):
        tracked_s, bare_s = measure.alternate(samples, lambda once=once: once(True), lambda once=once: once(False))
        ours, bare_event = Spread.of(tracked_s), Spread.of(bare_s)
        wanted = "below 100 µs (spec: 1 ms)"
        name = f"waiter woken by another thread, {where}"
        figures += [
            Figure(name, wanted, ours.text("µs", scale=1e6, digits=0), ours.median < WAKE_MOST_S),
            Figure(f"the same by a bare event, {where}", "", bare_event.text("µs", scale=1e6, digits=0)),
            Figure(f"median / median, {where}", "", f"{ours.median / bare_event.median:.2f}x"),
        ]
    return figures


def _later(release: Callable[[], object], began: list[float]) -> threading.Thread:
    """Return a thread that lets the waiter go on once everybody sleeps."""

    def run() -> None:
        sleep(PAUSE_S)
        began.append(perf_counter())
        release()

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def _held() -> tuple[ReferenceTracker, Callable[[], object]]:
    """Return a tracker with one holder, and what releases it."""
    tracker = ReferenceTracker()
    tracker.acquire("m", "1", "last")
    return tracker, lambda: tracker.release("m", "1", "last")


def _on_trio(tracked: bool) -> float:
    async def main() -> float:
        event, token = trio.Event(), trio.lowlevel.current_trio_token()
        tracker, release = _held()
        wait: Wait = (lambda: tracker.wait_for_zero("m", "1", 60.0)) if tracked else event.wait
        return await _timed(wait, release if tracked else lambda: token.run_sync_soon(event.set))

    return trio.run(main)


def _on_asyncio(tracked: bool) -> float:
    async def main() -> float:
        event, loop = asyncio.Event(), asyncio.get_running_loop()
        tracker, release = _held()
        wait: Wait = (lambda: tracker.wait_for_zero("m", "1", 60.0)) if tracked else event.wait
        return await _timed(wait, release if tracked else lambda: loop.call_soon_threadsafe(event.set))

    return asyncio.run(main())


async def _timed(wait: Wait, release: Callable[[], object]) -> float:
    began: list[float] = []
    thread = _later(release, began)
    await wait()
    woken = perf_counter()
    thread.join()
    return woken - began[0]


def _in_thread(tracked: bool) -> float:
    event, began = threading.Event(), list[float]()
    tracker, release = _held()
    thread = _later(release if tracked else event.set, began)
    if tracked:
        tracker.wait_for_zero_blocking("m", "1", 60.0)
    else:
        event.wait(60.0)
    woken = perf_counter()
    thread.join()
    return woken - began[0]


if __name__ == "__main__":
    measure.command("References", bench)
