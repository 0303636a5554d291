"""deadlock01: two tasks take the same two locks in opposite orders; each can end up with the lock the other wants.

The first takes A, the second takes B, the first waits for B, the second waits for A.
From SCTBench (Thomson, Donaldson, Betts 2014), CS/deadlock01_bad.
"""

from __future__ import annotations

from functools import partial

from changeover_sim.kernels.port import Cell, Mutex, Tasks, kernel


def tasks(*, corrected: bool) -> Tasks:
    """Return the task that counts up and the one that counts down; `corrected`, both take A first."""
    a, b = Mutex("lock a"), Mutex("lock b")
    one, other = (a, b) if corrected else (b, a)
    counter = Cell("counter", 1)

    async def up() -> None:
        async with a, b:
            await counter.set(await counter.get() + 1)

    async def down() -> None:
        async with one, other:
            await counter.set(await counter.get() - 1)

    return {"up": up, "down": down}


DEADLOCK01 = kernel(__name__, "deadlock01", partial(tasks, corrected=False), partial(tasks, corrected=True), "deadlock")
natural, spawned_1, spawned_4, fixed = DEADLOCK01
