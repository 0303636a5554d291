"""What the programs of this folder share: an engine in a virtual world whose end is looked at, and its callers.

`open_stage` owns an engine, its world and the callers; behind it nothing of any of them may be left. Every program is
an async function at the top of its module, so that `changeover replay TOKEN` finds it by name.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Literal

import attrs
import numpy as np
import pytest
import trio

from changeover import Batching, VersionState
from changeover.core import lifecycle
from changeover.core.values import VersionKey
from changeover.errors import ChangeoverError
from changeover_sim import World, cancel_anywhere, choose, explore
from changeover_sim.simulate.life import silenced
from tests.support.models import BATCHED, Cast, first_column
from tests.support.rig import Rig, open_rig, settle

Durability = Literal["process", "power"]

Search = Callable[..., None]
"""What the fixture `search` is: `assert_explored`, but with `schedules` for the whole of a search."""


def assert_explored(program: Callable[[], Awaitable[object]], *, exhausted: bool = False, **options: Any) -> None:
    """Fail with the schedule, where one fails; also where `exhausted` is promised and there are more schedules."""
    with silenced():
        result = explore(program, **options)
    if result.failure is not None:
        pytest.fail(str(result.failure), pytrace=False)
    assert result.exhausted or not exhausted, result


@attrs.define(eq=False)
class Call:
    """Somebody's call: may be cancelled, and ends in exactly one way."""

    name: str
    make: Callable[[], Awaitable[Any]]
    anywhere: bool = False
    """Whether the explorer decides at which of its checkpoints it is cancelled."""
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    ends: list[str] = attrs.field(factory=list)
    """`returned`, `cancelled`, or the name of the error; there must be exactly one."""
    value: Any = None
    error: ChangeoverError | None = None
    ended_s: float = 0.0

    async def run(self) -> None:
        """Make the call and note how it ended; an error that is none of ours is a finding."""
        try:
            with self.scope:
                if self.anywhere:
                    cancel_anywhere(self.scope)
                self.value = await self.make()
                self.ends.append("returned")
        except ChangeoverError as error:
            self.error = error
            self.ends.append(type(error).__name__)
        if self.scope.cancelled_caught:
            self.ends.append("cancelled")
        self.ended_s = trio.current_time()

    @property
    def is_over(self) -> bool:
        """Whether it has ended."""
        return bool(self.ends)

    @property
    def end(self) -> str:
        """How it ended: in exactly one way."""
        assert len(self.ends) == 1, (self.name, self.ends)
        return self.ends[0]


@attrs.frozen
class House:
    """A world whose threads and callers come to their end by themselves, and the models in it."""

    cast: Cast
    world: World
    callers: trio.Nursery
    threads: trio.Nursery
    stages: list[Stage] = attrs.field(factory=list)
    """Its engines; nothing of any of them may be left behind it."""


class Stage:
    """An engine, its models and its callers."""

    def __init__(self, rig: Rig, house: House) -> None:
        self.rig = rig
        self.engine = rig.engine
        self.calls: list[Call] = []
        self._callers = house.callers
        self._threads = house.threads

    def call(self, make: Callable[[], Awaitable[Any]], name: str = "call", *, anywhere: bool = False) -> Call:
        """Make a call beside the program."""
        call = Call(name, make, anywhere)
        self.calls.append(call)
        self._callers.start_soon(call.run, name=name)
        return call

    def cancelled_call(self, make: Callable[[], Awaitable[Any]], name: str = "call", *, most: int = 30) -> Call:
        """Make a call that is cancelled at any checkpoint of its own, or when others have made 0 to `most` rounds."""
        rounds = choose(range(most + 1))
        call = self.call(make, name, anywhere=rounds == most)
        if rounds < most:
            self.start(cancel_later, call.scope, rounds)
        return call

    def start(self, work: Callable[..., Awaitable[Any]], *args: Any) -> None:
        """Run a task beside the program."""
        self._callers.start_soon(work, *args)

    def add(self, *versions: str, execution: str = "inline", batched: bool = False, **fields: Any) -> None:
        """Register versions of a model that answers with the number it was asked."""
        for version in versions:
            self.rig.add(
                version=version, execution=execution, signature=BATCHED, answers=first_column, warmup=[inputs(-1)],
                batching=Batching(2, 0.5) if batched else None, **fields,
            )  # fmt: skip

    def traffic(self) -> str | None:
        """Return the version that has all of the traffic; None where nothing has any."""
        route = self.engine._router.snapshot.routes.get("m")
        if route is None:
            return None
        (share,) = route.shares
        return share.version

    def state(self, version: str) -> VersionState:
        """Return the state of a version."""
        return self.engine._state(VersionKey("m", version))

    async def until(self, condition: Callable[[], bool]) -> None:
        """Return when a condition holds; looks at each of its checkpoints."""
        while not condition():
            await trio.lowlevel.checkpoint()

    async def rest(self) -> None:
        """Return when every call has ended, no thread is at work, and no version or swap is on its way anywhere."""
        for _ in range(40):
            await settle()
            busy, now = self._busy(), trio.current_time()
            await settle()  # under `timeouts="any-time"` time may pass between a wake-up and what it wakes
            if not busy and not self._busy() and trio.current_time() == now:
                return
            await trio.sleep(100.0)
        raise AssertionError(f"without an end: {self._busy()}")

    def _busy(self) -> list[str]:
        calls = [call.name for call in self.calls if not call.is_over]
        threads = sorted(task.name for task in self._threads.child_tasks if not task.name.startswith("worker "))
        versions = [
            str(key)
            for key, version in self.engine._versions.items()
            if version.state is not VersionState.READY and (version.state not in lifecycle.RESTING or version.has_task)
        ]
        swaps = [operation.id for operation in self.engine.swaps() if not operation.state.ended]
        return calls + threads + versions + swaps + [str(key) for key in self.engine.audit().holders]

    def workers(self) -> list[str]:
        """Return the worker threads by name."""
        return sorted(task.name for task in self._threads.child_tasks if task.name.startswith("worker "))


def inputs(number: float) -> dict[str, Any]:
    """Return the inputs of a request whose answer is its number; -1 is warm-up data."""
    return {"x": np.array([[float(number), 0.0]])}


async def cancel_later(scope: trio.CancelScope, rounds: int) -> None:
    """Cancel a scope after so many checkpoints."""
    for _ in range(rounds):
        await trio.lowlevel.checkpoint()
    scope.cancel()


@asynccontextmanager
async def open_house() -> AsyncGenerator[House, None]:
    """Open a world without an engine; behind the block wait for every thread and caller, and look at the models.

    A thread or a caller that never ends is a deadlock, which the explorer reports by its name.
    """
    cast = Cast()
    async with trio.open_nursery() as threads:
        async with trio.open_nursery() as callers:
            house = House(cast, World(threads.start_soon, 0), callers, threads)
            yield house
            await _until_quiet(threads)
        await _until_quiet(threads)
    assert cast.wrongs() == []
    assert cast.open() == [], "loaded and never closed"
    for stage in house.stages:
        assert_nothing_left(stage)


@asynccontextmanager
async def open_stage(
    *, patience_s: float | None = None, on_disk: Durability | None = None, **options: Any
) -> AsyncGenerator[Stage, None]:
    """Open an engine in a house of its own, and look behind it whether anything is left.

    Where `patience_s` is given, it is closed within twice that time, and then every caller has his answer. Its journal
    is in memory, or on the world's disk.
    """
    async with open_house() as house, open_stage_in(house, patience_s=patience_s, on_disk=on_disk, **options) as stage:
        yield stage


@asynccontextmanager
async def open_stage_in(
    house: House, *, patience_s: float | None = None, on_disk: Durability | None = None, **options: Any
) -> AsyncGenerator[Stage, None]:
    """Open one of several engines of a house, one after the other; look behind it when its callers have ended."""
    if on_disk is not None:
        house.world.ports = attrs.evolve(house.world.ports, journal=house.world.disk.journal(on_disk))
    options = {"debug_references": True, **options}
    async with open_rig(world=house.world, cast=house.cast, **options) as rig:
        stage = Stage(rig, house)
        house.stages.append(stage)
        yield stage
        ends_s = trio.current_time()
    if patience_s is not None:
        assert trio.current_time() - ends_s <= 2 * patience_s
        await settle()
        assert all(call.is_over for call in stage.calls), "not answered when the engine was closed"


async def _until_quiet(threads: trio.Nursery) -> None:
    """Let every thread come to its end, and those that are started by the ends of others."""
    for _ in range(20):
        await settle()
        if not threads.child_tasks:
            return
        await trio.sleep(1_000.0)


def assert_nothing_left(stage: Stage) -> None:
    """Look behind every door of an engine that was closed."""
    engine = stage.engine
    for call in stage.calls:
        assert call.end
    assert_accounts_even(stage)
    counts = engine.statistics()
    assert (counts.stuck_loads, counts.swaps_open, counts.reserved_bytes) == (0, 0, 0), counts
    assert not engine._host._living
    for supervisor in (engine._version_supervisor, engine._saga_supervisor):
        assert not supervisor.is_running
        assert supervisor._children == {}
    for version in engine._versions.values():
        assert version.loaded is None, version.key
    assert_nobody_waits(stage)
    assert_nobody_compares(stage)


def assert_at_rest(stage: Stage) -> None:
    """Look at an open engine in which nothing goes on: what serves is routed and open, and nothing else is left."""
    engine, cast = stage.engine, stage.rig.cast
    assert cast.wrongs() == []
    assert_accounts_even(stage)
    ready = [key for key, version in engine._versions.items() if version.state is VersionState.READY]
    assert sorted(cast.open()) == sorted(map(str, ready)), "open models are not those that are ready"
    assert sorted(engine._router._open) == sorted(ready), "routed versions are not those that are ready"
    for model in {key.model: None for key in ready}:
        assert engine._router.active(model) is not None, "a model that is ready has no traffic"
    for key, version in engine._versions.items():
        assert (key in ready) or version.state in lifecycle.RESTING, (key, version.state)
        assert (version.loaded is not None) == (key in ready), key
        assert version.has_task == (key in ready), key
    counts = engine.statistics()
    assert (counts.stuck_loads, counts.swaps_open, counts.reserved_bytes) == (0, 0, 10 * len(ready)), counts
    serving = [version for key, version in engine._versions.items() if key in ready and not version.loaded.inline]
    assert len(stage.workers()) == sum(version.spec.workers for version in serving), stage.workers()
    assert len(engine._saga_supervisor._children) == 0
    assert_nobody_waits(stage)
    assert_nobody_compares(stage)


def assert_accounts_even(stage: Stage) -> None:
    """Every reference that was taken was given back, each once."""
    audit = stage.engine.audit()
    assert audit.clean, audit
    assert audit.total.over_releases == 0, audit


def assert_nobody_waits(stage: Stage) -> None:
    """No order, reply, swap or watcher is left without its outcome."""
    engine = stage.engine
    assert not engine._host.jobs
    assert not engine._host.replies._expected
    assert not engine._host.replies._done
    assert engine._slots.everybody() == ()
    assert all(saga.ended.settled for saga in engine._sagas.values())
    for version in engine._versions.values():
        left = (version._loading, version._draining, version._current, version._later, version._warming)
        assert left == (None, None, None, [], []), (version.key, left)
        assert len(version._lane) == 0, version.key
        if version.loaded is not None:
            assert not version.loaded.account._watchers, version.key
            assert len(version.loaded.lane) == 0, version.key


def assert_nobody_compares(stage: Stage) -> None:
    """No trial, listener, meter, shadow, revocation or half of the traffic is left where no swap is on its way."""
    engine = stage.engine
    assert engine._router.listeners == {}
    for model, route in engine._router.snapshot.routes.items():
        assert route.trial is None, (model, route)
        assert [share.weight for share in route.shares] == [1.0], (model, route)
        assert model in engine._router.direct, "the slow way is left behind"
    for version in engine._versions.values():
        if version.loaded is not None:
            left = (version.loaded.meter, version.loaded.shadow)
            assert left == (None, None), (version.key, left)
            assert not version.loaded.account._revokers, version.key
    for saga in engine._sagas.values():
        for watch in saga._steps.shift._watches:
            kept = len(watch.new_meter.spells()) + len(watch._old_meter.spells()) + len(watch._measured)
            assert kept == 0, f"swap {saga.swap.id} is over and keeps {kept} things"
