"""A meter keeps the newest ends of requests, loses none of its counts, and is filled by any thread.

Owns no state.
"""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from changeover.core.meter import KEEP, SPELLS, Ended, Meter
from tests.support.threads import Crowd

WINDOW_S = 10.0
SPELL_S = WINDOW_S / SPELLS
TIMES = st.lists(st.integers(0, 400).map(lambda number: number / 8), max_size=60).map(sorted)


def filled(times: list[float]) -> Meter:
    """Return a meter with an end at each of these times."""
    meter = Meter(WINDOW_S)
    for number, at_s in enumerate(times):
        meter.note(at_s, number / 100, failed=number % 3 == 0)
    return meter


def ends(meter: Meter, now: float | None = None) -> list[Ended]:
    """Return every end of the window."""
    return [end for spell in meter.spells(now) for end in spell]


@settings(derandomize=True, deadline=None)
@given(times=TIMES, later_s=st.integers(0, 160).map(lambda number: number / 8))
def test_a_window_has_the_ends_that_are_younger_than_it(times: list[float], later_s: float) -> None:
    """Oldest first, each as it was noted; of the oldest spell, which the window cuts, nothing is left."""
    meter, now = filled(times), max(times, default=0.0) + later_s
    first = (int(now / SPELL_S) - SPELLS + 1) * SPELL_S
    inside = [number for number, at_s in enumerate(times) if at_s >= first]
    assert ends(meter, now) == [(times[number], number / 100, number % 3 == 0) for number in inside]
    assert all(now - WINDOW_S <= end[0] <= now for end in ends(meter, now))


@settings(derandomize=True, deadline=None)
@given(times=TIMES)
def test_without_a_time_the_window_ends_with_the_newest(times: list[float]) -> None:
    """A version that gets no requests any more is judged by the last it had."""
    meter = filled(times)
    assert ends(meter) == (ends(meter, times[-1]) if times else [])
    assert len(ends(meter)) > 0 or not times


@settings(derandomize=True, deadline=None)
@given(times=TIMES)
def test_a_spell_is_a_fortieth_of_the_window(times: list[float]) -> None:
    """No spell is empty or longer, each end is in one, and they come in the order of time."""
    spells = filled(times).spells()
    numbers = [{int(at_s / SPELL_S) for at_s, _, _ in spell} for spell in spells]
    assert all(len(number) == 1 for number in numbers)
    assert [next(iter(number)) for number in numbers] == sorted({next(iter(number)) for number in numbers})


def test_it_is_bounded() -> None:
    """Of more ends in a spell than it keeps the first ones stay, and all are counted; so many spells are kept."""
    meter = Meter(WINDOW_S)
    for spell in range(3 * SPELLS):
        for number in range(KEEP + 10):
            meter.note(spell * SPELL_S, float(number), failed=False)
    assert [len(spell) for spell in meter.spells()] == [KEEP] * SPELLS
    assert meter.spells()[-1][-1] == ((3 * SPELLS - 1) * SPELL_S, KEEP - 1.0, False)
    assert meter.noted == 3 * SPELLS * (KEEP + 10)


def test_two_versions_are_compared_over_the_same_time() -> None:
    """Ten thousand requests in the window reach back as far as ten do."""
    busy, idle = Meter(WINDOW_S), Meter(WINDOW_S)
    for number in range(10_000):
        busy.note(number / 1_000, 0.01, failed=False)
    for number in range(10):
        idle.note(float(number), 0.01, failed=False)
    assert ends(busy)[0][0] == ends(idle)[0][0] == 0.0


def test_who_wants_to_hear_of_failures_hears_of_each() -> None:
    """The call comes after the failure is in the window, and not for an answer."""
    seen: list[int] = []
    meter = Meter(WINDOW_S, lambda: seen.append(len(ends(meter))))
    for failed in (False, True, False, True):
        meter.note(1.0, 0.1, failed=failed)
    assert seen == [2, 4]


def test_at_rest_it_only_counts() -> None:
    """After the comparison nobody is told of failures and nothing is kept; what was on its way is still counted."""
    seen: list[str] = []
    meter = Meter(WINDOW_S, lambda: seen.append("failed"))
    meter.note(1.0, 0.1, failed=True)
    meter.note_fallback()
    meter.rest()
    meter.note(2.0, 0.1, failed=True)
    meter.note_fallback()
    assert (seen, meter.spells(), meter.noted, meter.fallbacks) == (["failed"], (), 2, 2)


def test_reading_a_count_does_not_change_it() -> None:
    """`noted` and `fallbacks` may be read as often as one likes."""
    meter = filled([1.0, 2.0])
    meter.note_fallback()
    assert [(meter.noted, meter.fallbacks) for _ in range(3)] == [(2, 1)] * 3


def test_many_threads_fill_it_and_one_reads() -> None:
    """No count is lost, and a reader sees whole windows all the while."""
    meter, crowd, each = Meter(WINDOW_S), Crowd(), 3_000
    failures: list[int] = []
    meter.on_failure = lambda: failures.append(1)

    def fill(number: int) -> None:
        for turn in range(each):
            meter.note(turn / 100, float(number), failed=turn % 10 == 0)
            meter.note_fallback()

    def read() -> None:
        for _ in range(300):
            assert all(len(end) == 3 for end in ends(meter))

    for number in range(4):
        crowd.add(fill, number)
    crowd.add(read)
    crowd.start()
    crowd.join()
    assert (meter.noted, meter.fallbacks, len(failures)) == (4 * each, 4 * each, 4 * each // 10)
    assert all(len(spell) <= KEEP + 4 for spell in meter.spells())
