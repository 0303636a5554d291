"""Which source has decided what a trial finds: a digest over it, and the commit that it belongs to.

Reads the package's own files and asks git; changes nothing.
"""

from __future__ import annotations

import ast
import hashlib
import io
import os
import subprocess
import tokenize
from collections.abc import Iterator
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parent.parent
_NAME = PACKAGE.name
EXPLORER = f"{_NAME}.explorer.search"
_DECIDING = ("explorer", "policies", "kernels")
"""The folders whose changes make a commit dirty."""
_TELLING = frozenset(f"{_NAME}.explorer.{name}" for name in ("holding", "places", "results", "trace"))
"""What only tells of a schedule that was run: a sentence of it may change, and no figure is old by that."""


@cache
def digest(*modules: str) -> str:
    """Return a hash of the explorer's search, these modules, and all of this package that they import at their top.

    Comments, docstrings, empty lines and the `__init__` of packages do not count; neither does what only tells of a
    failure, nor what a function imports: that shares an exploration out, and decides nothing.
    """
    names, left = set[str](), [EXPLORER, *modules]
    while left:
        name = left.pop()
        if name not in names and name not in _TELLING and _file(name) is not None:
            names.add(name)
            left += _imported(_source(name))
    joined = hashlib.sha256()
    for name in sorted(names):
        joined.update(f"{name}\n{_bare(_source(name))}\n".encode())
    return joined.hexdigest()[:12]


@cache
def _file(name: str) -> Path | None:
    """Return the file of a module of this package; None for anything else, packages included."""
    first, *rest = name.split(".")
    path = PACKAGE.joinpath(*rest).with_suffix(".py") if first == _NAME and rest else None
    return path if path is not None and path.is_file() else None


@cache
def _source(name: str) -> str:
    path = _file(name)
    assert path is not None
    return path.read_text("utf-8")


@cache
def _imported(source: str) -> tuple[str, ...]:
    """Return the names that a module imports at its top, and those of them which may be modules."""
    found: list[str] = []
    for node in ast.parse(source).body:
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            found += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
    return tuple(found)


@cache
def _bare(source: str) -> str:
    """Return a module's source without what only people read."""
    lines = source.splitlines()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            line, column = token.start
            lines[line - 1] = lines[line - 1][:column]
    for first, last in _docstrings(ast.parse(source)):
        lines[first - 1 : last] = [""] * (last - first + 1)
    return "\n".join(line.rstrip() for line in lines if line.strip())


def _docstrings(tree: ast.Module) -> Iterator[tuple[int, int]]:
    """Yield the first and the last line of each string that stands alone."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield node.lineno, node.end_lineno or node.lineno


def commit() -> str:
    """Return the commit of the source tree that this runs from, with a mark where what decides was changed since."""
    try:
        _git("ls-files", "--error-unmatch", "explorer/search.py")  # else it is some other repository around us
        found = _git("rev-parse", "--short=12", "HEAD")
        return f"{found}-dirty" if _git("status", "--porcelain", "--", *_DECIDING) else found
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _git(*arguments: str) -> str:
    command = ["git", "-C", os.fspath(PACKAGE), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()  # noqa: S603 - our own
