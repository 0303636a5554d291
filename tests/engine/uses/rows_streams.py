"""Rows of the matrix: every way that a stream can end."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from changeover.errors import InvalidInput, PredictFailed, ReferenceNotHeld
from tests.engine.uses.rows_leases import OUT_OF_A_BLOCK, raise_it
from tests.engine.uses.rows_requests import Halt
from tests.engine.uses.stage import PULLER, Act, Seen, Stage, Ways, chunks_of
from tests.engine.uses.worlds import WORLDS, InThreads, OnAsyncio, OnTrio, OnUvloop, World
from tests.support.faces import done, entered
from tests.support.models import BATCHED, Broken

STREAMS = Ways()


def stream_row(worlds: tuple[type[World], ...] = WORLDS, *, execution: str | None = None, **script: Any) -> Any:
    """Add a row for each execution, or for the one named."""

    def add(act: Act) -> Act:
        for kind in ("worker", "inline") if execution is None else (execution,):
            STREAMS.row(worlds, script={"chunks": chunks_of, **script}, execution=kind)(act)
        return act

    return add


async def settled(stage: Stage) -> None:
    """The model's generator has ended and nothing is held, at the latest when its thread is done."""
    await done(stage.engine.wait_for_drain("m", "1", 30.0))
    stage.sees()


@stream_row()
async def a_stream_is_read_to_its_end(stage: Stage) -> None:
    """It holds its version between the chunks, too; it is given back with its last one, before its block ends."""
    async with entered(stage.engine.infer_stream("m", {})) as chunks:
        for n in range(3):
            stage.sees(Seen("stream", float(n)))
            chunk = await stage.next(chunks)
            assert chunk is not None and chunk.outputs == {"n": n}  # noqa: PT018 - one fact
            stage.advance(1.0)
        assert await stage.next(chunks) is None
        await settled(stage)
        assert stage.ended == ["ended"]
    stage.sees()


@stream_row(execution="worker")
async def a_chunk_is_made_by_a_thread(stage: Stage) -> None:
    """While it is made, its thread is named."""
    gate = stage.gate()
    use = stage.world.spawn(stage.reader(at=1, gate=gate))
    await stage.world.until(gate.began.is_set)
    stage.advance(1.0)
    stage.sees(Seen("stream", 1.0, PULLER))
    gate.go.set()
    assert (await stage.world.end(use)).value == 3
    await settled(stage)


@stream_row()
async def a_stream_is_closed_early(stage: Stage) -> None:
    """Who leaves the block after one chunk gives back, and the model's own generator is closed."""
    async with entered(stage.engine.infer_stream("m", {})) as chunks:
        await stage.next(chunks)
        stage.advance(1.0)
        stage.sees(Seen("stream", 1.0))
        assert stage.ended == []
    await settled(stage)
    assert stage.ended == ["ended"]


@stream_row()
async def a_model_never_comes_to_an_end(stage: Stage) -> None:
    """A generator without an end is closed where its reader has enough."""
    async with entered(stage.engine.infer_stream("m", {"most": 10**9})) as chunks:
        for _ in range(5):
            await stage.next(chunks)
        stage.sees(Seen("stream"))
    await settled(stage)
    assert stage.ended == ["ended"]


@stream_row()
async def a_stream_is_never_entered(stage: Stage) -> None:
    """What was only asked for holds nothing."""
    stream = stage.engine.infer_stream("m", {})
    stage.sees()
    with pytest.raises(ReferenceNotHeld):
        await stage.next(stream)
    stage.sees()
    del stream


@stream_row()
async def a_stream_is_never_pulled(stage: Stage) -> None:
    """It holds for as long as its block lasts, and the model never hears of it."""
    async with entered(stage.engine.infer_stream("m", {})):
        stage.advance(3.0)
        stage.sees(Seen("stream", 3.0))
    await settled(stage)
    assert stage.ended == []
    assert stage.model.running_most == 0


@stream_row()
async def a_stream_block_raises(stage: Stage) -> None:
    """Whatever is raised comes out as it is, and ends the stream."""
    for error in OUT_OF_A_BLOCK:
        with pytest.raises(type(error)):  # noqa: PT012 - the block is what is tested
            async with entered(stage.engine.infer_stream("m", {})) as chunks:
                await stage.next(chunks)
                stage.sees(Seen("stream"))
                raise_it(error)
        await settled(stage)
    assert stage.ended == ["ended"] * len(OUT_OF_A_BLOCK)


@stream_row()
async def a_model_raises_in_a_stream(stage: Stage) -> None:
    """Before the first chunk or after it, an `Exception` or not: the stream is over and given back at once."""
    for at in (0, 1):
        for error in (Broken("no"), Halt(), KeyboardInterrupt()):
            async with entered(stage.engine.infer_stream("m", {"at": at, "raises": error})) as chunks:
                for _ in range(at):
                    await stage.next(chunks)
                with pytest.raises(PredictFailed):
                    await stage.next(chunks)
                await settled(stage)
                assert await stage.next(chunks) is None
            stage.sees()
    assert len(stage.ended) == 6


@stream_row(signature=BATCHED)
async def the_inputs_of_a_stream_do_not_fit(stage: Stage) -> None:
    """A stream that is refused after its version was pinned gives it back."""
    with pytest.raises(InvalidInput):
        async with entered(stage.engine.infer_stream("m", {"wrong": 1})):
            raise AssertionError
    stage.sees()
    assert stage.engine.audit().total.acquired == 1


@stream_row(execution="worker")
async def a_reader_is_cancelled_while_it_waits_for_a_chunk(stage: Stage) -> None:
    """The thread that makes the chunk keeps the reference until it has really ended, and closes the generator itself.

    This is also a client that goes away: tests/http/test_disconnects.py has those of a real server.
    """
    gate = stage.gate()
    use = stage.world.spawn(stage.reader(at=1, gate=gate), cancellable=True)
    await stage.world.until(gate.began.is_set)
    await stage.world.cancel(use)
    assert isinstance(use.error, stage.world.cancelled)
    stage.advance(5.0)
    stage.sees(Seen("stream", 5.0, PULLER))
    assert stage.ended == []
    gate.go.set()
    await settled(stage)
    assert stage.ended == ["ended"]


@stream_row((OnAsyncio, OnUvloop, InThreads), execution="worker")
async def a_reader_swallows_its_cancellation(stage: Stage) -> None:
    """It stays in its block, and the stream has ended all the same: nothing is held once the thread is done."""
    gate, leave = stage.gate(), stage.world.event()
    swallowed, rest = list[bool](), list[Any]()

    async def read() -> None:
        async with entered(stage.engine.infer_stream("m", {"at": 0, "gate": gate})) as chunks:
            with contextlib.suppress(stage.world.cancelled):
                raise AssertionError(await stage.next(chunks))
            swallowed.append(True)
            await stage.world.wait(leave)
            rest.append(await stage.next(chunks))

    use = stage.world.spawn(read, cancellable=True)
    await stage.world.until(gate.began.is_set)
    await stage.world.interrupt(use)
    await stage.world.until(lambda: bool(swallowed))
    stage.sees(Seen("stream", 0.0, PULLER))
    gate.go.set()
    await settled(stage)
    assert (use.over.is_set(), stage.ended) == (False, ["ended"])
    leave.set()
    assert (await stage.world.end(use)).error is None
    assert rest == [None]


@stream_row()
async def a_reader_is_cancelled_between_two_chunks(stage: Stage) -> None:
    """Where it is busy with a chunk, in its own block: what is left of the answer is not made."""
    event = stage.world.event()

    async def read() -> None:
        async with entered(stage.engine.infer_stream("m", {})) as chunks:
            await stage.next(chunks)
            busy.append(True)
            await stage.world.wait(event)

    busy: list[bool] = []
    use = stage.world.spawn(read, cancellable=True)
    await stage.world.until(lambda: bool(busy))
    stage.sees(Seen("stream"))
    await stage.world.cancel(use)
    assert isinstance(use.error, stage.world.cancelled)
    await settled(stage)
    assert stage.ended == ["ended"]


async def enter(stream: Any) -> Any:
    """Enter a stream by hand, never to leave it."""
    return await done(stream.__aenter__() if hasattr(stream, "__aenter__") else stream.__enter__())


@stream_row()
async def a_stream_is_abandoned_half_way(stage: Stage) -> None:
    """One that nobody can reach any more is given back, with a warning, whether it was pulled or not."""
    for pulls in (0, 2):
        chunks = await enter(stage.engine.infer_stream("m", {}))
        for _ in range(pulls):
            await stage.next(chunks)
        stage.sees(Seen("stream"))
        with pytest.warns(ResourceWarning, match="a stream of m was dropped"):
            del chunks
        await settled(stage)
    assert stage.ended == ["ended"]


@stream_row()
async def a_stream_is_abandoned_in_a_cycle(stage: Stage) -> None:
    """It is given back when the cycle is collected."""
    gc.disable()
    try:
        loop: list[Any] = [await enter(stage.engine.infer_stream("m", {}))]
        await stage.next(loop[0])
        loop.append(loop)
        del loop
        stage.sees(Seen("stream"))
        with pytest.warns(ResourceWarning, match="was dropped"):
            gc.collect()
    finally:
        gc.enable()
    await settled(stage)
    assert stage.ended == ["ended"]


async def passing_on(stage: Stage) -> AsyncIterator[Any]:
    """Be a generator of the user's own around a stream."""
    async with entered(stage.engine.infer_stream("m", {})) as chunks:
        while (chunk := await stage.next(chunks)) is not None:
            yield chunk


@stream_row()
async def the_callers_own_generator_is_closed_half_way(stage: Stage) -> None:
    """`aclose` leaves the block inside of it."""
    chunks = passing_on(stage)
    await anext(chunks)
    stage.sees(Seen("stream"))
    await chunks.aclose()
    await settled(stage)
    assert stage.ended == ["ended"]


@stream_row((OnAsyncio, OnUvloop))
async def the_callers_own_generator_is_dropped_half_way(stage: Stage) -> None:
    """Asyncio closes a generator that nobody can reach any more, in one of its next turns."""
    chunks = passing_on(stage)
    await anext(chunks)
    stage.sees(Seen("stream"))
    del chunks
    await stage.until_held(0)
    await settled(stage)
    assert stage.ended == ["ended"]


@stream_row((OnTrio,))
async def the_callers_own_generator_is_dropped_on_trio(stage: Stage) -> None:
    """Trio closes it too, and warns."""
    chunks = passing_on(stage)
    await anext(chunks)
    with pytest.warns(ResourceWarning, match="before it had been exhausted"):  # noqa: PT031 - Trio warns a turn later
        del chunks
        await stage.until_held(0)
    await settled(stage)
    assert stage.ended == ["ended"]


@stream_row((InThreads,))
async def the_callers_own_generator_is_dropped_in_a_thread(stage: Stage) -> None:
    """A plain generator is closed as soon as nobody can reach it."""

    def passing_on() -> Iterator[Any]:
        with stage.engine.infer_stream("m", {}) as chunks:
            yield from chunks

    chunks = passing_on()
    next(chunks)
    stage.sees(Seen("stream"))
    del chunks
    await settled(stage)
    assert stage.ended == ["ended"]


@stream_row((InThreads,))
async def a_stream_is_left_in_another_thread(stage: Stage) -> None:
    """Where it was entered, and where the last chunk was pulled, does not matter."""
    chunks = stage.engine.infer_stream("m", {}).__enter__()
    await stage.next(chunks)
    await stage.elsewhere(lambda: next(chunks))
    stage.sees(Seen("stream"))
    await stage.elsewhere(lambda: chunks.__exit__(None, None, None))
    await settled(stage)
    assert stage.ended == ["ended"]
