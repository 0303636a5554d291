"""Requests that wait for a version which goes move to the one that takes requests now; those that have begun do not.

The three faces have rows of their own in tests/engine/uses/rows_moves.py.
"""

from __future__ import annotations

import gc
import weakref
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest
import trio

from changeover import Batching, Drain, Shift
from changeover.core.meter import Meter
from changeover.errors import (
    ChangeoverError,
    EngineClosed,
    InvalidInput,
    LeaseRevoked,
    NotReady,
    Overloaded,
    PredictFailed,
    RequestTimeout,
    VersionCrashed,
)
from changeover.plugin import Signature, TensorSpec
from changeover.runtime.inference import MOVES_MAX
from changeover_sim import open_world
from tests.support.models import BATCHED, Broken, first_column
from tests.support.rig import Outcome, Rig, open_rig, running, settle

CANCEL = Drain(1.0, "cancel", grace_s=1.0)


def poison(inputs: Mapping[str, Any]) -> bool:
    """Return whether a request is the one that kills the model."""
    return "poison" in inputs


async def two(rig: Rig, *, stands: Mapping[str, Any] | None = None, **fields: Any) -> None:
    """Have version 2 serve, whose worker takes two seconds for anything, and version 1 stand ready."""
    fields = {"execution": "worker", **fields}
    await rig.ready("m", "2", **{"fatal_on": poison, **fields})
    await rig.ready("m", "1", **fields, **(stands or {}))
    rig.takes("worker m/2 0", 2.0)
    assert rig.engine.is_active("m", "2")


def asked(rig: Rig, count: int, **options: Any) -> list[Outcome]:
    """Return so many requests, to be made."""
    return [Outcome(rig.engine.infer, "m", {"n": n}, **options) for n in range(count)]


def seen(rig: Rig, version: str) -> list[int]:
    """Return which requests the models of a version were given, killers left out."""
    return [call["n"] for made in rig.cast.of("m", version) for call in made.calls if "n" in call]


def answers(outcomes: list[Outcome]) -> list[tuple[str, bool, int]]:
    """Return who answered what."""
    return [(o.value.version, o.value.fell_back, o.value.outputs["n"]) for o in outcomes]


def crash_now(rig: Rig, version: str = "2") -> None:
    """Have a model declare itself beyond use; nobody has heard of it when this returns."""
    with rig.engine.lease("m", version=version) as lease, pytest.raises(VersionCrashed):
        lease.infer({"poison": 1})


@asynccontextmanager
async def behind_poison(rig: Rig, *queued: Outcome) -> AsyncGenerator[None, None]:
    """Queue requests behind the one that ends version 2, two seconds later; all are over behind the block."""
    killer = Outcome(rig.engine.infer, "m", {"poison": 1}, version="2")
    async with running(killer, *queued):
        assert not any(outcome.over for outcome in queued)
        yield
    assert isinstance(killer.error, VersionCrashed)
    assert killer.error.ran == "yes"
    assert rig.engine.audit().clean


# --- they move ------------------------------------------------------------------------------------------------------


async def test_what_is_queued_when_a_version_crashes_is_answered_by_the_other(rig: Rig, autojump_clock: Any) -> None:
    """Each runs once, on the version that took the traffic over, and is no fallback."""
    await two(rig)
    queued = asked(rig, 5)
    async with behind_poison(rig, *queued):
        pass
    assert answers(queued) == [("1", False, n) for n in range(5)]
    assert (sorted(seen(rig, "1")), seen(rig, "2")) == ([0, 1, 2, 3, 4], [])


async def test_what_is_queued_when_a_drain_is_out_of_time_is_answered_by_the_new_version(
    rig: Rig, autojump_clock: Any
) -> None:
    """A swap loses nothing where its drain cancels: what runs is answered by the old version, the rest by the new."""
    await rig.ready(execution="worker")
    rig.add(version="2", execution="worker")
    rig.takes("worker m/1 0", 5.0)
    queued = asked(rig, 4)
    async with running(*queued):
        swap = await rig.engine.swap("m", "2", drain=Drain(1.0, "cancel", grace_s=10.0))
        assert trio.current_time() == 5.0
    assert answers(queued) == [("1", False, 0), *(("2", False, n) for n in (1, 2, 3))]
    assert [outcome.ended_s for outcome in queued] == [5.0, 1.0, 1.0, 1.0]
    assert swap.drain_outcome.result == "drained"


async def test_what_is_queued_when_a_version_is_unloaded_by_force_is_answered_by_the_other(
    rig: Rig, autojump_clock: Any
) -> None:
    """The same without a swap."""
    await two(rig)
    queued = asked(rig, 3)
    async with running(*queued):
        await rig.engine.unload("m", "2", drain=CANCEL)
    assert answers(queued) == [("2", False, 0), ("1", False, 1), ("1", False, 2)]


async def test_a_worker_that_dies_takes_nobody_with_it(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, autojump_clock: Any
) -> None:
    """Also where nobody declared anything fatal: who waits for a thread that is gone moves."""
    await two(rig)
    lane = next(loaded for loaded in rig.engine._host.living() if loaded.key.version == "2").lane

    def next_step(_now: float) -> Any:
        raise Broken("the worker's thread")

    monkeypatch.setattr(lane, "next_step", next_step)
    queued = asked(rig, 3)
    async with running(*queued):
        pass
    assert answers(queued) == [("1", False, n) for n in range(3)]


@pytest.mark.parametrize("batching", [None, Batching(4, 0.1)])
async def test_what_a_worker_holds_and_has_not_begun_moves(
    rig: Rig, batching: Batching | None, autojump_clock: Any
) -> None:
    """Where the model ends while a worker is on its way to it with a batch, nobody in that has run."""
    shape = {"signature": BATCHED, "answers": first_column} if batching else {}
    await two(rig, batching=batching, **shape)
    requests = [Outcome(rig.engine.infer, "m", {"x": np.ones((1, 2))}) for _ in range(2)]
    async with running(*requests):
        await trio.sleep(1.0)
        rig.script("m", "2").fatal_on = lambda _inputs: True
        with rig.engine.lease("m", version="2") as lease, pytest.raises(VersionCrashed):
            lease.infer({"x": np.zeros((1, 2))})
    assert [request.value.version for request in requests] == ["1", "1"]
    assert len(rig.cast.of("m", "2")[0].calls) == 1


async def test_what_was_called_together_with_a_killer_has_run(rig: Rig, autojump_clock: Any) -> None:
    """A batch is one call: nobody in it may be given to another version."""
    await two(
        rig, batching=Batching(8, 0.1), signature=BATCHED, answers=first_column,
        fatal_on=lambda inputs: bool((inputs["x"] < 0).any()),
    )  # fmt: skip
    batch = [Outcome(rig.engine.infer, "m", {"x": np.array([[x, 0.0]])}) for x in (1.0, -1.0, 2.0)]
    async with running(*batch):
        pass
    assert [(type(o.error), getattr(o.error, "ran", None)) for o in batch] == [(VersionCrashed, "yes")] * 3
    assert rig.cast.of("m", "1")[0].calls == []


async def test_what_is_called_again_behind_a_killer_has_run_too(rig: Rig, autojump_clock: Any) -> None:
    """Of a batch that failed each is tried again, until one ends the model: the rest had their call with the batch."""
    await two(
        rig, batching=Batching(8, 0.1), signature=BATCHED, answers=first_column,
        fails_on=lambda inputs: len(inputs["x"]) > 1,
        fatal_on=lambda inputs: len(inputs["x"]) == 1 and inputs["x"][0, 0] < 0,
    )  # fmt: skip
    batch = [Outcome(rig.engine.infer, "m", {"x": np.array([[x, 0.0]])}) for x in (1.0, -1.0, 2.0)]
    async with running(*batch):
        pass
    assert batch[0].value.version == "2"
    assert [(type(o.error), getattr(o.error, "ran", None)) for o in batch[1:]] == [(VersionCrashed, "yes")] * 2
    assert [len(call["x"]) for call in rig.cast.of("m", "2")[0].calls] == [3, 1, 1]
    assert rig.cast.of("m", "1")[0].calls == []


async def test_a_group_of_a_batch_that_was_not_called_moves(rig: Rig, autojump_clock: Any) -> None:
    """Requests of another shape are another call, which a model that is beyond use never gets."""
    rows = Signature((TensorSpec("x", "float64", ("batch", "width")),), (TensorSpec("y", "float64", ("batch",)),))
    await two(
        rig, batching=Batching(8, 0.1), signature=rows, answers=first_column,
        fatal_on=lambda inputs: bool((inputs["x"] < 0).any()),
    )  # fmt: skip
    rig.script("m", "1").fatal_on = lambda _inputs: False
    killer, other = (Outcome(rig.engine.infer, "m", {"x": x}) for x in (-np.ones((1, 1)), np.ones((1, 2))))
    async with running(killer, other):
        pass
    assert isinstance(killer.error, VersionCrashed)
    assert (other.value.version, len(rig.cast.of("m", "2")[0].calls)) == ("1", 1)


async def test_who_waits_for_the_turn_of_an_inline_model_moves(rig: Rig, autojump_clock: Any) -> None:
    """A model that one thread at a time may use has a queue as well, though it stands in threads."""
    await two(rig, execution="inline", thread_safe=False)
    rig.takes("predict m/2", 1.0)
    loaded = next(loaded for loaded in rig.engine._host.living() if loaded.key.version == "2")
    assert loaded.take_turn()
    queued = asked(rig, 3)
    async with running(*queued):
        loaded.end_turn()
        crash_now(rig)
    assert sorted(answers(queued)) == [("1", False, n) for n in range(3)]
    assert seen(rig, "2") == []


@pytest.mark.parametrize("execution", ["inline", "worker"])
async def test_a_model_that_is_beyond_use_is_never_asked_again(rig: Rig, execution: str, autojump_clock: Any) -> None:
    """Between the error and the moment in which the engine hears of it, requests wait for the traffic to move."""
    await two(rig, execution=execution)
    crash_now(rig)
    assert rig.engine.is_active("m", "2")
    inference = rig.engine._inference(rig.engine._host.replies, None, "m", {"n": 1}, None, None)
    request = inference.begin()
    assert request is not None
    assert len(request.account.owner.lane) == 1  # where its end will find it
    await settle()
    request = inference.next(request)
    if request is not None:
        await settle()
        assert inference.next(request) is None
    assert (inference.reply.version, seen(rig, "2")) == ("1", [])


async def test_they_move_as_often_as_versions_go_and_not_for_ever(rig: Rig, autojump_clock: Any) -> None:
    """One crash after another: so many moves and no more, and the last error names each version on the way."""
    last = MOVES_MAX + 2
    for number in range(1, last + 1):
        await rig.ready("m", str(number), execution="worker", fatal_on=poison)
        rig.takes(f"worker m/{number} 0", float(last + 1 - number))
        rig.takes(f"load m/{number}", 1_000.0)  # it is not back so soon
    rig.engine._router.shift({"m": str(last)})
    killers = [Outcome(rig.engine.infer, "m", {"poison": 1}, version=str(n)) for n in range(last, 0, -1)]
    (request,) = asked(rig, 1)
    async with running(*killers, request):
        pass
    assert isinstance(request.error, VersionCrashed)
    assert (request.error.version, request.error.ran) == (str(last - MOVES_MAX), "no")
    assert request.ended_s == MOVES_MAX + 1.0
    notes = request.error.__notes__
    assert [f"m/{version} " in note for version, note in zip(range(last, 0, -1), notes, strict=False)] == [
        True
    ] * MOVES_MAX
    assert rig.engine.audit().clean


async def test_a_request_that_has_moved_falls_back_like_any_other(rig: Rig, autojump_clock: Any) -> None:
    """Where the version that it comes to is on trial and raises, the one that stands by there answers."""
    await two(rig)
    rig.add("m", "3", raises=Broken("m/3 cannot"), execution="worker")
    queued = asked(rig, 2)
    async with behind_poison(rig, *queued):
        rig.engine._router.shift({"m": "1"})  # who is queued at 2 already stays there
        rig.engine.start_swap("m", "3", plan=Shift.at_once(confirm_s=1_000.0, guard=None))
        await settle()
    assert answers(queued) == [("1", True, 0), ("1", True, 1)]


# --- they do not move -----------------------------------------------------------------------------------------------


def no_other(rig: Rig, error: Exception | None, kind: type[ChangeoverError]) -> None:
    """The original error is raised, which may be tried again, and its cause is that there is nobody else."""
    assert isinstance(error, kind)
    assert (error.ran, error.retryable, error.version) == ("no", True, "2")
    assert isinstance(error.__cause__, NotReady)
    assert seen(rig, "2") == []


async def test_where_no_other_version_is_a_crash_is_told_as_one(rig: Rig, autojump_clock: Any) -> None:
    """Not `NotReady`, which would hide what happened."""
    await rig.ready("m", "2", execution="worker", fatal_on=poison)
    rig.takes("worker m/2 0", 2.0)
    queued = asked(rig, 3)
    async with behind_poison(rig, *queued):
        pass
    for outcome in queued:
        no_other(rig, outcome.error, VersionCrashed)
        assert outcome.ended_s == 2.0


async def test_where_no_other_version_is_a_revocation_is_told_as_one(rig: Rig, autojump_clock: Any) -> None:
    """The same for a drain."""
    await rig.ready("m", "2", execution="worker")
    rig.takes("worker m/2 0", 5.0)
    ahead, (queued,) = Outcome(rig.engine.infer, "m", {}), asked(rig, 1)
    async with running(ahead, queued):
        await rig.engine.unload("m", "2", drain=CANCEL, force=True)
    no_other(rig, queued.error, LeaseRevoked)
    assert ahead.value.version == "2"


async def test_where_the_engine_is_closed_nobody_moves(autojump_clock: Any) -> None:
    """Whoever is queued when the time is up hears that his version went, because the engine was closed."""
    async with open_world() as world, trio.open_nursery() as nursery:
        async with open_rig(world=world, close_timeout_s=1.0) as rig:
            await two(rig)
            rig.takes("worker m/2 0", 50.0)
            queued = asked(rig, 3)
            for outcome in queued:
                nursery.start_soon(outcome.run)
                await settle()
        await settle()
    for outcome in queued[1:]:
        assert isinstance(outcome.error, VersionCrashed)
        assert outcome.error.ran == "no"
        assert isinstance(outcome.error.__cause__, EngineClosed)
    assert seen(rig, "1") == []


@pytest.mark.parametrize("other", ["none", "one that does not take it", "one that is full", "one that raises"])
async def test_what_is_raised_is_kept_by_nobody(rig: Rig, other: str, autojump_clock: Any) -> None:
    """An error, and with it the model that its traceback leads to, is gone when its caller has let go of it."""
    await rig.ready("m", "2", execution="worker", fatal_on=poison)
    rig.takes("worker m/2 0", 2.0)
    if other != "none":
        kind = {"one that does not take it": {"signature": BATCHED}, "one that raises": {"raises": Broken("no")}}
        await rig.ready("m", "1", execution="worker", queue_limit=1, **kind.get(other, {}))
    if other == "one that is full":
        rig.takes("worker m/1 0", 10.0)
    raised: list[Callable[[], BaseException | None]] = []

    async def ask() -> None:
        try:
            await rig.engine.infer("m", {"n": 1})
        except ChangeoverError as error:
            raised.append(weakref.ref(error))

    gc.disable()
    try:
        async with behind_poison(rig), trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(ask)
        assert len(raised) >= 2
        assert [error() for error in raised] == [None] * len(raised)
    finally:
        gc.enable()


@pytest.mark.parametrize("how", ["crash", "drain"])
async def test_a_version_that_was_asked_for_by_name_is_not_left(rig: Rig, how: str, autojump_clock: Any) -> None:
    """Who names a version wants that one or none."""
    await two(rig)
    queued = asked(rig, 2, version="2")
    if how == "crash":
        async with behind_poison(rig, *queued):
            pass
    else:
        async with running(Outcome(rig.engine.infer, "m", {}), *queued):
            await rig.engine.unload("m", "2", drain=CANCEL)
    kind = VersionCrashed if how == "crash" else LeaseRevoked
    assert [(type(o.error), getattr(o.error, "ran", None)) for o in queued] == [(kind, "no")] * 2
    assert (seen(rig, "1"), seen(rig, "2")) == ([], [])


async def test_what_has_begun_never_moves(rig: Rig, autojump_clock: Any) -> None:
    """A request that a version failed on, or that killed it, is answered by an error that says so, and by no other."""
    await two(rig, fails_on=lambda inputs: "bad" in inputs)
    bad = Outcome(rig.engine.infer, "m", {"bad": 1})
    killer = Outcome(rig.engine.infer, "m", {"poison": 1})
    async with running(bad, killer):
        pass
    assert [(type(o.error), getattr(o.error, "ran", None)) for o in (bad, killer)] == [
        (PredictFailed, "yes"), (VersionCrashed, "yes"),
    ]  # fmt: skip
    assert rig.cast.of("m", "1")[0].calls == []


async def test_what_one_version_ran_does_not_move_from_the_one_that_stands_by(rig: Rig, autojump_clock: Any) -> None:
    """A version on trial raised; while its request waits for the old one that crashes: a third is not asked."""
    await rig.ready("m", "1", execution="worker", fatal_on=poison)
    await rig.ready("m", "3", execution="worker")
    rig.takes("worker m/1 0", 2.0)
    rig.add("m", "2", execution="worker", raises=Broken("m/2 cannot"))
    rig.engine.start_swap("m", "2", plan=Shift.at_once(confirm_s=1_000.0, guard=None))
    await settle()
    killer = Outcome(rig.engine.infer, "m", {"poison": 1}, version="1")
    (queued,) = asked(rig, 1)
    async with running(killer, queued):
        pass
    assert isinstance(queued.error, PredictFailed)
    assert (queued.error.version, queued.error.ran) == ("2", "yes")
    assert "the version before it was asked, too: VersionCrashed" in queued.error.__notes__[0]
    assert (seen(rig, "2"), seen(rig, "1"), seen(rig, "3")) == ([0], [], [])


async def test_what_neither_version_of_a_trial_has_run_moves(rig: Rig, autojump_clock: Any) -> None:
    """Queued at the new version that crashed, then at the old one that crashed, too: a third answers."""
    for version in "13":
        await rig.ready("m", version, execution="worker", fatal_on=poison if version == "1" else lambda _inputs: False)
    rig.add("m", "2", execution="worker", fatal_on=poison)
    rig.takes("worker m/2 0", 2.0)
    rig.takes("worker m/1 0", 3.0)
    rig.engine.start_swap("m", "2", plan=Shift.at_once(confirm_s=1_000.0, guard=None))
    await settle()
    killers = [Outcome(rig.engine.infer, "m", {"poison": 1}, version=version) for version in "12"]
    (queued,) = asked(rig, 1)
    async with running(*killers, queued):
        pass
    assert answers([queued]) == [("3", False, 0)]
    assert (queued.ended_s, seen(rig, "1"), seen(rig, "2")) == (3.0, [], [])


async def test_an_error_says_that_it_ran_where_the_other_try_did(rig: Rig, autojump_clock: Any) -> None:
    """Queued at the new version that crashed, run by the old one that raised: nobody may take it for unheard."""
    await rig.ready("m", "1", execution="worker", raises=Broken("m/1 cannot"))
    rig.add("m", "2", execution="worker", fatal_on=poison)
    rig.takes("worker m/2 0", 2.0)
    rig.engine.start_swap("m", "2", plan=Shift.at_once(confirm_s=1_000.0, guard=None))
    await settle()
    queued = asked(rig, 1)
    async with behind_poison(rig, *queued):
        pass
    assert isinstance(queued[0].error, VersionCrashed)
    assert (queued[0].error.ran, seen(rig, "1")) == ("yes", [0])


async def test_a_request_that_is_out_of_time_says_that_it_ran_elsewhere(rig: Rig, autojump_clock: Any) -> None:
    """The version on trial raised; in the queue of the one that stands by its time was up."""
    await rig.ready("m", "1", execution="worker")
    rig.takes("worker m/1 0", 5.0)
    rig.add("m", "2", execution="worker", raises=Broken("m/2 cannot"))
    rig.engine.start_swap("m", "2", plan=Shift.at_once(confirm_s=1_000.0, guard=None))
    await settle()
    ahead = Outcome(rig.engine.infer, "m", {}, version="1")
    (request,) = asked(rig, 1, timeout_s=1.0)
    async with running(ahead, request):
        pass
    assert isinstance(request.error, RequestTimeout)
    assert (request.error.version, request.error.ran) == ("1", "yes")
    assert (seen(rig, "2"), seen(rig, "1")) == ([0], [])


async def test_a_trial_without_fallback_moves_what_is_queued(rig: Rig, autojump_clock: Any) -> None:
    """Nobody stands by; the traffic goes to the old version all the same, and what has not begun goes with it."""
    await rig.ready("m", "1", execution="worker")
    rig.add("m", "2", execution="worker", fatal_on=poison)
    rig.takes("worker m/2 0", 2.0)
    rig.engine.start_swap("m", "2", plan=Shift.at_once(confirm_s=1_000.0, fallback=False, guard=None))
    await settle()
    queued = asked(rig, 2)
    async with behind_poison(rig, *queued):
        pass
    assert answers(queued) == [("1", False, 0), ("1", False, 1)]


# --- what they meet -------------------------------------------------------------------------------------------------


async def test_a_full_queue_is_full_for_those_who_move_too(rig: Rig, autojump_clock: Any) -> None:
    """Who finds no room is told `Overloaded`, which may be tried again, and where it came from."""
    await two(rig, stands={"queue_limit": 1})
    rig.takes("worker m/1 0", 1.0)
    ahead = Outcome(rig.engine.infer, "m", {"n": 9}, version="1")
    queued = asked(rig, 4)
    rig.takes("worker m/1 0", 10.0)
    async with running(ahead), behind_poison(rig, *queued):
        pass
    (one,) = (o for o in queued if o.error is None)
    refused = [o.error for o in queued if o is not one]
    assert one.value.version == "1"
    assert [(type(error), error.retryable, error.version) for error in refused] == [(Overloaded, True, "1")] * 3
    assert all("had waited in vain: m/2 went away" in error.__notes__[0] for error in refused)


async def test_a_version_that_does_not_take_the_inputs_is_no_other(rig: Rig, autojump_clock: Any) -> None:
    """The caller asked a version that did, and hears that this one went."""
    await two(rig, stands={"signature": BATCHED})
    queued = asked(rig, 2)
    async with behind_poison(rig, *queued):
        pass
    for outcome in queued:
        assert isinstance(outcome.error, VersionCrashed)
        assert outcome.error.ran == "no"
        assert isinstance(outcome.error.__cause__, InvalidInput)


async def test_the_time_of_a_request_goes_on(rig: Rig, autojump_clock: Any) -> None:
    """What it waited for the version that crashed is part of its time."""
    await two(rig)
    rig.takes("worker m/1 0", 5.0)
    queued = asked(rig, 2, timeout_s=3.0)
    async with behind_poison(rig, *queued):
        await trio.sleep(8.0)
        assert not rig.engine.audit().holders
    for outcome in queued:
        assert isinstance(outcome.error, RequestTimeout)
        assert (outcome.ended_s, outcome.error.version) == (3.0, "1")
    assert sorted(getattr(o.error, "ran", None) for o in queued) == ["no", "unknown"]
    assert len(seen(rig, "1")) == 1


@pytest.mark.parametrize("at_s", [1.0, 2.0, 2.5])
async def test_who_is_cancelled_on_the_way_leaves_nothing_held(rig: Rig, at_s: float, autojump_clock: Any) -> None:
    """Before the crash, in its very moment, and in the queue that it came to."""
    await two(rig)
    rig.takes("worker m/1 0", 3.0)
    ahead = Outcome(rig.engine.infer, "m", {}, version="1")

    async def impatient() -> None:
        with trio.CancelScope(deadline=at_s):
            await rig.engine.infer("m", {"n": 1})
            raise AssertionError("it was answered")

    async with running(ahead), behind_poison(rig):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(impatient)
        assert trio.current_time() == at_s
        await trio.sleep(2.75 - at_s)
        assert [(key.version, len(holders)) for key, holders in rig.engine.audit().holders.items()] == [("1", 1)]
        await trio.sleep(1.0)
    assert (seen(rig, "1"), seen(rig, "2")) == ([], [])


async def test_a_move_is_no_failure_of_a_version_that_was_drained(rig: Rig, autojump_clock: Any) -> None:
    """A guard hears of a crash from everybody who met it, and of a move because of a drain from nobody."""
    for how, failures in (("crash", 3), ("drain", 0)):
        model = f"of a {how}".replace(" ", "-")
        await rig.ready(model, "2", execution="worker", fatal_on=poison)
        await rig.ready(model, "1", execution="worker")
        rig.takes(f"worker {model}/2 0", 2.0)
        meters = {}
        for loaded in rig.engine._host.living():
            if loaded.key.model == model:
                loaded.meter = meters[loaded.key.version] = Meter(1_000.0)
        first = Outcome(rig.engine.infer, model, {"poison": 1} if how == "crash" else {})
        queued = [Outcome(rig.engine.infer, model, {"n": n}) for n in range(2)]
        async with running(first, *queued):
            if how == "drain":
                await rig.engine.unload(model, "2", drain=CANCEL)
        assert [outcome.value.version for outcome in queued] == ["1", "1"]
        noted = {version: [end for spell in meter.spells() for end in spell] for version, meter in meters.items()}
        assert sum(failed for _at, _latency, failed in noted["2"]) == failures
        assert [(latency, failed) for _at, latency, failed in noted["1"]] == [(0.0, False)] * 2
