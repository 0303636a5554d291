"""Swaps of real ONNX files under traffic, with a journal and without: what is lost, and felt by the clients.

Windows of equal length lie side by side: two at rest, then one around a swap. It spawns the clients.
"""

from __future__ import annotations

import sys
import tempfile
from itertools import pairwise
from pathlib import Path
from time import perf_counter

import attrs
import measure
import trio
from digits import MODEL, WAYS, Digits, Watch, trained
from measure import Figure, Spread
from traffic import CLIENTS, Traffic, under_traffic

from changeover import Engine, open_engine

P99_MOST = 1.1
FIRST_ANSWER_MOST_S = 0.05
WINDOWS_S = (1.0, 0.5)
"""The lengths of the windows; the first is the one to go by: a shorter one makes more of the same swap."""
BETWEEN_S = 0.05
"""The rest between two swaps that are not measured, so that traffic flows on both versions."""


@attrs.define
class Seen:
    """What was measured of all swaps."""

    p99_s: dict[float, list[tuple[float, float, float]]] = attrs.field(factory=lambda: {w: [] for w in WINDOWS_S})
    """By the length of the windows, the p99 of two at rest and of the one around the swap after them."""
    first_beyond_load_s: list[float] = attrs.field(factory=list[float])
    """From the call to the first answer of the new version, less the loader's own time."""
    load_s: list[float] = attrs.field(factory=list[float])
    longest_at_rest_s: float = 0.0
    """The slowest request of all windows at rest: how long the machine itself stops at times."""
    least: int = sys.maxsize
    """The fewest requests that a window holds."""


def bench(quick: bool) -> list[Figure]:
    """Return the figures of the swap."""
    swaps, pairs = (10, 5) if quick else (100, 30)
    with trained() as digits, tempfile.TemporaryDirectory() as folder:
        journals = {way: (Path(folder) / way, None) for way in WAYS}
        return [f for way in WAYS for j in journals[way] for f in trio.run(_bench, digits, way, swaps, pairs, j)]


async def _bench(digits: Digits, way: str, swaps: int, pairs: int, journal: Path | None) -> list[Figure]:
    """Swap to and fro, with windows around the first swaps and without them around the rest."""
    seen, watch = Seen(), Watch()
    kept = "no journal" if journal is None else "with a journal"
    async with open_engine(strict_references=True, journal=journal) as engine:
        for version in ("1", "2"):
            digits.register(engine, version, way)
        await engine.load(MODEL, "1")
        async with under_traffic(engine, MODEL, digits.images) as traffic:
            await trio.sleep(WINDOWS_S[0])
            for turn in range(swaps):
                to = "21"[turn % 2]
                if turn < pairs:
                    await _swap_in_windows(engine, traffic, to, seen)
                else:
                    await trio.sleep(BETWEEN_S)
                    await _swap(engine, traffic, to, seen)
        audit = engine.audit()
    return [
        *watch.figures(f"{swaps} swaps, {CLIENTS} clients, {way}, {kept}", swaps + 1, traffic, audit),
        *_latencies(seen),
        *_first_answers(seen),
    ]


async def _swap(engine: Engine, traffic: Traffic, to: str, seen: Seen) -> None:
    """Swap once, and note when the new version answers first."""
    traffic.expect(to)
    began = perf_counter()
    await engine.swap(MODEL, to)
    first_at = await traffic.first_answer()
    load_s = engine.load_info(MODEL, to).load_s or 0.0
    seen.load_s.append(load_s)
    seen.first_beyond_load_s.append(first_at - began - load_s)


async def _swap_in_windows(engine: Engine, traffic: Traffic, to: str, seen: Seen) -> None:
    """Let two windows of rest pass, then swap in the middle of a third one, and take the p99 of all three."""
    longest = WINDOWS_S[0]
    await trio.sleep(2.5 * longest)
    began = perf_counter()
    await _swap(engine, traffic, to, seen)
    middle = (began + perf_counter()) / 2  # so that a swap that turns out slow lies in its window all the same
    await trio.sleep(middle + longest / 2 - perf_counter())
    for length in WINDOWS_S:
        edges = [middle + (n - 2.5) * length for n in range(4)]
        windows = [traffic.latencies_s(begin, end) for begin, end in pairwise(edges)]
        if all(windows):  # else the machine stood still, which the emptiest window tells
            first, rest, swap = (measure.percentile(window, 0.99) for window in windows)
            seen.p99_s[length].append((first, rest, swap))
        if length == longest:
            seen.longest_at_rest_s = max(seen.longest_at_rest_s, *windows[0], *windows[1])
            seen.least = min(seen.least, *map(len, windows))


def _latencies(seen: Seen) -> list[Figure]:
    """Return p99 around the swaps over p99 at rest, beside one rest over the other."""
    figures: list[Figure] = []
    for length, triples in seen.p99_s.items():
        first, rest, swap = ([triple[n] for triple in triples] for n in range(3))
        ratio = Spread.ratio(swap, rest)
        wanted = length == WINDOWS_S[0]
        figures += [
            Figure(
                f"  p99 around a swap / at rest, {len(triples)} pairs of {length} s",
                f"at most {P99_MOST}" if wanted else "", ratio.text("x"), ratio.median <= P99_MOST if wanted else None,
            ),
            Figure("  p99 at rest / at rest", "", Spread.ratio(rest, first).text("x")),
        ]  # fmt: skip
        if wanted:
            figures += [
                Figure("  p99 around a swap", "", Spread.of(swap).text("ms", scale=1e3)),
                Figure("  p99 at rest", "", Spread.of(rest).text("ms", scale=1e3)),
                Figure("  requests in the emptiest window", "", f"{seen.least:,}"),
            ]
    return figures


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
