"""Beside promise 4: a guard trips with evidence, and a version that fails for certain does not pass its trial.

Owns the trials that a guard looks at. That a guard was ordered, and what it allows, it reads in the swap.
"""

# pyright: reportPrivateUsage=false

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from changeover import VersionKey
from changeover.errors import Overloaded, RequestTimeout, VersionCrashed
from changeover_sim.oracles.base import Oracle
from changeover_sim.oracles.evidence import Use, Watched, unfounded
from changeover_sim.oracles.states import Clockwork, States

if TYPE_CHECKING:
    from changeover import Event
    from changeover_sim.simulate.calls import Call
    from changeover_sim.simulate.cast import Made
    from changeover_sim.simulate.life import Life
    from changeover_sim.simulate.run import Run

_FAULTS = ("predict-raises", "model-beyond-use")
"""What makes a model raise."""
_LOOKS_S = 2.5
"""Ten looks of a guard: so many in a row it does not leave out, where the simulator may have it leave some out."""
_ENDED = ("completed", "failed", "rolled_back", "cancelled", "superseded")


class Guarding(Oracle):
    """Judges guards."""

    promise = 4
    says = "a tripped guard has evidence, and turns its swap round; one that has evidence trips"

    def __init__(self, run: Run) -> None:
        """Watch a run."""
        super().__init__(run)
        self._slack_s = _LOOKS_S if "buggify" in run.faults.on else 0.0
        self._begin_anew()

    def _begin_anew(self) -> None:
        self._clock = Clockwork()
        self._watched: list[Watched] = []
        self._tripped: dict[str, str] = {}
        """By the id of a swap, why its guard has tripped."""
        self._calls: dict[int, Call] = {}
        """By number, all plain requests."""
        self._states = States()
        self._begun_s: dict[str, float] = {}
        """By the id of a swap, when it was first heard of."""
        self._measured_s: dict[str, float] = {}
        """By the id of a swap, when it had begun to load, and so to measure its old version."""
        self._last: Use | None = None
        """The use that a fault may have struck."""
        self._uses: dict[str, list[Use]] = {}
        """By `model/version`, all uses of it."""
        self._troubles: dict[str, list[float]] = {}
        """By `model/version`, when requests of it have had no room or no time, or were lost with it."""
        self._struck = self._count_struck()

    def life_began(self, life: Life) -> None:
        """Begin anew."""
        self._begin_anew()

    # --- what is used and fails ---------------------------------------------------------------------------------------

    def _count_struck(self) -> int:
        struck = self.run.faults.struck
        return struck[_FAULTS[0]] + struck[_FAULTS[1]]

    def _look_at_struck(self) -> None:
        """Note that the last use has failed, where a fault has struck since."""
        struck = self._count_struck()
        last = self._last
        if struck != self._struck and last is not None:
            last.failed = True
        self._struck = struck

    def used(self, made: Made, numbers: tuple[int, ...]) -> None:
        """Note a use of what is on trial, or of what was before it."""
        self._look_at_struck()
        self._last = Use(made.name, numbers, trio.current_time())
        self._uses.setdefault(made.name, []).append(self._last)
        for watched in self._watched:
            if made.name in (watched.new, watched.old):
                watched.uses.append(self._last)

    def step(self, life: Life) -> None:
        """When time has passed, look whether a guard should have tripped before that."""
        if self._watched and self._clock.has_moved():
            self._look_at_struck()
            for watched in self._watched:
                self._look_at(life, watched)

    def _look_at(self, life: Life, watched: Watched) -> None:
        """Break the promise where a version that fails for certain is on trial still."""
        route = life.engine._router.snapshot.routes.get(watched.model)  # who is on trial is told to nobody
        if route is None or route.trial is None or route.trial.swap != watched.swap or watched.swap in self._tripped:
            return
        if self._states.since_s.get(watched.old, 0.0) >= watched.begun_s:
            return  # it was loaded anew meanwhile, and a part of it was not measured
        clear = watched.is_clear(self._calls, self._clock.at_s - self._slack_s)
        self.judged += 1
        if clear:
            self.broken(f"swap {watched.swap} goes on at {self._clock.at_s:g}: {clear}")

    def began(self, call: Call) -> None:
        """Remember a request."""
        if call.kind == "infer":
            self._calls[call.number] = call

    def ended(self, call: Call) -> None:
        """Note an error, which may be one of the old version that no use of it shows."""
        if call.error is None:
            return
        hidden = isinstance(call.error, RequestTimeout | Overloaded | VersionCrashed) and call.version is None
        for model in (call.model,) if call.model is not None else call.models:
            name = f"{model}/{call.error.version}"
            if hidden:
                self._troubles.setdefault(name, []).append(trio.current_time())
            for watched in self._watched:
                watched.troubles += model == watched.model
                if hidden and model == watched.model and name != watched.new:
                    watched.old_troubles_s.append(trio.current_time())

    # --- trials and verdicts ------------------------------------------------------------------------------------------

    def event(self, life: Life, event: Event) -> None:
        """Hear of swaps that begin to move traffic, of guards that trip, and of ends."""
        self._states.hear(event)
        if event.swap_id is not None:
            self._begun_s.setdefault(event.swap_id, trio.current_time())
        if event.kind == "guard_tripped":
            self._trip(life, event)
        elif event.kind == "swap_state" and event.detail["state"] == "transitioning":
            self._watch(life, event)
        elif event.kind == "swap_state":
            if event.detail["state"] == "loading_new_version":
                self._measured_s.setdefault(str(event.swap_id), trio.current_time())
            self._watched = [watched for watched in self._watched if watched.swap != event.swap_id]
            if event.detail["state"] in _ENDED:
                self._judge_end(life, str(event.swap_id), str(event.detail["state"]))

    def _watch(self, life: Life, event: Event) -> None:
        """Look at one model of a swap from now on, where a guard does."""
        swap = life.engine._sagas[str(event.swap_id)].swap  # the plan is told to nobody
        if swap.plan.guard is None or not swap.plan.tries_out:
            return
        for pair in swap.pairs:
            if pair.model == event.model:
                new, old, now = str(pair.new), str(pair.old), trio.current_time()
                watched = Watched(swap.id, swap.plan.guard, pair.model, new, old, now)
                watched.begun_s = self._begun_s[swap.id]
                watched.measured_s = self._measured_s.get(swap.id, now)
                watched.uses += self._uses.get(old, ())
                watched.old_troubles_s += self._troubles.get(old, ())
                self._watched.append(watched)

    def _trip(self, life: Life, event: Event) -> None:
        """Judge the evidence of a guard that has tripped."""
        swap, name = str(event.swap_id), f"{event.model}/{event.version}"
        self._tripped[swap] = str(event.detail["reason"])
        self._look_at_struck()
        watched = next((one for one in self._watched if (one.swap, one.new) == (swap, name)), None)
        if watched is None:
            self.broken(f"the guard of swap {swap} has tripped for {name}, and nobody has ordered that it look")
            return
        new, old = event.detail["new"], event.detail["old"]
        wrong = unfounded(watched.guard, new, old)
        self.holds(not wrong, f"the guard of swap {swap} has tripped for {name} without evidence: {wrong}")
        version = life.engine._versions[VersionKey(str(event.model), str(event.version))]
        crashed = version.loaded is None  # then some requests were refused that never ran
        if not crashed:
            seen = f"{watched.most_errors} failures of {watched.most_requests} requests are known at most"
            slack = watched.guard.min_errors  # what was on its way when the trial began
            self.holds(new["errors"] <= watched.most_errors + slack, f"the guard of {name} has seen {new}, and {seen}")
            self.holds(
                new["requests"] <= watched.most_requests + slack, f"the guard of {name} has seen {new}, and {seen}"
            )

    def _judge_end(self, life: Life, swap: str, state: str) -> None:
        """Judge how a swap has ended whose guard has tripped, and what is told of one whose guard has not."""
        why = self._tripped.get(swap)
        self.holds(why is None or state != "completed", f"swap {swap} is completed, and its guard has tripped: {why}")
        operation = next((one for one in life.engine.swaps() if one.id == swap), None)
        if operation is not None and swap in life.engine._sagas:  # not one of an earlier process
            told = f"swap {swap} is {state} with {operation.guard}, and its guard has tripped: {why}"
            self.holds((operation.guard is None) == (why is None), told)
