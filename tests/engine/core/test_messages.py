"""References as messages: how they print, and the fold over them beside a naive one."""

from __future__ import annotations

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from changeover.core.books import AGE_LIMITS_S
from changeover.core.messages import STREAMS, USES, Acquire, Message, RefId, Release, fold, name_of
from changeover.core.snapshots import Balance

REFS = st.sampled_from(["a", "b", 0, 1])
MESSAGES: st.SearchStrategy[list[Message]] = st.lists(
    st.builds(Acquire, REFS, st.sampled_from(sorted(USES | STREAMS))) | st.builds(Release, REFS), max_size=30
)


def test_every_kind_of_use_is_known_once() -> None:
    """Streams and all other uses share no kind, and an audit has an age limit for each."""
    assert not STREAMS & USES
    assert set(AGE_LIMITS_S) == STREAMS | USES


@pytest.mark.parametrize(("ref", "name"), [(7, "#7"), (0, "#0"), ("order-7", "order-7"), ("7", "7")])
def test_a_reference_is_named(ref: RefId, name: str) -> None:
    """A number that the account gave out cannot be taken for a caller's id."""
    assert name_of(ref) == name


@pytest.mark.parametrize(
    ("message", "line"),
    [
        (Acquire("a", "request"), "      0.000000 s  acquired  request a"),
        (Acquire(7, "lease", 1.5, "a.py:3", "worker"), "      1.500000 s  acquired  lease #7  at a.py:3  in worker"),
        (Release("a", 2.0), "      2.000000 s  released  a"),
        (Release(7, 2.25, "main"), "      2.250000 s  released  #7  in main"),
        (Release("never", 3.0, was_held=False), "      3.000000 s  not held  never"),
    ],
)  # fmt: skip
def test_a_message_is_one_line(message: Message, line: str) -> None:
    """It says when, what, where and in which thread, as far as that is known."""
    assert str(message) == line


def test_messages_are_values() -> None:
    """They compare by what they say, can be kept in a set, and nobody changes them."""
    assert {Acquire("a", "lease"), Acquire("a", "lease"), Release("a")} == {Release("a"), Acquire("a", "lease")}
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        Release("a").ref = "b"  # type: ignore[misc]


def test_the_fold_of_a_story() -> None:
    """What is given back twice, or never taken, is counted; what is taken twice is held once."""
    story = [
        Acquire("a", "lease"),
        Acquire(0, "stream"),
        Acquire("a", "request"),
        Release("a"),
        Release("a"),
        Release(9),
    ]
    assert fold(story) == (Balance(2, 1, 1, over_releases=2), {0: "stream"})
    assert fold(()) == (Balance(0, 0, 0), {})


@settings(max_examples=50, deadline=None)
@given(MESSAGES)
def test_the_fold_is_that_of_a_dict(messages: list[Message]) -> None:
    """Any messages in any order: it is what a dict and three counters say, and it is conserved."""
    held: dict[RefId, str] = {}
    taken = given_back = over = 0
    for message in messages:
        if isinstance(message, Acquire):
            taken += message.ref not in held
            held.setdefault(message.ref, message.kind)
        elif held.pop(message.ref, None) is None:
            over += 1
        else:
            given_back += 1
    balance, left = fold(messages)
    assert (balance, left) == (Balance(taken, given_back, len(held), over), held)
    assert balance.conserved


@settings(max_examples=50, deadline=None)
@given(MESSAGES, MESSAGES)
def test_the_fold_of_what_is_closed_adds_up(first: list[Message], second: list[Message]) -> None:
    """Two incarnations of one version, the first of them left by all its holders, may be folded apart or in one."""
    _, held = fold(first)
    emptied = [*first, *map(Release, held)]
    assert fold(emptied)[0] + fold(second)[0] == fold([*emptied, *second])[0]
