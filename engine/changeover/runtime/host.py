"""Where models live: in this process. Loads them, closes them, and keeps what threads left behind by name.

It owns the load threads and the memory reservations; a load thread that nobody waits for any more is a zombie, whose
model is closed on arrival. It never closes a model that somebody holds. Later hosts live in other processes.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial
from typing import Protocol

import attrs
import trio

from changeover.core.books import Books
from changeover.core.checks import describe
from changeover.core.messages import STREAMS, USES
from changeover.core.occupancy import occupied
from changeover.core.store import Store
from changeover.core.values import VersionKey, VersionSpec, WarmUpData
from changeover.errors import LeaseRevoked, OverBudget, TooManyStuckLoads, VersionCrashed
from changeover.plugin import Loader
from changeover.runtime import loaders, memory, sites
from changeover.runtime.accounts import make_account
from changeover.runtime.events import Bus
from changeover.runtime.loaded import LoadedModel
from changeover.runtime.ports import Ports
from changeover.runtime.room import Room, Want
from changeover.runtime.serving import Ended, Serving
from changeover.runtime.warming import WarmUp
from changeover.runtime.worker import Replies, Request, send


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
    want: Want | None = None
    """What it stands in line for: room to load, or room for more than was reserved."""
    loaded: LoadedModel | None = None
    """What it brought, while that waits for room, or to be read of in the mailbox of who waited."""


class Host(Serving):
    """Loads and closes models in this process; called on the loop, but for what its threads do."""

    def __init__(self, ports: Ports, store: Store[int], bus: Bus, *, record_references: bool, stuck_max: int) -> None:
        """Reserve in `store`, tell `bus`, and start no further load once `stuck_max` of them hang."""
        super().__init__(ports)
        self.loaders = loaders.Loaders()
        self.keeps: Callable[[VersionKey], bool] = lambda _key: False
        """Whether a version must not be evicted though nobody holds it: it takes part in a swap."""
        self.room = Room(store, last_used=self._last_used, is_leaving=self._is_leaving, evict=self._evict)
        self.jobs: dict[VersionKey, LoadJob] = {}
        self.books = Books()
        self.baseline_bytes = ports.memory.resident_bytes()
        """The resident set of the process when the engine was opened; None where the system does not tell."""
        self.returned_bytes: dict[VersionKey, int | None] = {}
        """What each version's last unload gave back to the system; None where that could not be told."""
        self._living: dict[int, LoadedModel] = {}
        self._buried = trio.lowlevel.ParkingLot()
        self.replies = Replies(ports.wake, trio.lowlevel.reschedule)
        self.homes: list[Replies] = []
        """The ways back to other loops than the engine's."""
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
        """Start a load thread, or adopt the one that hangs; raises `TooManyStuckLoads` and `LoaderNotInstalled`.

        The thread starts when there is room for the spec's hint or the size of the source, perhaps after others were
        evicted, and the real size is checked afterwards; the listener hears `OverBudget` where there is none.
        """
        job = self.jobs.get(spec.key)
        if job is not None:
            assert job.listener is None, f"two loads of {spec.key} at once"
            if sites.ON:
                sites.sometimes("stuck-load-adopted")
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
        job = self.jobs[spec.key] = LoadJob(spec, self._ports.clock.now(), listener, next(self._numbers))
        hint = memory.guess(spec)[0] or 0
        job.want = Want(
            bytes=lambda: hint,
            take=lambda: self._store.reserve(job.number, hint, pinned=spec.pinned),
            granted=lambda: self._start_load(loader, job),
            refused=lambda: self._hand_over(job, None, self._over_budget(spec, hint)),
        )
        self.room.ask(job.want)
        return job

    def abandon(self, job: LoadJob) -> None:
        """Stop waiting for a load; its thread keeps its reservation until it comes back."""
        job.listener = None
        if self.jobs.get(job.spec.key) is not job:
            if job.loaded is not None:  # it came back in this very moment; who started it finds the model in its
                job.loaded.is_leaving = True  # mailbox, and refuses it; until then others have to wait for its bytes
            return
        if job.want is not None:
            want, job.want = job.want, None
            self._hand_over(job, job.loaded, None)
            self.room.leave(want)
            return
        self._bus.emit("load_stuck", job.spec.key, since_s=self._ports.clock.now() - job.began_s)

    def warm(self, loaded: LoadedModel, data: WarmUpData, ended: Ended) -> None:
        """Run data through a model whose gate is open, in a thread of its own, holding it until the thread is done.

        Where the gate is shut meanwhile, it stops before its next request; `ended` hears why.
        """
        clock = self._ports.clock
        tell = partial(self._bus.emit, "warmup_progress", loaded.key)
        warm_up = WarmUp(loaded, data, self._ports.wake.soon, lambda done, total: tell(done=done, total=total))
        ref = loaded.account.acquire(("warmup", clock.now(), None, None))
        assert ref is not None, "a model is warmed before it is shut"
        loaded.warming += 1
        loaded.progress = warm_up.progress
        began = False

        def work() -> None:
            nonlocal began
            began = True
            try:
                with loaded.in_thread(ref), memory.Window(self._ports.memory):
                    warm_up.run()
            finally:
                loaded.account.release(ref)

        def deliver(_value: None, error: BaseException | None) -> None:
            if began:
                warm_up.end()
            else:
                loaded.account.release(ref)  # no thread could be started for it
            loaded.warming -= 1
            loaded.warmed_at = loaded.warmed_at if error else clock.wall()
            ended(error)

        self._ports.offload.start(f"warm {loaded.key}", work, deliver)

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

        # In use it goes when its holders leave, and that has no bound: nobody should wait for its bytes.
        loaded.is_leaving = not loaded.account.held

        def zero() -> None:
            loaded.is_leaving = True
            if not self._ports.wake.soon(close):
                _close_here(loaded)

        def close() -> None:
            if loaded.account.held:
                loaded.is_leaving = False
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
            self._note_return(loaded)
            self._free(loaded.number)
            if error is not None:
                self._bus.emit("close_failed", loaded.key, error=describe(error))
            self._buried.unpark_all()
            closed(error)

        loaded.is_leaving = True
        self._ports.offload.start(f"close {loaded.key}", partial(memory.close, loaded, self._ports.memory), ended)

    def _note_return(self, loaded: LoadedModel) -> None:
        """Tell what a closed model gave back, where the system tells what the process occupies."""
        found = loaded.returned
        self.returned_bytes[loaded.key] = found.returned_bytes if found else None
        if found is not None and found.resident_bytes is not None:
            told = attrs.asdict(found)
            self._bus.emit("memory_returned", loaded.key, **told, baseline_bytes=self.baseline_bytes)

    def _bury(self, loaded: LoadedModel) -> None:
        """Keep of a closed model no more than the sums of its account."""
        del self._living[loaded.number]
        self.books.strike(loaded.key, loaded.account)

    def _load(self, loader: type[Loader], job: LoadJob) -> LoadedModel:
        """Be the load thread."""
        spec, clock = job.spec, self._ports.clock
        with memory.Window(self._ports.memory) as window:
            began_s = clock.now()
            brought = loaders.load(loader, spec)
            load_s = clock.now() - began_s
            grown = window.grown_bytes()
        account = make_account(spec.key, clock.now, record=self._record)
        loaded = LoadedModel(spec, brought, account, number=job.number, loaded_at=clock.wall(), load_s=load_s)
        loaded.memory, loaded.grown_bytes = occupied(brought.size, grown, memory.guess(spec)), grown
        return loaded

    def _ended(self, job: LoadJob, loaded: LoadedModel | None, error: BaseException | None) -> None:
        """Take what a load thread brings: hand it to who waits, or close it."""
        if job.listener is None:
            if sites.ON:
                sites.sometimes("stuck-load-came-back")
            self._bus.emit("load_stuck_ended", job.spec.key, after_s=self._ports.clock.now() - job.began_s)
        if loaded is None:
            self._hand_over(job, None, error)
            self._free(job.number)
            return
        self._living[loaded.number] = loaded
        self.books.enter(loaded.key, loaded.account)
        size = loaded.memory[0]
        if size is None or job.listener is None:
            self._hand_over(job, loaded, None)
            return
        job.loaded = loaded
        job.want = Want(
            bytes=lambda: size - self._store.bytes_of(job.number),
            take=lambda: self._store.correct(job.number, size),
            granted=lambda: self._hand_over(job, loaded, None),
            refused=lambda: self._hand_over(job, loaded, self._over_budget(job.spec, size)),
        )
        self.room.ask(job.want, first=True)

    def _start_load(self, loader: type[Loader], job: LoadJob) -> None:
        job.want = None
        self._ports.offload.start(
            f"load {job.spec.key}",
            lambda: self._load(loader, job),
            lambda loaded, error: self._ended(job, loaded, error),
            orphaned=lambda loaded, _error: loaded.close() if loaded else None,
        )

    def _hand_over(self, job: LoadJob, loaded: LoadedModel | None, error: BaseException | None) -> None:
        """Say what a load came to; close a model that nobody waits for any more, or that there is no room for."""
        listener, job.want, job.loaded, job.listener = job.listener, None, None, None  # no circle keeps the model alive
        del self.jobs[job.spec.key]
        if loaded is None or (listener is not None and error is None):
            job.loaded = loaded
            if listener is not None:
                listener(loaded, error)
        elif listener is None:
            self.close(loaded, _ignore)
        else:
            self.close(loaded, lambda _error: listener(None, error))

    # --- room ---

    def _free(self, number: int) -> None:
        self._store.free(number)
        self.room.look()

    def _last_used(self, number: int) -> float | None:
        """Return when a model was last asked for, by the engine's clock; None where it must stay."""
        loaded = self._living.get(number)
        if loaded is None or loaded.on_evict is None or not loaded.account.open or loaded.account.held:
            return None
        return None if self.keeps(loaded.key) else loaded.account.used_s

    def _is_leaving(self, number: int) -> bool:
        loaded = self._living.get(number)
        return loaded is not None and loaded.is_leaving

    def _evict(self, number: int) -> None:
        loaded = self._living[number]
        loaded.is_leaving = True
        if loaded.on_evict is not None:
            loaded.on_evict()

    def _over_budget(self, spec: VersionSpec, wanted: int) -> OverBudget:
        budget, reserved = self._store.budget_bytes or 0, self._store.reserved_bytes
        return OverBudget(
            f"{spec.key} needs {wanted:,} bytes; of the budget of {budget:,} bytes {reserved:,} are reserved; "
            "unload a version or open the engine with a larger memory_budget_bytes",
            model=spec.model, version=spec.version,
        )  # fmt: skip


def _close_here(loaded: LoadedModel) -> BaseException | None:
    """Close a model on the spot; return what it raised."""
    try:
        loaded.close()
    except BaseException as error:  # noqa: BLE001 - it is reported as `close_failed`, or there is nobody to hear of it
        return error
    return None


def _ignore(_error: BaseException | None) -> None:
    """Hear that a model is closed that nobody waits for."""
