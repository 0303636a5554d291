"""The comparable form of values and of the world: two of them are equal only where the code cannot tell them apart.

What is shared goes by its place in the world, everything else by what it is. A `Forms` serves one run. A value for
which there is no form is refused, so that nothing that differs is taken for the same.
"""

from __future__ import annotations

import functools
import itertools
from collections import deque
from collections.abc import Callable, Container, Hashable, Iterable, Iterator, Mapping, Sequence
from enum import Enum
from types import CodeType, FunctionType, MappingProxyType, MethodType
from typing import Any

import attrs

from changeover.core.tally import peek


class _Part:
    """Where to look for one part of the world."""

    def __init__(self) -> None:
        self.changing: list[tuple[object, str]] = []
        self.containers: list[Any] = []


class Forms:
    """The comparable form of values: shared objects by their place in the world, everything else by what it is."""

    def __init__(
        self,
        shared: Sequence[object],
        solo: Sequence[object],
        rebound: Container[str],
        numbers: dict[Hashable, int],
        apart: object = None,
    ) -> None:
        """Know the shared objects of one run, of which one thread alone changes the `solo` ones.

        `rebound` are the attributes that are stored to; everything else keeps its value, or is a container.
        `numbers` outlives the run, so that equal forms have equal numbers; `apart` is no part of the world.
        """
        self._numbers = numbers
        self._names: dict[int, Hashable] = {id(thing): ("shared", place) for place, thing in enumerate(shared)}
        self._names[id(apart)] = ("apart",)
        self._kept: dict[int, tuple[object, Hashable]] = {}  # frozen values do not change: their form is made once
        self._fixed: list[tuple[object, str, object]] = []
        self._solo, self._others = _Part(), _Part()
        for place, thing in enumerate(shared):
            part = self._solo if any(thing is one for one in solo) else self._others
            for name in _attributes(thing):
                value = getattr(thing, name)
                if name in rebound:
                    part.changing.append((thing, name))
                    continue
                self._fixed.append((thing, name, value))
                if isinstance(value, dict | list | set | deque | itertools.count):
                    self._names.setdefault(id(value), ("field", place, name))
                    part.containers.append(value)

    def number(self, form: Hashable) -> int:
        """Return a number that no other form has."""
        return self._numbers.setdefault(form, len(self._numbers))

    def world(self, solo: int) -> int:
        """Return the number of all that can change and be reached through the shared objects."""
        return self.number(("world", solo, *self._contents(self._others)))

    def solo(self) -> int:
        """Return the number of what one thread alone changes."""
        return self.number(("solo", *self._contents(self._solo)))

    def _contents(self, part: _Part) -> Iterator[Hashable]:
        for thing, name in part.changing:
            yield self.form(getattr(thing, name))
        for value in part.containers:
            yield peek(value) if type(value) is itertools.count else _CONTAINERS[type(value)](self, value)

    def attribute(self, name: str) -> int:
        """Return the number of what a load of this attribute can find, whichever object it is loaded from."""
        found = [
            self.form(getattr(thing, which))
            for part in (self._solo, self._others)
            for thing, which in part.changing
            if which == name
        ]
        assert found, f"{name} is bound again, and no shared object has it"
        return self.number(("attribute", *found))

    def check_fixed(self) -> None:
        """Raise where an attribute was bound again that the code seemed to leave alone."""
        for thing, name, value in self._fixed:
            assert getattr(thing, name) is value, f"{name} was bound again, by code that nobody looks at"

    def form(self, value: Any) -> Hashable:
        """Return what makes a value differ from others; raises `TypeError` for what cannot be told apart."""
        kind = type(value)
        if kind in _PLAIN:
            return value  # type: ignore[no-any-return]
        if kind is tuple and all(type(part) in _PLAIN for part in value):
            return value  # type: ignore[no-any-return]
        if (name := self._names.get(id(value))) is not None:
            return name
        if (make := _CONTAINERS.get(kind)) is not None:
            return make(self, value)
        if (kept := self._kept.get(id(value))) is not None:
            return kept[1]
        if (fields := _fields(kind)) is not None:
            form = (kind, *(self.form(getattr(value, field)) for field in fields))
            self._kept[id(value)] = (value, form)
            return form
        return self._rare(value)

    def _rare(self, value: Any) -> Hashable:
        match value:
            case bool():
                return (bool, repr(value))  # True is equal to 1, and it is not the same
            case Enum() | type() | CodeType():
                return value
            case tuple():
                return (type(value), *map(self.form, value))
            case BaseException():
                return (type(value), str(value))
            case MethodType():
                return ("method", self.form(value.__func__), self.form(value.__self__))
            case FunctionType():
                cells = tuple(self.form(cell.cell_contents) for cell in value.__closure__ or ())
                return ("function", value.__code__, cells)
            case functools.partial():
                return ("partial", self.form(value.func), self.form(value.args), self.form(value.keywords))
        if type(value) in _ITERATORS:
            return ("iterator", type(value), *map(self.form, value.__reduce__()[1:]))
        raise TypeError(f"{type(value).__name__} has no form: name it among the shared objects")


@functools.cache
def _fields(kind: type) -> tuple[str, ...] | None:
    """Return the fields of a class of frozen values, which are those that have a hash; None for any other."""
    frozen = attrs.has(kind) and kind.__hash__ is not None
    return tuple(field.name for field in attrs.fields(kind)) if frozen else None


_ITERATORS = frozenset(type(iter(them)) for them in ((), [], {}, {}.keys(), {}.values(), {}.items(), range(0)))
_PLAIN = frozenset({str, int, float, bytes, type(None)})


def _mapping(forms: Forms, value: Mapping[Any, Any]) -> Hashable:
    # Nobody looks at the order of `held`; the order of `_open` says who is youngest, and only the loop changes it.
    return ("mapping", frozenset((forms.form(key), forms.form(it)) for key, it in value.items()))


def _sequence(forms: Forms, value: Sequence[Any]) -> Hashable:
    return (type(value), *map(forms.form, value))


def _set(forms: Forms, value: Iterable[Any]) -> Hashable:
    return (type(value), frozenset(map(forms.form, value)))


_CONTAINERS: Mapping[type, Callable[[Forms, Any], Hashable]] = {
    dict: _mapping, MappingProxyType: _mapping, list: _sequence, tuple: _sequence, deque: _sequence, set: _set,
    frozenset: _set,
}  # fmt: skip


def _attributes(thing: object) -> Iterator[str]:
    """Yield the names of everything that an object holds."""
    for kind in type(thing).__mro__:
        slots = kind.__dict__.get("__slots__", ())
        yield from (name for name in slots if hasattr(thing, name) and not name.startswith("__"))
    yield from getattr(thing, "__dict__", ())
