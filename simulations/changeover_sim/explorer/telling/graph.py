"""The wait-for graph: who waits for whom, in what, and where they wait in a circle.

Pure functions over what a run that stands still says of its tasks.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import attrs

from changeover_sim.explorer.waits import Wait, stuck_for_good

NURSERY = "a nursery"
_SHOWN = 6


@attrs.frozen
class Edge:
    """One task waits for another."""

    waiter: str
    holder: str
    primitive: str
    """What it waits in, without its state."""
    in_cycle: bool
    """Whether it is one of the circle that `cycle` returns."""


def edges(waiting: Sequence[Wait]) -> tuple[Edge, ...]:
    """Return every pair of a task that waits and one without which it cannot go on, as far as Trio knows them."""
    circle = cycle(waiting)
    inside = {(one.task, other.task) for one, other in zip(circle, (*circle[1:], *circle[:1]), strict=True)}
    return tuple(
        Edge(wait.task, holder, kind(wait), (wait.task, holder) in inside)
        for wait in waiting
        for holder in wait.holders
    )


def kind(wait: Wait) -> str:
    """Return what a task waits in, without the numbers."""
    return wait.primitive.partition(" (")[0]


def cycle(waiting: Sequence[Wait]) -> tuple[Wait, ...]:
    """Return the shortest circle of tasks that wait for each other, the first of the shortest; empty: there is none.

    Those that may go on are in none: a deadline will wake them, or a limiter has another borrower. Breadth first from
    each task in turn.
    """
    stuck = {wait.task: wait for wait in stuck_for_good(waiting)}
    circles = [found for wait in stuck.values() if (found := _circle_of(wait, stuck))]
    return min(circles, key=len, default=())


def _circle_of(start: Wait, stuck: dict[str, Wait]) -> tuple[Wait, ...]:
    """Return the shortest way from a task back to itself."""
    paths: list[tuple[Wait, ...]] = [(start,)]
    seen = {start.task}
    for path in paths:  # it grows while it is gone through
        for holder in path[-1].holders:
            if holder == start.task:
                return path
            if holder in stuck and holder not in seen:
                seen.add(holder)
                paths.append((*path, stuck[holder]))
    return ()


def graph_lines(waiting: Sequence[Wait], lines_max: int | None = None) -> list[str]:
    """Return the graph as text, the circle first; nothing where nobody waits for anybody that is known."""
    circle = cycle(waiting)
    rest = [wait for wait in waiting if wait.holders and not any(wait is one for one in circle)]
    found = [f"{_chain(circle)}: a cycle"] if circle else []
    found += [f"{wait.task} -> {_names(wait.holders)} ({kind(wait)})" for wait in rest]
    if lines_max is not None and len(found) > lines_max:
        found[lines_max - 1 :] = [f"... and {len(found) - lines_max + 1} more"]
    return [f"  {line}" for line in found]


def _chain(circle: Sequence[Wait]) -> str:
    links = [f"{wait.task} ({kind(before)})" for before, wait in zip(circle, (*circle[1:], circle[0]), strict=True)]
    if len(links) > _SHOWN:
        links[_SHOWN - 2 : -1] = [f"... {len(links) - _SHOWN + 1} more ..."]
    return " -> ".join([circle[0].task, *links])


def _names(names: Iterable[str]) -> str:
    shown = list(names)
    more = f" and {len(shown) - _SHOWN} more" if len(shown) > _SHOWN else ""
    return ", ".join(shown[:_SHOWN]) + more
