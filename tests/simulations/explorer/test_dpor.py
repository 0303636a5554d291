"""The search that leaves out permutations: how many are left, counted by hand, and what conflicts with what."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Hashable
from math import factorial
from typing import Any

import pytest
import trio
from trio.lowlevel import checkpoint

from changeover_sim import DPOR, Exhaustive, explore, touch, touch_next
from changeover_sim.kernels import KERNELS
from tests.house.readme import README
from tests.simulations.explorer.orders import Say, assert_exactly, merges, orders_of, side_by_side

Uses = Callable[[int, int], Hashable]
"""What task and number of a step use."""


def using(tasks: int, steps: int, uses: Uses) -> tuple[Any, set[tuple[Any, ...]]]:
    """Return a program of tasks that each make so many steps, and where it notes who came in which order to what."""
    seen: set[tuple[Any, ...]] = set()

    async def program() -> None:
        used: dict[Hashable, list[int]] = {}

        async def task(number: int) -> None:
            touch(("first step", number))
            for step in range(steps):
                touch_next(uses(number, step))
                await checkpoint()
                used.setdefault(uses(number, step), []).append(number)

        async with trio.open_nursery() as nursery:
            for number in range(tasks):
                nursery.start_soon(task, number)
        seen.add(tuple(sorted((str(thing), tuple(users)) for thing, users in used.items())))

    return program, seen


def outcomes(tasks: int, steps: int, uses: Uses) -> tuple[int, int]:
    """Return how many schedules are made, and in how many different orders things are used in them."""
    program, seen = using(tasks, steps, uses)
    result = explore(program, policy=DPOR())
    assert result.failure is None
    assert result.exhausted
    return result.schedules_run, len(seen)


# --- how many ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("tasks", "steps"), [(2, 1), (2, 5), (3, 3), (5, 4)])
def test_of_tasks_that_have_nothing_in_common_one_schedule_is_made(tasks: int, steps: int) -> None:
    """However many ways there are to merge them: 16,800 for three tasks with three steps and their first ones."""
    assert outcomes(tasks, steps, lambda task, _: task) == (1, 1)


@pytest.mark.parametrize(("tasks", "steps"), [(2, 1), (2, 3), (3, 1), (3, 2), (4, 1)])
def test_of_tasks_that_use_the_same_in_each_step_every_order_is_made(tasks: int, steps: int) -> None:
    """The number of ways to merge them, and none twice: (n s)! / s! ** n; the first steps share nothing."""
    number = factorial(tasks * steps) // factorial(steps) ** tasks
    assert outcomes(tasks, steps, lambda _, __: "shared") == (number, number)


@pytest.mark.parametrize("shared", [0, 1, 2])
@pytest.mark.parametrize("tasks", [2, 3, 4])
def test_one_step_in_common_leaves_the_orders_of_that_step(tasks: int, shared: int) -> None:
    """Of n tasks with three steps, one of which uses what the others use, too: n! schedules, wherever it stands."""
    number = factorial(tasks)
    assert outcomes(tasks, 3, lambda task, step: "shared" if step == shared else task) == (number, number)


@pytest.mark.parametrize("tasks", [3, 4, 5])
def test_in_a_ring_each_pair_has_two_orders_and_the_circle_is_impossible(tasks: int) -> None:
    """Each task uses what is its own and then its neighbour's: 2 ** n orders of pairs, less the one that is a cycle.

    In that one each task would have to come to its neighbour's thing before the neighbour, all around.
    """
    assert outcomes(tasks, 2, lambda task, step: (task + step) % tasks) == (2**tasks - 1, 2**tasks - 1)


def test_two_things_multiply() -> None:
    """Two tasks use one thing, two others another: 2 times 2 of 2,520 merges."""
    assert outcomes(4, 1, lambda task, _: task % 2) == (4, 4)


@pytest.mark.parametrize("checkpoints", [{"a": 2, "b": 2}, {"a": 1, "b": 1, "c": 1}])
def test_who_touches_nothing_is_searched_in_full(checkpoints: dict[str, int]) -> None:
    """Every merge of the steps, as without this policy."""
    expected = merges(*(letter * (count + 1) for letter, count in checkpoints.items()))
    assert_exactly(side_by_side(checkpoints), expected, policy=DPOR())


def test_a_step_that_touches_nothing_conflicts_with_one_that_does() -> None:
    """One task says what it uses and the other does not: every merge of the two."""

    async def body(say: Say) -> None:
        async def task(letter: str, *, tells: bool) -> None:
            for _ in range(3):
                if tells:
                    touch_next(letter)
                await checkpoint()
                say(letter)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: task("a", tells=True))
            nursery.start_soon(lambda: task("b", tells=False))

    told = set(orders_of(body, policy=DPOR())[1])
    assert told == set(merges("aaa", "bbb"))


def test_a_program_is_taken_at_its_word() -> None:
    """One task needs what another makes: found when both say what they use, and not when each gives it another name."""

    def program(name: Callable[[str], str]) -> Any:
        async def run() -> None:
            cell = 0

            async def maker() -> None:
                nonlocal cell
                touch(name("maker"))
                cell = 1

            async def user() -> None:
                touch(name("user"))
                assert cell == 1

            async with trio.open_nursery() as nursery:
                nursery.start_soon(maker)
                nursery.start_soon(user)

        return run

    assert explore(program(lambda _: "cell"), policy=DPOR()).failure is not None
    lied = explore(program(lambda task: task), policy=DPOR())
    assert lied.failure is None
    assert (lied.schedules_run, lied.exhausted) == (1, True)


# --- the end of it, and what it is ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("schedules", "run", "exhausted"), [(5, 5, False), (6, 6, True), (7, 6, True)])
def test_exhausted_means_that_nothing_is_left_to_try(schedules: int, run: int, exhausted: bool) -> None:
    """Of six schedules five are not all, and six are, whether or not there was budget for more."""
    program, _ = using(3, 1, lambda _, __: "shared")
    result = explore(program, policy=DPOR(), schedules=schedules)
    assert (result.schedules_run, result.exhausted) == (run, exhausted)


def test_a_long_schedule_is_not_exhausted() -> None:
    """What lies behind the limit of steps was not searched, and that is said."""
    program, _ = using(2, 6, lambda task, _: task)
    result = explore(program, policy=DPOR(), steps_max=16)
    assert not result.exhausted
    assert result.failure is None


def test_it_is_a_value_and_decides_each_schedule_by_those_before() -> None:
    """So it says how it is made, and cannot be shared out."""
    assert repr(DPOR()) == "DPOR()"
    assert DPOR() == DPOR()
    with pytest.raises(ValueError, match=r"DPOR\(\) decides each schedule by the one before"):
        explore(checkpoint, policy=DPOR(), jobs=2)


def test_a_program_that_goes_another_way_is_told() -> None:
    """The second run has a decision that the first had not: that is nondeterminism, and not a schedule."""
    runs = itertools.count()

    async def program() -> None:
        async def task() -> None:
            await checkpoint()

        async with trio.open_nursery() as nursery:
            for _ in range(2 + (next(runs) > 2)):
                nursery.start_soon(task)

    failure = explore(program, policy=DPOR()).failure
    assert failure is not None
    assert failure.verdict == "nondeterminism"


@pytest.mark.slow
def test_the_readmes_figures_are_those_of_the_search() -> None:
    """So many schedules prove the corrected kernel right, and so many there are."""
    program = KERNELS["account"].fixed
    dpor = explore(program, policy=DPOR())
    every = explore(program, policy=Exhaustive(delays=None))
    assert dpor.exhausted
    assert every.exhausted
    told = " ".join(README.read_text().split())
    assert f"takes it {dpor.schedules_run} schedules instead of {every.schedules_run:,}." in told
