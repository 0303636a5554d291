"""The promise of a group: several models are one thing to whoever asks them, through any number of swaps and faults."""

from __future__ import annotations

from typing import Any, Literal

import attrs
import pytest
import trio
from hypothesis import strategies as st

from changeover import Drain, Shift, SwapState
from changeover.errors import ChangeoverError, InvalidInput, PredictFailed
from tests.support.examples import examined
from tests.support.groups import (
    TRIO,
    check_one_side,
    leased,
    mixes,
    shares,
    snapshots,
    swapping,
    to,
    two_of_each,
    versions,
)
from tests.support.journals import use_journal
from tests.support.models import Broken
from tests.support.rig import Outcome, Rig, open_rig, run_virtual, settle
from tests.support.threads import Crowd

PLANS = (
    Shift(),
    Shift.at_once(confirm_s=1.0),
    Shift.canary([(0.5, 1.0)], confirm_s=1.0),
    Shift.canary([(0.2, 1.0), (0.7, 1.0)], confirm_s=0.0, sticky=False, guard=None),
)
DRAINS = (Drain(0.0), Drain(1.0), Drain(1.0, "cancel", 1.0), Drain(1.0, "rollback"))
FAULTS = ("load raises", "load is slow", "warm-up raises", "requests fail", "close is slow")
NAMES = [f"{model}/{version}" for model in TRIO for version in "123"]
SIDES = {version * 3 for version in "123"}


@attrs.frozen
class Order:
    """Something that an operator does."""

    kind: Literal["swap", "rollback", "abort", "leave", "hold"]
    after_s: float
    """How long after the one before."""
    number: int
    """Of the swap that it is about, or of its version, plan, drain and model."""
    on_busy: Literal["refuse", "queue", "supersede"]


ORDERS = st.builds(
    Order, st.sampled_from(["swap", "swap", "swap", "rollback", "abort", "leave", "hold"]),
    st.sampled_from([0.0, 0.1, 0.7, 2.5]), st.integers(0, 47), st.sampled_from(["refuse", "queue", "supersede"]),
)  # fmt: skip


class Day:
    """A day of a group: its operators, and those who ask it all the while."""

    def __init__(self, rig: Rig, nursery: trio.Nursery) -> None:
        self.rig = rig
        self.sets: list[str] = []
        self.errors: list[ChangeoverError] = []
        self._nursery = nursery
        self._swaps: list[tuple[Outcome, trio.CancelScope]] = []

    async def ask(self, key: str | None) -> None:
        """Ask and lease sets for ever."""
        while True:
            self.sets.append(leased(self.rig, TRIO, key))
            try:
                self.sets.append(await versions(self.rig, TRIO, key))
            except ChangeoverError as error:
                self.errors.append(error)
            await trio.sleep(0.2)

    async def obey(self, order: Order) -> None:
        """Do what an order says, without waiting for what comes of it."""
        number, swaps = order.number, self.rig.engine.swaps()
        if order.kind == "swap":
            plan, drain = PLANS[number // 3 % 4], DRAINS[number // 12 % 4]
            swap = swapping(self.rig, TRIO, "123"[number % 3], plan=plan, drain=drain, on_busy=order.on_busy)
            self._swaps.append((swap, trio.CancelScope()))
            self._nursery.start_soon(self._run, *self._swaps[-1])
        elif order.kind == "hold":
            self._nursery.start_soon(Outcome(self._hold, TRIO[number % 3], number % 5).run)
        elif order.kind == "leave" and self._swaps:
            self._swaps[number % len(self._swaps)][1].cancel()
        elif swaps and order.kind == "rollback":
            self._nursery.start_soon(Outcome(self.rig.engine.rollback, swaps[number % len(swaps)].id).run)
        elif swaps and order.kind == "abort":
            try:
                self.rig.engine.abort(swaps[number % len(swaps)].id)
            except ChangeoverError:
                return

    async def _run(self, swap: Outcome, scope: trio.CancelScope) -> None:
        with scope:
            await swap.run()

    async def _hold(self, model: str, seconds: float) -> None:
        async with self.rig.engine.lease(model):
            await trio.sleep(seconds)


def prepare(rig: Rig, faults: dict[str, str]) -> None:
    """Register what is swapped to; each may have its fault."""
    for name in NAMES:
        (model, version), fault = name.split("/"), faults.get(name)
        if version != "1":
            rig.add(model, version, warmup=[{}] if fault == "warm-up raises" else [])
        script = rig.script(model, version)
        script.load_error = Broken("no weights") if fault == "load raises" and version != "1" else None
        script.raises = Broken("cold") if fault == "warm-up raises" and version != "1" else None
        script.fails_on = lambda _inputs, fails=fault == "requests fail" and version != "1": fails
        rig.takes(f"load {name}", 1.5 if fault == "load is slow" else 0.0)
        rig.takes(f"close {name}", 1.5 if fault == "close is slow" else 0.0)


async def play(orders: list[Order], faults: dict[str, str], refused: set[int], seed: int) -> None:
    """Let the orders come, then look at everything."""
    async with open_rig(seed=seed) as rig, trio.open_nursery() as nursery:
        for model in TRIO:
            await rig.ready(model, "1")
        prepare(rig, faults)
        journal, seen, day = use_journal(rig), snapshots(rig), Day(rig, nursery)
        journal.refuses = lambda record: record.progress.forward and len(journal.tried) - 1 in refused
        async with trio.open_nursery() as askers:
            for key in (None, "one"):
                askers.start_soon(day.ask, key)
            for order in orders:
                await trio.sleep(order.after_s)
                await day.obey(order)
            await trio.sleep(8.0)
            askers.cancel_scope.cancel()
        await trio.sleep(300.0)
        assert mixes(seen) == []
        assert set(day.sets) <= SIDES
        bad = "requests fail" in faults.values()
        assert all(isinstance(error, PredictFailed) and bad for error in day.errors), day.errors
        swaps = rig.engine.swaps()
        assert all(operation.state.ended for operation in swaps)
        assert all(step.compensation != "failed" for operation in swaps for step in operation.steps)
        await settle()
        (serving,) = {tuple(shares(rig)[model]) for model in TRIO}
        check_one_side(rig, serving[0], TRIO)


@examined(
    240, orders=st.lists(ORDERS, min_size=1, max_size=12),
    faults=st.dictionaries(st.sampled_from(NAMES), st.sampled_from(FAULTS), max_size=3),
    refused=st.sets(st.integers(0, 40), max_size=4), seed=st.integers(0, 99),
)  # fmt: skip
def test_a_group_is_one_thing_through_any_day(
    orders: list[Order], faults: dict[str, str], refused: set[int], seed: int
) -> None:
    """No set is a mix, none is lost, every swap ends, and in the end one version of each serves, of the same name."""
    run_virtual(play, orders, faults, refused, seed)


async def test_a_group_that_fails_its_first_hundred_requests_is_taken_back_and_nobody_notices(
    rig: Rig, autojump_clock: Any
) -> None:
    """One model of three raises: every set is answered, by the old versions where the new one failed."""
    rest = iter(range(100))
    await two_of_each(rig, TRIO)
    rig.script("b", "2").fails_on = lambda _inputs: next(rest, None) is not None
    swap = swapping(rig, TRIO, plan=Shift.canary())
    async with trio.open_nursery() as nursery:
        day = Day(rig, nursery)
        for key in (None, *"abcdefgh"):
            nursery.start_soon(day.ask, key)
        await swap.run()
        nursery.cancel_scope.cancel()
    assert (day.errors, set(day.sets) <= {"111", "222"}) == ([], True)
    assert swap.error is not None
    assert swap.error.operation.state is SwapState.ROLLED_BACK
    check_one_side(rig, "1", TRIO)


@pytest.mark.parametrize("execution", ["inline", "worker"])
async def test_no_thread_ever_sees_a_mix(execution: str) -> None:
    """On the real machine four threads lease and two tasks ask sets, while the group is swapped to and fro."""
    async with open_rig(real=True) as rig:
        for model in TRIO:
            await rig.ready(model, "1", execution=execution)
            rig.add(model, "2", execution=execution)
        crowd, found, stop = Crowd(), list[str](), [False]

        def lease() -> None:
            while not stop[0]:
                found.append(leased(rig, TRIO))

        async def ask() -> None:
            while not stop[0]:
                found.append(await versions(rig, TRIO))
                await trio.lowlevel.checkpoint()

        for _ in range(4):
            crowd.add(lease)
        crowd.start()
        try:
            async with trio.open_nursery() as nursery:
                for _ in range(2):
                    nursery.start_soon(ask)
                for turn in range(20):
                    plan = Shift.canary([(0.5, 0.01)], confirm_s=0.01, guard=None) if turn % 2 else None
                    await rig.engine.swap_group(to("21"[turn % 2], TRIO), plan=plan)
                stop[0] = True
        finally:
            stop[0] = True
            await trio.to_thread.run_sync(crowd.join)
        assert (len(found) > 100, set(found)) == (True, {"111", "222"})
        assert rig.engine.audit().clean


async def test_a_set_with_bad_input_says_nothing_of_the_group(rig: Rig, autojump_clock: Any) -> None:
    """Whoever asks nonsense is told so; the guard of the group does not hear of it."""
    await two_of_each(rig, TRIO)
    swap = swapping(rig, TRIO, plan=Shift.at_once(confirm_s=5.0))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(swap.run)
        await settle()
        for _ in range(50):
            with pytest.raises((InvalidInput, ChangeoverError)):
                await rig.engine.infer_many({"a": {}, "b": "nonsense", "c": {}})
    assert swap.value.state is SwapState.COMPLETED
    check_one_side(rig, "2", TRIO)
