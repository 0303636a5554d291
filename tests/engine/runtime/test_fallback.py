"""Fallback: until the pivot the old version answers what the new one fails on, and nothing else."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import trio

from changeover import Batching, Shift, SwapState
from changeover.errors import (
    InvalidInput,
    Overloaded,
    PredictFailed,
    RequestTimeout,
    SwapRolledBack,
    VersionCrashed,
)
from changeover.runtime.inference import falls_back
from tests.support.canary import check_quiet
from tests.support.models import BATCHED, Broken, first_column
from tests.support.rig import Outcome, Rig, running, settle

TRIAL = Shift.at_once(confirm_s=1_000.0, guard=None)
WAYS: list[dict[str, Any]] = [
    {"execution": "inline"},
    {"execution": "inline", "thread_safe": False},
    {"execution": "worker"},
]
BAD = Broken("m/2 cannot")


async def on_trial(rig: Rig, plan: Shift = TRIAL, old: dict[str, Any] | None = None, **fields: Any) -> str:
    """Put version 2 on trial with all of the traffic; return the swap's id."""
    shared = {name: fields[name] for name in ("execution", "batching", "thread_safe") if name in fields}
    await rig.ready("m", "1", **shared, **(old or {}))
    rig.add("m", "2", **fields)
    swap_id = rig.engine.start_swap("m", "2", plan=plan)
    await settle()
    assert rig.engine.swap_status(swap_id).share == 1.0
    return swap_id


def held(rig: Rig) -> tuple[list[str], list[str]]:
    """Return who holds each of the two versions, by kind."""
    first, second = ([holder.kind for holder in rig.engine.who_holds("m", version)] for version in "12")
    return first, second


def calls(rig: Rig, version: str) -> int:
    """Return how often the models of a version were called."""
    return sum(len(made.calls) for made in rig.cast.of("m", version))


async def asked(rig: Rig, inputs: Any = None, **options: Any) -> Outcome:
    """Make one request; when it is over nothing may be held for it."""
    outcome = Outcome(rig.engine.infer, "m", {} if inputs is None else inputs, **options)
    await outcome.run()
    assert held(rig) == ([], [])
    return outcome


async def finish(rig: Rig, swap_id: str) -> None:
    """End the trial; nothing may be left of it."""
    rig.engine.promote(swap_id)
    await rig.engine.wait_for_swap(swap_id)
    check_quiet(rig)


# --- who falls back -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
async def test_what_the_new_version_raises_on_the_old_one_answers(
    rig: Rig, way: dict[str, Any], autojump_clock: Any
) -> None:
    """The client gets an answer that says who gave it; the failure is counted, and nothing is held behind it."""
    swap_id = await on_trial(rig, **way, fails_on=lambda inputs: "bad" in inputs)
    reply = (await asked(rig, {"bad": 1})).value
    assert (reply.version, reply.fell_back, reply.outputs) == ("1", True, {"version": "1", "bad": 1})
    reply = (await asked(rig)).value
    assert (reply.version, reply.fell_back) == ("2", False)
    assert rig.engine.swap_status(swap_id).fallbacks == 1
    await finish(rig, swap_id)


@pytest.mark.parametrize("way", WAYS)
async def test_a_fatal_error_falls_back_too(rig: Rig, way: dict[str, Any], autojump_clock: Any) -> None:
    """The new version ends by it, the swap fails, and the client who met it has an answer."""
    swap_id = await on_trial(rig, **way, fatal_on=lambda inputs: "poison" in inputs)
    reply = (await asked(rig, {"poison": 1})).value
    assert (reply.version, reply.fell_back) == ("1", True)
    await trio.sleep(60.0)
    assert rig.engine.swap_status(swap_id).state is SwapState.FAILED
    check_quiet(rig)


async def test_requests_that_were_queued_when_the_new_version_crashed_are_answered(
    rig: Rig, autojump_clock: Any
) -> None:
    """Those that never started fall back like the one that ended it."""
    await on_trial(rig, execution="worker", fatal_on=lambda inputs: "poison" in inputs)
    rig.takes("worker m/2 0", 1.0)
    outcomes = [Outcome(rig.engine.infer, "m", inputs) for inputs in ({"poison": 1}, {"n": 1}, {"n": 2})]
    async with running(*outcomes):
        assert held(rig) == (["fallback"] * 3, ["request"] * 3)
    assert [(outcome.value.version, outcome.value.fell_back) for outcome in outcomes] == [("1", True)] * 3
    assert held(rig)[0] == []


async def test_one_bad_request_of_a_batch_falls_back_alone(rig: Rig, autojump_clock: Any) -> None:
    """The others of its batch have the new version's answer."""
    fields = {"signature": BATCHED, "answers": first_column}
    way = {"execution": "worker", "batching": Batching(max_batch=8, max_delay_s=0.1)}
    await on_trial(rig, **way, **fields, old=fields, fails_on=lambda inputs: bool((inputs["x"] < 0).any()))
    requests = [{"x": np.array([[number, 0.0]])} for number in (1.0, -2.0, 3.0)]
    outcomes = [Outcome(rig.engine.infer, "m", inputs) for inputs in requests]
    async with running(*outcomes):
        pass
    assert [(o.value.version, o.value.fell_back, o.value.outputs["y"][0]) for o in outcomes] == [
        ("2", False, 1.0), ("1", True, -2.0), ("2", False, 3.0),
    ]  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
async def test_an_answer_that_is_none_falls_back(rig: Rig, way: dict[str, Any], autojump_clock: Any) -> None:
    """A model that returns no mapping has failed as much as one that raises."""
    await on_trial(rig, **way, answers=lambda _inputs: [1, 2])
    assert (await asked(rig)).value.version == "1"


# --- who does not ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
async def test_bad_input_does_not_fall_back(rig: Rig, way: dict[str, Any], autojump_clock: Any) -> None:
    """It is the caller's fault: nobody is asked, nothing is counted."""
    swap_id = await on_trial(rig, **way, signature=BATCHED)
    assert isinstance((await asked(rig, {"y": 1})).error, InvalidInput)
    assert (calls(rig, "1"), calls(rig, "2"), rig.engine.swap_status(swap_id).fallbacks) == (0, 0, 0)


async def test_a_full_queue_does_not_fall_back(rig: Rig, autojump_clock: Any) -> None:
    """`Overloaded` says that somebody should wait, not that somebody else should work."""
    await on_trial(rig, execution="worker", queue_limit=1)
    rig.takes("worker m/2 0", 1.0)
    first, second = (Outcome(rig.engine.infer, "m", {}) for _ in range(2))
    async with running(first, second):
        third = Outcome(rig.engine.infer, "m", {})
        await third.run()
        assert isinstance(third.error, Overloaded)
        assert held(rig) == (["fallback"] * 2, ["request"] * 2)
    assert (calls(rig, "1"), first.value.version, second.value.version) == (0, "2", "2")


@pytest.mark.parametrize("way", WAYS)
async def test_a_version_that_was_named_does_not_fall_back(rig: Rig, way: dict[str, Any], autojump_clock: Any) -> None:
    """Who asks for the new version by name wants to know what that does."""
    swap_id = await on_trial(rig, **way, raises=BAD)
    outcome = await asked(rig, version="2")
    assert isinstance(outcome.error, PredictFailed)
    assert (calls(rig, "1"), rig.engine.swap_status(swap_id).fallbacks) == (0, 0)
    assert (await asked(rig, version="1")).value.fell_back is False


@pytest.mark.parametrize("queued", [False, True])
async def test_a_cancelled_request_does_not_fall_back(rig: Rig, queued: bool, autojump_clock: Any) -> None:
    """Who went away wants no answer: the old version is let go at once, the new one when its thread is done."""
    await on_trial(rig, execution="worker", raises=BAD)
    rig.takes("worker m/2 0", 2.0)
    ahead = Outcome(rig.engine.infer, "m", {}, version="2")
    async with running(*([ahead] if queued else [])):
        with trio.move_on_after(1.0) as scope:
            await rig.engine.infer("m", {})
        assert scope.cancelled_caught
        assert held(rig) == ([], ["request"])
    await trio.sleep(5.0)
    assert (held(rig), calls(rig, "1"), calls(rig, "2")) == (([], []), 0, 1)


async def test_a_request_that_timed_out_does_not_fall_back(rig: Rig, autojump_clock: Any) -> None:
    """Its time is up, whoever is asked; it counts against the new version."""
    swap_id = await on_trial(rig, execution="worker")
    rig.takes("worker m/2 0", 5.0)
    outcome = Outcome(rig.engine.infer, "m", {}, timeout_s=1.0)
    await outcome.run()
    assert isinstance(outcome.error, RequestTimeout)
    assert (outcome.error.version, outcome.ended_s, held(rig)) == ("2", 1.0, ([], ["request"]))
    await trio.sleep(5.0)
    assert (calls(rig, "1"), rig.engine.swap_status(swap_id).fallbacks, held(rig)) == (0, 0, ([], []))
    meter = rig.engine._version(rig.engine._saga(swap_id).swap.pairs[0].new).loaded.meter
    assert [failed for spell in meter.spells() for _, _, failed in spell] == [True]


def test_what_may_have_killed_a_process_does_not_fall_back() -> None:
    """A request of which nobody knows whether it ran must not be given to the next version."""
    assert not falls_back(VersionCrashed("gone", ran="unknown"))
    assert not falls_back(Overloaded("full"))
    assert not falls_back(RequestTimeout("late"))
    assert falls_back(VersionCrashed("gone", ran="no"))
    assert falls_back(VersionCrashed("gone", ran="yes"))
    assert falls_back(PredictFailed("bad", ran="yes"))


async def test_an_outcome_that_nobody_knows_is_passed_on(rig: Rig, autojump_clock: Any) -> None:
    """`ran="unknown"` reaches the client as it is, and both versions are let go."""
    await on_trial(rig, execution="worker")
    loaded = next(loaded for loaded in rig.engine._host.living() if loaded.key.version == "2")

    def vanish(_inputs: Any, **_how: Any) -> Any:
        raise VersionCrashed("the process is gone", model="m", version="2", ran="unknown")

    loaded.predict = vanish  # type: ignore[method-assign]
    outcome = await asked(rig)
    assert isinstance(outcome.error, VersionCrashed)
    assert (outcome.error.ran, calls(rig, "1")) == ("unknown", 0)


@pytest.mark.parametrize("way", WAYS)
async def test_a_plan_may_do_without(rig: Rig, way: dict[str, Any], autojump_clock: Any) -> None:
    """With `fallback=False` the old version is not held, and the client gets the new one's error."""
    await on_trial(rig, Shift.at_once(confirm_s=9.0, fallback=False, guard=None), **way, raises=BAD)
    assert isinstance((await asked(rig)).error, PredictFailed)
    assert calls(rig, "1") == 0


# --- when the old one cannot, either --------------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
async def test_where_both_fail_the_client_hears_of_the_new_one(
    rig: Rig, way: dict[str, Any], autojump_clock: Any
) -> None:
    """The picked version's error, with a note of what became of the other try."""
    await on_trial(rig, **way, raises=BAD, old={"raises": Broken("m/1 cannot, either")})
    outcome = await asked(rig)
    assert isinstance(outcome.error, PredictFailed)
    assert outcome.error.version == "2"
    assert outcome.error.__notes__ == [
        "the version before it was asked, too: PredictFailed: m/1 raised Broken: m/1 cannot, either"
    ]


async def test_where_the_old_queue_is_full_the_client_hears_of_the_new_one(rig: Rig, autojump_clock: Any) -> None:
    """The note says that the old version had no room."""
    await on_trial(rig, execution="worker", raises=BAD, old={"queue_limit": 1})
    rig.takes("worker m/1 0", 5.0)
    first, second = (Outcome(rig.engine.infer, "m", {}, version="1") for _ in range(2))
    async with running(first, second):
        third = Outcome(rig.engine.infer, "m", {})
        await third.run()
        assert isinstance(third.error, PredictFailed)
        assert "Overloaded: 1 requests wait for m/1" in third.error.__notes__[0]
        assert held(rig) == (["request"] * 2, [])


@pytest.mark.parametrize("way", WAYS)
async def test_where_the_old_version_takes_no_such_input_the_client_hears_of_the_new_one(
    rig: Rig, way: dict[str, Any], autojump_clock: Any
) -> None:
    """An input that only the new version knows cannot be answered by the old one."""
    await on_trial(rig, **way, raises=BAD, old={"signature": BATCHED})
    outcome = await asked(rig, {"new": 1})
    assert isinstance(outcome.error, PredictFailed)
    assert "InvalidInput" in outcome.error.__notes__[0]


async def test_who_leaves_while_the_old_version_answers_holds_nothing(rig: Rig, autojump_clock: Any) -> None:
    """The limit of a request spans both tries; the reference stays until the old version's thread is done."""
    await on_trial(rig, execution="worker", raises=BAD)
    rig.takes("worker m/1 0", 5.0)
    outcome = Outcome(rig.engine.infer, "m", {}, timeout_s=1.0)
    await outcome.run()
    assert isinstance(outcome.error, RequestTimeout)
    assert (outcome.ended_s, held(rig)) == (1.0, (["fallback"], []))
    await trio.sleep(5.0)
    assert held(rig) == ([], [])


# --- around the pivot -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
async def test_behind_the_pivot_nobody_falls_back(rig: Rig, way: dict[str, Any], autojump_clock: Any) -> None:
    """A lease keeps the old version in its drain; a new request does not reach it, whatever the new one does."""
    await rig.ready("m", "1", **way)
    lease = rig.lease()
    rig.add("m", "2", **way, raises=BAD)
    rig.engine.start_swap("m", "2", plan=Shift.canary([(0.5, 1.0)], confirm_s=1.0, guard=None))
    await trio.sleep(3.0)
    assert rig.engine.swaps("m")[0].state is SwapState.OLD_VERSION_DRAINING
    outcome = Outcome(rig.engine.infer, "m", {})
    await outcome.run()
    assert isinstance(outcome.error, PredictFailed)
    assert (calls(rig, "1"), held(rig)) == (0, (["lease"], []))
    lease.release()


@pytest.mark.parametrize("raises", [None, BAD])
async def test_a_request_of_before_the_pivot_keeps_its_fallback(
    rig: Rig, raises: Exception | None, autojump_clock: Any
) -> None:
    """The drain waits for it: for its answer, and where the new version fails, for that of the old one."""
    swap_id = await on_trial(rig, execution="worker", raises=raises)
    rig.takes("worker m/2 0", 3.0)
    rig.takes("worker m/1 0", 2.0)
    outcome = Outcome(rig.engine.infer, "m", {})
    async with running(outcome):
        rig.engine.promote(swap_id)
        await trio.sleep(1.0)
        assert rig.engine.swap_status(swap_id).state is SwapState.OLD_VERSION_DRAINING
        assert held(rig) == (["fallback"], ["request"])
        operation = await rig.engine.wait_for_swap(swap_id)
    assert trio.current_time() == (5.0 if raises else 3.0)
    assert (outcome.value.version, outcome.value.fell_back) == (("1", True) if raises else ("2", False))
    assert (operation.state, operation.drain_outcome.result) == (SwapState.COMPLETED, "drained")
    assert rig.engine.swap_status(swap_id).fallbacks == (1 if raises else 0)
    check_quiet(rig)


async def test_a_request_of_before_a_rollback_keeps_its_fallback(rig: Rig, autojump_clock: Any) -> None:
    """What the new version still has in hand when the traffic goes back is answered by the old one where it fails."""
    swap_id = await on_trial(rig, execution="worker", raises=BAD)
    rig.takes("worker m/2 0", 3.0)
    outcome = Outcome(rig.engine.infer, "m", {})
    async with running(outcome):
        rig.engine.abort(swap_id)
        with pytest.raises(SwapRolledBack):
            await rig.engine.wait_for_swap(swap_id)
    assert (outcome.value.version, outcome.value.fell_back, outcome.ended_s) == ("1", True, 3.0)
    check_quiet(rig)
