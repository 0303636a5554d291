"""How the requests of one version ended, for as long as it is compared with another: bounded, and thread-safe.

Owned by a saga, filled by whoever ends a request. No clock: times are told.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable

from changeover.core.tally import peek

KEEP = 4096
"""So many of the newest ends are kept: enough for a verdict, whatever the traffic."""

Ended = tuple[float, float | None, bool]
"""How a request ended: when (engine clock, s), how long it took (s; None: unknown), and whether it failed."""


def _nobody() -> None:
    """Tell nobody."""


class Meter:
    """The newest ends of one version's requests; `note` may be called from any thread."""

    __slots__ = ("_ends", "_fallbacks", "_noted", "on_failure")

    def __init__(self, on_failure: Callable[[], None] = _nobody) -> None:
        """Call `on_failure` after each failure; it must be quick, and must not raise."""
        self._ends: deque[Ended] = deque(maxlen=KEEP)
        self._fallbacks = itertools.count()
        self._noted = itertools.count()
        self.on_failure = on_failure

    def note(self, at_s: float, latency_s: float | None, *, failed: bool) -> None:
        """Write down the end of a request."""
        self._ends.append((at_s, latency_s, failed))
        next(self._noted)
        if failed:
            self.on_failure()

    def note_fallback(self) -> None:
        """Count a request that the version before answered in its place."""
        next(self._fallbacks)

    def rest(self) -> None:
        """Keep no more than the counts: the comparison is over, and requests may still be on their way."""
        self.on_failure = _nobody
        self._ends = deque(maxlen=0)

    @property
    def noted(self) -> int:
        """How many ends were ever written down."""
        return peek(self._noted)

    @property
    def fallbacks(self) -> int:
        """How many requests the version before answered."""
        return peek(self._fallbacks)

    def ends(self, window_s: float, now: float | None = None) -> tuple[Ended, ...]:
        """Return the ends of the last `window_s` before `now`, oldest first; None: before the newest of them."""
        ends = self._ends.copy()  # one step of the interpreter, so that no thread adds in its middle
        if not ends:
            return ()
        since_s = (ends[-1][0] if now is None else now) - window_s
        return tuple(end for end in ends if end[0] > since_s)
