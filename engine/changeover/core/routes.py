"""Who gets the traffic: one immutable snapshot for all models, changed only by `decide`.

Pure. `runtime/router.py` holds the current snapshot. One event may flip several models, in one step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from hashlib import blake2b
from types import MappingProxyType

import attrs


@attrs.frozen
class Share:
    """A version's part of its model's traffic."""

    version: str
    weight: float
    """Above 0; the weights of a route add up to 1."""


@attrs.frozen
class Trial:
    """A version on trial; the one before it stands by until the swap's pivot."""

    new: str
    old: str
    salt: str = ""
    """Mixed into every key, so that each trial meets other keys first; empty: keys mean nothing."""
    fallback: bool = True
    """Whether the old version is pinned beside the new one, to answer where that raises."""
    copied: float = 0.0
    """The share of the requests of which the new version gets a copy that is compared and dropped; 0 to 1."""
    swap: str = ""
    """The id of the swap that tries it out: a group's trials have the same."""


@attrs.frozen
class Route:
    """One model's traffic; never empty."""

    shares: tuple[Share, ...]
    """The version on trial comes first, so that a key which it has got stays with it while its share grows."""
    trial: Trial | None = None

    def choose(self, point: float) -> str:
        """Return the version for a point drawn evenly from [0, 1)."""
        for share in self.shares:
            if point < share.weight:
                return share.version
            point -= share.weight
        return self.shares[-1].version

    def point(self, key: str | None, draw: Callable[[], float]) -> float:
        """Return where in [0, 1) a request lies: always the same place for a key, a drawn one without."""
        if key is None or self.trial is None or not self.trial.salt:
            return draw()
        return sticky_point(self.trial.salt, key)

    def share_of(self, version: str) -> float:
        """Return the weight of `version`, 0.0 where it has none."""
        return sum(s.weight for s in self.shares if s.version == version)


def sticky_point(salt: str, key: str) -> float:
    """Return the place of a key in [0, 1), as even as a hash is, and the same in every process."""
    digest = blake2b(f"{salt}\0{key}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return (int.from_bytes(digest) >> 11) / 2.0**53  # 53 bits are what a float holds: it never rounds up to 1


@attrs.frozen
class Snapshot:
    """All routes at one moment."""

    routes: Mapping[str, Route] = MappingProxyType({})
    serial: int = 0
    """Grows by one with every change."""


@attrs.frozen
class VersionReady:
    """A version can take requests; it gets traffic only where its model has none."""

    model: str
    version: str


@attrs.frozen
class VersionGone:
    """A version takes no more requests; the others of its model share what it had."""

    model: str
    version: str
    fallback: str | None = None
    """Who gets the traffic where the version had all of it; None: nobody."""


@attrs.frozen
class Shifted:
    """A saga moves the traffic of one or more models, each to the given version."""

    to: Mapping[str, str]


@attrs.frozen
class Tried:
    """A saga gives the version on trial of one or more models the same share of its traffic, 0 to 1."""

    trials: Mapping[str, Trial]
    share: float


@attrs.frozen
class TrialEnded:
    """The trials of one or more models are over; the shares stay as they are."""

    models: tuple[str, ...]


RouteEvent = VersionReady | VersionGone | Shifted | Tried | TrialEnded


def decide(snapshot: Snapshot, event: RouteEvent) -> Snapshot:
    """Return the snapshot after `event`; the same object where nothing changes."""
    changes = _changes(snapshot.routes, event)
    if all(snapshot.routes.get(model) == route for model, route in changes.items()):
        return snapshot
    routes = dict(snapshot.routes)
    for model, route in changes.items():
        if route is None:
            del routes[model]
        else:
            routes[model] = route
    return Snapshot(MappingProxyType(routes), snapshot.serial + 1)


def _changes(routes: Mapping[str, Route], event: RouteEvent) -> dict[str, Route | None]:
    """Return the new route of every model that the event speaks of; None: no traffic at all."""
    match event:
        case VersionReady(model, version):
            return {} if model in routes else {model: Route((Share(version, 1.0),))}
        case Shifted(to):
            return {model: Route((Share(version, 1.0),)) for model, version in to.items()}
        case Tried(trials, share):
            return {model: _tried(trial, share) for model, trial in trials.items()}
        case TrialEnded(models):
            return {model: Route(routes[model].shares) for model in models if model in routes}
        case VersionGone(model, version, fallback):
            return {**_others(routes, model, version), model: _without(routes.get(model), version, fallback)}


def _tried(trial: Trial, share: float) -> Route:
    both = (Share(trial.new, share), Share(trial.old, 1.0 - share))
    return Route(tuple(part for part in both if part.weight > 0), trial)


def _others(routes: Mapping[str, Route], model: str, version: str) -> dict[str, Route | None]:
    """Return the routes of the other models on the same trial, all on the side that is left of `model`.

    A group is seen as one set at every moment, also in the one in which a version of it crashes.
    """
    trial = routes[model].trial if model in routes else None
    if trial is None or not trial.swap or version not in (trial.new, trial.old):
        return {}
    share = 0.0 if version == trial.new else 1.0
    return {
        other: _tried(route.trial, share)
        for other, route in routes.items()
        if route.trial is not None and route.trial.swap == trial.swap and other != model
    }


def _without(route: Route | None, version: str, fallback: str | None) -> Route | None:
    """Return the route with the version's share spread over the others, in proportion; its trial is over."""
    if route is None:
        return None
    on_trial = route.trial is not None and version in (route.trial.new, route.trial.old)
    trial = None if on_trial else route.trial
    rest = [s for s in route.shares if s.version != version]
    if not rest:
        return Route((Share(fallback, 1.0),)) if fallback is not None else None
    total = sum(s.weight for s in rest)
    shares = rest if len(rest) == len(route.shares) else [Share(s.version, s.weight / total) for s in rest]
    return Route(tuple(shares), trial)


def touched(snapshot: Snapshot, event: RouteEvent) -> tuple[str, ...]:
    """Return the models whose routes an event may change."""
    return tuple(_changes(snapshot.routes, event))


def counterpart(route: Route | None, version: str) -> str | None:
    """Return the other version of the trial that `version` takes part in, or None."""
    if route is None or route.trial is None:
        return None
    return {route.trial.new: route.trial.old, route.trial.old: route.trial.new}.get(version)
