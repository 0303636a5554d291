"""Journal files on disks that fail for real: full, read-only, without fsync, cut short; no part of SQLite is faked.

Each fault owns what it breaks, and mends it where that can be done; spawns nothing.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import resource
import tempfile
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

import pytest
import trio

from changeover.core.records import Entry, Kept, SwapRow
from changeover.runtime import sqlite_file
from changeover.runtime.ports import Ports
from changeover.runtime.sqlite_journal import Durability, SqliteJournal
from tests.support.threads import PATIENCE_S, patient

NOBODY = 65534

# --- entries --------------------------------------------------------------------------------------------------------


def entry(number: int, *, ended: bool = False, pages: int = 0) -> Entry:
    """Return an entry that can be told from every other, on many pages of the file where told."""
    return Entry((SwapRow(f"swap {number}", ended, b"%d:" % number + b"." * (100 + 4096 * pages)),))


def numbers(kept: Kept) -> list[int]:
    """Return the numbers of the entries that were kept; each must be there whole."""
    found = [int(row.id.removeprefix("swap ")) for row in kept.swaps]
    assert all(row.record.startswith(b"%d:." % number) for number, row in zip(found, kept.swaps, strict=True))
    return found


async def put(journal: SqliteJournal, what: Entry) -> Exception | None:
    """Write an entry and return what was delivered for it."""
    there: list[Exception | None] = []
    delivered = trio.Event()

    def deliver(error: Exception | None) -> None:
        there.append(error)
        delivered.set()

    journal.write(what, deliver)
    with trio.fail_after(PATIENCE_S):
        await delivered.wait()
    (error,) = there
    return error


@asynccontextmanager
async def opened(path: Path, durability: Durability = "process") -> AsyncIterator[tuple[SqliteJournal, Kept]]:
    """Open a journal file in the real world, and close it."""
    journal = SqliteJournal(path, Ports.system(), durability)
    with trio.fail_after(PATIENCE_S):
        kept = await journal.open()
        yield journal, kept
        await journal.close()


async def look(path: Path) -> Kept:
    """Open a journal file, and close it."""
    async with opened(path) as (_, kept):
        return kept


def look_at_once(path: Path) -> Kept:
    """Do the same without a thread and a loop."""
    file = on_disk(path)
    kept = file.open()
    file.close()
    return kept


def on_disk(path: Path, durability: Durability = "process", wall_s: float = 0.0) -> sqlite_file.SqliteFile:
    """Return what the journal's thread works with, at a time of one's own."""
    return sqlite_file.SqliteFile(path, durability, lambda: wall_s)


def names_in(folder: Path) -> list[str]:
    """Return what lies in a folder."""
    return sorted(path.name for path in folder.iterdir())


def log_of(path: Path) -> Path:
    """Return where SQLite keeps the write-ahead log."""
    return path.with_name(path.name + "-wal")


class Closings:
    """Tells when journal files are closed, whoever closes them."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self._closed = threading.Event()
        close = sqlite_file.SqliteFile.close

        def tell(file: sqlite_file.SqliteFile) -> None:
            close(file)
            self._closed.set()

        patch.setattr(sqlite_file.SqliteFile, "close", tell)

    def wait(self) -> None:
        """Return when one was closed since the last time; blocks."""
        assert patient(self._closed), "no file was closed"
        self._closed.clear()


# --- faults ---------------------------------------------------------------------------------------------------------


def descriptors_of(path: Path) -> list[int]:
    """Return this process's descriptors of a file."""
    found: list[int] = []
    for link in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # the descriptor that lists them
            if link.readlink() == path.resolve():
                found.append(int(link.name))
    return found


def replace_descriptor(path: Path, by: Path | str, flags: int) -> None:
    """Let the descriptor under which a file is open stand for another one, until it is closed."""
    (fd,) = descriptors_of(path)
    other = os.open(by, flags)
    os.dup2(other, fd, inheritable=False)
    os.close(other)


@contextmanager
def file_size_limit(size_bytes: int) -> Iterator[None]:
    """Let no file of this process become longer than this: a write stops in its middle, at any byte one likes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextmanager
def as_nobody() -> Iterator[None]:
    """Give up the rights of the superuser, who may write anywhere, for as long as the block lasts."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@contextmanager
def everybodys_folder() -> Iterator[Path]:
    """Make a folder that nobody can reach too, which pytest's own is not."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o777)
        yield Path(name)


FSYNC_CALLS = {"x86_64": (0xC000003E, 74, 75), "aarch64": (0xC00000B7, 82, 83)}
"""The kernel's name of the machine, and its numbers of fsync and fdatasync."""


class _Instruction(ctypes.Structure):
    _fields_ = (("code", ctypes.c_uint16), ("jt", ctypes.c_uint8), ("jf", ctypes.c_uint8), ("k", ctypes.c_uint32))


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_uint16), ("filter", ctypes.POINTER(_Instruction)))


def no_more_fsync() -> bool:
    """Make every fsync of this thread, and of those that it starts, fail with EIO for ever; False: cannot be done.

    A seccomp filter: the file itself stays readable and writable, as it does on a disk that is about to die.
    """
    if platform.system() != "Linux" or platform.machine() not in FSYNC_CALLS:
        return False
    machine, *calls = FSYNC_CALLS[platform.machine()]
    load, equal, answer = 0x20, 0x15, 0x06
    instructions = [
        _Instruction(load, 0, 0, 4), _Instruction(equal, 0, 3, machine),
        _Instruction(load, 0, 0, 0), _Instruction(equal, 2, 0, calls[0]), _Instruction(equal, 1, 0, calls[1]),
        _Instruction(answer, 0, 0, 0x7FFF0000), _Instruction(answer, 0, 0, 0x00050000 | errno.EIO),
    ]  # fmt: skip
    program = _Program(len(instructions), (_Instruction * len(instructions))(*instructions))
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    return prctl(38, 1, 0, 0, 0) == 0 and prctl(22, 2, ctypes.byref(program), 0, 0) == 0
