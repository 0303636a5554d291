"""Pairs of taking and giving back, timed in one thread or in several, and the bare pair that they are compared with.

It spawns the threads and ends them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from time import perf_counter, thread_time

Loop = Callable[[int, int], None]
"""Does the thing so many times, as the thread of a number."""


def bare() -> Loop:
    """Return the least that a safe counter of holders could do: all threads share one lock and one dict."""
    lock, held = threading.Lock(), dict[int, int]()

    def loop(count: int, key: int) -> None:
        for _ in range(count):
            with lock:
                held[key] = key
            with lock:
                del held[key]

    return loop


def per_pair(loop: Loop, threads: int, count: int) -> float:
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
