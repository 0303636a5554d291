"""An evicted version is waited for on every face: requests, streams and leases with `async with`; time limits hold."""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import Any

import pytest

import changeover.threads
from changeover.errors import ChangeoverError, Evicted, NotReady, RequestTimeout
from tests.support.faces import ALL, Face, done, entered
from tests.support.models import Cast

every_face = pytest.mark.parametrize("face", ALL, ids=lambda face: face.name)


class Gate:
    """A place where the second load of a model waits, where it is told to."""

    def __init__(self) -> None:
        self.loads = 0
        self.opened = threading.Event()
        self.opened.set()

    def on_load(self) -> None:
        self.loads += 1
        assert self.opened.wait(30), "nobody opens the gate"


async def evict(engine: Any, cast: Cast, gate: Gate) -> None:
    """Register and load a and b, which do not fit beside each other: afterwards a is evicted."""
    cast.script("a", "1").on_load = gate.on_load
    for model in "ab":
        cast.script(model, "1").memory = 40
        engine.register(model, "1", "script", loader="scripted", memory_hint_bytes=40)
        await done(engine.load(model, "1"))
    assert engine.load_info("a", "1").status.value == "evicted"


@every_face
def test_all_that_can_wait_for_an_evicted_version_does(face: Face) -> None:
    """A request is answered, a stream read and an async lease held by a version that had to be loaded again."""

    async def scenario(face: Face) -> None:
        cast, gate = Cast(), Gate()
        async with face.opened(cast, memory_budget_bytes=60) as engine:
            await evict(engine, cast, gate)
            assert (await done(engine.infer("a", {"n": 1}))).version == "1"
            assert (await done(engine.infer("b", {"n": 1}, timeout_s=30.0))).version == "1"
            async with entered(engine.infer_stream("a", {"n": 1})) as chunks:
                assert [reply.version async for reply in each(chunks)] == ["1"]
            await done(engine.infer("b", {}))
            if face.name != "threads":
                async with engine.lease("a", wait_s=30.0) as lease:
                    assert lease.version == "1"
            assert gate.loads == (4 if face.name != "threads" else 3)
            assert engine.audit().clean

    face.play(scenario)


@every_face
def test_a_request_waits_no_longer_than_it_wants(face: Face) -> None:
    """Out of time before the version is back, it raises `RequestTimeout` and holds nothing; the next is answered."""

    async def scenario(face: Face) -> None:
        cast, gate = Cast(), Gate()
        async with face.opened(cast, memory_budget_bytes=60) as engine:
            await evict(engine, cast, gate)
            gate.opened.clear()
            with pytest.raises(RequestTimeout, match="a was not loaded again within"):
                await done(engine.infer("a", {}, timeout_s=0.05))
            gate.opened.set()
            assert engine.references.count("a", "1") == 0
            assert (await done(engine.infer("a", {}))).version == "1"

    face.play(scenario)


@every_face
def test_a_synchronous_lease_never_waits(face: Face) -> None:
    """It raises `Evicted`, a `NotReady`, until the reload that it has ordered is done."""

    async def scenario(face: Face) -> None:
        cast, gate = Cast(), Gate()
        async with face.opened(cast, memory_budget_bytes=60) as engine:
            await evict(engine, cast, gate)
            with pytest.raises(Evicted):
                engine.lease("a").__enter__()
            with suppress(NotReady):
                await done(engine.ensure_loaded("a", "1"))
            with engine.lease("a") as lease:
                assert lease.version == "1"
            assert gate.loads == 2

    face.play(scenario)


async def each(chunks: Any) -> Any:
    """Yield from an iterator of either kind."""
    if hasattr(chunks, "__aiter__"):
        async for chunk in chunks:
            yield chunk
    else:
        for chunk in chunks:
            yield chunk


def test_what_a_set_has_run_is_told_in_threads_as_on_loops() -> None:
    """Where an evicted member does not come back the error says that the set may have run."""

    def begin() -> None:
        raise Evicted("m/1 was evicted", model="m", version="1", ran="unknown")

    with changeover.threads.open_engine() as engine, pytest.raises(ChangeoverError) as caught:
        engine._begun(begin, None, None)
    assert (type(caught.value) is Evicted, caught.value.ran) == (False, "unknown")
