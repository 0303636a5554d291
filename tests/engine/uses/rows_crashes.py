"""Rows of the matrix: uses whose version crashes, or whose engine is closed."""

from __future__ import annotations

import pytest

from changeover import VersionState
from changeover.errors import EngineClosed, VersionCrashed
from changeover.plugin import FatalModelError
from tests.engine.uses.stage import ASYNC, PULLER, WORKER, Seen, Stage, Ways, chunks_of
from tests.support.faces import entered

CRASHES = Ways()
CLOSINGS = Ways()

FATAL = {"fatal_on": lambda inputs: "poison" in inputs, "chunks": chunks_of}


async def crash(stage: Stage) -> None:
    """Have the version declare itself beyond use; it will be started again when time passes."""
    with pytest.raises(VersionCrashed):
        await stage.infer(poison=1)()
    await stage.until_state(VersionState.FAILED)
    await stage.timer()


async def restart(stage: Stage) -> None:
    """Let the supervisor start it again."""
    await stage.timer()
    stage.advance(1.0)
    await stage.world.until(lambda: bool(stage.engine.is_loaded("m", "1")))


# --- a crashed version ----------------------------------------------------------------------------------------------


@CRASHES.row(script=FATAL)
async def a_version_crashes_that_is_leased(stage: Stage) -> None:
    """The lease goes on holding the model that has crashed, which is closed behind it, and not the one after it."""
    with stage.engine.lease("m"):
        await crash(stage)
        stage.advance(0.0625)
        stage.sees(Seen("lease", 0.0625))
        await restart(stage)
        with stage.engine.lease("m"):
            stage.sees(Seen("lease", 1.0625), Seen("lease"))
        assert stage.closed() == [0, 0]
    stage.sees()
    await stage.world.until(lambda: stage.closed() == [1, 0])


@CRASHES.row(ASYNC, script=FATAL)
async def a_version_crashes_in_an_async_lease(stage: Stage) -> None:
    """Its block is not ended; it ends when it likes."""
    async with stage.engine.lease("m"):
        await crash(stage)
        stage.sees(Seen("lease"))
    stage.sees()
    await stage.world.until(lambda: stage.closed() == [1])
    await restart(stage)


@CRASHES.row(script=FATAL, execution="worker")
async def a_version_crashes_with_requests_in_its_queue(stage: Stage) -> None:
    """The one that killed it and those behind it are told so and hold nothing; the version is back for the next."""
    gate = stage.hang("poison")
    uses = [stage.world.spawn(stage.infer(poison=1))]
    await stage.world.until(gate.began.is_set)
    for n in (1, 2):
        uses.append(stage.world.spawn(stage.infer(n=n)))
        await stage.until_held(n + 1)
    stage.sees(Seen("request", 0.0, WORKER), Seen("request"), Seen("request"))
    gate.go.set()
    for use in uses:
        await stage.world.end(use)
    assert [type(use.error) for use in uses] == [VersionCrashed] * 3
    assert [getattr(use.error, "ran", None) for use in uses] == ["yes", "no", "no"]
    stage.sees()
    await stage.world.until(lambda: stage.closed() == [1])
    await restart(stage)
    await stage.world.until(lambda: bool(stage.engine.is_active("m", "1")))  # a moment behind, for another thread
    await stage.infer()()


@CRASHES.row(script=FATAL, execution="worker", workers=2)
async def a_version_crashes_while_another_thread_runs(stage: Stage) -> None:
    """The model that has crashed stays open until the last thread that uses it has ended."""
    gate = stage.hang("slow")
    use = stage.world.spawn(stage.infer(slow=1))
    await stage.world.until(gate.began.is_set)
    await crash(stage)
    stage.advance(0.0625)
    (seen,) = stage.holders()
    assert (seen.kind, seen.age_s, seen.thread in {WORKER, "worker m/1 1"}) == ("request", 0.0625, True)
    assert stage.closed() == [0]
    gate.go.set()
    assert (await stage.world.end(use)).error is None
    await stage.world.until(lambda: stage.closed() == [1])
    await restart(stage)


@CRASHES.row(script=FATAL, execution="worker")
async def a_version_crashes_between_two_chunks(stage: Stage) -> None:
    """The stream that was begun goes on with the model that has crashed, and closes it with its end."""
    async with entered(stage.engine.infer_stream("m", {})) as chunks:
        await stage.next(chunks)
        await crash(stage)
        stage.sees(Seen("stream"))
        await stage.next(chunks)
        assert stage.closed() == [0]
    await stage.until_held(0)
    await stage.world.until(lambda: stage.closed() == [1])
    await restart(stage)


@CRASHES.row(script=FATAL, execution="worker")
async def a_version_crashes_in_a_stream(stage: Stage) -> None:
    """The stream that killed it has ended."""
    async with entered(stage.engine.infer_stream("m", {"at": 1, "raises": FatalModelError("no")})) as chunks:
        await stage.next(chunks)
        stage.sees(Seen("stream"))
        with pytest.raises(VersionCrashed):
            await stage.next(chunks)
        await stage.until_held(0)
    await restart(stage)
    await stage.world.until(lambda: stage.closed() == [1, 0])


@CRASHES.row(script=FATAL)
async def a_version_crashes_that_is_held_by_an_id(stage: Stage) -> None:
    """The id is released where it is held, on the incarnation that has crashed."""
    stage.engine.references.acquire("m", "1", "mine")
    await crash(stage)
    await restart(stage)
    stage.sees(Seen("request", 1.0, name="mine"))
    stage.engine.references.release("m", "1", "mine")
    await stage.world.until(lambda: stage.closed() == [1, 0])


# --- a closed engine ------------------------------------------------------------------------------------------------


async def refuses(stage: Stage) -> None:
    """Nothing new can be held."""
    with pytest.raises(EngineClosed):
        stage.engine.lease("m").__enter__()
    with pytest.raises(EngineClosed):
        stage.engine.references.acquire("m", "1", "late")
    with pytest.raises(EngineClosed):
        await stage.infer()()


@CLOSINGS.row()
async def an_engine_is_closed_under_a_lease(stage: Stage) -> None:
    """It does not wait for ever, and leaves the model open; whoever holds it last closes it."""
    lease = stage.engine.lease("m").__enter__()
    stage.advance(1.0)
    await stage.close()
    stage.sees(Seen("lease", 1.0))
    assert stage.closed() == [0]
    assert lease.infer({"x": 1})["x"] == 1
    await refuses(stage)
    lease.release()
    stage.sees()


@CLOSINGS.row(ASYNC)
async def an_engine_is_closed_under_an_async_lease(stage: Stage) -> None:
    """Its block goes on, and gives back when it ends."""
    leave = stage.world.event()
    use = stage.world.spawn(stage.holder(leave))
    await stage.until_held(1)
    await stage.close()
    stage.sees(Seen("lease"))
    leave.set()
    assert (await stage.world.end(use)).error is None
    stage.sees()


@CLOSINGS.row()
async def an_engine_is_closed_under_an_id(stage: Stage) -> None:
    """The id can be released behind the engine, on any thread."""
    stage.engine.references.acquire("m", "1", "mine")
    await stage.close()
    stage.sees(Seen("request", name="mine"))
    await stage.elsewhere(lambda: stage.engine.references.release("m", "1", "mine"))
    stage.sees()


@CLOSINGS.row(execution="worker")
async def an_engine_is_closed_with_requests_on_their_way(stage: Stage) -> None:
    """Queued or running, their callers are answered; the thread that runs keeps its version, and then closes it."""
    gate = stage.hang()
    uses = [stage.world.spawn(stage.infer(n=1))]
    await stage.world.until(gate.began.is_set)
    uses.append(stage.world.spawn(stage.infer(n=2)))
    await stage.until_held(2)
    await stage.close()
    for use in uses:
        assert isinstance((await stage.world.end(use)).error, VersionCrashed)
    stage.sees(Seen("request", 0.0, WORKER))
    assert stage.closed() == [0]
    gate.go.set()
    await stage.until_held(0)
    assert [call["n"] for call in stage.model.calls] == [1]


@CLOSINGS.row(script={"chunks": chunks_of}, execution="worker")
async def an_engine_is_closed_between_two_chunks(stage: Stage) -> None:
    """The stream stays whole, and closes the model with its end."""
    async with entered(stage.engine.infer_stream("m", {})) as chunks:
        await stage.next(chunks)
        await stage.close()
        stage.sees(Seen("stream"))
        assert stage.closed() == [0]
    await stage.until_held(0)
    assert stage.ended == ["ended"]


@CLOSINGS.row(script={"chunks": chunks_of}, execution="worker")
async def an_engine_is_closed_while_a_chunk_is_made(stage: Stage) -> None:
    """The reader is told; the thread closes the generator, and then the model."""
    gate = stage.gate()
    use = stage.world.spawn(stage.reader(at=1, gate=gate))
    await stage.world.until(gate.began.is_set)
    await stage.close()
    assert isinstance((await stage.world.end(use)).error, VersionCrashed)
    stage.sees(Seen("stream", 0.0, PULLER))
    assert stage.closed() == [0]
    gate.go.set()
    await stage.until_held(0)
    assert stage.ended == ["ended"]


@CLOSINGS.row()
async def an_engine_is_closed_while_a_wait_for_zero_goes_on(stage: Stage) -> None:
    """Who waits is told that nobody keeps the count any more, and is not remembered."""
    lease = stage.engine.lease("m").__enter__()

    def wait() -> None:
        with pytest.raises(EngineClosed):
            stage.engine.references.wait_for_zero_blocking("m", "1", 1_000.0)

    async def call() -> None:
        await stage.elsewhere(wait)

    use = stage.world.spawn(call)
    await stage.world.until(lambda: bool(stage.engine.references._world.waits._waiting))
    await stage.close()
    assert (await stage.world.end(use)).error is None
    lease.release()
