"""Which steps of one schedule were in a race: they conflict, and nothing in between says that they come in this order.

Pure functions. A step conflicts with whatever uses what it uses; one that uses nothing, or was seen to reach further
than it said, conflicts with all. Steps of one task are ordered, and so are a step and the one that it made possible.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from typing import Any

import attrs

Used = frozenset[Hashable]
UNKNOWN: Used = frozenset()
"""What a step uses that has said nothing, and of which nothing is believed."""

_ANY, _ALL = object(), object()
"""Keys for the last step of a task, and for its last that conflicts with all."""


def conflict(one: Used, other: Used) -> bool:
    """Return whether two steps may come to something else in the other order."""
    return not one or not other or not one.isdisjoint(other)


@attrs.define(eq=False)
class Step:
    """One step of a schedule."""

    task: Any
    """Whose it is; what happens instead of a task's step is nobody's, and conflicts with all."""
    causes: frozenset[int]
    """The numbers of steps that made it possible, as far as they are known; none need be."""
    candidates: Sequence[Any] = ()
    """Who could have been chosen in its place; nobody where there was no choice."""
    node: int | None = None
    """The number of the decision that chose it."""
    used: Used = UNKNOWN


def reversals(steps: Sequence[Step], since: int) -> Iterator[tuple[Step, list[Any]]]:
    """Yield for each race that ends at step `since` or later its first step, and who could begin the other order.

    These are the tasks whose next step needs nothing of what follows the first step: of those that could be in its
    place, one at least must be tried there. Abdulla, Aronis, Jonsson, Sagonas: Source Sets, JACM 2017, algorithm 1. An
    order that is not known of, such as who woke whom, makes more races of it and never fewer.
    """
    before: list[int] = []
    latest: dict[Any, dict[Hashable, int]] = {}
    for at, step in enumerate(steps):
        behind = 0
        racing: list[int] = []
        for earlier in sorted(_nearest(step, latest), reverse=True):
            if not behind >> earlier & 1:
                if steps[earlier].task is not step.task and earlier not in step.causes:
                    racing.append(earlier)
                behind |= before[earlier] | 1 << earlier
        before.append(behind)
        mine = latest.setdefault(step.task, {})
        mine.update(dict.fromkeys((_ANY, *(step.used or (_ALL,))), at))
        if at >= since:
            yield from ((steps[earlier], _first(steps, before, earlier, at)) for earlier in racing)


def _nearest(step: Step, latest: dict[Any, dict[Hashable, int]]) -> set[int]:
    """Return the last step of each task that is ordered before this one, directly or in a race."""
    found = set(step.causes)
    for task, last in latest.items():
        keys: tuple[Hashable, ...] = (_ALL, *step.used) if step.used and task is not step.task else (_ANY,)
        found.update([max((last[key] for key in keys if key in last), default=-1)])
    return found - {-1}


def _first(steps: Sequence[Step], before: Sequence[int], earlier: int, at: int) -> list[Any]:
    """Return the tasks that could begin all that does not need step `earlier`, and then step `at`: its own first."""
    free = [between for between in range(earlier + 1, at) if not before[between] >> earlier & 1] + [at]
    among = sum(1 << one for one in free)
    return [steps[one].task for one in reversed(free) if not before[one] & among]
