"""The block of an async lease, or of an engine, in an asyncio task: cancelled from outside as by `asyncio.timeout`.

It owns one cancellation, which it counts out of the task again when the block is left: none is left pending behind
it, and one that came from elsewhere goes on. And the bell that wakes such a task. It spawns nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any

from changeover.errors import WrongLoop
from changeover.runtime.stay import ELSEWHERE, Stay


def running_loop() -> asyncio.AbstractEventLoop:
    """Return the loop that this is called in; raises `WrongLoop` outside of asyncio."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        raise WrongLoop(
            "changeover.aio works inside a running asyncio loop; from Trio use changeover.open_engine, from plain "
            "threads changeover.threads.open_engine"
        ) from None


class TaskStay:
    """A block of one asyncio task."""

    __slots__ = ("_cancelling", "_inside", "_loop", "_revoked", "_task")

    def __init__(self) -> None:
        """Enter it; raises `WrongLoop` outside of a task."""
        self._loop = running_loop()
        task = asyncio.current_task()
        if task is None:
            raise WrongLoop("an async block needs a task, and this is a callback of the loop")
        self._task = task
        self._cancelling = task.cancelling()
        self._inside = True
        self._revoked = False

    def revoke(self) -> None:
        """Have the task cancelled by its own loop; a loop that is closed has nobody left to be cancelled."""
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._cancel)

    def _cancel(self) -> None:
        # A callback of the loop: the task sleeps somewhere inside the block, and wakes there with the cancellation.
        # Whoever has left by now is not touched, or the cancellation would hit whatever comes behind the block.
        if self._inside and not self._revoked:
            self._revoked = True
            self._task.cancel()

    def leave(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> bool:
        """Leave it in the task that entered it; True where it was ended by `revoke`. Raises `WrongLoop`."""
        revoked = self.close(error)
        if asyncio.current_task() is not self._task:
            raise WrongLoop(ELSEWHERE)
        return revoked

    def close(self, error: BaseException | None) -> bool:
        """Take the own cancellation back; True where it ended the block, and no other one is there."""
        self._inside = False
        if not self._revoked:
            return False
        alone = self._task.uncancel() <= self._cancelling
        return alone and isinstance(error, asyncio.CancelledError)


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


class OnAsyncio:
    """Async blocks on asyncio."""

    async def within(self, seconds: float | None, call: Callable[[], Awaitable[None]]) -> None:
        """Make a call with a time limit; cancelled, it leaves what the call leaves."""
        running_loop()
        if seconds is None:
            await call()
            return
        limit = asyncio.timeout(seconds)
        try:
            async with limit:
                await call()
        except TimeoutError:
            if not limit.expired():
                raise

    def stay(self) -> Stay:
        """Enter a block of the current task."""
        return TaskStay()

    def bell(self) -> Bell:
        """Make a bell of the running loop."""
        return Bell(running_loop())


def go_on(future: asyncio.Future[Any]) -> None:
    """Let whoever waits go on, unless somebody else has."""
    if not future.done():
        future.set_result(None)
