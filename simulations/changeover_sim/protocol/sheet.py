"""The results file: every trial that was run, cell by cell, and under which conditions; written after each trial.

Owns the file. Writing is beside it and then renamed: a process that is killed leaves the old one or the new one.
"""

from __future__ import annotations

import json
import math
import os
from bisect import insort
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import attrs

from changeover_sim.protocol.cells import ENDINGS, Cell, Key, Trial

COMMITTED = Path(__file__).with_name("results.json")
"""The results that come with the package."""
FORMAT = 1
COLUMNS = [field.name for field in attrs.fields(Trial)]
"""Of a trial in the file."""


class BadSheet(ValueError):
    """The file is no results file, or cannot be written; it was not touched."""


@attrs.frozen
class Made:
    """Under which conditions trials were made."""

    commit: str
    """Of the source tree; `-dirty` where explorer, policies or kernels were changed since."""
    python: str
    trio: str
    cores: int
    jobs: int
    """So many trials ran side by side, which the seconds depend on."""


class Sheet:
    """All trials of a results file."""

    def __init__(self, path: Path) -> None:
        """Read what is there; a file that is not there has none. Raises `BadSheet`, and `OSError`."""
        self.path = path
        self.made: list[Made] = []
        self._cells: dict[Key, Cell] = {}
        self._lines: dict[Key, str] = {}
        self._order: list[Key] = []
        self._seen = _stat(path)
        if self._seen is not None:
            self._read()

    def _read(self) -> None:
        try:
            read = json.loads(self.path.read_text("utf-8"))
            _format(read)
            self.made = [Made(**one) for one in read["made"]]
            for one in read["cells"]:
                self._keep(_cell(one, len(self.made)))
        except (ValueError, TypeError, KeyError) as error:
            what = f"{type(error).__name__}: {error}" if isinstance(error, KeyError) else str(error)
            advice = "it is left as it is: move it away, or name another file with --results"
            raise BadSheet(f"{self.path} is no results file of the kernels ({what}); {advice}") from error

    def _keep(self, cell: Cell) -> None:
        if cell.key not in self._cells:
            insort(self._order, cell.key)
        self._cells[cell.key] = cell
        self._lines[cell.key] = _line(cell)

    @property
    def cells(self) -> list[Cell]:
        """All cells, in order."""
        return [self._cells[key] for key in self._order]

    def cell(self, key: Key, digest: str) -> Cell:
        """Return a cell as this source has made it; empty where it has not, or another has."""
        found = self._cells.get(key)
        return found if found is not None and found.digest == digest else Cell(key, digest)

    def under(self, made: Made) -> int:
        """Return the place of these conditions in the list."""
        if made not in self.made:
            self.made.append(made)
        return self.made.index(made)

    def add(self, key: Key, digest: str, trial: Trial) -> None:
        """Keep a trial, and write all down; the trials of this cell that another source has made are given up.

        Raises `BadSheet` where somebody else has written the file since, and `OSError`.
        """
        self._keep(self.cell(key, digest).with_trial(trial))
        self._write()

    def _write(self) -> None:
        if _stat(self.path) != self._seen:
            raise BadSheet(f"{self.path} was changed by somebody else meanwhile; one run at a time writes a file")
        head = {"format": FORMAT, "columns": COLUMNS, "made": [attrs.asdict(one) for one in self.made]}
        cells = ",\n  ".join(self._lines[key] for key in self._order)
        whole(self.path, f'{json.dumps(head)[:-1]}, "cells": [\n  {cells}\n]}}\n')
        self._seen = _stat(self.path)


def whole(path: Path, text: str) -> None:
    """Write a file beside its name and rename it, so that whoever looks sees the old one or the new one."""
    new = path.with_name(f".{path.name}.new")
    try:
        new.write_text(text, "utf-8")
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)


def _stat(path: Path) -> tuple[int, int, int] | None:
    try:
        found = os.stat(path)  # noqa: PTH116 - what is told apart here are files, not paths
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def _format(read: dict[str, Any]) -> None:
    if read["format"] != FORMAT or read["columns"] != COLUMNS:
        raise ValueError(f"its format is {read['format']!r}, and this is {FORMAT}")


def _line(cell: Cell) -> str:
    trials = [list(attrs.astuple(trial)) for trial in cell.trials]
    return json.dumps({**attrs.asdict(cell.key), "digest": cell.digest, "trials": trials})


def _cell(read: dict[str, Any], made: int) -> Cell:
    """Return a cell of the file; raises ValueError, TypeError or KeyError for what is none."""
    key = Key(*(_of(str, read[name]) for name in ("kernel", "port", "policy")))
    return Cell(key, _of(str, read["digest"]), tuple(_trials(read["trials"], made)))


def _trials(read: Iterable[Any], made: int) -> Iterable[Trial]:
    for columns in read:
        trial = Trial(*columns)
        for number in (trial.seed, trial.schedules, trial.made):
            _of(int, number)
        _of(str, trial.note)
        timed = type(trial.seconds) in {int, float} and 0 <= trial.seconds < math.inf
        if trial.ended not in ENDINGS or not 0 <= trial.made < made or not timed:
            raise ValueError(f"{columns!r} is no trial")
        yield trial


def _of(kind: type, value: Any) -> Any:
    if type(value) is not kind:
        raise TypeError(f"{value!r} stands where {kind.__name__} is wanted")
    return value
