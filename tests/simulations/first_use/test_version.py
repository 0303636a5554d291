"""Versions and swaps of a whole engine under every order of its tasks, threads, timers and callers.

What each program asserts comes on top of what `open_stage` and `assert_at_rest` look at.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import pytest
import trio

from changeover import Drain, DrainOutcome, VersionState
from changeover.core import lifecycle
from changeover_sim import PCT, Exhaustive, RandomWalk, choose
from tests.simulations.first_use.stage import Search, Stage, assert_at_rest, inputs, open_stage

KINDS = ({"execution": "inline"}, {"execution": "worker"}, {"execution": "worker", "batched": True})


# --- loads ----------------------------------------------------------------------------------------------------------


async def callers_join_one_load() -> None:
    """Load by three callers, one of whom goes away at any moment."""
    async with open_stage() as stage:
        stage.add("1")
        stays = [stage.call(lambda: stage.engine.ensure_loaded("m", "1"), f"stays {n}") for n in range(2)]
        leaves = stage.cancelled_call(lambda: stage.engine.load("m", "1"), "leaves", most=8)
        await stage.rest()
        assert_at_rest(stage)
        assert [call.end for call in stays] == ["returned"] * 2
        assert leaves.end in {"returned", "cancelled", "AlreadyLoaded"}
        assert stage.state("1") is VersionState.READY
        assert len(stage.rig.cast.open()) == 1


def test_a_load_goes_on_while_anybody_waits_for_it(search: Search) -> None:
    """Two who wait for a load get it though a third, who may have begun it, goes away at any moment."""
    search(callers_join_one_load, policy=Exhaustive(delays=1), schedules=300)
    search(callers_join_one_load, policy=RandomWalk(), schedules=300)


async def unloading(stage: Stage) -> None:
    """Serve by version 1, order the unload of version 2, and return when its model is being closed, or was."""
    await stage.rig.ready()
    await stage.rig.ready(version="2", load_timeout_s=3.0)
    unload = stage.call(lambda: stage.engine.unload("m", "2"), "unload")
    await stage.until(lambda: unload.is_over or stage.state("2") is VersionState.UNLOADING)


async def a_load_is_called_off_while_the_old_model_closes() -> None:
    """Order a load while the old model closes, and go away at any moment."""
    async with open_stage() as stage:
        stage.rig.takes("load m/2", 0.0)
        await unloading(stage)
        stage.rig.takes("load m/2", 1.0)
        load = stage.cancelled_call(lambda: stage.engine.load("m", "2"), "load", most=10)
        await stage.rest()
        assert_at_rest(stage)
        assert load.end in {"returned", "cancelled"}
        assert stage.state("2") is VersionState.READY or load.end == "cancelled"
        assert stage.state("2") in lifecycle.RESTING or load.end == "returned", "loaded for nobody"


async def a_load_is_late_while_the_old_model_closes() -> None:
    """Order a load while the old model closes, which takes as long as the load may."""
    async with open_stage() as stage:
        stage.rig.takes("close m/2", 3.0)
        await unloading(stage)
        stage.rig.takes("load m/2", 500.0)
        load = stage.call(lambda: stage.engine.load("m", "2"), "load")
        await stage.rest()
        assert_at_rest(stage)
        assert (load.end, load.ended_s) == ("LoadTimeout", 3.0)


async def a_swap_is_called_off_while_the_old_model_closes() -> None:
    """Order a swap while the old model of its new version closes, and go away at any moment."""
    async with open_stage() as stage:
        await unloading(stage)
        stage.cancelled_call(lambda: stage.engine.swap("m", "2"), "swap", most=25)
        await stage.rest()
        assert_at_rest(stage)
        states = [operation.state.value for operation in stage.engine.swaps("m")]
        assert (states, stage.engine.loaded_versions("m")) in (
            ([], ("1",)), (["cancelled"], ("1",)), (["completed"], ("2",)),
        )  # fmt: skip


WHILE_CLOSING = [
    a_load_is_called_off_while_the_old_model_closes,
    a_load_is_late_while_the_old_model_closes,
    a_swap_is_called_off_while_the_old_model_closes,
]


@pytest.mark.parametrize("program", WHILE_CLOSING)
def test_a_load_that_waits_for_a_close_can_be_called_off_and_be_late(
    search: Search, program: Callable[[], Awaitable[None]]
) -> None:
    """Also in the very moment of the close: what was called off is not loaded, and what is late fails in time."""
    search(program, policy=RandomWalk(), schedules=300)


async def a_load_is_overdue_and_adopted() -> None:
    """Load in just the time that is allowed, and again about then."""
    async with open_stage() as stage:
        stage.add("1", load_timeout_s=3.0)
        stage.rig.takes("load m/1", 3.0)
        await_s = choose([0.0, 3.0, 4.0])
        stage.call(lambda: stage.engine.load("m", "1"), "first")
        await trio.sleep(await_s)
        stage.call(lambda: stage.engine.ensure_loaded("m", "1"), "second")
        await stage.rest()
        assert_at_rest(stage)
        ends = [call.end for call in stage.calls]
        assert set(ends) <= {"returned", "LoadTimeout", "AlreadyLoaded"}
        assert len(stage.rig.cast.made) <= 2
        assert (stage.state("1") is VersionState.READY) == ("returned" in ends), (
            stage.state("1"),
            [(c.end, c.ended_s) for c in stage.calls],
        )


def test_an_overdue_load_is_closed_on_arrival_or_adopted(search: Search) -> None:
    """What a load brings in the moment in which it is given up is closed, or it belongs to the next order."""
    for timeouts in ("when-idle", "any-time"):
        search(a_load_is_overdue_and_adopted, schedules=300, timeouts=timeouts)


# --- swaps ----------------------------------------------------------------------------------------------------------


async def requests_through_a_swap() -> None:
    """Ask and hold through a swap."""
    async with open_stage() as stage:
        kind = choose(KINDS)
        stage.add("1", "2", **kind)
        await stage.engine.load("m", "1")
        swapped = False

        async def ask(number: int) -> None:
            seen: list[str] = []
            for _ in range(2):
                began_after = swapped
                reply = await stage.engine.infer("m", inputs(number))
                assert reply.outputs["y"].tolist() == [float(number)], "somebody else's answer"
                assert not (began_after and reply.version == "1"), "the old version was reached after the swap"
                seen.append(reply.version)
            assert seen == sorted(seen), "the version went back"

        async def hold() -> None:
            async with stage.engine.lease("m") as lease:
                await trio.lowlevel.checkpoint()
                lease.infer(inputs(0))

        async def swap() -> None:
            nonlocal swapped
            operation = await stage.engine.swap("m", "2")
            swapped = True
            assert (operation.old_unloaded, stage.state("1")) == (True, VersionState.UNLOADED)

        for number in range(2):
            stage.call(lambda number=number: ask(number), f"ask {number}")
        stage.call(hold, "hold")
        stage.call(swap, "swap")
        await stage.rest()
        assert_at_rest(stage)
        assert [call.end for call in stage.calls] == ["returned"] * 4
        assert stage.engine.is_active("m", "2")


def test_no_request_is_lost_through_a_swap(search: Search) -> None:
    """Every request is answered by one of the two versions, and by the new one only once the swap was reported."""
    search(requests_through_a_swap, policy=RandomWalk(), schedules=300)
    search(requests_through_a_swap, policy=PCT(depth=3), schedules=300)
    search(requests_through_a_swap, schedules=200, mode="trio-batch")


async def operators_contradict_each_other() -> None:
    """Swap, roll back, load and unload at once; some of the operators go away."""
    async with open_stage() as stage:
        engine = stage.engine
        stage.add("1", "2", "3")
        await engine.load("m", "1")
        first: list[str] = []

        async def swap() -> None:
            first.append(engine.start_swap("m", "2"))
            await engine.wait_for_swap(first[0])

        async def back() -> None:
            if first:
                await engine.rollback(first[0])

        orders: dict[str, Callable[[], Awaitable[Any]]] = {
            "swap to 3": lambda: engine.swap("m", "3"),
            "roll back": back,
            "unload 2": lambda: engine.unload("m", "2"),
            "load 2": lambda: engine.load("m", "2"),
            "load 1": lambda: engine.ensure_loaded("m", "1"),
        }
        stage.call(swap, "swap to 2")
        for _ in range(2):
            name = choose(list(orders))
            stage.cancelled_call(orders[name], name) if choose([True, False]) else stage.call(orders[name], name)
        await stage.rest()
        assert_at_rest(stage)
        completed = [operation for operation in engine.swaps("m") if operation.state.value == "completed"]
        last = completed[-1].to_version if completed else "1"
        assert engine._router.active("m") == last or "unload 2" in {call.name for call in stage.calls}
        assert len({operation.id for operation in engine.swaps("m")}) == len(engine.swaps("m"))
        assert all(operation.state.value != "failed" or operation.error_message for operation in engine.swaps("m"))


def test_the_traffic_is_where_the_last_completed_swap_put_it(search: Search) -> None:
    """Whatever is ordered at once, the last completed swap's version has the traffic, and the rest is tidy."""
    search(operators_contradict_each_other, policy=RandomWalk(), schedules=500)
    search(operators_contradict_each_other, policy=PCT(depth=3), schedules=300)


# --- drains and crashes ---------------------------------------------------------------------------------------------


async def a_drain_meets_its_deadline() -> None:
    """Unload up to a deadline, while the holder leaves and somebody loads again about then."""
    async with open_stage() as stage:
        stage.add("1")
        await stage.engine.load("m", "1")
        drain = Drain(1.0, then=choose(["quarantine", "wait"]))
        lease = stage.engine.lease("m")
        lease.__enter__()

        async def let_go(after_s: float) -> None:
            await trio.sleep(after_s)
            lease.release()

        async def back(after_s: float) -> None:
            await trio.sleep(after_s)
            await stage.engine.ensure_loaded("m", "1")
            assert all(not loaded.account._watchers for loaded in stage.engine._host.living() if loaded.account.open)

        stage.start(let_go, choose([0.0, 1.0, 2.0]))
        unload = stage.call(lambda: stage.engine.unload("m", "1", force=True, drain=drain), "unload")
        if choose([True, False]):
            stage.call(lambda: back(choose([0.0, 1.0, 2.0])), "load again")
        await stage.rest()
        assert_at_rest(stage)
        assert len(stage.rig.cast.made) <= 2
        assert unload.end in {"returned", "VersionNotLoaded"}
        if isinstance(unload.value, DrainOutcome):
            assert unload.value.result != "drained" or stage.rig.cast.made[0].closed
            assert unload.value.result != "quarantined" or unload.value.holders, "in quarantine for nobody"


def test_a_drain_ends_once_by_zero_deadline_or_a_new_order(search: Search) -> None:
    """The last holder leaves, time is up and a load is ordered in one moment: the drain has one outcome, a true one."""
    search(a_drain_meets_its_deadline, policy=RandomWalk(), schedules=400)
    search(a_drain_meets_its_deadline, policy=PCT(depth=3), schedules=300)
    search(a_drain_meets_its_deadline, schedules=300, mode="trio-batch")


async def a_model_breaks() -> None:
    """Break a model by one of three requests, beside a swap, an unload or a warm-up."""
    async with open_stage() as stage:
        engine = stage.engine
        stage.add("1", "2", **choose(KINDS), fatal_on=lambda asked: bool((asked["x"] == 13.0).any()))
        await engine.load("m", "1")
        for number in (1, 13, 2):
            stage.call(lambda number=number: engine.infer("m", inputs(number)), f"ask {number}")
        order = choose(["swap", "unload", "warm up", "none"])
        if order == "swap":
            stage.call(lambda: engine.swap("m", "2"), order)
        if order == "unload":
            stage.call(lambda: engine.unload("m", "1", force=True), order)
        if order == "warm up":
            stage.call(lambda: engine.warm_up("m", "1", inputs(-1)), order)
        await stage.rest()
        assert_at_rest(stage)
        good, bad = (stage.calls[0], stage.calls[2]), stage.calls[1]
        assert bad.end in {"VersionCrashed", "NotReady", "VersionNotLoaded"}
        for call in good:
            assert call.end in {"returned", "VersionCrashed", "NotReady", "VersionNotLoaded"}
        if order in {"none", "warm up"}:
            assert stage.state("1") is VersionState.READY, "it was not started again"


def test_a_broken_model_is_replaced_and_every_request_answered(search: Search) -> None:
    """A model that breaks amid other work is closed once and started again if it is wanted; everybody has an answer."""
    search(a_model_breaks, policy=RandomWalk(), schedules=400)
    search(a_model_breaks, policy=PCT(depth=3), schedules=300)


async def requests_end_in_every_way() -> None:
    """Ask four times, perhaps for what breaks the model; unload, swap or close the engine meanwhile."""
    async with open_stage(close_timeout_s=choose([0.0, 10.0])) as stage:
        engine = stage.engine
        kind = choose(KINDS)
        stage.add("1", "2", **kind, fatal_on=lambda asked: bool((asked["x"] == 13.0).any()), queue_limit=choose([1, 9]))
        await engine.load("m", "1")
        stage.rig.takes("worker m/1 0", choose([0.0, 1.0]))
        for number in (1, 2, choose([3, 13]), 4):
            timeout_s = choose([None, None, 0.0, 1.0])
            ask = partial(engine.infer, "m", inputs(number), timeout_s=timeout_s)
            (stage.cancelled_call if choose([False, False, True]) else stage.call)(ask, str(number))
        meanwhile = choose(["unload", "swap", "close", "nothing"])
        if meanwhile == "unload":
            stage.call(lambda: engine.unload("m", "1", force=True, drain=Drain(choose([0.0, 5.0]))), meanwhile)
        if meanwhile == "swap":
            stage.call(lambda: engine.swap("m", "2", drain=Drain(choose([0.0, 5.0]))), meanwhile)
        if meanwhile == "close":
            await trio.lowlevel.checkpoint()
        else:
            await stage.rest()
            assert_at_rest(stage)
    asked = [float(number) for made in stage.rig.cast.made for call in made.calls for number in call["x"][:, 0]]
    for call in stage.calls[:4]:
        times, ran = asked.count(float(call.name)), getattr(call.error, "ran", None)
        assert times <= 2, "asked again though only a batch that raised is tried again"
        assert times or call.end != "returned"
        assert (times == 0) if ran == "no" else (times > 0 or ran != "yes"), (call.name, call.end, ran, times)


def test_an_error_says_truly_whether_the_request_ran(search: Search) -> None:
    """Of a request that was refused, given up, withdrawn or broken, `ran` says "no" or "yes" only where that is so."""
    search(requests_end_in_every_way, policy=RandomWalk(), schedules=500)
    search(requests_end_in_every_way, policy=PCT(depth=3), schedules=300)
