"""What a version occupies, what is done for its bytes to come back, and which measurements say something."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from changeover.core.occupancy import ENOUGH, WORTH_BYTES, Overlaps, Size, Span, Step, next_step, occupied
from tests.engine.core.interleave import Case, Explorer, Make, Pause, Violation

MB = 2**20
HINT: Size = (7, "hint")
BYTES = st.none() | st.integers(0, 500 * MB)
GROWN = st.none() | st.integers(-500 * MB, 500 * MB)

# --- what a version occupies ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stated", "grown", "size"),
    [
        (5, 9, (5, "model")),
        (0, 9, (0, "model")),
        (None, 9, (9, "resident_set")),
        (None, 7, HINT),
        (None, 6, HINT),
        (None, 0, HINT),
        (None, -9, HINT),
        (None, None, HINT),
    ],
)
def test_who_says_what_a_version_occupies(stated: int | None, grown: int | None, size: Size) -> None:
    """The model's own figure goes first, then what the process grew by where that is more than the hint, then that."""
    assert occupied(stated, grown, HINT) == size


@pytest.mark.parametrize("guess", [(7, "source_size"), (None, "unknown")])
def test_what_was_measured_goes_before_the_size_of_a_file(guess: Size) -> None:
    """A file may be larger than what is made of it; nobody vouches for it as for a hint."""
    assert occupied(None, 6, guess) == (6, "resident_set")
    assert occupied(None, 0, guess) == guess


@given(stated=BYTES, grown=GROWN)
def test_nothing_occupies_less_than_nothing(stated: int | None, grown: int | None) -> None:
    """However the process shrank meanwhile, no figure is below 0."""
    size, _ = occupied(stated, grown, (None, "unknown"))
    assert size is None or size >= 0


# --- what to do for it to come back ---------------------------------------------------------------------------------

STEPS: list[tuple[str, dict[str, Any], Step | None, Step | None]] = [
    # what is known; what is done first; what is done behind a trim
    ("all came back", {"returned": 100 * MB}, None, None),
    ("as good as all", {"returned": 100 * MB - WORTH_BYTES + 1}, None, None),
    ("a leftover that only a trim is worth", {"returned": 95 * MB}, "trim", None),
    ("the load left something beside the model", {"grown": 110 * MB, "returned": 100 * MB}, "trim", None),
    ("nothing came back", {"returned": 0}, "trim", "collect"),
    ("nothing came back, and it exists", {"returned": 0, "alive": True}, "trim", "collect"),
    ("it exists, and all came back", {"returned": 100 * MB, "alive": True}, None, None),
    ("the model says more than the load took", {"grown": 30 * MB, "returned": 30 * MB}, "trim", None),
    ("the same, and less came back than that", {"grown": 30 * MB, "returned": 20 * MB}, "trim", "collect"),
    ("loaded into what was free", {"grown": -MB, "returned": 0}, "trim", None),
    ("the same, and it exists", {"grown": -MB, "returned": 0, "alive": True}, "trim", "collect"),
    ("measured beside others", {"returned": None}, "trim", None),
    ("the same, and it exists", {"returned": None, "alive": True}, "trim", "collect"),
    ("nobody knows its size", {"expected": None, "grown": None, "returned": 5 * MB}, "trim", None),
    ("the same, and it exists", {"expected": None, "grown": None, "returned": 0, "alive": True}, "trim", "collect"),
    ("small", {"expected": WORTH_BYTES - 1, "grown": 50 * MB, "returned": 0, "alive": True}, None, None),
    ("hardly worth it, and little is missing", {"expected": 2 * MB, "grown": 2 * MB, "returned": MB + 1}, None, None),
]


@pytest.mark.parametrize(("known", "first", "second"), [row[1:] for row in STEPS], ids=[row[0] for row in STEPS])
def test_what_is_done_next(known: dict[str, Any], first: Step | None, second: Step | None) -> None:
    """A trim where anything is missing, a collection where much is and something is known to be there; then no more."""
    told = {"expected": 100 * MB, "grown": 100 * MB, "alive": False} | known
    assert [ask(done, **told) for done in (None, "trim", "collect")] == [first, second, None]


def ask(
    done: Step | None, *, expected: int | None, grown: int | None, returned: int | None, alive: bool
) -> Step | None:  # fmt: skip
    """Ask what is next."""
    return next_step(done, expected_bytes=expected, grown_bytes=grown, returned_bytes=returned, is_alive=alive)


@given(expected=BYTES, grown=GROWN, returned=BYTES, alive=st.booleans(), more=BYTES)
def test_a_collection_is_the_last_resort(
    expected: int | None, grown: int | None, returned: int | None, alive: bool, more: int | None
) -> None:
    """It never comes before a trim, never for a small model, never where 90 % are back; and nothing comes after it."""
    first = ask(None, expected=expected, grown=grown, returned=returned, alive=alive)
    assert first in {None, "trim"}
    assert ask("collect", expected=expected, grown=grown, returned=more, alive=alive) is None
    if ask("trim", expected=expected, grown=grown, returned=more, alive=alive) == "collect":
        assert expected is None or expected >= WORTH_BYTES
        assert expected is None or more is None or more < ENOUGH * expected
        assert alive or (expected is not None and more is not None)


# --- which measurements say something -------------------------------------------------------------------------------


def test_alone_is_who_nobody_ran_beside() -> None:
    """What runs before or after it does no harm."""
    overlaps = Overlaps()
    for _ in range(3):
        span = overlaps.begin()
        assert overlaps.is_alone(span)
        overlaps.end(span)


@pytest.mark.parametrize("first_ends", [True, False])
def test_of_two_that_overlap_neither_was_alone(first_ends: bool) -> None:
    """Neither the earlier nor the later one is alone, also when the other has ended."""
    overlaps = Overlaps()
    first, second = overlaps.begin(), overlaps.begin()
    assert not overlaps.is_alone(first)
    assert not overlaps.is_alone(second)
    gone, left = (first, second) if first_ends else (second, first)
    overlaps.end(gone)
    assert not overlaps.is_alone(left)


def test_one_inside_another_spoils_both_and_no_third() -> None:
    """A short one inside a long one leaves its mark on that, and none on what comes when both have ended."""
    overlaps = Overlaps()
    long = overlaps.begin()
    overlaps.end(overlaps.begin())
    assert not overlaps.is_alone(long)
    overlaps.end(long)
    overlaps.end(long)
    assert overlaps.is_alone(overlaps.begin())


def test_a_fork_leaves_nothing_going_on() -> None:
    """In a forked process what its parent did is forgotten."""
    overlaps = Overlaps()
    overlaps.begin()
    overlaps.orphan()
    assert overlaps.is_alone(overlaps.begin())


@settings(derandomize=True, deadline=None)
@given(orders=st.lists(st.integers(0, 4), max_size=30))
def test_alone_means_alone(orders: list[int]) -> None:
    """In whatever order pieces of work begin and end, one is alone exactly where it never ran beside another."""
    overlaps, open_now, met = Overlaps(), dict[int, Span](), set[int]()
    for number in orders:
        if number in open_now:
            assert overlaps.is_alone(open_now[number]) == (number not in met)
            overlaps.end(open_now.pop(number))
            met.discard(number)
        else:
            open_now[number] = overlaps.begin()
            if len(open_now) > 1:
                met |= set(open_now)


def beside_each_other(kind: type[Overlaps], threads: int) -> Make:
    """Return cases in which so many threads each begin, measure and end once."""

    def make(pause: Pause) -> Case:
        overlaps, working, met, wrong = kind(), set[int](), set[int](), list[str]()

        def work(me: int) -> None:
            span = overlaps.begin()
            working.add(me)
            if len(working) > 1:
                met.update(working)
            pause()
            has_met = me in met  # when it was measured; whoever comes later has no part in that
            if overlaps.is_alone(span) and has_met:
                wrong.append(f"thread {me} takes itself to be alone")
            working.discard(me)
            overlaps.end(span)

        def check() -> Iterator[str]:
            yield from wrong
            if overlaps._open:
                yield "something never ends"

        return Case([program(work, me) for me in range(threads)], check)

    return make


def program(work: Callable[[int], None], me: int) -> Callable[[], None]:
    """Return what one thread does."""
    return lambda: work(me)


def test_nobody_takes_himself_to_be_alone_who_is_not() -> None:
    """Under every interleaving of their byte code with three preemptions, two threads that overlap see it."""
    with Explorer(Overlaps, threads=3) as explorer:
        assert explorer.explore(beside_each_other(Overlaps, 2), preemptions=3) > 100
        assert explorer.explore(beside_each_other(Overlaps, 3), preemptions=1) > 100


class CountsFirst(Overlaps):
    """Counts who begins before it enters him."""

    def begin(self) -> Span:
        span = Span()
        span.number = next(self._begun)
        self._open[span] = None
        span.began_alone = len(self._open) == 1
        return span


class LooksOnce(Overlaps):
    """Looks only when a piece of work begins."""

    def is_alone(self, span: Span) -> bool:
        return span.began_alone


@pytest.mark.parametrize("kind", [CountsFirst, LooksOnce])
def test_a_count_in_the_wrong_order_is_found(kind: type[Overlaps]) -> None:
    """The check above fails for one that counts before it enters, and for one that looks only once."""
    with Explorer(Overlaps, kind, threads=2) as explorer, pytest.raises(Violation, match="takes itself to be alone"):
        explorer.explore(beside_each_other(kind, 2), preemptions=3)
