"""The order of versions, and which of them a policy wants."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from changeover.core.policy import ModelPolicy, newest_first, order_key
from changeover.core.shift import Shift
from changeover.errors import InvalidValue

IN_ORDER = [
    ["1", "2", "10"],
    ["1.9", "1.10", "1.10.1", "2"],
    ["v1", "v2", "v11"],
    # The example of Semantic Versioning 2.0.0, section 11.
    ["1.0.0-alpha", "1.0.0-alpha.1", "1.0.0-alpha.beta", "1.0.0-beta", "1.0.0-beta.2", "1.0.0-beta.11", "1.0.0-rc.1",
     "1.0.0"],
    ["2024-01-31", "2024-02-01", "2024-10-01"],
    ["run9", "run10"],
    ["canary", "0.1"],
]  # fmt: skip


@pytest.mark.parametrize("versions", IN_ORDER, ids=" < ".join)
def test_versions_are_in_the_order_that_people_read(versions: list[str]) -> None:
    """Numbers count as numbers, a release comes after its candidates, and words before all numbers."""
    assert newest_first(sorted(versions)) == versions[::-1]


def test_zeros_at_the_end_and_build_numbers_do_not_count() -> None:
    """1, 1.0 and 1.0.0+7 are the same release; only then the text decides, so that there is one order."""
    assert len({order_key(version)[:-1] for version in ("1", "1.0", "1.0.0+7", "v1.0")}) == 1
    assert newest_first(["1.0", "1"]) == newest_first(["1", "1.0"])


@given(versions=st.lists(st.text(st.sampled_from("v019.-+ab"), min_size=1), min_size=1, unique=True))
def test_any_words_have_one_order(versions: list[str]) -> None:
    """Whatever the words are, the order is total and does not depend on how they came."""
    ordered = newest_first(versions)
    assert sorted(ordered) == sorted(versions)
    assert newest_first(ordered[::-1]) == ordered


@pytest.mark.parametrize(
    ("policy", "wanted"),
    [
        (ModelPolicy(), ()),
        (ModelPolicy("latest"), ("10",)),
        (ModelPolicy("latest", 2), ("10", "9")),
        (ModelPolicy("latest", 9), ("10", "9", "1")),
        (ModelPolicy("all"), ("10", "9", "1")),
        (ModelPolicy("specific", versions=["1", "7"]), ("1",)),
    ],
)
def test_a_policy_names_what_shall_be_loaded(policy: ModelPolicy, wanted: tuple[str, ...]) -> None:
    """None, the newest, all, or some; newest first, and never one that is not registered."""
    assert policy.wanted(["1", "10", "9"]) == wanted


@pytest.mark.parametrize(
    "fields",
    [{"load": "newest"}, {"count": 0}, {"versions": "12"}, {"versions": 12}, {"versions": [1]}, {"plan": "canary"}],
    ids=str,
)
def test_a_policy_that_makes_no_sense_is_refused_by_name(fields: dict[str, Any]) -> None:
    """The error names the field."""
    with pytest.raises(InvalidValue, match=next(iter(fields))):
        ModelPolicy(**fields)


def test_a_policy_may_move_traffic() -> None:
    """Only where it names a plan."""
    assert ModelPolicy().plan is None
    assert ModelPolicy("latest", plan=Shift.at_once()).plan == Shift.at_once()
