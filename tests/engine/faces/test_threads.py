"""The engine from plain threads: Ctrl-C in calls that wait, many threads at once, the end and the crash."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

import changeover.threads
from changeover.errors import EngineClosed, EngineFailed
from tests.support.faces import crash
from tests.support.models import Cast
from tests.support.threads import Crowd, patient


@contextmanager
def opened(cast: Cast | None = None, **options: Any) -> Iterator[changeover.threads.Engine]:
    """Open an engine with scripted models."""
    cast = cast or Cast()
    with changeover.threads.open_engine(**options) as engine:
        engine._host.loaders.add("scripted", cast.loader)
        yield engine
    assert cast.wrongs() == []


def ctrl_c() -> None:
    """Send the main thread, which runs the tests, what a terminal sends."""
    main = threading.main_thread().ident
    assert main is not None
    signal.pthread_kill(main, signal.SIGINT)


def when(event: threading.Event, then: Callable[[], None]) -> None:
    """Do something in a thread once an event has come."""
    threading.Thread(target=lambda: then() if patient(event) else None, daemon=True).start()


def hang(cast: Cast, what: str) -> tuple[threading.Event, threading.Event]:
    """Let a model hang in its loading, or in its requests; return the events of its beginning and of its end."""
    began, go = threading.Event(), threading.Event()

    def work(*_inputs: object) -> None:
        began.set()
        assert patient(go)

    setattr(cast.script("m", "1"), what, work)
    return began, go


def test_ctrl_c_calls_a_load_off() -> None:
    """Ctrl-C in a call that waits interrupts it, waits for its end, and goes on as `KeyboardInterrupt`."""
    cast = Cast()
    began, go = hang(cast, "on_load")
    with opened(cast) as engine:
        engine.register("m", "1", "s", loader="scripted")
        when(began, ctrl_c)
        with pytest.raises(KeyboardInterrupt):
            engine.load("m", "1")
        assert engine._seat._errands is not None
        assert not engine._seat._errands.child_tasks  # the call has ended, on the loop too
        go.set()
        engine.ensure_loaded("m", "1")


def test_ctrl_c_leaves_a_request() -> None:
    """Ctrl-C in `infer` leaves at once; the reference is given back when its thread is done."""
    cast = Cast()
    began, go = hang(cast, "on_predict")
    with opened(cast, strict_references=True) as engine:
        engine.register("m", "1", "s", loader="scripted", execution="worker")
        engine.load("m", "1")
        when(began, ctrl_c)
        with pytest.raises(KeyboardInterrupt):
            engine.infer("m", {})
        assert engine.references.count("m", "1") == 1
        go.set()
        engine.wait_for_drain("m", "1", 30.0)


def test_ctrl_c_withdraws_a_request() -> None:
    """Ctrl-C in `infer` while the request is queued: it never runs."""
    cast, crowd = Cast(), Crowd()
    began, go = hang(cast, "on_predict")
    with opened(cast, strict_references=True) as engine:
        engine.register("m", "1", "s", loader="scripted", execution="worker")
        engine.load("m", "1")
        crowd.add(engine.infer, "m", {"n": 1})
        crowd.start()
        assert patient(began)

        def interrupt() -> None:
            while engine.references.count("m", "1") < 2:
                pass
            ctrl_c()

        threading.Thread(target=interrupt, daemon=True).start()
        with pytest.raises(KeyboardInterrupt):
            engine.infer("m", {"n": 2})
        assert engine.references.count("m", "1") == 1
        go.set()
        crowd.join()
        assert [call["n"] for call in cast.of("m", "1")[0].calls] == [1]


def test_ctrl_c_while_it_closes() -> None:
    """Ctrl-C while the block closes the engine is raised once the engine's thread has ended."""
    cast, closing = Cast(), threading.Event()
    cast.script("m", "1").on_close = lambda: (closing.set(), ctrl_c())[0]
    with pytest.raises(KeyboardInterrupt), opened(cast) as engine:  # noqa: PT012 - the block is what is tested
        engine.register("m", "1", "s", loader="scripted")
        engine.load("m", "1")
    assert closing.is_set()
    assert not any(thread.name == "changeover engine" for thread in threading.enumerate())


@pytest.mark.parametrize("execution", ["inline", "worker"])
@pytest.mark.parametrize("thread_safe", [True, False])
def test_many_threads(execution: Any, thread_safe: bool) -> None:
    """Many threads ask at once while the version changes under them: each is answered, and nothing is left over."""
    cast, crowd, answered = Cast(), Crowd(), []
    with opened(cast, strict_references=True) as engine:
        for version in ("1", "2"):
            cast.script("m", version).thread_safe = thread_safe
            engine.register("m", version, "s", loader="scripted", execution=execution)
        engine.load("m", "1")

        def ask(number: int) -> None:
            for turn in range(50):
                reply = engine.infer("m", {"n": number, "turn": turn}, timeout_s=None if turn % 2 else 30.0)
                answered.append((reply.outputs["n"], reply.outputs["turn"]))

        for number in range(8):
            crowd.add(ask, number)
        crowd.add(engine.swap, "m", "2")
        crowd.start()
        crowd.join()
        assert sorted(answered) == [(number, turn) for number in range(8) for turn in range(50)]
        assert engine.is_active("m", "2")
        assert engine.audit().clean


def test_everybody_is_answered_when_the_engine_closes() -> None:
    """Threads that wait when the engine closes are answered; none hangs."""
    cast, crowd, errors = Cast(), Crowd(), []
    with opened(cast, close_timeout_s=0.05) as engine:
        engine.register("m", "1", "s", loader="scripted")
        engine.load("m", "1")
        lease = engine.lease("m").__enter__()

        def wait() -> None:
            try:
                engine.wait_for_drain("m", "1", 1000.0)
            except EngineClosed as error:
                errors.append(error)

        for _ in range(3):
            crowd.add(wait)
        crowd.start()
        while len(engine._seat._errands.child_tasks if engine._seat._errands else ()) < 3:
            engine.statistics()
    crowd.join()
    assert len(errors) == 3
    lease.release()


def test_a_crash_of_the_engine() -> None:
    """After a crash every call raises `EngineFailed`, and so does the end of the block."""
    with pytest.raises(EngineFailed, match="a bug of the engine"), opened() as engine:  # noqa: PT012 - the block is tested
        crash(engine)
        while engine._router.refusal is None:
            engine.statistics()
        with pytest.raises(EngineFailed):
            engine.infer("m", {})
        with pytest.raises(EngineFailed):
            engine.load("m", "1")
        with pytest.raises(EngineFailed):
            engine.register("m", "1", "s", loader="scripted")


def test_events_end_with_the_engine() -> None:
    """A thread that reads events is told of the ones it missed, and comes to its end with the engine's."""
    seen: list[Any] = []

    def read(events: Any) -> None:
        with events:
            listening.set()
            seen.extend(events)

    listening, crowd = threading.Event(), Crowd()
    with opened() as engine:
        crowd.add(read, engine.events(buffer=2))
        crowd.start()
        assert patient(listening)
        engine.register("m", "1", "s", loader="scripted")
        engine.load("m", "1")
    crowd.join()
    told = sum(event.count if isinstance(event, changeover.EventsDropped) else 1 for event in seen)
    assert told >= 4
    with pytest.raises(RuntimeError, match="inside their block"):
        next(engine.events())
