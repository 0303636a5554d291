"""barrier: three tasks meet after each of three rounds; none is a round ahead of another. It has no bug.

A barrier that is used again knows a round by its number: who is still leaving the last one is not counted twice.
"""

from __future__ import annotations

from changeover_sim.kernels.port import Cell, Condition, Mutex, Program, Tasks, correct

TASKS, ROUNDS = 3, 3


def tasks() -> Tasks:
    """Return tasks that are alike."""
    lock = Mutex("lock")
    complete = Condition("complete", lock)
    arrived, generation = Cell("arrived", 0), Cell("generation", 0)
    rounds = [Cell(f"round of {n}", 0) for n in range(TASKS)]

    async def meet() -> None:
        async with lock:
            now = await generation.get()
            if await arrived.add(1) == TASKS:
                await arrived.set(0)
                await generation.set(now + 1)
                await complete.notify_all()
            while await generation.get() == now:
                await complete.wait()

    def member(me: int) -> Program:
        async def work() -> None:
            for round_ in range(1, ROUNDS + 1):
                await rounds[me].set(round_)
                await meet()
                for other in range(TASKS):
                    found = await rounds[other].get()
                    assert found in {round_, round_ + 1}, f"task {me} is in round {round_}, task {other} in {found}"

        return work

    return {f"member {n}": member(n) for n in range(TASKS)}


BARRIER = correct(__name__, "barrier", tasks)
natural, spawned_1, spawned_4 = BARRIER
