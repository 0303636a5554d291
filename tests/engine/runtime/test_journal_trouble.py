"""Engines whose journal is on a disk that is full, read-only, without fsync, or hangs: the old version serves.

Healed, the next swap works, and the next process finds what the first one has told. Real files, real faults.
"""

from __future__ import annotations

import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from changeover import SwapState
from changeover.errors import JournalFailed, JournalInUse, SwapFailed
from changeover.runtime import desires
from tests.support.broken_disks import (
    FULL,
    NO_FSYNC,
    READ_ONLY,
    Disk,
    disk_under,
    ends_as_it_was,
    engine_on,
    killed_after,
    until_drained,
)
from tests.support.disks import Closings, log_of, look_at_once
from tests.support.rig import Rig, open_rig, until
from tests.support.threads import PATIENCE_S

FORWARD = ["load", "shift", "drain; m: 2", "unload", "completed; m: 2"]
BACK = ["undo drain; m: 1", "undo shift; m: 1", "undo warm", "undo load", "undo validate", "rolled_back; m: 1"]


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    """Return the disk of the journal `j`."""
    with disk_under(tmp_path / "j", monkeypatch) as disk:
        yield disk


async def goes_on(disk: Disk, rig: Rig) -> None:
    """Heal the disk, and swap."""
    disk.fault = None
    assert (await rig.engine.swap("m", "3")).state is SwapState.COMPLETED


# --- a disk that fails ----------------------------------------------------------------------------------------------


def faults() -> list[Any]:
    """Return every kind of fault, with a durability that notices it."""
    return [(FULL, "process"), (FULL, "power"), (READ_ONLY, "process"), (NO_FSYNC, "power")]


@pytest.mark.parametrize(("fault", "durability"), faults())
async def test_on_a_broken_disk_no_swap_begins(disk: Disk, fault: str, durability: Any) -> None:
    """It fails and says of what, all is as before, and nobody who asks notices; healed, the same swap works."""
    async with engine_on(disk, durability=durability) as rig:
        disk.fault = fault
        for _ in range(3):
            with pytest.raises(SwapFailed) as caught:
                await rig.engine.swap("m", "2")
            assert isinstance(caught.value.__cause__, JournalFailed)
            assert str(disk.path) in str(caught.value)
            assert rig.engine.loaded_versions("m") == ("1",)
            assert rig.engine._slots.everybody() == ()
        assert disk.kept == ["m: 1"]
        disk.fault = None
        await rig.engine.swap("m", "2")
        await ends_as_it_was(rig, [SwapState.FAILED] * 3 + [SwapState.COMPLETED])
    async with engine_on(disk) as rig:
        assert (await rig.engine.infer("m", {})).version == "2"
        assert rig.engine.swaps("m")[-1].state is SwapState.COMPLETED
    assert all(row.ended for row in look_at_once(disk.path).swaps)


@pytest.mark.parametrize("stays", [False, True], ids=["once", "stays"])
@pytest.mark.parametrize(
    ("boundary", "fault", "durability"),
    [(line, FULL, "process") for line in FORWARD] + [("drain; m: 2", *broken) for broken in faults()[1:]],
)
async def test_a_disk_that_breaks_at_a_boundary(
    disk: Disk, boundary: str, fault: str, durability: Any, *, stays: bool
) -> None:
    """Up to the pivot's own record the swap fails and the old version serves; behind it, it completes and tells of it.

    Healed, the next swap works, and the next process finds what the first one had told.
    """
    at = FORWARD.index(boundary)
    past_pivot = at > FORWARD.index("drain; m: 2")
    async with engine_on(disk, durability=durability) as rig:
        disk.fault = fault
        disk.breaks = lambda line: line == boundary or (stays and bool(disk.lost))
        if past_pivot:
            operation = await rig.engine.swap("m", "2")
        else:
            with pytest.raises(SwapFailed) as caught:
                await rig.engine.swap("m", "2")
            operation = caught.value.operation
        assert "could not be written" in str(operation.error_message)
        assert not past_pivot or {step.outcome for step in operation.steps} == {"done"}  # it has all happened
        assert disk.lost[0] == boundary
        assert disk.kept[1 : at + 1] == FORWARD[:at]
        states = [SwapState.COMPLETED if past_pivot else SwapState.FAILED]
        assert (await rig.engine.infer("m", {})).version == ("2" if past_pivot else "1")
        assert rig.engine.loaded_versions("m") == (("2",) if past_pivot else ("1",))
        await goes_on(disk, rig)
        states.append(SwapState.COMPLETED)
        await ends_as_it_was(rig, states)
    async with engine_on(disk) as rig:
        assert (await rig.engine.infer("m", {})).version == "3"
        assert rig.engine.loaded_versions("m") == ("3",)
        await ends_as_it_was(rig, states)
    assert all(row.ended for row in look_at_once(disk.path).swaps)


@pytest.mark.parametrize("stays", [False, True], ids=["once", "stays"])
@pytest.mark.parametrize("boundary", BACK)
async def test_a_disk_that_is_full_while_a_swap_is_undone(disk: Disk, boundary: str, *, stays: bool) -> None:
    """It is undone all the same, and told; healed, the next swap works and the next process finds the same."""
    async with engine_on(disk) as rig:
        with rig.engine.lease("m"):
            swap_id = rig.engine.start_swap("m", "2")
            await until_drained(rig)
            disk.fault = FULL
            disk.breaks = lambda line: line == boundary or (stays and bool(disk.lost))
            operation = await rig.engine.rollback(swap_id)
        assert operation.state is SwapState.ROLLED_BACK
        assert disk.lost[0] == boundary
        assert "database or disk is full" in str(operation.error_message)
        assert (await rig.engine.infer("m", {})).version == "1"
        await goes_on(disk, rig)
    async with engine_on(disk) as rig:
        assert (await rig.engine.infer("m", {})).version == "3"
        await ends_as_it_was(rig, [SwapState.ROLLED_BACK, SwapState.COMPLETED])


async def test_what_could_not_be_written_is_written_when_it_can_be(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    """A load and a rollback on a full disk are made good once it is healed and anything happens: no restart goes back.

    Else the next process would serve the version that an operator has just taken back.
    """
    monkeypatch.setattr(desires, "AGAIN_S", 0.0)
    async with engine_on(disk) as rig:
        with rig.engine.lease("m"):
            swap_id = rig.engine.start_swap("m", "2")
            await until_drained(rig)
            disk.fault = FULL
            await rig.engine.rollback(swap_id)
            await rig.engine.load("n", "1")
        assert disk.kept[-1] == "drain; m: 2"
        disk.fault = None
        rig.add("n", "2")
        with trio.fail_after(PATIENCE_S):
            await until(lambda: "rolled_back" in disk.kept[-1])
        folder = disk.path.parent / "killed"
        folder.mkdir()
        for file in (disk.path, log_of(disk.path)):
            shutil.copy(file, folder)
    (row,) = look_at_once(folder / "j").swaps
    assert row.ended
    disk.path = folder / "j"
    async with engine_on(disk) as rig:
        assert [(await rig.engine.infer(model, {})).version for model in ("m", "n")] == ["1", "1"]
        await ends_as_it_was(rig, [SwapState.ROLLED_BACK])


@pytest.mark.parametrize("count", [3, 4], ids=["before the pivot", "past it"])
async def test_a_recovery_on_a_broken_disk(disk: Disk, count: int) -> None:
    """What was active serves; that its swap has ended is written when it can be, and no later process does it again."""
    await killed_after(disk, count)
    version, state = ("1", SwapState.FAILED) if count == 3 else ("2", SwapState.COMPLETED)
    disk.fault = FULL
    async with engine_on(disk) as rig:
        (done,) = rig.engine.recovery().done
        assert "database or disk is full" in str(done.error)
        assert (await rig.engine.infer("m", {})).version == version
        await ends_as_it_was(rig, [state])
        disk.fault = None
        await rig.engine.swap("m", "3")
    async with engine_on(disk) as rig:
        assert rig.engine.recovery().done[0].swaps == ()
        assert (await rig.engine.infer("m", {})).version == "3"
        await ends_as_it_was(rig, [state, SwapState.COMPLETED])


# --- a disk that hangs ----------------------------------------------------------------------------------------------


class Gone(Exception):
    """What the body of an engine raises."""


@pytest.mark.parametrize("boundary", ["load", "drain; m: 2", "unload"])
async def test_an_engine_whose_journal_hangs_is_closed_in_time(
    disk: Disk, monkeypatch: pytest.MonkeyPatch, boundary: str
) -> None:
    """Nobody waits longer than `close_timeout_s` for each thing; the next engine finds the journal whole."""
    closings = Closings(monkeypatch)
    began_s = 0.0

    async def serve() -> None:
        nonlocal began_s
        async with engine_on(disk, close_timeout_s=0.1) as rig:
            disk.fault, disk.breaks = "hung", lambda line: line == boundary
            rig.engine.start_swap("m", "2")
            assert await trio.to_thread.run_sync(disk.reached.wait, PATIENCE_S)
            began_s = trio.current_time()
            raise Gone

    with pytest.raises(Gone):
        await serve()
    assert trio.current_time() - began_s < 5.0  # 0.3 s where the machine has time
    with pytest.raises(JournalInUse):  # the thread that hangs has it
        async with open_rig(real=True, journal=disk.path):
            pass
    closings.wait()  # that one's
    disk.fault = None
    disk.goes_on.set()
    await trio.to_thread.run_sync(closings.wait)
    async with engine_on(disk) as rig:
        assert (await rig.engine.infer("m", {})).version == ("1" if boundary == "load" else "2")
        assert all(operation.state.ended for operation in rig.engine.swaps())


async def test_an_engine_whose_journal_hangs_in_the_recovery_is_closed_in_time(
    disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it could not write down the next engine does again."""
    await killed_after(disk, 4)
    closings = Closings(monkeypatch)
    disk.fault = "hung"
    began_s = 0.0

    async def serve() -> None:
        nonlocal began_s
        async with open_rig(real=True, journal=disk.path, close_timeout_s=0.1) as rig:
            rig.add(version="2")
            assert await trio.to_thread.run_sync(disk.reached.wait, PATIENCE_S)
            assert (await rig.engine.infer("m", {})).version == "2"
            began_s = trio.current_time()
            raise Gone

    with pytest.raises(Gone):
        await serve()
    assert trio.current_time() - began_s < 5.0
    disk.fault = None
    disk.goes_on.set()
    await trio.to_thread.run_sync(closings.wait)
    async with engine_on(disk) as rig:
        assert (await rig.engine.infer("m", {})).version == "2"
        await ends_as_it_was(rig, [SwapState.COMPLETED])


def test_ctrl_c_ends_an_engine_whose_journal_hangs(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    """It comes out as KeyboardInterrupt, in time."""
    closings = Closings(monkeypatch)

    async def main() -> None:
        with trio.fail_after(PATIENCE_S / 2):
            async with open_rig(real=True, journal=disk.path, close_timeout_s=0.1) as rig:
                await rig.ready()
                rig.add(version="2")
                disk.fault = "hung"
                rig.engine.start_swap("m", "2")
                assert await trio.to_thread.run_sync(disk.reached.wait, PATIENCE_S)
                signal.raise_signal(signal.SIGINT)
                await trio.sleep_forever()

    with pytest.raises(KeyboardInterrupt):
        trio.run(main)
    disk.fault = None
    disk.goes_on.set()
    closings.wait()
