"""Requests to several models at once: answered by versions of one moment, all or none, and nothing is left behind."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import trio

from changeover import Batching, Drain, Reply, VersionKey
from changeover.errors import (
    ChangeoverError,
    EngineClosed,
    InvalidInput,
    InvalidValue,
    LeaseRevoked,
    ModelNotRegistered,
    NotReady,
    Overloaded,
    PredictFailed,
    RequestTimeout,
    VersionCrashed,
)
from changeover.runtime.orders import Evict
from changeover.runtime.ports import TrioWake
from changeover.runtime.worker import Replies, Request
from tests.support.models import BATCHED, Broken, first_column
from tests.support.rig import Outcome, Rig, open_rig, running, settle
from tests.support.threads import Crowd, patient

SETS = 10_000
OLD, NEW = {"a": "1", "b": "1", "c": "1"}, {"a": "2", "b": "2", "c": "2"}
MODELS = tuple(OLD)
WORKERS = dict.fromkeys(MODELS, "worker")
MIXED = {"a": "worker", "b": "inline", "c": "worker"}
EVERY_WAY = pytest.mark.parametrize("ways", [dict.fromkeys(MODELS, "inline"), WORKERS, MIXED], ids=str)
CANCEL = Drain(0.0, "cancel", 5.0)


async def three(rig: Rig, ways: dict[str, str] = WORKERS, versions: str = "12", **fields: Any) -> None:
    """Load versions of three models; the first of each has the traffic."""
    for version in versions:
        for model in MODELS:
            await rig.ready(model, version, execution=ways[model], **fields)


def shift(rig: Rig, to: dict[str, str]) -> None:
    """Move the traffic of several models in one step, as a swap of a group does."""
    rig.engine._router.shift(to)


def requests(**inputs: Any) -> dict[str, Any]:
    """Return what to ask of three models."""
    return {model: inputs.get(model, {}) for model in MODELS}


def versions(replies: dict[str, Reply]) -> str:
    """Return who answered, side by side."""
    return "".join(reply.version for reply in replies.values())


def calls(rig: Rig, key: str) -> int:
    """Return how often the models of a version were called."""
    return sum(len(made.calls) for made in rig.cast.of(*key.split("/")))


def held(rig: Rig) -> dict[str, list[str]]:
    """Return who holds what, by version and kind."""
    return {str(key): [holder.kind for holder in holders] for key, holders in rig.engine.audit().holders.items()}


def assert_nothing_left(rig: Rig) -> None:
    """Every reference was given back, each once; nobody waits, and nothing is expected or arrived."""
    audit = rig.engine.audit()
    assert (audit.clean, audit.total.over_releases) == (True, 0), audit
    replies = rig.engine._host.replies
    assert (dict(replies._expected), list(replies._done)) == ({}, [])
    assert all(len(loaded.lane) == 0 for loaded in rig.engine._host.living())


# --- a set ----------------------------------------------------------------------------------------------------------


@EVERY_WAY
async def test_every_model_answers_its_request(rig: Rig, ways: dict[str, str], autojump_clock: Any) -> None:
    """The answers come in the order asked, each with its version, and nothing is held behind them."""
    await three(rig, ways)
    replies = await rig.engine.infer_many({"c": {"n": 3}, "a": {"n": 1}})
    assert [(model, reply.version, reply.outputs["n"], reply.fell_back) for model, reply in replies.items()] == [
        ("c", "1", 3, False),
        ("a", "1", 1, False),
    ]
    assert_nothing_left(rig)


async def test_workers_answer_at_the_same_time(rig: Rig, autojump_clock: Any) -> None:
    """The set takes as long as its slowest member; inline ones are called while workers are at it."""
    await three(rig, MIXED)
    waiting: list[int] = []
    lanes = [loaded.lane for loaded in rig.engine._host.living() if loaded.key.version == "1"]
    rig.script("b", "1").on_predict = lambda _inputs: waiting.extend(map(len, lanes))
    for model, takes_s in (("a", 3.0), ("c", 2.0)):
        rig.takes(f"worker {model}/1 0", takes_s)
    outcome = Outcome(rig.engine.infer_many, requests())
    async with running(outcome):
        assert held(rig) == {"a/1": ["request"], "c/1": ["request"]}
    assert waiting == [1, 0, 1]
    assert (list(outcome.value), outcome.ended_s) == (["a", "b", "c"], 3.0)
    assert_nothing_left(rig)


async def test_a_batch_may_hold_members_of_several_sets(rig: Rig, autojump_clock: Any) -> None:
    """Answers that come in one batch are told to each set."""
    await three(rig, batching=Batching(4, 0.5), signature=BATCHED, answers=first_column)
    asked = [{model: {"x": np.array([[number, 0.0]])} for model in MODELS} for number in range(4)]
    outcomes = [Outcome(rig.engine.infer_many, requests) for requests in asked]
    async with running(*outcomes):
        pass
    answers = [[reply.outputs["y"].tolist() for reply in outcome.value.values()] for outcome in outcomes]
    assert answers == [[[number]] * 3 for number in range(4)]
    assert calls(rig, "a/1") == 1
    assert_nothing_left(rig)


@pytest.mark.parametrize("bad", [{}, [], None, {"": {}}, {1: {}}])
async def test_a_set_that_makes_no_sense_is_refused(rig: Rig, bad: Any, autojump_clock: Any) -> None:
    """No requests, no mapping, or a name that is none: `InvalidValue`."""
    with pytest.raises(InvalidValue, match=r"requests|model"):
        await rig.engine.infer_many(bad)
    with pytest.raises(InvalidValue, match="timeout_s"):
        await rig.engine.infer_many({"a": {}}, timeout_s=-1.0)


# --- one moment -----------------------------------------------------------------------------------------------------


@EVERY_WAY
async def test_no_set_is_a_mix_while_another_task_flips(rig: Rig, ways: dict[str, str], autojump_clock: Any) -> None:
    """10,000 sets under a stream of flips of the group: each is answered by old versions only, or by new ones."""
    await three(rig, ways)
    found: list[str] = []
    left = [SETS * (1 if "worker" in ways.values() else 3) // 5]

    async def flip() -> None:
        while True:
            for to in (NEW, OLD):
                await trio.lowlevel.checkpoint()
                shift(rig, to)

    async def ask() -> None:
        while left[0] > 0:
            left[0] -= 1
            found.append(versions(await rig.engine.infer_many(requests())))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(flip)
        async with trio.open_nursery() as askers:
            for _ in range(5):
                askers.start_soon(ask)
        nursery.cancel_scope.cancel()
    assert set(found) == {"111", "222"}
    assert_nothing_left(rig)


@pytest.mark.parametrize("at", range(5))
async def test_what_is_flipped_while_the_set_waits_does_not_touch_it(rig: Rig, at: int, autojump_clock: Any) -> None:
    """A set that was begun is answered by what it pinned, whenever the flip comes."""
    await three(rig)
    for model, takes_s in zip(MODELS, (3.0, 1.0, 2.0), strict=True):
        rig.takes(f"worker {model}/1 0", takes_s)
    outcome = Outcome(rig.engine.infer_many, requests())
    async with running(outcome):
        await trio.sleep(at)
        shift(rig, NEW)
        assert versions(await rig.engine.infer_many(requests())) == "222"
    assert versions(outcome.value) == "111"
    assert_nothing_left(rig)


# --- how it fails ---------------------------------------------------------------------------------------------------


@EVERY_WAY
@pytest.mark.parametrize("bad", MODELS)
async def test_one_that_raises_fails_the_set(rig: Rig, ways: dict[str, str], bad: str, autojump_clock: Any) -> None:
    """The model's error, with a note that names it; the others are given back when their threads are done."""
    await three(rig, ways)
    rig.script(bad, "1").raises = Broken("no")
    outcome = Outcome(rig.engine.infer_many, requests())
    async with running(outcome):
        pass
    assert isinstance(outcome.error, PredictFailed)
    assert (outcome.error.model, outcome.error.ran) == (bad, "yes")
    assert outcome.error.__notes__ == [f"it was asked of {bad} in one set of a, b, c"]
    await settle()
    assert_nothing_left(rig)


async def test_the_first_failure_is_raised_at_once(rig: Rig, autojump_clock: Any) -> None:
    """Nobody waits for the slow ones then: what is queued never runs, and what runs keeps its version until it ends."""
    await three(rig)
    rig.script("b", "1").raises = Broken("no")
    for model, takes_s in zip(MODELS, (5.0, 1.0, 5.0), strict=True):
        rig.takes(f"worker {model}/1 0", takes_s)
    ahead = Outcome(rig.engine.infer, "c", {})
    outcome = Outcome(rig.engine.infer_many, requests())
    async with running(ahead, outcome):
        await trio.sleep(1.0)
        await settle()
        assert (outcome.ended_s, held(rig)) == (1.0, {"a/1": ["request"], "c/1": ["request"]})
    await trio.sleep(10.0)
    assert (calls(rig, "a/1"), calls(rig, "c/1")) == (1, 1)
    assert_nothing_left(rig)


@EVERY_WAY
async def test_bad_input_of_one_is_told_before_any_model_is_called(
    rig: Rig, ways: dict[str, str], autojump_clock: Any
) -> None:
    """`InvalidInput` names the model, no model is called, and nothing is held."""
    await three(rig, ways)
    await rig.ready("d", execution="worker", signature=BATCHED)
    with pytest.raises(InvalidInput, match="d/1") as caught:
        await rig.engine.infer_many({**requests(), "d": {"z": 1}})
    assert caught.value.__notes__ == ["it was asked of d in one set of a, b, c, d"]
    assert sum(calls(rig, f"{model}/1") for model in "abcd") == 0
    assert_nothing_left(rig)


async def test_a_full_queue_of_one_fails_the_set(rig: Rig, autojump_clock: Any) -> None:
    """`Overloaded`, and what was queued of the others is taken out again."""
    await three(rig)
    await rig.ready("d", execution="worker", queue_limit=1)
    for model in "abcd":
        rig.takes(f"worker {model}/1 0", 5.0)
    ahead = [Outcome(rig.engine.infer, model, {}) for model in "abcdd"]
    async with running(*ahead):
        with pytest.raises(Overloaded, match="d/1"):
            await rig.engine.infer_many({**requests(), "d": {}})
        assert {key: len(kinds) for key, kinds in held(rig).items()} == {"a/1": 1, "b/1": 1, "c/1": 1, "d/1": 2}
    assert [calls(rig, f"{model}/1") for model in "abcd"] == [1, 1, 1, 2]
    assert_nothing_left(rig)


@pytest.mark.parametrize(
    ("missing", "kind"), [("d", NotReady), ("nobody", ModelNotRegistered)], ids=["not loaded", "unknown"]
)
async def test_where_one_is_missing_nobody_is_asked(
    rig: Rig, missing: str, kind: type[ChangeoverError], autojump_clock: Any
) -> None:
    """The error is what a request to that model alone would raise."""
    await three(rig)
    rig.add("d")
    with pytest.raises(kind, match=missing):
        await rig.engine.infer_many({**requests(), missing: {}})
    assert sum(calls(rig, f"{model}/1") for model in MODELS) == 0
    assert_nothing_left(rig)


@EVERY_WAY
async def test_an_interruption_in_the_middle_leaves_nothing(
    rig: Rig, ways: dict[str, str], autojump_clock: Any
) -> None:
    """What is no error of ours, a Ctrl-C in an inline model say, comes out as it is, and nothing is held behind it."""
    await three(rig, ways)
    await rig.ready("d", raises=KeyboardInterrupt())
    await rig.ready("e")
    with pytest.raises(KeyboardInterrupt):
        await rig.engine.infer_many({**requests(), "d": {}, "e": {}})
    await settle()
    assert calls(rig, "e/1") == 0
    assert_nothing_left(rig)


# --- who goes away --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("queued", [False, True], ids=["running", "in the queue"])
@pytest.mark.parametrize("how", ["cancelled", "timed out"])
async def test_who_goes_away_holds_nothing(rig: Rig, how: str, queued: bool, autojump_clock: Any) -> None:
    """What is queued never runs; what runs keeps its version until its thread is done."""
    await three(rig)
    rig.takes("worker b/1 0", 5.0)
    ahead = [Outcome(rig.engine.infer, "b", {}) for _ in range(queued)]
    async with running(*ahead):
        if how == "cancelled":
            with trio.move_on_after(1.0) as scope:
                await rig.engine.infer_many(requests())
            assert scope.cancelled_caught
        else:
            with pytest.raises(RequestTimeout, match=r"^b/1 did not answer within 1 s") as caught:
                await rig.engine.infer_many(requests(), timeout_s=1.0)
            assert (caught.value.model, caught.value.version, caught.value.ran) == ("b", "1", "unknown")
        assert (trio.current_time(), held(rig)) == (1.0, {"b/1": ["request"]})
    await trio.sleep(10.0)
    assert calls(rig, "b/1") == 1
    assert_nothing_left(rig)


async def test_the_answers_of_a_set_that_was_left_wake_nobody(rig: Rig, autojump_clock: Any) -> None:
    """A thread that comes back for nobody does not trouble the loop."""
    await three(rig)
    for model in MODELS:
        rig.takes(f"worker {model}/1 0", 5.0)
    with trio.move_on_after(1.0):
        await rig.engine.infer_many(requests())
    taken: list[Any] = []
    rig.engine._host.replies.take = taken.append  # type: ignore[method-assign]
    await trio.sleep(10.0)
    assert (taken, [calls(rig, f"{model}/1") for model in MODELS]) == ([], [1, 1, 1])
    assert_nothing_left(rig)


async def test_a_set_that_was_never_begun_says_so(rig: Rig, autojump_clock: Any) -> None:
    """Out of time in the queues of all of its models, it tells that nothing ran."""
    await three(rig)
    for model in MODELS:
        rig.takes(f"worker {model}/1 0", 5.0)
    ahead = [Outcome(rig.engine.infer, model, {}) for model in MODELS]
    async with running(*ahead):
        with pytest.raises(RequestTimeout, match="a/1, b/1, c/1") as caught:
            await rig.engine.infer_many(requests(), timeout_s=1.0)
    assert (caught.value.ran, [calls(rig, f"{model}/1") for model in MODELS]) == ("no", [1, 1, 1])
    assert_nothing_left(rig)


# --- versions that go -----------------------------------------------------------------------------------------------


def poison(inputs: Any) -> bool:
    """What breaks a version."""
    return "poison" in inputs


@pytest.mark.parametrize("how", ["crash", "drain"])
async def test_where_a_version_goes_before_it_began_the_whole_set_begins_anew(
    rig: Rig, how: str, autojump_clock: Any
) -> None:
    """The set is answered by versions of one moment, though two of its models had answered already."""
    await three(rig, fatal_on=poison)
    rig.takes("worker b/1 0", 2.0)
    first = Outcome(rig.engine.infer, "b", {"poison": 1} if how == "crash" else {})
    outcome = Outcome(rig.engine.infer_many, requests())
    async with running(first, outcome):
        await trio.sleep(1.0)
        shift(rig, NEW)
        if how == "drain":
            await rig.engine.unload("b", "1", drain=CANCEL)
    assert (versions(outcome.value), outcome.value["b"].fell_back) == ("222", False)
    assert (calls(rig, "a/1"), calls(rig, "a/2"), calls(rig, "b/1")) == (1, 1, 1)
    await settle()
    assert_nothing_left(rig)


async def test_what_has_begun_is_not_given_to_another(rig: Rig, autojump_clock: Any) -> None:
    """A request that broke its version is answered by an error that says that it ran."""
    await three(rig, fatal_on=poison)
    outcome = Outcome(rig.engine.infer_many, requests(b={"poison": 1}))
    async with running(outcome):
        shift(rig, NEW)
    assert isinstance(outcome.error, VersionCrashed)
    assert (outcome.error.model, outcome.error.ran, calls(rig, "b/2")) == ("b", "yes", 0)
    await trio.sleep(60.0)
    assert_nothing_left(rig)


async def test_where_nobody_else_is_there_the_set_is_told_what_went(rig: Rig, autojump_clock: Any) -> None:
    """The version that went is the error, and why nobody else was asked its cause; others of the set have run."""
    await three(rig, versions="1")
    rig.takes("worker b/1 0", 2.0)
    first, outcome = Outcome(rig.engine.infer, "b", {}), Outcome(rig.engine.infer_many, requests())
    async with running(first, outcome):
        await rig.engine.unload("b", "1", drain=CANCEL, force=True)
    assert isinstance(outcome.error, LeaseRevoked)
    assert isinstance(outcome.error.__cause__, NotReady)
    assert (outcome.error.model, outcome.error.ran) == ("b", "unknown")
    assert_nothing_left(rig)


async def test_a_set_moves_no_more_often_than_a_request(rig: Rig, autojump_clock: Any) -> None:
    """After so many versions that went it is told of the last, with notes of those before."""
    for number in range(12):
        await rig.ready("a", str(number), execution="worker")
        rig.takes(f"worker a/{number} 0", 1_000.0)
    await rig.ready("b", execution="worker")
    ahead = [Outcome(rig.engine.infer, "a", {}, version=str(number), timeout_s=900.0) for number in range(12)]
    outcome = Outcome(rig.engine.infer_many, {"a": {}, "b": {}})
    async with running(*ahead, outcome):
        while not outcome.over:
            await rig.engine.unload("a", str(rig.engine._router.active("a")), drain=Drain(0.0, "cancel", 0.0))
            await settle()
    assert isinstance(outcome.error, LeaseRevoked)
    assert sum("in vain" in note for note in outcome.error.__notes__) == 8
    assert (calls(rig, "b/1"), sum(calls(rig, f"a/{number}") for number in range(12))) == (9, 0)
    await trio.sleep(2_000.0)
    assert_nothing_left(rig)


# --- eviction and the end -------------------------------------------------------------------------------------------


@EVERY_WAY
async def test_an_evicted_member_is_waited_for(ways: dict[str, str], autojump_clock: Any) -> None:
    """The set is asked when all are there; out of time before that, it says so."""
    async with open_rig(memory_budget_bytes=25) as rig:
        for model in MODELS:  # the third does not fit beside the others
            await rig.ready(model, memory_hint_bytes=10, execution=ways[model])
            await trio.sleep(1.0)
        rig.takes("load a/1", 2.0)
        began_s = trio.current_time()
        with pytest.raises(RequestTimeout, match="c, a not all were loaded again within 1 s"):
            await rig.engine.infer_many({"c": {}, "a": {}}, timeout_s=1.0)
        assert versions(await rig.engine.infer_many({"c": {}, "a": {}})) == "11"
        assert trio.current_time() == began_s + 2.0
        assert_nothing_left(rig)


async def test_a_set_that_never_fits_is_given_up(autojump_clock: Any) -> None:
    """Where each reload makes another member go, it ends with `NotReady` after some rounds, and not never."""
    async with open_rig(memory_budget_bytes=15) as rig:
        for model in "ab":
            await rig.ready(model, memory_hint_bytes=10)
        with pytest.raises(NotReady, match="the set was not there as a whole before"):
            await rig.engine.infer_many({"a": {}, "b": {}})
        assert len(rig.cast.made) <= 2 + 2 * 2 + 1
        assert_nothing_left(rig)


async def test_a_set_that_has_run_and_waits_in_vain_for_an_eviction_has_run(rig: Rig, autojump_clock: Any) -> None:
    """Model a answers, b goes before it began, the set begins anew, and a was evicted and does not come back."""
    await three(rig, versions="1")
    await rig.ready("b", "2")
    rig.takes("worker b/1 0", 5.0)
    ahead, outcome = Outcome(rig.engine.infer, "b", {}, version="1"), Outcome(rig.engine.infer_many, {"a": {}, "b": {}})
    async with running(ahead, outcome):
        await settle()
        rig.script("a", "1").load_error = Broken("gone for good")
        evicted = rig.engine._versions[VersionKey("a", "1")]
        assert evicted.loaded is not None
        evicted.post(Evict(evicted.loaded))
        await rig.engine.unload("b", "1", drain=CANCEL)
    assert isinstance(outcome.error, NotReady)
    assert (outcome.error.model, outcome.error.ran, calls(rig, "a/1")) == ("a", "unknown", 1)
    assert_nothing_left(rig)


async def test_an_engine_that_is_closed_answers_every_set(autojump_clock: Any) -> None:
    """One whose thread hangs is told so, a new one `EngineClosed`; nobody waits for ever."""
    outcome = Outcome(lambda: engine.infer_many(requests()))
    async with trio.open_nursery() as callers:
        async with open_rig(close_timeout_s=1.0) as rig:
            engine = rig.engine
            await three(rig)
            rig.takes("worker b/1 0", 100.0)
            callers.start_soon(outcome.run)
            await settle()
        assert outcome.over
        assert isinstance(outcome.error, VersionCrashed)
        assert outcome.error.ran == "unknown"
        with pytest.raises(EngineClosed):
            await engine.infer_many(requests())
    assert not engine._host.replies._expected


# --- real threads ---------------------------------------------------------------------------------------------------


@EVERY_WAY
async def test_no_set_is_a_mix_with_real_threads(ways: dict[str, str]) -> None:
    """While another thread wishes for flips all the time, sets of many tasks are never a mix, and the books balance."""
    async with open_rig(real=True) as rig:
        await three(rig, ways)
        crowd, over, found = Crowd(), threading.Event(), list[str]()
        token = trio.lowlevel.current_trio_token()

        def flip() -> None:
            while not over.is_set():
                for to in (NEW, OLD):
                    trio.from_thread.run_sync(shift, rig, to, trio_token=token)

        async def ask() -> None:
            for _ in range(100):
                found.append(versions(await rig.engine.infer_many(requests())))

        crowd.add(flip)
        crowd.start()
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(ask)
        over.set()
        await trio.to_thread.run_sync(crowd.join)
        assert (set(found), len(found)) == ({"111", "222"}, 500)
        assert_nothing_left(rig)


async def test_a_model_for_one_thread_is_waited_for_aside() -> None:
    """An inline member whose turn another thread has is answered in a thread of its own, as a request is."""
    async with open_rig(real=True) as rig:
        began, go = threading.Event(), threading.Event()

        def wait(inputs: Any) -> None:
            if "slow" in inputs:
                began.set()
                assert patient(go)

        await three(rig, dict.fromkeys(MODELS, "inline"), thread_safe=False, on_predict=wait)
        crowd = Crowd()
        crowd.add(_lease_slowly, rig)
        crowd.start()
        await trio.to_thread.run_sync(patient, began)
        async with trio.open_nursery() as nursery:
            outcome = Outcome(rig.engine.infer_many, requests())
            nursery.start_soon(outcome.run)
            await settle(0.01)
            assert not outcome.over
            go.set()
        await trio.to_thread.run_sync(crowd.join)
        assert versions(outcome.value) == "111"
        assert_nothing_left(rig)


async def test_the_turn_with_a_model_for_one_thread_is_given_back(rig: Rig, autojump_clock: Any) -> None:
    """Whether it answers or raises, the next thread has it."""
    await three(rig, dict.fromkeys(MODELS, "inline"), thread_safe=False, fails_on=lambda inputs: "bad" in inputs)
    await rig.engine.infer_many(requests())
    with pytest.raises(PredictFailed):
        await rig.engine.infer_many(requests(b={"bad": 1}))
    for loaded in rig.engine._host.living():
        assert loaded.take_turn(), loaded.key
        loaded.end_turn()
    assert_nothing_left(rig)


def _lease_slowly(rig: Rig) -> None:
    with rig.engine.lease("b") as lease:
        lease.infer({"slow": 1})


async def test_who_waits_anew_when_the_engine_was_closed_is_answered(autojump_clock: Any) -> None:
    """A set sleeps again after each answer: where nobody is left to wake it, it hears so at once."""
    woken: list[Any] = []
    replies = Replies(TrioWake(trio.lowlevel.current_trio_token()), woken.append)
    account: Any = SimpleNamespace(owner=SimpleNamespace(key=VersionKey("m", "1")))
    replies.give_up()
    request = Request(account, 1, {}, 1, 0.0, replies, "somebody")
    replies.expect_again(request)
    await settle()
    assert woken == ["somebody"]
    assert isinstance(request.error, VersionCrashed)
