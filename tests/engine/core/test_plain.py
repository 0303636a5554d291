"""Values become plain data and come back; whatever else is handed in is told apart, and in few words."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from changeover.core.plain import BadData, build, hints_of, plain, told


class Colour(Enum):
    """One of two."""

    RED = "red"
    BLUE = "blue"


@attrs.frozen
class Leaf:
    """The simplest value."""

    size: float
    colour: Colour = Colour.RED


def positive(_self: object, _field: object, value: int) -> None:
    """Refuse what is not above 0."""
    if value <= 0:
        raise ValueError("it must be above 0")


@attrs.frozen
class Tree:
    """A value with every kind of field that is written down."""

    name: str
    leaves: tuple[Leaf, ...]
    height: int = attrs.field(default=1, validator=positive)
    kind: Literal["oak", "elm"] = "oak"
    best: Leaf | None = None
    note: str | float | None = None


TREE = Tree("a", (Leaf(1.5), Leaf(2.0, Colour.BLUE)), 3, "elm", Leaf(0.0), "old")
DATA: dict[str, Any] = {
    "name": "a", "leaves": [{"size": 1.5, "colour": "red"}, {"size": 2.0, "colour": "blue"}], "height": 3,
    "kind": "elm", "best": {"size": 0.0, "colour": "red"}, "note": "old",
}  # fmt: skip


def test_a_value_is_maps_lists_and_simple_things() -> None:
    """Classes are maps, tuples are lists, enums their values; and back."""
    assert plain(TREE) == DATA
    assert build(Tree, DATA) == TREE


def test_maps_and_paths_can_be_written_down() -> None:
    """A mapping's keys are texts then, and a path is one."""
    assert plain(MappingProxyType({1: Path("a/b"), "x": (1, None)})) == {"1": "a/b", "x": [1, None]}


@pytest.mark.parametrize("value", [object(), b"bytes", {1, 2}, 1j, Tree])
def test_other_things_cannot_be_written_down(value: object) -> None:
    """A programmer hears of it."""
    with pytest.raises(TypeError, match="cannot be written down"):
        plain({"a": [value]})


@given(number=st.integers())
def test_a_whole_number_that_no_format_has_is_a_float(number: int) -> None:
    """A time limit of 10**30 seconds, say; all others stay what they are."""
    try:
        again = plain(number)
    except OverflowError:
        assert abs(number) > 10**300
        return
    assert again == (number if -(2**63) <= number < 2**64 else float(number))
    assert type(again) is (int if -(2**63) <= number < 2**64 else float)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": 5}, r"record\.name is 5, not str"),
        ({"name": None}, r"record\.name is None, not str"),
        ({"height": True}, r"record\.height is True, not int"),
        ({"height": 1.0}, r"record\.height is 1\.0, not int"),
        ({"height": 0}, "record: it must be above 0"),
        ({"kind": "ash"}, r"record\.kind is 'ash', not typing\.Literal"),
        ({"kind": 1}, r"record\.kind is 1"),
        ({"leaves": {}}, r"record\.leaves is \{\}, not tuple"),
        ({"leaves": "ab"}, r"record\.leaves is 'ab', not tuple"),
        ({"leaves": [[]]}, r"record\.leaves\[0\] is no map but list"),
        ({"leaves": [{"size": 1.0, "colour": "green"}]}, r"record\.leaves\[0\]\.colour is 'green', not a Colour"),
        ({"leaves": [{"size": 1.0, "colour": []}]}, r"colour is \[\], not a Colour"),
        ({"leaves": [{"size": "1", "colour": "red"}]}, r"leaves\[0\]\.size is '1', not float"),
        ({"leaves": [{"size": 1.0}]}, r"leaves\[0\] lacks the fields \['colour'\] and has \[\] too many"),
        ({"best": 5}, r"record\.best is no map but int"),
        ({"note": []}, r"record\.note is \[\], not str"),
        ({"more": 1, 7: 2}, r"record lacks the fields \[\] and has \['7', 'more'\] too many"),
    ],
)
def test_the_message_names_the_place(changes: Mapping[Any, Any], message: str) -> None:
    """And what is there, and what should be."""
    with pytest.raises(BadData, match=message):
        build(Tree, {**DATA, **changes})


@pytest.mark.parametrize("value", [None, [], "x", 5, b""])
def test_what_is_no_map_is_no_value(value: object) -> None:
    """The message has its type."""
    with pytest.raises(BadData, match=f"record is no map but {type(value).__name__}"):
        build(Tree, value)


def test_a_field_may_have_one_of_several_types() -> None:
    """The first that takes it; a whole number is a float where one is wanted."""
    notes = [build(Tree, {**DATA, "note": note}).note for note in ("a", 5, 1.5, None)]
    assert notes == ["a", 5.0, 1.5, None]
    assert type(notes[1]) is float


def test_the_types_of_a_class_are_looked_up_once() -> None:
    """Which is what makes it fast."""
    assert hints_of(Leaf) is hints_of(Leaf)


@given(data=st.text(max_size=10).map(lambda text: text * 1_000) | st.lists(st.binary(max_size=200), max_size=100))
def test_what_is_told_of_data_is_short_and_can_be_printed(data: object) -> None:
    """Whatever it is."""
    assert len(told(data)) < 3_000
    told(data).encode()
