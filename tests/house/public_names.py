"""Lists the public names of engine and explorer; `python -m tests.house.public_names` writes them to the golden file.

A module's public names are its `__all__`; where it has none, all that it defines without a leading underscore.
Owns no state.
"""

from __future__ import annotations

import ast
import importlib
import inspect
from collections.abc import Iterator
from types import ModuleType

from tests.house.tree import ROOT

GOLDEN = ROOT / "tests" / "golden" / "public_names.txt"
UPDATE = "python -m tests.house.public_names"

FACES = ("changeover.aio", "changeover.threads")
"""The same engine from other worlds: modules with the names of `changeover`, on purpose."""

PUBLIC_MODULES = ("changeover", "changeover.errors", "changeover.plugin", "changeover_sim", *FACES)
"""The modules that other people import from."""


def modules() -> list[ModuleType]:
    """Import and return the public modules."""
    return [importlib.import_module(name) for name in PUBLIC_MODULES]


def defined(module: ModuleType) -> Iterator[str]:
    """Yield the names that a module's own text binds at its top level, imports left out."""
    for node in ast.parse(inspect.getsource(module)).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            yield from (target.id for target in targets if isinstance(target, ast.Name))


def names_of(module: ModuleType) -> list[str]:
    """Return the public names of one module."""
    listed = getattr(module, "__all__", None)
    return sorted(listed if listed is not None else {name for name in defined(module) if not name.startswith("_")})


def public_names() -> list[str]:
    """Return every public name as `module.name`, sorted."""
    return sorted(f"{module.__name__}.{name}" for module in modules() for name in names_of(module))


def main() -> None:
    """Write the golden file."""
    GOLDEN.write_text("\n".join(public_names()) + "\n")


if __name__ == "__main__":
    main()
