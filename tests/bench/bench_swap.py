"""Swaps of real ONNX files under traffic: what is lost, what is used after its close, and what the clients feel of it.

Windows of equal length lie side by side: two at rest, then one around a swap. It spawns the clients.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from time import perf_counter
from typing import Any

import attrs
import measure
import trio
from measure import Figure, Spread
from models import WITNESS
from traffic import CLIENTS, Traffic, under_traffic

from changeover import Batching, Engine, open_engine
from changeover_plugins.demo.digits import write_repository

P99_MOST = 1.1
FIRST_ANSWER_MOST_S = 0.05
WINDOW_S = 0.5
BETWEEN_S = 0.05
"""The rest between two swaps that are not measured, so that traffic flows on both versions."""

Settings = Mapping[str, Any]
"""Fields of a version's spec."""

WAYS: dict[str, Settings] = {
    "inline": {},
    "worker, batching": {"execution": "worker", "batching": Batching(max_batch=CLIENTS)},
}


@attrs.define
class Seen:
    """What was measured of all swaps."""

    swap_over_rest: list[float] = attrs.field(factory=list[float])
    """p99 around a swap over p99 in the window at rest before it."""
    rest_over_rest: list[float] = attrs.field(factory=list[float])
    """p99 in that window over p99 in the one before."""
    swap_p99_s: list[float] = attrs.field(factory=list[float])
    rest_p99_s: list[float] = attrs.field(factory=list[float])
    first_beyond_load_s: list[float] = attrs.field(factory=list[float])
    """From the call to the first answer of the new version, less the loader's own time."""
    load_s: list[float] = attrs.field(factory=list[float])
    longest_at_rest_s: float = 0.0
    """The slowest request of all windows at rest: how long the machine itself stops at times."""
    least: int = 0
    """The fewest requests that a window holds."""


def bench(quick: bool) -> list[Figure]:
    """Return the figures of the swap."""
    swaps, pairs = (10, 5) if quick else (100, 60)
    with tempfile.TemporaryDirectory() as folder:
        images = write_repository(Path(folder)).images
        return [f for way in WAYS for f in trio.run(_bench, Path(folder), images, way, swaps, pairs)]


async def _bench(folder: Path, images: Any, way: str, swaps: int, pairs: int) -> list[Figure]:
    """Swap to and fro, with windows around the first swaps and without them around the rest."""
    seen, used_before, closed_before = Seen(), WITNESS.used_after_close, WITNESS.closed
    async with open_engine(strict_references=True) as engine:
        for version in ("1", "2"):
            path = str(folder / "digits" / version / "model.onnx")
            engine.register(
                "digits", version, "models:witnessed",
                loader="callable", allow_code=True, options={"path": path}, **WAYS[way],
            )  # fmt: skip
        await engine.load("digits", "1")
        async with under_traffic(engine, "digits", images) as traffic:
            await trio.sleep(WINDOW_S)
            for turn in range(swaps):
                to = "21"[turn % 2]
                if turn < pairs:
                    await _swap_in_windows(engine, traffic, to, seen)
                else:
                    await trio.sleep(BETWEEN_S)
                    await _swap(engine, traffic, to, seen)
        audit = engine.audit()
    assert WITNESS.closed - closed_before == swaps + 1, "every model that was loaded is closed, once"
    used = WITNESS.used_after_close - used_before
    for text in traffic.lost[:3]:
        measure.say(f"lost: {text}")
    at = f"{CLIENTS} clients, {way}"
    return [
        Figure(
            f"{swaps} swaps, {at}: lost", "0", f"{len(traffic.lost)} of {traffic.sent:,}",
            not traffic.lost and traffic.sent == traffic.answered,
        ),
        Figure("  used after close", "0", str(used), used == 0),
        Figure("  references held, torn", "clean", "clean" if audit.clean else "NOT CLEAN", audit.clean),
        *_latencies(seen),
        *_first_answers(seen),
    ]  # fmt: skip


async def _swap(engine: Engine, traffic: Traffic, to: str, seen: Seen) -> None:
    """Swap once, and note when the new version answers first."""
    traffic.expect(to)
    began = perf_counter()
    await engine.swap("digits", to)
    first_at = await traffic.first_answer()
    load_s = engine.load_info("digits", to).load_s or 0.0
    seen.load_s.append(load_s)
    seen.first_beyond_load_s.append(first_at - began - load_s)


async def _swap_in_windows(engine: Engine, traffic: Traffic, to: str, seen: Seen) -> None:
    """Let two windows of rest pass, then swap in the middle of a third one, and compare their p99."""
    await trio.sleep(2.5 * WINDOW_S)
    middle = perf_counter()
    await _swap(engine, traffic, to, seen)
    # Around the swap, so that a call that turns out slow does not move itself out of its window.
    end = (middle + perf_counter()) / 2 + WINDOW_S / 2
    await trio.sleep(end - perf_counter())
    begin = end - 3 * WINDOW_S
    windows = [traffic.latencies_s(begin + n * WINDOW_S, begin + (n + 1) * WINDOW_S) for n in range(3)]
    first, rest, swap = (measure.percentile(window, 0.99) for window in windows)
    seen.rest_over_rest.append(rest / first)
    seen.swap_over_rest.append(swap / rest)
    seen.rest_p99_s.append(rest)
    seen.swap_p99_s.append(swap)
    seen.longest_at_rest_s = max(seen.longest_at_rest_s, *windows[0], *windows[1])
    fewest = min(map(len, windows))
    seen.least = min(seen.least or fewest, fewest)


def _latencies(seen: Seen) -> list[Figure]:
    ratio = Spread.of(seen.swap_over_rest)
    samples = f"at least {seen.least:,} requests each"
    return [
        Figure(
            f"  p99 around a swap / at rest, {len(ratio.values)} pairs of {WINDOW_S} s", f"at most {P99_MOST}",
            ratio.text("x"), ratio.median <= P99_MOST,
        ),
        Figure(f"  p99 at rest / at rest, {samples}", "", Spread.of(seen.rest_over_rest).text("x")),
        Figure("  p99 around a swap", "", Spread.of(seen.swap_p99_s).text("ms", scale=1e3)),
        Figure("  p99 at rest", "", Spread.of(seen.rest_p99_s).text("ms", scale=1e3)),
    ]  # fmt: skip


def _first_answers(seen: Seen) -> list[Figure]:
    # Of a hundred swaps a busy machine stops one or two for longer than that, so the 95th is looked at, beside the
    # worst one and the worst stop at rest.
    first = Spread.of(seen.first_beyond_load_s)
    late = measure.percentile(first.values, 0.95)
    return [
        Figure(
            "  first new answer, beyond the load time", f"at most {FIRST_ANSWER_MOST_S * 1e3:.0f} ms",
            f"{first.text('ms', scale=1e3)}, 95 %: {late * 1e3:.2f} ms", late <= FIRST_ANSWER_MOST_S,
        ),
        Figure("  load time", "", Spread.of(seen.load_s).text("ms", scale=1e3)),
        Figure("  slowest request at rest, as a measure of the machine", "", f"{seen.longest_at_rest_s * 1e3:.2f} ms"),
    ]  # fmt: skip


if __name__ == "__main__":
    measure.command("Swap", bench)
