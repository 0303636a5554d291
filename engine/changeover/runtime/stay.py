"""The block of an async lease: what can be ended from outside, by the drain that revokes the lease, and how on Trio.

A stay owns one cancel scope, or its likeness in another world (`aio_stay.py`). It is revoked from any thread and left
in the task that entered it. It spawns nothing, and holds no reference: that is the lease's.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Protocol

import trio

from changeover.errors import WrongLoop
from changeover.runtime.ports import TrioWake, Wake

ELSEWHERE = "this lease was entered in one task and left in another; leave it where it was entered, or use `with`"


class Stay(Protocol):
    """A block that was entered."""

    def revoke(self) -> None:
        """Have the block cancelled, in its own world; any thread, any number of times."""
        ...

    def leave(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> bool:
        """Leave the block; True where it was ended by `revoke`. Raises `WrongLoop` in another task than entered it."""
        ...


class World(Protocol):
    """Where async blocks live: Trio, asyncio, or nowhere."""

    async def within(self, seconds: float | None, call: Callable[[], Awaitable[None]]) -> None:
        """Make a call, and give it up without a word after so many seconds; None: no bound. Raises `WrongLoop`."""
        ...

    def stay(self) -> Stay:
        """Enter a block of the current task."""
        ...

    def bell(self) -> Bell:
        """Make a bell for the current task to hear."""
        ...


class Bell(Protocol):
    """Rung from any thread, heard by one task."""

    def ring_soon(self) -> None:
        """Ring it; any thread, and nothing happens where its loop is gone."""
        ...

    async def rung(self) -> None:
        """Return once it has been rung; cancelled, it leaves nothing behind."""
        ...


class TrioBell:
    """A bell on one Trio run."""

    __slots__ = ("_rung", "_wake")

    def __init__(self, wake: Wake) -> None:
        """Be heard on the run that `wake` reaches."""
        self._wake = wake
        self._rung = trio.Event()

    def ring_soon(self) -> None:
        """Ring it; any thread."""
        self._wake.soon(self._rung.set)

    async def rung(self) -> None:
        """Return once it has been rung."""
        await self._rung.wait()


class TrioStay:
    """A block on Trio, perhaps in another run than the engine's."""

    __slots__ = ("_scope", "_task", "_token")

    def __init__(self) -> None:
        """Enter it."""
        self._task = trio.lowlevel.current_task()
        self._token = trio.lowlevel.current_trio_token()
        self._scope = trio.CancelScope()
        self._scope.__enter__()

    def revoke(self) -> None:
        """Cancel the scope on its own run; nobody is left to be cancelled where that has ended."""
        try:
            here = trio.lowlevel.current_trio_token() is self._token
        except RuntimeError:  # a thread without a run
            here = False
        if here:
            self._scope.cancel()
            return
        try:
            self._token.run_sync_soon(self._scope.cancel)
        except trio.RunFinishedError:
            return

    def leave(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> bool:
        """Close the scope; True where it caught its own cancellation, and nothing but that."""
        if trio.lowlevel.current_task() is not self._task:
            raise WrongLoop(ELSEWHERE)
        self._scope.__exit__(kind, error, trace)
        return self._scope.cancelled_caught


class OnTrio:
    """Async blocks on Trio, in whichever run."""

    def __init__(self, wake: Wake | None = None) -> None:
        """Reach the present run through `wake`, where one is given, and every other run by its own entry queue."""
        self._wake = wake
        self._home = trio.lowlevel.current_trio_token() if wake is not None else None

    async def within(self, seconds: float | None, call: Callable[[], Awaitable[None]]) -> None:
        """Make a call in a scope with a deadline; cancelled, it leaves what the call leaves."""
        await trio.lowlevel.checkpoint()
        with trio.move_on_after(float("inf") if seconds is None else seconds):
            await call()

    def stay(self) -> Stay:
        """Enter a scope."""
        return TrioStay()

    def bell(self) -> Bell:
        """Make a bell of the run that this is called in."""
        token = trio.lowlevel.current_trio_token()
        return TrioBell(self._wake if self._wake is not None and token is self._home else TrioWake(token))


class Nowhere:
    """No async blocks: plain threads."""

    async def within(self, seconds: float | None, call: Callable[[], Awaitable[None]]) -> None:
        """Refuse."""
        raise WrongLoop("this engine belongs to plain threads: use `with`, or open it with changeover.aio.open_engine")

    def stay(self) -> Stay:
        """Refuse."""
        raise AssertionError("`within` has refused")

    def bell(self) -> Bell:
        """Refuse."""
        raise AssertionError("`within` has refused")
