"""Rows of the matrix: uses while a version is on trial, where another one is held to stand by, or gets a copy."""

from __future__ import annotations

import pytest

from changeover import Shift
from changeover.errors import PredictFailed, RequestTimeout, SwapRolledBack
from tests.engine.uses.rows_requests import WITH_TIME
from tests.engine.uses.stage import PULLER, WORKER, Seen, Stage, Ways, chunks_of
from tests.support.faces import done, entered
from tests.support.models import Broken

TRIALS = Ways()
NEW_WORKER, NEW_PULLER = WORKER.replace("/1", "/2"), PULLER.replace("/1", "/2")
ALL_OF_IT = Shift.at_once(confirm_s=1_000.0)


async def on_trial(stage: Stage, plan: Shift = ALL_OF_IT) -> str:
    """Put version 2 on trial; return the swap."""
    stage.cast.script("m", "2").chunks = chunks_of(stage)
    stage.engine.register("m", "2", "s", loader="scripted", execution="worker")
    swap_id: str = stage.engine.start_swap("m", "2", plan=plan)
    router = stage.engine._router
    # The fast way is closed right behind the new snapshot: another thread may look in between.
    await stage.world.until(lambda: router.snapshot.routes["m"].trial is not None and "m" not in router.direct)
    return swap_id


async def called_off(stage: Stage, swap_id: str) -> None:
    """End the trial: the new version, which nobody holds, is unloaded at once."""
    stage.sees(version="2")
    stage.engine.abort(swap_id)
    with pytest.raises(SwapRolledBack):
        await done(stage.engine.wait_for_swap(swap_id))
    assert [made.closed for made in stage.cast.of("m", "2")] == [1]


@TRIALS.row(execution="worker")
async def a_request_on_trial_is_answered(stage: Stage) -> None:
    """Both versions are held while the new one is asked, and neither after it."""
    swap_id, gate = await on_trial(stage), stage.hang(version="2")
    use = stage.world.spawn(stage.infer())
    await stage.world.until(gate.began.is_set)
    stage.advance(1.0)
    stage.sees(Seen("fallback", 1.0))
    stage.sees(Seen("request", 1.0, NEW_WORKER), version="2")
    gate.go.set()
    assert (await stage.world.end(use)).value.version == "2"
    stage.sees()
    await called_off(stage, swap_id)


@TRIALS.row(execution="worker")
async def a_request_on_trial_fails(stage: Stage) -> None:
    """The version that stands by answers in the place of the new one, which holds nothing any more."""
    swap_id, gate = await on_trial(stage), stage.hang()
    stage.cast.script("m", "2").raises = Broken("no")
    use = stage.world.spawn(stage.infer())
    await stage.world.until(gate.began.is_set)
    stage.sees(Seen("fallback", 0.0, WORKER))
    stage.sees(version="2")
    gate.go.set()
    assert (await stage.world.end(use)).value.fell_back
    stage.sees()
    await called_off(stage, swap_id)


@TRIALS.row(execution="worker")
async def both_versions_fail(stage: Stage) -> None:
    """Neither keeps anything."""
    swap_id = await on_trial(stage)
    for version in "12":
        stage.cast.script("m", version).raises = Broken("no")
    with pytest.raises(PredictFailed):
        await stage.infer()()
    stage.sees()
    await called_off(stage, swap_id)


@TRIALS.row(execution="worker")
async def a_request_on_trial_is_cancelled(stage: Stage) -> None:
    """Who stands by is let go at once; the new version when its thread has ended."""
    swap_id, gate = await on_trial(stage), stage.hang(version="2")
    use = stage.world.spawn(stage.infer(), cancellable=True)
    await stage.world.until(gate.began.is_set)
    await stage.world.cancel(use)
    stage.sees()
    stage.sees(Seen("request", 0.0, NEW_WORKER), version="2")
    gate.go.set()
    await done(stage.engine.wait_for_drain("m", "2", 30.0))
    await called_off(stage, swap_id)


@TRIALS.row(WITH_TIME, execution="worker")
async def a_request_on_trial_is_out_of_time(stage: Stage) -> None:
    """The same where its time is up."""
    swap_id, gate = await on_trial(stage), stage.hang(version="2")
    use = stage.world.spawn(stage.infer(timeout_s=5.0))
    await stage.world.until(gate.began.is_set)
    stage.advance(5.0)
    assert isinstance((await stage.world.end(use)).error, RequestTimeout)
    stage.sees()
    stage.sees(Seen("request", 5.0, NEW_WORKER), version="2")
    gate.go.set()
    await done(stage.engine.wait_for_drain("m", "2", 30.0))
    await called_off(stage, swap_id)


@TRIALS.row(script={"chunks": chunks_of}, execution="worker")
async def a_stream_on_trial_is_read(stage: Stage) -> None:
    """Who stands by is let go with the first chunk."""
    swap_id = await on_trial(stage)
    async with entered(stage.engine.infer_stream("m", {})) as chunks:
        stage.sees(Seen("stream"))
        stage.sees(Seen("stream"), version="2")
        await stage.next(chunks)
        stage.sees()
        stage.sees(Seen("stream"), version="2")
    await done(stage.engine.wait_for_drain("m", "2", 30.0))
    await called_off(stage, swap_id)


@TRIALS.row(script={"chunks": chunks_of}, execution="worker")
async def a_stream_on_trial_fails(stage: Stage) -> None:
    """Before its first chunk the version that stands by begins anew; it is held from then on, the new one not."""
    swap_id = await on_trial(stage)
    stage.cast.script("m", "2").chunks = lambda _inputs: chunks_of(stage)({"at": 0, "raises": Broken("no")})
    async with entered(stage.engine.infer_stream("m", {})) as chunks:
        await stage.next(chunks)
        await done(stage.engine.wait_for_drain("m", "2", 30.0))
        stage.sees(Seen("stream"))
        stage.sees(version="2")
    await called_off(stage, swap_id)


@TRIALS.row(script={"chunks": chunks_of}, execution="worker")
async def a_stream_on_trial_is_never_pulled(stage: Stage) -> None:
    """Both are let go with the block."""
    swap_id = await on_trial(stage)
    async with entered(stage.engine.infer_stream("m", {})):
        stage.sees(Seen("stream"))
    await done(stage.engine.wait_for_drain("m", "2", 30.0))
    stage.sees()
    await called_off(stage, swap_id)


@TRIALS.row(script={"chunks": chunks_of}, execution="worker")
async def a_reader_on_trial_is_cancelled(stage: Stage) -> None:
    """Who stands by is let go at once; the new version when its thread has ended."""
    swap_id, gate = await on_trial(stage), stage.gate()
    use = stage.world.spawn(stage.reader(at=0, gate=gate), cancellable=True)
    await stage.world.until(gate.began.is_set)
    await stage.world.cancel(use)
    stage.sees()
    stage.sees(Seen("stream", 0.0, NEW_PULLER), version="2")
    gate.go.set()
    await done(stage.engine.wait_for_drain("m", "2", 30.0))
    await called_off(stage, swap_id)


@TRIALS.row()
async def a_copy_is_made(stage: Stage) -> None:
    """The copy of a request holds the new version until its thread has ended, and its caller waits for nothing."""
    plan = Shift.canary(((0.9, 1_000.0),), shadow=True, guard=None)
    swap_id, gate = await on_trial(stage, plan), stage.hang(version="2")
    assert (await stage.infer()()).version == "1"
    await stage.world.until(gate.began.is_set)
    stage.advance(1.0)
    stage.sees()
    stage.sees(Seen("shadow", 1.0, NEW_WORKER), version="2")
    gate.go.set()
    await done(stage.engine.wait_for_drain("m", "2", 30.0))
    await called_off(stage, swap_id)
