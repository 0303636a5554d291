"""Rankings: who is first, who is alike, and how far two of them agree."""

from __future__ import annotations

import pytest

from changeover_sim.protocol import ranks, subjects
from changeover_sim.protocol.published import PUBLISHED, RANKED
from changeover_sim.protocol.ranks import ranking, spearman
from tests.simulations.protocol.runs import cell, trial


@pytest.mark.parametrize(
    ("needs", "text"),
    [
        ((3, 1, 2, 4), "3 1 2 4"),
        ((5, 1, 1, 9), "3 1= 1= 4"),
        ((7, None, None, None), "1 2= 2= 2="),
        ((None, None, None, None), "1= 1= 1= 1="),
    ],
)
def test_the_fewest_schedules_come_first(needs: tuple[float | None, ...], text: str) -> None:
    """Those alike share a place, and who has found nothing comes behind everybody who has found something."""
    assert str(ranking(needs)) == text


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ((1, 2, 3, 4), (10, 20, 30, 40), 1.0),
        ((1, 2, 3, 4), (4, 3, 2, 1), -1.0),
        ((1, 2, 3, 4), (1, 2, 4, 3), 0.8),
        ((1, 2, 2, 4), (1, 2, 3, 4), 0.9486832980505138),  # scipy.stats.spearmanr
        ((1, 1, 1, 1), (1, 2, 3, 4), None),
    ],
)
def test_spearman(one: tuple[float, ...], other: tuple[float, ...], expected: float | None) -> None:
    """The coefficient is that of the textbook, ties included; an order against none has none."""
    found = spearman(ranking(one), ranking(other))
    assert found == (None if expected is None else pytest.approx(expected))


def test_what_was_missed_counts() -> None:
    """Whoever finds few bugs fast comes behind whoever finds all of them slowly."""
    few, all_ = cell("stack", "pos", 10, None, None), cell("stack", "random", 400, 500, 600)
    assert (few.mean, few.expected) == (10, 20_010)
    assert (all_.mean, all_.expected) == (500, 500)
    found = ranks.measured([cell("stack", "surw", 5), cell("stack", "pct-3", 9), few, all_])
    assert str(found) == "1 2 4 3"


def test_nothing_found_in_a_hurry_is_not_ranked() -> None:
    """A cell that ran out of time and found nothing may be better than the others, unless they need far fewer."""
    good = [cell("stack", policy, 5) for policy in RANKED]
    late = cell("stack", "random").with_trial(trial(0, 24, "time"))
    nothing = [cell("stack", policy).with_trial(trial(0, 9_000, "time")) for policy in RANKED]
    assert ranks.measured(good) is not None
    assert ranks.measured([*good[:3], late]) is None
    assert ranks.measured([*good[:3], None]) is None
    assert ranks.measured(nothing) is None
    assert str(ranks.measured([*good[:3], late.with_trial(trial(1, 1, "time"))])) == "1= 1= 1= 4"
    assert str(ranks.measured([*good[:3], late.with_trial(trial(1, 76))])) == "1= 1= 1= 4"
    assert str(ranks.measured([*good[:2], *nothing[2:]])) == "1= 1= 3= 3="


def test_who_found_nothing_is_held_against_whoever_needs_the_most() -> None:
    """Five times that is enough; so are as many trials as were published, however short, and fewer are not."""
    others = [cell("stack", "surw", 5), cell("stack", "pct-3", 5), cell("stack", "pos", 50)]
    assert ranks.measured([*others, cell("stack", "random").with_trial(trial(0, 249, "time"))]) is None
    assert str(ranks.measured([*others, cell("stack", "random").with_trial(trial(0, 250, "time"))])) == "1= 1= 3 4"
    assert str(ranks.measured([*others, cell("stack", "random", *[None] * 20, cap=2)])) == "1= 1= 3 4"
    assert ranks.measured([*others, cell("stack", "random", *[None] * 19, cap=2)]) is None


def test_pairs_that_are_close_are_not_compared() -> None:
    """Of 10, 15, 40 and never, the first two may change places; the other five pairs may not."""
    said = ranking((10, 15, 40, None))
    assert ranks.clear_pairs(said, ranking((15, 10, 40, None))) == (5, 5)
    assert ranks.clear_pairs(said, ranking((10, 50, 40, None))) == (4, 5)
    assert ranks.clear_pairs(said, ranking((10, 15, None, None))) == (4, 5)
    assert ranks.clear_pairs(ranking((40, 10, 15, None)), ranking((7, 7, 7, 7))) == (0, 5)  # alike is no order


def test_the_published_figures_are_those_of_kernels_that_there_are() -> None:
    """Each has its kernel here and each policy its name; and reorder_10 ranks as its table has it."""
    assert set(PUBLISHED) <= set(subjects.subjects())
    assert {policy for figures in PUBLISHED.values() for policy in figures} <= set(subjects.POLICIES)
    assert str(ranks.published("reorder_10")) == "1 2 3= 3="
    assert str(ranks.published("account")) == "3 1= 1= 4"
    assert ranks.published("dining_3") is None
    assert ranks.published("starvation") is None
