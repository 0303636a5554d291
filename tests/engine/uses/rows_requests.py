"""Rows of the matrix: every way that a request can end."""

from __future__ import annotations

import pytest

from changeover.errors import InvalidInput, Overloaded, PredictFailed, RequestTimeout
from tests.engine.uses.stage import ASYNC, WORKER, Seen, Stage, Ways
from tests.engine.uses.worlds import InThreads, OnAsyncio, OnTrio
from tests.support.faces import done
from tests.support.models import BATCHED, Broken

REQUESTS = Ways()
WITH_TIME = (OnTrio, OnAsyncio, InThreads)
"""uvloop has no clock that can be set."""


class Halt(BaseException):
    """What no `except Exception` catches."""


@REQUESTS.row(execution="worker")
async def a_request_is_answered_by_a_worker(stage: Stage) -> None:
    """While its thread runs it is held by name; it is given back before its caller goes on."""
    gate = stage.hang()
    use = stage.world.spawn(stage.infer())
    await stage.world.until(gate.began.is_set)
    stage.advance(2.0)
    stage.sees(Seen("request", 2.0, WORKER))
    gate.go.set()
    await stage.world.end(use)
    stage.sees()
    assert use.error is None


@REQUESTS.row()
async def a_request_is_answered_inline(stage: Stage) -> None:
    """It is held for as long as the model is called."""
    stage.spy()
    await stage.infer()()
    assert stage.inside == [(Seen("request"),)]
    stage.sees()


@REQUESTS.row(script={"thread_safe": False})
async def a_request_is_answered_in_a_thread_aside(stage: Stage) -> None:
    """Where an inline model is busy, the second request gets a thread, which is named while it waits for its turn."""
    gate = stage.gate()
    loaded = stage.engine._host.living()[0]
    assert loaded.take_turn()
    use = stage.world.spawn(stage.infer())
    await stage.world.until(lambda: bool(loaded.account.running()))
    stage.advance(1.0)
    stage.sees(Seen("request", 1.0, "predict m/1"))
    assert not gate.began.is_set()
    loaded.end_turn()
    assert (await stage.world.end(use)).error is None
    stage.sees()


@REQUESTS.row(execution="worker")
async def the_model_raises_in_a_worker(stage: Stage) -> None:
    """The caller sees `PredictFailed`, and holds nothing any more."""
    stage.spy()
    stage.cast.script("m", "1").raises = Broken("no")
    with pytest.raises(PredictFailed):
        await stage.infer()()
    stage.sees()
    assert stage.inside == [(Seen("request", 0.0, WORKER),)]


@REQUESTS.row()
async def the_model_raises_inline(stage: Stage) -> None:
    """The same where the caller's own thread calls it."""
    stage.cast.script("m", "1").raises = Broken("no")
    with pytest.raises(PredictFailed):
        await stage.infer()()
    stage.sees()


@REQUESTS.row(execution="worker")
async def the_model_raises_what_is_no_exception_in_a_worker(stage: Stage) -> None:
    """Neither `KeyboardInterrupt` nor any other `BaseException` of a model ends its worker, or keeps a reference."""
    for error in (KeyboardInterrupt(), SystemExit(1), Halt(), GeneratorExit()):
        stage.cast.script("m", "1").raises = error
        with pytest.raises(PredictFailed):
            await stage.infer()()
        stage.sees()
    stage.cast.script("m", "1").raises = None
    await stage.infer()()


@REQUESTS.row()
async def the_model_raises_what_is_no_exception_inline(stage: Stage) -> None:
    """It comes out as it is, and the reference is given back on its way."""
    for error in (KeyboardInterrupt(), SystemExit(1), Halt(), GeneratorExit()):
        stage.cast.script("m", "1").raises = error
        with pytest.raises(type(error)):
            await stage.infer()()
        stage.sees()


@REQUESTS.row(script={"signature": BATCHED})
async def the_inputs_do_not_fit(stage: Stage) -> None:
    """A request that is refused after its version was pinned gives it back."""
    with pytest.raises(InvalidInput):
        await stage.infer(wrong=1)()
    stage.sees()
    assert stage.engine.audit().total.acquired == 1


@REQUESTS.row(execution="worker", queue_limit=1)
async def the_queue_is_full(stage: Stage) -> None:
    """A request that finds no room gives its version back."""
    gate = stage.hang()
    running = stage.world.spawn(stage.infer())
    await stage.world.until(gate.began.is_set)
    waiting = stage.world.spawn(stage.infer())
    await stage.until_queued(1)
    with pytest.raises(Overloaded):
        await stage.infer()()
    stage.sees(Seen("request", 0.0, WORKER), Seen("request"))
    gate.go.set()
    for use in (running, waiting):
        assert (await stage.world.end(use)).error is None
    stage.sees()


@REQUESTS.row(execution="worker")
async def a_request_is_cancelled_in_the_queue(stage: Stage) -> None:
    """It never runs, and is given back at once, while the one before it still runs."""
    gate = stage.hang()
    running = stage.world.spawn(stage.infer(n=1))
    await stage.world.until(gate.began.is_set)
    stage.advance(1.0)
    waiting = stage.world.spawn(stage.infer(n=2), cancellable=True)
    await stage.until_held(2)
    stage.advance(1.0)
    stage.sees(Seen("request", 2.0, WORKER), Seen("request", 1.0))
    await stage.world.cancel(waiting)
    assert isinstance(waiting.error, stage.world.cancelled)
    stage.sees(Seen("request", 2.0, WORKER))
    gate.go.set()
    await stage.world.end(running)
    await done(stage.engine.wait_for_drain("m", "1", 30.0))
    assert [call["n"] for call in stage.model.calls] == [1]


@REQUESTS.row(execution="worker")
async def a_request_is_cancelled_while_its_thread_runs(stage: Stage) -> None:
    """Its caller is gone, the thread cannot be interrupted: it keeps the reference until it has really ended.

    This is also a client that goes away: tests/http/test_disconnects.py has those of a real server.
    """
    gate = stage.hang()
    use = stage.world.spawn(stage.infer(), cancellable=True)
    await stage.world.until(gate.began.is_set)
    await stage.world.cancel(use)
    assert isinstance(use.error, stage.world.cancelled)
    stage.advance(5.0)
    stage.sees(Seen("request", 5.0, WORKER))
    assert stage.model.running == 1
    gate.go.set()


@REQUESTS.row(WITH_TIME, execution="worker")
async def a_request_is_out_of_time_in_the_queue(stage: Stage) -> None:
    """It says that it never ran, and is given back at once."""
    gate = stage.hang()
    running = stage.world.spawn(stage.infer(n=1))
    await stage.world.until(gate.began.is_set)
    late = stage.world.spawn(stage.infer(timeout_s=5.0, n=2))
    await stage.until_held(2)
    stage.advance(5.0)
    await stage.world.end(late)
    assert isinstance(late.error, RequestTimeout)
    assert late.error.ran == "no"
    stage.sees(Seen("request", 5.0, WORKER))
    gate.go.set()
    await stage.world.end(running)
    assert [call["n"] for call in stage.model.calls] == [1]


@REQUESTS.row(WITH_TIME, execution="worker")
async def a_request_is_out_of_time_while_its_thread_runs(stage: Stage) -> None:
    """Nobody knows whether it ran; the reference stays with the thread."""
    gate = stage.hang()
    late = stage.world.spawn(stage.infer(timeout_s=5.0))
    await stage.world.until(gate.began.is_set)
    stage.advance(5.0)
    await stage.world.end(late)
    assert isinstance(late.error, RequestTimeout)
    assert late.error.ran == "unknown"
    stage.advance(1.0)
    stage.sees(Seen("request", 6.0, WORKER))
    gate.go.set()


@REQUESTS.row(execution="worker")
async def a_branch_of_a_fan_out_fails(stage: Stage) -> None:
    """The others are called off: what is queued and what is leased is given back, what a thread runs is not."""
    slow, leave, fail = stage.hang(), stage.world.event(), stage.world.event()

    async def failing() -> None:
        async with stage.leased():
            await stage.world.wait(fail)
            raise Broken("no")

    calls = [stage.infer(n=1), stage.infer(n=2), stage.holder(leave), failing]

    def begun(count: int) -> bool:
        if stage.engine.references.count("m", "1") < count or not slow.began.is_set():
            return False
        if count == len(calls):
            stage.advance(1.0)
            requests = (Seen("request", 1.0, WORKER), Seen("request", 1.0))
            stage.sees(*requests, Seen("lease", 1.0), Seen("lease", 1.0))
            fail.set()
            if not stage.world.is_async:  # nobody calls anybody off: each ends for itself
                leave.set()
                slow.go.set()
        return True

    with pytest.raises(BaseExceptionGroup) as caught:
        await stage.world.fan_out(calls, begun)
    assert caught.group_contains(Broken)
    if stage.world.is_async:
        stage.sees(Seen("request", 1.0, WORKER))
        slow.go.set()
        await done(stage.engine.wait_for_drain("m", "1", 30.0))
    assert [call["n"] for call in stage.model.calls] == ([1] if stage.world.is_async else [1, 2])


@REQUESTS.row(execution="worker", workers=2)
async def a_model_fails_in_a_fan_out(stage: Stage) -> None:
    """The request beside it is called off, and keeps its version until its thread has ended."""
    slow, failing = stage.hang("slow"), stage.hang("failing")
    stage.cast.script("m", "1").fails_on = lambda inputs: "failing" in inputs

    def begun(count: int) -> bool:
        if count == 1:
            return slow.began.is_set()
        if failing.began.is_set():
            found = stage.holders()
            assert [(seen.kind, seen.thread is None) for seen in found] == [("request", False)] * 2
            assert len({seen.thread for seen in found}) == 2
            failing.go.set()
            if not stage.world.is_async:
                slow.go.set()
        return failing.began.is_set()

    with pytest.raises(BaseExceptionGroup) as caught:
        await stage.world.fan_out([stage.infer(slow=1), stage.infer(failing=1)], begun)
    assert caught.group_contains(PredictFailed)
    if stage.world.is_async:
        (left,) = stage.holders()
        assert (left.kind, left.thread in {WORKER, "worker m/1 1"}) == ("request", True)
    slow.go.set()


@REQUESTS.row(ASYNC, execution="worker")
async def a_wait_for_zero_is_cancelled(stage: Stage) -> None:
    """Who only waits holds nothing, and is not remembered; the reference that was waited for stays."""
    stage.engine.references.acquire("m", "1", "mine")
    for wait in (stage.engine.wait_for_drain, stage.engine.references.wait_for_zero):

        async def call(wait: object = wait) -> None:
            await wait("m", "1", 1_000.0)  # type: ignore[operator]

        use = stage.world.spawn(call)
        await stage.world.until(lambda: bool(stage.look_round()[0].account._watchers))
        await stage.world.cancel(use)
        assert isinstance(use.error, stage.world.cancelled)
        assert not stage.engine.references._world.waits._waiting
        assert not stage.look_round()[0].account._watchers
    stage.sees(Seen("request", name="mine"))
    stage.engine.references.release("m", "1", "mine")


@REQUESTS.row()
async def a_warm_up_ends(stage: Stage) -> None:
    """Its thread is named, and gives back, whether the model answers or raises."""
    for error in (None, Broken("no"), Halt()):
        gate = stage.hang()
        stage.cast.script("m", "1").raises = error

        async def warm_up() -> None:
            await done(stage.engine.warm_up("m", "1", [{"x": 1}]))

        use = stage.world.spawn(warm_up)
        await stage.world.until(gate.began.is_set)
        stage.advance(3.0)
        stage.sees(Seen("warmup", 3.0, "warm m/1"))
        gate.go.set()
        await stage.world.end(use)
        assert (use.error is None) == (error is None)
        stage.sees()
        stage.cast.script("m", "1").on_predict = None


@REQUESTS.row(ASYNC)
async def a_warm_up_is_cancelled(stage: Stage) -> None:
    """The data goes on running, and so does its reference."""
    gate = stage.hang()

    async def warm_up() -> None:
        await stage.engine.warm_up("m", "1", [{"x": 1}, {"x": 2}])

    use = stage.world.spawn(warm_up)
    await stage.world.until(gate.began.is_set)
    await stage.world.cancel(use)
    stage.sees(Seen("warmup", 0.0, "warm m/1"))
    gate.go.set()
    await done(stage.engine.wait_for_drain("m", "1", 30.0))
    assert len(stage.model.calls) == 2
