"""Journals that an engine cannot have, or cannot read: in use, in no folder, read-only, damaged, of a later version."""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import msgpack
import pytest

import changeover
from changeover.errors import JournalFailed, JournalInUse
from tests.support.broken_disks import Disk, disk_under, engine_on
from tests.support.disks import as_nobody, everybodys_folder, names_in
from tests.support.rig import open_rig


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    """Return the disk of the journal `j`."""
    with disk_under(tmp_path / "j", monkeypatch) as disk:
        yield disk


async def test_two_engines_on_one_journal(disk: Disk) -> None:
    """The second is refused and told why, and has started nothing; the first goes on."""
    async with engine_on(disk) as rig:
        threads = threading.active_count()
        with pytest.raises(JournalInUse, match="each engine needs a file of its own"):
            async with open_rig(real=True, journal=disk.path):
                pytest.fail("it is open")
        assert threading.active_count() <= threads + 1  # Trio keeps an idle one for a while
        await rig.engine.swap("m", "2")
    async with engine_on(disk) as rig:
        assert (await rig.engine.infer("m", {})).version == "2"


@pytest.mark.parametrize("where", ["missing/j", "."])
async def test_a_journal_that_cannot_be_there(tmp_path: Path, where: str) -> None:
    """The error says so and what to do; nothing is opened or left behind."""
    with pytest.raises(JournalFailed, match=r"has no folder to lie in; make|is a folder; name a file"):
        async with changeover.open_engine(journal=tmp_path / where):
            pytest.fail("it is open")
    assert names_in(tmp_path) == []


async def test_a_journal_that_may_not_be_written(disk: Disk) -> None:
    """A read-only file is refused before anything starts, and stays as it is."""
    with everybodys_folder() as folder:
        disk.path = folder / "j"
        async with engine_on(disk) as rig:
            await rig.engine.swap("m", "2")
        disk.path.chmod(0o444)
        with as_nobody(), pytest.raises(JournalFailed, match="let this process write to it"):
            async with open_rig(real=True, journal=disk.path):
                pytest.fail("it is open")
        disk.path.chmod(0o666)
        async with engine_on(disk) as rig:
            assert (await rig.engine.infer("m", {})).version == "2"


def garbage(path: Path) -> None:
    """Overwrite it."""
    path.write_bytes(b"garbage" * 1000)


def newer(path: Path) -> None:
    """Make it the file of a later version of this program."""
    change(path, "PRAGMA user_version = 99")


def undecodable(path: Path) -> None:
    """Leave a record that means nothing, in a file that is sound."""
    change(path, "UPDATE desired SET record = x'c1'")


def newer_record(path: Path) -> None:
    """Leave a record of a later version of this program, in a file of this one."""
    change(path, "UPDATE desired SET record = x'82a1762a" + msgpack.packb("DesiredVersion").hex() + "80'")


def change(path: Path, statement: str) -> None:
    """Execute SQL on it."""
    db = sqlite3.connect(path)
    db.execute(statement)
    db.commit()
    db.close()


def content(path: Path) -> bytes:
    """Return what is in it."""
    return path.read_bytes()


@pytest.mark.parametrize("damage", [garbage, newer, newer_record, undecodable])
async def test_an_engine_starts_without_the_journal_that_it_cannot_read(
    disk: Disk, caplog: pytest.LogCaptureFixture, damage: Callable[[Path], None]
) -> None:
    """It begins anew, and says where the old file lies and why; what it writes then is found by the next one."""
    async with engine_on(disk) as rig:
        await rig.engine.swap("m", "2")
    damage(disk.path)
    before = content(disk.path)
    with caplog.at_level(logging.WARNING, "changeover"):
        async with engine_on(disk) as rig:
            report = rig.engine.recovery()
            assert (report.waiting, report.done, rig.engine.swaps()) == ((), (), ())
            assert report.set_aside is not None
            aside = Path(report.set_aside.path)
            kind = "newer" if damage in (newer, newer_record) else "corrupt"
            assert (aside.parent, aside.name.split("-")[0]) == (disk.path.parent, f"j.{kind}")
            assert content(aside) == before
            assert any(str(aside) in record.getMessage() for record in caplog.records)
            assert (await rig.engine.recovered()) == report
            await rig.engine.swap("m", "3")
    async with engine_on(disk) as rig:
        assert (await rig.engine.infer("m", {})).version == "3"
        assert rig.engine.recovery().set_aside is None
