"""Elements of a page, escaped as they are made: what is not `Markup` is text, whoever wrote it.

Pure functions. The result is XML as well as HTML.
"""

from __future__ import annotations

import html
from collections.abc import Iterable

from changeover_sim.explorer.telling.words import plain

_FULL = frozenset({"a", "code", "div", "g", "h1", "h2", "li", "p", "path", "pre", "span", "table", "td", "th", "title"})
"""Elements that are written with an end tag although nothing is inside; HTML takes `<div />` for an open one."""


class Markup(str):
    """Text that is markup already, and must not be escaped again."""

    __slots__ = ()


def text(written: str) -> Markup:
    """Return text that cannot be anything else; what is not printable is shown by its code."""
    return Markup(html.escape(plain(written)))


def tag(name: str, /, *inside: str, **attributes: str | float | None) -> Markup:
    """Return an element; attributes that are None are left out, `class_` is `class`, and other `_` are `-`."""
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{text(_number(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    content = joined(inside)
    return Markup(
        f"<{name}{written} />" if not content and name not in _FULL else f"<{name}{written}>{content}</{name}>"
    )


def joined(parts: Iterable[str], between: str = "") -> Markup:
    """Return parts in a row; those that are text are escaped."""
    return Markup(between.join(part if isinstance(part, Markup) else text(part) for part in parts))


def lines(parts: Iterable[str]) -> Markup:
    """Return parts below each other, for where line ends count."""
    return joined(parts, "\n")


def _number(value: str | float) -> str:
    return value if isinstance(value, str) else f"{value:.1f}".removesuffix(".0")
