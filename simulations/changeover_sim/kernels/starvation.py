"""starvation: one task takes it for granted that another has moved by the time that it itself has yielded 14 times.

It fails if the other has not begun by then. A random walk gets there once in 65,536 schedules, PCT easily.
Made for this project: the shortest program in which one task must be kept waiting for long.
"""

from __future__ import annotations

from functools import partial

from trio.lowlevel import checkpoint

from changeover_sim.explorer.choices import touch
from changeover_sim.kernels.port import Cell, Flag, Tasks, kernel

YIELDS = 14


def tasks(*, corrected: bool) -> Tasks:
    """Return the one that moves and the one that trusts in it; `corrected`, it waits for it."""
    moved = Cell("moved", value=False)
    told = Flag("told")

    async def mover() -> None:
        touch(moved.name)
        moved.value = True  # at once: that it begins is a step of its own
        if corrected:
            await told.set()

    async def yielder() -> None:
        for _ in range(YIELDS):
            await checkpoint()
        if corrected:
            await told.wait()
        assert await moved.get(), f"the other has not moved while this one has yielded {YIELDS} times"

    return {"mover": mover, "yielder": yielder}


STARVATION = kernel(
    __name__, "starvation", partial(tasks, corrected=False), partial(tasks, corrected=True), "exception"
)
natural, spawned_1, spawned_4, fixed = STARVATION
