"""What ports of thread benchmarks to Trio are made of: shared things that let others run before each use, and ports.

Owns nothing; a program opens one nursery for its tasks and makes all its state afresh whenever it is called.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping
from types import MappingProxyType, TracebackType
from typing import Generic, Literal, TypeVar

import attrs
import trio
from trio.lowlevel import checkpoint

from changeover_sim.explorer.choices import touch, touch_next

T = TypeVar("T")

Program = Callable[[], Awaitable[None]]
"""A whole run of a kernel."""
Tasks = Mapping[str, Program]
"""The tasks of one run over one fresh state, by name, in the order in which the original creates its threads."""
Verdict = Literal["exception", "deadlock"]

PORTS: Mapping[str, int] = MappingProxyType({"natural": 0, "spawned_1": 1, "spawned_4": 4})
"""How many checkpoints the parent makes between one spawn and the next, by the name of the port."""


async def before(name: str) -> None:
    """Let others run before a step that uses the shared thing called `name`, and announce that it does.

    Policies that look at conflicts know by the name what each task is about to use: all things of a run have their own.
    """
    touch_next(name)
    await checkpoint()


class Cell(Generic[T]):
    """A shared variable; each of its methods is one atomic step, after others were let run.

    Whoever uses `value` itself must have made a step on the cell since the last shared operation.
    """

    def __init__(self, name: str, value: T) -> None:
        """Hold `value` at first."""
        self.name = name
        self.value: T = value

    async def get(self) -> T:
        """Read."""
        await before(self.name)
        return self.value

    async def set(self, value: T) -> None:
        """Write."""
        await before(self.name)
        self.value = value

    async def exchange(self, value: T) -> T:
        """Write, and return what was there."""
        await before(self.name)
        found, self.value = self.value, value
        return found

    async def compare_exchange(self, expected: T, value: T) -> T:
        """Write if `expected` is there, and return what was there, whether it was that or not."""
        await before(self.name)
        found = self.value
        if found == expected:
            self.value = value
        return found

    async def add(self: Cell[int], step: int) -> int:
        """Add, and return the sum."""
        await before(self.name)
        self.value += step
        return self.value


class Mutex:
    """A `trio.Lock` for `async with`, with one checkpoint before it is taken and one before it is given back.

    `trio.Lock.acquire` has its scheduling point *after* it took a free lock, and `release` has none. Used as they are,
    a task that gives a lock back and takes it again would do both in one step, and nobody could come between; with a
    checkpoint in front of `acquire` there would be two in a row between the lock and what is done under it. So a free
    lock is taken without a scheduling point of its own. A taken one parks the task; it owns the lock when it wakes up,
    and that step counts as the taking. Trio hands a lock to whoever has waited longest: those who wait do not race.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.lock = trio.Lock()

    async def __aenter__(self) -> None:
        await before(self.name)
        if self.lock.locked():
            touch_next(self.name)
            await self.lock.acquire()
        else:
            self.lock.acquire_nowait()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                await before(self.name)
        finally:
            # Also after a failed assertion: Trio raises in those who wait for a lock whose owner has ended, and the
            # failure would read as several.
            self.lock.release()


class Condition:
    """A `trio.Condition` of a mutex that is held: to wait and to notify are steps that use both."""

    def __init__(self, name: str, mutex: Mutex) -> None:
        self.name = name
        self._mutex = mutex
        self._condition = trio.Condition(mutex.lock)

    async def wait(self) -> None:
        """Give the mutex back and wait in one step; the mutex is held again when this returns."""
        touch_next(self._mutex.name)
        await before(self.name)
        touch_next(self._mutex.name)
        await self._condition.wait()

    async def notify_all(self) -> None:
        """Let all who wait go on, one after the other, once the mutex is free."""
        touch_next(self._mutex.name)
        await before(self.name)
        self._condition.notify_all()


class Flag:
    """A `trio.Event`: somebody sets it once, others wait for it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._event = trio.Event()

    async def set(self) -> None:
        """Let all who wait go on."""
        await before(self.name)
        self._event.set()

    async def wait(self) -> None:
        """Wait until it is set."""
        await before(self.name)
        if not self._event.is_set():  # `wait` on one that is set would be a second scheduling point
            touch_next(self.name)
            await self._event.wait()


@attrs.frozen
class Kernel:
    """A small concurrent program with one known bug."""

    name: str
    programs: Mapping[str, Program]
    """By port; each has the bug."""
    fixed: Program
    """The natural port of the corrected twin, which never fails."""
    verdict: Verdict
    """How the bug shows."""

    def __iter__(self) -> Iterator[Program]:
        """Yield the programs in the order of `PORTS`, then the corrected one: what the kernel's module names."""
        yield from self.programs.values()
        yield self.fixed


@attrs.frozen
class Correct:
    """A small concurrent program that has no bug: whoever finds one raises a false alarm."""

    name: str
    programs: Mapping[str, Program]
    """By port."""

    def __iter__(self) -> Iterator[Program]:
        """Yield the programs in the order of `PORTS`: what the module names."""
        yield from self.programs.values()


def kernel(
    module: str, name: str, tasks: Callable[[], Tasks], fixed: Callable[[], Tasks], verdict: Verdict, prefix: str = ""
) -> Kernel:
    """Return the kernel `name` of `module`, which calls each program by `prefix` and its port."""
    return Kernel(name, _ports(module, tasks, prefix), _program(module, prefix + "fixed", fixed, 0), verdict)


def correct(module: str, name: str, tasks: Callable[[], Tasks]) -> Correct:
    """Return the correct program `name` of `module`, which calls each of its programs by its port."""
    return Correct(name, _ports(module, tasks, ""))


def _ports(module: str, tasks: Callable[[], Tasks], prefix: str) -> Mapping[str, Program]:
    return {port: _program(module, prefix + port, tasks, pause) for port, pause in PORTS.items()}


def _program(module: str, name: str, make: Callable[[], Tasks], pause: int) -> Program:
    # What is nobody else's business says so as well: of steps that say nothing anything must be feared.
    async def begin(task: Program, task_name: str) -> None:
        touch(f"the first step of {task_name}")
        await task()

    async def run() -> None:
        async with trio.open_nursery() as nursery:
            for number, (task_name, task) in enumerate(make().items()):
                for _ in range(pause if number else 0):
                    touch_next("the parent")
                    await checkpoint()
                nursery.start_soon(begin, task, task_name, name=task_name)

    # Whoever reports a failure asks the function where it lives, to say how it is run again.
    run.__module__, run.__name__, run.__qualname__ = module, name, name
    return run
