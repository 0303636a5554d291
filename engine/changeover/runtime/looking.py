"""The calls of the engine that look and change nothing; the same on every face, from any thread. Owns no state."""

from __future__ import annotations

from collections.abc import Mapping

from changeover.core import lifecycle
from changeover.core.checks import text
from changeover.core.operations import RecoveryReport, SwapOperation
from changeover.core.snapshots import Audit, Balance, Statistics, VersionLoadInfo, VersionStatistics
from changeover.core.tally import peek
from changeover.core.values import VersionKey, VersionState
from changeover.runtime.base import EngineBase
from changeover.runtime.events import Events
from changeover.runtime.version import Version


class Looking(EngineBase):
    """The part of an engine that tells how things are."""

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
        """Return a swap as it stands, also one of an earlier process; raises `SwapNotFound`."""
        saga = self._sagas.get(swap_id)
        return saga.operation if saga is not None else self._past(swap_id).operation

    def swaps(self, model: str | None = None, limit: int = 100) -> tuple[SwapOperation, ...]:
        """Return the last swaps, of one model or of all, oldest first; also those that the journal knows of."""
        if model is not None:
            text("model", model)
        live = [saga.operation for saga in self._sagas.copy().values() if model is None or model in saga.models]
        ours = {operation.id for operation in live}
        past = [operation for operation in self._history.operations(model, limit) if operation.id not in ours]
        return tuple([*past, *live][-limit:]) if limit > 0 else ()

    def recovery(self) -> RecoveryReport:
        """Return what became of all that an earlier process has left in the journal, and what it still waits for."""
        return self._recovery.report()

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
            swaps_open=self._recovery.swaps_open + sum(not saga.has_ended for saga in self._sagas.copy().values()),
            reserved_bytes=self._store.reserved_bytes,
            budget_bytes=self._store.budget_bytes,
            resident_bytes=self._ports.memory.resident_bytes(),
            baseline_bytes=self._host.baseline_bytes,
            children_restarted=self._version_supervisor.restarts + self._saga_supervisor.restarts,
        )

    def events(self, buffer: int = 1000) -> Events:
        """Return the events from now on, to enter with `async with` and to read with `async for`."""
        return Events(self._bus, buffer)


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
