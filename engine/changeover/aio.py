"""The engine from asyncio: the names of `changeover.Engine`, each call that waits awaited on the caller's own loop.

`open_engine` opens an engine in a thread of its own and closes both behind the block. An `Engine` here owns one way
back for worker replies per asyncio loop. It never blocks the loop, but for one turn of the engine's own in `register`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from changeover.core.checks import seconds
from changeover.core.operations import RecoveryReport, SwapOperation
from changeover.core.shift import Shift
from changeover.core.snapshots import DrainOutcome, Reply, WaitOutcome
from changeover.core.values import Drain, Timeouts, VersionSpec, as_data
from changeover.errors import Evicted
from changeover.runtime.aio_parts import Chunks, Deadline, Events, Homes
from changeover.runtime.aio_stay import Bell, OnAsyncio, TaskStay, running_loop
from changeover.runtime.engine import Durability
from changeover.runtime.engine import open_engine as open_on_trio
from changeover.runtime.errand import Errand
from changeover.runtime.feed import Feed
from changeover.runtime.inference import begun
from changeover.runtime.ordering import OnBusy, OnCancel
from changeover.runtime.seat import Seat
from changeover.runtime.seated import Seated

__all__ = ["Chunks", "Engine", "Events", "open_engine"]

_T = TypeVar("_T")


class Engine(Seated):
    """An open engine; `open_engine` makes it. Any asyncio loop may use it; the one that opened it closes it."""

    def __init__(self, seat: Seat, homes: Homes) -> None:
        """Be the asyncio face of the engine that sits there; its answers come home by `homes`."""
        super().__init__(seat, OnAsyncio())
        homes.listed = self._host.homes
        self._homes = homes

    # --- versions ---

    async def load(self, model: str, version: str) -> None:
        """Load a version and run its warm-up data; traffic moves only where the model had no ready version.

        Joins a running load. Cancelled, it calls the load off where nobody else waits for it. Raises
        `ModelNotRegistered`, `AlreadyLoaded`, `LoadFailed`, `LoadTimeout`, `WarmUpFailed`, `OverBudget` and
        `TooManyStuckLoads`.
        """
        await self._send(partial(self._engine.load, model, version))

    async def ensure_loaded(self, model: str, version: str) -> None:
        """Do as `load`, and be content where the version is loaded already."""
        await self._send(partial(self._engine.ensure_loaded, model, version))

    async def unload(
        self, model: str, version: str, *, drain: Drain | None = None, force: bool = False
    ) -> DrainOutcome:
        """Take a version out of use, wait for its holders and close it; return how the drain ended.

        It is never closed in use: out of time it stays in quarantine until its last holder leaves. Joins a running
        unload; calls a running load off. Cancelled, the unload goes on. Raises `VersionNotLoaded`, `LastVersion` and
        `SwapInProgress`.
        """
        return await self._send(partial(self._engine.unload, model, version, drain=drain, force=force))

    async def unregister(self, model: str, version: str) -> None:
        """Forget a version that is not loaded; its name may be registered anew, with another source.

        One in quarantine goes, too: who still holds it keeps its model until he leaves. Cancelled, it may be known
        still. Raises `ModelNotRegistered` and `VersionInUse`.
        """
        await self._send(partial(self._engine.unregister, model, version))

    async def warm_up(
        self, model: str, version: str, data: Mapping[str, Any] | Iterable[Mapping[str, Any]] | str | Path
    ) -> None:
        """Run inputs through a ready version under a `warmup` reference; its state and its traffic stay as they are.

        `data` is what the `warmup` of a `VersionSpec` may be: inputs, a file or folder of them, or `"signature"`.
        Cancelled, the data goes on running. Raises `VersionNotLoaded` and `WarmUpFailed`.
        """
        await self._send(partial(self._engine.warm_up, model, version, as_data(data)))

    async def scan(self) -> tuple[VersionSpec, ...]:
        """Register what is new in the repository folder, and return it; folders that cannot be are logged.

        It takes what is there at once, also what a look by itself would still wait for. Policies are read anew. Raises
        `InvalidValue` where the engine has no repository, or the folder is gone.
        """
        return await self._send(self._engine.scan)

    async def wait_for_drain(self, model: str, version: str, timeout_s: float = 30.0) -> WaitOutcome:
        """Return once nobody holds the version; raises `DrainTimeout`, which names the holders. Changes nothing."""
        return await self._send(partial(self._engine.wait_for_drain, model, version, timeout_s))

    # --- requests ---

    async def infer(
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

        With `execution="inline"` the model is called right here and cannot be interrupted; otherwise a worker calls
        it. Cancelled in the queue, the request never runs; cancelled later, its reference stays until its thread is
        done. Raises `InvalidInput`, `PredictFailed`, `NotReady`, `Overloaded`, `RequestTimeout` and what `lease` does.
        """
        if timeout_s is not None:
            seconds("timeout_s", timeout_s)
        loop = running_loop()
        inference = self._inference(self._homes.of(loop), None, model, inputs, version, key)
        until_s = None if timeout_s is None else loop.time() + timeout_s
        try:
            request = inference.begin()
        except Evicted:
            try:
                async with asyncio.timeout_at(until_s):
                    request = await begun(inference.begin, self._until_ready)
            except TimeoutError:
                raise inference.timed_out(timeout_s or 0.0) from None
        if request is None:
            return inference.reply
        deadline = None if until_s is None else Deadline(loop, until_s)
        try:
            while request is not None:
                request.waiter = future = (deadline or loop).create_future()
                try:
                    await future
                except BaseException:
                    inference.leave(request)
                    raise
                if request.reply is None and request.error is None:
                    inference.leave(request)
                    raise inference.timed_out(timeout_s or 0.0)
                request = inference.next(request)
        finally:
            if deadline is not None:
                deadline.end()
        return inference.reply

    async def infer_many(
        self, requests: Mapping[str, Mapping[str, Any]], *, key: str | None = None, timeout_s: float | None = None
    ) -> dict[str, Reply]:
        """Answer one request to each of several models, all by versions of one moment, as `lease_many` pins them.

        Workers answer at the same time, inline models one after the other. Where the version on trial of a swap fails,
        all models of that swap are answered by the versions before; where one goes before it has begun, the set begins
        anew. One that fails otherwise is raised, with a note that names its model, and the others are left; `ran` is
        "no" only where no model of the set has run anything.

        `timeout_s` is for the whole. Cancelled, what is queued never runs, and what runs keeps its version until its
        thread is done. Raises `InvalidValue` and what `infer` does.
        """
        if timeout_s is not None:
            seconds("timeout_s", timeout_s)
        loop = running_loop()
        gathering = self._gathering(self._homes.of(loop), None, requests, key)
        try:
            async with asyncio.timeout(timeout_s):
                request = await begun(gathering.begin, self._until_ready)
                while request is not None:
                    request.waiter = future = loop.create_future()
                    try:
                        await future
                    except BaseException:
                        gathering.leave(request)
                        raise
                    request = await begun(partial(gathering.next, request), self._until_ready)
        except TimeoutError:
            raise gathering.timed_out(timeout_s or 0.0) from None
        return gathering.replies

    def infer_stream(
        self, model: str, inputs: Mapping[str, Any], *, version: str | None = None, key: str | None = None
    ) -> Chunks:
        """Return an answer in chunks: `async with engine.infer_stream(...) as chunks: async for chunk in chunks`.

        Each chunk is a `Reply`. The version is held until the block ends; a model without `predict_stream` gives one
        chunk. The version before answers for one on trial that fails before its first chunk, and never after it.
        """
        stream = self._stream(self._homes.of(running_loop()), None, model, inputs, version, key)
        return Chunks(stream, self._until_ready)

    # --- swaps ---

    async def swap(
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

        Cancelled before the pivot, the swap is undone in the background, or goes on with `on_cancel="detach"`; after
        it, it goes on. Raises `SwapFailed`, `SwapRolledBack` and `Superseded`, each with its `operation`, and what
        `start_swap` raises.
        """
        return await self._send(
            partial(
                self._engine.swap, model, to,
                from_=from_, plan=plan, drain=drain, timeouts=timeouts, on_busy=on_busy, on_cancel=on_cancel,
            )
        )  # fmt: skip

    async def swap_group(
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
        new ones. A canary sends the same requests to all of the new versions. Cancelled, and raising, as `swap`.
        """
        return await self._send(
            partial(
                self._engine.swap_group, to,
                from_=from_, plan=plan, drain=drain, timeouts=timeouts, on_busy=on_busy, on_cancel=on_cancel,
            )
        )  # fmt: skip

    async def wait_for_swap(self, swap_id: str) -> SwapOperation:
        """Return a swap once it is completed, or raise what `swap` would have raised.

        Cancelled, the swap goes on. Raises `SwapNotFound`, `SwapFailed`, `SwapRolledBack` and `Superseded`.
        """
        return await self._send(partial(self._engine.wait_for_swap, swap_id))

    async def rollback(self, swap_id: str) -> SwapOperation:
        """Take a swap back: turn it round while it runs, or swap back after it; return the operation that did.

        Cancelled, the rollback goes on. Raises `SwapNotFound`, `SwapNotAllowed` where it did not happen or the
        traffic has moved on, `SwapInProgress`, `SwapFailed` where it could not be undone, and `SwapRolledBack` where
        the swap back was itself turned round.
        """
        return await self._send(partial(self._engine.rollback, swap_id))

    async def recovered(self, timeout_s: float | None = None) -> RecoveryReport:
        """Return once all that an earlier process has left in the journal was brought back, finished or undone.

        It waits for versions to be registered. Cancelled, that goes on. Raises `NotReady`, which says what is missing,
        after `timeout_s`; what could not be brought back is in the report.
        """
        return await self._send(partial(self._engine.recovered, timeout_s))

    # --- looking ---

    def events(self, buffer: int = 1000) -> Events:  # type: ignore[override]  # the same block, in another world
        """Return the events from now on, to enter with `async with` and to read with `async for`."""
        return Events(Feed(self._bus, buffer))

    # --- inside ---

    async def _send(self, call: Callable[[], Awaitable[_T]]) -> _T:
        """Have the engine's loop make a call, and wait for its end.

        Cancelled, it interrupts the call and waits until that has ended; cancelled once more, it leaves at once.
        """
        self._check_open()
        bell = Bell(running_loop())
        errand = Errand(call, bell.ring_soon)
        self._seat.send(errand)
        try:
            await bell.rung()
        except asyncio.CancelledError as cancelled:
            self._seat.call_off(errand)
            try:
                await bell.rung()
            finally:
                error = errand.leave()
            raise cancelled from error
        return errand.take(self._over)

    async def _until_ready(self, model: str, version: str | None) -> None:
        await self._send(partial(self._until_ready_there, model, version))


@asynccontextmanager
async def open_engine(
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
) -> AsyncGenerator[Engine, None]:
    """Open an engine in a thread of its own for the block, and close both behind it, also where that is cancelled.

    What the `repository` holds is registered at the start, and what comes into it every `watch_s` seconds; None: only
    with `scan()`.

    The `journal` is a SQLite file of open and past swaps and of what is active, from which the next engine goes on;
    None: in memory. It survives the end of the process, with `durability="power"` also that of the computer. Raises
    `JournalInUse` and `JournalFailed`.

    Closing undoes swaps before their pivot, drains every version for `close_timeout_s` and closes what nobody holds;
    what is still held is logged, or raised as `ReferenceLeakError` with `strict_references`. A body's own exception
    comes out as it is. A crash of the engine cancels the body and raises `EngineFailed`. Raises `WrongLoop` outside of
    asyncio.
    """
    loop = running_loop()
    opened, over = Bell(loop), Bell(loop)
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
        opened.ring_soon,
        over.ring_soon,
    )
    error: BaseException | None = None
    seat.open()
    try:
        await opened.rung()
    except BaseException as raised:
        await _close(seat, over, raised)
        raise
    if seat.engine is not None:
        block = TaskStay()
        seat.watch(block.revoke)
        homes = Homes()
        try:
            yield Engine(seat, homes)
        except BaseException as raised:  # noqa: BLE001 - it is raised again below, once the engine is closed
            error = raised
        if block.close(error):
            error = None  # it was the engine that ended the block, and says so itself
        try:
            await _close(seat, over, error)
        finally:
            homes.close()
    seat.join()
    if (failure := seat.outcome(error)) is not None:
        raise failure


async def _close(seat: Seat, over: Bell, error: BaseException | None) -> None:
    """Close the engine and join its thread, however often that is cancelled; then raise the cancellation."""
    cancelled: BaseException | None = None
    seat.close(error)
    while not seat.is_over:
        try:
            await over.rung()
        except asyncio.CancelledError as raised:
            cancelled = raised
    seat.join()
    if cancelled is not None:
        raise cancelled
