"""What a hostile review of the references found, one test for each mistake."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import Any

import pytest
import trio

from changeover import Balance, Drain, ReferenceTracker, RequestTracker, Shift, VersionKey, threads
from changeover.core.ledger import Account, RecordingAccount
from changeover.core.messages import STREAMS, USES
from changeover.errors import LeaseRevoked, ReferenceNotHeld
from changeover.runtime.inference import falls_back
from changeover.runtime.orders import Draining, Limit
from tests.support.canary import two
from tests.support.rig import Outcome, Rig, running, settle
from tests.support.trackers import in_thread


def endless(_inputs: object) -> Any:
    """Yield for ever."""
    while True:
        yield {"n": 0}


# --- drains ---------------------------------------------------------------------------------------------------------


async def test_a_thread_that_hangs_does_not_keep_streams_from_being_asked(rig: Rig, autojump_clock: Any) -> None:
    """The others' limit and grace are over, and the streams' limit is not: the drain goes on until they were asked."""
    await rig.ready(chunks=endless, execution="worker", workers=2)
    rig.takes("worker m/1 0", 1_000.0)
    rig.takes("worker m/1 1", 1_000.0)
    request = Outcome(rig.engine.infer, "m", {})
    unload = Outcome(rig.engine.unload, "m", "1", force=True, drain=Drain(2.0, "cancel", 2.0, stream_deadline_s=8.0))
    async with running(request):
        async with rig.engine.infer_stream("m", {}) as chunks, running(unload):
            await trio.sleep(7.0)
            assert not unload.over
            await anext(chunks)
            await trio.sleep(2.0)
            with pytest.raises(LeaseRevoked):
                await anext(chunks)
        assert (unload.value.result, unload.value.duration_s) == ("quarantined", 10.0)
        assert [holder.kind for holder in unload.value.holders] == ["request"]


def drained_by(*drains: Drain) -> Draining:
    """Make a drain that these orders joined at 0."""
    draining = Draining([], 0.0, lambda _duration_s: None)
    for drain in drains:
        draining.hurry(drain, 0.0)
    return draining


def test_who_is_to_be_asked_is_asked_also_where_others_are_out_of_time() -> None:
    """At one moment the streams are out of time for good, and the leases are to be asked: they are."""
    draining = drained_by(Drain(5.0, "cancel", 5.0, stream_deadline_s=100.0), Drain(10.0, stream_deadline_s=5.0))
    assert draining.expire({"lease", "stream"}, 5.0) == USES
    assert draining.expire({"lease", "stream"}, 7.0) == frozenset()
    assert draining.expire({"lease", "stream"}, 10.0) == "quarantine"


def test_grace_counts_from_the_asking() -> None:
    """Where the loop was late, those who are asked have their time all the same."""
    limit = Limit(USES)
    limit.hurry(Drain(10.0, "cancel", grace_s=5.0), 10.0)
    assert limit.expire({"lease"}, 16.0) == "revoke"
    assert limit.deadline_s == 21.0
    assert limit.expire({"lease"}, 20.0) == "wait"


def test_a_kind_that_was_revoked_stays_so() -> None:
    """Whoever becomes revocable late is asked, also where another kind was revoked since; until the gate opens."""
    account, told = Account(), list[str]()
    stream = account.acquire(("stream", 0.0, None, None))
    assert stream is not None
    account.shut()
    account.revoke(STREAMS)
    account.revoke(USES)
    account.revoke(frozenset())
    account.revocable(stream, lambda: told.append("stream"))
    assert told == ["stream"]
    account.reopen()
    account.revocable(stream, lambda: told.append("again"))
    assert told == ["stream"]


async def test_a_request_that_is_revoked_in_the_queue_is_answered_by_who_stands_by(
    rig: Rig, autojump_clock: Any
) -> None:
    """The new version is taken back while a request waits in its queue: the old one answers, and nobody is blamed."""
    await rig.ready(execution="worker")
    rig.add("m", "2", execution="worker")
    rig.takes("worker m/2 0", 50.0)
    swap_id = rig.engine.start_swap("m", "2", plan=Shift.at_once(confirm_s=1_000.0), drain=Drain(0.0, "cancel", 0.0))
    await settle()
    requests = [Outcome(rig.engine.infer, "m", {"n": n}) for n in range(2)]
    async with running(*requests):
        rig.engine._host.revoke(next(it for it in rig.engine._host.living() if it.key.version == "2"))
        await settle()
        assert (requests[1].value.version, requests[1].value.fell_back) == ("1", True)
        assert rig.engine.swap_status(swap_id).guard is None
        rig.engine.abort(swap_id)
    assert falls_back(LeaseRevoked("in the queue", ran="no"))
    assert not falls_back(LeaseRevoked("running", ran="unknown"))


# --- trackers -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("entered", [True, False])
def test_a_second_release_does_not_take_what_another_holds(entered: bool) -> None:
    """Released twice, or never entered, a request's tracker gives nobody else's reference back under the same id."""
    tracker = ReferenceTracker()
    request = RequestTracker(tracker, "m", "1", "order-7")
    if entered:
        request.__enter__()
        request.release()
    with RequestTracker(tracker, "m", "1", "order-7"):
        with pytest.raises(ReferenceNotHeld, match="order-7"):
            request.release()
        assert tracker.count("m", "1") == 1
    assert tracker.audit().total.over_releases == 1


def test_a_wait_that_begins_while_its_version_is_forgotten_hears_it() -> None:
    """Forgotten in the very moment in which somebody joins who waits: he is told that it is gone."""
    tracker = ReferenceTracker()
    tracker.acquire("m", "1", "order-7")

    class Joined(set[Any]):
        def add(self, wait: Any) -> None:
            super().add(wait)
            tracker.forget("m", "1", force=True)

    tracker._world.waits._waiting = Joined()
    assert tracker.wait_for_zero_blocking("m", "1", 30.0).result == "gone"


def test_a_wait_for_what_is_used_anew_is_not_told_that_it_is_gone() -> None:
    """Only those hear that a version was forgotten who wait for holders of that time."""
    tracker = ReferenceTracker()
    for name in ("old", "new"):
        tracker.acquire("m", "1", name)
        tracker.forget("m", "1", force=True)
    tracker.release("m", "1", "old")
    tracker.acquire("m", "1", "newest")
    assert tracker.count("m", "1") == 2
    tracker.release("m", "1", "newest")
    tracker.forget("m", "1")  # and `new`, who was forgotten, is in nobody's way
    assert [holder.holder for holder in tracker.holders("m", "1")] == ["new"]


def test_books_that_are_closed_in_the_middle_of_a_count_come_right() -> None:
    """An account is struck out while a thread stands between two of its counts: the sum is that of the end."""
    books, key, account = ReferenceTracker()._world.books, VersionKey("m", "1"), Account()
    books.enter(key, account)
    ref = account.acquire(("lease", 0.0, None, None))
    assert ref is not None
    del account.held[ref]  # released, but not counted yet
    books.strike(key, account)
    assert not books.balances()[key].conserved
    next(account._releases)
    assert books.balances()[key] == Balance(1, 1, 0)
    assert books.balances()[key] == Balance(1, 1, 0)


async def test_a_copy_that_is_taken_back_says_nothing_of_its_version(rig: Rig, autojump_clock: Any) -> None:
    """Copies that wait in a queue while it is revoked were never sent, and are no failures of the version."""
    await two(rig, "worker")
    rig.takes("worker m/2 0", 5.0)
    swap_id = rig.engine.start_swap("m", "2", plan=Shift.canary([(1.0, 100.0)], shadow=True, guard=None))
    await settle()
    for n in range(3):
        await rig.engine.infer("m", {"n": n})
    rig.engine._host.revoke(rig.engine._host.books.of("m", "2")[0].owner)
    await settle()
    report = rig.engine.swap_status(swap_id).shadow
    assert report is not None
    assert (report.copied, report.failed, report.skipped) == (1, 0, 2)
    await rig.engine.rollback(swap_id)


def test_who_releases_last_waits_for_nobody() -> None:
    """The last release of a version that was retired writes its drain down while somebody else adds the books up."""
    tracker = ReferenceTracker()
    tracker.acquire("m", "1", "request")
    tracker.retire("m", "1")
    with tracker._world.books._lock:
        assert in_thread(tracker.release, "m", "1", "request") is None
    assert len(tracker.statistics()[VersionKey("m", "1")].drains_s) == 1


def assert_holds_in_a_fork(check: Callable[[], bool], *locks: AbstractContextManager[object]) -> None:
    """Fork while another thread holds locks; in the child, which has ten seconds, `check` must return True."""
    inside, over = threading.Event(), threading.Event()

    def hold() -> None:
        with ExitStack() as held:
            for lock in locks:
                held.enter_context(lock)
            inside.set()
            over.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    inside.wait()
    child = os.fork()
    if child == 0:
        signal.alarm(10)
        os._exit(0 if check() else 1)
    over.set()
    thread.join()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
@pytest.mark.parametrize("debug", [False, True])
def test_a_forked_process_can_go_on_with_a_tracker_of_its_own(debug: bool) -> None:
    """Forked while other threads hold its locks, a tracker that stands alone keeps what is held and can be used."""
    tracker = ReferenceTracker(debug_references=debug)
    tracker.acquire("m", "1", "request")
    books = tracker._world.books
    (account,) = books.of("m", "1")

    def goes_on() -> bool:
        tracker.acquire("n", "1", "another")
        tracker.release("m", "1", "request")
        return tracker.counts() == {("m", "1"): 0, ("n", "1"): 1}

    assert_holds_in_a_fork(goes_on, books._lock, getattr(account, "_lock", nullcontext()))
    assert tracker.count("m", "1") == 1


def test_a_forked_account_calls_the_watchers_of_its_own_threads() -> None:
    """A thread of the child may have the number of one of the parent's that was in the middle of a step."""
    account = RecordingAccount()
    ref = account.acquire(("request", 0.0, None, None))
    account._postponed[threading.get_ident()] = False  # as the copy has it, of a thread that is not there any more
    account.orphan()
    called: list[None] = []
    account.watch(lambda: called.append(None))
    account.release(ref)
    assert called == [None]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
def test_a_forked_process_can_look_into_the_books() -> None:
    """Forked while another thread adds up, the child's audit does not wait for that thread for ever."""
    with threads.open_engine() as engine:
        assert_holds_in_a_fork(lambda: engine.audit().clean, engine._host.books._lock)
