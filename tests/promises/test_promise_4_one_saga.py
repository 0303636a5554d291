"""Promise 4: at most one saga per model before its pivot; every saga ends completed or fully compensated."""

from __future__ import annotations

from typing import Any

import attrs
import trio
from hypothesis import strategies as st

from changeover import SwapOperation, SwapState
from changeover.errors import ChangeoverError
from tests.support.examples import examined
from tests.support.journals import use_journal
from tests.support.rig import Outcome, Rig, open_rig, running
from tests.support.witness import one_saga
from tests.support.workload import GOOD, Plan, Record, plans, play


def unfinished(operation: SwapOperation) -> str | None:
    """Return in words what is wrong with the end of a swap."""
    if not operation.state.ended or operation.end_time is None:
        return f"{operation} has not ended"
    if operation.state is SwapState.COMPLETED:
        shifted = [step for step in operation.steps if step.step == "shift" and step.outcome == "done"]
        undone = [step for step in operation.steps if step.compensation != "none"]
        return None if shifted and not undone else f"{operation} is not complete"
    said = operation.error_message or ""
    left = [step.step for step in operation.steps if step.compensation != "done"]
    if left and not said.startswith(("could not", "the engine was closed")):
        return f"{operation} was not undone: {left}"
    return None


def check(record: Record) -> None:
    """Check every swap of a run, and that no model's slot is still taken."""
    assert record.witness.wrongs == []
    assert [wrong for wrong in map(unfinished, record.swaps) if wrong] == []
    assert record.engine._slots.everybody() == ()
    assert record.statistics is not None
    assert record.statistics.swaps_open == 0


@examined(40, plan=plans(faults=True, models_most=3))
def test_every_swap_ends_and_none_meets_another(plan: Plan) -> None:
    """Through failures, rollbacks, cancelled callers and the end of the engine."""
    check(play(plan, one_saga))


@examined(
    40, plan=plans(faults=True), refused=st.sets(st.integers(0, 40), max_size=12), slow=st.sets(st.integers(0, 40))
)
def test_every_swap_ends_whatever_the_journal_does(plan: Plan, refused: set[int], slow: set[int]) -> None:
    """The journal refuses or delays any of its records, before the pivot and behind it, forward and back."""

    def prepare(rig: Rig) -> None:
        journal = use_journal(rig)
        journal.refuses = lambda _record: len(journal.tried) - 1 in refused
        journal.slow_for = lambda _record: len(journal.tried) - 1 in slow
        journal.slow_s = 0.25

    check(play(plan, one_saga, prepare))


@examined(40, plan=plans(faults=False))
def test_swaps_leave_one_version_and_it_is_the_last_one(plan: Plan) -> None:
    """With nothing but swaps and rollbacks: each begins where the one before it ended, and nothing is left over."""
    only = tuple(order for order in plan.orders if order.kind in ("swap", "rollback", "warm"))
    record = play(Plan(plan.models, plan.asks, only, seed=plan.seed))
    for model in plan.models:
        done = [op for op in record.swaps if op.model == model.name and op.state is SwapState.COMPLETED]
        done.sort(key=lambda op: op.start_time)
        ways = ["1", *(op.to_version for op in done)]
        assert [op.from_version for op in done] == ways[:-1]
        assert record.loaded[model.name] == (ways[-1], (ways[-1],))


@examined(40, plan=plans(faults=True), refused=st.sets(st.integers(0, 40), max_size=6))
def test_swaps_that_do_not_happen_leave_nothing_behind(plan: Plan, refused: set[int]) -> None:
    """Failed, cancelled, rolled back, refused by the journal at some step: in the end each model has one version."""
    only = tuple(order for order in plan.orders if order.kind in ("swap", "rollback", "warm"))
    tame = tuple(attrs.evolve(ask, does=GOOD) for ask in plan.asks)

    def prepare(rig: Rig) -> None:
        journal = use_journal(rig)
        journal.refuses = lambda record: record.forward and len(journal.tried) - 1 in refused

    record = play(Plan(plan.models, tame, only, seed=plan.seed), None, prepare)
    for active, loaded in record.loaded.values():
        assert loaded == (active,)


async def test_twenty_orders_at_once_are_one_swap(rig: Rig, autojump_clock: Any) -> None:
    """Of twenty operators who want to swap the same model in the same moment one is served, the others are told so."""
    await rig.ready("m", "1")
    for version in range(2, 22):
        rig.add("m", str(version))
        rig.takes(f"load m/{version}", 1.0)
    swaps = [Outcome(rig.engine.swap, "m", str(version)) for version in range(2, 22)]
    async with trio.open_nursery() as nursery:
        for swap in swaps:
            nursery.start_soon(swap.run)
    outcomes = [type(swap.error).__name__ for swap in swaps]
    assert (outcomes.count("NoneType"), outcomes.count("SwapInProgress")) == (1, 19)
    assert len(rig.engine.loaded_versions("m")) == 1


async def test_swaps_on_the_real_machine_end_one_by_one() -> None:
    """Six operators swap one model to and fro with real threads: each order has one end, one version serves."""
    async with open_rig(real=True) as rig:
        for version in "1234":
            rig.add("m", version)
        await rig.engine.load("m", "1")
        ends: list[str] = []

        async def operate(number: int) -> None:
            for turn in range(10):
                try:
                    operation = await rig.engine.swap("m", "1234"[(number + turn) % 4])
                    ends.append(operation.state.value)
                except ChangeoverError as error:
                    ends.append(type(error).__name__)

        async with trio.open_nursery() as nursery:
            for number in range(6):
                nursery.start_soon(operate, number)
        assert len(ends) == 60
        assert [wrong for wrong in map(unfinished, rig.engine.swaps("m")) if wrong] == []
        async with running():
            pass
        assert len(rig.engine.loaded_versions("m")) == 1
