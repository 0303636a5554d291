"""Loaders by entry point, and what a load thread does: check the source, load, check what came back.

Owns a cache of loader classes. Everything here may block; `Host` calls it in a thread, but for `find`.
"""

from __future__ import annotations

import errno
import hashlib
import inspect
from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

import attrs

from changeover.core.checks import describe
from changeover.core.values import VersionSpec
from changeover.errors import CodeNotAllowed, LoaderNotInstalled, LoadFailed, SourceUnavailable
from changeover.plugin import API_VERSION, Loader, Model, Signature, Source, SourceAway

GROUP = "changeover.loaders"

_METHODS = ("predict", "memory_bytes", "close")
_CONTAINERS: tuple[Any, ...] = (list, tuple, set, frozenset)

_AWAY = frozenset(
    {
        errno.EIO, errno.ESTALE, errno.EAGAIN, errno.EBUSY, errno.ENETDOWN, errno.ENETUNREACH, errno.EHOSTDOWN,
        errno.EHOSTUNREACH, errno.ENOTCONN, errno.EMFILE, errno.ENFILE,
    }
)  # fmt: skip
"""What the system says of a file that may be readable a moment later."""


class Loaders:
    """The installed loaders."""

    def __init__(self) -> None:
        """Look nothing up yet."""
        self._classes: dict[str, type[Loader]] = {}
        self._points: dict[str, EntryPoint] | None = None

    def names(self) -> tuple[str, ...]:
        """Return the names of the installed loaders."""
        if self._points is None:
            self._points = {point.name: point for point in entry_points(group=GROUP)}
        return tuple(sorted(self._points.keys() | self._classes.keys()))

    def add(self, name: str, loader: type[Loader]) -> None:
        """Make a loader known that has no entry point."""
        self._classes[name] = loader

    def find(self, spec: VersionSpec) -> type[Loader]:
        """Return the class of the spec's loader.

        Raises `LoaderNotInstalled`, and `CodeNotAllowed` where it runs code and the spec does not allow it.
        """
        loader = self._classes.get(spec.loader) or self._import(spec)
        if loader.executes_code_on_load and not spec.allow_code:
            raise CodeNotAllowed(
                f"{spec.key}: the loader {spec.loader!r} runs code that comes with the source {str(spec.source)!r}; "
                "register the version with allow_code=True if you trust it",
                model=spec.model,
                version=spec.version,
            )
        return loader

    def _import(self, spec: VersionSpec) -> type[Loader]:
        names = self.names()
        point = (self._points or {}).get(spec.loader)
        if point is None:
            raise LoaderNotInstalled(
                f"{spec.key}: no loader is called {spec.loader!r}; installed are {', '.join(names) or 'none'}. "
                "Loaders that come with Changeover need their extra, as in: pip install 'changeover[onnx]'",
                model=spec.model,
                version=spec.version,
            )
        self._classes[spec.loader] = loader = _enter(point, spec)
        return loader


def _enter(point: EntryPoint, spec: VersionSpec) -> type[Loader]:
    """Import a loader's class; raises `LoaderNotInstalled` where that fails, or it speaks another protocol."""
    try:
        loader: type[Loader] = point.load()
    except BaseException as error:  # also sys.exit() in a plugin's module
        raise LoaderNotInstalled(
            f"{spec.key}: the loader {spec.loader!r} ({point.value}) cannot be imported: {describe(error)}",
            model=spec.model,
            version=spec.version,
        ) from error
    speaks = getattr(loader, "api_version", None)
    if speaks != API_VERSION or not hasattr(loader, "executes_code_on_load"):
        raise LoaderNotInstalled(
            f"{spec.key}: the loader {spec.loader!r} was written for version {speaks} of the loader protocol and this "
            f"engine speaks version {API_VERSION}; install a version of it that fits",
            model=spec.model,
            version=spec.version,
        )
    return loader


@attrs.frozen
class Brought:
    """What a loader has brought, each of its fields looked at once: a plugin may answer differently the next time."""

    model: Model
    signature: Signature
    thread_safe: bool
    size: int | None
    """What it says that it occupies, in bytes; None: it cannot tell."""


def load(loader: type[Loader], spec: VersionSpec) -> Brought:
    """Load a model and look it over; raises `LoadFailed`, leaving nothing."""
    try:
        if spec.sha256 is not None:
            _check_digest(spec)
        source = Source(spec.model, spec.version, str(spec.source), fresh(spec.options), spec.allow_code)
        model = loader().load(source)
    except LoadFailed:
        raise
    except BaseException as error:  # a loader that calls sys.exit() ends its own load and nothing else
        raise _failed(spec, describe(error), SourceUnavailable if is_away(error) else LoadFailed) from error
    try:
        return _looked_over(spec, model)
    except BaseException as error:
        _close_quietly(model)
        if isinstance(error, LoadFailed):
            raise
        raise _failed(spec, f"looking over what it returned raised {describe(error)}") from error


def _size(spec: VersionSpec, model: Model) -> int | None:
    try:
        size: Any = model.memory_bytes()
    except BaseException as error:
        raise _failed(spec, f"memory_bytes() raised {describe(error)}") from error
    if size is None or (isinstance(size, int) and not isinstance(size, bool) and size >= 0):
        return size
    raise _failed(spec, f"memory_bytes() returned {size!r}; it must return a number of bytes, or None")


def _check_digest(spec: VersionSpec) -> None:
    path = Path(spec.source)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if spec.sha256 is not None and digest != spec.sha256.lower():
        raise _failed(spec, f"{path} has the sha256 {digest}, and the version was registered with {spec.sha256}")


def _looked_over(spec: VersionSpec, model: Any) -> Brought:
    """Return what was brought; raises `LoadFailed` where that is not a model, or not one for this spec."""
    signature = _field(spec, model, "signature")
    thread_safe = _field(spec, model, "thread_safe")
    missing = [name for name in _METHODS if not callable(_field(spec, model, name))]
    if isinstance(model, type) or missing or not isinstance(signature, Signature):
        raise _failed(
            spec,
            f"the loader returned {'the class ' if isinstance(model, type) else ''}{_kind(model)}, which is not a "
            "model: it needs a signature (changeover.plugin.Signature), thread_safe, and to be called, predict, "
            "memory_bytes and close",
        )
    if not isinstance(thread_safe, bool):
        raise _failed(spec, f"thread_safe must be True or False, not {type(thread_safe).__name__}")
    if spec.batching is not None and not signature.batched:
        raise _failed(spec, "it is to be batched, and its signature declares no batch dimension on every tensor")
    if spec.workers > 1 and not thread_safe:
        raise _failed(spec, f"it is to have {spec.workers} workers, and the model says that it is not thread-safe")
    return Brought(model, signature, thread_safe, _size(spec, model))


def _kind(model: Any) -> str:
    return model.__name__ if isinstance(model, type) else type(model).__name__


def _field(spec: VersionSpec, model: Any, name: str) -> Any:
    """Return a field of a model, None where it has none; raises `LoadFailed` where looking at it raises."""
    try:
        return getattr(model, name, None)
    except BaseException as error:
        raise _failed(spec, f"looking at its {name} raised {describe(error)}") from error


def fresh(value: Any) -> Any:
    """Return settings in containers of their own: what a loader does to them is nothing to the next one."""
    settings = value
    if isinstance(value, Mapping):
        return {key: fresh(item) for key, item in settings.items()}
    for kind in _CONTAINERS:
        if value.__class__ is kind:
            return kind(map(fresh, value))
    return value


def _close_quietly(model: Any) -> None:
    """Close what was loaded and is not wanted, as far as it can be closed."""
    try:
        if inspect.iscoroutine(model):
            model.close()  # else Python warns that it was never awaited
        elif not isinstance(model, type):
            closing = model.close()
            if inspect.iscoroutine(closing):
                closing.close()
    except BaseException:  # noqa: BLE001 - the error that led here is the one to report
        return


def is_away(error: BaseException) -> bool:
    """Return whether an error says that the source is only away for now."""
    if isinstance(error, OSError) and error.errno in _AWAY:
        return True
    return isinstance(error, SourceAway | ConnectionError | TimeoutError)


def _failed(spec: VersionSpec, why: str, kind: type[LoadFailed] = LoadFailed) -> LoadFailed:
    text = f"{spec.key} was not loaded by {spec.loader!r}: {why}"
    return kind(text, model=spec.model, version=spec.version)
