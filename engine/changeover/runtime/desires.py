"""Which version of each model shall be active: what the journal brings back after the process has ended.

A reader of the engine's events, so that it hears of every change of traffic. It owns what is wanted, and what could not
be written yet; it spawns nothing. What a swap changes the swap itself writes down.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from itertools import islice

from changeover.core import wire
from changeover.core.records import HISTORY_MAX, DesiredVersion, Entry, Kept, SwapRow, cut
from changeover.core.snapshots import Event
from changeover.core.values import VersionKey, VersionState
from changeover.errors import JournalFailed
from changeover.runtime import sites
from changeover.runtime.events import logger
from changeover.runtime.ports import Journal
from changeover.runtime.registry import Registry
from changeover.runtime.router import Router

Deliver = Callable[[Exception | None], None]

OWED_AT_ONCE = 100
"""So many ends of swaps, and so many models, are written along with one entry, so that none becomes huge."""

AGAIN_S = 1.0
"""So long after a failure it is not tried again for its own sake."""


class CatchingUp:
    """A journal that writes with the next entry what it could not keep: how swaps have ended, and what is active.

    What was written meanwhile by anybody is not overtaken: entries are delivered in the order of their writing.
    """

    def __init__(
        self, journal: Journal, *, may_write: Callable[[str], bool], record: Callable[[str], bytes | None]
    ) -> None:
        """Owe nothing; of a model that `may_write` says yes to, `record` returns what is to be written."""
        self._journal = journal
        self._may_write = may_write
        self._record = record
        self._models: dict[str, None] = {}
        self._ends: dict[str, SwapRow] = {}

    def owes(self) -> bool:
        """Return whether something is to be written that could be."""
        return bool(self._ends) or any(map(self._may_write, self._models))

    def owes_for(self, model: str) -> bool:
        """Return whether what is wanted of a model is not what the journal has."""
        return model in self._models

    async def open(self) -> Kept:
        """Open the journal."""
        return await self._journal.open()

    async def begin_anew(self, reason: str, *, newer: bool = False) -> Kept:
        """Set the journal aside."""
        return await self._journal.begin_anew(reason, newer=newer)

    async def close(self) -> None:
        """Close the journal."""
        await self._journal.close()

    def write(self, entry: Entry, deliver: Deliver) -> None:
        """Keep an entry, and what is owed."""
        rows = dict(islice(self._ends.items(), OWED_AT_ONCE)) | {row.id: row for row in entry.swaps}
        models = islice(filter(self._may_write, self._models), OWED_AT_ONCE)
        whole = Entry(tuple(rows.values()), {model: self._record(model) for model in models} | dict(entry.desired))

        def written(error: Exception | None) -> None:
            self._note(whole, kept=error is None)
            deliver(error)

        self._journal.write(whole, written)

    def _note(self, entry: Entry, *, kept: bool) -> None:
        ends = {row.id: row for row in entry.swaps if row.ended}
        if kept:
            for swap_id in ends:
                self._ends.pop(swap_id, None)
            for model in entry.desired:
                self._models.pop(model, None)
            return
        self._models.update(dict.fromkeys(entry.desired))
        self._ends.update(ends)
        while len(self._ends) > HISTORY_MAX:
            del self._ends[next(iter(self._ends))]


class Desires:
    """What is wanted; belongs to the loop."""

    def __init__(
        self,
        journal: Journal,
        registry: Registry,
        router: Router,
        *,
        now: Callable[[], float],
        is_settled: Callable[[str], bool],
        state: Callable[[VersionKey], VersionState],
    ) -> None:
        """Know nothing yet; `is_settled` says of a model that neither a swap nor a recovery decides about it now."""
        self.versions: dict[str, str] = {}
        """By model, as it was ordered to be written last."""
        self.journal = CatchingUp(journal, may_write=is_settled, record=self._wanted)
        """The journal, for everybody who writes."""
        self._registry = registry
        self._router = router
        self._is_settled = is_settled
        self._state = state
        self._is_troubled = self._is_writing = False
        self._now = now
        self._again_s = -AGAIN_S
        """When what is owed may be tried again."""

    # --- for who writes himself ---

    def want(self, to: Mapping[str, str | None]) -> Mapping[str, bytes | None]:
        """Return what an entry has to say so that these versions are wanted, and count on its being written."""
        for model, version in to.items():
            if version is None:
                self.versions.pop(model, None)
            else:
                self.versions[model] = version
        return {model: self._record(model, version) for model, version in to.items()}

    def news_of(self, active: Mapping[str, str]) -> dict[str, str]:
        """Return those of some active versions that are not wanted yet: they came while another swap had the slot."""
        return {model: version for model, version in active.items() if self.versions.get(model) != version}

    def as_found(self, models: Iterable[str]) -> Mapping[str, bytes | None]:
        """Return what an entry has to say so that whoever is active now is wanted; where nobody is, as before."""
        active = {model: self._router.active(model) for model in models}
        return self.want({model: version for model, version in active.items() if version is not None})

    def owed_for(self, models: Iterable[str]) -> Mapping[str, bytes | None]:
        """Return what an entry has to say so that what is wanted, and could not be written, is written with it."""
        return self.want({m: self.versions.get(m) for m in models if self.journal.owes_for(m)})

    def look(self, models: Iterable[str]) -> None:
        """Hear that who decided about models does so no more: what has changed meanwhile is written now."""
        for model in models:
            if self._is_settled(model) and self._has_changed(model):
                self._write({model: self._router.active(model)})

    def flush(self, is_on_trial: Callable[[VersionKey], bool]) -> None:
        """Write what is owed, and who is active though a swap decides about that: the engine is about to be closed.

        Behind the close nobody is active any more. A version on trial has come to nothing then.
        """
        active = {model: self._router.active(model) for model in self._router.snapshot.routes}
        news = {
            model: version
            for model, version in active.items()
            if version not in (None, self.versions.get(model)) and not is_on_trial(VersionKey(model, version))
        }
        if news or self.journal.owes():
            self._write(news)

    # --- a reader of events ---

    def put(self, event: Event) -> None:
        """Write down that another version is active, where nobody else decides about that; or what is owed still."""
        model = event.model
        if model is not None and self._is_settled(model):
            if event.kind == "traffic_shifted" and self._has_changed(model):
                self._write({model: self._router.active(model)})
            elif event.kind == "version_unregistered" and event.version == self.versions.get(model):
                self._write({model: None})  # nobody will bring it back
        is_time = not self._is_writing and self._now() >= self._again_s and self.journal.owes()
        if is_time and not (sites.ON and sites.buggify("owed-desires-written-later")):
            self._write({})  # whatever happens is an occasion to try again

    def wake(self) -> None:
        """Hear that there are no more events."""

    # --- inside ---

    def _has_changed(self, model: str) -> bool:
        if self._router.refusal is not None:
            return False  # the engine is being closed: that nobody is active any more is not what anybody wants
        active, wanted = self._router.active(model), self.versions.get(model)
        if active is None and wanted is not None and self._state(VersionKey(model, wanted)) is VersionState.FAILED:
            return False  # what has crashed is wanted still: another process may have more luck with it
        return active != wanted

    def _wanted(self, model: str) -> bytes | None:
        return self._record(model, self.versions.get(model))

    def _record(self, model: str, version: str | None) -> bytes | None:
        key = VersionKey(model, version or "")
        if version is None or key not in self._registry:
            return None
        spec = self._registry.get(key)
        return wire.encode(DesiredVersion(model, version, spec.loader, cut(str(spec.source)), spec.sha256))

    def _write(self, to: Mapping[str, str | None]) -> None:
        self._is_writing = True
        try:
            self.journal.write(Entry(desired=self.want(to)), self._written)
        except JournalFailed as error:  # what there is to be told of a version is too long
            self._written(error)

    def _written(self, error: Exception | None) -> None:
        """Say once that the journal is in trouble, and once that it is well again."""
        self._is_writing = False
        if error is not None and not self._is_troubled:
            logger.error("the journal does not keep which versions are active: %s", error)
        elif error is None and self._is_troubled:
            logger.warning("the journal can be written again")
        self._is_troubled = error is not None
        if error is not None:
            self._again_s = self._now() + AGAIN_S
