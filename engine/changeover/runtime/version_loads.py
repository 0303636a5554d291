"""How a version comes into use: load orders, retries, warm-up; one half of the version actor, below `version.py`.

It owns the attempt to load that runs, and everybody who waits for it. No handler waits.
"""

from __future__ import annotations

from functools import partial

import trio

from changeover.core import lifecycle
from changeover.core.lifecycle import Action, Event
from changeover.core.values import VersionKey, VersionSpec, VersionState
from changeover.errors import ChangeoverError, OverBudget, SourceUnavailable, TooManyStuckLoads
from changeover.runtime import sites, why
from changeover.runtime.actor import Actor
from changeover.runtime.loaded import LoadedModel
from changeover.runtime.orders import Draining, DrainOrder, Happened, Late, Loading, LoadOrder, Message, WarmOrder
from changeover.runtime.supervisor import Restart
from changeover.runtime.world import World

_RETRY_FIRST_S = 0.5
"""How long to wait before a source that is away is tried again; twice as long each time."""


class Loads(Actor[Message]):
    """The part of a version that loads, and the state that all its parts share."""

    def __init__(self, spec: VersionSpec, world: World) -> None:
        """Begin registered, with no task."""
        super().__init__(f"{spec.key} {next(world.numbers)}", world.ports, world.supervisor)
        self.spec = spec
        self.key: VersionKey = spec.key
        self.state = VersionState.REGISTERED
        self.loaded: LoadedModel | None = None
        self.error: ChangeoverError | None = None
        self.is_evicted = False
        """True from the moment in which it went to make room until it is open again: it keeps its traffic."""
        self._world = world
        self._loading: Loading | None = None
        self._draining: Draining | None = None
        self._later: list[LoadOrder | DrainOrder] = []
        self._warming: list[WarmOrder] = []
        self._in_service = False
        self._restart: LoadOrder | None = None
        self._served: LoadedModel | None = None
        """The model that the present workers serve."""

    def _step(self, event: Event) -> None:
        """Make a transition and do what it says."""
        transition = lifecycle.step(self.state, event)
        self.state = transition.state
        for action in transition.actions:
            self._act(action)
        error = str(self.error) if self.error and self.state is VersionState.FAILED else None
        self._world.bus.emit("version_state", self.key, state=self.state.value, error=error)

    def _act(self, action: Action) -> None:
        """Do one thing that a transition asks for."""
        raise NotImplementedError

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
            if sites.ON:
                sites.sometimes("load-joined")
            self._loading.orders.append(order)
            if self.state is VersionState.WARMING:
                order.loaded.settle(None)
        else:
            if sites.ON and self.is_evicted:
                sites.sometimes("evicted-version-reloaded")
            order.began = True
            self._loading = Loading([order])
            self.error = None
            self._step(Event.LOAD)

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
            if not self._loading.orders:
                self._give_up_load(error, event)

    def _give_up_load(self, error: ChangeoverError, event: Event) -> None:
        """End a load that nobody waits for any more; a version that was evicted stays so where it may come later."""
        job = self._loading.job if self._loading is not None else None
        stands_in_line = job is not None and job.want is not None
        if self.is_evicted and (event is Event.LOAD_CANCELLED or stands_in_line):
            event = Event.LOAD_PUT_OFF
        if lifecycle.knows(self.state, event):
            self.error = error
            self._step(event)
            self._end_loading(error)

    def _call_off_load(self) -> None:
        """Fail everybody who waits for a load: somebody ordered the opposite, and the newest order wins."""
        self._in_service = False  # the supervisor does not want it back either
        error = why.load_ended(self.key)
        if self._loading is not None and lifecycle.knows(self.state, Event.LOAD_CANCELLED):
            if sites.ON:
                sites.sometimes("load-called-off")
            self.error = error
            self._step(Event.LOAD_CANCELLED)
            self._end_loading(error)

    # --- loading ---

    def _start_load(self, loading: Loading) -> None:
        try:
            loading.job = self._world.host.load(self.spec, partial(self._on_load_ended, loading))
        except ChangeoverError as error:
            self.post(Happened(Event.LOAD_FAILED, loading, error=error))

    def _on_load_ended(self, loading: Loading, loaded: LoadedModel | None, error: BaseException | None) -> None:
        self.post(Happened(Event.LOADED if error is None else Event.LOAD_FAILED, loading, loaded, error))

    def _on_failed_load(self, report: Happened) -> None:
        if self._is_tried_again(report):
            return
        say = why.warm_up_failed if report.event is Event.WARM_FAILED else why.load_failed
        self.error = say(self.key, report.error)
        no_room = isinstance(self.error, OverBudget | TooManyStuckLoads)
        self._step(Event.LOAD_PUT_OFF if self.is_evicted and no_room else report.event)
        if self.state in lifecycle.RESTING:
            self._end_loading(self.error)

    def _is_tried_again(self, report: Happened) -> bool:
        """Set the timer for another try where the source was only away and tries are left; return whether it is set."""
        loading, error = self._loading, report.error
        if loading is None or report.event is not Event.LOAD_FAILED or not isinstance(error, SourceUnavailable):
            return False
        loading.tries += 1
        backoff = Restart(most=self.spec.load_retries, first_s=_RETRY_FIRST_S)
        delay_s = backoff.delay_s([0.0] * loading.tries, self._ports.random.random())
        if delay_s is None:
            return False
        if sites.ON and sites.buggify("load-retried-at-once"):
            delay_s = 0.0
        self._world.bus.emit("load_retrying", self.key, error=str(error), attempt=loading.tries, delay_s=delay_s)
        loading.timer = trio.CancelScope()
        self._post_later(delay_s, loading.timer, Happened(Event.LOAD_RETRIED, loading))
        return True

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
        loading.timer.cancel()
        loading.end(error)
        if error is not None and self._in_service:
            if sites.ON:
                sites.sometimes("restart-failed")
            raise error
