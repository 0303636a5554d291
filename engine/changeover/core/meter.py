"""How the requests of one version ended, for as long as it is compared with another: bounded, and thread-safe.

Owned by a saga, filled by whoever ends a request. No clock: times are told.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

from changeover.core.tally import peek

SPELLS = 40
"""A window is cut into so many spells: two versions are compared over the same time, whatever their traffic ..."""
KEEP = 50
"""... and of each spell so many ends are kept, the first ones: enough for a verdict, and no more memory than that."""

Ended = tuple[float, float | None, bool]
"""How a request ended: when (engine clock, s), how long it took (s; None: unknown), and whether it failed."""

Spell = tuple[int, list[Ended]]
"""A spell's number, counted from the zero of the clock, and the ends in it."""


def _nobody() -> None:
    """Tell nobody."""


class Meter:
    """A sample of the newest ends of one version's requests; `note` may be called from any thread."""

    __slots__ = ("_fallbacks", "_is_resting", "_newest_s", "_noted", "_ring", "_spell_s", "on_failure")

    def __init__(self, window_s: float, on_failure: Callable[[], None] = _nobody) -> None:
        """Look back `window_s`; call `on_failure` after each failure, which must be quick and must not raise."""
        self._spell_s = window_s / SPELLS
        self._ring: list[Spell] = [(-1, [])] * (SPELLS + 1)
        self._newest_s = 0.0
        self._fallbacks = itertools.count()
        self._noted = itertools.count()
        self._is_resting = False
        self.on_failure = on_failure

    def note(self, at_s: float, latency_s: float | None, *, failed: bool) -> None:
        """Write down the end of a request; where a spell has had enough of them, only that there was one."""
        next(self._noted)
        if self._is_resting:
            return
        number = int(at_s / self._spell_s)
        spell = self._ring[number % len(self._ring)]
        if spell[0] != number:
            # Two threads may be here at once: then the few ends that one of them noted meanwhile are lost, no more.
            spell = self._ring[number % len(self._ring)] = (number, [])
        if len(spell[1]) < KEEP:
            spell[1].append((at_s, latency_s, failed))
            self._newest_s = at_s
        if failed:
            self.on_failure()

    def note_fallback(self) -> None:
        """Count a request that the version before answered in its place."""
        next(self._fallbacks)

    def rest(self) -> None:
        """Keep no more than the counts: the comparison is over, and requests may still be on their way."""
        self._is_resting = True
        self.on_failure = _nobody
        self._ring = [(-1, [])] * len(self._ring)

    @property
    def noted(self) -> int:
        """How many ends were ever told."""
        return peek(self._noted)

    @property
    def fallbacks(self) -> int:
        """How many requests the version before answered."""
        return peek(self._fallbacks)

    def spells(self, now: float | None = None) -> tuple[tuple[Ended, ...], ...]:
        """Return the ends in the window before `now`, spell by spell, oldest first; None: before the newest end."""
        last = int((self._newest_s if now is None else now) / self._spell_s)
        numbered = sorted(spell for spell in self._ring.copy() if last - SPELLS < spell[0] <= last)
        return tuple(tuple(ends) for _, ends in numbered if ends)
