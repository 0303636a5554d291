"""What the marks on rare branches cost where nobody listens: the price of one, and their share of a swap.

A swap of the smallest model there is, so that the share is the largest there can be. It spawns nothing.
"""

from __future__ import annotations

from time import perf_counter, thread_time
from types import ModuleType

import measure
import trio
from measure import Figure, Spread

from changeover import Engine, open_engine
from changeover.runtime import sites

GUARD_MOST_S = 100e-9
SHARE_MOST = 1e-3
"""Of a swap: what nobody can tell from none."""
MODEL = "m"


class Counting(ModuleType):
    """The module of the switch, which counts how often somebody looks."""

    looks = 0

    @property
    def ON(self) -> bool:  # noqa: N802 - it stands for the constant of that name
        """Count, and say what the constant says."""
        Counting.looks += 1
        return False


def bench(quick: bool) -> list[Figure]:
    """Return the price of a mark, and how much of a swap all of them are."""
    rounds, count, swaps = (5, 100_000, 20) if quick else (15, 1_000_000, 200)
    bare, guarded = measure.alternate(rounds, lambda: _bare(count), lambda: _guarded(count))
    guard_s = Spread.of([max(0.0, b - a) for a, b in zip(bare, guarded, strict=True)])
    looks, asked = trio.run(_looks)
    swap_s = Spread.of(trio.run(_swaps, swaps))
    share = looks * guard_s.median / swap_s.median
    return [
        Figure(
            "a mark that nobody listens to", f"below {GUARD_MOST_S * 1e9:.0f} ns",
            guard_s.text("ns", scale=1e9, digits=1), guard_s.median < GUARD_MOST_S,
        ),
        Figure("  marks passed in one request", "0", str(asked), asked == 0),
        Figure("  marks passed in one swap", "", str(looks)),
        Figure("  one swap of the smallest model", "", swap_s.text("ms", scale=1e3)),
        Figure(
            "  the marks' share of that swap", f"below {SHARE_MOST:.1%}", f"{share:.5%}", share < SHARE_MOST,
        ),
    ]  # fmt: skip


def _bare(count: int) -> float:
    """Return the seconds that one round of a loop takes."""
    began = thread_time()
    for _ in range(count):
        pass
    return (thread_time() - began) / count


def _guarded(count: int) -> float:
    """Return the same with a mark in it."""
    began = thread_time()
    for _ in range(count):
        if sites.ON:
            sites.sometimes("never")
    return (thread_time() - began) / count


async def _looks() -> tuple[int, int]:
    """Return how often somebody looks at the switch during one swap, and during one request."""
    async with open_engine() as engine:
        await _prepare(engine)
        sites.__class__ = Counting
        try:
            Counting.looks = 0
            await engine.swap(MODEL, "2")
            swap = Counting.looks
            await engine.infer(MODEL, {})
            with engine.lease(MODEL) as lease:
                lease.infer({})
            return swap, Counting.looks - swap
        finally:
            sites.__class__ = ModuleType


async def _swaps(count: int) -> list[float]:
    """Swap to and fro, and return how long each took."""
    taken_s: list[float] = []
    async with open_engine() as engine:
        await _prepare(engine)
        for turn in range(count + 2):
            began = perf_counter()
            await engine.swap(MODEL, "21"[turn % 2])
            taken_s.append(perf_counter() - began)
    return taken_s[2:]


async def _prepare(engine: Engine) -> None:
    for version in "12":
        engine.register(MODEL, version, "models:trivial", loader="callable", allow_code=True)
    await engine.load(MODEL, "1")


if __name__ == "__main__":
    measure.command("Marks", bench)
