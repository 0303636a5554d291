"""The version actor: one supervised task with a mailbox that does what `core/lifecycle` decides.

It owns one loaded model at a time and a nursery with its timers and workers; whoever wants something posts an order
and waits for its promises. No handler waits. It never closes a model that is held.
"""

from __future__ import annotations

from functools import partial

import trio

from changeover.core import lifecycle
from changeover.core.lifecycle import Action, Event
from changeover.core.values import VersionKey, VersionSpec, VersionState
from changeover.errors import ChangeoverError
from changeover.runtime import why
from changeover.runtime.actor import Actor
from changeover.runtime.loaded import LoadedModel
from changeover.runtime.orders import (
    CalledOff,
    Draining,
    DrainOrder,
    Happened,
    Late,
    Loading,
    LoadOrder,
    Message,
    Result,
    WarmOrder,
)
from changeover.runtime.world import World


class Version(Actor[Message]):
    """One registered version that was wanted at least once; its actor runs while there is something to do."""

    def __init__(self, spec: VersionSpec, world: World) -> None:
        """Begin registered, with no task."""
        super().__init__(str(spec.key), world.ports, world.supervisor)
        self.spec = spec
        self.key: VersionKey = spec.key
        self.state = VersionState.REGISTERED
        self.loaded: LoadedModel | None = None
        self.error: ChangeoverError | None = None
        self._world = world
        self._loading: Loading | None = None
        self._draining: Draining | None = None
        self._later: list[LoadOrder] = []
        self._warming: list[WarmOrder] = []
        self._in_service = False
        self._restart: LoadOrder | None = None

    # --- what others call, on the loop ---

    def post(self, message: Message) -> None:
        """Put a message into the mailbox; a drain of what only waits for its restart calls the restart off."""
        if isinstance(message, DrainOrder) and self._awaits_restart:
            self._in_service = False
            message.settle()
        else:
            super().post(message)

    @property
    def is_coming(self) -> bool:
        """True while it is being loaded, or waits to be started again after a crash."""
        return self._loading is not None or self._awaits_restart

    @property
    def is_leaving(self) -> bool:
        """True where a drain is ordered that has not begun."""
        return any(isinstance(message, DrainOrder) for message in self._lane.waiting())

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

    def _step(self, event: Event) -> None:
        """Make a transition and do what it says."""
        transition = lifecycle.step(self.state, event)
        self.state = transition.state
        for action in transition.actions:
            self._act(action)
        error = str(self.error) if self.error and self.state is VersionState.FAILED else None
        self._world.bus.emit("version_state", self.key, state=self.state.value, error=error)

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
            case Action.CLOSE if loaded is not None:
                self._close(loaded)
            case Action.RETIRE if loaded is not None:
                self.loaded = None
                self._world.shut(loaded)
                host.retire(loaded, str(self.error))
            case _:
                pass  # there is nothing that it could be done to

    # --- orders ---

    def _on_load(self, order: LoadOrder) -> None:
        if self.state is VersionState.READY:
            order.fail(why.already_loaded(self.key))
            return
        if lifecycle.knows(self.state, Event.GIVE_BACK):
            order.began = True
            self._step(Event.GIVE_BACK)
            order.settle()
            return
        if not order.timed:  # else it waited for the old model to be closed
            order.timed = True
            self._post_later(order.limit_s(self.spec), order.timer, Late(order))
        if self.state is VersionState.UNLOADING:
            self._later.append(order)
        elif self._loading is not None:
            self._loading.orders.append(order)
            if self.state is VersionState.WARMING:
                order.loaded.settle(None)
        else:
            order.began = True
            self._loading = Loading([order])
            self.error = None
            self._step(Event.LOAD)

    def _on_drain(self, order: DrainOrder) -> None:
        if self.state is VersionState.READY:
            self._draining = Draining([], self._ports.clock.now(), partial(self._world.host.books.note_drain, self.key))
            self._step(Event.DRAIN)
        if self._loading is not None and self._restart is not None and self._loading.orders == [self._restart]:
            self._in_service = False  # nobody but the supervisor wants it back
            self._on_gone(self._restart, why.load_called_off(self.key), Event.LOAD_CANCELLED)
            order.settle()
            return
        if self._draining is None:
            order.fail(why.not_loaded(self.key, self.state))
            return
        if self.state is VersionState.QUARANTINED and self.loaded is not None and self.loaded.account.held:
            if order.drain.then == "cancel":
                self._world.host.revoke(self.loaded)
            order.outcome.settle(self._draining.outcome("quarantined", self.loaded, self._ports.clock.now()))
            order.closed.fail(why.still_held(self.key))
            return
        self._draining.orders.append(order)
        if self._draining.hurry(order.drain, self._ports.clock.now()):
            self._ring_at_deadline(self._draining)
        if self.state is VersionState.UNLOADING:
            self._settle_drain("drained")

    def _on_warm(self, order: WarmOrder) -> None:
        if self.state is not VersionState.READY or self.loaded is None:
            order.fail(why.not_loaded(self.key, self.state))
            return

        def ended(error: BaseException | None) -> None:
            if order in self._warming:
                self._warming.remove(order)
            if error is None:
                order.done.settle(None)
            else:
                order.fail(why.warm_up_failed(self.key, error))

        self._warming.append(order)
        self._world.host.warm(self.loaded, order.data, ended)

    def _on_gone(self, order: LoadOrder, error: ChangeoverError, event: Event) -> None:
        """Let go of an order that is late or called off; without the last one the load has no purpose."""
        if order in self._later:
            self._later.remove(order)
            order.fail(error)
        elif self._loading is not None and order in self._loading.orders:
            self._loading.orders.remove(order)
            order.fail(self.error or error)  # a warm-up that failed is the reason, though its model is still closing
            if not self._loading.orders and lifecycle.knows(self.state, event):
                self.error = error
                self._step(event)
                self._end_loading(error)

    # --- reports ---

    def _on_happened(self, report: Happened) -> None:
        match report.event:
            case Event.LOADED:
                self.loaded = report.loaded
                self._step(Event.LOADED)
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
            case Event.CLOSED | Event.CLOSED_FAILED:
                self._on_closed(report.event)
            case Event.CRASHED:
                raise why.model_beyond_use(self.key, report.error or RuntimeError("no cause given"))
            case _:
                raise AssertionError(f"nobody reports {report.event}")

    def _on_deadline(self) -> None:
        """Do what the drain says; nothing is closed that somebody holds."""
        draining, loaded = self._draining, self.loaded
        assert draining is not None and loaded is not None  # noqa: PT018 - one fact: a drain is of a model
        verdict = draining.expire(loaded.account.kinds(), self._ports.clock.now())
        if verdict == "give back":
            self._step(Event.GIVE_BACK)
        elif verdict == "quarantine":
            self._step(Event.DEADLINE)
            self._settle_drain("quarantined")
        else:
            if verdict:
                self._world.host.revoke(loaded, verdict)
            self._ring_at_deadline(draining)

    def _on_zero(self) -> None:
        if self.loaded is not None and self._draining is not None and self.loaded.account.held:
            # The zero was one of before the gate was shut, told late by a thread that had others to tell.
            self.loaded.account.watch(self._draining.on_zero)
        else:
            self._settle_drain("drained")
            self._step(Event.ZERO)

    def _on_failed_load(self, report: Happened) -> None:
        say = why.warm_up_failed if report.event is Event.WARM_FAILED else why.load_failed
        self.error = say(self.key, report.error)
        self._step(report.event)
        if self.state is VersionState.FAILED:
            self._end_loading(self.error)

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

    # --- loading ---

    def _start_load(self, loading: Loading) -> None:
        try:
            loading.job = self._world.host.load(self.spec, partial(self._on_load_ended, loading))
        except ChangeoverError as error:
            self.post(Happened(Event.LOAD_FAILED, loading, error=error))

    def _on_load_ended(self, loading: Loading, loaded: LoadedModel | None, error: BaseException | None) -> None:
        self.post(Happened(Event.LOADED if error is None else Event.LOAD_FAILED, loading, loaded, error))

    def _start_warm(self, loaded: LoadedModel, loading: Loading) -> None:
        for order in loading.orders:
            order.loaded.settle(None)

        def ended(error: BaseException | None) -> None:
            self.post(Happened(Event.WARM_FAILED if error else Event.WARMED, loading, error=error))

        if self.spec.warmup:
            self._world.host.warm(loaded, self.spec.warmup, ended)
        else:
            ended(None)

    def _end_loading(self, error: ChangeoverError | None) -> None:
        """Answer who waited for the load; a version that was in service before a crash is tried again."""
        loading, self._loading = self._loading, None
        assert loading is not None
        loading.end(error)
        if error is not None and self._in_service:
            raise error

    # --- serving ---

    def _open(self, loaded: LoadedModel) -> None:
        self._in_service = True
        loaded.on_fatal = lambda error: self.post_soon(Happened(Event.CRASHED, loaded, error=error))
        loaded.account.reopen()
        self._settle_drain("given_back")
        draining, self._draining = self._draining, None
        if draining is not None:
            loaded.account.unwatch(draining.on_zero)
            draining.end(why.drain_called_off(self.key))
        elif not loaded.inline and self._nursery is not None:
            for number in range(self.spec.workers):
                self._nursery.start_soon(self._world.host.work, loaded, number)
        self._world.opened(loaded)

    # --- leaving ---

    def _shut(self, loaded: LoadedModel, draining: Draining) -> None:
        self._in_service = False
        self._world.shut(loaded)
        loaded.account.shut()
        draining.on_zero = lambda: self.post_soon(Happened(Event.ZERO, draining))
        loaded.account.watch(draining.on_zero)

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
        event = Event.CLOSED_FAILED if self._loading else Event.CLOSED
        self._world.host.close(loaded, lambda error: self.post(Happened(event, loaded, error=error)))

    # --- crashing and stopping ---

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
        for load in self._later:
            load.fail(self.error)
        for warm_up in self._warming:
            warm_up.fail(self.error)
        self._later, self._warming = [], []

    def _refuse(self, message: Message) -> None:
        """Answer with why the version is where it is; close what a load brought that nobody waits for any more."""
        error = self.error or why.engine_closed(self.key)
        match message:
            case CalledOff():
                message.done.settle(None)
            case LoadOrder() | DrainOrder() | WarmOrder():
                message.fail(error)
            case Happened(loaded=LoadedModel() as loaded) if loaded.account.open:  # else the clean-up has retired it
                self._world.host.retire(loaded, str(error))
            case _:
                pass  # a report about what is over

    def _crashed(self, error: Exception, delay_s: float | None) -> None:
        self._world.bus.emit("version_restarting", self.key, error=str(why.crashed(self.key, error)), delay_s=delay_s)
        self._in_service = delay_s is not None
