"""The engine from plain threads: the names of `changeover.Engine`, each call that waits blocks its own thread.

`open_engine` opens an engine in a thread of its own and closes both behind the block. Any thread may use it, but none
that runs a loop. Ctrl-C in a call that waits interrupts it, and goes on when it has ended.
"""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable, Generator, Iterable, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import trio

from changeover.core.checks import seconds
from changeover.core.operations import RecoveryReport, SwapOperation
from changeover.core.shift import Shift
from changeover.core.snapshots import DrainOutcome, Reply, WaitOutcome
from changeover.core.values import Drain, Timeouts, VersionSpec, as_data
from changeover.errors import Evicted, RequestTimeout
from changeover.runtime import thread_parts
from changeover.runtime.engine import Durability
from changeover.runtime.engine import open_engine as open_on_trio
from changeover.runtime.errand import Errand
from changeover.runtime.feed import Feed
from changeover.runtime.inference import until_back
from changeover.runtime.ordering import OnBusy, OnCancel
from changeover.runtime.seat import Seat
from changeover.runtime.seated import Seated
from changeover.runtime.stay import Nowhere
from changeover.runtime.thread_parts import Chunks, Events, Here, go_on, refuse_on_trio, wait_for
from changeover.runtime.worker import Replies

__all__ = ["Chunks", "Engine", "Events", "open_engine"]

_T = TypeVar("_T")


class Engine(Seated):
    """An open engine; `open_engine` makes it. Any thread may use it."""

    def __init__(self, seat: Seat) -> None:
        """Be the face of the engine that sits there."""
        super().__init__(seat, Nowhere())
        self._home = Replies(Here(), go_on)
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
        unload; calls a running load off. Interrupted, the unload goes on. Raises `VersionNotLoaded`, `LastVersion` and
        `SwapInProgress`.
        """
        return self._send(partial(self._engine.unload, model, version, drain=drain, force=force))

    def unregister(self, model: str, version: str) -> None:
        """Forget a version that is not loaded; its name may be registered anew, with another source.

        One in quarantine goes, too: who still holds it keeps its model until he leaves. Interrupted, it may be known
        still. Raises `ModelNotRegistered` and `VersionInUse`.
        """
        self._send(partial(self._engine.unregister, model, version))

    def warm_up(
        self, model: str, version: str, data: Mapping[str, Any] | Iterable[Mapping[str, Any]] | str | Path
    ) -> None:
        """Run inputs through a ready version under a `warmup` reference; its state and its traffic stay as they are.

        `data` is what the `warmup` of a `VersionSpec` may be: inputs, a file or folder of them, or `"signature"`.
        Interrupted, the data goes on running. Raises `VersionNotLoaded` and `WarmUpFailed`.
        """
        self._send(partial(self._engine.warm_up, model, version, as_data(data)))

    def scan(self) -> tuple[VersionSpec, ...]:
        """Register what is new in the repository folder, and return it; folders that cannot be are logged.

        It takes what is there at once, also what a look by itself would still wait for. Policies are read anew. Raises
        `InvalidValue` where the engine has no repository, or the folder is gone.
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

        One that has not begun moves on where its version crashes or is drained out of time, unless it named that; a
        version that was evicted is waited for.

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
        request = self._begun(inference.begin, lambda: inference.timed_out(timeout_s or 0.0), until_s)
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

    def infer_many(
        self, requests: Mapping[str, Mapping[str, Any]], *, key: str | None = None, timeout_s: float | None = None
    ) -> dict[str, Reply]:
        """Answer one request to each of several models, all by versions of one moment, as `lease_many` pins them.

        Workers answer at the same time, inline models one after the other. Where the version on trial of a swap fails,
        all models of that swap are answered by the versions before; where one goes before it has begun, the set begins
        anew. One that fails otherwise is raised, with a note that names its model, and the others are left; `ran` is
        "no" only where no model of the set has run anything.

        `timeout_s` is for the whole. Interrupted, what is queued never runs, and what runs keeps its version until its
        thread is done. Raises `InvalidValue` and what `infer` does.
        """
        until_s = None
        if timeout_s is not None:
            until_s = self._ports.clock.now() + seconds("timeout_s", timeout_s)
        gate = threading.Lock()
        gate.acquire()
        gathering = self._gathering(self._home, gate, requests, key)

        def timed_out() -> RequestTimeout:
            return gathering.timed_out(timeout_s or 0.0)

        request = self._begun(gathering.begin, timed_out, until_s)
        while request is not None:
            try:
                in_time = self._pass(gate, until_s)
            except BaseException:
                gathering.leave(request)
                raise
            if not in_time:
                gathering.leave(request)
                raise timed_out()
            request = self._begun(partial(gathering.next, request), timed_out, until_s)
        return gathering.replies

    def infer_stream(
        self, model: str, inputs: Mapping[str, Any], *, version: str | None = None, key: str | None = None
    ) -> Chunks:
        """Return an answer in chunks: `with engine.infer_stream(...) as chunks: for chunk in chunks`.

        Each chunk is a `Reply`. The version is held until the block ends; a model without `predict_stream` gives one
        chunk. The version before answers for one on trial that fails before its first chunk, and never after it.
        """
        stream = self._stream(self._home, None, model, inputs, version, key)
        return Chunks(stream, lambda: self._begun(stream.open, None, None))

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

    def swap_group(
        self,
        to: Mapping[str, str],
        *,
        from_: Mapping[str, str] | None = None,
        plan: Shift | None = None,
        drain: Drain | None = None,
        timeouts: Timeouts | None = None,
        on_busy: OnBusy = "refuse",
        on_cancel: OnCancel = "abort",
    ) -> SwapOperation:
        """Swap several models as one: all are prepared, then flipped in one step; a failure in one undoes all.

        `to` and `from_` map models to versions. `lease_many` and `infer_many` see all of the old versions or all of the
        new ones. A canary sends the same requests to all of the new versions. Interrupted, and raising, as `swap`.
        """
        return self._send(
            partial(
                self._engine.swap_group, to,
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
        traffic has moved on, `SwapInProgress`, `SwapFailed` where it could not be undone, and `SwapRolledBack` where
        the swap back was itself turned round.
        """
        return self._send(partial(self._engine.rollback, swap_id))

    def recovered(self, timeout_s: float | None = None) -> RecoveryReport:
        """Return once all that an earlier process has left in the journal was brought back, finished or undone.

        It waits for versions to be registered. Interrupted, that goes on. Raises `NotReady`, which says what is
        missing, after `timeout_s`; what could not be brought back is in the report.
        """
        return self._send(partial(self._engine.recovered, timeout_s))

    # --- looking ---

    def events(self, buffer: int = 1000) -> Events:  # type: ignore[override]  # the same block, in another world
        """Return the events from now on, to enter with `with` and to read with `for`."""
        return Events(Feed(self._bus, buffer))

    # --- inside ---

    def _begun(
        self, begin: Callable[[], _T], timed_out: Callable[[], RequestTimeout] | None, until_s: float | None
    ) -> _T:
        """Begin a request; where its version was evicted, wait until it is there again, or the clock says `until_s`."""
        while True:
            try:
                return begin()
            except Evicted as error:
                missing = error
            limit_s = float("inf") if until_s is None else max(0.0, until_s - self._ports.clock.now())
            in_time = self._send(partial(self._reloaded_within, missing, limit_s))
            if timed_out is not None and not in_time:
                raise timed_out()

    async def _reloaded_within(self, missing: Evicted, limit_s: float) -> bool:
        """Wait, on the engine's loop, for a version that was evicted; False where it takes longer."""
        with trio.move_on_after(limit_s) as scope:
            await until_back(missing, self._until_ready_there)
        return not scope.cancelled_caught

    def _pass(self, gate: threading.Lock, until_s: float | None) -> bool:
        """Return once the gate is open, or False once the engine's clock says `until_s`."""
        while not gate.acquire(timeout=thread_parts.SLICE_S if until_s is None else self._slice_s(until_s)):
            if until_s is not None and self._ports.clock.now() >= until_s:
                return False
        return True

    def _slice_s(self, until_s: float) -> float:
        return min(thread_parts.SLICE_S, max(0.0, until_s - self._ports.clock.now()))

    def _send(self, call: Callable[[], Awaitable[_T]]) -> _T:
        """Have the engine's loop make a call, and wait for its end.

        Interrupted, it interrupts the call and waits until that has ended; interrupted once more, it leaves at once.
        """
        self._check_open()
        refuse_on_trio()
        ended = threading.Event()
        errand = Errand(call, ended.set)
        try:
            self._seat.send(errand)
            wait_for(ended)
        except BaseException:
            self._seat.call_off(errand)
            try:
                wait_for(ended)
            finally:
                errand.leave()
            raise
        return errand.take(self._over)

    async def _until_ready(self, model: str, version: str | None) -> None:
        raise AssertionError("`async with` is refused before")


@contextmanager
def open_engine(
    *,
    repository: Path | str | None = None,
    watch_s: float | None = 2.0,
    journal: Path | str | None = None,
    durability: Durability = "process",
    memory_budget_bytes: int | None = None,
    debug_references: bool = False,
    strict_references: bool = False,
    close_timeout_s: float = 10.0,
    stuck_loads_max: int = 8,
) -> Generator[Engine, None, None]:
    """Open an engine in a thread of its own for the block, and close both behind it, also where that is interrupted.

    What the `repository` holds is registered at the start, and what comes into it every `watch_s` seconds; None: only
    with `scan()`.

    The `journal` is a SQLite file of open and past swaps and of what is active, from which the next engine goes on;
    None: in memory. It survives the end of the process, with `durability="power"` also that of the computer. Raises
    `JournalInUse` and `JournalFailed`.

    Closing undoes swaps before their pivot, drains every version for `close_timeout_s` and closes what nobody holds;
    what is still held is logged, or raised as `ReferenceLeakError` with `strict_references`. A body's own exception
    comes out as it is. A crash of the engine makes every later call, and the end of the block, raise `EngineFailed`.
    Ctrl-C between two steps of a request may leave its reference behind, for which the end then waits. Raises
    `WrongLoop` in a Trio run.
    """
    refuse_on_trio()
    opened, over = threading.Event(), threading.Event()
    seat = Seat(
        partial(
            open_on_trio,
            repository=repository,
            watch_s=watch_s,
            journal=journal,
            durability=durability,
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
        wait_for(opened)
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
            wait_for(over)
        except BaseException as raised:  # noqa: BLE001 - Ctrl-C, or whatever a signal handler raises
            interrupted = raised
    seat.join()
    if interrupted is not None:
        raise interrupted
