"""The promise of a canary: a version that raises on its first hundred requests is taken back, and nobody notices."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import trio

from changeover import Batching, Shift, SwapState
from changeover.errors import PredictFailed, SwapRolledBack
from tests.support.canary import asking, check_undone
from tests.support.models import BATCHED, Broken, first_column
from tests.support.rig import Outcome, Rig, open_rig, running, settle

PLANS = {
    "canary": Shift.canary(),
    "steep": Shift.canary([(0.5, 2.0)], confirm_s=2.0),
    "at once": Shift.at_once(confirm_s=10.0),
    "not sticky": Shift.canary([(0.2, 5.0)], sticky=False),
    "shadow": Shift.canary([(0.5, 5.0)], shadow=True),
}
WAYS: list[dict[str, Any]] = [
    {"execution": "inline"},
    {"execution": "inline", "thread_safe": False},
    {"execution": "worker"},
    {"execution": "worker", "workers": 4},
]


def first_hundred() -> Any:
    """Return a condition that holds a hundred times."""
    rest = iter(range(100))
    return lambda _inputs: next(rest, None) is not None


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("way", WAYS)
async def test_a_version_that_raises_at_first_is_taken_back_and_no_client_sees_an_error(
    rig: Rig, plan: str, way: dict[str, Any], autojump_clock: Any
) -> None:
    """Fifteen clients ask all the while; each has every answer, and in the end all of them from the old version."""
    await rig.ready("m", "1", **way)
    rig.add("m", "2", **way, fails_on=first_hundred())
    swap = Outcome(rig.engine.swap, "m", "2", plan=PLANS[plan])
    async with asking(rig, 0.1, [None] * 6 + [str(number) for number in range(9)]) as clients:
        async with running(swap):
            pass
        await trio.sleep(0.5)
    assert clients.errors == []
    assert isinstance(swap.error, SwapRolledBack)
    operation = swap.error.operation
    assert (operation.state, operation.guard.new.errors >= 6) == (SwapState.ROLLED_BACK, True)
    assert operation.fallbacks == sum(seen.fell_back for seen in clients.seen)
    assert set(clients.versions()) == {"1"}
    assert swap.ended_s < 20.0
    await check_undone(rig, operation)


async def test_in_batches_it_is_the_same(rig: Rig, autojump_clock: Any) -> None:
    """Batches that raise are tried one by one, and every request of them falls back."""
    way: dict[str, Any] = {
        "execution": "worker", "batching": Batching(max_batch=16, max_delay_s=0.01), "signature": BATCHED,
        "answers": first_column,
    }  # fmt: skip
    await rig.ready("m", "1", **way)
    rig.add("m", "2", **way, fails_on=first_hundred())
    wrong: list[Any] = []

    async def ask_often(client: int) -> None:
        for turn in range(60):
            number = float(client * 100 + turn)
            reply = await rig.engine.infer("m", {"x": np.array([[number, 0.0]])})
            wrong.extend([number] if reply.outputs["y"].tolist() != [number] else [])
            await trio.sleep(0.05)

    swap = Outcome(rig.engine.swap, "m", "2", plan=PLANS["steep"])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(swap.run)
        for client in range(20):
            nursery.start_soon(ask_often, client)
    assert wrong == []
    assert isinstance(swap.error, SwapRolledBack)
    await settle()
    assert rig.engine.audit().clean


async def test_a_version_that_recovers_before_anybody_is_sure_goes_through(rig: Rig, autojump_clock: Any) -> None:
    """Five early failures cost a few fallbacks and some time, and nothing else."""
    rest = iter(range(5))
    await rig.ready("m", "1")
    rig.add("m", "2", fails_on=lambda _inputs: next(rest, None) is not None)
    async with asking(rig, 0.05) as clients:
        operation = await rig.engine.swap("m", "2", plan=PLANS["steep"])
    assert (operation.state, operation.fallbacks, clients.errors) == (SwapState.COMPLETED, 5, [])


async def test_on_the_real_machine_it_is_the_same() -> None:
    """Real threads, real time: every client has every answer."""
    async with open_rig(real=True, strict_references=True) as rig:
        for version, fails_on in (("1", lambda _inputs: False), ("2", first_hundred())):
            rig.add("m", version, execution="worker", workers=2, fails_on=fails_on)
        await rig.engine.load("m", "1")
        swap = Outcome(rig.engine.swap, "m", "2", plan=Shift.canary([(0.5, 60.0)]))
        asked = 0
        async with trio.open_nursery() as nursery:
            nursery.start_soon(swap.run)
            while not swap.over:
                reply = await rig.engine.infer("m", {"n": asked})
                assert (reply.version, reply.outputs["n"]) == ("1", asked)
                asked += 1
        assert isinstance(swap.error, SwapRolledBack)


async def test_without_fallback_clients_see_what_the_new_version_raises(rig: Rig, autojump_clock: Any) -> None:
    """Who wants no fallback gets the errors up to the verdict of the guard, and none after it."""
    await rig.ready("m", "1")
    rig.add("m", "2", raises=Broken("m/2 cannot"))
    plan = Shift.canary([(0.5, 60.0)], fallback=False)
    async with asking(rig) as clients:
        with pytest.raises(SwapRolledBack):
            await rig.engine.swap("m", "2", plan=plan)
        await trio.sleep(5.0)
    assert [type(error) for error in clients.errors] == [PredictFailed] * 20
