"""The hot-swapper spec, test by test: its "Testing Requirements", "Success Criteria" and "Edge Cases"."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from changeover import Drain, SwapState
from changeover.errors import (
    DrainTimeout,
    LoadFailed,
    ModelNotRegistered,
    NotReady,
    SwapFailed,
    SwapInProgress,
    SwapNotAllowed,
    SwapRolledBack,
)
from tests.support.models import Broken
from tests.support.rig import Outcome, Rig, running, settle

V1, V2 = "1.0", "1.1"


async def two(rig: Rig, **fields: Any) -> None:
    """Make 1.0 serve and register 1.1."""
    await rig.ready("m", V1)
    rig.add("m", V2, **fields)


async def test_spec_both_versions_are_active_during_the_transition(rig: Rig, autojump_clock: Any) -> None:
    """Swap from v1.0 to v1.1, verify both versions active during transition."""
    await two(rig)
    old = rig.lease()
    async with running(Outcome(rig.engine.swap, "m", V2)):
        with rig.engine.lease("m") as new:
            assert [old.infer({})["version"], new.infer({})["version"]] == [V1, V2]
            assert rig.engine.loaded_versions("m") == (V1, V2)
        old.release()
    assert rig.engine.loaded_versions("m") == (V2,)


async def test_spec_swap_to_a_version_that_does_not_exist_throws(rig: Rig, autojump_clock: Any) -> None:
    """Swap with non-existent target version (should throw)."""
    await rig.ready("m", V1)
    with pytest.raises(ModelNotRegistered, match=V2):
        await rig.engine.swap("m", V2)


async def test_spec_swap_with_source_not_active_is_refused(rig: Rig, autojump_clock: Any) -> None:
    """Swap with source not active (should throw)."""
    await two(rig)
    rig.add("m", "0.9")
    with pytest.raises(SwapNotAllowed, match=r"m/0\.9 is not active; the active version is 1\.0"):
        await rig.engine.swap("m", V2, from_="0.9")
    assert rig.engine.swaps("m") == ()


async def test_spec_wait_for_drainage_completes_when_nothing_is_active(rig: Rig, autojump_clock: Any) -> None:
    """WaitForDrainage completes when no active requests."""
    await rig.ready("m", V1)
    await rig.engine.wait_for_drain("m", V1, 30.0)
    assert trio.current_time() == 0.0


async def test_spec_wait_for_drainage_times_out(rig: Rig, autojump_clock: Any) -> None:
    """WaitForDrainage times out if requests still active."""
    await rig.ready("m", V1)
    with rig.engine.lease("m"), pytest.raises(DrainTimeout, match="lease"):
        await rig.engine.wait_for_drain("m", V1, 30.0)
    assert trio.current_time() == 30.0


async def test_spec_rollback_reverts_to_the_source_version(rig: Rig, autojump_clock: Any) -> None:
    """Rollback reverts to source version."""
    await two(rig)
    operation = await rig.engine.swap("m", V2)
    await rig.engine.rollback(operation.id)
    assert rig.engine.is_active("m", V1)
    assert rig.engine.loaded_versions("m") == (V1,)


async def test_spec_swap_status_is_right_throughout(rig: Rig, autojump_clock: Any) -> None:
    """GetSwapStatus returns correct state throughout swap."""
    await two(rig)
    rig.takes(f"load m/{V2}", 5.0)
    lease = rig.lease()
    swap_id = rig.engine.start_swap("m", V2)
    seen = [rig.engine.swap_status(swap_id).state]
    await trio.sleep(1)
    seen.append(rig.engine.swap_status(swap_id).state)
    await trio.sleep(5)
    seen.append(rig.engine.swap_status(swap_id).state)
    lease.release()
    await settle()
    seen.append(rig.engine.swap_status(swap_id).state)
    assert seen == [
        SwapState.NOT_STARTED, SwapState.LOADING_NEW_VERSION, SwapState.OLD_VERSION_DRAINING, SwapState.COMPLETED,
    ]  # fmt: skip


async def test_spec_swaps_of_different_models_run_at_once(rig: Rig, autojump_clock: Any) -> None:
    """Concurrent swaps for different models (should work); support 10+ concurrent swaps for different models."""
    models = [f"m{n}" for n in range(12)]
    for model in models:
        await rig.ready(model, V1)
        rig.add(model, V2)
        rig.takes(f"load {model}/{V2}", 5.0)
    swaps = [Outcome(rig.engine.swap, model, V2) for model in models]
    async with running(*swaps):
        assert rig.engine.statistics().swaps_open == 12
    assert {swap.ended_s for swap in swaps} == {5.0}


async def test_spec_swaps_of_one_model_at_once_throw(rig: Rig, autojump_clock: Any) -> None:
    """Concurrent swaps for same model (should throw or queue)."""
    await two(rig)
    rig.add("m", "1.2")
    rig.takes(f"load m/{V2}", 5.0)
    swap = Outcome(rig.engine.swap, "m", V2)
    async with running(swap):
        with pytest.raises(SwapInProgress, match=V2):
            await rig.engine.swap("m", "1.2")
    assert swap.value.state is SwapState.COMPLETED


async def test_spec_a_swap_takes_no_longer_than_its_load(rig: Rig, autojump_clock: Any) -> None:
    """Performance test: the engine adds no waiting of its own to load time and drain time."""
    await two(rig)
    rig.takes(f"load m/{V2}", 5.0)
    await rig.engine.swap("m", V2)
    assert trio.current_time() == 5.0


@pytest.mark.parametrize("execution", ["inline", "worker"])
async def test_spec_no_request_is_dropped_during_a_swap(rig: Rig, execution: Any, autojump_clock: Any) -> None:
    """Zero dropped requests during swap: thirty-two clients ask all the time, and all are answered."""
    await rig.ready("m", V1, execution=execution)
    rig.add("m", V2, execution=execution)
    for version in (V1, V2):
        rig.takes(f"worker m/{version} 0", 0.01)
    rig.takes(f"load m/{V2}", 5.0)
    answers: list[str] = []
    over = trio.Event()

    async def client() -> None:
        while not over.is_set():
            answers.append((await rig.engine.infer("m", {})).version)
            await trio.sleep(0.05)

    async with trio.open_nursery() as nursery:
        for _ in range(32):
            nursery.start_soon(client)
        await trio.sleep(1)
        await rig.engine.swap("m", V2)
        await trio.sleep(1)
        over.set()
    assert set(answers) == {V1, V2}
    total = rig.engine.audit().total
    assert (total.acquired, total.held) == (len(answers), 0)


async def test_spec_the_old_version_drains_before_it_is_unloaded(rig: Rig, autojump_clock: Any) -> None:
    """Old version drains before unloading: while somebody holds it, it is open."""
    await two(rig)
    with rig.engine.lease("m") as lease:
        operation = await rig.engine.swap("m", V2, drain=Drain(deadline_s=5.0))
        assert (rig.cast.open(), operation.old_unloaded) == ([f"m/{V1}", f"m/{V2}"], False)
        assert lease.infer({})["version"] == V1
    await settle()
    assert rig.cast.open() == [f"m/{V2}"]


async def test_spec_a_failing_load_leaves_the_old_version(rig: Rig, autojump_clock: Any) -> None:
    """Edge case: model load failure during swap."""
    await two(rig, load_error=Broken("no weights"))
    with pytest.raises(SwapFailed, match="no weights") as caught:
        await rig.engine.swap("m", V2)
    assert isinstance(caught.value.__cause__, LoadFailed)
    assert caught.value.operation.state is SwapState.FAILED
    assert rig.engine.is_active("m", V1)


async def test_spec_a_failing_router_update_leaves_the_old_version(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, autojump_clock: Any
) -> None:
    """Edge case: router update failure: the swap fails, and what it loaded is unloaded."""
    await two(rig)

    def shift(to: Any) -> None:
        raise NotReady("the router says no", model="m")

    monkeypatch.setattr(rig.engine._router, "shift", shift)
    with pytest.raises(SwapFailed, match="the router says no"):
        await rig.engine.swap("m", V2)
    assert rig.engine.is_active("m", V1)
    assert rig.engine.loaded_versions("m") == (V1,)


async def test_spec_an_old_version_that_never_drains_does_not_block_the_swap(rig: Rig, autojump_clock: Any) -> None:
    """Edge case: old version never drains (timeout): default 30 s, then quarantine, and the outcome names who."""
    await two(rig)
    with rig.engine.lease("m", request_id="the one"):
        operation = await rig.engine.swap("m", V2)
        assert trio.current_time() == 30.0
        assert operation.drain_outcome is not None
        assert [holder.holder for holder in operation.drain_outcome.holders] == ["the one"]


async def test_spec_rollback_during_a_swap(rig: Rig, autojump_clock: Any) -> None:
    """Edge case: rollback during swap."""
    await two(rig)
    rig.takes(f"load m/{V2}", 5.0)
    swap = Outcome(rig.engine.swap, "m", V2)
    async with running(swap):
        await trio.sleep(1)
        await rig.engine.rollback(rig.engine.swaps("m")[0].id)
    assert isinstance(swap.error, SwapRolledBack)
    assert rig.engine.is_active("m", V1)


async def test_spec_several_swaps_of_one_model_in_a_row(rig: Rig, autojump_clock: Any) -> None:
    """Edge case: multiple swaps for same model, one after the other: the last order wins, nothing is left behind."""
    await two(rig)
    rig.add("m", "1.2")
    for to in (V2, "1.2", V1, V2):
        await rig.engine.swap("m", to)
    assert rig.cast.open() == [f"m/{V2}"]
    assert [operation.state for operation in rig.engine.swaps("m")] == [SwapState.COMPLETED] * 4
