"""The tables of a journal file: how they are made, brought up to date, and told from what is not ours.

Blocks; runs in the journal's thread. Owns no state and spawns nothing. It looks at a file's first bytes before SQLite
does, because SQLite would already change somebody else's file by closing it.
"""

from __future__ import annotations

import sqlite3
import stat
from collections.abc import Callable
from pathlib import Path

from changeover.errors import JournalFailed
from changeover.runtime.sqlite_failures import Damaged

APPLICATION_ID = int.from_bytes(b"ChOv", "big")
"""SQLite's mark of whose file it is; in the first page from the file's first transaction on."""

KEEP_SWAP = (
    "INSERT INTO swap(id, ended, record) VALUES (?, ?, ?) "
    "ON CONFLICT(id) DO UPDATE SET ended = excluded.ended, record = excluded.record"  # and `seq` stays
)
KEEP_DESIRED = (
    "INSERT INTO desired(model, record) VALUES (?, ?) ON CONFLICT(model) DO UPDATE SET record = excluded.record"
)
FORGET_DESIRED = "DELETE FROM desired WHERE model = ?"
FORGET_ENDED = (
    "DELETE FROM swap WHERE ended AND seq <= (SELECT seq FROM swap WHERE ended ORDER BY seq DESC LIMIT 1 OFFSET ?)"
)

_HEADER = b"SQLite format 3\0"
_HEADER_BYTES = 108
"""The file header's 100, and the first page's kind and number of cells behind it."""
_EMPTY_LEAF = 13


Migration = Callable[[sqlite3.Connection], object]


def _first(db: sqlite3.Connection) -> None:
    db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    db.execute(
        "CREATE TABLE swap(seq INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, ended INTEGER NOT NULL, "
        "record BLOB NOT NULL)"
    )
    db.execute("CREATE TABLE desired(model TEXT NOT NULL PRIMARY KEY, record BLOB NOT NULL) WITHOUT ROWID")


MIGRATIONS: tuple[Migration, ...] = (_first,)
"""The n-th makes version n + 1 of version n; one that was released is never changed."""

SHAPE = {
    "desired": [("model", "TEXT", 1, 1), ("record", "BLOB", 1, 0)],
    "swap": [("seq", "INTEGER", 0, 1), ("id", "TEXT", 1, 0), ("ended", "INTEGER", 1, 0), ("record", "BLOB", 1, 0)],
}
"""Table to its columns, as the newest version has them: name, type, not null, place in the primary key."""


def is_new(path: Path) -> bool:
    """Return whether a journal has to be made at `path`; raises `Damaged`, and `JournalFailed` for what is not ours."""
    log = path.with_name(path.name + "-wal")
    has_log = log.exists() and log.stat().st_size > 0
    if path.exists() and not stat.S_ISREG(path.stat().st_mode):
        raise JournalFailed(f"the journal {path} is no file; name a file, in a folder that is there")
    head = b""
    if path.exists():
        with path.open("r+b") as file:  # SQLite would open what it may not write, and fail later, with another reason
            head = file.read(_HEADER_BYTES)
    if not head:
        if has_log:  # SQLite would delete it
            raise Damaged("it is empty, and its write-ahead log is not")
        return True
    if len(head) < _HEADER_BYTES or not head.startswith(_HEADER):
        raise Damaged("it is no SQLite database")
    if not {head[18], head[19]} <= {1, 2}:  # SQLite would take it for one that may not be written
        raise Damaged("its header names a file format that SQLite does not have")
    mark, empty = int.from_bytes(head[68:72], "big"), head[100] == _EMPTY_LEAF and not any(head[103:105])
    if mark == 0 and empty and not has_log:
        return True
    if mark != APPLICATION_ID:
        raise JournalFailed(f"{path} is another program's SQLite database, and was left alone; name another file")
    return False


def bring_up_to_date(db: sqlite3.Connection, *, new: bool) -> None:
    """Run the migrations that are missing, each in a transaction with the version that it makes; raises `Damaged`."""
    (version,) = db.execute("PRAGMA user_version").fetchone()
    if version > len(MIGRATIONS):
        raise Damaged(f"it has version {version}, and this engine reads up to {len(MIGRATIONS)}", "newer")
    if version < 1 and not new:
        raise Damaged(f"it has version {version}, which never was")
    for target in range(version + 1, len(MIGRATIONS) + 1):
        db.execute("BEGIN EXCLUSIVE")
        try:
            MIGRATIONS[target - 1](db)
            db.execute(f"PRAGMA user_version = {target}")
            db.execute("COMMIT")
        except BaseException:
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise


def check(db: sqlite3.Connection) -> None:
    """Raise `Damaged` where the pages do not fit each other, or the tables are not those that they should be."""
    ((found, *_), *_) = db.execute("PRAGMA integrity_check(1)").fetchall()
    if found != "ok":
        raise Damaged(f"SQLite's integrity_check finds: {found}")
    others = "SELECT name FROM sqlite_master WHERE type != 'index' AND name NOT LIKE 'sqlite!_%' ESCAPE '!'"
    names = sorted(name for (name,) in db.execute(others).fetchall())
    if names != sorted(SHAPE):
        raise Damaged(f"it has the tables {', '.join(names) or 'none'}; they should be {', '.join(sorted(SHAPE))}")
    for table, columns in SHAPE.items():
        rows = db.execute(f"PRAGMA table_info({table})").fetchall()
        if (found := [(name, kind, not_null, key) for _, name, kind, not_null, _, key in rows]) != columns:
            raise Damaged(f"its table {table} has the columns {found}; they should be {columns}")
    try:
        db.execute(f"EXPLAIN {KEEP_SWAP}", ("", 0, b"")).fetchall()  # does not compile where `id` is not unique
    except sqlite3.OperationalError as error:
        raise Damaged(f"its table swap cannot be written to: {error}") from error
