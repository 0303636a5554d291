"""The oracle of promise 3 finds references that are lost, given back twice, miscounted, or held by nobody."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from changeover.core.ledger import Account, RecordingAccount
from changeover.core.messages import RefId
from changeover.errors import ReferenceNotHeld
from changeover.runtime.inference import Inference
from changeover.runtime.lease import Lease
from changeover.runtime.references import ReferenceTracker
from changeover.runtime.streaming import Stream
from changeover.runtime.worker import Request
from changeover_sim.oracles.promise_03_conserved import Promise03Conserved
from changeover_sim.simulate.shape import Shape
from tests.simulations.oracles.small_runs import assert_found, assert_silent, parts, shape

LEASED = shape((("leaser", 2), ("waiting leaser", 2), ("set leaser", 1), ("thread", 1)), parts("1", "2"))
TRACKED = shape((("tracker", 4),), parts("1"), horizon_s=6.0)
"""Some of whom give back twice."""
CANCELLED = shape((("asker", 4),), parts("1", execution="worker", predict_s=(0.5,)), faults=["cancel"])
STREAMED = shape((("streamer", 3),), parts("1", execution="worker", predict_s=(0.25,)), faults=["cancel", "disconnect"])
DRAINED = shape((("leaser", 3), ("asker", 2), ("unloader", 2), ("loader", 2)), parts("1", "2"), force=1.0)


@pytest.mark.parametrize("small", [LEASED, TRACKED, CANCELLED, STREAMED, DRAINED])
def test_silent(small: Shape) -> None:
    """Nothing is wrong with the engine as it is, nor with actors who give back twice on purpose."""
    assert_silent(Promise03Conserved, small)


def test_a_reference_that_is_never_given_back_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A caller who leaves the queue takes his request with him; one who leaves its reference behind leaks it."""

    def leave(inference: Inference, request: Request) -> None:
        inference._left = request
        inference._home.forget(request)
        request.withdrawn = request.account.owner.lane.withdraw(request)
        inference._dismiss()

    monkeypatch.setattr(Inference, "leave", leave)
    assert_found(Promise03Conserved, CANCELLED, "held for ever: a/1: request")


def test_a_stream_that_is_never_let_go_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream whose reader has had enough lets go of its version."""

    def end(stream: Stream) -> None:
        stream._run, stream._is_over = None, True
        stream._dismiss()

    monkeypatch.setattr(Stream, "_end", end)
    assert_found(Promise03Conserved, STREAMED, "held for ever: a/1: stream")


def test_a_release_too_many_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who gives back twice is refused, and counted; where no actor did so, the engine has."""
    release = Lease.release

    def twice(lease: Lease) -> None:
        ref = lease._ref
        release(lease)
        try:
            lease._account.release(ref)
        except ReferenceNotHeld:
            return

    monkeypatch.setattr(Lease, "release", twice)
    assert_found(Promise03Conserved, LEASED, "were given back and not held, by actors only 0")


def test_a_count_that_is_off_is_found_at_that_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Acquired is released and held together, at every step."""

    def forget(account: RecordingAccount, ref: RefId | None) -> None:
        release(account, ref)
        if isinstance(ref, int) and ref % 5 == 4:
            account._releases = itertools.count(next(account._releases) - 1)

    release = RecordingAccount.release
    monkeypatch.setattr(RecordingAccount, "release", forget)
    assert_found(Promise03Conserved, CANCELLED, "given back")


def test_a_message_that_was_not_written_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """What an account holds is the fold over its messages: one that is left out shows."""

    def silently(account: RecordingAccount, ref: RefId | None) -> None:
        Account.release(account, ref)

    monkeypatch.setattr(RecordingAccount, "release", silently)
    assert_found(Promise03Conserved, LEASED, "the messages say")


def test_a_reference_that_nobody_has_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lease that is given back a moment late is held by nobody meanwhile."""
    release, late = RecordingAccount.release, list[tuple[RecordingAccount, RefId | None]]()

    def later(account: RecordingAccount, ref: RefId | None) -> None:
        late.append((account, ref))
        if len(late) > 1:
            release(*late.pop(0))

    monkeypatch.setattr(RecordingAccount, "release", later)
    assert_found(Promise03Conserved, LEASED, "actors say that they hold")


def test_a_reference_that_somebody_has_and_the_account_has_not_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reference that is struck out as soon as it is taken is held by its actor only."""
    acquire = ReferenceTracker.acquire

    def hold_nothing(tracker: ReferenceTracker, model: str, version: str, request_id: str) -> Any:
        acquire(tracker, model, version, request_id)
        for account in tracker._of(model, version):
            account.release(request_id)

    def give_back(*_what: Any) -> None:
        """Take no offence."""

    monkeypatch.setattr(ReferenceTracker, "acquire", hold_nothing)
    monkeypatch.setattr(ReferenceTracker, "release", give_back)
    assert_found(Promise03Conserved, TRACKED, "actors say that they hold ['reference")


def test_a_stream_that_is_not_held_while_it_is_read_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream holds its version until its block ends."""
    take, release = Stream.take, RecordingAccount.release

    def let_go(stream: Stream, request: Request) -> Any:
        run = stream._run
        pulled = take(stream, request)
        if run is not None and run.ref in run.account.held:
            assert isinstance(run.account, RecordingAccount)
            release(run.account, run.ref)
        return pulled

    def release_once(account: RecordingAccount, ref: RefId | None) -> None:
        if ref in account.held:
            release(account, ref)

    monkeypatch.setattr(Stream, "take", let_go)
    monkeypatch.setattr(RecordingAccount, "release", release_once)
    assert_found(Promise03Conserved, STREAMED, "are read, and")
