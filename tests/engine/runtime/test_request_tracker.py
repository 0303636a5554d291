"""One reference for a block: entered, left, left early, left by another thread, and forgotten."""

from __future__ import annotations

import gc
import threading
import warnings
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from changeover import Balance, ReferenceTracker, RequestTracker
from changeover.errors import AlreadyHeld, InvalidValue, ModelNotRegistered, ReferenceNotHeld, VersionNotLoaded
from tests.support.rig import Rig
from tests.support.threads import Crowd
from tests.support.trackers import KINDS, in_thread, open_tracker, until_watched


@pytest.fixture(params=KINDS)
async def tracker(request: pytest.FixtureRequest) -> AsyncGenerator[ReferenceTracker, None]:
    """Open a tracker of each kind."""
    async with open_tracker(request.param, real=True) as tracker:
        yield tracker
        assert tracker.audit().clean


async def test_nothing_is_held_before_the_block(tracker: ReferenceTracker) -> None:
    """Making one is no acquire; and one that was never entered is dropped in silence."""
    request = RequestTracker(tracker, "m", "1", "request")
    assert tracker.count("m", "1") == 0
    del request
    gc.collect()
    assert tracker.audit().total.acquired == 0


async def test_the_block_holds_one_reference(tracker: ReferenceTracker) -> None:
    """Under the caller's id, as a request; the block is given the tracker itself."""
    with RequestTracker(tracker, "m", "1", "order-7") as request:
        assert isinstance(request, RequestTracker)
        assert [(holder.kind, holder.holder) for holder in tracker.holders("m", "1")] == [("request", "order-7")]
    assert tracker.count("m", "1") == 0


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, GeneratorExit])
async def test_a_block_that_raises_gives_back(tracker: ReferenceTracker, error: type[BaseException]) -> None:
    """Whatever leaves the block goes on."""
    with pytest.raises(error), RequestTracker(tracker, "m", "1", "request"):
        raise error
    assert tracker.count("m", "1") == 0


async def test_a_block_is_entered_once_at_a_time(tracker: ReferenceTracker) -> None:
    """Entered inside of itself it is refused, still held, and left once; behind the block it may be entered again."""
    request = RequestTracker(tracker, "m", "1", "request")
    with request:
        with pytest.raises(AlreadyHeld, match="entered already"):
            request.__enter__()
        assert tracker.count("m", "1") == 1
    with request:
        assert tracker.count("m", "1") == 1
    assert tracker.audit().total == Balance(2, 2, 0)


async def test_a_block_that_cannot_begin_holds_nothing(tracker: ReferenceTracker) -> None:
    """Where the id is held already the block is refused, and its end does not take the other's reference."""
    with RequestTracker(tracker, "m", "1", "request"):
        other = RequestTracker(tracker, "m", "1", "request")
        with pytest.raises(AlreadyHeld, match="request"):
            other.__enter__()
        del other
        gc.collect()
        assert tracker.count("m", "1") == 1


async def test_a_release_by_hand_is_the_release(tracker: ReferenceTracker) -> None:
    """A second one, and the end of a block that was left so, raise, are counted and change nothing."""
    request = RequestTracker(tracker, "m", "1", "request").__enter__()
    request.release()
    assert tracker.count("m", "1") == 0
    with pytest.raises(ReferenceNotHeld, match="request"):
        request.release()
    with pytest.raises(ReferenceNotHeld, match="request"), RequestTracker(tracker, "m", "1", "request") as request:
        request.release()
    assert tracker.audit().total == Balance(2, 2, 0, over_releases=2)


async def test_another_thread_may_release(tracker: ReferenceTracker) -> None:
    """Of many threads that do it at once, one does."""
    for _ in range(30):
        request, crowd, refused = RequestTracker(tracker, "m", "1", "request").__enter__(), Crowd(), list[int]()

        def release(request: RequestTracker = request, refused: list[int] = refused) -> None:
            try:
                request.release()
            except ReferenceNotHeld:
                refused.append(1)

        for _ in range(3):
            crowd.add(release)
        crowd.start()
        crowd.join()
        assert (len(refused), tracker.count("m", "1")) == (2, 0)


async def test_one_that_is_forgotten_gives_back_and_says_so(tracker: ReferenceTracker) -> None:
    """A `ResourceWarning` names the request, and the version is free."""
    request = RequestTracker(tracker, "m", "1", "order-7").__enter__()
    with pytest.warns(ResourceWarning, match="'order-7' was dropped without being released"):
        del request  # and nothing else knows it
    assert tracker.audit().total == Balance(1, 1, 0)


async def test_one_that_is_forgotten_gives_back_where_the_warning_is_an_error(
    tracker: ReferenceTracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reference is given back first, so that a strict program leaks nothing."""
    hooked: list[Any] = []
    monkeypatch.setattr("sys.unraisablehook", hooked.append)
    request = RequestTracker(tracker, "m", "1", "request").__enter__()
    with warnings.catch_warnings():
        warnings.simplefilter("error", ResourceWarning)
        del request
        gc.collect()
    assert [unraisable.exc_type for unraisable in hooked] == [ResourceWarning]
    assert tracker.count("m", "1") == 0
    hooked.clear()


async def test_one_forgotten_in_a_thread_wakes_who_waits(tracker: ReferenceTracker) -> None:
    """What the garbage collector gives back is a release as any other."""
    held = [RequestTracker(tracker, "m", "1", "request").__enter__()]
    outcomes: list[Any] = []
    waiting = threading.Thread(target=lambda: outcomes.append(tracker.wait_for_zero_blocking("m", "1", 60.0)))
    waiting.start()
    until_watched(tracker)
    with pytest.warns(ResourceWarning, match="request"):
        held.clear()
    waiting.join(30)
    assert [outcome.result for outcome in outcomes] == ["zero"]


def test_one_that_could_not_be_made_is_dropped_in_silence() -> None:
    """An argument too few is a `TypeError`, and nothing else."""
    tracker: Any = ReferenceTracker()
    with pytest.raises(TypeError, match="request_id"):
        RequestTracker(tracker, "m", "1")  # type: ignore[call-arg]
    gc.collect()


def test_a_block_of_no_text_is_refused() -> None:
    """When it is entered, by name; nothing is held and nothing is made known."""
    tracker = ReferenceTracker()
    for names, culprit in ((("", "1", "r"), "model"), (("m", 5, "r"), "version"), (("m", "1", None), "request_id")):
        entered: Any = RequestTracker(tracker, *names)  # type: ignore[arg-type]
        with pytest.raises(InvalidValue, match=f"^{culprit} must"), entered:
            raise AssertionError("it was entered")
    assert tracker.counts() == {}


async def test_a_block_needs_a_version_that_can_be_held(rig: Rig, autojump_clock: Any) -> None:
    """On an engine it must be loaded; alone it must not be retired."""
    rig.add()
    with pytest.raises(VersionNotLoaded), RequestTracker(rig.engine.references, "m", "1", "request"):
        raise AssertionError("it was entered")
    with pytest.raises(ModelNotRegistered), RequestTracker(rig.engine.references, "nobody", "1", "request"):
        raise AssertionError("it was entered")
    tracker = ReferenceTracker()
    tracker.retire("m", "1")
    with pytest.raises(VersionNotLoaded), RequestTracker(tracker, "m", "1", "request"):
        raise AssertionError("it was entered")


async def test_a_block_is_left_behind_the_end_of_its_version() -> None:
    """Forgotten by force, or used anew meanwhile: each block still ends by its own release."""
    tracker = ReferenceTracker()
    with RequestTracker(tracker, "m", "1", "old"):
        tracker.forget("m", "1", force=True)
        with RequestTracker(tracker, "m", "1", "new"):
            assert tracker.count("m", "1") == 2
        assert in_thread(tracker.count, "m", "1") == 1
    assert tracker.audit().total == Balance(2, 2, 0)
