"""The parts of the bridge alone: the feed of events, the seat at its end, the revokers of an account."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import trio

import changeover
from changeover import Event, EventsDropped
from changeover.core.ledger import Account
from changeover.errors import EngineClosed
from changeover.runtime.errand import Errand
from changeover.runtime.events import Bus
from changeover.runtime.feed import ENDED, Feed
from changeover.runtime.ports import SystemClock
from changeover.runtime.seat import Seat

USE = ("lease", 0.0, None, None)


def test_a_slow_reader_is_told_how_many_events_it_missed() -> None:
    """The oldest events are dropped, counted, and told before the rest; the end comes last."""
    bus = Bus(SystemClock())
    feed = Feed(bus, 2)
    feed.start()
    for number in range(5):
        bus.emit("version_registered", model=str(number))
    assert feed.take() == EventsDropped(3)
    assert [event.model for event in (feed.take(), feed.take()) if isinstance(event, Event)] == ["3", "4"]
    assert feed.take() is None
    bus.close()
    assert feed.take() == ENDED


def test_a_reader_is_told_once_for_many_events() -> None:
    """Whoever waits is woken by the first event, at once where there is one already, and by the end."""
    bus, told = Bus(SystemClock()), []
    feed = Feed(bus, 10)
    feed.start()
    feed.call(lambda: told.append("first"))
    bus.emit("version_registered", model="m")
    bus.emit("version_registered", model="m")
    assert told == ["first"]
    feed.call(lambda: told.append("at once"))
    while feed.take() is not None:
        pass
    feed.call(lambda: told.append("end"))
    bus.close()
    assert told == ["first", "at once", "end"]


def test_who_may_be_revoked_late_is_revoked_at_once() -> None:
    """A reference that becomes revocable after the revocation is asked to let go all the same; until it is reopened."""
    account, told = Account(), []
    first, second = account.acquire(USE), account.acquire(USE)
    assert first is not None
    assert second is not None
    account.revocable(first, lambda: told.append("first"))
    account.revoke(frozenset({"lease"}))
    account.revocable(second, lambda: told.append("second"))
    assert told == ["first", "second"]
    account.irrevocable(first)
    account.reopen()
    account.revoke(frozenset({"lease"}))
    assert told == ["first", "second", "second"]


async def test_a_lease_that_is_left_or_released_cannot_be_revoked(engine: Any, rig: Any) -> None:
    """Nothing of a lease is left in its account, whichever way it ended."""
    await rig.ready()
    async with engine.lease("m") as lease:
        account = lease._account
        assert len(account._revokers) == 1
    assert account._revokers == {}
    lease = engine.lease("m")
    await lease.__aenter__()
    lease.release()
    assert account._revokers == {}
    lease._stay.leave(None, None, None)


def seat() -> Seat:
    """Return a seat that nobody sits on yet."""
    return Seat(changeover.open_engine, lambda: None, lambda: None)


def test_an_errand_that_comes_after_the_last_is_answered() -> None:
    """While the loop ends, an errand is told that the engine is closed."""
    ended = threading.Event()

    async def call() -> None:
        raise AssertionError

    errand: Errand[None] = Errand(call, ended.set)
    seat()._start(errand)
    assert ended.is_set()
    with pytest.raises(EngineClosed):
        errand.take(AssertionError)


def test_a_crash_is_told_to_whoever_asks_late() -> None:
    """Who begins to watch after the crash hears of it at once."""
    chair, told = seat(), []
    chair._has_crashed = True
    chair.watch(lambda: told.append("crash"))
    assert told == ["crash"]


async def test_an_errand_that_is_called_off_before_its_task_runs(autojump_clock: Any) -> None:
    """An errand called off between its arrival and the first step of its task never makes its call."""
    ended = trio.Event()

    async def call() -> None:
        raise AssertionError

    chair = seat()
    async with trio.open_nursery() as chair._errands:
        errand: Errand[None] = Errand(call, ended.set)
        chair._start(errand)
        errand.call_off()
        await ended.wait()
    with pytest.raises(EngineClosed):
        errand.take(lambda: EngineClosed("closed"))
