"""The reference-counting spec, test by test: its "Testing Requirements" and "Edge Cases", in its own words."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import trio

from changeover.errors import DrainTimeout, ReferenceLeakError, ReferenceNotHeld
from tests.support.rig import Outcome, Rig, open_rig, running, settle
from tests.support.threads import Crowd


async def test_spec_acquire_increases_the_count(rig: Rig, autojump_clock: Any) -> None:
    """Acquire reference, verify count increases."""
    await rig.ready()
    for expected in (1, 2, 3):
        rig.engine.references.acquire("m", "1", f"request-{expected}")
        assert rig.engine.references.count("m", "1") == expected


async def test_spec_release_decreases_the_count(rig: Rig, autojump_clock: Any) -> None:
    """Release reference, verify count decreases."""
    await rig.ready()
    for name in "abc":
        rig.engine.references.acquire("m", "1", name)
    for expected, name in ((2, "b"), (1, "a"), (0, "c")):
        rig.engine.references.release("m", "1", name)
        assert rig.engine.references.count("m", "1") == expected
    assert not rig.engine.references.has_references("m", "1")


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


async def test_spec_wait_for_zero_returns_immediately_at_zero(rig: Rig, autojump_clock: Any) -> None:
    """WaitForZeroReferences returns immediately when count == 0."""
    await rig.ready()
    await rig.engine.references.wait_for_zero("m", "1", 60.0)
    assert trio.current_time() == 0.0


async def test_spec_wait_for_zero_blocks_until_zero(rig: Rig, autojump_clock: Any) -> None:
    """WaitForZeroReferences blocks until count reaches 0."""
    await rig.ready()
    rig.engine.references.acquire("m", "1", "request")
    wait = Outcome(rig.engine.references.wait_for_zero, "m", "1", 60.0)
    async with running(wait):
        await trio.sleep(30)
        assert not wait.over
        rig.engine.references.release("m", "1", "request")
    assert wait.ended_s == 30.0


async def test_spec_wait_for_zero_times_out(rig: Rig, autojump_clock: Any) -> None:
    """WaitForZeroReferences times out if count > 0."""
    await rig.ready()
    rig.engine.references.acquire("m", "1", "request")
    with pytest.raises(DrainTimeout, match="request"):
        await rig.engine.references.wait_for_zero("m", "1", 60.0)
    assert trio.current_time() == 60.0
    rig.engine.references.release("m", "1", "request")


async def test_spec_a_lease_block_releases_by_itself(rig: Rig, autojump_clock: Any) -> None:
    """Using a tracker with a using statement auto-releases, also where the block raises."""
    await rig.ready()
    with rig.engine.lease("m", request_id="request"):
        assert rig.engine.references.count("m", "1") == 1
    with pytest.raises(ZeroDivisionError), rig.engine.lease("m", request_id="request"):
        raise ZeroDivisionError
    assert rig.engine.references.count("m", "1") == 0


async def test_spec_release_of_what_does_not_exist_throws(rig: Rig, autojump_clock: Any) -> None:
    """Release reference that doesn't exist (should throw or log); edge case: that was never acquired."""
    await rig.ready()
    with pytest.raises(ReferenceNotHeld, match="never"):
        rig.engine.references.release("m", "1", "never")
    assert rig.engine.audit().total.over_releases == 1


async def test_spec_a_thousand_threads_acquire_and_release() -> None:
    """Acquire/release under high concurrency (1000 threads)."""
    async with open_rig(real=True) as rig:
        await rig.ready()
        crowd, start = Crowd(), threading.Event()

        def work(name: str) -> None:
            start.wait()
            with rig.engine.lease("m", request_id=name):
                pass

        for number in range(1_000):
            crowd.add(work, str(number))
        crowd.start()
        start.set()
        await trio.to_thread.run_sync(crowd.join)
        balance = rig.engine.audit().total
        assert (balance.acquired, balance.released, balance.held) == (1_000, 1_000, 0)


async def test_spec_a_leak_is_detected(rig: Rig, autojump_clock: Any) -> None:
    """Test reference leak detection; edge case: reference leaks (never released)."""
    await rig.ready()
    rig.engine.references.acquire("m", "1", "forgotten")
    await trio.sleep(3_600)
    audit = rig.engine.audit()
    assert [holder.holder for _, holder in audit.suspected] == ["forgotten"]
    with pytest.raises(ReferenceLeakError, match="forgotten") as caught:
        audit.raise_for_leaks()
    assert (caught.value.model, caught.value.version) == ("m", "1")
    rig.engine.references.release("m", "1", "forgotten")


async def test_spec_many_wait_for_zero_at_once(rig: Rig, autojump_clock: Any) -> None:
    """Edge case: multiple threads waiting for zero references: all are woken by the one release."""
    await rig.ready()
    lease = rig.lease()
    waits = [Outcome(rig.engine.references.wait_for_zero, "m", "1", 60.0) for _ in range(20)]
    async with running(*waits):
        await trio.sleep(7)
        lease.release()
    assert {wait.ended_s for wait in waits} == {7.0}


async def test_spec_a_model_is_unloaded_while_somebody_waits_for_zero(rig: Rig, autojump_clock: Any) -> None:
    """Edge case: model unloaded while waiting for zero references: the wait ends, the model is closed."""
    await rig.ready()
    lease = rig.lease()
    wait = Outcome(rig.engine.references.wait_for_zero, "m", "1", 60.0)
    async with running(wait, Outcome(rig.engine.unload, "m", "1", force=True)):
        await trio.sleep(1)
        lease.release()
    assert (wait.value.result, rig.cast.open()) == ("drained", [])


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
