"""Streams that were not begun move to the version that takes requests now; those with a first chunk do not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import trio

from changeover.errors import LeaseRevoked, NotReady, VersionCrashed
from tests.engine.runtime.test_moving import CANCEL, crash_now, seen, two
from tests.support.rig import Outcome, Rig, running, settle


def counting(_inputs: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield 0, 1, 2."""
    for n in range(3):
        yield {"n": n}


@pytest.mark.parametrize("execution", ["inline", "worker"])
@pytest.mark.parametrize("heard", [True, False])
async def test_a_stream_that_was_not_begun_moves(rig: Rig, execution: str, heard: bool, autojump_clock: Any) -> None:
    """Opened on a version that crashed before its first chunk was asked for: another one makes all of them."""
    await two(rig, execution=execution, chunks=counting)
    async with rig.engine.infer_stream("m", {}) as chunks:
        crash_now(rig)
        if heard:
            await settle()
        assert [(chunk.version, chunk.outputs["n"]) async for chunk in chunks] == [("1", n) for n in range(3)]
    await settle()
    assert rig.engine.audit().clean
    assert rig.cast.of("m", "2")[0].running_most == 1  # the killer's


async def test_a_stream_that_waits_for_the_turn_moves(rig: Rig, autojump_clock: Any) -> None:
    """Its thread comes to a model that is beyond use by then, and does not begin."""
    await two(rig, execution="inline", chunks=counting, thread_safe=False)
    rig.takes("stream m/2", 2.0)
    chunk: list[Any] = []

    async def read() -> None:
        async with rig.engine.infer_stream("m", {}) as chunks:
            chunk.append(await anext(chunks))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        await trio.sleep(1.0)
        crash_now(rig)
    assert [reply.version for reply in chunk] == ["1"]
    await trio.sleep(5.0)  # another thread closes what the model of version 2 was to make
    assert rig.engine.audit().clean


async def test_a_stream_of_a_model_without_streams_moves_as_well(rig: Rig, autojump_clock: Any) -> None:
    """The one chunk of a model without `predict_stream` is not made by one that is beyond use."""
    await two(rig, execution="inline", thread_safe=False)
    rig.takes("stream m/2", 2.0)
    chunk: list[Any] = []

    async def read() -> None:
        async with rig.engine.infer_stream("m", {"n": 1}) as chunks:
            chunk.append(await anext(chunks))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        await trio.sleep(1.0)
        crash_now(rig)
    assert ([reply.version for reply in chunk], seen(rig, "2")) == (["1"], [])


async def test_a_stream_whose_first_chunk_is_awaited_does_not_know_whether_it_ran(
    rig: Rig, autojump_clock: Any
) -> None:
    """Its thread was told to pull, and has perhaps not begun when the drain is out of time."""
    await two(rig, chunks=counting, execution="worker")
    rig.takes("stream m/2", 5.0)
    outcome = Outcome(rig.engine.unload, "m", "2", drain=CANCEL)
    async with rig.engine.infer_stream("m", {}, version="2") as chunks, running(outcome):
        with pytest.raises(LeaseRevoked) as caught:
            await anext(chunks)
    assert caught.value.ran == "unknown"


async def test_a_stream_that_was_not_begun_when_its_drain_was_out_of_time_moves(rig: Rig, autojump_clock: Any) -> None:
    """It goes where the traffic went; one that had begun is over."""
    await two(rig, chunks=counting)
    async with rig.engine.infer_stream("m", {}) as begun, rig.engine.infer_stream("m", {}) as late:
        assert (await anext(begun)).version == "2"
        outcome = Outcome(rig.engine.unload, "m", "2", drain=CANCEL)
        async with running(outcome):
            await trio.sleep(1.5)
            with pytest.raises(LeaseRevoked) as caught:
                await anext(begun)
            assert caught.value.ran == "yes"
            assert [chunk.version async for chunk in late] == ["1"] * 3
    assert outcome.value.result == "drained"


@pytest.mark.parametrize("named", [True, False])
async def test_a_stream_that_cannot_move_says_that_it_did_not_run(rig: Rig, named: bool, autojump_clock: Any) -> None:
    """Because its version was named, or because there is no other."""
    await two(rig, chunks=counting)
    if not named:
        await rig.engine.unload("m", "1")
    async with rig.engine.infer_stream("m", {}, version="2" if named else None) as chunks:
        crash_now(rig)
        await settle()
        with pytest.raises(VersionCrashed) as caught:
            await anext(chunks)
        assert (caught.value.ran, isinstance(caught.value.__cause__, NotReady)) == ("no", not named)
        with pytest.raises(StopAsyncIteration):
            await anext(chunks)
    assert rig.engine.audit().clean


async def test_a_reader_that_is_cancelled_while_its_version_goes_holds_nothing(rig: Rig, autojump_clock: Any) -> None:
    """It waits for a version that is beyond use to be taken away, and leaves that queue like any other."""
    await two(rig, chunks=counting)
    async with rig.engine.infer_stream("m", {}) as chunks:
        crash_now(rig)
        stream = chunks._stream
        request = stream.pull(None)
        assert request is not None
        assert request is stream._queued
        stream.leave(request)
        assert [len(holders) for holders in rig.engine.audit().holders.values()] == []
        await settle()
    assert rig.engine.audit().clean
