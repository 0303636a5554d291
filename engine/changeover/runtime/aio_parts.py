"""How the asyncio face waits: a bell that any thread rings, and the way home for the answers of worker threads.

`Homes` owns one `Replies` per loop and forgets those of closed loops; a `Parking` owns its timer until `end`. Nothing
here spawns a task or blocks.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

from changeover.runtime.worker import Replies


class Bell:
    """Rung once, from any thread; heard on one loop, also by who stopped listening meanwhile and listens again."""

    __slots__ = ("_has_rung", "_listener", "_loop")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        """Be heard on `loop`."""
        self._loop = loop
        self._has_rung = False
        self._listener: asyncio.Future[None] | None = None

    def ring_soon(self) -> None:
        """Ring it; any thread. A loop that is closed has nobody who listens."""
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._ring)

    def _ring(self) -> None:
        self._has_rung = True
        if self._listener is not None:
            go_on(self._listener)

    async def rung(self) -> None:
        """Return once it has been rung; cancelled, it leaves nothing behind."""
        if not self._has_rung:
            self._listener = self._loop.create_future()
            await self._listener


class LoopWake:
    """The way from any thread onto one asyncio loop, as the `Wake` port has it."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        """Wake `loop`."""
        self._loop = loop
        self._is_asked = False

    def soon(self, callback: Callable[[], None], *, idempotent: bool = False) -> bool:
        """Have `callback` called on the loop; False where that is closed."""
        if idempotent:
            if self._is_asked:
                return True
            self._is_asked = True
        try:
            self._loop.call_soon_threadsafe(self._answer if idempotent else _call, callback)
        except RuntimeError:
            return False
        return True

    def _answer(self, callback: Callable[[], None]) -> None:
        self._is_asked = False  # before the look: whoever comes during it asks again
        callback()


class Homes:
    """The way home for answers, one for each loop that asks."""

    def __init__(self, listed: list[Replies]) -> None:
        """Keep the engine's list of all ways home up to date."""
        self._listed = listed
        self._homes: dict[asyncio.AbstractEventLoop, Replies] = {}

    def of(self, loop: asyncio.AbstractEventLoop) -> Replies:
        """Return the way home to `loop`, made on first need."""
        home = self._homes.get(loop)
        return home or self._make(loop)

    def _make(self, loop: asyncio.AbstractEventLoop) -> Replies:
        for known in tuple(self._homes):
            if known.is_closed():
                gone = self._homes.pop(known, None)
                if gone is not None:
                    self._listed.remove(gone)
        home = self._homes[loop] = Replies(LoopWake(loop), go_on)
        self._listed.append(home)
        return home


class Parking:
    """Where one request waits for its answers, for a limited time in all."""

    __slots__ = ("_future", "_is_late", "_loop", "_timer")

    def __init__(self, loop: asyncio.AbstractEventLoop, timeout_s: float | None) -> None:
        """Start the timer; None: no limit."""
        self._loop = loop
        self._is_late = False
        self._future: asyncio.Future[None] | None = None
        self._timer = None if timeout_s is None else loop.call_later(timeout_s, self._ring)

    def future(self) -> asyncio.Future[None]:
        """Return what is set when the answer is there, or the time is up."""
        future = self._future = self._loop.create_future()
        if self._is_late:
            go_on(future)
        return future

    def end(self) -> None:
        """Stop the timer."""
        if self._timer is not None:
            self._timer.cancel()

    def _ring(self) -> None:
        self._is_late = True
        if self._future is not None:
            go_on(self._future)


def go_on(future: asyncio.Future[Any]) -> None:
    """Let whoever waits go on, unless somebody else has."""
    if not future.done():
        future.set_result(None)


def _call(callback: Callable[[], None]) -> None:
    callback()
