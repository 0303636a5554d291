"""The crashes of one version, and when it may be started again: the arithmetic of its supervision, done anew.

Owns the times of crashes. What the engine keeps of a version it may forget when that rests, so there are two counts:
all crashes, of which the engine knows no more, and those of one unbroken row, of which it knows no fewer.
"""

from __future__ import annotations

import attrs

RESTARTS_MAX = 5
WITHIN_S = 60.0
FIRST_S, LONGEST_S = 0.1, 10.0
JITTER = 0.2
"""As `runtime/supervisor.py` promises them: at most so many in so long, and pauses that double, with some chance."""


def delay_s(crashes: int) -> float:
    """Return how long to wait behind so many crashes, without chance."""
    return float(min(LONGEST_S, FIRST_S * 2 ** (max(1, crashes) - 1)))


@attrs.define(eq=False)
class Restarts:
    """What has become of one version."""

    crashes: list[float] = attrs.field(factory=list[float])
    """When it has crashed, or failed to be loaded again."""
    row: list[float] = attrs.field(factory=list[float])
    """Those since it was last out of use in good order."""
    due_s: float | None = None
    """When it is to be started again; None: it runs, or is not to be."""
    since_s: float = 0.0
    """When that was said."""

    def crash(self, now: float) -> None:
        """Note a crash."""
        self.crashes = [*recent(self.crashes, now), now]
        self.row = [*recent(self.row, now), now]

    def rest(self) -> None:
        """Begin a new row: the version is out of use, and its supervisor may have forgotten it."""
        self.row, self.due_s = [], None

    def wrong(self, told_s: float | None, *, may_hurry: bool) -> str:
        """Return what is wrong with the pause that was said for the crash that was just noted; empty: nothing.

        `may_hurry`: the simulator may have the engine make no pause at all, which is rare and legal.
        """
        row, known = len(self.row), len(self.crashes)
        if told_s is None:
            return "" if known > RESTARTS_MAX else f"it was given up after {known} crashes in {WITHIN_S:g} s"
        if row > RESTARTS_MAX:
            return f"it is started again after {row} crashes in {WITHIN_S:g} s"
        least_s, most_s = 0.0 if may_hurry else delay_s(row) * (1 - JITTER), delay_s(known) * (1 + JITTER)
        if least_s - 1e-9 <= told_s <= most_s + 1e-9:
            return ""
        return f"it is started again in {told_s:g} s, and was to be in {least_s:g} to {most_s:g} s"


def recent(crashes: list[float], now: float) -> list[float]:
    """Return those of the time that counts."""
    return [at_s for at_s in crashes if at_s > now - WITHIN_S]
