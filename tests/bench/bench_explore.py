"""How many schedules the explorer runs in a second, beside stock Trio, and how many it needs for known bugs.

The published protocol for the kernels: schedules to the first bug, 20 seeds, at most 10,000 each. It runs in this
process alone, so a rate is that of one core.
"""

from __future__ import annotations

import statistics
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from time import perf_counter
from typing import Any

import measure
import trio
from measure import Figure, Spread

from changeover_sim import PCT, RandomWalk, explore
from changeover_sim.kernels import KERNELS, Program

RATE_LEAST = 1_000
RATIO_LEAST = 0.5
CAP, TRIALS = 10_000, 20
SHAPES = ((2, 5, 1_000), (10, 40, 100))
"""Tasks, checkpoints of each, and how many schedules make a round."""

POLICIES = {"random": RandomWalk(), "PCT-3": PCT(3)}
WANTED = ("account", "bluetooth_driver", "deadlock01", "lazy01", "stack", "reorder_5", "dining_3", "dining_5")


def bench(quick: bool) -> list[Figure]:
    """Return the figures of the explorer."""
    rounds = 3 if quick else 15
    speeds = [figure for shape in SHAPES for figure in _speed(*shape, rounds)]
    return [*speeds, *_kernels(3 if quick else TRIALS, 1_000 if quick else CAP)]


def _speed(tasks: int, checkpoints: int, count: int, rounds: int) -> Iterator[Figure]:
    """Measure one program under each policy and under stock Trio, in turns."""
    program = _busy(tasks, checkpoints)
    works = [partial(_stock, program, count), *(partial(_explored, program, p, count) for p in POLICIES.values())]
    stock, *explored = measure.alternate(rounds, *(partial(_rate, count, work) for work in works))
    shape = f"{tasks} x {checkpoints}"
    yield Figure(f"runs of stock Trio, {shape} checkpoints", "", Spread.of(stock).text("/s", digits=0))
    for name, rates in zip(POLICIES, explored, strict=True):
        rate, ratio = Spread.of(rates), Spread.ratio(rates, stock)
        small = tasks == SHAPES[0][0]
        wanted = f"above {RATE_LEAST:,}/s" if small else ""
        yield Figure(
            f"  schedules, {name}", wanted, rate.text("/s", digits=0), rate.median > RATE_LEAST if small else None
        )
        wanted = "" if small else f"above {RATIO_LEAST}x"
        yield Figure("    over stock", wanted, ratio.text("x"), None if small else ratio.median > RATIO_LEAST)


def _busy(tasks: int, checkpoints: int) -> Callable[[], Awaitable[None]]:
    async def task() -> None:
        for _ in range(checkpoints):
            await trio.lowlevel.checkpoint()

    async def program() -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(tasks):
                nursery.start_soon(task)

    return program


def _rate(count: int, work: Callable[[], object]) -> float:
    began = perf_counter()
    work()
    return count / (perf_counter() - began)


def _stock(program: Callable[[], Awaitable[None]], count: int) -> None:
    for _ in range(count):
        trio.run(program)


def _explored(program: Callable[[], Awaitable[None]], policy: Any, count: int) -> None:
    assert explore(program, schedules=count, policy=policy).failure is None


# --- the kernels ---


def _kernels(trials: int, cap: int) -> Iterator[Figure]:
    """Measure how many schedules each port of each kernel needs; the issue's are wanted, the others stand beside."""
    for kernel in KERNELS.values():
        for port, program in kernel.programs.items():
            found = {name: _to_first_bug(program, policy, trials, cap) for name, policy in POLICIES.items()}
            text = ", ".join(f"{name} {_text(counts, trials)}" for name, counts in found.items())
            best = max(len(counts) for counts in found.values())
            wanted = f"{trials} of {trials} by one" if kernel.name in WANTED else ""
            yield Figure(f"{kernel.name}, {port}", wanted, text, best == trials if wanted else None)


def _to_first_bug(program: Program, policy: Any, trials: int, cap: int) -> list[int]:
    """Return the schedules needed by each seed that found the bug."""
    results = [explore(program, schedules=cap, policy=policy, seed=seed) for seed in range(trials)]
    return [result.schedules_run for result in results if result.failure is not None]


def _text(counts: list[int], trials: int) -> str:
    if not counts:
        return "x"
    spread = statistics.stdev(counts) if len(counts) > 1 else 0.0
    few = "" if len(counts) == trials else f" ({len(counts)})"
    return f"{statistics.mean(counts):,.0f} ±{spread:,.0f}{few}"


if __name__ == "__main__":
    measure.command("Exploring", bench)
