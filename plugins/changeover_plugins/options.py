"""Reads what a version's `options` say to a loader: which there are, and what each must be.

A loader keeps a table of its options and an attrs class of their values. This owns nothing and knows no loader.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeGuard, TypeVar, cast

from changeover.plugin import Source

T = TypeVar("T")

Needed = Mapping[str, tuple[Callable[[object], bool], str]]
"""By the name of an option, whether a value will do, and what it must be, in words."""

COUNT = "a whole number from 1 up"
"""What `is_count` asks for, in words."""


def read_options(source: Source, loader: str, needed: Needed, kind: Callable[..., T]) -> T:
    """Return the checked options as `kind` holds them; raises ValueError naming the option and what is allowed."""
    for name, value in source.options.items():
        if name not in needed:
            raise ValueError(
                f"{version_name(source)} has an unknown option {name!r}; the {loader} loader knows {_list(needed)}"
            )
        fits, must_be = needed[name]
        if not fits(value):
            raise ValueError(f"option {name!r} of {version_name(source)} is {value!r}; it must be {must_be}")
    return kind(**source.options)


def is_names(value: object) -> TypeGuard[list[str]]:
    """Return whether the value is a list of strings."""
    return isinstance(value, list) and all(isinstance(name, str) for name in cast("list[object]", value))


def is_count(value: object) -> bool:
    """Return whether the value is a whole number from 1 up; True, which Python counts as 1, is not."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def version_name(source: Source) -> str:
    """Return the version as messages name it."""
    return f"{source.model}/{source.version}"


def _list(names: Mapping[str, object]) -> str:
    """Return the names in quotation marks, with commas and an "and" between them."""
    *others, last = map(repr, names)
    return f"{', '.join(others)} and {last}" if others else last
