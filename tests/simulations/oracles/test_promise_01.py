"""The oracle of promise 1 finds requests that are lost, run twice, answered wrongly, or told what is not true."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import trio

from changeover.core.snapshots import Reply
from changeover.errors import AlreadyLoaded, ChangeoverError, NotReady
from changeover.runtime import calls, worker
from changeover.runtime.inference import Asking, Inference
from changeover.runtime.loaded import LoadedModel
from changeover.runtime.router import Router
from changeover.runtime.worker import Replies, Request
from changeover_sim.oracles.promise_01_answered import Promise01Answered
from changeover_sim.simulate.shape import Ending, Shape
from tests.simulations.oracles.small_runs import assert_found, assert_silent, parts, shape

WORKERS = shape((("asker", 3), ("swapper", 1)), parts("1", "2", execution="worker", predict_s=(0.0, 0.25)))
"""Some who ask, while versions are swapped."""
INLINE = shape((("asker", 3), ("swapper", 1)), parts("1", "2"))
FAILING = shape((("asker", 4),), parts("1"), faults=["predict-raises"])
CANCELLED = shape((("asker", 4),), parts("1", execution="worker", predict_s=(0.5,)), faults=["cancel"])
FULL = shape((("asker", 6),), parts("1", execution="worker", predict_s=(0.5,), queue_limit=1), hurry=0.9, horizon_s=2.0)
"""A queue that has room for one."""
BATCHED = shape((("asker", 6),), parts("1", execution="worker", batched=True), hurry=0.9)
STREAMS = shape((("streamer", 2),), parts("1", execution="worker"))
HUNG = shape(
    (("asker", 6),), parts("1", execution="worker", workers=2), faults=["predict-hangs", "close-early"],
    lives=(Ending("close-early", 4.0),), options={"close_timeout_s": 1.0}, hurry=0.9,
)  # fmt: skip


@pytest.mark.parametrize("small", [WORKERS, INLINE, FAILING, CANCELLED, FULL, BATCHED, STREAMS, HUNG])
def test_silent(small: Shape) -> None:
    """Nothing is wrong with the engine as it is."""
    assert_silent(Promise01Answered, small)


def test_a_lost_request_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request whose answer never comes home has no outcome."""
    take, seen = Replies.take, list[Request]()

    def lose(replies: Replies, request: Request) -> None:
        seen.append(request)
        if len(seen) % 5:
            take(replies, request)

    monkeypatch.setattr(Replies, "take", lose)
    assert_found(Promise01Answered, WORKERS, "without an outcome: infer")


def test_a_request_that_is_run_twice_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that is asked once more for good measure has run the request twice."""
    predict = LoadedModel.predict

    def twice(loaded: LoadedModel, inputs: Any, **options: Any) -> Any:
        predict(loaded, inputs, **options)
        return predict(loaded, inputs, **options)

    monkeypatch.setattr(LoadedModel, "predict", twice)
    assert_found(Promise01Answered, INLINE, "has run it 2 times alone")


def test_an_answer_to_somebody_else_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch whose answers are handed out in the wrong order answers with another number."""
    together: Callable[[LoadedModel, list[Request]], None] = worker._run_together

    def reversed_answers(loaded: LoadedModel, group: list[Request]) -> None:
        together(loaded, group)
        replies = [request.reply for request in group]
        for request, reply in zip(group, reversed(replies), strict=True):
            request.reply = reply

    monkeypatch.setattr(worker, "_run_together", reversed_answers)
    assert_found(Promise01Answered, BATCHED, "was answered with")


def test_an_answer_of_another_version_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reply that names a version which has not run the request is not true."""
    make = Reply.__init__

    def misname(reply: Reply, outputs: Any, version: str, **options: Any) -> None:
        del version
        make(reply, outputs, "7", **options)

    monkeypatch.setattr(Reply, "__init__", misname)
    assert_found(Promise01Answered, INLINE, "was answered by a/7, and was run by a/1")


@pytest.mark.parametrize(("ran", "says"), [("no", "is told that it did not run, and was run by a/1"), ("unknown", "")])
def test_an_error_that_denies_a_run_is_found(monkeypatch: pytest.MonkeyPatch, ran: str, says: str) -> None:
    """An error whose `ran` says "no" of a request that was run is a lie; "unknown" is only vague."""
    told = Asking._told

    def deny(asking: Asking) -> ChangeoverError:
        error = told(asking)
        error.ran = ran  # type: ignore[assignment]
        return error

    monkeypatch.setattr(Asking, "_told", deny)
    if says:
        assert_found(Promise01Answered, FAILING, says)
    else:
        assert_silent(Promise01Answered, FAILING)


def test_an_error_that_claims_a_run_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """An error whose `ran` says "yes" of a request that no model saw is a lie."""
    told = Asking._told

    def claim(asking: Asking) -> ChangeoverError:
        error = told(asking)
        error.ran = "yes"
        return error

    monkeypatch.setattr(Asking, "_told", claim)
    assert_found(Promise01Answered, FULL, "is told that it ran, and was run by nobody")


def test_a_request_that_stays_in_the_queue_of_its_caller_who_left_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cancelled in the queue a request is not there any more, so that it never runs."""

    def stay(inference: Inference, request: Request) -> None:
        inference._left = request
        inference._home.forget(request)
        inference._dismiss()

    monkeypatch.setattr(Inference, "leave", stay)
    assert_found(Promise01Answered, CANCELLED, "has ended, and still waits in a queue")


def test_a_request_that_is_run_behind_its_refusal_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is told that his request did not run can ask it elsewhere: it is not run later."""
    told, refused = Asking._told, list[Callable[[], object]]()

    def run_an_earlier_one(asking: Asking) -> ChangeoverError:
        error = told(asking)
        (loaded,) = asking._world.host.living()
        inputs = asking._inputs
        refused.append(lambda: loaded.predict(inputs))
        if len(refused) > 1 and loaded.is_open:
            refused.pop(0)()
        return error

    monkeypatch.setattr(Asking, "_told", run_an_earlier_one)
    assert_found(Promise01Answered, FULL, "after its end, which says that it would not be")


def test_an_error_without_a_reason_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model with a ready version is never "not ready", whatever is swapped meanwhile."""
    pin, pinned = Router.pin_request, list[str]()

    def refuse(router: Router, use: Any, model: str, key: str | None) -> Any:
        pinned.append(model)
        if len(pinned) % 4 == 0:
            raise NotReady("it is not there just now", model=model)
        return pin(router, use, model, key)

    monkeypatch.setattr(Router, "pin_request", refuse)
    split = shape((("asker", 3), ("swapper", 1)), parts("1", "2"), plans=("canary",), horizon_s=4.0)
    assert_found(Promise01Answered, split, "NotReady has no reason")


def test_an_error_that_belongs_to_no_such_call_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request never ends with an error that only orders end with."""

    def refuse(_inference: Inference) -> None:
        raise AlreadyLoaded("it is loaded")

    monkeypatch.setattr(Inference, "begin", refuse)
    assert_found(Promise01Answered, INLINE, "AlreadyLoaded is none of the errors of infer")


def test_a_stream_without_its_last_chunk_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream that is read to its end has all of its chunks."""
    stream = LoadedModel.stream

    def shorten(loaded: LoadedModel, inputs: Any) -> Any:
        chunks = stream(loaded, inputs)
        yield next(chunks)
        yield next(chunks)
        chunks.close()

    monkeypatch.setattr(LoadedModel, "stream", shorten)
    assert_found(Promise01Answered, STREAMS, "was answered in 2 chunks, and not in 3")


def test_a_caller_who_is_left_waiting_by_a_close_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """When the engine is closed, those whose threads hang are told so at once, and not when the threads come back."""
    monkeypatch.setattr(Replies, "give_up", lambda _replies: None)
    assert_found(Promise01Answered, HUNG, "was left without an answer when the engine was closed")


def test_a_request_that_goes_beyond_its_time_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request with a limit ends within it."""
    late = {**vars(trio), "move_on_after": lambda limit_s: trio.move_on_after(limit_s + 0.25)}
    monkeypatch.setattr(calls, "trio", SimpleNamespace(**late))
    assert_found(Promise01Answered, CANCELLED, "s, and took")


def test_a_request_that_does_not_move_on_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request that has not begun moves on when its version crashes, where another one takes requests."""
    small = shape(
        (("asker", 6), ("loader", 1)), parts("1", "2", execution="worker", predict_s=(0.25,)),
        faults=["model-beyond-use", "predict-raises"], horizon_s=8.0, hurry=0.8,
    )  # fmt: skip
    assert_silent(Promise01Answered, small)

    def stay(asking: Asking, error: ChangeoverError, kind: str, **_options: Any) -> None:
        del kind
        asking._write_down(error)
        asking._dismiss()

    monkeypatch.setattr(Asking, "_elsewhere", stay)
    assert_found(Promise01Answered, small, "VersionCrashed has no reason")
