"""Random programs of all that Trio has: whatever they do, a schedule goes the same way twice, and has a token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs
import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.lowlevel import checkpoint

from changeover_sim import PCT, Exhaustive, RandomWalk, cancel_anywhere, choose, explore, replay, shrink
from changeover_sim.explorer import token
from changeover_sim.explorer.tape import deviations

KINDS = ("checkpoint", "sleep", "lock", "wait", "set", "send", "receive", "limit", "cancel", "spawn", "thread")
MORE = ("inside", "choose", "idle", "fail", "limiter", "shield", "condition", "notify", "deadline")
SECONDS = (0, 1, 1, 2, 5)


@attrs.frozen
class Move:
    """One thing that a task does; `number` says with which of three things, or for how long, `then` what is inside."""

    kind: str
    number: int
    then: tuple[Move, ...] = ()


leaf_moves = st.builds(Move, st.sampled_from(KINDS + MORE), st.integers(0, 2))
moves = st.recursive(
    leaf_moves,
    lambda inner: st.builds(
        Move,
        st.sampled_from(("lock", "limit", "cancel", "spawn", "limiter", "shield", "condition")),
        st.integers(0, 2),
        st.lists(inner, max_size=3).map(tuple),
    ),
    max_leaves=6,
)
tasks = st.lists(st.lists(moves, max_size=4), min_size=1, max_size=4)


class World:
    """What the tasks of one run share."""

    def __init__(self) -> None:
        self.locks = [trio.Lock() for _ in range(3)]
        self.events = [trio.Event() for _ in range(3)]
        self.limiters = [trio.CapacityLimiter(1) for _ in range(3)]
        self.conditions = [trio.Condition() for _ in range(3)]
        self.channels = [trio.open_memory_channel[int](size) for size in range(3)]
        self.scopes: list[trio.CancelScope] = []
        self.log: list[str] = []

    async def play(self, moves: Sequence[Move]) -> None:
        """Make one move after the other."""
        for move in moves:
            self.log.append(f"{move.kind} {move.number} at {trio.current_time()}")
            await getattr(self, move.kind)(move.number, move.then)

    async def checkpoint(self, number: int, then: Sequence[Move]) -> None:
        for _ in range(number + 1):
            await checkpoint()

    async def sleep(self, number: int, then: Sequence[Move]) -> None:
        await trio.sleep(SECONDS[number])

    async def lock(self, number: int, then: Sequence[Move]) -> None:
        async with self.locks[number]:
            await self.play(then)

    async def limiter(self, number: int, then: Sequence[Move]) -> None:
        async with self.limiters[number]:
            await self.play(then)

    async def condition(self, number: int, then: Sequence[Move]) -> None:
        async with self.conditions[number]:
            if not then:
                await self.conditions[number].wait()
            await self.play(then)

    async def notify(self, number: int, then: Sequence[Move]) -> None:
        async with self.conditions[number]:
            self.conditions[number].notify_all()

    async def wait(self, number: int, then: Sequence[Move]) -> None:
        await self.events[number].wait()

    async def set(self, number: int, then: Sequence[Move]) -> None:
        self.events[number].set()

    async def send(self, number: int, then: Sequence[Move]) -> None:
        await self.channels[number][0].send(number)

    async def receive(self, number: int, then: Sequence[Move]) -> None:
        with trio.move_on_after(SECONDS[number + 1]):
            await self.channels[number][1].receive()

    async def limit(self, number: int, then: Sequence[Move]) -> None:
        with trio.move_on_after(SECONDS[number + 1]) as scope:
            await self.play(then)
            await trio.sleep(number)
        self.log.append(f"limit {scope.cancelled_caught}")

    async def cancel(self, number: int, then: Sequence[Move]) -> None:
        with trio.CancelScope() as scope:
            cancel_anywhere(scope)
            await self.play(then)
            await checkpoint()
        self.log.append(f"cancel {scope.cancelled_caught}")

    async def shield(self, number: int, then: Sequence[Move]) -> None:
        with trio.CancelScope(shield=True):
            await self.play(then)
            await checkpoint()

    async def spawn(self, number: int, then: Sequence[Move]) -> None:
        async with trio.open_nursery() as nursery:
            self.scopes.append(nursery.cancel_scope)
            for _ in range(number + 1):
                nursery.start_soon(self.play, then)

    async def deadline(self, number: int, then: Sequence[Move]) -> None:
        for scope in self.scopes[: number + 1]:
            scope.deadline = trio.current_time() + SECONDS[number]

    async def thread(self, number: int, then: Sequence[Move]) -> None:
        await trio.to_thread.run_sync(self.log.append, "thread", abandon_on_cancel=bool(number))

    async def inside(self, number: int, then: Sequence[Move]) -> None:
        def work() -> None:
            trio.from_thread.run(trio.sleep, number)
            trio.from_thread.run_sync(self.log.append, "inside")

        await trio.to_thread.run_sync(work, abandon_on_cancel=bool(number))

    async def choose(self, number: int, then: Sequence[Move]) -> None:
        self.log.append(f"chose {choose(range(number + 1))}")

    async def idle(self, number: int, then: Sequence[Move]) -> None:
        await trio.testing.wait_all_tasks_blocked(number / 2)

    async def fail(self, number: int, then: Sequence[Move]) -> None:
        if choose([False, True]):
            raise ValueError(f"fail {number}")


def program_of(all_moves: Sequence[Sequence[Move]], logs: list[list[str]]) -> Any:
    """Return the program in which each task makes its moves."""

    async def program() -> None:
        world = World()
        logs.append(world.log)
        async with trio.open_nursery() as nursery:
            for number, moves in enumerate(all_moves):
                nursery.start_soon(world.play, moves, name=f"task {number}")

    return program


def check(all_moves: Sequence[Sequence[Move]], **how: Any) -> str:
    """Explore the program; a failure must be one of its own, and the same again, by its token and shrunk."""
    logs: list[list[str]] = []
    program = program_of(all_moves, logs)
    result = explore(program, **{"steps_max": 300, **how})
    failure = result.failure
    if failure is None:
        return "well"
    assert failure.verdict in {"exception", "deadlock", "leftover", *(["livelock"] if "steps_max" in how else [])}, (
        result
    )
    again = replay(program, failure.token)
    assert again.failure is not None
    assert (again.notes, again.failure.trace) == ((), failure.trace)
    assert (again.failure.verdict, again.failure.token) == (failure.verdict, failure.token)
    assert logs[-1] == logs[-2]
    small = shrink(program, failure.token, runs=30)
    assert deviations(token.decode(small).picks) <= deviations(token.decode(failure.token).picks)
    still = replay(program, small).failure
    assert still is not None
    assert still.verdict == failure.verdict
    return failure.verdict


RULES = [
    {"policy": RandomWalk()},
    {"policy": PCT(3)},
    {"policy": Exhaustive(1)},
    {"policy": RandomWalk(), "mode": "trio-batch"},
    {"policy": RandomWalk(), "timeouts": "any-time"},
    {"policy": PCT(2), "mode": "trio-batch", "timeouts": "any-time"},
    {"policy": RandomWalk(), "timeouts": "any-time", "steps_max": 20},
]


@settings(derandomize=True, deadline=None, max_examples=60)
@given(all_moves=tasks, rules=st.sampled_from(RULES), seed=st.integers(0, 1_000))
def test_any_program_goes_the_same_way_twice(all_moves: Any, rules: dict[str, Any], seed: int) -> None:
    """It goes well, or fails by itself; never is it taken for nondeterministic, and what failed fails again."""
    check(all_moves, schedules=12, seed=seed, **rules)


@pytest.mark.slow
@settings(derandomize=True, deadline=None, max_examples=2_000)
@given(all_moves=tasks, rules=st.sampled_from(RULES), seed=st.integers(0, 1_000))
def test_many_programs_go_the_same_way_twice(all_moves: Any, rules: dict[str, Any], seed: int) -> None:
    """The same, for as long as it takes."""
    check(all_moves, schedules=20, seed=seed, **rules)


def test_the_programs_are_of_all_kinds() -> None:
    """Each move is made in some program that goes well; and some fail by each verdict that there can be."""
    made: set[str] = set()
    for kind in KINDS + MORE:
        logs: list[list[str]] = []
        wait = [Move("set", 0), Move("send", 1), Move("receive", 1), Move("sleep", 1), Move("notify", 0)]
        helpful = program_of([[Move(kind, 0, (Move("checkpoint", 0),))], wait], logs)
        explore(helpful, schedules=4)
        made |= {line.split()[0] for log in logs for line in log}
    assert made >= {*KINDS, *MORE}
    assert check([[Move("wait", 0)]], schedules=2) == "deadlock"
    assert check([[Move("fail", 0)]], schedules=50) == "exception"
    assert check([[Move("checkpoint", 2)]], schedules=5) == "well"
