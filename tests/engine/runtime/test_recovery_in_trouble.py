"""Recovery when not everything comes back: nobody pays for a neighbour, and what is told is true."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import attrs
import pytest
import trio

from changeover import Drain, SwapState
from changeover_sim import VirtualDisk, World, open_world
from tests.support.models import Broken
from tests.support.rig import Outcome, Rig, open_rig, running, settle


@asynccontextmanager
async def engine_on(disk: VirtualDisk, world: World) -> AsyncGenerator[Rig, None]:
    """Open an engine on what is on a disk."""
    world.ports = attrs.evolve(world.ports, journal=disk.journal())
    async with open_rig(world=world) as rig:
        yield rig


async def a_group_is_killed(world: World, line: str, *alone: str) -> VirtualDisk:
    """Swap a and b from 1 to 2 as one, and return the disk as it was behind the entry that begins with `line`.

    The models in `alone` are active, too.
    """
    async with engine_on(world.disk, world) as rig:
        for model in ("a", "b", *alone):
            await rig.ready(model, "1")
        await settle()
        for model in "ab":
            rig.add(model, "2")
        await rig.engine.swap_group({"a": "2", "b": "2"})
    lines = world.disk.lines()
    return world.disk.after(1 + next(n for n, one in enumerate(lines) if one.startswith(line)))


async def test_who_is_there_serves_though_another_one_of_its_group_is_not(autojump_clock: Any) -> None:
    """Killed before the pivot, nothing had moved: a model whose old version is there is not taken out of use."""
    async with open_world() as world:
        disk = await a_group_is_killed(world, "load")
        async with engine_on(disk, world) as rig:
            rig.add("a", "1")
            rig.add("b", "1", load_error=Broken("rotten"))
            report = await rig.engine.recovered()
            await trio.sleep(100)
            assert (report.done[0].result, report.done[0].active) == ("failed", {"a": "1", "b": None})
            assert (await rig.engine.infer("a", {})).version == "1"
            operation = rig.engine.swaps()[-1]
            assert operation.state is SwapState.FAILED
            assert operation.aftermath.stands == ("a/1 has the traffic of a", "nobody has the traffic of b")
            assert operation.aftermath.remedies == ('await engine.load("b", ...) gives b a version',)


async def test_what_is_ready_serves_when_a_recovery_is_given_up(autojump_clock: Any) -> None:
    """The load of the other one hangs: whatever is loaded keeps its traffic, and the next engine knows."""
    async with open_world() as world:
        disk = await a_group_is_killed(world, "load")
        async with engine_on(disk, world) as rig:
            rig.add("a", "1")
            rig.add("b", "1")
            rig.takes("load b/1", 1_000.0)
            await trio.sleep(1)
            rig.engine.give_up_recovery("b")
            report = await rig.engine.recovered()
            await trio.sleep(10)
            assert report.done[0].active == {"a": "1", "b": None}
            assert (await rig.engine.infer("a", {})).version == "1"
            assert {model: row.version for model, row in disk.desired().items()} == {"a": "1"}
            rig.takes("close b/1", 0.0)
            await trio.sleep(2_000)


async def test_a_group_that_goes_back_only_in_part_is_wanted_back_as_a_whole(autojump_clock: Any) -> None:
    """The new set cannot be had, and of the old one half: the next engine brings the old one back, and no mixture."""
    async with open_world() as world:
        disk = await a_group_is_killed(world, "drain")
        async with engine_on(disk, world) as rig:
            rig.add("a", "1", load_error=Broken("rotten"))
            rig.add("b", "2", load_error=Broken("rotten"))
            rig.add("a", "2")
            rig.add("b", "1")
            report = await rig.engine.recovered()
            await trio.sleep(100)
            assert (report.done[0].result, report.done[0].active) == ("failed", {"a": None, "b": "1"})
            assert {model: row.version for model, row in disk.desired().items()} == {"a": "1", "b": "1"}
        async with engine_on(disk, world) as rig:
            for version in "12":
                rig.add("a", version)
                rig.add("b", version)
            await rig.engine.recovered()
            assert [rig.engine.is_active(model, "1") for model in "ab"] == [True, True]


@pytest.mark.parametrize("slow_s", [0.0, 5.0])
async def test_a_group_goes_back_past_a_younger_swap_of_one_of_its_models(slow_s: float, autojump_clock: Any) -> None:
    """Killed while the drains of both go on, a group never comes back as half of one swap and half of the other."""
    async with open_world() as world:
        async with engine_on(world.disk, world) as rig:
            for model in "ab":
                await rig.ready(model, "1")
                rig.add(model, "2")
            rig.add("a", "3")
            leases = [rig.lease("a"), rig.lease("b")]
            group = Outcome(rig.engine.swap_group, {"a": "2", "b": "2"}, drain=Drain(1_000.0))
            async with running(group):
                leases.append(rig.lease("a"))
                async with running(Outcome(rig.engine.swap, "a", "3", drain=Drain(1_000.0))):
                    disk = world.disk.after(len(world.disk.entries))
                    for lease in leases:
                        lease.release()
        assert {model: row.version for model, row in disk.desired().items()} == {"a": "3", "b": "2"}
        async with engine_on(disk, world) as rig:
            for key in ("a/1", "a/2", "a/3", "b/1"):
                rig.add(*key.split("/"))
                rig.takes(f"load {key}", slow_s)
            rig.add("b", "2", load_error=Broken("rotten"))
            report = await rig.engine.recovered()
            assert (report.done[0].result, report.done[0].active) == ("undone", {"a": "1", "b": "1"})
            await trio.sleep(100)
            assert {model: row.version for model, row in disk.desired().items()} == {"a": "1", "b": "1"}
            assert sorted(rig.cast.open()) == ["a/1", "b/1"]


async def test_what_was_loaded_by_hand_does_not_tear_a_group_for_the_next_process(autojump_clock: Any) -> None:
    """It serves meanwhile; but wanted is the whole of the old set, of which the other half could be had."""
    async with open_world() as world:
        disk = await a_group_is_killed(world, "drain")
        async with engine_on(disk, world) as rig:
            rig.add("a", "1", load_error=Broken("rotten"))
            rig.add("a", "2")
            rig.add("b", "1")
            await rig.engine.load("a", "2")
            rig.add("b", "2", load_error=Broken("rotten"))
            report = await rig.engine.recovered()
            await trio.sleep(100)
            assert (report.done[0].result, report.done[0].active) == ("failed", {"a": "2", "b": "1"})
            assert {model: row.version for model, row in disk.desired().items()} == {"a": "1", "b": "1"}


@pytest.mark.parametrize("slow_s", [0.0, 5.0])
async def test_a_load_that_is_called_off_because_another_one_failed_is_wanted_still(
    slow_s: float, autojump_clock: Any
) -> None:
    """Whether or not it came to its end in time: half of a group is not forgotten, and not wanted without the other."""
    async with open_world() as world:
        disk = await a_group_is_killed(world, "drain")
        async with engine_on(disk, world) as rig:
            for version in "12":
                rig.add("a", version)
                rig.takes(f"load a/{version}", slow_s)
                rig.add("b", version, load_error=Broken("rotten"))
                rig.takes(f"load b/{version}", 1.0)
            assert (await rig.engine.recovered()).done[0].result == "failed"
            await trio.sleep(100)
            wanted = "2" if slow_s else "1"
            assert {model: row.version for model, row in disk.desired().items()} == {"a": wanted, "b": wanted}


async def test_a_name_with_a_plus_is_no_group(autojump_clock: Any) -> None:
    """A model called a+b is recovered beside the group of a and b."""
    async with open_world() as world:
        disk = await a_group_is_killed(world, "load", "a+b")
        async with engine_on(disk, world) as rig:
            for model in ("a", "b", "a+b"):
                rig.add(model, "1")
            report = await rig.engine.recovered()
            assert sorted(done.models for done in report.done) == [("a", "b"), ("a+b",)]


async def test_what_changes_while_the_end_of_a_recovery_is_written_is_written_too(autojump_clock: Any) -> None:
    """A version that becomes ready in that moment is wanted by the next engine."""
    async with open_world() as world:
        async with engine_on(world.disk, world) as rig:
            await rig.ready("m", "1")
            await settle()
        async with engine_on(world.disk, world) as rig:
            rig.add("m", "2")
            rig.takes("load m/2", 5.0)
            rig.takes("journal", 0.5)
            async with running(Outcome(rig.engine.load, "m", "2")):
                await trio.sleep(4.9)
                rig.engine.give_up_recovery("m")
            await trio.sleep(10)
            assert (await rig.engine.infer("m", {})).version == "2"
            assert {model: row.version for model, row in world.disk.desired().items()} == {"m": "2"}


async def test_where_nothing_is_to_be_recovered_nobody_waits(autojump_clock: Any) -> None:
    """Not even with a limit of no time at all."""
    async with open_world() as world, engine_on(world.disk, world) as rig:
        assert (await rig.engine.recovered(timeout_s=0)).waiting == ()


@pytest.mark.parametrize("how", ["abort", "close"])
async def test_a_swap_that_is_ordered_back_at_once_was_cancelled(how: str, autojump_clock: Any) -> None:
    """Whatever else goes wrong in the step that it is in: it failed for nobody."""
    async with open_world() as world:
        async with engine_on(world.disk, world) as rig:
            await rig.ready("m", "1")
            rig.add("m", "2")
            engine, swap_id = rig.engine, rig.engine.start_swap("m", "2")
            if how == "abort":
                engine.abort(swap_id)
                await settle()
        operation = engine.swap_status(swap_id)
        assert (operation.state, operation.error_message) == (SwapState.CANCELLED, None)
