"""Exhaustive search makes every schedule and each of them once: the numbers, worked out by hand."""

from __future__ import annotations

from math import comb, factorial

import pytest
import trio
from trio.lowlevel import checkpoint

from changeover_sim import Exhaustive, choose, explore
from tests.simulations.explorer.orders import (
    EVERYTHING,
    Say,
    assert_exactly,
    batches,
    delayed,
    extensions,
    merges,
    orders_of,
    side_by_side,
)

# --- orders -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("checkpoints", "number"), [(0, 2), (1, 6), (2, 20), (3, 70), (4, 252), (5, 924)])
def test_two_tasks_have_as_many_schedules_as_there_are_ways_to_merge_them(checkpoints: int, number: int) -> None:
    """With c checkpoints a task makes c + 1 steps; of 2c + 2 any c + 1 can be those of the first: C(2c+2, c+1)."""
    assert number == comb(2 * checkpoints + 2, checkpoints + 1)
    expected = merges("a" * (checkpoints + 1), "b" * (checkpoints + 1))
    assert len(expected) == number
    assert_exactly(side_by_side({"a": checkpoints, "b": checkpoints}), expected)


@pytest.mark.parametrize(
    ("a", "b", "c", "number"), [(0, 0, 0, 6), (1, 1, 1, 90), (0, 1, 2, 60), (2, 2, 2, 1_680), (0, 0, 4, 42)]
)
def test_three_tasks_have_a_multinomial_number_of_schedules(a: int, b: int, c: int, number: int) -> None:
    """There are (a+b+c+3)! / (a+1)! (b+1)! (c+1)! ways to merge.

    6!/2!2!2! = 90, 6!/1!2!3! = 60, 9!/3!3!3! = 1,680, 7!/5! = 42.
    """
    each = factorial(a + 1) * factorial(b + 1) * factorial(c + 1)
    assert number == factorial(a + b + c + 3) // each
    assert_exactly(side_by_side({"a": a, "b": b, "c": c}), merges("a" * (a + 1), "b" * (b + 1), "c" * (c + 1)))


@pytest.mark.parametrize("number", [1, 2, 3, 4, 5])
def test_tasks_of_one_step_have_as_many_schedules_as_permutations(number: int) -> None:
    """Any n tasks without a checkpoint can start in n! orders."""
    letters = "abcde"[:number]
    expected = extensions(letters, "")
    assert len(expected) == factorial(number)
    assert_exactly(side_by_side(dict.fromkeys(letters, 0)), expected)


@pytest.mark.parametrize(("own", "childs", "number"), [(0, 3, 1), (1, 0, 2), (2, 1, 6), (3, 2, 20)])
def test_a_parent_runs_beside_its_child(own: int, childs: int, number: int) -> None:
    """Behind its first step, which spawns, a parent has p steps for p checkpoints, the child c + 1: C(p+c+1, p) merges.

    Leaving the nursery adds none: the parent waits for the child, or there is nobody but the parent.
    """

    async def body(say: Say) -> None:
        async def child() -> None:
            say("c")
            for _ in range(childs):
                await checkpoint()
                say("c")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(child)
            for _ in range(own):
                await checkpoint()
                say("p")

    assert number == comb(own + childs + 1, own)
    assert_exactly(body, merges("p" * own, "c" * (childs + 1)))


def test_a_task_can_run_as_soon_as_it_is_spawned_and_not_before() -> None:
    """A spawns B and goes on for a step (a), C is there from the start: A before a and B, which is 8 of 24 orders.

    Of A, a and B there are 2 orders, because A is first; C can stand in 4 places in each.
    """

    async def body(say: Say) -> None:
        async with trio.open_nursery() as nursery:

            async def one(letter: str) -> None:
                say(letter)

            async def spawner() -> None:
                say("A")
                nursery.start_soon(one, "B")
                await checkpoint()
                say("a")

            nursery.start_soon(spawner)
            nursery.start_soon(one, "C")

    expected = extensions("AaBC", "Aa AB")
    assert len(expected) == 8
    assert_exactly(body, expected)


def test_a_chain_of_spawning_keeps_its_order() -> None:
    """A spawns B, B spawns C, A and B go on for a step (a, b): 8 orders.

    A is first. Of B, b and C there are 2 orders, because B is first; a can stand in 4 places in each.
    """

    async def body(say: Say) -> None:
        async with trio.open_nursery() as nursery:

            async def link(letters: str) -> None:
                say(letters[0])
                if len(letters) > 1:
                    nursery.start_soon(link, letters[1:])
                    await checkpoint()
                    say(letters[0].lower())

            nursery.start_soon(link, "ABC")

    expected = extensions("AaBbC", "Aa AB Bb BC")
    assert len(expected) == 8
    assert_exactly(body, expected)


@pytest.mark.parametrize(("inside", "number"), [(0, 4), (1, 6), (2, 8)])
def test_a_lock_leaves_only_the_moments_at_which_the_other_can_ask_for_it(inside: int, number: int) -> None:
    """Two tasks, k checkpoints under the lock: 2 (k + 2) schedules.

    Whoever is first owns the lock and has k + 1 more steps. The other asks for it before one of these, k + 1 ways, or
    after the last, one way; then it is alone. Two can be first.
    """

    async def body(say: Say) -> None:
        lock = trio.Lock()

        async def task(asks: str, holds: str) -> None:
            say(asks)
            async with lock:
                say(holds)
                for _ in range(inside):
                    await checkpoint()
                    say(holds)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(task, "a", "A")
            nursery.start_soon(task, "b", "B")

    held = {"a": "A" * (inside + 1), "b": "B" * (inside + 1)}
    expected = [
        first + held[first][:asked] + other + held[first][asked:] + held[other]
        for first, other in ("ab", "ba")
        for asked in range(inside + 2)
    ]
    assert len(expected) == number == 2 * (inside + 2)
    assert_exactly(body, expected)


def test_an_event_wakes_its_waiters_in_every_order() -> None:
    """Two wait (a, b) and go on (A, B), one sets (s): A behind a and s, B behind b and s, 16 of 120 orders.

    It makes no difference whether the waiter comes first, then it waits, or the event was set, then it makes a
    checkpoint. a < A > s < B > b is an alternating permutation of five: the Euler number 16.
    """

    async def body(say: Say) -> None:
        event = trio.Event()

        async def waiter(before: str, behind: str) -> None:
            say(before)
            await event.wait()
            say(behind)

        async with trio.open_nursery() as nursery:

            async def setter() -> None:
                say("s")
                event.set()

            nursery.start_soon(waiter, "a", "A")
            nursery.start_soon(setter)
            nursery.start_soon(waiter, "b", "B")

    expected = extensions("aAbBs", "aA sA bB sB")
    assert len(expected) == 16
    assert_exactly(body, expected)


@pytest.mark.parametrize(("sleepers", "number"), [("a", 1), ("ab", 4), ("abc", 36)])
def test_those_who_wake_at_the_same_time_wake_in_every_order(sleepers: str, number: int) -> None:
    """Any n tasks begin to sleep in n! orders and wake in n! orders."""

    async def body(say: Say) -> None:
        async def sleeper(letter: str) -> None:
            say(letter)
            await trio.sleep_until(1)
            say(letter.upper())

        async with trio.open_nursery() as nursery:
            for letter in sleepers:
                nursery.start_soon(sleeper, letter)

    expected = batches(sleepers, sleepers.upper())
    assert len(expected) == number == factorial(len(sleepers)) ** 2
    assert_exactly(body, expected)


def test_those_who_wake_at_different_times_wake_in_the_order_of_time() -> None:
    """Two tasks begin to sleep in 2 orders and wake in 1, that of their deadlines."""

    async def body(say: Say) -> None:
        async def sleeper(letter: str, seconds: float) -> None:
            say(letter)
            await trio.sleep(seconds)
            say(letter.upper())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(sleeper, "a", 2)
            nursery.start_soon(sleeper, "b", 1)

    assert_exactly(body, ["abBA", "baBA"])


# --- bounded delays ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("delays", "number"), [(0, 1), (1, 4), (2, 6), (3, 6)])
def test_bounded_delays_of_two_tasks_with_one_checkpoint(delays: int, number: int) -> None:
    """Of abab (0 skips), aabb, abba, baba (1), baab and bbaa (2) those within the bound are run.

    Whoever is passed over stays first. aabb: a runs and stands behind b; b is passed over once; then b is alone.
    """
    body = side_by_side({"a": 1, "b": 1})
    skips = {"abab": 0, "aabb": 1, "abba": 1, "baba": 1, "baab": 2, "bbaa": 2}
    expected = [order for order, spent in skips.items() if spent <= delays]
    assert len(expected) == number
    assert_exactly(body, expected, policy=Exhaustive(delays))


@pytest.mark.parametrize(("delays", "number"), [(0, 1), (1, 4), (2, 9), (3, 15), (4, 20), (5, 23), (6, 24)])
def test_bounded_delays_of_tasks_of_one_step(delays: int, number: int) -> None:
    """Passing over d that stand before costs d: a permutation costs its inversions.

    Of four letters 1, 3, 5, 6, 5, 3, 1 permutations have 0 to 6 of them; the bound takes the partial sums.
    """
    expected = [
        order
        for order in extensions("abcd", "")
        if sum(one > other for at, one in enumerate(order) for other in order[at:]) <= delays
    ]
    assert len(expected) == number
    assert_exactly(side_by_side(dict.fromkeys("abcd", 0)), expected, policy=Exhaustive(delays))


@pytest.mark.parametrize("delays", [0, 1, 2, 3])
@pytest.mark.parametrize("checkpoints", [{"a": 2, "b": 2}, {"a": 3, "b": 0, "c": 1}, {"a": 1, "b": 1, "c": 1, "d": 1}])
def test_bounded_delays_are_what_playing_a_queue_gives(checkpoints: dict[str, int], delays: int) -> None:
    """A queue of letters, played by hand with at most so many skips, gives the same orders."""
    assert_exactly(side_by_side(checkpoints), delayed(checkpoints, delays), policy=Exhaustive(delays))


def test_one_delay_goes_to_each_place_where_somebody_can_be_passed_over() -> None:
    """FIFO of two tasks with c checkpoints has 2c + 1 places where two are ready: 1 + 2c + 1 schedules."""
    for checkpoints in range(6):
        result, _ = orders_of(side_by_side({"a": checkpoints, "b": checkpoints}), policy=Exhaustive(1))
        assert result.schedules_run == 2 * checkpoints + 2


def test_without_delays_there_is_first_in_first_out_and_nothing_else() -> None:
    """Three tasks take turns, in the order in which they were spawned."""
    assert_exactly(side_by_side({"a": 3, "b": 3, "c": 3}), ["abc" * 4], policy=Exhaustive(0))


# --- the end of it ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("schedules", "run", "exhausted"), [(69, 69, False), (70, 70, True), (71, 70, True)])
def test_exhausted_means_that_every_schedule_was_run(schedules: int, run: int, exhausted: bool) -> None:
    """Of 70 schedules 69 are not all, and 70 are, whether or not there was budget for more."""
    result, told = orders_of(side_by_side({"a": 3, "b": 3}), schedules=schedules)
    assert (result.schedules_run, result.exhausted) == (run, exhausted)
    assert len(set(told)) == run


def test_the_only_schedule_is_all_there_are() -> None:
    """A program that leaves nothing to be decided is exhausted by one run."""
    result = explore(trio.lowlevel.checkpoint, policy=EVERYTHING, schedules=1)
    assert (result.schedules_run, result.exhausted) == (1, True)


def test_what_failed_was_not_exhausted() -> None:
    """The search ends with the first failure, and says that there was more."""

    async def program() -> None:
        assert choose([True, False, True])

    result = explore(program, policy=EVERYTHING)
    assert result.failure is not None
    assert (result.schedules_run, result.exhausted) == (2, False)


def test_the_search_is_the_same_whatever_the_seed() -> None:
    """Nothing of it is drawn: another seed makes the same schedules in the same sequence."""
    body = side_by_side({"a": 2, "b": 1, "c": 0})
    assert orders_of(body, seed=1)[1] == orders_of(body, seed=2)[1]
