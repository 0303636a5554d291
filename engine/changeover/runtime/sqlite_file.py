"""One journal file, as the journal's thread sees it: opened, written, tidied, closed.

Owns the connection and the lock. Blocks; all of it runs in that one thread, and nobody else may hold on to it: SQLite
would spoil the file when a forked child closes its copy. A failed write leaves nothing of itself behind.
"""

from __future__ import annotations

import errno
import logging
import os
import sqlite3
from collections.abc import Callable, Generator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Literal

import attrs

from changeover.core.records import HISTORY_MAX, Entry, Kept, SwapRow
from changeover.errors import JournalFailed
from changeover.runtime import sqlite_schema
from changeover.runtime.file_lock import FileLock, in_use, sqlite_has
from changeover.runtime.sqlite_failures import Damaged, code_of, failed, set_aside

logger = logging.getLogger("changeover")

Change = tuple[str, tuple[str | int | bytes, ...]]
"""A statement and its values."""

PRUNE_EVERY = 1_000
"""After so many rows of ended swaps the oldest are forgotten: that reads the whole table (10 ms)."""
LOG_BYTES_MAX = 4 * 1024 * 1024
"""A longer write-ahead log is moved into the database."""
CHECKING_KIB = 16 * 1024
"""So much of the file is kept in memory while it is opened."""
BUSY_S = 1.0
"""How long somebody who only looks into the file, by `sqlite3` say, may keep it from us."""


class SqliteFile:
    """A journal file, which is opened once and closed once."""

    def __init__(self, path: Path, durability: Literal["process", "power"], wall: Callable[[], float]) -> None:
        """Take it as not open yet; links are followed, because what lies beside it lies beside the file itself."""
        self._path = Path(os.path.realpath(path))
        self._log = self._path.with_name(self._path.name + "-wal")
        self._synchronous = "FULL" if durability == "power" else "NORMAL"
        self._wall = wall
        self._lock: FileLock | None = None
        self._db: sqlite3.Connection | None = None
        self._cut_at: int | None = None
        self._end: int | None = None
        """How long the log is, where nothing has been written since it was looked at."""
        self._ended_count = 0
        self._file: tuple[int, int] | None = None
        """Which file it is, whatever its name."""

    # --- opening ----------------------------------------------------------------------------------------------------

    def open(self) -> Kept:
        """Open it and return what it holds; raises `JournalInUse` and `JournalFailed`, and is closed then."""
        with self._closed_by_errors("opened"):
            self._refuse_what_cannot_work()
            self._lock = FileLock(self._path)
            try:
                return self._read()
            except Damaged as damage:
                return self._anew(damage)

    def begin_anew(self, reason: str, *, newer: bool = False) -> Kept:
        """Set aside what it holds and begin with nothing; raises as `open` does, and is closed then."""
        with self._closed_by_errors("set aside"):
            return self._anew(Damaged(reason, "newer" if newer else "corrupt"))

    @contextmanager
    def _closed_by_errors(self, done: str) -> Generator[None, None, None]:
        try:
            yield
        except BaseException as error:
            self.close()
            if isinstance(error, JournalFailed) or not isinstance(error, Exception):
                raise
            raise failed(self._path, done, error) from error

    def _refuse_what_cannot_work(self) -> None:
        if not self._path.parent.is_dir():
            raise JournalFailed(f"the journal {self._path} has no folder to lie in; make {self._path.parent}")
        if self._path.is_dir():
            raise JournalFailed(f"the journal {self._path} is a folder; name a file in it")

    def _read(self) -> Kept:
        """Connect, check everything, and return it; raises `Damaged` for what is to be set aside."""
        new = sqlite_schema.is_new(self._path)
        if not new and self._path.stat().st_nlink > 1:
            # Each name has a write-ahead log of its own: after a crash the wrong one would lose what is in the other.
            if sqlite_has(self._path):
                raise in_use(self._path, "another engine, under another name of the same file")
            raise JournalFailed(f"the journal {self._path} has another name (a hard link); remove one of the two")
        try:
            db = self._connect(new=new)
            db.execute(f"PRAGMA cache_size = {-CHECKING_KIB}")  # what was checked is not read again
            sqlite_schema.check(db)
            kept = _content(db)
            ended_count = sum(row.ended for row in kept.swaps)
            db.execute("BEGIN IMMEDIATE")  # which also finds out whether it may be written
            if ended_count > HISTORY_MAX:
                db.execute(sqlite_schema.FORGET_ENDED, (HISTORY_MAX,))
                kept = _content(db)
            db.execute("COMMIT")
            _empty_log(db)
            db.execute("PRAGMA cache_size = -2000")  # SQLite's own
            db.execute("PRAGMA shrink_memory")
        except sqlite3.DatabaseError as error:
            # Without a code it is Python's own: a text that is no UTF-8, which SQLite finds nothing wrong with.
            if code_of(error) in (0, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR):
                raise Damaged(f"SQLite says: {error}") from error
            raise
        return kept

    def _connect(self, *, new: bool) -> sqlite3.Connection:
        """Connect to the file, and to no other that takes its place; it is this connection's alone from then on."""
        mode = "rwc" if new else "rw"
        db = sqlite3.connect(f"{self._path.as_uri()}?mode={mode}", uri=True, isolation_level=None, timeout=BUSY_S)
        self._db = db
        if new:  # before there is a log, so that whose file it is stands in the file itself from the first moment on
            sqlite_schema.bring_up_to_date(db, new=True)
            assert self._lock is not None
            self._lock.claim()
        db.execute("PRAGMA locking_mode = EXCLUSIVE")
        db.execute("PRAGMA trusted_schema = OFF")
        db.execute(f"PRAGMA synchronous = {self._synchronous}")
        db.execute("PRAGMA fullfsync = ON")  # macOS, where an fsync alone does not reach the disk
        db.execute("PRAGMA wal_autocheckpoint = 0")  # `tidy` does it, where its errors are seen, and nobody waits
        if db.execute("PRAGMA journal_mode = WAL").fetchone() != ("wal",):
            raise JournalFailed(f"the journal {self._path} cannot have a write-ahead log; name a file on another disk")
        sqlite_schema.bring_up_to_date(db, new=False)
        self._file = _identity(self._path)
        return db

    def _anew(self, damage: Damaged) -> Kept:
        """Rename the file and what belongs to it, then let go of it and make another."""
        if os.name == "nt":  # which renames no file that is open
            self._disconnect()
        aside = set_aside(self._path, damage, self._wall())
        # Only now: SQLite sees that the file was moved, and neither moves the log into it nor deletes the log.
        self._disconnect()
        return attrs.evolve(self._read(), set_aside=aside)

    # --- writing ----------------------------------------------------------------------------------------------------

    def write(self, entry: Entry) -> None:
        """Keep an entry for good; raises `JournalFailed`, and nothing of it is kept, now or later."""
        changes = list(_changes(entry))
        try:
            self._commit(changes)
        except Exception as error:
            raise failed(self._path, "written", error) from error
        self._ended_count += sum(row.ended for row in entry.swaps)

    def tidy(self) -> None:
        """Forget the oldest swaps and move the log into the database, where it is time for that; never raises."""
        try:
            if self._ended_count >= PRUNE_EVERY:
                self._commit([(sqlite_schema.FORGET_ENDED, (HISTORY_MAX,))])
                self._ended_count = 0
            if self._db is not None:
                self._end = self._log_bytes()
                if self._end > LOG_BYTES_MAX:
                    self._end = None
                    _empty_log(self._db)
        except Exception as error:  # noqa: BLE001 - all is kept already; the next write says what is wrong
            logger.warning("the journal %s could not be tidied: %s", self._path, error)
            self._disconnect()  # see `_take_back`: also after a checkpoint no second fsync can be trusted

    def close(self) -> None:
        """Move the log into the database where that can be done, and let go; never raises."""
        with suppress(OSError):
            self._cut()
        self._disconnect()
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def _commit(self, changes: Sequence[Change]) -> None:
        """Make changes in one transaction; whatever it raises, nothing of them is left, and the next connects anew."""
        db = self._db or self._reconnect()
        if _identity(self._path) != self._file:
            raise FileNotFoundError(errno.ENOENT, "it was removed or replaced while it was open")
        # Exactly: the log is emptied whenever one connects, and cut where a write has failed.
        end, self._end = self._log_bytes() if self._end is None else self._end, None
        try:
            make(db, changes)
        except BaseException:
            self._take_back(end)
            raise

    def _take_back(self, end: int) -> None:
        """Undo a transaction that failed, also what it has put into the log; then disconnect.

        Where only the fsync failed, the log ends with a whole transaction, which the next to open the file would
        believe: so the log is cut. And the kernel drops what it could not write and reports success the next time
        (Linux; "fsyncgate"), so nothing that this connection knows of the log is trusted: another one reads it again,
        with its checksums.
        """
        self._cut_at = end
        try:
            self._cut()
        except OSError as error:
            logger.warning("the journal %s cannot be cut to what is kept: %s", self._path, error)
        self._disconnect()

    def _cut(self) -> None:
        """Take from the log what failed; raises where that fails, and is tried again before one connects."""
        if self._cut_at is not None and self._log_bytes() > self._cut_at:
            fd = os.open(self._log, os.O_RDWR)
            try:
                os.ftruncate(fd, self._cut_at)
                os.fsync(fd)
            finally:
                os.close(fd)
        self._cut_at = None

    def _reconnect(self) -> sqlite3.Connection:
        self._cut()
        try:
            db = self._connect(new=False)
            _empty_log(db)  # while the kernel still has what it may have failed to write
        except BaseException:
            self._disconnect()
            raise
        return db

    def _disconnect(self) -> None:
        db, self._db, self._end = self._db, None, None
        if db is not None:
            with suppress(sqlite3.Error):
                if db.in_transaction:
                    db.execute("ROLLBACK")
            with suppress(sqlite3.Error):
                db.close()  # checkpoints, and deletes the log if that could be done

    def _log_bytes(self) -> int:
        try:
            return self._log.stat().st_size
        except FileNotFoundError:
            return 0


def _changes(entry: Entry) -> Generator[Change, None, None]:
    """Return what an entry changes."""
    for row in entry.swaps:
        yield sqlite_schema.KEEP_SWAP, (row.id, int(row.ended), row.record)
    for model, record in entry.desired.items():
        yield (
            (sqlite_schema.FORGET_DESIRED, (model,))
            if record is None
            else (sqlite_schema.KEEP_DESIRED, (model, record))
        )


def make(db: sqlite3.Connection, changes: Sequence[Change]) -> None:
    """Make changes in one transaction.

    Each call here gives the GIL away several times, and under load waits as often for it: so it makes few, and no
    statement asks for the last row's number, as `execute` does.
    """
    alone = len(changes) == 1  # then it is a transaction of its own
    if not alone:
        db.execute("BEGIN IMMEDIATE")
    for statement, values in changes:
        db.executemany(statement, (values,))
    if not alone:
        db.execute("COMMIT")


def _identity(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_dev, found.st_ino


def _empty_log(db: sqlite3.Connection) -> None:
    """Move the log into the database, durably, and make it empty."""
    (busy, *_) = db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    if busy:  # nobody else can read it
        raise sqlite3.OperationalError("the write-ahead log could not be moved into the database")


def _content(db: sqlite3.Connection) -> Kept:
    """Return all that it holds; raises `Damaged` for a row that no journal has written."""
    swaps: list[SwapRow] = []
    with closing(db.execute("SELECT id, ended, record FROM swap ORDER BY seq")) as rows:  # one by one: a third faster
        for key, ended, record in rows:
            if type(key) is not str or type(ended) is not int or type(record) is not bytes:
                raise Damaged("a row of its table swap is of another kind")
            swaps.append(SwapRow(key, bool(ended), record))
    desired = dict(db.execute("SELECT model, record FROM desired").fetchall())
    if any(type(model) is not str or type(record) is not bytes for model, record in desired.items()):
        raise Damaged("a row of its table desired is of another kind")
    return Kept(tuple(swaps), desired)
