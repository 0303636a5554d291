"""The hot-swapper spec on every face of the engine: on Trio, on asyncio, and in plain threads."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from changeover import Drain, SwapState
from changeover.errors import (
    DrainTimeout,
    ModelNotRegistered,
    SwapFailed,
    SwapInProgress,
    SwapNotAllowed,
    SwapNotDone,
)
from tests.support.faces import ASYNCIO, THREADS, TRIO, Face, done
from tests.support.models import Broken, Cast

V1, V2 = "1.0", "1.1"
FACES = pytest.mark.parametrize("face", [TRIO, ASYNCIO, THREADS], ids=lambda face: face.name)


def played(face: Face, scenario: Callable[[Any, Cast], Any]) -> None:
    """Play a scenario with 1.0 serving and 1.1 registered."""

    async def main(face: Face) -> None:
        cast = Cast()
        async with face.opened(cast) as engine:
            for version in (V1, V2):
                engine.register("m", version, "script", loader="scripted")
            await done(engine.load("m", V1))
            await scenario(engine, cast)

    face.play(main)


async def refused(error: type[Exception], call: Callable[[], Any], match: str | None = None) -> Any:
    """Return what a call raises."""
    with pytest.raises(error, match=match) as caught:
        await done(call())
    return caught.value


@FACES
def test_spec_swap_status_and_rollback_on_every_face(face: Face) -> None:
    """GetSwapStatus and Rollback: the operation as it ended, and the source version again."""

    async def scenario(engine: Any, cast: Cast) -> None:
        operation = await done(engine.swap("m", V2, from_=V1))
        assert operation == engine.swap_status(operation.id) == await done(engine.wait_for_swap(operation.id))
        assert (operation.state, operation.from_version, operation.to_version) == (SwapState.COMPLETED, V1, V2)
        assert (engine.is_active("m", V2), cast.open()) == (True, [f"m/{V2}"])
        back = await done(engine.rollback(operation.id))
        assert (back.rollback_of, engine.is_active("m", V1), cast.open()) == (operation.id, True, [f"m/{V1}"])

    played(face, scenario)


@FACES
def test_spec_orders_that_make_no_sense_throw_on_every_face(face: Face) -> None:
    """Swap with non-existent target version, with source not active, of what did not happen (should throw)."""

    async def scenario(engine: Any, cast: Cast) -> None:
        await refused(ModelNotRegistered, lambda: engine.swap("m", "7"))
        await refused(SwapNotAllowed, lambda: engine.swap("m", V2, from_=V2), "not active")
        await refused(SwapNotAllowed, lambda: engine.swap("m", V1), "active already")
        cast.script("m", V2).load_error = Broken("no weights")
        error = await refused(SwapFailed, lambda: engine.swap("m", V2), "no weights")
        await refused(SwapNotAllowed, lambda: engine.rollback(error.operation.id), "did not happen")
        assert (engine.is_active("m", V1), cast.open()) == (True, [f"m/{V1}"])

    played(face, scenario)


@FACES
def test_spec_wait_for_drainage_on_every_face(face: Face) -> None:
    """WaitForDrainage completes when no active requests, and times out if requests still active."""

    async def scenario(engine: Any, cast: Cast) -> None:
        await done(engine.wait_for_drain("m", V1, 30.0))
        with engine.lease("m"):
            await refused(DrainTimeout, lambda: engine.wait_for_drain("m", V1, 0.01), "lease")
            operation = await done(engine.swap("m", V2, drain=Drain(deadline_s=0.0)))
            assert (operation.old_unloaded, sorted(cast.open())) == (False, [f"m/{V1}", f"m/{V2}"])
        await done(engine.wait_for_drain("m", V1, 30.0))

    played(face, scenario)


@FACES
def test_spec_concurrent_swaps_on_every_face(face: Face) -> None:
    """Concurrent swaps for different models work; for the same model they throw, or queue."""

    async def scenario(engine: Any, cast: Cast) -> None:
        loads, ids = threading.Event(), []
        cast.script("m", V2).on_load = lambda: void(loads.wait(30.0))
        for version in (V1, V2):
            engine.register("n", version, "script", loader="scripted")
        engine.register("m", "1.2", "script", loader="scripted")
        await done(engine.load("n", V1))
        ids.append(engine.start_swap("m", V2))
        await refused(SwapInProgress, lambda: engine.swap("m", "1.2"), V2)
        ids.append(engine.start_swap("m", "1.2", on_busy="queue"))
        assert (await done(engine.swap("n", V2))).state is SwapState.COMPLETED
        loads.set()
        for swap_id in ids:
            assert (await done(engine.wait_for_swap(swap_id))).state is SwapState.COMPLETED
        assert engine.is_active("m", "1.2")

    played(face, scenario)


@FACES
def test_spec_a_swap_that_is_aborted_on_every_face(face: Face) -> None:
    """Use cancellation tokens to abort swaps if needed."""

    async def scenario(engine: Any, cast: Cast) -> None:
        loads = threading.Event()
        cast.script("m", V2).on_load = lambda: void(loads.wait(30.0))
        swap_id = engine.start_swap("m", V2)
        engine.abort(swap_id)
        error = await refused(SwapNotDone, lambda: engine.wait_for_swap(swap_id))
        assert error.operation.state is SwapState.CANCELLED
        loads.set()
        assert engine.is_active("m", V1)

    played(face, scenario)


def void(_value: object) -> None:
    """Drop a value."""
