"""The version actor: one supervised task with a mailbox that does what `core/lifecycle` decides.

It owns one loaded model at a time and a nursery with its timers and workers; whoever wants something posts an order
and waits for its promises. No handler waits. It never closes a model that is held.
"""

from __future__ import annotations

from functools import partial

import trio

from changeover.core import lifecycle
from changeover.core.lifecycle import Action, Event
from changeover.errors import ChangeoverError, EngineClosed, VersionCrashed
from changeover.plugin import FatalModelError
from changeover.runtime import sites, why
from changeover.runtime.loaded import LoadedModel
from changeover.runtime.orders import (
    CalledOff,
    DrainOrder,
    DropOrder,
    Evict,
    Happened,
    Late,
    LoadOrder,
    Message,
    WarmOrder,
)
from changeover.runtime.version_drains import Drains


class Version(Drains):
    """One registered version that was wanted at least once; its actor runs while there is something to do."""

    # --- what others call, on the loop ---

    def post(self, message: Message) -> None:
        """Put a message into the mailbox; a drain of what only waits for its restart calls the restart off."""
        if isinstance(message, DrainOrder) and self._awaits_restart:
            if sites.ON:
                sites.sometimes("restart-called-off")
            self._in_service = False
            message.settle()
        else:
            super().post(message)

    @property
    def is_coming(self) -> bool:
        """True while it is being loaded, or is about to be: after a crash, or once its old model is closed."""
        ordered = (*self._lane.waiting(), *self._later)
        return self._loading is not None or self._awaits_restart or any(isinstance(m, LoadOrder) for m in ordered)

    @property
    def may_be_awaited(self) -> bool:
        """True where a request may wait for it: it is coming, or can be had back, and its drain is not the last order.

        A drain that is ordered already stands: a request's own order would come behind it, and call it off.
        """
        orders = [m for m in (*self._later, *self._lane.waiting()) if isinstance(m, LoadOrder | DrainOrder)]
        return isinstance(orders[-1], LoadOrder) if orders else self.is_coming or self.is_evicted

    @property
    def _awaits_restart(self) -> bool:
        return self._in_service and self._loading is None and self.state in lifecycle.RESTING

    # --- the task ---

    def _starting(self) -> None:
        if self._in_service:
            self._restart = LoadOrder()  # the supervisor starts it again after a crash
            self._lane.post_first(self._restart)

    def _has_work(self) -> bool:
        return self.state not in lifecycle.RESTING

    def _handle(self, message: Message) -> None:
        match message:
            case LoadOrder():
                self._on_load(message)
            case DrainOrder():
                self._on_drain(message)
            case WarmOrder():
                self._on_warm(message)
            case DropOrder():
                self._on_drop(message)
            case Evict():
                self._on_evict(message)
            case CalledOff():
                self._on_gone(message.order, why.load_called_off(self.key), Event.LOAD_CANCELLED)
                message.done.settle(None)
            case Late(order):
                self._on_gone(order, why.overdue(self.key, order.limit_s(self.spec)), Event.OVERDUE)
            case Happened() if self._is_news(message):
                self._on_happened(message)
            case Happened():
                # What a load brought in the very moment in which it was given up is closed; the rest is forgotten.
                self._refuse(message)

    def _is_news(self, report: Happened) -> bool:
        """Return whether a report is about what is going on now, and not about what is over."""
        is_current = report.about in (self._loading, self._draining, self.loaded)
        return is_current and lifecycle.knows(self.state, report.event)

    def _act(self, action: Action) -> None:
        loaded, host = self.loaded, self._world.host
        match action:
            case Action.START_LOAD if self._loading is not None:
                self._start_load(self._loading)
            case Action.ABANDON_LOAD if self._loading is not None and self._loading.job is not None:
                host.abandon(self._loading.job)
            case Action.START_WARM if loaded is not None and self._loading is not None:
                self._start_warm(loaded, self._loading)
            case Action.OPEN if loaded is not None:
                self._open(loaded)
            case Action.SHUT if loaded is not None and self._draining is not None:
                self._shut(loaded, self._draining)
            case Action.PARK if loaded is not None:
                self._park(loaded)
            case Action.CLOSE if loaded is not None:
                self._close(loaded)
            case Action.RETIRE if loaded is not None:
                self.loaded = None
                self._world.shut(loaded)
                host.retire(loaded, str(self.error))
                host.room.look()
            case Action.UNROUTE:
                self.is_evicted = False
                self._world.unroute(self.key)
            case _:
                pass  # there is nothing that it could be done to

    # --- reports ---

    def _on_happened(self, report: Happened) -> None:
        match report.event:
            case Event.LOADED:
                self.loaded = report.loaded
                self._step(Event.LOADED)
            case Event.LOAD_RETRIED:
                self._step(Event.LOAD_RETRIED)
            case Event.LOAD_FAILED | Event.WARM_FAILED:
                self._on_failed_load(report)
            case Event.WARMED:
                self._step(Event.WARMED)
                self._end_loading(None)
            case Event.DEADLINE if self.loaded is not None and self.loaded.account.held:
                self._on_deadline()
            case Event.DEADLINE:
                pass  # nobody is waited for any more: the report of zero is on its way
            case Event.ZERO:
                self._on_zero()
            case Event.CLOSED | Event.CLOSED_FAILED | Event.CLOSED_EVICTED:
                self._on_closed(report.event)
            case Event.CRASHED:
                raise why.model_beyond_use(self.key, report.error or RuntimeError("no cause given"))
            case _:
                raise AssertionError(f"nobody reports {report.event}")

    # --- serving ---

    def _open(self, loaded: LoadedModel) -> None:
        self._in_service = True
        self.is_evicted = loaded.is_leaving = False
        loaded.on_fatal = partial(self._post_crash, loaded)
        loaded.on_evict = lambda: self.post(Evict(loaded))
        loaded.account.reopen()
        self._settle_drain("given_back")
        draining, self._draining = self._draining, None
        if draining is not None:
            if sites.ON:
                sites.sometimes("drain-given-back")
            loaded.account.unwatch(draining.on_zero)
            draining.end(why.drain_called_off(self.key))
        elif not loaded.inline and self._nursery is not None and self._served is not loaded:
            self._served = loaded
            for number in range(self.spec.workers):
                self._nursery.start_soon(self._world.host.work, loaded, number)
        self._world.opened(loaded)
        self._world.host.room.look()  # what was leaving may have come back

    # --- crashing and stopping ---

    def _post_crash(self, loaded: LoadedModel, error: FatalModelError) -> None:
        """Report, from any thread, that a model is beyond use; several threads may find that out at once."""
        report = Happened(Event.CRASHED, loaded, error=error)
        self.post_soon(report)
        if sites.ON and sites.buggify("crash-told-twice"):
            self.post_soon(report)

    def _is_wanted(self) -> bool:
        return self._in_service

    def _clean_up(self, error: BaseException) -> None:
        """Leave nothing routed, and nobody waiting for what was going on."""
        stopped = not isinstance(error, Exception) or isinstance(error, trio.RunFinishedError)
        if stopped or self.is_leaving:  # who waits to have it gone does not want it back
            self._in_service = False
        self.error = why.engine_closed(self.key) if stopped else why.crashed(self.key, error)
        if lifecycle.knows(self.state, Event.CRASHED):
            self._step(Event.CRASHED)
        self.loaded = None
        for attempt in (self._loading, self._draining):
            if attempt is not None:
                attempt.end(self.error)
        self._loading = self._draining = None
        for order in self._later:
            self._refuse(order)
        for warm_up in self._warming:
            warm_up.fail(self.error if stopped else why.warm_up_failed(self.key, self.error))
        self._later, self._warming = [], []

    def _refuse(self, message: Message) -> None:
        """Answer with why the version is where it is; close what a load brought that nobody waits for any more."""
        match message:
            case CalledOff():
                message.done.settle(None)
            case DropOrder() if self.error is not None and not isinstance(self.error, EngineClosed):
                message.done.settle(None)  # nothing is loaded; who forgets it looks himself whether it comes back
            case LoadOrder() | DrainOrder() | WarmOrder() | DropOrder():
                message.fail(self._fate(message))
            case Happened(loaded=LoadedModel() as loaded) if loaded.account.open:  # else the clean-up has retired it
                self._world.host.retire(loaded, str(self._fate(message)))
            case _:
                pass  # a report about what is over

    def _fate(self, message: Message) -> ChangeoverError:
        """Return what a message hears that comes to nothing; only who wants it loaded hears why its load failed."""
        error = self.error or why.engine_closed(self.key)
        if isinstance(message, DrainOrder | WarmOrder) and not isinstance(error, VersionCrashed | EngineClosed):
            return why.not_loaded(self.key, self.state)
        return error

    def _crashed(self, error: Exception, delay_s: float | None) -> None:
        self._world.bus.emit("version_restarting", self.key, error=str(why.crashed(self.key, error)), delay_s=delay_s)
        self._in_service = delay_s is not None
        if sites.ON and delay_s is None:
            sites.sometimes("restarts-given-up")
