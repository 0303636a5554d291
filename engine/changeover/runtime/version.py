"""The version actor: one supervised task with a mailbox that does what `core/lifecycle` decides.

It owns one loaded model at a time and a nursery with its timers and workers; whoever wants something posts an order
and waits for its promises. No handler waits. It never closes a model that is held.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import attrs
import trio

from changeover.core import lifecycle
from changeover.core.lifecycle import Action, Event
from changeover.core.values import Drain, VersionKey, VersionSpec, VersionState
from changeover.errors import ChangeoverError
from changeover.runtime import why
from changeover.runtime.events import Bus
from changeover.runtime.host import Host
from changeover.runtime.loaded import LoadedModel
from changeover.runtime.mailbox import ControlLane, Promise
from changeover.runtime.orders import (
    CalledOff,
    Draining,
    DrainOrder,
    Happened,
    Loading,
    LoadOrder,
    Message,
    Result,
    WarmOrder,
)
from changeover.runtime.ports import Ports
from changeover.runtime.supervisor import ChildSpec, Restart, Supervisor


@attrs.frozen
class World:
    """What a version actor needs of the engine."""

    ports: Ports
    host: Host
    bus: Bus
    supervisor: Supervisor
    opened: Callable[[LoadedModel], None]
    """Called when a model can take requests."""
    shut: Callable[[LoadedModel], None]
    """Called when it takes no more."""


class Version:
    """One registered version that was wanted at least once; its actor runs while there is something to do."""

    def __init__(self, spec: VersionSpec, world: World) -> None:
        """Begin registered, with no actor."""
        self.spec = spec
        self.key: VersionKey = spec.key
        self.state = VersionState.REGISTERED
        self.loaded: LoadedModel | None = None
        self.error: ChangeoverError | None = None
        self._world = world
        self._lane: ControlLane[Message] = ControlLane()
        self._nursery: trio.Nursery | None = None
        self._loading: Loading | None = None
        self._draining: Draining | None = None
        self._later: list[LoadOrder] = []
        self._in_service = False

    # --- what others call, on the loop ---

    def post(self, message: Message) -> None:
        """Put a message into the mailbox, and start the actor where none runs; a closed engine answers at once."""
        name, supervisor = str(self.key), self._world.supervisor
        if not supervisor.is_running:
            self._refuse(message, why.engine_closed(self.key))
            return
        self._lane.post(message)
        if name not in supervisor:
            supervisor.start(ChildSpec(name, self._run, self._crashed, Restart()))

    @property
    def is_coming(self) -> bool:
        """True while it is being loaded, or waits to be started again after a crash."""
        return self._loading is not None or (self._in_service and self.state in lifecycle.RESTING)

    # --- the task ---

    async def _run(self) -> None:
        """Take messages until there is nothing to do; whatever ends it, no order stays unanswered."""
        try:
            if self._in_service:
                self._lane.post(LoadOrder())  # the supervisor starts it again after a crash
            while self._has_work():
                async with trio.open_nursery() as self._nursery:
                    while self._has_work():
                        self._handle(await self._lane.receive())
                    self._nursery.cancel_scope.cancel()  # a timer that nobody needs any more
        except BaseException as error:
            self._clean_up(error)
            raise

    def _has_work(self) -> bool:
        return len(self._lane) > 0 or self.state not in lifecycle.RESTING

    def _handle(self, message: Message) -> None:
        match message:
            case LoadOrder():
                self._on_load(message)
            case DrainOrder():
                self._on_drain(message)
            case WarmOrder():
                self._on_warm(message)
            case CalledOff():
                self._on_called_off(message.order)
                message.done.settle(None)
            case Happened() if self._is_news(message):
                self._on_happened(message)
            case Happened():
                # What a load brought in the very moment in which it was given up is closed; the rest is forgotten.
                self._refuse(message, why.load_called_off(self.key))

    def _is_news(self, report: Happened) -> bool:
        """Return whether a report is about what is going on now, and not about what is over."""
        current = (self._loading, self._draining, self.loaded)
        return any(report.about is it for it in current) and lifecycle.knows(self.state, report.event)

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
            case Action.START_LOAD:
                self._start_load()
            case Action.ABANDON_LOAD if self._loading is not None and self._loading.job is not None:
                host.abandon(self._loading.job)
            case Action.START_WARM if loaded is not None:
                self._start_warm(loaded)
            case Action.OPEN if loaded is not None:
                self._open(loaded)
            case Action.SHUT if loaded is not None:
                self._shut(loaded)
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
        elif self.state is VersionState.UNLOADING:
            self._later.append(order)
        elif lifecycle.knows(self.state, Event.GIVE_BACK):
            self._step(Event.GIVE_BACK)
            order.settle()
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
            self._draining = Draining([], self._now())
            self._step(Event.DRAIN)
        if self._draining is None:
            order.fail(why.not_loaded(self.key, self.state))
            return
        self._draining.orders.append(order)
        self._bound(self._draining, order.drain)
        if self.state is VersionState.QUARANTINED:
            self._settle_drain("quarantined")
        elif self.state is VersionState.UNLOADING:
            self._settle_drain("drained")

    def _on_warm(self, order: WarmOrder) -> None:
        if self.state is not VersionState.READY or self.loaded is None:
            order.fail(why.not_loaded(self.key, self.state))
            return

        def ended(error: BaseException | None) -> None:
            if error is None:
                order.done.settle(None)
            else:
                order.fail(why.warm_up_failed(self.key, error))

        self._world.host.warm(self.loaded, order.data, ended)

    def _on_called_off(self, order: LoadOrder) -> None:
        if order in self._later:
            self._later.remove(order)
        elif self._loading is not None and order in self._loading.orders:
            self._loading.orders.remove(order)
            if not self._loading.orders and lifecycle.knows(self.state, Event.LOAD_CANCELLED):
                self.error = why.load_called_off(self.key)
                self._step(Event.LOAD_CANCELLED)
                self._end_loading(self.error)

    # --- reports ---

    def _on_happened(self, report: Happened) -> None:
        match report.event:
            case Event.LOADED:
                self.loaded = report.loaded
                self._step(Event.LOADED)
            case Event.LOAD_FAILED | Event.WARM_FAILED | Event.OVERDUE:
                self._on_failed_load(report)
            case Event.WARMED:
                self._step(Event.WARMED)
                self._end_loading(None)
            case Event.DEADLINE:
                self._step(Event.DEADLINE)
                self._settle_drain("quarantined")
            case Event.ZERO:
                self._settle_drain("drained")
                self._step(Event.ZERO)
            case Event.CLOSED | Event.CLOSED_FAILED:
                self._on_closed(report.event)
            case Event.CRASHED:
                raise why.crashed(self.key, report.error)
            case _:
                raise AssertionError(f"nobody reports {report.event}")

    def _on_failed_load(self, report: Happened) -> None:
        say = why.warm_up_failed if report.event is Event.WARM_FAILED else why.load_failed
        self.error = say(self.key, report.error)
        self._step(report.event)
        if self.state is VersionState.FAILED:
            self._end_loading(self.error)

    def _on_closed(self, event: Event) -> None:
        self.loaded = None
        self._step(event)
        draining, self._draining = self._draining, None
        if draining is not None:
            draining.end(None)
        if self._loading is not None:
            self._end_loading(self.error)
        later, self._later = self._later, []
        for order in later:
            self._lane.post(order)

    # --- loading ---

    def _start_load(self) -> None:
        loading = self._loading
        assert loading is not None
        timeout_s = loading.orders[0].timeout_s or self.spec.load_timeout_s
        try:
            loading.job = self._world.host.load(self.spec, partial(self._on_load_ended, loading))
        except ChangeoverError as error:
            self.post(Happened(Event.LOAD_FAILED, loading, error=error))
            return
        overdue = why.overdue(self.key, timeout_s)
        self._after(timeout_s, loading.timer, Happened(Event.OVERDUE, loading, error=overdue))

    def _on_load_ended(self, loading: Loading, loaded: LoadedModel | None, error: BaseException | None) -> None:
        self.post(Happened(Event.LOADED if error is None else Event.LOAD_FAILED, loading, loaded, error))

    def _start_warm(self, loaded: LoadedModel) -> None:
        loading = self._loading
        assert loading is not None
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
        loaded.on_fatal = lambda error: self._post_soon(Happened(Event.CRASHED, loaded, error=error))
        loaded.account.reopen()
        self._settle_drain("given_back")
        draining, self._draining = self._draining, None
        if draining is not None:
            draining.end(why.drain_called_off(self.key))
        elif not loaded.inline and self._nursery is not None:
            for number in range(self.spec.workers):
                self._nursery.start_soon(self._work, loaded, number)
        self._world.opened(loaded)

    async def _work(self, loaded: LoadedModel, number: int) -> None:
        """Be responsible for one worker thread, which ends with its lane; its failure is a crash of the version."""
        ended: Promise[None] = Promise()
        self._world.host.serve(loaded, number, lambda error: ended.fail(error) if error else ended.settle(None))
        await ended.wait()

    # --- leaving ---

    def _shut(self, loaded: LoadedModel) -> None:
        draining = self._draining
        assert draining is not None
        self._in_service = False
        self._world.shut(loaded)
        loaded.account.shut()
        loaded.account.watch(lambda: self._post_soon(Happened(Event.ZERO, draining)))

    def _bound(self, draining: Draining, drain: Drain) -> None:
        """Set the drain's deadline, or bring it forward for an order that is in more of a hurry."""
        if draining.hurry(None if drain.then == "wait" else self._now() + drain.deadline_s):
            self._after(drain.deadline_s, draining.timer, Happened(Event.DEADLINE, draining))

    def _settle_drain(self, result: Result) -> None:
        if self._draining is not None:
            self._draining.settle(self._draining.outcome(result, self.loaded, self._now()))

    def _close(self, loaded: LoadedModel) -> None:
        loaded.account.shut()
        loaded.lane.close()
        event = Event.CLOSED_FAILED if self._loading else Event.CLOSED
        self._world.host.close(loaded, lambda error: self.post(Happened(event, loaded, error=error)))

    # --- crashing and stopping ---

    def _clean_up(self, error: BaseException) -> None:
        """Leave nothing routed and no order unanswered."""
        stopped = not isinstance(error, Exception)
        if stopped:
            self._in_service = False
            self.error = why.engine_closed(self.key)
        else:
            self.error = why.crashed(self.key, error)
        if lifecycle.knows(self.state, Event.CRASHED):
            self._step(Event.CRASHED)
        self.loaded = None
        loading, draining = self._loading, self._draining
        self._loading = self._draining = None
        for attempt in (loading, draining):
            if attempt is not None:
                attempt.end(self.error)
        later, self._later = self._later, []
        for message in (*later, *self._lane.take_all()):
            self._refuse(message, self.error)

    def _refuse(self, message: Message, error: ChangeoverError) -> None:
        """Answer a message that will not be handled."""
        if isinstance(message, CalledOff):
            message.done.settle(None)
        elif not isinstance(message, Happened):
            message.fail(error)
        elif message.loaded is not None:
            self._world.host.retire(message.loaded, str(error))

    def _crashed(self, error: Exception, delay_s: float | None) -> None:
        """Hear from the supervisor what becomes of a crash."""
        if self._in_service:
            text = str(why.crashed(self.key, error))
            self._world.bus.emit("version_restarting", self.key, error=text, delay_s=delay_s)
        self._in_service = self._in_service and delay_s is not None

    # --- small things ---

    def _post_soon(self, report: Happened) -> None:
        """Post a report from any thread."""
        self._world.ports.wake.soon(lambda: self.post(report))

    def _after(self, seconds: float, scope: trio.CancelScope, report: Happened) -> None:
        """Post a report later, unless `scope` is cancelled."""
        assert self._nursery is not None
        self._nursery.start_soon(self._ring, seconds, scope, report)

    async def _ring(self, seconds: float, scope: trio.CancelScope, report: Happened) -> None:
        with scope:
            await self._world.ports.clock.sleep(seconds)
            self._lane.post(report)

    def _now(self) -> float:
        return self._world.ports.clock.now()
