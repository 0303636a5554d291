"""The seat of an engine that serves another world: a thread with a Trio run of its own, for `aio.py` and `threads.py`.

It owns the thread, and the nursery of the errands in flight, which lies outside the engine: so the engine's end
answers each of them before the nursery closes. It knows neither asyncio nor who waits, and never blocks the caller.
"""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, TypeVar

import trio

from changeover.core.checks import describe
from changeover.errors import EngineClosed, EngineFailed, WrongLoop
from changeover.runtime import fork
from changeover.runtime.calls import Engine
from changeover.runtime.errand import Errand

T = TypeVar("T")


def closed() -> EngineClosed:
    """Return the error for a call that the end of the engine has met."""
    return EngineClosed("the engine is closed; use it inside its block")


class Seat:
    """One engine in a thread; `open` once, then `close` once, then `join`."""

    def __init__(
        self,
        engine: Callable[[], AbstractAsyncContextManager[Engine]],
        opened: Callable[[], None],
        over: Callable[[], None],
    ) -> None:
        """Sit the engine that `engine` opens; `opened` and `over` are called in the thread, and must not raise.

        `opened` is called when there is an engine, or will not be one; `over` when the thread is about to end.
        """
        self._open_engine = engine
        self._opened = opened
        self._over = over
        self._crash_watchers: list[Callable[[], None]] = []
        self._has_crashed = False
        self._engine: Engine | None = None
        self._token: trio.lowlevel.TrioToken | None = None
        self._closing = False
        self._close = trio.Event()
        self._errands: trio.Nursery | None = None
        self._body_error: BaseException | None = None
        self._is_orphan = False
        self._thread = threading.Thread(target=self._run, name="changeover engine", daemon=True)
        self.is_over = False
        """True when the engine is closed and its loop has ended, or where it never opened."""
        self.error: BaseException | None = None
        """What came out of `open_engine`, or of the loop."""

    @property
    def engine(self) -> Engine | None:
        """The engine, once it is open; None where it could not be opened."""
        return self._engine

    # --- whoever opens and closes it ---

    def open(self) -> None:
        """Start the thread."""
        fork.tell(self)
        self._thread.start()

    def watch(self, crashed: Callable[[], None]) -> None:
        """Have `crashed` called, on any thread and perhaps twice, when the engine crashes before it is closed."""
        self._crash_watchers.append(crashed)
        if self._has_crashed:
            crashed()

    def close(self, body_error: BaseException | None) -> None:
        """Order the engine to close; `body_error` is what ended the block, beside which a leak is no error."""
        if self.is_over:
            return
        self._body_error = body_error
        self._closing = True
        if self._token is not None:
            self._soon(self._close.set)

    def join(self) -> None:
        """Return when the thread has ended; blocks, and no longer than a moment once `is_over`."""
        if not self._is_orphan:
            self._thread.join()

    def outcome(self, body_error: BaseException | None) -> BaseException | None:
        """Return what the block raises once all is over: the engine's own failure before an exception of the body."""
        if self.error is None or not (body_error is None or isinstance(body_error, Exception)):
            return body_error
        if body_error is not None and not isinstance(body_error, EngineFailed):
            self.error.add_note(f"the body raised too: {describe(body_error)}")
        return self.error

    def orphan(self) -> None:
        """Be over, in a forked process: the thread has stayed in the other one."""
        self._is_orphan = self.is_over = True

    # --- whoever calls the engine, any thread ---

    def send(self, errand: Errand[Any]) -> None:
        """Have an errand run; raises `EngineClosed` where the loop has ended."""
        if not self._soon(lambda: self._start(errand)):
            raise closed()

    def call_off(self, errand: Errand[Any]) -> None:
        """Have an errand interrupted, also one whose sending was itself interrupted."""
        if not self._soon(errand.call_off) and not errand.has_ended:
            errand.call_off()  # the loop that would have run it is gone

    def call(self, function: Callable[[], T]) -> T:
        """Call a function on the loop and return what it returns; blocks for one turn of the loop.

        Raises what it raises, `EngineClosed` where the loop has ended, and `WrongLoop` in a Trio run.
        """
        if trio.lowlevel.in_trio_run():
            raise WrongLoop(
                "this engine sits in another thread, and this Trio run must not wait: use changeover.open_engine"
            )
        try:
            return trio.from_thread.run_sync(function, trio_token=self._token)
        except trio.RunFinishedError:
            raise closed() from None

    def _soon(self, callback: Callable[[], None]) -> bool:
        assert self._token is not None, "it is open"
        try:
            self._token.run_sync_soon(callback)
        except trio.RunFinishedError:
            return False
        return True

    # --- the thread ---

    def _run(self) -> None:
        try:
            trio.run(self._main)
        except BaseException as error:  # noqa: BLE001 - whoever closes the engine raises it
            self.error = error
        finally:
            self.is_over = True
            self._opened()
            self._over()

    async def _main(self) -> None:
        """Be the loop: the errands outside, the engine inside, so that every errand is answered."""
        self._token = trio.lowlevel.current_trio_token()
        async with trio.open_nursery() as errands:
            self._errands = errands
            try:
                await self._serve()
            except BodyRaised:
                pass  # whoever raised it raises it again
            except Exception as error:  # noqa: BLE001 - it is raised by whoever closes, and not in a group
                self.error = error
            finally:
                self._errands = None
                errands.cancel_scope.cancel()

    async def _serve(self) -> None:
        async with self._open_engine() as self._engine:
            self._opened()
            try:
                if not self._closing:
                    await self._close.wait()
            except trio.Cancelled:
                self._has_crashed = True
                for crashed in self._crash_watchers:
                    crashed()
                raise
            if self._body_error is not None:
                raise BodyRaised(f"{describe(self._body_error)}")

    def _start(self, errand: Errand[Any]) -> None:
        if self._errands is None:
            errand.raised(closed())
        else:
            self._errands.start_soon(_run, errand)


class BodyRaised(Exception):
    """The block outside has raised; it tells the engine inside, which then raises nothing of its own."""


async def _run(errand: Errand[Any]) -> None:
    """Make an errand's call; whatever ends it, it gets an outcome."""
    scope = trio.CancelScope()
    call: Callable[[], Awaitable[Any]] | None = errand.begin(scope.cancel)
    if call is None:
        return
    try:
        with scope:
            errand.returned(await call())
    except Exception as error:  # noqa: BLE001 - it is the outcome
        errand.raised(error)
    finally:
        errand.interrupted()
