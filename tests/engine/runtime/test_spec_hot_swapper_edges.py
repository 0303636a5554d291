"""The hot-swapper spec, the rest by name: functionality, data structures, notes, targets, edge cases."""

from __future__ import annotations

import inspect
import logging
import threading
from typing import Any

import attrs
import pytest
import trio

from changeover import Drain, Engine, Shift, SwapOperation, SwapState, Timeouts, aio, threads
from changeover.core import plan
from changeover.errors import (
    SwapFailed,
    SwapInProgress,
    SwapNotAllowed,
    SwapRolledBack,
    SwapTimeout,
)
from changeover.runtime.journal import MemoryJournal
from changeover_sim import open_world
from tests.support.models import Broken, Cast
from tests.support.rig import Outcome, Rig, Watch, open_rig, running, settle

V1, V2 = "1.0", "1.1"
STEPS = [step.value for step in plan.Step]


async def two(rig: Rig, **fields: Any) -> None:
    """Make 1.0 serve and register 1.1."""
    await rig.ready("m", V1)
    rig.add("m", V2, **fields)


# --- core functionality ---------------------------------------------------------------------------------------------


async def test_spec_the_new_version_is_loaded_while_the_old_one_is_active(rig: Rig, autojump_clock: Any) -> None:
    """Load new version while old version remains active."""
    await two(rig)
    rig.takes(f"load m/{V2}", 5.0)
    async with running(Outcome(rig.engine.swap, "m", V2)):
        for _ in range(4):
            await trio.sleep(1)
            assert (await rig.engine.infer("m", {})).version == V1
            assert rig.engine.is_active("m", V1)


async def test_spec_traffic_moves_gradually(rig: Rig, autojump_clock: Any) -> None:
    """Gradually transition traffic from old to new version."""
    await two(rig)
    shares: list[float] = []
    stages = ((0.1, 5.0), (0.5, 5.0), (0.9, 5.0))
    swap = Outcome(rig.engine.swap, "m", V2, plan=Shift.canary(stages, confirm_s=0.0))
    async with running(swap):
        for _ in range(3):
            await trio.sleep(2.5)
            answers = [(await rig.engine.infer("m", {})).version for _ in range(400)]
            shares.append(answers.count(V2) / 400)
            await trio.sleep(2.5)
    assert shares == pytest.approx([0.1, 0.5, 0.9], abs=0.1)
    assert (await rig.engine.infer("m", {})).version == V2


async def test_spec_the_algorithm_goes_through_its_seven_steps(rig: Rig, autojump_clock: Any) -> None:
    """Swap Algorithm: validate, load, mark as transitioning, update router, drain, unload, mark as completed."""
    await two(rig)
    async with Watch(rig.engine) as watch:
        await rig.engine.swap("m", V2)
        seen: list[str] = []
        for event in await watch.read():
            match event.kind:
                case "swap_state" | "swap_step" if event.detail.get("outcome") != "running":
                    seen.append(event.detail.get("step") or event.detail["state"])
                case "traffic_shifted":
                    seen.append("router")
                case "version_state" if event.version == V1:
                    seen.append(event.detail["state"])
    assert seen == [
        "validate", "loading_new_version", "load", "warm", "transitioning", "router", "shift",
        "old_version_draining", "draining", *seen[9:-1], "completed",
    ]  # fmt: skip
    assert seen.index("unloading") < seen.index("unloaded") < seen.index("unload")


# --- data structures and interface ----------------------------------------------------------------------------------


def test_spec_the_states_have_their_names() -> None:
    """SwapState: NotStarted, LoadingNewVersion, Transitioning, OldVersionDraining, Completed, Failed."""
    names = ["NotStarted", "LoadingNewVersion", "Transitioning", "OldVersionDraining", "Completed", "Failed"]
    ours = ["".join(word.title() for word in state.value.split("_")) for state in SwapState]
    assert ours[:6] == names


def test_spec_an_operation_has_its_fields() -> None:
    """SwapOperation: ModelName, FromVersion, ToVersion, State, StartTime, EndTime, ErrorMessage; and it is frozen."""
    fields = {field.name for field in attrs.fields(SwapOperation)}
    assert fields > {"model", "from_version", "to_version", "state", "start_time", "end_time", "error_message"}
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        SwapOperation("a", "m", "1", "2", SwapState.NOT_STARTED, 0.0).state = SwapState.COMPLETED  # type: ignore[misc]


@pytest.mark.parametrize("face", [Engine, aio.Engine, threads.Engine], ids=lambda face: face.__module__)
def test_spec_every_call_of_the_interface_is_there(face: type) -> None:
    """IModelHotSwapper: SwapVersion, GetSwapStatus, WaitForDrainage, IsVersionActive, Rollback; on every face."""
    calls = {
        "swap": ["model", "to", "from_"], "swap_status": ["swap_id"], "wait_for_drain": ["model", "version"],
        "is_active": ["model", "version"], "rollback": ["swap_id"],
    }  # fmt: skip
    for name, parameters in calls.items():
        assert list(inspect.signature(getattr(face, name)).parameters)[1 : len(parameters) + 1] == parameters


# --- success criteria and implementation notes ----------------------------------------------------------------------


def test_spec_swap_operations_are_thread_safe() -> None:
    """Thread-safe swap operations: of eight threads that order the same swap one gets it, and all can look."""
    cast, orders = Cast(), []
    barrier = threading.Barrier(8)

    def order(engine: threads.Engine) -> None:
        barrier.wait()
        try:
            orders.append(engine.swap("m", V2).state)
        except (SwapInProgress, SwapNotAllowed) as error:
            orders.append(type(error))
        engine.swaps("m")

    with threads.open_engine() as engine:
        engine._host.loaders.add("scripted", cast.loader)
        for version in (V1, V2):
            engine.register("m", version, "script", loader="scripted")
        engine.load("m", V1)
        crowd = [threading.Thread(target=order, args=(engine,)) for _ in range(8)]
        for thread in crowd:
            thread.start()
        for thread in crowd:
            thread.join()
        assert orders.count(SwapState.COMPLETED) == 1
        assert len(orders) == 8
        assert [operation.state for operation in engine.swaps("m")] == [SwapState.COMPLETED]
        assert engine.is_active("m", V2)


async def test_spec_nothing_blocks_while_a_model_is_loaded(rig: Rig, autojump_clock: Any) -> None:
    """Use async/await for non-blocking operations: the loop turns, and other models are served, loaded and swapped."""
    await two(rig)
    await rig.ready("n", "1")
    rig.add("n", "2")
    rig.takes(f"load m/{V2}", 30.0)
    async with running(Outcome(rig.engine.swap, "m", V2)):
        await rig.ready("o", "1")
        await rig.engine.swap("n", "2")
        assert (await rig.engine.infer("o", {})).version == "1"
        assert trio.current_time() == 0.0


def test_spec_the_life_of_a_swap_is_a_state_machine() -> None:
    """Implement proper state machine for swap lifecycle: a table, and what is not in it changes nothing and raises."""
    progress, command = plan.start()
    assert (command, plan.STATE_WHILE[progress.step]) == (plan.Run(plan.Step.VALIDATE), SwapState.NOT_STARTED)
    assert set(plan.STATE_WHILE) == set(plan.Step)
    with pytest.raises(plan.IllegalHappening):
        plan.advance(progress, plan.Undone())
    with pytest.raises(plan.IllegalHappening):
        plan.advance(plan.Progress(plan.NO_RETURN), plan.Ordered(SwapState.ROLLED_BACK))


async def test_spec_every_stage_is_logged(rig: Rig, caplog: pytest.LogCaptureFixture, autojump_clock: Any) -> None:
    """Add detailed logging at each swap stage: every step and state with the swap's id, and why it failed."""
    await two(rig)
    rig.add("m", "bad", load_error=Broken("no weights"))
    with caplog.at_level(logging.INFO, "changeover"):
        operation = await rig.engine.swap("m", V2)
        texts = [record.getMessage() for record in caplog.records if operation.id in record.getMessage()]
        for step in STEPS:
            assert any(text.startswith(f"swap {operation.id}: {step} done") for text in texts)
        for state in ("loading_new_version", "transitioning", "old_version_draining", "completed"):
            assert f"swap {operation.id} of m: {state}" in texts
        caplog.clear()
        with pytest.raises(SwapFailed):
            await rig.engine.swap("m", "bad")
    texts = [record.getMessage() for record in caplog.records]
    assert any("load failed" in text and "no weights" in text for text in texts)


@pytest.mark.parametrize("how", ["caller", "abort"])
async def test_spec_a_swap_can_be_cancelled(rig: Rig, how: str, autojump_clock: Any) -> None:
    """Use cancellation tokens to abort swaps if needed: whoever waits is cancelled, or `abort` is called."""
    await two(rig)
    rig.takes(f"load m/{V2}", 30.0)
    with trio.move_on_after(1) as scope:
        if how == "caller":
            await rig.engine.swap("m", V2)
        swap_id = rig.engine.start_swap("m", V2)
        await settle()
        rig.engine.abort(swap_id)
    assert scope.cancelled_caught is (how == "caller")
    await settle()
    assert rig.engine.swaps("m")[0].state is SwapState.CANCELLED
    assert (await rig.engine.infer("m", {})).version == V1


async def test_spec_a_swap_can_be_late(rig: Rig, autojump_clock: Any) -> None:
    """Add swap timeout handling: for each step and for the whole; what is late before the pivot is undone."""
    await two(rig)
    rig.takes(f"load m/{V2}", 30.0)
    with pytest.raises(SwapFailed) as caught:
        await rig.engine.swap("m", V2, timeouts=Timeouts(total_s=2.0))
    assert isinstance(caught.value.__cause__, SwapTimeout)
    assert trio.current_time() == 2.0
    assert rig.engine.is_active("m", V1)


async def test_spec_the_state_of_swaps_is_kept(autojump_clock: Any) -> None:
    """Persist swap state for recovery: the next engine knows the swap, and serves what it left active."""
    journal = MemoryJournal()
    kept: list[SwapOperation] = []
    for _ in range(2):
        async with open_world() as world:
            world.ports = attrs.evolve(world.ports, journal=journal)
            async with open_rig(world=world) as rig:
                rig.add("m", V1)
                rig.add("m", V2)
                if kept:
                    await rig.engine.recovered()
                    assert rig.engine.swaps("m") == tuple(kept)
                    assert (await rig.engine.infer("m", {})).version == V2
                else:
                    await rig.engine.load("m", V1)
                    kept.append(await rig.engine.swap("m", V2))


# --- performance targets: what can be told without a clock ----------------------------------------------------------


async def test_spec_the_routing_update_is_one_step(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, autojump_clock: Any
) -> None:
    """Swap routing update: < 10ms: one synchronous call without any wait, whatever the drain takes afterwards."""
    await two(rig)
    shifts: list[float] = []
    shift = rig.engine._router.shift

    def timed(to: Any) -> None:
        shifts.append(trio.current_time())
        assert shift(to) is None

    monkeypatch.setattr(rig.engine._router, "shift", timed)
    lease = rig.lease()
    async with running(Outcome(rig.engine.swap, "m", V2)):
        (record,) = (step for step in rig.engine.swaps("m")[0].steps if step.step == "shift")
        assert (shifts, record.duration_s) == ([0.0], 0.0)
        lease.release()


async def test_spec_a_drain_takes_thirty_seconds_by_default(rig: Rig, autojump_clock: Any) -> None:
    """Drain time: configurable, default 30s."""
    await two(rig)
    rig.add("m", "1.2")
    assert Drain().deadline_s == 30.0
    first = rig.lease()
    await rig.engine.swap("m", V2)
    assert trio.current_time() == 30.0
    second = rig.lease()
    await rig.engine.swap("m", "1.2", drain=Drain(deadline_s=3.0))
    assert trio.current_time() == 33.0
    first.release()
    second.release()


async def test_spec_a_swap_takes_load_warm_up_and_close_and_nothing_else(rig: Rig, autojump_clock: Any) -> None:
    """Total swap time: < 100ms + model load time: the engine adds no wait of its own to any step."""
    await two(rig, warmup=[{}])
    for work, takes_s in ((f"load m/{V2}", 5.0), (f"warm m/{V2}", 3.0), (f"close m/{V1}", 2.0)):
        rig.takes(work, takes_s)
    operation = await rig.engine.swap("m", V2)
    assert [step.duration_s for step in operation.steps] == [0.0, 5.0, 3.0, 0.0, 0.0, 2.0]
    assert trio.current_time() == 10.0


# --- edge cases -----------------------------------------------------------------------------------------------------


async def test_spec_several_swaps_of_one_model_are_queued(rig: Rig, autojump_clock: Any) -> None:
    """Multiple swaps queued for same model: one after the other, in order; one that fails stops none behind it."""
    await two(rig)
    rig.add("m", "bad", load_error=Broken("no weights"))
    rig.add("m", "1.2")
    for version in (V2, "bad", "1.2"):
        rig.takes(f"load m/{version}", 5.0)
    swaps = [Outcome(rig.engine.swap, "m", to, on_busy="queue") for to in (V2, "bad", "1.2")]
    async with running(*swaps):
        pass
    assert [swap.ended_s for swap in swaps] == [5.0, 10.0, 15.0]
    assert isinstance(swaps[1].error, SwapFailed)
    assert (swaps[2].value.from_version, rig.cast.open()) == (V2, ["m/1.2"])


@pytest.mark.parametrize("when", ["queued", "load", "canary", "drain", "unload"])
async def test_spec_rollback_at_every_stage_of_a_swap(rig: Rig, when: str, autojump_clock: Any) -> None:
    """Rollback during swap: wherever it stands, the old version serves in the end."""
    await two(rig)
    rig.add("m", "0.9")
    lease = rig.lease() if when == "drain" else None
    if when in ("queued", "load"):
        rig.takes(f"load m/{V2}", 5.0)
    if when == "unload":
        rig.takes(f"close m/{V1}", 5.0)
    plan = Shift.canary(((0.5, 5.0),)) if when == "canary" else None
    others = [Outcome(rig.engine.swap, "m", "0.9")] if when == "queued" else []
    rig.takes("load m/0.9", 5.0)
    swap = Outcome(rig.engine.swap, "m", V2, plan=plan, on_busy="queue")
    async with running(*others, swap):
        await trio.sleep(1)
        await rig.engine.rollback(rig.engine.swaps("m")[-1].id)
        if lease is not None:
            lease.release()
    await trio.sleep(10)
    expected = "0.9" if when == "queued" else V1
    assert (rig.engine.loaded_versions("m"), rig.cast.open()) == ((expected,), [f"m/{expected}"])
    assert isinstance(swap.error, SwapRolledBack) is (when != "unload")
