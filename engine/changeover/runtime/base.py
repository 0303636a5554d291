"""What every face of the engine has in common: the parts, and all calls that never wait.

Owns the registry, router, host, versions and sagas of one engine; the tasks are the supervisors'. `lease`,
`references` and the status calls may be made from any thread, the others on the engine's loop.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, overload

import attrs

from changeover.core import lifecycle
from changeover.core.checks import seconds, text, word
from changeover.core.policy import ModelPolicy
from changeover.core.snapshots import (
    Audit,
    Balance,
    Holder,
    Statistics,
    SwapOperation,
    VersionLoadInfo,
    VersionStatistics,
)
from changeover.core.store import Store
from changeover.core.tally import peek
from changeover.core.values import VersionKey, VersionSpec, VersionState
from changeover.errors import ChangeoverError, Evicted, InvalidValue, NotReady, SwapNotFound, VersionNotLoaded
from changeover.runtime.events import Bus, Events
from changeover.runtime.host import Host
from changeover.runtime.inference import Inference, InferenceWorld
from changeover.runtime.lease import DebugLease, Lease, LeaseWorld, caller
from changeover.runtime.mailbox import twin
from changeover.runtime.orders import LoadOrder
from changeover.runtime.ports import Journal, Ports
from changeover.runtime.references import ReferenceTracker, ReferenceWorld
from changeover.runtime.registry import Registry
from changeover.runtime.repository import Memory
from changeover.runtime.router import Router
from changeover.runtime.saga import Saga
from changeover.runtime.slots import Slots
from changeover.runtime.stay import OnTrio
from changeover.runtime.streaming import Stream
from changeover.runtime.supervisor import Supervisor
from changeover.runtime.swap import SwapWorld
from changeover.runtime.version import Version
from changeover.runtime.waiting import Waits
from changeover.runtime.world import World

T = TypeVar("T")

SWAPS_KEPT = 1_000
"""So many ended swaps are remembered."""


@attrs.frozen
class Settings:
    """What `open_engine` was called with."""

    repository: Path | None = None
    watch_s: float | None = None
    memory_budget_bytes: int | None = None
    debug_references: bool = False
    close_timeout_s: float = 10.0
    stuck_loads_max: int = 8


class EngineBase:
    """The parts of an engine and its synchronous calls."""

    def __init__(self, settings: Settings, ports: Ports, journal: Journal) -> None:
        """Wire the parts together; nothing runs yet."""
        self._settings = settings
        self._ports = ports
        self._bus = Bus(ports.clock)
        self._store: Store[int] = Store(settings.memory_budget_bytes)
        self._registry = Registry()
        self._seen: Memory = {}
        self._router = Router(ports.random, self._bus, self._explain)
        self._host = Host(
            ports, self._store, self._bus,
            record_references=settings.debug_references, stuck_max=settings.stuck_loads_max,
        )  # fmt: skip
        self._versions: dict[VersionKey, Version] = {}
        self._version_supervisor = Supervisor(ports)
        self._saga_supervisor = Supervisor(ports)
        self._world = World(
            ports, self._host, self._bus, self._version_supervisor,
            self._router.opened, self._router.shut, self._router.park, self._router.unroute,
        )  # fmt: skip
        self._slots: Slots[Saga] = Slots()
        self._swap_world = SwapWorld(
            ports, self._bus, self._host, self._router, journal, self._version, self._slots
        )  # fmt: skip
        self._sagas: dict[str, Saga] = {}
        self._host.keeps = self._is_swapped
        where = caller if settings.debug_references else None
        blocks = OnTrio(ports.wake)
        self._waits = Waits(blocks)
        self._references = ReferenceTracker(
            world=ReferenceWorld(
                self._host.books,
                self._router.named,
                self._router.pin,
                ports.clock.now,
                where,
                is_leaving=lambda wait: self._state(VersionKey(*wait.key)) not in lifecycle.COMING,
                waits=self._waits,
                refusal=lambda: self._router.refusal,
            )
        )
        self._lease_kind = DebugLease if settings.debug_references else Lease
        inference_world = InferenceWorld(self._router, self._host, ports.clock.now, where)
        self._inference = partial(Inference, inference_world)
        self._stream = partial(Stream, inference_world)
        self._lease_world = LeaseWorld(self._router, ports.clock.now, self._until_ready, blocks)

    async def _until_ready(self, model: str, version: str | None) -> None:
        """Wait while a version of the model is being loaded; each face that can wait has its own."""
        raise NotImplementedError

    def _on_loop(self, call: Callable[[], T]) -> T:
        """Make a call that changes something, on the engine's loop; other faces have their own way there."""
        self._check_open()
        return call()

    # --- registering ---

    @overload
    def register(self, model: VersionSpec, /) -> VersionSpec: ...

    @overload
    def register(
        self, model: str, version: str, source: str | Path, /, *, loader: str, **fields: Any
    ) -> VersionSpec: ...

    def register(
        self,
        model: VersionSpec | str,
        version: str | None = None,
        source: str | Path | None = None,
        /,
        **fields: Any,
    ) -> VersionSpec:
        """Make a version known, by its spec or by the spec's fields; loads nothing.

        Raises `AlreadyRegistered`, `InvalidValue`, `LoaderNotInstalled` and `CodeNotAllowed`.
        """
        self._check_open()
        spec = model if isinstance(model, VersionSpec) else _make_spec(model, version, source, fields)
        if spec.batching is not None and spec.execution != "worker":
            raise InvalidValue(f'{spec.key}: batching needs execution="worker"; inline calls cannot be gathered')
        return self._on_loop(lambda: self._add(spec))

    def _add(self, spec: VersionSpec) -> VersionSpec:
        if spec.key not in self._registry:  # a loader that is missing is worse news than a version that is there
            self._host.loaders.find(spec)
        self._registry.add(spec)
        self._bus.emit("version_registered", spec.key, loader=spec.loader, source=str(spec.source))
        return spec

    # --- policies ---

    def set_policy(self, model: str, policy: ModelPolicy | None) -> None:
        """Say which versions of a model are loaded by themselves and whether traffic moves to newer ones, from now on.

        It goes before the model's `policy.toml`; None takes it back. It orders, and waits for nothing; what it could
        not do before is tried once more. The model's first version may come later. Raises `InvalidValue`.
        """
        self._check_open()
        word("model", model)
        if policy is not None and not isinstance(policy, ModelPolicy):  # pyright: ignore[reportUnnecessaryIsInstance] - callers without a type checker
            raise InvalidValue(f"policy must be a ModelPolicy or None, not {policy!r}")

        def put() -> None:
            self._registry.set_policy(model, policy)
            self._bus.emit("policy_set", model=model, load=policy.load if policy else None, by="hand")

        self._on_loop(put)

    def policy(self, model: str) -> ModelPolicy:
        """Return what is in force for a model; the default one does nothing. Raises `ModelNotRegistered`."""
        found = self._registry.policy(model)
        if found is None:
            self._registry.versions(model)
        return found or ModelPolicy()

    # --- using ---

    def lease(
        self,
        model: str,
        *,
        version: str | None = None,
        key: str | None = None,
        request_id: str | None = None,
        wait_s: float | None = None,
    ) -> Lease:
        """Return a lease to enter with `with` (never waits; any thread) or `async with` (waits for a running load).

        It holds the active version, or the one named; the same `key` finds the same version while one is on trial.
        `request_id` names it in audits, and may be held only once.
        """
        if version is None and key is None and request_id is None and wait_s is None:
            return self._lease_kind(self._lease_world, model, None)
        if wait_s is not None:
            seconds("wait_s", wait_s)
        if request_id is not None:
            text("request_id", request_id)
        return self._lease_kind(self._lease_world, model, (version, key, request_id, wait_s))

    @property
    def references(self) -> ReferenceTracker:
        """References under the caller's own ids."""
        return self._references

    def who_holds(self, model: str, version: str) -> tuple[Holder, ...]:
        """Return who holds the version, oldest first; raises `ModelNotRegistered`."""
        self._registry.get(VersionKey(model, version))
        return self._references.holders(model, version)

    # --- looking ---

    def is_loaded(self, model: str, version: str) -> bool:
        """Return whether the version holds a warm model; raises `ModelNotRegistered`."""
        return self.load_info(model, version).is_loaded

    def is_active(self, model: str, version: str) -> bool:
        """Return whether the version has the largest share of its model's traffic; raises `ModelNotRegistered`."""
        self._registry.get(VersionKey(model, version))
        return self._router.active(model) == version

    def loaded_versions(self, model: str) -> tuple[str, ...]:
        """Return the versions that hold a warm model, in order of their registration; raises `ModelNotRegistered`."""
        return tuple(v for v in self._registry.versions(model) if self._state(VersionKey(model, v)) in lifecycle.LOADED)

    def load_info(self, model: str, version: str) -> VersionLoadInfo:
        """Return what is known of a version; raises `ModelNotRegistered`."""
        key = VersionKey(model, version)
        spec = self._registry.get(key)
        known = self._versions.get(key)
        return _info(known or Version(spec, self._world), self._host.returned_bytes.get(key))

    def swap_status(self, swap_id: str) -> SwapOperation:
        """Return a swap as it stands; raises `SwapNotFound`."""
        return self._saga(swap_id).operation

    def swaps(self, model: str | None = None, limit: int = 100) -> tuple[SwapOperation, ...]:
        """Return the last swaps, of one model or of all, oldest first."""
        found = [s.operation for s in self._sagas.copy().values() if model is None or s.swap.new.model == model]
        return tuple(found[-limit:]) if limit > 0 else ()

    def audit(self, *, suspect_after_s: float | Mapping[str, float] | None = None) -> Audit:
        """Return every balance, who holds what, and who has held it for too long; as `references.audit`."""
        return self._references.audit(suspect_after_s=suspect_after_s)

    def statistics(self) -> Statistics:
        """Return the engine's counts."""
        books = self._host.books
        balances = books.balances()
        living = {loaded.key: loaded for loaded in self._host.living()}
        versions: dict[VersionKey, VersionStatistics] = {}
        for key, version in self._versions.copy().items():
            if version.state is VersionState.REGISTERED:
                continue  # somebody asked for it, and it was never loaded
            loaded = living.get(key)
            balance = balances.get(key, Balance(0, 0, 0))
            versions[key] = VersionStatistics(
                state=version.state,
                references=balance,
                usage=books.figures(key, balance),
                queued=len(loaded.lane) if loaded else 0,
                predictions=peek(loaded.predictions) if loaded else 0,
                errors=peek(loaded.errors) if loaded else 0,
            )
        return Statistics(
            versions=versions,
            registered=len(self._registry),
            stuck_loads=len(self._host.stuck()),
            swaps_open=sum(1 for saga in self._sagas.copy().values() if not saga.has_ended),
            reserved_bytes=self._store.reserved_bytes,
            budget_bytes=self._store.budget_bytes,
            resident_bytes=self._ports.memory.resident_bytes(),
            baseline_bytes=self._host.baseline_bytes,
            children_restarted=self._version_supervisor.restarts + self._saga_supervisor.restarts,
        )

    def events(self, buffer: int = 1000) -> Events:
        """Return the events from now on, to enter with `async with` and to read with `async for`."""
        return Events(self._bus, buffer)

    # --- inside ---

    def _check_open(self) -> None:
        if self._router.refusal is not None:
            raise twin(self._router.refusal)

    def _version(self, key: VersionKey) -> Version:
        """Return the version of a key, made on first need; raises `ModelNotRegistered`."""
        version = self._versions.get(key)
        if version is None:
            version = self._versions[key] = Version(self._registry.get(key), self._world)
        return version

    def _state(self, key: VersionKey) -> VersionState:
        version = self._versions.get(key)
        return version.state if version else VersionState.REGISTERED

    def _saga(self, swap_id: str) -> Saga:
        saga = self._sagas.get(swap_id)
        if saga is None:
            raise SwapNotFound(f"no swap has the id {swap_id!r}; engine.swaps() lists the last {SWAPS_KEPT}")
        return saga

    def _explain(self, model: str, version: str | None) -> ChangeoverError:
        """Return why nothing of a model, or of one of its versions, can be pinned."""
        try:
            known = self._registry.versions(model)
            if version is not None:
                self._registry.get(VersionKey(model, version))
        except ChangeoverError as error:
            return error
        if version is not None:
            state = self._state(VersionKey(model, version))
            said = f"{model}/{version} takes no requests: it is {state.value}"
            candidate = self._versions.get(VersionKey(model, version))
            if candidate is not None and candidate.is_evicted and candidate.may_be_awaited:
                return self._reload(candidate)
            if state in lifecycle.RESTING and not (candidate and (candidate.is_coming or candidate.is_evicted)):
                return VersionNotLoaded(f"{said}; use await engine.load(...)", model=model, version=version)
            return NotReady(said, model=model, version=version)
        versions = filter(None, (self._versions.get(VersionKey(model, v)) for v in known))
        evicted = [v for v in versions if v.is_evicted and v.may_be_awaited]
        if evicted:
            return self._reload(evicted[-1])
        states = ", ".join(f"{v} is {self._state(VersionKey(model, v)).value}" for v in known)
        return NotReady(
            f"{model} has no version that takes requests: {states}; see await engine.load(...)", model=model
        )

    def _forget(self, key: VersionKey) -> None:
        """Forget a version that rests."""
        self._versions.pop(key, None)
        self._registry.remove(key)
        self._host.returned_bytes.pop(key, None)
        self._bus.emit("version_unregistered", key)

    def _reload(self, version: Version) -> Evicted:
        """Order that an evicted version comes back, from any thread, and return what its caller is told meanwhile."""

        def order() -> None:
            if version.is_evicted and version.may_be_awaited and not version.is_coming:
                version.post(LoadOrder())

        self._ports.wake.soon(order)
        text = f"{version.key} was evicted to make room for another version, and is being loaded again; try again"
        return Evicted(text, model=version.key.model, version=version.key.version)

    def _is_swapped(self, key: VersionKey) -> bool:
        """Return whether a version takes part in a swap that has the slot of its model."""
        saga = self._slots.holder(key.model)
        return saga is not None and key in (saga.swap.old, saga.swap.new)


def _info(version: Version, returned_bytes: int | None) -> VersionLoadInfo:
    loaded = version.loaded
    size, method = loaded.memory if loaded else (None, "unknown")
    warmup_done, warmup_total = loaded.progress.at if loaded else (0, None)
    return VersionLoadInfo(
        model=version.key.model,
        version=version.key.version,
        is_loaded=version.state in lifecycle.LOADED,
        loaded_at=loaded.loaded_at if loaded else None,
        load_s=loaded.load_s if loaded else None,
        memory_bytes=size,
        memory_method=method,
        request_count=len(loaded.account.held) if loaded else 0,
        is_warming_up=loaded is not None and loaded.warming > 0,
        warmed_at=loaded.warmed_at if loaded else None,
        warmup_done=warmup_done,
        warmup_total=warmup_total,
        status=version.state,
        error=str(version.error) if version.error else None,
        memory_returned_bytes=returned_bytes,
    )


def _make_spec(model: str, version: str | None, source: str | Path | None, fields: Mapping[str, Any]) -> VersionSpec:
    if version is None or source is None:
        raise InvalidValue("register takes a VersionSpec, or a model, a version and a source")
    try:
        return VersionSpec(model, version, source, **fields)
    except TypeError as error:
        known = ", ".join(field.name for field in attrs.fields(VersionSpec))
        raise InvalidValue(f"{model}/{version}: {error}; the fields of a VersionSpec are {known}") from error
