"""Which versions an engine wants back: what the journal says of every model, whatever has moved its traffic."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import attrs
import pytest
import trio

from changeover import Drain, Shift, SwapState, VersionKey
from changeover.core.records import DesiredVersion, Entry, SwapRow
from changeover.errors import EngineFailed, JournalFailed, SwapFailed, VersionCrashed
from changeover.runtime import desires
from changeover.runtime.desires import CatchingUp
from changeover.runtime.journal import MemoryJournal
from changeover_sim import VirtualDisk, World, open_world
from tests.support.journals import BOUNDARIES
from tests.support.models import Broken
from tests.support.rig import Outcome, Rig, open_rig, running, settle, until


@asynccontextmanager
async def engine_on(disk: VirtualDisk, world: World, **options: Any) -> AsyncGenerator[Rig, None]:
    """Open an engine on what is on a disk."""
    world.ports = attrs.evolve(world.ports, journal=disk.journal())
    async with open_rig(world=world, **options) as rig:
        yield rig


@asynccontextmanager
async def an_engine(**options: Any) -> AsyncGenerator[tuple[Rig, VirtualDisk], None]:
    """Open an engine on an empty disk."""
    async with open_world() as world, engine_on(world.disk, world, **options) as rig:
        yield rig, world.disk


def wanted(disk: VirtualDisk) -> dict[str, str]:
    """Return by model the version that the next engine would bring back."""
    return {model: row.version for model, row in disk.desired().items()}


async def crash(rig: Rig, model: str = "m") -> None:
    """Have the active version of a model crash."""
    with pytest.raises(VersionCrashed):
        await rig.engine.infer(model, {"poison": 1})


def poison(inputs: Any) -> bool:
    """Return whether a request kills its model."""
    return "poison" in inputs


# --- who is wanted --------------------------------------------------------------------------------------------------


async def test_the_first_version_that_is_loaded_is_wanted(autojump_clock: Any) -> None:
    """With what it is made of; further ones are not, and a load that fails is not."""
    async with an_engine() as (rig, disk):
        rig.add("broken", load_error=Broken("no"))
        with pytest.raises(Exception, match="no"):
            await rig.engine.load("broken", "1")
        assert wanted(disk) == {}
        await rig.ready("m", "1")
        await rig.ready("m", "2")
        await settle()
        assert disk.desired() == {"m": DesiredVersion("m", "1", "scripted", "script", None)}


async def test_the_heir_of_a_version_that_crashed_is_wanted(autojump_clock: Any) -> None:
    """And still when the crashed one is back, without the traffic."""
    async with an_engine() as (rig, disk):
        await rig.ready("m", "1", fatal_on=poison)
        await rig.ready("m", "2")
        await crash(rig)
        await settle()
        assert (wanted(disk), rig.engine._router.active("m")) == ({"m": "2"}, "2")
        await trio.sleep(100)
        assert wanted(disk) == {"m": str(rig.engine._router.active("m"))}


async def test_what_crashed_without_an_heir_is_wanted_still(autojump_clock: Any) -> None:
    """Also when it is given up here: another process may have more luck; until another version takes its place."""
    async with an_engine() as (rig, disk):
        await rig.ready("m", "1", fatal_on=poison)
        rig.script().load_error = Broken("the file is gone")
        await crash(rig)
        await trio.sleep(1_000)
        assert rig.engine.load_info("m", "1").status.value == "failed"
        assert wanted(disk) == {"m": "1"}
        await rig.ready("m", "2")
        await settle()
        assert wanted(disk) == {"m": "2"}


async def test_what_was_unloaded_by_hand_is_not_wanted(autojump_clock: Any) -> None:
    """Forced, the last version of a model leaves nobody to bring back; where there is another one, that is wanted."""
    async with an_engine() as (rig, disk):
        await rig.ready("m", "1")
        await rig.ready("n", "1")
        await rig.ready("n", "2")
        await rig.engine.unload("m", "1", force=True)
        await rig.engine.unload("n", "1")
        await settle()
        assert wanted(disk) == {"n": "2"}
        await rig.engine.load("m", "1")
        await settle()
        assert wanted(disk) == {"m": "1", "n": "2"}


async def test_a_failed_version_that_is_unregistered_is_not_wanted(autojump_clock: Any) -> None:
    """Nobody will register it again, and the model would wait for it for ever."""
    async with an_engine() as (rig, disk):
        await rig.ready("m", "1", fatal_on=poison)
        rig.script().load_error = Broken("the file is gone")
        await crash(rig)
        await trio.sleep(1_000)
        rig.add("m", "2")
        await rig.engine.unregister("m", "2")
        await settle()
        assert wanted(disk) == {"m": "1"}
        await rig.engine.unregister("m", "1")
        await settle()
        assert wanted(disk) == {}


async def test_what_was_evicted_is_wanted(autojump_clock: Any) -> None:
    """It is routed, and comes back when it is asked."""
    async with an_engine(memory_budget_bytes=15) as (rig, disk):
        await rig.ready("m", "1", memory_hint_bytes=10)
        await trio.sleep(1)
        await rig.ready("n", "1", memory_hint_bytes=10)
        await settle()
        assert rig.engine.load_info("m", "1").status.value == "evicted"
        assert wanted(disk) == {"m": "1", "n": "1"}


async def test_the_end_of_an_engine_changes_no_wish(autojump_clock: Any) -> None:
    """Neither when it is closed, nor when it crashes: nothing is forgotten."""
    async with open_world() as world:
        async with engine_on(world.disk, world) as rig:
            await rig.ready("m", "1")
            await rig.ready("n", "1")
        assert wanted(world.disk) == {"m": "1", "n": "1"}
        with pytest.raises(EngineFailed):
            await an_engine_crashes(world)
        assert wanted(world.disk) == {"m": "1", "n": "1"}


async def an_engine_crashes(world: World) -> None:
    """Recover m and n, and have a bug."""
    async with engine_on(world.disk, world) as rig:
        rig.add("m", "1")
        rig.add("n", "1")
        await rig.engine.recovered()

        async def child() -> None:
            raise ZeroDivisionError("a bug of the engine")

        rig.engine._version_supervisor._nursery.start_soon(child)
        await trio.sleep(10)


# --- swaps ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", BOUNDARIES)
async def test_a_swap_changes_the_wish_with_its_pivot(step: str, autojump_clock: Any) -> None:
    """One entry says that the pivot is passed and who is wanted; a rollback before any step takes both back."""
    async with an_engine() as (rig, disk):
        await rig.ready("m", "1")
        rig.add("m", "2")
        await settle()
        number = len(disk.entries) + BOUNDARIES.index(step)
        disk.fails(number, "slow", 10.0)
        swap = Outcome(rig.engine.swap, "m", "2")
        async with running(swap):
            await trio.sleep(5)
            assert wanted(disk) == {"m": "2" if step == "unload" else "1"}
            await rig.engine.rollback(rig.engine.swaps("m")[0].id)
        assert wanted(disk) == {"m": "1"}
        for count in range(1, len(disk.entries) + 1):
            entry = disk.entries[count - 1]
            past = [row for row in disk.after(count).records() if row.progress.past_pivot]
            if entry.swaps and not past:
                assert wanted(disk.after(count)) == {"m": "1"}


@pytest.mark.parametrize("then", ["completed", "tripped"])
async def test_a_canary_is_not_wanted_before_its_pivot(then: str, autojump_clock: Any) -> None:
    """Also not where it has all of the traffic on trial."""
    async with an_engine() as (rig, disk):
        await rig.ready("m", "1")
        rig.add("m", "2")
        swap = Outcome(rig.engine.swap, "m", "2", plan=Shift.canary(((0.6, 5.0),), confirm_s=5.0))
        async with running(swap):
            for _ in range(9):
                await trio.sleep(1)
                assert wanted(disk) == {"m": "1"}
            if then == "tripped":
                rig.engine.abort(rig.engine.swaps("m")[0].id)
        assert wanted(disk) == {"m": "2" if then == "completed" else "1"}


async def test_an_heir_in_the_middle_of_a_swap_is_wanted_at_its_end(autojump_clock: Any) -> None:
    """The swap decides until then: it fails, and who has the traffic now is written down with its end."""
    async with an_engine() as (rig, disk):
        await rig.ready("m", "1", fatal_on=poison)
        await rig.ready("m", "3")
        rig.add("m", "2", load_error=Broken("no"))
        rig.takes("load m/2", 5.0)
        swap = Outcome(rig.engine.swap, "m", "2")
        async with running(swap):
            await trio.sleep(1)
            await crash(rig)
            assert wanted(disk) == {"m": "1"}
        assert isinstance(swap.error, SwapFailed)
        assert wanted(disk) == {"m": str(rig.engine._router.active("m"))}


async def test_a_version_that_takes_over_behind_the_pivot_is_wanted(autojump_clock: Any) -> None:
    """While the old one drains, the new one crashes: the heir is written down at once."""
    async with an_engine() as (rig, disk):
        await rig.ready("m", "1")
        await rig.ready("m", "3")
        rig.add("m", "2", fatal_on=poison)
        lease = rig.lease()
        swap = Outcome(rig.engine.swap, "m", "2", drain=Drain(deadline_s=50.0))
        async with running(swap):
            await trio.sleep(1)
            await crash(rig)
            await settle()
            assert wanted(disk) == {"m": "3"}
            lease.release()
        await settle()
        assert wanted(disk) == {"m": str(rig.engine._router.active("m"))}


# --- a journal that fails -------------------------------------------------------------------------------------------


async def test_what_could_not_be_written_is_written_once_the_journal_works_again(
    caplog: pytest.LogCaptureFixture, autojump_clock: Any
) -> None:
    """With whatever happens next, of whatever model; the log says once that it failed, and once that it is over."""
    async with an_engine() as (rig, disk):
        disk.fails(lambda _entry: True, "full")
        with caplog.at_level(logging.WARNING):
            await rig.ready("m", "1")
            await rig.ready("n", "1")
            await rig.ready("o", "1")
            await rig.engine.unload("o", "1", force=True)
            await settle()
            assert wanted(disk) == {}
            disk.heal()
            rig.add("m", "2")
            await settle()
            assert wanted(disk) == {}  # it was tried a moment ago
            await trio.sleep(1)
            rig.add("m", "3")
            await settle()
        assert wanted(disk) == {"m": "1", "n": "1"}
        said = [record.getMessage() for record in caplog.records if "journal" in record.getMessage()]
        assert [text.split(":")[0] for text in said] == [
            "the journal does not keep which versions are active", "the journal can be written again",
        ]  # fmt: skip
        assert len(disk.entries) == 1


async def test_what_is_owed_is_written_when_the_engine_is_closed(autojump_clock: Any) -> None:
    """Where the journal works again by then, though nothing has happened since."""
    async with open_world() as world:
        async with engine_on(world.disk, world) as rig:
            world.disk.fails(lambda _entry: True, "full")
            await rig.ready("m", "1")
            await settle()
            world.disk.heal()
        assert wanted(world.disk) == {"m": "1"}


async def test_a_newer_wish_is_not_overwritten_by_what_is_owed(autojump_clock: Any) -> None:
    """The first entry fails while the second one is on its way: the second one stands."""
    async with an_engine() as (rig, disk):
        disk.fails(0, "full", 5.0)
        disk.fails(1, "slow", 5.0)
        await rig.ready("m", "1", fatal_on=poison)
        await rig.ready("m", "2")
        await crash(rig)
        await until(lambda: len(disk.entries) > 0)
        await trio.sleep(20)
        assert wanted(disk) == {"m": str(rig.engine._router.active("m"))}


async def test_the_next_swap_takes_along_what_is_owed_of_others(autojump_clock: Any) -> None:
    """With its first entry; of a model that is being swapped nothing is written but by its swap."""
    async with an_engine() as (rig, disk):
        await rig.ready("m", "1")
        rig.add("m", "2")
        disk.fails(lambda entry: "n" in entry.desired, "full")
        await rig.ready("n", "1")
        disk.heal()
        await rig.engine.swap("m", "2")
        assert wanted(disk) == {"m": "2", "n": "1"}


async def test_a_pivot_that_could_not_be_written_is_never_written(autojump_clock: Any) -> None:
    """What the swap wanted then is not owed: after no entry is the new version wanted, whatever else is written."""
    async with an_engine() as (rig, disk):
        await rig.ready("m", "1")
        rig.add("m", "2")
        await settle()
        disk.fails(len(disk.entries) + BOUNDARIES.index("drain"), "full")
        rig.takes("close m/2", 5.0)
        swap = Outcome(rig.engine.swap, "m", "2")
        async with running(swap):
            await trio.sleep(1)
            await rig.ready("n", "1")
        assert isinstance(swap.error, SwapFailed)
        await settle()
        assert wanted(disk) == {"m": "1", "n": "1"}
        assert {wanted(disk.after(count))["m"] for count in range(1, len(disk.entries) + 1)} == {"1"}
        assert "undo shift; m: 1" in disk.lines()


async def test_an_end_that_could_not_be_written_is_written_later(autojump_clock: Any) -> None:
    """So that the next engine does not recover a swap that is over."""
    async with an_engine() as (rig, disk):
        await rig.ready("m", "1")
        rig.add("m", "2")
        disk.fails(lambda entry: any(row.ended for row in entry.swaps), "full")
        operation = await rig.engine.swap("m", "2")
        assert operation.state is SwapState.COMPLETED
        assert [row.ended for row in disk.kept().swaps] == [False]
        disk.heal()
        rig.add("m", "3")
        await settle()
        assert [row.ended for row in disk.kept().swaps] == [True]
        assert disk.records()[-1].operation.state is SwapState.COMPLETED


async def test_a_version_whose_source_is_endless_is_wanted(autojump_clock: Any) -> None:
    """What is written of it is cut, so that it can be read again."""
    async with an_engine() as (rig, disk):
        await rig.ready("m", "1", source="x" * 2_000_000)
        await settle()
        row = disk.desired()["m"]
        assert (row.version, len(row.source)) == ("1", 2_000)
        assert rig.engine._versions[VersionKey("m", "1")].state.value == "ready"


def test_what_is_owed_is_written_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a long trouble no entry becomes huge, none is written twice once it is kept, and the oldest come first."""
    monkeypatch.setattr(desires, "OWED_AT_ONCE", 3)
    monkeypatch.setattr(desires, "HISTORY_MAX", 7)
    written: list[list[str]] = []
    errors: list[Exception | None] = []

    class Broken(MemoryJournal):
        """Fails until it is told not to."""

        works = False

        def write(self, entry: Entry, deliver: Any) -> None:
            written.append([row.id for row in entry.swaps])
            deliver(None if self.works else JournalFailed("full"))

    broken = Broken()
    journal = CatchingUp(broken, may_write=lambda _model: True, record=lambda _model: None)
    for number in range(9):
        journal.write(Entry((SwapRow(str(number), True, b""), SwapRow(f"open {number}", False, b""))), errors.append)
    assert len(errors) == 9
    assert all(isinstance(error, JournalFailed) for error in errors)
    written.clear()
    broken.works = True
    for _ in range(3):
        assert journal.owes()
        journal.write(Entry(), errors.append)
    assert not journal.owes()
    assert written == [["2", "3", "4"], ["5", "6", "7"], ["8"]]
