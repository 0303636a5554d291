"""The engine's events for a reader in another thread or loop: a bounded buffer that the engine's loop fills.

It owns the buffer and its count of what was dropped; `tell` wakes the reader, once for however many events there are.
It spawns nothing, and never waits: the faces do.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

from changeover.core.checks import count
from changeover.core.snapshots import Event, EventsDropped
from changeover.runtime.events import Bus

ENDED = EventsDropped(0)
"""What `take` returns at the end of the engine."""

OUTSIDE = "events are read inside their block, which `with` or `async with` opens: with engine.events() as events"


class Feed:
    """One reader's buffer; `start` and `stop` it, `take` from it."""

    def __init__(self, bus: Bus, buffer: int) -> None:
        """Keep at most `buffer` unread events."""
        self._bus = bus
        self._unread: deque[Event] = deque(maxlen=count("buffer", buffer))
        self._dropped = 0
        self._lock = threading.Lock()
        self._tell: Callable[[], None] | None = None

    # --- the reader ---

    def start(self) -> None:
        """Begin to listen."""
        self._bus.readers.append(self)

    def stop(self) -> None:
        """Stop listening."""
        self._bus.readers.remove(self)

    def take(self) -> Event | EventsDropped | None:
        """Return the next event, or what was dropped before it; None: there is none yet, `ENDED`: nor will there be.

        Raises `RuntimeError` where it does not listen.
        """
        closed = self._bus.closed  # looked at first: what is emitted before the end is still taken
        with self._lock:
            if self._dropped:
                dropped, self._dropped = self._dropped, 0
                return EventsDropped(dropped)
            if self._unread:
                return self._unread.popleft()
        if self not in self._bus.readers:
            raise RuntimeError(OUTSIDE)
        return ENDED if closed else None

    def call(self, tell: Callable[[], None]) -> None:
        """Have `tell` called once when there is something to take; perhaps at once. It must not raise."""
        with self._lock:
            self._tell = tell
            ready = bool(self._unread) or self._dropped > 0
        if ready or self._bus.closed:
            self.wake()

    # --- the engine's loop ---

    def put(self, event: Event) -> None:
        """Buffer an event."""
        with self._lock:
            self._dropped += len(self._unread) == self._unread.maxlen
            self._unread.append(event)
        self.wake()

    def wake(self) -> None:
        """Have the reader look again."""
        with self._lock:
            tell, self._tell = self._tell, None
        if tell is not None:
            tell()
