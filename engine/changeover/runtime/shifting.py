"""Moves one model's traffic to its new version as the plan says: stage by stage, watched, until the pivot.

Owned by one saga, whose task runs it. It owns the meters, the shadow and the trial of its two versions, and gives all
of them up when it ends. It spawns nothing.
"""

from __future__ import annotations

import attrs
import trio

from changeover.core import guard, ramp
from changeover.core.meter import Meter
from changeover.core.routes import Trial
from changeover.core.shift import Shift
from changeover.core.snapshots import ShadowReport, Verdict
from changeover.core.values import VersionKey
from changeover.errors import NotReady
from changeover.runtime.loaded import LoadedModel
from changeover.runtime.shadow import Shadow
from changeover.runtime.swap import SwapWorld

LOOK_S = 0.25
"""How often a guard looks where no failure calls it."""


class TurnRound(Exception):
    """The swap turns itself round: its guard has tripped, or its drain asks for it."""


class Shifting:
    """One shift; all but the meters belong to the loop."""

    def __init__(self, swap_id: str, old: VersionKey, new: VersionKey, plan: Shift, world: SwapWorld) -> None:
        """Move nothing yet."""
        self.paused = False
        self.verdict: Verdict | None = None
        self._plan = plan
        self._world = world
        self._swap_id = swap_id
        self._old = old
        self._new = new
        self._ramp = ramp.of(plan)
        self._share = 0.0
        self._promoted = False
        self._doubtful = False
        self._weighed_s = -LOOK_S
        self._lot = trio.lowlevel.ParkingLot()
        self._rung = False
        self._shadow = Shadow(world.host, world.ports.clock.now) if plan.shadow else None
        window_s = plan.guard.window_s if plan.guard is not None else 1.0
        self._new_meter = Meter(window_s, self._ring_soon)
        self._old_meter = Meter(window_s)
        self._measured: list[LoadedModel] = []

    # --- what others call, on the loop ---

    @property
    def fallbacks(self) -> int:
        """How many requests the old version answered for the new one."""
        return self._new_meter.fallbacks

    @property
    def shadow(self) -> ShadowReport | None:
        """What became of the copies; None where none are made."""
        return self._shadow.report if self._shadow else None

    def pause(self) -> None:
        """Stop the clock of the stages; the guard goes on looking."""
        self.paused = True
        self._ring()

    def resume(self) -> None:
        """Let the clock of the stages run again."""
        self.paused = False
        self._ring()

    def promote(self) -> None:
        """Leave out what is left of the stages and of the confirmation."""
        self._promoted, self.paused = True, False
        self._ring()

    # --- what the saga calls ---

    def measure(self, old: VersionKey) -> None:
        """Begin to measure the old version: where it is replaced at once there is nothing else to compare with."""
        self._old = old
        if not self._ramp.over:
            self._attach(old, self._old_meter)

    async def run(self) -> None:
        """Move the traffic; cancelled, it stays as it is, and `back` is what undoes it.

        Raises `TurnRound`, with the traffic back, where the guard trips, and `NotReady` where the new version goes.
        """
        model = self._new.model
        trial = Trial(
            self._new.version, self._old.version, self._swap_id if self._plan.sticky else "", self._plan.fallback
        )
        self._world.router.listeners[model] = self._ring
        try:
            last_s = self._now()
            runs = False
            while self._goes_on():
                now = self._now()
                self._look(now, now - last_s if runs else 0.0)
                last_s = now
                runs = self._apply(trial) and not self.paused
                if self._goes_on():
                    await self._wait()
        finally:
            del self._world.router.listeners[model]
        self._world.router.shift({model: self._new.version})
        self.settle()

    def back(self) -> None:
        """Give the old version all of the traffic; raises `NotReady`, and changes nothing, where it takes none."""
        if self._world.router.share(self._new) > 0:
            self._world.router.shift({self._old.model: self._old.version})
        else:
            self._world.router.end_trial(self._old.model)
        self.settle()

    def settle(self) -> None:
        """Compare no more; what is on its way is still counted."""
        self._new_meter.rest()
        self._old_meter.rest()
        for loaded in self._measured:
            if loaded.shadow is self._shadow:
                loaded.shadow = None

    def end(self) -> None:
        """Count no more, either."""
        self.settle()
        for loaded in self._measured:
            if loaded.meter is self._new_meter or loaded.meter is self._old_meter:
                loaded.meter = None
        self._measured = []

    # --- inside ---

    def _goes_on(self) -> bool:
        return not self._promoted and (self.paused or not self._ramp.over)

    def _look(self, now: float, elapsed_s: float) -> None:
        """Judge the new version, then go on with the ramp; raises `TurnRound` or `NotReady`."""
        new = self._world.version(self._new)
        if not self._world.router.takes_requests(self._new):
            why = f": {new.error}" if new.error else ""
            raise NotReady(f"{self._new} stopped taking requests while it was on trial{why}", model=self._new.model)
        if self._ramp.over:
            return
        self._attach(self._new, self._new_meter)
        self._attach(self._old, self._old_meter)
        if self._plan.guard is not None:
            hurry = now - self._weighed_s < LOOK_S  # a failure has called, and another may in a moment
            self._weighed_s = self._weighed_s if hurry else now
            judged = guard.judge(
                self._plan.guard, self._new_meter.spells(now), self._old_meter.spells(), errors_only=hurry
            )
            self._doubtful = judged.mark == "doubtful"
            if judged.mark == "worse":
                self._trip(judged.verdict)
        self._ramp = ramp.advance(self._ramp, elapsed_s, self._new_meter.noted, doubtful=self._doubtful)

    def _trip(self, verdict: Verdict) -> None:
        """Move the traffic back at once, then say why."""
        self.verdict = verdict
        if self._world.router.takes_requests(self._old):
            self.back()
        self._world.bus.emit(
            "guard_tripped", self._new, swap_id=self._swap_id, reason=verdict.reason, new=attrs.asdict(verdict.new),
            old=attrs.asdict(verdict.old),
        )  # fmt: skip
        raise TurnRound(f"the guard has tripped: {verdict.reason}")

    def _apply(self, trial: Trial) -> bool:
        """Give the new version the share of its stage; return whether both versions take requests.

        Where the old one has crashed, the new one has everything, and the stage waits until it is back; where it is not
        coming back there is nothing to compare with and nothing to go back to.
        """
        if self._ramp.over or (self.paused and self._share == 0):
            return True
        if not self.paused:
            self._share = self._ramp.stage.share
        last = self._plan.confirmation is not None and self._ramp.index == len(self._ramp.stages) - 1
        if self._plan.shadow and not last:
            there = self._world.router.try_out(self._new.model, attrs.evolve(trial, copied=self._share), 0.0)
        else:
            there = self._world.router.try_out(self._new.model, trial, self._share)
        if not there and not self._world.version(self._old).is_coming:
            self._promoted = True
        return there

    def _attach(self, key: VersionKey, meter: Meter) -> None:
        """Measure whatever model the version holds now."""
        loaded = self._world.version(key).loaded
        if loaded is None or loaded.meter is meter:
            return
        loaded.meter = meter
        if key == self._new:
            loaded.shadow = self._shadow
        self._measured = [*(one for one in self._measured if one.is_open), loaded]

    async def _wait(self) -> None:
        """Return when something happened, or when it is time to look."""
        if not self._rung:
            rest_s = LOOK_S if self._ramp.over else self._ramp.rest_s or LOOK_S
            with trio.move_on_after(min(LOOK_S, rest_s)):
                await self._lot.park()
        else:
            await trio.lowlevel.checkpoint()
        self._rung = False

    def _ring(self) -> None:
        self._rung = True
        self._lot.unpark_all()

    def _ring_soon(self) -> None:
        """Ring from any thread."""
        self._world.ports.wake.soon(self._ring, idempotent=True)

    def _now(self) -> float:
        return self._world.ports.clock.now()
