"""Promise 8: queues are bounded, first in first out per sender and version, and no message ends without an outcome."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import trio
from hypothesis import strategies as st

from changeover.errors import EngineClosed, Overloaded, VersionCrashed
from changeover_sim import open_world
from tests.support.examples import examined
from tests.support.rig import Outcome, Rig, open_rig, running, settle
from tests.support.threads import patient
from tests.support.witness import bounded
from tests.support.workload import Plan, Record, asks, model_plans, numbers_of, orders, plans, play


@st.composite
def crowded(draw: st.DrawFn) -> Plan:
    """Draw a run with one model whose queues are short and whose workers are busy."""
    model = draw(model_plans("m0", faults=True, execution="worker"))
    names = [model.name]
    return Plan(
        (model,),
        tuple(draw(st.lists(asks(names, faults=True, most_s=4.0), min_size=30, max_size=60))),
        tuple(draw(st.lists(orders((model,), faults=True, most_s=6.0), max_size=8))),
        ends_s=draw(st.none() | st.sampled_from([1.0, 3.0])),
    )


def out_of_order(record: Record) -> list[str]:
    """Return where a version with one worker has not taken requests in the order of their admission."""
    wrong: list[str] = []
    for loaded, admitted in record.witness.admitted.items():
        if loaded.spec.workers > 1:
            continue
        place = {number: index for index, number in enumerate(admitted)}
        first_seen = list(dict.fromkeys(n for n in numbers_of(record.witness.models[loaded]) if n in place))
        order = [place[number] for number in first_seen]
        if order != sorted(order):
            wrong.append(f"{loaded.key} admitted {admitted} and ran {first_seen}")
    return wrong


def unread(record: Record) -> list[str]:
    """Return the versions that have messages which nobody will read."""
    return [str(key) for key, version in record.engine._versions.items() if len(version._lane)]


@examined(40, plan=crowded())
def test_a_crowded_queue_keeps_its_bound_and_its_order(plan: Plan) -> None:
    """After every step each queue is within its limit, and what was admitted first is run first."""
    record = play(plan, bounded)
    assert record.witness.wrongs == []
    assert out_of_order(record) == []
    assert all(most <= model.queue_limit for model in plan.models for most in record.witness.queued_most.values())


@examined(40, plan=plans(faults=True))
def test_no_message_ends_without_an_outcome(plan: Plan) -> None:
    """Every request and every order is answered, also when a version crashes or the engine ends under it."""
    record = play(plan)
    assert sorted(asked.number for asked in record.asked if asked.outcomes) == list(range(len(plan.asks)))
    assert len(record.ordered) == len(plan.orders)
    assert [what for _, what in record.ordered if what.startswith("stranger")] == []
    assert unread(record) == []


async def test_requests_of_one_sender_run_in_his_order(rig: Rig, autojump_clock: Any) -> None:
    """Three senders with ten requests each: whatever the mixture, each one's own come in his order."""
    await rig.ready(execution="worker")
    rig.takes("worker m/1 0", 1.0)
    calls = [Outcome(rig.engine.infer, "m", {"sender": n % 3, "turn": n // 3}) for n in range(30)]
    async with running(*calls):
        pass
    for sender in range(3):
        turns = [call["turn"] for call in rig.cast.made[0].calls if call["sender"] == sender]
        assert turns == list(range(10))


async def test_a_full_queue_answers_at_once(rig: Rig, autojump_clock: Any) -> None:
    """A hundred requests for a queue of ten: eleven are in, eighty-nine hear `Overloaded` without waiting."""
    await rig.ready(execution="worker", queue_limit=10)
    rig.takes("worker m/1 0", 1.0)
    calls = [Outcome(rig.engine.infer, "m", {"n": n}) for n in range(100)]
    async with running(*calls):
        refused = [call for call in calls if call.over]
        assert len(refused) == 89
        assert all(isinstance(call.error, Overloaded) and call.error.ran == "no" for call in refused)
    assert [call["n"] for call in rig.cast.made[0].calls] == list(range(11))


async def test_a_crash_answers_everything_that_waits(rig: Rig, autojump_clock: Any) -> None:
    """A model that dies with fifty requests behind it: all fifty-one have an outcome at once."""
    await rig.ready(execution="worker", fatal_on=lambda inputs: "poison" in inputs)
    rig.takes("worker m/1 0", 1.0)
    first = Outcome(rig.engine.infer, "m", {"poison": 1})
    rest = [Outcome(rig.engine.infer, "m", {"n": n}) for n in range(50)]
    async with running(first, *rest):
        await trio.sleep(2.5)
        assert all(call.over for call in (first, *rest))
    assert {type(call.error) for call in (first, *rest)} == {VersionCrashed}
    assert [call for call in rig.cast.made[0].calls if "n" in call] == []


def check_ends(calls: list[Outcome]) -> None:
    """Check what is said of requests to a worker that hangs: of the first one nobody knows, the others never ran."""
    assert all(isinstance(call.error, VersionCrashed | EngineClosed) for call in calls)
    assert [call.error.ran for call in calls] == ["unknown"] + ["no"] * (len(calls) - 1)  # type: ignore[union-attr]


@pytest.mark.parametrize("close_timeout_s", [0.0, 1.0])
async def test_the_end_of_the_engine_answers_everything_that_waits(close_timeout_s: float, autojump_clock: Any) -> None:
    """Fifty requests for a worker that hangs: each is answered when the engine is closed, and truly."""
    hang = trio.Event()
    async with open_world() as world, trio.open_nursery() as nursery:
        async with open_rig(world=world, close_timeout_s=close_timeout_s) as rig:
            await rig.ready(execution="worker")
            rig.takes("worker m/1 0", hang)
            calls = [Outcome(rig.engine.infer, "m", {"n": n}) for n in range(50)]
            for call in calls:
                nursery.start_soon(call.run)
                await settle()
        await settle()
        assert all(call.over for call in calls)
        check_ends(calls)
        assert rig.cast.open() == ["m/1"]
        hang.set()
        await settle()
        assert rig.cast.open() == []


async def test_a_flood_on_the_real_machine_is_answered_to_the_last_request() -> None:
    """Sixty-four tasks flood a short queue in front of two real threads: all are answered, run once, or refused."""
    async with open_rig(real=True) as rig:
        await rig.ready(execution="worker", workers=2, queue_limit=4)
        outcomes: list[str] = []
        most = [0]

        async def flood(sender: int) -> None:
            for turn in range(10):
                most[0] = max(most[0], rig.engine.statistics().versions[("m", "1")].queued)
                try:
                    reply = await rig.engine.infer("m", {"sender": sender, "turn": turn})
                    assert (reply.outputs["sender"], reply.outputs["turn"]) == (sender, turn)
                    outcomes.append("answered")
                except Overloaded:
                    outcomes.append("refused")

        async with trio.open_nursery() as nursery:
            for sender in range(64):
                nursery.start_soon(flood, sender)
        assert len(outcomes) == 640
        assert len(rig.cast.made[0].calls) == outcomes.count("answered")
        assert most[0] <= 4
        assert rig.engine.audit().clean


async def test_everybody_is_answered_when_a_real_worker_is_stuck_at_the_end() -> None:
    """Closed while its one real worker hangs: all hear of it, and the model is closed when the thread lets go."""
    gate, inside = threading.Event(), threading.Event()
    async with trio.open_nursery() as nursery:
        async with open_rig(real=True, close_timeout_s=0.01) as rig:

            def hang(inputs: Any) -> None:
                inside.set()
                assert patient(gate)

            await rig.ready(execution="worker", on_predict=hang)
            calls = [Outcome(rig.engine.infer, "m", {"n": n}) for n in range(5)]
            for call in calls:
                nursery.start_soon(call.run)
                await settle()
            await trio.to_thread.run_sync(patient, inside)
        await settle()
        assert all(call.over for call in calls)
        check_ends(calls)
        assert rig.cast.open() == ["m/1"]
        gate.set()
