"""What a scene is: a call that somebody makes and leaves, in a house that is looked at afterwards, and used once more.

A scene owns nothing between two plays; what it starts ends with its house. `Scene` has an engine that is open before
the call and behind it; the opening and the closing of engines have a play of their own, in `engines.py`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, Protocol

import attrs
import trio

from changeover import Events, VersionState
from changeover.core import lifecycle
from changeover.core.values import VersionKey
from tests.simulations.cancel.watch import Log, Pause, Watch, When
from tests.simulations.first_use.stage import (
    Call,
    Durability,
    House,
    Stage,
    assert_at_rest,
    inputs,
    open_house,
    open_stage_in,
)
from tests.support.rig import settle

Live = Callable[[Stage], Awaitable[None]]
Left = Callable[[Stage, Call], None]
DONE = frozenset({"returned", "cancelled"})
TWO = {"memory_budget_bytes": 20}
"""Room for two models; a third one makes the one go that was not used for the longest time."""
WORKER = {"execution": "worker"}


class Play(Protocol):
    """A scene of either kind."""

    pause: Pause
    """How its call pauses."""
    ends: frozenset[str]
    """How its call may end."""

    async def play(self, log: Log, when: When) -> None:
        """Play it once: with the call cancelled at one moment, or at none."""
        ...


# --- what may be left -------------------------------------------------------------------------------------------------


def nothing(stage: Stage, call: Call) -> None:
    """The first version serves as before, and the second was not touched."""
    assert stage.state("1") is VersionState.READY
    assert stage.state("2") is VersionState.REGISTERED


async def no_more(stage: Stage) -> None:
    """Prepare nothing."""


async def nobody_before(house: House) -> None:
    """Begin with an empty disk."""


@attrs.frozen
class Scene:
    """A call to an open engine."""

    call: Callable[[Stage, Watch], Awaitable[Any]]
    """Comes to the moment of the call, and makes it."""
    left: Left = nothing
    """Looks at what may be left of it."""
    pause: Pause = "waits"
    ends: frozenset[str] = DONE
    others: frozenset[str] = frozenset({"returned"})
    """How the calls of others may end."""
    engine: Mapping[str, Any] = {}
    """Options of the engine."""
    versions: Mapping[str, Any] = {}
    """What both versions of the model are like."""
    ready: Live = no_more
    """Prepares the models, before the first version is loaded."""
    before: Callable[[House], Awaitable[None]] = nobody_before
    """What an earlier process did on this disk."""
    on_disk: Durability | None = None
    is_loaded: bool = True
    """Whether the versions are registered, and the first one is loaded."""

    async def play(self, log: Log, when: When) -> None:
        """Make the call, cancel it at some moment, look at what is left of it, and use everything once more."""
        async with open_house() as house:
            await self.before(house)
            async with open_stage_in(house, on_disk=self.on_disk, **self.engine) as stage:
                if self.is_loaded:
                    stage.add("1", "2", **self.versions)
                    await self.ready(stage)
                    await stage.engine.load("m", "1")
                call = watched(stage, log, partial(self.call, stage), when)
                await stage.rest()
                log.ends[call.end] += 1
                assert call.end in self.ends, (call.end, call.error)
                ends = {one.end for one in stage.calls if one is not call}
                assert ends <= self.others, ends
                self.left(stage, call)
                await assert_still(stage)
                await use(stage)


def watched(stage: Stage, log: Log, make: Callable[[Watch], Awaitable[Any]], when: When) -> Call:
    """Have somebody make a call who goes away at some moment of it."""
    here = Watch(log, when)
    call = stage.call(lambda: make(here), log.name)
    here.scope = call.scope
    stage.start(here.cancel_beside)
    return call


async def assert_still(stage: Stage) -> None:
    """Nothing goes on, nobody waits for zero, nobody listens, and the audit is clean; evicted versions go for good."""
    engine = stage.engine
    for key, version in list(engine._versions.items()):
        if version.state is VersionState.EVICTED:  # it has traffic, and is not there: no state that anything rests in
            await engine.unload(*key, force=True)
    await stage.rest()
    assert_at_rest(stage)
    assert engine.audit().clean
    assert not engine._waits._waiting, "somebody still waits for zero"
    assert not any(isinstance(reader, Events) for reader in engine._bus.readers), "somebody still listens"


async def use(stage: Stage) -> None:
    """Load, swap and ask once more: the engine works as before."""
    engine = stage.engine
    await engine.ensure_loaded("m", "1")
    other = "2" if engine.is_active("m", "1") else "1"
    operation = await engine.swap("m", other)
    assert (operation.state.value, operation.old_unloaded) == ("completed", True)
    assert (await engine.infer("m", inputs(7))).version == other
    await stage.rest()
    await assert_still(stage)


# --- what others do ---------------------------------------------------------------------------------------------------


def hold(stage: Stage, seconds: float, model: str = "m", version: str | None = None) -> None:
    """Have somebody hold a version for a while, from now on."""
    lease = stage.engine.lease(model, version=version).__enter__()

    async def let_go() -> None:
        await trio.sleep(seconds)
        lease.release()

    stage.call(let_go, "hold")


def later(stage: Stage, seconds: float, make: Callable[[], Awaitable[Any]], name: str = "later") -> None:
    """Have somebody else make a call in a while."""

    async def wait_and_make() -> None:
        await trio.sleep(seconds)
        await make()

    stage.call(wait_and_make, name)


async def until(stage: Stage, state: VersionState, version: str = "1", model: str = "m") -> None:
    """Return when a version is in a state."""
    await stage.until(lambda: stage.engine._state(VersionKey(model, version)) is state)


async def until_held(stage: Stage, count: int = 1) -> None:
    """Return when the first version is held so many times."""
    await stage.until(lambda: stage.engine.references.count("m", "1") == count)


async def evict(stage: Stage) -> None:
    """Load two more models into an engine with room for `TWO`, so that version 1 goes."""
    for model in "no":
        stage.add("1", model=model)
        await stage.engine.load(model, "1")
    await settle()
    assert stage.state("1") is VersionState.EVICTED


def is_resting(stage: Stage, version: str) -> bool:
    """Return whether a version is neither loaded nor on its way."""
    return stage.state(version) in lifecycle.RESTING
