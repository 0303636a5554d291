"""The judge of one run: hands what happens to the oracles, keeps the log, and holds the first promise that was broken.

Owns the oracles and the run's trace. What is told of a life that is dead is not passed on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import attrs
import trio

from changeover_sim.oracles.base import Oracle

if TYPE_CHECKING:
    from changeover import Event
    from changeover_sim.simulate.calls import Call
    from changeover_sim.simulate.cast import Made
    from changeover_sim.simulate.life import Left, Life

_KEPT = 60
"""So many lines of the log are shown with a failure."""


class PromiseBroken(AssertionError):
    """A promise of the design does not hold in a run."""

    def __init__(self, promise: int, says: str, what: str) -> None:
        """Name the promise, and what contradicts it."""
        super().__init__(f"promise {promise} is broken ({says}): {what}")
        self.promise = promise
        self.what = what


@attrs.frozen
class Line:
    """One thing that happened."""

    at_s: float
    what: str

    def __str__(self) -> str:
        """Return it with its time."""
        return f"{self.at_s:9.3f}  {self.what}"


class Judge(trio.abc.Instrument):
    """Hears everything first."""

    def __init__(self) -> None:
        """Have no oracles yet."""
        self.oracles: tuple[Oracle, ...] = ()
        self.broken: PromiseBroken | None = None
        self.scope = trio.CancelScope()
        """What is cancelled when a promise is broken: the run."""
        self.lives: list[Life] = []
        """Engines that live just now; one, or none."""
        self.steps = 0
        self.ended_s = 0.0
        """The virtual time at the end of the run."""
        self._steppers: tuple[Oracle, ...] = ()
        self._log: list[Line] = []
        self._trace = hashlib.sha256()

    def appoint(self, oracles: Iterable[Oracle]) -> None:
        """Have a run watched by these."""
        self.oracles = tuple(oracles)
        self._steppers = tuple(one for one in self.oracles if type(one).step is not Oracle.step)

    def break_off(self, oracle: Oracle, what: str) -> None:
        """Note the first promise that is broken, and end the run."""
        if self.broken is None:
            self.broken = PromiseBroken(oracle.promise, oracle.says, what)
            self.note(f"BROKEN: promise {oracle.promise}: {what}")
            self.scope.cancel()

    def raise_if_broken(self) -> None:
        """Raise what was broken first."""
        if self.broken is not None:
            raise self.broken

    # --- the log ------------------------------------------------------------------------------------------------------

    def note(self, what: str) -> None:
        """Write something into the log of the run, which is its trace."""
        line = Line(trio.current_time(), what)
        self._log.append(line)
        self._trace.update(str(line).encode())

    @property
    def trace(self) -> str:
        """Return the hash of all that has happened."""
        return self._trace.hexdigest()[:16]

    def log(self, most: int = _KEPT) -> list[Line]:
        """Return the last lines of the log; 0: all."""
        return self._log[-most:]

    # --- what happens -------------------------------------------------------------------------------------------------

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        """Let those look who look at every step."""
        self.steps += 1
        if self.broken is None:
            for life in self.lives:
                for oracle in self._steppers:
                    oracle.step(life)

    def _tell(self, life: Life, what: str, *args: Any) -> None:
        if self.broken is None and not life.dead:
            for oracle in self.oracles:
                getattr(oracle, what)(*args)

    def life_began(self, life: Life) -> None:
        """Tell of an engine that was opened, and be a reader of its events."""
        self.note(f"life {life.number} begins")
        self._tell(life, "life_began", life)
        self.lives.append(life)

    def life_over(self, life: Life) -> None:
        """Tell of an engine that is closed, and of its callers and threads, which are gone."""
        self.note(f"life {life.number} is over")
        self._tell(life, "life_over", life)

    def closing(self, life: Life) -> None:
        """Stop looking at an engine step by step: its block is being left behind."""
        if life in self.lives:
            self.lives.remove(life)

    def died(self, life: Life, how: str) -> None:
        """Tell of a process that has ended in the middle."""
        self.note(f"life {life.number} ends by {how}")
        if life.began:
            self._tell(life, "died", life)
        life.dead = True
        self.closing(life)

    def event(self, life: Life, event: Event) -> None:
        """Tell what an engine tells."""
        if not life.dead:
            detail = " ".join(f"{name}={value}" for name, value in event.detail.items())
            who = f"{event.model}/{event.version}" if event.version else event.model or ""
            self.note(f"{event.kind} {who} {detail}")
            self._tell(life, "event", life, event)

    def began(self, call: Call) -> None:
        """Tell of a call's beginning."""
        self.note(f"begins: {call}")
        self._tell(call.life, "began", call)

    def ended(self, call: Call) -> None:
        """Tell of its end."""
        self.note(f"ends: {call}")
        self._tell(call.life, "ended", call)

    def took(self, call: Call, name: str) -> None:
        """Tell that a call holds a version from now on."""
        call.held = (*call.held, name)
        call.used.append(name)
        self._tell(call.life, "took", call, name)

    def gave_back(self, call: Call, name: str) -> None:
        """Tell that it holds it no more."""
        held = list(call.held)
        held.remove(name)
        call.held = tuple(held)
        self._tell(call.life, "gave_back", call, name)

    def loaded(self, made: Made) -> None:
        """Tell of a model that was made."""
        self.note(f"made: {made}")
        self._tell(made.life, "loaded", made)

    def used(self, made: Made, numbers: tuple[int, ...]) -> None:
        """Tell of a use."""
        self.note(f"asked: {made} by {numbers}")
        self._tell(made.life, "used", made, numbers)

    def closed(self, made: Made) -> None:
        """Tell of a close."""
        self.note(f"closed: {made}")
        self._tell(made.life, "closed", made)

    def at_rest(self, life: Life) -> None:
        """Tell that nothing goes on."""
        self.note(f"life {life.number} is at rest")
        self._tell(life, "at_rest", life)

    def stuck(self, life: Life, left: Left) -> None:
        """Tell what has no end."""
        self.note(f"life {life.number} does not come to rest: {left}")
        self._tell(life, "stuck", life, left)
        if self.broken is None:
            raise AssertionError(f"no promise was broken, and yet this goes on and on: {left}")

    def over(self) -> None:
        """Tell that the run is over."""
        if self.broken is None:
            for oracle in self.oracles:
                oracle.over()
