"""Promise 10: the reservations never exceed the budget, what is there is reserved, and nothing is loaded twice.

What is there are the models that loaders have returned and that nobody has closed, and the loads whose threads are at
work; both are known without asking the engine. Of the engine it reads the one sum that the promise is about.
"""

# pyright: reportPrivateUsage=false

from __future__ import annotations

from typing import TYPE_CHECKING

from changeover_sim.oracles.base import Oracle
from changeover_sim.oracles.states import RESTING, Clockwork, Move, States

if TYPE_CHECKING:
    from changeover import Event
    from changeover_sim.simulate.calls import Call
    from changeover_sim.simulate.cast import Made, Part
    from changeover_sim.simulate.life import Left, Life
    from changeover_sim.simulate.run import Run

STUCK_MAX = 8
"""How many loads may hang by default before no other is started."""
_LOAD = "load "
_LEAVING = ("draining", "unloading")
_LOADING = ("loading", "warming")


class Promise10Budget(Oracle):
    """Counts bytes, and models of each version."""

    promise = 10
    says = "the sum of reservations never exceeds the budget, and nothing is loaded twice"

    def __init__(self, run: Run) -> None:
        """Watch a run."""
        super().__init__(run)
        self._begin_anew()

    def _begin_anew(self) -> None:
        self._clock = Clockwork()
        self._states = States()
        self._open: dict[str, Made] = {}
        """By `model/version`, the model that is in use, or about to be."""
        self._leaving: list[Made] = []
        """Models that went out of use before they were closed: behind a crash, or on arrival for nobody."""
        self._refused: dict[str, int] = {}
        """Versions that must not be loaded now, because too many loads hang, and how many those are."""
        self._ready: dict[str, int] = {}
        """By `model/version`, how often it has become ready."""
        self._had_been_ready: dict[int, int] = {}
        """By the number of a call that loads, how often its version had been ready when it began."""
        self._occupied: dict[int, int] = {}
        """By number, what must be reserved for a model that is not closed."""
        self._bytes = 0
        """The sum of that."""
        self._idle_s: float | None = None
        """Since when a load waits for room though nothing is leaving; None: none does."""
        self._waits: list[str] = []
        """The versions that did then."""
        self._reserved = 0
        self._at_work: int = 0

    def life_began(self, life: Life) -> None:
        """Forget the models of the process before."""
        self._begin_anew()
        self._budget: int | None = life.run.shape.options.get("memory_budget_bytes")
        self._stuck_max: int = life.run.shape.options.get("stuck_loads_max", STUCK_MAX)
        self._store = life.engine._store  # the sum that must fit; `statistics()` says the same, and is dear
        self._threads = life.world.threads

    # --- bytes --------------------------------------------------------------------------------------------------------

    def step(self, life: Life) -> None:
        """Compare what is reserved with the budget, and with what is there, where either has changed."""
        if self._budget is not None and self._clock.has_moved():
            self._look_at_line(life)
        if self._idle_s is not None and any(f"{_LOAD}{name}" in self._threads.at_work for name in self._waits):
            self._idle_s = None  # it may raise before the next moment
        reserved, at_work = self._store.reserved_bytes, len(self._threads.at_work)
        if reserved == self._reserved and at_work == self._at_work:
            return
        self._reserved, self._at_work = reserved, at_work
        self.judged += 1
        if self._budget is not None and reserved > self._budget:
            self.broken(f"{reserved} bytes are reserved, and the budget is {self._budget}; {self._what_is_there()}")
        loading = [name for name in self._threads.at_work if name.startswith(_LOAD)]
        there = self._bytes + sum(life.cast.parts[name.removeprefix(_LOAD)].memory for name in loading)
        if there > reserved:
            loads = ", ".join(loading) or "no load at work"
            self.broken(f"only {reserved} bytes are reserved for {there} ({loads}; {self._what_is_there()})")
        for name in loading:
            if self._threads.at_work[name] > 1:
                self.broken(f"{self._threads.at_work[name]} threads {name} at once")

    def _look_at_line(self, life: Life) -> None:
        """Look, at the first step of a new moment, whether a load waits for room that nobody is about to make."""
        states, at_work = self._states.of, self._threads.at_work
        waits = [name for name, state in states.items() if state == "loading" and f"{_LOAD}{name}" not in at_work]
        if not waits or any(state in _LEAVING for state in states.values()) or any(map(_is_close, at_work)):
            self._idle_s = None
        elif self._idle_s is None:
            self._idle_s, self._waits = self._clock.at_s, waits
        else:
            held = self._what_is_there()
            self.broken(f"{', '.join(waits)} waits for room since {self._idle_s:g}, and nothing is leaving; {held}")

    def loaded(self, made: Made) -> None:
        """Note a model; there must be no other one in use of its version, and it must have been allowed to load."""
        self._idle_s = None  # whatever waited, this one had its room
        self._occupied[made.number] = _least(made.part)
        self._bytes += self._occupied[made.number]
        self.judged += 1
        if made.name in self._refused:
            stuck, most = self._refused[made.name], self._stuck_max
            self.broken(f"{made} was loaded though {stuck} loads hung already, and at most {most} may")
        before = self._open.get(made.name)
        if before is not None:
            self.broken(f"{made} was loaded while {before}, made at {before.made_s:g}, is still in use")
        if self._states.get(made.name) == "loading":
            self._open[made.name] = made
        else:
            self._leaving.append(made)  # nobody waits for it: what hung is closed on arrival

    def closed(self, made: Made) -> None:
        """Strike out a model."""
        self._idle_s = None
        if made.closes > 1:
            return  # the promise of those who look at closes
        self._bytes -= self._occupied.pop(made.number)
        if self._open.get(made.name) is made:
            del self._open[made.name]
        elif made in self._leaving:
            self._leaving.remove(made)

    def _what_is_there(self) -> str:
        held = ", ".join(map(str, (*self._open.values(), *self._leaving)))
        return f"not closed: {held or 'none'}"

    # --- once ---------------------------------------------------------------------------------------------------------

    def event(self, life: Life, event: Event) -> None:
        """Hear what becomes of a version, and so of its model."""
        move = self._states.hear(event)
        if move is None:
            return
        self._idle_s = None
        self._refused.pop(move.name, None)
        if move.now == "warming":
            self._measure(move)
        elif move.now == "ready":
            self._ready[move.name] = self._ready.get(move.name, 0) + 1
            self.holds(move.name in self._open, f"{move.name} is ready at {move.at_s:g}, and no model of it was made")
        elif move.now == "loading":
            self._count_stuck(move)
        elif move.now in RESTING:
            self._rest(move)

    def _measure(self, move: Move) -> None:
        """Have all be reserved for a model that it has turned out to occupy; before that the budget is not asked."""
        made = self._open.get(move.name)
        if made is not None:
            self._bytes += made.memory_bytes() - self._occupied[made.number]
            self._occupied[made.number] = made.memory_bytes()

    def _rest(self, move: Move) -> None:
        """Have a model go out of use with its version; one that was being closed must be closed by then."""
        made = self._open.get(move.name)
        if made is None:
            return
        closing = move.before == "unloading" and move.now != "failed"  # a crash meanwhile does not wait for the close
        self.holds(not closing, f"{move.name} is {move.now} at {move.at_s:g}, and {made} is not closed")
        del self._open[move.name]
        self._leaving.append(made)

    def _count_stuck(self, move: Move) -> None:
        """Note that a version must not be loaded, because too many loads hang; what it may do is wait for its own."""
        at_work = self._threads.at_work
        hung = [
            name for name in at_work
            if name.startswith(_LOAD) and self._states.get(name.removeprefix(_LOAD)) not in _LOADING
        ]  # fmt: skip
        if len(hung) >= self._stuck_max and f"{_LOAD}{move.name}" not in at_work:
            self._refused[move.name] = len(hung)

    # --- told when it is true -----------------------------------------------------------------------------------------

    def began(self, call: Call) -> None:
        """Note whether what somebody wants loaded is there."""
        if call.kind in ("load", "ensure_loaded"):
            name = f"{call.model}/{call.version}"
            self._had_been_ready[call.number] = self._ready.get(name, 0) - (self._states.get(name) == "ready")

    def ended(self, call: Call) -> None:
        """Look whether a version that was told to be loaded has been ready at any time of the call."""
        before = self._had_been_ready.pop(call.number, None)
        if before is not None and call.end == "returned":
            name = f"{call.model}/{call.version}"
            self.holds(self._ready.get(name, 0) > before, f"{call}: {name} was not ready at any time of it")

    # --- at rest ------------------------------------------------------------------------------------------------------

    def at_rest(self, life: Life) -> None:
        """Look whether exactly what serves is there, once each, and reserved."""
        serves = sorted(name for name, state in self._states.of.items() if state == "ready")
        there = sorted(made.name for made in life.cast.open())
        self.holds(there == serves, f"at rest {serves} are ready, and {there} are not closed")
        reserved = self._store.reserved_bytes
        self.holds(reserved == self._bytes, f"at rest {reserved} bytes are reserved for {self._bytes}")

    def stuck(self, life: Life, left: Left) -> None:
        """Look whether a load has no end."""
        for version in left.versions:
            coming = version.endswith(("is loading", "is warming"))
            self.holds(not coming or left.threads, f"{version}, without end, and no thread is at work: {left}")


def _least(part: Part) -> int:
    """Return what must be reserved for a model from the first moment on."""
    return part.memory if part.found is None else min(part.memory, part.found)


def _is_close(thread: str) -> bool:
    """Return whether a thread closes a model."""
    return thread.startswith("close ")
