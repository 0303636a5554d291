"""Values as plain data and back: maps, lists, texts and numbers for attrs classes, enums and tuples of them.

Pure. What comes in is hostile until it was built: every field is checked by name and by its declared type.
"""

from __future__ import annotations

import reprlib
import types
from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import PurePath
from typing import Any, Literal, TypeGuard, TypeVar, Union, get_args, get_origin

import attrs

T = TypeVar("T")


INT_MIN, INT_MAX = -(2**63), 2**64 - 1
"""The whole numbers that every format has; any other is written as a float."""


class BadData(ValueError):
    """Plain data that is not what it should be; the message names the place, and is short whatever it was."""


def plain(value: object) -> Any:
    """Return a value as plain data; raises `TypeError` for what cannot be written down."""
    match value:
        case None | bool() | float() | str():
            return value
        case int():
            return value if INT_MIN <= value <= INT_MAX else float(value)  # a limit of 10**30 seconds, say
        case Enum():
            return value.value
        case PurePath():
            return str(value)
        case _ if is_map(value):
            return {str(key): plain(inner) for key, inner in value.items()}
        case _ if _is_list(value):
            return [plain(inner) for inner in value]
        case _ if attrs.has(type(value)):
            return {name: plain(getattr(value, name)) for name in hints_of(type(value))}
        case _:
            raise TypeError(f"{type(value).__name__} cannot be written down")


def is_map(value: object) -> TypeGuard[Mapping[Any, Any]]:
    """Return whether it is a mapping, of whatever."""
    return isinstance(value, Mapping)


def _is_list(value: object) -> TypeGuard[Sequence[Any]]:
    return isinstance(value, tuple | list)


def build(kind: type[T], data: object, where: str = "record") -> T:
    """Return the value of an attrs class that `plain` was given; raises `BadData` for anything else."""
    if not is_map(data):
        raise BadData(f"{where} is no map but {type(data).__name__}")
    hints = hints_of(kind)
    if data.keys() != hints.keys():
        missing, surplus = sorted(hints.keys() - data.keys()), sorted(map(str, data.keys() - hints.keys()))
        raise BadData(f"{where} lacks the fields {told(missing)} and has {told(surplus)} too many")
    fields = {name: _typed(hint, data[name], f"{where}.{name}") for name, hint in hints.items()}
    try:
        return kind(**fields)
    except (TypeError, ValueError) as error:  # the class has checks of its own
        raise BadData(f"{where}: {error}") from error


def hints_of(kind: type[Any]) -> dict[str, Any]:
    """Return the type of every field of an attrs class."""
    found = _HINTS.get(kind)
    if found is None:
        attrs.resolve_types(kind)
        found = _HINTS[kind] = {field.name: field.type for field in attrs.fields(kind)}
    return found


_HINTS: dict[type[Any], dict[str, Any]] = {}


def told(data: object) -> str:
    """Return data for a message: never longer than some lines, and without what no terminal can print."""
    return _SHORT.repr(data)


_SHORT = reprlib.Repr()
_SHORT.maxlist, _SHORT.maxdict, _SHORT.maxstring, _SHORT.maxother = 20, 5, 80, 80


def _typed(hint: Any, data: object, where: str) -> Any:
    """Return `data` as a value of the type `hint`."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return _one_of(arguments, data, where)
    if origin is Literal:
        if type(data) is str and data in arguments:
            return data
    elif origin is tuple and _is_list(data):
        (inner, _) = arguments  # `tuple[X, ...]`, the only kind that is written down
        return tuple(_typed(inner, one, f"{where}[{n}]") for n, one in enumerate(data))
    elif isinstance(hint, type):
        return _of_class(hint, data, where)
    raise BadData(f"{where} is {told(data)}, not {hint}")


def _of_class(kind: type[Any], data: object, where: str) -> Any:
    if attrs.has(kind):
        return build(kind, data, where)
    if issubclass(kind, Enum):
        try:
            return kind(data)
        except ValueError as error:
            raise BadData(f"{where} is {told(data)}, not a {kind.__name__}") from error
    if type(data) is kind:
        return data
    if kind is float and type(data) is int:
        return float(data)
    raise BadData(f"{where} is {told(data)}, not {kind.__name__}")


def _one_of(hints: tuple[Any, ...], data: object, where: str) -> Any:
    """Return `data` as the first of the types that takes it; None stands for itself."""
    if data is None and type(None) in hints:
        return None
    problems: list[BadData] = []
    for hint in hints:
        if hint is not type(None):
            try:
                return _typed(hint, data, where)
            except BadData as problem:
                problems.append(problem)
    raise problems[0]
