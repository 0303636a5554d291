"""Starvation and the portfolio; and what holds for every policy that draws: jobs, cancellations, threads, deadlines."""

from __future__ import annotations

import itertools
from collections import Counter
from random import Random
from typing import Any

import pytest
import trio
from trio.lowlevel import checkpoint

from changeover_sim import PCT, Exhaustive, RandomWalk, Result, cancel_anywhere, choose, explore, replay, touch_next
from changeover_sim.explorer.tape import ORDER
from changeover_sim.kernels import starvation
from changeover_sim.policies.base import PROBES
from changeover_sim.policies.portfolio import Portfolio
from changeover_sim.policies.pos import POS
from changeover_sim.policies.starvation import Starvation
from changeover_sim.policies.surw import SURW
from tests.simulations.explorer.busy import busy

NEW: list[Any] = [POS(), SURW(), Starvation(), Portfolio()]


def same(one: Result, other: Result) -> bool:
    """Return whether two explorations found the same failure by the same schedule, or both none in as many."""
    tokens = [None if result.failure is None else result.failure.token for result in (one, other)]
    return tokens[0] == tokens[1] and one.schedules_run == other.schedules_run and one.arm == other.arm


# --- starvation -------------------------------------------------------------------------------------------------------


def picks(chooser: Any, names: str, count: int) -> str:
    """Return who is picked, of those that are all ready all the time."""
    return "".join(names[chooser.pick(names)] for _ in range(count))


def waits(order: str) -> int:
    """Return the longest time for which one letter did not come."""
    return max(len(run) for letter in set("abc") for run in order.replace(letter, "|").split("|"))


def freezer(seed: int, *, freezes: int = 1, length: int = 64) -> Any:
    """Return who decides a schedule of a program whose schedules have so many decisions."""
    strategy = Starvation(freezes).begin()
    strategy.learn(0, [(ORDER, 3, 0)] * length)
    return strategy.chooser(PROBES, Random(seed))


def test_somebody_waits_far_longer_than_in_a_random_walk() -> None:
    """Of three tasks one waits for at least thirty of sixty-four decisions, in one of five schedules and more."""
    frozen = [waits(picks(freezer(seed), "abc", 64)) for seed in range(1_000)]
    walks = [waits(picks(RandomWalk().begin().chooser(0, Random(seed)), "abc", 64)) for seed in range(1_000)]
    assert sum(longest >= 30 for longest in frozen) > 200
    assert sum(longest >= 30 for longest in walks) < 5


def test_every_power_of_two_is_drawn() -> None:
    """From one decision up to longer than the schedule: the frozen one of two comes back behind any of them."""
    lengths: Counter[int] = Counter()
    for seed in range(4_000):
        order = picks(freezer(seed), "ab", 64)
        lengths[len(order) - len(order.lstrip(order[0]))] += 1
    for length in (16, 32, 64):
        nearby = sum(lengths[length + more] for more in range(8))
        assert nearby > 60, (length, lengths)


def test_who_is_alone_runs() -> None:
    """A frozen task goes on where nobody else is ready, and where everybody is frozen all are."""
    for seed in range(200):
        chooser = freezer(seed, freezes=3)
        chooser.pick("ab")
        assert chooser.pick("a") == 0
        assert chooser.pick("b") == 0
        assert {"ab"[chooser.pick("ab")] for _ in range(300)} == {"a", "b"}


def test_a_task_that_must_wait_long_is_found() -> None:
    """Fourteen steps of one task before the first of the other: in a few dozen schedules, by itself and as an arm."""
    for policy in (Starvation(), Portfolio()):
        for seed in range(3):
            assert explore(starvation.natural, policy=policy, schedules=300, seed=seed).failure is not None
    assert explore(starvation.natural, policy=RandomWalk(), schedules=300).failure is None


# --- portfolio --------------------------------------------------------------------------------------------------------


def test_in_each_round_each_arm_has_its_turn() -> None:
    """Whatever the number of arms; and so it is among the schedules of each of several processes."""
    for arms in ([PCT(1)], [PCT(1), PCT(2)], [PCT(depth) for depth in range(1, 6)]):
        portfolio = Portfolio(arms)
        for first in range(0, 60, len(arms)):
            assert {portfolio.arm(first + place) for place in range(len(arms))} == set(arms)
    for jobs in range(1, 9):
        for process in range(jobs):
            of_it = Counter(repr(Portfolio().arm(index)) for index in range(process, 8 * 8 * jobs, jobs))
            assert of_it["SURW()"] == 32
            assert {of_it[repr(arm)] for arm in (RandomWalk(), PCT(3), POS(), Starvation())} == {8}


def test_the_arm_that_found_it_is_told() -> None:
    """In the result, in the failure and in its token; which, replayed, fails again."""
    result = explore(starvation.natural, policy=Portfolio([RandomWalk(), PCT(3)]), schedules=200)
    assert result.failure is not None
    assert (result.arm, result.failure.policy) == ("PCT(depth=3)", "PCT(depth=3)")
    assert result.policy == "Portfolio((RandomWalk(), PCT(depth=3)))"
    again = replay(starvation.natural, result.failure.token)
    assert (again.arm, again.notes) == ("PCT(depth=3)", ())


def test_an_arm_draws_as_it_does_by_itself() -> None:
    """A portfolio of one arm finds what the arm finds, and a schedule of several is one of the arm's."""
    for arm in (RandomWalk(), PCT(3), POS(), SURW(), Starvation()):
        alone, among = (explore(starvation.natural, policy=policy, schedules=150) for policy in (arm, Portfolio([arm])))
        assert same(alone, among)


def test_arms_learn_from_each_other_how_long_schedules_are() -> None:
    """Only the walk has seen a schedule, and the demotions of PCT come anywhere in its length."""
    strategy = Portfolio([RandomWalk(), PCT(2)]).begin()
    strategy.learn(0, [(ORDER, 2, 0)] * 40)
    at: Counter[int] = Counter()
    for seed in range(500):
        chooser = strategy.chooser(1, Random(seed))
        assert chooser is not None
        order = picks(chooser, "ab", 41)
        at[len(order) - len(order.lstrip(order[0]))] += 1
    assert sum(at[place] for place in range(10, 41)) > 300


def test_only_arms_that_look_at_conflicts_are_watched() -> None:
    """The choosers of the others are handed over as they are."""
    portfolio = Portfolio()
    strategy = portfolio.begin()
    for index in range(24):
        watched = hasattr(strategy.chooser(index, Random(index)), "watch")
        assert watched == (repr(portfolio.arm(index)) in {"POS()", "SURW()"})


@pytest.mark.parametrize("arms", [[], [Exhaustive()], [RandomWalk(), "PCT"], [RandomWalk]], ids=repr)
def test_what_cannot_take_turns_is_refused(arms: list[Any]) -> None:
    """Nobody at all, a search, which decides each schedule by the one before, and what is no policy."""
    with pytest.raises(ValueError, match="Portfolio needs policies that draw each schedule by its index"):
        Portfolio(arms)


def test_a_starvation_without_freezes_is_refused() -> None:
    """It would be a random walk."""
    for freezes in (0, -1, 1.5, None):
        with pytest.raises(ValueError, match="at least 1 freeze"):
            Starvation(freezes)  # type: ignore[arg-type]


# --- all of them ------------------------------------------------------------------------------------------------------


async def rare() -> None:
    """Fail in one of a thousand schedules or so, by order, choice and cancellation; two tasks use one thing."""
    seen: list[int] = []

    async def use(number: int) -> None:
        for _ in range(3):
            touch_next("seen")
            await checkpoint()
            seen.append(number)

    with trio.CancelScope() as scope:
        cancel_anywhere(scope)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(use, 1)
            nursery.start_soon(use, 2)
    assert seen != [2, 2, 1] or choose(range(4)) != 3


@pytest.mark.parametrize(("policy", "seed"), list(zip(NEW, (6, 4, 1, 7), strict=True)), ids=str)
def test_several_processes_find_the_same(policy: Any, seed: int) -> None:
    """Behind the probes, which each of them runs: the same schedule, of the same arm, with the same token."""
    one = explore(rare, policy=policy, schedules=2_000, seed=seed)
    assert one.failure is not None
    assert one.failure.schedule_index >= PROBES
    assert same(one, explore(rare, policy=policy, schedules=2_000, seed=seed, jobs=4))


@pytest.mark.parametrize("policy", NEW, ids=str)
def test_cancellations_and_choices_come_under_each(policy: Any) -> None:
    """Every option, and a cancellation behind each of the steps, and none at all."""
    told: set[tuple[int, str]] = set()

    async def program() -> None:
        steps = 0
        with trio.CancelScope() as scope:
            cancel_anywhere(scope)
            for _ in range(3):
                await checkpoint()
                steps += 1
        told.add((steps, choose("xyz")))

    assert explore(program, policy=policy, schedules=400).failure is None
    assert told == set(itertools.product(range(4), "xyz"))


@pytest.mark.parametrize("policy", NEW, ids=str)
@pytest.mark.parametrize("how", [{"timeouts": "any-time"}, {"mode": "trio-batch"}], ids=str)
def test_deadlines_threads_and_batches(policy: Any, how: Any) -> None:
    """Candidates that are no tasks, and such as come in batches: the same seed finds the same."""
    one, again = (explore(busy, policy=policy, schedules=60, seed=3, **how) for _ in range(2))
    assert same(one, again)
    assert one.notes == ()
