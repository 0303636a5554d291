"""Planting: the engine with one bug in it, by loading exactly one of its modules from a patched source.

It puts one finder in front of `sys.meta_path`, which stays there until the process ends: a trial is a process of its
own. It never imports the engine, writes no file, and neither reads nor writes byte code of what it has patched.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType

from changeover_sim.mutants.mutant import Mutant


class NotPlanted(Exception):
    """A mutant does not fit the engine that is installed, or comes too late."""


def plant(mutant: Mutant) -> None:
    """Have the mutant's module come with its bug when it is imported; raises `NotPlanted`, and then changes nothing."""
    if mutant.module in sys.modules:
        raise NotPlanted(f"{mutant.name}: {mutant.module} is imported already; plant first, in a fresh process")
    sys.meta_path.insert(0, _Finder(mutant.module, source_path(mutant), patched(mutant)))


def patched(mutant: Mutant) -> str:
    """Return the source of the mutant's module with its bug; raises `NotPlanted` where its piece is not there once."""
    source = source_path(mutant).read_text("utf-8")
    count = source.count(mutant.old)
    if count != 1:
        raise NotPlanted(f"{mutant.name}: what it replaces occurs {count} times in {mutant.module}, and not once")
    return source.replace(mutant.old, mutant.new)


def source_path(mutant: Mutant) -> Path:
    """Return the file of the mutant's module, which is not imported for it; raises `NotPlanted`."""
    package, *inner = mutant.module.split(".")
    spec = importlib.util.find_spec(package)
    for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
        path = Path(folder, *inner).with_suffix(".py")
        if path.is_file():
            return path
    raise NotPlanted(f"{mutant.name}: there is no module {mutant.module}")


class _Finder(MetaPathFinder):
    """Finds one module, and gives it another source."""

    def __init__(self, module: str, path: Path, source: str) -> None:
        self._module = module
        self._path = path
        self._source = source

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        del path, target
        if fullname != self._module:
            return None
        loader = _Loader(fullname, str(self._path), self._source)
        return importlib.util.spec_from_file_location(fullname, self._path, loader=loader)


class _Loader(SourceFileLoader):
    """Compiles what it was given, and leaves caches alone."""

    def __init__(self, module: str, path: str, source: str) -> None:
        super().__init__(module, path)
        self._source = source

    def get_source(self, fullname: str) -> str:
        del fullname
        return self._source

    def get_code(self, fullname: str) -> CodeType:
        del fullname
        return compile(self._source, self.path, "exec", dont_inherit=True)
