"""The history of swaps: of this process and of those before it, within its bounds, and from any thread."""

from __future__ import annotations

import logging
import threading
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from typing import Any

import attrs
import pytest
import trio

from changeover import Drain, SwapOperation, SwapState, Timeouts
from changeover.core import wire
from changeover.core.operations import Member
from changeover.core.plan import Progress, Step
from changeover.core.records import TEXT_MAX, Entry, SwapRecord, SwapRow
from changeover.errors import SwapFailed, SwapNotAllowed, SwapNotFound, SwapRolledBack
from changeover.runtime import history as history_module
from changeover.runtime import journal as journal_module
from changeover.runtime import ordering
from changeover.runtime.history import History
from changeover.runtime.journal import MemoryJournal
from changeover_sim import open_world
from tests.support.models import Broken
from tests.support.rig import Rig, open_rig


@asynccontextmanager
async def engine_on(journal: MemoryJournal) -> AsyncGenerator[Rig, None]:
    """Open an engine on a journal, with versions 1 to 3 of m registered; each has a chance, and so ids, of its own."""
    seed = len(journal.rows.kept().swaps)
    async with open_world(seed) as world:
        world.ports = attrs.evolve(world.ports, journal=journal)
        async with open_rig(world=world) as rig:
            for version in "123":
                rig.add(version=version)
            yield rig


def a_swap(swap_id: str, *models: str, state: SwapState = SwapState.COMPLETED) -> SwapRecord:
    """Return a swap that has ended."""
    members = tuple(Member(model, "1", "2") for model in models)
    operation = SwapOperation(swap_id, "+".join(models), "1", "2", state, 1.0, 2.0, members=members)
    return SwapRecord(operation, Progress(Step.UNLOAD), Drain(), Timeouts())


def row(record: SwapRecord) -> SwapRow:
    """Return it as a journal keeps it."""
    return SwapRow(record.operation.id, ended=True, record=wire.encode(record))


def write(journal: MemoryJournal, *records: SwapRecord) -> None:
    """Put swaps into a journal."""
    journal.write(Entry(tuple(map(row, records))), lambda _error: None)


def ids(operations: Any) -> list[str]:
    """Return the ids of operations."""
    return [operation.id for operation in operations]


# --- across restarts ------------------------------------------------------------------------------------------------


async def test_swaps_of_earlier_processes_come_before_those_of_this_one(autojump_clock: Any) -> None:
    """Oldest first, by model, no more than asked for, whichever process they are of."""
    journal = MemoryJournal()
    async with engine_on(journal) as rig:
        await rig.engine.load("m", "1")
        first = await rig.engine.swap("m", "2")
    async with engine_on(journal) as rig:
        await rig.engine.recovered()
        second = await rig.engine.swap("m", "3")
        await rig.ready("other")
        rig.add("other", "2")
        third = await rig.engine.swap("other", "2")
        assert rig.engine.swaps() == (first, second, third)
        assert rig.engine.swaps("m") == (first, second)
        assert rig.engine.swaps("other") == (third,)
        assert [rig.engine.swaps(limit=limit) for limit in (2, 1, 0, -1)] == [(second, third), (third,), (), ()]
        assert (rig.engine.swaps("m", 1), rig.engine.swaps("nobody")) == ((second,), ())
        assert rig.engine.swaps("\ud800") == ()


async def test_a_past_swap_is_looked_up_and_waited_for(autojump_clock: Any) -> None:
    """As it ended: with its value, or with the error that `swap` raised."""
    journal = MemoryJournal()
    async with engine_on(journal) as rig:
        await rig.engine.load("m", "1")
        done = await rig.engine.swap("m", "2")
        rig.script(version="3").load_error = Broken("rotten")
        with pytest.raises(SwapFailed) as failed:
            await rig.engine.swap("m", "3")
        rig.script(version="3").load_error = None
        rig.takes("load m/3", 5.0)
        turned = rig.engine.start_swap("m", "3")
        await trio.sleep(1)
        await rig.engine.rollback(turned)
    async with engine_on(journal) as rig:
        assert await rig.engine.wait_for_swap(done.id) == rig.engine.swap_status(done.id) == done
        with pytest.raises(SwapFailed, match="rotten") as again:
            await rig.engine.wait_for_swap(failed.value.operation.id)
        assert again.value.operation == failed.value.operation
        with pytest.raises(SwapRolledBack):
            await rig.engine.wait_for_swap(turned)
        for swap_id in (failed.value.operation.id, turned):
            with pytest.raises(SwapNotAllowed, match="did not happen"):
                await rig.engine.rollback(swap_id)
        with pytest.raises(SwapNotFound, match="nonsense"):
            await rig.engine.wait_for_swap("nonsense")
        for call in (rig.engine.pause, rig.engine.resume, rig.engine.promote, rig.engine.abort):
            with pytest.raises(SwapNotAllowed, match="no task of this process"):
                call(done.id)


async def test_a_past_swap_is_rolled_back_as_one_of_today(autojump_clock: Any) -> None:
    """While the traffic is where it put it; and its rollback can be rolled back by the third process."""
    journal = MemoryJournal()
    async with engine_on(journal) as rig:
        await rig.engine.load("m", "1")
        first = await rig.engine.swap("m", "2", drain=Drain(7.0), timeouts=Timeouts(load_s=9.0))
    async with engine_on(journal) as rig:
        await rig.engine.recovered()
        back = await rig.engine.rollback(first.id)
        assert (back.rollback_of, back.from_version, back.to_version) == (first.id, "2", "1")
        assert rig.engine._saga(back.id).swap.drain == Drain(7.0)
        assert rig.engine._saga(back.id).swap.timeouts == Timeouts(load_s=9.0)
        with pytest.raises(SwapNotAllowed, match="active"):
            await rig.engine.rollback(first.id)
    async with engine_on(journal) as rig:
        await rig.engine.recovered()
        forth = await rig.engine.rollback(back.id)
        assert (forth.rollback_of, rig.engine.is_active("m", "2")) == (back.id, True)
        assert rig.engine.swaps("m") == (first, back, forth)


# --- bounds ---------------------------------------------------------------------------------------------------------


async def test_swaps_beyond_those_that_are_kept_as_tasks_are_history(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: Any
) -> None:
    """They are listed in their order, looked up and rolled back as before; only what is beyond both bounds is gone."""
    monkeypatch.setattr(ordering, "SWAPS_KEPT", 3)
    for module in (history_module, journal_module):
        monkeypatch.setattr(module, "HISTORY_MAX", 4)
    journal = MemoryJournal()
    async with engine_on(journal) as rig:
        await rig.engine.load("m", "1")
        done = [await rig.engine.swap("m", "12"[number % 2]) for number in range(1, 10)]
        assert len(rig.engine._sagas) == 3
        assert rig.engine.swaps("m") == tuple(done[-7:])
        assert [rig.engine.swap_status(one.id) for one in done[-7:]] == done[-7:]
        with pytest.raises(SwapNotFound, match="lists the last"):
            rig.engine.swap_status(done[1].id)
        assert await rig.engine.wait_for_swap(done[2].id) == done[2]
    async with engine_on(journal) as rig:
        assert rig.engine.swaps() == tuple(done[-4:])


def test_history_forgets_the_oldest_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is changed keeps its place."""
    monkeypatch.setattr(history_module, "HISTORY_MAX", 3)
    history = History()
    history.take([row(a_swap(name, "m")) for name in "abc"])
    history.put(a_swap("a", "m", state=SwapState.FAILED))
    assert ids(history.operations(None, 9)) == ["a", "b", "c"]
    assert history.operations(None, 9)[0].state is SwapState.FAILED
    history.put(a_swap("d", "m"))
    assert ids(history.operations("m", 9)) == ["b", "c", "d"]
    assert history.find("a") is None


def test_a_model_is_found_by_its_whole_name() -> None:
    """In groups, too, and not where only the bytes look like it."""
    history = History()
    history.take([row(a_swap("a", "m")), row(a_swap("b", "mm")), row(a_swap("c", "m", "other")), row(a_swap("m", "x"))])
    assert ids(history.operations("m", 9)) == ["a", "c"]
    assert ids(history.operations("other", 9)) == ["c"]
    assert ids(history.operations("m", 1)) == ["c"]


# --- what cannot be read --------------------------------------------------------------------------------------------


async def test_a_row_that_cannot_be_read_is_left_out_and_named_once(
    caplog: pytest.LogCaptureFixture, autojump_clock: Any
) -> None:
    """The others are there, and the engine runs: it is only history."""
    journal = MemoryJournal()
    write(journal, a_swap("good", "m"), a_swap("also", "m"))
    rows = (SwapRow("bad", True, b"m and nonsense"), SwapRow("newer", True, b"\x82\xa1v\x03\xa1m\x01"))
    journal.write(Entry(rows), lambda _error: None)
    async with engine_on(journal) as rig:
        with caplog.at_level(logging.WARNING):
            for _ in range(3):
                assert ids(rig.engine.swaps("m")) == ids(rig.engine.swaps()) == ["good", "also"]
                for swap_id in ("bad", "newer"):
                    with pytest.raises(SwapNotFound, match=swap_id):
                        rig.engine.swap_status(swap_id)
        assert [record.args[0] for record in caplog.records if record.args] == ["newer", "bad"]
        await rig.engine.load("m", "1")
        assert (await rig.engine.swap("m", "2")).state is SwapState.COMPLETED


@pytest.mark.parametrize("char", ["x", "\udcff", "\0"], ids=["long", "no UTF-8", "NUL"])
async def test_the_strangest_error_can_be_kept_and_read(char: str, autojump_clock: Any) -> None:
    """A megabyte of it, or a file name that is no text: the swap fails with it, and the next process knows why."""
    journal = MemoryJournal()
    async with engine_on(journal) as rig:
        await rig.engine.load("m", "1")
        rig.script(version="2").load_error = Broken("why: " + char * 1_000_000)
        with pytest.raises(SwapFailed):
            await rig.engine.swap("m", "2")
        assert rig.engine.is_active("m", "1")
    async with engine_on(journal) as rig:
        (operation,) = rig.engine.swaps("m")
        assert operation.state is SwapState.FAILED
        assert f"why: {char * 100}" in str(operation.error_message)
        assert len(str(operation.error_message)) == TEXT_MAX


async def test_the_longest_limits_can_be_kept_and_read(autojump_clock: Any) -> None:
    """Seconds that are no whole number of 64 bits: the swap is done, and its rollback by the next process has them."""
    journal = MemoryJournal()
    limits = Timeouts(load_s=10**30, shift_s=10**30, unload_s=10**30, total_s=10**30)
    async with engine_on(journal) as rig:
        await rig.engine.load("m", "1")
        done = await rig.engine.swap("m", "2", timeouts=limits, drain=Drain(10**30))
    async with engine_on(journal) as rig:
        await rig.engine.recovered()
        back = await rig.engine.rollback(done.id)
        assert rig.engine._saga(back.id).swap.timeouts == Timeouts(
            load_s=1e30, shift_s=1e30, unload_s=1e30, total_s=1e30
        )


# --- any thread -----------------------------------------------------------------------------------------------------


async def test_the_history_can_be_read_from_any_thread_while_swaps_end(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: Any
) -> None:
    """A swap that moves from the tasks into the history is listed once, or has just gone; nobody trips over it."""
    monkeypatch.setattr(ordering, "SWAPS_KEPT", 2)
    for module in (history_module, journal_module):
        monkeypatch.setattr(module, "HISTORY_MAX", 5)
    journal = MemoryJournal()
    write(journal, *(a_swap(f"past {number}", "m") for number in range(5)))
    wrongs: list[object] = []
    over = threading.Event()

    async with engine_on(journal) as rig:
        await rig.engine.load("m", "1")
        thread = threading.Thread(target=lambda: wrongs.extend(look(rig, over)))
        thread.start()
        try:
            for number in range(1, 16):
                await rig.engine.swap("m", "12"[number % 2])
        finally:
            over.set()
            thread.join()
    assert wrongs == []


def look(rig: Rig, over: threading.Event) -> list[object]:
    """Look at the history again and again, and return what is wrong with it."""
    wrongs: list[object] = []
    while not over.is_set():
        try:
            found = ids(rig.engine.swaps("m"))
            if len(set(found)) != len(found) or len(found) < 5:
                wrongs.append(found)
            with suppress(SwapNotFound):  # it was in the list, and is gone since
                rig.engine.swap_status(found[0])
        except Exception as error:  # noqa: BLE001 - whatever it is, the test has to tell
            return [*wrongs, error]
    return wrongs


def test_swaps_of_others_are_not_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the model's name is a part of every record: a short one, or a word of the format."""
    history, decoded, decode = History(), [], wire.decode
    history.take(SwapRow(str(n), ended=True, record=wire.encode(a_swap(str(n), "model"))) for n in range(100))
    monkeypatch.setattr(wire, "decode", lambda kind, data: (decoded.append(data), decode(kind, data))[1])
    assert [history.operations(name, 10) for name in ("m", "version", "completed", "1")] == [[], [], [], []]
    assert decoded == []
    assert len(history.operations("model", 10)) == len(decoded) == 10


async def test_a_journal_in_memory_forgets_as_it_goes() -> None:
    """What has ended long ago goes with the next end; what is open stays."""
    rows = MemoryJournal().rows
    for number in range(journal_module.HISTORY_MAX + 5):
        rows.apply(Entry((SwapRow(str(number), ended=number != 1, record=b""),)))
    kept = rows.kept().swaps
    assert [row.id for row in kept[:3]] == ["1", "5", "6"]
    assert len(kept) == journal_module.HISTORY_MAX + 1
