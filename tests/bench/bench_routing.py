"""What a change of the routes costs with many models, and what a swap costs beside loading and draining.

Both versions are loaded before each swap, so that nothing is left but the engine's own steps. It spawns the clients.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from time import perf_counter, thread_time
from typing import Any

import measure
import trio
from measure import Figure, Spread
from traffic import CLIENTS, under_traffic

from changeover import Engine, SwapOperation, open_engine
from changeover.core.routes import Shifted, decide
from changeover_plugins.demo.digits import write_repository

MODELS = 1_000
UPDATE_MOST_S = 100e-6
SWAP_MOST_S = 10e-3

Settings = Mapping[str, Any]
"""Fields of a version's spec."""

WAYS: dict[str, Settings] = {"inline": {}, "worker": {"execution": "worker"}}


def bench(quick: bool) -> list[Figure]:
    """Return the figures of the routes."""
    updates = trio.run(_updates, 5 if quick else 41, 50 if quick else 500)
    with tempfile.TemporaryDirectory() as folder:
        images = write_repository(Path(folder)).images
        swaps = [f for way in WAYS for f in trio.run(_swaps, Path(folder), images, way, 5 if quick else 40)]
    return updates + swaps


# --- the routes ---


async def _updates(rounds: int, count: int) -> list[Figure]:
    """Measure, in CPU time, one change of the routes among few models and among many, and its parts."""
    async with open_engine() as few, open_engine() as many:
        await _fill(few, 1)
        await _fill(many, MODELS)
        few_s, many_s, decide_s, whole_s = measure.alternate(
            rounds,
            lambda: _shift(few, count), lambda: _shift(many, count),
            lambda: _decide(many, count), lambda: _out_and_in(many, count),
        )  # fmt: skip
    update = Spread.of(many_s)
    wanted = f"below {UPDATE_MOST_S * 1e6:.0f} µs"
    return [
        Figure("routing update, 1 model", "", _us(few_s)),
        Figure(f"routing update, {MODELS} models", wanted, _us(many_s), update.median < UPDATE_MOST_S),
        Figure("  of that, the decision", "", _us(decide_s)),
        Figure("an old version out and in again", "", _us(whole_s)),
    ]


def _us(values: list[float]) -> str:
    return Spread.of(values).text("µs", scale=1e6, digits=1)


async def _fill(engine: Engine, models: int) -> None:
    """Load so many models, the first of them in two versions."""
    for model, version in [("m0", "2"), *((f"m{n}", "1") for n in range(models))]:
        engine.register(model, version, "models:trivial", loader="callable", allow_code=True)
        await engine.load(model, version)


def _shift(engine: Engine, count: int) -> float:
    """Return the seconds of one change of the routes, made as a swap's pivot makes it."""
    router = engine._router
    began = thread_time()
    for turn in range(count):
        router.shift({"m0": "12"[turn % 2]})
    return (thread_time() - began) / count


def _decide(engine: Engine, count: int) -> float:
    snapshot = engine._router.snapshot
    began = thread_time()
    for _ in range(count):
        decide(snapshot, Shifted({"m0": "3"}))
    return (thread_time() - began) / count


def _out_and_in(engine: Engine, count: int) -> float:
    """Return the seconds that a version without traffic takes to leave, as when its drain begins, and to come back."""
    router = engine._router
    router.shift({"m0": "2"})
    loaded = next(one for one in engine._host.living() if one.key == ("m0", "1"))
    began = thread_time()
    for _ in range(count):
        router.shut(loaded)
        router.opened(loaded)
    return (thread_time() - began) / count


# --- the swaps ---


async def _swaps(folder: Path, images: Any, way: str, swaps: int) -> list[Figure]:
    """Measure swaps between two versions that are loaded, under traffic."""
    own_s: list[float] = []
    shift_s: list[float] = []
    async with open_engine() as engine:
        for version in ("1", "2"):
            engine.register(
                "digits", version, folder / "digits" / version / "model.onnx", loader="onnx", **WAYS[way]
            )  # fmt: skip
        await engine.load("digits", "1")
        async with under_traffic(engine, "digits", images) as traffic:
            for turn in range(swaps):
                to = "21"[turn % 2]
                await engine.load("digits", to)
                began = perf_counter()
                operation = await engine.swap("digits", to)
                steps = _durations(operation)
                own_s.append(perf_counter() - began - sum(steps[s] for s in ("load", "warm", "drain", "unload")))
                shift_s.append(steps["shift"])
    own, meanwhile = Spread.of(own_s), Spread.of(traffic.latencies_s(0.0, perf_counter()))
    at = f"{CLIENTS} clients, {way}"
    return [
        Figure(
            f"swap without load and drain, {at}", f"below {SWAP_MOST_S * 1e3:.0f} ms",
            own.text("ms", scale=1e3), own.median < SWAP_MOST_S,
        ),
        Figure("  of that, the shift step", "", Spread.of(shift_s).text("ms", scale=1e3)),
        Figure("  a request meanwhile: one round of the loop", "", meanwhile.text("ms", scale=1e3)),
        Figure("  lost", "0", f"{len(traffic.lost)} of {traffic.sent:,}", not traffic.lost),
    ]  # fmt: skip


def _durations(operation: SwapOperation) -> dict[str, float]:
    """Return the seconds that each step took."""
    return {record.step: record.duration_s or 0.0 for record in operation.steps}


if __name__ == "__main__":
    measure.command("Routing", bench)
