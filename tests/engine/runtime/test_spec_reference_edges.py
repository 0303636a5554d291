"""The reference-counting spec, line by line, in its own words, for a tracker that stands alone and for an engine's.

Its "Performance Targets" and "Edge Cases"; the rest is in `test_spec_reference_counting.py`.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import trio

from changeover import Balance, ReferenceTracker, RequestTracker
from changeover.errors import ReferenceLeakError
from tests.support.rig import Outcome, Rig, running, settle
from tests.support.threads import Crowd
from tests.support.trackers import eventually, in_thread, of_each_kind, open_tracker, tracker, watchers

__all__ = ["tracker"]


# --- Performance Targets: how long it takes is measured in tests/bench; here is what makes it so --------------------


@of_each_kind
async def test_spec_performance_of_acquire_and_release(kind: str) -> None:
    """AcquireReference and ReleaseReference < 0.01ms: neither waits for a lock that others may hold."""
    async with open_tracker(kind, real=True) as tracker:
        tracker.acquire("m", "1", "before")
        with getattr(tracker._world.books, "_lock", nullcontext()):
            assert in_thread(tracker.acquire, "m", "1", "request") is None
            assert in_thread(tracker.release, "m", "1", "request") is None
        tracker.release("m", "1", "before")


async def test_spec_performance_of_the_count(tracker: ReferenceTracker, autojump_clock: Any) -> None:
    """GetReferenceCount < 0.01ms: it looks at no holder, however many there are."""

    class Unread(dict[Any, Any]):
        def __iter__(self) -> Any:
            raise AssertionError("the holders were looked at")

        keys = values = items = copy = __iter__

    with RequestTracker(tracker, "m", "1", "request"):
        (account,) = tracker._world.books.of("m", "1")
    account.held = Unread(dict.fromkeys(range(1_000)))
    assert (tracker.count("m", "1"), tracker.has_references("m", "1")) == (1_000, True)
    account.held = {}


async def test_spec_performance_of_a_hundred_thousand_updates(tracker: ReferenceTracker, autojump_clock: Any) -> None:
    """Support 100,000+ reference updates per second: so many are counted, and nothing of them is kept."""
    for number in range(50_000):
        tracker.acquire("m", "1", str(number))
        tracker.release("m", "1", str(number))
    (account,) = tracker._world.books.of("m", "1")
    assert tracker.audit().total == Balance(50_000, 50_000, 0)
    assert (len(account.held), len(account.usage.timed)) == (0, 0)
    assert len(account.usage._spans) <= 1_025


async def test_spec_performance_of_the_wake_up(tracker: ReferenceTracker, autojump_clock: Any) -> None:
    """WaitForZeroReferences wake-up < 1ms: whoever makes the zero wakes; nobody looks from time to time."""
    tracker.acquire("m", "1", "request")
    wait = Outcome(tracker.wait_for_zero, "m", "1", 60.0)
    async with running(wait):
        await trio.sleep(1 / 3)
        assert trio.lowlevel.current_statistics().seconds_to_next_deadline > 59
        tracker.release("m", "1", "request")
    assert wait.ended_s == 1 / 3


# --- Edge Cases -----------------------------------------------------------------------------------------------------


async def test_spec_many_wait_for_zero_at_once(tracker: ReferenceTracker, autojump_clock: Any) -> None:
    """Edge case: multiple threads waiting for zero references: all are woken by the one release."""
    tracker.acquire("m", "1", "request")
    waits = [Outcome(tracker.wait_for_zero, "m", "1", 60.0) for _ in range(20)]
    async with running(*waits):
        await trio.sleep(7)
        tracker.release("m", "1", "request")
    assert {wait.ended_s for wait in waits} == {7.0}


@of_each_kind
async def test_spec_many_threads_wait_for_zero_at_once(kind: str) -> None:
    """Edge case: multiple threads waiting for zero references: all are woken by the one release."""
    async with open_tracker(kind, real=True) as tracker:
        tracker.acquire("m", "1", "request")
        crowd, results = Crowd(), list[str]()
        for _ in range(20):
            crowd.add(lambda: results.append(tracker.wait_for_zero_blocking("m", "1", 60.0).result))
        crowd.start()
        await eventually(lambda: watchers(tracker) == 40)
        tracker.release("m", "1", "request")
        await trio.to_thread.run_sync(crowd.join)
        assert (results, watchers(tracker)) == (["zero"] * 20, 0)


async def test_spec_a_model_is_unloaded_while_somebody_waits_for_zero(rig: Rig, autojump_clock: Any) -> None:
    """Edge case: model unloaded while waiting for zero references: the wait ends, the model is closed."""
    await rig.ready()
    lease = rig.lease()
    wait = Outcome(rig.engine.references.wait_for_zero, "m", "1", 60.0)
    async with running(wait, Outcome(rig.engine.unload, "m", "1", force=True)):
        await trio.sleep(1)
        lease.release()
    assert (wait.value.result, rig.cast.open()) == ("drained", [])


@pytest.mark.parametrize("force", [False, True])
async def test_spec_a_model_is_forgotten_while_somebody_waits_for_zero(force: bool, autojump_clock: Any) -> None:
    """Edge case: model unloaded while waiting for zero references: the wait ends as the unload did."""
    async with open_tracker("alone") as tracker:
        tracker.acquire("m", "1", "request")
        wait = Outcome(tracker.wait_for_zero, "m", "1", 60.0)
        async with running(wait):
            tracker.retire("m", "1")
            await trio.sleep(1)
            if not force:
                tracker.release("m", "1", "request")
            tracker.forget("m", "1", force=force)
        assert (wait.ended_s, wait.value.result) == (1.0, "gone" if force else "drained")
        assert [holder.holder for holder in wait.value.holders] == ["request"] * force


async def test_spec_a_cancelled_request_holds_its_reference_until_it_is_over(rig: Rig, autojump_clock: Any) -> None:
    """Edge case: request cancellation holding a reference: it ends at once in the queue, and else with its thread."""
    await rig.ready(execution="worker")
    rig.takes("worker m/1 0", 10.0)
    with trio.move_on_after(1):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rig.engine.infer, "m", {"n": 0})
            await settle()
            nursery.start_soon(rig.engine.infer, "m", {"n": 1})
            await settle()
            assert rig.engine.references.count("m", "1") == 2
    assert rig.engine.references.count("m", "1") == 1
    await trio.sleep(10)
    assert rig.engine.references.count("m", "1") == 0


async def test_spec_a_cancelled_block_gives_its_reference_back(tracker: ReferenceTracker, autojump_clock: Any) -> None:
    """Edge case: request cancellation holding a reference: the block gives it back on its way out."""
    with trio.move_on_after(5), RequestTracker(tracker, "m", "1", "request"):
        await trio.sleep(60)
    assert (trio.current_time(), tracker.count("m", "1")) == (5.0, 0)


async def test_spec_a_model_is_not_unloaded_while_it_has_references(rig: Rig, autojump_clock: Any) -> None:
    """Prevent unloading while references > 0: a whole day is not long enough."""
    await rig.ready()
    rig.engine.references.acquire("m", "1", "request")
    await rig.engine.unload("m", "1", force=True)
    await trio.sleep(86_400)
    assert rig.cast.open() == ["m/1"]
    rig.engine.references.release("m", "1", "request")
    await settle()
    assert rig.cast.open() == []


async def test_spec_a_version_is_not_forgotten_while_it_has_references(autojump_clock: Any) -> None:
    """Prevent unloading while references > 0: the leak is named, nothing is forgotten, and it may be asked again."""
    async with open_tracker("alone") as tracker:
        tracker.acquire("m", "1", "request")
        with pytest.raises(ReferenceLeakError, match="request") as caught:
            tracker.forget("m", "1")
        assert (caught.value.model, caught.value.version, tracker.count("m", "1")) == ("m", "1", 1)
        tracker.release("m", "1", "request")
        tracker.forget("m", "1")
        assert tracker.counts() == {}
