"""What an oracle is: it is told all that happens in a run, and judges one promise.

Owns how often it has judged: an oracle that never did fails the run. It never changes anything of the engine.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from changeover import Event
    from changeover_sim.simulate.calls import Call
    from changeover_sim.simulate.cast import Made
    from changeover_sim.simulate.life import Left, Life
    from changeover_sim.simulate.run import Run


class Oracle:
    """One promise; a subclass overrides what it wants to be told of."""

    promise: ClassVar[int]
    """Its number on the design page."""
    says: ClassVar[str]
    """The promise, in a sentence."""

    def __init__(self, run: Run) -> None:
        """Watch a run."""
        self.run = run
        self.judged = 0
        """How often it has looked at something that could have been wrong."""

    def broken(self, what: str) -> None:
        """Say that the promise is broken; the run ends, and nothing is judged any more."""
        self.run.judge.break_off(self, what)

    def holds(self, truth: object, what: str) -> None:
        """Count a judgement; where `truth` is false the promise is broken."""
        self.judged += 1
        if not truth:
            self.broken(what)

    # --- what it is told: all synchronous, all on the loop; none may raise or wait ------------------------------------

    def life_began(self, life: Life) -> None:
        """Hear that an engine was opened: `life.engine` is there, nothing is registered yet."""

    def step(self, life: Life) -> None:
        """Hear that a task of the run has made a step, while this engine lives."""

    def event(self, life: Life, event: Event) -> None:
        """Hear an event of the engine, in the very moment that it happens."""

    def began(self, call: Call) -> None:
        """Hear that a call begins."""

    def ended(self, call: Call) -> None:
        """Hear that a call has ended; `call.end` says how."""

    def took(self, call: Call, name: str) -> None:
        """Hear that a lease, a stream or a reference of a call now holds `model/version`."""

    def gave_back(self, call: Call, name: str) -> None:
        """Hear that it is about to let go of it, or was made to."""

    def loaded(self, made: Made) -> None:
        """Hear that a loader has returned a model."""

    def used(self, made: Made, numbers: tuple[int, ...]) -> None:
        """Hear that a model is asked by these requests, in one call of it; -1 is warm-up data."""

    def closed(self, made: Made) -> None:
        """Hear that a model's `close` is called."""

    def at_rest(self, life: Life) -> None:
        """Hear that nothing goes on in the open engine: faults are off, and every call has ended."""

    def stuck(self, life: Life, left: Left) -> None:
        """Hear what has no end: faults are off, an hour of virtual time has passed, and still it goes on."""

    def life_over(self, life: Life) -> None:
        """Hear that an engine was closed in order, and its callers and threads are gone; not of one that was killed."""

    def died(self, life: Life) -> None:
        """Hear that the process was killed or lost its power just now; nothing more is told of this life."""

    def over(self) -> None:
        """Hear that the run is over."""
