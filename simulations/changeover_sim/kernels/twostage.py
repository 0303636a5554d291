"""twostage_N: N-1 tasks set two values, each under its own lock; a reader finds the first one set, and not the second.

It fails between a writer's two locks if no other has finished: the first is set, the reader reads both.
From SCTBench (Thomson, Donaldson, Betts 2014), CS/twostage_bad and _100; twostage_20 is PERIOD's (Wen and others 2022).
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager, nullcontext
from functools import partial

from changeover_sim.kernels.port import Cell, Kernel, Mutex, Tasks, kernel


def tasks(writers: int, readers: int, *, corrected: bool) -> Tasks:
    """Return the writers, then the readers; `corrected`, each does its whole work under one more lock."""
    guard: AbstractAsyncContextManager[None] = Mutex("guard") if corrected else nullcontext()
    lock_1, lock_2 = Mutex("lock 1"), Mutex("lock 2")
    data_1, data_2 = Cell("data 1", 0), Cell("data 2", 0)

    async def write() -> None:
        async with guard:
            async with lock_1:
                await data_1.set(1)
            async with lock_2:
                await data_2.set(await data_1.get() + 1)

    async def read() -> None:
        async with guard:
            async with lock_1:
                if await data_1.get() == 0:
                    return
                first = await data_1.get()
            async with lock_2:
                second = await data_2.get()
            assert second == first + 1, f"a writer is seen half-way: the first value is {first}, the second {second}"

    reads = {f"reader {n}": read for n in range(1, readers + 1)} if readers > 1 else {"reader": read}
    return {**{f"writer {n}": write for n in range(1, writers + 1)}, **reads}


def twostage(name: str, writers: int, readers: int = 1) -> Kernel:
    """Return the kernel with so many writers and readers."""
    buggy, right = (partial(tasks, writers, readers, corrected=corrected) for corrected in (False, True))
    return kernel(__name__, name, buggy, right, "exception", prefix=f"{name}_")


# Ten write and ten read in the twenty's original, of which the published figures are: it is easier than the name says.
TWOSTAGE, TWOSTAGE_20, TWOSTAGE_100 = (
    twostage("twostage", 1),
    twostage("twostage_20", 10, 10),
    twostage("twostage_100", 99),
)
twostage_natural, twostage_spawned_1, twostage_spawned_4, twostage_fixed = TWOSTAGE
twostage_20_natural, twostage_20_spawned_1, twostage_20_spawned_4, twostage_20_fixed = TWOSTAGE_20
twostage_100_natural, twostage_100_spawned_1, twostage_100_spawned_4, twostage_100_fixed = TWOSTAGE_100
