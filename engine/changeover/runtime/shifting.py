"""Moves the traffic of a swap's models to their new versions, as the plan says: stage by stage, watched, to the pivot.

Owned by one saga, whose task runs it. It owns one watch for each model; every move is one step for all of them. It
spawns nothing.
"""

from __future__ import annotations

import attrs
import trio

from changeover.core import ramp
from changeover.core.operations import ShadowReport, Verdict
from changeover.core.values import VersionKey
from changeover.runtime import sites
from changeover.runtime.swap import Pair, Swap, SwapWorld
from changeover.runtime.watch import Watch

LOOK_S = 0.25
"""How often a guard looks where no failure calls it."""


class TurnRound(Exception):
    """The swap turns itself round: its guard has tripped, or its drain asks for it."""


class Shifting:
    """One shift; all but the meters belong to the loop."""

    def __init__(self, swap: Swap, world: SwapWorld) -> None:
        """Move nothing yet."""
        self.paused = False
        self.verdict: Verdict | None = None
        self._plan = swap.plan
        self._world = world
        self._swap_id = swap.id
        self._watches = [Watch(pair, swap.id, swap.plan, world, self._ring_soon) for pair in swap.pairs]
        self._ramp = ramp.of(swap.plan)
        self._share = 0.0
        self._promoted = False
        self._is_done = False
        """True once all of the traffic was moved."""
        self._doubtful = False
        self._weighed_s = -LOOK_S
        self._seen = [0] * len(self._watches)
        """How many requests each new version had ended when the present stage began."""
        self._lot = trio.lowlevel.ParkingLot()
        self._rung = False

    def anew(self, swap: Swap) -> Shifting:
        """Return the shift of a swap that had to wait for its turn; orders that it was given meanwhile stand."""
        shift = Shifting(swap, self._world)
        shift.paused, shift._promoted = self.paused, self._promoted
        return shift

    # --- what others call, on the loop ---

    @property
    def fallbacks(self) -> int:
        """How many requests old versions answered for new ones."""
        return sum(watch.new_meter.fallbacks for watch in self._watches)

    @property
    def shadow(self) -> ShadowReport | None:
        """What became of the copies; None where none are made."""
        reports = [attrs.astuple(watch.shadow.report) for watch in self._watches if watch.shadow is not None]
        return ShadowReport(*(sum(counts) for counts in zip(*reports, strict=True))) if reports else None

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

    def measure(self) -> None:
        """Begin to measure the old versions: where they are replaced at once there is nothing else to compare with."""
        if not self._ramp.over:
            for watch in self._watches:
                watch.measure_old()

    async def run(self) -> None:
        """Move the traffic; cancelled, it stays as it is, and `back` is what undoes it.

        Raises `TurnRound`, with the traffic back, where the guard trips, and `NotReady` where a new version goes.
        """
        listeners = self._world.router.listeners
        listeners.update((watch.pair.model, self._ring) for watch in self._watches)
        try:
            last_s = self._now()
            runs = False
            while self._goes_on():
                now = self._now()
                self._look(now, now - last_s if runs else 0.0)
                last_s = now
                runs = self._apply() and not self.paused
                if self._goes_on():
                    await self._wait()
        finally:
            for watch in self._watches:
                del listeners[watch.pair.model]
        self._world.router.shift({watch.pair.model: watch.pair.new.version for watch in self._watches})
        self._is_done = True
        self.settle()

    def back(self) -> None:
        """Give the old versions all of the traffic; raises `NotReady`, and moves nothing, where one takes none."""
        router = self._world.router
        moved = [watch.pair for watch in self._watches if router.share(watch.pair.new) > 0 or self._lost(watch.pair)]
        if moved:
            router.shift({pair.model: pair.old.version for pair in moved})
        router.end_trial(tuple(watch.pair.model for watch in self._watches))
        self.settle()

    def _lost(self, pair: Pair) -> bool:
        """Return whether a third version has what the new one had been given; not where that was before it."""
        router = self._world.router
        return self._is_done and router.share(pair.old) < 1.0 and router.takes_requests(pair.old)

    def settle(self) -> None:
        """Compare no more; what is on its way is still counted."""
        for watch in self._watches:
            watch.settle()

    def end(self) -> None:
        """Count no more, either."""
        if sites.ON and self.shadow is not None and self.shadow.skipped:
            sites.sometimes("shadow-copies-dropped")
        for watch in self._watches:
            watch.end()

    # --- inside ---

    def _goes_on(self) -> bool:
        return not self._promoted and (self.paused or not self._ramp.over)

    def _look(self, now: float, elapsed_s: float) -> None:
        """Judge the new versions, then go on with the ramp; raises `TurnRound` or `NotReady`."""
        for watch in self._watches:
            watch.check()
        if self._ramp.over:
            return
        hurry = now - self._weighed_s < LOOK_S  # a failure has called, and another may in a moment
        self._weighed_s = self._weighed_s if hurry else now
        self._doubtful = False
        for watch in self._watches:
            watch.measure()
            if sites.ON and self._plan.guard is not None and sites.buggify("guard-judges-one-look-later"):
                self._doubtful = True  # as where too few requests have ended: the ramp does not rise meanwhile
                continue
            judged = watch.judge(now, hurry=hurry)
            self._doubtful |= judged is not None and judged.mark == "doubtful"
            if judged is not None and judged.mark == "worse":
                self._trip(watch.pair.new, judged.verdict)
        noted = [watch.new_meter.noted for watch in self._watches]
        ended = self._ramp.before + min(now - then for now, then in zip(noted, self._seen, strict=True))
        before, self._ramp = self._ramp, ramp.advance(self._ramp, elapsed_s, ended, doubtful=self._doubtful)
        if self._ramp.index != before.index:
            self._seen = noted

    def _trip(self, new: VersionKey, verdict: Verdict) -> None:
        """Move the traffic back at once, then say why."""
        if sites.ON:
            sites.sometimes("guard-tripped")
        self.verdict = verdict
        if all(self._world.router.takes_requests(watch.pair.old) for watch in self._watches):
            self.back()
        self._world.bus.emit(
            "guard_tripped", new, swap_id=self._swap_id, reason=verdict.reason, new=attrs.asdict(verdict.new),
            old=attrs.asdict(verdict.old),
        )  # fmt: skip
        whose = f" for {new}" if len(self._watches) > 1 else ""
        raise TurnRound(f"the guard has tripped{whose}: {verdict.reason}")

    def _apply(self) -> bool:
        """Give the new versions the share of their stage; return whether all versions take requests.

        Where an old one has crashed, its new one has everything, so the others of a group get everything as well, and
        the stage waits until it is back; where it is not coming back there is nothing to compare with and nothing to go
        back to.
        """
        if self._ramp.over or (self.paused and self._share == 0):
            return True
        if not self.paused:
            self._share = self._ramp.stage.share
        last = self._plan.confirmation is not None and self._ramp.index == len(self._ramp.stages) - 1
        shadows = self._plan.shadow and not last
        there = [watch for watch in self._watches if watch.are_there]
        share = 1.0 if len(there) < len(self._watches) else 0.0 if shadows else self._share
        if there:
            copied = self._share if shadows else 0.0
            self._world.router.try_out({watch.pair.model: watch.trial(copied) for watch in there}, share)
        if any(watch.is_old_lost for watch in self._watches):
            self._promoted = True
        return len(there) == len(self._watches)

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
