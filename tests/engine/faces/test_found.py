"""What a hostile review of the asyncio and thread faces found: each test is the bug that it keeps out."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio

import changeover
import changeover.threads
from changeover import Drain, Event, Shift
from changeover.core.values import VersionKey
from changeover.errors import ChangeoverError, EngineFailed, LeaseRevoked, RequestTimeout, WrongLoop
from changeover.runtime import worker
from changeover.runtime.aio_parts import LoopWake
from changeover.runtime.events import Bus
from changeover.runtime.feed import ENDED, Feed
from changeover.runtime.inference import Inference
from changeover.runtime.ports import SystemClock
from tests.support.faces import ALL, ASYNCIO, ON_ASYNCIO, THREADS, Face, crash, done
from tests.support.models import Cast
from tests.support.threads import patient


def test_the_last_event_is_read_before_the_end() -> None:
    """An event that is emitted while a reader looks, right before the end, is read all the same."""
    bus = Bus(SystemClock())
    feed = Feed(bus, 10)

    class Readers(list[Any]):
        """Lets the engine end while the reader looks whether it still listens."""

        def __contains__(self, reader: object) -> bool:
            if not bus.closed:
                bus.emit("version_registered", model="last")
                bus.close()
            return super().__contains__(reader)

    bus.readers = Readers()
    feed.start()
    taken = [feed.take() for _ in range(3)]
    assert [event.model if isinstance(event, Event) else event for event in taken] == [None, "last", ENDED]


def test_a_fallback_is_not_woken_by_the_answer_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the time is up just as the version on trial has failed, its late wake-up is not taken for the answer."""
    send, failed = worker.send, Inference._failed
    go, sent, stop = threading.Event(), threading.Event(), threading.Event()

    def send_late(requests: Any) -> None:
        """Be a thread that is preempted between an outcome and its wake-up."""
        if requests[0].error is not None and not stop.is_set():
            assert patient(go)
        send(requests)
        sent.set()

    def fail_over(self: Inference, error: ChangeoverError) -> Any:
        request = failed(self, error)
        sent.clear()
        go.set()
        assert patient(sent)
        return request

    def wait_for(event: threading.Event) -> None:
        assert patient(event)

    cast, hanging = Cast(), threading.Event()
    cast.script("m", "2").raises = ValueError("the new version is bad")
    cast.script("m", "1").on_predict = lambda _inputs: wait_for(hanging)
    with changeover.threads.open_engine() as engine:
        engine._host.loaders.add("scripted", cast.loader)
        for version in ("1", "2"):
            engine.register("m", version, "s", loader="scripted", execution="worker")
        engine.load("m", "1")
        with engine.events() as events:
            swap_id = engine.start_swap("m", "2", plan=Shift.canary(((0.99, 1000.0),)))
            next(event for event in events if engine._router.share(VersionKey("m", "2")) > 0.5)
        monkeypatch.setattr(worker, "send", send_late)
        monkeypatch.setattr(Inference, "_failed", fail_over)
        for _ in range(3):
            go.clear()
            with pytest.raises(RequestTimeout):
                engine.infer("m", {}, timeout_s=0.05, key="one that finds the new version")
        stop.set()
        go.set()
        hanging.set()
        engine.abort(swap_id)


@pytest.mark.parametrize("face", [*ON_ASYNCIO, THREADS], ids=lambda face: face.name)
def test_what_changes_something_says_that_it_is_not_for_trio(face: Face) -> None:
    """`register` and `start_swap` of an engine in another thread are refused in a Trio run, which says what to do."""

    async def in_trio(engine: Any) -> None:
        with pytest.raises(WrongLoop, match=r"changeover\.open_engine"):
            engine.register("m", "1", "s", loader="scripted")
        with pytest.raises(WrongLoop, match=r"changeover\.open_engine"):
            engine.start_swap("m", "1")

    async def scenario(face: Face) -> None:
        async with face.opened() as engine:
            thread = threading.Thread(target=trio.run, args=(in_trio, engine))
            thread.start()
            thread.join()

    face.play(scenario)


def test_a_call_on_its_way_hears_of_the_crash() -> None:
    """A call that waits when the engine crashes raises `EngineFailed`, and not that the engine was closed."""

    async def main() -> None:
        with pytest.raises(EngineFailed):  # noqa: PT012 - the block is tested
            async with ASYNCIO.opened(close_timeout_s=0.05) as engine:
                engine.register("m", "1", "s", loader="scripted")
                await engine.load("m", "1")
                lease = engine.lease("m").__enter__()
                waiting = asyncio.ensure_future(engine.wait_for_drain("m", "1", 1000.0))
                await asyncio.sleep(0)
                crash(engine)
                await asyncio.Event().wait()
        with pytest.raises(EngineFailed):
            await waiting
        lease.release()

    asyncio.run(main())


@pytest.mark.skipif(not hasattr(os, "eventfd"), reason="the system has no eventfd")
def test_loops_that_are_gone_leave_no_file_open() -> None:
    """The counter of a closed loop is given back by the next loop, and does not wait for the garbage collector."""

    async def main() -> None:
        async with ASYNCIO.opened() as engine:
            engine.register("m", "1", "s", loader="scripted", execution="worker")
            await engine.load("m", "1")

            async def ask() -> None:
                await engine.infer("m", {})

            def files() -> int:
                return len(list(Path("/proc/self/fd").iterdir()))

            await asyncio.to_thread(lambda: asyncio.run(ask()))
            before = files()
            for _ in range(20):
                await asyncio.to_thread(lambda: asyncio.run(ask()))
            assert files() <= before + 2

    gc.collect()
    gc.disable()
    try:
        asyncio.run(main())
    finally:
        gc.enable()


@pytest.mark.parametrize("face", ON_ASYNCIO, ids=lambda face: face.name)
def test_a_stream_goes_on_behind_the_end_of_the_engine(face: Face, monkeypatch: pytest.MonkeyPatch) -> None:
    """A chunk that is answered in the very moment in which the loop stops watching for answers is delivered."""

    async def scenario(face: Face) -> None:
        cast = Cast()
        cast.script("m", "1").chunks = lambda _inputs: iter([{"n": 0}, {"n": 1}])
        async with face.opened(cast, close_timeout_s=0.05) as engine:
            engine.register("m", "1", "s", loader="scripted", execution="worker")
            await engine.load("m", "1")
            chunks = engine.infer_stream("m", {})
            await chunks.__aenter__()
            assert (await chunks.__anext__()).outputs == {"n": 0}
            _home, wake = engine._homes._homes[asyncio.get_running_loop()]
            monkeypatch.setattr(LoopWake, "close", lambda _wake: None)
        more = asyncio.ensure_future(chunks.__anext__())
        await asyncio.sleep(0)
        while not wake._is_asked:  # the loop stands still, and has not heard of it
            os.sched_yield()
        monkeypatch.undo()
        wake.close()
        assert (await asyncio.wait_for(more, 30)).outputs == {"n": 1}
        await chunks.__aexit__(None, None, None)

    face.play(scenario)


def test_a_second_cancelling_drain_leaves_the_first_ones_grace() -> None:
    """A drain that joins while revoked leases have their grace waits for them, too; it does not cut the grace short."""

    async def main() -> None:
        async with ASYNCIO.opened(close_timeout_s=0.05) as engine:
            engine.register("m", "1", "s", loader="scripted")
            await engine.load("m", "1")
            revoked, go = asyncio.Event(), asyncio.Event()

            async def hold() -> None:
                async with engine.lease("m"):
                    try:
                        await asyncio.Event().wait()
                    finally:
                        revoked.set()
                        await go.wait()

            def unload(deadline_s: float) -> asyncio.Task[Any]:
                drain = Drain(deadline_s, then="cancel", grace_s=60.0)
                return asyncio.ensure_future(engine.unload("m", "1", force=True, drain=drain))

            holder = asyncio.ensure_future(hold())
            await asyncio.sleep(0)
            first = unload(0.0)
            await revoked.wait()
            second = unload(0.0)
            engine._seat.call(lambda: None)
            draining = engine._versions[VersionKey("m", "1")]._draining
            while len(draining.orders) < 2:  # noqa: ASYNC110 - there is nothing that tells of it
                await asyncio.sleep(0)
            for _ in range(10):
                engine._seat.call(lambda: None)  # turns in which a deadline that is over would be heard
                await asyncio.sleep(0)
            go.set()
            assert [(await drain).result for drain in (first, second)] == ["drained", "drained"]
            with pytest.raises(LeaseRevoked):
                await holder

    asyncio.run(main())


@pytest.mark.parametrize("face", ALL, ids=lambda face: face.name)
@pytest.mark.parametrize("execution", ["inline", "worker"])
def test_a_stream_that_is_dropped_gives_its_version_back(face: Face, execution: str) -> None:
    """A stream that was entered by hand and is dropped warns, and does not hold its version for ever."""

    async def scenario(face: Face) -> None:
        cast = Cast()
        cast.script("m", "1").chunks = lambda _inputs: iter([{"n": 0}, {"n": 1}])
        async with face.opened(cast, strict_references=True) as engine:
            engine.register("m", "1", "s", loader="scripted", execution=execution)
            await done(engine.load("m", "1"))

            chunks = engine.infer_stream("m", {})
            await done(chunks.__aenter__() if hasattr(chunks, "__aenter__") else chunks.__enter__())
            with pytest.warns(ResourceWarning, match="was dropped"):
                del chunks
            await done(engine.wait_for_drain("m", "1", 30.0))

    face.play(scenario)


async def test_an_order_in_the_middle_of_a_crash_does_not_keep_the_engine_open() -> None:
    """An order that meets a supervisor in the turns in which it crashes is refused, and the engine still closes."""
    outcomes: list[BaseException] = []

    async def ask(engine: Any, is_over: Callable[[], bool]) -> None:
        while not is_over():
            try:
                await engine.ensure_loaded("m", "1")
            except ChangeoverError:
                pass
            except Exception as error:  # noqa: BLE001 - whatever else it is, it is the bug
                outcomes.append(error)
            await trio.lowlevel.checkpoint()

    async def child() -> None:
        raise ZeroDivisionError("a bug of the engine")

    with trio.fail_after(30):
        for _ in range(20):
            cast, over = Cast(), trio.Event()
            async with trio.open_nursery() as nursery:
                with pytest.raises(EngineFailed):  # noqa: PT012 - the block is tested
                    async with changeover.open_engine(close_timeout_s=0.05) as engine:
                        engine._host.loaders.add("scripted", cast.loader)
                        engine.register("m", "1", "s", loader="scripted")
                        await engine.load("m", "1")
                        for _ in range(5):
                            nursery.start_soon(ask, engine, over.is_set)
                        supervisor = engine._version_supervisor._nursery
                        assert supervisor is not None
                        supervisor.start_soon(child)
                        await trio.sleep_forever()
                over.set()
    assert outcomes == []
