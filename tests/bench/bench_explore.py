"""How many schedules the explorer runs in a second under each policy, beside stock Trio.

In this process alone, so a rate is that of one core. How many schedules known bugs need: `changeover_sim.protocol`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from time import perf_counter
from typing import Any

import measure
import trio
from measure import Figure, Spread

from changeover_sim import PCT, RandomWalk, explore
from changeover_sim.policies.portfolio import Portfolio
from changeover_sim.policies.pos import POS
from changeover_sim.policies.starvation import Starvation
from changeover_sim.policies.surw import SURW

RATE_LEAST = 1_000
RATIO_LEAST = {"random": 0.5, "PCT-3": 0.5}
SHARE_LEAST = {"POS": 0.6, "SURW": 0.6}
SHAPES = ((2, 5, 1_000), (10, 40, 400))
"""Tasks, checkpoints of each, and how many schedules make a round: the first hundred are probes."""

POLICIES: dict[str, Any] = {
    "random": RandomWalk(),
    "PCT-3": PCT(3),
    "POS": POS(),
    "SURW": SURW(),
    "starvation": Starvation(),
    "portfolio": Portfolio(),
}


def bench(quick: bool) -> list[Figure]:
    """Return the figures of the explorer."""
    return [figure for shape in SHAPES for figure in _speed(*shape, 3 if quick else 15)]


def _speed(tasks: int, checkpoints: int, count: int, rounds: int) -> Iterator[Figure]:
    """Measure one program under each policy and under stock Trio, in turns."""
    program = _busy(tasks, checkpoints)
    works = [partial(_stock, program, count), *(partial(_explored, program, p, count) for p in POLICIES.values())]
    stock, *explored = measure.alternate(rounds, *(partial(_rate, count, work) for work in works))
    shape = f"{tasks} x {checkpoints}"
    yield Figure(f"runs of stock Trio, {shape} checkpoints", "", Spread.of(stock).text("/s", digits=0))
    small = tasks == SHAPES[0][0]
    for name, rates in zip(POLICIES, explored, strict=True):
        rate = Spread.of(rates)
        wanted, met = (f"above {RATE_LEAST:,}/s", rate.median > RATE_LEAST) if small else ("", None)
        yield Figure(f"  schedules, {name}", wanted, rate.text("/s", digits=0), met)
        yield _ratio("    over stock", rates, stock, None if small else RATIO_LEAST.get(name))
        if name != "random":
            yield _ratio("    over random", rates, explored[0], SHARE_LEAST.get(name))


def _ratio(what: str, rates: list[float], others: list[float], least: float | None) -> Figure:
    ratio = Spread.ratio(rates, others)
    wanted, met = ("", None) if least is None else (f"above {least}x", ratio.median > least)
    return Figure(what, wanted, ratio.text("x"), met)


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


if __name__ == "__main__":
    measure.command("Exploring", bench)
