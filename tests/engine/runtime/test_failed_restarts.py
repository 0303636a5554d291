"""A restart that fails, and who wants its version gone meanwhile: he hears that nothing is loaded, and not why."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
import trio

from changeover import Drain, VersionKey
from changeover.errors import LoadFailed, VersionCrashed, VersionInUse, VersionNotLoaded, WarmUpFailed
from changeover.runtime.orders import DrainOrder, DropOrder, Happened, WarmOrder
from tests.support.models import Broken
from tests.support.rig import Outcome, Rig, running, until


def state(rig: Rig) -> str:
    """Return the state of m/1, as `load_info` says it."""
    return rig.engine.load_info("m", "1").status.value


async def restarting(rig: Rig) -> Outcome:
    """Crash m/1, whose restart loads for two seconds and fails its warm-up; return a load that joins the restart."""
    await rig.ready(fatal_on=lambda inputs: "poison" in inputs, warmup=[{"first": 1}])
    rig.script().fails_on = lambda inputs: "first" in inputs
    rig.takes("load m/1", 2.0)
    with pytest.raises(VersionCrashed):
        await rig.engine.infer("m", {"poison": 1})
    await until(lambda: state(rig) == "loading")
    return Outcome(rig.engine.load, "m", "1")


def post_behind_the_next_report(rig: Rig, order: DrainOrder | WarmOrder | DropOrder) -> None:
    """Have an order come behind the next report of a load or a close, before the version has read that."""
    version = rig.engine._versions[VersionKey("m", "1")]
    post = version.post

    def and_order(message: Any) -> None:
        post(message)
        if isinstance(message, Happened):
            del version.post
            post(order)

    version.post = and_order  # type: ignore[method-assign]


async def test_an_unload_during_the_close_of_a_failed_restart_hears_that_nothing_is_loaded(
    rig: Rig, autojump_clock: Any
) -> None:
    """Why the restart failed is told to who waits for the version; who wants it gone is told so, and it stays away."""
    joined = await restarting(rig)
    rig.takes("close m/1", 3.0)
    async with running(joined):
        await until(lambda: state(rig) == "unloading")
        with pytest.raises(VersionNotLoaded):
            await rig.engine.unload("m", "1", force=True)
    assert isinstance(joined.error, WarmUpFailed)
    await trio.sleep(100)
    assert (state(rig), rig.cast.open()) == ("failed", [])


@pytest.mark.parametrize("what", ["unload", "warm_up"])
@pytest.mark.parametrize("moment", ["load", "close"])
async def test_an_order_in_the_moment_in_which_a_restart_fails_hears_that_nothing_is_loaded(
    rig: Rig, moment: str, what: str, autojump_clock: Any
) -> None:
    """Behind the report that the load has failed, or that what had failed its warm-up is closed."""
    joined, gate = await restarting(rig), trio.Event()
    order = DrainOrder(Drain()) if what == "unload" else WarmOrder(({},))
    if moment == "load":
        rig.script().load_error = Broken("rotten")
    rig.takes("close m/1", gate)
    async with running(joined):
        if moment == "close":
            await until(lambda: state(rig) == "unloading")
        post_behind_the_next_report(rig, order)
        gate.set()
        with pytest.raises(VersionNotLoaded):
            await (order.closed if isinstance(order, DrainOrder) else order.done).wait()
    assert isinstance(joined.error, LoadFailed)


@pytest.mark.parametrize("moment", ["load", "close"])
async def test_a_version_is_forgotten_in_the_moment_in_which_its_restart_fails(
    rig: Rig, moment: str, autojump_clock: Any
) -> None:
    """Who forgets it does not hear why its restart failed; at most that the next one has begun already."""
    joined, gate, order = await restarting(rig), trio.Event(), DropOrder()
    if moment == "load":
        rig.script().load_error = Broken("rotten")
    rig.takes("close m/1", gate)
    async with running(joined):
        if moment == "close":
            await until(lambda: state(rig) == "unloading")
        post_behind_the_next_report(rig, order)
        gate.set()
        with suppress(VersionInUse):
            await order.done.wait()
    assert isinstance(joined.error, LoadFailed)
    await trio.sleep(100)
    await rig.engine.unregister("m", "1")
