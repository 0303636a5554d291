"""What a lease costs beside a bare lock around a dict, at one thread and at eight.

Both sides run in turn in one process. It spawns the threads and ends them; the engine's loop sleeps meanwhile.
"""

from __future__ import annotations

import measure
import trio
from measure import Figure, Spread
from pairs import Loop, bare, per_pair

from changeover import Engine, open_engine

BARE_MOST = 2.5
LEASE_MOST_S = 1e-6


def bench(quick: bool) -> list[Figure]:
    """Return the figures of the lease."""
    return trio.run(_bench, 5 if quick else 41, 5_000 if quick else 40_000)


async def _bench(rounds: int, count: int) -> list[Figure]:
    async with open_engine() as engine:
        engine.register("m", "1", "models:trivial", loader="callable", allow_code=True)
        await engine.load("m", "1")
        return [figure for threads in (1, 8) for figure in _figures(engine, threads, rounds, count)]


def _figures(engine: Engine, threads: int, rounds: int, count: int) -> list[Figure]:
    """Measure both sides with so many threads."""
    plain, lease = bare(), _lease(engine)
    bare_s, lease_s = measure.alternate(
        rounds, lambda: per_pair(plain, threads, count), lambda: per_pair(lease, threads, count)
    )
    ratio, cost = Spread.ratio(lease_s, bare_s), Spread.of(lease_s)
    at = f"{threads} thread{'s' if threads > 1 else ''}"
    only_once = threads == 1
    return [
        Figure(f"bare lock and dict, {at}", "", Spread.of(bare_s).text("µs", scale=1e6, digits=3)),
        Figure(
            f"lease + release, {at}", "at most 1 µs" if only_once else "",
            cost.text("µs", scale=1e6, digits=3), cost.median <= LEASE_MOST_S if only_once else None,
        ),
        Figure(f"lease / bare, {at}", f"at most {BARE_MOST}x", ratio.text("x"), ratio.median <= BARE_MOST),
    ]  # fmt: skip


def _lease(engine: Engine) -> Loop:
    def loop(count: int, _key: int) -> None:
        for _ in range(count):
            with engine.lease("m"):
                pass

    return loop


if __name__ == "__main__":
    measure.command("Lease", bench)
