"""Virtual time stands still while anything can run, is exact, takes no real time, and begins at 0 in each schedule."""

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.testing
from trio.lowlevel import checkpoint

from changeover_sim import Exhaustive, RandomWalk
from tests.simulations.explorer.orders import Say, must_pass, orders_of

YEAR_S = 365 * 86_400.0
BOTH_MODES = pytest.mark.parametrize("mode", ["any-runnable", "trio-batch"])


# --- the clock --------------------------------------------------------------------------------------------------------


@BOTH_MODES
def test_sleeping_is_exact(mode: Any) -> None:
    """Whoever sleeps wakes at the very second, after a nap or after years."""

    async def program() -> None:
        assert trio.current_time() == 0.0
        for seconds in (0.1, 1, 3_600, 1_000 * YEAR_S):
            before = trio.current_time()
            await trio.sleep(seconds)
            assert trio.current_time() == before + seconds
        await trio.sleep_until(2_000 * YEAR_S)
        assert trio.current_time() == 2_000 * YEAR_S

    must_pass(program, mode=mode)


@BOTH_MODES
def test_sleepers_wake_in_the_order_of_their_deadlines(mode: Any) -> None:
    """Side by side, not one after the other: ten sleepers are done when the longest is."""

    async def program() -> None:
        woken: list[float] = []

        async def sleeper(seconds: float) -> None:
            await trio.sleep(seconds)
            assert trio.current_time() == seconds
            woken.append(seconds)

        async with trio.open_nursery() as nursery:
            for seconds in (5, 3, 9, 1, 8, 2, 7, 4, 6, 10):
                nursery.start_soon(sleeper, seconds)
        assert woken == sorted(woken)
        assert trio.current_time() == 10

    must_pass(program, mode=mode, policy=RandomWalk(), schedules=100)


def test_each_schedule_begins_at_zero() -> None:
    """However far the one before has come."""
    began: list[float] = []

    async def program() -> None:
        began.append(trio.current_time())
        await trio.sleep(1_000)

    must_pass(program, policy=RandomWalk(), schedules=50)
    assert set(began) == {0.0}
    assert len(began) >= 50


@BOTH_MODES
def test_time_stands_still_while_anything_can_run(mode: Any) -> None:
    """A hundred checkpoints beside a sleeper of a microsecond: all of them come first."""

    async def program() -> None:
        order: list[str] = []

        async def sleeper() -> None:
            await trio.sleep(1e-6)
            order.append("woken")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(sleeper)
            for _ in range(100):
                await checkpoint()
                assert trio.current_time() == 0.0
            order.append("done")
        assert order == ["done", "woken"]

    must_pass(program, mode=mode, policy=RandomWalk(), schedules=50)


def test_no_time_passes_for_nothing() -> None:
    """To sleep for 0 s is a checkpoint; time is not moved for a thread, or for those who wait until all is idle."""

    async def program() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep, 50)
            await trio.sleep(0)  # noqa: ASYNC115 - on purpose
            await trio.to_thread.run_sync(list)
            await trio.testing.wait_all_tasks_blocked()
            await trio.testing.wait_all_tasks_blocked(10)
            assert trio.current_time() == 0.0

    must_pass(program)


@BOTH_MODES
def test_a_deadline_that_wakes_nobody_lets_no_time_pass(mode: Any) -> None:
    """A shielded task's deadline comes, and who waits until all is idle is woken there, not later."""

    async def program() -> None:
        scope = trio.CancelScope()

        async def shielded() -> None:
            with scope, trio.CancelScope(shield=True):
                await trio.sleep(10)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(shielded)
            await trio.testing.wait_all_tasks_blocked()
            scope.deadline = trio.current_time() - 1
            await trio.testing.wait_all_tasks_blocked()
            assert trio.current_time() == 0.0
        assert trio.current_time() == 10.0

    must_pass(program, mode=mode)


# --- deadlines --------------------------------------------------------------------------------------------------------


def test_equal_deadlines_come_in_both_orders() -> None:
    """Two scopes end in the same second: either can be first, whoever was made first."""

    async def body(say: Say) -> None:
        async def limited(letter: str) -> None:
            with trio.CancelScope(deadline=5):
                await trio.sleep_forever()
            assert trio.current_time() == 5
            say(letter)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(limited, "a")
            nursery.start_soon(limited, "b")

    result, told = orders_of(body)
    assert result.failure is None
    assert set(told) == {"ab", "ba"}
    assert result.schedules_run == 4


def test_who_wakes_first_can_run_on() -> None:
    """Two deadlines at 1 s: whoever wakes first can run on before the other has woken, as on a busy machine."""

    async def body(say: Say) -> None:
        async def sleeper(before: str, behind: str) -> None:
            await trio.sleep_until(1)
            say(before)
            await checkpoint()
            say(behind)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(sleeper, "a", "A")
            nursery.start_soon(sleeper, "b", "B")

    _, told = orders_of(body)
    assert set(told) == {"aAbB", "abAB", "abBA", "baAB", "baBA", "bBaA"}


def test_in_batches_all_that_is_due_comes_at_once() -> None:
    """Stock Trio wakes everybody who is due in the same batch, in any order; nobody runs on in between."""

    async def body(say: Say) -> None:
        async def sleeper(before: str, behind: str) -> None:
            await trio.sleep_until(1)
            say(before)
            await checkpoint()
            say(behind)

        async with trio.open_nursery() as nursery:
            for letter in "ab":
                nursery.start_soon(sleeper, letter, letter.upper())

    result, told = orders_of(body, mode="trio-batch")
    assert result.failure is None
    assert set(told) == {"abAB", "abBA", "baAB", "baBA"}
    assert result.schedules_run == 8


@BOTH_MODES
def test_a_scope_with_several_tasks_wakes_all_of_them(mode: Any) -> None:
    """One deadline, three tasks: they wake at that time, in any of 6 orders."""

    async def body(say: Say) -> None:
        async def sleeper(letter: str) -> None:
            try:
                await trio.sleep_forever()
            finally:
                assert trio.current_time() == 3
                say(letter)

        with trio.CancelScope(deadline=3) as scope:
            async with trio.open_nursery() as nursery:
                for letter in "abc":
                    nursery.start_soon(sleeper, letter)
        assert scope.cancelled_caught

    result, told = orders_of(body, mode=mode)
    assert result.failure is None
    assert set(told) == {"abc", "acb", "bac", "bca", "cab", "cba"}


@BOTH_MODES
@pytest.mark.parametrize("deadline", [-5.0, 0.0, 10.0])
def test_a_deadline_in_the_past_comes_at_once(deadline: float, mode: Any) -> None:
    """At 10 s, it is there at the first checkpoint, and no time passes."""

    async def program() -> None:
        await trio.sleep(10)
        with trio.CancelScope(deadline=deadline) as scope:
            await checkpoint()
            raise AssertionError("not cancelled")
        assert scope.cancelled_caught
        assert trio.current_time() == 10

    must_pass(program, mode=mode)


@BOTH_MODES
def test_a_deadline_that_is_moved_into_the_past_comes_at_once(mode: Any) -> None:
    """From infinity to now, from inside and from outside."""

    async def program() -> None:
        scopes = [trio.CancelScope() for _ in range(2)]

        async def waiter(scope: trio.CancelScope) -> None:
            with scope:
                await trio.sleep_forever()
            assert scope.cancelled_caught
            assert trio.current_time() == 4

        async with trio.open_nursery() as nursery:
            for scope in scopes:
                nursery.start_soon(waiter, scope)
            await trio.sleep(4)
            for scope in scopes:
                scope.deadline = trio.current_time() - 1

    must_pass(program, mode=mode)


@BOTH_MODES
def test_a_deadline_can_be_moved_back_and_forth(mode: Any) -> None:
    """Only the last one counts, also if it was the first."""

    async def program() -> None:
        with trio.CancelScope(deadline=5) as scope:
            scope.deadline = 50
            await trio.sleep(10)
            assert trio.current_time() == 10
            scope.deadline = 5_000
            scope.deadline = 50
            scope.deadline = 20
            scope.deadline = 50
            await trio.sleep_forever()
        assert trio.current_time() == 50

    must_pass(program, mode=mode)


def lets_off(ends: set[tuple[float, float]]) -> Any:
    """Return a program in which two are due at 1 s, and the first to wake moves the other's deadline to 9 s."""

    async def program() -> None:
        scopes = {"a": trio.CancelScope(deadline=1), "b": trio.CancelScope(deadline=1)}
        woken: dict[str, float] = {}

        async def waiter(mine: str, other: str) -> None:
            with scopes[mine]:
                await trio.sleep_forever()
            woken[mine] = trio.current_time()
            if other not in woken:
                scopes[other].deadline = 9

        async with trio.open_nursery() as nursery:
            nursery.start_soon(waiter, "a", "b")
            nursery.start_soon(waiter, "b", "a")
        ends.add((woken["a"], woken["b"]))

    return program


@BOTH_MODES
def test_who_is_due_can_be_let_off_at_any_time(mode: Any) -> None:
    """Between two deadlines of one moment others may run: either can be let off by the other, or none."""
    ends: set[tuple[float, float]] = set()
    must_pass(lets_off(ends), policy=Exhaustive(None), timeouts="any-time", schedules=5_000)
    assert ends == {(1, 1), (1, 9), (9, 1)}
    ends.clear()
    must_pass(lets_off(ends), policy=Exhaustive(None), timeouts="when-idle", mode=mode)
    assert ends == {(1, 1)}, "when idle all that is due has its effect at once, as in stock Trio"


def leaves_early(ends: set[tuple[bool, bool]]) -> Any:
    """Return a program in which two are due at 1 s, and the first to wake gives the other a reason to leave."""

    async def program() -> None:
        go = trio.Event()
        cancelled: list[bool] = []

        async def waiter() -> None:
            with trio.CancelScope(deadline=1) as scope:
                await go.wait()
            cancelled.append(scope.cancelled_caught)
            go.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(waiter)
            nursery.start_soon(waiter)
        ends.add((cancelled[0], cancelled[1]))

    return program


def test_who_is_due_can_leave_at_any_time() -> None:
    """The other leaves its scope in time, or finds itself cancelled: both happen."""
    ends: set[tuple[bool, bool]] = set()
    must_pass(leaves_early(ends), policy=Exhaustive(None), timeouts="any-time", schedules=5_000)
    assert ends == {(True, False), (True, True)}
    ends.clear()
    must_pass(leaves_early(ends), policy=Exhaustive(None))
    assert ends == {(True, True)}
