"""Canaries under traffic: what clients see of a version that raises, how soon the traffic is back, and what is lost.

Real ONNX files behind a witness that counts every use after its close. It spawns the clients.
"""

from __future__ import annotations

from time import perf_counter

import attrs
import measure
import trio
from digits import MODEL, WAYS, Digits, Watch, trained
from measure import Figure, Spread
from models import Raising
from traffic import CLIENTS, Traffic, under_traffic

from changeover import Engine, Event, Shift, open_engine
from changeover.errors import SwapRolledBack

RAISES = 100
"""The new version raises on its first so many requests."""
BACK_MOST_S = 0.05
BAD = Shift.canary(stages=((0.05, 5.0), (0.5, 5.0)))
"""The plan for a version that raises: the default one."""
GOOD = Shift.canary(stages=((0.05, 0.02), (0.5, 0.02)), confirm_s=0.02)
"""The plan of the hundred swaps, short because there are many of them."""


@attrs.define
class Seen:
    """What was measured of the versions that raise."""

    back_s: list[float] = attrs.field(factory=list[float])
    """From the verdict to the last call of the new version."""
    trip_s: list[float] = attrs.field(factory=list[float])
    """From the first failure to the verdict."""
    calls: int = 0
    fell_back: int = 0


def bench(quick: bool) -> list[Figure]:
    """Return the figures of canaries."""
    rounds, swaps = (3, 10) if quick else (20, 100)
    with trained() as digits:
        figures: list[Figure] = []
        for way in WAYS:
            figures += trio.run(_bad, digits, way, rounds)
            figures += trio.run(_good, digits, way, swaps)
        return figures


async def _bad(digits: Digits, way: str, rounds: int) -> list[Figure]:
    """Try out one bad version after the other under traffic."""
    seen = Seen()
    async with open_engine(strict_references=True) as engine:
        digits.register(engine, "1", way)
        await engine.load(MODEL, "1")
        async with under_traffic(engine, MODEL, digits.images) as traffic:
            for number in range(rounds):
                digits.register(engine, str(number + 2), way, "raising")
                await _roll_back(engine, traffic, str(number + 2), seen)
    for text in traffic.lost[:3]:
        measure.say(f"seen by a client: {text}")
    back, trip = Spread.of(seen.back_s), Spread.of(seen.trip_s)
    return [
        Figure(
            f"{rounds} canaries of a version whose first {RAISES} requests raise, {CLIENTS} clients, {way}:"
            " errors seen (peers: 100 each)", "0", f"{len(traffic.lost)} of {traffic.sent:,}", not traffic.lost,
        ),
        Figure("  calls that raised; requests that the old version answered", "", f"{seen.calls}; {seen.fell_back}"),
        Figure(
            "  from the tripped guard to all traffic back", f"below {BACK_MOST_S * 1e3:.0f} ms",
            back.text("ms", scale=1e3), back.most < BACK_MOST_S,
        ),
        Figure("  from its first failure to the verdict", "", trip.text("ms", scale=1e3)),
    ]  # fmt: skip


async def _roll_back(engine: Engine, traffic: Traffic, version: str, seen: Seen) -> None:
    """Swap to a version that raises, and note when it was called first, when the guard tripped, and the last call."""
    await trio.sleep(0.2)
    calls = Raising.calls
    calls.clear()
    async with engine.events() as events:
        try:
            await engine.swap(MODEL, version, plan=BAD)
        except SwapRolledBack as error:
            operation = error.operation
        else:
            raise AssertionError("a version that raises has come through its canary")
        async for event in events:
            if isinstance(event, Event) and event.kind == "guard_tripped":
                tripped_at = event.at_s
                break
        else:
            raise AssertionError("the guard said nothing")
    await trio.sleep(0.2)  # whoever would still be sent to it
    seen.back_s.append(max(0.0, calls[-1] - tripped_at))
    seen.trip_s.append(tripped_at - calls[0])
    seen.calls += len(calls)
    seen.fell_back += engine.swap_status(operation.id).fallbacks


async def _good(digits: Digits, way: str, swaps: int) -> list[Figure]:
    """Swap to and fro by canaries under traffic."""
    watch = Watch()
    async with open_engine(strict_references=True) as engine:
        for version in ("1", "2"):
            digits.register(engine, version, way)
        await engine.load(MODEL, "1")
        async with under_traffic(engine, MODEL, digits.images) as traffic:
            began = perf_counter()
            for turn in range(swaps):
                await engine.swap(MODEL, "21"[turn % 2], plan=GOOD)
            took_s = perf_counter() - began
        audit = engine.audit()
    return [
        *watch.figures(f"{swaps} canary swaps, {CLIENTS} clients, {way}", swaps + 1, traffic, audit),
        Figure("  one swap, of which 60 ms are held stages", "", f"{took_s / swaps * 1e3:.1f} ms"),
    ]


if __name__ == "__main__":
    measure.command("Canary", bench)
