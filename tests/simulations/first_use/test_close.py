"""Every public call that waits, and the engine closed at every moment of it: whoever called is told one thing.

A moment is any point of what others do meanwhile; `Exhaustive(delays=0)` tries each. What is left of a caller who goes
away is in `tests/simulations/cancel`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from changeover import Drain, Engine, Shift
from changeover.errors import ChangeoverError, EngineClosed, LeaseRevoked, NotReady
from changeover_sim import PCT, Exhaustive, RandomWalk, choose
from tests.simulations.first_use.stage import (
    Stage,
    assert_explored,
    inputs,
    open_stage,
)

REPOSITORY = Path(__file__).parent / "repository"
MOMENTS = 25
"""So many rounds of the others are enough for the longest call, a swap."""
BAD = 5.0
"""What the new version fails on."""
RAMP = Shift.canary(((0.5, 0.5),), confirm_s=0.25, guard=None)
TOLD_AT_THE_END = {"returned", "EngineClosed", "SwapFailed", "SwapRolledBack", "VersionCrashed"}
"""How a call may end whose engine is closed under it."""

Make = Callable[[Engine], Awaitable[Any]]


# --- what is called -------------------------------------------------------------------------------------------------


async def _unload(engine: Engine) -> None:
    outcome = await engine.unload("m", "1", force=True, drain=Drain(5.0))
    assert outcome.result == "drained"
    assert not engine.is_loaded("m", "1")


async def _swap(engine: Engine) -> None:
    operation = await engine.swap("m", "2", drain=Drain(5.0))
    assert (operation.state.value, operation.old_unloaded) == ("completed", True)
    assert not engine.is_loaded("m", "1")


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
    operation = await engine.swap("m", "2", plan=RAMP, drain=Drain(5.0))
    assert (operation.state.value, operation.old_unloaded) == ("completed", True)


async def _detached(engine: Engine) -> None:
    operation = await engine.swap("m", "2", plan=RAMP, on_cancel="detach")
    assert (operation.state.value, operation.old_unloaded) == ("completed", True)


async def _steered(engine: Engine) -> None:
    swap_id = engine.start_swap("m", "2", plan=RAMP)
    engine.pause(swap_id)
    await trio.sleep(2.0)
    engine.resume(swap_id)
    await trio.sleep(0.25)
    assert engine.swap_status(swap_id).share == 0.5
    engine.promote(swap_id)
    await engine.wait_for_swap(swap_id)


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


def make_new_bad(stage: Stage) -> None:
    """Have the new version fail on what the old one can answer."""
    stage.rig.script("m", "2").fails_on = lambda asked: bool((asked["x"] == BAD).any())


def as_it_is(stage: Stage) -> None:
    """Change nothing."""


@attrs.frozen
class Scene:
    """A call, and how the engine and its versions are made."""

    make: Make
    engine: Mapping[str, Any] = {}
    versions: Mapping[str, Any] = {}
    prepare: Callable[[Stage], None] = as_it_is


WORKER = {"execution": "worker"}
SCENES = {
    "load": Scene(lambda engine: engine.load("m", "2")),
    "ensure_loaded": Scene(lambda engine: engine.ensure_loaded("m", "2"), versions=WORKER),
    "unload": Scene(_unload, versions=WORKER),
    "swap": Scene(_swap, versions=WORKER),
    "wait_for_swap": Scene(_wait_for_swap),
    "rollback": Scene(_rollback),
    "warm_up": Scene(lambda engine: engine.warm_up("m", "1", inputs(-1))),
    "infer": Scene(_infer),
    "infer by a worker": Scene(_infer, versions=WORKER),
    "infer in a batch": Scene(_two_infers, versions={**WORKER, "batched": True}),
    "lease": Scene(_lease),
    "lease of what comes": Scene(_lease_of_a_load),
    "wait_for_drain": Scene(_wait_for_drain),
    "swap by a canary": Scene(_canary, versions=WORKER),
    "swap that is detached": Scene(_detached),
    "pause, resume and promote": Scene(_steered),
    "supersede": Scene(_supersede),
    "infer with a fallback": Scene(_infer_on_trial, versions=WORKER, prepare=make_new_bad),
    "infer with a fallback, inline": Scene(_infer_on_trial, prepare=make_new_bad),
    "lease that is revoked": Scene(_lease_that_is_revoked),
    "scan": Scene(_scan, engine={"repository": REPOSITORY}),
    "events": Scene(_read_events),
}


# --- the programs ---------------------------------------------------------------------------------------------------


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
