"""`cancel_anywhere` with several scopes, and by chance: each is on its own, and no place is left out."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any

import pytest
import trio
from trio.lowlevel import checkpoint

from changeover_sim import PCT, RandomWalk, cancel_anywhere, explore
from tests.simulations.explorer.orders import every, must_pass


def two_scopes(ends: Counter[tuple[int, int]], checkpoints: int) -> Any:
    """Return a program with two tasks, each in a scope of its own that may be cancelled anywhere."""

    async def program() -> None:
        passed = [0, 0]

        async def task(number: int) -> None:
            with trio.CancelScope() as scope:
                cancel_anywhere(scope)
                for _ in range(checkpoints):
                    await checkpoint()
                    passed[number] += 1

        async with trio.open_nursery() as nursery:
            nursery.start_soon(task, 0)
            nursery.start_soon(task, 1)
        ends[passed[0], passed[1]] += 1

    return program


def test_two_scopes_are_cancelled_in_every_combination() -> None:
    """Each at each of its three checkpoints or never: 16 combinations."""
    ends: Counter[tuple[int, int]] = Counter()
    every(two_scopes(ends, 3))
    assert set(ends) == set(itertools.product(range(4), repeat=2))


@pytest.mark.parametrize("policy", [RandomWalk(), PCT(3)], ids=str)
def test_two_scopes_are_cancelled_independently_by_chance(policy: Any) -> None:
    """A sampling policy reaches all 16 combinations in a thousand schedules: no scope hangs on the other's moment."""
    ends: Counter[tuple[int, int]] = Counter()
    must_pass(two_scopes(ends, 3), policy=policy, schedules=1_000)
    assert set(ends) == set(itertools.product(range(4), repeat=2))


def test_nested_scopes_are_cancelled_each_and_both() -> None:
    """The inner alone, the outer alone, both, none; and where the outer is cancelled nothing behind the inner runs."""
    ends: set[tuple[bool, bool, bool]] = set()

    async def program() -> None:
        behind = False
        with trio.CancelScope() as outer:
            cancel_anywhere(outer)
            with trio.CancelScope() as inner:
                cancel_anywhere(inner)
                await checkpoint()
            await checkpoint()
            behind = True
        assert not (outer.cancelled_caught and behind)
        ends.add((outer.cancel_called, inner.cancel_called, behind))

    every(program)
    called = {(outer, inner) for outer, inner, _ in ends}
    assert called == set(itertools.product([False, True], repeat=2))
    assert {behind for _, _, behind in ends} == {False, True}


def test_a_scope_can_be_offered_before_it_is_entered() -> None:
    """Cancelled beforehand, it is cancelled at its first checkpoint; what happens outside adds no moment."""
    ends: set[bool] = set()

    async def program() -> None:
        scope = trio.CancelScope()
        cancel_anywhere(scope)
        await checkpoint()
        with scope:
            await checkpoint()
        ends.add(scope.cancelled_caught)

    every(program)
    assert ends == {False, True}


# --- by chance --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", [RandomWalk(), PCT(3)], ids=str)
def test_chance_spreads_over_all_positions(policy: Any) -> None:
    """Each of 20 checkpoints, and never, is hit in a thousand schedules, and none of them in a quarter of all."""
    hit: Counter[int] = Counter()

    async def program() -> None:
        passed = 0
        with trio.CancelScope() as scope:
            cancel_anywhere(scope)
            for _ in range(20):
                await checkpoint()
                passed += 1
        hit[passed] += 1

    must_pass(program, policy=policy, schedules=1_000)
    assert set(hit) == set(range(21))
    assert max(hit.values()) < 250


def test_in_batches_cancellations_are_decided_as_well() -> None:
    """The mode is about the order of steps only."""
    ends: Counter[tuple[int, int]] = Counter()
    every(two_scopes(ends, 2), mode="trio-batch")
    assert set(ends) == set(itertools.product(range(3), repeat=2))


@pytest.mark.parametrize("policy", [RandomWalk(), PCT(3)], ids=str)
def test_scopes_that_are_open_together_do_not_share_their_moment(policy: Any) -> None:
    """Both are offered in a row; then one is cancelled early and the other late, and the other way round."""
    ends: set[tuple[int, int]] = set()

    async def program() -> None:
        passed = [0, 0]
        scopes = [trio.CancelScope(), trio.CancelScope()]

        async def task(number: int) -> None:
            with scopes[number]:
                for _ in range(6):
                    await checkpoint()
                    passed[number] += 1

        for scope in scopes:
            cancel_anywhere(scope)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(task, 0)
            nursery.start_soon(task, 1)
        ends.add((passed[0], passed[1]))

    must_pass(program, policy=policy, schedules=1_500)
    assert ends >= {(1, 5), (5, 1), (1, 6), (6, 1), (2, 2)}


def test_a_schedule_that_is_given_up_is_cancelled_no_more() -> None:
    """Behind the verdict nothing is asked: a livelock inside a scope ends like any other."""

    async def program() -> None:
        with trio.CancelScope() as scope:
            cancel_anywhere(scope)
            while True:
                with trio.CancelScope(shield=True):
                    await checkpoint()

    failure = explore(program, steps_max=50).failure
    assert failure is not None
    assert failure.verdict == "livelock"
