"""Recovery: what an engine makes of the journal that the one before it has left, however that one ended."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import attrs
import pytest
import trio

from changeover import Shift, SwapOperation, SwapState
from changeover.errors import (
    EngineClosed,
    InvalidValue,
    NotReady,
    SwapFailed,
    SwapInProgress,
    SwapNotAllowed,
    VersionCrashed,
)
from changeover_sim import VirtualDisk, World, open_world
from tests.support.models import Broken, Cast
from tests.support.rig import Outcome, Rig, Watch, open_rig, running, settle


@asynccontextmanager
async def engine_on(disk: VirtualDisk, world: World, cast: Cast | None = None) -> AsyncGenerator[Rig, None]:
    """Open an engine on what is on a disk."""
    world.ports = attrs.evolve(world.ports, journal=disk.journal())
    async with open_rig(world=world, cast=cast) as rig:
        yield rig


async def a_swap_is_recorded(world: World, *, turned: bool = False) -> VirtualDisk:
    """Swap m from 1 to 2 with everything written down, and return the disk."""
    async with engine_on(world.disk, world) as rig:
        await rig.ready()
        rig.add(version="2")
        swap = Outcome(rig.engine.swap, "m", "2", plan=Shift.canary(((0.5, 5.0),)) if turned else None)
        async with running(swap):
            if turned:
                await trio.sleep(1)
                await rig.engine.rollback(rig.engine.swaps("m")[0].id)
    return world.disk


def the_swap(rig: Rig) -> SwapOperation:
    """Return the one swap of m."""
    (operation,) = rig.engine.swaps("m")
    return operation


# --- killed at every record -----------------------------------------------------------------------------------------


async def test_an_engine_that_was_killed_at_any_record_is_consistent_again(autojump_clock: Any) -> None:
    """After each entry of a swap: the version whose pivot is written down serves, and the swap has ended like that."""
    async with open_world() as first:
        recorded = await a_swap_is_recorded(first)
    lines = recorded.lines()
    assert lines == ["m: 1", "load", "shift", "drain; m: 2", "unload", "completed; m: 2"]
    for count in range(1, len(lines) + 1):
        async with open_world() as world, engine_on(recorded.after(count, world), world) as rig:
            rig.add(version="1")
            rig.add(version="2")
            report = await rig.engine.recovered()
            past_pivot = count >= lines.index("drain; m: 2") + 1
            assert (await rig.engine.infer("m", {})).version == ("2" if past_pivot else "1"), lines[:count]
            assert rig.engine.loaded_versions("m") == (("2",) if past_pivot else ("1",))
            (done,) = report.done
            if count in (1, len(lines)):
                assert (done.result, done.swaps) == ("restored", ())
            else:
                operation = the_swap(rig)
                end = SwapState.COMPLETED if past_pivot else SwapState.FAILED
                assert (operation.state, done.result) == (end, "finished" if past_pivot else "undone")
                assert operation.end_time is not None
                assert "the process ended in its" in str(operation.error_message)
                assert done.swaps == (operation.id,)
            assert (report.waiting, report.set_aside) == ((), None)
            assert rig.engine._slots.everybody() == ()


async def test_a_swap_that_was_being_undone_is_undone(autojump_clock: Any) -> None:
    """It ends as what it was turned round for."""
    async with open_world() as first:
        recorded = await a_swap_is_recorded(first, turned=True)
    lines = recorded.lines()
    assert lines[-1] == "rolled_back; m: 1"
    for count in range(lines.index("undo shift; m: 1") + 1, len(lines)):
        async with open_world() as world, engine_on(recorded.after(count, world), world) as rig:
            rig.add(version="1")
            rig.add(version="2")
            await rig.engine.recovered()
            assert (await rig.engine.infer("m", {})).version == "1"
            assert the_swap(rig).state is SwapState.ROLLED_BACK


async def test_recovering_twice_is_recovering_once(autojump_clock: Any) -> None:
    """Killed again at every record of the recovery itself, the next engine comes to the same end."""
    async with open_world() as first:
        recorded = await a_swap_is_recorded(first)
    for count in range(2, len(recorded.lines())):
        ends: list[Any] = []
        async with open_world() as world:
            disk = recorded.after(count, world)
            async with engine_on(disk, world) as rig:
                rig.add(version="1")
                rig.add(version="2")
                await rig.engine.recovered()
                ends.append((the_swap(rig).state, rig.engine._router.active("m")))
        for again in range(count, len(disk.lines()) + 1):
            async with open_world() as world, engine_on(disk.after(again, world), world) as rig:
                rig.add(version="1")
                rig.add(version="2")
                await rig.engine.recovered()
                ends.append((the_swap(rig).state, rig.engine._router.active("m")))
        assert len(set(ends)) == 1, ends


# --- while it waits -------------------------------------------------------------------------------------------------


@asynccontextmanager
async def killed_after(count: int) -> AsyncGenerator[Rig, None]:
    """Open an engine on what the first so many entries of a swap have left."""
    async with open_world() as first:
        recorded = await a_swap_is_recorded(first)
    async with open_world() as world, engine_on(recorded.after(count, world), world) as rig:
        yield rig


async def test_a_model_is_held_until_its_version_is_registered(autojump_clock: Any) -> None:
    """Requests are told why; another version that is loaded gets no traffic; the swap is RECOVERING."""
    async with killed_after(4) as rig:
        assert rig.engine.recovery().waiting[0].waits_for == ("m/2 is not registered",)
        with pytest.raises(NotReady, match=r"m is being recovered \(m/2 is not registered"):
            await rig.engine.infer("m", {})
        await rig.ready(version="1")
        assert the_swap(rig).state is SwapState.RECOVERING
        with pytest.raises(NotReady, match="being recovered"):
            rig.engine.lease("m").__enter__()
        assert (await rig.engine.infer("m", {}, version="1")).version == "1"
        with pytest.raises(SwapInProgress, match="being recovered"):
            await rig.engine.swap("m", "1")
        with pytest.raises(SwapNotAllowed, match="recovering"):
            rig.engine.abort(the_swap(rig).id)
        rig.takes("load m/2", 5.0)
        rig.add(version="2")
        await trio.sleep(1)
        assert rig.engine.recovery().waiting[0].waits_for == ("m/2 is being loaded",)
        ask = Outcome(rig.engine.infer, "m", {})
        lease = rig.engine.lease("m")
        async with running(ask):
            await rig.engine.recovered()
        assert isinstance(ask.error, NotReady) or ask.value.version == "2"
        with lease:
            assert lease.version == "2"
        assert the_swap(rig).state is SwapState.COMPLETED


async def test_a_recovery_can_be_waited_for_in_time(autojump_clock: Any) -> None:
    """Who waits in vain hears what is missing; the recovery goes on."""
    async with killed_after(4) as rig:
        with pytest.raises(NotReady, match="within 3 s: m/2 is not registered"):
            await rig.engine.recovered(3.0)
        rig.add(version="2")
        assert (await rig.engine.recovered()).done[0].result == "finished"


async def test_a_recovery_can_be_given_up(autojump_clock: Any) -> None:
    """Whatever is loaded gets the traffic; the open swap has failed, and tells what stands."""
    async with killed_after(4) as rig:
        await rig.ready(version="1")
        rig.engine.give_up_recovery("m")
        report = await rig.engine.recovered()
        assert (report.done[0].result, report.done[0].active) == ("given_up", {"m": "1"})
        operation = the_swap(rig)
        assert (operation.state, operation.aftermath.stands) == (SwapState.FAILED, ("m/1 has the traffic of m",))
        assert (await rig.engine.infer("m", {})).version == "1"
        with pytest.raises(InvalidValue, match="not being recovered"):
            rig.engine.give_up_recovery("m")


async def test_an_order_may_wait_for_the_recovery(autojump_clock: Any) -> None:
    """With `on_busy="queue"` a swap begins when the model is there again."""
    async with killed_after(4) as rig:
        rig.add(version="3")
        swap = Outcome(rig.engine.swap, "m", "3", on_busy="queue")
        async with running(swap):
            await trio.sleep(1)
            assert not swap.over
            rig.add(version="2")
        assert (swap.value.state, swap.value.from_version) == (SwapState.COMPLETED, "2")


async def test_a_version_that_is_another_one_is_not_trusted(autojump_clock: Any) -> None:
    """Registered with another loader, it is not the version 2 of before: the model waits, and says for what."""
    async with killed_after(4) as rig:
        rig.engine._host.loaders.add("other", rig.cast.loader)
        rig.engine.register("m", "2", "script", loader="other")
        wrong = "m/2 is registered with the loader 'other'; it was active with 'scripted'"
        with pytest.raises(NotReady, match=wrong):
            await rig.engine.recovered(1.0)
        await rig.engine.unregister("m", "2")
        rig.add(version="2")
        assert (await rig.engine.recovered()).done[0].result == "finished"


# --- when it fails --------------------------------------------------------------------------------------------------


async def test_a_new_version_that_cannot_be_loaded_again_is_gone_back_from(autojump_clock: Any) -> None:
    """Past the pivot, with the new version broken: the old one serves, and the swap was rolled back."""
    async with killed_after(4) as rig:
        rig.add(version="1")
        rig.add(version="2", load_error=Broken("rotten"))
        report = await rig.engine.recovered()
        assert (report.done[0].result, report.done[0].active) == ("undone", {"m": "1"})
        assert "rotten" in str(report.done[0].error)
        assert the_swap(rig).state is SwapState.ROLLED_BACK
        assert (await rig.engine.infer("m", {})).version == "1"


async def test_what_cannot_be_brought_back_is_told_and_wanted_still(autojump_clock: Any) -> None:
    """No version can be loaded: the report says so, and the next engine tries again."""
    async with killed_after(3) as rig:
        rig.add(version="1", load_error=Broken("rotten"))
        report = await rig.engine.recovered()
        assert (report.done[0].result, report.done[0].active) == ("failed", {"m": None})
        operation = the_swap(rig)
        assert operation.state is SwapState.FAILED
        assert operation.aftermath.stands == ("nobody has the traffic of m",)
        assert operation.aftermath.remedies == ('await engine.load("m", ...) gives m a version',)
        rig.script().load_error = None
        await rig.engine.load("m", "1")
        assert (await rig.engine.infer("m", {})).version == "1"


async def test_an_engine_that_is_closed_while_it_recovers_leaves_everything_to_the_next(autojump_clock: Any) -> None:
    """Nothing is written, and the next one does it."""
    async with open_world() as first:
        recorded = await a_swap_is_recorded(first)
    async with open_world() as world:
        disk = recorded.after(4, world)
        before = disk.lines()
        async with engine_on(disk, world) as rig:
            await settle()
        assert disk.lines() == before
        async with engine_on(disk, world) as rig:
            rig.add(version="2")
            rig.takes("load m/2", 100.0)
            await settle()
        assert disk.lines() == before


# --- what is remembered ---------------------------------------------------------------------------------------------


async def test_an_engine_that_is_closed_before_a_pivot_keeps_its_models(autojump_clock: Any) -> None:
    """Its swap is undone while nobody has traffic any more: that says nothing of what the next engine shall serve."""
    async with open_world() as world:
        world.durations["load m/2"] = 5.0
        async with engine_on(world.disk, world) as rig:
            await rig.ready()
            rig.add(version="2")
            rig.engine.start_swap("m", "2")
            await trio.sleep(1.0)
        assert world.disk.desired()["m"].version == "1", world.disk.lines()
        async with engine_on(world.disk, world) as rig:
            rig.add(version="1")
            rig.add(version="2")
            await rig.engine.recovered()
            assert rig.engine.is_active("m", "1")


async def test_who_got_the_traffic_during_a_swap_is_wanted_when_the_engine_is_closed(autojump_clock: Any) -> None:
    """The old version crashed for good while a swap was loading: whoever stood in is brought back by the next one."""
    async with open_world() as world:
        world.durations["load m/2"] = 5.0
        async with engine_on(world.disk, world) as rig:
            await rig.ready(fatal_on=lambda inputs: "poison" in inputs)
            await rig.ready(version="3")
            rig.add(version="2")
            rig.engine.start_swap("m", "2")
            await settle()
            rig.script().load_error = Broken("rotten")
            with pytest.raises(VersionCrashed):
                await rig.engine.infer("m", {"poison": 1}, version="1")
            await trio.sleep(0.25)
            assert rig.engine.is_active("m", "3")
        assert world.disk.desired()["m"].version == "3", world.disk.lines()


async def test_a_version_on_trial_is_not_wanted_when_the_engine_is_closed(autojump_clock: Any) -> None:
    """Its swap had not come to its pivot, and is undone: also where it had all of the traffic just then."""
    async with open_world() as world:
        async with engine_on(world.disk, world) as rig:
            await rig.ready()
            rig.add(version="2")
            rig.engine.start_swap("m", "2", plan=Shift.at_once(confirm_s=10.0, guard=None))
            await trio.sleep(1.0)
            assert rig.engine.is_active("m", "2")
        assert world.disk.desired()["m"].version == "1", world.disk.lines()


async def test_a_swap_that_has_done_nothing_leaves_nothing_to_recover(autojump_clock: Any) -> None:
    """One that fails as its turn comes is in the history only: a process that is killed then has not begun it."""
    async with open_world() as world, engine_on(world.disk, world) as rig:
        await rig.ready()
        rig.add(version="2")
        rig.add(version="3")
        rig.takes("load m/2", 1.0)
        first = Outcome(rig.engine.swap, "m", "2")
        second = Outcome(rig.engine.swap, "m", "3", from_="1", on_busy="queue")
        async with running(first, second):
            pass
        assert first.value.state is SwapState.COMPLETED
        assert isinstance(second.error, SwapFailed)
        assert any(line.startswith("failed") for line in world.disk.lines()), world.disk.lines()
        assert "undo validate" not in world.disk.lines(), world.disk.lines()


async def test_who_waits_for_a_swap_that_is_not_recovered_hears_of_the_close(autojump_clock: Any) -> None:
    """It has not failed: the next engine finishes or undoes it."""
    async with open_world() as first:
        recorded = await a_swap_is_recorded(first)
    async with open_world() as world:
        disk = recorded.after(3, world)
        async with engine_on(disk, world) as rig:
            operation = the_swap(rig)
            assert operation.state is SwapState.RECOVERING
        with pytest.raises(EngineClosed):
            await rig.engine.wait_for_swap(operation.id)


async def test_history_outlives_the_process(autojump_clock: Any) -> None:
    """Swaps of earlier engines are listed, looked up, and taken back."""
    async with open_world() as world:
        disk = await a_swap_is_recorded(world)
        async with engine_on(disk, world) as rig, Watch(rig.engine):
            rig.add(version="1")
            rig.add(version="2")
            await rig.engine.recovered()
            old = the_swap(rig)
            assert (old.state, old.steps[-1].step) == (SwapState.COMPLETED, "unload")
            assert rig.engine.swap_status(old.id) == old
            assert await rig.engine.wait_for_swap(old.id) == old
            with pytest.raises(SwapNotAllowed, match="no task of this process"):
                rig.engine.pause(old.id)
            back = await rig.engine.rollback(old.id)
            assert (back.rollback_of, back.state) == (old.id, SwapState.COMPLETED)
            assert (await rig.engine.infer("m", {})).version == "1"
            assert [operation.id for operation in rig.engine.swaps("m")] == [old.id, back.id]


async def test_what_is_active_is_wanted(autojump_clock: Any) -> None:
    """A first load, a swap, a forced unload and a crash: the journal knows whom to bring back."""
    async with open_world() as world:
        async with engine_on(world.disk, world) as rig:
            await rig.ready("a")
            await rig.ready("b")
            await rig.ready("c", fatal_on=lambda inputs: True)
            await rig.engine.unload("b", "1", force=True)
            with pytest.raises(Exception, match="beyond use"):
                await rig.engine.infer("c", {})
            await settle()
            assert {model: row.version for model, row in world.disk.desired().items()} == {"a": "1", "c": "1"}
        assert {model: row.version for model, row in world.disk.desired().items()} == {"a": "1", "c": "1"}
