"""Every face of the engine has the same calls, and they come to the same."""

from __future__ import annotations

import asyncio
import inspect
import threading
from typing import Any

import pytest
import trio

import changeover
import changeover.aio
import changeover.threads
from changeover import Drain, Event
from changeover.errors import (
    AlreadyLoaded,
    DrainTimeout,
    EngineClosed,
    LastVersion,
    LoadFailed,
    ModelNotRegistered,
    NotReady,
    PredictFailed,
    RequestTimeout,
    SwapNotAllowed,
    SwapNotFound,
    WrongLoop,
)
from tests.support.faces import ALL, ON_ASYNCIO, THREADS, TRIO, Face, done, entered
from tests.support.models import Broken, Cast
from tests.support.threads import patient

every_face = pytest.mark.parametrize("face", ALL, ids=lambda face: face.name)


def public(cls: type) -> dict[str, Any]:
    """Return the public methods of a class by name."""
    return {name: value for name, value in inspect.getmembers(cls, callable) if not name.startswith("_")}


@pytest.mark.parametrize("engine", [changeover.aio.Engine, changeover.threads.Engine], ids=["aio", "threads"])
def test_the_signatures_are_the_same(engine: type) -> None:
    """Each face has every public call of the engine and no other, with the same parameters, defaults and results."""
    agreed, here = public(changeover.Engine), public(engine)
    assert sorted(here) == sorted(agreed)
    for name, method in agreed.items():
        assert inspect.signature(here[name]) == inspect.signature(method), name
        awaited = inspect.iscoroutinefunction(method) and engine is changeover.aio.Engine
        assert inspect.iscoroutinefunction(here[name]) == awaited, name


@pytest.mark.parametrize(
    "open_engine", [changeover.aio.open_engine, changeover.threads.open_engine], ids=["aio", "threads"]
)
def test_an_engine_is_opened_with_the_same_options(open_engine: Any) -> None:
    """`open_engine` takes the same options everywhere, but for the ports, which are a simulator's."""
    agreed = dict(inspect.signature(changeover.open_engine).parameters)
    del agreed["ports"]
    assert dict(inspect.signature(open_engine).parameters) == agreed


@every_face
def test_requests_and_leases(face: Face) -> None:
    """Inline and worker models answer, by lease and by `infer`, and every reference is given back."""

    async def scenario(face: Face) -> None:
        async with face.opened(strict_references=True) as engine:
            engine.register("inline", "1", "s", loader="scripted")
            engine.register("worker", "1", "s", loader="scripted", execution="worker")
            for model in ("inline", "worker"):
                await done(engine.load(model, "1"))
                reply = await done(engine.infer(model, {"x": 5}, key="somebody", timeout_s=30.0))
                assert (reply.version, reply.outputs["x"]) == ("1", 5)
                assert (await done(engine.infer(model, {"x": 6}, version="1"))).outputs["x"] == 6
                with engine.lease(model, request_id="r") as lease:
                    assert [holder.kind for holder in engine.who_holds(model, "1")] == ["lease"]
                    assert lease.infer({"x": 7})["x"] == 7
                if face is not THREADS:
                    async with engine.lease(model, wait_s=1.0) as lease:
                        assert lease.version == "1"
            assert engine.audit().clean
            assert engine.statistics().registered == 2

    face.play(scenario)


@every_face
def test_a_version_and_its_swap(face: Face) -> None:
    """Versions are loaded, swapped, rolled back and unloaded; each call tells the same."""

    async def scenario(face: Face) -> None:
        async with face.opened() as engine:
            for version in ("1", "2"):
                engine.register("m", version, "s", loader="scripted")
            await done(engine.ensure_loaded("m", "1"))
            await done(engine.ensure_loaded("m", "1"))
            await done(engine.warm_up("m", "1", [{"x": 1}]))
            operation = await done(engine.swap("m", "2"))
            assert operation.old_unloaded
            assert (engine.is_active("m", "2"), engine.is_loaded("m", "1")) == (True, False)
            assert engine.swap_status(operation.id).share == 1.0
            back = await done(engine.rollback(operation.id))
            assert (back.to_version, back.rollback_of) == ("1", operation.id)
            again = engine.start_swap("m", "2")
            assert (await done(engine.wait_for_swap(again))).to_version == "2"
            assert [swap.to_version for swap in engine.swaps("m")] == ["2", "1", "2"]
            await done(engine.wait_for_drain("m", "2", 1.0))
            assert (await done(engine.unload("m", "2", force=True))).result == "drained"
            assert engine.loaded_versions("m") == ()
            assert engine.load_info("m", "2").status.value == "unloaded"

    face.play(scenario)


@every_face
def test_errors(face: Face) -> None:
    """What cannot be done is the same error everywhere, and changes nothing."""

    async def scenario(face: Face) -> None:
        cast = Cast()
        async with face.opened(cast) as engine:
            for version in ("1", "2"):
                engine.register("m", version, "s", loader="scripted", execution="worker")
            cast.script("m", "2").load_error = Broken("not today")
            with pytest.raises(NotReady):
                await done(engine.infer("m", {}))
            await done(engine.load("m", "1"))
            with pytest.raises(AlreadyLoaded):
                await done(engine.load("m", "1"))
            with pytest.raises(LoadFailed, match="not today"):
                await done(engine.load("m", "2"))
            with pytest.raises(LastVersion):
                await done(engine.unload("m", "1"))
            with pytest.raises(ModelNotRegistered):
                await done(engine.load("n", "1"))
            with pytest.raises(SwapNotAllowed):
                engine.start_swap("m", "1")
            for call in (engine.pause, engine.resume, engine.promote, engine.abort, engine.swap_status):
                with pytest.raises(SwapNotFound):
                    call("nothing")
            cast.script("m", "1").raises = Broken("no")
            with pytest.raises(PredictFailed, match="no"):
                await done(engine.infer("m", {}))
            with engine.lease("m"), pytest.raises(DrainTimeout):
                await done(engine.wait_for_drain("m", "1", 0.0))
        with pytest.raises(EngineClosed):
            await done(engine.load("m", "1"))
        with pytest.raises(EngineClosed):
            engine.start_swap("m", "2")
        with pytest.raises(EngineClosed):
            engine.lease("m").__enter__()

    face.play(scenario)


@every_face
def test_a_late_answer(face: Face) -> None:
    """A request that is out of time says so at once, and its reference is given back when its thread is done."""

    async def scenario(face: Face) -> None:
        cast, go = Cast(), threading.Event()

        def wait(_inputs: object) -> None:
            assert patient(go)

        cast.script("m", "1").on_predict = wait
        async with face.opened(cast, strict_references=True) as engine:
            engine.register("m", "1", "s", loader="scripted", execution="worker")
            await done(engine.load("m", "1"))
            with pytest.raises(RequestTimeout) as caught:
                await done(engine.infer("m", {}, timeout_s=0.01))
            assert caught.value.ran in ("unknown", "no")
            go.set()
            assert (await done(engine.infer("m", {}, timeout_s=30.0))).version == "1"

    face.play(scenario)


@every_face
def test_events(face: Face) -> None:
    """A reader sees what happens from the moment that it listens, in order, and its end with the engine's."""

    async def scenario(face: Face) -> None:
        seen: list[str] = []
        async with face.opened() as engine:
            engine.register("m", "1", "s", loader="scripted")
            async with entered(engine.events()) as events:
                await done(engine.load("m", "1"))
                while "ready" not in seen:
                    event = next(events) if face is THREADS else await anext(events)
                    assert isinstance(event, Event)
                    seen += [event.detail["state"]] if event.kind == "version_state" else []
        assert seen == ["loading", "warming", "ready"]

    face.play(scenario)


@every_face
@pytest.mark.parametrize("execution", ["inline", "worker"])
def test_streams(face: Face, execution: str) -> None:
    """An answer comes in chunks, is held until its block ends, and raises where the model does."""

    async def read(chunks: Any) -> list[Any]:
        if face is THREADS:
            return [chunk.outputs["n"] for chunk in chunks]
        return [chunk.outputs["n"] async for chunk in chunks]

    def count(inputs: Any) -> Any:
        for n in range(3):
            if n == inputs.get("fails_at"):
                raise Broken("no more")
            yield {"n": n}

    async def scenario(face: Face) -> None:
        cast = Cast()
        cast.script("m", "1").chunks = count
        async with face.opened(cast, strict_references=True) as engine:
            engine.register("m", "1", "s", loader="scripted", execution=execution)
            await done(engine.load("m", "1"))
            async with entered(engine.infer_stream("m", {})) as chunks:
                assert [holder.kind for holder in engine.who_holds("m", "1")] == ["stream"]
                assert await read(chunks) == [0, 1, 2]
            async with entered(engine.infer_stream("m", {"fails_at": 1})) as chunks:
                with pytest.raises(PredictFailed, match="no more"):
                    await read(chunks)
            async with entered(engine.infer_stream("m", {})):
                pass  # and read nothing
            await done(engine.wait_for_drain("m", "1", 30.0))

    face.play(scenario)


@every_face
def test_a_drain_that_gives_back(face: Face) -> None:
    """An unload that is out of time and says "rollback" gives the version its traffic back, and names the holders."""

    async def scenario(face: Face) -> None:
        async with face.opened() as engine:
            engine.register("m", "1", "s", loader="scripted")
            await done(engine.load("m", "1"))
            with engine.lease("m"):
                outcome = await done(engine.unload("m", "1", force=True, drain=Drain(0.0, "rollback")))
                assert (outcome.result, [holder.kind for holder in outcome.holders]) == ("given_back", ["lease"])
            assert (await done(engine.infer("m", {}))).version == "1"

    face.play(scenario)


@every_face
def test_a_body_that_raises(face: Face) -> None:
    """What the block raises comes out as it is, also where references leak; the engine is closed."""

    async def scenario(face: Face) -> None:
        with pytest.raises(ZeroDivisionError):  # noqa: PT012 - the block is what is tested
            async with face.opened(strict_references=True, close_timeout_s=0.1) as engine:
                engine.register("m", "1", "s", loader="scripted")
                await done(engine.load("m", "1"))
                lease = engine.lease("m").__enter__()
                raise ZeroDivisionError
        lease.release()
        assert not any(thread.name == "changeover engine" for thread in threading.enumerate())

    face.play(scenario)


@every_face
def test_options_that_make_no_sense(face: Face) -> None:
    """A wrong option is named where the engine is opened."""

    async def scenario(face: Face) -> None:
        with pytest.raises(ValueError, match="close_timeout_s"):
            async with face.opened(close_timeout_s=-1.0):
                raise AssertionError

    face.play(scenario)


def test_asyncio_needs_asyncio() -> None:
    """`changeover.aio` outside of asyncio names the face to use instead."""

    async def open_it() -> None:
        async with changeover.aio.open_engine():
            raise AssertionError

    with pytest.raises(WrongLoop, match=r"use changeover\.open_engine"):
        trio.run(open_it)


def test_threads_would_stop_trio() -> None:
    """`changeover.threads` in a Trio run names the face to use instead."""

    async def open_it() -> None:
        with changeover.threads.open_engine():
            raise AssertionError

    with pytest.raises(WrongLoop, match=r"use changeover\.open_engine"):
        trio.run(open_it)


def test_trio_needs_trio() -> None:
    """`changeover.open_engine` outside of Trio names the face to use instead."""

    async def open_it() -> None:
        async with changeover.open_engine():
            raise AssertionError

    with pytest.raises(WrongLoop, match=r"changeover\.aio\.open_engine"):
        asyncio.run(open_it())


def test_a_thread_has_no_async_block() -> None:
    """`async with` on a lease of the thread face is refused, and holds nothing."""

    async def scenario(face: Face) -> None:
        async with face.opened(strict_references=True) as engine:
            engine.register("m", "1", "s", loader="scripted")
            engine.load("m", "1")
            with pytest.raises(WrongLoop, match="with"):
                await engine.lease("m").__aenter__()

    THREADS.play(scenario)


@pytest.mark.parametrize("face", ON_ASYNCIO, ids=lambda face: face.name)
def test_waiting_for_zero_on_asyncio(face: Face) -> None:
    """The reference tracker waits on asyncio too, and blocks a thread where it is asked to."""

    async def scenario(face: Face) -> None:
        async with face.opened() as engine:
            engine.register("m", "1", "s", loader="scripted")
            await engine.load("m", "1")
            engine.references.acquire("m", "1", "r")
            with pytest.raises(DrainTimeout):
                await engine.references.wait_for_zero("m", "1", 0.0)
            with pytest.raises(DrainTimeout):
                engine.references.wait_for_zero_blocking("m", "1", 0.0)
            asyncio.get_running_loop().call_soon(engine.references.release, "m", "1", "r")
            await engine.references.wait_for_zero("m", "1", 30.0)
            engine.references.wait_for_zero_blocking("m", "1", 30.0)

    face.play(scenario)


def test_trio_is_the_reference() -> None:
    """The first face is the engine itself."""
    assert TRIO.open_engine is changeover.open_engine
