"""counter: three tasks count up by compare-and-exchange, without a lock; the last to come finds the sum. It has no bug.

Who loses a race tries again with the value that it found: one of the others has counted meanwhile, so it ends.
"""

from __future__ import annotations

from changeover_sim.kernels.port import Cell, Tasks, correct

TASKS, ROUNDS = 3, 2


def tasks() -> Tasks:
    """Return tasks that are alike."""
    counter, done = Cell("counter", 0), Cell("done", 0)

    async def count() -> None:
        for _ in range(ROUNDS):
            seen = await counter.get()
            while (found := await counter.compare_exchange(seen, seen + 1)) != seen:
                seen = found
        if await done.add(1) == TASKS:
            total = await counter.get()
            assert total == TASKS * ROUNDS, f"{TASKS * ROUNDS} times was counted, and {total} is reached"

    return {f"task {n}": count for n in range(TASKS)}


COUNTER = correct(__name__, "counter", tasks)
natural, spawned_1, spawned_4 = COUNTER
