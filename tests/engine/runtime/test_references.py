"""References under the caller's own ids: taken, counted, given back, and waited for."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import trio

from changeover import WaitOutcome
from changeover.errors import (
    AlreadyHeld,
    DrainTimeout,
    InvalidValue,
    ModelNotRegistered,
    ReferenceNotHeld,
    VersionNotLoaded,
)
from tests.support.rig import Outcome, Rig, open_rig, running, settle
from tests.support.threads import Crowd


async def test_references_are_counted_by_version(rig: Rig, autojump_clock: Any) -> None:
    """Each version has a count of its own, and all counts can be had at once."""
    for version in "12":
        await rig.ready("m", version)
    references = rig.engine.references
    references.acquire("m", "1", "a")
    references.acquire("m", "1", "b")
    references.acquire("m", "2", "a")
    assert (references.count("m", "1"), references.count("m", "2")) == (2, 1)
    assert references.counts() == {("m", "1"): 2, ("m", "2"): 1}
    assert references.has_references("m", "1")
    for version, request in (("1", "a"), ("1", "b"), ("2", "a")):
        references.release("m", version, request)
    assert references.counts() == {("m", "1"): 0, ("m", "2"): 0}
    assert not references.has_references("m", "1")


async def test_what_is_not_there_has_no_references(rig: Rig, autojump_clock: Any) -> None:
    """Counting asks for nothing to be loaded, or even known."""
    rig.add()
    assert rig.engine.references.count("m", "1") == 0
    assert rig.engine.references.count("nobody", "9") == 0
    assert rig.engine.references.counts() == {}


async def test_only_what_is_loaded_can_be_referenced(rig: Rig, autojump_clock: Any) -> None:
    """The error says whether the version is unknown or not loaded."""
    rig.add()
    with pytest.raises(VersionNotLoaded, match="m/1"):
        rig.engine.references.acquire("m", "1", "a")
    with pytest.raises(ModelNotRegistered, match="nobody"):
        rig.engine.references.acquire("nobody", "1", "a")


async def test_a_mistaken_release_changes_nothing_and_is_counted(rig: Rig, autojump_clock: Any) -> None:
    """Never acquired, released twice, or of another version: each raises and is counted where it can be."""
    await rig.ready()
    references = rig.engine.references
    references.acquire("m", "1", "mine")
    with pytest.raises(ReferenceNotHeld, match="never"):
        references.release("m", "1", "never")
    references.release("m", "1", "mine")
    with pytest.raises(ReferenceNotHeld, match="mine"):
        references.release("m", "1", "mine")
    with pytest.raises(ReferenceNotHeld, match="m/2 is not loaded"):
        references.release("m", "2", "mine")
    total = rig.engine.audit().total
    assert (total.acquired, total.released, total.held, total.over_releases) == (1, 1, 0, 2)


async def test_an_id_is_held_once_on_each_version(rig: Rig, autojump_clock: Any) -> None:
    """The same id twice is refused, and free again after its release."""
    await rig.ready()
    references = rig.engine.references
    references.acquire("m", "1", "mine")
    with pytest.raises(AlreadyHeld, match="mine"):
        references.acquire("m", "1", "mine")
    assert references.count("m", "1") == 1
    references.release("m", "1", "mine")
    references.acquire("m", "1", "mine")
    references.release("m", "1", "mine")


async def test_a_reference_keeps_its_version_open(rig: Rig, autojump_clock: Any) -> None:
    """A version is not closed before the last id is released, whoever took it."""
    await rig.ready()
    rig.engine.references.acquire("m", "1", "mine")
    unload = Outcome(rig.engine.unload, "m", "1", force=True)
    async with running(unload):
        await trio.sleep(1)
        assert (unload.over, rig.cast.open()) == (False, ["m/1"])
        rig.engine.references.release("m", "1", "mine")
    assert unload.value.result == "drained"


async def test_a_reference_on_an_older_incarnation_can_be_released(rig: Rig, autojump_clock: Any) -> None:
    """After a crash and a restart an old id is found where it is held, not on the new model."""
    await rig.ready(fatal_on=lambda inputs: "poison" in inputs)
    references = rig.engine.references
    references.acquire("m", "1", "old")
    with pytest.raises(Exception, match="beyond use"):
        await rig.engine.infer("m", {"poison": 1})
    await trio.sleep(1)
    references.acquire("m", "1", "new")
    assert references.count("m", "1") == 2
    references.release("m", "1", "old")
    await settle()
    assert [made.closed for made in rig.cast.made] == [1, 0]
    references.release("m", "1", "new")


# --- waiting for zero -----------------------------------------------------------------------------------------------


async def test_waiting_for_zero_is_no_wait_where_nothing_is_held(rig: Rig, autojump_clock: Any) -> None:
    """It returns at once, also with no time at all, and for what is not loaded."""
    await rig.ready()
    rig.add("m", "2")
    for version in "12":
        for timeout_s in (0.0, 5.0):
            await rig.engine.references.wait_for_zero("m", version, timeout_s)
    assert trio.current_time() == 0.0


async def test_waiting_for_zero_ends_with_the_last_release(rig: Rig, autojump_clock: Any) -> None:
    """It is woken by whoever makes the count zero, and not before."""
    await rig.ready()
    first, second = rig.lease(), rig.lease()
    waits = [Outcome(rig.engine.references.wait_for_zero, "m", "1", 100.0) for _ in range(3)]
    async with running(*waits):
        await trio.sleep(1)
        first.release()
        await trio.sleep(1)
        assert not any(wait.over for wait in waits)
        second.release()
    assert [wait.ended_s for wait in waits] == [2.0] * 3


async def test_waiting_for_zero_runs_out_of_time_and_names_the_holders(rig: Rig, autojump_clock: Any) -> None:
    """`DrainTimeout` says who holds it and for how long; nothing is changed."""
    await rig.ready()
    rig.engine.references.acquire("m", "1", "order-7")
    with pytest.raises(DrainTimeout, match=r"m/1 is still held after 5 s by request order-7 \(5.0 s") as caught:
        await rig.engine.wait_for_drain("m", "1", 5.0)
    assert (trio.current_time(), [holder.holder for holder in caught.value.holders]) == (5.0, ["order-7"])
    assert (await rig.engine.infer("m", {})).version == "1"
    rig.engine.references.release("m", "1", "order-7")


async def test_a_wait_for_zero_ends_when_its_version_is_unloaded(rig: Rig, autojump_clock: Any) -> None:
    """Unloading makes zero, and wakes who waits for it."""
    await rig.ready()
    lease = rig.lease()
    wait = Outcome(rig.engine.wait_for_drain, "m", "1", 100.0)
    async with running(wait, Outcome(rig.engine.unload, "m", "1", force=True)):
        await trio.sleep(3)
        lease.release()
    assert (wait.value, wait.ended_s) == (WaitOutcome("drained", 3.0), 3.0)


async def test_a_cancelled_wait_for_zero_leaves_nothing_behind(rig: Rig, autojump_clock: Any) -> None:
    """The account forgets a waiter that stopped to wait."""
    await rig.ready()
    lease = rig.lease()
    for _ in range(5):
        with trio.move_on_after(1):
            await rig.engine.wait_for_drain("m", "1", 100.0)
    (loaded,) = rig.engine._host.living()
    assert len(loaded.account._watchers) == 0
    lease.release()


@pytest.mark.parametrize("timeout_s", [-1.0, float("nan"), float("inf"), "soon"])
async def test_a_time_that_makes_no_sense_is_refused_by_name(rig: Rig, timeout_s: Any, autojump_clock: Any) -> None:
    """`timeout_s` is a finite number of seconds."""
    await rig.ready()
    with pytest.raises(InvalidValue, match="timeout_s"):
        await rig.engine.wait_for_drain("m", "1", timeout_s)


async def test_a_drain_of_what_is_unknown_cannot_be_waited_for(rig: Rig, autojump_clock: Any) -> None:
    """A name that nobody registered is a mistake, and not a version without references."""
    with pytest.raises(ModelNotRegistered, match="nobody"):
        await rig.engine.wait_for_drain("nobody", "1", 1.0)


async def test_a_release_in_another_thread_wakes_who_waits_for_zero() -> None:
    """The wake-up comes from any thread."""
    async with open_rig(real=True) as rig:
        await rig.ready()
        lease = rig.lease()
        wait = Outcome(rig.engine.wait_for_drain, "m", "1", 1_000.0)
        async with running(wait):
            await trio.to_thread.run_sync(lease.release)
        assert wait.value.result == "zero"


# --- many -----------------------------------------------------------------------------------------------------------


async def test_a_thousand_threads_keep_the_books() -> None:
    """A thousand threads take and give back at once: nothing is lost, nothing counted twice."""
    async with open_rig(real=True) as rig:
        await rig.ready()
        references, crowd, start = rig.engine.references, Crowd(), threading.Event()

        def work(number: int) -> None:
            start.wait()
            for turn in range(3):
                references.acquire("m", "1", f"{number}-{turn}")
            for turn in range(3):
                references.release("m", "1", f"{number}-{turn}")

        for number in range(1_000):
            crowd.add(work, number)
        crowd.start()
        start.set()
        await trio.to_thread.run_sync(crowd.join)
        total = rig.engine.audit().total
        assert (total.acquired, total.released, total.held, total.over_releases) == (3_000, 3_000, 0, 0)


async def test_the_audit_names_who_has_held_for_long(rig: Rig, autojump_clock: Any) -> None:
    """Beyond the age limit a holder is a suspect; a clean audit has neither holders nor torn balances."""
    await rig.ready()
    old = rig.lease()
    await trio.sleep(100)
    new = rig.lease()
    audit = rig.engine.audit(suspect_after_s=60.0)
    assert [(key.version, holder.age_s) for key, holder in audit.suspected] == [("1", 100.0)]
    assert not audit.clean
    old.release()
    new.release()
    assert rig.engine.audit().clean
    rig.engine.audit().raise_for_leaks()


async def test_the_audit_remembers_what_was_closed(rig: Rig, autojump_clock: Any) -> None:
    """The balances of unloaded versions, and of both incarnations of one, stay in the books."""
    await rig.ready()
    for _ in range(3):
        await rig.engine.infer("m", {})
    await rig.engine.unload("m", "1", force=True)
    await rig.engine.load("m", "1")
    await rig.engine.infer("m", {})
    (balance,) = rig.engine.audit().balances.values()
    assert (balance.acquired, balance.released, balance.held) == (4, 4, 0)
