"""Engines that live one after the other on one disk, most of which are killed: what each may leave to the next.

A crash ends a process between two steps of its loop: nothing is told any more, and what was ordered from the disk is
there or not. Spawns a crasher for each life that ends so, among the callers of its house.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Literal

import attrs
import trio

from changeover import SwapOperation
from changeover.core.records import Entry, SwapRecord
from changeover_sim import VirtualDisk, choose
from changeover_sim.disk import line_of
from tests.simulations.first_use.reading import Reading, decode, read
from tests.simulations.first_use.stage import Durability, House, Stage, assert_at_rest, inputs, open_stage_in

Live = Callable[[Stage], Awaitable[None]]


@attrs.frozen
class Death:
    """When and how a process ends."""

    durability: Durability
    how: Literal["kill", "power_cut"]
    after_s: float
    """So many seconds behind the beginning, ..."""
    rounds: int
    """... and so many rounds of everybody else."""


@attrs.define(eq=False)
class Trouble:
    """What goes wrong with some of the entries."""

    begins: str
    """How the entries begin that it is about."""
    only: int
    """So many of them; the others go well."""
    met: list[Entry] = attrs.field(factory=list)

    def is_about(self, entry: Entry) -> bool:
        """Return whether an entry is one of those."""
        if any(entry is one for one in self.met):
            return True
        is_one = line_of(entry).startswith(self.begins) and len(self.met) < self.only
        self.met += [entry] if is_one else []
        return is_one


async def live_and_die(
    house: House, live: Live, death: Death, *, prepare: Live | None = None, trouble: Trouble | None = None
) -> Reading:
    """Open an engine, and end it in the middle of what it does; return what is left on the disk.

    The time of its death begins with `live`, or where nothing is to be prepared, with the opening of the engine. The
    disk is full for those entries that `trouble` is about.
    """
    disk, crashed, stages = house.world.disk, trio.Event(), len(house.stages)
    left: list[Reading] = []

    disk.fails(trouble.is_about if trouble else lambda _entry: False, "full")

    def end_calls() -> None:
        for stage in house.stages[stages:]:
            for call in stage.calls:
                call.scope.cancel()

    with trio.CancelScope() as scope:

        async def crash() -> None:
            await trio.sleep(death.after_s)
            for _ in range(death.rounds):
                await trio.lowlevel.checkpoint()
            getattr(disk, death.how)(choose)
            left.append(read(disk.entries))
            # A power cut may take what the process before was told of too late, and this one has found.
            loses_nothing = death.how == "kill" or (death.durability == "power" and not stages)
            if loses_nothing and not (trouble and trouble.met):
                told = [operation for stage in house.stages[stages:] for operation in stage.engine.swaps()]
                assert_kept(told, left[0])
            scope.cancel()
            end_calls()
            disk.bury()
            disk.heal()
            crashed.set()

        if prepare is None:
            house.callers.start_soon(crash)
        async with open_stage_in(house, on_disk=death.durability, close_timeout_s=0.0) as stage:
            if prepare is not None:
                await prepare(stage)
                house.callers.start_soon(crash)
            await live(stage)
            await trio.sleep_forever()
    await crashed.wait()
    end_calls()  # those that were made in the very last step
    return left[0]


def assert_kept(told: Iterable[SwapOperation], left: Reading) -> None:
    """Whatever has ended for those who looked has ended on the disk; one that never began may be missing there."""
    for operation in told:
        if operation.state.ended and operation.steps:
            kept = left.swaps[operation.id].operation
            assert kept.state is operation.state, f"told {operation.state}, and kept {kept.state}"


def assert_recorded(stage: Stage, *, exactly: bool = True) -> None:
    """The journal says what is so: how each swap ended, and who is active; every entry made sense when it came."""
    engine, disk = stage.engine, disk_of(stage)
    reading = read(disk.entries)
    kept = {row.id: row for row in disk.kept().swaps}
    for operation in engine.swaps():
        row = kept[operation.id]
        assert row.ended, (operation.state, disk.lines())
        written = decode(SwapRecord, row.record).operation
        assert written.state is operation.state
        assert not exactly or written == operation
    assert len(kept) == len(engine.swaps())
    active = {model: engine._router.active(model) for model in sorted({key.model for key in engine._versions})}
    assert reading.wanted == {model: version for model, version in active.items() if version is not None}, disk.lines()
    assert engine._desires.versions == reading.wanted


def assert_brought_back(stage: Stage, left: Reading, instead: Mapping[str, str] | None = None) -> None:
    """The engine is as its predecessor has left the disk: pivot written, the new versions serve, else the old ones.

    `instead`: the models whose version cannot be loaded any more, and what they go back to.
    """
    engine = stage.engine
    active = {model: engine._router.active(model) for model in left.meant}
    assert active == {**left.meant, **(instead or {})}, disk_of(stage).lines()
    for operation in engine.swaps():
        before, went_back = left.swaps[operation.id].operation, False
        if before.state.ended:
            assert operation == before, "changed behind its end"
            continue
        for member in operation.members:
            went_back |= member.model in (instead or {}) and instead[member.model] == member.from_version
        end = left.open[operation.id]
        if end.value == "completed" and went_back:
            assert operation.state.value == "rolled_back"
        else:
            assert operation.state is end, (operation.state, end)
        assert operation.end_time is not None
        assert operation.error_message


def disk_of(stage: Stage) -> VirtualDisk:
    """Return the disk that an engine writes to."""
    return stage.rig.world.disk


async def recover(stage: Stage, register: Live) -> None:
    """Register what there is, wait for what is being recovered, and look whether everything is at rest."""
    await register(stage)
    report = await stage.engine.recovered()
    assert report.waiting == ()
    await stage.rest()
    assert_at_rest(stage)
    assert_recorded(stage, exactly=False)


async def use(stage: Stage, models: str = "ab") -> None:
    """Ask and swap each model once more, and take that back."""
    engine = stage.engine
    for model in models:
        if engine._router.active(model) is None:
            await engine.ensure_loaded(model, "1")
        active = engine._router.active(model)
        assert (await engine.infer(model, inputs(3))).version == active
        operation = await engine.swap(model, "2" if active != "2" else "1")
        assert (operation.state.value, operation.from_version) == ("completed", active)
        await engine.rollback(operation.id)
        assert engine._router.active(model) == active
    await stage.rest()
    assert_at_rest(stage)
    assert_recorded(stage, exactly=False)


def later(after_s: float, call: Callable[[], Awaitable[Any]]) -> Callable[[], Awaitable[Any]]:
    """Return a call that is made in a while."""

    async def wait_and_call() -> Any:
        await trio.sleep(after_s)
        return await call()

    return wait_and_call
