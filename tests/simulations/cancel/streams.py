"""The scenes of those who read: the chunks of a stream, and the events. They leave nothing behind."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import trio

from changeover import Drain, Event, Shift
from changeover.errors import LeaseRevoked
from tests.simulations.cancel.requests import a_swap, whatever_is_there
from tests.simulations.cancel.scene import TWO, WORKER, Play, Scene, evict, later
from tests.simulations.cancel.watch import Block, Watch
from tests.simulations.first_use.stage import Stage, inputs

# --- a stream ---------------------------------------------------------------------------------------------------------


def three(asked: Mapping[str, Any]) -> Iterator[Any]:
    """Give what was asked in three chunks."""
    for _ in range(3):
        yield {"y": asked["x"][:, 0]}


def broken(asked: Mapping[str, Any]) -> Iterator[Any]:
    """Fail before the first chunk."""
    raise RuntimeError("cannot answer that")
    yield


async def in_chunks(stage: Stage) -> None:
    """Let both versions answer in chunks, by a thread of its own each."""
    for version in "12":
        stage.rig.script("m", version).chunks = three
        stage.rig.script("m", version).thread_safe = False
        stage.rig.takes(f"stream m/{version}", 0.5)


async def in_chunks_at_once(stage: Stage) -> None:
    """Let both versions answer in chunks, in the thread of the caller."""
    for version in "12":
        stage.rig.script("m", version).chunks = three


async def new_one_broken(stage: Stage) -> None:
    """Let the new version fail before its first chunk."""
    await in_chunks(stage)
    stage.rig.script("m", "2").chunks = broken


async def _enter_stream(stage: Stage, here: Watch) -> None:
    async with Block(stage.engine.infer_stream("m", inputs(1)), here, "__aenter__") as chunks:
        assert (await chunks.__anext__()).version == "1"


async def _enter_stream_of_what_was_evicted(stage: Stage, here: Watch) -> None:
    await evict(stage)
    stage.rig.takes("load m/1", 0.5)
    await _enter_stream(stage, here)


async def _read_chunk(stage: Stage, here: Watch, before: int = 0) -> None:
    async with stage.engine.infer_stream("m", inputs(1)) as chunks:
        for _ in range(before):
            await chunks.__anext__()
        try:
            await here(chunks.__anext__())
        except trio.Cancelled:
            with trio.CancelScope(shield=True):
                rest = [chunk async for chunk in chunks]
            # Cancelled before its chunk was asked for, it goes on where it was; later it has ended, and skips nothing.
            assert len(rest) in (0, 3 - before), f"{len(rest)} chunks came behind the end"
            raise


async def _read_second_chunk(stage: Stage, here: Watch) -> None:
    await _read_chunk(stage, here, 1)


async def _read_behind_the_last(stage: Stage, here: Watch) -> None:
    try:
        await _read_chunk(stage, here, 3)
    except StopAsyncIteration:
        return
    raise AssertionError("there are more")


async def _read_chunk_on_trial(stage: Stage, here: Watch) -> None:
    swap_id = stage.engine.start_swap("m", "2", plan=Shift.at_once(confirm_s=5.0, guard=None))
    await trio.sleep(0.25)
    assert stage.engine.swap_status(swap_id).share == 1.0
    async with stage.engine.infer_stream("m", inputs(1)) as chunks:
        reply = await here(chunks.__anext__())
        assert (reply.version, reply.fell_back) == ("1", True)


async def _read_chunk_of_what_is_drained(stage: Stage, here: Watch) -> None:
    async with stage.engine.infer_stream("m", inputs(1)) as chunks:
        later(stage, 0.25, lambda: stage.engine.swap("m", "2", drain=Drain(0.0, "cancel", 5.0)), "swap")
        try:
            await here(chunks.__anext__())
        except LeaseRevoked:
            return
        raise AssertionError("it was not revoked")


async def _leave_stream(stage: Stage, here: Watch) -> None:
    async with Block(stage.engine.infer_stream("m", inputs(1)), here, "__aexit__") as chunks:
        await chunks.__anext__()


async def _leave_chunk(stage: Stage, here: Watch) -> None:
    async with Block(stage.engine.infer_stream("m", inputs(1)), here, "__aexit__") as chunks:
        with trio.move_on_after(0.25):
            await chunks.__anext__()


# --- events -----------------------------------------------------------------------------------------------------------


async def _enter_events(stage: Stage, here: Watch) -> None:
    async with Block(stage.engine.events(), here, "__aenter__"):
        stage.add("3")


async def _leave_events(stage: Stage, here: Watch) -> None:
    async with Block(stage.engine.events(), here, "__aexit__"):
        stage.add("3")


async def _read_event(stage: Stage, here: Watch) -> None:
    async with stage.engine.events() as events:

        async def register() -> None:
            stage.add("3")

        later(stage, 0.25, register)
        try:
            event = await here(events.__anext__())
        except trio.Cancelled:
            with trio.CancelScope(shield=True):
                _check(await events.__anext__())  # it is not lost
            raise
        _check(event)


def _check(event: object) -> None:
    """See that it is the first event that there was."""
    assert isinstance(event, Event)
    assert (event.kind, event.version) == ("version_registered", "3")


STREAMS: Mapping[str, Mapping[str, Play]] = {
    "Chunks.__aenter__": {
        "at once": Scene(_enter_stream, ready=in_chunks_at_once, pause="yields"),
        "of what was evicted": Scene(_enter_stream_of_what_was_evicted, whatever_is_there, engine=TWO),
    },
    "Chunks.__anext__": {
        "inline": Scene(_read_chunk, ready=in_chunks_at_once, pause="yields"),
        "the first": Scene(_read_chunk, ready=in_chunks),
        "the second": Scene(_read_second_chunk, ready=in_chunks, versions=WORKER),
        "behind the last": Scene(_read_behind_the_last, ready=in_chunks),
        "with a fallback": Scene(_read_chunk_on_trial, a_swap, ready=new_one_broken),
        "of what is drained": Scene(_read_chunk_of_what_is_drained, a_swap, ready=in_chunks),
    },
    "Chunks.__aexit__": {
        "at rest": Scene(_leave_stream, ready=in_chunks, pause="never"),
        "while a chunk is made": Scene(_leave_chunk, ready=in_chunks, pause="never"),
    },
    "Events.__aenter__": {"alone": Scene(_enter_events, pause="yields")},
    "Events.__anext__": {"before there is one": Scene(_read_event)},
    "Events.__aexit__": {"alone": Scene(_leave_events, pause="never")},
}
