"""The disk that an engine's journal is on, broken by faults of the kernel while the engine serves.

A `Disk` is patched under SQLite files for one test, and owns what became of each record. Spawns nothing.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import threading
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

import changeover
from changeover import Event, SwapState
from changeover.runtime import sqlite_file
from changeover.runtime.sqlite_file import SqliteFile
from changeover_sim.disk import line_of
from tests.support.disks import log_of, replace_descriptor
from tests.support.rig import Rig, open_rig
from tests.support.threads import PATIENCE_S

FULL, READ_ONLY, NO_FSYNC = "full", "read-only", "fsync"


class Disk:
    """The disk that a journal's file is on: broken for the records that a test names, by faults of the kernel."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.fault: str | None = None
        self.breaks: Callable[[str], bool] = lambda _line: True
        """For which records it is broken."""
        self.kept: list[str] = []
        self.lost: list[str] = []
        self.reached, self.goes_on = threading.Event(), threading.Event()
        """A write hangs; it may go on."""

    def write(self, line: str, write: Callable[[], None]) -> None:
        """Note whether a record is kept."""
        try:
            write()
        except BaseException:
            self.lost.append(line)
            raise
        self.kept.append(line)

    def touch(self, line: str) -> None:
        """Be broken, perhaps, in the moment in which a record goes there."""
        if self.fault is not None and self.breaks(line):
            self._break()

    def _break(self) -> None:
        log = log_of(self.path)
        if self.fault == "hung":
            self.reached.set()
            assert self.goes_on.wait(PATIENCE_S)
        elif self.fault == FULL:
            replace_descriptor(log, "/dev/full", os.O_RDWR)
        elif self.fault == READ_ONLY:
            replace_descriptor(log, log, os.O_RDONLY)
        else:  # where no fsync works
            replace_descriptor(log, "/dev/null", os.O_RDWR)


@contextmanager
def disk_under(path: Path, patch: pytest.MonkeyPatch) -> Iterator[Disk]:
    """Put a disk under the journal at a path; behind the block nothing hangs any more."""
    disk, lines = Disk(path), [""]
    write, make = SqliteFile.write, sqlite_file.make

    def noted(file: SqliteFile, entry: Any) -> None:
        lines.append(line_of(entry))
        disk.write(lines[-1], lambda: write(file, entry))

    def broken(db: sqlite3.Connection, changes: Any) -> None:
        disk.touch(lines[-1])
        make(db, changes)

    patch.setattr(SqliteFile, "write", noted)
    patch.setattr(sqlite_file, "make", broken)
    yield disk
    disk.goes_on.set()


@asynccontextmanager
async def engine_on(disk: Disk, **options: Any) -> AsyncGenerator[Rig, None]:
    """Open an engine that knows three versions of m and one of n, on the real machine, and ask m all the time."""
    wrong: list[Exception] = []
    asked = trio.Event()
    error: Exception | None = None

    async def ask(engine: changeover.Engine) -> None:
        while True:
            await trio.sleep(0.0003)
            try:
                await engine.infer("m", {})
            except changeover.errors.ChangeoverError as lost:  # who only asks may not hear of the disk
                wrong.append(lost)
            asked.set()

    async with open_rig(real=True, journal=disk.path, **options) as rig:
        for version in ("1", "2", "3"):
            rig.add(version=version)
        rig.add("n", "1")
        if rig.engine.recovery().waiting:
            await rig.engine.recovered(PATIENCE_S)
        else:
            await rig.engine.load("m", "1")
            while not disk.kept:  # noqa: ASYNC110 - nobody waits for what a load writes down
                await trio.sleep(0.001)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, rig.engine)
            await asked.wait()
            try:
                yield rig
            except Exception as raised:  # noqa: BLE001 - it is raised behind the nursery, which would make it a group
                error = raised
            nursery.cancel_scope.cancel()
        if error is not None:
            raise error
    assert wrong == []


async def until_drained(rig: Rig) -> None:
    """Return when a swap waits for the old version to be empty."""
    async with rig.engine.events() as events:
        async for event in events:
            if isinstance(event, Event) and event.detail.get("state") == "old_version_draining":
                return


async def ends_as_it_was(rig: Rig, states: list[SwapState]) -> None:
    """Assert how the swaps of m have ended."""
    assert [operation.state for operation in rig.engine.swaps("m")] == states
    assert all(operation.end_time for operation in rig.engine.swaps("m"))


async def killed_after(disk: Disk, count: int) -> None:
    """Leave behind what a process has written that was killed after so many records of a swap."""
    taken = disk.path.parent / "killed"

    def copy(line: str) -> bool:
        if len(disk.kept) == count and not taken.exists():
            taken.mkdir()
            for file in (disk.path, log_of(disk.path)):
                shutil.copy(file, taken)
        return False

    disk.fault, disk.breaks = FULL, copy
    async with engine_on(disk) as rig:
        await rig.engine.swap("m", "2")
    disk.path, disk.fault, disk.breaks = taken / "j", None, lambda _line: True
