"""Loaders by entry point, and what a load thread does: check the source, load, check what came back.

Owns a cache of loader classes. Everything here may block; `Host` calls it in a thread, but for `find`.
"""

from __future__ import annotations

import hashlib
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from changeover.core.values import VersionSpec
from changeover.errors import CodeNotAllowed, LoaderNotInstalled, LoadFailed
from changeover.plugin import API_VERSION, Loader, Model, Signature, Source

GROUP = "changeover.loaders"


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
    except Exception as error:
        raise LoaderNotInstalled(
            f"{spec.key}: the loader {spec.loader!r} ({point.value}) cannot be imported: {error!r}",
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


def load(loader: type[Loader], spec: VersionSpec) -> tuple[Model, int | None]:
    """Load a model and ask for its size in bytes, None where it cannot tell; raises `LoadFailed`, leaving nothing."""
    try:
        if spec.sha256 is not None:
            _check_digest(spec)
        source = Source(spec.model, spec.version, str(spec.source), spec.options, spec.allow_code)
        model = loader().load(source)
    except LoadFailed:
        raise
    except BaseException as error:  # a loader that calls sys.exit() ends its own load and nothing else
        raise _failed(spec, f"{type(error).__name__}: {error}") from error
    try:
        _check_model(spec, model)
        return model, _size(spec, model)
    except BaseException as error:
        _close_quietly(model)
        if isinstance(error, LoadFailed):
            raise
        raise _failed(spec, f"memory_bytes() raised {type(error).__name__}: {error}") from error


def _size(spec: VersionSpec, model: Model) -> int | None:
    size: Any = model.memory_bytes()
    if size is None or (isinstance(size, int) and not isinstance(size, bool) and size >= 0):
        return size
    raise _failed(spec, f"memory_bytes() returned {size!r}; it must return a number of bytes, or None")


def _check_digest(spec: VersionSpec) -> None:
    path = Path(spec.source)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if spec.sha256 is not None and digest != spec.sha256.lower():
        raise _failed(spec, f"{path} has the sha256 {digest}, and the version was registered with {spec.sha256}")


def _check_model(spec: VersionSpec, model: Any) -> None:
    if not isinstance(model, Model) or not isinstance(model.signature, Signature):  # pyright: ignore[reportUnnecessaryIsInstance] - a plugin may set anything
        raise _failed(
            spec,
            f"the loader returned {type(model).__name__}, which is not a model: it needs a signature "
            "(changeover.plugin.Signature), thread_safe, predict, memory_bytes and close",
        )
    if spec.batching is not None and not model.signature.batched:
        raise _failed(spec, "it is to be batched, and its signature declares no batch dimension on every tensor")
    if spec.workers > 1 and not model.thread_safe:
        raise _failed(spec, f"it is to have {spec.workers} workers, and the model says that it is not thread-safe")


def _close_quietly(model: Any) -> None:
    """Close what was loaded and is not wanted, as far as it can be closed."""
    close = getattr(model, "close", None)
    if callable(close):
        try:
            close()
        except Exception:  # noqa: BLE001 - the error that led here is the one to report
            return


def _failed(spec: VersionSpec, why: str) -> LoadFailed:
    text = f"{spec.key} was not loaded by {spec.loader!r}: {why}"
    return LoadFailed(text, model=spec.model, version=spec.version)
