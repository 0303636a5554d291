"""Calls from asyncio that wait: their cancellation, the engine's end under them, and its crash."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
from pathlib import Path
from typing import Any

import pytest
import uvloop

import changeover.aio
from changeover import VersionState
from changeover.errors import EngineClosed, EngineFailed, LoadCancelled, LoadFailed, VersionCrashed
from tests.support.faces import ON_ASYNCIO, Face, crash
from tests.support.models import Cast
from tests.support.threads import patient

on_asyncio = pytest.mark.parametrize("face", ON_ASYNCIO, ids=lambda face: face.name)


class Hanging:
    """Something in a model that hangs until the test lets it go."""

    def __init__(self) -> None:
        self.began = threading.Event()
        self.go = threading.Event()

    def __call__(self, *_inputs: Any) -> None:
        self.began.set()
        assert patient(self.go)

    async def has_begun(self) -> None:
        """Return when something hangs."""
        await asyncio.to_thread(patient, self.began)


async def ended(task: asyncio.Task[Any]) -> str:
    """Return how a task ended: a result, or the name of what it raised; the test's own task must be as it was."""
    (outcome,) = await asyncio.gather(task, return_exceptions=True)
    me = asyncio.current_task()
    assert me is not None
    assert me.cancelling() == 0
    return type(outcome).__name__ if isinstance(outcome, BaseException) else repr(outcome)


async def turns(count: int = 5) -> None:
    """Let the loop turn a few times."""
    loop = asyncio.get_running_loop()
    for _ in range(count):
        turned = loop.create_future()
        loop.call_soon(turned.set_result, None)
        await turned


@on_asyncio
def test_a_cancelled_load_is_called_off(face: Face) -> None:
    """When a cancelled `load` has returned, the load was called off, because nobody else waits for it."""

    async def scenario(face: Face) -> None:
        cast, hanging = Cast(), Hanging()
        cast.script("m", "1").on_load = hanging
        async with face.opened(cast) as engine:
            engine.register("m", "1", "s", loader="scripted")
            load = asyncio.ensure_future(engine.load("m", "1"))
            await hanging.has_begun()
            load.cancel()
            assert await ended(load) == "CancelledError"
            while engine.load_info("m", "1").status is VersionState.LOADING:  # its actor has the order in its mailbox
                await turns()
            assert "called off" in engine.load_info("m", "1").error
            hanging.go.set()

    face.play(scenario)


@on_asyncio
def test_another_waiter_keeps_the_load(face: Face) -> None:
    """A cancelled `load` leaves alone what somebody else waits for."""

    async def scenario(face: Face) -> None:
        cast, hanging = Cast(), Hanging()
        cast.script("m", "1").on_load = hanging
        async with face.opened(cast) as engine:
            engine.register("m", "1", "s", loader="scripted")
            first, second = (asyncio.ensure_future(engine.load("m", "1")) for _ in range(2))
            await hanging.has_begun()
            first.cancel()
            assert await ended(first) == "CancelledError"
            hanging.go.set()
            assert await ended(second) == "None"

    face.play(scenario)


@on_asyncio
def test_cancelled_before_it_was_sent(face: Face) -> None:
    """A call that is cancelled before its first step, or at once after it, does nothing and hangs nowhere."""

    async def scenario(face: Face) -> None:
        cast = Cast()
        async with face.opened(cast) as engine:
            engine.register("m", "1", "s", loader="scripted")
            for wait in range(4):
                load = asyncio.ensure_future(engine.load("m", "1"))
                await turns(wait)
                load.cancel()
                assert await ended(load) in ("CancelledError", "None")
                assert asyncio.all_tasks() == {asyncio.current_task()} or face.name.startswith("anyio")
                if engine.is_loaded("m", "1"):
                    await engine.unload("m", "1", force=True)

    face.play(scenario)


@on_asyncio
def test_cancelled_twice_leaves_at_once(face: Face) -> None:
    """A second cancellation does not wait for the call's end, and nobody complains of an answer that is not taken."""

    async def scenario(face: Face) -> None:
        complaints: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda _loop, context: complaints.append(context))
        stuck = threading.Event()
        async with face.opened() as engine:
            engine.register("m", "1", "s", loader="scripted")
            load = asyncio.ensure_future(engine.load("m", "1"))
            await turns(1)
            engine._seat._token.run_sync_soon(patient, stuck)  # the engine's loop stands still
            load.cancel()
            await turns()
            assert not load.done() or load.cancelled()
            load.cancel()
            assert await ended(load) == "CancelledError"
            stuck.set()
        await turns()
        assert complaints == []

    face.play(scenario)


@on_asyncio
def test_a_time_limit_of_asyncio_works(face: Face) -> None:
    """A call that waits lets the loop go on, and obeys the time limits of asyncio, whatever it was waiting for."""

    async def scenario(face: Face) -> None:
        cast, hanging = Cast(), Hanging()
        cast.script("m", "2").on_load = hanging
        async with face.opened(cast) as engine:
            for version in ("1", "2"):
                engine.register("m", version, "s", loader="scripted")
            await engine.load("m", "1")
            swap_id = engine.start_swap("m", "2")
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(engine.wait_for_swap(swap_id), 0.01)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await engine.load("m", "2")
            assert not engine.swap_status(swap_id).state.ended
            hanging.go.set()
            assert (await engine.wait_for_swap(swap_id)).to_version == "2"

    face.play(scenario)


@on_asyncio
def test_everybody_is_answered_when_the_engine_closes(face: Face) -> None:
    """Calls in flight when the engine closes are answered, and so are those that come later; none hangs."""

    async def scenario(face: Face) -> None:
        cast, hanging = Cast(), Hanging()
        cast.script("m", "2").on_load = hanging
        async with face.opened(cast, close_timeout_s=0.05) as engine:
            for version in ("1", "2"):
                engine.register("m", version, "s", loader="scripted")
            await engine.load("m", "1")
            lease = engine.lease("m").__enter__()
            calls: list[asyncio.Future[Any]] = [
                asyncio.ensure_future(engine.load("m", "2")),
                asyncio.ensure_future(engine.wait_for_drain("m", "1", 1000.0)),
                asyncio.ensure_future(engine.references.wait_for_zero("m", "1", 1000.0)),
            ]
            await hanging.has_begun()
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes[1:]] == [EngineClosed, EngineClosed]
        assert isinstance(outcomes[0], EngineClosed | LoadCancelled | LoadFailed)
        with pytest.raises(EngineClosed):
            await engine.load("m", "1")
        with pytest.raises(EngineClosed):
            await engine.infer("m", {})
        hanging.go.set()
        lease.release()

    face.play(scenario)


@on_asyncio
def test_a_request_whose_thread_hangs_is_answered_at_the_end(face: Face) -> None:
    """An `infer` whose model hangs when the engine closes is told so, and its loop goes on."""

    async def scenario(face: Face) -> None:
        cast, hanging = Cast(), Hanging()
        cast.script("m", "1").on_predict = hanging
        async with face.opened(cast, close_timeout_s=0.05) as engine:
            engine.register("m", "1", "s", loader="scripted", execution="worker")
            await engine.load("m", "1")
            request = asyncio.ensure_future(engine.infer("m", {}))
            await hanging.has_begun()
        with pytest.raises(VersionCrashed) as caught:
            await request
        assert caught.value.ran == "unknown"
        hanging.go.set()

    face.play(scenario)


@on_asyncio
def test_a_cancelled_request_leaves_no_reference(face: Face) -> None:
    """A request cancelled in the queue never runs; one that runs keeps its version until its thread is done."""

    async def scenario(face: Face) -> None:
        cast, hanging = Cast(), Hanging()
        cast.script("m", "1").on_predict = hanging
        async with face.opened(cast, strict_references=True) as engine:
            engine.register("m", "1", "s", loader="scripted", execution="worker")
            await engine.load("m", "1")
            running = asyncio.ensure_future(engine.infer("m", {"n": 1}))
            await hanging.has_begun()
            queued = asyncio.ensure_future(engine.infer("m", {"n": 2}))
            await turns()
            for task in (running, queued):
                task.cancel()
                assert await ended(task) == "CancelledError"
            assert engine.references.count("m", "1") == 1
            hanging.go.set()
            await engine.wait_for_drain("m", "1", 30.0)
            assert [call["n"] for call in cast.of("m", "1")[0].calls] == [1]

    face.play(scenario)


@on_asyncio
@pytest.mark.parametrize("cancels", [1, 3])
def test_closing_is_done_though_it_is_cancelled(face: Face, cancels: int) -> None:
    """A block whose end is cancelled, even again and again, still joins the engine's thread before it goes on."""

    async def scenario(face: Face) -> None:
        inside, cast, lease = asyncio.Event(), Cast(), []

        async def use() -> None:
            async with face.opened(cast, close_timeout_s=0.2) as engine:
                engine.register("m", "1", "s", loader="scripted")
                await engine.load("m", "1")
                lease.append(engine.lease("m").__enter__())
                inside.set()

        task = asyncio.ensure_future(use())
        await inside.wait()
        for _ in range(cancels):
            await turns()
            task.cancel()
        assert await ended(task) == "CancelledError"
        assert not any(thread.name == "changeover engine" for thread in threading.enumerate())
        lease[0].release()

    face.play(scenario)


@on_asyncio
def test_opening_is_cancelled(face: Face) -> None:
    """An opening that is cancelled leaves no thread behind."""

    async def scenario(face: Face) -> None:
        async def use() -> None:
            async with face.opened():
                raise AssertionError

        task = asyncio.ensure_future(use())
        await turns(1)
        task.cancel()
        assert await ended(task) == "CancelledError"
        assert not any(thread.name == "changeover engine" for thread in threading.enumerate())

    face.play(scenario)


@on_asyncio
@pytest.mark.parametrize("ending", ["waits", "swallows", "raises"])
def test_a_crash_of_the_engine_cancels_the_body(face: Face, ending: str) -> None:
    """A crash ends the body, the block raises `EngineFailed` with the cause, and no cancellation is left behind."""

    async def scenario(face: Face) -> None:
        with pytest.raises(EngineFailed, match="a bug of the engine") as caught:  # noqa: PT012 - the block is tested
            async with face.opened() as engine:
                crash(engine)
                try:
                    await asyncio.Event().wait()
                except asyncio.CancelledError:
                    if ending == "raises":
                        raise ValueError("the body's own") from None
                    if ending == "waits":
                        raise
        assert ending != "raises" or "the body's own" in "".join(caught.value.__notes__)
        await turns()
        me = asyncio.current_task()
        assert me is not None
        assert me.cancelling() == 0
        with pytest.raises(EngineFailed):
            engine.lease("m").__enter__()
        with pytest.raises(EngineFailed):
            await engine.load("m", "1")

    face.play(scenario)


@on_asyncio
def test_two_engines_in_one_loop(face: Face) -> None:
    """Two engines in one loop do not know of each other."""

    async def scenario(face: Face) -> None:
        async with face.opened() as one, face.opened() as two:
            for engine, version in ((one, "1"), (two, "2")):
                engine.register("m", version, "s", loader="scripted", execution="worker")
                await engine.load("m", version)
            replies = await asyncio.gather(*(engine.infer("m", {}) for engine in (one, two) for _ in range(20)))
            assert [reply.version for reply in replies] == ["1"] * 20 + ["2"] * 20

    face.play(scenario)


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
@pytest.mark.parametrize("counter", [True, False])
def test_one_engine_in_many_loops(run: Any, counter: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine answers in every loop that asks it, whatever it is woken by; loops that are closed are forgotten."""
    if not counter:
        monkeypatch.delattr(os, "eventfd")
    cast = Cast()

    async def ask(engine: changeover.aio.Engine) -> str:
        return (await engine.infer("m", {})).version

    async def main() -> None:
        async with changeover.aio.open_engine() as engine:
            engine._host.loaders.add("scripted", cast.loader)
            engine.register("m", "1", "s", loader="scripted", execution="worker")
            await engine.load("m", "1")
            for _ in range(5):
                assert await asyncio.to_thread(lambda: run(ask(engine))) == "1"
            assert await ask(engine) == "1"
            assert len(engine._host.homes) <= 2

    run(main())  # what a library opens once and keeps is there from now on
    gc.collect()
    before = len(list(Path("/proc/self/fd").iterdir()))
    run(main())
    gc.collect()
    assert len(list(Path("/proc/self/fd").iterdir())) <= before


@on_asyncio
def test_a_request_that_is_cancelled_in_a_stream(face: Face) -> None:
    """Cancelled in the middle of a chunk, a stream has ended; its version is held until the thread is done."""

    async def scenario(face: Face) -> None:
        cast, hanging = Cast(), Hanging()

        def count(_inputs: Any) -> Any:
            hanging()
            yield {"n": 0}

        cast.script("m", "1").chunks = count
        async with face.opened(cast, strict_references=True) as engine:
            engine.register("m", "1", "s", loader="scripted", execution="worker")
            await engine.load("m", "1")

            async def read() -> None:
                async with engine.infer_stream("m", {}) as chunks:
                    await anext(chunks)

            task = asyncio.ensure_future(read())
            await hanging.has_begun()
            task.cancel()
            assert await ended(task) == "CancelledError"
            assert engine.references.count("m", "1") == 1
            hanging.go.set()
            await engine.wait_for_drain("m", "1", 30.0)

    face.play(scenario)
