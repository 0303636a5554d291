"""Versions that come and go: what the loads of others cost a model, how fast empty ones load, how long a reload takes.

Windows of equal length lie side by side: two at rest, then one in which another version loads. It spawns the clients.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from itertools import pairwise
from time import perf_counter
from typing import Any

import attrs
import measure
import models
import trio
from digits import MODEL, Digits, trained
from measure import Figure, Spread
from traffic import CLIENTS, Traffic, under_traffic

from changeover import Engine, open_engine

WINDOW_S = 1.0
P99_MOST = 1.1
SLOW_LOADS, HUNG_LOADS = 20, 3


@attrs.frozen
class Others:
    """What loads beside the model that is asked."""

    name: str
    source: str
    loads: int = 1
    lead_s: float = 0.0
    """So long before its window they begin; above 0 they end behind it, too."""
    wanted: bool = True
    """False where there is nothing to go by: the interpreter's lock, or a burst of work."""


KINDS = (
    Others("one that works in C", "models:loads_in_c"),
    Others("one that holds the GIL", "models:loads_in_python", wanted=False),
    Others(f"{SLOW_LOADS} slow ones under way and {HUNG_LOADS} that hang", "models:loads_long", SLOW_LOADS, 0.3),
    Others(
        f"{SLOW_LOADS} slow ones that begin and end in the same moments",
        "models:loads_slowly",
        SLOW_LOADS,
        wanted=False,
    ),
)


def bench(quick: bool) -> list[Figure]:
    """Return the figures of loads, empty models and reloads."""
    pairs = 4 if quick else 20
    with trained() as digits:
        windows = [figure for others in KINDS for figure in trio.run(_beside, digits, others, pairs)]
    return [*windows, *trio.run(_empty, 50 if quick else 500), *trio.run(_reloads, 20 if quick else 200)]


# --- a model while others load --------------------------------------------------------------------------------------


async def _beside(digits: Digits, others: Others, pairs: int) -> list[Figure]:
    """Compare windows in which others load with windows at rest."""
    async with open_engine(strict_references=True, close_timeout_s=1.0) as engine:
        digits.register(engine, "1", "inline")
        await engine.load(MODEL, "1")
        for number in range(others.loads):
            engine.register(f"b{number}", "1", others.source, loader="callable", allow_code=True)
        hung = HUNG_LOADS if others.loads > 1 else 0
        async with _hung(engine, hung), under_traffic(engine, MODEL, digits.images) as traffic:
            await trio.sleep(WINDOW_S)
            triples = [await _windows(engine, traffic, others) for _ in range(pairs)]
        lost = len(traffic.lost)
    first, rest, loading = ([triple[n] for triple in triples] for n in range(3))
    ratio = Spread.ratio(loading, rest)
    return [
        Figure(
            f"p99 beside {others.name} / at rest, {CLIENTS} clients, {pairs} pairs of {WINDOW_S:g} s",
            f"about {P99_MOST}" if others.wanted else "", ratio.text("x"),
            ratio.median <= P99_MOST if others.wanted else None,
        ),
        Figure("  p99 at rest / at rest", "", Spread.ratio(rest, first).text("x")),
        Figure("  p99 beside it", "", Spread.of(loading).text("ms", scale=1e3)),
        Figure("  lost", "0", str(lost), lost == 0),
    ]  # fmt: skip


async def _windows(engine: Engine, traffic: Traffic, others: Others) -> tuple[float, float, float]:
    """Let two windows of rest pass, then one in which others load; return the p99 of each."""
    await trio.sleep(2 * WINDOW_S)
    begins = perf_counter() + others.lead_s
    async with trio.open_nursery() as nursery:
        for number in range(others.loads):
            nursery.start_soon(engine.load, f"b{number}", "1")
    await trio.sleep(max(0.0, begins + WINDOW_S - perf_counter()))
    edges = [begins - others.lead_s + (n - 2) * WINDOW_S for n in range(3)] + [begins, begins + WINDOW_S]
    windows = [*pairwise(edges[:3]), *pairwise(edges[3:])]
    first, rest, loading = (measure.percentile(traffic.latencies_s(*window), 0.99) for window in windows)
    for number in range(others.loads):
        await engine.unload(f"b{number}", "1", force=True)
    return first, rest, loading


@asynccontextmanager
async def _hung(engine: Engine, count: int) -> AsyncGenerator[None, None]:
    """Have so many loads hang for the block; their threads end with it."""
    models.gate.clear()
    async with trio.open_nursery() as nursery:
        for number in range(count):
            spec = {"loader": "callable", "allow_code": True, "load_timeout_s": 3_600.0}
            engine.register(f"hung{number}", "1", "models:hangs", **spec)
            nursery.start_soon(engine.load, f"hung{number}", "1")
        try:
            yield
        finally:
            models.gate.set()


# --- empty models ---------------------------------------------------------------------------------------------------


async def _empty(count: int) -> list[Figure]:
    """Load and unload models that are nothing, one by one and all at once."""
    async with open_engine() as engine:
        names = [f"m{number}" for number in range(count)]
        for name in names:
            engine.register(name, "1", "models:trivial", loader="callable", allow_code=True)
        one_by_one, at_once = await _times(engine, names[: count // 2], 1), await _times(engine, names, count)
    return [
        Figure("loads of empty models, one by one", "", f"{one_by_one[0]:,.0f}/s"),
        Figure("  unloads", "", f"{one_by_one[1]:,.0f}/s"),
        Figure(f"loads of {count} empty models at once", "", f"{at_once[0]:,.0f}/s"),
        Figure("  unloads", "", f"{at_once[1]:,.0f}/s"),
    ]


async def _times(engine: Engine, names: Sequence[str], side_by_side: int) -> tuple[float, float]:
    """Return how many loads and unloads were done per second."""

    async def unload(name: str, version: str) -> None:
        await engine.unload(name, version, force=True)

    rates: list[float] = []
    for call in (engine.load, unload):
        limit = trio.Semaphore(side_by_side)

        async def within(name: str, call: Any = call, limit: trio.Semaphore = limit) -> None:
            async with limit:
                await call(name, "1")

        began = perf_counter()
        async with trio.open_nursery() as nursery:
            for name in names:
                nursery.start_soon(within, name)
        rates.append(len(names) / (perf_counter() - began))
    return rates[0], rates[1]


# --- evicted models -------------------------------------------------------------------------------------------------


async def _reloads(turns: int) -> list[Figure]:
    """Ask for one of two models in turn, of which only one fits."""
    beyond_s: list[float] = []
    async with open_engine(memory_budget_bytes=150) as engine:
        for name in "ab":
            engine.register(name, "1", "models:weighty", loader="callable", allow_code=True, memory_hint_bytes=100)
            await engine.load(name, "1")
        for turn in range(turns):
            name = "ab"[turn % 2]
            began = perf_counter()
            await engine.infer(name, {})
            took_s = perf_counter() - began
            beyond_s.append(took_s - (engine.load_info(name, "1").load_s or 0.0))
    return [
        Figure(
            "from asking for an evicted version to its answer, beyond its load time", "",
            f"{Spread.of(beyond_s).text('ms', scale=1e3)}, of which the other one's eviction and close are a part",
        )
    ]  # fmt: skip


if __name__ == "__main__":
    measure.command("Versions", bench)
