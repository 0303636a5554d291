"""Every restart is an event that names its cause, and so is its end; states are told in the order of the life cycle."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any

import pytest
import trio

from changeover import VersionState
from changeover.core import lifecycle
from changeover.errors import ChangeoverError, VersionCrashed
from changeover.runtime.version import Version
from tests.support.models import Broken
from tests.support.rig import Rig, Watch, settle

Way = Callable[[Rig], Awaitable[None]]


async def fatal(rig: Rig) -> None:
    """Let the model declare itself beyond use."""
    with suppress(ChangeoverError):
        await rig.engine.infer("m", {"poison": 1})


async def errors(rig: Rig) -> None:
    """Let it raise three times in a row."""
    for _ in range(3):
        with suppress(ChangeoverError):
            await rig.engine.infer("m", {"bad": 1})


async def actor(rig: Rig) -> None:
    """Let its actor fail over an order."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Version, "_on_warm", _bug)
        with suppress(ChangeoverError):
            await rig.engine.warm_up("m", "1", {})


async def worker(rig: Rig) -> None:
    """Let the thread of its worker fail."""
    lane = rig.engine._host.living()[-1].lane
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lane, "next_step", _bug)
        with suppress(ChangeoverError):
            await rig.engine.infer("m", {})


async def reload(rig: Rig) -> None:
    """Let it crash, and then not load."""
    rig.script().load_error = Broken("the file is gone")
    await fatal(rig)


def _bug(*_what: object) -> Any:
    raise Broken("a bug")


WAYS: Mapping[str, tuple[Way, str]] = {
    "its model declares a fatal error": (fatal, "m/1 crashed: FatalModelError: m/1 is beyond use"),
    "its model raises too often": (errors, "m/1 crashed: FatalModelError: 3 errors in a row, the last: Broken: m/1"),
    "its actor fails": (actor, "m/1 crashed: Broken: a bug"),
    "its worker's thread fails": (worker, "m/1 crashed: Broken: a bug"),
    "it does not load when it is started again": (reload, "m/1 was not loaded by 'scripted': Broken: the file is gone"),
}


async def serving(rig: Rig) -> None:
    """Have a version serve that can crash in every way."""
    await rig.ready(
        execution="worker", fatal_on=lambda inputs: "poison" in inputs, fails_on=lambda inputs: "bad" in inputs,
        errors_in_a_row_max=3,
    )  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
async def test_a_restart_names_its_cause(rig: Rig, way: str, autojump_clock: Any) -> None:
    """The event comes with the crash, and says why, and when the version is tried again."""
    crash, cause = WAYS[way]
    await serving(rig)
    async with Watch(rig.engine) as watch:
        await crash(rig)
        await trio.sleep(0.3)  # so long that a load that fails at the first restart is told, too
        told = await watch.kinds("version_restarting")
        states = await watch.states("1")
    assert cause in told[-1].detail["error"]
    assert all(0.05 < event.detail["delay_s"] < 0.5 for event in told)
    assert len(told) == (2 if crash is reload else 1)
    assert states[0] == "failed"


@pytest.mark.parametrize("way", WAYS)
async def test_restarts_come_to_an_end_that_is_told(rig: Rig, way: str, autojump_clock: Any) -> None:
    """Five within a minute; then the version has failed, nobody starts it again, and each place to look says why."""
    crash, cause = WAYS[way]
    await serving(rig)
    async with Watch(rig.engine) as watch:
        for _ in range(6):
            await crash(rig)
            await trio.sleep(3.0)
        await trio.sleep(1_000.0)
        told = [event.detail for event in await watch.kinds("version_restarting")]
        last = (await watch.kinds("version_state"))[-1].detail
    assert [detail["delay_s"] is None for detail in told] == [False] * 5 + [True]
    assert cause in told[-1]["error"]
    info = rig.engine.load_info("m", "1")
    assert info.status is VersionState.FAILED
    assert cause in str(info.error)
    assert (last["state"], cause in last["error"]) == ("failed", True)
    assert rig.engine.statistics().children_restarted == 5


async def test_crashes_that_are_far_apart_never_end_it(rig: Rig, autojump_clock: Any) -> None:
    """What counts is how many restarts there were within a minute."""
    await serving(rig)
    for _ in range(20):
        await fatal(rig)
        await trio.sleep(15.0)
        assert rig.engine.is_loaded("m", "1")
    assert rig.engine.statistics().children_restarted == 20


async def test_states_are_told_in_the_order_of_the_life_cycle(rig: Rig, autojump_clock: Any) -> None:
    """Through crashes of every kind, failed loads, drains and unloads: each state follows from the one before it."""
    edges = {(state, cell.state) for state, row in lifecycle.TABLE.items() for cell in row.values()}
    async with Watch(rig.engine) as watch:
        await serving(rig)
        for crash, _cause in WAYS.values():
            await crash(rig)
            await trio.sleep(0.3)  # so long that a load fails, too
            rig.script().load_error = None
            await rig.engine.ensure_loaded("m", "1")
        lease = rig.lease()
        with trio.move_on_after(1.0):
            await rig.engine.unload("m", "1", force=True)
        with pytest.raises(VersionCrashed):
            lease.infer({"poison": 1})
        lease.release()
        await settle()
        await rig.engine.ensure_loaded("m", "1")
        await rig.engine.unload("m", "1", force=True)
        await settle()
        told = [VersionState(state) for state in await watch.states("1")]
    steps = list(zip([VersionState.REGISTERED, *told], told, strict=False))
    assert [step for step in steps if step not in edges] == []
    assert told.count(VersionState.FAILED) >= len(WAYS) + 1
    assert told[-1] is VersionState.UNLOADED
