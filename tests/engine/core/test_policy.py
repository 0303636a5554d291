"""The order of versions, which of them a policy wants, and what it reads from a file; `test_decide.py` has the rest."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from changeover.core.policy import ModelPolicy, from_fields, newest_first, order_key
from changeover.core.shift import Shift
from changeover.errors import InvalidValue

SECTION_11 = [
    *("1.0.0-alpha", "1.0.0-alpha.1", "1.0.0-alpha.beta", "1.0.0-beta", "1.0.0-beta.2", "1.0.0-beta.11", "1.0.0-rc.1"),
    *("1.0.0", "2.0.0", "2.1.0", "2.1.1"),
]
"""The examples of Semantic Versioning 2.0.0, section 11."""

IN_ORDER = [
    ["1", "2", "10"],
    ["1.9", "1.10", "1.10.1", "2"],
    ["v1", "v2", "v11"],
    SECTION_11,
    ["2024-01-31", "2024-02-01", "2024-10-01"],
    ["run9", "run10"],
    ["canary", "0.1"],
    ["9" * 5_000, "1" + "0" * 5_000],
]
WORDS = st.text(st.sampled_from("v019.-+ab\u0661"), min_size=1)
NUMBERS = st.integers(0, 12).map(str)
SEMANTIC = st.builds(
    lambda release, pre: ".".join(release) + (f"-{'.'.join(pre)}" if pre else ""),
    st.lists(NUMBERS, min_size=3, max_size=3),
    st.lists(NUMBERS | st.sampled_from(["alpha", "beta", "rc"]), max_size=3),
)


@pytest.mark.parametrize("versions", IN_ORDER, ids=lambda versions: " < ".join(versions)[:60])
def test_versions_are_in_the_order_that_people_read(versions: list[str]) -> None:
    """Numbers count as numbers, a release comes after its candidates, and words before all numbers."""
    assert newest_first(sorted(versions)) == versions[::-1]


def test_zeros_at_the_end_and_build_numbers_do_not_count() -> None:
    """1, 1.0 and 1.0.0+7 are the same release; only then the text decides, so that there is one order."""
    assert len({order_key(version)[:-1] for version in ("1", "1.0", "1.0.0+7", "v1.0")}) == 1
    assert newest_first(["1.0", "1"]) == newest_first(["1", "1.0"])


@settings(deadline=None)
@given(versions=st.lists(WORDS, min_size=1, unique=True))
def test_any_words_have_one_order(versions: list[str]) -> None:
    """Whatever the words are, the order is total and does not depend on how they came."""
    ordered = newest_first(versions)
    assert sorted(ordered) == sorted(versions)
    assert newest_first(ordered[::-1]) == ordered
    assert all(order_key(older) < order_key(newer) for newer, older in pairwise(ordered))


@settings(deadline=None)
@given(one=SEMANTIC, other=SEMANTIC)
@example(one="1.0.0-alpha.beta", other="1.0.0-alpha.1")
def test_semantic_versions_are_ordered_by_the_book(one: str, other: str) -> None:
    """Section 11, spelled out step by step, agrees with the key."""
    expected = by_the_book(one, other)
    if expected:
        assert (order_key(one) > order_key(other)) == (expected > 0)


def by_the_book(one: str, other: str) -> int:
    """Compare two versions as section 11 says: 1, -1, or 0 where they have the same precedence."""
    (release, _, pre), (other_release, _, other_pre) = one.partition("-"), other.partition("-")
    for a, b in zip(release.split("."), other_release.split("."), strict=True):
        if a != b:
            return 1 if int(a) > int(b) else -1
    if not pre or not other_pre:
        return bool(other_pre) - bool(pre)
    fields, other_fields = pre.split("."), other_pre.split(".")
    for a, b in zip(fields, other_fields, strict=False):
        if a == b:
            continue
        if a.isdigit() and b.isdigit():
            return 1 if int(a) > int(b) else -1
        if a.isdigit() != b.isdigit():
            return -1 if a.isdigit() else 1
        return 1 if a > b else -1
    return (len(fields) > len(other_fields)) - (len(fields) < len(other_fields))


# --- policies -------------------------------------------------------------------------------------------------------


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


CANARY = {"stages": [[0.1, 2.0], [0.5, 3]], "confirm_s": 1.5, "sticky": False, "shadow": True, "fallback": False}


@pytest.mark.parametrize(
    ("fields", "policy"),
    [
        ({}, ModelPolicy()),
        ({"load": "latest", "count": 2}, ModelPolicy("latest", 2)),
        ({"load": "specific", "versions": ["1", "7"]}, ModelPolicy("specific", versions=("1", "7"))),
        ({"load": "all", "plan": "at_once"}, ModelPolicy("all", plan=Shift.at_once())),
        ({"plan": {}}, ModelPolicy(plan=Shift.canary())),
        ({"plan": CANARY}, ModelPolicy(plan=Shift.canary(((0.1, 2.0), (0.5, 3.0)), confirm_s=1.5, sticky=False,
                                                        shadow=True, fallback=False))),
    ],
    ids=lambda value: str(value)[:40],
)  # fmt: skip
def test_a_file_spells_a_policy_out(fields: dict[str, Any], policy: ModelPolicy) -> None:
    """The fields of a policy, and its plan as a word or as a table for a canary."""
    assert from_fields("policy.toml", fields) == policy


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"loads": "all", "x": 1}, "policy.toml has loads, x; it may have count, load, plan, versions"),
        ({"load": "some"}, "load must be one of"),
        ({"count": "2"}, "count must be a whole number"),
        ({"versions": [1]}, "versions must be non-empty strings"),
        ({"plan": "canary"}, 'plan in policy.toml must be "at_once", or a table of a canary with confirm_s'),
        ({"plan": 3}, "plan in policy.toml must be"),
        ({"plan": {"stage": []}}, "plan in policy.toml has stage; it may have confirm_s, confirm_samples, fallback"),
        ({"plan": {"guard": None}}, "plan in policy.toml has guard"),
        ({"plan": {"stages": [[2.0, 1]]}}, "share must be above 0 and at most 1"),
        ({"plan": {"stages": []}}, "a canary needs a stage"),
        ({"plan": {"confirm_s": -1}}, "confirm_s must be"),
        ({"plan": {"sticky": "yes"}}, "sticky must be bool"),
    ],
    ids=str,
)
def test_a_file_that_makes_no_sense_is_told_by_name(fields: dict[str, Any], says: str) -> None:
    """Unknown keys come with the ones that there are; wrong values with what is allowed."""
    with pytest.raises(InvalidValue) as caught:
        from_fields("policy.toml", fields)
    assert says in str(caught.value)
