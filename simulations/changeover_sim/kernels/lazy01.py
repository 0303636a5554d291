"""lazy01: one task adds 1, one adds 2, and a check trusts that it comes before one of them.

It fails if the check takes the lock last: +1, +2, check; or +2, +1, check.
From SCTBench (Thomson, Donaldson, Betts 2014), CS/lazy01_bad.
"""

from __future__ import annotations

from functools import partial

from changeover_sim.kernels.port import Cell, Mutex, Tasks, kernel


def tasks(limit: int) -> Tasks:
    """Return the two that add and the check, which fails at `limit` or more; 3 is reached, 4 never."""
    lock = Mutex("lock")
    data = Cell("data", 0)

    async def add_1() -> None:
        async with lock:
            await data.set(await data.get() + 1)

    async def add_2() -> None:
        async with lock:
            await data.set(await data.get() + 2)

    async def check() -> None:
        async with lock:
            found = await data.get()
            assert found < limit, f"both have added before the check: {found}, not below {limit}"

    return {"add_1": add_1, "add_2": add_2, "check": check}


LAZY01 = kernel(__name__, "lazy01", partial(tasks, 3), partial(tasks, 4), "exception")
natural, spawned_1, spawned_4, fixed = LAZY01
