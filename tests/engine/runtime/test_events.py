"""Events: bounded for each reader, told where some are missing, ended with the engine."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from changeover import Engine, Event, EventsDropped
from changeover.core.snapshots import EVENT_KINDS
from changeover.errors import InvalidValue
from changeover.runtime.events import Bus, Events
from changeover_sim.ports import EPOCH_S, VirtualClock
from tests.support.rig import Rig, Watch, open_rig, settle

KIND = "version_state"


def emit(bus: Bus, *numbers: int) -> None:
    """Emit events that carry a number."""
    for number in numbers:
        bus.emit(KIND, n=number)


async def read(events: Events, n: int) -> list[Any]:
    """Read `n` events: the numbers that they carry, or how many were dropped as a negative number."""
    got = [await events.__anext__() for _ in range(n)]
    return [-e.count if isinstance(e, EventsDropped) else e.detail["n"] for e in got]


async def test_a_reader_gets_what_happens_while_it_listens(autojump_clock: Any) -> None:
    """Events before and after the block are not in it, and those within come in order, stamped by the clock."""
    bus = Bus(VirtualClock())
    emit(bus, 1)
    async with Events(bus, 10) as events:
        await trio.sleep(5)
        emit(bus, 2, 3)
        event = await events.__anext__()
        assert isinstance(event, Event)
        assert (event.at_s, event.kind, event.detail) == (EPOCH_S + 5, KIND, {"n": 2})
        assert await read(events, 1) == [3]
    emit(bus, 4)
    assert bus.readers == []


async def test_a_slow_reader_loses_the_oldest_events_and_is_told_how_many(autojump_clock: Any) -> None:
    """A full buffer drops from its front; the count comes before what is left, once."""
    bus = Bus(VirtualClock())
    async with Events(bus, 2) as events:
        emit(bus, 1, 2, 3, 4, 5)
        assert await read(events, 3) == [-3, 4, 5]
        emit(bus, 6)
        assert await read(events, 1) == [6]


async def test_one_slow_reader_costs_the_others_nothing(autojump_clock: Any) -> None:
    """Each reader has a buffer of its own."""
    bus = Bus(VirtualClock())
    async with Events(bus, 1) as slow, Events(bus, 10) as quick:
        emit(bus, 1, 2, 3)
        assert await read(quick, 3) == [1, 2, 3]
        assert await read(slow, 2) == [-2, 3]


async def test_a_cancelled_read_loses_no_event(autojump_clock: Any) -> None:
    """A reader that stops waiting finds the next event at its next read, and leaves no waiter behind."""
    bus = Bus(VirtualClock())
    async with Events(bus, 10) as events:
        with trio.move_on_after(1) as scope:
            await events.__anext__()
        assert scope.cancelled_caught
        assert events._lot.statistics().tasks_waiting == 0
        emit(bus, 1)
        assert await read(events, 1) == [1]


async def test_a_reader_whose_block_is_cancelled_is_forgotten(autojump_clock: Any) -> None:
    """A cancelled reader is off the list, so nothing is buffered for it any more."""
    bus = Bus(VirtualClock())
    with trio.move_on_after(1):
        async with Events(bus, 10) as events:
            await events.__anext__()
    assert bus.readers == []


async def test_a_reader_reads_to_the_end_and_then_stops() -> None:
    """After the bus is closed what was buffered is still read; then the iteration ends, for waiting readers too."""
    bus = Bus(VirtualClock())
    got: list[Any] = []

    async def listen(events: Events) -> None:
        got.extend([event.detail["n"] async for event in events if isinstance(event, Event)])

    async with Events(bus, 10) as early, Events(bus, 10) as late, trio.open_nursery() as nursery:
        nursery.start_soon(listen, early)
        await settle()
        emit(bus, 1)
        await settle()
        bus.close()
        nursery.start_soon(listen, late)
    assert got == [1, 1]


async def test_events_end_with_the_engine(autojump_clock: Any) -> None:
    """A reader outside of the engine's block comes to its end when the engine is closed, with the last state in it."""
    seen: list[Any] = []

    async def listen(events: Events) -> None:
        seen.extend([event async for event in events])

    async with trio.open_nursery() as nursery:
        async with open_rig() as rig:
            await rig.ready()
            events = await rig.engine.events().__aenter__()
            nursery.start_soon(listen, events)
            await settle()
        await events.__aexit__(None, None, None)
    assert [e.detail["state"] for e in seen if e.kind == KIND] == ["draining", "unloading", "unloaded"]


@pytest.mark.parametrize("buffer", [0, -1, 2.5, None])
def test_a_buffer_holds_at_least_one_event(buffer: Any, autojump_clock: Any) -> None:
    """A buffer that could hold nothing is refused by name."""
    with pytest.raises(InvalidValue, match="buffer"):
        Events(Bus(VirtualClock()), buffer)


async def test_a_life_is_told_in_events_of_known_kinds(engine: Engine, rig: Rig, autojump_clock: Any) -> None:
    """Registering, loading, swapping and unloading are told, each event with its kind, model, version and swap."""
    async with Watch(engine) as watch:
        await rig.ready()
        rig.add(version="2")
        operation = await engine.swap("m", "2")
        told = await watch.read()
    assert {event.kind for event in told} <= EVENT_KINDS
    assert await watch.states("1") == ["loading", "warming", "ready", "draining", "unloading", "unloaded"]
    assert await watch.kinds("traffic_shifted", "to") == ["1", "2"]
    of_swap = [event for event in told if event.swap_id == operation.id]
    assert [e.detail["state"] for e in of_swap if e.kind == "swap_state"] == [
        "loading_new_version", "transitioning", "old_version_draining", "completed",
    ]  # fmt: skip
    done = [e.detail["step"] for e in of_swap if e.kind == "swap_step" and e.detail["outcome"] == "done"]
    assert done == ["validate", "load", "warm", "shift", "drain", "unload"]
