"""Who holds what, and where it was taken: the locks and limiters of one recorded schedule.

Owns what is held while a schedule is recorded. It looks at the calls of Trio's methods and asks Trio's own statistics.
"""

from __future__ import annotations

from types import FrameType
from typing import Any

import attrs
import trio

from changeover_sim.explorer import inside_trio
from changeover_sim.explorer.places import Names, Place, is_own

_LOCKS = (trio.Lock, trio.StrictFIFOLock)
_TAKES = frozenset({"acquire", "acquire_nowait", "acquire_on_behalf_of", "acquire_on_behalf_of_nowait"})
_CHANGES = _TAKES | {"release", "release_on_behalf_of"}


@attrs.frozen
class Held:
    """Something that a task took and for which others may have to wait."""

    primitive: str
    """What it is, such as `trio.Lock`."""
    task: str
    """Who took it."""
    place: Place | None
    """The line of the program's own at which it was asked for; None: not known."""
    step: int | None
    """The number of the step in which the task got it, which may be another's: that of the task that let it go. None:
    it had it before the first step that was recorded."""
    serial: int
    """Which of the takings of the schedule it is, from 1."""
    thing: Any = attrs.field(repr=False, eq=False, default=None)

    def __str__(self) -> str:
        return f"{self.task} holds a {self.primitive}, {self.since}"

    @property
    def since(self) -> str:
        """When and where it was taken, in words."""
        at = "" if self.place is None else f" at {self.place}"
        return "taken before what was recorded" if self.step is None else f"taken{at} in step {self.step}"


class Ledger:
    """Notes who takes what and who gives it back; semaphores and channels belong to nobody that Trio knows."""

    def __init__(self) -> None:
        self._changed: dict[Any, None] = {}
        self._asked: dict[tuple[Any, Any], Place | None] = {}
        self._held: dict[Any, dict[Any, Held]] = {}
        self._released: dict[tuple[Any, Any], None] = {}
        self._taken = 0

    def called(self, frame: FrameType, task: Any) -> None:
        """See a function being called, or gone on with, in a step of `task`."""
        name = frame.f_code.co_name
        if name not in _CHANGES or not inside_trio.is_of_trio(frame.f_code.co_filename):
            return
        thing = frame.f_locals.get("self")
        if isinstance(thing, (*_LOCKS, trio.CapacityLimiter)):
            self._changed[thing] = None
            whose = frame.f_locals.get("borrower", task) if isinstance(thing, trio.CapacityLimiter) else task
            if name in _TAKES:
                self._asked[thing, whose] = _own_place(frame)
            else:
                self._released[thing, whose] = None

    def settle(self, step: int, names: Names) -> tuple[tuple[Held, ...], tuple[Held, ...]]:
        """Return what was taken and what was given back in the step that ends, the one of this number."""
        taken: list[Held] = []
        given: list[Held] = []
        for thing in self._changed:
            before = self._held.get(thing, {})
            kept = {task: held for task, held in before.items() if (thing, task) not in self._released}
            now = {task: kept.get(task) or self._new(thing, task, step, names) for task in _owners(thing)}
            given += [held for task, held in before.items() if held is not now.get(task)]
            taken += [held for task, held in now.items() if held is not before.get(task)]
            self._held[thing] = now
        self._changed.clear()
        self._released.clear()
        return tuple(taken), tuple(given)

    def _new(self, thing: Any, task: Any, step: int, names: Names) -> Held:
        self._taken += 1
        when = step if (thing, task) in self._asked else None
        place = self._asked.get((thing, task))
        return Held(f"trio.{type(thing).__name__}", names.of(task), place, when, self._taken, thing)


def _owners(thing: Any) -> list[Any]:
    """Return the tasks that hold something, in the order of their spawning."""
    if isinstance(thing, trio.CapacityLimiter):
        borrowers = [one for one in thing.statistics().borrowers if isinstance(one, inside_trio.Task)]
        return sorted(borrowers, key=inside_trio.spawn_order)
    owner = thing.statistics().owner
    return [] if owner is None else [owner]


def _own_place(frame: FrameType) -> Place | None:
    """Return the line of the program's own that a call comes from."""
    found: FrameType | None = frame
    while found is not None:
        if is_own(found.f_code.co_filename):
            return Place(found.f_code.co_filename, found.f_lineno, found.f_code.co_qualname)
        found = found.f_back
    return None
