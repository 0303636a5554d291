"""The published kernels: their bugs are there, their corrected twins have none. Figures: `changeover kernels`."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from random import Random
from typing import Any, ClassVar

import attrs
import pytest

from changeover_sim import PCT, RandomWalk, explore, replay
from changeover_sim.explorer.tape import Decision
from changeover_sim.kernels import CORRECT, KERNELS, Correct, Kernel, Program, port

CAP = 10_000
"""The published protocol's limit."""

Runs = tuple[tuple[str, int], ...]

# Which task makes how many steps, one after the other; the first step of each is its start, which uses nothing.
SCRIPTS: Mapping[str, Runs] = {
    # `a` is set, and `b` is not: the check reads a, a, b.
    "reorder_10": (("setter 1", 2), ("check", 4)),
    "reorder_20": (("setter 1", 2), ("check 1", 4)),
    "reorder_100": (("setter 1", 2), ("check", 4)),
    # The writer has given back the first lock: the reader takes it, reads twice, gives it back, and then the other.
    "twostage": (("writer 1", 4), ("reader", 8)),
    "twostage_20": (("writer 1", 4), ("reader 1", 8)),
    "twostage_100": (("writer 1", 4), ("reader", 8)),
    # Found by a search of all 1.9 million states: none of the others fails with fewer than seven preemptions.
    "safestack": (
        *(("user 2", 3), ("user 0", 10), ("user 1", 10), ("user 2", 1), ("user 0", 5)),
        *(("user 2", 15), ("user 0", 5), ("user 2", 4), ("user 1", 15), ("user 0", 1)),
    ),
    "starvation": (("yielder", 16),),
    # All have the left fork before one takes the right.
    "dining_5": (*((f"philosopher {n}", 2) for n in range(5)), *((f"philosopher {n}", 1) for n in range(5))),
    # The reader is there once for nothing, and then takes what the writer has put in first.
    "queue": (("reader", 4), ("writer", 38), ("reader", 10)),
}
"""Schedules that fail, of the kernels whose bug is rare or whose schedules are long: told instead of searched for."""

BIG = ("reorder_100", "twostage_100")


def ports(kernels: Mapping[str, Kernel] | Mapping[str, Correct]) -> list[Any]:
    """Return each port of each kernel as a parameter."""
    return [
        pytest.param(kernel, program, id=f"{kernel.name}-{name}")
        for kernel in kernels.values()
        for name, program in kernel.programs.items()
    ]


@attrs.frozen
class Scripted:
    """A policy that plays one schedule: the parent first, then the tasks by their names, as they are scripted."""

    runs: Runs

    samples: ClassVar[bool] = True

    def begin(self) -> Scripted:
        """Return itself: there is nothing to learn."""
        return self

    def chooser(self, index: int, rng: Random) -> Actor:
        """Return who plays it."""
        return Actor([name for name, steps in self.runs for _ in range(steps)])

    def learn(self, index: int, tape: Sequence[Decision]) -> bool:
        """Learn nothing."""
        return True


class Actor:
    """Plays a script, and then first-in-first-out; a task that is not ready when it should go on is an error."""

    def __init__(self, script: Sequence[str]) -> None:
        self._left = list(reversed(script))

    def pick(self, candidates: Sequence[Any]) -> int:
        """Return the parent, who has a nursery, while it still spawns; then the task whose turn it is."""
        for at, task in enumerate(candidates):
            if task.child_nurseries:
                return at
        return [task.name for task in candidates].index(self._left.pop()) if self._left else 0

    def value(self, width: int) -> int:
        """Never asked: no kernel chooses."""
        raise NotImplementedError

    def cancel(self, scope: int, moment: int) -> bool:
        """Never asked: no kernel cancels."""
        raise NotImplementedError


class Onlooker:
    """A policy whose choosers are random walks that note the steps which use nothing that has a name."""

    samples: ClassVar[bool] = True

    def __init__(self) -> None:
        self.silent: dict[str, int] = {}
        """How many such steps each task has made in the last schedule; those of Trio and the parent do not count."""

    def begin(self) -> Onlooker:
        """Return itself: there is one schedule only."""
        return self

    def chooser(self, index: int, rng: Random) -> Onlooker:
        """Return itself, drawing from `rng`."""
        self._rng = rng
        return self

    def learn(self, index: int, tape: Sequence[Decision]) -> bool:
        """Learn nothing."""
        return True

    def pick(self, candidates: Sequence[Any]) -> int:
        """Return any of them."""
        return self._rng.randrange(len(candidates))

    def watch(self, ahead: Any) -> None:
        """Begin to count; what is announced is seen when the step is made."""
        self.silent.clear()

    def spawned(self, task: Any, path: tuple[int, ...]) -> None:
        """Begin to count the steps of a task that the kernel has named."""
        if "<" not in task.name and "." not in task.name:
            self.silent[task.name] = 0

    def made(self, task: Any, used: frozenset[Any]) -> None:
        """Count a step that used nothing."""
        if not used and task is not None and task.name in self.silent:
            self.silent[task.name] += 1

    def value(self, width: int) -> int:
        """Never asked: no kernel chooses."""
        raise NotImplementedError

    def cancel(self, scope: int, moment: int) -> bool:
        """Never asked: no kernel cancels."""
        raise NotImplementedError


def fails_and_replays(program: Program, policy: Any, schedules: int, verdict: str) -> None:
    """Require that a search fails with this verdict, and that its token does the same steps and fails as well."""
    failure = explore(program, schedules=schedules, policy=policy).failure
    assert failure is not None
    assert failure.verdict == verdict, str(failure)
    again = replay(program, failure.token)
    assert again.failure is not None
    assert (again.failure.verdict, again.notes) == (verdict, ())


@pytest.mark.parametrize(
    ("kernel", "program"), ports({name: kernel for name, kernel in KERNELS.items() if name not in SCRIPTS})
)
def test_the_bug_is_found_and_replays(kernel: Kernel, program: Program) -> None:
    """Each port of each kernel fails as published within 10,000 schedules, and its token fails in the same way."""
    fails_and_replays(program, PCT(3), CAP, kernel.verdict)


@pytest.mark.parametrize(("kernel", "program"), ports({name: KERNELS[name] for name in SCRIPTS}))
def test_the_bug_is_there(kernel: Kernel, program: Program) -> None:
    """Where a search would take long, one schedule shows the bug, in each port, and its token fails in the same way."""
    fails_and_replays(program, Scripted(SCRIPTS[kernel.name]), 1, kernel.verdict)


@pytest.mark.parametrize("policy", [RandomWalk(), PCT(3)], ids=str)
@pytest.mark.parametrize("kernel", KERNELS.values(), ids=lambda kernel: kernel.name)
def test_the_corrected_twin_never_fails(kernel: Kernel, policy: RandomWalk | PCT) -> None:
    """What makes a kernel fail is its bug, and nothing that the port brought in."""
    result = explore(kernel.fixed, schedules=5 if kernel.name in BIG else 50, policy=policy, steps_max=1_000)
    assert result.failure is None, str(result.failure)


@pytest.mark.parametrize("policy", [RandomWalk(), PCT(3)], ids=str)
@pytest.mark.parametrize(("kernel", "program"), ports(CORRECT))
def test_a_correct_program_never_fails(kernel: Correct, program: Program, policy: RandomWalk | PCT) -> None:
    """No schedule of a program without a bug is told as a failure."""
    result = explore(program, schedules=50, policy=policy)
    assert result.failure is None, str(result.failure)


@pytest.mark.parametrize("kernel", [*KERNELS.values(), *CORRECT.values()], ids=lambda kernel: kernel.name)
def test_each_program_is_where_its_name_says(kernel: Kernel | Correct) -> None:
    """Every program can be imported by the name in its tokens, so that `changeover replay` finds it."""
    for program in kernel:
        assert getattr(importlib.import_module(program.__module__), program.__name__) is program


@pytest.mark.parametrize("kernel", [*KERNELS.values(), *CORRECT.values()], ids=lambda kernel: kernel.name)
def test_each_step_says_what_it_uses(kernel: Kernel | Correct) -> None:
    """All that a task does after its start uses something with a name, so that policies can see conflicts."""
    onlooker = Onlooker()
    *_, program = kernel  # none that fails: a task that is cancelled makes one more step
    explore(program, schedules=1, policy=onlooker)
    onlooker.silent.pop("yielder", None)  # it yields, and that is all that it does then
    assert onlooker.silent
    assert set(onlooker.silent.values()) == {0}


@pytest.mark.parametrize("kernel", [*KERNELS.values(), *CORRECT.values()], ids=lambda kernel: kernel.name)
def test_each_thing_has_its_own_name(kernel: Kernel | Correct, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two things of one run never go by one name, and the names are the same in every run."""
    things: list[Any] = []
    kinds: list[Any] = [port.Cell, port.Mutex, port.Condition, port.Flag]
    for kind in kinds:
        monkeypatch.setattr(kind, "__init__", noting(kind.__init__, things))
    natural, *_, last = kernel
    for program in (natural, last):
        first, second = names_in(program, things), names_in(program, things)
        assert first == second
        assert len(first) == len(set(first))


def names_in(program: Program, things: list[Any]) -> list[str]:
    """Return the names of what a run of the program makes."""

    async def run() -> None:
        things.clear()
        await program()

    explore(run, schedules=1)
    return [thing.name for thing in things]


def noting(init: Any, things: list[Any]) -> Any:
    """Return an `__init__` that also notes what it makes."""

    def make(self: Any, *args: Any, **kwargs: Any) -> None:
        things.append(self)
        init(self, *args, **kwargs)

    return make
