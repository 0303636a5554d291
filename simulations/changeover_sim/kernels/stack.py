"""stack: one task pushes ten times, one pops ten times; a flag says that something was pushed, not that it is there.

Push, and the flag is set for good; pop; pop again before the next push: the stack underflows.
From SCTBench (Thomson, Donaldson, Betts 2014), CS/stack_bad, after the suite of Cordeiro and Fischer (2011).
"""

from __future__ import annotations

from functools import partial

from changeover_sim.kernels.port import Cell, Mutex, Tasks, kernel

SIZE = 10


def tasks(*, corrected: bool) -> Tasks:
    """Return the pusher and the popper; `corrected`, the popper asks whether there is something to pop.

    The reads and writes are those of the original, one by one, although the lock keeps them together: a task that is
    longer under the lock is less often the first at the next one, and that is what the bug hangs on.
    """
    lock = Mutex("lock")
    top = Cell("top", 0)
    flag = Cell("flag", value=False)
    slots = [Cell(f"slot {n}", 0) for n in range(SIZE)]

    async def push(number: int) -> None:
        assert await top.get() < SIZE, "the stack overflows"
        await slots[await top.get()].set(number)
        await top.set(await top.get() + 1)

    async def pop() -> int:
        assert await top.get() > 0, "the stack underflows: more was popped than pushed"
        await top.set(await top.get() - 1)
        return await slots[await top.get()].get()

    async def pusher() -> None:
        for number in range(SIZE):
            async with lock:
                await push(number)
                await flag.set(True)

    async def popper() -> None:
        for _ in range(SIZE):
            async with lock:
                filled = await top.get() > 0 if corrected else await flag.get()
                if filled:
                    await pop()

    return {"pusher": pusher, "popper": popper}


STACK = kernel(__name__, "stack", partial(tasks, corrected=False), partial(tasks, corrected=True), "exception")
natural, spawned_1, spawned_4, fixed = STACK
