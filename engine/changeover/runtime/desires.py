"""Which version of each model shall be active: what the journal brings back after the process has ended.

A reader of the engine's events, so that it hears of every change of traffic. It owns what was written last, and spawns
nothing; what a swap changes the swap itself writes down.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from changeover.core import wire
from changeover.core.records import DesiredVersion, Entry
from changeover.core.snapshots import Event
from changeover.core.values import VersionKey, VersionState
from changeover.runtime.events import logger
from changeover.runtime.ports import Journal
from changeover.runtime.registry import Registry
from changeover.runtime.router import Router


class Desires:
    """What is wanted, as the journal has it; belongs to the loop."""

    def __init__(
        self,
        journal: Journal,
        registry: Registry,
        router: Router,
        *,
        is_settled: Callable[[str], bool],
        state: Callable[[VersionKey], VersionState],
    ) -> None:
        """Know nothing yet; `is_settled` says of a model that neither a swap nor a recovery decides about it now."""
        self.versions: dict[str, str] = {}
        """By model, as it was written last."""
        self._journal = journal
        self._registry = registry
        self._router = router
        self._is_settled = is_settled
        self._state = state
        self._is_troubled = False

    # --- for who writes himself ---

    def want(self, to: Mapping[str, str | None]) -> Mapping[str, bytes | None]:
        """Return what an entry has to say so that these versions are wanted, and count on its being written."""
        for model, version in to.items():
            if version is None:
                self.versions.pop(model, None)
            else:
                self.versions[model] = version
        return {model: self._record(model, version) for model, version in to.items()}

    def as_found(self, models: Iterable[str]) -> Mapping[str, bytes | None]:
        """Return what an entry has to say so that whoever is active now is wanted; where nobody is, as before."""
        active = {model: self._router.active(model) for model in models}
        return self.want({model: version for model, version in active.items() if version is not None})

    # --- a reader of events ---

    def put(self, event: Event) -> None:
        """Write down that another version is active, where nobody else decides about that."""
        model = event.model
        if event.kind != "traffic_shifted" or model is None or not self._is_settled(model):
            return
        active, wanted = self._router.active(model), self.versions.get(model)
        if active == wanted or (active is None and self._has_failed(model, wanted)):
            return  # what has crashed is wanted still: another process may have more luck with it
        self._journal.write(Entry(desired=self.want({model: active})), self._written)

    def wake(self) -> None:
        """Hear that there are no more events."""

    # --- inside ---

    def _has_failed(self, model: str, version: str | None) -> bool:
        return version is not None and self._state(VersionKey(model, version)) is VersionState.FAILED

    def _record(self, model: str, version: str | None) -> bytes | None:
        key = VersionKey(model, version or "")
        if version is None or key not in self._registry:
            return None
        spec = self._registry.get(key)
        return wire.encode(DesiredVersion(model, version, spec.loader, str(spec.source), spec.sha256))

    def _written(self, error: Exception | None) -> None:
        """Say once that the journal is in trouble, and once that it is well again."""
        if error is not None and not self._is_troubled:
            logger.error("the journal does not keep which versions are active: %s", error)
        elif error is None and self._is_troubled:
            logger.warning("the journal can be written again")
        self._is_troubled = error is not None
