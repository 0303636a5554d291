"""The calls of the engine that wait, on Trio; with `base.py` they are the whole of an `Engine`.

Each says what its cancellation leaves behind. It spawns nothing: orders go to versions, swaps to the saga supervisor.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import trio

from changeover.core.checks import seconds
from changeover.core.snapshots import DrainOutcome, Reply, SwapOperation
from changeover.core.values import Drain, Shift, SwapState, Timeouts, VersionKey, VersionSpec, VersionState, as_data
from changeover.errors import (
    AlreadyLoaded,
    ChangeoverError,
    InvalidValue,
    LastVersion,
    LoadFailed,
    NotReady,
    OverBudget,
    Overloaded,
    RequestTimeout,
    SwapInProgress,
    SwapNotAllowed,
    SwapNotDone,
    TooManyStuckLoads,
    VersionCrashed,
)
from changeover.runtime import registry
from changeover.runtime.base import SWAPS_KEPT, EngineBase
from changeover.runtime.events import logger
from changeover.runtime.loaded import LoadedModel
from changeover.runtime.mailbox import Promise
from changeover.runtime.orders import CalledOff, DrainOrder, LoadOrder, WarmOrder
from changeover.runtime.saga import Saga, Swap
from changeover.runtime.supervisor import ChildSpec
from changeover.runtime.version import Version
from changeover.runtime.worker import Request


class Engine(EngineBase):
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
        unload. Cancelled, the unload goes on. Raises `VersionNotLoaded`, `LastVersion` and `SwapInProgress`.
        """
        target = self._named(model, version)
        saga = self._saga_world.slots.get(model)
        if saga is not None and target.key in (saga.swap.old, saga.swap.new):
            raise SwapInProgress(f"{target.key} takes part in swap {saga.swap.id}; roll that back first", model=model)
        if target.state is VersionState.READY and not force and self._ready(model) == [version]:
            raise LastVersion(
                f"{target.key} is the only version of {model} that takes requests; swap to another, or use force=True",
                model=model, version=version,
            )  # fmt: skip
        order = DrainOrder(drain or Drain())
        target.post(order)
        outcome = await order.outcome.wait()
        if outcome.result == "drained":
            await order.closed.wait()
        return outcome

    async def warm_up(self, model: str, version: str, data: Mapping[str, Any] | Iterable[Mapping[str, Any]]) -> None:
        """Run inputs through a ready version under a `warmup` reference; its state and its traffic stay as they are.

        Cancelled, the data goes on running. Raises `VersionNotLoaded` and `WarmUpFailed`.
        """
        target = self._named(model, version)
        order = WarmOrder(as_data(data))
        target.post(order)
        await order.done.wait()

    async def scan(self) -> tuple[VersionSpec, ...]:
        """Register what is new in the repository folder, and return it; folders that cannot be are logged.

        Raises `InvalidValue` where the engine has no repository, or the folder is gone.
        """
        self._check_open()
        repository = self._settings.repository
        if repository is None:
            raise InvalidValue("this engine has no repository folder; pass repository=... to open_engine")
        done: Promise[registry.Found] = Promise()
        self._ports.offload.start(
            "scan", lambda: registry.scan(repository), lambda found, error: _keep(done, found, error)
        )
        found = await done.wait()
        for problem in found.problems:
            logger.warning("not registered: %s", problem)
        return tuple(self._register_found(found.specs))

    async def wait_for_drain(self, model: str, version: str, timeout_s: float = 30.0) -> None:
        """Return once nobody holds the version; raises `DrainTimeout`, which names the holders. Changes nothing."""
        self._named(model, version)
        await self._references.wait_for_zero(model, version, timeout_s)

    # --- requests ---

    @trio.lowlevel.enable_ki_protection  # Ctrl-C between a pin and its release would lose the reference
    async def infer(
        self, model: str, inputs: Mapping[str, Any], *, version: str | None = None, timeout_s: float | None = None
    ) -> Reply:
        """Answer one request by the active version, or the one named.

        With `execution="inline"` the model is called right here and cannot be interrupted; otherwise a worker calls
        it. Cancelled in the queue, the request never runs; cancelled later, its reference stays until its thread is
        done. Raises `InvalidInput`, `PredictFailed`, `NotReady`, `Overloaded`, `RequestTimeout` and what `lease` does.
        """
        if timeout_s is not None:
            seconds("timeout_s", timeout_s)
        await trio.lowlevel.checkpoint()  # a loop of inline requests must not starve its neighbours
        account, ref = self._router.pin(("request", self._ports.clock.now(), None, self._where()), model, version)
        loaded: LoadedModel = account.owner
        if loaded.inline and loaded.take_turn():
            try:
                loaded.check(inputs)
                return Reply(loaded.predict(inputs, has_turn=True), loaded.key.version)
            finally:
                loaded.end_turn()
                account.release(ref)
        try:
            rows = loaded.check(inputs)
        except BaseException:
            account.release(ref)
            raise
        request = Request(account, ref, inputs, rows, self._ports.clock.now(), trio.lowlevel.current_task())
        if timeout_s is None:
            return await self._by_worker(loaded, request)
        with trio.move_on_after(timeout_s):
            return await self._by_worker(loaded, request)
        raise RequestTimeout(
            f"{loaded.key} did not answer within {timeout_s:g} s",
            model=model, version=loaded.key.version, ran="no" if request.withdrawn else "unknown",
        )  # fmt: skip

    @trio.lowlevel.enable_ki_protection  # Ctrl-C between admission and sleep would have a task woken that is gone
    async def _by_worker(self, loaded: LoadedModel, request: Request) -> Reply:
        """Put a request into the lane and sleep until a worker has answered it.

        An inline model whose turn another thread has gets a thread for this request: waiting here would stop the loop.
        """
        admitted = self._host.run_aside(loaded, request) if loaded.inline else loaded.lane.offer(request)
        if not admitted:
            request.account.release(request.ref)
            raise _not_admitted(loaded)

        def leave(_raise_cancel: object) -> trio.lowlevel.Abort:
            self._host.replies.forget(request)
            if loaded.lane.withdraw(request):
                request.withdrawn = True
                request.account.release(request.ref)
            return trio.lowlevel.Abort.SUCCEEDED

        self._host.replies.expect(request)
        await trio.lowlevel.wait_task_rescheduled(leave)
        if request.error is not None:
            raise request.error
        assert request.reply is not None
        return request.reply

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
        on_busy: Literal["refuse"] = "refuse",
    ) -> SwapOperation:
        """Load the new version, move the traffic to it, drain and unload the old one; return once that is true.

        Cancelled before the pivot, the swap is undone in the background; after it, it goes on. Raises `SwapFailed`
        and `SwapRolledBack`, each with its `operation`, and what `start_swap` raises.
        """
        swap_id = self.start_swap(model, to, from_=from_, plan=plan, drain=drain, timeouts=timeouts, on_busy=on_busy)
        saga = self._saga(swap_id)
        try:
            return await saga.ended.wait()
        except trio.Cancelled:
            if saga.holds_slot:
                saga.turn(SwapState.CANCELLED)
            raise

    def start_swap(
        self,
        model: str,
        to: str,
        *,
        from_: str | None = None,
        plan: Shift | None = None,
        drain: Drain | None = None,
        timeouts: Timeouts | None = None,
        on_busy: Literal["refuse"] = "refuse",
    ) -> str:
        """Begin a swap and return its id at once; `swap_status` and `events` tell how it goes.

        `wait_for_swap` waits for its end. Raises `ModelNotRegistered`, `SwapNotAllowed` and `SwapInProgress`, and then
        nothing has begun.
        """
        if on_busy != "refuse":
            raise InvalidValue(f'on_busy must be "refuse", not {on_busy!r} ("queue" and "supersede" are planned)')
        new = self._named(model, to).key
        old = self._swap_from(new, from_)
        del plan  # at once is the only plan there is yet, and `Shift` has checked itself
        return self._start_saga(old, new, drain or Drain(), timeouts or Timeouts(), None).swap.id

    async def wait_for_swap(self, swap_id: str) -> SwapOperation:
        """Return a swap once it is completed, or raise what `swap` would have raised.

        Cancelled, the swap goes on. Raises `SwapNotFound`, `SwapFailed` and `SwapRolledBack`.
        """
        return await self._saga(swap_id).ended.wait()

    async def rollback(self, swap_id: str) -> SwapOperation:
        """Take a swap back: turn it round while it runs, or swap back after it; return the operation that did.

        Cancelled, the rollback goes on. Raises `SwapNotFound`, `SwapNotAllowed` where it did not happen or the traffic
        has moved on, `SwapInProgress`, and `SwapFailed` where it could not be undone.
        """
        self._check_open()
        saga = self._saga(swap_id)
        await trio.lowlevel.checkpoint()
        state = saga.operation.state
        if state.ended and state is not SwapState.COMPLETED:
            text = f"swap {swap_id} did not happen ({state.value}), so there is nothing to roll back"
            raise SwapNotAllowed(text, model=saga.swap.new.model)
        if saga.can_turn:
            saga.turn(SwapState.ROLLED_BACK)
        try:
            await saga.ended.wait()
        except SwapNotDone as error:
            if error.operation.state is SwapState.ROLLED_BACK:
                return saga.operation
            raise
        self._check_open()  # it may have been closed meanwhile
        self._swap_from(saga.swap.old, saga.swap.new.version)
        back = self._start_saga(saga.swap.new, saga.swap.old, saga.swap.drain, saga.swap.timeouts, swap_id)
        return await back.ended.wait()

    # --- inside ---

    def _named(self, model: str, version: str) -> Version:
        """Return a version by name; raises `ModelNotRegistered`, `EngineClosed` and `EngineFailed`."""
        self._check_open()
        return self._version(VersionKey(model, version))

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
        return [v.key.version for v in known if v and v.state is VersionState.READY and not v.is_leaving]

    async def _until_ready(self, model: str, version: str | None) -> None:
        """Join a load of the model that runs; raises `NotReady` where none does, or it fails."""
        for key, candidate in self._versions.items():
            if key.model == model and version in (None, key.version) and candidate.is_coming:
                try:
                    await self._load(candidate)
                except AlreadyLoaded:
                    return
                except (LoadFailed, OverBudget, TooManyStuckLoads) as error:
                    raise NotReady(f"{key} was awaited and is not coming: {error}", model=model) from error
                return
        raise self._explain(model, version)

    def _swap_from(self, new: VersionKey, expected: str | None) -> VersionKey:
        """Return the version that a swap to `new` replaces; raises `SwapNotAllowed` or `SwapInProgress`."""
        model = new.model
        active = self._router.active(model)
        busy = self._saga_world.slots.get(model)
        if busy is not None:
            text = f"{model} is being swapped to {busy.swap.new.version} by swap {busy.swap.id}; wait, or roll it back"
            raise SwapInProgress(text, model=model)
        if active is None:
            raise SwapNotAllowed(f"{model} has no active version to swap from; use await engine.load(...)", model=model)
        if expected is not None and expected != active:
            if expected not in self._registry.versions(model):
                self._registry.get(VersionKey(model, expected))
            raise SwapNotAllowed(f"{model}/{expected} is not active; the active version is {active}", model=model)
        if active == new.version:
            raise SwapNotAllowed(f"{new} is active already; there is nothing to swap", model=model)
        return VersionKey(model, active)

    def _start_saga(
        self, old: VersionKey, new: VersionKey, drain: Drain, timeouts: Timeouts, rollback_of: str | None
    ) -> Saga:
        swap_id = f"{self._ports.random.getrandbits(48):012x}"
        saga = Saga(Swap(swap_id, old, new, drain, timeouts, rollback_of), self._saga_world)
        self._forget_old_swaps()
        self._sagas[swap_id] = saga
        task = ChildSpec(f"swap {swap_id}", saga.run, lambda _error, _delay_s: None, ended=saga.over)
        self._saga_supervisor.start(task)
        return saga

    def _forget_old_swaps(self) -> None:
        ended = [swap_id for swap_id, saga in self._sagas.items() if saga.has_ended]
        for swap_id in ended[: max(0, len(ended) - SWAPS_KEPT + 1)]:
            del self._sagas[swap_id]

    def _register_found(self, specs: Iterable[VersionSpec]) -> Iterable[VersionSpec]:
        for spec in specs:
            if spec.key in self._registry:
                continue
            try:
                yield self.register(spec)
            except ChangeoverError as error:
                logger.warning("not registered: %s", error)


def _not_admitted(loaded: LoadedModel) -> ChangeoverError:
    me: dict[str, Any] = {"model": loaded.key.model, "version": loaded.key.version}
    if loaded.lane.closed:
        return VersionCrashed(f"{loaded.key} went away before the request was queued", ran="no", **me)
    return Overloaded(
        f"{len(loaded.lane)} requests wait for {loaded.key}, which has room for {loaded.spec.queue_limit}; "
        "try again, or give it more workers or a longer queue_limit",
        **me,
    )


def _keep(done: Promise[registry.Found], found: registry.Found | None, error: BaseException | None) -> None:
    """Pass on what a scan came to."""
    if found is not None:
        done.settle(found)
    else:
        done.fail(error or RuntimeError("a scan came to nothing"))
