"""The oracle of promise 10 finds bytes that nobody has reserved, and models that are there twice or for nobody."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from changeover.core.store import Store
from changeover.runtime.calls import Engine
from changeover.runtime.host import Host
from changeover.runtime.loaded import LoadedModel
from changeover.runtime.orders import LoadOrder
from changeover.runtime.room import Room
from changeover.runtime.version import Version
from changeover_sim.oracles.promise_10_budget import Promise10Budget
from changeover_sim.simulate.cast import Part
from changeover_sim.simulate.shape import Shape
from tests.simulations.oracles.small_runs import assert_found, assert_silent, parts, shape


def models(**fields: Any) -> tuple[Part, ...]:
    """Return two versions of each of two models."""
    return (*parts("1", "2", **fields), *parts("1", "2", model="b", **fields))


LOADS = (("loader", 4), ("unloader", 2), ("asker", 2), ("leaser", 1), ("swapper", 1))
PRESSED = shape(LOADS, models(load_s=(0.25,), close_s=(0.25,)), options={"memory_budget_bytes": 20}, force=0.5)
"""Room for two of four."""
MEASURED = shape(LOADS, models(load_s=(0.25,), found=15), options={"memory_budget_bytes": 30}, force=0.5)
"""Each turns out to be larger than was reserved."""
HUNG = shape(
    LOADS, models(load_s=(0.0, 0.25), load_timeout_s=0.5, warm_ups=1), options={"stuck_loads_max": 1}, force=0.5,
    faults=["load-hangs", "load-slow", "cancel", "warm-up-raises"],
)  # fmt: skip


@pytest.mark.parametrize("small", [PRESSED, MEASURED, HUNG], ids=["pressed", "measured", "hung"])
def test_silent(small: Shape) -> None:
    """Nothing is wrong with the loads of the engine as it is."""
    assert_silent(Promise10Budget, small)


def test_a_budget_that_is_exceeded_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """What does not fit is not reserved."""
    monkeypatch.setattr(Store, "room_for", lambda _store, _wanted: True)
    assert_found(Promise10Budget, PRESSED, "and the budget is 20")


def test_a_size_that_is_not_checked_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is measured is reserved, or the load fails."""
    monkeypatch.setattr(Store, "correct", lambda _store, _key, _measured: True)
    assert_found(Promise10Budget, MEASURED, "bytes are reserved for")


def test_bytes_that_are_free_too_early_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that is being closed is still there."""
    close: Callable[..., None] = Host.close

    def free(host: Host, loaded: LoadedModel, closed: Any) -> None:
        host._store.free(loaded.number)
        close(host, loaded, closed)

    monkeypatch.setattr(Host, "close", free)
    assert_found(Promise10Budget, PRESSED, "bytes are reserved for")


def test_a_reservation_that_a_hung_load_gives_back_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that nobody waits for goes on, and loads into bytes that it must have."""
    abandon: Callable[..., None] = Host.abandon

    def free(host: Host, job: Any) -> None:
        abandon(host, job)
        host._store.free(job.number)

    monkeypatch.setattr(Host, "abandon", free)
    assert_found(Promise10Budget, HUNG, "bytes are reserved for")


def test_a_reservation_that_stays_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """At rest nothing is reserved but for what serves."""
    free: Callable[..., int] = Store.free
    monkeypatch.setattr(Store, "free", lambda store, key: free(store, key) if key % 3 else 0)
    assert_found(Promise10Budget, HUNG, "at rest")


def test_a_load_that_is_started_twice_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A version has one thread that loads it."""
    start: Callable[..., None] = Host._start_load

    def twice(host: Host, loader: Any, job: Any) -> None:
        start(host, loader, job)
        host._ports.offload.start(f"load {job.spec.key}", lambda: None, lambda _value, _error: None)

    monkeypatch.setattr(Host, "_start_load", twice)
    assert_found(Promise10Budget, PRESSED, "threads load")


def test_a_model_that_is_loaded_twice_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A version has one model in use."""
    loaders = Host._load

    def twice(host: Host, loader: Any, job: Any) -> LoadedModel:
        loaders(host, loader, job)
        return loaders(host, loader, job)

    monkeypatch.setattr(Host, "_load", twice)
    assert_found(Promise10Budget, PRESSED, "is still in use")


def test_a_model_that_nobody_closes_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a load brings that nobody waits for any more is closed."""
    close: Callable[..., None] = Host.close

    def keep(host: Host, loaded: LoadedModel, closed: Any) -> None:
        if loaded.on_evict is None and loaded.on_fatal is None:  # it was never in use
            host._free(loaded.number)
            host._living.pop(loaded.number)
            closed(None)
        else:
            close(host, loaded, closed)

    monkeypatch.setattr(Host, "close", keep)
    assert_found(Promise10Budget, HUNG, "not closed")


def test_too_many_stuck_loads_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once so many loads hang no other is started."""
    monkeypatch.setattr(Host, "stuck", lambda _host: ())
    assert_found(Promise10Budget, HUNG, "loads hung already")


def test_a_load_that_waits_for_nothing_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who waits for room is told once nobody is about to make any."""
    look, seen = Room.look, list[None]()

    def deaf(room: Room) -> None:
        seen.append(None)
        if len(seen) % 3:
            look(room)

    monkeypatch.setattr(Room, "look", deaf)
    assert_found(Promise10Budget, PRESSED, "waits for room")


def test_a_load_that_is_told_too_early_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is told that a version is loaded can use it."""

    async def at_once(engine: Engine, version: Version) -> None:

        version.post(LoadOrder())

    monkeypatch.setattr(Engine, "_load", at_once)
    assert_found(Promise10Budget, HUNG, "was not ready at any time of it")
