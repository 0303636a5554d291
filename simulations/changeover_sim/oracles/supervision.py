"""Promise 7, its other half: a version that crashes is started again, not too often; meanwhile another one answers.

Owns the crashes of each version, those that were caused and not yet noticed, and who has ordered what meanwhile.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from changeover.core.policy import order_key
from changeover_sim.oracles.base import Oracle
from changeover_sim.oracles.restarts import Restarts
from changeover_sim.oracles.states import EPS_S, Clockwork, Move, States

if TYPE_CHECKING:
    from changeover import Event
    from changeover_sim.simulate.calls import Call
    from changeover_sim.simulate.cast import Made
    from changeover_sim.simulate.life import Life
    from changeover_sim.simulate.run import Run

_FAULT = "model-beyond-use"
_SERVING = ("ready", "draining", "quarantined")
"""The states in which a version notices that its model is beyond use."""
_AGAINST = ("unload", "unregister", "swap", "swap_group", "start_swap", "rollback", "abort")
"""The calls by which somebody may not want a version back."""


class Supervision(Oracle):
    """Looks after every crash."""

    promise = 7
    says = "a crash is noticed, and the version started again within its intensity, else given up; others go on"

    def __init__(self, run: Run) -> None:
        """Watch a run."""
        super().__init__(run)
        self._begin_anew()

    def _begin_anew(self) -> None:
        self._clock = Clockwork()
        self._states = States()
        self._restarts: dict[str, Restarts] = {}
        self._due = 0
        """How many versions wait to be started again."""
        self._unnoticed: dict[str, tuple[Made, float]] = {}
        """By `model/version`, the model that has just said that it is beyond use, and when."""
        self._serves: dict[str, Made] = {}
        """By `model/version`, the model that was made last while it was loaded."""
        self._asked: Made | None = None
        """The model that was asked last."""
        self._struck = self.run.faults.struck[_FAULT]
        self._against: dict[str, float] = {}
        """By model, when somebody last ordered something after which a version need not come back."""
        self._calls: dict[int, tuple[str, ...]] = {}
        """By number, the models of those orders that have not been answered."""
        self._swaps: dict[str, str] = {}
        """By the id of a swap that has not ended, `model`s joined by blanks."""
        self._shifted: tuple[int, str] | None = None
        """The step in which traffic moved last, and whose."""
        self._shares: dict[str, dict[str, float]] = {}
        """By model, what each of its versions has of the traffic."""
        self._before: dict[str, float] = {}
        """The shares before they moved last."""

    def life_began(self, life: Life) -> None:
        """Begin anew: a process knows nothing of the crashes of the one before."""
        self._begin_anew()

    # --- a crash is noticed -------------------------------------------------------------------------------------------

    def loaded(self, made: Made) -> None:
        """Note which model a version serves."""
        if self._states.get(made.name) == "loading":
            self._serves[made.name] = made

    def used(self, made: Made, numbers: tuple[int, ...]) -> None:
        """Note whom a fault may strike next."""
        self._look_at_struck()
        self._asked = made

    def step(self, life: Life) -> None:
        """See whether a model has said that it is beyond use; when time has passed, look what came of all that."""
        if self.run.faults.struck[_FAULT] != self._struck:
            self._look_at_struck()
        if (self._unnoticed or self._due) and self._clock.has_moved():
            self._look_back(life, self._clock.at_s)

    def _look_at_struck(self) -> None:
        """Note that the model that was asked last is beyond use, where it was struck, and its version is to notice."""
        struck, made = self.run.faults.struck[_FAULT], self._asked
        if struck != self._struck and made is not None and self._serves.get(made.name) is made:
            self._unnoticed.setdefault(made.name, (made, trio.current_time()))
        self._struck = struck

    def _look_back(self, life: Life, now: float) -> None:
        """Look at the first step of a new moment whether all has happened that was due before."""
        for made, at_s in tuple(self._unnoticed.values()):
            if now > at_s + EPS_S:
                self.broken(f"{made} said at {at_s:g} that it is beyond use, and nothing has happened until {now:g}")
        for name, restarts in self._restarts.items():
            if restarts.due_s is not None and now > restarts.due_s + EPS_S:
                self._miss(life, name, restarts, now)

    def _miss(self, life: Life, name: str, restarts: Restarts, now: float) -> None:
        """Judge a restart that did not come; whoever ordered something else meanwhile is the reason."""
        model, due_s = name.partition("/")[0], restarts.due_s
        restarts.due_s = None
        self._due -= 1
        waits = any(model in models for models in self._calls.values())
        swapped = any(model in models.split() for models in self._swaps.values())
        wanted = not (waits or swapped or self._against.get(model, -1.0) >= restarts.since_s or life.closing)
        self.holds(
            not wanted, f"{name} was to be started again at {due_s:g}, and it is {self._states.get(name)} at {now:g}"
        )

    # --- what becomes of it -------------------------------------------------------------------------------------------

    def event(self, life: Life, event: Event) -> None:
        """Hear of crashes, of loads, of traffic, and of swaps."""
        if event.kind == "traffic_shifted":
            self._shift(str(event.model), event.detail["shares"])
        elif event.kind == "swap_state":
            self._swap(event)
        elif event.kind == "version_restarting":
            self._judge_pause(life, f"{event.model}/{event.version}", event.detail["delay_s"])
        move = self._states.hear(event)
        if move is not None:
            self._follow(life, move)

    def _follow(self, life: Life, move: Move) -> None:
        if move.name in self._unnoticed and move.now not in _SERVING:
            del self._unnoticed[move.name]
        if move.now not in (*_SERVING, "warming"):
            self._serves.pop(move.name, None)
        restarts = self._restarts.get(move.name)
        if restarts is not None and move.now in ("loading", "unloaded", "evicted", "registered"):
            if restarts.due_s is not None:
                self._due -= 1
                early = move.now == "loading" and move.at_s < restarts.due_s - EPS_S
                self.holds(not early, f"{move.name} is loaded at {move.at_s:g}, before its pause is over")
                restarts.due_s = None
            elif move.now == "loading":
                restarts.rest()  # by somebody's order: who it was that kept it may be gone
            if move.now != "loading":
                restarts.rest()
        if move.now == "failed" and move.before == "ready" and not life.closing:
            self._judge_heir(life, move)

    def _judge_pause(self, life: Life, name: str, told_s: float | None) -> None:
        """Judge whether, and when, a version is started again."""
        now = trio.current_time()
        restarts = self._restarts.setdefault(name, Restarts())
        restarts.crash(now)
        if life.closing:
            return  # nothing is started again
        wrong = restarts.wrong(told_s, may_hurry="buggify" in self.run.faults.on)
        self.holds(not wrong, f"{name} crashed at {now:g}, and {wrong}")
        self._due += (told_s is not None) - (restarts.due_s is not None)
        restarts.due_s, restarts.since_s = None if told_s is None else now + told_s, now
        if told_s is None:
            restarts.rest()

    # --- another one answers ------------------------------------------------------------------------------------------

    def _shift(self, model: str, shares: dict[str, float]) -> None:
        self._before = self._shares.get(model, {})
        self._shares[model] = dict(shares)
        self._shifted = (self.run.judge.steps, model)

    def _judge_heir(self, life: Life, move: Move) -> None:
        """Judge who has the traffic of a version that has crashed, in the very step in which it did."""
        ready = [name.partition("/")[2] for name in self._states.ready(move.model)]
        shares, gone = self._shares.get(move.model, {}), move.name.partition("/")[2]
        self.holds(gone not in shares, f"{move.name} crashed at {move.at_s:g}, and has traffic: {shares}")
        moved = self._shifted == (self.run.judge.steps, move.model)
        if not ready or not moved:
            return  # nobody is there to have it; or it had none
        self.holds(shares, f"{move.name} crashed at {move.at_s:g}, and nobody has its traffic: {ready} are ready")
        if set(self._before) == {gone} and not any(move.model in models.split() for models in self._swaps.values()):
            newest = max(ready, key=order_key)
            told = f"{move.name} crashed at {move.at_s:g}, and {dict(shares)} has its traffic, not {newest}"
            self.holds(set(shares) == {newest}, told)

    # --- who has ordered what -----------------------------------------------------------------------------------------

    def began(self, call: Call) -> None:
        """Note an order after which a version need not come back."""
        if call.kind in _AGAINST:
            self._calls[call.number] = (call.model,) if call.model is not None else call.models
            self._note(self._calls[call.number])

    def ended(self, call: Call) -> None:
        """Note its end."""
        models = self._calls.pop(call.number, None)
        if models is not None:
            self._note(models)

    def _swap(self, event: Event) -> None:
        """Note a swap that goes on, and its end: what it undoes it undoes in the background."""
        swap, model = str(event.swap_id), str(event.model)
        self._note((model,))
        if event.detail["state"] in ("completed", "failed", "rolled_back", "cancelled", "superseded"):
            self._swaps.pop(swap, None)
        else:
            self._swaps[swap] = f"{self._swaps.get(swap, '')} {model}"

    def _note(self, models: tuple[str, ...]) -> None:
        for model in models:
            self._against[model] = trio.current_time()
