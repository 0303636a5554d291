"""Makes models by calling a function that the source names as "module:function"; runs the source author's code.

A `CallableModel` owns the object that the function returned until `close`. It spawns nothing; whether such code may
run at all is the engine's decision (`allow_code`), never this loader's.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from contextlib import suppress
from types import ModuleType
from typing import Any, ClassVar, cast

from changeover.plugin import API_VERSION, Model, Signature, Source

_MARKS = ("predict", "close", "signature")
"""Whoever has these three means to be a `Model`, and is told what else it lacks."""
_REST = ("thread_safe", "memory_bytes")

_LOOKS_MAX = 10
"""So often it is tried; a module that is imported already is found without."""


class CallableModel:
    """A plain callable as a model: it says nothing about its inputs, and one thread at a time may call it."""

    thread_safe: bool = False

    def __init__(self, function: Callable[[Mapping[str, Any]], object], name: str) -> None:
        """Take over the callable; `name` is the source as messages name it."""
        self.signature = Signature(checked=False)
        self._function: Callable[[Mapping[str, Any]], object] | None = function
        self._name = name

    def predict(self, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        """Call the callable with the mapping of inputs and return its mapping of outputs.

        Raises TypeError if it returns anything else, RuntimeError after `close`, and whatever the callable raises.
        """
        function = self._function
        if function is None:
            raise RuntimeError(f"{self._name} was closed; predict may not be called after close")
        outputs = function(inputs)
        if not isinstance(outputs, Mapping):
            raise TypeError(
                f"{self._name} answered with {_describe(outputs)}; it must return a mapping of outputs by name"
            )
        return cast("Mapping[str, Any]", outputs)

    def memory_bytes(self) -> None:
        """Return None: nobody can tell what a callable holds on to."""

    def close(self) -> None:
        """Let go of the callable and call its own `close`, if it has one; raises what that raises."""
        function, self._function = self._function, None
        close = getattr(function, "close", None)
        if callable(close):
            close()


class CallableLoader:
    """Imports a module, calls a function in it with the source's options, and serves what comes back.

    A module is imported once per process: a version whose code changed needs a module of another name.
    """

    api_version: ClassVar[int] = API_VERSION
    executes_code_on_load: ClassVar[bool] = True

    def load(self, source: Source) -> Model:
        """Call the function that `source.location` names with `source.options` as keyword arguments.

        Raises ValueError for a malformed location; ImportError, AttributeError or TypeError for what cannot be
        imported, found, called like that or served; and whatever the module or the function raises.
        """
        function = _find(source)
        _check_options(function, source)
        made: object = function(**source.options)
        if isinstance(made, type):  # calling it would make one more object per request, not answer one
            raise TypeError(f"{_name(source)} returned the class {made.__name__}; return an instance of it")
        if all(hasattr(made, mark) for mark in _MARKS):
            return _as_model(made, source)
        if callable(made):
            return CallableModel(made, _name(source))
        raise TypeError(
            f"{_name(source)} returned {_describe(made)}; return a callable that maps inputs to outputs, "
            f"or a model with {', '.join(_MARKS + _REST)}"
        )


def _find(source: Source) -> Callable[..., object]:
    """Return the function that the location names; raises ValueError, ImportError, AttributeError or TypeError."""
    module_name, _, function_name = source.location.partition(":")
    parts = [*module_name.split("."), *function_name.split(".")]
    if not all(part.isidentifier() for part in parts):
        raise ValueError(
            f"{source.location!r} (source of {source.model}/{source.version}) does not name a function; "
            'write "module:function", for example "shop.models:build"'
        )
    found: object = _import(module_name, source)
    for part in function_name.split("."):
        if not hasattr(found, part):
            raise AttributeError(f"{_name(source)}: there is no {part!r} in {_describe(found)}; check the spelling")
        found = getattr(found, part)
    if not callable(found):
        raise TypeError(f"{_name(source)} is {_describe(found)}, which cannot be called; name a function")
    return found


def _look_anew() -> None:
    """Let the interpreter look into its folders again: the file may be younger than its list of them.

    Two threads that do so at once can meet in its own bookkeeping (CPython drops an entry that is gone already, or
    finds that its table grew while it was copied). A lock would be ours alone, and stay locked in a process that is
    forked meanwhile.
    """
    for _ in range(_LOOKS_MAX):
        with suppress(KeyError, RuntimeError):
            importlib.invalidate_caches()
            return


def _import(module_name: str, source: Source) -> ModuleType:
    """Import the module; raises ModuleNotFoundError if it is missing, ImportError if something it imports is."""
    _look_anew()
    try:
        return importlib.import_module(module_name)
    except ImportError as error:
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if missing and f"{module_name}.".startswith(f"{missing}."):
            raise ModuleNotFoundError(
                f"{_name(source)}: there is no module {missing!r}; install it or put its folder on the Python path",
                name=missing,
            ) from error
        raise ImportError(f"{_name(source)}: importing {module_name!r} failed: {error}", name=module_name) from error


def _check_options(function: Callable[..., object], source: Source) -> None:
    """Raise TypeError if the function cannot be called with the options; what cannot be looked at goes through."""
    try:
        parameters = inspect.signature(function)
    except (TypeError, ValueError):  # functions written in C may have no signature
        return
    try:
        parameters.bind(**source.options)
    except TypeError as error:
        given = ", ".join(source.options) or "none"
        raise TypeError(
            f"{_name(source)} takes {parameters} and cannot be called with the version's options ({given}): {error}"
        ) from error


def _as_model(made: object, source: Source) -> Model:
    """Return the object as the model it means to be; raises TypeError naming what it lacks."""
    if lacking := [part for part in _REST if not hasattr(made, part)]:
        raise TypeError(f"{_name(source)} returned {_describe(made)}, a model without {' and '.join(lacking)}; add it")
    parts = {part: getattr(made, part) for part in _MARKS + _REST}
    wrong = [part for part in ("predict", "memory_bytes", "close") if not callable(parts[part])]
    wrong += [] if isinstance(parts["signature"], Signature) else ["signature"]
    wrong += [] if isinstance(parts["thread_safe"], bool) else ["thread_safe"]
    if wrong:
        raise TypeError(
            f"{_name(source)} returned {_describe(made)} with an unfit {' and '.join(wrong)}; a model has the methods "
            "predict, memory_bytes and close, a changeover.plugin.Signature as signature, and a bool as thread_safe"
        )
    return cast("Model", made)


def _describe(value: object) -> str:
    """Return what a value is, in words for a message."""
    if isinstance(value, ModuleType):
        return f"the module {value.__name__}"
    if value is None:
        return "None"
    kind = type(value).__name__
    return f"an {kind}" if kind[0] in "AEIOUaeiou" else f"a {kind}"


def _name(source: Source) -> str:
    """Return the source as messages name it."""
    return f"{source.location!r} (source of {source.model}/{source.version})"
