"""The scenes of the calls that _load, unload and look at versions. What they leave is what their docstrings say."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from pathlib import Path
from typing import TypeVar

import trio

from changeover import Drain, ReferenceTracker, VersionState
from changeover.errors import ModelNotRegistered
from changeover.plugin import SourceAway
from tests.simulations.cancel.scene import (
    DONE,
    TWO,
    WORKER,
    Play,
    Scene,
    evict,
    hold,
    is_resting,
    later,
    until,
    until_held,
)
from tests.simulations.cancel.watch import Watch
from tests.simulations.first_use.stage import Call, Stage, inputs

T = TypeVar("T")

REPOSITORY = Path(__file__).parent.parent / "first_use" / "repository"
PATIENT = Drain(5.0)

# --- load -------------------------------------------------------------------------------------------------------------


def no_load(stage: Stage, call: Call) -> None:
    """The second version is loaded, if its load had come to its end; else it is not."""
    assert stage.state("1") is VersionState.READY
    loaded = stage.state("2") is VersionState.READY
    assert loaded or (call.end != "returned" and is_resting(stage, "2")), (call.end, stage.state("2"))


def called_off(stage: Stage, call: Call) -> None:
    """A load that takes one and a half seconds is called off by whoever goes away before."""
    no_load(stage, call)
    assert stage.state("2") is not VersionState.READY or call.ended_s >= 1.5, "loaded for nobody"


def a_load(stage: Stage, call: Call) -> None:
    """Somebody else waits for the _load, so that it goes on."""
    assert stage.state("2") is VersionState.READY


def a_reload(stage: Stage, call: Call) -> None:
    """What was evicted is there again, if its caller stayed; else it may be."""
    assert stage.state("1") is VersionState.READY or (call.end != "returned" and is_resting(stage, "1"))


async def _load(stage: Stage, here: Watch) -> None:
    await here(stage.engine.load("m", "2"))


async def _load_for_long(stage: Stage, here: Watch) -> None:
    stage.rig.takes("load m/2", 1.0)
    stage.rig.takes("warm m/2", 0.5)
    await here(stage.engine.load("m", "2"))


async def _load_with_another(stage: Stage, here: Watch) -> None:
    stage.rig.takes("load m/2", 1.0)
    stage.call(lambda: stage.engine.load("m", "2"), "load")
    await until(stage, VersionState.LOADING, "2")
    await here(stage.engine.load("m", "2"))


async def _load_and_be_joined(stage: Stage, here: Watch) -> None:
    stage.rig.takes("load m/2", 1.0)
    later(stage, 0.5, lambda: stage.engine.ensure_loaded("m", "2"), "load")
    await here(stage.engine.load("m", "2"))


async def _load_what_is_being_closed(stage: Stage, here: Watch) -> None:
    await stage.engine.load("m", "2")
    stage.rig.takes("close m/2", 1.0)
    stage.call(lambda: stage.engine.unload("m", "2"), "unload")
    await until(stage, VersionState.UNLOADING, "2")
    await here(stage.engine.load("m", "2"))


async def _load_again_and_again(stage: Stage, here: Watch) -> None:
    script = stage.rig.script("m", "2")
    script.load_error = SourceAway("not just now")

    async def mend() -> None:
        script.load_error = None

    later(stage, 0.25, mend)
    await here(stage.engine.load("m", "2"))


async def _load_in_vain(stage: Stage, here: Watch) -> None:
    script = stage.rig.script("m", "2")
    script.load_error = RuntimeError("cannot be loaded")
    try:
        await here(stage.engine.load("m", "2"))
    finally:
        script.load_error = None


async def _load_when_there_is_room(stage: Stage, here: Watch) -> None:
    stage.add("1", model="n")
    await stage.engine.load("n", "1")
    stage.rig.takes("close n/1", 1.0)
    stage.call(lambda: stage.engine.unload("n", "1", force=True), "unload")
    await until(stage, VersionState.UNLOADING, model="n")
    hold(stage, 2.0)
    await here(stage.engine.load("m", "2"))


async def _reload(stage: Stage, here: Watch) -> None:
    await evict(stage)
    await here(stage.engine.ensure_loaded("m", "1"))


async def _ensure_loaded(stage: Stage, here: Watch) -> None:
    await here(stage.engine.ensure_loaded("m", "2"))


async def _ensure_what_is_there(stage: Stage, here: Watch) -> None:
    await here(stage.engine.ensure_loaded("m", "1"))


# --- unload -----------------------------------------------------------------------------------------------------------


def an_unload(stage: Stage, call: Call) -> None:
    """The unload goes on without its caller."""
    assert stage.state("1") is VersionState.UNLOADED


def no_second(stage: Stage, call: Call) -> None:
    """The second version was unloaded, or never came."""
    assert stage.state("1") is VersionState.READY
    assert stage.state("2") is VersionState.UNLOADED


async def _unload(stage: Stage, here: Watch) -> None:
    outcome = await here(stage.engine.unload("m", "1", force=True))
    assert outcome.result == "drained"


async def _unload_what_is_held(stage: Stage, here: Watch) -> None:
    hold(stage, 1.0)
    stage.rig.takes("close m/1", 0.5)
    outcome = await here(stage.engine.unload("m", "1", force=True, drain=PATIENT))
    assert (outcome.result, stage.engine.is_loaded("m", "1")) == ("drained", False)


async def _unload_with_another(stage: Stage, here: Watch) -> None:
    hold(stage, 1.0)
    stage.call(lambda: stage.engine.unload("m", "1", force=True, drain=PATIENT), "unload")
    await until(stage, VersionState.DRAINING)
    await here(stage.engine.unload("m", "1", force=True, drain=PATIENT))


async def _unload_what_is_being_loaded(stage: Stage, here: Watch) -> None:
    stage.rig.takes("load m/2", 1.0)
    stage.call(lambda: stage.engine.load("m", "2"), "load")
    await until(stage, VersionState.LOADING, "2")
    await here(stage.engine.unload("m", "2"))


async def _unload_out_of_time(stage: Stage, here: Watch) -> None:
    hold(stage, 1.0)
    outcome = await here(stage.engine.unload("m", "1", force=True, drain=Drain(0.5)))
    assert outcome.result == "quarantined"


async def _unload_and_revoke(stage: Stage, here: Watch) -> None:
    async def stay() -> None:
        async with stage.engine.lease("m"):
            await trio.sleep(10.0)

    stage.call(stay, "stay")
    await until_held(stage)
    outcome = await here(stage.engine.unload("m", "1", force=True, drain=Drain(0.5, "cancel", 1.0)))
    assert outcome.result == "drained"


async def _unload_and_give_back(stage: Stage, here: Watch) -> None:
    hold(stage, 1.0)
    outcome = await here(stage.engine.unload("m", "1", force=True, drain=Drain(0.5, "rollback")))
    assert outcome.result == "given_back"


# --- the others -------------------------------------------------------------------------------------------------------


def a_name(stage: Stage, call: Call) -> None:
    """The third version is known still where its caller has gone, and then can be forgotten by another one."""
    try:
        stage.engine.load_info("m", "3")
    except ModelNotRegistered:
        return
    assert call.end == "cancelled"
    assert is_resting(stage, "3")


async def _unregister(stage: Stage, here: Watch) -> None:
    stage.add("3")
    await stage.engine.load("m", "3")
    await stage.engine.unload("m", "3")
    await here(stage.engine.unregister("m", "3"))


async def _unregister_what_is_held(stage: Stage, here: Watch) -> None:
    stage.add("3")
    await stage.engine.load("m", "3")
    hold(stage, 1.0, version="3")
    outcome = await stage.engine.unload("m", "3", drain=Drain(0.0))
    assert outcome.result == "quarantined"
    await here(stage.engine.unregister("m", "3"))


def warmed_up(stage: Stage, call: Call) -> None:
    """The version was warmed up by its load, and by the data of everybody who wanted that, whoever stayed for it."""
    (model,) = stage.rig.cast.of("m", "1")
    assert len(model.calls) == 3
    assert stage.state("1") is VersionState.READY


async def _warm_up(stage: Stage, here: Watch) -> None:
    stage.rig.takes("warm m/1", 0.5)
    await here(stage.engine.warm_up("m", "1", [inputs(-1), inputs(-1)]))


async def _warm_up_with_another(stage: Stage, here: Watch) -> None:
    stage.rig.takes("warm m/1", 0.5)
    stage.call(lambda: stage.engine.warm_up("m", "1", inputs(-1)), "warm up")
    await stage.until(lambda: stage.engine.load_info("m", "1").is_warming_up)
    await here(stage.engine.warm_up("m", "1", inputs(-1)))


async def _scan(stage: Stage, here: Watch) -> None:
    stage.rig.takes("scan", 0.5)
    found = await here(stage.engine.scan())
    assert [spec.version for spec in found] == ["found"]


async def _is_forgotten(stage: Stage, wait: Awaitable[T]) -> T:
    """Wait for zero; who waits no more, whyever, is not watched for any more, also where somebody holds on."""
    try:
        return await wait
    finally:
        assert not any(loaded.account._watchers for loaded in stage.engine._host.living()), "a watcher is left behind"
        assert not stage.engine._waits._waiting, "a wait is left behind"


async def _wait_for_drain(stage: Stage, here: Watch) -> None:
    hold(stage, 1.0)
    outcome = await _is_forgotten(stage, here(stage.engine.wait_for_drain("m", "1")))
    assert (outcome.result, outcome.holders) == ("zero", ())


async def _wait_for_drain_in_vain(stage: Stage, here: Watch) -> None:
    hold(stage, 1.0)
    await _is_forgotten(stage, here(stage.engine.wait_for_drain("m", "1", timeout_s=0.5)))


async def _wait_for_zero(stage: Stage, here: Watch) -> None:
    stage.engine.references.acquire("m", "1", "a")
    stage.engine.references.acquire("m", "1", "b")

    async def let_go() -> None:
        for holder in "ab":
            stage.engine.references.release("m", "1", holder)
            await trio.lowlevel.checkpoint()

    later(stage, 0.5, let_go)
    await _is_forgotten(stage, here(stage.engine.references.wait_for_zero("m", "1", 5.0)))


async def _wait_for_zero_of_what_goes(stage: Stage, here: Watch) -> None:
    hold(stage, 1.0)
    stage.call(lambda: stage.engine.unload("m", "1", force=True, drain=PATIENT), "unload")
    await until(stage, VersionState.DRAINING)
    await here(stage.engine.references.wait_for_zero("m", "1", 5.0))


async def _wait_for_zero_without_an_engine(stage: Stage, here: Watch) -> None:
    tracker = ReferenceTracker(clock=stage.rig.world.ports.clock)
    tracker.acquire("a", "1", "request")

    async def let_go() -> None:
        tracker.release("a", "1", "request")

    later(stage, 0.5, let_go)
    try:
        await here(tracker.wait_for_zero("a", "1", 5.0))
    finally:
        (account,) = tracker._accounts["a", "1"]
        assert not account._watchers, "a watcher is left behind"
        assert not tracker._world.waits._waiting, "a wait is left behind"


VERSIONS: Mapping[str, Mapping[str, Play]] = {
    "Engine.load": {
        "alone": Scene(_load, no_load),
        "for long": Scene(_load_for_long, called_off, versions=WORKER),
        "with another": Scene(_load_with_another, a_load),
        "joined by another": Scene(_load_and_be_joined, a_load),
        "of what is being closed": Scene(_load_what_is_being_closed, no_load),
        "again and again": Scene(_load_again_and_again, no_load, versions={"load_retries": 3}),
        "in vain": Scene(_load_in_vain, no_load, ends=DONE | {"LoadFailed"}),
        "when there is room": Scene(_load_when_there_is_room, no_load, engine=TWO),
    },
    "Engine.ensure_loaded": {
        "alone": Scene(_ensure_loaded, no_load, versions=WORKER),
        "of what is there": Scene(_ensure_what_is_there),
        "of what was evicted": Scene(_reload, a_reload, engine=TWO),
    },
    "Engine.unload": {
        "of what nobody holds": Scene(_unload, an_unload, versions=WORKER),
        "of what is held": Scene(_unload_what_is_held, an_unload),
        "with another": Scene(_unload_with_another, an_unload),
        "of what is being loaded": Scene(_unload_what_is_being_loaded, no_second, others=frozenset({"LoadCancelled"})),
        "out of time": Scene(_unload_out_of_time, an_unload),
        "that revokes": Scene(_unload_and_revoke, an_unload, others=frozenset({"LeaseRevoked"})),
        "that is given back": Scene(_unload_and_give_back),
    },
    "Engine.unregister": {
        "of what rests": Scene(_unregister, a_name),
        "of what is held": Scene(_unregister_what_is_held, a_name),
    },
    "Engine.warm_up": {
        "alone": Scene(_warm_up, warmed_up),
        "with another": Scene(_warm_up_with_another, warmed_up, versions=WORKER),
    },
    "Engine.scan": {"alone": Scene(_scan, engine={"repository": REPOSITORY, "watch_s": None})},
    "Engine.wait_for_drain": {
        "of what is held": Scene(_wait_for_drain),
        "in vain": Scene(_wait_for_drain_in_vain, ends=frozenset({"DrainTimeout", "cancelled"})),
    },
    "ReferenceTracker.wait_for_zero": {
        "of what is held": Scene(_wait_for_zero),
        "of what is unloaded": Scene(_wait_for_zero_of_what_goes, an_unload),
        "without an engine": Scene(_wait_for_zero_without_an_engine),
    },
}
