"""Each check lets good values through as they are, and names field and value where it refuses.

Owns no state.
"""

from __future__ import annotations

import math
import re
import string
import sys
from collections.abc import Callable
from typing import Any

import attrs
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from changeover.core.checks import Validator, count, is_count, is_one_of, is_seconds, is_type, is_word, seconds, word
from changeover.errors import ChangeoverError, InvalidValue

NO_NUMBERS: list[Any] = [None, "1", b"1", True, False, [], 1j, object()]
NO_SECONDS: list[Any] = [*NO_NUMBERS, -1, -0.001, math.nan, math.inf, -math.inf, 10**400, -(10**400)]
NO_COUNTS: list[Any] = [*NO_NUMBERS, 0, -1, 1.0, 1.5, math.nan, math.inf, -(10**400)]
NO_WORDS: list[Any] = [
    None, 1, True, b"name", "", " ", "a b", "a\n", "\0", ".", "..", ".hidden", "../x", "a/b", "a\\b", "/etc", "C:x",
    "~", "$x", "a;b", "a*", "\ud800", "x" + chr(0x200B),
]  # fmt: skip


def refusal(check: Callable[[], object], value: object) -> str:
    """Return the message with which a check refuses; it names the field and the value."""
    with pytest.raises(InvalidValue) as caught:
        check()
    message = str(caught.value)
    assert re.match(r"the_field\b", message), message
    assert repr(value) in message
    return message


# --- seconds --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", NO_SECONDS, ids=lambda value: f"{value!r:.20}")
def test_seconds_refuses(value: Any) -> None:
    """What is no finite number of at least 0 is no time."""
    refusal(lambda: seconds("the_field", value), value)
    refusal(lambda: seconds("the_field", value, zero=False), value)


def test_seconds_refuses_zero_where_it_makes_no_sense() -> None:
    """Zero is a time unless the field says that it is none; the message says which."""
    assert seconds("the_field", 0) == 0.0
    assert "above 0" in refusal(lambda: seconds("the_field", 0, zero=False), 0)
    assert "at least 0" in refusal(lambda: seconds("the_field", -1), -1)


@given(value=st.floats(0, allow_infinity=False) | st.integers(0, 10**300))
@example(value=sys.float_info.max)
@example(value=5e-324)
def test_seconds_returns_a_float(value: float) -> None:
    """A good time comes back as the same number, as a float."""
    checked = seconds("the_field", value)
    assert type(checked) is float
    assert checked == float(value)


# --- count ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", NO_COUNTS, ids=lambda value: f"{value!r:.20}")
def test_count_refuses(value: Any) -> None:
    """What is no whole number of at least 1 is no count."""
    refusal(lambda: count("the_field", value), value)


@given(least=st.integers(-5, 5), value=st.integers(-10, 10))
def test_count_has_a_least_value(least: int, value: int) -> None:
    """A count is let through from `least` on, and the message names it."""
    if value >= least:
        assert count("the_field", value, least=least) == value
    else:
        assert f"at least {least}" in refusal(lambda: count("the_field", value, least=least), value)


# --- word -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", NO_WORDS, ids=ascii)
def test_word_refuses(value: Any) -> None:
    """A name that is empty, hidden, a path or fit for a shell is no name."""
    refusal(lambda: word("the_field", value), value)


@pytest.mark.parametrize("value", ["1", "a", "resnet-50", "v1.2.3+cpu", "größe", "a..b", "_", "-"])
def test_word_lets_names_through(value: str) -> None:
    """Letters of any language, digits and . _ - + make a name."""
    assert word("the_field", value) == value


@given(value=st.text(st.sampled_from(string.printable + "äßé中١²\0\x7f\xa0\u200b\u202e\u2028\ud800"), max_size=8))
def test_a_word_is_one_folder_below(value: str) -> None:
    """Whatever is let through has no separator, no blank, no control character, and is no way up."""
    try:
        word("the_field", value)
    except InvalidValue:
        return
    assert value
    assert not value.startswith(".")
    assert not set(value) & set("/\\:\0~$*?\"'<>|;& \t\r\n")
    assert value.isprintable()


# --- validators -----------------------------------------------------------------------------------------------------


def made(validator: Validator, value: object) -> object:
    """Put a value into a class whose one field has this validator."""
    return attrs.make_class("Made", {"the_field": attrs.field(validator=validator)})(value)


@pytest.mark.parametrize(
    ("validator", "good", "bad"),
    [
        (is_seconds(), 0, -1),
        (is_seconds(zero=False), 0.1, 0),
        (is_count(), 1, 0),
        (is_count(0), 0, -1),
        (is_word, "a", "../a"),
        (is_one_of("a", "b"), "b", "c"),
        (is_one_of("a", "b"), "b", ["a"]),
        (is_one_of("a", "b"), "b", None),
        (is_type(str), "a", 1),
        (is_type(str, int), 1, 1.5),
    ],
)
def test_validators_check_the_field_they_stand_at(validator: Validator, good: object, bad: object) -> None:
    """Each validator lets the good value in, and refuses the bad one by the name of the field."""
    assert made(validator, good)
    refusal(lambda: made(validator, bad), bad)


def test_a_choice_names_what_is_allowed_and_what_is_planned() -> None:
    """The message lists the choices, and says what is not built yet."""
    message = refusal(lambda: made(is_one_of("a", "b", later="c is planned"), "c"), "c")
    assert "one of 'a', 'b'" in message
    assert message.endswith("(c is planned)")


def test_a_type_names_what_it_may_be() -> None:
    """The message lists the types."""
    assert "int or str" in refusal(lambda: made(is_type(int, str), None), None)


def test_an_invalid_value_is_a_value_error() -> None:
    """Who catches `ValueError` catches it, and so does who catches every error of this project."""
    assert issubclass(InvalidValue, ValueError)
    assert issubclass(InvalidValue, ChangeoverError)
