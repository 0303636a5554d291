"""Every public call that waits: cancelled at every moment of it, and the engine closed at every moment of it.

Two questions each: is anything left of a call whose caller went away, and does the engine still work? A moment is a
checkpoint of the call itself, or any point of what others do for it meanwhile; `Exhaustive(delays=0)` tries each.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from changeover import Drain, Engine, Shift, VersionState
from changeover.core import lifecycle
from changeover.errors import ChangeoverError, EngineClosed, LeaseRevoked, NotReady, SwapNotAllowed, SwapRolledBack
from changeover_sim import PCT, Exhaustive, RandomWalk, cancel_anywhere, choose
from tests.simulations.first_use.stage import (
    Call,
    Stage,
    assert_at_rest,
    assert_explored,
    cancel_later,
    inputs,
    open_house,
    open_stage,
)
from tests.support.rig import open_rig

REPOSITORY = Path(__file__).parent / "repository"
MOMENTS = 25
"""So many rounds of the others are enough for the longest call, a swap."""
BAD = 5.0
"""What the new version fails on."""
RAMP = Shift.canary(((0.5, 0.5),), confirm_s=0.25, guard=None)
TOLD_AT_THE_END = {"returned", "EngineClosed", "SwapFailed", "SwapRolledBack", "VersionCrashed"}
"""How a call may end whose engine is closed under it."""

Make = Callable[[Engine], Awaitable[Any]]
Left = Callable[[Stage, Call], None]


# --- what is called -------------------------------------------------------------------------------------------------


async def _unload(engine: Engine) -> None:
    outcome = await engine.unload("m", "1", force=True, drain=Drain(5.0))
    assert outcome.result == "drained"
    assert not engine.is_loaded("m", "1")


async def _swap(engine: Engine) -> None:
    try:
        operation = await engine.swap("m", "2", drain=Drain(5.0))
    except trio.Cancelled:
        await _was_undone(engine)
        raise
    assert (operation.state.value, operation.old_unloaded) == ("completed", True)
    assert not engine.is_loaded("m", "1")


async def _was_undone(engine: Engine) -> None:
    """A swap that had not shifted the traffic when its caller went away ends as cancelled."""
    (operation,) = engine.swaps("m")
    shifted = any((step.step, step.outcome) == ("shift", "done") for step in operation.steps)
    with trio.CancelScope(shield=True), suppress(SwapRolledBack):
        operation = await engine.wait_for_swap(operation.id)
    (operation,) = engine.swaps("m")
    assert operation.state.value == "cancelled" or shifted, operation.state


async def _wait_for_swap(engine: Engine) -> None:
    operation = await engine.wait_for_swap(engine.start_swap("m", "2"))
    assert (operation.state.value, operation.old_unloaded) == ("completed", True)


async def _rollback(engine: Engine) -> None:
    operation = await engine.rollback(engine.start_swap("m", "2"))
    assert operation.state.value in {"rolled_back", "completed"}


async def _infer(engine: Engine) -> None:
    reply = await engine.infer("m", inputs(1), timeout_s=choose([None, 1.0]))
    assert reply.outputs["y"].tolist() == [1.0]


async def _two_infers(engine: Engine) -> None:
    async def other() -> None:
        with suppress(ChangeoverError):
            await _infer(engine)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(other)
        nursery.start_soon(other)


async def _lease(engine: Engine) -> None:
    async with engine.lease("m") as held:
        await trio.lowlevel.checkpoint()
        held.infer(inputs(1))


async def _lease_of_a_load(engine: Engine) -> None:
    async def hold() -> None:
        with suppress(ChangeoverError):
            async with engine.lease("m", version="2", wait_s=1.0) as held:
                held.infer(inputs(1))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(hold)
        with suppress(ChangeoverError):
            await engine.load("m", "2")
        nursery.start_soon(hold)


async def _wait_for_drain(engine: Engine) -> None:
    async def hold(rounds: int) -> None:
        with suppress(EngineClosed), engine.lease("m"):
            for _ in range(rounds):
                await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(hold, choose([1, 2 * MOMENTS]))
        await trio.lowlevel.checkpoint()
        try:
            with suppress(EngineClosed):
                await engine.wait_for_drain("m", "1", timeout_s=2.0)
        finally:
            open_accounts = (loaded.account for loaded in engine._host.living() if loaded.account.open)
            assert not any(account._watchers for account in open_accounts), "a watcher is left behind"


async def _canary(engine: Engine) -> None:
    try:
        operation = await engine.swap("m", "2", plan=RAMP, drain=Drain(5.0))
    except trio.Cancelled:
        await _was_undone(engine)
        raise
    assert (operation.state.value, operation.old_unloaded) == ("completed", True)


async def _detached(engine: Engine) -> None:
    operation = await engine.swap("m", "2", plan=RAMP, on_cancel="detach")
    assert (operation.state.value, operation.old_unloaded) == ("completed", True)


async def _steered(engine: Engine) -> None:
    swap_id = engine.start_swap("m", "2", plan=RAMP)
    try:
        engine.pause(swap_id)
        await trio.sleep(2.0)
        engine.resume(swap_id)
        await trio.sleep(0.25)
        assert engine.swap_status(swap_id).share == 0.5
        engine.promote(swap_id)
        await engine.wait_for_swap(swap_id)
    except trio.Cancelled:
        with suppress(SwapNotAllowed, EngineClosed):
            engine.abort(swap_id)
        raise


async def _supersede(engine: Engine) -> None:
    older = engine.start_swap("m", "2", plan=RAMP)
    await trio.sleep(choose([0.0, 0.25]))
    operation = await engine.swap("m", "1", on_busy="supersede")
    assert operation.state.value == "completed"
    assert engine.swap_status(older).superseded_by == operation.id


async def _infer_on_trial(engine: Engine) -> None:
    engine.start_swap("m", "2", plan=RAMP)
    await trio.sleep(0.25)
    replies = [await engine.infer("m", inputs(BAD), key=key) for key in "abcd"]
    assert all((reply.version, reply.outputs["y"].tolist()) == ("1", [BAD]) for reply in replies)
    assert any(reply.fell_back for reply in replies), "none of these keys finds the version on trial"


async def _lease_that_is_revoked(engine: Engine) -> None:
    async def drain() -> None:
        with suppress(EngineClosed):
            await engine.unload("m", "1", force=True, drain=Drain(0.5, "cancel", 1.0))

    async with trio.open_nursery() as nursery:
        with suppress(LeaseRevoked, NotReady, EngineClosed):
            async with engine.lease("m"):
                nursery.start_soon(drain)
                await trio.sleep(choose([0.5, 2.0]))


async def _scan(engine: Engine) -> None:
    found = await engine.scan()
    assert {spec.version for spec in found} <= {"found"}


async def _read_events(engine: Engine) -> None:
    async with engine.events() as events:
        engine.start_swap("m", "2")
        async for event in events:
            if event.detail.get("state") in {"completed", "cancelled", "failed"}:
                break


# --- what may be left -----------------------------------------------------------------------------------------------


def nothing(stage: Stage, call: Call) -> None:
    """The first version serves as before, and no other was touched."""
    assert stage.state("1") is VersionState.READY
    assert stage.state("2") is VersionState.REGISTERED


def no_load(stage: Stage, call: Call) -> None:
    """The second version is loaded, if its load had come to its end; else it is not."""
    state = stage.state("2")
    assert state is VersionState.READY or (call.end == "cancelled" and state in lifecycle.RESTING)


def an_unload(stage: Stage, call: Call) -> None:
    """The unload goes on without its caller."""
    assert stage.state("1") is VersionState.UNLOADED


def all_or_nothing(stage: Stage, call: Call) -> None:
    """The swap was undone, or it is complete."""
    states = [operation.state.value for operation in stage.engine.swaps("m")]
    assert (states, stage.engine.loaded_versions("m")) in (
        ([], ("1",)),
        (["cancelled"], ("1",)),
        (["completed"], ("2",)),
    )
    assert call.end == "cancelled" or states == ["completed"]


def a_swap(stage: Stage, call: Call) -> None:
    """The swap goes on without its caller, if it was begun."""
    states = [operation.state.value for operation in stage.engine.swaps("m")]
    assert states in ([], ["completed"])
    assert stage.engine.is_active("m", "2") == bool(states)


def no_swap(stage: Stage, call: Call) -> None:
    """The swap was turned round, or taken back by another one; or the order to do so was never given."""
    operations = stage.engine.swaps("m")
    states = [operation.state.value for operation in operations]
    back = states == ["rolled_back"] or (states == ["completed"] * 2 and operations[1].rollback_of == operations[0].id)
    assert back or (call.end == "cancelled" and states in ([], ["completed"])), states
    assert stage.engine.is_active("m", "1") == (back or not states)


def one_that_works(stage: Stage, call: Call) -> None:
    """The older swap gave way to the newer one, if that was ordered in time."""
    states = [operation.state.value for operation in stage.engine.swaps("m")]
    if call.end == "returned":
        assert (states, stage.traffic()) == (["superseded", "completed"], "1")
    else:
        newer_was_ordered = len(states) == 2
        assert stage.traffic() == "1" or (not newer_was_ordered and states == ["completed"]), states


def an_unload_or_nothing(stage: Stage, call: Call) -> None:
    """The unload goes on without its caller, if it was begun."""
    assert stage.state("1") is (VersionState.UNLOADED if call.end == "returned" else stage.state("1"))
    assert stage.state("1") in {VersionState.UNLOADED, VersionState.READY}


def make_new_bad(stage: Stage) -> None:
    """Have the new version fail on what the old one can answer."""
    stage.rig.script("m", "2").fails_on = lambda asked: bool((asked["x"] == BAD).any())


def as_it_is(stage: Stage) -> None:
    """Change nothing."""


@attrs.frozen
class Scene:
    """A call, what may be left of it, and how the engine and its versions are made."""

    make: Make
    left: Left
    engine: Mapping[str, Any] = {}
    versions: Mapping[str, Any] = {}
    prepare: Callable[[Stage], None] = as_it_is


WORKER = {"execution": "worker"}
SCENES = {
    "load": Scene(lambda engine: engine.load("m", "2"), no_load),
    "ensure_loaded": Scene(lambda engine: engine.ensure_loaded("m", "2"), no_load, versions=WORKER),
    "unload": Scene(_unload, an_unload, versions=WORKER),
    "swap": Scene(_swap, all_or_nothing, versions=WORKER),
    "wait_for_swap": Scene(_wait_for_swap, a_swap),
    "rollback": Scene(_rollback, no_swap),
    "warm_up": Scene(lambda engine: engine.warm_up("m", "1", inputs(-1)), nothing),
    "infer": Scene(_infer, nothing),
    "infer by a worker": Scene(_infer, nothing, versions=WORKER),
    "infer in a batch": Scene(_two_infers, nothing, versions={**WORKER, "batched": True}),
    "lease": Scene(_lease, nothing),
    "lease of what comes": Scene(_lease_of_a_load, no_load),
    "wait_for_drain": Scene(_wait_for_drain, nothing),
    "swap by a canary": Scene(_canary, all_or_nothing, versions=WORKER),
    "swap that is detached": Scene(_detached, a_swap),
    "pause, resume and promote": Scene(_steered, all_or_nothing),
    "supersede": Scene(_supersede, one_that_works),
    "infer with a fallback": Scene(_infer_on_trial, a_swap, versions=WORKER, prepare=make_new_bad),
    "infer with a fallback, inline": Scene(_infer_on_trial, a_swap, prepare=make_new_bad),
    "lease that is revoked": Scene(_lease_that_is_revoked, an_unload_or_nothing),
    "scan": Scene(_scan, nothing, engine={"repository": REPOSITORY}),
    "events": Scene(_read_events, a_swap),
}


# --- the programs ---------------------------------------------------------------------------------------------------


async def a_caller_goes_away() -> None:
    """Cancel any call at any moment, look at what is left of it, and use everything once more."""
    scene = SCENES[choose(list(SCENES))]
    async with open_stage(**scene.engine) as stage:
        engine = stage.engine
        stage.add("1", "2", **scene.versions)
        scene.prepare(stage)
        await engine.load("m", "1")
        call = stage.cancelled_call(lambda: scene.make(engine), most=MOMENTS)
        await stage.rest()
        assert_at_rest(stage)
        assert call.end in {"returned", "cancelled"}, call.end
        scene.left(stage, call)
        await engine.ensure_loaded("m", "1")
        other = "2" if engine.is_active("m", "1") else "1"
        operation = await engine.swap("m", other)
        assert (operation.state.value, operation.old_unloaded) == ("completed", True)
        assert (await engine.infer("m", inputs(7))).version == other
        await stage.rest()
        assert_at_rest(stage)


@pytest.mark.slow
def test_a_caller_who_goes_away_leaves_nothing_behind() -> None:
    """A call that is cancelled at any moment leaves what its docstring says, and an engine that works as before."""
    assert_explored(a_caller_goes_away, policy=Exhaustive(delays=0), exhausted=True)
    assert_explored(a_caller_goes_away, policy=RandomWalk(), schedules=400)
    assert_explored(a_caller_goes_away, policy=PCT(depth=3), schedules=300)


async def an_engine_is_closed_under_a_caller() -> None:
    """Close the engine at any moment of any call; whoever called is told one thing."""
    name = choose(list(SCENES))
    scene = SCENES[name]
    patience_s, rounds = choose([10.0, 0.0]), choose(range(MOMENTS))
    async with open_stage(close_timeout_s=patience_s, **scene.engine) as stage:
        engine = stage.engine
        stage.add("1", "2", **scene.versions)
        scene.prepare(stage)
        await engine.load("m", "1")
        call = stage.call(lambda: scene.make(engine))
        for _ in range(rounds):
            await trio.lowlevel.checkpoint()
    stopped = {"WarmUpFailed"} if name == "warm_up" else set[str]()  # one by hand stops when its version is drained
    assert call.end in TOLD_AT_THE_END | stopped, call.end


@pytest.mark.slow
def test_a_caller_who_stays_is_answered_when_the_engine_is_closed() -> None:
    """A call whose engine is closed at any moment of it is told one thing, and no model is left open."""
    assert_explored(an_engine_is_closed_under_a_caller, policy=Exhaustive(delays=0), exhausted=True)
    assert_explored(an_engine_is_closed_under_a_caller, policy=RandomWalk(), schedules=400)
    assert_explored(an_engine_is_closed_under_a_caller, policy=PCT(depth=3), schedules=300)


async def an_engine_is_cancelled() -> None:
    """Cancel everything around an engine at any moment, from its first on."""
    async with open_house() as house:
        rounds = choose(range(MOMENTS * 2 + 1))
        options = {"close_timeout_s": choose([0.0, 10.0]), "repository": REPOSITORY}
        with trio.CancelScope() as scope, suppress(ChangeoverError):
            if rounds == MOMENTS * 2:
                cancel_anywhere(scope)
            else:
                house.callers.start_soon(cancel_later, scope, rounds)
            async with open_rig(world=house.world, cast=house.cast, **options) as rig:
                stage = Stage(rig, house)
                stage.add("1", "2", execution="worker")
                await rig.engine.load("m", "1")
                stage.call(lambda: _infer(rig.engine))
                await _swap(rig.engine)


@pytest.mark.slow
def test_an_engine_that_is_cancelled_at_any_moment_is_closed_in_order() -> None:
    """Cancelled while it opens, serves, swaps or closes, an engine comes to its end and closes every model."""
    assert_explored(an_engine_is_cancelled, policy=Exhaustive(delays=0), exhausted=True)
    assert_explored(an_engine_is_cancelled, policy=RandomWalk(), schedules=300)
