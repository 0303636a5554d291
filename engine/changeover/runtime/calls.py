"""The calls of the engine that wait, on Trio; with `base.py` they are the whole of an `Engine`.

Each says what its cancellation leaves behind. It spawns nothing: orders go to versions, swaps to the saga supervisor.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import trio

from changeover.core import lifecycle
from changeover.core.checks import seconds
from changeover.core.snapshots import DrainOutcome, Reply, WaitOutcome
from changeover.core.values import Drain, VersionKey, VersionSpec, VersionState, as_data
from changeover.errors import (
    AlreadyLoaded,
    ChangeoverError,
    Evicted,
    InvalidValue,
    LastVersion,
    LoadFailed,
    NotReady,
    OverBudget,
    SwapInProgress,
    TooManyStuckLoads,
)
from changeover.runtime import why
from changeover.runtime.events import logger
from changeover.runtime.gathering import Gathering
from changeover.runtime.inference import Inference, UntilReady, begun
from changeover.runtime.keeper import Looked
from changeover.runtime.mailbox import Promise
from changeover.runtime.orders import CalledOff, DrainOrder, DropOrder, LoadOrder, WarmOrder
from changeover.runtime.repository import Found, look
from changeover.runtime.saga import Saga
from changeover.runtime.streaming import Stream
from changeover.runtime.swaps import Swapping
from changeover.runtime.version import Version
from changeover.runtime.worker import Request


class Engine(Swapping):
    """An open engine; `open_engine` makes it. The calls that wait belong to the Trio run that opened it."""

    # --- versions ---

    async def load(self, model: str, version: str) -> None:
        """Load a version and run its warm-up data; traffic moves only where the model had no ready version.

        Joins a running load. Cancelled, it calls the load off where nobody else waits for it. Raises
        `ModelNotRegistered`, `AlreadyLoaded`, `LoadFailed`, `LoadTimeout`, `WarmUpFailed`, `OverBudget` and
        `TooManyStuckLoads`.
        """
        await self._load(self._named(model, version))

    async def ensure_loaded(self, model: str, version: str) -> None:
        """Do as `load`, and be content where the version is loaded already."""
        try:
            await self._load(self._named(model, version))
        except AlreadyLoaded:
            return

    async def unload(
        self, model: str, version: str, *, drain: Drain | None = None, force: bool = False
    ) -> DrainOutcome:
        """Take a version out of use, wait for its holders and close it; return how the drain ended.

        It is never closed in use: out of time it stays in quarantine until its last holder leaves. Joins a running
        unload; calls a running load off. Cancelled, the unload goes on. Raises `VersionNotLoaded`, `LastVersion` and
        `SwapInProgress`.
        """
        target = self._named(model, version)
        busy = self._slots.holder(model)
        if isinstance(busy, Saga) and target.key in busy.keys:
            raise SwapInProgress(f"{target.key} takes part in swap {busy.swap.id}; roll that back first", model=model)
        if not force and self._ready(model) == [version]:
            raise LastVersion(
                f"{target.key} is the only version of {model} that takes requests; swap to another, or use force=True",
                model=model, version=version,
            )  # fmt: skip
        order = DrainOrder(drain or Drain(), calls_off_load=True)
        target.post(order)
        outcome = await order.outcome.wait()
        if outcome.result == "drained":
            await order.closed.wait()
        return outcome

    async def unregister(self, model: str, version: str) -> None:
        """Forget a version that is not loaded; its name may be registered anew, with another source.

        One in quarantine goes, too: who still holds it keeps its model until he leaves. Cancelled, it may be known
        still. Raises `ModelNotRegistered` and `VersionInUse`.
        """
        target = self._named(model, version)
        order = DropOrder()
        target.post(order)
        await order.done.wait()
        if target.is_coming or target.state not in lifecycle.RESTING:
            raise why.in_use(target.key, target.state)  # somebody ordered its load meanwhile
        if self._versions.get(target.key) is target:  # else somebody else has forgotten it, and the name may be taken
            self._forget(target.key)

    async def warm_up(
        self, model: str, version: str, data: Mapping[str, Any] | Iterable[Mapping[str, Any]] | str | Path
    ) -> None:
        """Run inputs through a ready version under a `warmup` reference; its state and its traffic stay as they are.

        `data` is what the `warmup` of a `VersionSpec` may be: inputs, a file or folder of them, or `"signature"`.
        Cancelled, the data goes on running. Raises `VersionNotLoaded` and `WarmUpFailed`.
        """
        target = self._named(model, version)
        order = WarmOrder(as_data(data))
        target.post(order)
        await order.done.wait()

    async def scan(self) -> tuple[VersionSpec, ...]:
        """Register what is new in the repository folder, and return it; folders that cannot be are logged.

        It takes what is there at once, also what a look by itself would still wait for. Policies are read anew. Raises
        `InvalidValue` where the engine has no repository, or the folder is gone.
        """
        self._check_open()
        if self._settings.repository is None:
            raise InvalidValue("this engine has no repository folder; pass repository=... to open_engine")
        done: Promise[Found] = Promise()
        self._look(lambda found, error: _keep(done, found, error), at_once=True)
        return self._take(await done.wait())

    async def wait_for_drain(self, model: str, version: str, timeout_s: float = 30.0) -> WaitOutcome:
        """Return once nobody holds the version; raises `DrainTimeout`, which names the holders. Changes nothing."""
        self._named(model, version)
        return await self._references.wait_for_zero(model, version, timeout_s)

    # --- requests ---

    @trio.lowlevel.enable_ki_protection  # Ctrl-C between a pin and its release would lose the reference
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
        await trio.lowlevel.checkpoint()  # a loop of inline requests must not starve its neighbours
        inference = self._inference(self._host.replies, trio.lowlevel.current_task(), model, inputs, version, key)
        if timeout_s is not None:
            seconds("timeout_s", timeout_s)
        try:
            request = inference.begin()
        except Evicted:
            return await self._infer_reloaded(inference, timeout_s)
        if request is None:
            return inference.reply
        if timeout_s is None:
            return await _answer(inference, request)
        with trio.move_on_after(timeout_s) as scope:
            return await _answer(inference, request)
        assert scope.cancelled_caught
        raise inference.timed_out(timeout_s)

    @trio.lowlevel.enable_ki_protection
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
        await trio.lowlevel.checkpoint()
        task = trio.lowlevel.current_task()
        gathering = self._gathering(self._host.replies, task, requests, key)
        limit_s = float("inf") if timeout_s is None else seconds("timeout_s", timeout_s)
        with trio.move_on_after(limit_s) as scope:
            request = await begun(gathering.begin, self._until_ready)
            while request is not None:
                await _sleep(gathering, request)
                request = await begun(partial(gathering.next, request), self._until_ready)
            return gathering.replies
        assert scope.cancelled_caught
        raise gathering.timed_out(limit_s)

    def infer_stream(
        self, model: str, inputs: Mapping[str, Any], *, version: str | None = None, key: str | None = None
    ) -> Chunks:
        """Return an answer in chunks: `async with engine.infer_stream(...) as chunks: async for chunk in chunks`.

        Each chunk is a `Reply`. The version is held until the block ends; a model without `predict_stream` gives one
        chunk. The version before answers for one on trial that fails before its first chunk, and never after it. Leave
        the block yourself: where it lies in a generator that is dropped, it is left when that is collected.
        """
        stream = self._stream(self._host.replies, None, model, inputs, version, key)
        return Chunks(stream, self._until_ready)

    # --- inside ---

    async def _infer_reloaded(self, inference: Inference, timeout_s: float | None) -> Reply:
        """Answer a request whose version was evicted, once that is there again."""
        with trio.move_on_after(float("inf") if timeout_s is None else timeout_s) as scope:
            return await _answer(inference, await begun(inference.begin, self._until_ready))
        assert scope.cancelled_caught
        raise inference.timed_out(timeout_s or 0.0)

    async def _load(self, version: Version) -> None:
        order = LoadOrder()
        version.post(order)
        try:
            await order.ready.wait()
        except trio.Cancelled:
            version.post(CalledOff(order))
            raise

    def _ready(self, model: str) -> list[str]:
        """Return the versions that take requests and are not about to be drained."""
        known = [self._versions.get(VersionKey(model, version)) for version in self._registry.versions(model)]
        ready = [v for v in known if v and (v.state is VersionState.READY or v.is_evicted) and not v.is_leaving]
        return [version.key.version for version in ready]

    async def _until_ready(self, model: str, version: str | None) -> None:
        """Join a load of the model that runs, or order that of an evicted version; raises `NotReady`."""
        for key, candidate in self._versions.items():
            if key.model == model and version in (None, key.version) and candidate.may_be_awaited:
                try:
                    await self._load(candidate)
                except AlreadyLoaded:
                    return
                except (LoadFailed, OverBudget, TooManyStuckLoads) as error:
                    raise NotReady(f"{key} was awaited and is not coming: {error}", model=model) from error
                return
            if key == (model, version) and candidate.state is VersionState.READY:
                await trio.lowlevel.checkpoint()  # it came back before we looked
                return
        raise self._explain(model, version)

    def _look(self, deliver: Looked, *, at_once: bool) -> None:
        """Start a look at the repository, in a thread."""
        repository, known = self._settings.repository, self._registry
        assert repository is not None, "who has none does not look"
        work = partial(look, repository, known.known, self._seen, at_once=at_once, left=known.left)
        self._ports.offload.start("scan", work, deliver)

    def _take(self, found: Found) -> tuple[VersionSpec, ...]:
        """Register what a look has found, and put the policies in force that it has read."""
        self._seen = found.memory
        for problem in found.problems:
            logger.warning("not registered: %s", problem)
        taken = tuple(self._register_found(found.specs))
        for model, policy in found.policies.items():
            if self._registry.keep_policy(model, policy):
                self._bus.emit("policy_set", model=model, load=policy.load, by="file")
        return taken

    def _register_found(self, specs: Iterable[VersionSpec]) -> Iterable[VersionSpec]:
        for spec in specs:
            if spec.key in self._registry:
                continue
            try:
                yield self.register(spec)
            except ChangeoverError as error:
                logger.warning("not registered: %s", error)


class Chunks:
    """A streamed answer; entered and read by one task."""

    def __init__(self, stream: Stream, until_ready: UntilReady) -> None:
        """Hold nothing yet; `until_ready` waits for a version that was evicted."""
        self._stream = stream
        self._until_ready = until_ready

    @trio.lowlevel.enable_ki_protection
    async def __aenter__(self) -> Self:
        """Pick and pin a version; raises `InvalidInput` and what `lease` raises. Cancelled, it holds nothing."""
        await trio.lowlevel.checkpoint()
        await begun(self._stream.open, self._until_ready)
        return self

    @trio.lowlevel.enable_ki_protection
    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let the version go; what is being computed is finished first, in its own thread."""
        self._stream.close()

    def __aiter__(self) -> Self:
        """Return itself."""
        return self

    @trio.lowlevel.enable_ki_protection
    async def __anext__(self) -> Reply:
        """Return the next chunk; cancelled while it was being made, the stream has ended, and before that it goes on.

        Raises `PredictFailed`, `VersionCrashed` and `LeaseRevoked`.
        """
        await trio.lowlevel.checkpoint()
        stream = self._stream
        request = stream.pull(trio.lowlevel.current_task())
        while request is not None:
            await _sleep(stream, request)
            request = stream.take(request)
        if stream.chunk is None:
            raise StopAsyncIteration
        return stream.chunk


@trio.lowlevel.enable_ki_protection  # Ctrl-C between admission and sleep would have a task woken that is gone
async def _answer(inference: Inference, request: Request | None) -> Reply:
    """Sleep until the request is answered; cancelled, leave it."""
    while request is not None:
        await _sleep(inference, request)
        request = inference.next(request)
    return inference.reply


@trio.lowlevel.enable_ki_protection
async def _sleep(asking: Inference | Gathering | Stream, request: Request) -> None:
    """Sleep until the request is answered; cancelled, leave it."""

    def leave(_raise_cancel: object) -> trio.lowlevel.Abort:
        asking.leave(request)
        return trio.lowlevel.Abort.SUCCEEDED

    await trio.lowlevel.wait_task_rescheduled(leave)


def _keep(done: Promise[Found], found: Found | None, error: BaseException | None) -> None:
    """Pass on what a scan came to."""
    if found is not None:
        done.settle(found)
    else:
        done.fail(error or RuntimeError("a scan came to nothing"))
