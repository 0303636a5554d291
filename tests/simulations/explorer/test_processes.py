"""What several processes find together is what one finds alone."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any, ClassVar

import attrs
import pytest
import trio
from trio.lowlevel import checkpoint

from changeover_sim import DPOR, PCT, POS, SURW, Portfolio, RandomWalk, choose, explore, replay, shrink, touch_next
from changeover_sim.explorer.tape import Played


@attrs.frozen
class ByIndex:
    """A policy under which `choose` returns the number of the schedule."""

    samples: ClassVar[bool] = True

    def begin(self) -> ByIndex:
        return self

    def chooser(self, index: int, rng: Random) -> Played:
        return Played((index,))

    def learn(self, index: int, tape: Sequence[Any]) -> bool:
        return True


@pytest.mark.parametrize("jobs", [1, 2])
def test_what_cannot_be_judged_behind_a_failure_does_not_hide_it(jobs: int) -> None:
    """The failure of the lowest index is told, although another process met a real socket right behind it."""

    async def fails_then_connects() -> None:
        number = choose(range(200))
        if number == 102:
            for _ in range(2_000):
                await checkpoint()  # so that the other process is there first
            raise ValueError
        if number == 103:
            await trio.open_tcp_stream("127.0.0.1", 1)

    found = explore(fails_then_connects, schedules=200, policy=ByIndex(), jobs=jobs).failure
    assert found is not None
    assert found.schedule_index == 102


@pytest.mark.parametrize("jobs", [1, 4])
def test_each_schedule_that_was_cut_is_counted_once(jobs: int) -> None:
    """Also those that every process runs."""

    async def long() -> None:
        for _ in range(60):
            await checkpoint()

    (note,) = explore(long, schedules=20, steps_max=50, jobs=jobs).notes
    assert note.startswith("20 schedules were longer than steps_max=50")


# --- what policies are told ---


@attrs.define(eq=False)
class Cell:
    value: int = 0


@pytest.mark.parametrize("by_name", [True, False])
def test_a_resource_may_be_an_object(by_name: bool) -> None:
    """It stands for its type in every schedule: none is left out, as if it were another one each time."""
    seen: set[tuple[int, ...]] = set()

    async def program() -> None:
        cell, order = Cell(), list[int]()

        async def task(number: int) -> None:
            for _ in range(2):
                touch_next("cell" if by_name else cell)
                await checkpoint()
                order.append(number)

        async with trio.open_nursery() as nursery:
            for number in range(3):
                nursery.start_soon(task, number)
        seen.add(tuple(order))

    assert explore(program, policy=DPOR()).exhausted
    assert len(seen) == 90  # 6! / (2! * 2! * 2!)


@pytest.mark.parametrize("policy", [RandomWalk(), PCT(), POS(), SURW(), Portfolio()], ids=str)
def test_a_resource_that_has_no_value_is_refused(policy: Any) -> None:
    """In the line that names it, whoever listens."""

    async def program() -> None:
        touch_next([1])  # type: ignore[arg-type]
        await checkpoint()

    failure = explore(program, schedules=5, policy=policy).failure
    assert failure is not None
    assert isinstance(failure.exception, TypeError)


def test_shrinking_keeps_the_module_of_what_is_raised() -> None:
    """Two errors of one name are two errors."""
    ours = type("Error", (Exception,), {"__module__": "ours", "__qualname__": "Error"})
    theirs = type("Error", (Exception,), {"__module__": "theirs", "__qualname__": "Error"})

    async def program() -> None:
        order = list[int]()

        async def task(number: int) -> None:
            await checkpoint()
            order.append(number)
            await checkpoint()

        async with trio.open_nursery() as nursery:
            for number in range(3):
                nursery.start_soon(task, number)
        if order == [2, 1, 0]:
            raise ours
        if order == [1, 0, 2]:
            raise theirs

    failures = (explore(program, schedules=1, policy=RandomWalk(), seed=seed).failure for seed in range(300))
    found = next(one for one in failures if one is not None and type(one.exception) is ours)
    smaller = replay(program, shrink(program, found.token)).failure
    assert smaller is not None
    assert type(smaller.exception) is ours


@pytest.mark.parametrize("arms", [5, None, (), [PCT(), 7]])
def test_arms_that_are_no_policies_are_refused(arms: Any) -> None:
    """In words."""
    with pytest.raises(ValueError, match="Portfolio needs policies that draw"):
        Portfolio(arms)


def test_what_only_the_first_run_of_a_process_does_is_no_change() -> None:
    """It fills caches; tokens are made by later runs, and a replay in a new process begins with the first."""
    cache = dict[str, int]()

    async def program() -> None:
        if "it" not in cache:
            cache["it"] = 1
        await checkpoint()
        raise ValueError

    found = explore(program, schedules=1).failure
    assert found is not None
    cache.clear()
    assert replay(program, found.token).notes == ()
