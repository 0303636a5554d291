"""`infer_stream`: an answer in chunks, its version held from the first to the last."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import trio

from changeover import Drain, Reply, Shift
from changeover.errors import InvalidInput, ModelNotRegistered, PredictFailed, ReferenceNotHeld, VersionCrashed
from changeover.plugin import FatalModelError
from tests.support.models import BATCHED, Broken
from tests.support.rig import Rig, open_rig, settle

EXECUTIONS = ["inline", "worker"]


def counting(inputs: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield 0, 1, 2, ... and raise at `fails_at`."""
    for n in range(inputs.get("most", 3)):
        if n == inputs.get("fails_at"):
            raise Broken(f"no chunk {n}")
        yield {"n": n}


async def read(rig: Rig, inputs: Mapping[str, Any], **options: Any) -> list[Reply]:
    """Return every chunk of an answer."""
    async with rig.engine.infer_stream("m", inputs, **options) as chunks:
        return [chunk async for chunk in chunks]


async def on_trial(rig: Rig, **fields: Any) -> str:
    """Put version 2 on trial with all of the traffic."""
    await rig.ready(chunks=counting, **fields)
    rig.add(version="2", chunks=counting, **fields)
    swap_id = rig.engine.start_swap("m", "2", plan=Shift.at_once(confirm_s=1_000.0))
    await settle()
    return swap_id


@pytest.mark.parametrize("execution", EXECUTIONS)
@pytest.mark.parametrize("thread_safe", [True, False])
async def test_chunks_come_one_by_one(autojump_clock: Any, execution: str, thread_safe: bool) -> None:
    """Every chunk is a reply of its version, in order, and nothing is held behind the block."""
    async with open_rig(strict_references=True) as rig:
        await rig.ready(chunks=counting, execution=execution, thread_safe=thread_safe)
        chunks = await read(rig, {"most": 4})
        assert [(c.outputs["n"], c.version, c.fell_back) for c in chunks] == [(n, "1", False) for n in range(4)]
        await settle()
        assert rig.engine.audit().clean
        assert rig.engine.audit().total.acquired == 1


@pytest.mark.parametrize("execution", EXECUTIONS)
async def test_a_model_without_streams_gives_one_chunk(autojump_clock: Any, execution: str) -> None:
    """Without `predict_stream` the whole answer is the one chunk."""
    async with open_rig(strict_references=True) as rig:
        await rig.ready(execution=execution)
        (chunk,) = await read(rig, {"x": 5})
        assert chunk.outputs == {"version": "1", "x": 5}


@pytest.mark.parametrize("execution", EXECUTIONS)
async def test_a_version_is_held_from_the_first_chunk_to_the_end_of_the_block(
    autojump_clock: Any, execution: str
) -> None:
    """A swap in the middle of a stream drains the old version until the stream is over."""
    async with open_rig(strict_references=True) as rig:
        await rig.ready(chunks=counting, execution=execution)
        rig.add(version="2")
        async with rig.engine.infer_stream("m", {}) as chunks:
            assert (await anext(chunks)).version == "1"
            (holder,) = rig.engine.who_holds("m", "1")
            assert holder.kind == "stream"
            swap_id = rig.engine.start_swap("m", "2", drain=Drain(then="wait"))
            await settle()
            assert rig.engine.is_active("m", "2")
            assert [chunk.version async for chunk in chunks] == ["1", "1"]
        assert (await rig.engine.wait_for_swap(swap_id)).old_unloaded


@pytest.mark.parametrize("execution", EXECUTIONS)
async def test_a_block_that_is_left_early_closes_the_models_generator(autojump_clock: Any, execution: str) -> None:
    """Leaving the block in the middle ends the model's own generator and gives the reference back."""
    ended: list[str] = []

    def chunks(_inputs: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
        try:
            yield {"n": 0}
            yield {"n": 1}
        finally:
            ended.append("closed")

    async with open_rig(strict_references=True) as rig:
        await rig.ready(chunks=chunks, execution=execution)
        async with rig.engine.infer_stream("m", {}) as stream:
            await anext(stream)
            assert ended == []
        await settle()
        assert ended == ["closed"]
        assert rig.engine.audit().clean


async def test_a_reader_that_is_cancelled_leaves_at_once(autojump_clock: Any) -> None:
    """The thread that makes a chunk goes on, keeps its version held until it is done, and closes the stream itself."""
    async with open_rig(strict_references=True) as rig:
        await rig.ready(chunks=counting, execution="worker")
        rig.takes("stream m/1", 5.0)
        with trio.move_on_after(1.0):
            await read(rig, {})
        assert trio.current_time() == pytest.approx(1.0)
        assert [holder.kind for holder in rig.engine.who_holds("m", "1")] == ["stream"]
        await trio.sleep(10.0)
        assert rig.engine.audit().clean


@pytest.mark.parametrize("execution", EXECUTIONS)
async def test_a_stream_that_fails_before_its_first_chunk_falls_back(autojump_clock: Any, execution: str) -> None:
    """The old version begins anew, every chunk says so, and it is counted against the new one."""
    async with open_rig(strict_references=True) as rig:
        swap_id = await on_trial(rig, execution=execution)
        rig.script("m", "2").chunks = lambda _inputs: counting({"fails_at": 0})
        chunks = await read(rig, {"most": 2})
        assert [(c.outputs["n"], c.version, c.fell_back) for c in chunks] == [(0, "1", True), (1, "1", True)]
        assert rig.engine.swap_status(swap_id).fallbacks == 1
        await settle()
        assert rig.engine.audit().clean


@pytest.mark.parametrize("execution", EXECUTIONS)
async def test_a_stream_that_fails_later_does_not_fall_back(autojump_clock: Any, execution: str) -> None:
    """After the first chunk the error reaches the reader: another version's chunks would not fit."""
    async with open_rig(strict_references=True) as rig:
        swap_id = await on_trial(rig, execution=execution)
        async with rig.engine.infer_stream("m", {"fails_at": 1}) as chunks:
            assert (await anext(chunks)).outputs["n"] == 0
            with pytest.raises(PredictFailed, match="no chunk 1"):
                await anext(chunks)
        assert rig.engine.swap_status(swap_id).fallbacks == 0
        await settle()
        assert rig.engine.audit().clean


@pytest.mark.parametrize("execution", EXECUTIONS)
async def test_where_both_versions_fail_the_new_ones_error_is_raised(autojump_clock: Any, execution: str) -> None:
    """The reader sees what the picked version did, with a note of the other try."""
    async with open_rig(strict_references=True) as rig:
        await on_trial(rig, execution=execution)
        with pytest.raises(PredictFailed, match="m/2") as caught:
            await read(rig, {"fails_at": 0})
        assert any("the version before it was asked, too" in note for note in caught.value.__notes__)
        await settle()
        assert rig.engine.audit().clean


async def test_a_version_asked_for_by_name_does_not_fall_back(autojump_clock: Any) -> None:
    """Who names a version gets that one, or its error."""
    async with open_rig(strict_references=True) as rig:
        await on_trial(rig)
        with pytest.raises(PredictFailed, match="m/2"):
            await read(rig, {"fails_at": 0}, version="2")


async def test_bad_input_does_not_reach_a_model(autojump_clock: Any) -> None:
    """Inputs are checked before anything is pulled, and nothing is held."""
    async with open_rig(strict_references=True) as rig:
        await rig.ready(chunks=counting, signature=BATCHED)
        with pytest.raises(InvalidInput):
            await read(rig, {"wrong": 1})
        with pytest.raises(ModelNotRegistered):
            async with rig.engine.infer_stream("nobody", {}):
                raise AssertionError("nothing was pinned")


async def test_a_chunk_that_is_no_mapping_is_the_models_error(autojump_clock: Any) -> None:
    """The error names the version and what it yielded."""
    async with open_rig(strict_references=True) as rig:
        await rig.ready(chunks=lambda _inputs: iter([5]))
        with pytest.raises(PredictFailed, match="m/1 raised TypeError: a chunk of type int"):
            await read(rig, {})


async def test_a_fatal_error_in_a_stream_is_a_crash(autojump_clock: Any) -> None:
    """The reader is told, and the version is started again."""

    def chunks(_inputs: Mapping[str, Any]) -> Iterator[Any]:
        raise FatalModelError("beyond use")
        yield

    async with open_rig(strict_references=True) as rig:
        await rig.ready(chunks=chunks)
        with pytest.raises(VersionCrashed):
            await read(rig, {})
        await trio.sleep(5.0)
        assert rig.engine.is_loaded("m", "1")
        assert len(rig.cast.of("m", "1")) == 2


async def test_a_stream_is_read_inside_its_block(autojump_clock: Any) -> None:
    """Outside of it nothing is held, and reading raises or is over."""
    async with open_rig(strict_references=True) as rig:
        await rig.ready(chunks=counting)
        stream = rig.engine.infer_stream("m", {})
        with pytest.raises(ReferenceNotHeld, match="inside its block"):
            await anext(stream)
        async with stream:
            pass
        with pytest.raises(StopAsyncIteration):
            await anext(stream)
