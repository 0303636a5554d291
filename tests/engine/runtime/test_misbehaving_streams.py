"""Models that misbehave in a stream: its reader hears of it, and the version is given back."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import trio

from changeover.errors import (
    PredictFailed,
)
from tests.support.misbehaviour import (
    ERRORS,
    FEW,
    Plain,
    goes_on,
    loads,
    name_of,
    throw,
)
from tests.support.rig import Rig, settle

EXECUTIONS = ["inline", "worker"]


async def coroutine() -> dict[str, int]:
    """Be what an async function returns."""
    return {}


def at_once(make: Callable[[], Any]) -> Callable[[Any], Any]:
    """Return a `predict_stream` that raises before its first chunk."""
    return lambda _inputs: throw(make())


def in_the_middle(make: Callable[[], Any]) -> Callable[[Any], Iterator[Any]]:
    """Return a `predict_stream` that raises after its first chunk."""

    def chunks(_inputs: Any) -> Iterator[Any]:
        yield {"n": 0}
        throw(make())

    return chunks


def at_the_end(make: Callable[[], Any]) -> Callable[[Any], Iterator[Any]]:
    """Return a `predict_stream` that never ends, and raises where it is closed."""

    def chunks(_inputs: Any) -> Iterator[Any]:
        try:
            while True:
                yield {"n": 0}
        finally:
            throw(make())

    return chunks


def stubborn(_inputs: Any) -> Iterator[Any]:
    """Never end, and not when closed either."""
    try:
        while True:
            yield {"n": 0}
    finally:
        yield {"n": 1}


async def read(rig: Rig, most: int = 3) -> list[Any]:
    """Read a stream of m, so many chunks at most, and not for ever."""
    seen = list[Any]()
    with trio.fail_after(100.0):
        async with rig.engine.infer_stream("m", {}) as chunks:
            async for chunk in chunks:
                seen.append(chunk.outputs)
                if len(seen) == most:
                    break
    return seen


@pytest.mark.parametrize("execution", EXECUTIONS)
@pytest.mark.parametrize("when", [at_once, in_the_middle], ids=["at once", "in the middle"])
@pytest.mark.parametrize("make", ERRORS, ids=name_of)
async def test_what_a_stream_raises_is_its_readers_failure(
    rig: Rig, make: Callable[[], Any], when: Any, execution: str, autojump_clock: Any
) -> None:
    """The reader hears version and kind; nothing is held, and the next stream is read to its end."""
    await rig.ready("other", "1", execution="worker")
    await rig.ready(chunks=when(make), execution=execution)
    with pytest.raises(PredictFailed) as caught:
        await read(rig)
    named = name_of(make) if not isinstance(make(), StopIteration) or when is in_the_middle else ""
    assert all(text in str(caught.value) for text in ("m/1", named))
    await settle()
    rig.script().chunks = lambda _inputs: iter([{"n": 1}])
    assert await read(rig) == [{"n": 1}]
    await settle()
    await goes_on(rig)


WRONG: list[tuple[str, Any]] = [
    ("NoneType", lambda _: None),
    ("int", lambda _: 5),
    ("coroutine", lambda _: coroutine()),
    ("a chunk of type list", lambda _: iter([[1]])),
    ("a chunk of type NoneType", lambda _: iter([None])),
    ("a chunk of type str", lambda _: {"n": 1}),
]


@pytest.mark.parametrize("execution", EXECUTIONS)
@pytest.mark.parametrize(("says", "chunks"), WRONG, ids=[says for says, _ in WRONG])
async def test_a_stream_of_another_kind_is_a_failure(
    rig: Rig, says: str, chunks: Any, execution: str, autojump_clock: Any
) -> None:
    """What yields no mappings is refused by its type, and leaves no warning behind when it is dropped."""
    made = Plain(predict_stream=chunks)
    rig.engine._host.loaders.add("wrong", loads(lambda: made))
    rig.engine.register("m", "1", "nowhere", loader="wrong", execution=execution)
    await rig.engine.load("m", "1")
    with pytest.raises(PredictFailed, match=f"m/1 .*{says}"):
        await read(rig)
    gc.collect()
    await settle()
    assert rig.engine.audit().clean


async def test_a_list_of_chunks_is_a_stream(rig: Rig, autojump_clock: Any) -> None:
    """Whatever can be gone through will do: chunks that are all there at once are read one by one."""
    await rig.ready(chunks=lambda _: [{"n": 1}, {"n": 2}])
    assert await read(rig) == [{"n": 1}, {"n": 2}]


ENDLESS = [*(pytest.param(at_the_end(make), id=name_of(make)) for make in FEW), pytest.param(stubborn, id="stubborn")]


@pytest.mark.parametrize("execution", EXECUTIONS)
@pytest.mark.parametrize("chunks", ENDLESS)
async def test_a_stream_without_an_end_ends_with_its_block(
    rig: Rig, chunks: Any, execution: str, autojump_clock: Any
) -> None:
    """Who has read enough leaves, and hears nothing of how the model takes that; its own error comes out as it is."""
    await rig.ready("other", "1", execution="worker")
    await rig.ready(chunks=chunks, execution=execution)
    with pytest.raises(ZeroDivisionError):  # noqa: PT012 - the block is what is tested
        async with rig.engine.infer_stream("m", {}) as stream:
            async for _ in stream:
                raise ZeroDivisionError
    await settle()
    assert rig.engine.audit().clean
    assert await read(rig) == [{"n": 0}] * 3
    await settle()
    await goes_on(rig)
