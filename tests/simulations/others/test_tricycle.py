"""tricycle 0.4.1: a lock for readers and writers, service nurseries, buffered streams."""

from __future__ import annotations

import pytest
import tricycle
import trio
import trio.testing

from changeover_sim import cancel_anywhere
from tests.simulations.others import patterns
from tests.simulations.others.record import (
    Finding,
    Program,
    assert_fails_again,
    assert_found,
    assert_well,
    at_rest,
    cancel_later,
    checkpoint,
)


async def cancelled_writer() -> None:
    """Readers behind a writer that gave up go on where they stand in line, before those who come later."""
    lock, scope, read = tricycle.RWLock(), trio.CancelScope(), list[str]()

    async def reader(name: str) -> None:
        async with lock.read_locked():
            read.append(name)
            await trio.sleep_forever()

    async def writer() -> None:
        with scope:
            await lock.acquire_write()
            lock.release()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(reader, "first")
        nursery.start_soon(writer)
        nursery.start_soon(reader, "second")
        nursery.start_soon(cancel_later, scope)
        await at_rest()
        nursery.start_soon(reader, "late")
        await at_rest()
        assert "late" not in read or "second" in read, "a late reader is in, and one that waits is not"
        nursery.cancel_scope.cancel()


async def bias_under_writer() -> None:
    """Whatever is set meanwhile, a writer is alone."""
    lock = tricycle.RWLock()

    async def writer() -> None:
        async with lock.write_locked():
            await checkpoint()
            assert not lock.statistics().readers, "a reader is in with the writer"

    async def reader() -> None:
        async with lock.read_locked():
            await checkpoint()
            assert not lock.statistics().writer, "a reader is in with the writer"

    async def prefer_readers() -> None:
        lock.read_biased = True

    async with trio.open_nursery() as nursery:
        for task in (writer, reader, prefer_readers):
            nursery.start_soon(task)


FOUND = (
    Finding(
        "tricycle==0.4.1",
        "RWLock",
        cancelled_writer,
        "a reader that waits behind a writer sleeps on when that writer is cancelled, while readers that come later "
        "get in: the writer's `abort_fn` in `_rwlock.py` counts it out and wakes nobody",
        "if task A tried to acquire the lock before task B did, task B won't get it first",
        "AssertionError: a late reader is in, and one that waits is not",
    ),
    Finding(
        "tricycle==0.4.1",
        "RWLock.read_biased",
        bias_under_writer,
        "setting `read_biased` while a writer holds the lock lets all waiting readers in with it: the setter in "
        "`_rwlock.py` wakes them whoever holds the lock",
        "the lock may be held by one writer and no readers, by many readers and no writer, or by no one",
        "AssertionError: a reader is in with the writer",
        known="asked as a question: oremanj/tricycle#22",
    ),
)


# --- what goes well ---------------------------------------------------------------------------------------------------


async def readers_and_writers() -> None:
    """Nobody is in with a writer, whoever is cancelled; afterwards nobody is."""
    lock, inside = tricycle.RWLock(), list[str]()

    async def task(kind: str, *, patient: bool) -> None:
        with trio.CancelScope() as scope:
            if not patient:
                cancel_anywhere(scope)
            async with lock.write_locked() if kind == "writer" else lock.read_locked():
                inside.append(kind)
                try:
                    assert inside == ["writer"] or "writer" not in inside
                    await checkpoint()
                finally:
                    inside.remove(kind)

    async with trio.open_nursery() as nursery:
        for kind, patient in (("reader", True), ("writer", False), ("reader", False), ("writer", True)):
            nursery.start_soon(lambda kind=kind, patient=patient: task(kind, patient=patient))
    assert not lock.locked()


async def service_nursery() -> None:
    """No child is cancelled before the body has been left, wherever the cancellation comes from."""
    left = False

    async def service(task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        try:
            task_status.started()
            await trio.sleep_forever()
        finally:
            assert left, "the service ended under its user"

    with trio.CancelScope() as scope:
        cancel_anywhere(scope)
        async with tricycle.open_service_nursery() as nursery:
            try:
                nursery.start_soon(service)
                with trio.CancelScope(shield=True):
                    await nursery.start(service)
                scope.cancel()
                await checkpoint()
            finally:
                with trio.CancelScope(shield=True):
                    await checkpoint()
                left = True


async def buffered() -> None:
    """What a cancelled `receive` had already read comes with the next."""
    sender, receiver = trio.testing.memory_stream_one_way_pair()
    stream, got, cancellable = tricycle.BufferedReceiveStream(receiver, 2), b"", 2

    async def send() -> None:
        for part in (b"abc", b"def", b"gh"):
            await sender.send_all(part)
        await sender.aclose()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        while True:
            with trio.CancelScope() as scope:
                if cancellable:
                    cancellable -= 1
                    cancel_anywhere(scope)
                data = await stream.receive(3)
                if not data:
                    break
                got += data
    assert got == b"abcdefgh"


WELL = (
    patterns.mutual_exclusion("writers", lambda: Writing(tricycle.RWLock())),
    readers_and_writers,
    service_nursery,
    buffered,
)


class Writing:
    """The lock, for writing."""

    def __init__(self, lock: tricycle.RWLock) -> None:
        self._lock = lock

    async def __aenter__(self) -> None:
        await self._lock.acquire_write()

    async def __aexit__(self, *exc: object) -> None:
        self._lock.release()


@pytest.mark.parametrize("finding", FOUND, ids=str)
def test_what_was_found_fails_again_and_is_found_again(finding: Finding) -> None:
    """The schedule that is kept fails in the same way, and a random walk comes to the same."""
    assert_fails_again(finding)
    assert_found(finding)


@pytest.mark.parametrize("program", WELL, ids=lambda program: program.__name__)
def test_the_rest_goes_well(program: Program, part: int) -> None:
    """No schedule of these fails."""
    assert_well(program, part)
