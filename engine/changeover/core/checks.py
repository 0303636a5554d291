"""Checks of single arguments, as attrs validators: each error names the field, the value and what is allowed.

Owns no state; raises `InvalidValue` and nothing else.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs

from changeover.errors import InvalidValue

Validator = Callable[[Any, "attrs.Attribute[Any]", Any], None]

_FLOAT_MAX = sys.float_info.max
"""There are larger whole numbers, and none of them is a duration."""

_SHA256_DIGITS = 64
_HEXADECIMAL = frozenset("0123456789abcdef")
_NAME_PUNCTUATION = frozenset("._-+")


def seconds(name: str, value: object, *, zero: bool = True) -> float:
    """Return `value` as seconds; raises `InvalidValue` for NaN, infinity, a negative number or no number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidValue(f"{name} must be a number of seconds, not {value!r}")
    number = float(value) if abs(value) <= _FLOAT_MAX else math.inf
    if not math.isfinite(number) or value < 0 or (value == 0 and not zero):
        least = "at least 0" if zero else "above 0"
        raise InvalidValue(f"{name} must be a finite number of seconds {least}, not {value!r}")
    return number


def count(name: str, value: object, *, least: int = 1) -> int:
    """Return `value` as a whole number of at least `least`; raises `InvalidValue` otherwise."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise InvalidValue(f"{name} must be a whole number of at least {least}, not {value!r}")
    return value


def word(name: str, value: object) -> str:
    """Return `value` as a name fit for a folder and a log line; raises `InvalidValue` otherwise."""
    value = text(name, value)
    if not all(c.isalnum() or c in _NAME_PUNCTUATION for c in value) or value.startswith("."):
        raise InvalidValue(f"{name} may hold letters, digits and . _ - + and not begin with a dot, not {value!r}")
    return value


def text(name: str, value: object) -> str:
    """Return `value` as a non-empty string; raises `InvalidValue` otherwise."""
    if not isinstance(value, str) or not value:
        raise InvalidValue(f"{name} must be a non-empty string, not {value!r}")
    return value


def is_seconds(*, zero: bool = True) -> Validator:
    """Make an attrs validator of `seconds`."""
    return lambda _self, field, value: void(seconds(field.name, value, zero=zero))


def is_count(least: int = 1) -> Validator:
    """Make an attrs validator of `count`."""
    return lambda _self, field, value: void(count(field.name, value, least=least))


def is_word(_self: object, field: attrs.Attribute[Any], value: object) -> None:
    """Be the attrs validator of `word`."""
    word(field.name, value)


def is_not_empty(_self: object, field: attrs.Attribute[Any], value: object) -> None:
    """Be an attrs validator that refuses the empty text."""
    text(field.name, str(value))


def is_sha256(_self: object, field: attrs.Attribute[Any], value: object) -> None:
    """Be an attrs validator of a SHA-256 digest in hexadecimal."""
    digest = text(field.name, value).lower()
    if len(digest) != _SHA256_DIGITS or not _HEXADECIMAL.issuperset(digest):
        raise InvalidValue(f"{field.name} must be {_SHA256_DIGITS} hexadecimal digits, not {value!r}")


def is_one_of(*allowed: str, later: str | None = None) -> Validator:
    """Make an attrs validator that allows the given strings; `later` says what is planned and not there yet."""

    def check(_self: object, field: attrs.Attribute[Any], value: object) -> None:
        if value not in allowed:
            hint = f" ({later})" if later else ""
            raise InvalidValue(f"{field.name} must be one of {', '.join(map(repr, allowed))}, not {value!r}{hint}")

    return check


def is_type(*types: type) -> Validator:
    """Make an attrs validator that allows instances of the given types."""

    def check(_self: object, field: attrs.Attribute[Any], value: object) -> None:
        if not isinstance(value, types):
            names = " or ".join(t.__name__ for t in types)
            raise InvalidValue(f"{field.name} must be {names}, not {value!r}")

    return check


def void(_value: object) -> None:
    """Drop a value, so that a validator returns None."""


def describe(error: BaseException | None) -> str:
    """Return an error's type and text, also where the text itself cannot be had."""
    try:
        return f"{type(error).__name__}: {error}"
    except BaseException:  # noqa: BLE001 - whatever an error's own __str__ does, what it ended gets its outcome
        return type(error).__name__


def is_path(value: object) -> bool:
    """Return whether it can name a file."""
    return isinstance(value, str | Path) and str(value) not in ("", ".") and "\0" not in str(value)
