"""A lock that one engine at a time has on a file, in all processes of a machine; SIGKILL lets go of it too.

A `FileLock` owns the lock file beside that file, which stays when it is let go: to delete it would let two in.
Where the system has no `fcntl` it keeps out the engines of this process only. Spawns nothing.
"""

from __future__ import annotations

import os
import sys
import threading
from contextlib import suppress
from pathlib import Path

from changeover.errors import JournalInUse

if sys.platform != "win32":
    import fcntl

SQLITE_LOCK_AT, SQLITE_LOCK_BYTES = 0x40000002, 510
"""The bytes of a database that SQLite locks for whoever reads it, or has it to itself (SQLite's file format, os.h)."""

_held: dict[tuple[int, int, int], FileLock] = {}
"""Who holds which file in this process, by process, device and inode: a forked child holds nothing of its parent's.

A process that closes *any* descriptor of a file loses its locks on it (POSIX), so one that is held is not even opened.
"""


_making = threading.Lock()
"""Held while a lock file is made and claimed: the descriptor that made it must not be closed behind somebody's lock."""


class FileLock:
    """The lock of one engine on one file."""

    def __init__(self, path: Path) -> None:
        """Take it for the file at `path`, which need not be there; raises `JournalInUse` and `OSError`."""
        self._path = path
        self._fd: int | None = None
        lock = path.with_name(path.name + ".lock")
        try:
            with _making:
                with suppress(FileExistsError):
                    os.close(os.open(lock, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666))
                self._claim(lock)
            self._fd = _locked(path, lock)
            self.claim()
        except BaseException:
            self.release()
            raise

    def claim(self) -> None:
        """Keep others of this process from the file under its other names too; again once it was made."""
        with suppress(FileNotFoundError):
            self._claim(self._path)

    def release(self) -> None:
        """Let go; a second time nothing happens."""
        fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)
        for key in [key for key, holder in list(_held.items()) if holder is self]:
            del _held[key]

    def _claim(self, file: Path) -> None:
        found = file.stat()
        if _held.setdefault((os.getpid(), found.st_dev, found.st_ino), self) is not self:
            raise in_use(self._path, "another engine of this process")


def in_use(path: Path, by: str) -> JournalInUse:
    """Return the error that names who has it."""
    return JournalInUse(
        f"the journal {path} is open in {by}; each engine needs a file of its own: close that one, or name another file"
    )


def sqlite_has(path: Path) -> bool:
    """Return whether another process has a database to itself; only for a file that is not open in this process."""
    if sys.platform == "win32":
        return False
    fd = os.open(path, os.O_RDONLY)
    try:
        fcntl.lockf(fd, fcntl.LOCK_SH | fcntl.LOCK_NB, SQLITE_LOCK_BYTES, SQLITE_LOCK_AT)
    except (BlockingIOError, PermissionError):
        return True
    finally:
        os.close(fd)
    return False


def _locked(path: Path, lock: Path) -> int:
    """Return a descriptor of the lock file, which is locked for as long as that is open."""
    fd = os.open(lock, os.O_RDWR)
    if sys.platform == "win32":
        return fd
    try:
        # Not `flock`, which a forked child would hold on to when this process is dead.
        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        holder = os.read(fd, 20).decode("ascii", "replace").strip()
        os.close(fd)
        raise in_use(path, f"another engine (process {holder or 'unknown'})") from None
    except BaseException:
        os.close(fd)
        raise
    with suppress(OSError):  # a full disk: then the error of the next engine names no process
        os.ftruncate(fd, 0)
        os.write(fd, str(os.getpid()).encode())
    return fd
