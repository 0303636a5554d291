"""What unloads leave behind, what it costs to fetch that back, and how long other threads are stopped by it.

Each measurement has a process of its own. Beside the engine's own memory stands one that never gives anything back:
what a program that only drops its model is left with.
"""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from time import perf_counter
from typing import Any

import attrs
import measure
import trio
from measure import Figure, Spread

from changeover import Engine, Event, open_engine
from changeover.runtime.ports import Ports, SystemMemory

UNLOADS = 20
MODEL_BYTES = 100_000_000
PIECE_BYTES = 32_000
HELD_MOST_BYTES = 5_000_000
APPLICATION_OBJECTS = 500_000
"""So many objects of an application a collection has to look at."""

MEGA = 1e6


class InPieces:
    """A callable that holds 100 MB in small pieces; tied, only a collection frees it."""

    def __init__(self, *, tied: bool) -> None:
        """Hold them."""
        self.pieces = [bytearray(b"x") * PIECE_BYTES for _ in range(MODEL_BYTES // PIECE_BYTES)]
        self.me = self if tied else None

    def __call__(self, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the inputs."""
        return inputs


def in_pieces() -> InPieces:
    """Make a model that goes with its last reference."""
    return InPieces(tied=False)


def in_a_cycle() -> InPieces:
    """Make one that does not."""
    return InPieces(tied=True)


class KeepsAll(SystemMemory):
    """A process whose memory nobody asks back."""

    def give_back(self, *, collect: bool) -> bool:
        """Do nothing."""
        return False


@attrs.frozen
class Way:
    """What is unloaded, and by what memory."""

    name: str
    made_by: str
    memory: Callable[[], SystemMemory]
    wanted: str = ""


WAYS = (
    Way("only closed", "in_pieces", KeepsAll),
    Way("closed, then trimmed", "in_pieces", SystemMemory, f"at most {HELD_MOST_BYTES / MEGA:.0f} MB"),
    Way("closed, trimmed and collected", "in_a_cycle", SystemMemory, f"at most {HELD_MOST_BYTES / MEGA:.0f} MB"),
)


@attrs.frozen
class Seen:
    """What was measured in one process."""

    held_bytes: int
    """What the process occupied more after the last unload than before the first load."""
    close_s: tuple[float, ...]
    """How long each unload took."""
    collections: int
    """How many unloads collected garbage."""
    rest_s: tuple[float, ...]
    """The longest stop of a thread that computes, each time for as long as an unload takes, with nothing going on."""
    pause_s: tuple[float, ...]
    """The same, around each unload."""
    allocating_s: tuple[float, ...]
    """The same of a thread that allocates."""


def bench(quick: bool) -> list[Figure]:
    """Return the figures of memory."""
    return [figure for number in range(len(WAYS)) for figure in _figures(number, 5 if quick else UNLOADS)]


def _figures(number: int, unloads: int) -> list[Figure]:
    fresh = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=fresh) as pool:
        seen = pool.submit(_measure, number, unloads).result()
    way = WAYS[number]
    return [
        Figure(
            f"held after {unloads} unloads of 100 MB in 32 kB, {way.name}", way.wanted,
            f"{seen.held_bytes / MEGA:.1f} MB, {seen.collections} collections",
            seen.held_bytes <= HELD_MOST_BYTES if way.wanted else None,
        ),
        Figure("  unload", "", Spread.of(seen.close_s).text("ms", scale=1e3)),
        Figure("  longest stop of a thread that computes, at rest", "", Spread.of(seen.rest_s).text("ms", scale=1e3)),
        Figure("  ... around an unload", "", Spread.of(seen.pause_s).text("ms", scale=1e3)),
        Figure("  ... of one that allocates", "", Spread.of(seen.allocating_s).text("ms", scale=1e3)),
    ]  # fmt: skip


def _measure(number: int, unloads: int) -> Seen:
    return trio.run(_unload_often, WAYS[number], unloads)


async def _unload_often(way: Way, unloads: int) -> Seen:
    """Unload so many times beside each kind of thread, then so many times beside none."""
    memory = SystemMemory()
    application = [[number] for number in range(APPLICATION_OBJECTS)]
    before = memory.resident_bytes() or 0
    async with open_engine(ports=attrs.evolve(Ports.system(), memory=way.memory())) as engine:
        source = f"bench_memory:{way.made_by}"
        engine.register("m", "1", source, loader="callable", allow_code=True)
        computing = [await _unload(engine, _compute) for _ in range(unloads)]
        allocating = [await _unload(engine, _allocate) for _ in range(unloads)]
        async with engine.events() as events:
            alone = [await _unload(engine, None) for _ in range(unloads)]
            collections = sum(
                isinstance(event, Event) and bool(event.detail.get("collected"))
                for event in [await anext(events) for _ in range(len(events._unread))]
            )
        held = (memory.resident_bytes() or 0) - before
        rest = [await _rest(close_s) for close_s, _ in alone]
    assert len(application) == APPLICATION_OBJECTS
    return Seen(
        held, tuple(took for took, _ in alone), collections, tuple(rest),
        tuple(longest for _, longest in computing), tuple(longest for _, longest in allocating),
    )  # fmt: skip


async def _unload(engine: Engine, work: Callable[[], object] | None) -> tuple[float, float]:
    """Load and unload; return how long the latter took, and the longest stop of a thread that did `work` meanwhile."""
    await engine.load("m", "1")
    with _beside(work) as stops:
        began = perf_counter()
        await engine.unload("m", "1", force=True)
        took = perf_counter() - began
    return took, max(stops, default=0.0)


async def _rest(seconds: float) -> float:
    with _beside(_compute) as stops:
        await trio.sleep(seconds)
    return max(stops)


@contextmanager
def _beside(work: Callable[[], object] | None) -> Iterator[list[float]]:
    """Have a thread do `work` over and over, beside the block; yields what becomes its longest stop, in seconds."""
    stops: list[float] = []
    if work is None:
        yield stops
        return
    runs, over = threading.Event(), threading.Event()

    def run() -> None:
        last, longest = perf_counter(), 0.0
        runs.set()
        while not over.is_set():
            work()
            now = perf_counter()
            longest, last = max(longest, now - last), now
        stops.append(longest)

    thread = threading.Thread(target=run)
    thread.start()
    runs.wait()
    try:
        yield stops
    finally:
        over.set()
        thread.join()


def _compute() -> int:
    return sum(range(50))


def _allocate() -> bytearray:
    return bytearray(2_000)


if __name__ == "__main__":
    measure.command("Memory", bench)
