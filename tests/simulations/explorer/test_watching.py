"""What a policy that looks at conflicts is told: paths, what steps used, what they will use, and who waits."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable, Sequence
from random import Random
from typing import Any, ClassVar

import trio
from trio.lowlevel import checkpoint

from changeover_sim import Exhaustive, RandomWalk, explore, touch, touch_next

Used = frozenset[Hashable]


class Notes:
    """One schedule in which whoever was ready first runs, or last, and what was told of it, by the names of tasks."""

    def __init__(self, *, last: bool) -> None:
        self.paths: dict[str, tuple[int, ...]] = {}
        self.steps: list[tuple[str | None, Used]] = []
        self.waiting: list[str] = []
        self.announced: list[Used] = []
        """What somebody is about to use, of all who were candidates, where there was a choice."""
        self._last = last

    def watch(self, ahead: Callable[[Any], Used]) -> None:
        """Begin."""
        self.ahead = ahead

    def spawned(self, task: Any, path: tuple[int, ...]) -> None:
        """Note a path."""
        assert task.name not in self.paths or task.name.startswith("<")
        self.paths[task.name.rpartition(".")[2]] = path

    def made(self, task: Any, used: Used) -> None:
        """Note a step."""
        self.steps.append((None if task is None else task.name.rpartition(".")[2], used))

    def waits(self, task: Any) -> None:
        """Note a task that waits."""
        self.waiting.append(task.name)

    def pick(self, candidates: Sequence[Any]) -> int:
        """Return the first or the last."""
        self.announced += [said for said in map(self.ahead, candidates) if said]
        return len(candidates) - 1 if self._last else 0

    def value(self, width: int) -> int:
        """Return the first."""
        return 0

    def cancel(self, scope: int, moment: int) -> bool:
        """Never."""
        return False

    def of(self, name: str) -> list[set[Hashable]]:
        """Return what each step of a task used."""
        return [set(used) for who, used in self.steps if who == name]


class Noting:
    """A policy that notes one schedule."""

    samples: ClassVar[bool] = True

    def __init__(self, *, last: bool = False) -> None:
        self.notes = Notes(last=last)

    def begin(self) -> Noting:
        """Return itself: it is asked for one schedule."""
        return self

    def chooser(self, index: int, rng: Random) -> Notes:
        """Return who notes; a schedule that is run twice to see whether it is the same is not noted twice."""
        return self.notes

    def learn(self, index: int, tape: object) -> bool:
        """Learn nothing."""
        return True


def noted(program: Callable[[], Awaitable[None]], *, last: bool = False, **how: Any) -> Notes:
    """Return what a policy is told of one schedule of a program."""
    policy = Noting(last=last)
    explore(program, policy=policy, schedules=1, **how)
    return policy.notes


# --- paths ------------------------------------------------------------------------------------------------------------


async def families() -> None:
    """Two spawners, with two tasks each, all in one nursery."""
    async with trio.open_nursery() as nursery:

        async def spawner(name: str) -> None:
            for number in range(2):
                await checkpoint()
                nursery.start_soon(checkpoint, name=f"{name}{number}")

        nursery.start_soon(spawner, "a", name="a")
        nursery.start_soon(spawner, "b", name="b")


def test_a_task_is_known_by_who_spawned_it_and_in_which_order() -> None:
    """Whatever runs first, and in whatever order tasks come to be; children are told from those of others."""
    first, last = noted(families), noted(families, last=True)
    assert list(first.paths) != list(last.paths)
    assert first.paths == last.paths
    main = first.paths["_main"]
    for number, name in enumerate("ab"):
        assert first.paths[name] == (*main, number)
        for child in range(2):
            assert first.paths[f"{name}{child}"] == (*main, number, child)
    assert len(set(first.paths.values())) == len(first.paths)


# --- what is used -----------------------------------------------------------------------------------------------------


async def uses() -> None:
    """Use things in steps that are a choice and in such as are none."""

    async def task() -> None:
        touch("at first")
        touch_next("second")
        await checkpoint()
        touch("second")
        touch("too")
        await checkpoint()
        touch_next("fourth")
        touch_next("fourth as well")
        await checkpoint()

    touch_next("main")
    await checkpoint()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(task, name="one")
        nursery.start_soon(task, name="other")


def test_what_a_step_used_is_told_with_it() -> None:
    """By `touch` in the step itself, by `touch_next` in the one before, and nothing of it with any other."""
    for last in (False, True):
        notes = noted(uses, last=last)
        each: list[set[Hashable]] = [{"at first"}, {"second", "too"}, set(), {"fourth", "fourth as well"}]
        assert notes.of("one") == notes.of("other") == each
        assert notes.of("_main") == [set(), {"main"}, set()]


def test_what_is_announced_can_be_asked_for_until_the_step_is_made() -> None:
    """Both have announced before they are made; what is only touched was not to be seen."""
    notes = noted(uses)
    assert notes.announced.count(frozenset(["second"])) == 4
    assert notes.announced.count(frozenset(["fourth", "fourth as well"])) == 3  # at the end there is no choice
    assert {used for said in notes.announced for used in said} == {"second", "fourth", "fourth as well"}


def test_what_is_announced_before_a_wait_holds_for_the_step_behind_it() -> None:
    """However long it takes until the task is woken, and whoever moves in between."""

    async def program() -> None:
        go = trio.Event()

        async def waiter() -> None:
            touch_next("behind the wait")
            await go.wait()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(waiter, name="waiter")
            for _ in range(3):
                await checkpoint()
            go.set()

    assert noted(program).of("waiter") == [set(), {"behind the wait"}]


def test_a_deadline_and_a_thread_are_nobodys_steps() -> None:
    """They use nothing and say nothing ahead; what a thread touches is no task's."""

    async def program() -> None:
        async def sleeper() -> None:
            with trio.move_on_after(1):
                await trio.sleep_forever()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(sleeper)
            nursery.start_soon(sleeper)
            nursery.start_soon(trio.to_thread.run_sync, touch, "in a thread")

    notes = noted(program, timeouts="any-time")
    assert (None, frozenset()) in notes.steps
    assert not any(used for _, used in notes.steps)
    assert notes.announced == []


# --- who waits --------------------------------------------------------------------------------------------------------


def test_who_waits_behind_a_step_is_told_from_who_only_lets_others_run() -> None:
    """A task that waits twice and ends is told of three times, one that makes checkpoints only when it has ended."""

    async def program() -> None:
        async def sleeper() -> None:
            await trio.sleep(1)
            await checkpoint()
            await trio.sleep(1)

        async def runner() -> None:
            for _ in range(5):
                await checkpoint()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(sleeper, name="sleeper")
            nursery.start_soon(runner, name="runner")

    notes = noted(program)
    assert (notes.waiting.count("sleeper"), notes.waiting.count("runner")) == (3, 1)


# --- and who is not told ----------------------------------------------------------------------------------------------


def test_nobody_is_told_of_a_schedule_that_is_given_up() -> None:
    """Of two tasks that wait for ever what they do when they are torn down is no step."""

    async def program() -> None:
        async def stuck() -> None:
            try:
                await trio.sleep_forever()
            finally:
                touch("torn down")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(stuck)
            nursery.start_soon(stuck)

    policy = Noting()
    result = explore(program, policy=policy, schedules=1)
    assert result.failure is not None
    assert result.failure.verdict == "deadlock"
    assert policy.notes.of("stuck") == [set(), set()]


def test_it_costs_a_program_nothing_where_nobody_listens() -> None:
    """Outside an exploration, and under policies that do not look: no error, and no other schedule."""

    async def plain() -> None:
        for number in range(3):
            touch(number)
            touch_next(number)
            await checkpoint()

    touch("anything")
    touch_next("anything")
    trio.run(plain)
    for policy in (RandomWalk(), Exhaustive(None)):
        assert explore(plain, policy=policy, schedules=5).failure is None
