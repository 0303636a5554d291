"""`cancel_anywhere`: where a cancellation is delivered is one of the decisions, at every checkpoint that there is."""

from __future__ import annotations

from collections import Counter

import pytest
import trio
from trio.lowlevel import checkpoint

from changeover_sim import PCT, Exhaustive, RandomWalk, cancel_anywhere, explore
from tests.simulations.explorer.orders import IN_ORDER, every


@pytest.mark.parametrize("checkpoints", [0, 1, 2, 20])
def test_every_checkpoint_is_reached_and_so_is_the_end(checkpoints: int) -> None:
    """With k checkpoints: cancelled behind 0, 1, ... k - 1 of them, and never. Each ending is one schedule, once."""
    ends: Counter[tuple[int, bool]] = Counter()

    async def program() -> None:
        passed = 0
        with trio.CancelScope() as scope:
            await trio.lowlevel.cancel_shielded_checkpoint()
            cancel_anywhere(scope)
            for _ in range(checkpoints):
                await checkpoint()
                passed += 1
        ends[passed, scope.cancelled_caught] += 1

    assert every(program) == checkpoints + 2
    cancelled = {(passed, True) for passed in range(checkpoints)}
    assert set(ends) == {*cancelled, (checkpoints, False)}


def test_the_moments_come_in_the_order_of_the_program() -> None:
    """First never, then the last moment, and so back to the first: a depth-first search over no and yes."""
    told: list[int] = []

    async def program() -> None:
        passed = 0
        with trio.CancelScope() as scope:
            cancel_anywhere(scope)
            for _ in range(5):
                await checkpoint()
                passed += 1
        told.append(passed)

    every(program)
    assert list(dict.fromkeys(told)) == [5, 4, 3, 2, 1, 0]


def test_a_wait_can_be_cancelled_while_it_waits_and_when_it_was_woken() -> None:
    """One wait has three moments: at once, parked, and woken without having run; and then there is never.

    Woken is too late for Trio: the wait returns, and the cancellation comes at the checkpoint behind it.
    """
    ends: list[tuple[bool, bool, bool]] = []

    async def program() -> None:
        event = trio.Event()

        async def waiter() -> None:
            returned = early = False
            with trio.CancelScope() as scope:
                cancel_anywhere(scope)
                await event.wait()
                returned, early = True, scope.cancel_called
                await checkpoint()
            ends.append((returned, early, scope.cancelled_caught))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(waiter)
            nursery.start_soon(sets, event)

    every(program)
    assert set(ends) == {(False, False, True), (True, True, True), (True, False, True), (True, False, False)}


async def sets(event: trio.Event) -> None:
    """Set an event."""
    event.set()


def test_a_lock_that_was_handed_over_can_be_cancelled_before_its_new_owner_has_run() -> None:
    """The classic: the lock is his, he does not know it yet, and he is cancelled. He must give it back all the same."""
    seen: set[str] = set()

    async def program() -> None:
        lock = trio.Lock()

        async def holder() -> None:
            async with lock:
                await checkpoint()

        async def wanter() -> None:
            with trio.CancelScope() as scope:
                cancel_anywhere(scope)
                async with lock:
                    seen.add("woken and cancelled" if scope.cancel_called else "woken")
                    await checkpoint()
                    seen.add("through")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(holder)
            nursery.start_soon(wanter)
        assert not lock.locked()

    every(program)
    assert seen == {"woken", "woken and cancelled", "through"}


class Baton:
    """Hands itself to whoever has waited longest, and forgets that he may be gone before he knows of it."""

    def __init__(self) -> None:
        self._free = False
        self._waiting: list[trio.Event] = []

    async def acquire(self) -> None:
        """Wait for it; whoever is cancelled while he waits stands in nobody's way."""
        if not self._free:
            mine = trio.Event()
            self._waiting.append(mine)
            try:
                await mine.wait()
                await checkpoint()
            finally:
                if mine in self._waiting:
                    self._waiting.remove(mine)
        self._free = False

    def release(self) -> None:
        """Give it to the first in line, or to nobody."""
        if self._waiting:
            self._waiting.pop(0).set()
        else:
            self._free = True


def test_what_is_lost_when_the_woken_is_cancelled_is_found() -> None:
    """A baton is handed to whoever waits; if he is cancelled between being woken and going on, it is gone for ever."""

    async def program() -> None:
        baton = Baton()

        async def patient() -> None:
            await baton.acquire()
            baton.release()

        async def impatient() -> None:
            with trio.CancelScope() as scope:
                cancel_anywhere(scope)
                await patient()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(impatient)
            nursery.start_soon(patient)
            await trio.sleep(1)
            baton.release()

    for policy in (IN_ORDER, RandomWalk(), PCT(3)):
        failure = explore(program, policy=policy, schedules=500).failure
        assert failure is not None
        assert failure.verdict == "deadlock"


def test_only_tasks_inside_are_asked_for() -> None:
    """A hundred checkpoints beside the scope add no moment: with two of its own there are four schedules."""

    async def program() -> None:
        async def beside() -> None:
            for _ in range(100):
                await checkpoint()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(beside)
            with trio.CancelScope() as scope:
                cancel_anywhere(scope)
                await checkpoint()
                await checkpoint()

    assert every(program) == 4


def test_every_task_inside_is_asked_for() -> None:
    """Two children with two checkpoints each: the scope is cancelled whenever one has parked, and both are told.

    In order they take turns. With delays one of them may have ended when the other is cancelled at its last.
    """
    ends: set[tuple[int, int]] = set()

    async def program() -> None:
        passed = {"a": 0, "b": 0}

        async def child(letter: str) -> None:
            for _ in range(2):
                await checkpoint()
                passed[letter] += 1

        async with trio.open_nursery() as nursery:
            cancel_anywhere(nursery.cancel_scope)
            nursery.start_soon(child, "a")
            nursery.start_soon(child, "b")
        ends.add((passed["a"], passed["b"]))

    every(program)
    assert ends >= {(0, 0), (1, 0), (1, 1), (2, 2)}
    every(program, policy=Exhaustive(2))
    assert ends >= {(2, 1), (1, 2)}


def test_what_is_shielded_is_not_disturbed() -> None:
    """Cancelled before or within, a shielded part goes on to its end; then the cancellation is there."""
    ends: set[tuple[str, ...]] = set()

    async def program() -> None:
        log: list[str] = []
        with trio.CancelScope() as scope:
            cancel_anywhere(scope)
            await checkpoint()
            log.append("before")
            with trio.CancelScope(shield=True):
                await checkpoint()
                await trio.sleep(1)
                log.append("shielded")
            await checkpoint()
            log.append("behind")
        ends.add(tuple(log))

    every(program)
    assert ends == {(), ("before", "shielded"), ("before", "shielded", "behind")}


def test_a_scope_that_was_left_is_not_asked_for_any_more() -> None:
    """Behind its end there is no moment left: one checkpoint inside, a hundred behind, three schedules."""

    async def program() -> None:
        with trio.CancelScope() as scope:
            cancel_anywhere(scope)
            await checkpoint()
        called = scope.cancel_called
        for _ in range(100):
            await checkpoint()
            assert scope.cancel_called == called

    assert every(program) == 3


def test_a_scope_that_is_cancelled_anyway_is_not_asked_for_any_more() -> None:
    """The program itself was first: once more would change nothing, and is no further schedule."""

    async def program() -> None:
        with trio.CancelScope() as scope:
            cancel_anywhere(scope)
            scope.cancel()
            for _ in range(10):
                with trio.CancelScope(shield=True):
                    await checkpoint()

    assert every(program) == 2


def test_a_sleep_can_be_cut_short() -> None:
    """Cancelled before the deadline, no time has passed; else it has."""
    ends: set[tuple[bool, float]] = set()

    async def program() -> None:
        with trio.CancelScope() as scope:
            cancel_anywhere(scope)
            await trio.sleep(60)
        ends.add((scope.cancelled_caught, trio.current_time()))

    every(program)
    assert ends == {(True, 0.0), (False, 60.0)}


def test_a_thread_that_is_waited_for_is_a_checkpoint_too() -> None:
    """With `abandon_on_cancel` the wait ends at once; without, the thread is finished first."""
    for abandon in (True, False):
        ends: set[tuple[bool, bool]] = set()

        async def program(abandon: bool = abandon, ends: set[tuple[bool, bool]] = ends) -> None:
            done: list[None] = []
            with trio.CancelScope() as scope:
                cancel_anywhere(scope)
                await trio.to_thread.run_sync(done.append, None, abandon_on_cancel=abandon)
                await checkpoint()
            ends.add((bool(done), scope.cancelled_caught))

        every(program)
        assert ends == {(False, True), (True, True), (True, False)}
