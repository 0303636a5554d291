"""Promise 1: no admitted request is lost; each has exactly one outcome, through any number of swaps."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
import trio

from changeover import Drain
from changeover.errors import SwapFailed
from tests.support.examples import examined
from tests.support.models import BATCHED, Broken, first_column
from tests.support.rig import Outcome as Call
from tests.support.rig import Rig, open_rig, running
from tests.support.threads import Crowd
from tests.support.workload import Plan, Record, plans, play


def never_ran(record: Record) -> list[str]:
    """Return the requests whose outcome is not what became of them."""
    wrong: list[str] = []
    for asked in record.asked:
        seen = record.seen_by_models(asked.number)
        ran = {"answered": "yes", "cancelled": "unknown"}.get(asked.outcomes[0]) or asked.error.ran  # type: ignore[union-attr]
        if (ran == "yes" and not seen) or (ran == "no" and seen):
            wrong.append(f"{asked} says that it ran: {ran}; models saw it {seen} times")
    return wrong


@examined(40, plan=plans(faults=False))
def test_every_request_is_answered_while_versions_come_and_go(plan: Plan) -> None:
    """Whatever is loaded, swapped, rolled back and unloaded at once: each client gets the answer to his question."""
    record = play(plan)
    assert [asked for asked in record.asked if asked.outcomes != ["answered"] or not asked.right] == []
    assert record.strangers == []


@examined(40, plan=plans(faults=True))
def test_every_request_has_one_outcome_when_things_fail(plan: Plan) -> None:
    """Through crashes, failing loads, full queues, cancellations and the end: one outcome each, and it is true."""
    record = play(plan)
    assert len(record.asked) == len(plan.asks)
    assert [asked for asked in record.asked if len(asked.outcomes) != 1] == []
    assert record.strangers == []
    assert [asked for asked in record.asked if not asked.right] == []
    assert never_ran(record) == []


@pytest.mark.parametrize("execution", ["inline", "worker", "batched"])
async def test_thirty_two_clients_notice_nothing_of_a_day_of_updates(
    rig: Rig, execution: str, autojump_clock: Any
) -> None:
    """Updates that work, one that is broken, one that hangs, a rollback: every single request is answered."""
    fields: dict[str, Any] = {"execution": "inline" if execution == "inline" else "worker"}
    if execution == "batched":
        from changeover import Batching

        fields |= {"batching": Batching(8, 0.005), "signature": BATCHED, "answers": first_column}
    for version in "1234":
        rig.add("m", version, **fields, load_timeout_s=20.0)
        rig.takes(f"load m/{version}", 5.0)
        rig.takes(f"worker m/{version} 0", 0.01)
    rig.script("m", "3").load_error = Broken("the file is broken")
    hang = trio.Event()
    rig.takes("load m/4", hang)
    await rig.engine.load("m", "1")
    answered: dict[str, int] = {}
    over = trio.Event()

    async def client(number: int) -> None:
        while not over.is_set():
            reply = await rig.engine.infer("m", {"x": np.array([[float(number), 0.0]])})
            answered[reply.version] = answered.get(reply.version, 0) + 1
            await trio.sleep(0.1)

    async with trio.open_nursery() as nursery:
        for number in range(32):
            nursery.start_soon(client, number)
        await trio.sleep(2)
        first = await rig.engine.swap("m", "2")
        for broken in ("3", "4"):
            with pytest.raises(SwapFailed):
                await rig.engine.swap("m", broken)
        with rig.engine.lease("m"):
            await rig.engine.rollback(first.id)
        await rig.engine.swap("m", "2", drain=Drain(0))
        await trio.sleep(2)
        over.set()
    hang.set()
    counts = rig.engine.audit().total
    assert set(answered) == {"1", "2"}
    assert (counts.acquired - 1, counts.held) == (sum(answered.values()), 0)


async def test_what_the_old_version_had_begun_it_ends(rig: Rig, autojump_clock: Any) -> None:
    """Requests that wait for, or are in the hands of, the old version's worker are answered by the old version."""
    for version in "12":
        rig.add("m", version, execution="worker")
        rig.takes(f"worker m/{version} 0", 2.0)
    await rig.engine.load("m", "1")
    old = [Call(rig.engine.infer, "m", {"n": n}) for n in range(5)]
    new = Call(rig.engine.infer, "m", {"n": 5})
    async with running(*old), running(Call(rig.engine.swap, "m", "2"), new):
        pass
    assert [call.value.version for call in old] == ["1"] * 5
    assert new.value.version == "2"


async def test_threads_and_tasks_lose_nothing_on_the_real_machine() -> None:
    """Four plain threads with leases and sixteen tasks with workers, through twenty real swaps."""
    async with open_rig(real=True) as rig:
        for version in "12":
            rig.add("m", version, execution="worker", workers=2)
        await rig.engine.load("m", "1")
        crowd, over = Crowd(), threading.Event()
        by_threads: list[int] = []
        by_tasks: list[int] = []

        def lease(number: int) -> None:
            while not over.is_set():
                with rig.engine.lease("m") as lease:
                    assert lease.infer({"n": number})["n"] == number
                by_threads.append(number)

        async def infer(number: int) -> None:
            while not over.is_set():
                assert (await rig.engine.infer("m", {"n": number})).outputs["n"] == number
                by_tasks.append(number)

        for number in range(4):
            crowd.add(lease, number)
        crowd.start()
        async with trio.open_nursery() as nursery:
            for number in range(16):
                nursery.start_soon(infer, number)
            for turn in range(20):
                await rig.engine.swap("m", "12"[(turn + 1) % 2])
            over.set()
        await trio.to_thread.run_sync(crowd.join)
        assert sum(len(made.calls) for made in rig.cast.made) == len(by_threads) + len(by_tasks)
        assert rig.engine.audit().clean
