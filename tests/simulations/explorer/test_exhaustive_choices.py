"""What is decided beside the order, counted by hand: options, cancellations, time; and the batches of stock Trio."""

from __future__ import annotations

from math import factorial

import pytest
import trio
from trio.lowlevel import checkpoint

from changeover_sim import Exhaustive, cancel_anywhere, choose
from tests.simulations.explorer.orders import Say, assert_exactly, batches, orders_of, side_by_side

# --- choose, cancellations, time --------------------------------------------------------------------------------------


def test_the_options_of_choose_multiply() -> None:
    """3 letters times 2 digits, and an only option that is no choice: 6 schedules without any delay."""

    async def body(say: Say) -> None:
        say(choose("abc"))
        say(choose(["!"]))
        say(choose([1, 2]).__str__())

    expected = ["a!1", "a!2", "b!1", "b!2", "c!1", "c!2"]
    assert_exactly(body, expected, policy=Exhaustive(0))
    _, told = orders_of(body, policy=Exhaustive(0))
    assert list(dict.fromkeys(told)) == expected


def test_options_multiply_with_orders() -> None:
    """Two tasks of one step start in 2 orders, and each chooses one of 2: 8 schedules; 4 of them without a delay."""

    async def body(say: Say) -> None:
        async def task(letter: str) -> None:
            say(letter + choose("01"))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(task, "a")
            nursery.start_soon(task, "b")

    in_order = [f"a{x}b{y}" for x in "01" for y in "01"]
    assert_exactly(body, in_order, policy=Exhaustive(0))
    assert_exactly(body, in_order + [f"b{y}a{x}" for x in "01" for y in "01"])


def test_an_option_can_open_further_options() -> None:
    """One option leads to three more, the other to none: 3 + 1 schedules."""

    async def body(say: Say) -> None:
        say(choose("xyz") if choose([False, True]) else "-")

    assert_exactly(body, ["-", "x", "y", "z"])


@pytest.mark.parametrize("checkpoints", [0, 1, 2, 7])
def test_a_scope_is_cancelled_at_each_checkpoint_or_never(checkpoints: int) -> None:
    """With k checkpoints: cancelled at once, or parked for the first to the k-th time, or never: k + 2 schedules.

    At once and parked for the first time are two moments of one effect, unless there is no checkpoint at all.
    """

    async def body(say: Say) -> None:
        with trio.CancelScope() as scope:
            cancel_anywhere(scope)
            for number in range(checkpoints):
                await checkpoint()
                say(str(number))

    result, told = orders_of(body, policy=Exhaustive(0))
    assert result.failure is None
    assert result.exhausted
    assert result.schedules_run == checkpoints + 2
    assert set(told) == {"0123456"[:length] for length in range(checkpoints + 1)}


@pytest.mark.parametrize(("checkpoints", "number"), [(0, 1), (1, 3), (2, 6), (3, 10)])
def test_a_deadline_that_may_come_at_any_time(checkpoints: int, number: int) -> None:
    """One task with c checkpoints before a deadline: (c + 1) (c + 2) / 2 schedules.

    Time passes while the task stands at its i-th checkpoint, or never: then the task is faster. Once it has passed, the
    deadline has its effect there or at a later checkpoint, c - i + 1 ways, or the task is faster again, one way. So
    1 + sum over i of (c - i + 2) = 1 + 2 + 3 + ... + (c + 1).
    """

    async def body(say: Say) -> None:
        with trio.move_on_after(1):
            for _ in range(checkpoints):
                await checkpoint()

    result, _ = orders_of(body, timeouts="any-time")
    assert number == (checkpoints + 1) * (checkpoints + 2) // 2
    assert (result.schedules_run, result.exhausted, result.failure) == (number, True, None)
    assert orders_of(body)[0].schedules_run == 1


# --- the batches of stock Trio ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("tasks", "checkpoints", "number"), [(2, 0, 2), (2, 2, 8), (2, 5, 64), (3, 1, 36), (4, 0, 24)])
def test_in_batches_each_runs_once_before_anyone_runs_again(tasks: int, checkpoints: int, number: int) -> None:
    """Any n tasks with c checkpoints are c + 1 batches of n, each in n! orders: (n!) ** (c + 1)."""
    letters = "abcd"[:tasks]
    assert number == factorial(tasks) ** (checkpoints + 1)
    expected = batches(*[letters] * (checkpoints + 1))
    assert_exactly(side_by_side(dict.fromkeys(letters, checkpoints)), expected, mode="trio-batch")


def test_in_batches_who_is_spawned_belongs_to_the_next_one() -> None:
    """A spawns B; A and C go on for a step: A and C in 2 orders, then a, B and c in 6: 12 schedules."""

    async def body(say: Say) -> None:
        async with trio.open_nursery() as nursery:

            async def last() -> None:
                say("B")

            async def spawner() -> None:
                say("A")
                nursery.start_soon(last)
                await checkpoint()
                say("a")

            async def other() -> None:
                say("C")
                await checkpoint()
                say("c")

            nursery.start_soon(spawner)
            nursery.start_soon(other)

    expected = batches("AC", "aBc")
    assert len(expected) == 12
    assert_exactly(body, expected, mode="trio-batch")
