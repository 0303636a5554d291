"""What ports of thread benchmarks to Trio are made of: cells and locks that let others run before each use, and ports.

Owns nothing; a program opens one nursery for its tasks and makes all its state afresh whenever it is called.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping
from types import MappingProxyType, TracebackType
from typing import Generic, Literal, TypeVar

import attrs
import trio
from trio.lowlevel import checkpoint

T = TypeVar("T")

Program = Callable[[], Awaitable[None]]
"""A whole run of a kernel."""
Tasks = Mapping[str, Program]
"""The tasks of one run over one fresh state, by name, in the order in which the original creates its threads."""
Verdict = Literal["exception", "deadlock"]

PORTS: Mapping[str, int] = MappingProxyType({"natural": 0, "spawned_1": 1, "spawned_4": 4})
"""How many checkpoints the parent makes between one spawn and the next, by the name of the port."""


class Cell(Generic[T]):
    """A shared variable; whoever uses `value` itself must have made a checkpoint since the last shared operation."""

    def __init__(self, value: T) -> None:
        """Hold `value` at first."""
        self.value = value

    async def get(self) -> T:
        """Let others run, then read."""
        await checkpoint()
        return self.value

    async def set(self, value: T) -> None:
        """Let others run, then write."""
        await checkpoint()
        self.value = value


class Mutex:
    """A `trio.Lock` for `async with`, with one checkpoint before it is taken and one before it is given back.

    `trio.Lock.acquire` has its scheduling point *after* it took a free lock, and `release` has none. Used as they are,
    a task that gives a lock back and takes it again would do both in one step, and nobody could come between; with a
    checkpoint in front of `acquire` there would be two in a row between the lock and what is done under it. So a free
    lock is taken without a scheduling point of its own. A taken one parks the task; it owns the lock when it wakes up,
    and that step counts as the taking. Trio hands a lock to whoever has waited longest: those who wait do not race.
    """

    def __init__(self) -> None:
        self._lock = trio.Lock()

    async def __aenter__(self) -> None:
        await checkpoint()
        if self._lock.locked():
            await self._lock.acquire()
        else:
            self._lock.acquire_nowait()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                await checkpoint()
        finally:
            # Also after a failed assertion: Trio raises in those who wait for a lock whose owner has ended, and the
            # failure would read as several.
            self._lock.release()


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


def kernel(
    module: str, name: str, tasks: Callable[[], Tasks], fixed: Callable[[], Tasks], verdict: Verdict, prefix: str = ""
) -> Kernel:
    """Return the kernel `name` of `module`, which calls each program by `prefix` and its port."""

    def program(port: str, make: Callable[[], Tasks]) -> Program:
        pause = PORTS.get(port, 0)

        async def run() -> None:
            async with trio.open_nursery() as nursery:
                for number, (task_name, task) in enumerate(make().items()):
                    for _ in range(pause if number else 0):
                        await checkpoint()
                    nursery.start_soon(task, name=task_name)

        # Whoever reports a failure asks the function where it lives, to say how it is run again.
        run.__module__, run.__name__, run.__qualname__ = module, prefix + port, prefix + port
        return run

    return Kernel(name, {port: program(port, tasks) for port in PORTS}, program("fixed", fixed), verdict)
