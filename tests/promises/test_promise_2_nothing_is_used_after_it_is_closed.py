"""Promise 2: nothing is used after it is closed, and nothing is closed while it is held."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import trio

from changeover import Drain
from changeover.errors import ChangeoverError, VersionCrashed
from tests.support.examples import examined
from tests.support.rig import Rig, open_rig, settle
from tests.support.threads import Crowd, patient
from tests.support.workload import Plan, plans, play


@examined(40, plan=plans(faults=True))
def test_no_model_is_closed_too_early_or_too_late(plan: Plan) -> None:
    """Whatever happens: no model is closed while held, used afterwards or closed twice; in the end all are closed."""
    record = play(plan)
    assert record.witness.wrongs == []
    assert record.cast.wrongs() == []
    assert [made.name for made in record.cast.made if made.closed != 1] == []


@pytest.mark.parametrize("end", ["unload", "swap", "crash", "close"])
async def test_a_holder_can_take_his_time(end: str, autojump_clock: Any) -> None:
    """Unloaded, swapped away, crashed, the engine closed: for who holds a version its model works until he lets go."""
    async with open_rig(close_timeout_s=1.0) as rig:
        await rig.ready("m", "1", fatal_on=lambda inputs: "poison" in inputs)
        rig.add("m", "2")
        lease = rig.lease()
        if end == "unload":
            await rig.engine.unload("m", "1", drain=Drain(1.0), force=True)
        elif end == "swap":
            await rig.engine.swap("m", "2", drain=Drain(1.0))
        elif end == "crash":
            with pytest.raises(VersionCrashed):
                await rig.engine.infer("m", {"poison": 1})
        else:
            rig.kept.append(lease)
        if end != "close":
            await trio.sleep(10_000)
            await check_open(rig, lease)
    if end == "close":
        assert (rig.cast.made[0].closed, lease.infer({})["version"]) == (0, "1")
        lease.release()


async def check_open(rig: Rig, lease: Any) -> None:
    """Check that a lease still works, and that its model is closed behind it."""
    model = rig.cast.made[0]
    assert (model.closed, lease.version) == (0, "1")
    lease.release()
    await settle()
    assert model.closed == 1


async def test_a_model_is_closed_behind_its_last_user_on_the_real_machine() -> None:
    """Threads stand in the middle of `predict` while their version is unloaded: it is closed when the last is out."""
    async with open_rig(real=True) as rig:
        inside, go = threading.Semaphore(0), threading.Event()

        def wait(inputs: Any) -> None:
            inside.release()
            assert patient(go)

        await rig.ready(on_predict=wait)
        crowd = Crowd()

        def use() -> None:
            with rig.engine.lease("m") as lease:
                lease.infer({})

        for _ in range(5):
            crowd.add(use)
        crowd.start()
        for _ in range(5):
            await trio.to_thread.run_sync(inside.acquire)
        outcome = await rig.engine.unload("m", "1", drain=Drain(0), force=True)
        assert (outcome.result, len(outcome.holders), rig.cast.open()) == ("quarantined", 5, ["m/1"])
        go.set()
        await trio.to_thread.run_sync(crowd.join)
        async with rig.engine.events() as events:
            while rig.cast.open():
                await events.__anext__()
        assert rig.cast.wrongs() == []


async def test_threads_meet_no_closed_model_in_a_storm_of_updates() -> None:
    """Four threads use whatever is there while versions are loaded, swapped, unloaded and killed, with real threads."""
    async with open_rig(real=True) as rig:
        for version in "123":
            rig.add("m", version, fatal_on=lambda inputs: "poison" in inputs)
        await rig.engine.load("m", "1")
        crowd, over = Crowd(), threading.Event()

        def use(number: int) -> None:
            while not over.is_set():
                try:
                    with rig.engine.lease("m", version=None if number % 2 else "123"[number % 3]) as lease:
                        lease.infer({"poison": 1} if number == 3 else {})
                except ChangeoverError:
                    continue

        for number in range(4):
            crowd.add(use, number)
        crowd.start()
        for turn in range(15):
            for call in (rig.engine.ensure_loaded, rig.engine.swap, rig.engine.unload):
                try:
                    await call("m", "123"[turn % 3])
                except ChangeoverError:
                    continue
        over.set()
        await trio.to_thread.run_sync(crowd.join)
    assert rig.cast.open() == []
    assert all(made.closed == 1 for made in rig.cast.made)
