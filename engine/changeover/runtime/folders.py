"""What one folder of a repository says: the spec of a version, or the policy of a model.

Reads the disk and runs in a thread. What it reads lies inside the folder, also behind links; it owns nothing.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import attrs

from changeover.core.policy import ModelPolicy, from_fields
from changeover.core.values import Batching, VersionSpec
from changeover.errors import InvalidValue
from changeover.runtime.samples import WARMUP_NAMES, warmup_inside, warmup_of

SETTINGS = "model.toml"
"""The optional file beside a version's own that holds fields of its `VersionSpec`."""

POLICY = "policy.toml"
"""The optional file beside the folders of a model's versions that holds the fields of its `ModelPolicy`."""

_LOADER_BY_SUFFIX = {".onnx": "onnx", ".skops": "sklearn"}
_CANNOT_COME_FROM_A_FILE = frozenset({"model", "version", "allow_code"})
"""A file in the repository says neither who it is nor that its own code may run."""


def read_version(folder: Path) -> VersionSpec:
    """Return the spec of one version folder; raises `ValueError` or `OSError` with what is wrong."""
    fields = _table(_inside(folder, SETTINGS, SETTINGS)) if (folder / SETTINGS).is_file() else {}
    known = {field.name for field in attrs.fields(VersionSpec)} - _CANNOT_COME_FROM_A_FILE
    if unknown := fields.keys() - known:
        raise InvalidValue(f"{SETTINGS} has {', '.join(sorted(unknown))}; it may have {', '.join(sorted(known))}")
    if isinstance(fields.get("batching"), dict):
        fields["batching"] = Batching(**fields["batching"])
    warmup = warmup_inside(folder, fields["warmup"]) if "warmup" in fields else warmup_of(folder)
    fields["warmup"] = () if warmup is None else warmup
    source = _inside(folder, fields.pop("source")) if "source" in fields else _only_file(folder, warmup)
    fields.setdefault("loader", _LOADER_BY_SUFFIX.get(source.suffix))
    if fields["loader"] is None:
        raise InvalidValue(f'no loader is known for {source.name}; name one in {SETTINGS}: loader = "..."')
    return VersionSpec(folder.parent.name, folder.name, source, **fields)


def read_policy(file: Path) -> ModelPolicy:
    """Return the policy that a file holds; raises `ValueError` or `OSError` with what is wrong."""
    return from_fields(POLICY, _table(file))


def _table(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text("utf-8"))
    except RecursionError as error:
        raise InvalidValue(f"{file.name} is nested too deeply") from error


def _inside(folder: Path, name: object, what: str = "source") -> Path:
    """Return a path below `folder`; raises `InvalidValue` for one that leaves it, also by a link."""
    path = folder / str(name)
    if not path.resolve().is_relative_to(folder.resolve()):
        raise InvalidValue(f"{what} {str(name)!r} lies outside the version's own folder")
    return path


def _only_file(folder: Path, warmup: Path | str | None) -> Path:
    """Return the one file that is neither settings nor warm-up data; raises `InvalidValue` where it is not one."""
    others = {SETTINGS, *WARMUP_NAMES}
    files = [path for path in sorted(folder.iterdir()) if path.is_file() and path.name not in others and path != warmup]
    if len(files) != 1:
        names = ", ".join(path.name for path in files) or "none"
        raise InvalidValue(f"it must hold one file, or name its source in {SETTINGS}; it holds {names}")
    return _inside(folder, files[0].name)
