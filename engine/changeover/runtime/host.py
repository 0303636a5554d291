"""Where models live: in this process. Loads them, closes them, and keeps what threads left behind by name.

It owns the load threads and the memory reservations; a load thread that nobody waits for any more is a zombie, whose
model is closed on arrival. It never closes a model that somebody holds. Later hosts live in other processes.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import attrs
import trio

from changeover.core.books import Books
from changeover.core.messages import STREAMS, USES
from changeover.core.store import Store
from changeover.core.values import VersionKey, VersionSpec
from changeover.errors import LeaseRevoked, OverBudget, TooManyStuckLoads, VersionCrashed
from changeover.plugin import Loader
from changeover.runtime import loaders
from changeover.runtime.accounts import make_account
from changeover.runtime.events import Bus
from changeover.runtime.loaded import LoadedModel, MemoryMethod
from changeover.runtime.mailbox import Promise
from changeover.runtime.ports import Ports
from changeover.runtime.worker import Replies, Request, fail, handle, send

Ended = Callable[[BaseException | None], None]
"""Told, on the loop, that something in a thread is over, and with which error."""


class LoadListener(Protocol):
    """Who waits for a load: `deliver` is called once, on the loop, unless the job is abandoned before."""

    def __call__(self, loaded: LoadedModel | None, error: BaseException | None) -> None:
        """Take what was loaded, or why it was not."""


@attrs.define(eq=False)
class LoadJob:
    """A load thread."""

    spec: VersionSpec
    began_s: float
    listener: LoadListener | None
    """None: nobody waits, and it is a zombie."""
    number: int
    """Of the incarnation that it loads; its reservation stands under it."""


class Host:
    """Loads and closes models in this process; called on the loop, but for what its threads do."""

    def __init__(self, ports: Ports, store: Store[int], bus: Bus, *, record_references: bool, stuck_max: int) -> None:
        """Reserve in `store`, tell `bus`, and start no further load once `stuck_max` of them hang."""
        self.loaders = loaders.Loaders()
        self.jobs: dict[VersionKey, LoadJob] = {}
        self.books = Books()
        self._living: dict[int, LoadedModel] = {}
        self._buried = trio.lowlevel.ParkingLot()
        self.replies = Replies(ports.wake, trio.lowlevel.reschedule)
        self.homes: list[Replies] = []
        """The ways back to other loops than the engine's."""
        self._ports = ports
        self._store = store
        self._bus = bus
        self._record = record_references
        self._stuck_max = stuck_max
        self._numbers = itertools.count(1)

    def living(self) -> tuple[LoadedModel, ...]:
        """Return every model that was loaded and is not closed, oldest first; any thread."""
        return tuple(self._living.copy().values())

    def orphan(self) -> None:
        """Forget every model, in a forked process: they belong to the other one, and so do those who wait for them."""
        for loaded in self.living():
            loaded.account.orphan()
        self._living.clear()
        self.books.orphan()

    async def quiet(self) -> None:
        """Return once every model that nobody holds is closed."""
        while any(not loaded.account.held for loaded in self._living.values()):
            await self._buried.park()

    def stuck(self) -> tuple[VersionKey, ...]:
        """Return the versions whose load or warm-up threads nobody waits for any more."""
        loads = tuple(key for key, job in self.jobs.items() if job.listener is None)
        warm_ups = tuple(loaded.key for loaded in self.living() if loaded.warming and not loaded.account.open)
        return loads + warm_ups

    def load(self, spec: VersionSpec, listener: LoadListener) -> LoadJob:
        """Start a load thread, or adopt the one that hangs; raises `TooManyStuckLoads`, `OverBudget` and `LoadFailed`.

        The budget is checked against the spec's hint or the size of the source now, and the real size afterwards.
        """
        job = self.jobs.get(spec.key)
        if job is not None:
            assert job.listener is None, f"two loads of {spec.key} at once"
            job.listener = listener
            return job
        if len(self.stuck()) >= self._stuck_max:
            names = ", ".join(map(str, self.stuck()))
            raise TooManyStuckLoads(
                f"{spec.key} is not loaded: {self._stuck_max} load threads hang already ({names}), and a thread "
                "cannot be killed; restart the process, or raise stuck_loads_max",
                model=spec.model, version=spec.version,
            )  # fmt: skip
        loader = self.loaders.find(spec)
        number = next(self._numbers)
        self._reserve(spec, number)
        job = self.jobs[spec.key] = LoadJob(spec, self._ports.clock.now(), listener, number)
        self._ports.offload.start(
            f"load {spec.key}",
            lambda: self._load(loader, job),
            lambda loaded, error: self._ended(job, loaded, error),
            orphaned=lambda loaded, _error: loaded.close() if loaded else None,
        )
        return job

    def abandon(self, job: LoadJob) -> None:
        """Stop waiting for a load; its thread keeps its reservation until it comes back."""
        job.listener = None
        if self.jobs.get(job.spec.key) is not job:
            return  # it came back in this very moment; who started it finds the model in its mailbox
        self._bus.emit("load_stuck", job.spec.key, since_s=self._ports.clock.now() - job.began_s)

    def warm(self, loaded: LoadedModel, data: Sequence[Mapping[str, Any]], ended: Ended) -> None:
        """Run data through a model whose gate is open, in a thread of its own, holding it until the thread is done."""
        clock = self._ports.clock
        ref = loaded.account.acquire(("warmup", clock.now(), None, None))
        assert ref is not None, "a model is warmed before it is shut"
        loaded.warming += 1
        began = False

        def work() -> None:
            nonlocal began
            began = True
            try:
                with loaded.in_thread(ref):
                    for inputs in data:
                        loaded.check(inputs)
                        loaded.predict(inputs)
            finally:
                loaded.account.release(ref)

        def deliver(_value: None, error: BaseException | None) -> None:
            if not began:
                loaded.account.release(ref)  # no thread could be started for it
            loaded.warming -= 1
            loaded.warmed_at = loaded.warmed_at if error else clock.wall()
            ended(error)

        self._ports.offload.start(f"warm {loaded.key}", work, deliver)

    def serve(self, loaded: LoadedModel, number: int, ended: Ended) -> None:
        """Start a worker thread that takes batches from the model's lane until that is closed."""
        name = f"worker {loaded.key} {number}"
        work = partial(handle, loaded)
        self._ports.offload.serve(name, loaded.lane, work, lambda _value, error: ended(error))

    async def work(self, loaded: LoadedModel, number: int) -> None:
        """Be responsible for one worker thread, which ends with its lane; raises what ended it before."""
        ended: Promise[None] = Promise()
        self.serve(loaded, number, lambda error: ended.fail(error) if error else ended.settle(None))
        await ended.wait()

    def run_aside(self, loaded: LoadedModel, request: Request) -> bool:
        """Answer one request in a thread of its own; False where as many are answered so as may be queued."""
        loaded.aside.add(request)  # announced first: of two threads neither gets in above the bound
        if len(loaded.aside) > loaded.spec.queue_limit:
            loaded.aside.discard(request)
            return False

        def ended(_value: None, error: BaseException | None) -> None:
            loaded.aside.discard(request)
            if error is not None:  # no thread could be started for it
                fail(loaded, request, error)

        work = partial(handle, loaded, [request])
        self._ports.offload.start(f"predict {loaded.key}", work, ended)
        return True

    def pull(self, loaded: LoadedModel, work: Callable[[], None], failed: Callable[[BaseException], None]) -> None:
        """Have a thread of its own do a piece of work for a stream; `failed` hears where none could be started."""
        began = False

        def run() -> None:
            nonlocal began
            began = True
            work()

        def ended(_value: None, error: BaseException | None) -> None:
            if not began and error is not None:
                failed(error)

        self._ports.offload.start(f"stream {loaded.key}", run, ended)

    def revoke(self, loaded: LoadedModel, kinds: frozenset[str] = USES | STREAMS) -> None:
        """Ask holders of these kinds to let go; requests that wait in the queue are answered, and never run."""
        loaded.account.revoke(kinds)
        if "request" not in kinds:
            return
        waiting: list[Request] = loaded.lane.empty()
        for request in waiting:
            text = f"the drain of {loaded.key} was out of time before the request was started; ask again"
            request.error = LeaseRevoked(text, model=loaded.key.model, version=loaded.key.version, ran="no")
        send(waiting)

    def retire(self, loaded: LoadedModel, why: str) -> None:
        """Take no more requests, answer those that are queued, and close the model once nobody holds it.

        Where the loop has ended by then, the thread that released last closes the model itself.
        """
        loaded.account.shut()
        waiting: list[Request] = loaded.lane.close()
        for request in waiting:
            text = f"{loaded.key} went away before the request was started: {why}"
            request.error = VersionCrashed(text, model=loaded.key.model, version=loaded.key.version, ran="no")
        send(waiting)

        def zero() -> None:
            if not self._ports.wake.soon(close):
                loaded.close()

        def close() -> None:
            if loaded.account.held:
                loaded.account.watch(zero)  # a zero of before the gate was shut, told late
            else:
                self.close(loaded, _ignore)

        loaded.account.watch(zero)

    def close(self, loaded: LoadedModel, closed: Ended) -> None:
        """Close a model that nobody holds, in a thread of its own; then free its bytes and call `closed`."""

        def ended(_value: None, error: BaseException | None) -> None:
            if loaded.is_open:
                error = _close_here(loaded) or error  # no thread could be started for it
            self._bury(loaded)
            self._store.free(loaded.number)
            if error is not None:
                self._bus.emit("close_failed", loaded.key, error=f"{type(error).__name__}: {error}")
            self._buried.unpark_all()
            closed(error)

        self._ports.offload.start(f"close {loaded.key}", loaded.close, ended)

    def _bury(self, loaded: LoadedModel) -> None:
        """Keep of a closed model no more than the sums of its account."""
        del self._living[loaded.number]
        self.books.strike(loaded.key, loaded.account)

    def _load(self, loader: type[Loader], job: LoadJob) -> LoadedModel:
        """Be the load thread."""
        spec, clock = job.spec, self._ports.clock
        began_s = clock.now()
        model, size = loaders.load(loader, spec)
        load_s = clock.now() - began_s
        account = make_account(spec.key, clock.now, record=self._record)
        loaded = LoadedModel(spec, model, account, number=job.number, loaded_at=clock.wall(), load_s=load_s)
        loaded.memory = (size, "model") if size is not None else _guess(spec)
        return loaded

    def _ended(self, job: LoadJob, loaded: LoadedModel | None, error: BaseException | None) -> None:
        """Take what a load thread brings: hand it to who waits, or close it."""
        key, listener = job.spec.key, job.listener
        del self.jobs[key]
        if loaded is None:
            self._store.free(job.number)
        else:
            self._living[loaded.number] = loaded
            self.books.enter(loaded.key, loaded.account)
        if listener is None:
            self._bus.emit("load_stuck_ended", key, after_s=self._ports.clock.now() - job.began_s)
            if loaded is not None:
                self.close(loaded, _ignore)
        elif loaded is not None and not self._fits(loaded):
            over = self._over_budget(job.spec, loaded.memory[0] or 0)
            self.close(loaded, lambda _error: listener(None, over))
        else:
            listener(loaded, error)

    def _fits(self, loaded: LoadedModel) -> bool:
        """Correct the reservation by what the model really occupies; False where the budget has no room for that."""
        size = loaded.memory[0]
        return size is None or self._store.correct(loaded.number, size)

    def _reserve(self, spec: VersionSpec, number: int) -> None:
        hint = _guess(spec)[0] or 0
        if not self._store.reserve(number, hint, pinned=spec.pinned):
            raise self._over_budget(spec, hint)

    def _over_budget(self, spec: VersionSpec, wanted: int) -> OverBudget:
        budget, reserved = self._store.budget_bytes or 0, self._store.reserved_bytes
        return OverBudget(
            f"{spec.key} needs {wanted:,} bytes; of the budget of {budget:,} bytes {reserved:,} are reserved; "
            "unload a version or open the engine with a larger memory_budget_bytes",
            model=spec.model, version=spec.version,
        )  # fmt: skip


def _guess(spec: VersionSpec) -> tuple[int | None, MemoryMethod]:
    """Return what a version will occupy, as far as can be told without loading it."""
    if spec.memory_hint_bytes is not None:
        return spec.memory_hint_bytes, "hint"
    try:
        return Path(spec.source).stat().st_size, "source_size"
    except (OSError, ValueError):
        return None, "unknown"


def _close_here(loaded: LoadedModel) -> Exception | None:
    """Close a model on the spot; return what it raised."""
    try:
        loaded.close()
    except Exception as error:  # noqa: BLE001 - it is reported as `close_failed`
        return error
    return None


def _ignore(_error: BaseException | None) -> None:
    """Hear that a model is closed that nobody waits for."""
