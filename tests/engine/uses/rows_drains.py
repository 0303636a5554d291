"""Rows of the matrix: uses whose version is drained, and out of time: they are revoked, or end its quarantine."""

from __future__ import annotations

import pytest

from changeover import Drain, Holder, VersionState
from changeover.errors import LeaseRevoked
from tests.engine.uses.stage import ASYNC, PULLER, WORKER, Gate, Seen, Stage, Ways, chunks_of
from tests.engine.uses.worlds import Use
from tests.support.faces import done, entered

REVOCATIONS = Ways()
QUARANTINES = Ways()

STREAMED = {"chunks": chunks_of}
CANCEL = Drain(5.0, "cancel", grace_s=5.0)


# --- revoked --------------------------------------------------------------------------------------------------------


async def drained(stage: Stage, drain: Use, after_s: float) -> None:
    """The drain ended after so long with nobody left."""
    await stage.world.end(drain)
    outcome = drain.value
    assert (outcome.result, outcome.holders, outcome.duration_s) == ("drained", (), after_s)
    await stage.until_state(VersionState.UNLOADED)
    assert stage.closed() == [1]


@REVOCATIONS.row(ASYNC)
async def an_async_lease_is_revoked(stage: Stage) -> None:
    """It is ended where it waits; a drain that has no time left is the reason that it names."""
    use = stage.world.spawn(stage.holder(stage.world.event()))
    await stage.until_held(1)
    drain = stage.unload(CANCEL)
    await stage.timer()
    stage.advance(4.75)
    stage.sees(Seen("lease", 4.75))
    stage.advance(0.25)
    assert isinstance((await stage.world.end(use)).error, LeaseRevoked)
    await drained(stage, drain, 5.0)


@REVOCATIONS.row(execution="worker")
async def a_request_in_the_queue_is_revoked(stage: Stage) -> None:
    """It never runs; the one whose thread runs is waited for."""
    gate = stage.hang()
    running = stage.world.spawn(stage.infer(n=1))
    await stage.world.until(gate.began.is_set)
    waiting = stage.world.spawn(stage.infer(n=2))
    await stage.until_held(2)
    drain = stage.unload(CANCEL)
    await stage.timer()
    stage.advance(5.0)
    await stage.world.end(waiting)
    assert isinstance(waiting.error, LeaseRevoked)
    assert waiting.error.ran == "no"
    stage.sees(Seen("request", 5.0, WORKER))
    await stage.timer()
    stage.advance(1.0)
    gate.go.set()
    assert (await stage.world.end(running)).error is None
    await drained(stage, drain, 6.0)
    assert [call["n"] for call in stage.model.calls] == [1]


@REVOCATIONS.row(script=STREAMED, execution="worker")
async def a_stream_is_revoked_while_it_waits_for_a_chunk(stage: Stage) -> None:
    """Its reader is told at once; the thread that makes the chunk is never interrupted, and gives back."""
    gate = stage.gate()
    use = stage.world.spawn(stage.reader(at=1, gate=gate))
    await stage.world.until(gate.began.is_set)
    drain = stage.unload(CANCEL)
    await stage.timer()
    stage.advance(5.0)
    assert isinstance((await stage.world.end(use)).error, LeaseRevoked)
    stage.sees(Seen("stream", 5.0, PULLER))
    await stage.timer()
    stage.advance(2.0)
    gate.go.set()
    await drained(stage, drain, 7.0)
    assert stage.ended == ["ended"]


async def revoked_between_chunks(stage: Stage) -> None:
    """Have a stream revoked whose reader is busy."""
    async with entered(stage.engine.infer_stream("m", {})) as chunks:
        await stage.next(chunks)
        drain = stage.unload(CANCEL)
        await stage.timer()
        stage.advance(5.0)
        await stage.timer()
        stage.sees(Seen("stream", 5.0))
        stage.advance(1.0)
        with pytest.raises(LeaseRevoked):
            await stage.next(chunks)
        await drained(stage, drain, 6.0)
        assert await stage.next(chunks) is None
    assert stage.ended == ["ended"]


REVOCATIONS.row(script=STREAMED, execution="worker")(revoked_between_chunks)
REVOCATIONS.row(script=STREAMED)(revoked_between_chunks)


# --- in quarantine --------------------------------------------------------------------------------------------------


async def overstays(stage: Stage, drain: Drain, expected: Seen, after_s: float) -> None:
    """The drain is out of time and names who is left; the version stays open, and takes nobody else."""
    use = stage.unload(drain)
    await stage.timer()
    stage.advance(drain.deadline_s)
    if drain.then == "cancel":
        await stage.timer()
        stage.advance(drain.grace_s)
    outcome = (await stage.world.end(use)).value
    assert (outcome.result, outcome.duration_s) == ("quarantined", after_s)
    (holder,) = outcome.holders
    assert isinstance(holder, Holder)
    assert (holder.kind, holder.age_s) == (expected.kind, expected.age_s)
    assert expected.thread in {None, holder.thread}
    stage.sees(expected)
    assert stage.engine.load_info("m", "1").status is VersionState.QUARANTINED
    assert stage.closed() == [0]


async def ended_by_the_last(stage: Stage) -> None:
    """The quarantine has ended by itself."""
    stage.sees()
    await stage.until_state(VersionState.UNLOADED)
    assert stage.closed() == [1]


@QUARANTINES.row()
async def a_lease_overstays(stage: Stage) -> None:
    """A `with` block cannot be revoked: it ends the quarantine when it ends."""
    with stage.engine.lease("m") as lease:
        await overstays(stage, CANCEL, Seen("lease", 10.0), 10.0)
        assert lease.infer({"x": 1})["x"] == 1
    await ended_by_the_last(stage)


@QUARANTINES.row(ASYNC)
async def an_async_lease_overstays(stage: Stage) -> None:
    """Without `cancel` nobody is revoked."""
    async with stage.engine.lease("m"):
        await overstays(stage, Drain(5.0), Seen("lease", 5.0), 5.0)
    await ended_by_the_last(stage)


async def runs_on(stage: Stage, use: Use, gate: Gate, expected: Seen) -> None:
    """A thread cannot be interrupted, not even by `cancel`."""
    await stage.world.until(gate.began.is_set)
    await overstays(stage, CANCEL, expected, 10.0)
    gate.go.set()
    await stage.world.end(use)
    await stage.until_held(0)
    await ended_by_the_last(stage)


@QUARANTINES.row(execution="worker")
async def a_thread_overstays(stage: Stage) -> None:
    """It is named in the outcome, ends the quarantine with its own end, and its caller has an answer."""
    gate = stage.hang()
    use = stage.world.spawn(stage.infer())
    await runs_on(stage, use, gate, Seen("request", 10.0, WORKER))
    assert use.error is None


@QUARANTINES.row(script=STREAMED, execution="worker")
async def a_thread_of_a_stream_overstays(stage: Stage) -> None:
    """The same while it makes a chunk, whose reader was told long ago."""
    gate = stage.gate()
    use = stage.world.spawn(stage.reader(at=1, gate=gate))
    await runs_on(stage, use, gate, Seen("stream", 10.0, PULLER))
    assert isinstance(use.error, LeaseRevoked)


@QUARANTINES.row()
async def a_warm_up_overstays(stage: Stage) -> None:
    """The same for data that is run through the version."""
    gate = stage.hang()

    async def warm_up() -> None:
        await done(stage.engine.warm_up("m", "1", [{"x": 1}]))

    await runs_on(stage, stage.world.spawn(warm_up), gate, Seen("warmup", 10.0, "warm m/1"))


@QUARANTINES.row(script=STREAMED, execution="worker")
async def a_stream_overstays(stage: Stage) -> None:
    """A stream that nobody pulls is as good as a lease."""
    async with entered(stage.engine.infer_stream("m", {})) as chunks:
        await stage.next(chunks)
        await overstays(stage, CANCEL, Seen("stream", 10.0), 10.0)
    await stage.until_held(0)
    await ended_by_the_last(stage)


@QUARANTINES.row()
async def an_id_overstays(stage: Stage) -> None:
    """Released in another thread, it ends the quarantine from there."""
    stage.engine.references.acquire("m", "1", "mine")
    await overstays(stage, Drain(5.0), Seen("request", 5.0, name="mine"), 5.0)
    await stage.elsewhere(lambda: stage.engine.references.release("m", "1", "mine"))
    await ended_by_the_last(stage)


@QUARANTINES.row()
async def a_forgotten_lease_overstays(stage: Stage) -> None:
    """One that nobody can reach any more ends the quarantine when it is collected."""
    lease = stage.engine.lease("m").__enter__()
    await overstays(stage, CANCEL, Seen("lease", 10.0), 10.0)
    with pytest.warns(ResourceWarning, match="was dropped"):
        del lease
    await ended_by_the_last(stage)
