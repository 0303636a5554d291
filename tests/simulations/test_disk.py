"""The simulated disk, promise by promise: what is delivered is there, what is lost is a suffix, and it fails as told.

Under every order of steps, and through any number of crashes, it stands in `test_disk_crashes.py`.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from typing import Any

import attrs
import pytest
import trio

from changeover import Drain, SwapOperation, Timeouts
from changeover.core import wire
from changeover.core.operations import Member
from changeover.core.plan import Progress, Step
from changeover.core.records import DesiredVersion, Entry, SwapRecord, SwapRow
from changeover.core.values import SwapState
from changeover.errors import JournalFailed, JournalInUse
from changeover.runtime.journal import Rows
from changeover_sim import open_world
from tests.simulations.scribe import Scribe, entry, number_is, numbers, one_scribe, opened
from tests.support.rig import settle

# --- a journal ------------------------------------------------------------------------------------------------------


async def test_what_lies_on_the_disk_outlives_its_engines(autojump_clock: Any) -> None:
    """An engine that opens the disk after another finds the fold of all that was written, as any journal has it."""
    first = Entry(swaps=(SwapRow("a", ended=False, record=b"1"),), desired={"m": b"1", "n": b"1"})
    second = Entry(swaps=(SwapRow("b", ended=False, record=b"2"), SwapRow("a", ended=True, record=b"3")))
    third = Entry(desired={"m": b"2", "n": None})
    rows = Rows()
    async with one_scribe() as (world, scribe):
        for each in (first, second, third):
            rows.apply(each)
            scribe.journal.write(each, lambda error: None)
        await scribe.close()
        assert await world.disk.journal().open() == rows.kept() == world.disk.kept()
        assert world.disk.entries == (first, second, third)
    assert [row.id for row in rows.kept().swaps] == ["a", "b"]
    assert rows.kept().desired == {"m": b"2"}


async def test_an_entry_is_kept_before_that_is_reported_and_never_at_once(autojump_clock: Any) -> None:
    """Between the order and the report the disk's own task has a moment, also where a write takes no time."""
    async with one_scribe() as (world, scribe):
        seen: list[list[int]] = []
        scribe.journal.write(entry(0), lambda error: seen.append(numbers(world.disk.entries)))
        assert (seen, world.disk.entries) == ([], ())
        await settle()
        assert seen == [[0]]


async def test_entries_are_written_one_after_the_other_in_order(autojump_clock: Any) -> None:
    """Each takes the time of a piece of work called "journal", and none begins before the one ahead has ended."""
    async with one_scribe() as (world, scribe):
        world.durations["journal"] = 2.0
        scribe.write(0, 1, 2)
        await trio.sleep(3)
        assert numbers(world.disk.entries) == [0]
        await trio.sleep(10)
        assert scribe.heard == [(0, "kept", 2.0), (1, "kept", 4.0), (2, "kept", 6.0)]


async def test_who_hears_may_write(autojump_clock: Any) -> None:
    """An entry that is ordered in a delivery goes behind those that were ordered before it."""
    async with one_scribe() as (world, scribe):
        world.durations["journal"] = 1.0
        scribe.journal.write(entry(0), lambda error: scribe.write(2))
        scribe.write(1)
        await trio.sleep(10)
        assert numbers(world.disk.entries) == [0, 1, 2]
        scribe.journal.write(entry(3), lambda error: scribe.write(4))
        await trio.sleep(10)
        assert numbers(world.disk.entries) == [0, 1, 2, 3, 4]


async def test_one_engine_at_a_time(autojump_clock: Any) -> None:
    """A second journal is refused while the first is open, and nothing else changes; then it opens."""
    async with one_scribe() as (world, scribe):
        second = world.disk.journal()
        with pytest.raises(JournalInUse):
            await second.open()
        with pytest.raises(JournalInUse):
            await scribe.journal.open()
        scribe.write(0)
        await scribe.close()
        assert numbers(world.disk.entries) == [0]
        await second.open()
        with pytest.raises(JournalInUse):
            await scribe.journal.open()
        await second.close()
        await scribe.journal.open()


async def test_an_opening_that_is_cancelled_has_opened_nothing(autojump_clock: Any) -> None:
    """The next one finds the disk free."""
    async with open_world() as world:
        with trio.CancelScope() as scope:
            scope.cancel()
            await world.disk.journal().open()
        assert scope.cancelled_caught
        await world.disk.journal().open()


async def test_closing_writes_what_was_ordered(autojump_clock: Any) -> None:
    """It returns once the last entry is written and synced, and meanwhile nobody else gets the disk."""
    async with one_scribe() as (world, scribe), trio.open_nursery() as nursery:
        world.durations["journal"] = 2.0
        scribe.write(0, 1)
        nursery.start_soon(scribe.close)
        await trio.sleep(3)
        with pytest.raises(JournalInUse):
            await world.disk.journal().open()
        await scribe.close()
        assert scribe.delivered == [0, 1]
        assert world.disk.synced == 2
        await world.disk.journal().open()


async def test_a_closing_that_is_cancelled_goes_on(autojump_clock: Any) -> None:
    """What was ordered is written and delivered all the same, and then the disk is free."""
    async with one_scribe() as (world, scribe):
        world.durations["journal"] = 2.0
        scribe.write(0, 1)
        with trio.move_on_after(1) as scope:
            await scribe.close()
        assert scope.cancelled_caught
        await trio.sleep(10)
        assert scribe.delivered == [0, 1]
        await world.disk.journal().open()


async def test_a_journal_that_is_not_open_keeps_nothing(autojump_clock: Any) -> None:
    """An entry for a journal that was never opened, or is being closed, fails, and none of the others does."""
    async with one_scribe() as (world, scribe):
        other = Scribe(world.disk.journal())
        await other.close()
        other.write(7)
        scribe.write(0)
        with trio.CancelScope() as scope:
            scope.cancel()
            await scribe.close()
        scribe.write(1)
        await settle()
        assert [how for _, how, _ in scribe.heard] == ["kept", "JournalFailed"]
        assert [how for _, how, _ in other.heard] == ["JournalFailed"]
        assert numbers(world.disk.entries) == [0]


# --- durability -----------------------------------------------------------------------------------------------------


async def test_with_process_every_so_many_entries_are_synced(autojump_clock: Any) -> None:
    """What is written is synced with every third entry, here, and when the journal is closed."""
    async with one_scribe("process", sync_every=3) as (world, scribe):
        synced = []
        for number in range(8):
            scribe.write(number)
            await settle()
            synced.append(world.disk.synced)
        assert synced == [0, 0, 3, 3, 3, 6, 6, 6]
        await scribe.close()
        assert world.disk.synced == 8


async def test_with_power_an_entry_is_synced_before_it_is_delivered(autojump_clock: Any) -> None:
    """At the report a power cut would leave it; also those that were written before with less."""
    async with one_scribe("process") as (world, scribe):
        scribe.write(0, 1)
        await settle()
        world.disk.kill()
        synced: list[int] = []
        journal = world.disk.journal("power")
        await journal.open()
        assert world.disk.synced == 0
        for number in (2, 3):
            journal.write(entry(number), lambda error: synced.append(world.disk.synced))
        await settle()
        assert synced == [3, 4]


# --- crashes --------------------------------------------------------------------------------------------------------


async def test_a_kill_leaves_what_was_written_and_delivers_nothing_more(autojump_clock: Any) -> None:
    """Entries that were not written are gone, nobody hears of them, and the next engine opens the disk at once."""
    async with one_scribe() as (world, scribe):
        world.durations["journal"] = 2.0
        scribe.write(0, 1, 2)
        await trio.sleep(3)
        world.disk.kill()
        scribe.write(3)
        second = await opened(world)
        second.write(4)
        await trio.sleep(100)
        assert scribe.heard == [(0, "kept", 2.0)]
        assert second.heard == [(4, "kept", 5.0)]
        assert numbers(world.disk.entries) == [0, 4]


@pytest.mark.parametrize("count", [1, 2, 3])
async def test_an_entry_may_be_on_the_disk_before_it_was_delivered(count: int, autojump_clock: Any) -> None:
    """Whoever kills chooses how many entries behind the delivered ones are there: whole, in order, never reported."""
    async with one_scribe() as (world, scribe):
        scribe.write(0)
        await settle()
        world.durations["journal"] = 2.0
        scribe.write(1, 2)
        offered: list[list[int]] = []

        def choose(options: Sequence[int]) -> int:
            offered.append(list(options))
            return count

        world.disk.kill(choose)
        await trio.sleep(10)
        assert offered == [[1, 2, 3]]
        assert scribe.delivered == [0]
        assert numbers(world.disk.entries) == [0, 1, 2][:count]
        assert (await world.disk.journal().open()).swaps == tuple(entry(number).swaps[0] for number in range(count))


async def test_a_kill_chooses_among_what_can_be(autojump_clock: Any) -> None:
    """An entry that the disk refuses is never on it, whatever is chosen; one behind it may be."""
    async with one_scribe() as (world, scribe):
        world.disk.fails(1, "full")
        scribe.write(0, 1, 2)
        world.disk.kill(max)
        assert numbers(world.disk.entries) == [0, 2]


async def test_a_power_cut_leaves_a_prefix_that_holds_what_was_synced(autojump_clock: Any) -> None:
    """Of what was written and not synced, and of what is in the making, as much stays as is chosen, and no hole."""
    for wanted in range(3, 7):
        async with one_scribe("process", sync_every=3) as (world, scribe):
            scribe.write(0, 1, 2, 3, 4)
            await settle()
            scribe.write(5)
            offered: list[Sequence[int]] = []

            def choose(options: Sequence[int], offered: Any = offered, wanted: int = wanted) -> int:
                offered.append(options)
                return wanted

            world.disk.power_cut(choose)
            assert offered == [range(3, 7)]
            assert numbers(world.disk.entries) == list(range(wanted))
            assert world.disk.synced == wanted, "it was read back from the disk, so it is there"


async def test_with_power_a_power_cut_takes_nothing_that_was_delivered(autojump_clock: Any) -> None:
    """The least that can be left is every delivered entry."""
    async with one_scribe("power") as (world, scribe):
        scribe.write(0, 1, 2)
        await settle()
        scribe.write(3)
        world.disk.power_cut()
        assert numbers(world.disk.entries) == scribe.delivered == [0, 1, 2]


async def test_a_kill_syncs_nothing(autojump_clock: Any) -> None:
    """What a killed engine has written is lost by a power cut later, as it would have been at once."""
    async with one_scribe() as (world, scribe):
        scribe.write(0, 1)
        await settle()
        world.disk.kill(max)
        await opened(world)
        world.disk.power_cut()
        assert world.disk.entries == ()


async def test_an_engine_may_be_killed_while_it_closes(autojump_clock: Any) -> None:
    """It holds the disk no longer, and a closing that waits returns, since nothing is left to wait for."""
    async with one_scribe() as (world, scribe), trio.open_nursery() as nursery:
        world.durations["journal"] = 2.0
        scribe.write(0)
        nursery.start_soon(scribe.close)
        await trio.sleep(1)
        world.disk.kill()
        await scribe.close()
        assert trio.current_time() == 1.0
        await world.disk.journal().open()


async def test_the_dead_can_be_buried(autojump_clock: Any) -> None:
    """Trio cannot drop a task that waits in a shield: on demand all that the dead wait for, or order yet, fails."""
    async with one_scribe() as (world, scribe), trio.open_nursery() as nursery:
        world.durations["journal"] = 2.0
        scribe.write(0, 1)
        world.disk.kill(max)
        scribe.write(2)
        second = await opened(world)
        second.write(3)
        world.disk.kill(lambda options: options[0])
        await opened(world)

        async def open_late() -> None:
            with pytest.raises(JournalFailed, match="killed"):
                await scribe.journal.open()

        nursery.start_soon(open_late)
        await settle()
        assert scribe.heard == second.heard == []
        world.disk.bury()
        scribe.write(4)
        assert [how for _, how, _ in scribe.heard] == ["JournalFailed"] * 4
        assert [how for _, how, _ in second.heard] == ["JournalFailed"]
        assert len(set(map(id, scribe.errors))) == 4, "an error object that several raise"
        world.disk.bury()
        assert numbers(world.disk.entries) == [0, 1], "what the dead order comes to nothing"


async def test_behind_its_world_nothing_is_written(autojump_clock: Any) -> None:
    """A world that ends is a process that ends: nothing is delivered any more."""
    async with one_scribe() as (world, scribe):
        world.durations["journal"] = 2.0
        scribe.write(0)
    scribe.write(1)
    await trio.sleep(10)
    assert (scribe.heard, world.disk.entries) == ([], ())


# --- faults ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("trouble", "number"), [("full", errno.ENOSPC), ("read-only", errno.EROFS)])
@pytest.mark.parametrize("which", [1, number_is(1)])
async def test_a_disk_that_cannot_write_keeps_nothing_of_an_entry(
    trouble: Any, number: int, which: Any, autojump_clock: Any
) -> None:
    """The error of the system is delivered as `JournalFailed`; the entries before and behind it are kept."""
    async with one_scribe() as (world, scribe):
        world.disk.fails(which, trouble)
        scribe.write(0, 1, 2)
        await settle()
        assert [how for _, how, _ in scribe.heard] == ["kept", "JournalFailed", "kept"]
        assert isinstance(scribe.errors[0].__cause__, OSError)
        assert scribe.errors[0].__cause__.errno == number
        assert trouble in str(scribe.errors[0])
        assert numbers(world.disk.entries) == [0, 2]


async def test_with_power_an_entry_that_cannot_be_synced_is_not_kept(autojump_clock: Any) -> None:
    """A failing fsync is an error there, because the report would promise what is not true."""
    async with one_scribe("power") as (world, scribe):
        world.disk.fails(1, "fsync")
        scribe.write(0, 1, 2)
        await settle()
        assert [how for _, how, _ in scribe.heard] == ["kept", "JournalFailed", "kept"]
        assert isinstance(scribe.errors[0].__cause__, OSError)
        assert scribe.errors[0].__cause__.errno == errno.EIO
        assert numbers(world.disk.entries) == [0, 2]
        assert world.disk.synced == 2


async def test_with_process_a_failing_sync_is_not_heard_and_syncs_nothing(autojump_clock: Any) -> None:
    """The entry is written, as it promised; a power cut takes it, until a later sync works."""
    async with one_scribe("process", sync_every=2) as (world, scribe):
        world.disk.fails(1, "fsync")
        scribe.write(0, 1)
        await settle()
        assert scribe.delivered == [0, 1]
        assert world.disk.synced == 0
        scribe.write(2)
        await settle()
        assert world.disk.synced == 3


async def test_a_disk_can_be_slow(autojump_clock: Any) -> None:
    """One entry takes longer, and holds up those behind it; also one that fails in the end."""
    async with one_scribe() as (world, scribe):
        world.disk.fails(1, "slow", 30.0)
        world.disk.fails(2, "full", 5.0)
        scribe.write(0, 1, 2, 3)
        await trio.sleep(100)
        assert scribe.heard == [(0, "kept", 0.0), (1, "kept", 30.0), (2, "JournalFailed", 35.0), (3, "kept", 35.0)]


async def test_a_disk_can_hang(autojump_clock: Any) -> None:
    """An entry hangs until the event is set; killed meanwhile, its engine is gone and the disk serves the next one."""
    async with one_scribe() as (world, scribe):
        go, never = trio.Event(), trio.Event()
        world.disk.fails(0, "hung", go)
        world.disk.fails(number_is(2), "hung", never)
        scribe.write(0, 1)
        await trio.sleep(86_400)
        assert scribe.heard == []
        go.set()
        await settle()
        assert scribe.delivered == [0, 1]
        scribe.write(2)
        await trio.sleep(1)
        world.disk.kill()
        second = await opened(world)
        second.write(3)
        await settle()
        assert second.delivered == [3]
        never.set()
        await settle()
        assert numbers(world.disk.entries) == [0, 1, 3], "written by the dead"


async def test_faults_can_be_switched_off(autojump_clock: Any) -> None:
    """By kind, or all; an entry that hangs goes on, and one that is in the making no longer fails."""
    async with one_scribe() as (world, scribe):
        world.disk.fails(lambda each: True, "hung", trio.Event())
        world.disk.fails(lambda each: True, "full")
        scribe.write(0)
        await trio.sleep(1)
        world.disk.heal("slow", "fsync")
        await trio.sleep(1)
        assert scribe.heard == []
        world.disk.heal("hung", "slow")
        await settle()
        scribe.write(1)
        await settle()
        assert [how for _, how, _ in scribe.heard] == ["JournalFailed", "JournalFailed"]
        world.disk.fails(lambda each: True, "hung", trio.Event())
        scribe.write(2)
        await trio.sleep(1)
        world.disk.heal()
        scribe.write(3)
        await settle()
        assert scribe.delivered == [2, 3]


async def test_a_fault_says_how_long_it_takes(autojump_clock: Any) -> None:
    """One that is slow takes seconds, one that hangs an event; anything else is a mistake in the test."""
    async with one_scribe() as (world, scribe):
        for trouble, takes in (("slow", trio.Event()), ("hung", 3.0)):
            with pytest.raises(ValueError, match=trouble):
                world.disk.fails(0, trouble, takes)
        scribe.write(0)
        await settle()
        assert scribe.heard == [(0, "kept", 0.0)]


# --- for oracles ----------------------------------------------------------------------------------------------------

OPERATION = SwapOperation("a1", "m", "1", "2", SwapState.TRANSITIONING, 1.7e9, members=(Member("m", "1", "2"),))


def boundary(step: Step, state: SwapState = SwapState.TRANSITIONING, *, forward: bool = True) -> SwapRecord:
    """Return the record of one boundary."""
    progress = Progress(step, forward=forward)
    return SwapRecord(attrs.evolve(OPERATION, state=state), progress, Drain(), Timeouts())


def written(*records: SwapRecord, **desired: str | None) -> Entry:
    """Return the entry for some boundaries and desired versions."""
    rows = tuple(SwapRow(each.operation.id, each.operation.state.ended, wire.encode(each)) for each in records)
    sources = {
        model: version and wire.encode(DesiredVersion(model, version, "scripted", "script", None))
        for model, version in desired.items()
    }
    return Entry(rows, sources)


async def test_what_is_on_the_disk_can_be_read(autojump_clock: Any) -> None:
    """An oracle sees every boundary of every swap, each entry in a line, and which versions shall be active."""
    records = [
        *(boundary(Step.LOAD), boundary(Step.SHIFT), boundary(Step.LOAD, forward=False)),
        *(boundary(Step.DRAIN), boundary(Step.UNLOAD, SwapState.COMPLETED)),
    ]
    async with one_scribe() as (world, scribe):
        for each in (*map(written, records[:3]), written(*records[3:], m="2", n=None), written(m="3", n="1")):
            scribe.journal.write(each, lambda error: None)
        assert (world.disk.lines(), world.disk.records(), world.disk.desired()) == ([], [], {})
        await settle()
        assert world.disk.lines() == ["load", "shift", "undo load", "drain; completed; m: 2; n: none", "m: 3; n: 1"]
        assert world.disk.records() == records
        assert {model: wanted.version for model, wanted in world.disk.desired().items()} == {"m": "3", "n": "1"}


async def test_every_prefix_of_a_run_can_be_started_from(autojump_clock: Any) -> None:
    """A disk with the first n entries stands where a kill behind the n-th had left it; in this world or another one."""
    async with one_scribe() as (world, scribe):
        scribe.write(*range(4))
        await scribe.close()
    for count in range(5):
        async with open_world() as another:
            another.disk = world.disk.after(count, another)
            scribe = await opened(another)
            scribe.write(9)
            another.disk.fails(count + 1, "full")
            scribe.write(10)
            await settle()
            assert numbers(another.disk.entries) == [*range(count), 9]
            assert numbers(another.disk.after(count).entries) == list(range(count))
            again = another.disk.after(count + 1).after(count)
            again.power_cut()
            assert numbers(again.entries) == list(range(count)), "what it began with is synced"
    assert numbers(world.disk.entries) == [0, 1, 2, 3]
    with pytest.raises(AssertionError):
        world.disk.after(5)
