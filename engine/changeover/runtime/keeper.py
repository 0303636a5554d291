"""The keeper: a supervised actor that looks at the repository now and then, and does what the models' policies ask for.

It owns what it knows of each model with a policy, and runs only while there is a folder to watch or something to do.
It orders loads, drains and swaps, and waits for none of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from itertools import islice
from typing import Literal

import attrs
import trio

from changeover.core.policy import Chore, Load, ModelPolicy, Record, Standing, SwapTo, Unload, decide
from changeover.core.snapshots import Event
from changeover.core.values import Drain, SwapState, VersionKey, VersionState
from changeover.errors import ChangeoverError
from changeover.runtime import sites
from changeover.runtime.actor import Actor
from changeover.runtime.events import Bus, logger
from changeover.runtime.orders import DrainOrder, LoadOrder
from changeover.runtime.ports import Ports
from changeover.runtime.registry import Registry
from changeover.runtime.repository import Found
from changeover.runtime.router import Router
from changeover.runtime.saga import Saga
from changeover.runtime.slots import Slots
from changeover.runtime.supervisor import Supervisor
from changeover.runtime.version import Version

MODELS_AT_ONCE = 50
"""After so many models everybody else has a turn."""

Looked = Callable[["Found | None", "BaseException | None"], None]
"""Told, on the loop, what a look came to."""

_TOLD_OF = frozenset({"policy_set", "swap_state", "traffic_shifted", "version_restarting", "version_state"}) | {
    *("version_registered", "version_unregistered")
}
"""The events after which a policy may ask for something."""


@attrs.frozen
class KeeperWorld:
    """What the keeper needs of the engine."""

    ports: Ports
    bus: Bus
    supervisor: Supervisor
    registry: Registry
    router: Router
    slots: Slots
    versions: Mapping[VersionKey, Version]
    """Those that were ever wanted."""
    sagas: Mapping[str, Saga]
    version: Callable[[VersionKey], Version]
    """Returns the version of a key, made on first need."""
    swap: Callable[[str, str, ModelPolicy], str]
    """Starts a swap of a model to a version, as a policy wants it, and returns its id."""
    look: Callable[[Looked], None]
    """Starts a look at the repository, in a thread."""
    take: Callable[[Found], object]
    """Registers what was found."""


@attrs.frozen
class FoundOut:
    """What a look came to."""

    found: Found | None
    error: BaseException | None


Message = Literal["nudge", "rest", "look"] | FoundOut


class Keeper(Actor[Message]):
    """Who keeps the models as their policies say; a reader of the engine's events, from the first one on."""

    def __init__(self, world: KeeperWorld) -> None:
        """Watch no folder, and have no task."""
        super().__init__("keeper", world.ports, world.supervisor)
        self._world = world
        self._records: dict[str, Record] = {}
        self._changed: dict[str, None] = {}
        """The models to think about, in order."""
        self._ours: set[str] = set()
        """The swaps that it has started and that have not ended."""
        self._watch_s: float | None = None
        self._timer = trio.CancelScope()
        self._is_nudged = False
        """True while "nudge" is in the mailbox, or on its way there."""
        self._is_looking = False
        self._is_lost = False
        self._is_stopped = False
        world.bus.readers.append(self)

    # --- what others call, on the loop ---

    def watch(self, every_s: float) -> None:
        """Look at the repository every so many seconds from now on."""
        self._watch_s = every_s
        self.post("rest")

    def stop(self) -> None:
        """Do nothing any more, and let the task end."""
        self._is_stopped = True
        self._changed.clear()
        if self._name in self._supervisor:
            self.post("rest")

    def put(self, event: Event) -> None:
        """Hear of an event; what it means for a policy is thought about in a turn of its own."""
        model = event.model
        if model is None or self._is_stopped:
            return
        if event.kind not in _TOLD_OF and not (sites.ON and sites.buggify("keeper-thinks-once-more")):
            return
        if self._world.registry.policy(model) is None:
            self._records.pop(model, None)
            return
        self._note(model, event)
        self._changed[model] = None
        if not self._is_nudged:
            self._is_nudged = True
            self.post("nudge")

    def wake(self) -> None:
        """Hear that the engine is closed."""

    # --- what it knows ---

    def _note(self, model: str, event: Event) -> None:
        """Write down what has happened to a model."""
        record, version = self._records.setdefault(model, Record()), event.version
        match event.kind:
            case "policy_set":
                record.begin_anew()
            case "version_state" if version is not None:
                self._note_state(record, VersionKey(model, version), event)
            case "version_restarting" if version is not None:
                record.note_crash(version, again=event.detail["delay_s"] is not None)
            case "version_unregistered" if version is not None:
                record.note_gone(version)
            case "swap_state" if version is not None:
                self._note_swap(record, version, event)
            case _:
                pass
        active = self._world.router.active(model)
        if active is not None and self._world.slots.holder(model) is None:  # and no swap is trying it out
            record.note_traffic(active)

    def _note_state(self, record: Record, key: VersionKey, event: Event) -> None:
        state = VersionState(event.detail["state"])
        if state is VersionState.FAILED and key.version in record.loaded:
            logger.warning("the policy of %s could not keep %s: %s", key.model, key, event.detail["error"])
        record.note_state(key.version, state)

    def _note_swap(self, record: Record, to: str, event: Event) -> None:
        state = SwapState(event.detail["state"])
        record.note_swap(to, state)
        if state.ended and event.swap_id in self._ours:
            self._ours.discard(event.swap_id)
            if state is not SwapState.COMPLETED:
                error = event.detail["error"]
                logger.warning("the policy of %s could not swap it to %s: %s: %s", event.model, to, state.value, error)

    # --- the task ---

    def _starting(self) -> None:
        if self._watch_s is not None:
            self._lane.post("rest")
        if self._changed:
            self._lane.post("nudge")

    def _has_work(self) -> bool:
        return not self._is_stopped and (self._watch_s is not None or bool(self._changed))

    def _handle(self, message: Message) -> None:
        match message:
            case _ if self._is_stopped:
                return
            case "nudge":
                self._keep_models()
            case "rest":
                self._rest()
            case "look":
                self._world.look(lambda found, error: self.post(FoundOut(found, error)))
                self._is_looking = True
            case FoundOut(found, error):
                self._is_looking = False
                self._rest()
                self._on_look(found, error)

    def _is_wanted(self) -> bool:
        return not self._is_stopped

    def _clean_up(self, error: BaseException) -> None:
        """Leave nothing: nobody waits for the keeper."""
        self._is_nudged = False

    def _refuse(self, message: Message) -> None:
        """Forget a message; what a look has found the next one finds again."""
        self._is_looking = self._is_looking and not isinstance(message, FoundOut)

    def _crashed(self, error: Exception, delay_s: float | None) -> None:
        again = "it goes on" if delay_s is not None else "it goes on when something happens to a model with a policy"
        logger.error("the keeper of the models crashed; %s", again, exc_info=error)

    # --- the repository ---

    def _rest(self) -> None:
        """Look again in a while; a thread that does not come back is not joined by others."""
        self._timer.cancel()
        self._timer = trio.CancelScope()
        if self._watch_s is not None and not self._is_looking:
            self._post_later(self._watch_s, self._timer, "look")

    def _on_look(self, found: Found | None, error: BaseException | None) -> None:
        """Take what was found; a repository that is away is told once, and changes nothing."""
        if found is None:
            if not self._is_lost:
                self._world.bus.emit("repository_lost", error=str(error))
                logger.warning("the repository is lost, and everything serves on: %s", error)
            self._is_lost = True
            return
        if self._is_lost:
            self._is_lost = False
            self._world.bus.emit("repository_found")
            logger.warning("the repository is back")
        self._world.take(found)

    # --- the policies ---

    def _keep_models(self) -> None:
        """Think about the models to which something happened, some in each turn."""
        swaps: dict[str, list[Saga]] = {}
        for saga in self._world.sagas.values():
            if not saga.has_ended:
                for name in saga.models:
                    swaps.setdefault(name, []).append(saga)
        self._is_nudged = False
        for model in tuple(islice(self._changed, MODELS_AT_ONCE)):
            del self._changed[model]  # first: what keeping it changes is thought about again
            try:
                self._keep(model, swaps.get(model, ()))
            except Exception as error:  # noqa: BLE001 - the other models are kept all the same
                logger.error("the policy of %s could not be kept: %r", model, error, exc_info=error)
        if self._changed and not self._is_nudged:
            self._is_nudged = True
            self._post_later(0.0, trio.CancelScope(), "nudge")  # behind everybody else

    def _keep(self, model: str, swaps: Iterable[Saga]) -> None:
        policy, record = self._world.registry.policy(model), self._records.get(model)
        if policy is None or record is None:
            return
        for chore in decide(policy, self._standing(model, policy, record, swaps), record):
            logger.info("by the policy of %s: %s", model, chore)
            record.note_order(chore)
            self._do(model, policy, record, chore)

    def _do(self, model: str, policy: ModelPolicy, record: Record, chore: Chore) -> None:
        """Order a chore."""
        key = VersionKey(model, chore.version)
        match chore:
            case Load():
                self._world.version(key).post(LoadOrder())
            case Unload():
                self._world.version(key).post(DrainOrder(Drain()))
            case SwapTo(version):
                try:
                    self._ours.add(self._world.swap(model, version, policy))
                except ChangeoverError as error:
                    record.note_refusal(version)
                    logger.warning("the policy of %s could not swap it to %s: %s", model, version, error)

    def _standing(self, model: str, policy: ModelPolicy, record: Record, swaps: Iterable[Saga]) -> Standing:
        """Return how a model stands, as far as its policy is concerned."""
        router, versions = self._world.router, self._world.registry.versions_newest_first(model)
        active, route = router.active(model), router.snapshot.routes.get(model)
        concerned = {*policy.pick(versions), *record.loaded, *([active] if active is not None else [])}
        known = {v: at for v in concerned if (at := self._world.versions.get(VersionKey(model, v))) is not None}
        pairs = [pair for saga in swaps for pair in saga.swap.pairs if pair.model == model]
        heading = {pair.new.version for pair in pairs}
        coming = {v for v, version in known.items() if version.is_coming}
        return Standing(
            versions,
            {v: version.state for v, version in known.items()},
            active,
            frozenset(share.version for share in route.shares) if route else frozenset(),
            frozenset(coming | heading | {pair.old.version for pair in pairs}),
            frozenset(heading),
        )
