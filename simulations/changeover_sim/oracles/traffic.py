"""What has the traffic of one life, moment by moment: every snapshot of the routes, and who could be reached by it.

Owns the snapshots in order. A snapshot is a frozen value of the engine: what a request may meet is in nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from changeover.core.routes import Route, Snapshot


class Traffic:
    """The snapshots of one engine."""

    def __init__(self, engine: Any) -> None:
        """Begin with what is so now."""
        self._router = engine._router
        self.last: Snapshot = self._router.snapshot
        self._all: list[Snapshot] = [self.last]

    @property
    def has_changed(self) -> bool:
        """Whether there is a snapshot that was not looked at."""
        return self._router.snapshot is not self.last

    @property
    def newest(self) -> Snapshot:
        """What is so now, also where it was not looked at."""
        snapshot: Snapshot = self._router.snapshot
        return snapshot

    @property
    def now(self) -> int:
        """The number of the last snapshot."""
        return len(self._all) - 1

    def look(self) -> Snapshot:
        """Take in what is so now; return it."""
        if self._router.snapshot is not self.last:
            self.last = self._router.snapshot
            self._all.append(self.last)
        return self.last

    def reached(self, since: int, model: str, version: str) -> bool:
        """Return whether a request that begins in the snapshot `since` could meet a version by now."""
        return any(version in reachable(one.routes.get(model)) for one in reversed(self._all[since:]))

    def reached_as_one(self, since: int, versions: Mapping[str, str]) -> bool:
        """Return whether there was one snapshot since in which these versions were one set."""
        return any(_is_one_set(one, versions) for one in reversed(self._all[since:]))


def reachable(route: Route | None) -> frozenset[str]:
    """Return the versions that a request may meet: by their shares, by standing by, by being shown a copy."""
    if route is None:
        return frozenset()
    met = {share.version for share in route.shares if share.weight > 0}
    if route.trial is not None and route.trial.fallback:
        met.add(route.trial.old)
    if route.trial is not None and route.trial.copied > 0:
        met.add(route.trial.new)
    return frozenset(met)


def _is_one_set(snapshot: Snapshot, versions: Mapping[str, str]) -> bool:
    """Return whether a set that is pinned in this snapshot may be this: a group's trial has its old or its new side."""
    sides: dict[str, bool] = {}
    for model, version in versions.items():
        route = snapshot.routes.get(model)
        if version not in reachable(route):
            return False
        trial = route.trial if route is not None else None
        if trial is not None and trial.swap and version in (trial.new, trial.old):
            side = version == trial.new
            if sides.setdefault(trial.swap, side) is not side:
                return False
    return True
