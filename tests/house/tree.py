"""The files that the house rules look at, as git lists them.

Owns no state; runs `git ls-files` and reads.
"""

from __future__ import annotations

import ast
import subprocess
from functools import cache, cached_property
from pathlib import Path

import attrs

ROOT = Path(__file__).resolve().parents[2]
"""The repository's root."""

SOURCE_ROOTS = ("engine/", "plugins/", "simulations/")
"""The folders that hold what is shipped."""


@attrs.define(slots=False)
class File:
    """One text file; a Python file is parsed once, when a rule first asks."""

    path: str
    """Relative to the repository's root, with slashes."""
    text: str
    """All of it."""

    @cached_property
    def tree(self) -> ast.Module:
        """The file as Python."""
        return ast.parse(self.text, filename=self.path)


@cache
def tracked() -> tuple[str, ...]:
    """List what git tracks, and what it would if everything were added; ignored files are out."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return tuple(sorted(path for path in set(listed.split("\0")) if path and (ROOT / path).is_file()))


@cache
def text_files() -> tuple[File, ...]:
    """Read every listed file that is text."""
    contents = ((path, (ROOT / path).read_bytes()) for path in tracked())
    return tuple(File(path, data.decode()) for path, data in contents if b"\0" not in data)


@cache
def shipped() -> tuple[File, ...]:
    """Return the Python files of engine, plugins and simulations."""
    return tuple(f for f in text_files() if f.path.startswith(SOURCE_ROOTS) and f.path.endswith(".py"))
