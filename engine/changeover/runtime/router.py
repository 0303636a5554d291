"""The router: holds the current routes snapshot; to pick a version and to pin it is one step, from any thread.

It owns the snapshot, the accounts that can be pinned, and the refusal that a closed engine answers with. It spawns
nothing. Changes are made on the loop; readers see either the old snapshot or the new one, whole.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from changeover.core.ledger import Account, RefId, Use
from changeover.core.routes import RouteEvent, Shifted, Snapshot, VersionGone, VersionReady, decide
from changeover.core.values import VersionKey
from changeover.errors import ChangeoverError, NotReady
from changeover.runtime.events import Bus
from changeover.runtime.loaded import LoadedModel
from changeover.runtime.mailbox import twin
from changeover.runtime.ports import Random

Explain = Callable[[str, "str | None"], ChangeoverError]
"""Says why a model, or a version of it, cannot be pinned."""

_PICKS_MAX = 100
"""How often a pick is made again because the version was shut in between; each time it was a different version."""


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
        self.direct: Mapping[str, Account] = {}
        """The account of each model that has all its traffic on one version; replaced whole, never changed."""

    # --- any thread ---

    def pin(self, use: Use, model: str, version: str | None = None) -> tuple[Account, RefId]:
        """Pick a version, write `use` into its account, and return the account and the reference.

        Raises the explanation where no version takes requests, `EngineClosed` or `EngineFailed` on a closed engine,
        and `AlreadyHeld`.
        """
        if version is None:
            account = self.direct.get(model)
            if account is not None:
                ref = account.acquire(use)
                if ref is not None:
                    return account, ref
        return self._pin_slowly(use, model, version)

    def _pin_slowly(self, use: Use, model: str, version: str | None) -> tuple[Account, RefId]:
        """Pin where the traffic is split, a version is named, or the fast way met a version that was just shut."""
        for _ in range(_PICKS_MAX):
            if self.refusal is not None:
                raise twin(self.refusal)
            snapshot = self.snapshot
            account = self._pick(snapshot, model, version)
            if account is None:
                if version is None and snapshot is not self.snapshot:
                    continue  # the traffic moved while we looked
                raise self._explain(model, version)
            ref = account.acquire(use)
            if ref is not None:
                return account, ref
        raise NotReady(f"{model}: its versions change faster than a request can be placed", model=model)

    def _pick(self, snapshot: Snapshot, model: str, version: str | None) -> Account | None:
        if version is None:
            route = snapshot.routes.get(model)
            version = route.choose(self._random.random()) if route else None
        return self._open.get(VersionKey(model, version)) if version is not None else None

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
        self._apply(VersionReady(loaded.key.model, loaded.key.version))

    def shut(self, loaded: LoadedModel) -> None:
        """Let a version be pinned no more; what traffic it had goes to the youngest other one of its model."""
        key = loaded.key
        if self._open.get(key) is not loaded.account:
            return
        others = [other.version for other in self._open if other.model == key.model and other != key]
        # First the traffic moves, in one step; only then is the way to the version closed.
        self._apply(VersionGone(key.model, key.version, others[-1] if others else None))
        del self._open[key]

    def shift(self, to: Mapping[str, str]) -> None:
        """Move all traffic of each model to the given version, all models in one step.

        Raises `NotReady`, and moves nothing, where one of them cannot be pinned.
        """
        for model, version in to.items():
            if VersionKey(model, version) not in self._open:
                raise NotReady(f"{model}/{version} takes no requests, so no traffic can move to it", model=model)
        self._apply(Shifted(to))

    def refuse(self, error: ChangeoverError) -> None:
        """Answer every pin with `error` from now on."""
        self.refusal = error
        self.snapshot, self.direct = Snapshot(serial=self.snapshot.serial + 1), {}

    def _apply(self, event: RouteEvent) -> None:
        before, self.snapshot = self.snapshot, decide(self.snapshot, event)
        if self.refusal is not None or self.snapshot is before:
            return
        self.direct = self._whole_routes(self.direct, _models(event))
        for model in _models(event):
            self._bus.emit("traffic_shifted", model=model, to=self.active(model))

    def _whole_routes(self, direct: Mapping[str, Account], models: tuple[str, ...]) -> Mapping[str, Account]:
        """Return the account of each model that has all its traffic on one version: the fast way of `pin`."""
        changed = dict(direct)
        for model in models:
            changed.pop(model, None)
            route = self.snapshot.routes.get(model)
            if route is not None and len(route.shares) == 1:
                changed[model] = self._open[VersionKey(model, route.shares[0].version)]
        return changed


def _models(event: RouteEvent) -> tuple[str, ...]:
    return tuple(event.to) if isinstance(event, Shifted) else (event.model,)
