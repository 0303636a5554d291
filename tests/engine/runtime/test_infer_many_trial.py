"""Sets of requests to models on trial: one side for all, and where one fails on the new side, all go to the old one."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from typing import Any

import pytest
import trio

from changeover import Drain, Reply
from changeover.core.meter import Meter
from changeover.core.routes import Trial
from changeover.errors import (
    InvalidInput,
    LeaseRevoked,
    NotReady,
    Overloaded,
    PredictFailed,
    RequestTimeout,
    VersionCrashed,
)
from tests.support.memory import no_collections
from tests.support.models import BATCHED, UNCHECKED, Broken
from tests.support.rig import Outcome, Rig, open_rig, running, settle

MODELS = ("a", "b", "c")
"""On trial are `a` and `b`, by the same swap; `c` is not."""
INLINE = dict.fromkeys(MODELS, "inline")
WORKERS = dict.fromkeys(MODELS, "worker")
EVERY_WAY = pytest.mark.parametrize(
    "ways",
    [INLINE, WORKERS, {**WORKERS, "a": "inline"}, {**WORKERS, "b": "inline"}],
    ids=["inline", "workers", "a inline", "b inline"],
)
ASKED: dict[str, Any] = {model: {} for model in MODELS}


async def on_trial(
    rig: Rig, ways: dict[str, str] = WORKERS, *, share: float = 1.0, fallback: bool = True, **fields: Any
) -> None:
    """Load two versions of each model and put those of `a` and `b` on trial, as a canary of a group does."""
    for version in "12":
        for model in MODELS:
            await rig.ready(model, version, execution=ways[model], **fields)
    trial = Trial("2", "1", "salt", fallback, swap="swap")
    rig.engine._router.try_out({"a": trial, "b": trial}, share)
    for loaded in rig.engine._host.living():
        loaded.meter = Meter(1_000.0)


def meter(rig: Rig, key: str) -> Meter:
    """Return what is written down of a version."""
    (found,) = [loaded.meter for loaded in rig.engine._host.living() if str(loaded.key) == key]
    assert found is not None
    return found


def noted(rig: Rig, key: str) -> list[tuple[float | None, bool]]:
    """Return the latency of each noted end, and whether it was a failure."""
    return [(latency_s, failed) for spell in meter(rig, key).spells() for _, latency_s, failed in spell]


def answers(replies: dict[str, Reply]) -> list[tuple[str, bool]]:
    """Return who answered, and whether that was for another."""
    return [(reply.version, reply.fell_back) for reply in replies.values()]


def held(rig: Rig) -> dict[str, list[str]]:
    """Return who holds what, by version and kind."""
    return {str(key): [holder.kind for holder in holders] for key, holders in rig.engine.audit().holders.items()}


def calls(rig: Rig, key: str) -> int:
    """Return how often the models of a version were called."""
    return sum(len(made.calls) for made in rig.cast.of(*key.split("/")))


def assert_nothing_left(rig: Rig) -> None:
    """Every reference was given back, each once, and nobody is waited for."""
    audit = rig.engine.audit()
    assert (audit.clean, audit.total.over_releases) == (True, 0), audit
    assert not rig.engine._host.replies._expected


async def asked(rig: Rig, requests: dict[str, Any] = ASKED, **options: Any) -> Outcome:
    """Ask once; when all is quiet nothing may be held."""
    outcome = Outcome(rig.engine.infer_many, requests, **options)
    await outcome.run()
    await settle()
    assert_nothing_left(rig)
    return outcome


# --- one side for all -----------------------------------------------------------------------------------------------


@EVERY_WAY
async def test_one_draw_decides_for_all_in_a_trial(rig: Rig, ways: dict[str, str], autojump_clock: Any) -> None:
    """The models of a trial are asked on the same side of it, by about its share, and with a key always on one."""
    await on_trial(rig, ways, share=0.5)
    found = [answers((await asked(rig)).value)[:2] for _ in range(100)]
    assert {str(both) for both in found} == {str([(version, False)] * 2) for version in "12"}
    assert 30 < found.count([("2", False)] * 2) < 70
    for key in "abcdefgh":
        sides = {str(answers((await asked(rig, key=key)).value)) for _ in range(3)}
        alone = (await rig.engine.infer("b", {}, key=key)).version
        assert sides == {str([(alone, False), (alone, False), ("1", False)])}


async def test_who_stands_by_is_held_until_all_in_the_trial_have_answered(rig: Rig, autojump_clock: Any) -> None:
    """And no longer: the versions before are let go though a model that is not on trial is still at it."""
    await on_trial(rig)
    for key, takes_s in (("a/2", 1.0), ("b/2", 2.0), ("c/1", 3.0)):
        rig.takes(f"worker {key} 0", takes_s)
    outcome = Outcome(rig.engine.infer_many, ASKED)
    async with running(outcome):
        both = {"a/1": ["fallback"], "b/1": ["fallback"]}
        assert held(rig) == {**both, "a/2": ["request"], "b/2": ["request"], "c/1": ["request"]}
        await trio.sleep(1.5)
        assert held(rig) == {**both, "b/2": ["request"], "c/1": ["request"]}
        await trio.sleep(1.0)
        assert held(rig) == {"c/1": ["request"]}
    assert (noted(rig, "a/2"), noted(rig, "b/2"), noted(rig, "c/1")) == ([(1.0, False)], [(2.0, False)], [(3.0, False)])
    assert_nothing_left(rig)


async def test_a_loop_that_is_late_is_no_fault_of_a_version(rig: Rig, autojump_clock: Any) -> None:
    """What is written down is when an answer came, and not when somebody had the time to look at it."""
    await on_trial(rig)
    replies = rig.engine._host.replies
    flush = replies._flush

    def late() -> None:
        autojump_clock.jump(50.0)
        flush()

    replies._flush = late  # type: ignore[method-assign]
    rig.script("b", "2").raises = Broken("new")
    for version in "12":
        for model in MODELS:
            rig.takes(f"worker {model}/{version} 0", 1.0)
    await asked(rig)
    ends = noted(rig, "a/2") + noted(rig, "b/2") + noted(rig, "c/1")
    assert {latency_s for latency_s, _ in ends} == {1.0}


# --- fallback -------------------------------------------------------------------------------------------------------


@EVERY_WAY
@pytest.mark.parametrize("bad", ["a", "b", "ab"])
@pytest.mark.parametrize("fatal", [False, True], ids=["raises", "crashes"])
async def test_where_one_on_trial_fails_all_on_trial_are_answered_by_the_old_versions(
    rig: Rig, ways: dict[str, str], bad: str, fatal: bool, autojump_clock: Any
) -> None:
    """Never a mix: the models of the swap say that they fell back, the others keep their answers."""
    await on_trial(rig, ways)
    for model in bad:
        script = rig.script(model, "2")
        script.raises, script.fatal_on = (None if fatal else Broken("new")), lambda _inputs: fatal
    outcome = Outcome(rig.engine.infer_many, ASKED)
    meters = {key: meter(rig, key) for key in ("a/2", "b/2")}
    await outcome.run()
    assert answers(outcome.value) == [("1", True), ("1", True), ("1", False)]
    assert list(outcome.value) == ["a", "b", "c"]
    assert [calls(rig, key) for key in ("a/1", "b/1", "c/1")] == [1, 1, 1]
    assert [it.fallbacks for it in meters.values()] == [1, 1]
    failures = [sum(failed for spell in it.spells() for _, _, failed in spell) for it in meters.values()]
    assert sum(failures) in range(1, len(bad) + 1)
    assert all(failures[MODELS.index(model)] == 0 for model in "ab" if model not in bad)
    assert [end for key in ("a/1", "b/1") for end in noted(rig, key)] == [], "of who stands by it says nothing"
    await trio.sleep(60.0)
    assert_nothing_left(rig)


async def test_what_waits_at_the_new_version_is_taken_out_there(rig: Rig, autojump_clock: Any) -> None:
    """Where another one fails: what is queued never runs at the new version, what runs is left to its thread."""
    await on_trial(rig)
    rig.script("a", "2").raises = Broken("new")
    rig.takes("worker a/2 0", 1.0)
    rig.takes("worker b/2 0", 5.0)
    for ahead in ([], [Outcome(rig.engine.infer, "b", {}, version="2")]):
        outcome, before = Outcome(rig.engine.infer_many, ASKED), calls(rig, "b/2")
        async with running(*ahead, outcome):
            await trio.sleep(1.0)
            await settle()
            assert answers(outcome.value) == [("1", True), ("1", True), ("1", False)]
            assert held(rig) == {"b/2": ["request"]}
            await trio.sleep(10.0)
        assert calls(rig, "b/2") - before == 1, "the one ahead, or the one that was running"
        assert_nothing_left(rig)


async def test_models_of_another_trial_keep_their_answers(rig: Rig, autojump_clock: Any) -> None:
    """Only those that are tried out by the same swap go with the one that failed."""
    await on_trial(rig)
    rig.engine._router.try_out({"c": Trial("2", "1", "salt", swap="another")}, 1.0)
    rig.script("a", "2").raises = Broken("new")
    assert answers((await asked(rig)).value) == [("1", True), ("1", True), ("2", False)]
    rig.script("a", "2").raises, rig.script("c", "2").raises = None, Broken("new")
    assert answers((await asked(rig)).value) == [("2", False), ("2", False), ("1", True)]
    rig.script("a", "2").raises = Broken("new")
    assert answers((await asked(rig)).value) == [("1", True)] * 3


async def test_trials_of_two_swaps_fall_back_by_themselves(rig: Rig, autojump_clock: Any) -> None:
    """Also where both are without sticky keys, so that their salts say nothing."""
    await on_trial(rig)
    for model, share in zip(MODELS, (1.0, 1.0, 0.0), strict=True):
        rig.engine._router.try_out({model: Trial("2", "1", swap=f"swap of {model}")}, share)
    rig.script("a", "2").raises = Broken("new")
    assert answers((await asked(rig)).value) == [("1", True), ("2", False), ("1", False)]


@pytest.mark.parametrize("shut", MODELS)
async def test_a_set_that_begins_anew_gives_back_who_stands_by(rig: Rig, shut: str, autojump_clock: Any) -> None:
    """Where a version is shut between two pins, nothing of the first try stays held: neither it nor the one before."""
    await on_trial(rig)
    for loaded in rig.engine._host.living():
        if loaded.key.model == shut:
            loaded.account.shut()
    with pytest.raises(NotReady, match="faster than a set"):
        await rig.engine.infer_many(ASKED)
    assert_nothing_left(rig)


@EVERY_WAY
async def test_a_trial_without_fallback_fails_the_set(rig: Rig, ways: dict[str, str], autojump_clock: Any) -> None:
    """Nobody stands by; the caller hears of the new version."""
    await on_trial(rig, ways, fallback=False)
    rig.script("b", "2").raises = Broken("new")
    outcome = await asked(rig)
    assert isinstance(outcome.error, PredictFailed)
    assert (outcome.error.version, calls(rig, "a/1"), calls(rig, "b/1")) == ("2", 0, 0)


async def test_a_model_that_is_not_on_trial_fails_the_set(rig: Rig, autojump_clock: Any) -> None:
    """Its failure is no reason to ask the old versions of others."""
    await on_trial(rig)
    rig.script("c", "1").raises = Broken("no")
    outcome = await asked(rig)
    assert isinstance(outcome.error, PredictFailed)
    assert (outcome.error.model, calls(rig, "a/1"), calls(rig, "b/1")) == ("c", 0, 0)
    assert meter(rig, "a/2").fallbacks == 0


async def test_where_one_cannot_stand_by_none_does(rig: Rig, autojump_clock: Any) -> None:
    """A set that could fall back only in part does not: it would be a mix."""
    await on_trial(rig)
    rig.script("a", "2").raises = Broken("new")
    for loaded in rig.engine._host.living():
        if str(loaded.key) == "b/1":
            loaded.account.shut()
    outcome = await asked(rig)
    assert isinstance(outcome.error, PredictFailed)
    assert (outcome.error.version, calls(rig, "a/1")) == ("2", 0)


async def test_bad_input_is_no_failure_of_a_version(rig: Rig, autojump_clock: Any) -> None:
    """It is the caller's fault: nobody is asked, and nothing is counted."""
    await on_trial(rig, signature=BATCHED)
    outcome = await asked(rig)
    assert isinstance(outcome.error, InvalidInput)
    assert [noted(rig, key) for key in ("a/2", "b/2", "c/1")] == [[]] * 3
    assert sum(calls(rig, f"{model}/{version}") for model in MODELS for version in "12") == 0


async def test_a_full_queue_does_not_fall_back(rig: Rig, autojump_clock: Any) -> None:
    """`Overloaded` says that somebody should wait, not that somebody else should work."""
    await on_trial(rig, queue_limit=1)
    rig.takes("worker b/2 0", 1.0)
    ahead = [Outcome(rig.engine.infer, "b", {}, version="2") for _ in range(2)]
    async with running(*ahead):
        with pytest.raises(Overloaded, match="b/2"):
            await rig.engine.infer_many(ASKED)
    assert (calls(rig, "a/1"), calls(rig, "b/1")) == (0, 0)
    assert_nothing_left(rig)


@EVERY_WAY
async def test_who_answers_in_its_place_has_the_inputs_as_they_were_asked(
    rig: Rig, ways: dict[str, str], autojump_clock: Any
) -> None:
    """Neither a new version that takes them apart nor a caller who changes them later reaches the old one."""
    await on_trial(rig, ways)
    rig.script("a", "2").on_predict = lambda inputs: inputs.clear()  # type: ignore[attr-defined]
    rig.script("b", "2").raises = Broken("new")
    rig.takes("worker a/2 0", 1.0)
    rig.takes("worker b/2 0", 1.0)
    inputs = {model: {"n": number} for number, model in enumerate(MODELS)}
    outcome = Outcome(rig.engine.infer_many, inputs)
    async with running(outcome):
        for asked_for in inputs.values():
            asked_for.clear()
    assert [reply.outputs for reply in outcome.value.values()] == [{"version": "1", "n": n} for n in range(3)]


class Frail:
    """A model that raises, and that a test keeps only a weak reference to."""

    signature = UNCHECKED
    thread_safe = True

    def predict(self, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        raise Broken("new")

    def memory_bytes(self) -> int:
        return 1

    def close(self) -> None:
        return


@EVERY_WAY
async def test_nothing_keeps_a_version_that_failed(rig: Rig, ways: dict[str, str], autojump_clock: Any) -> None:
    """Behind a set that fell back it is gone when it was unloaded, and no garbage had to be collected for it."""
    with no_collections():
        model = Frail()
        rig.script("a", "2").loads, frail = model, weakref.ref(model)
        await on_trial(rig, ways)
        rig.script("a", "2").loads = None
        del model
        assert answers((await asked(rig)).value) == [("1", True), ("1", True), ("1", False)]
        rig.engine._router.shift({"a": "1", "b": "1"})
        await rig.engine.unload("a", "2")
        assert frail() is None


# --- where the old versions fail, too -------------------------------------------------------------------------------


@EVERY_WAY
@pytest.mark.parametrize("also", ["a", "b"])
async def test_where_an_old_version_fails_too_the_caller_hears_of_the_new_one(
    rig: Rig, ways: dict[str, str], also: str, autojump_clock: Any
) -> None:
    """The first failure, with notes of what became of the other try, and of which model it was."""
    await on_trial(rig, ways)
    rig.script("a", "2").raises, rig.script(also, "1").raises = Broken("new"), Broken("old")
    outcome = await asked(rig)
    assert isinstance(outcome.error, PredictFailed)
    assert (outcome.error.model, outcome.error.version) == ("a", "2")
    tried, named = outcome.error.__notes__
    assert tried.endswith(f"PredictFailed: {also}/1 raised Broken: old")
    assert named == "it was asked of a in one set of a, b, c"


@pytest.mark.parametrize("picky", ["a", "b"])
async def test_where_an_old_version_takes_no_such_input_the_caller_hears_of_the_new_one(
    rig: Rig, picky: str, autojump_clock: Any
) -> None:
    """An input that only the new version knows cannot be answered by the old one."""
    for model in MODELS:
        await rig.ready(model, "1", **({"signature": BATCHED} if model == picky else {}))
        await rig.ready(model, "2")
    rig.engine._router.try_out({model: Trial("2", "1", "salt", swap="swap") for model in "ab"}, 1.0)
    rig.script("a", "2").raises = Broken("new")
    outcome = await asked(rig)
    assert isinstance(outcome.error, PredictFailed)
    assert (outcome.error.version, calls(rig, "a/1"), calls(rig, "b/1")) == ("2", 0, 0)
    assert "InvalidInput" in outcome.error.__notes__[0]


async def test_what_a_version_ran_in_vain_does_not_begin_anew(rig: Rig, autojump_clock: Any) -> None:
    """The new version raised; in the queue of the old one it was revoked: a third is not asked."""
    await on_trial(rig)
    await rig.ready("a", "3")
    rig.script("b", "2").raises = Broken("new")
    rig.takes("worker b/1 0", 5.0)
    ahead = Outcome(rig.engine.infer, "b", {}, version="1")
    outcome = Outcome(rig.engine.infer_many, ASKED)
    async with running(ahead, outcome):
        await settle()
        await rig.engine.unload("b", "1", drain=Drain(0.0, "cancel", 9.0))
    assert isinstance(outcome.error, PredictFailed)
    assert (outcome.error.model, outcome.error.version) == ("b", "2")
    assert "LeaseRevoked" in outcome.error.__notes__[0]
    assert_nothing_left(rig)


async def test_what_has_nothing_to_do_with_a_trial_is_told_as_it_is(rig: Rig, autojump_clock: Any) -> None:
    """A trial that fell back is no cause of what happens to another model, and no reason to give its requests away."""
    await on_trial(rig)
    rig.script("a", "2").raises = Broken("new")
    rig.takes("worker c/1 0", 5.0)
    ahead, outcome = Outcome(rig.engine.infer, "c", {}), Outcome(rig.engine.infer_many, ASKED)
    async with running(ahead, outcome):
        await rig.engine.unload("c", "1", drain=Drain(0.0, "cancel", 9.0))
    assert isinstance(outcome.error, LeaseRevoked)
    assert (outcome.error.model, outcome.error.ran) == ("c", "unknown")  # c has not run it, and others of the set have
    assert outcome.error.__notes__ == ["it was asked of c in one set of a, b, c"]
    assert (calls(rig, "a/2"), calls(rig, "a/1"), calls(rig, "c/2")) == (1, 1, 0)
    assert_nothing_left(rig)


async def test_what_a_trial_has_run_in_vain_was_run(rig: Rig, autojump_clock: Any) -> None:
    """Also where the set is told of another model, which has not run it, before the version that stands in has."""
    await on_trial(rig)
    rig.script("b", "2").raises = Broken("new")
    rig.takes("worker b/1 0", 5.0)
    rig.takes("worker c/1 0", 5.0)
    ahead = [Outcome(rig.engine.infer, "b", {}, version="1"), Outcome(rig.engine.infer, "c", {})]
    outcome = Outcome(rig.engine.infer_many, {"b": {}, "c": {}})
    async with running(*ahead, outcome):
        await settle()
        await rig.engine.unload("c", "1", drain=Drain(0.0, "cancel", 9.0))
    assert isinstance(outcome.error, LeaseRevoked)
    assert (outcome.error.model, outcome.error.ran, calls(rig, "b/2")) == ("c", "unknown", 1)
    assert_nothing_left(rig)


async def test_what_neither_side_has_run_begins_anew(rig: Rig, autojump_clock: Any) -> None:
    """Revoked in the queue of the new version, and then in that of the old one: the set is asked once more, whole."""
    await on_trial(rig)
    await rig.ready("b", "3")
    for version in "12":
        rig.takes(f"worker b/{version} 0", 5.0)
    ahead = [Outcome(rig.engine.infer, "b", {}, version=version) for version in "12"]
    outcome, of_the_new = Outcome(rig.engine.infer_many, ASKED), meter(rig, "b/2")
    async with running(*ahead, outcome):
        for version in "21":
            await rig.engine.unload("b", version, drain=Drain(0.0, "cancel", 0.0))
            await settle()
    assert outcome.value["b"].version == "3"
    assert not any(reply.fell_back for reply in outcome.value.values())
    assert of_the_new.noted == 0, "to be revoked says nothing of a version"
    await trio.sleep(20.0)
    assert_nothing_left(rig)


async def test_a_set_that_begins_anew_in_a_trial_falls_back_there(rig: Rig, autojump_clock: Any) -> None:
    """What its models had answered before counts for nothing then: who stands by is there until all have answered."""
    for version in "12":
        for model in MODELS:
            await rig.ready(model, version, execution="worker")
    rig.takes("worker b/1 0", 5.0)
    rig.takes("worker c/2 0", 1.0)
    rig.script("c", "2").raises = Broken("new")
    ahead, outcome = Outcome(rig.engine.infer, "b", {}), Outcome(rig.engine.infer_many, ASKED)
    async with running(ahead, outcome):
        rig.engine._router.try_out(dict.fromkeys("ac", Trial("2", "1", "salt", swap="swap")), 1.0)
        await rig.engine.unload("b", "1", drain=Drain(0.0, "cancel", 9.0))
    assert answers(outcome.value) == [("1", True), ("2", False), ("1", True)]
    assert_nothing_left(rig)


async def test_an_engine_that_is_closed_lets_go_of_who_stands_by(autojump_clock: Any) -> None:
    """A set whose thread hangs is told so, and holds no more than that thread."""
    async with trio.open_nursery() as callers:
        async with open_rig(close_timeout_s=1.0) as rig:
            await on_trial(rig)
            rig.takes("worker b/2 0", 100.0)
            outcome = Outcome(rig.engine.infer_many, ASKED)
            callers.start_soon(outcome.run)
            await settle()
        assert isinstance(outcome.error, VersionCrashed)
        assert held(rig) == {"b/2": ["request"]}


# --- who goes away --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("at_s", "late", "failures"), [(0.5, "a/2", [True]), (1.5, "b/1", [True])])
async def test_a_set_that_is_out_of_time_counts_against_the_new_version(
    rig: Rig, at_s: float, late: str, failures: list[bool], autojump_clock: Any
) -> None:
    """It names who had not answered; of the new version it is a failure, and of the one that stood in it is nothing."""
    await slow_trial(rig)
    with pytest.raises(RequestTimeout, match=f"^{late} did not answer within {at_s:g} s") as caught:
        await rig.engine.infer_many(ASKED, timeout_s=at_s)
    assert caught.value.ran == "unknown"
    await trio.sleep(10.0)
    assert [failed for _, failed in noted(rig, "a/2")] == failures
    assert noted(rig, "b/1") == []
    assert_nothing_left(rig)


@pytest.mark.parametrize("at_s", [0.5, 1.0, 1.5])
async def test_who_is_cancelled_in_a_trial_holds_nothing(rig: Rig, at_s: float, autojump_clock: Any) -> None:
    """While the new version answers, in the moment in which it fails, and while the old one answers."""
    await slow_trial(rig)
    with trio.move_on_after(at_s) as scope:
        await rig.engine.infer_many(ASKED)
    assert scope.cancelled_caught
    assert all(kinds == [kind] for kinds in held(rig).values() for kind in kinds), "one thread each, at most"
    await trio.sleep(10.0)
    assert_nothing_left(rig)


async def slow_trial(rig: Rig) -> None:
    """Let `a` fail on its new version after a second, and `b` answer on its old one in a second."""
    await on_trial(rig)
    rig.script("a", "2").raises = Broken("new")
    rig.takes("worker a/2 0", 1.0)
    rig.takes("worker b/1 0", 1.0)
