"""Is the new version worse than the old? Windows of ended requests in, a verdict with its evidence out. Pure.

The lower bound of an error rate is Wilson's (1927); that of a quantile is an order statistic (David and Nagaraja,
"Order Statistics", 7.1). Both are one-sided at 99.5 %: chance alone seldom trips a guard that looks again and again.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import attrs

from changeover.core.meter import Ended
from changeover.core.operations import Sample, Verdict
from changeover.core.shift import Guard

Z = 2.576
"""Standard deviations between an estimate and its bound: 99.5 %, one-sided."""

Z_OLD = 1.28
"""The same for the rate of the old version, which is no more certain: 90 %."""

SPELLS_MIN = 3
"""Slow answers speak for a slow version only where so many spells of the window have them."""

Spells = Sequence[Sequence[Ended]]
"""The ends in a window, spell by spell, as `Meter.spells` gives them."""


@attrs.frozen
class Judgement:
    """What a guard says at one moment."""

    mark: Literal["fine", "doubtful", "worse"]
    """`doubtful`: it looks worse, and there are too few samples to know; a ramp does not rise meanwhile."""
    verdict: Verdict


def judge(guard: Guard, new: Spells, old: Spells, *, errors_only: bool = False) -> Judgement:
    """Compare the windows of two versions; by their errors only where there is no time to sort all the latencies."""
    mine, theirs = _counted(new), _counted(old)
    known = max(theirs.requests, guard.min_samples)  # of a version that was hardly asked one failure says nothing
    limit = max(guard.max_error_rate, guard.max_error_rate_ratio * upper_rate(theirs.errors, known))
    doubtful = mine.error_rate > limit
    fails_more = _fails_more(guard, mine, limit)
    if errors_only and not fails_more:
        return Judgement("doubtful" if doubtful else "fine", Verdict(_errors(mine, theirs, limit), mine, theirs))
    mine, theirs = sample(guard, _all(new)), sample(guard, _all(old))
    slow = None if fails_more else _slower(guard, new, old, mine, theirs)
    verdict = Verdict(slow or _errors(mine, theirs, limit), mine, theirs)
    return Judgement("worse" if fails_more or slow else "doubtful" if doubtful else "fine", verdict)


def _counted(spells: Spells) -> Sample:
    """Sum up a window without its latencies."""
    failures = sum(end[2] for spell in spells for end in spell)
    return Sample(sum(map(len, spells)), failures, None)


def _errors(mine: Sample, theirs: Sample, limit: float) -> str:
    return (
        f"{mine.errors} of {mine.requests} requests failed ({mine.error_rate:.1%}, at most {limit:.1%} may; of the "
        f"version before {theirs.errors} of {theirs.requests})"
    )


def sample(guard: Guard, ends: Sequence[Ended]) -> Sample:
    """Sum up a window, or a part of one."""
    times = latencies(ends)
    failures = sum(failed for _, _, failed in ends)
    return Sample(len(ends), failures, times[rank(guard.quantile, len(times))] if times else None)


def latencies(ends: Sequence[Ended]) -> list[float]:
    """Return how long the answered requests took, in order of size."""
    return sorted(latency_s for _, latency_s, failed in ends if not failed and latency_s is not None)


def _all(spells: Spells) -> list[Ended]:
    return [end for spell in spells for end in spell]


def _fails_more(guard: Guard, mine: Sample, limit: float) -> bool:
    """Return whether it is sure that more fail than may."""
    enough = mine.requests >= guard.min_samples and mine.errors >= guard.min_errors
    return enough and lower_rate(mine.errors, mine.requests) > limit


def _slower(guard: Guard, new: Spells, old: Spells, mine: Sample, theirs: Sample) -> str | None:
    """Return in words that the new version is slower, where that is sure."""
    times, answered_before = latencies(_all(new)), len(latencies(_all(old)))
    if len(times) < guard.min_samples or answered_before < guard.min_samples or theirs.latency_s is None:
        return None
    limit_s = max(
        guard.max_latency_ratio * theirs.latency_s, theirs.latency_s + guard.latency_slack_s, _worst_spell(guard, old)
    )
    at_least_s = times[lower_rank(guard.quantile, len(times))]
    # One stop of the machine delays whoever is in flight, and those samples know no more than a single one.
    slow_spells = sum(any(latency_s > limit_s for latency_s in latencies(spell)) for spell in new)
    if at_least_s <= limit_s or slow_spells < SPELLS_MIN:
        return None
    return (
        f"the {guard.quantile:.0%} latency is {(mine.latency_s or 0) * 1e3:.3g} ms, at least {at_least_s * 1e3:.3g} ms;"
        f" of the version before {theirs.latency_s * 1e3:.3g} ms, and {limit_s * 1e3:.3g} ms is allowed"
    )


def _worst_spell(guard: Guard, old: Spells) -> float:
    """Return the old version's latency quantile in its worst spell: so slow is the machine itself at times."""
    spells = [sample(guard, spell) for spell in old if len(spell) >= guard.min_samples]
    return max((spell.latency_s or 0.0 for spell in spells), default=0.0)


def lower_rate(errors: int, requests: int) -> float:
    """Return the least error rate that so many errors speak for: Wilson's lower bound."""
    middle, spread = _wilson(errors, requests, Z)
    return max(0.0, middle - spread)


def upper_rate(errors: int, requests: int) -> float:
    """Return the most that the old version's rate may well be (90 %, one-sided), 0 where nothing of it failed."""
    if errors == 0:
        return 0.0
    middle, spread = _wilson(errors, requests, Z_OLD)
    return min(1.0, middle + spread)


def _wilson(errors: int, requests: int, z: float) -> tuple[float, float]:
    """Return the middle of Wilson's interval of a rate, and the half of its width."""
    rate, z2 = errors / requests, z * z / requests
    spread = z * math.sqrt(rate * (1 - rate) / requests + z2 / (4 * requests))
    return (rate + z2 / 2) / (1 + z2), spread / (1 + z2)


def rank(quantile: float, count: int) -> int:
    """Return the index of a quantile in `count` sorted values."""
    return min(count - 1, max(0, math.ceil(quantile * count) - 1))


def lower_rank(quantile: float, count: int) -> int:
    """Return the index of the value that the true quantile hardly lies below; with 20 values, five may be anything."""
    spread = Z * math.sqrt(count * quantile * (1 - quantile))
    return max(0, math.floor(quantile * count - spread) - 2)
