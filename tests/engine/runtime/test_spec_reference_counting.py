"""The reference-counting spec, line by line, in its own words, for a tracker that stands alone and for an engine's.

Its "Testing Requirements" and "Success Criteria"; the rest is in `test_spec_reference_edges.py`.
"""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import Any

import pytest
import trio

from changeover import Balance, ReferenceTracker, RequestTracker, WaitOutcome
from changeover.errors import AlreadyHeld, DrainTimeout, ReferenceLeakError, ReferenceNotHeld
from tests.support.rig import Outcome, Rig, open_rig, running
from tests.support.threads import Crowd
from tests.support.trackers import (
    KEY,
    eventually,
    in_thread,
    of_each_kind,
    open_tracker,
    start_calmly,
    tracker,
    watchers,
)

__all__ = ["tracker"]


# --- Testing Requirements -------------------------------------------------------------------------------------------


async def test_spec_acquire_increases_the_count(tracker: ReferenceTracker, autojump_clock: Any) -> None:
    """Acquire reference, verify count increases."""
    for expected in (1, 2, 3):
        tracker.acquire("m", "1", f"request-{expected}")
        assert (tracker.count("m", "1"), tracker.has_references("m", "1")) == (expected, True)
        assert tracker.counts() == {KEY: expected}
    for number in (1, 2, 3):
        tracker.release("m", "1", f"request-{number}")


async def test_spec_release_decreases_the_count(tracker: ReferenceTracker, autojump_clock: Any) -> None:
    """Release reference, verify count decreases."""
    for name in "abc":
        tracker.acquire("m", "1", name)
    for expected, name in ((2, "b"), (1, "a"), (0, "c")):
        tracker.release("m", "1", name)
        assert tracker.count("m", "1") == expected
    assert not tracker.has_references("m", "1")


async def test_spec_concurrent_requests_are_counted_accurately(rig: Rig, autojump_clock: Any) -> None:
    """Multiple concurrent requests, verify count is accurate."""
    await rig.ready(execution="worker", workers=4)
    for number in range(4):
        rig.takes(f"worker m/1 {number}", 10.0)
    outcomes = [Outcome(rig.engine.infer, "m", {"n": n}) for n in range(10)]
    async with running(*outcomes):
        assert rig.engine.references.count("m", "1") == 10
        await trio.sleep(10.5)
        assert rig.engine.references.count("m", "1") == 6
    assert rig.engine.references.count("m", "1") == 0


async def test_spec_concurrent_tasks_are_counted_accurately(tracker: ReferenceTracker, autojump_clock: Any) -> None:
    """Multiple concurrent requests, verify count is accurate: at each moment as many as hold."""

    async def request(number: int) -> None:
        with RequestTracker(tracker, "m", "1", str(number)):
            await trio.sleep(number)

    async with trio.open_nursery() as nursery:
        for number in range(1, 11):
            nursery.start_soon(request, number)
        await trio.sleep(0.5)
        for over in range(10):
            assert tracker.count("m", "1") == 10 - over
            await trio.sleep(1)


async def test_spec_wait_for_zero_returns_immediately_at_zero(tracker: ReferenceTracker, autojump_clock: Any) -> None:
    """WaitForZeroReferences returns immediately when count == 0."""
    with RequestTracker(tracker, "m", "1", "request"):
        pass
    assert await tracker.wait_for_zero("m", "1", 60.0) == WaitOutcome("zero", 0.0)
    assert trio.current_time() == 0.0


async def test_spec_wait_for_zero_blocks_until_zero(tracker: ReferenceTracker, autojump_clock: Any) -> None:
    """WaitForZeroReferences blocks until count reaches 0."""
    tracker.acquire("m", "1", "first")
    tracker.acquire("m", "1", "last")
    wait = Outcome(tracker.wait_for_zero, "m", "1", 60.0)
    async with running(wait):
        await trio.sleep(10)
        tracker.release("m", "1", "first")
        await trio.sleep(20)
        assert not wait.over
        tracker.release("m", "1", "last")
    assert (wait.ended_s, wait.value) == (30.0, WaitOutcome("zero", 30.0))


async def test_spec_wait_for_zero_times_out(tracker: ReferenceTracker, autojump_clock: Any) -> None:
    """WaitForZeroReferences times out if count > 0."""
    tracker.acquire("m", "1", "request")
    with pytest.raises(DrainTimeout, match="request") as caught:
        await tracker.wait_for_zero("m", "1", 60.0)
    assert trio.current_time() == 60.0
    assert [(holder.holder, holder.age_s) for holder in caught.value.holders] == [("request", 60.0)]
    assert (tracker.count("m", "1"), watchers(tracker)) == (1, 0)
    tracker.release("m", "1", "request")


async def test_spec_a_request_tracker_releases_by_itself(tracker: ReferenceTracker, autojump_clock: Any) -> None:
    """Using RequestTracker with using statement auto-releases, also where the block raises."""
    with RequestTracker(tracker, "m", "1", "request"):
        assert tracker.count("m", "1") == 1
    assert tracker.count("m", "1") == 0
    with pytest.raises(ZeroDivisionError), RequestTracker(tracker, "m", "1", "request"):
        raise ZeroDivisionError
    assert tracker.count("m", "1") == 0


async def test_spec_a_lease_block_releases_by_itself(rig: Rig, autojump_clock: Any) -> None:
    """Using a tracker with a using statement auto-releases, also where the block raises."""
    await rig.ready()
    with rig.engine.lease("m", request_id="request"):
        assert rig.engine.references.count("m", "1") == 1
    with pytest.raises(ZeroDivisionError), rig.engine.lease("m", request_id="request"):
        raise ZeroDivisionError
    assert rig.engine.references.count("m", "1") == 0


async def test_spec_release_of_what_does_not_exist_throws(tracker: ReferenceTracker, autojump_clock: Any) -> None:
    """Release reference that doesn't exist (should throw or log); edge case: that was never acquired."""
    tracker.acquire("m", "1", "mine")
    with pytest.raises(ReferenceNotHeld, match="never"):
        tracker.release("m", "1", "never")
    assert tracker.audit().total == Balance(1, 0, 1, over_releases=1)
    tracker.release("m", "1", "mine")


@of_each_kind
async def test_spec_a_thousand_threads_acquire_and_release(kind: str) -> None:
    """Acquire/release under high concurrency (1000 threads): all hold at once, and nothing is lost."""
    async with open_tracker(kind, real=True) as tracker:
        crowd, together = Crowd(), threading.Barrier(1_000, timeout=60)

        def work(name: str) -> None:
            tracker.acquire("m", "1", name)
            together.wait()
            tracker.release("m", "1", name)

        for number in range(1_000):
            crowd.add(work, str(number))
        start_calmly(crowd)
        await trio.to_thread.run_sync(crowd.join)
        assert tracker.audit().total == Balance(1_000, 1_000, 0)
        assert tracker.statistics()[KEY].peak == 1_000


async def test_spec_a_thousand_threads_lease() -> None:
    """Acquire/release under high concurrency (1000 threads), by the engine's own way to hold."""
    async with open_rig(real=True) as rig:
        await rig.ready()
        crowd, start = Crowd(), threading.Event()

        def work(name: str) -> None:
            start.wait()
            with rig.engine.lease("m", request_id=name):
                pass

        for number in range(1_000):
            crowd.add(work, str(number))
        start_calmly(crowd)
        start.set()
        await trio.to_thread.run_sync(crowd.join)
        assert rig.engine.audit().total == Balance(1_000, 1_000, 0)


async def test_spec_a_leak_is_detected(tracker: ReferenceTracker, autojump_clock: Any) -> None:
    """Test reference leak detection; edge case: reference leaks (never released)."""
    tracker.acquire("m", "1", "forgotten")
    await trio.sleep(3_600)
    audit = tracker.audit()
    assert [holder.holder for _, holder in audit.suspected] == ["forgotten"]
    with pytest.raises(ReferenceLeakError, match="forgotten") as caught:
        audit.raise_for_leaks()
    assert (caught.value.model, caught.value.version) == ("m", "1")
    tracker.release("m", "1", "forgotten")


# --- Success Criteria -----------------------------------------------------------------------------------------------


async def test_spec_references_increment_and_decrement_correctly(
    tracker: ReferenceTracker, autojump_clock: Any
) -> None:
    """References increment/decrement correctly, in any order, and under an id that is used again."""
    expected = 0
    for step in ("+a", "+b", "-a", "+a", "+c", "-b", "-c", "-a", "+b", "-b"):
        if step[0] == "+":
            tracker.acquire("m", "1", step[1])
        else:
            tracker.release("m", "1", step[1])
        expected += 1 if step[0] == "+" else -1
        assert tracker.count("m", "1") == expected
    assert tracker.audit().total == Balance(5, 5, 0)


@of_each_kind
async def test_spec_thread_safe_under_high_concurrency(kind: str) -> None:
    """Thread-safe under high concurrency (1000+ concurrent requests): 1,200 of them, each with wrong releases."""
    async with open_tracker(kind, real=True) as tracker:
        crowd, start = Crowd(), threading.Event()

        def work(name: str) -> None:
            start.wait()
            for _ in range(3):
                with RequestTracker(tracker, "m", "1", name):
                    pass
                with suppress(ReferenceNotHeld):
                    tracker.release("m", "1", name)

        for number in range(1_200):
            crowd.add(work, str(number))
        tracker.acquire("m", "1", "held over all")
        start_calmly(crowd)
        start.set()
        await trio.to_thread.run_sync(crowd.join)
        tracker.release("m", "1", "held over all")
        assert tracker.audit().total == Balance(3_601, 3_601, 0, over_releases=3_600)
        assert 1 <= tracker.statistics()[KEY].peak <= 1_201


@of_each_kind
async def test_spec_wait_for_zero_blocks_correctly(kind: str) -> None:
    """WaitForZeroReferences blocks correctly, also a thread."""
    async with open_tracker(kind, real=True) as tracker:
        tracker.acquire("m", "1", "request")
        outcomes: list[object] = []
        thread = threading.Thread(
            target=lambda: outcomes.append(tracker.wait_for_zero_blocking("m", "1", 60.0)), daemon=True
        )
        thread.start()
        await eventually(lambda: watchers(tracker) == 2)
        assert outcomes == []
        tracker.release("m", "1", "request")
        await trio.to_thread.run_sync(thread.join)
        (outcome,) = outcomes
        assert isinstance(outcome, WaitOutcome)
        assert (outcome.result, outcome.holders) == ("zero", ())


@of_each_kind
@pytest.mark.parametrize("timeout_s", [0.0, 0.001])
async def test_spec_wait_for_zero_respects_the_timeout(kind: str, timeout_s: float) -> None:
    """WaitForZeroReferences respects timeout, on Trio and in a thread, and names who holds."""
    async with open_tracker(kind, real=True) as tracker:
        with RequestTracker(tracker, "m", "1", "request"):
            with pytest.raises(DrainTimeout, match="request request") as caught:
                await tracker.wait_for_zero("m", "1", timeout_s)
            error = in_thread(tracker.wait_for_zero_blocking, "m", "1", timeout_s)
            assert isinstance(error, DrainTimeout)
            assert [h.holder for h in error.holders] == [h.holder for h in caught.value.holders] == ["request"]
        assert watchers(tracker) == 0


async def test_spec_a_request_tracker_auto_releases_on_disposal(tracker: ReferenceTracker, autojump_clock: Any) -> None:
    """RequestTracker properly auto-releases on disposal: by its block, by hand, and where it was just dropped."""
    by_hand = RequestTracker(tracker, "m", "1", "by hand").__enter__()
    by_hand.release()
    assert tracker.count("m", "1") == 0
    dropped = RequestTracker(tracker, "m", "1", "dropped").__enter__()
    with pytest.warns(ResourceWarning, match="dropped"):
        del dropped  # and nothing else knows it
    assert tracker.count("m", "1") == 0


@of_each_kind
async def test_spec_no_race_conditions_in_reference_updates(kind: str) -> None:
    """No race conditions in reference updates: of many threads that want one id, each time one has it."""
    async with open_tracker(kind, real=True) as tracker:
        crowd, inside, most = Crowd(), [0], [0]

        def work() -> None:
            for _ in range(500):
                with suppress(AlreadyHeld), RequestTracker(tracker, "m", "1", "the same"):
                    inside[0] += 1
                    most[0] = max(most[0], inside[0])
                    inside[0] -= 1

        for _ in range(8):
            crowd.add(work)
        crowd.start()
        await trio.to_thread.run_sync(crowd.join)
        balance = tracker.audit().total
        assert (most, balance.conserved, balance.held, balance.over_releases) == ([1], True, 0, 0)
