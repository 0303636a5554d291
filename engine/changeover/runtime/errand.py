"""An errand: one waiting call that somebody outside the engine's loop has the engine's loop make, without any I/O.

SENT -> RUNNING -> ENDED on the loop, where it may be called off at any time; the outcome is taken once, by whoever
sent it. It owns its outcome and spawns nothing; `seat.py` runs it, and the faces wait for it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from enum import Enum, auto
from typing import Generic, TypeVar

T = TypeVar("T")


class Stage(Enum):
    """Where an errand stands; only the engine's loop moves it on."""

    SENT = auto()
    """It is on its way."""
    RUNNING = auto()
    """A task makes the call."""
    ENDED = auto()
    """It has its outcome, or was called off."""


class Errand(Generic[T]):
    """A call, and what comes of it: a value, an error, or nothing, where it was called off."""

    __slots__ = ("_call", "_error", "_stop", "_value", "_wake", "stage")

    def __init__(self, call: Callable[[], Awaitable[T]], wake: Callable[[], None]) -> None:
        """Have `wake` called once, on the engine's loop, when it has ended; it must be quick and must not raise."""
        self.stage = Stage.SENT
        self._call: Callable[[], Awaitable[T]] | None = call
        self._wake = wake
        self._stop: Callable[[], None] | None = None
        self._value: tuple[T] | None = None
        self._error: BaseException | None = None

    # --- on the engine's loop ---

    def begin(self, stop: Callable[[], None]) -> Callable[[], Awaitable[T]] | None:
        """Return the call to make, which `stop` interrupts; None where the errand was called off on its way."""
        if self.stage is not Stage.SENT:
            return None
        self.stage, self._stop = Stage.RUNNING, stop
        return self._call

    def call_off(self) -> None:
        """Interrupt the call, or let it never begin; nothing happens where it has ended."""
        if self.stage is Stage.SENT:
            self._end()
        elif self._stop is not None:
            self._stop()

    def returned(self, value: T) -> None:
        """End it with a value."""
        assert self.stage is Stage.RUNNING, self.stage
        self._value = (value,)
        self._end()

    def raised(self, error: BaseException) -> None:
        """End it with an error; also one that has not begun."""
        assert self.stage is not Stage.ENDED, self.stage
        self._error = error
        self._end()

    def interrupted(self) -> None:
        """End it without an outcome, as one that was called off; nothing happens where it has one."""
        if self.stage is not Stage.ENDED:
            self._end()

    def _end(self) -> None:
        self.stage, self._stop, self._call = Stage.ENDED, None, None
        self._wake()

    # --- by whoever sent it ---

    @property
    def has_ended(self) -> bool:
        """Whether there is an outcome to take; any thread."""
        return self.stage is Stage.ENDED

    def take(self, otherwise: Callable[[], BaseException]) -> T:
        """Return the value or raise the error, once; raises `otherwise()` where it was called off."""
        assert self.stage is Stage.ENDED, self.stage
        value, error = self._value, self._error
        self._value = self._error = None
        if value is not None:
            return value[0]
        try:
            raise error if error is not None else otherwise()
        finally:
            del error  # its traceback names this frame: a circle that only the collector would break

    def leave(self) -> BaseException | None:
        """Take the outcome for nothing; return the error that nobody will hear of, if there is one."""
        error = self._error
        self._value = self._error = None
        return error
