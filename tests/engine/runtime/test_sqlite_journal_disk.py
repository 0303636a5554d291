"""Disks that fail: a write that could not be kept leaves nothing, now or later; the next works when the disk does."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from changeover.core.records import Entry, Kept, SwapRow
from changeover.errors import JournalFailed
from changeover.runtime import sqlite_file
from tests.support.disks import (
    entry,
    everybodys_folder,
    file_size_limit,
    log_of,
    look,
    look_at_once,
    numbers,
    on_disk,
    opened,
    put,
    replace_descriptor,
)
from tests.support.programs import Program

FAULTS: dict[str, tuple[str, int]] = {
    "no space": ("/dev/full", os.O_RDWR),
    "no write": ("the log itself", os.O_RDONLY),
    "nothing behind it": ("/dev/null", os.O_RDWR),
}


def break_log(path: Path, fault: str) -> None:
    """Let the descriptor of the write-ahead log stand for something that cannot be written."""
    by, flags = FAULTS[fault]
    replace_descriptor(log_of(path), by if by.startswith("/") else log_of(path), flags)


async def test_a_full_disk_is_delivered_and_later_writes_work_again(tmp_path: Path) -> None:
    """The error names the file, the cause and the way out; of that entry nothing is kept, of all others everything."""
    async with opened(tmp_path / "j") as (journal, _):
        assert await put(journal, entry(1)) is None
        break_log(tmp_path / "j", "no space")
        error = await put(journal, Entry((*entry(2).swaps, *entry(3).swaps), {"m": b"m"}))
        assert isinstance(error, JournalFailed)
        assert str(error) == (
            f"the journal {tmp_path / 'j'} could not be written: database or disk is full; free some space on its disk"
        )
        assert error.__cause__ is not None
        assert await put(journal, entry(4)) is None
    kept = await look(tmp_path / "j")
    assert (numbers(kept), dict(kept.desired)) == ([1, 4], {})


@pytest.mark.parametrize(
    ("durability", "fault"),
    [("process", "no write"), ("power", "no write"), ("power", "nothing behind it")],  # only an fsync notices the last
)
def test_whatever_the_log_cannot_do_fails_one_write(tmp_path: Path, durability: Any, fault: str) -> None:
    """Again and again, with good writes between; nothing that was kept is lost."""
    path, file = tmp_path / "j", on_disk(tmp_path / "j", durability)
    file.open()
    for n in range(0, 10, 2):
        file.write(entry(n))
        break_log(path, fault)
        with pytest.raises(JournalFailed, match="could not be written: disk I/O error; look at its disk"):
            file.write(entry(n + 1))
    file.close()
    assert numbers(look_at_once(path)) == [0, 2, 4, 6, 8]


@pytest.mark.parametrize("step", [1, 311])
def test_a_write_that_stops_at_any_byte_leaves_nothing(tmp_path: Path, step: int) -> None:
    """The log may grow up to some byte and no further: around every frame, and every so often between them."""
    path, file = tmp_path / "j", on_disk(tmp_path / "j")
    file.open()
    file.write(entry(0, pages=1))
    begin = log_of(path).stat().st_size
    file.write(entry(1, pages=1))
    length = log_of(path).stat().st_size - begin
    frame = 4096 + 24
    assert length % frame == 0
    borders = {at + d for at in range(0, length, frame) for d in (0, 1, 23, 24, 25, frame - 1)}
    good, bad = [0, 1], 0
    for n, most in enumerate(sorted(borders) if step == 1 else range(0, length, step), 2):
        now = log_of(path).stat().st_size
        with file_size_limit(now + most), pytest.raises(JournalFailed, match="could not be written"):
            file.write(Entry((SwapRow("half", ended=False, record=b"h"), *entry(n, pages=1).swaps), {"half": b"h"}))
        bad += 1
        assert log_of(path).stat().st_size in (0, now) if log_of(path).exists() else True
        file.write(entry(n, pages=1))
        good.append(n)
    assert bad > 10
    file.close()
    kept = look_at_once(path)
    assert (numbers(kept), dict(kept.desired)) == (good, {})


def test_a_bound_on_the_files_size_is_a_full_disk(tmp_path: Path) -> None:
    """SQLite's own bound fails the write in its middle, and what was written of it is taken back."""
    file = on_disk(tmp_path / "j")
    file.open()
    file.write(entry(1))
    assert file._db is not None
    file._db.execute("PRAGMA max_page_count = 12")
    with pytest.raises(JournalFailed, match="free some space"):
        file.write(Entry(tuple(row for n in range(2, 30) for row in entry(n, pages=1).swaps)))
    file.write(entry(30))
    file.close()
    assert numbers(look_at_once(tmp_path / "j")) == [1, 30]


def test_while_the_disk_stays_broken_every_write_fails_and_then_they_work(tmp_path: Path) -> None:
    """Nothing has to be opened again by hand, and no failed entry comes back when it is."""
    path, file = tmp_path / "j", on_disk(tmp_path / "j")
    file.open()
    file.write(entry(0))
    size = path.stat().st_size
    with file_size_limit(min(size, log_of(path).stat().st_size) // 2):
        for n in range(1, 5):
            with pytest.raises(JournalFailed):
                file.write(entry(n, pages=2))
            file.tidy()
    file.write(entry(5))
    file.close()
    assert numbers(look_at_once(path)) == [0, 5]


@pytest.mark.parametrize("exists", [False, True])
def test_a_journal_that_could_not_be_opened_can_be_opened_later(tmp_path: Path, exists: bool) -> None:
    """Wherever the disk was full while it was made, or its log moved: it is no damage, and nothing is lost."""
    if exists:
        with Program(WRITES, str(tmp_path / "j")) as program:
            program.ends()
    refused: list[str] = []
    for n, most in enumerate([0, 1, 100, 511, 512, 513, 1024, *range(4000, 40_000, 1500)]):
        path = tmp_path / f"j{n}"
        if exists:
            shutil.copy(tmp_path / "j", path)
            shutil.copy(log_of(tmp_path / "j"), log_of(path))
        try:
            with file_size_limit(most):
                file = on_disk(path)
                file.open()
                file.close()
        except JournalFailed as error:
            refused.append(str(error))
        kept = look_at_once(path)
        assert kept.set_aside is None
        assert numbers(kept) == (list(range(6)) if exists else [])
    assert len(refused) > 5
    assert all("could not be opened: d" in error for error in refused)  # "disk I/O error", "database or disk is full"


def test_what_cannot_be_tidied_is_said_and_harms_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A log that cannot be moved into the database stays, with all that is in it."""
    monkeypatch.setattr(sqlite_file, "LOG_BYTES_MAX", 0)
    path, file = tmp_path / "j", on_disk(tmp_path / "j")
    file.open()
    for n in range(5):
        file.write(entry(n, pages=5))
        with file_size_limit(path.stat().st_size), caplog.at_level(logging.WARNING, "changeover"):
            file.tidy()
    assert len(caplog.records) == 5
    assert all("could not be tidied" in record.getMessage() for record in caplog.records)
    file.close()
    assert numbers(look_at_once(path)) == list(range(5))


def test_a_file_that_was_deleted_is_not_begun_anew_in_silence(tmp_path: Path) -> None:
    """After an error it connects to the file that is there, and makes none."""
    path, file = tmp_path / "j", on_disk(tmp_path / "j")
    file.open()
    break_log(path, "no space")
    path.unlink()
    for n in range(3):
        with pytest.raises(JournalFailed):
            file.write(entry(n))
    assert not path.exists()
    file.close()


@pytest.mark.parametrize("replaced", [False, True])
def test_a_file_that_was_removed_while_it_is_open_fails_every_write(tmp_path: Path, replaced: bool) -> None:
    """Nothing is written into a file that nobody will ever find; nor where another one has taken its place."""
    path, file = tmp_path / "j", on_disk(tmp_path / "j")
    file.open()
    file.write(entry(1))
    path.unlink()
    if replaced:
        path.write_bytes(b"somebody else's")
    for n in (2, 3):
        with pytest.raises(JournalFailed, match=r"removed or replaced|could not be written"):
            file.write(entry(n))
    file.close()
    assert not path.exists() or path.read_bytes() == b"somebody else's"


FSYNC_FAILS = """
import os, signal, sys
from pathlib import Path
from changeover.errors import JournalFailed
from tests.support.disks import entry, no_more_fsync, on_disk
file = on_disk(Path(sys.argv[1]), sys.argv[2])
file.open()
file.write(entry(1))
if not no_more_fsync():
    print("cannot", flush=True)
    sys.exit()
for n in (12, 13):
    try:
        file.write(entry(n))
    except JournalFailed as error:
        print("failed:", error, flush=True)
    else:
        print("kept", flush=True)
if sys.argv[3] == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
file.close()
"""


@pytest.mark.parametrize("end", ["killed", "closed"])
@pytest.mark.parametrize("durability", ["process", "power"])
def test_a_failed_fsync_fails_the_write_which_does_not_come_back(tmp_path: Path, durability: str, end: str) -> None:
    """All of the entry stands in the file when the fsync fails; the next engine must not find it there all the same."""
    with Program(FSYNC_FAILS, str(tmp_path / "j"), durability, end) as program:
        _, out, err = program.ends()
    if "cannot" in out:
        pytest.skip("no fsync can be made to fail here")
    words = [line.split(" ")[0] for line in out.splitlines()]
    assert words == (["failed:"] * 2 if durability == "power" else ["kept"] * 2), (out, err)
    assert numbers(look_at_once(tmp_path / "j")) == ([1] if durability == "power" else [1, 12, 13])


def test_a_failed_write_does_not_come_back_in_place_of_a_torn_one(tmp_path: Path) -> None:
    """What an engine that was killed has left half written does not hide where the log ends."""
    with Program(WRITES, str(tmp_path / "j")) as program:
        sizes = [int(line) for line in program.ends()[1].split()]
    os.truncate(log_of(tmp_path / "j"), sizes[-1] - 1)
    with Program(FSYNC_FAILS, str(tmp_path / "j"), "power", "killed") as program:
        _, out, err = program.ends()
    if "cannot" in out:
        pytest.skip("no fsync can be made to fail here")
    assert out.count("failed:") == 2, (out, err)
    assert numbers(look_at_once(tmp_path / "j")) == list(range(5))


CUT_FAILS = """
import os, signal, sys, threading
from pathlib import Path
from changeover.errors import JournalFailed
from tests.support.disks import as_nobody, entry, log_of, no_more_fsync, on_disk
path, end = Path(sys.argv[1]), sys.argv[2]
file = on_disk(path, "power")

def fails():
    file.open()
    file.write(entry(1))
    if not no_more_fsync():
        print("cannot", flush=True)
        os._exit(0)
    log_of(path).chmod(0o444)
    try:
        with as_nobody():
            file.write(entry(2, pages=2))
    except JournalFailed:
        print("failed", log_of(path).read_bytes().count(b"2:..."), flush=True)
    log_of(path).chmod(0o644)

thread = threading.Thread(target=fails)  # whose disk alone is broken
thread.start()
thread.join()
if end == "written":
    file.write(entry(3))
    os.kill(os.getpid(), signal.SIGKILL)
file.close()
"""


@pytest.mark.parametrize(("end", "kept"), [("written", [1, 3]), ("closed", [1])])
def test_what_could_not_be_taken_back_at_once_is_taken_back_later(end: str, kept: list[int]) -> None:
    """Where the log could not even be cut, that is done before the next write, and when the journal is closed."""
    with everybodys_folder() as folder:
        with Program(CUT_FAILS, str(folder / "j"), end) as program:
            _, out, err = program.ends()
        if "cannot" in out:
            pytest.skip("no fsync can be made to fail here")
        assert out == "failed 1\n", err
        assert numbers(look_at_once(folder / "j")) == kept


# --- torn -----------------------------------------------------------------------------------------------------------

WRITES = """
import os, signal, sys
from pathlib import Path
from tests.support.disks import entry, log_of, on_disk
path = Path(sys.argv[1])
file = on_disk(path)
file.open()
for n in range(6):
    file.write(entry(n, pages=1))
    print(log_of(path).stat().st_size, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("harm", ["cut", "zeroed", "scrambled"])
def test_a_torn_last_record_is_ignored(tmp_path: Path, harm: str) -> None:
    """Whatever is missing of the last transaction, all that were before it are there, and one can go on."""
    with Program(WRITES, str(tmp_path / "j")) as program:
        sizes = [int(line) for line in program.ends()[1].split()]
    harms: dict[str, Callable[[bytes], bytes]] = {
        "cut": lambda _rest: b"",
        "zeroed": lambda rest: bytes(len(rest)),
        "scrambled": lambda rest: bytes(byte ^ 0x55 for byte in rest),
    }
    begin, end = sizes[-2:]
    log = log_of(tmp_path / "j").read_bytes()
    cuts = {*range(begin, end, 997), begin + 1, begin + 23, begin + 24, end - 1}
    for at in (*sorted(cuts), end):
        folder = tmp_path / "copy"
        folder.mkdir()
        shutil.copy(tmp_path / "j", folder)
        torn = log[:at] + harms[harm](log[at:])
        log_of(folder / "j").write_bytes(torn)
        file = on_disk(folder / "j")
        kept: Kept = file.open()
        assert kept.set_aside is None
        assert numbers(kept) == list(range(6 if torn == log else 5)), at
        file.write(entry(7))
        file.close()
        assert numbers(look_at_once(folder / "j"))[-1] == 7
        shutil.rmtree(folder)
