"""What statespace.py works on: the model that it is given, a state of its graph, and one run through it.

Data without a will of its own; a `Trip` is changed by the one thread of the walker that is running.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import attrs

from tests.engine.core.framestate import FrameMemory, Kept


@attrs.frozen
class Model:
    """One fresh world for one run."""

    programs: Sequence[Callable[[], object]]
    """What each thread does; an exception that leaves it is a violation."""
    shared: Sequence[object]
    """Every object that can change and that two threads can reach: all that they hold is the world."""
    wrong: Callable[[bool], Iterable[str]]
    """Says in sentences what is wrong in this state; told whether all threads have ended."""
    solo: Sequence[object] = ()
    """Shared objects that only the code given as `solo` changes, and the only ones that it looks at."""


@attrs.frozen
class Found:
    """How large a graph was that was walked to its end."""

    states: int
    transitions: int
    depth: int
    """How many steps the farthest state is away."""
    ends: int
    """States in which all threads have ended."""
    seconds: float


@attrs.frozen
class State:
    """A node of the graph."""

    way: bytes
    """The threads that took the steps on one way here, in order."""
    kept: tuple[tuple[Kept, ...], ...]
    """The notes of every thread's frames."""
    parts: tuple[int, ...]
    """What each thread that can go on remembers, as a number."""
    wrong: tuple[str, ...]
    ended: bool


class Trip:
    """One run: along the way to a state, on from there with who remembers `first`, then wherever nobody has been."""

    def __init__(self, model: Model, way: bytes, start: State | None, first: int | None) -> None:
        threads = range(len(model.programs))
        self.model = model
        self.way = way
        self.start = start
        self.first = first
        self.blind = start is not None  # the notes of this way were made before, and are kept in `start`
        self.taken = bytearray()
        self.places: list[str] = []
        self.thread = 0
        self.abandoned = False
        self.failure: Exception | None = None  # of the walker itself
        self.errors: list[str] = []  # what left a program: interleave.py writes here
        self.live = list(threads)
        self.begun: set[int] = set()
        self.stacks: list[list[FrameMemory]] = [[] for _ in threads]
        self.waits: list[Callable[[], object] | None] = [None for _ in threads]
        self.parts = [0 for _ in threads]
        self.edge: tuple[int, int] | None = None  # where the step began that is being taken
        self.here = -1
        self.soloist: int | None = None
        self.seen: int | None = None
