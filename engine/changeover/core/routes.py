"""Who gets the traffic: one immutable snapshot for all models, changed only by `decide`.

Pure. `runtime/router.py` holds the current snapshot. One event may flip several models, in one step.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import attrs


@attrs.frozen
class Share:
    """A version's part of its model's traffic."""

    version: str
    weight: float
    """Above 0; the weights of a route add up to 1."""


@attrs.frozen
class Route:
    """One model's traffic; never empty."""

    shares: tuple[Share, ...]

    def choose(self, point: float) -> str:
        """Return the version for a point drawn evenly from [0, 1)."""
        for share in self.shares:
            if point < share.weight:
                return share.version
            point -= share.weight
        return self.shares[-1].version

    def share_of(self, version: str) -> float:
        """Return the weight of `version`, 0.0 where it has none."""
        return sum(s.weight for s in self.shares if s.version == version)


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


RouteEvent = VersionReady | VersionGone | Shifted


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
        case VersionGone(model, version, fallback):
            rest = _without(routes.get(model), version)
            if rest is None and fallback is not None and model in routes:
                rest = Route((Share(fallback, 1.0),))
            return {model: rest}


def _without(route: Route | None, version: str) -> Route | None:
    """Return the route with the version's share spread over the others, in proportion."""
    if route is None:
        return None
    rest = [s for s in route.shares if s.version != version]
    if len(rest) == len(route.shares):
        return route
    total = sum(s.weight for s in rest)
    return Route(tuple(Share(s.version, s.weight / total) for s in rest)) if rest else None
