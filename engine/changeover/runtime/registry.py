"""Which versions exist: registered by hand, or found in a model repository folder.

It owns the specs. Scanning reads the disk and runs in a thread; nothing here loads or moves traffic.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs

from changeover.core.values import Batching, VersionKey, VersionSpec
from changeover.errors import AlreadyRegistered, InvalidValue, ModelNotRegistered

SETTINGS = "model.toml"
"""The optional file beside a version's own that holds fields of its `VersionSpec`."""

_LOADER_BY_SUFFIX = {".onnx": "onnx", ".skops": "sklearn"}
_CANNOT_COME_FROM_A_FILE = frozenset({"model", "version", "warmup", "allow_code"})
"""A file in the repository says neither who it is nor that its own code may run."""


class Registry:
    """The registered versions, in order of their registration."""

    def __init__(self) -> None:
        """Begin empty."""
        self._specs: dict[str, dict[str, VersionSpec]] = {}
        self._count = 0

    def __len__(self) -> int:
        """Return how many versions are registered."""
        return self._count

    def __contains__(self, key: VersionKey) -> bool:
        """Return whether a version is registered."""
        return key.version in self._specs.get(key.model, {})

    def add(self, spec: VersionSpec) -> None:
        """Register a version; raises `AlreadyRegistered`."""
        if spec.key in self:
            raise AlreadyRegistered(
                f"{spec.key} is registered already, from {str(self.get(spec.key).source)!r}; "
                "a version never changes its meaning, so register the new file under a new version",
                model=spec.model, version=spec.version,
            )  # fmt: skip
        self._specs.setdefault(spec.model, {})[spec.version] = spec
        self._count += 1

    def get(self, key: VersionKey) -> VersionSpec:
        """Return the spec of a version; raises `ModelNotRegistered`, naming what there is."""
        versions = self.versions(key.model)
        if key.version not in versions:
            known = ", ".join(sorted(versions))
            text = f"{key.model} has no version {key.version!r}; registered are {known}"
            raise ModelNotRegistered(text, model=key.model, version=key.version)
        return self._specs[key.model][key.version]

    def versions(self, model: str) -> tuple[str, ...]:
        """Return the versions of a model; raises `ModelNotRegistered` where there are none."""
        if model not in self._specs:
            known = ", ".join(sorted(self._specs)[:10]) or "none"
            raise ModelNotRegistered(
                f"no model is called {model!r}; registered are {known}. Use engine.register(...), or put it into the "
                "repository folder as NAME/VERSION/ and call engine.scan()",
                model=model,
            )
        return tuple(self._specs[model])


@attrs.frozen
class Found:
    """What a scan of a repository folder came to."""

    specs: tuple[VersionSpec, ...]
    """Every version in it that can be registered."""
    problems: tuple[str, ...]
    """Every folder that cannot, with the reason."""


def scan(repository: Path) -> Found:
    """Read a folder of `NAME/VERSION/` folders; raises `InvalidValue` where there is no such folder. Blocks."""
    if not repository.is_dir():
        raise InvalidValue(f"the repository {repository} is not a folder; make it, or leave the argument out")
    specs: list[VersionSpec] = []
    problems: list[str] = []
    for folder in _version_folders(repository):
        try:
            specs.append(_read(folder))
        except (OSError, ValueError, TypeError) as error:
            problems.append(f"{folder}: {error}")
    return Found(tuple(specs), tuple(problems))


def _version_folders(repository: Path) -> Iterator[Path]:
    for model in sorted(repository.iterdir()):
        if model.is_dir() and not model.name.startswith("."):
            for version in sorted(model.iterdir()):
                if version.is_dir() and not version.name.startswith("."):
                    yield version


def _read(folder: Path) -> VersionSpec:
    """Return the spec of one version folder; raises `ValueError` or `OSError` with what is wrong."""
    settings = folder / SETTINGS
    fields: dict[str, Any] = tomllib.loads(settings.read_text("utf-8")) if settings.is_file() else {}
    known = {field.name for field in attrs.fields(VersionSpec)} - _CANNOT_COME_FROM_A_FILE
    if unknown := fields.keys() - known:
        raise InvalidValue(f"{SETTINGS} has {', '.join(sorted(unknown))}; it may have {', '.join(sorted(known))}")
    if isinstance(fields.get("batching"), dict):
        fields["batching"] = Batching(**fields["batching"])
    source = _inside(folder, fields.pop("source")) if "source" in fields else _only_file(folder)
    fields.setdefault("loader", _LOADER_BY_SUFFIX.get(source.suffix))
    if fields["loader"] is None:
        raise InvalidValue(f'no loader is known for {source.name}; name one in {SETTINGS}: loader = "..."')
    return VersionSpec(folder.parent.name, folder.name, source, **fields)


def _inside(folder: Path, name: object) -> Path:
    """Return a path below `folder`; raises `InvalidValue` for one that leaves it, also by a link."""
    path = folder / str(name)
    if not path.resolve().is_relative_to(folder.resolve()):
        raise InvalidValue(f"source {str(name)!r} lies outside the version's own folder")
    return path


def _only_file(folder: Path) -> Path:
    files = [path for path in sorted(folder.iterdir()) if path.is_file() and path.name != SETTINGS]
    if len(files) != 1:
        names = ", ".join(path.name for path in files) or "none"
        raise InvalidValue(f"it must hold one file, or name its source in {SETTINGS}; it holds {names}")
    return _inside(folder, files[0].name)
