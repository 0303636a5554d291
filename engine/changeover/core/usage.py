"""How much a loaded model is used: the highest count of its references, and their average count over time.

The average is the time that references were held, over the time that there was an account (Little, "A Proof for the
Queuing Formula L = lambda W", 1961), from an even sample of the uses: looking at the clock at each release would cost
a third of a lease. Every method may be called from any thread.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import attrs

from changeover.core.messages import RefId

_EVERY_MAX = 64
"""Of very many uses one in so many is timed."""

_EACH = 1_024
"""So many uses are timed one by one; of twice as many every second one, and so on."""

_SPANS_MAX = 1_024
_PEAKS_MAX = 64


@attrs.frozen
class Used:
    """What an account was used for so far; those of several incarnations of a version add up."""

    peak: int = 0
    """The most references that were held at once."""
    held_s: float = 0.0
    """For how long references were held, all together, in seconds."""
    lived_s: float = 0.0
    """For how long there was an account, in seconds."""

    @property
    def average(self) -> float:
        """The average count over time; 0 of no time."""
        return self.held_s / self.lived_s if self.lived_s > 0 else 0.0

    def __add__(self, other: Used) -> Used:
        """Add what another incarnation of the version was used for."""
        return Used(max(self.peak, other.peak), self.held_s + other.held_s, self.lived_s + other.lived_s)


class Usage:
    """Told of the uses that it asks for: those whose number has no bit of `mask`, and those above `peak`."""

    __slots__ = ("_began_s", "_now", "_peaks", "_spans", "mask", "peak", "timed")

    def __init__(self, now: Callable[[], float]) -> None:
        """Measure by the clock `now`."""
        self._now = now
        self._began_s = now()
        self._peaks: set[int] = set()
        self._spans: deque[float] = deque()
        self.mask = 0
        """One less than how many uses one that is timed stands for: a power of two."""
        self.peak = 0
        """A threshold: a race may lower it, and then costs a call; `_peaks` knows the truth."""
        self.timed: dict[RefId, tuple[float, int]] = {}
        """Of those that are timed and held: since when, and for how many it stands."""

    def note(self, ref: RefId, number: int, since_s: float, held: int) -> None:
        """Take in that use `number` began, while `held` references were."""
        if held > self.peak:
            self._raise_peak(held)
        mask = self.mask  # read once: another thread may be raising it
        if not number & mask:
            self.timed[ref] = (since_s, mask + 1)
            if number >= _EACH * (mask + 1) and mask + 1 < _EVERY_MAX:
                self.mask = mask * 2 + 1

    def end(self, ref: RefId) -> None:
        """Take in that a use which is timed has ended."""
        entry = self.timed.pop(ref, None)
        if entry is None:
            return  # the same id, by another thread
        since_s, stands_for = entry
        self._spans.append(max(0.0, self._now() - since_s) * stands_for)
        if len(self._spans) > _SPANS_MAX:
            self._spans.append(sum(self._take_spans(_SPANS_MAX // 2)))

    def read(self) -> Used:
        """Return the figures; under traffic from other threads the sum of times may miss a few uses."""
        now = self._now()
        held_s = sum(self._spans.copy())
        held_s += sum(max(0.0, now - since_s) * stands_for for since_s, stands_for in self.timed.copy().values())
        return Used(max(self._peaks, default=0), held_s, now - self._began_s)

    def _raise_peak(self, held: int) -> None:
        self._peaks.add(held)
        self.peak = max(self._peaks)
        if len(self._peaks) > _PEAKS_MAX:
            for lower in sorted(self._peaks)[:-1]:
                self._peaks.discard(lower)

    def _take_spans(self, count: int) -> list[float]:
        """Take spans from the front, up to `count`; another thread may do the same."""
        taken: list[float] = []
        while len(taken) < count:
            try:
                taken.append(self._spans.popleft())
            except IndexError:
                break
        return taken
