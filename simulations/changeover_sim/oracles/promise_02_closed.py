"""Promise 2: nothing is used after it is closed, and nothing is closed while it is held.

Who holds what is known from the actors' own words, from models that are streaming, and from threads that are at work.
"""

# pyright: reportPrivateUsage=false

from __future__ import annotations

from typing import TYPE_CHECKING

from changeover import VersionKey
from changeover_sim.oracles.base import Oracle
from changeover_sim.simulate import behind
from changeover_sim.simulate.calls import Call
from changeover_sim.simulate.cast import WARM_UP

if TYPE_CHECKING:
    from changeover_sim.simulate.cast import Made
    from changeover_sim.simulate.life import Left, Life
    from changeover_sim.simulate.run import Run

_ASKING = ("worker", "predict", "stream", "warm")
"""The work of threads that asks a model; its name goes on with the version."""


class Promise02Closed(Oracle):
    """Knows every model that is open, and who holds it."""

    promise = 2
    says = "nothing is used after it is closed, and nothing is closed while it is held"

    def __init__(self, run: Run) -> None:
        """Know of no model yet."""
        super().__init__(run)
        self._open: dict[str, list[Made]] = {}
        """By `model/version`, oldest first."""
        self._held: dict[int, list[Call]] = {}
        """By number of the model, the calls that hold it."""
        self._holds: dict[tuple[int, str], Made] = {}
        """By call and `model/version`: the very model that it holds."""
        self._calls: dict[int, Call] = {}

    def life_began(self, life: Life) -> None:
        """Begin anew: what a process has left open is gone with it."""
        self._open, self._held, self._holds, self._calls = {}, {}, {}, {}

    def began(self, call: Call) -> None:
        """Know whose request a number is."""
        self._calls[call.number] = call

    def loaded(self, made: Made) -> None:
        """Note a model that is open from now on."""
        self._open.setdefault(made.name, []).append(made)
        self._held[made.number] = []

    # --- holding ------------------------------------------------------------------------------------------------------

    def took(self, call: Call, name: str) -> None:
        """Note who holds a model; one that is closed cannot be had."""
        self.judged += 1
        made = self._serving(call.life, name)
        if made is None:
            self.broken(f"{call} holds {name}, of which no model is open")
            return
        self._held[made.number].append(call)
        self._holds[call.number, name] = made

    def gave_back(self, call: Call, name: str) -> None:
        """Note that somebody lets go of it: until now it was his."""
        made = self._holds.pop((call.number, name), None)
        if made is None:
            return
        self.judged += 1
        self._held[made.number].remove(call)
        if made.closes and not _is_called_off(call):
            self.broken(f"{made} was closed while it was held by {call}")

    def _serving(self, life: Life, name: str) -> Made | None:
        """Return the model that is given to whoever asks for a version in this step.

        Looked up inside: of two models of one version, one of which is on its way out, the actor sees the name only.
        """
        account = life.engine._router._open.get(VersionKey(*name.split("/")))
        known = self._open.get(name, [])
        if account is not None and account.owner.is_open:
            served: object = account.owner.model
            return next((made for made in known if made is served), None)
        return next((made for made in reversed(known) if not made.closes), None)

    # --- use and close ------------------------------------------------------------------------------------------------

    def used(self, made: Made, numbers: tuple[int, ...]) -> None:
        """Look whether it is open, and a lease's use whether that is held."""
        self.judged += 1
        if made.closes:
            self.broken(f"{made} was asked by {numbers} after it was closed")
        held = self._references(made)
        if held is not None and held < len(numbers):
            self.broken(f"{made} was asked by {numbers}, and {held} references are held")
        if numbers[0] == WARM_UP:
            return
        call = self._calls.get(numbers[0])
        if call is not None and not call.is_request and self._holds.get((call.number, made.name)) is not made:
            self.broken(f"{made} was asked by {call}, which holds {', '.join(call.held) or 'nothing'}")

    @staticmethod
    def _references(made: Made) -> int | None:
        """Return how many references of any kind are held on a model; None where it is not open.

        Looked up inside: the public count adds up what is held on all models of a version.
        """
        for loaded in made.life.engine._host.living():
            if loaded.is_open and loaded.model is made:
                return len(loaded.account.held)
        return None

    def closed(self, made: Made) -> None:
        """Look whether it is closed once, and nobody uses or holds it."""
        self.judged += 1
        if made.closes != 1:
            self.broken(f"{made} was closed {made.closes} times")
        holders = [call for call in self._held[made.number] if not _is_called_off(call)]
        if holders:
            self.broken(f"{made} was closed while it was held by {'; '.join(map(str, holders))}")
        if made.streams:
            self.broken(f"{made} was closed in the middle of {made.streams} streamed answers")
        siblings = [other for other in self._open[made.name] if not other.closes]
        if not siblings:  # else nobody can tell from outside whose thread it is
            at_work = made.life.world.threads.at_work
            for work in _ASKING:
                busy = [name for name in at_work if name.startswith(f"{work} ") and name.split(" ")[1] == made.name]
                if busy:
                    self.broken(f"{made} was closed under {', '.join(busy)}")

    # --- the end ------------------------------------------------------------------------------------------------------

    def stuck(self, life: Life, left: Left) -> None:
        """Look for models that are never closed: those that nobody holds and that do not serve."""
        if not left.holders or left.calls or left.threads:  # else it is the third promise: who holds them is gone
            self._look_at_open(life)

    def at_rest(self, life: Life) -> None:
        """Do the same, and who serves must be open."""
        self._look_at_open(life)
        for name in self._ready(life):
            if not any(not made.closes for made in self._open.get(name, [])):
                self.broken(f"{name} is ready, and its model is closed")

    def _look_at_open(self, life: Life) -> None:
        """Look for open models that do not serve."""
        self.judged += 1
        ready = self._ready(life)
        for name, mades in self._open.items():
            still = [made for made in mades if not made.closes]
            if len(still) > (name in ready) and not any(self._held[made.number] for made in still):
                self.broken(f"loaded and never closed: {', '.join(map(str, still))}; ready: {', '.join(ready)}")

    @staticmethod
    def _ready(life: Life) -> list[str]:
        engine = life.engine
        return [
            f"{model}/{version}"
            for model in dict.fromkeys(part.model for part in life.cast.parts.values())
            for version in life.run.shape.versions(model)
            if behind.is_known(engine, model, version) and engine.load_info(model, version).status.value == "ready"
        ]

    def life_over(self, life: Life) -> None:
        """Look whether all models are closed, each once."""
        self.judged += 1
        wrong = [f"{made}: {made.closes} times" for made in life.cast.made if made.closes != 1]
        if wrong:
            self.broken(f"when all was over, these were not closed exactly once: {', '.join(wrong)}")


def _is_called_off(call: Call) -> bool:
    """Hold for a stream whose reader is called off: what it holds ends in that step, and he hears of it later."""
    return call.kind == "stream" and call.scope.cancel_called
