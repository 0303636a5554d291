"""A guard trips for what is sure, doubts what looks bad, and never trips for bad luck.

Owns no state; chance comes from seeded generators.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from changeover.core import guard
from changeover.core.guard import SPELLS_MIN, Judgement, judge
from changeover.core.meter import SPELLS, Ended, Meter
from changeover.core.operations import Sample
from changeover.core.shift import Guard

USUAL = Guard()
SPELL_S = USUAL.window_s / SPELLS
RUNS = 200
"""So many seeded runs stand behind "in less than one of a hundred": one may trip."""


def ends(
    count: int, failed: int = 0, latency_s: float | None = 0.01, *, spells: int = 10, since_s: float = 0.0
) -> list[Ended]:
    """Return the ends of `count` requests, spread over so many spells, the failed ones first."""
    return [(since_s + number % spells * SPELL_S, latency_s, number < failed) for number in range(count)]


def judged(new: Sequence[Ended], old: Sequence[Ended], by: Guard = USUAL) -> Judgement:
    """Return what a guard says, of all ends."""
    return judge(by, in_spells(new), in_spells(old))


def in_spells(window: Sequence[Ended]) -> list[list[Ended]]:
    """Group ends as a meter does."""
    found: dict[int, list[Ended]] = {}
    for end in window:
        found.setdefault(int(end[0] / SPELL_S), []).append(end)
    return [found[number] for number in sorted(found)]


def mark(new: Sequence[Ended], old: Sequence[Ended], by: Guard = USUAL) -> str:
    """Return what a guard says in one word."""
    return judged(new, old, by).mark


# --- errors ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("failed", "of"), [(1, 1), (5, 5), (5, 20), (5, 25), (1, 20), (2, 20), (19, 19), (3, 100)])
def test_a_few_failures_hold_the_ramp_and_do_not_trip(failed: int, of: int) -> None:
    """Five of five, five of the first 25, one in 20, 19 of 19: it looks bad, and might be bad luck."""
    assert mark(ends(of, failed), ends(100)) == "doubtful"


@pytest.mark.parametrize(("failed", "of"), [(20, 20), (10, 20), (6, 20), (10, 100), (40, 1_000)])
def test_many_failures_trip(failed: int, of: int) -> None:
    """Twenty of twenty do, and so do six of twenty and ten of a hundred, where the old version has none."""
    assert mark(ends(of, failed), ends(100)) == "worse"
    assert mark(ends(of, failed), []) == "worse"


@pytest.mark.parametrize(("failed", "of"), [(0, 0), (0, 1), (0, 1_000), (2, 100), (20, 1_000)])
def test_what_is_allowed_is_fine(failed: int, of: int) -> None:
    """No requests, no failures, and failures up to `max_error_rate` hold nothing up."""
    assert mark(ends(of, failed), ends(100)) == "fine"


def test_a_version_that_fails_like_the_old_one_does_not_trip() -> None:
    """Where the old version fails on every tenth, the new one may fail on every fifth, and not on every third."""
    old = ends(1_000, 100)
    assert mark(ends(1_000, 100), old) == "fine"
    assert mark(ends(1_000, 220), old) == "fine"
    assert mark(ends(1_000, 240), old) == "doubtful"
    assert mark(ends(1_000, 333), old) == "worse"
    assert mark(ends(50, 50), ends(50, 50)) == "fine"


@pytest.mark.parametrize(("failed", "of"), [(1, 1), (1, 2), (2, 2)])
def test_an_old_version_with_hardly_a_request_excuses_nothing(failed: int, of: int) -> None:
    """One failure of one does not say that the old version always fails."""
    assert mark(ends(1_000, 1_000), ends(of, failed)) == "worse"


@given(samples=st.integers(1, 200), failures=st.integers(1, 50), of=st.integers(1, 400), failed=st.integers(0, 400))
def test_below_the_least_samples_and_failures_it_never_trips(samples: int, failures: int, of: int, failed: int) -> None:
    """`min_samples` and `min_errors` are both conditions, whatever they are set to."""
    by = Guard(min_samples=samples, min_errors=failures)
    failed = min(of, failed)
    if of < samples or failed < failures:
        assert mark(ends(of, failed), ends(500), by) != "worse"


@given(of=st.integers(1, 2_000), failed=st.integers(0, 2_000))
def test_the_least_rate_is_below_the_seen_one(of: int, failed: int) -> None:
    """Wilson's bound lies in [0, rate], so a guard never trips for a rate that is within its limit."""
    failed = min(of, failed)
    assert 0.0 <= guard.lower_rate(failed, of) <= failed / of + 1e-12


def test_the_least_rate_is_that_of_the_book() -> None:
    """Values of Wilson's lower bound at z = 2.576, worked out by hand."""
    assert guard.lower_rate(0, 50) == 0.0
    assert guard.lower_rate(20, 20) == pytest.approx(20 / (20 + 2.576**2))
    assert guard.lower_rate(10, 100) == pytest.approx(0.0460, abs=5e-4)


# --- latency --------------------------------------------------------------------------------------------------------


def test_three_times_the_latency_trips() -> None:
    """30 ms against 10 ms is over the ratio of 2; 19 ms is not."""
    assert mark(ends(100, latency_s=0.030), ends(100)) == "worse"
    assert mark(ends(100, latency_s=0.019), ends(100)) == "fine"
    assert mark(ends(100, latency_s=0.019), ends(100), Guard(max_latency_ratio=1.5)) == "worse"


def test_noise_below_the_slack_does_not_trip() -> None:
    """A tenth of a millisecond against one is nine times as much, and no difference to anybody."""
    old = ends(100, latency_s=0.0001)
    assert mark(ends(100, latency_s=0.0010), old) == "fine"
    assert mark(ends(100, latency_s=0.0012), old) == "worse"
    assert mark(ends(100, latency_s=0.0010), old, Guard(latency_slack_s=0.0005)) == "worse"
    assert mark(ends(100, latency_s=0.0010), ends(100, latency_s=0.0)) == "fine"


def test_five_slow_requests_of_twenty_do_not_trip() -> None:
    """With twenty samples five may take any time; with six of twenty it is sure."""
    slow, old = ends(5, latency_s=10.0), ends(20)
    assert mark(slow + ends(15), old) == "fine"
    assert mark(ends(6, latency_s=10.0) + ends(14), old) == "worse"


@pytest.mark.parametrize(("new", "old"), [(19, 100), (100, 19), (0, 100), (100, 0)])
def test_latency_needs_samples_of_both(new: int, old: int) -> None:
    """With fewer than `min_samples` answers of either version nothing is said of latency."""
    assert mark(ends(new, latency_s=10.0), ends(old)) == "fine"


def test_a_doubt_about_failures_hides_no_slowness() -> None:
    """A version that fails a little more often than it may, and is a hundred times as slow, is worse."""
    assert mark(ends(100, 3), ends(100)) == "doubtful"
    assert mark(ends(100, 3, latency_s=1.0), ends(100)) == "worse"


def test_one_stop_of_the_machine_does_not_trip() -> None:
    """A hundred slow requests in two spells are no more than two samples; in three they are a slow version."""
    usual = ends(20)
    for spells in (1, 2):
        assert mark(usual + ends(100, latency_s=1.0, spells=spells), ends(100)) == "fine"
    assert mark(usual + ends(100, latency_s=1.0, spells=SPELLS_MIN), ends(100)) == "worse"


def test_a_spell_that_was_as_bad_for_the_old_version_does_not_trip() -> None:
    """What many of the old version's answers were like in its own worst quarter of a second is the machine."""
    new = ends(100, latency_s=0.045)
    for many, said in ((19, "worse"), (20, "fine")):
        old = ends(900) + ends(many, latency_s=0.045, spells=1, since_s=5.0)
        assert mark(new, old) == said


def test_failed_requests_say_nothing_of_latency() -> None:
    """How long it took to fail, or an end without a latency, is left out on both sides."""
    slow_failures = [(0.0, 10.0, True)] * 2
    assert mark(slow_failures + ends(198), ends(100)) == "fine"
    assert mark(ends(100, latency_s=None), ends(100)) == "fine"
    assert mark(ends(100, latency_s=10.0), ends(100, latency_s=None)) == "fine"
    assert mark(ends(100, latency_s=10.0), ends(110, 100)) == "fine"


@given(quantile=st.floats(0.01, 1.0), count=st.integers(1, 5_000))
def test_ranks_are_ranks(quantile: float, count: int) -> None:
    """The index of a quantile is in the list, and the one that is sure is never above it."""
    assert 0 <= guard.lower_rank(quantile, count) <= guard.rank(quantile, count) < count


def test_the_quantile_is_the_one_of_the_guard() -> None:
    """Of the latencies 1 to 100 ms the median is 50, the 95 % quantile 95, and the largest 100."""
    window = [(0.0, number / 1e3, False) for number in range(100, 0, -1)]
    found = [guard.sample(Guard(quantile=q), window).latency_s for q in (0.5, 0.95, 1.0)]
    assert found == [0.050, 0.095, 0.100]


# --- the evidence ---------------------------------------------------------------------------------------------------


def test_the_evidence_of_failures_has_the_right_numbers() -> None:
    """How many of how many, of both versions, as numbers and in the sentence."""
    verdict = judged(ends(100, 10), ends(200)).verdict
    assert verdict.new == Sample(100, 10, 0.01)
    assert verdict.old == Sample(200, 0, 0.01)
    assert "10 of 100 requests failed (10.0%, at most 2.0% may; of the version before 0 of 200)" in verdict.reason
    assert "at most 26.1% may; of the version before 20 of 200" in judged(ends(100, 90), ends(200, 20)).verdict.reason


def test_the_evidence_of_latency_has_the_right_numbers() -> None:
    """The quantile of both versions, as numbers and in the sentence."""
    verdict = judged(ends(100, latency_s=0.045), ends(50)).verdict
    assert (verdict.new, verdict.old) == (Sample(100, 0, 0.045), Sample(50, 0, 0.01))
    assert "the 95% latency is 45 ms" in verdict.reason
    assert "of the version before 10 ms, and 20 ms is allowed" in verdict.reason


def test_nothing_is_no_evidence() -> None:
    """Two empty windows are fine, with zeros and unknown latencies."""
    nothing = judge(USUAL, [], [])
    assert (nothing.mark, nothing.verdict.new, nothing.verdict.old) == ("fine", Sample(0, 0, None), Sample(0, 0, None))
    assert nothing.verdict.new.error_rate == 0.0


def test_a_sliding_window_forgets() -> None:
    """Failures that are older than the window count no more."""
    meter = Meter(USUAL.window_s)
    for number in range(20):
        meter.note(number / 10, 0.01, failed=True)
    for number in range(20):
        meter.note(9.0 + number / 10, 0.01, failed=False)
    windows = {now: meter.spells(now) for now in (10.95, 11.6, 11.8)}
    failures = [sum(failed for spell in window for _, _, failed in spell) for window in windows.values()]
    assert failures == [10, 2, 0]
    assert judge(USUAL, windows[10.95], in_spells(ends(100))).mark == "worse"
    assert judge(USUAL, windows[11.8], in_spells(ends(100))).mark == "fine"


# --- by chance ------------------------------------------------------------------------------------------------------

RATE_HZ = 40.0
Draw = Callable[[random.Random], float | None]
ALIKE = [(0.002, 1), (0.01, 1), (0.02, 4), (0.05, 1), (0.1, 1), (0.2, 1), (0.6, 1), (0.05, 5)]
"""Rates of failure that both versions have, and how many requests the old one gets for one of the new."""


@attrs.frozen
class Side:
    """One version in a run: how often it fails, how long it takes, how much of the traffic it has."""

    fails: float = 0.0
    draw_s: Draw = lambda _chance: None
    weight: int = 1


def trips(seed: int, new: Side, old: Side, requests: int) -> bool:
    """Send `requests` to the new version, forty a second; the guard looks after every 20th."""
    chance = random.Random(seed)
    windows: tuple[list[Ended], list[Ended]] = ([], [])
    for number in range(1, requests + 1):
        for window, side in zip(windows, (new, old), strict=True):
            at_s = number / RATE_HZ
            window += [(at_s, side.draw_s(chance), chance.random() < side.fails) for _ in range(side.weight)]
        if number % 20 == 0 and mark(*windows) == "worse":
            return True
    return False


def spread(sigma: float, median_s: float = 0.010) -> Draw:
    """Return a latency that varies as those of servers do: log-normally."""
    return lambda chance: median_s * chance.lognormvariate(0.0, sigma)


def rate_of_trips(new: Side, old: Side, requests: int) -> float:
    """Return in which share of many seeded runs the guard trips."""
    return sum(trips(seed, new, old, requests) for seed in range(RUNS)) / RUNS


@pytest.mark.parametrize(("rate", "weight"), ALIKE)
def test_a_version_that_fails_as_often_as_the_old_one_does_not_trip(rate: float, weight: int) -> None:
    """In less than one of a hundred runs, though the guard looks again and again."""
    assert rate_of_trips(Side(rate), Side(rate, weight=weight), 200) < 0.01


@pytest.mark.parametrize("sigma", [0.1, 0.5, 1.0, 1.5])
def test_a_version_that_is_as_slow_as_the_old_one_does_not_trip(sigma: float) -> None:
    """In less than one of a hundred runs, whether latencies vary by a tenth or by powers of ten."""
    assert rate_of_trips(Side(draw_s=spread(sigma)), Side(draw_s=spread(sigma)), 200) < 0.01


@pytest.mark.parametrize("rate", [0.01, 0.05, 0.1])
def test_a_version_that_fails_ten_times_as_often_trips(rate: float) -> None:
    """In more than 99 of a hundred runs, within 400 requests."""
    assert rate_of_trips(Side(10 * rate), Side(rate, weight=4), 400) > 0.99


@pytest.mark.parametrize("sigma", [0.1, 0.5, 1.0])
def test_a_version_that_is_ten_times_as_slow_trips(sigma: float) -> None:
    """In more than 99 of a hundred runs, within 200 requests."""
    assert rate_of_trips(Side(draw_s=spread(sigma, 0.1)), Side(draw_s=spread(sigma)), 200) > 0.99


@settings(derandomize=True, deadline=None)
@given(seed=st.integers(0, 2**32), rate=st.floats(0.0, 0.02), median_s=st.floats(1e-5, 1.0))
def test_one_window_of_a_good_version_is_no_reason(seed: int, rate: float, median_s: float) -> None:
    """Whatever the rate up to the limit and the latency: two windows of the same version never trip."""
    chance, draw = random.Random(seed), spread(0.3, median_s)
    new, old = ([(n / RATE_HZ, draw(chance), chance.random() < rate / 2) for n in range(200)] for _ in range(2))
    assert mark(new, old) != "worse"
