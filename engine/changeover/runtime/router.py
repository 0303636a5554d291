"""The router: holds the current routes snapshot; to pick a version and to pin it is one step, from any thread.

It owns the snapshot, the accounts that can be pinned, and the refusal that a closed engine answers with. It spawns
nothing. Changes are made on the loop; readers see either the old snapshot or the new one, whole.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from changeover.core.ledger import Account, Use
from changeover.core.messages import RefId
from changeover.core.policy import order_key
from changeover.core.routes import (
    Route,
    RouteEvent,
    Shifted,
    Snapshot,
    Trial,
    TrialEnded,
    Tried,
    VersionGone,
    VersionReady,
    counterpart,
    decide,
    touched,
)
from changeover.core.values import VersionKey
from changeover.errors import ChangeoverError, NotReady
from changeover.runtime.events import Bus
from changeover.runtime.loaded import LoadedModel
from changeover.runtime.mailbox import twin
from changeover.runtime.ports import Random

Explain = Callable[[str, "str | None"], ChangeoverError]
"""Says why a model, or a version of it, cannot be pinned."""

_STANDBY = {"stream": "stream"}
"""The kind of reference by which a version stands by, where that is not `fallback`."""

_PICKS_MAX = 100
"""How often a pick is made again because the version was shut in between; each time it was a different version."""


class Pinned:
    """What a request holds: the version that was picked, and on trial the one that stands by, or the one to copy to."""

    __slots__ = ("account", "copy", "ref", "standby", "standby_ref")

    def __init__(self, account: Account, ref: RefId) -> None:
        """Hold one reference."""
        self.account = account
        self.ref = ref
        self.standby: Account | None = None
        self.standby_ref: RefId | None = None
        self.copy: Account | None = None
        """The version that gets a copy of the request; nothing is held of it yet."""


class Router:
    """Where requests find their version."""

    def __init__(self, random: Random, bus: Bus, explain: Explain) -> None:
        """Begin without routes; `explain` makes the error for what cannot be pinned."""
        self.snapshot = Snapshot()
        self.refusal: ChangeoverError | None = None
        self._random = random
        self._bus = bus
        self._explain = explain
        self._open: dict[VersionKey, Account] = {}
        self.named: dict[tuple[str, str], Account] = {}
        """The same for those who name a version; emptied, for good, when the engine is closed."""
        self.direct: Mapping[str, Account] = {}
        """The account of each model that has all its traffic on one version; replaced whole, never changed."""
        self._parked: dict[VersionKey, None] = {}
        """Those that were evicted; they keep their traffic, and may get that of others."""
        self._held: dict[str, str] = {}
        """By model: the one version that gets its traffic by being ready."""
        self.listeners: dict[str, Callable[[], None]] = {}
        """Called on the loop when a version of the model is opened or shut; kept by the saga that tries one out."""

    # --- any thread ---

    def pin(self, use: Use, model: str, version: str | None = None, key: str | None = None) -> tuple[Account, RefId]:
        """Pick a version, write `use` into its account, and return the account and the reference.

        While a version is on trial, the same `key` finds the same version. Raises the explanation where no version
        takes requests, `EngineClosed` or `EngineFailed` on a closed engine, and `AlreadyHeld`.
        """
        if version is None:
            account = self.direct.get(model)
            if account is not None:
                ref = account.acquire(use)
                if ref is not None:
                    return account, ref
        return self._pin_slowly(use, model, version, key)[:2]

    def pin_request(self, use: Use, model: str, key: str | None) -> Pinned:
        """Pick and pin as `pin` does; where the new version of a trial was picked, pin the old one too, to stand by.

        Both are held when this returns, or the new one alone where the old one takes no requests any more.
        """
        account = self.direct.get(model)
        if account is not None:
            ref = account.acquire(use)
            if ref is not None:
                return Pinned(account, ref)
        account, ref, route, point = self._pin_slowly(use, model, None, key)
        pinned = Pinned(account, ref)
        if route is not None and route.trial is not None:
            self._attend(pinned, use, model, route.trial, point)
        return pinned

    def _attend(self, pinned: Pinned, use: Use, model: str, trial: Trial, point: float) -> None:
        """Pin who stands by, or note who gets a copy."""
        if pinned.account.owner.key.version != trial.new:
            if point < trial.copied:
                pinned.copy = self._open.get(VersionKey(model, trial.new))
        elif trial.fallback:
            standby = self._open.get(VersionKey(model, trial.old))
            if standby is not None:
                pinned.standby_ref = standby.acquire((_STANDBY.get(use[0], "fallback"), use[1], None, use[3]))
                pinned.standby = standby if pinned.standby_ref is not None else None

    def _pin_slowly(
        self, use: Use, model: str, version: str | None, key: str | None
    ) -> tuple[Account, RefId, Route | None, float]:
        """Pin where the traffic is split, a version is named, or the fast way met a version that was just shut."""
        for _ in range(_PICKS_MAX):
            if self.refusal is not None:
                raise twin(self.refusal)
            snapshot = self.snapshot
            route, point, picked = snapshot.routes.get(model), 0.0, version
            if version is None and route is not None:
                point = route.point(key, self._random.random)
                picked = route.choose(point)
            account = self._open.get(VersionKey(model, picked)) if picked is not None else None
            if account is None:
                if version is None and snapshot is not self.snapshot:
                    continue  # the traffic moved while we looked
                raise self._explain(model, picked)
            ref = account.acquire(use)
            if ref is not None:
                return account, ref, route, point
        raise NotReady(f"{model}: its versions change faster than a request can be placed", model=model)

    def pin_many(
        self, use: Use, models: Sequence[str], key: str | None, *, attend: bool = False
    ) -> list[tuple[Pinned, str | None]]:
        """Pick a version of each model, all from one snapshot and by one draw, and pin them all, or raise as `pin`.

        `attend`: also pin who stands by. With each comes the id of the swap in whose trial another version may answer
        in its place, or None.
        """
        for _ in range(_PICKS_MAX):
            if self.refusal is not None:
                raise twin(self.refusal)
            pins = self._pin_at_once(use, models, key, attend=attend)
            if pins is not None:
                return pins
        text = f"{', '.join(models)}: their versions change faster than a set of them can be placed"
        raise NotReady(text, model=models[-1])

    def _pin_at_once(
        self, use: Use, models: Sequence[str], key: str | None, *, attend: bool
    ) -> list[tuple[Pinned, str | None]] | None:
        """Do so, or return None with nothing left behind where the traffic moved meanwhile."""
        snapshot, drawn = self.snapshot, self._random.random()
        pins: list[tuple[Pinned, str | None]] = []
        try:
            for model in models:
                route, point, picked = snapshot.routes.get(model), drawn, None
                if route is not None:
                    point = route.point(key, lambda: drawn)
                    picked = route.choose(point)
                account = self._open.get(VersionKey(model, picked)) if picked is not None else None
                if account is None and snapshot is self.snapshot and self.refusal is None:
                    raise self._explain(model, picked)
                ref = account.acquire(use) if account is not None else None
                if account is None or ref is None:
                    return None
                pins.append((Pinned(account, ref), None))
                if attend and route is not None and route.trial is not None:
                    self._attend(pins[-1][0], use, model, route.trial, point)
                    relieved = route.trial.fallback and picked == route.trial.new
                    pins[-1] = pins[-1][0], route.trial.swap if relieved else None
            whole, pins = pins, []
            return whole
        finally:
            for pinned, _group in pins:
                pinned.account.release(pinned.ref)
                if pinned.standby is not None:
                    pinned.standby.release(pinned.standby_ref)

    # --- on the loop ---

    def active(self, model: str) -> str | None:
        """Return the version with the largest share of the model's traffic."""
        route = self.snapshot.routes.get(model)
        return max(route.shares, key=lambda share: share.weight).version if route else None

    def share(self, key: VersionKey) -> float:
        """Return the version's share of its model's traffic, 0 to 1."""
        route = self.snapshot.routes.get(key.model)
        return route.share_of(key.version) if route else 0.0

    def opened(self, loaded: LoadedModel) -> None:
        """Let a version be pinned; it gets traffic only where its model has none."""
        self._open[loaded.key] = loaded.account
        self._parked.pop(loaded.key, None)
        if self.refusal is None:
            self.named[loaded.key] = loaded.account
        if self._held.get(loaded.key.model, loaded.key.version) == loaded.key.version:
            self._apply(VersionReady(loaded.key.model, loaded.key.version))
        if self.refusal is None:  # it may have had its traffic while it was parked
            self.direct = self._whole_routes(self.direct, (loaded.key.model,))
        self._tell(loaded.key.model)

    def park(self, loaded: LoadedModel) -> None:
        """Let a version be pinned no more, and leave it its traffic: whoever picks it hears that it was evicted."""
        if self._open.get(loaded.key) is loaded.account:
            self.direct = {model: account for model, account in self.direct.items() if account is not loaded.account}
            del self._open[loaded.key]
            self.named.pop(loaded.key, None)
            self._parked[loaded.key] = None

    def unroute(self, key: VersionKey) -> None:
        """Take the traffic of a version that is not loaded and will not be: another one of its model gets it."""
        self._parked.pop(key, None)
        if self.share(key) > 0 and key not in self._open:
            self._apply(VersionGone(key.model, key.version, self._heir(key)))
            self._tell(key.model)

    def shut(self, loaded: LoadedModel) -> None:
        """Let a version be pinned no more; what traffic it had goes to the newest other one of its model, and stays.

        A version that comes back takes no traffic from another.
        """
        key = loaded.key
        if self._open.get(key) is not loaded.account:
            return
        # First the traffic moves, in one step; only then is the way to the version closed.
        self._apply(VersionGone(key.model, key.version, self._heir(key)))
        del self._open[key]
        self.named.pop(key, None)
        self._tell(key.model)

    def shift(self, to: Mapping[str, str]) -> None:
        """Move all traffic of each model to the given version, all models in one step.

        Raises `NotReady`, and moves nothing, where one of them cannot be pinned.
        """
        for model, version in to.items():
            if VersionKey(model, version) not in self._open:
                raise NotReady(f"{model}/{version} takes no requests, so no traffic can move to it", model=model)
        self._apply(Shifted(to))

    def try_out(self, trials: Mapping[str, Trial], share: float) -> None:
        """Give the version on trial of each model a share of its traffic, all models in one step.

        Raises `NotReady`, and moves nothing, where one of the versions is shut.
        """
        for model, trial in trials.items():
            for version in (trial.new, trial.old):
                if VersionKey(model, version) not in self._open:
                    raise NotReady(f"{model}/{version} takes no requests, so nothing is tried out", model=model)
        self._apply(Tried(trials, share))

    def end_trial(self, models: tuple[str, ...]) -> None:
        """Let nobody stand by any more; the shares stay as they are."""
        self._apply(TrialEnded(models))

    def hold(self, model: str, version: str) -> None:
        """Keep the traffic of a model that has none for a version that is to come, until `release`."""
        self._held[model] = version

    def release(self, to: Mapping[str, str | None]) -> None:
        """End the hold of models, in one step; each goes to the version named, or to the newest that is there."""
        chosen: dict[str, str] = {}
        for model, version in to.items():
            self._held.pop(model, None)
            if version is not None and VersionKey(model, version) in self._open:
                chosen[model] = version
            elif self.active(model) is None:
                ready = [key.version for key in self._open if key.model == model]
                chosen.update({model: max(ready, key=order_key)} if ready else {})
        if chosen:
            self._apply(Shifted(chosen))

    def takes_requests(self, key: VersionKey) -> bool:
        """Return whether a version can be pinned."""
        return key in self._open

    def refuse(self, error: ChangeoverError) -> None:
        """Answer every pin with `error` from now on."""
        self.refusal = error
        self.snapshot, self.direct = Snapshot(serial=self.snapshot.serial + 1), {}
        self.named.clear()

    def _apply(self, event: RouteEvent) -> None:
        if self.refusal is not None:
            return  # nobody is led anywhere any more
        models = touched(self.snapshot, event)
        before, self.snapshot = self.snapshot, decide(self.snapshot, event)
        if self.snapshot is before:
            return
        self.direct = self._whole_routes(self.direct, models)
        for model in models:
            route = self.snapshot.routes.get(model)
            shares = {share.version: share.weight for share in route.shares} if route else {}
            old = before.routes.get(model)
            if old is None or route is None or old.shares != route.shares:
                self._bus.emit("traffic_shifted", model=model, to=self.active(model), shares=shares)

    def _heir(self, key: VersionKey) -> str | None:
        """Return who gets the traffic of a version that goes: the other one of its trial, or the newest that works."""
        tried_with = counterpart(self.snapshot.routes.get(key.model), key.version)
        for known in (self._open, self._parked):  # who takes requests at once, or else after a reload
            others = [other.version for other in known if other.model == key.model and other != key]
            if others:
                return tried_with if tried_with in others else max(others, key=order_key)
        return None

    def _tell(self, model: str) -> None:
        """Tell the swap that tries out a version of the model that one of the two came or went."""
        listener = self.listeners.get(model)
        if listener is not None:
            listener()

    def _whole_routes(self, direct: Mapping[str, Account], models: tuple[str, ...]) -> Mapping[str, Account]:
        """Return the account of each model that has all its traffic on one version: the fast way of `pin`."""
        changed = dict(direct)
        for model in models:
            changed.pop(model, None)
            route = self.snapshot.routes.get(model)
            if route is not None and len(route.shares) == 1 and route.trial is None:
                account = self._open.get(VersionKey(model, route.shares[0].version))
                if account is not None:  # else it was evicted
                    changed[model] = account
        return changed
