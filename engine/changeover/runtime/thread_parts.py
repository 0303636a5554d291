"""How plain threads wait: gates for answers, and the blocks of streams and events; the parts of `threads.py`.

A `Chunks` or `Events` is entered and read by one thread. Nothing here spawns anything; Ctrl-C is heard everywhere.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

import trio

from changeover.core.snapshots import Event, EventsDropped, Reply
from changeover.errors import WrongLoop
from changeover.runtime.feed import ENDED, Feed
from changeover.runtime.streaming import Stream

SLICE_S = 1.0
"""A thread that waits looks up this often: a Ctrl-C that comes in the very moment in which a lock falls asleep does not
wake it. `test_ctrl_c_leaves_a_request` meets that moment now and then."""


class Here:
    """The way to whoever waits in a thread of its own: it is woken where the answer was made."""

    def soon(self, callback: Callable[[], None], *, idempotent: bool = False) -> bool:
        """Call `callback` at once."""
        callback()
        return True


class Chunks:
    """A streamed answer; entered and read by one thread."""

    def __init__(self, stream: Stream, begin: Callable[[], None]) -> None:
        """Hold nothing yet; `begin` opens it, and waits for a version that was evicted."""
        self._stream = stream
        self._begin = begin

    def __enter__(self) -> Self:
        """Pick and pin a version; raises `InvalidInput` and what `lease` raises."""
        self._begin()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let the version go; what is being computed is finished first, in its own thread."""
        self._stream.close()

    def __iter__(self) -> Self:
        """Return itself."""
        return self

    def __next__(self) -> Reply:
        """Return the next chunk; interrupted, the stream has ended.

        Raises `PredictFailed`, `VersionCrashed` and `LeaseRevoked`.
        """
        gate = threading.Lock()
        gate.acquire()
        request = self._stream.pull(gate)
        while request is not None:
            try:
                while not gate.acquire(timeout=SLICE_S):
                    pass
            except BaseException:
                self._stream.leave(request)
                raise
            if request.reply is not None or request.error is not None or request.is_end:
                request = self._stream.take(request)
            # else the gate was opened, late, for the pull before this one
        if self._stream.chunk is None:
            raise StopIteration
        return self._stream.chunk


class Events:
    """One reader: `with engine.events() as events: for event in events`."""

    def __init__(self, feed: Feed) -> None:
        """Read from `feed`."""
        self._feed = feed

    def __enter__(self) -> Self:
        """Begin to listen."""
        self._feed.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop listening."""
        self._feed.stop()

    def __iter__(self) -> Self:
        """Return itself."""
        return self

    def __next__(self) -> Event | EventsDropped:
        """Return the next event, or what was dropped before it; blocks. Ends with the engine."""
        while (event := self._feed.take()) is None:
            there = threading.Event()
            self._feed.call(there.set)
            wait_for(there)
        if event == ENDED:
            raise StopIteration
        return event


def wait_for(event: threading.Event) -> None:
    """Return once the event is there; Ctrl-C is heard meanwhile, within `SLICE_S` at the latest."""
    while not event.wait(SLICE_S):
        pass


def go_on(gate: threading.Lock) -> None:
    """Let whoever waits go on, unless somebody else has."""
    with contextlib.suppress(RuntimeError):
        gate.release()


def refuse_on_trio() -> None:
    """Raise `WrongLoop` in a Trio run, which a blocking call would stop."""
    try:
        trio.lowlevel.current_task()
    except RuntimeError:
        return
    raise WrongLoop("changeover.threads blocks its thread, which would stop this Trio run: use changeover.open_engine")
