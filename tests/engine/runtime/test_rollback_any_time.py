"""A rollback at any time: before the turn, in each step, after the end, of a rollback; and what cannot be undone."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from typing import Any

import pytest
import trio

from changeover import Drain, Shift, SwapOperation, SwapState
from changeover.core.plan import ORDER, Step
from changeover.errors import (
    NotReady,
    Superseded,
    SwapFailed,
    SwapInProgress,
    SwapNotAllowed,
    SwapNotDone,
    SwapRolledBack,
)
from changeover.runtime.saga import COMPENSATION_TRIES
from changeover.runtime.steps import Steps
from tests.support.journals import BOUNDARIES, at, use_journal
from tests.support.rig import Outcome, Rig, running, settle, until

CANARY = Shift.canary(((0.5, 20.0),), confirm_s=5.0)
UNDOABLE = [step for step in ORDER if step is not Step.UNLOAD]


async def two(rig: Rig, **fields: Any) -> None:
    """Make version 1 serve and register version 2 with `fields`."""
    await rig.ready("m", "1")
    rig.add("m", "2", **fields)


def swapping(rig: Rig, to: str = "2", **options: Any) -> Outcome:
    """Return a swap, to be run beside the test."""
    return Outcome(rig.engine.swap, "m", to, **options)


def the_id(rig: Rig, to: str = "2") -> str:
    """Return the id of the last swap to a version."""
    return next(operation.id for operation in reversed(rig.engine.swaps("m")) if operation.to_version == to)


async def check_serves(rig: Rig, version: str, *, made: int | None = None) -> None:
    """Check that a version serves, and that nothing but it is left; it may have to be one and the same model."""
    await settle()
    assert (await rig.engine.infer("m", {})).version == version
    assert rig.engine.loaded_versions("m") == (version,)
    assert rig.cast.open() == [f"m/{version}"]
    assert made is None or len(rig.cast.of("m", version)) == made
    assert rig.engine._slots.everybody() == ()
    assert rig.engine.audit().clean


# --- when -----------------------------------------------------------------------------------------------------------


async def test_before_its_turn(rig: Rig, autojump_clock: Any) -> None:
    """An order that waits is told at once; nothing of it has happened, and the one before it goes on."""
    await two(rig)
    rig.add("m", "3")
    rig.takes("load m/2", 10.0)
    first, second = swapping(rig), swapping(rig, "3", on_busy="queue")
    async with running(first, second):
        operation = await rig.engine.rollback(the_id(rig, "3"))
        await settle()
        assert (operation.state, operation.steps, trio.current_time()) == (SwapState.ROLLED_BACK, (), 0.0)
        assert isinstance(second.error, SwapRolledBack)
    assert first.value.state is SwapState.COMPLETED
    assert rig.cast.of("m", "3") == []
    await check_serves(rig, "2")


@pytest.mark.parametrize("plan", [None, CANARY], ids=["at once", "canary"])
@pytest.mark.parametrize("after_s", [0.0, 1.0, 3.0, 6.0, 12.0, 21.0, 27.0, 32.0, 37.0])
async def test_in_the_middle_of_whatever_goes_on(
    rig: Rig, after_s: float, plan: Shift | None, autojump_clock: Any
) -> None:
    """In the load, the warm-up, the ramp, the confirmation, the drain, the close: one version serves, and it is 1."""
    await two(rig, warmup=[{}])
    rig.takes("load m/2", 2.0)
    rig.takes("warm m/2", 2.0)
    rig.takes("close m/1", 5.0)
    lease, swap = rig.lease(), swapping(rig, plan=plan)
    async with running(swap):
        await trio.sleep(after_s)
        is_held = after_s < 35.0
        if not is_held:
            lease.release()
            await trio.sleep(1)
        rollback = Outcome(rig.engine.rollback, the_id(rig))
        async with running(rollback):
            if is_held:
                assert lease.infer({})["version"] == "1"
                await until(lambda: rollback.over)
                lease.release()
    operation = rollback.value
    turned = operation.id == rig.engine.swaps("m")[0].id
    assert operation.state is (SwapState.ROLLED_BACK if turned else SwapState.COMPLETED)
    assert isinstance(swap.error, SwapRolledBack) is turned
    await trio.sleep(10)
    await check_serves(rig, "1", made=1 if turned else 2)


@pytest.mark.parametrize("times", [2, 3])
@pytest.mark.parametrize("step", BOUNDARIES[:3])
async def test_several_rollbacks_are_one(rig: Rig, step: str, times: int, autojump_clock: Any) -> None:
    """Ordered at the same boundary, all tell of the same operation, and each step is undone once."""
    await two(rig)
    journal = use_journal(rig, slow_for=at(step))
    swap = swapping(rig)
    async with running(swap):
        await trio.sleep(5)
        rollbacks = [Outcome(rig.engine.rollback, the_id(rig)) for _ in range(times)]
        async with running(*rollbacks):
            pass
    assert len({rollback.value for rollback in rollbacks}) == 1
    undone = [line for line in journal.lines() if line.startswith("undo")]
    assert len(set(undone)) == len(undone) > 0
    await check_serves(rig, "1", made=1)


async def test_a_rollback_after_the_end_ordered_twice(rig: Rig, autojump_clock: Any) -> None:
    """The second is refused while the first swaps back, and behind it: the traffic has moved on."""
    await two(rig)
    operation = await rig.engine.swap("m", "2")
    rig.takes("load m/1", 5.0)
    first = Outcome(rig.engine.rollback, operation.id)
    async with running(first):
        with pytest.raises(SwapInProgress):
            await rig.engine.rollback(operation.id)
    assert first.value.rollback_of == operation.id
    with pytest.raises(SwapNotAllowed, match="active"):
        await rig.engine.rollback(operation.id)
    await check_serves(rig, "1")


async def test_a_rollback_of_a_rollback_and_of_that(rig: Rig, autojump_clock: Any) -> None:
    """Each swaps to where the one before came from, and names it."""
    await two(rig)
    operation = await rig.engine.swap("m", "2")
    for version in "1212":
        back = await rig.engine.rollback(operation.id)
        assert (back.rollback_of, back.to_version, back.state) == (operation.id, version, SwapState.COMPLETED)
        await check_serves(rig, version)
        operation = back


async def test_a_rollback_that_is_rolled_back_while_it_runs(rig: Rig, autojump_clock: Any) -> None:
    """The swap back is turned round as any other; whoever ordered it hears so, and what it would take back stands."""
    await two(rig)
    operation = await rig.engine.swap("m", "2")
    rig.takes("load m/1", 5.0)
    first = Outcome(rig.engine.rollback, operation.id)
    async with running(first):
        await trio.sleep(1)
        again = await rig.engine.rollback(the_id(rig, "1"))
        assert (again.state, again.rollback_of) == (SwapState.ROLLED_BACK, operation.id)
    assert isinstance(first.error, SwapRolledBack)
    await trio.sleep(10)
    await check_serves(rig, "2", made=1)
    assert rig.engine.swap_status(operation.id).state is SwapState.COMPLETED


async def test_a_rollback_while_the_swap_is_being_superseded(rig: Rig, autojump_clock: Any) -> None:
    """It is going back already, for the newer order: the rollback hears that, and the newer swap happens."""
    await two(rig)
    rig.add("m", "3")
    rig.takes("close m/2", 5.0)
    swap = swapping(rig, plan=CANARY)
    async with running(swap):
        await trio.sleep(1)
        newer = swapping(rig, "3", on_busy="supersede")
        async with running(newer):
            with pytest.raises(Superseded) as caught:
                await rig.engine.rollback(the_id(rig))
            assert caught.value.operation.superseded_by == the_id(rig, "3")
    assert isinstance(swap.error, Superseded)
    assert newer.value.from_version == "1"
    await check_serves(rig, "3")


async def test_a_newer_order_while_the_swap_is_being_rolled_back(rig: Rig, autojump_clock: Any) -> None:
    """It waits for the slot, and the swap keeps the name of what it was turned round for first."""
    await two(rig)
    rig.add("m", "3")
    rig.takes("close m/2", 5.0)
    swap = swapping(rig, plan=CANARY)
    async with running(swap):
        await trio.sleep(1)
        rollback, newer = Outcome(rig.engine.rollback, the_id(rig)), swapping(rig, "3", on_busy="supersede")
        async with running(rollback, newer):
            assert not newer.over
    assert rollback.value.state is SwapState.ROLLED_BACK
    assert isinstance(swap.error, SwapRolledBack)
    assert newer.value.from_version == "1"
    await check_serves(rig, "3")


async def test_an_abort_of_what_is_going_back_changes_nothing(rig: Rig, autojump_clock: Any) -> None:
    """Neither its end nor its name: it was rolled back first; behind its end it is refused."""
    await two(rig)
    rig.takes("close m/2", 5.0)
    swap = swapping(rig, plan=CANARY)
    async with running(swap):
        await trio.sleep(1)
        rollback = Outcome(rig.engine.rollback, the_id(rig))
        async with running(rollback):
            rig.engine.abort(the_id(rig))
    assert isinstance(swap.error, SwapRolledBack)
    assert rollback.value.state is SwapState.ROLLED_BACK
    with pytest.raises(SwapNotAllowed, match="rolled_back"):
        rig.engine.abort(the_id(rig))
    await check_serves(rig, "1", made=1)


async def test_a_rollback_in_a_drain_that_rolls_back_by_itself(rig: Rig, autojump_clock: Any) -> None:
    """Ordered in the very moment in which the drain is out of time: it is one rollback."""
    await two(rig)
    lease, swap = rig.lease(), swapping(rig, drain=Drain(deadline_s=5.0, then="rollback"))
    async with running(swap):
        await trio.sleep(5)
        operation = await rig.engine.rollback(the_id(rig))
        assert operation.state is SwapState.ROLLED_BACK
        lease.release()
    assert isinstance(swap.error, SwapRolledBack)
    await check_serves(rig, "1", made=1)


# --- what cannot be undone ------------------------------------------------------------------------------------------


def broken(monkeypatch: pytest.MonkeyPatch, step: Step, times: int) -> list[float]:
    """Let what undoes a step fail so many times, and return when it did."""
    name = {
        Step.VALIDATE: "_leave_slot", Step.LOAD: "_unload_new", Step.WARM: "_take_new_out_of_use",
        Step.SHIFT: "_shift_back", Step.DRAIN: "_reopen_old",
    }[step]  # fmt: skip
    real: Callable[[Steps], Any] = getattr(Steps, name)
    failed: list[float] = []

    async def undo(steps: Steps) -> None:
        if len(failed) < times:
            failed.append(trio.current_time())
            raise NotReady("it is stuck", model="m")
        await real(steps)

    monkeypatch.setattr(Steps, name, undo)
    return failed


async def a_rollback(rig: Rig) -> SwapOperation:
    """Roll a swap back while its old version drains, and return how it ended; the rig keeps the states at its end."""
    lease, swap = rig.lease(), swapping(rig)
    async with running(swap):
        await trio.sleep(1)
        rollback = Outcome(rig.engine.rollback, the_id(rig))
        async with running(rollback):
            pass
        rig.kept[:] = [rig.engine.load_info("m", version).status.value for version in "12"]
        lease.release()
    assert isinstance(swap.error, SwapNotDone)
    if swap.error.operation.state is not SwapState.FAILED:
        assert rollback.value == swap.error.operation
    else:
        assert isinstance(rollback.error, SwapFailed)
        assert rollback.error.operation == swap.error.operation
    await settle()
    return swap.error.operation


@pytest.mark.parametrize("times", range(1, COMPENSATION_TRIES))
@pytest.mark.parametrize("step", UNDOABLE, ids=lambda step: step.value)
async def test_a_compensation_that_fails_some_times_is_done_in_the_end(
    rig: Rig, step: Step, times: int, monkeypatch: pytest.MonkeyPatch, autojump_clock: Any
) -> None:
    """With a growing pause between; then the swap is rolled back as if nothing had been, without an aftermath."""
    await two(rig)
    failed = broken(monkeypatch, step, times)
    operation = await a_rollback(rig)
    assert len(failed) == times
    pauses = [later - sooner for sooner, later in itertools.pairwise(failed)]
    assert pauses == pytest.approx([0.1, 0.2][: times - 1])
    assert (operation.state, operation.aftermath) == (SwapState.ROLLED_BACK, None)
    assert {record.compensation for record in operation.steps} == {"done"}
    await check_serves(rig, "1", made=1)


@pytest.mark.parametrize("step", UNDOABLE, ids=lambda step: step.value)
async def test_a_compensation_that_fails_for_good_is_told_with_what_helps(
    rig: Rig, step: Step, monkeypatch: pytest.MonkeyPatch, autojump_clock: Any
) -> None:
    """The swap is FAILED: what it says to stand is so, what it says not to is not, and its remedies help."""
    await two(rig)
    failed = broken(monkeypatch, step, 1_000)
    operation = await a_rollback(rig)
    assert len(failed) >= COMPENSATION_TRIES
    assert operation.state is SwapState.FAILED
    left = operation.aftermath
    assert left is not None
    told = [record.step for record in operation.steps if record.compensation == "failed"]
    assert step.value in told
    assert len(left.does_not) == len(told)
    assert all(line.startswith("could not ") for line in left.does_not)
    assert "it is stuck" in left.does_not[0]
    old_state, new_state = rig.kept
    active = (await rig.engine.infer("m", {})).version
    assert left.stands == (f"m/{active} has the traffic", f"m/1 is {old_state}", f"m/2 is {new_state}")
    monkeypatch.undo()
    for line in left.remedies:
        await follow(rig, line)
    await check_serves(rig, "1")
    assert (await rig.engine.swap("m", "2")).state is SwapState.COMPLETED


async def follow(rig: Rig, remedy: str) -> None:
    """Do what a remedy says, to the letter."""
    call = re.search(r'await engine\.(\w+)\(("[^)]*")\)', remedy)
    if call is not None:
        await getattr(rig.engine, call[1])(*call[2].replace('"', "").split(", "))
    else:
        assert remedy.startswith("nothing:")
