"""One model of a swap under observation: the meters of its two versions, its trial, its copies.

Owned by the shift of one saga, which asks and tells it; it spawns nothing, and gives the models back when it ends.
"""

from __future__ import annotations

from collections.abc import Callable

from changeover.core import guard
from changeover.core.guard import Judgement
from changeover.core.meter import Meter
from changeover.core.routes import Trial
from changeover.core.shift import Shift
from changeover.core.values import VersionKey
from changeover.errors import NotReady
from changeover.runtime.loaded import LoadedModel
from changeover.runtime.shadow import Shadow
from changeover.runtime.swap import Pair, SwapWorld


class Watch:
    """The comparison of two versions of one model; all but the meters belong to the loop."""

    def __init__(self, pair: Pair, swap_id: str, plan: Shift, world: SwapWorld, ring: Callable[[], None]) -> None:
        """Measure nothing yet; `ring` is called from any thread where the new version fails."""
        self.pair = pair
        self.shadow = Shadow(world.host, world.ports.clock.now) if plan.shadow else None
        """Who makes copies for the new version; None: nobody."""
        self.new_meter = Meter(plan.guard.window_s if plan.guard is not None else 1.0, ring)
        self._old_meter = Meter(plan.guard.window_s if plan.guard is not None else 1.0)
        self._plan = plan
        self._world = world
        self._swap_id = swap_id
        self._measured: list[LoadedModel] = []

    def trial(self, copied: float) -> Trial:
        """Return the trial of the two, with a share of the requests copied."""
        salt = self._swap_id if self._plan.sticky else ""
        return Trial(self.pair.new.version, self.pair.old.version, salt, self._plan.fallback, copied, self._swap_id)

    @property
    def are_there(self) -> bool:
        """Whether both versions take requests."""
        return self._world.router.takes_requests(self.pair.new) and self._world.router.takes_requests(self.pair.old)

    @property
    def is_old_lost(self) -> bool:
        """Whether the old version takes no requests and is not coming back."""
        router, old = self._world.router, self.pair.old
        return not router.takes_requests(old) and not self._world.version(old).is_coming

    def check(self) -> None:
        """Raise `NotReady` where the new version takes no requests any more."""
        new = self._world.version(self.pair.new)
        if not self._world.router.takes_requests(self.pair.new):
            why = f": {new.error}" if new.error else ""
            text = f"{self.pair.new} stopped taking requests while it was on trial{why}"
            raise NotReady(text, model=self.pair.model)

    def measure_old(self) -> None:
        """Begin to measure the old version."""
        self._attach(self.pair.old.version, self._old_meter)

    def measure(self) -> None:
        """Measure whatever models the two versions hold now."""
        self._attach(self.pair.new.version, self.new_meter)
        self.measure_old()

    def judge(self, now: float, *, hurry: bool) -> Judgement | None:
        """Compare the two; None where nobody asked for that."""
        if self._plan.guard is None:
            return None
        return guard.judge(self._plan.guard, self.new_meter.spells(now), self._old_meter.spells(), errors_only=hurry)

    def settle(self) -> None:
        """Compare no more; what is on its way is still counted."""
        self.new_meter.rest()
        self._old_meter.rest()
        for loaded in self._measured:
            if loaded.shadow is self.shadow:
                loaded.shadow = None

    def end(self) -> None:
        """Count no more, either."""
        self.settle()
        for loaded in self._measured:
            if loaded.meter is self.new_meter or loaded.meter is self._old_meter:
                loaded.meter = None
        self._measured = []

    def _attach(self, version: str, meter: Meter) -> None:
        key = VersionKey(self.pair.model, version)
        loaded = self._world.version(key).loaded
        if loaded is None or loaded.meter is meter:
            return
        loaded.meter = meter
        if key == self.pair.new:
            loaded.shadow = self.shadow
        self._measured = [*(one for one in self._measured if one.is_open), loaded]
