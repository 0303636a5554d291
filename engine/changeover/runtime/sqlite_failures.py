"""What can be wrong with a journal file: its errors in the operator's words, and where a damaged one goes.

Blocks; runs in the journal's thread. Owns no state and spawns nothing. It deletes nothing, and overwrites nothing.
"""

from __future__ import annotations

import errno
import logging
import os
import sqlite3
import time
from contextlib import suppress
from pathlib import Path

from changeover.core.operations import SetAside
from changeover.errors import JournalFailed
from changeover.runtime.file_lock import in_use

logger = logging.getLogger("changeover")

BESIDE = ("", "-wal", "-shm", "-journal")
"""What belongs to a database file, by what follows its name."""

_NO_RIGHT = "let this process write to it and to its folder"
_NO_SPACE = "free some space on its disk"
_HINTS = {
    sqlite3.SQLITE_FULL: _NO_SPACE,
    sqlite3.SQLITE_READONLY: _NO_RIGHT,
    sqlite3.SQLITE_PERM: _NO_RIGHT,
    sqlite3.SQLITE_CANTOPEN: _NO_RIGHT,
    sqlite3.SQLITE_IOERR: "look at its disk",
}
_HINTS_BY_ERRNO = {
    errno.EACCES: _NO_RIGHT, errno.EPERM: _NO_RIGHT, errno.EROFS: _NO_RIGHT,
    errno.ENOSPC: _NO_SPACE, errno.EDQUOT: _NO_SPACE,
}  # fmt: skip


class Damaged(Exception):
    """A file that is set aside: `kind` is "corrupt" or "newer"."""

    def __init__(self, reason: str, kind: str = "corrupt") -> None:
        """Keep the kind beside the reason."""
        super().__init__(reason)
        self.kind = kind


def set_aside(path: Path, damage: Damaged, now_s: float) -> SetAside:
    """Rename a file and what belongs to it, to a name with the time; it may be open, where the system allows that."""
    stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime(now_s))
    name = plain = f"{path.name}.{damage.kind}-{stamp}"
    count = 1
    while any(os.path.lexists(path.with_name(name + end)) for end in BESIDE):
        count += 1
        name = f"{plain}-{count}"
    # The database first: killed in between, the log without its database is set aside by the next engine.
    for end in BESIDE:
        with suppress(FileNotFoundError):
            path.with_name(path.name + end).rename(path.with_name(name + end))
    aside = SetAside(str(path.with_name(name)), str(damage))
    logger.error(
        "the journal %s cannot be used: %s; it was set aside as %s, and an empty one takes its place",
        path, aside.reason, aside.path,
    )  # fmt: skip
    return aside


def code_of(error: BaseException) -> int:
    """Return SQLite's primary result code; 0 where the error is not SQLite's."""
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF


def failed(path: Path, done: str, error: Exception) -> JournalFailed:
    """Return the error that names the file and the way out."""
    if code_of(error) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return in_use(path, "another program")
    hint = _HINTS_BY_ERRNO.get(error.errno or 0) if isinstance(error, OSError) else _HINTS.get(code_of(error))
    return JournalFailed(f"the journal {path} could not be {done}: {error}" + (f"; {hint}" if hint else ""))
