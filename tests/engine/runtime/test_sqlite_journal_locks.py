"""One engine per journal file: the second is refused by whatever name it asks, until the first is closed or dead."""

from __future__ import annotations

import os
import signal
import sqlite3
from pathlib import Path

import pytest
import trio

from changeover.errors import JournalFailed, JournalInUse
from changeover.runtime import file_lock
from tests.support.disks import entry, look, look_at_once, numbers, on_disk, opened, put
from tests.support.programs import Program

HOLDS = """
import os, sys, trio
from pathlib import Path
from tests.support.disks import entry, opened, put

async def main():
    async with opened(Path(sys.argv[1])) as (journal, _):
        assert await put(journal, entry(1)) is None
        print("open", flush=True)
        sys.stdin.readline() if sys.argv[2] == "waits" else await trio.sleep_forever()

trio.run(main)
"""
LOOKS = """
import sys
from pathlib import Path
from changeover.errors import JournalInUse
from tests.support.disks import look_at_once
try:
    print("opened", len(look_at_once(Path(sys.argv[1])).swaps))
except JournalInUse as error:
    print(error)
"""


def names(folder: Path) -> list[Path]:
    """Give a journal more names, and return all."""
    (folder / "soft").symlink_to(folder / "j")
    (folder / "folder").symlink_to(folder)
    return [folder / "j", folder / "soft", folder / "folder" / "j", folder / "folder" / "soft"]


async def test_the_second_engine_of_a_process_is_refused_by_any_name(tmp_path: Path) -> None:
    """Also by a symbolic link, and through one to the folder; the message names the file and says what to do."""
    paths = names(tmp_path)
    async with opened(paths[1]) as (journal, _):
        for path in paths:
            with pytest.raises(JournalInUse, match=r"/j is open in another engine of this process.*name another file"):
                await look(path)
        assert await put(journal, entry(1)) is None
    for path in paths:
        assert numbers(await look(path)) == [1]


def test_a_hard_link_is_refused_in_the_same_process(tmp_path: Path) -> None:
    """It has a lock file and a log of its own, so that only the file itself tells."""
    file = on_disk(tmp_path / "j")
    file.open()
    (tmp_path / "hard").hardlink_to(tmp_path / "j")
    with pytest.raises(JournalInUse, match="this process"):
        look_at_once(tmp_path / "hard")
    with Program(LOOKS, str(tmp_path / "j")) as program:  # and the first engine's locks are whole
        assert f"(process {os.getpid()})" in program.ends()[1]
    file.close()


@pytest.mark.parametrize("name", ["j", "soft", "hard"])
def test_the_engine_of_another_process_is_refused_until_the_first_is_killed(tmp_path: Path, name: str) -> None:
    """A process that was killed holds nothing, and what it wrote is there."""
    names(tmp_path)
    with Program(HOLDS, str(tmp_path / "j"), "sleeps") as program:
        program.says("open")
        (tmp_path / "hard").hardlink_to(tmp_path / "j")
        with pytest.raises(JournalInUse, match=r"another engine \(process|another engine, under another name"):
            look_at_once(tmp_path / name)
        program.process.kill()
        program.process.wait()
        (tmp_path / "hard").unlink()
        assert numbers(look_at_once(tmp_path / "j")) == [1]


def test_another_name_is_refused_also_when_nobody_has_the_file(tmp_path: Path) -> None:
    """Under the other name the write-ahead log of an engine that was killed would be missed, and spoil the file."""
    look_at_once(tmp_path / "j")
    (tmp_path / "hard").hardlink_to(tmp_path / "j")
    for name in ("j", "hard"):
        with pytest.raises(JournalFailed, match="hard link") as caught:
            look_at_once(tmp_path / name)
        assert not isinstance(caught.value, JournalInUse)
    (tmp_path / "hard").unlink()
    look_at_once(tmp_path / "j")


def test_an_engine_whose_lock_file_was_deleted_is_still_alone(tmp_path: Path) -> None:
    """SQLite's own lock is the second line."""
    file = on_disk(tmp_path / "j")
    file.open()
    (tmp_path / "j.lock").unlink()
    with Program(LOOKS, str(tmp_path / "j")) as program:
        assert "open in another program" in program.ends()[1]
    file.write(entry(1))
    file.close()
    assert numbers(look_at_once(tmp_path / "j")) == [1]


def test_who_looks_into_a_closed_file_keeps_the_engine_out_only_while_it_reads(tmp_path: Path) -> None:
    """Another program that has the database open is an error that says so, and no damage."""
    look_at_once(tmp_path / "j")
    other = sqlite3.connect(tmp_path / "j", isolation_level=None)
    other.execute("BEGIN")
    other.execute("SELECT * FROM swap").fetchall()
    with pytest.raises(JournalInUse, match="open in another program"):
        look_at_once(tmp_path / "j")
    other.execute("COMMIT")
    other.close()
    look_at_once(tmp_path / "j")


async def test_a_failed_or_closed_engine_holds_nothing(tmp_path: Path) -> None:
    """What could not be opened is not locked, and no claim outlives its engine."""
    (tmp_path / "j").mkdir()
    with pytest.raises(JournalFailed, match="folder"):
        await look(tmp_path / "j")
    (tmp_path / "j").rmdir()
    for n in range(3):
        async with opened(tmp_path / "j") as (journal, _):
            assert await put(journal, entry(n)) is None
    assert file_lock._held == {}


def refused(folder: Path) -> bool:
    """Return whether a parent's journal is refused, and a journal of one's own is not; in a forked child."""
    signal.alarm(30)
    look_at_once(folder / "own")
    try:
        look_at_once(folder / "j")
    except JournalInUse as error:
        return f"(process {os.getppid()})" in str(error)
    return False


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # newer Pythons warn of any fork beside threads
async def test_a_forked_child_is_refused_while_its_parent_has_it(tmp_path: Path) -> None:
    """The child inherits neither the lock nor the belief that it is held; it may open a file of its own."""
    async with opened(tmp_path / "j") as (journal, _):
        assert await put(journal, entry(1)) is None
        child = os.fork()
        if child == 0:
            os._exit(0 if refused(tmp_path) else 1)
        _, status = await trio.to_thread.run_sync(os.waitpid, child, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        with Program(LOOKS, str(tmp_path / "j")) as program:  # the child has not taken the lock along
            assert "is open in" in program.ends()[1]
    assert numbers(await look(tmp_path / "j")) == [1]


FORKS_AND_WAITS = """
import os, signal, sys
from pathlib import Path
from tests.support.disks import entry, on_disk
file = on_disk(Path(sys.argv[1]))
file.open()
file.write(entry(1))
if os.fork() == 0:
    print(os.getpid(), flush=True)
signal.pause()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
def test_a_forked_child_does_not_hold_what_its_dead_parent_had(tmp_path: Path) -> None:
    """A pool of workers that outlives a killed engine does not keep the next one out."""
    with Program(FORKS_AND_WAITS, str(tmp_path / "j")) as program:
        assert program.process.stdout is not None
        child = int(program.process.stdout.readline())
        try:
            program.process.kill()
            program.process.wait()
            assert numbers(look_at_once(tmp_path / "j")) == [1]
        finally:
            os.kill(child, signal.SIGKILL)
