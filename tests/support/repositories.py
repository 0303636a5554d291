"""Model repositories for tests: version folders in a temporary folder.

Owns nothing: the folder is the test's.
"""

from __future__ import annotations

from pathlib import Path

SCRIPTED = 'loader = "scripted"'
"""The `model.toml` of a version whose model does what the rig's cast says."""


def put(repository: Path, model: str = "m", version: str = "1", toml: str | None = None, **files: str) -> Path:
    """Write a version folder; `model_onnx="x"` makes the file `model.onnx`."""
    folder = repository / model / version
    folder.mkdir(parents=True)
    for name, text in files.items():
        (folder / name.replace("_", ".")).write_text(text)
    if toml is not None:
        (folder / "model.toml").write_text(toml)
    return folder


def publish(repository: Path, version: str, model: str = "m") -> Path:
    """Write the folder of a version with a scripted model."""
    return put(repository, model, version, toml=SCRIPTED, model_bin="x")


def rule(repository: Path, text: str, model: str = "m") -> Path:
    """Write a model's policy file."""
    (repository / model).mkdir(parents=True, exist_ok=True)
    file = repository / model / "policy.toml"
    file.write_text(text)
    return file
