"""Processes that end in the middle of writing, or fork: what was delivered is there, and nothing half."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from tests.support.disks import log_of, look_at_once, numbers
from tests.support.programs import Program

WRITES = """
import sys, trio
from pathlib import Path
from tests.support.disks import entry, opened, put

async def main():
    async with opened(Path(sys.argv[1]), sys.argv[2]) as (journal, kept):
        first = len(kept.swaps)
        print("first", first, flush=True)
        for n in range(first, 1_000_000):
            assert await put(journal, entry(n, pages=n % 3)) is None
            print(n, flush=True)

trio.run(main)
"""


@pytest.mark.kill
@pytest.mark.parametrize("durability", ["process", "power"])
def test_what_was_delivered_survives_sigkill(tmp_path: Path, durability: str) -> None:
    """Killed at twenty moments, one engine after the other on the same file: each finds all that was delivered."""
    chance = random.Random(7)
    kept = 0
    for _ in range(20):
        with Program(WRITES, str(tmp_path / "j"), durability) as program:
            out = program.process.stdout
            assert out is not None
            program.says(f"first {kept}")
            delivered = kept
            for _ in range(chance.randrange(1, 100)):
                delivered = int(out.readline()) + 1
            program.process.kill()
            for line in out.read().split("\n")[:-1]:  # what it has said since
                delivered = int(line) + 1
        found = look_at_once(tmp_path / "j")
        assert found.set_aside is None
        assert numbers(found) == list(range(len(found.swaps)))
        assert len(found.swaps) in (delivered, delivered + 1)  # one more may have been written, and not delivered
        kept = len(found.swaps)
    assert kept > 100


HALF = """
import os, signal, sys
from pathlib import Path
from changeover.core.records import Entry
from tests.support.disks import entry, on_disk

def dies():
    yield from entry(2).swaps
    os.kill(os.getpid(), signal.SIGKILL)

file = on_disk(Path(sys.argv[1]), sys.argv[2])
file.open()
file.write(entry(1))
file.write(Entry(dies()))
"""


@pytest.mark.kill
@pytest.mark.parametrize("durability", ["process", "power"])
def test_half_an_entry_is_never_there(tmp_path: Path, durability: str) -> None:
    """Killed between two rows of one entry, none of them is kept."""
    with Program(HALF, str(tmp_path / "j"), durability) as program:
        assert program.ends()[0] == -9
    assert numbers(look_at_once(tmp_path / "j")) == [1]


FORKS = """
import gc, multiprocessing, os, signal, sys, threading, trio, warnings
from pathlib import Path
from changeover.runtime.ports import Ports
from changeover.runtime.sqlite_journal import SqliteJournal
from tests.support.disks import entry, log_of, put

warnings.simplefilter("ignore", DeprecationWarning)  # newer Pythons warn of any fork beside threads
path, how = Path(sys.argv[1]), sys.argv[2]
loop, running = [], threading.Event()

async def run():
    loop.append(trio.lowlevel.current_trio_token())
    running.set()
    await trio.sleep_forever()

async def open_it():
    journal = SqliteJournal(path, Ports.system())
    await journal.open()
    return journal

def here(call, *args):
    return trio.from_thread.run(call, *args, trio_token=loop[0])

def child():
    global journal
    if how == "closes":
        trio.run(journal.close)
    if how == "forgets":
        del journal
    gc.collect()

threading.Thread(target=trio.run, args=(run,), daemon=True).start()
running.wait()
journal = here(open_it)
for n in range(3):
    assert here(put, journal, entry(n)) is None
size = log_of(path).stat().st_size
if how == "multiprocessing":
    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join()
    assert process.exitcode == 0
elif os.fork() == 0:
    child()
    sys.exit(0)
else:
    assert os.waitstatus_to_exitcode(os.wait()[1]) == 0
assert log_of(path).stat().st_size == size
for n in range(3, 6):
    assert here(put, journal, entry(n)) is None
print("written", flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
@pytest.mark.kill
@pytest.mark.parametrize("how", ["exits", "closes", "forgets", "multiprocessing"])
def test_a_forked_child_leaves_the_file_alone(tmp_path: Path, how: str) -> None:
    """A child that ends as any program does moves no log into the database and deletes none; the parent writes on."""
    with Program(FORKS, str(tmp_path / "j"), how) as program:
        status, out, err = program.ends()
    assert (status, out) == (-9, "written\n"), err
    assert log_of(tmp_path / "j").stat().st_size > 0
    assert numbers(look_at_once(tmp_path / "j")) == list(range(6))
