"""Whoever is waited for in vain is named: holder, kind, age, thread, and in debug mode the file and the line."""

from __future__ import annotations

import inspect
import threading
from typing import Any

import pytest

from changeover import Drain, DrainOutcome, Holder
from changeover.errors import DrainTimeout
from tests.engine.uses.stage import WORKER, Seen, Stage, Way, chunks_of, play
from tests.engine.uses.worlds import WORLDS, World
from tests.support.faces import done

every_world = pytest.mark.parametrize("world", WORLDS, ids=lambda world: world.name)
either_mode = pytest.mark.parametrize("debug", [False, True], ids=["plain", "debug"])


def here() -> str:
    """Return the caller's own file and line, as they are written in an account."""
    frame = inspect.stack()[1]
    return f"{frame.filename}:{frame.lineno}"


@every_world
@either_mode
def test_a_drain_names_whom_it_waited_for(world: type[World], debug: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """`DrainOutcome` and `DrainTimeout` have the same holders, oldest first, and the error's text names each."""
    told: list[DrainTimeout | DrainOutcome] = []
    lines: list[str] = []

    async def act(stage: Stage) -> None:
        engine, gate = stage.engine, stage.hang()
        lease = engine.lease("m").__enter__(); lines.append(here())  # fmt: skip  # noqa: E702 - one line
        stage.advance(1.0)
        engine.references.acquire("m", "1", "mine"); lines.append(here())  # fmt: skip  # noqa: E702 - the same
        stage.advance(1.0)
        running = stage.world.spawn(stage.infer())
        await stage.world.until(gate.began.is_set)
        stage.advance(1.0)
        with pytest.raises(DrainTimeout) as caught:
            await done(engine.wait_for_drain("m", "1", 0.0))
        told.append(caught.value)
        told.append((await stage.world.end(stage.unload(Drain(0.0)))).value)
        stage.sees(Seen("lease", 3.0), Seen("request", 2.0, name="mine"), Seen("request", 1.0, WORKER))
        lease.release()
        engine.references.release("m", "1", "mine")
        gate.go.set()
        await stage.world.end(running)
        await stage.until_held(0)

    play(Way(act, WORLDS, {}, {"execution": "worker"}), world(), debug=debug, monkeypatch=monkeypatch)
    timeout, outcome = told
    assert isinstance(outcome, DrainOutcome)
    assert (outcome.result, outcome.holders) == ("quarantined", timeout.holders)
    assert [(holder.kind, holder.age_s) for holder in outcome.holders] == [
        ("lease", 3.0), ("request", 2.0), ("request", 1.0),
    ]  # fmt: skip
    assert outcome.holders[1].holder == "mine"
    assert outcome.holders[2].thread == WORKER
    assert all(str(holder) in str(timeout) for holder in outcome.holders)
    me = "scenario" if world.name == "threads" else threading.main_thread().name
    assert [holder.thread for holder in outcome.holders[:2]] == ([me, me] if debug else [None, None])
    assert [holder.where for holder in outcome.holders[:2]] == (lines if debug else [None, None])


@every_world
@either_mode
def test_the_thread_of_a_chunk_is_named(world: type[World], debug: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream has a thread while a chunk is made, and in debug mode else the one that opened it."""
    seen: list[Holder] = []

    async def act(stage: Stage) -> None:
        gate = stage.gate()
        use = stage.world.spawn(stage.reader(at=1, gate=gate))
        await stage.world.until(gate.began.is_set)
        seen.extend(stage.engine.who_holds("m", "1"))
        gate.go.set()
        await stage.world.end(use)

    way = Way(act, WORLDS, {"chunks": chunks_of}, {"execution": "worker"})
    play(way, world(), debug=debug, monkeypatch=monkeypatch)
    (holder,) = seen
    assert (holder.kind, holder.thread) == ("stream", "stream m/1")
    assert ("in thread stream m/1" in str(holder), "taken at" in str(holder)) == (True, debug)


def pinned(use: Any) -> str:
    """Return the version that a chunk came from."""
    return str(use.version)


@every_world
@either_mode
def test_a_stream_keeps_its_version_through_a_swap(
    world: type[World], debug: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the first chunk to the last one version answers, also where another has all of the traffic by then."""

    async def act(stage: Stage) -> None:
        engine = stage.engine
        stage.cast.script("m", "2").chunks = chunks_of(stage)
        engine.register("m", "2", "s", loader="scripted", execution="worker")
        stream = engine.infer_stream("m", {"most": 6})
        chunks = await done(stream.__aenter__() if hasattr(stream, "__aenter__") else stream.__enter__())
        assert pinned(await stage.next(chunks)) == "1"
        swap_id = engine.start_swap("m", "2", drain=Drain(then="wait"))
        await stage.world.until(lambda: engine.is_active("m", "2"))
        for _ in range(5):
            assert pinned(await stage.next(chunks)) == "1"
            stage.advance(100.0)
        stage.sees(Seen("stream", 500.0))
        assert [made.closed for made in stage.cast.made] == [0, 0]
        assert await stage.next(chunks) is None
        await done(stream.__aexit__(None, None, None) if hasattr(stream, "__aexit__") else stream.__exit__(*[None] * 3))
        assert (await done(engine.wait_for_swap(swap_id))).old_unloaded
        assert [made.closed for made in stage.cast.made] == [1, 0]

    way = Way(act, WORLDS, {"chunks": chunks_of}, {"execution": "worker"})
    play(way, world(), debug=debug, monkeypatch=monkeypatch)
