"""The search that leaves out permutations, on any program: it comes to all that a search of every schedule comes to.

A program is drawn: tasks over a few things, steps that say what they use and steps that do not.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable
from contextlib import nullcontext
from typing import Any

import attrs
import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from trio.lowlevel import checkpoint

from changeover_sim import Exhaustive, cancel_anywhere, choose, explore, touch, touch_next
from changeover_sim.policies.dpor import DPOR

SCHEDULES_MAX = 80
"""Programs with more schedules than that are too large to be searched in full here."""

Program = list[list[tuple[Any, ...]]]
"""For each task its operations: name, two things, and whether it says that it uses them; or inner operations."""


class Failed(Exception):
    """Raised by a task, on purpose."""


@attrs.define
class World:
    """The state of one run."""

    tasks: Program
    cells: list[int] = attrs.field(factory=lambda: [0, 0, 0])
    notes: list[list[object]] = attrs.field(factory=list[list[object]])
    scopes: list[trio.CancelScope] = attrs.field(factory=list[trio.CancelScope])
    locks: list[trio.Lock] = attrs.field(factory=lambda: [trio.Lock() for _ in range(3)])
    events: list[trio.Event] = attrs.field(factory=lambda: [trio.Event() for _ in range(3)])
    nursery: trio.Nursery | None = None


@attrs.define
class Player:
    """Plays the operations of one task."""

    world: World
    number: int
    notes: list[object]

    async def play(self, operations: list[tuple[Any, ...]]) -> None:
        """Do one after the other."""
        for name, one, other, says in operations:
            plays: Callable[[int, Any, bool], Awaitable[None]] = getattr(self, name)
            await plays(one, other, says)

    async def _next(self, says: bool, *things: Hashable) -> None:
        if says:
            for thing in things:
                touch_next(thing)
        await checkpoint()

    async def read(self, one: int, _: int, says: bool) -> None:
        await self._next(says, one)
        self.notes.append(self.world.cells[one])

    async def write(self, one: int, other: int, says: bool) -> None:
        await self._next(says, one)
        self.world.cells[one] = 10 * self.number + other + 1

    async def change(self, one: int, _: int, says: bool) -> None:
        await self._next(says, one)
        self.world.cells[one] = 2 * self.world.cells[one] + self.number + 1

    async def copy(self, one: int, other: int, says: bool) -> None:
        await self._next(says, one, other)
        self.world.cells[other] = self.world.cells[one] + 1

    async def lock(self, one: int, inner: Any, says: bool) -> None:
        await self._next(says, ("lock", one))
        if says:
            touch_next(("lock", one))
        async with self.world.locks[one]:
            await self.play(inner)
            await self._next(says, ("lock", one))

    async def draw(self, one: int, _: int, says: bool) -> None:
        await self._next(says, one)
        self.world.cells[one] = choose([7, self.world.cells[one]])

    async def set(self, one: int, _: int, says: bool) -> None:
        await self._next(says, ("event", one))
        self.world.events[one].set()

    async def wait(self, one: int, _: int, says: bool) -> None:
        await self._next(says, ("event", one))
        if says:
            touch_next(("event", one))
        with trio.move_on_after(1):
            await self.world.events[one].wait()
        self.notes.append(self.world.events[one].is_set())

    async def sleep(self, one: int, other: int, says: bool) -> None:
        await self._next(says, one)
        self.world.cells[one] += 1
        if says:
            touch_next(other)
        await trio.sleep(1 + one)
        self.world.cells[other] = 2 * self.world.cells[other] + 1

    async def cancel(self, one: int, other: int, says: bool) -> None:
        await self._next(says, one)
        self.world.cells[one] += 1
        self.world.scopes[other % len(self.world.scopes)].cancel()

    async def fail(self, one: int, _: int, says: bool) -> None:
        await self._next(says, one)
        self.world.cells[one] += 1
        raise Failed

    async def spawn(self, one: int, inner: Any, says: bool) -> None:
        await self._next(says, one)
        child = Player(self.world, self.number, [])
        self.notes.append(child.notes)
        assert self.world.nursery is not None
        self.world.nursery.start_soon(child.play, inner)

    async def scope(self, _: int, inner: Any, __: bool) -> None:
        with trio.CancelScope() as scope:
            cancel_anywhere(scope)
            await self.play(inner)
        self.notes.append(scope.cancelled_caught)

    async def begin(self) -> None:
        """Play the task."""
        touch(("task", self.number))
        cancelled = any(name == "cancel" for operations in self.world.tasks for name, *_ in operations)
        with self.world.scopes[self.number] if cancelled else nullcontext():
            await self.play(self.world.tasks[self.number])


def outcomes(tasks: Program, policy: Any, schedules: int, how: Any) -> tuple[bool, int, set[str]]:
    """Return whether every schedule was run, how many these were, and all that the program has come to."""
    seen: set[str] = set()

    async def program() -> None:
        scopes = [trio.CancelScope() for _ in tasks]
        world = World(tasks, notes=[[] for _ in tasks], scopes=scopes)
        failed = False
        try:
            async with trio.open_nursery() as world.nursery:
                for number, notes in enumerate(world.notes):
                    world.nursery.start_soon(Player(world, number, notes).begin)
        except* Failed:
            failed = True
        seen.add(repr((world.cells, world.notes, failed)))

    result = explore(program, policy=policy, schedules=schedules, **how)
    assert result.failure is None, result
    return result.exhausted, result.schedules_run, seen


THINGS, SAYS = st.integers(0, 2), st.sampled_from([True, True, True, False])


def operations(names: list[str]) -> st.SearchStrategy[tuple[Any, ...]]:
    """Draw one operation of these."""
    return st.tuples(st.sampled_from(names), THINGS, THINGS, SAYS)


def programs(names: list[str], around: list[str]) -> st.SearchStrategy[Program]:
    """Draw two tasks or three of such operations, some of them `around` others."""
    plain = operations(names)
    nested = st.tuples(st.sampled_from(around), THINGS, st.lists(plain, min_size=1, max_size=2), SAYS)
    return st.lists(st.lists(plain | nested, min_size=1, max_size=3), min_size=2, max_size=3)


CELLS = programs(["read", "write", "change", "copy"], ["lock"])
EVERYTHING = programs(
    ["read", "write", "change", "copy", "draw", "set", "wait", "sleep", "cancel", "fail"], ["lock", "spawn", "scope"]
)


def assert_the_same(tasks: Program, how: Any, schedules_max: int) -> None:
    """Both searches come to the same, and the one that leaves out makes no more schedules."""
    all_run, number, expected = outcomes(tasks, Exhaustive(None), schedules_max, how)
    if all_run:
        exhausted, run, found = outcomes(tasks, DPOR(), number, how)
        assert exhausted
        assert run <= number
        assert found == expected


@settings(derandomize=True, deadline=None, max_examples=20, suppress_health_check=[HealthCheck.too_slow])
@given(CELLS)
def test_cells_and_locks_come_to_the_same(tasks: Program) -> None:
    """Tasks that read, write and lock: the same values, and the same are seen."""
    assert_the_same(tasks, {}, SCHEDULES_MAX)


@settings(derandomize=True, deadline=None, max_examples=20, suppress_health_check=[HealthCheck.too_slow])
@given(EVERYTHING)
def test_everything_comes_to_the_same(tasks: Program) -> None:
    """Also where tasks choose, sleep, wait, spawn, fail, and cancel each other."""
    assert_the_same(tasks, {}, SCHEDULES_MAX)


@pytest.mark.slow
@pytest.mark.parametrize("how", [{}, {"mode": "trio-batch"}, {"timeouts": "any-time"}], ids=str)
@settings(derandomize=True, deadline=None, max_examples=200, suppress_health_check=[HealthCheck.too_slow])
@given(tasks=EVERYTHING)
def test_everything_comes_to_the_same_in_each_mode(how: Any, tasks: Program) -> None:
    """In batches and with deadlines at any time, too."""
    assert_the_same(tasks, how, 4 * SCHEDULES_MAX)
