"""The journal in a file: what it keeps and in which order, and who closes it when nobody does. Real threads and files.

What it does when something is broken stands in the other `test_sqlite_journal_...` files.
"""

from __future__ import annotations

import gc
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from changeover.core.records import HISTORY_MAX, Entry, Kept, SwapRow
from changeover.errors import JournalFailed, JournalInUse
from changeover.runtime import sqlite_file, sqlite_journal
from changeover.runtime.journal import MemoryJournal
from changeover.runtime.ports import Ports
from changeover.runtime.sqlite_journal import SqliteJournal
from tests.support.disks import Closings, entry, log_of, look, look_at_once, names_in, numbers, on_disk, opened, put
from tests.support.programs import Program
from tests.support.threads import PATIENCE_S

DURABILITIES = ("process", "power")

ENTRIES = [
    Entry((SwapRow("a", ended=False, record=b"a1"), SwapRow("b", ended=False, record=b"b1")), {"m": b"m1", "n": b"n1"}),
    Entry((SwapRow("c", ended=True, record=b"c1"),)),
    Entry((SwapRow("a", ended=True, record=b"a2"),), {"m": b"m2", "n": None, "never": None}),
    Entry((), {"": b"", "ü\0": b"\0\xff"}),
    Entry(),
]
AFTERWARDS = Kept(
    (SwapRow("a", ended=True, record=b"a2"), SwapRow("b", ended=False, record=b"b1"), SwapRow("c", True, b"c1")),
    {"m": b"m2", "": b"", "ü\0": b"\0\xff"},
)


@pytest.fixture
def closings(monkeypatch: pytest.MonkeyPatch) -> Closings:
    """Tell of every journal file that is closed."""
    return Closings(monkeypatch)


@pytest.mark.parametrize("durability", DURABILITIES)
async def test_what_was_written_is_there_when_it_is_opened_again(tmp_path: Path, durability: Any) -> None:
    """Swaps come back in the order in which they began, each as it was written last, and so do the desired versions."""
    async with opened(tmp_path / "j", durability) as (journal, kept):
        assert kept == Kept()
        assert [await put(journal, one) for one in ENTRIES] == [None] * len(ENTRIES)
    assert await look(tmp_path / "j") == AFTERWARDS


async def test_it_keeps_what_the_one_in_memory_keeps(tmp_path: Path) -> None:
    """Both journals make the same of the same entries."""
    memory = MemoryJournal()
    for one in ENTRIES:
        memory.write(one, lambda _error: None)
    assert await memory.open() == AFTERWARDS


@pytest.mark.parametrize("durability", DURABILITIES)
def test_the_files_settings_are_those_that_the_promise_needs(tmp_path: Path, durability: Any) -> None:
    """A write-ahead log; an fsync for every commit where the power may fail, and where only the process may, none."""
    file = on_disk(tmp_path / "j", durability)
    file.open()
    assert file._db is not None
    found = [file._db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous")]
    assert found == ["wal", {"process": 1, "power": 2}[durability]]
    file.close()


async def test_writes_are_kept_and_delivered_in_their_order_and_close_waits_for_them(tmp_path: Path) -> None:
    """A hundred writes are ordered without waiting; all are there, and delivered in order, when it is closed."""
    delivered: list[tuple[int, Exception | None]] = []
    async with opened(tmp_path / "j") as (journal, _):
        for n in range(100):
            journal.write(entry(n), partial(lambda n, error: delivered.append((n, error)), n))
        assert not delivered
    assert delivered == [(n, None) for n in range(100)]
    assert numbers(await look(tmp_path / "j")) == list(range(100))


async def test_closed_there_is_one_file_and_the_lock(tmp_path: Path) -> None:
    """What was in the write-ahead log is in the database then, so that this file alone can be copied."""
    async with opened(tmp_path / "j") as (journal, _):
        await put(journal, entry(1))
        assert log_of(tmp_path / "j").stat().st_size > 0
    assert names_in(tmp_path) == ["j", "j.lock"]


async def test_an_engine_without_a_file_needs_no_sqlite() -> None:
    """SQLite is imported by the thread that needs it."""
    text = "import sys, changeover, changeover.runtime.sqlite_journal; print('sqlite3' in sys.modules)"
    with Program(text) as program:
        assert program.ends()[:2] == (0, "False\n")


# --- its end --------------------------------------------------------------------------------------------------------


async def test_what_is_not_open_writes_nothing_and_says_so(tmp_path: Path) -> None:
    """Before it was opened and after it was closed a write fails, on the loop and never by raising."""
    journal = SqliteJournal(tmp_path / "j", Ports.system())
    await journal.close()
    assert isinstance(await put(journal, entry(1)), JournalFailed)
    await journal.open()
    await journal.close()
    await journal.close()
    assert "closed" in str(await put(journal, entry(2)))
    assert await journal.open() == Kept()
    assert await put(journal, entry(3)) is None
    await journal.close()
    assert numbers(await look(tmp_path / "j")) == [3]


async def test_an_open_that_is_cancelled_leaves_nothing_open(tmp_path: Path, closings: Closings) -> None:
    """The thread closes what it has opened for nobody."""
    journal = SqliteJournal(tmp_path / "j", Ports.system())
    with trio.CancelScope() as scope:
        scope.cancel()
        await journal.open()
    await trio.to_thread.run_sync(closings.wait)
    assert "closed" in str(await put(journal, entry(1)))
    assert await look(tmp_path / "j") == Kept()


async def test_a_close_that_is_cancelled_goes_on_by_itself(tmp_path: Path, closings: Closings) -> None:
    """Also what was ordered before is written and delivered."""
    delivered: list[Exception | None] = []
    journal = SqliteJournal(tmp_path / "j", Ports.system())
    await journal.open()
    with trio.CancelScope() as scope:
        scope.cancel()
        for n in range(10):
            journal.write(entry(n), delivered.append)
        await journal.close()
    assert scope.cancelled_caught
    await journal.close()
    await trio.to_thread.run_sync(closings.wait)
    assert delivered == [None] * 10
    assert numbers(await look(tmp_path / "j")) == list(range(10))


async def test_a_journal_that_is_forgotten_is_closed(tmp_path: Path, closings: Closings) -> None:
    """Its thread does not hold on to it, also not by what it has written last."""
    journal = SqliteJournal(tmp_path / "j", Ports.system())
    await journal.open()
    done = trio.Event()

    def deliver(error: Exception | None, keeps_alive: Any = journal) -> None:
        done.set()

    journal.write(entry(1), deliver)
    await done.wait()
    del journal, deliver
    gc.collect()
    await trio.to_thread.run_sync(closings.wait)
    assert numbers(await look(tmp_path / "j")) == [1]


@pytest.mark.parametrize("writes", [0, 5])
def test_a_thread_whose_loop_is_gone_closes_the_file(
    tmp_path: Path, closings: Closings, monkeypatch: pytest.MonkeyPatch, writes: int
) -> None:
    """It writes what was ordered, and ends; without work it looks from time to time."""
    monkeypatch.setattr(sqlite_journal, "LOOK_EVERY_S", 0.001)

    async def main() -> SqliteJournal:
        journal = SqliteJournal(tmp_path / "j", Ports.system())
        await journal.open()
        for n in range(writes):
            journal.write(entry(n), lambda _error: None)
        return journal

    journal = trio.run(main)
    closings.wait()
    assert numbers(look_at_once(tmp_path / "j")) == list(range(writes))
    del journal


async def test_without_a_thread_it_cannot_be_opened(tmp_path: Path) -> None:
    """A system that has no thread left to give is an error of `open`."""

    class NoThreads:
        def start(self, name: str, work: Any, deliver: Any, orphaned: Any = None) -> None:
            deliver(None, RuntimeError("can't start new thread"))

    journal = SqliteJournal(tmp_path / "j", attrs.evolve(Ports.system(), offload=NoThreads()))
    with pytest.raises(JournalFailed, match="can't start new thread"):
        await journal.open()
    assert isinstance(await put(journal, entry(1)), JournalFailed)


async def test_a_thread_that_dies_answers_for_what_was_ordered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error that nobody has thought of ends no write without an outcome, also of those behind it."""
    journal = SqliteJournal(tmp_path / "j", Ports.system())
    await journal.open()

    def bug(self: Any) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(sqlite_file.SqliteFile, "tidy", bug)
    outcomes: list[Exception | None] = []
    for n in range(3):
        journal.write(entry(n), outcomes.append)
    with trio.fail_after(PATIENCE_S):
        await journal.close()
    assert outcomes[0] is None
    assert [str(error) for error in outcomes[1:]] == ["the journal failed: a bug"] * 2
    with pytest.raises(JournalFailed, match="a bug"):
        await journal.begin_anew("it makes no sense")
    assert "a bug" in str(await put(journal, entry(4)))


async def test_an_entry_that_is_none_harms_no_other(tmp_path: Path) -> None:
    """What cannot be written down fails alone, whole, and with its reason."""
    async with opened(tmp_path / "j") as (journal, _):
        for bad in (
            Entry((SwapRow("good", False, b""), SwapRow("\ud800", False, b""))),  # type: ignore[arg-type]
            Entry((SwapRow("good", False, b""), SwapRow("bad", False, None))),  # type: ignore[arg-type]
            Entry((SwapRow("good", False, b""),), {"m": object()}),  # type: ignore[dict-item]
        ):
            error = await put(journal, bad)
            assert isinstance(error, JournalFailed)
            assert error.__cause__ is not None
        assert await put(journal, entry(1)) is None
    assert numbers(await look(tmp_path / "j")) == [1]


# --- begun anew -----------------------------------------------------------------------------------------------------


async def test_what_makes_no_sense_to_its_reader_is_set_aside_too(tmp_path: Path) -> None:
    """It is renamed with all that is in it, also what was ordered before, and one goes on with an empty one."""
    async with opened(tmp_path / "j") as (journal, _):
        assert await put(journal, entry(1)) is None
        journal.write(entry(2), lambda _error: None)
        kept = await journal.begin_anew("nobody can read that")
        assert (kept.swaps, dict(kept.desired)) == ((), {})
        assert kept.set_aside is not None
        assert kept.set_aside.reason == "nobody can read that"
        with pytest.raises(JournalInUse):
            await look(tmp_path / "j")
        assert await put(journal, entry(3)) is None
    assert numbers(await look(tmp_path / "j")) == [3]
    assert numbers(await look(Path(kept.set_aside.path))) == [1, 2]


async def test_where_it_cannot_be_set_aside_it_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says why; nothing was changed, and nothing can be written."""

    def denied(self: Path, target: Path) -> Path:
        raise PermissionError(13, "denied")

    journal = SqliteJournal(tmp_path / "j", Ports.system())
    await journal.open()
    assert await put(journal, entry(1)) is None
    monkeypatch.setattr(Path, "rename", denied)
    with pytest.raises(JournalFailed, match=r"could not be set aside: .*denied; let this process write"):
        await journal.begin_anew("it makes no sense")
    assert "set aside" in str(await put(journal, entry(2)))
    await journal.close()
    assert numbers(await look(tmp_path / "j")) == [1]


async def test_begun_anew_and_cancelled_it_is_closed(tmp_path: Path, closings: Closings) -> None:
    """What was ordered goes on in the thread, which then closes the file."""
    journal = SqliteJournal(tmp_path / "j", Ports.system())
    await journal.open()
    assert await put(journal, entry(1)) is None
    with trio.CancelScope() as scope:
        scope.cancel()
        await journal.begin_anew("it makes no sense")
    await trio.to_thread.run_sync(closings.wait)
    assert "closed" in str(await put(journal, entry(2)))
    assert (await look(tmp_path / "j")).swaps == ()


# --- its bound ------------------------------------------------------------------------------------------------------


def swaps(*ids: int, ended: bool) -> Entry:
    """Return an entry of many swaps."""
    return Entry(tuple(SwapRow(str(n), ended, b"r") for n in ids))


def test_the_history_is_bounded_and_what_is_open_stays(tmp_path: Path) -> None:
    """Of those that ended the last ones are kept; an open swap is kept, however old; the file does not grow on."""
    file = on_disk(tmp_path / "j")
    file.open()
    total = HISTORY_MAX + 3 * sqlite_file.PRUNE_EVERY
    file.write(swaps(-1, -2, ended=False))
    most = 0
    for n in range(0, total, 500):
        file.write(swaps(*range(n, n + 500), ended=True))
        file.tidy()
        assert file._db is not None
        most = max(most, file._db.execute("SELECT count(*) FROM swap").fetchone()[0])
    assert most <= HISTORY_MAX + sqlite_file.PRUNE_EVERY + 2
    file.write(swaps(-2, ended=True))
    file.close()
    kept = look_at_once(tmp_path / "j")
    assert [row.id for row in kept.swaps] == ["-1", *map(str, range(total - HISTORY_MAX, total))]


def test_a_long_log_is_moved_into_the_database(tmp_path: Path) -> None:
    """The write-ahead log stays within its bound, for as long as the engine runs."""
    file = on_disk(tmp_path / "j")
    file.open()
    for n in range(200):
        file.write(entry(n % 3, pages=20 + n % 2))
        file.tidy()
        assert log_of(tmp_path / "j").stat().st_size <= sqlite_file.LOG_BYTES_MAX
    file.close()
