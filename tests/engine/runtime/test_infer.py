"""Requests: in the caller's own thread or by workers, one by one or in batches, and what becomes of each."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
import trio

from changeover import Batching
from changeover.errors import (
    InvalidInput,
    InvalidValue,
    ModelNotRegistered,
    NotReady,
    Overloaded,
    PredictFailed,
    RequestTimeout,
    VersionCrashed,
)
from changeover.plugin import Signature, TensorSpec
from tests.support.models import BATCHED, Broken, first_column
from tests.support.rig import Outcome, Rig, open_rig, running, settle
from tests.support.threads import patient


def rows(*numbers: float) -> dict[str, Any]:
    """Return the inputs of a batched request: one row for each number."""
    return {"x": np.array([[number, 0.0] for number in numbers])}


def held(rig: Rig) -> int:
    """Return how many references m/1 has."""
    return rig.engine.references.count("m", "1")


async def asked(rig: Rig, *requests: dict[str, Any], **options: Any) -> list[Outcome]:
    """Make requests in this order, all at the same time, and return what came of each."""
    outcomes = [Outcome(rig.engine.infer, "m", inputs, **options) for inputs in requests]
    async with running(*outcomes):
        pass
    return outcomes


# --- inline ---------------------------------------------------------------------------------------------------------


async def test_an_inline_request_is_answered_in_the_callers_own_thread(rig: Rig, autojump_clock: Any) -> None:
    """The model is called right here, under a reference, and the reply names its version."""
    seen: list[Any] = []
    await rig.ready(on_predict=lambda _inputs: seen.append((threading.current_thread(), held(rig))))
    reply = await rig.engine.infer("m", {"n": 1})
    assert (reply.outputs, reply.version, reply.fell_back) == ({"version": "1", "n": 1}, "1", False)
    assert (seen, held(rig)) == ([(threading.current_thread(), 1)], 0)


async def test_inline_requests_let_others_run(rig: Rig, autojump_clock: Any) -> None:
    """A loop of inline requests is no loop without end for its neighbours: each is a checkpoint."""
    await rig.ready()
    with trio.CancelScope() as scope:
        scope.cancel()
        while True:
            await rig.engine.infer("m", {})
    assert scope.cancelled_caught
    assert rig.engine.audit().clean


@pytest.mark.parametrize("execution", ["inline", "worker"])
async def test_an_error_of_the_model_is_its_callers(rig: Rig, execution: Any, autojump_clock: Any) -> None:
    """`PredictFailed` names the version, keeps the model's exception as its cause, and says that it ran."""
    await rig.ready(execution=execution, fails_on=lambda inputs: "bad" in inputs)
    with pytest.raises(PredictFailed, match=r"m/1 raised Broken: m/1 cannot answer") as caught:
        await rig.engine.infer("m", {"bad": 1})
    assert isinstance(caught.value.__cause__, Broken)
    assert (caught.value.ran, caught.value.model, caught.value.version) == ("yes", "m", "1")
    assert (await rig.engine.infer("m", {})).version == "1"
    assert held(rig) == 0


@pytest.mark.parametrize("execution", ["inline", "worker"])
async def test_an_answer_must_be_a_mapping(rig: Rig, execution: Any, autojump_clock: Any) -> None:
    """A model that returns anything else failed that request."""
    await rig.ready(execution=execution, answers=lambda _inputs: [1, 2])
    with pytest.raises(PredictFailed, match="m/1 returned list; predict must return a mapping"):
        await rig.engine.infer("m", {})
    assert held(rig) == 0


async def test_a_version_can_be_named(rig: Rig, autojump_clock: Any) -> None:
    """A named version answers whether or not it has the traffic."""
    for version, execution in (("1", "inline"), ("2", "worker")):
        await rig.ready("m", version, execution=execution)
    assert (await rig.engine.infer("m", {}, version="2")).version == "2"
    assert (await rig.engine.infer("m", {})).version == "1"


async def test_what_nobody_can_answer_is_said_why(rig: Rig, autojump_clock: Any) -> None:
    """An unknown model, an unknown version, and a model without a ready version are told apart."""
    with pytest.raises(ModelNotRegistered, match="no model is called 'm'"):
        await rig.engine.infer("m", {})
    rig.add()
    with pytest.raises(NotReady, match="1 is registered"):
        await rig.engine.infer("m", {})
    with pytest.raises(ModelNotRegistered, match="no version '7'"):
        await rig.engine.infer("m", {}, version="7")


# --- workers --------------------------------------------------------------------------------------------------------


async def test_a_worker_answers_one_request_after_the_other(rig: Rig, autojump_clock: Any) -> None:
    """One worker, three seconds each: the answers come in the order of the requests."""
    await rig.ready(execution="worker")
    rig.takes("worker m/1 0", 3.0)
    outcomes = await asked(rig, *({"n": n} for n in range(4)))
    assert [(o.value.outputs["n"], o.ended_s) for o in outcomes] == [(0, 3.0), (1, 6.0), (2, 9.0), (3, 12.0)]
    assert rig.engine.statistics().versions[("m", "1")].predictions == 4


async def test_two_workers_share_one_queue(rig: Rig, autojump_clock: Any) -> None:
    """Requests are begun in order by whoever is free."""
    await rig.ready(execution="worker", workers=2)
    for number in range(2):
        rig.takes(f"worker m/1 {number}", 3.0)
    outcomes = await asked(rig, *({"n": n} for n in range(4)))
    assert [o.ended_s for o in outcomes] == [3.0, 3.0, 6.0, 6.0]
    assert sorted(call["n"] for call in rig.cast.made[0].calls) == [0, 1, 2, 3]


async def test_the_loop_goes_on_while_a_worker_works() -> None:
    """A request that blocks a real thread holds up nobody else; its reference lasts until the thread is done."""
    async with open_rig(real=True) as rig:
        gate, started = threading.Event(), threading.Event()

        def block(inputs: Any) -> None:
            if "slow" in inputs:
                started.set()
                assert patient(gate)

        await rig.ready(execution="worker", on_predict=block)
        await rig.ready("other", execution="worker")
        slow = Outcome(rig.engine.infer, "m", {"slow": 1})
        async with running(slow):
            await trio.to_thread.run_sync(patient, started)
            for n in range(20):
                assert (await rig.engine.infer("other", {"n": n})).outputs["n"] == n
            assert (slow.over, held(rig)) == (False, 1)
            gate.set()
        assert slow.value.version == "1"
        assert held(rig) == 0


async def test_a_full_queue_refuses_and_says_how_much_fits(rig: Rig, autojump_clock: Any) -> None:
    """One request runs, two wait, and the next one is `Overloaded`: it never ran, holds nothing, and may try again."""
    await rig.ready(execution="worker", queue_limit=2)
    rig.takes("worker m/1 0", 3.0)
    first = [Outcome(rig.engine.infer, "m", {"n": n}) for n in range(3)]
    async with running(*first):
        assert rig.engine.statistics().versions[("m", "1")].queued == 2
        with pytest.raises(Overloaded, match=r"2 requests wait for m/1.*queue_limit") as caught:
            await rig.engine.infer("m", {"n": 9})
        assert (caught.value.ran, caught.value.retryable, held(rig)) == ("no", True, 3)
        await trio.sleep(3)
        assert (await rig.engine.infer("m", {"n": 10})).version == "1"
    assert [o.value.outputs["n"] for o in first] == [0, 1, 2]


# --- time limits and cancellation -----------------------------------------------------------------------------------


async def test_a_request_that_never_ran_in_time_says_so(rig: Rig, autojump_clock: Any) -> None:
    """Out of time in the queue: it will never run, and can be sent again without fear."""
    await rig.ready(execution="worker")
    rig.takes("worker m/1 0", 10.0)
    async with running(Outcome(rig.engine.infer, "m", {"n": 0})):
        with pytest.raises(RequestTimeout, match="m/1 did not answer within 2 s") as caught:
            await rig.engine.infer("m", {"n": 1}, timeout_s=2.0)
        assert (caught.value.ran, trio.current_time(), held(rig)) == ("no", 2.0, 1)
    await trio.sleep(20)
    assert [call["n"] for call in rig.cast.made[0].calls] == [0]


async def test_a_request_that_runs_when_its_time_is_up_may_have_had_its_effect(rig: Rig, autojump_clock: Any) -> None:
    """Out of time in the worker's hands: nobody knows whether it ran, and its reference lasts until it is over."""
    await rig.ready(execution="worker")
    rig.takes("worker m/1 0", 10.0)
    with pytest.raises(RequestTimeout) as caught:
        await rig.engine.infer("m", {"n": 0}, timeout_s=2.0)
    assert (caught.value.ran, held(rig)) == ("unknown", 1)
    await trio.sleep(10)
    assert (held(rig), rig.engine.audit().clean) == (0, True)


@pytest.mark.parametrize("timeout_s", [0, 0.0])
async def test_no_time_at_all_is_too_little(rig: Rig, timeout_s: float, autojump_clock: Any) -> None:
    """With a limit of zero a request to a busy worker is not run."""
    await rig.ready(execution="worker")
    with pytest.raises(RequestTimeout):
        await rig.engine.infer("m", {"n": 0}, timeout_s=timeout_s)
    await settle()
    assert rig.engine.audit().clean


@pytest.mark.parametrize("timeout_s", [-1.0, float("nan"), float("inf"), "soon"])
async def test_a_time_limit_that_makes_no_sense_is_refused_by_name(
    rig: Rig, timeout_s: Any, autojump_clock: Any
) -> None:
    """`timeout_s` is a finite number of seconds."""
    await rig.ready(execution="worker")
    with pytest.raises(InvalidValue, match="timeout_s"):
        await rig.engine.infer("m", {}, timeout_s=timeout_s)
    assert rig.engine.audit().total.acquired == 0


async def test_a_request_that_is_cancelled_in_the_queue_never_runs(rig: Rig, autojump_clock: Any) -> None:
    """It is withdrawn at once, with its reference, and makes room for another one."""
    await rig.ready(execution="worker", queue_limit=1)
    rig.takes("worker m/1 0", 10.0)
    async with running(Outcome(rig.engine.infer, "m", {"n": 0})):
        with trio.move_on_after(2) as scope:
            await rig.engine.infer("m", {"n": 1})
        assert (scope.cancelled_caught, trio.current_time(), held(rig)) == (True, 2.0, 1)
        assert (await rig.engine.infer("m", {"n": 2})).outputs["n"] == 2
    assert [call["n"] for call in rig.cast.made[0].calls] == [0, 2]


async def test_a_request_that_is_cancelled_while_it_runs_keeps_its_reference(rig: Rig, autojump_clock: Any) -> None:
    """The caller leaves at once; the model stays held, and open through an unload, until its thread is done."""
    await rig.ready(execution="worker")
    rig.takes("worker m/1 0", 10.0)
    with trio.move_on_after(2) as scope:
        await rig.engine.infer("m", {"n": 0})
    assert (scope.cancelled_caught, trio.current_time(), held(rig)) == (True, 2.0, 1)
    unload = Outcome(rig.engine.unload, "m", "1", force=True)
    async with running(unload):
        await trio.sleep(5)
        assert (unload.over, rig.cast.open()) == (False, ["m/1"])
    assert (unload.ended_s, rig.engine.audit().clean) == (10.0, True)


async def test_a_request_that_is_cancelled_before_it_is_placed_takes_nothing(rig: Rig, autojump_clock: Any) -> None:
    """Cancelled on the way in, there was never a reference."""
    await rig.ready(execution="worker")
    with trio.CancelScope() as scope:
        scope.cancel()
        await rig.engine.infer("m", {})
    assert rig.engine.audit().total.acquired == 0


# --- batches --------------------------------------------------------------------------------------------------------


async def ready_batched(rig: Rig, max_batch: int = 4, max_delay_s: float = 0.5, **fields: Any) -> None:
    """Load a model that answers batches with the first column."""
    batching = Batching(max_batch, max_delay_s)
    await rig.ready(execution="worker", batching=batching, **{"signature": BATCHED, "answers": first_column} | fields)


def sizes(rig: Rig) -> list[int]:
    """Return how many rows each call of the model had."""
    return [len(call["x"]) for call in rig.cast.made[0].calls]


async def test_requests_at_once_are_one_call(rig: Rig, autojump_clock: Any) -> None:
    """A full batch goes at once, and each request gets its own rows of the answer."""
    await ready_batched(rig)
    outcomes = await asked(rig, *(rows(n) for n in range(4)))
    assert [o.value.outputs["y"].tolist() for o in outcomes] == [[0.0], [1.0], [2.0], [3.0]]
    assert (sizes(rig), trio.current_time()) == ([4], 0.0)


async def test_an_incomplete_batch_goes_when_its_first_request_has_waited(rig: Rig, autojump_clock: Any) -> None:
    """The delay is that of the oldest request; late-comers do not prolong it."""
    await ready_batched(rig)
    first, second = Outcome(rig.engine.infer, "m", rows(1)), Outcome(rig.engine.infer, "m", rows(2))
    async with running(first):
        await trio.sleep(0.3)
        async with running(second):
            pass
    assert (sizes(rig), first.ended_s, second.ended_s) == ([2], 0.5, 0.5)


async def test_requests_with_several_rows_share_a_batch(rig: Rig, autojump_clock: Any) -> None:
    """Rows are joined and split again, whatever number each request brings; none is torn apart."""
    await ready_batched(rig, max_batch=6)
    requests = [(1.0, 2.0, 3.0), (4.0,), (5.0, 6.0), (7.0, 8.0, 9.0)]
    outcomes = await asked(rig, *(rows(*numbers) for numbers in requests))
    assert [tuple(o.value.outputs["y"].tolist()) for o in outcomes] == requests
    assert sizes(rig) == [6, 3]


async def test_a_request_larger_than_a_batch_goes_alone(rig: Rig, autojump_clock: Any) -> None:
    """It is answered in one call of its own."""
    await ready_batched(rig, max_batch=2)
    outcomes = await asked(rig, rows(1, 2, 3, 4, 5), rows(6))
    assert [o.value.outputs["y"].tolist() for o in outcomes] == [[1, 2, 3, 4, 5], [6]]
    assert sizes(rig) == [5, 1]


async def test_a_bad_request_in_a_batch_fails_alone(rig: Rig, autojump_clock: Any) -> None:
    """A batch that raises is tried again request by request, so only the poisonous one fails."""
    await ready_batched(rig, fails_on=lambda inputs: bool((inputs["x"][:, 0] == 13).any()))
    outcomes = await asked(rig, rows(1), rows(13), rows(2), rows(3))
    assert [type(o.error) for o in outcomes] == [type(None), PredictFailed, type(None), type(None)]
    assert [o.value.outputs["y"].tolist() for o in outcomes if o.error is None] == [[1.0], [2.0], [3.0]]
    assert sizes(rig) == [4, 1, 1, 1, 1]


async def test_a_batch_that_kills_its_model_is_not_tried_again(rig: Rig, autojump_clock: Any) -> None:
    """A fatal error is the outcome of all requests in the call; the next model answers the next one."""
    await ready_batched(rig, fatal_on=lambda inputs: bool((inputs["x"][:, 0] == 13).any()))
    outcomes = await asked(rig, rows(1), rows(13), rows(2), rows(3))
    assert [type(o.error) for o in outcomes] == [VersionCrashed] * 4
    assert len({id(o.error) for o in outcomes}) == 4
    await trio.sleep(1)
    assert (await rig.engine.infer("m", rows(5))).outputs["y"].tolist() == [5.0]


async def test_an_answer_with_the_wrong_number_of_rows_is_no_answer(rig: Rig, autojump_clock: Any) -> None:
    """Outputs that cannot be split are an error of the model, for each request."""
    await ready_batched(rig, answers=lambda inputs: {"y": np.zeros(99)})
    outcomes = await asked(rig, rows(1), rows(2), rows(3), rows(4))
    assert sizes(rig)[0] == 4
    assert all(o.over for o in outcomes)
    assert rig.engine.audit().clean


async def test_inputs_of_different_shapes_are_different_calls(rig: Rig, autojump_clock: Any) -> None:
    """Only requests that differ in their first dimension alone are joined."""
    free = Signature((TensorSpec("x", "", ("batch", None)),), (TensorSpec("y", "", ("batch",)),))
    await ready_batched(rig, signature=free)
    wide, narrow = {"x": np.array([[1.0, 2.0, 3.0]])}, {"x": np.array([[4.0]])}
    outcomes = await asked(rig, wide, narrow, wide, narrow)
    assert [o.value.outputs["y"].tolist() for o in outcomes] == [[1.0], [4.0], [1.0], [4.0]]
    assert sorted(call["x"].shape for call in rig.cast.made[0].calls) == [(2, 1), (2, 3)]


async def test_inputs_of_different_types_are_different_calls(rig: Rig, autojump_clock: Any) -> None:
    """No request's numbers are turned into something else because of its neighbours."""
    free = Signature((TensorSpec("x", "", ("batch", None)),), (TensorSpec("y", "", ("batch",)),))
    await ready_batched(rig, signature=free)
    outcomes = await asked(rig, {"x": np.array([[1]])}, {"x": np.array([["a"]])}, {"x": np.array([[2.5]])})
    assert [o.value.outputs["y"].dtype.kind for o in outcomes] == ["i", "U", "f"]
    assert [o.value.outputs["y"].tolist() for o in outcomes] == [[1], ["a"], [2.5]]


async def test_a_request_that_left_is_not_in_the_batch(rig: Rig, autojump_clock: Any) -> None:
    """Cancelled while the batch gathers, its rows are not computed."""
    await ready_batched(rig)
    stays = Outcome(rig.engine.infer, "m", rows(1))
    async with running(stays):
        with trio.move_on_after(0.2):
            await rig.engine.infer("m", rows(2))
    assert stays.value.outputs["y"].tolist() == [1.0]
    assert sizes(rig) == [1]


async def test_a_batch_that_gathers_is_answered_when_its_version_drains(rig: Rig, autojump_clock: Any) -> None:
    """A swap loses none of the requests that were admitted by the old version, and they end there."""
    await ready_batched(rig, max_batch=100, max_delay_s=5.0)
    rig.add("m", "2")
    outcomes = [Outcome(rig.engine.infer, "m", rows(n)) for n in range(3)]
    async with running(*outcomes):
        await rig.engine.swap("m", "2")
    assert [o.value.version for o in outcomes] == ["1"] * 3
    assert sizes(rig) == [3]


async def test_batches_of_real_threads_give_everybody_his_own() -> None:
    """Sixty-four tasks and two worker threads: each answer is the one to its own question."""
    async with open_rig(real=True) as rig:
        await ready_batched(rig, max_batch=16, max_delay_s=0.001, workers=2)
        answers: dict[int, Any] = {}

        async def ask(number: int) -> None:
            for turn in range(5):
                reply = await rig.engine.infer("m", rows(number, turn))
                answers[number * 5 + turn] = reply.outputs["y"].tolist() == [number, turn]

        async with trio.open_nursery() as nursery:
            for number in range(64):
                nursery.start_soon(ask, number)
        assert len(answers) == 320
        assert all(answers.values())
        assert rig.engine.audit().clean


# --- wrong inputs ---------------------------------------------------------------------------------------------------

WRONG: list[tuple[Any, list[str]]] = [
    ({}, ["missing 'x'"]),
    ({"y": np.zeros((1, 2))}, ["missing 'x'", "unknown 'y'"]),
    ({"x": np.zeros((1, 2)), "z": 1}, ["unknown 'z'", "takes 'x'"]),
    ({"x": np.zeros((1, 3))}, ["'x'", "(batch, 2)", "(1, 3)"]),
    ({"x": np.zeros(2)}, ["'x'", "(batch, 2)", "(2,)"]),
    ({"x": np.zeros((0, 2))}, ["'x'", "no rows"]),
    ({"x": np.zeros((1, 2), dtype="float32")}, ["'x'", "float64", "float32"]),
    ({"x": np.array([["a", "b"]])}, ["'x'", "float64"]),
    ({"x": [[1.0, 2.0]]}, ["'x'", "list"]),
    ({"x": None}, ["'x'"]),
    ([1, 2], ["list"]),
    (None, ["NoneType"]),
    ("x", ["str"]),
]


@pytest.mark.parametrize("execution", ["inline", "worker"])
@pytest.mark.parametrize(("inputs", "says"), WRONG, ids=[str(n) for n in range(len(WRONG))])
async def test_inputs_that_do_not_fit_are_refused_by_name(
    rig: Rig, execution: Any, inputs: Any, says: list[str], autojump_clock: Any
) -> None:
    """The error names the version, the input, what it is and what it should be; the model is not called."""
    await rig.ready(execution=execution, signature=BATCHED, answers=first_column)
    with pytest.raises(InvalidInput, match="m/1") as caught:
        await rig.engine.infer("m", inputs)
    assert all(text in str(caught.value) for text in says)
    assert (rig.cast.made[0].calls, rig.engine.audit().clean, caught.value.ran) == ([], True, "no")


async def test_rows_of_several_inputs_must_agree(rig: Rig, autojump_clock: Any) -> None:
    """Two inputs with different numbers of rows are refused, naming the second one."""
    signature = Signature(
        (TensorSpec("a", "float64", ("batch",)), TensorSpec("b", "float64", ("batch",))),
        (TensorSpec("y", "float64", ("batch",)),),
    )
    await rig.ready(signature=signature)
    with pytest.raises(InvalidInput, match="'b' has 3 rows where another input has 2"):
        await rig.engine.infer("m", {"a": np.zeros(2), "b": np.zeros(3)})
