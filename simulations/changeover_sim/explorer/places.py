"""Where a task stands, and what it is called: for people, and the same in every run of the same schedule.

Owns the names of one schedule's tasks. It reads frames and never keeps one.
"""

from __future__ import annotations

import functools
import linecache
import os
import sysconfig
from collections import Counter
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import attrs

from changeover_sim.explorer import inside_trio

# Not resolved: code knows its file by the path that it was imported by, also where a link is part of that.
_HERE = str(Path(__file__).parent) + os.sep
_PLUGIN = str(Path(__file__).parent.parent / "pytest_")
"""The explorer's plugin for pytest, which stands around a test and hears what it notes."""
_BENEATH = tuple(
    str(Path(found.origin).parent) + os.sep
    for name in ("attr", "outcome", "sniffio", "sortedcontainers", "hypothesis", "_pytest", "pluggy")
    if (found := find_spec(name)) and found.origin
)
"""What Trio and the tests themselves stand on: nobody looks for a bug of his own there."""
_STDLIB = tuple(sysconfig.get_path(name) + os.sep for name in ("stdlib", "platstdlib"))


@attrs.frozen
class Place:
    """A line of the program's own code."""

    file: str
    line: int
    function: str

    def __str__(self) -> str:
        return f"{self.short}:{self.line}"

    @property
    def short(self) -> str:
        """The file's name without its folder."""
        return Path(self.file).name

    @property
    def text(self) -> str:
        """What stands in the line."""
        return linecache.getline(self.file, self.line).strip()


@functools.cache
def is_own(filename: str) -> bool:
    """Return whether a file is the program's own: not Trio's, not the explorer's, not the standard library's."""
    foreign = inside_trio.is_of_trio(filename) or filename.startswith((_HERE, _PLUGIN, "<", *_BENEATH))
    return not foreign and (not filename.startswith(_STDLIB) or "site-packages" in filename)


def place(task: Any) -> Place | None:
    """Return the innermost line of the program's own that the task stands at; None once it has ended."""
    found = inside_trio.frames(task)
    for frame, line in reversed(found):
        if is_own(frame.f_code.co_filename):
            return Place(frame.f_code.co_filename, line, frame.f_code.co_qualname)
    if not found:
        return None
    frame, line = found[-1]
    return Place(frame.f_code.co_filename, line, frame.f_code.co_qualname)


class Names:
    """Names tasks by their function, and numbers those of one function in the order of their spawning."""

    def __init__(self) -> None:
        self._names: dict[Any, str] = {}
        self._counts: Counter[str] = Counter()
        self._taken: set[str] = set()

    def spawned(self, task: Any) -> None:
        """Name a new task."""
        base = _short(task.name)
        self._counts[base] += 1
        name = base if self._counts[base] == 1 else f"{base} {self._counts[base]}"
        while name in self._taken:  # somebody has called another task so
            self._counts[base] += 1
            name = f"{base} {self._counts[base]}"
        self._taken.add(name)
        self._names[task] = name

    def of(self, task: Any) -> str:
        """Return a task's name."""
        return self._names.get(task) or _short(task.name)


def _short(name: str) -> str:
    if name.endswith("Schedule._main"):
        return "program"
    return name if name.startswith("<") else name.rpartition(".")[2]


def of_thread(name: str) -> str:
    """Return what Trio calls a worker thread, `work from module.function`, without the module."""
    work, _, spawner = name.partition(" from ")
    return f"{work} from {_short(spawner)}" if spawner else work
