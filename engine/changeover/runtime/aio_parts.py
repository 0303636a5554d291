"""How the asyncio face waits: the way home for answers, a deadline, and the blocks of streams and events.

`Homes` owns one `Replies` per loop and forgets those of closed loops; a `Deadline` owns its timer until `end`. Chunks
and events are read by one task. Nothing here spawns a task or blocks.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from changeover.core.snapshots import Event, EventsDropped, Reply
from changeover.runtime.aio_stay import Bell, go_on, running_loop
from changeover.runtime.feed import ENDED, Feed
from changeover.runtime.inference import UntilReady, begun
from changeover.runtime.streaming import Stream
from changeover.runtime.worker import Replies


class LoopWake:
    """The way from any thread onto one asyncio loop, as the `Wake` port has it.

    Its idempotent way, which every answer of a worker takes, is a counter of the system that the loop watches: that
    costs half of `call_soon_threadsafe`. The counter lives as long as anybody could write to it.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        """Wake `loop`; made on it."""
        self._loop = loop
        self._is_asked = False
        self._callback: Callable[[], None] = _nothing
        self._counter: int | None = None
        if hasattr(os, "eventfd"):
            counter = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
            try:
                loop.add_reader(counter, self._answer)
            except NotImplementedError:  # a loop that watches nothing
                os.close(counter)
            else:
                self._counter = counter
        self._is_watched = self._counter is not None

    def __del__(self) -> None:
        """Give the counter back to the system: nobody can write to it any more."""
        if self._counter is not None:
            os.close(self._counter)

    def soon(self, callback: Callable[[], None], *, idempotent: bool = False) -> bool:
        """Have `callback` called on the loop; False where that is closed. All idempotent ones must be the same."""
        if idempotent:
            if self._is_asked:
                return True
            self._callback, self._is_asked = callback, True
            if self._is_watched:
                os.eventfd_write(self._counter or 0, 1)
                return True
        try:
            self._loop.call_soon_threadsafe(self._call if idempotent else callback)
        except RuntimeError:
            return False
        return True

    def close(self) -> None:
        """Let the loop watch the counter no more; on the loop."""
        if self._is_watched:
            self._is_watched = False
            self._loop.remove_reader(self._counter or 0)
            if self._is_asked:  # the counter was written, or is about to be, and will not be read: a stream may go on
                self._call()

    def forget(self) -> None:
        """Let go of the callback, which leads back here: else the counter of a loop that is closed would outlive it."""
        self._callback = _nothing

    def _answer(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._counter or 0)
        self._call()

    def _call(self) -> None:
        self._is_asked = False  # before the look: whoever comes during it asks again
        self._callback()


class LoopReplies(Replies):
    """Replies to asyncio futures, in as few calls as can be: this runs once for every request."""

    def _flush(self) -> None:
        """Let everybody go on whose request is answered."""
        done, expected = self._done, self._expected
        while done:
            request = done.popleft()
            waiter, request.waiter = request.waiter, None
            expected.pop(id(request), None)
            if waiter is not None and not waiter.done():
                waiter.set_result(None)


class Homes:
    """The way home for answers, one for each loop that asks."""

    def __init__(self) -> None:
        """Begin with none."""
        self.listed: list[Replies] = []
        """The engine's list of all ways home, which is kept up to date."""
        self._homes: dict[asyncio.AbstractEventLoop, tuple[Replies, LoopWake]] = {}

    def of(self, loop: asyncio.AbstractEventLoop) -> Replies:
        """Return the way home to `loop`, in which this is called; made on first need."""
        home = self._homes.get(loop)
        return self._make(loop) if home is None else home[0]

    def close(self) -> None:
        """Let every loop forget its way home: nothing will come any more."""
        for loop, (_home, wake) in self._homes.copy().items():
            with contextlib.suppress(RuntimeError):  # it is closed, and has forgotten
                loop.call_soon_threadsafe(wake.close)

    def _make(self, loop: asyncio.AbstractEventLoop) -> Replies:
        for known in tuple(self._homes):
            gone = self._homes.pop(known, None) if known.is_closed() else None
            if gone is not None:
                self.listed.remove(gone[0])
                gone[1].forget()
        wake = LoopWake(loop)
        home = LoopReplies(wake, go_on)
        self._homes[loop] = home, wake
        self.listed.append(home)
        return home


class Deadline:
    """Makes futures, as the loop does, which are also set when the time is up."""

    __slots__ = ("_future", "_is_late", "_loop", "_timer")

    def __init__(self, loop: asyncio.AbstractEventLoop, until_s: float) -> None:
        """Start the timer, which rings when the loop's clock says `until_s`."""
        self._loop = loop
        self._is_late = False
        self._future: asyncio.Future[Any] | None = None
        self._timer = loop.call_at(until_s, self._ring)

    def create_future(self) -> asyncio.Future[Any]:
        """Return a future that is set when the answer is there, or the time is up."""
        future = self._future = self._loop.create_future()
        if self._is_late:
            go_on(future)
        return future

    def end(self) -> None:
        """Stop the timer."""
        self._timer.cancel()

    def _ring(self) -> None:
        self._is_late = True
        if self._future is not None:
            go_on(self._future)


class Chunks:
    """A streamed answer; entered and read by one task."""

    def __init__(self, stream: Stream, until_ready: UntilReady) -> None:
        """Hold nothing yet; `until_ready` waits for a version that was evicted."""
        self._stream = stream
        self._until_ready = until_ready

    async def __aenter__(self) -> Self:
        """Pick and pin a version; raises `InvalidInput` and what `lease` raises. Cancelled, it holds nothing."""
        await begun(self._stream.open, self._until_ready)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let the version go; what is being computed is finished first, in its own thread."""
        self._stream.close()

    def __aiter__(self) -> Self:
        """Return itself."""
        return self

    async def __anext__(self) -> Reply:
        """Return the next chunk; cancelled, the stream has ended.

        Raises `PredictFailed`, `VersionCrashed` and `LeaseRevoked`.
        """
        request = self._stream.pull(None)
        while request is not None:
            request.waiter = future = running_loop().create_future()
            try:
                await future
            except BaseException:
                self._stream.leave(request)
                raise
            request = self._stream.take(request)
        if self._stream.chunk is None:
            raise StopAsyncIteration
        return self._stream.chunk


class Events:
    """One reader: `async with engine.events() as events: async for event in events`."""

    def __init__(self, feed: Feed) -> None:
        """Read from `feed`."""
        self._feed = feed

    async def __aenter__(self) -> Self:
        """Begin to listen."""
        self._feed.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop listening."""
        self._feed.stop()

    def __aiter__(self) -> Self:
        """Return itself."""
        return self

    async def __anext__(self) -> Event | EventsDropped:
        """Return the next event, or what was dropped before it; cancelled, no event is lost. Ends with the engine."""
        while (event := self._feed.take()) is None:
            bell = Bell(running_loop())
            self._feed.call(bell.ring_soon)
            await bell.rung()
        if event == ENDED:
            raise StopAsyncIteration
        return event


def _nothing() -> None:
    """Have nothing to call yet."""
