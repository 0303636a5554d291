"""Swaps and their journal: what a boundary, a flip and a whole swap cost, recovery, and swaps in which something fails.

It spawns the clients of the last part, and keeps its journals in a temporary folder.
"""

from __future__ import annotations

import itertools
import logging
import random
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter

import attrs
import measure
import numpy as np
import trio
from measure import Figure, Spread
from traffic import under_traffic

from changeover import Engine, Guard, Shift, open_engine
from changeover.core import wire
from changeover.core.plan import Progress, Step
from changeover.core.records import DesiredVersion, Entry, SwapRecord, SwapRow
from changeover.core.values import Drain, SwapState, Timeouts
from changeover.errors import ChangeoverError, SwapNotDone
from changeover.runtime.ports import Ports
from changeover.runtime.sqlite_journal import Durability, SqliteJournal

MODEL = "m"
FLIP_MOST_S, SWAP_MOST_S, RECOVERY_MOST_S = 0.010, 0.100, 0.200
PAST = 10_000
FAULTY = 3
"""One swap in so many has a fault."""


def bench(quick: bool) -> list[Figure]:
    """Return the figures of swaps and of the journal."""
    logging.getLogger("changeover").setLevel(logging.ERROR)  # faults are told as warnings
    swaps, faulted, rounds = (20, 150, 3) if quick else (200, 3_000, 10)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        kinds: list[tuple[str, Path | None, Durability]] = [
            ("in memory", None, "process"),
            ('durability="process"', folder / "process", "process"),
            ('durability="power"', folder / "power", "power"),
        ]
        return [
            *(figure for kind in kinds for figure in trio.run(_costs, *kind, swaps)),
            *trio.run(_group, folder / "group", swaps),
            *_recovery(folder, rounds),
            *trio.run(_faulted, folder / "faulted", faulted),
        ]


def register(engine: Engine, model: str, version: str) -> None:
    """Register a version that is next to nothing."""
    engine.register(model, version, "models:trivial", loader="callable", allow_code=True)


# --- what a swap costs ----------------------------------------------------------------------------------------------


@contextmanager
def timed(owner: object, name: str) -> Iterator[list[float]]:
    """Note how long each call of a method takes, in seconds."""
    took_s: list[float] = []
    call: Callable[..., object] = getattr(owner, name)

    def measured(*args: object) -> object:
        began = perf_counter()
        try:
            return call(*args)
        finally:
            took_s.append(perf_counter() - began)

    setattr(owner, name, measured)
    try:
        yield took_s
    finally:
        delattr(owner, name)


async def _costs(name: str, path: Path | None, durability: Durability, swaps: int) -> list[Figure]:
    """Swap empty models to and fro."""
    async with open_engine(journal=path, durability=durability) as engine:
        for version in "12":
            register(engine, MODEL, version)
        await engine.load(MODEL, "1")
        with timed(engine._router, "shift") as flips_s:
            took_s = [await _timed_swap(engine, "21"[turn % 2]) for turn in range(swaps)]
    flips, whole = Spread.of(flips_s), Spread.of(took_s)
    aim = (
        SWAP_MOST_S if durability == "power" else SWAP_MOST_S / 10
    )  # a disk that must answer five times takes its time
    return [
        Figure(
            f"a swap of empty models, {name}", f"at most 100 ms (spec), aim {aim * 1e3:g}",
            whole.text("ms", scale=1e3), whole.median <= aim,
        ),
        Figure("  of it the routing update", "at most 10 ms (spec), aim 1", flips.text("ms", scale=1e3, digits=3),
            flips.median <= FLIP_MOST_S / 10),
    ]  # fmt: skip


async def _timed_swap(engine: Engine, to: str) -> float:
    began = perf_counter()
    await engine.swap(MODEL, to)
    return perf_counter() - began


async def _group(path: Path, swaps: int) -> list[Figure]:
    """Swap five models as one."""
    names = [f"m{number}" for number in range(5)]
    took_s: list[float] = []
    async with open_engine(journal=path) as engine:
        for model in names:
            for version in "12":
                register(engine, model, version)
            await engine.load(model, "1")
        for turn in range(swaps // 4):
            began = perf_counter()
            await engine.swap_group(dict.fromkeys(names, "21"[turn % 2]))
            took_s.append(perf_counter() - began)
    return [Figure('a group swap of 5 empty models, durability="process"', "", Spread.of(took_s).text("ms", scale=1e3))]


# --- recovery -------------------------------------------------------------------------------------------------------


def _recovery(folder: Path, rounds: int) -> list[Figure]:
    """Open an engine on a journal with many past swaps and one that was open, and wait until it is as it should be."""
    empty = (folder / f"empty {number}" for number in itertools.count())
    opened, recovered = measure.alternate(
        rounds, lambda: trio.run(_opened, next(empty)), lambda: trio.run(_recovered, folder / "past")
    )
    whole = Spread.of(recovered)
    return [
        Figure(
            f"recovery with {PAST:,} past swaps, one open, one model to load", "below 200 ms",
            whole.text("ms", scale=1e3), whole.median < RECOVERY_MOST_S,
        ),
        Figure("  an engine on an empty journal, with the same load", "", Spread.of(opened).text("ms", scale=1e3)),
    ]  # fmt: skip


async def _opened(path: Path) -> float:
    began = perf_counter()
    async with open_engine(journal=path) as engine:
        register(engine, MODEL, "2")
        await engine.load(MODEL, "2")
        return perf_counter() - began


async def _recovered(path: Path) -> float:
    await _fill(path)
    began = perf_counter()
    async with open_engine(journal=path) as engine:
        register(engine, MODEL, "1")
        register(engine, MODEL, "2")
        report = await engine.recovered()
        took_s = perf_counter() - began
        assert report.done[0].result == "finished", report
        assert len(engine.swaps(MODEL, PAST * 2)) == PAST
    return took_s


async def _fill(path: Path) -> None:
    """Write past swaps of which one is open, as the engine would; copied from one that really ran."""
    journal = SqliteJournal(path, Ports.system())
    kept = await journal.open()
    if kept.swaps:
        whole = wire.decode(SwapRecord, kept.swaps[-1].record)
    else:
        async with open_engine() as engine:
            for version in "12":
                register(engine, MODEL, version)
            await engine.load(MODEL, "1")
            operation = await engine.swap(MODEL, "2")
        whole = SwapRecord(operation, Progress(Step.UNLOAD), Drain(), Timeouts())
        for first in range(0, PAST, 1_000):
            await _write(journal, Entry(tuple(_row(whole, number) for number in range(first, first + 1_000))))
    desired = DesiredVersion(MODEL, "2", "callable", "models:trivial", None)
    await _write(journal, Entry((_row(whole, PAST, ended=False),), {MODEL: wire.encode(desired)}))
    await journal.close()


def _row(record: SwapRecord, number: int, *, ended: bool = True) -> SwapRow:
    state = SwapState.COMPLETED if ended else SwapState.OLD_VERSION_DRAINING
    operation = attrs.evolve(record.operation, id=f"{number:012x}", state=state)
    return SwapRow(operation.id, ended, wire.encode(attrs.evolve(record, operation=operation)))


async def _write(journal: SqliteJournal, entry: Entry) -> None:
    written = trio.Event()
    journal.write(entry, lambda error: written.set() if error is None else None)
    await written.wait()


# --- swaps in which something fails ---------------------------------------------------------------------------------


async def _faulted(path: Path, swaps: int) -> list[Figure]:
    """Swap under traffic, with a fault in a third of the swaps, and count what the clients lose."""
    dice, ends = random.Random(0), Counter[str]()
    faults = ("load raises", "warm-up raises", "predict raises on trial", "rolled back", "aborted")
    canary = Shift.canary(((0.5, 0.005),), guard=Guard(min_samples=5))
    async with open_engine(journal=path, strict_references=True) as engine:
        register(engine, MODEL, "0")
        await engine.load(MODEL, "0")
        async with under_traffic(engine, MODEL, np.zeros((1, 1)), clients=8) as traffic:
            for number in range(1, swaps + 1):
                fault = dice.choice(faults) if number % FAULTY == 0 else ""
                source = {"load raises": "models:raises", "predict raises on trial": "models:predicts_badly"}
                warmup = {"bad": True} if fault == "warm-up raises" else ()
                engine.register(
                    MODEL, str(number), source.get(fault, "models:picky"), loader="callable", allow_code=True,
                    warmup=warmup,
                )  # fmt: skip
                swap_id = engine.start_swap(MODEL, str(number), plan=canary if "trial" in fault else None)
                await trio.sleep(dice.choice([0.0, 0.0005, 0.001]) if fault in ("rolled back", "aborted") else 0.0)
                try:
                    if fault == "aborted":
                        engine.abort(swap_id)
                    elif fault == "rolled back":
                        await engine.rollback(swap_id)
                except ChangeoverError:
                    ends["too late to turn"] += 1
                try:
                    ends[(await engine.wait_for_swap(swap_id)).state.value] += 1
                except SwapNotDone as error:
                    ends[error.operation.state.value] += 1
        loaded, audit = len(engine.loaded_versions(MODEL)), engine.audit()
    told = ", ".join(f"{count} {end}" for end, count in sorted(ends.items()))
    lost, held = len(traffic.lost) * 1_000 / swaps, sum(map(len, audit.holders.values()))
    return [
        Figure(f"lost per 1,000 swaps, a third of them faulted ({swaps:,})", "0", f"{lost:g}", lost == 0),
        Figure("  answered meanwhile; how they ended", "", f"{traffic.answered:,}; {told}"),
        Figure("  versions left over, references held", "0, 0", f"{loaded - 1}, {held}", loaded == 1 and not held),
    ]


if __name__ == "__main__":
    measure.command("Swaps and their journal", bench)
