"""Journal files that cannot be used: ours are set aside whole, others' left alone, older ones brought up to date."""

from __future__ import annotations

import logging
import os
import random
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from changeover.core.records import Entry, Kept, SwapRow
from changeover.errors import JournalFailed, JournalInUse
from changeover.runtime import sqlite_schema
from tests.house.tree import ROOT
from tests.support.disks import (
    as_nobody,
    entry,
    everybodys_folder,
    log_of,
    look,
    look_at_once,
    names_in,
    numbers,
    on_disk,
)
from tests.support.programs import Program

GOLDEN = ROOT / "tests" / "golden" / "journal_1.db"
"""A journal of version 1, written by the code of that time; never written again."""
GOLDEN_KEPT = Kept(
    (SwapRow("first", True, b"record 1"), SwapRow("second", False, b"record 2")), {"digits": b"desired", "m": b""}
)


def filled(path: Path, count: int = 200) -> Path:
    """Write a journal of several pages."""
    file = on_disk(path)
    file.open()
    for n in range(count):
        file.write(entry(n))
    file.write(Entry((), {"m": b"1"}))
    file.close()
    return path


def everything_in(folder: Path) -> dict[str, bytes]:
    """Return what lies in a folder but for locks."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix != ".lock"}


def sql(path: Path, *statements: str) -> None:
    """Change a closed journal as nobody should."""
    db = sqlite3.connect(path)
    for statement in statements:
        db.execute(statement)
    db.commit()
    db.close()


# --- set aside ------------------------------------------------------------------------------------------------------


def noise(count_bytes: int) -> bytes:
    """Return bytes that mean nothing."""
    return random.Random(1).randbytes(count_bytes)


def overwrite(path: Path, at: int, by: bytes) -> None:
    """Change bytes in the middle of a file."""
    content = path.read_bytes()
    path.write_bytes(content[:at] + by + content[at + len(by) :])


def leave_only_a_log(path: Path) -> None:
    """Have the write-ahead log alone."""
    log_of(path).write_bytes(b"a log")
    path.unlink()


def leave_a_log_and_nothing_it_is_for(path: Path) -> None:
    """Have a write-ahead log beside an empty file."""
    log_of(path).write_bytes(b"a log")
    os.truncate(path, 0)


BY_SQL = {
    "a table is missing": "DROP TABLE desired",
    "a table has another name": "ALTER TABLE swap RENAME TO swaps",
    "a table has a column more": "ALTER TABLE desired ADD COLUMN more TEXT NOT NULL DEFAULT ''",
    "there is a trigger": "CREATE TRIGGER t AFTER INSERT ON swap BEGIN DELETE FROM desired; END",
    "there is a table more": "CREATE TABLE more(x)",
    "a row is of another kind": "UPDATE swap SET record = 'text' WHERE seq = 1",
    "a desired record is of another kind": "UPDATE desired SET record = 1",
    "an id is no text": "UPDATE swap SET id = CAST(X'ff6162' AS TEXT) WHERE seq = 1",
    "a model's name is no text": "UPDATE desired SET model = CAST(X'ff6162' AS TEXT)",
    "its version never was": "PRAGMA user_version = -5",
}
DAMAGES: dict[str, Callable[[Path], Any]] = {
    "garbage": lambda path: path.write_bytes(noise(10_000)),
    "truncated": lambda path: os.truncate(path, 2 * 4096),
    "a format that is none": lambda path: overwrite(path, 18, b"\x09"),
    "a stump": lambda path: os.truncate(path, 50),
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "a flipped page": lambda path: overwrite(path, 4 * 4096, noise(4096)),
    "a flipped id": lambda path: overwrite(path, path.read_bytes().rindex(b"swap 7"), b"swap x"),
    "no database": leave_only_a_log,
    "an empty database": leave_a_log_and_nothing_it_is_for,
    **{name: lambda path, text=text: sql(path, text) for name, text in BY_SQL.items()},
    "ids that are not unique": lambda path: sql(
        path, "DROP TABLE swap",
        "CREATE TABLE swap(seq INTEGER PRIMARY KEY, id TEXT NOT NULL, ended INTEGER NOT NULL, record BLOB NOT NULL)",
    ),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_corrupt_journal_is_set_aside_and_an_empty_one_begins(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    """It is renamed as it was, byte for byte, named in what `open` returns and in the log, and the engine can go on."""
    path = filled(tmp_path / "j")
    DAMAGES[damage](path)
    before = everything_in(tmp_path)
    file = on_disk(path, wall_s=86_400.0)
    with caplog.at_level(logging.ERROR, "changeover"):
        kept = file.open()
    aside = kept.set_aside
    assert aside is not None
    assert aside.path == f"{path}.corrupt-19700102T000000"
    assert (kept.swaps, dict(kept.desired)) == ((), {})
    (line,) = [record.getMessage() for record in caplog.records]
    assert all(text in line for text in (str(path), aside.path, aside.reason))
    for name, content in before.items():
        assert (tmp_path / name.replace("j", "j.corrupt-19700102T000000", 1)).read_bytes() == content
    file.write(entry(1))
    file.close()
    assert numbers(look_at_once(path)) == [1]


def test_what_was_set_aside_before_is_never_overwritten(tmp_path: Path) -> None:
    """Three corrupt files in one second have three names; so has one whose log alone is in the way."""
    (tmp_path / "j.corrupt-19700101T000000-2-wal").write_bytes(b"mine")
    for n in range(3):
        (tmp_path / "j").write_bytes(b"garbage %d" % n)
        look_at_once(tmp_path / "j")
    found = {name: content for name, content in everything_in(tmp_path).items() if name != "j"}
    assert found == {
        "j.corrupt-19700101T000000": b"garbage 0",
        "j.corrupt-19700101T000000-2-wal": b"mine",
        "j.corrupt-19700101T000000-3": b"garbage 1",
        "j.corrupt-19700101T000000-4": b"garbage 2",
    }


DIES = """
import os, signal, sys
from pathlib import Path
from tests.support.disks import entry, on_disk
file = on_disk(Path(sys.argv[1]))
file.open()
for n in range(5):
    file.write(entry(n))
if len(sys.argv) > 2:
    file._db.execute(sys.argv[2])
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_newer_journal_is_set_aside_with_its_log(tmp_path: Path) -> None:
    """An older engine neither reads it nor moves its log into it, also where only the log says that it is newer."""
    with Program(DIES, str(tmp_path / "j"), "PRAGMA user_version = 2") as program:
        program.ends()
    before = everything_in(tmp_path)
    assert len(before["j-wal"]) > 0
    kept = look_at_once(tmp_path / "j")
    assert kept.set_aside is not None
    assert kept.set_aside.path == str(tmp_path / "j.newer-19700101T000000")
    assert kept.set_aside.reason == "it has version 2, and this engine reads up to 1"
    now = everything_in(tmp_path)
    assert now["j.newer-19700101T000000"] == before["j"]
    assert now["j.newer-19700101T000000-wal"] == before["j-wal"]
    assert sqlite3.connect(tmp_path / "j.newer-19700101T000000").execute("SELECT count(*) FROM swap").fetchone() == (5,)


async def test_it_is_told_by_the_journal_itself(tmp_path: Path) -> None:
    """What the thread has found comes out of `open`, at a time of the real clock."""
    (tmp_path / "j").write_bytes(b"garbage")
    kept = await look(tmp_path / "j")
    assert kept.set_aside is not None
    assert kept.set_aside.path > str(tmp_path / "j.corrupt-2024")
    assert everything_in(tmp_path)[Path(kept.set_aside.path).name] == b"garbage"
    assert (await look(tmp_path / "j")).set_aside is None


# --- left alone -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["DELETE", "WAL"])
def test_another_programs_database_is_left_alone(tmp_path: Path, how: str) -> None:
    """Not one byte of it changes, and the error names it and the way out."""
    path = tmp_path / "theirs"
    child = f"""
import os, signal, sqlite3
db = sqlite3.connect({str(path)!r})
db.execute("PRAGMA journal_mode = {how}")
db.execute("CREATE TABLE t(x)")
db.execute("INSERT INTO t VALUES (1)")
db.commit()
os.kill(os.getpid(), signal.SIGKILL)
"""
    with Program(child) as program:
        program.ends()
    before = everything_in(tmp_path)
    with pytest.raises(JournalFailed, match=r"theirs is another program's .* left alone; name another file"):
        look_at_once(path)
    assert everything_in(tmp_path) == before


@pytest.mark.parametrize("make", [Path.touch, lambda path: sql(path, "PRAGMA page_size = 4096", "VACUUM")])
def test_an_empty_file_and_an_empty_database_become_a_journal(tmp_path: Path, make: Any) -> None:
    """Nothing is lost by that."""
    make(tmp_path / "j")
    assert look_at_once(tmp_path / "j") == Kept()
    assert not sqlite_schema.is_new(tmp_path / "j")


def test_what_cannot_be_a_journal_is_refused(tmp_path: Path) -> None:
    """A folder, a missing folder, a pipe: the error names it and says what to do, and nothing is made."""
    os.mkfifo(tmp_path / "pipe")
    for path, text in (
        (tmp_path, "is a folder; name a file in it"),
        (tmp_path / "no" / "j", f"make {tmp_path}/no"),
        (tmp_path / "pipe", "is no file"),
    ):
        with pytest.raises(JournalFailed, match=text) as caught:
            look_at_once(path)
        assert str(path) in str(caught.value)
    assert names_in(tmp_path) == ["pipe", "pipe.lock"]


@pytest.fixture
def shared_folder() -> Iterator[Path]:
    """Return a folder that everybody can reach, which pytest's own is not."""
    with everybodys_folder() as folder:
        yield folder


def test_a_journal_that_may_not_be_written_is_refused(shared_folder: Path) -> None:
    """A file or folder that is read-only is an error that says so, and no damage; nothing is set aside."""
    path = filled(shared_folder / "j", 3)
    (shared_folder / "j.lock").chmod(0o666)
    before = everything_in(shared_folder)
    for mode, file_mode, folder_mode in (
        ("file", 0o444, 0o777),
        ("unreadable", 0o000, 0o777),
        ("folder", 0o666, 0o555),
    ):
        path.chmod(file_mode)
        shared_folder.chmod(folder_mode)
        with (
            as_nobody(),
            pytest.raises(JournalFailed, match=r"j could not be opened: .*; let this process write") as caught,
        ):
            look_at_once(path)
        assert not isinstance(caught.value, JournalInUse), mode
    with as_nobody(), pytest.raises(JournalFailed, match=r"new could not be opened: .*; let this process write"):
        look_at_once(shared_folder / "new")
    shared_folder.chmod(0o777)
    path.chmod(0o666)
    assert everything_in(shared_folder) == before
    assert numbers(look_at_once(path)) == [0, 1, 2]


# --- brought up to date ---------------------------------------------------------------------------------------------


def test_a_journal_of_version_1_opens_for_ever(tmp_path: Path) -> None:
    """What the first release wrote is read by this one, and can be written on."""
    path = tmp_path / "j"
    path.write_bytes(GOLDEN.read_bytes())
    file = on_disk(path)
    assert file.open() == GOLDEN_KEPT
    file.write(Entry((SwapRow("second", True, b"record 3"),)))
    file.close()
    assert [row.record for row in look_at_once(path).swaps] == [b"record 1", b"record 3"]


def test_the_migrations_that_were_released_make_what_they_made(tmp_path: Path) -> None:
    """A new journal of version 1 has the tables of the golden one."""
    look_at_once(tmp_path / "j")
    tables = "SELECT type, name, sql FROM sqlite_master ORDER BY name"
    dumps = [sqlite3.connect(path).execute(tables).fetchall() for path in (tmp_path / "j", GOLDEN)]
    assert dumps[0] == dumps[1]


def second(db: sqlite3.Connection) -> None:
    """Be a migration to a version 2, in two statements."""
    db.execute("UPDATE swap SET record = CAST('2:' || record AS BLOB)")
    db.execute("UPDATE desired SET record = CAST('2:' || record AS BLOB)")


def test_an_older_journal_is_brought_up_to_date(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each migration runs once; a new file has them all behind it."""
    path = filled(tmp_path / "j", 2)
    monkeypatch.setattr(sqlite_schema, "MIGRATIONS", (*sqlite_schema.MIGRATIONS, second))
    for _ in range(2):
        kept = look_at_once(path)
        assert [row.record[:4] for row in kept.swaps] == [b"2:0:", b"2:1:"]
        assert dict(kept.desired) == {"m": b"2:1"}
    assert look_at_once(tmp_path / "new") == Kept()
    monkeypatch.undo()
    assert "version 2" in str(look_at_once(tmp_path / "new").set_aside)


def test_a_migration_that_fails_leaves_the_version_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of it is never there; an error that is not the file's is raised, and the file stays where it is."""

    def fails(db: sqlite3.Connection) -> None:
        second(db)
        raise OSError("the disk is away")

    path = filled(tmp_path / "j", 2)
    before = everything_in(tmp_path)
    monkeypatch.setattr(sqlite_schema, "MIGRATIONS", (*sqlite_schema.MIGRATIONS, fails))
    with pytest.raises(JournalFailed, match="the disk is away"):
        look_at_once(path)
    monkeypatch.undo()
    assert numbers(look_at_once(path)) == [0, 1]
    assert everything_in(tmp_path).keys() == before.keys()


@pytest.mark.kill
@pytest.mark.parametrize("step", [1, 2])
def test_an_engine_killed_in_a_migration_leaves_the_version_before(tmp_path: Path, step: int) -> None:
    """Killed by SIGKILL in the first migration there is no journal yet, in a later one that of before."""
    child = """
import os, signal, sys
from pathlib import Path
from changeover.runtime import sqlite_schema
from tests.support.disks import look_at_once
step = int(sys.argv[2])
def dies(db):
    if step == 1:
        first(db)
    else:
        db.execute("UPDATE swap SET record = x'00'")
    db.execute("PRAGMA cache_spill = 1")
    os.kill(os.getpid(), signal.SIGKILL)
(first,) = sqlite_schema.MIGRATIONS
sqlite_schema.MIGRATIONS = (dies,) if step == 1 else (first, dies)
look_at_once(Path(sys.argv[1]))
"""
    if step > 1:
        filled(tmp_path / "j", 1000)
    with Program(child, str(tmp_path / "j"), str(step)) as program:
        assert program.ends()[0] == -9
    kept = look_at_once(tmp_path / "j")
    assert kept.set_aside is None
    assert numbers(kept) == (list(range(1000)) if step > 1 else [])
