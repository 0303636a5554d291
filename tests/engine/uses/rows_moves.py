"""Rows of the matrix: uses that wait for a version which goes, and move to the one that takes requests now."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from changeover import Batching
from changeover.errors import RequestTimeout, VersionCrashed
from changeover.plugin import FatalModelError
from tests.engine.uses.rows_crashes import FATAL, crash, restart
from tests.engine.uses.rows_drains import CANCEL
from tests.engine.uses.rows_requests import WITH_TIME
from tests.engine.uses.stage import WORKER, Gate, Seen, Stage, Ways, chunks_of
from tests.engine.uses.worlds import OnAsyncio, Use
from tests.support.faces import done, entered
from tests.support.models import BATCHED

MOVES = Ways()
OTHER_WORKER = WORKER.replace("/1", "/2")


async def other(stage: Stage) -> None:
    """Have version 2 stand ready."""
    stage.cast.script("m", "2").chunks = chunks_of(stage)
    stage.engine.register("m", "2", "s", loader="scripted", execution="worker")
    await done(stage.engine.load("m", "2"))


async def killing(stage: Stage) -> tuple[Gate, Use]:
    """Have the worker of version 1 be at the request that ends it when it goes on."""
    gate = stage.hang("poison")
    use = stage.world.spawn(stage.infer(poison=1))
    await stage.world.until(gate.began.is_set)
    return gate, use


async def queued(stage: Stage, *numbers: int, timeout_s: float | None = None, cancellable: bool = False) -> list[Use]:
    """Queue requests, one after the other."""
    uses: list[Use] = []
    for n in numbers:
        held = stage.engine.references.count("m", "1")
        uses.append(stage.world.spawn(stage.infer(timeout_s=timeout_s, n=n), cancellable=cancellable))
        await stage.until_held(held + 1)
    return uses


async def is_killed(stage: Stage, killer: Use, *, restarted: bool = False) -> None:
    """The request that ended version 1 hears that it ran; the version is started again, and takes no traffic back."""
    await stage.world.end(killer)
    assert isinstance(killer.error, VersionCrashed)
    assert killer.error.ran == "yes"
    if not restarted:
        await restart(stage)
    await stage.world.until(lambda: bool(stage.engine.is_loaded("m", "1")))
    assert stage.engine.is_active("m", "2")


@MOVES.row(script=FATAL, execution="worker")
async def requests_move_out_of_the_queue_of_a_version_that_crashes(stage: Stage) -> None:
    """They run once, on the other version; asyncio, which wakes who waits in order, keeps theirs."""
    await other(stage)
    gate, killer = await killing(stage)
    uses = await queued(stage, 1, 2, 3)
    stage.sees(Seen("request", 0.0, WORKER), *[Seen("request")] * 3)
    gate.go.set()
    for use in uses:
        await stage.world.end(use)
    assert [use.value.version for use in uses] == ["2"] * 3
    numbers = [call["n"] for call in stage.cast.of("m", "2")[0].calls]
    assert (numbers if isinstance(stage.world, OnAsyncio) else sorted(numbers)) == [1, 2, 3]
    stage.sees()
    stage.sees(version="2")
    await is_killed(stage, killer)


@MOVES.row(execution="worker")
async def requests_move_out_of_a_queue_that_is_revoked(stage: Stage) -> None:
    """A drain out of time sends them where the traffic went; the one whose thread runs is waited for."""
    await other(stage)
    gate = stage.hang("slow")
    running = stage.world.spawn(stage.infer(slow=1))
    await stage.world.until(gate.began.is_set)
    uses = await queued(stage, 1, 2)
    drain = stage.unload(CANCEL)
    await stage.timer()
    stage.advance(5.0)
    for use in uses:
        assert (await stage.world.end(use)).value.version == "2"
    stage.sees(Seen("request", 5.0, WORKER))
    stage.sees(version="2")
    gate.go.set()
    assert (await stage.world.end(running)).value.version == "1"
    assert (await stage.world.end(drain)).value.result == "drained"


@MOVES.row(WITH_TIME, script=FATAL, execution="worker")
async def a_request_that_has_moved_is_out_of_time(stage: Stage) -> None:
    """Its time goes on from where it was; the thread that it came to keeps the reference."""
    await other(stage)
    slow = stage.hang(version="2")
    gate, killer = await killing(stage)
    (use,) = await queued(stage, 1, timeout_s=5.0)
    stage.advance(3.0)
    gate.go.set()
    await stage.world.until(slow.began.is_set)
    await stage.timer()
    stage.advance(2.0)
    await stage.world.end(use)
    assert isinstance(use.error, RequestTimeout)
    assert (use.error.version, use.error.ran) == ("2", "unknown")
    stage.sees()
    stage.sees(Seen("request", 2.0, OTHER_WORKER), version="2")
    slow.go.set()
    await done(stage.engine.wait_for_drain("m", "2", 30.0))
    await is_killed(stage, killer, restarted=True)


@MOVES.row(script=FATAL, execution="worker")
async def a_request_that_has_moved_is_cancelled(stage: Stage) -> None:
    """In the queue that it came to: it never runs, and holds neither version."""
    await other(stage)
    slow = stage.hang("slow", version="2")
    gate, killer = await killing(stage)

    async def ask_the_other() -> None:
        await done(stage.engine.infer("m", {"slow": 1}, version="2"))

    running = stage.world.spawn(ask_the_other)
    await stage.world.until(slow.began.is_set)
    (use,) = await queued(stage, 1, cancellable=True)
    gate.go.set()
    await stage.world.until(lambda: stage.engine.references.count("m", "2") == 2)
    await stage.world.cancel(use)
    assert isinstance(use.error, stage.world.cancelled)
    stage.sees()
    stage.sees(Seen("request", 0.0, OTHER_WORKER), version="2")
    slow.go.set()
    assert (await stage.world.end(running)).error is None
    assert [call for call in stage.cast.of("m", "2")[0].calls if "n" in call] == []
    await is_killed(stage, killer)


@MOVES.row(script=FATAL, execution="worker")
async def a_request_stays_with_the_version_that_it_named(stage: Stage) -> None:
    """It is told that it never ran, whoever else could answer."""
    await other(stage)
    gate, killer = await killing(stage)

    async def ask_by_name() -> None:
        await done(stage.engine.infer("m", {"n": 1}, version="1"))

    use = stage.world.spawn(ask_by_name)
    await stage.until_held(2)
    gate.go.set()
    await stage.world.end(use)
    assert isinstance(use.error, VersionCrashed)
    assert use.error.ran == "no"
    stage.sees(version="2")
    await is_killed(stage, killer)


async def ends_meanwhile(stage: Stage, inputs: Mapping[str, Any]) -> None:
    """Have two requests come to a model whose turn somebody else has, who then ends it: it is not called any more."""
    await other(stage)
    (loaded,) = (loaded for loaded in stage.engine._host.living() if loaded.key.version == "1")
    assert loaded.take_turn()
    uses = [stage.world.spawn(stage.infer(**inputs)) for _ in range(2)]
    await stage.until_held(2)
    await stage.world.until(lambda: bool(loaded.account.running()))
    loaded._crash(FatalModelError("whoever has the turn has ended it"))
    loaded.end_turn()
    for use in uses:
        assert (await stage.world.end(use)).value.version == "2"
    stage.sees()
    assert stage.cast.of("m", "1")[0].calls == []
    await restart(stage)


@MOVES.row(script={"thread_safe": False}, execution="worker")
async def a_thread_waits_for_a_model_that_is_then_beyond_use(stage: Stage) -> None:
    """A worker that waits for its turn has not begun."""
    await ends_meanwhile(stage, {"n": 1})


@MOVES.row(script={"thread_safe": False, "signature": BATCHED}, execution="worker", batching=Batching(2, 1_000.0))
async def a_batch_waits_for_a_model_that_is_then_beyond_use(stage: Stage) -> None:
    """Nor has anybody in its batch."""
    await ends_meanwhile(stage, {"x": np.zeros((1, 2))})


async def a_stream_moves_that_was_not_begun(stage: Stage) -> None:
    """Opened before its version crashed, read after it: the other version makes every chunk, and is held for it."""
    await other(stage)
    async with entered(stage.engine.infer_stream("m", {})) as chunks:
        await crash(stage)
        stage.sees(Seen("stream"))
        for n in range(3):
            chunk = await stage.next(chunks)
            assert chunk is not None and (chunk.version, chunk.outputs) == ("2", {"n": n})  # noqa: PT018 - one fact
            stage.sees()
            stage.sees(Seen("stream"), version="2")
        assert await stage.next(chunks) is None
    await done(stage.engine.wait_for_drain("m", "2", 30.0))
    await restart(stage)


MOVES.row(script=FATAL, execution="worker")(a_stream_moves_that_was_not_begun)
MOVES.row(script=FATAL, execution="inline")(a_stream_moves_that_was_not_begun)


@MOVES.row(script=FATAL, execution="worker")
async def a_stream_moves_that_was_not_begun_when_it_was_revoked(stage: Stage) -> None:
    """A drain out of time sends it where the traffic went."""
    await other(stage)
    async with entered(stage.engine.infer_stream("m", {})) as chunks:
        drain = stage.unload(CANCEL)
        await stage.timer()
        stage.advance(5.0)
        await stage.timer()
        chunk = await stage.next(chunks)
        assert chunk is not None and chunk.version == "2"  # noqa: PT018 - one fact
        assert (await stage.world.end(drain)).value.result == "drained"
    await done(stage.engine.wait_for_drain("m", "2", 30.0))
