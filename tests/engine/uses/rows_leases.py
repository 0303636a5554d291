"""Rows of the matrix: every way that a lease, or a reference under an id of the caller's own, can end."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable

import pytest

from changeover import RequestTracker
from changeover.errors import AlreadyHeld, PredictFailed, ReferenceNotHeld
from tests.engine.uses.rows_requests import Halt
from tests.engine.uses.stage import ASYNC, Seen, Stage, Ways
from tests.engine.uses.worlds import OnAsyncio, OnUvloop
from tests.support.models import Broken

LEASES = Ways()
OUT_OF_A_BLOCK = (Broken("no"), KeyboardInterrupt(), SystemExit(1), Halt(), GeneratorExit())


def raise_it(error: BaseException) -> None:
    """Be a block that raises."""
    raise error


@LEASES.row()
async def a_lease_is_returned(stage: Stage) -> None:
    """It holds from the first line of its block to the last, whatever is done in it."""
    with stage.engine.lease("m") as lease:
        stage.advance(4.0)
        stage.sees(Seen("lease", 4.0))
        assert lease.infer({"x": 1})["x"] == 1
        stage.sees(Seen("lease", 4.0))
    stage.sees()


@LEASES.row(ASYNC)
async def an_async_lease_is_returned(stage: Stage) -> None:
    """The same with `async with`, which a drain could revoke and does not after it."""
    async with stage.engine.lease("m", request_id="mine"):
        stage.advance(4.0)
        stage.sees(Seen("lease", 4.0, name="mine"))
        assert stage.look_round()[0].account._revokers
    stage.sees()
    assert not stage.look_round()[0].account._revokers


@LEASES.row()
async def a_lease_is_released_in_its_block(stage: Stage) -> None:
    """From then on it holds nothing; to give it back once more is an error that changes nothing."""
    lease = stage.engine.lease("m").__enter__()
    lease.release()
    stage.sees()
    for again in (lease.release, lambda: lease.__exit__(None, None, None)):
        with pytest.raises(ReferenceNotHeld):
            again()
    stage.sees()


@LEASES.row()
async def a_lease_block_raises(stage: Stage) -> None:
    """Whatever is raised, also what is no `Exception`, comes out as it is and gives back."""
    for error in OUT_OF_A_BLOCK:
        with pytest.raises(type(error)), stage.engine.lease("m"):  # noqa: PT012 - the block is what is tested
            stage.sees(Seen("lease"))
            raise_it(error)
        stage.sees()


@LEASES.row(ASYNC)
async def an_async_lease_block_raises(stage: Stage) -> None:
    """The same with `async with`."""
    for error in OUT_OF_A_BLOCK:
        with pytest.raises(type(error)):  # noqa: PT012 - the block is what is tested
            async with stage.engine.lease("m"):
                stage.sees(Seen("lease"))
                raise_it(error)
        stage.sees()


@LEASES.row()
async def the_model_of_a_lease_raises(stage: Stage) -> None:
    """The model's error leaves the lease held, and the block gives it back."""
    stage.cast.script("m", "1").raises = Broken("no")
    with pytest.raises(PredictFailed), stage.engine.lease("m") as lease:  # noqa: PT012 - the block is what is tested
        with pytest.raises(PredictFailed):
            lease.infer({})
        stage.sees(Seen("lease"))
        lease.infer({})
    stage.sees()
    stage.cast.script("m", "1").raises = Halt()
    with pytest.raises(Halt), stage.engine.lease("m") as lease:
        lease.infer({})
    stage.sees()


@LEASES.row()
async def a_lease_is_never_entered(stage: Stage) -> None:
    """What was only asked for holds nothing."""
    lease = stage.engine.lease("m")
    stage.sees()
    with pytest.raises(ReferenceNotHeld):
        lease.release()
    del lease


@LEASES.row()
async def a_lease_is_entered_twice(stage: Stage) -> None:
    """The second time raises, and takes nothing."""
    with stage.engine.lease("m") as lease:
        with pytest.raises(AlreadyHeld):
            lease.__enter__()
        stage.sees(Seen("lease"))
    stage.sees()


@LEASES.row()
async def a_lease_is_cancelled_in_its_block(stage: Stage) -> None:
    """A task that is cancelled, or a thread that is interrupted, where it waits inside of the block gives back."""
    use = stage.world.spawn(stage.holder(stage.world.event()), cancellable=True)
    await stage.until_held(1)
    stage.advance(7.0)
    stage.sees(Seen("lease", 7.0))
    await stage.world.cancel(use)
    assert isinstance(use.error, stage.world.cancelled)
    stage.sees()


@LEASES.row(ASYNC)
async def a_lease_is_cancelled_while_it_waits(stage: Stage) -> None:
    """Who waits for a version that is still being loaded holds nothing yet, and is not remembered."""
    await stage.given_back()
    loading, gate = stage.gate(), stage.cast.script("m", "1")
    gate.on_load = loading.wait

    async def load() -> None:
        await stage.engine.load("m", "1")

    order = stage.world.spawn(load)
    await stage.world.until(loading.began.is_set)
    use = stage.world.spawn(stage.holder(stage.world.event()))
    await stage.world.turn()
    await stage.world.cancel(use)
    assert isinstance(use.error, stage.world.cancelled)
    stage.sees()
    loading.go.set()
    assert (await stage.world.end(order)).error is None
    stage.sees()


@LEASES.row()
async def a_lease_is_released_in_another_thread(stage: Stage) -> None:
    """Where it was taken does not matter."""
    lease = stage.engine.lease("m").__enter__()
    stage.sees(Seen("lease"))
    await stage.elsewhere(lease.release)
    stage.sees()


@LEASES.row()
async def a_lease_block_is_left_in_another_thread(stage: Stage) -> None:
    """The same for a block that another thread leaves."""
    lease = stage.engine.lease("m").__enter__()
    await stage.elsewhere(lambda: lease.__exit__(None, None, None))
    stage.sees()


@LEASES.row()
async def a_lease_is_taken_in_another_thread(stage: Stage) -> None:
    """And for one that was taken there, and is given back here."""
    lease = stage.engine.lease("m")
    await stage.elsewhere(lease.__enter__)
    stage.sees(Seen("lease"))
    lease.release()
    stage.sees()


@LEASES.row()
async def a_lease_is_forgotten(stage: Stage) -> None:
    """One that nobody can reach any more is given back, with a warning."""
    lease = stage.engine.lease("m").__enter__()
    stage.sees(Seen("lease"))
    with pytest.warns(ResourceWarning, match="a lease of m was dropped"):
        del lease
    stage.sees()


@LEASES.row((OnAsyncio, OnUvloop))
async def an_async_lease_is_forgotten(stage: Stage) -> None:
    """The same for one that was entered with `await` and never left."""
    lease = stage.engine.lease("m")
    await lease.__aenter__()
    stage.sees(Seen("lease"))
    with pytest.warns(ResourceWarning, match="a lease of m was dropped"):
        del lease
    stage.sees()
    assert not stage.look_round()[0].account._revokers


def in_a_cycle(held: object) -> None:
    """Have only the cycle collector find it."""
    loop: list[object] = [held]
    loop.append(loop)


async def collected(stage: Stage, make: Callable[[], object], seen: Seen) -> None:
    """Have something that holds collected in a cycle."""
    gc.disable()
    try:
        in_a_cycle(make())
        stage.sees(seen)
        with pytest.warns(ResourceWarning, match="was dropped"):
            gc.collect()
    finally:
        gc.enable()
    stage.sees()


@LEASES.row()
async def a_lease_is_forgotten_in_a_cycle(stage: Stage) -> None:
    """It is given back when the cycle is collected."""
    await collected(stage, lambda: stage.engine.lease("m").__enter__(), Seen("lease"))


@LEASES.row()
async def a_lease_is_forgotten_where_warnings_are_errors(stage: Stage) -> None:
    """It is given back before the warning is raised."""
    raised: list[object] = []
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("error")
        patch.setattr("sys.unraisablehook", raised.append)
        lease = stage.engine.lease("m").__enter__()
        del lease
    stage.sees()
    assert len(raised) == 1


@LEASES.row()
async def a_reference_is_released(stage: Stage) -> None:
    """Under the caller's own id; by whichever thread."""
    references = stage.engine.references
    references.acquire("m", "1", "mine")
    stage.advance(1.0)
    stage.sees(Seen("request", 1.0, name="mine"))
    await stage.elsewhere(lambda: references.release("m", "1", "mine"))
    stage.sees()
    with pytest.raises(ReferenceNotHeld):
        references.release("m", "1", "mine")
    stage.sees()


@LEASES.row()
async def a_tracker_block_ends(stage: Stage) -> None:
    """It returns, or raises whatever it likes."""
    references = stage.engine.references
    with RequestTracker(references, "m", "1", "mine"):
        stage.sees(Seen("request", name="mine"))
    stage.sees()
    for error in OUT_OF_A_BLOCK:
        with pytest.raises(type(error)), RequestTracker(references, "m", "1", "mine"):
            raise_it(error)
        stage.sees()


@LEASES.row()
async def a_tracker_is_forgotten(stage: Stage) -> None:
    """At once, in a cycle, or where it was never entered."""
    references = stage.engine.references
    tracker = RequestTracker(references, "m", "1", "mine").__enter__()
    with pytest.warns(ResourceWarning, match="was dropped without being released"):
        del tracker
    stage.sees()

    def make() -> object:
        return RequestTracker(references, "m", "1", "mine").__enter__()

    await collected(stage, make, Seen("request", name="mine"))
    RequestTracker(references, "m", "1", "mine")


@LEASES.row()
async def a_tracker_is_cancelled_in_its_block(stage: Stage) -> None:
    """A task that is cancelled, or a thread that is interrupted, gives back."""
    event = stage.world.event()

    async def call() -> None:
        with RequestTracker(stage.engine.references, "m", "1", "mine"):
            await stage.world.wait(event)

    use = stage.world.spawn(call, cancellable=True)
    await stage.until_held(1)
    stage.advance(2.0)
    stage.sees(Seen("request", 2.0, name="mine"))
    await stage.world.cancel(use)
    stage.sees()
