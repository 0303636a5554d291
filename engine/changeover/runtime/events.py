"""The engine's events: one emitter, any number of readers, each with a bounded buffer of its own.

Emitting never waits; a reader that is slow loses the oldest events and is told how many. Belongs to the loop.
"""

from __future__ import annotations

import logging
from collections import deque
from types import TracebackType
from typing import Any, Protocol, Self

import trio

from changeover.core.checks import count
from changeover.core.snapshots import EVENT_KINDS, Event, EventsDropped
from changeover.core.values import VersionKey
from changeover.runtime.ports import Clock

logger = logging.getLogger("changeover")


class Reader(Protocol):
    """Who is told; on the loop."""

    def put(self, event: Event) -> None:
        """Take an event; quick, and never raises."""
        ...

    def wake(self) -> None:
        """Look again: the bus is closed."""
        ...


class Events:
    """One reader: `async with engine.events() as events: async for event in events`."""

    def __init__(self, bus: Bus, buffer: int) -> None:
        """Keep at most `buffer` unread events."""
        self._bus = bus
        self._unread: deque[Event] = deque(maxlen=count("buffer", buffer))
        self._dropped = 0
        self._lot = trio.lowlevel.ParkingLot()

    async def __aenter__(self) -> Self:
        """Begin to listen; cancelled, it does not."""
        await trio.lowlevel.checkpoint()
        self._bus.readers.append(self)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop listening."""
        self._bus.readers.remove(self)

    def __aiter__(self) -> Self:
        """Return itself."""
        return self

    async def __anext__(self) -> Event | EventsDropped:
        """Return the next event, or what was dropped before it; cancelled, no event is lost. Ends with the engine."""
        await trio.lowlevel.checkpoint()
        while not self._unread:
            if self not in self._bus.readers:
                raise RuntimeError("events are read inside their block: async with engine.events() as events")
            if self._bus.closed:
                raise StopAsyncIteration
            await self._lot.park()
        if self._dropped:
            dropped, self._dropped = self._dropped, 0
            return EventsDropped(dropped)
        return self._unread.popleft()

    def put(self, event: Event) -> None:
        """Buffer an event."""
        self._dropped += len(self._unread) == self._unread.maxlen
        self._unread.append(event)
        self._lot.unpark()

    def wake(self) -> None:
        """Let a waiting reader look again."""
        self._lot.unpark_all()


class Bus:
    """Where the engine's parts say what happened."""

    def __init__(self, clock: Clock) -> None:
        """Stamp events by `clock`."""
        self._clock = clock
        self.readers: list[Reader] = []
        self.closed = False

    def emit(
        self, kind: str, key: VersionKey | None = None, *, model: str | None = None, swap_id: str | None = None,
        **detail: Any,
    ) -> None:  # fmt: skip
        """Tell every reader and the log."""
        assert kind in EVENT_KINDS, kind
        event = Event(
            self._clock.wall(), kind, key.model if key else model, key.version if key else None, swap_id, detail
        )
        logger.debug("%s %s %s", kind, key or model or "", detail)
        for reader in tuple(self.readers):  # those in other threads come and go meanwhile
            reader.put(event)

    def close(self) -> None:
        """Let every reader come to its end."""
        self.closed = True
        for reader in tuple(self.readers):  # those in other threads come and go meanwhile
            reader.wake()
