"""Who holds what at the end of a schedule, and since when.

Pure functions over the steps that were recorded.
"""

from __future__ import annotations

from collections.abc import Sequence

from changeover_sim.explorer.holding import Held
from changeover_sim.explorer.trace import Step
from changeover_sim.explorer.waits import Wait


def held_at_the_end(trace: Sequence[Step]) -> tuple[Held, ...]:
    """Return what was taken in these steps and not given back, in the order in which it was taken."""
    held: list[Held] = []
    for step in trace:
        held = [one for one in held if one not in step.given] + list(step.taken)
    return tuple(held)


def since(wait: Wait, held: Sequence[Held]) -> list[Held]:
    """Return what keeps a task waiting: the very thing that it waits for, in the hands of each holder."""
    return [one for one in held if wait.thing is not None and one.thing is wait.thing and one.task in wait.holders]


def wait_line(wait: Wait, held: Sequence[Held]) -> str:
    """Return who waits where for whom, and where the holder took it."""
    takes = since(wait, held)
    more = f" and {len(takes) - _TAKES_MAX} more" if len(takes) > _TAKES_MAX else ""
    return f"{wait}, {', '.join(held.since for held in takes[:_TAKES_MAX])}{more}" if takes else str(wait)


def others(waiting: Sequence[Wait], held: Sequence[Held]) -> list[Held]:
    """Return what is held and nobody waits for."""
    wanted = [wait.thing for wait in waiting]
    return [one for one in held if not any(one.thing is thing for thing in wanted)]


def telling_steps(trace: Sequence[Step], circle: Sequence[Wait]) -> list[int]:
    """Return the numbers of the steps that closed a circle: where each took what another wants, and began to wait."""
    held = held_at_the_end(trace)
    last = {step.task: step.number for step in trace}
    taken = [one.step for wait in circle for one in since(wait, held) if one.step is not None]
    return [*taken, *(last[wait.task] for wait in circle if wait.task in last)]


_TAKES_MAX = 2
