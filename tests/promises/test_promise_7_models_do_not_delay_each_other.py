"""Promise 7: a slow, hung or failing model never delays another: its latencies are exactly what they are alone."""

from __future__ import annotations

import threading
from typing import Any

import attrs
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from changeover.errors import ChangeoverError
from tests.support.rig import Outcome, Rig, open_rig, running, settle
from tests.support.threads import patient
from tests.support.workload import Ask, ModelPlan, Order, Plan, asks, model_plans, orders, play

QUIET, LOUD = "quiet", "loud"


@st.composite
def pairs(draw: st.DrawFn) -> tuple[Plan, Plan]:
    """Draw a plan for a quiet model, and the same one with a loud model beside it that gets everything wrong."""
    quiet = draw(model_plans(QUIET, faults=False))
    loud = draw(model_plans(LOUD, faults=True))
    own: tuple[Ask, ...] = tuple(draw(st.lists(asks([QUIET], faults=False, most_s=8.0), min_size=10, max_size=20)))
    swaps: tuple[Order, ...] = tuple(draw(st.lists(orders((quiet,), faults=False, most_s=8.0), max_size=3)))
    noise = tuple(draw(st.lists(asks([LOUD], faults=True, most_s=8.0), min_size=10, max_size=30)))
    trouble = tuple(draw(st.lists(orders((loud,), faults=True, most_s=8.0), min_size=3, max_size=8)))
    # No two things happen to the quiet model in the same moment: Trio would be free to choose which is first.
    own = tuple(attrs.evolve(ask, at_s=ask.at_s + 0.001 * (n + 1)) for n, ask in enumerate(own))
    swaps = tuple(attrs.evolve(swap, at_s=swap.at_s + 0.0001 * (n + 1)) for n, swap in enumerate(swaps))
    return Plan((quiet,), own, swaps), Plan((quiet, loud), own + noise, swaps + trouble)


def latencies(plan: Plan, count: int, start_s: float) -> list[tuple[int, list[str], float, float]]:
    """Return when each of the first `count` requests of a plan began and ended, after its models were there."""
    record = play(plan)
    own = sorted((asked for asked in record.asked if asked.number < count), key=lambda asked: asked.number)
    return [(a.number, a.outcomes, round(a.began_s - start_s, 6), round(a.ended_s - start_s, 6)) for a in own]


def ready_s(*models: ModelPlan) -> float:
    """Return when the first versions of all models, which are loaded one after the other, are ready."""
    return sum(model.versions[0].load_s + (model.versions[0].warm_s or 0.0) for model in models)


@settings(derandomize=True, deadline=None, max_examples=30)
@given(pair=pairs())
def test_a_model_is_as_fast_beside_a_bad_neighbour_as_alone(pair: tuple[Plan, Plan]) -> None:
    """Crashing, overloaded, failing to load, being swapped: not a moment of it is felt by the neighbour."""
    alone, together = pair
    count = len(alone.asks)
    quiet = latencies(alone, count, ready_s(*alone.models))
    assert latencies(together, count, ready_s(*together.models)) == quiet
    assert all(outcome == ["answered"] for _, outcome, _, _ in quiet)


@pytest.mark.parametrize("work", ["load", "warm", "close", "worker"])
async def test_what_hangs_in_one_model_is_not_felt_by_another(rig: Rig, work: str, autojump_clock: Any) -> None:
    """While a load, a warm-up, a close or a request of one model hangs, another one lives its whole life on time."""
    hang = trio.Event()
    await rig.ready("bad", "1", execution="worker")
    rig.add("bad", "2", warmup=[{}], execution="worker", load_timeout_s=1_000.0)
    for name in (f"{work} bad/1", f"{work} bad/2", f"{work} bad/1 0", f"{work} bad/2 0"):
        rig.takes(name, hang)
    rig.add("good", "1", execution="worker")
    rig.add("good", "2", execution="worker")
    for version in "12":
        rig.takes(f"load good/{version}", 2.0)
        rig.takes(f"worker good/{version} 0", 1.0)
    trouble = [Outcome(rig.engine.infer, "bad", {}), Outcome(rig.engine.swap, "bad", "2")]
    async with running(*trouble):
        began_s = trio.current_time()
        await rig.engine.load("good", "1")
        await rig.engine.infer("good", {})
        await rig.engine.swap("good", "2")
        await rig.engine.infer("good", {})
        await rig.engine.unload("good", "2", force=True)
        assert trio.current_time() - began_s == 6.0
        hang.set()
        await settle()


async def test_many_hung_loads_do_not_hold_up_one_that_works(rig: Rig, autojump_clock: Any) -> None:
    """There is no limit that hung loads could use up but the one that says so, and it is by version."""
    hang = trio.Event()
    for number in range(200):
        rig.add("bad", str(number))
        rig.takes(f"load bad/{number}", hang)
    rig.add("good", "1")
    rig.takes("load good/1", 1.0)
    loads = [Outcome(rig.engine.load, "bad", str(number)) for number in range(200)]
    async with running(*loads):
        await rig.engine.load("good", "1")
        assert trio.current_time() == 1.0
        hang.set()


async def test_a_model_that_keeps_crashing_leaves_its_neighbours_alone(rig: Rig, autojump_clock: Any) -> None:
    """Restart after restart, until it is given up: the neighbour's task, model and traffic are the same all along."""
    await rig.ready("bad", "1", fatal_on=lambda _inputs: True)
    await rig.ready("good", "1", execution="worker")
    for _ in range(8):
        with pytest.raises(ChangeoverError):
            await rig.engine.infer("bad", {})
        assert (await rig.engine.infer("good", {})).version == "1"
        await trio.sleep(2)
    assert len(rig.cast.of("good", "1")) == 1
    assert rig.engine.load_info("bad", "1").status.value == "failed"


async def test_a_hung_thread_is_not_felt_by_other_models_on_the_real_machine() -> None:
    """A load, a warm-up, a request and a close that really hang: the others load, answer and swap meanwhile."""
    async with open_rig(real=True, close_timeout_s=0.01) as rig:
        gate = threading.Event()

        def hang(*_ignored: Any) -> None:
            assert patient(gate)

        await rig.ready("request", execution="worker", on_predict=hang)
        await rig.ready("close", on_close=hang)
        rig.add("load", on_load=hang)
        rig.add("warm", on_predict=hang, warmup=[{}])
        rig.add("good", "1", execution="worker")
        rig.add("good", "2", execution="worker")
        trouble = [
            Outcome(rig.engine.infer, "request", {}),
            Outcome(rig.engine.unload, "close", "1", force=True),
            Outcome(rig.engine.load, "load", "1"),
            Outcome(rig.engine.load, "warm", "1"),
        ]
        async with running(*trouble):
            await rig.engine.load("good", "1")
            for _ in range(5):
                await rig.engine.infer("good", {})
                await rig.engine.swap("good", "2")
                await rig.engine.infer("good", {})
                await rig.engine.swap("good", "1")
            assert not any(call.over for call in trouble)
            gate.set()
        assert all(call.error is None for call in trouble)
