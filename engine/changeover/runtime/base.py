"""What every face of the engine has in common: the parts, and all calls that never wait.

Owns the registry, router, host, versions and sagas of one engine; the tasks are the supervisors'. `lease`,
`references` and the status calls may be made from any thread, the others on the engine's loop.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, overload

import attrs

from changeover.core import lifecycle
from changeover.core.checks import seconds, text, word
from changeover.core.policy import ModelPolicy
from changeover.core.records import HISTORY_MAX, SwapRecord
from changeover.core.snapshots import Holder
from changeover.core.store import Store
from changeover.core.values import VersionKey, VersionSpec, VersionState
from changeover.errors import (
    ChangeoverError,
    Evicted,
    InvalidValue,
    NotReady,
    SwapNotAllowed,
    SwapNotFound,
    VersionNotLoaded,
)
from changeover.runtime.desires import Desires
from changeover.runtime.events import Bus
from changeover.runtime.gathering import Gathering
from changeover.runtime.history import History
from changeover.runtime.host import Host
from changeover.runtime.inference import Inference, InferenceWorld
from changeover.runtime.lease import DebugLease, Lease, LeaseWorld, caller
from changeover.runtime.mailbox import twin
from changeover.runtime.many import Leases
from changeover.runtime.orders import LoadOrder
from changeover.runtime.ports import Journal, Ports
from changeover.runtime.recovery import Recovery
from changeover.runtime.references import ReferenceTracker, ReferenceWorld
from changeover.runtime.registry import Registry
from changeover.runtime.repository import Memory
from changeover.runtime.rescue import RescueWorld
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
"""So many ended swaps are remembered with all that belongs to them; of more only what the journal has."""


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
        self._slots = Slots()
        self._desires = Desires(
            journal, self._registry, self._router,
            now=ports.clock.now, state=self._state, is_settled=self._is_settled,
        )  # fmt: skip
        self._bus.readers.append(self._desires)
        self._swap_world = SwapWorld(
            ports, self._bus, self._host, self._router, self._desires.journal, self._version, self._desires, self._slots
        )  # fmt: skip
        self._sagas: dict[str, Saga] = {}
        self._ended_ids: dict[str, None] = {}
        """Those of them that have ended, in that order."""
        self._history = History()
        self._recovery = Recovery(
            RescueWorld(self._swap_world, self._registry, self._history, self._saga_supervisor)
        )  # fmt: skip
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
        self._gathering = partial(Gathering, inference_world)
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

    def lease_many(
        self,
        models: Iterable[str],
        *,
        key: str | None = None,
        request_id: str | None = None,
        wait_s: float | None = None,
    ) -> Leases:
        """Return leases of several models at one moment of the traffic: `with engine.lease_many(...) as leases`.

        It maps each model to its lease; all are held or none. A swap of several of them is seen whole or not at all,
        also while it tries its new versions out. `with`, `async with` and the options are as with `lease`. Raises
        `InvalidValue`.
        """
        if wait_s is not None:
            seconds("wait_s", wait_s)
        if request_id is not None:
            text("request_id", request_id)
        debug = self._settings.debug_references
        return Leases(self._lease_world, models, (None, key, request_id, wait_s), debug=debug)

    @property
    def references(self) -> ReferenceTracker:
        """References under the caller's own ids."""
        return self._references

    def who_holds(self, model: str, version: str) -> tuple[Holder, ...]:
        """Return who holds the version, oldest first; raises `ModelNotRegistered`."""
        self._registry.get(VersionKey(model, version))
        return self._references.holders(model, version)

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
        """Return a swap of this process; raises `SwapNotFound`, or `SwapNotAllowed` for one of an earlier process."""
        saga = self._sagas.get(swap_id)
        if saga is None:
            state = self._past(swap_id).operation.state.value
            raise SwapNotAllowed(
                f"swap {swap_id} is {state}, and no task of this process; it cannot be steered any more"
            )
        return saga

    def _past(self, swap_id: str) -> SwapRecord:
        """Return a swap that is no task of this process; raises `SwapNotFound`."""
        record = self._history.find(swap_id)
        if record is None:
            raise SwapNotFound(f"no swap has the id {swap_id!r}; engine.swaps() lists the last {HISTORY_MAX}")
        return record

    def _explain(self, model: str, version: str | None) -> ChangeoverError:
        """Return why nothing of a model, or of one of its versions, can be pinned."""
        recovering = self._recovery.explain(model) if version is None else None
        if recovering is not None:
            return recovering
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

    def _is_settled(self, model: str) -> bool:
        """Return whether no swap decides about the traffic of a model, and the engine runs as it should."""
        return self._slots.holder(model) is None and self._version_supervisor.is_running

    def _is_on_trial(self, key: VersionKey) -> bool:
        """Return whether a version is the new one of a swap that has the slot of its model."""
        busy = self._slots.holder(key.model)
        return busy is not None and key in busy.news

    def _is_swapped(self, key: VersionKey) -> bool:
        """Return whether a version takes part in a swap that has the slot of its model."""
        busy = self._slots.holder(key.model)
        return busy is not None and key in busy.keys


def _make_spec(model: str, version: str | None, source: str | Path | None, fields: Mapping[str, Any]) -> VersionSpec:
    if version is None or source is None:
        raise InvalidValue("register takes a VersionSpec, or a model, a version and a source")
    try:
        return VersionSpec(model, version, source, **fields)
    except TypeError as error:
        known = ", ".join(field.name for field in attrs.fields(VersionSpec))
        raise InvalidValue(f"{model}/{version}: {error}; the fields of a VersionSpec are {known}") from error
