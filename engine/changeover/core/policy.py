"""The order of versions, and which of a model's versions shall be loaded: pure functions over their names.

Versions are compared as Semantic Versioning 2.0.0 (section 11) says where they look like it, and piece by piece where
they do not; a name stays text and is never rewritten. Owns no state.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Literal, cast

import attrs
from attrs.validators import optional

from changeover.core.checks import is_count, is_one_of, is_type
from changeover.core.shift import Shift
from changeover.errors import InvalidValue

_SEMANTIC = re.compile(
    r"[vV]?(?P<release>\d+(?:\.\d+)*)(?:-(?P<pre>[0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*))?(?:\+[0-9A-Za-z.-]+)?"
)
_PIECES = re.compile(r"\d+|\D+")

Key = tuple[int, tuple[tuple[int, int, str], ...], int, tuple[tuple[int, int, str], ...], str]


def order_key(version: str) -> Key:
    """Return what versions are sorted by, the oldest first: words that are no numbers come before all that are.

    `1.9` comes before `1.10`, `2.0-rc.1` before `2.0`, `1` equals `1.0` but for the text, which decides last.
    """
    match = _SEMANTIC.fullmatch(version)
    if match is None:
        return 0, tuple(_piece(piece) for piece in _PIECES.findall(version)), 0, (), version
    release = [_piece(piece) for piece in match["release"].split(".")]
    while len(release) > 1 and release[-1][1] == 0:
        release.pop()
    pre = match["pre"]
    return 1, tuple(release), int(pre is None), tuple(_piece(piece) for piece in (pre or "").split(".")), version


def newest_first(versions: Iterable[str]) -> list[str]:
    """Return versions, the newest first."""
    return sorted(versions, key=order_key, reverse=True)


def _piece(text: str) -> tuple[int, int, str]:
    """Return one piece of a version: numbers by their value, and before words, as SemVer has it."""
    return (0, int(text), "") if text.isascii() and text.isdigit() else (1, 0, text)


def _is_versions(instance: object, attribute: attrs.Attribute[tuple[str, ...]], value: tuple[str, ...]) -> None:
    if not all(isinstance(version, str) and version for version in value):  # pyright: ignore[reportUnnecessaryIsInstance] - from a file
        raise InvalidValue(f"versions must be non-empty strings, not {value!r}")


def _as_versions(value: object) -> tuple[str, ...]:
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise InvalidValue(f"versions must be a list of strings, not {value!r}")
    return tuple(cast("Iterable[str]", value))


@attrs.frozen
class ModelPolicy:
    """Which versions of a model shall be loaded, and how traffic moves to a newer one that appears."""

    load: Literal["none", "latest", "all", "specific"] = attrs.field(
        default="none", validator=is_one_of("none", "latest", "all", "specific")
    )
    """`none`: only what is ordered; `latest`: the newest `count`; `all`: every one; `specific`: those in `versions`."""
    count: int = attrs.field(default=1, validator=is_count())
    """How many of the newest `latest` loads."""
    versions: tuple[str, ...] = attrs.field(default=(), converter=_as_versions, validator=_is_versions)
    """What `specific` loads."""
    plan: Shift | None = attrs.field(default=None, validator=optional(is_type(Shift)))
    """How traffic moves to a newer version that is loaded by this policy; None: it does not, before you say so."""

    def wanted(self, versions: Iterable[str]) -> tuple[str, ...]:
        """Return which of the registered versions shall be loaded, the newest first."""
        ordered = newest_first(versions)
        match self.load:
            case "none":
                return ()
            case "latest":
                return tuple(ordered[: self.count])
            case "all":
                return tuple(ordered)
            case "specific":
                return tuple(version for version in ordered if version in self.versions)
