"""Debug mode: references as messages, a ring of them for each version, and as lines of the log."""

from __future__ import annotations

import itertools
import logging
import threading
from collections.abc import AsyncGenerator
from contextlib import suppress
from typing import Any

import pytest
import trio

from changeover import Acquire, ReferenceTracker, Release, VersionKey
from changeover.core.ledger import MESSAGES_KEPT
from changeover.core.messages import fold
from changeover.errors import AlreadyHeld, InvalidValue, ReferenceNotHeld
from tests.support.rig import open_rig
from tests.support.threads import Crowd
from tests.support.trackers import KINDS, in_thread, open_tracker

KEY = VersionKey("m", "1")
NAME = "changeover.references"


@pytest.fixture(params=KINDS)
async def tracker(request: pytest.FixtureRequest) -> AsyncGenerator[ReferenceTracker, None]:
    """Open a tracker of each kind, in debug mode."""
    async with open_tracker(request.param, real=True, debug=True) as tracker:
        yield tracker


def assert_told(tracker: ReferenceTracker) -> None:
    """The messages of m/1 fold to its balance, and to those who hold it."""
    balance, held = fold(tracker.messages("m", "1"))
    assert balance == tracker.audit().balances[KEY]
    assert list(held) == [holder.holder for holder in tracker.holders("m", "1")]


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return what was logged about references."""
    return [record.getMessage() for record in caplog.records if record.name == NAME]


# --- messages -------------------------------------------------------------------------------------------------------


async def test_every_message_says_who_when_where_and_in_which_thread(tracker: ReferenceTracker) -> None:
    """Taken here and given back in another thread, and once too often."""
    tracker.acquire("m", "1", "order-7")
    thread = threading.Thread(target=tracker.release, args=("m", "1", "order-7"), name="another")
    thread.start()
    thread.join()
    with pytest.raises(ReferenceNotHeld):
        tracker.release("m", "1", "order-7")
    taken, given, wrong = tracker.messages("m", "1")
    assert isinstance(taken, Acquire)
    assert (taken.ref, taken.kind, taken.thread) == ("order-7", "request", "MainThread")
    assert taken.where is not None
    assert "test_reference_log.py:" in taken.where
    assert isinstance(given, Release)
    assert (given.ref, given.thread, given.was_held) == ("order-7", "another", True)
    assert isinstance(wrong, Release)
    assert (wrong.thread, wrong.was_held) == ("MainThread", False)
    assert taken.at_s <= given.at_s <= wrong.at_s
    assert_told(tracker)


async def test_each_message_prints_as_one_line(tracker: ReferenceTracker) -> None:
    """For people: time, what happened, to whom, and where."""
    with suppress(ReferenceNotHeld):
        tracker.acquire("m", "1", "order-7")
        tracker.release("m", "1", "order-7")
        tracker.release("m", "1", "order-7")
    told = [str(message) for message in tracker.messages("m", "1")]
    assert [line.split(" s  ")[1].split("  ")[0] for line in told] == ["acquired", "released", "not held"]
    assert all("order-7" in line and "\n" not in line for line in told)


async def test_a_holder_says_where_and_in_which_thread(tracker: ReferenceTracker) -> None:
    """In debug mode the line that took it, and the thread that did."""
    thread = threading.Thread(target=tracker.acquire, args=("m", "1", "order-7"), name="another")
    thread.start()
    thread.join()
    (holder,) = tracker.holders("m", "1")
    assert holder.thread == "another"
    assert str(holder).startswith("request order-7 (0.0 s, in thread another, taken at ")
    tracker.release("m", "1", "order-7")


async def test_an_acquire_that_is_refused_is_no_message(tracker: ReferenceTracker) -> None:
    """An id that is held, and a name that is none."""
    tracker.acquire("m", "1", "order-7")
    with pytest.raises(AlreadyHeld):
        tracker.acquire("m", "1", "order-7")
    with pytest.raises(InvalidValue):
        tracker.acquire("m", "1", "")
    assert len(tracker.messages("m", "1")) == 1
    tracker.release("m", "1", "order-7")
    assert_told(tracker)


async def test_messages_are_kept_in_a_ring(tracker: ReferenceTracker) -> None:
    """The last 10,000, whatever they are; the balance goes on."""
    for number in range(MESSAGES_KEPT):
        tracker.acquire("m", "1", str(number))
        tracker.release("m", "1", str(number))
    told = tracker.messages("m", "1")
    assert (len(told), told[0].ref, told[-1].ref) == (MESSAGES_KEPT, str(MESSAGES_KEPT // 2), str(MESSAGES_KEPT - 1))
    assert tracker.audit().total.acquired == MESSAGES_KEPT


async def test_messages_are_of_each_version(tracker: ReferenceTracker) -> None:
    """A version that nobody used has none, and a name that is none is refused."""
    assert tracker.messages("m", "2") == ()
    bad: Any = []
    with pytest.raises(InvalidValue, match="version"):
        tracker.messages("m", bad)


async def test_messages_fold_to_the_balance_after_many_threads(tracker: ReferenceTracker) -> None:
    """Threads that share ids, and release what others hold, leave a log that tells what happened."""
    crowd = Crowd()

    def work(number: int) -> None:
        for turn in range(80):
            with suppress(AlreadyHeld):
                tracker.acquire("m", "1", f"shared {turn % 3}")
            with suppress(ReferenceNotHeld):
                tracker.release("m", "1", f"shared {(turn + number) % 3}")

    for number in range(6):
        crowd.add(work, number)
    crowd.start()
    await trio.to_thread.run_sync(crowd.join)
    assert_told(tracker)
    _, held = fold(tracker.messages("m", "1"))
    for ref in held:
        tracker.release("m", "1", str(ref))
    assert_told(tracker)


async def test_a_wrong_release_that_meets_an_acquire_is_told_as_it_happened(tracker: ReferenceTracker) -> None:
    """Either it was wrong, and the new holder holds, or it was right: the log and the balance agree which."""
    tracker.acquire("m", "1", "another")
    (account,) = tracker._world.books.of("m", "1")
    acquirer = threading.Thread(target=tracker.acquire, args=("m", "1", "order-7"), daemon=True)

    class Slow(dict[Any, Any]):
        def __delitem__(self, ref: Any) -> None:
            if acquirer.ident is None:
                acquirer.start()  # in the moment between the look and the deed
                acquirer.join(0.05)
            super().__delitem__(ref)

    account.held = Slow(account.held)
    with suppress(ReferenceNotHeld):
        tracker.release("m", "1", "order-7")
    acquirer.join(30)
    assert_told(tracker)
    for holder in tracker.holders("m", "1"):
        tracker.release("m", "1", holder.holder)


# --- incarnations ---------------------------------------------------------------------------------------------------


async def test_messages_go_on_over_the_incarnations_of_a_version() -> None:
    """On an engine: loaded, used, unloaded, loaded again; alone: forgotten and used anew."""
    async with open_rig(real=True, debug_references=True) as rig:
        await rig.ready()
        tracker = rig.engine.references
        for name in ("first", "second"):
            tracker.acquire("m", "1", name)
            await rig.engine.infer("m", {})
            with rig.engine.lease("m"):
                pass
            tracker.release("m", "1", name)
            await rig.engine.unload("m", "1", force=True)
            await rig.engine.load("m", "1")
        tracker.acquire("m", "1", "third")
        told = tracker.messages("m", "1")
        assert [m.ref for m in told if isinstance(m.ref, str)] == ["first", "first", "second", "second", "third"]
        assert [m.kind for m in told if isinstance(m, Acquire)].count("lease") == 2
        assert_told(tracker)
        tracker.release("m", "1", "third")
    alone = ReferenceTracker(debug_references=True)
    for force in (False, True):
        alone.acquire("m", "1", "request")
        if not force:
            alone.release("m", "1", "request")
        alone.forget("m", "1", force=force)
    alone.acquire("m", "1", "request")
    alone.release("m", "1", "request")  # the one that was forgotten by force
    assert [type(message) for message in alone.messages("m", "1")] == [Acquire, Release, Acquire, Release, Acquire]
    assert fold(alone.messages("m", "1"))[0] == alone.audit().balances[KEY]


async def test_the_ring_is_one_for_all_incarnations() -> None:
    """A version that comes and goes keeps no more messages than one that stays."""
    tracker = ReferenceTracker(debug_references=True)
    numbers = itertools.count()
    for _ in range(3):
        for _ in range(MESSAGES_KEPT // 4 + 100):
            name = str(next(numbers))
            tracker.acquire("m", "1", name)
            tracker.release("m", "1", name)
        tracker.forget("m", "1")
        assert len(tracker.messages("m", "1")) <= MESSAGES_KEPT
    assert (len(tracker.messages("m", "1")), tracker.messages("m", "1")[-1].ref) == (MESSAGES_KEPT, name)


# --- the log --------------------------------------------------------------------------------------------------------


async def test_each_message_is_a_line_of_the_log(tracker: ReferenceTracker, caplog: pytest.LogCaptureFixture) -> None:
    """Three constant names at debug level, so that a reader can search for them."""
    caplog.set_level(logging.DEBUG, NAME)
    tracker.acquire("m", "1", "order-7")
    tracker.release("m", "1", "order-7")
    with pytest.raises(ReferenceNotHeld):
        tracker.release("m", "1", "order-7")
    taken, given, wrong = lines(caplog)
    assert taken.startswith("reference_acquired m/1 kind=request ref=order-7 where=")
    assert "test_reference_log.py:" in taken
    assert given == "reference_released m/1 ref=order-7"
    assert wrong == "reference_not_held m/1 ref=order-7"
    assert {record.levelno for record in caplog.records if record.name == NAME} == {logging.DEBUG}


async def test_what_an_engine_does_itself_is_logged_by_number(caplog: pytest.LogCaptureFixture) -> None:
    """Requests and leases without an id of the caller's have numbers."""
    async with open_rig(real=True, debug_references=True) as rig:
        await rig.ready()
        caplog.set_level(logging.DEBUG, NAME)
        await rig.engine.infer("m", {})
        with rig.engine.lease("m"):
            pass
    told = lines(caplog)
    assert [line.split(" where")[0] for line in told] == [
        "reference_acquired m/1 kind=request ref=#0",
        "reference_released m/1 ref=#0",
        "reference_acquired m/1 kind=lease ref=#1",
        "reference_released m/1 ref=#1",
    ]


@pytest.mark.parametrize("kind", KINDS)
async def test_nothing_is_logged_without_debug_mode(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    """However loud the log is."""
    caplog.set_level(logging.DEBUG)
    async with open_tracker(kind, real=True) as tracker:
        tracker.acquire("m", "1", "order-7")
        tracker.release("m", "1", "order-7")
    assert lines(caplog) == []


async def test_a_log_handler_may_use_the_tracker(tracker: ReferenceTracker) -> None:
    """It is called outside of every lock: another thread acquires while a handler holds the first one up."""
    found: list[object] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "order-7" in record.getMessage() and not found:
                found.append(in_thread(tracker.acquire, "m", "1", "from the handler"))

    handler, logger = Handler(), logging.getLogger(NAME)
    handler.createLock = lambda: None  # type: ignore[method-assign]
    handler.lock = None
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    try:
        tracker.acquire("m", "1", "order-7")
        assert tracker.count("m", "1") == 2
    finally:
        logger.removeHandler(handler)
        logger.setLevel(logging.NOTSET)
    tracker.release("m", "1", "order-7")
    tracker.release("m", "1", "from the handler")
    assert_told(tracker)
