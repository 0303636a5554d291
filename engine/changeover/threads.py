"""The engine from plain threads: the names of `changeover.Engine`, each call that waits blocks its own thread.

`open_engine` opens an engine in a thread of its own and closes both behind the block. Any thread may use it, but none
that runs a loop. Ctrl-C in a call that waits interrupts it, and goes on when it has ended.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Awaitable, Callable, Generator, Iterable, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import trio

from changeover.core.checks import seconds
from changeover.core.shift import Shift
from changeover.core.snapshots import DrainOutcome, Event, EventsDropped, Reply, SwapOperation, WaitOutcome
from changeover.core.values import Drain, Timeouts, VersionSpec, as_data
from changeover.errors import WrongLoop
from changeover.runtime.engine import open_engine as open_on_trio
from changeover.runtime.errand import Errand
from changeover.runtime.feed import ENDED, Feed
from changeover.runtime.ordering import OnBusy, OnCancel
from changeover.runtime.seat import Seat
from changeover.runtime.seated import Seated
from changeover.runtime.stay import Nowhere
from changeover.runtime.streaming import Stream
from changeover.runtime.worker import Replies

__all__ = ["Chunks", "Engine", "Events", "open_engine"]

_T = TypeVar("_T")

_SLICE_S = 1.0
"""A thread that waits looks up this often: a Ctrl-C that comes in the very moment in which a lock falls asleep does not
wake it. `test_ctrl_c_leaves_a_request` meets that moment now and then."""


class Engine(Seated):
    """An open engine; `open_engine` makes it. Any thread may use it."""

    def __init__(self, seat: Seat) -> None:
        """Be the face of the engine that sits there."""
        super().__init__(seat, Nowhere())
        self._home = Replies(_Here(), _go_on)
        self._host.homes.append(self._home)

    # --- versions ---

    def load(self, model: str, version: str) -> None:
        """Load a version and run its warm-up data; traffic moves only where the model had no ready version.

        Joins a running load. Interrupted, it calls the load off where nobody else waits for it. Raises
        `ModelNotRegistered`, `AlreadyLoaded`, `LoadFailed`, `LoadTimeout`, `WarmUpFailed`, `OverBudget` and
        `TooManyStuckLoads`.
        """
        self._send(partial(self._engine.load, model, version))

    def ensure_loaded(self, model: str, version: str) -> None:
        """Do as `load`, and be content where the version is loaded already."""
        self._send(partial(self._engine.ensure_loaded, model, version))

    def unload(self, model: str, version: str, *, drain: Drain | None = None, force: bool = False) -> DrainOutcome:
        """Take a version out of use, wait for its holders and close it; return how the drain ended.

        It is never closed in use: out of time it stays in quarantine until its last holder leaves. Joins a running
        unload. Interrupted, the unload goes on. Raises `VersionNotLoaded`, `LastVersion` and `SwapInProgress`.
        """
        return self._send(partial(self._engine.unload, model, version, drain=drain, force=force))

    def warm_up(self, model: str, version: str, data: Mapping[str, Any] | Iterable[Mapping[str, Any]]) -> None:
        """Run inputs through a ready version under a `warmup` reference; its state and its traffic stay as they are.

        Interrupted, the data goes on running. Raises `VersionNotLoaded` and `WarmUpFailed`.
        """
        self._send(partial(self._engine.warm_up, model, version, as_data(data)))

    def scan(self) -> tuple[VersionSpec, ...]:
        """Register what is new in the repository folder, and return it; folders that cannot be are logged.

        Raises `InvalidValue` where the engine has no repository, or the folder is gone.
        """
        return self._send(self._engine.scan)

    def wait_for_drain(self, model: str, version: str, timeout_s: float = 30.0) -> WaitOutcome:
        """Return once nobody holds the version; raises `DrainTimeout`, which names the holders. Changes nothing."""
        return self._send(partial(self._engine.wait_for_drain, model, version, timeout_s))

    # --- requests ---

    def infer(
        self,
        model: str,
        inputs: Mapping[str, Any],
        *,
        version: str | None = None,
        key: str | None = None,
        timeout_s: float | None = None,
    ) -> Reply:
        """Answer one request by the active version, or the one named; requests with the same `key` find the same one.

        With `execution="inline"` the model is called right here; otherwise a worker calls it. Interrupted in the queue,
        the request never runs; later, its reference stays until its thread is done. Raises `InvalidInput`,
        `PredictFailed`, `NotReady`, `Overloaded`, `RequestTimeout` and what `lease` does.
        """
        until_s = None
        if timeout_s is not None:
            until_s = self._ports.clock.now() + seconds("timeout_s", timeout_s)
        gate = threading.Lock()
        gate.acquire()
        inference = self._inference(self._home, gate, model, inputs, version, key)
        request = inference.begin()
        while request is not None:
            try:
                in_time = self._pass(gate, until_s)
            except BaseException:
                inference.leave(request)
                raise
            if request.reply is not None or request.error is not None:
                request = inference.next(request)
            elif not in_time:
                inference.leave(request)
                raise inference.timed_out(timeout_s or 0.0)
            # else the gate was opened, late, for the request before this one
        return inference.reply

    def infer_stream(
        self, model: str, inputs: Mapping[str, Any], *, version: str | None = None, key: str | None = None
    ) -> Chunks:
        """Return an answer in chunks: `with engine.infer_stream(...) as chunks: for chunk in chunks`.

        Each chunk is a `Reply`. The version is held until the block ends; a model without `predict_stream` gives one
        chunk. The version before answers for one on trial that fails before its first chunk, and never after it.
        """
        return Chunks(self._stream(self._home, None, model, inputs, version, key))

    # --- swaps ---

    def swap(
        self,
        model: str,
        to: str,
        *,
        from_: str | None = None,
        plan: Shift | None = None,
        drain: Drain | None = None,
        timeouts: Timeouts | None = None,
        on_busy: OnBusy = "refuse",
        on_cancel: OnCancel = "abort",
    ) -> SwapOperation:
        """Load the new version, move the traffic to it, drain and unload the old one; return once that is true.

        Interrupted before the pivot, the swap is undone in the background, or goes on with `on_cancel="detach"`; after
        it, it goes on. Raises `SwapFailed`, `SwapRolledBack` and `Superseded`, each with its `operation`, and what
        `start_swap` raises.
        """
        return self._send(
            partial(
                self._engine.swap, model, to,
                from_=from_, plan=plan, drain=drain, timeouts=timeouts, on_busy=on_busy, on_cancel=on_cancel,
            )
        )  # fmt: skip

    def wait_for_swap(self, swap_id: str) -> SwapOperation:
        """Return a swap once it is completed, or raise what `swap` would have raised.

        Interrupted, the swap goes on. Raises `SwapNotFound`, `SwapFailed`, `SwapRolledBack` and `Superseded`.
        """
        return self._send(partial(self._engine.wait_for_swap, swap_id))

    def rollback(self, swap_id: str) -> SwapOperation:
        """Take a swap back: turn it round while it runs, or swap back after it; return the operation that did.

        Interrupted, the rollback goes on. Raises `SwapNotFound`, `SwapNotAllowed` where it did not happen or the
        traffic has moved on, `SwapInProgress`, and `SwapFailed` where it could not be undone.
        """
        return self._send(partial(self._engine.rollback, swap_id))

    # --- looking ---

    def events(self, buffer: int = 1000) -> Events:  # type: ignore[override]  # the same block, in another world
        """Return the events from now on, to enter with `with` and to read with `for`."""
        return Events(Feed(self._bus, buffer))

    # --- inside ---

    def _pass(self, gate: threading.Lock, until_s: float | None) -> bool:
        """Return once the gate is open, or False once the engine's clock says `until_s`."""
        while not gate.acquire(timeout=_SLICE_S if until_s is None else self._slice_s(until_s)):
            if until_s is not None and self._ports.clock.now() >= until_s:
                return False
        return True

    def _slice_s(self, until_s: float) -> float:
        return min(_SLICE_S, max(0.0, until_s - self._ports.clock.now()))

    def _send(self, call: Callable[[], Awaitable[_T]]) -> _T:
        """Have the engine's loop make a call, and wait for its end.

        Interrupted, it interrupts the call and waits until that has ended; interrupted once more, it leaves at once.
        """
        self._check_open()
        _refuse_on_trio()
        ended = threading.Event()
        errand = Errand(call, ended.set)
        try:
            self._seat.send(errand)
            _wait(ended)
        except BaseException:
            self._seat.call_off(errand)
            try:
                _wait(ended)
            finally:
                errand.leave()
            raise
        return errand.take(self._over)

    async def _until_ready(self, model: str, version: str | None) -> None:
        raise AssertionError("`async with` is refused before")


class _Here:
    """The way to whoever waits in a thread of its own: it is woken where the answer was made."""

    def soon(self, callback: Callable[[], None], *, idempotent: bool = False) -> bool:
        """Call `callback` at once."""
        callback()
        return True


class Chunks:
    """A streamed answer; entered and read by one thread."""

    def __init__(self, stream: Stream) -> None:
        """Hold nothing yet."""
        self._stream = stream

    def __enter__(self) -> Self:
        """Pick and pin a version; raises `InvalidInput` and what `lease` raises."""
        self._stream.open()
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
                while not gate.acquire(timeout=_SLICE_S):
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
            _wait(there)
        if event == ENDED:
            raise StopIteration
        return event


@contextmanager
def open_engine(
    *,
    repository: Path | str | None = None,
    memory_budget_bytes: int | None = None,
    debug_references: bool = False,
    strict_references: bool = False,
    close_timeout_s: float = 10.0,
    stuck_loads_max: int = 8,
) -> Generator[Engine, None, None]:
    """Open an engine in a thread of its own for the block, and close both behind it, also where that is interrupted.

    Closing undoes swaps before their pivot, drains every version for `close_timeout_s` and closes what nobody holds;
    what is still held is logged, or raised as `ReferenceLeakError` with `strict_references`. A body's own exception
    comes out as it is. A crash of the engine makes every later call, and the end of the block, raise `EngineFailed`.
    Ctrl-C between two steps of a request may leave its reference behind, for which the end then waits. Raises
    `WrongLoop` in a Trio run.
    """
    _refuse_on_trio()
    opened, over = threading.Event(), threading.Event()
    seat = Seat(
        partial(
            open_on_trio,
            repository=repository,
            memory_budget_bytes=memory_budget_bytes,
            debug_references=debug_references,
            strict_references=strict_references,
            close_timeout_s=close_timeout_s,
            stuck_loads_max=stuck_loads_max,
        ),
        opened.set,
        over.set,
    )
    error: BaseException | None = None
    seat.open()
    try:
        _wait(opened)
        if seat.engine is not None:
            yield Engine(seat)
    except BaseException as raised:  # noqa: BLE001 - it is raised again below, once the engine is closed
        error = raised
    _close(seat, over, error)
    if (failure := seat.outcome(error)) is not None:
        raise failure


def _close(seat: Seat, over: threading.Event, error: BaseException | None) -> None:
    """Close the engine and join its thread, also where that is interrupted; then raise the interruption."""
    interrupted: BaseException | None = None
    seat.close(error)
    while not seat.is_over:
        try:
            _wait(over)
        except BaseException as raised:  # noqa: BLE001 - Ctrl-C, or whatever a signal handler raises
            interrupted = raised
    seat.join()
    if interrupted is not None:
        raise interrupted


def _wait(event: threading.Event) -> None:
    """Return once the event is there; Ctrl-C is heard meanwhile, within `_SLICE_S` at the latest."""
    while not event.wait(_SLICE_S):
        pass


def _go_on(gate: threading.Lock) -> None:
    """Let whoever waits go on, unless somebody else has."""
    with contextlib.suppress(RuntimeError):
        gate.release()


def _refuse_on_trio() -> None:
    """Raise `WrongLoop` in a Trio run, which a blocking call would stop."""
    try:
        trio.lowlevel.current_task()
    except RuntimeError:
        return
    raise WrongLoop("changeover.threads blocks its thread, which would stop this Trio run: use changeover.open_engine")
