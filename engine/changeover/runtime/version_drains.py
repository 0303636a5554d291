"""How a version goes: drains, quarantine, eviction, close; the other half of the version actor, below `version.py`.

It owns the drain that runs, and everybody who waits for it. No handler waits; nothing is closed that is held.
"""

from __future__ import annotations

from functools import partial

from changeover.core import lifecycle
from changeover.core.lifecycle import Event
from changeover.core.values import VersionState
from changeover.runtime import sites, why
from changeover.runtime.loaded import LoadedModel
from changeover.runtime.orders import Draining, DrainOrder, DropOrder, Evict, Happened, LoadOrder, Result
from changeover.runtime.version_loads import Loads


class Drains(Loads):
    """The part of a version that leaves."""

    # --- orders ---

    def _on_drain(self, order: DrainOrder) -> None:
        if self.state is VersionState.READY:
            self._draining = Draining([], self._ports.clock.now(), partial(self._world.host.books.note_drain, self.key))
            self._step(Event.DRAIN)
        if self._draining is None:
            self._on_drain_of_unloaded(order)
            return
        if sites.ON and self._draining.orders:
            sites.sometimes("drain-joined")
        if self.state is VersionState.QUARANTINED and self.loaded is not None and order.drain.then == "cancel":
            self._world.host.revoke(self.loaded)  # which may be the end of the last holder, if he was in the queue
        if self.state is VersionState.QUARANTINED and self.loaded is not None and self.loaded.account.held:
            order.outcome.settle(self._draining.outcome("quarantined", self.loaded, self._ports.clock.now()))
            order.closed.fail(why.still_held(self.key))
            return
        self._draining.orders.append(order)
        if self._draining.hurry(order.drain, self._ports.clock.now()):
            self._ring_at_deadline(self._draining)
        if self.state is VersionState.UNLOADING:
            self._settle_drain("drained")
            self._fail_later_loads(order)

    def _on_drain_of_unloaded(self, order: DrainOrder) -> None:
        """Call off what would bring it back, where the order may: there is nothing to wait for."""
        only_restarts = self._loading is not None and self._loading.orders == [self._restart]
        if only_restarts:
            self._in_service = False  # nobody but the supervisor wants it back
        if self.state is VersionState.UNLOADING:
            self._fail_later_loads(order)
            self._later.append(order)  # it is being evicted, or failed its warm-up
        elif lifecycle.knows(self.state, Event.DROP):
            self._step(Event.DROP)
            order.settle()
        elif self._loading is not None and (order.calls_off_load or self.is_evicted or only_restarts):
            self._call_off_load()
            order.settle()
        else:
            order.fail(why.not_loaded(self.key, self.state))

    def _fail_later_loads(self, order: DrainOrder) -> None:
        """Let a load that waits for the close know that it was overtaken by an order of the opposite."""
        loads = [later for later in self._later if isinstance(later, LoadOrder)]
        for load in loads if order.calls_off_load else []:
            self._later.remove(load)
            if sites.ON:
                sites.sometimes("load-behind-a-close-overtaken")
            load.fail(why.load_ended(self.key))

    def _on_evict(self, order: Evict) -> None:
        """Go at once if nobody uses it; the gate is shut before the look, so that nobody gets in between."""
        if order.loaded is not self.loaded or self.state is not VersionState.READY or self.is_leaving:
            return  # it goes, or has gone, another way
        self._step(Event.EVICT)
        self._step(Event.GIVE_BACK if order.loaded.account.held else Event.ZERO)

    def _on_drop(self, order: DropOrder) -> None:
        """Let go of a version that is forgotten; in quarantine, whoever holds it keeps the model until he leaves."""
        draining, loaded = self._draining, self.loaded
        if self.state is VersionState.QUARANTINED and draining is not None and loaded is not None:
            loaded.account.unwatch(draining.on_zero)
            draining.end(why.still_held(self.key))
            self._draining = None
            self._step(Event.DROP)
        elif self.is_evicted or self._in_service or self.state not in lifecycle.RESTING:
            order.fail(why.in_use(self.key, self.state))
            return
        order.done.settle(None)

    @property
    def is_leaving(self) -> bool:
        """True where a drain is ordered that has not begun."""
        return any(isinstance(message, DrainOrder) for message in (*self._later, *self._lane.waiting()))

    # --- reports ---

    def _on_deadline(self) -> None:
        """Do what the drain says; nothing is closed that somebody holds."""
        draining, loaded = self._draining, self.loaded
        assert draining is not None and loaded is not None  # noqa: PT018 - one fact: a drain is of a model
        verdict = draining.expire(loaded.account.kinds(), self._ports.clock.now())
        if verdict == "give back":
            if sites.ON:
                sites.sometimes("drain-out-of-time-given-back")
            self._step(Event.GIVE_BACK)
        elif verdict == "quarantine":
            self._step(Event.DEADLINE)
            self._settle_drain("quarantined")
            loaded.is_leaving = False
            self._world.host.room.look()
        else:
            if verdict:
                if sites.ON:
                    sites.sometimes("holders-revoked")
                self._world.host.revoke(loaded, verdict)
            self._ring_at_deadline(draining)

    def _on_zero(self) -> None:
        if self.loaded is not None and self._draining is not None and self.loaded.account.held:
            # The zero was one of before the gate was shut, told late by a thread that had others to tell.
            self.loaded.account.watch(self._draining.on_zero)
        else:
            if sites.ON and self.state is VersionState.QUARANTINED:
                sites.sometimes("quarantine-ended")
            self._settle_drain("drained")
            self._step(Event.ZERO)

    def _on_closed(self, event: Event) -> None:
        self.loaded = None
        self._step(event)
        if self._draining is not None:
            self._draining.end(None)
            self._draining = None
        if self._loading is not None:
            self._end_loading(self.error)
        for order in reversed(self._later):
            self._lane.post_first(order)  # before the news that one of them is late or called off
        self._later = []

    # --- leaving ---

    def _shut(self, loaded: LoadedModel, draining: Draining) -> None:
        self._in_service = False
        self._world.shut(loaded)
        loaded.account.shut()
        loaded.is_leaving = True
        draining.on_zero = lambda: self.post_soon(Happened(Event.ZERO, draining))
        loaded.account.watch(draining.on_zero)

    def _park(self, loaded: LoadedModel) -> None:
        if sites.ON:
            sites.sometimes("version-evicted")
        self._in_service, self.is_evicted = False, True
        self._world.park(loaded)
        loaded.account.shut()

    def _ring_at_deadline(self, draining: Draining) -> None:
        rest_s = draining.next_ring_s(self._ports.clock.now())
        if rest_s is not None:
            self._post_later(rest_s, draining.timer, Happened(Event.DEADLINE, draining))

    def _settle_drain(self, result: Result) -> None:
        if self._draining is not None:
            self._draining.settle(self._draining.outcome(result, self.loaded, self._ports.clock.now()))

    def _close(self, loaded: LoadedModel) -> None:
        loaded.account.shut()
        loaded.lane.close()
        event = Event.CLOSED_EVICTED if self.is_evicted else Event.CLOSED
        if self._loading:
            event = Event.CLOSED_FAILED
        self._world.host.close(loaded, lambda error: self.post(Happened(event, loaded, error=error)))
