"""What can be known of a version on trial from outside: every use of it and whether that failed, and so how sure it is.

Owns the uses of one trial. Where the guard may count something that is not seen here, or not count something that is,
the doubt is the guard's: it is called wrong only where it is wrong for certain.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import attrs

from changeover_sim.oracles.states import EPS_S

if TYPE_CHECKING:
    from changeover import Guard
    from changeover_sim.simulate.calls import Call

Z = 2.576
"""One-sided 99.5 %, as the guard promises it."""
Z_OLD = 1.28
"""The same for the rate of the old version: 90 %."""
_NARROW, _WIDE = 0.9, 1.1
"""The window is cut into pieces; what lies at its edge may count or not."""


@attrs.define(eq=False)
class Use:
    """One call of a model on trial, or of the one before it."""

    name: str
    numbers: tuple[int, ...]
    at_s: float
    failed: bool = False


@attrs.define(eq=False)
class Watched:
    """One model of a swap that a guard looks at."""

    swap: str
    guard: Guard
    model: str
    new: str
    """`model/version` of the version on trial."""
    old: str
    since_s: float
    """When the trial began."""
    begun_s: float = 0.0
    """When the swap began: nothing of the old version is measured before that ..."""
    measured_s: float = float("inf")
    """... and from then on all of it is."""
    uses: list[Use] = attrs.field(factory=list[Use])
    """Of both versions, and of the old one also what was before the trial: a guard has measured a part of that."""
    old_troubles_s: list[float] = attrs.field(factory=list[float])
    """When requests of the old version have had no room or no time, or were lost with it."""
    troubles: int = 0
    """How many calls of the model have ended with any error since the trial began."""

    @property
    def most_errors(self) -> int:
        """How many failures of the new version the guard may have counted at most."""
        return sum(len(use.numbers) for use in self.uses if use.failed and use.name == self.new) + self.troubles

    @property
    def most_requests(self) -> int:
        """How many of its requests the guard may have counted at most."""
        return sum(len(use.numbers) for use in self.uses if use.name == self.new) + self.troubles

    def is_clear(self, calls: dict[int, Call], before_s: float) -> str:
        """Return in words that the new version fails for certain, as all knew before a moment; empty: it may not.

        It is asked what the guard saw when the last failure called it: that, and all of earlier moments.
        """
        new = [use for use in self.uses if use.name == self.new]
        mine = [use for use in new if use.at_s < before_s and _counts(use, calls, self.since_s)]
        failed = [use.at_s for use in mine if use.failed]
        if not failed:
            return ""
        last_s, guard = failed[-1], self.guard
        earlier = [use for use in mine if last_s - _NARROW * guard.window_s < use.at_s < last_s]
        errors = 1 + sum(use.failed for use in earlier)
        requests = sum(len(use.numbers) for use in new if last_s - _WIDE * guard.window_s < use.at_s <= last_s)
        if errors < guard.min_errors or 1 + len(earlier) < guard.min_samples:
            return ""
        stood_by = {number for use in new for number in use.numbers}
        before = (use for use in self.uses if use.name == self.old and use.at_s < last_s)
        theirs = [use for use in before if use.numbers[0] not in stood_by]
        limit = self._limit([use for use in theirs if _counts(use, calls, self.measured_s)], last_s)
        if lower_rate(errors, requests) <= limit:
            return ""
        most = f"at most {limit:.0%} may"
        return f"{errors} of at most {requests} requests of {self.new} failed until {last_s:g}, and {most}"

    def _limit(self, theirs: list[Use], now: float) -> float:
        """Return the most that may fail, where the old version has been asked these requests, or more.

        Its window ends with the newest of them, or later.
        """
        guard = self.guard
        newest_s = theirs[-1].at_s if theirs else now - guard.window_s
        since_s = max(newest_s - _WIDE * guard.window_s, self.begun_s - EPS_S)
        failed = [use for use in self.uses if use.name == self.old and use.failed and use.at_s > since_s]
        errors = sum(len(use.numbers) for use in failed) + sum(at_s > since_s for at_s in self.old_troubles_s)
        least = sum(use.at_s > now - _NARROW * guard.window_s for use in theirs)  # it may end as late as now
        known = max(least, guard.min_samples)
        return max(guard.max_error_rate, guard.max_error_rate_ratio * upper_rate(errors, known))


def _counts(use: Use, calls: dict[int, Call], since_s: float) -> bool:
    """Return whether the guard must have counted a use: one plain request since a moment, whose caller has stayed."""
    call = calls.get(use.numbers[0]) if len(use.numbers) == 1 else None  # where a batch fails, each is run again
    if call is None or call.kind != "infer" or call.version is not None:
        return False
    return call.began_s > since_s and not call.scope.cancel_called  # of the same moment, it may have been before


def lower_rate(errors: int, requests: int) -> float:
    """Return the least error rate that so many errors speak for: Wilson's lower bound."""
    middle, spread = _wilson(errors, requests, Z)
    return max(0.0, middle - spread)


def upper_rate(errors: int, requests: int) -> float:
    """Return the most that the old version's rate may well be, 0 where nothing of it failed."""
    if errors == 0:
        return 0.0
    middle, spread = _wilson(min(errors, requests), requests, Z_OLD)
    return min(1.0, middle + spread)


def _wilson(errors: int, requests: int, z: float) -> tuple[float, float]:
    """Return the middle of Wilson's interval of a rate, and the half of its width."""
    rate, z2 = errors / requests, z * z / requests
    spread = z * math.sqrt(rate * (1 - rate) / requests + z2 / (4 * requests))
    return (rate + z2 / 2) / (1 + z2), spread / (1 + z2)


def unfounded(guard: Guard, new: dict[str, float | None], old: dict[str, float | None]) -> str:
    """Return what is wrong with the evidence of a guard that has tripped; empty: it is sound."""
    requests, errors = int(new["requests"] or 0), int(new["errors"] or 0)
    if requests < guard.min_samples:
        return f"it is of {requests} requests, and {guard.min_samples} are needed"
    if errors >= guard.min_errors and lower_rate(errors, requests) > guard.max_error_rate:
        return ""
    mine_s, theirs_s = new["latency_s"], old["latency_s"]
    slower = mine_s is not None and theirs_s is not None and mine_s > guard.max_latency_ratio * theirs_s
    if slower and int(old["requests"] or 0) >= guard.min_samples:
        return ""
    return f"{errors} of {requests} failed, and it took {mine_s} s where the old version took {theirs_s} s"
