"""A meter keeps the newest ends of requests, loses none of its counts, and is filled by any thread.

Owns no state.
"""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from changeover.core.meter import KEEP, Meter
from tests.support.threads import Crowd

TIMES = st.lists(st.floats(0.0, 100.0), max_size=60).map(sorted)


def filled(times: list[float]) -> Meter:
    """Return a meter with an end at each of these times."""
    meter = Meter()
    for number, at_s in enumerate(times):
        meter.note(at_s, number / 100, failed=number % 3 == 0)
    return meter


@settings(derandomize=True, deadline=None)
@given(times=TIMES, window_s=st.floats(0.1, 50.0), now=st.floats(0.0, 150.0))
def test_a_window_has_the_ends_that_are_younger_than_it(times: list[float], window_s: float, now: float) -> None:
    """Oldest first, each as it was noted; an end that is just as old as the window is out."""
    meter = filled(times)
    inside = [number for number, at_s in enumerate(times) if at_s > now - window_s]
    expected = [(times[number], number / 100, number % 3 == 0) for number in inside]
    assert list(meter.ends(window_s, now)) == expected


@settings(derandomize=True, deadline=None)
@given(times=TIMES, window_s=st.floats(0.1, 50.0))
def test_without_a_time_the_window_ends_with_the_newest(times: list[float], window_s: float) -> None:
    """A version that gets no requests any more is judged by the last it had."""
    meter = filled(times)
    assert meter.ends(window_s) == (meter.ends(window_s, times[-1]) if times else ())
    assert len(meter.ends(window_s)) > 0 or not times


def test_it_is_bounded() -> None:
    """Of more ends than it keeps the newest stay, and all are counted."""
    meter = Meter()
    for number in range(KEEP + 100):
        meter.note(float(number), None, failed=False)
    found = meter.ends(1e9)
    assert (len(found), found[0][0], found[-1][0]) == (KEEP, 100.0, KEEP + 99.0)
    assert meter.noted == KEEP + 100


def test_who_wants_to_hear_of_failures_hears_of_each() -> None:
    """The call comes after the failure is in the window, and not for an answer."""
    seen: list[int] = []
    meter = Meter(lambda: seen.append(len(meter.ends(10.0))))
    for failed in (False, True, False, True):
        meter.note(1.0, 0.1, failed=failed)
    assert seen == [2, 4]


def test_at_rest_it_only_counts() -> None:
    """After the comparison nobody is told of failures and nothing is kept; what was on its way is still counted."""
    seen: list[str] = []
    meter = Meter(lambda: seen.append("failed"))
    meter.note(1.0, 0.1, failed=True)
    meter.note_fallback()
    meter.rest()
    meter.note(2.0, 0.1, failed=True)
    meter.note_fallback()
    assert (seen, meter.ends(10.0), meter.noted, meter.fallbacks) == (["failed"], (), 2, 2)


def test_reading_a_count_does_not_change_it() -> None:
    """`noted` and `fallbacks` may be read as often as one likes."""
    meter = filled([1.0, 2.0])
    meter.note_fallback()
    assert [(meter.noted, meter.fallbacks) for _ in range(3)] == [(2, 1)] * 3


def test_many_threads_fill_it_and_one_reads() -> None:
    """No end is lost, and a reader sees whole windows all the while."""
    meter, crowd, each = Meter(), Crowd(), 3_000
    failures: list[int] = []
    meter.on_failure = lambda: failures.append(1)

    def fill(number: int) -> None:
        for turn in range(each):
            meter.note(float(turn), float(number), failed=turn % 10 == 0)
            meter.note_fallback()

    def read() -> None:
        for _ in range(300):
            assert all(len(end) == 3 for end in meter.ends(1e9))

    for number in range(4):
        crowd.add(fill, number)
    crowd.add(read)
    crowd.start()
    crowd.join()
    assert (meter.noted, meter.fallbacks, len(failures)) == (4 * each, 4 * each, 4 * each // 10)
    assert len(meter.ends(1e9)) == KEEP
