"""Every awaitable of the engine's Trio face, found by looking at the public names: nobody keeps a list.

It begins with what `import changeover` offers and goes on with what its calls return. The faces for asyncio and for
threads are shells around the same orders, whose ends are tested where they are. Owns nothing, spawns nothing.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Iterable,
    Iterator,
)
from contextlib import AbstractAsyncContextManager
from types import ModuleType
from typing import Any

import changeover

STEPS = ("__aenter__", "__aexit__", "__anext__", "__await__")
"""The special methods that are awaited, or are themselves what is."""
KINDS: tuple[tuple[tuple[Any, ...], tuple[str, ...]], ...] = (
    ((Awaitable, Coroutine), ("",)),
    ((AsyncIterator, AsyncIterable, AsyncGenerator), (".__anext__",)),
    ((AbstractAsyncContextManager,), (".__aenter__", ".__aexit__")),
)
"""What a call that is no coroutine function may say that it returns, and what of that is awaited."""


def awaitables(face: ModuleType = changeover) -> tuple[str, ...]:
    """Return the names of all that a user of a face awaits, `Engine.load` say, in alphabetical order."""
    home = face.__name__.partition(".")[0]
    waiting = [getattr(face, name) for name in face.__all__]
    found: set[str] = set()
    seen: list[object] = []
    while waiting:
        one = waiting.pop()
        if one in seen or inspect.ismodule(one):
            continue
        seen.append(one)
        for name, call in _members(one) if inspect.isclass(one) else [(getattr(one, "__name__", ""), one)]:
            if callable(call) and _is_of(home, call):
                found.update(name + step for step in _awaited(call))
                waiting.extend(cls for cls in _classes(_returned(call)) if _is_of(home, cls))
    return tuple(sorted(found))


def _members(cls: type) -> Iterator[tuple[str, Any]]:
    """Yield the public methods and properties of a class by their full names, and those that are awaited unseen."""
    for name in dir(cls):
        if name in STEPS or not name.startswith("_"):
            member = inspect.getattr_static(cls, name)
            call = member.fget if isinstance(member, property) else getattr(member, "__func__", member)
            yield f"{cls.__name__}.{name}", call


def _is_of(home: str, thing: Any) -> bool:
    return str(getattr(thing, "__module__", "")).partition(".")[0] == home


def _awaited(call: Callable[..., Any]) -> Iterable[str]:
    """Return what of a call is awaited, as the ends of names."""
    inner = inspect.unwrap(call)
    if inspect.iscoroutinefunction(call) or inspect.iscoroutinefunction(inner):
        return ("",)
    if inspect.isasyncgenfunction(inner):
        return (".__anext__",) if inner is call else (".__aenter__", ".__aexit__")
    if call.__name__ == "__await__":
        return ("",)
    returned = _returned(call)
    kind = typing.get_origin(returned) or returned
    return next((ends for kinds, ends in KINDS if kind in kinds), ())


def _returned(call: Callable[..., Any]) -> Any:
    return typing.get_type_hints(call).get("return") if hasattr(call, "__annotations__") else None


def _classes(hint: Any) -> Iterator[type]:
    """Yield the classes that a hint is made of."""
    if inspect.isclass(hint):
        yield hint
    for part in typing.get_args(hint):
        yield from _classes(part)
