"""reorder_N: N-1 tasks set a = 1, then b = -1; one that is started last requires both or neither.

It fails between a setter's two writes if no other has finished: a = 1, the check reads a and b, b = -1.
From SCTBench (Thomson, Donaldson, Betts 2014), CS/reorder_N_bad, and reorder_100 from PERIOD (Wen and others 2022).
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager, nullcontext
from functools import partial

from changeover_sim.kernels.port import Cell, Kernel, Mutex, Tasks, kernel


def tasks(setters: int, checks: int, *, corrected: bool) -> Tasks:
    """Return the setters, then the checks; `corrected`, each of them does its part under one lock."""
    guard: AbstractAsyncContextManager[None] = Mutex("lock") if corrected else nullcontext()
    a, b = Cell("a", 0), Cell("b", 0)

    async def setter() -> None:
        async with guard:
            await a.set(1)
            await b.set(-1)

    async def check() -> None:
        async with guard:
            # As in the original: it stops reading when it knows, and reads again for the second half. So `a` before
            # all writes and `b` after them is not taken for an error.
            neither = await a.get() == 0 and await b.get() == 0
            both = not neither and await a.get() == 1 and await b.get() == -1
            assert neither or both, f"a setter is seen half-way: a = {a.value}, b = {b.value}"

    checkers = {f"check {n}": check for n in range(1, checks + 1)} if checks > 1 else {"check": check}
    return {**{f"setter {n}": setter for n in range(1, setters + 1)}, **checkers}


def reorder(number: int, checks: int = 1) -> Kernel:
    """Return the kernel with `number` tasks, so many of which check."""
    name = f"reorder_{number}"
    buggy, right = (partial(tasks, number - checks, checks, corrected=corrected) for corrected in (False, True))
    return kernel(__name__, name, buggy, right, "exception", prefix=f"{name}_")


REORDER_3, REORDER_5, REORDER_10, REORDER_100 = reorder(3), reorder(5), reorder(10), reorder(100)
# Ten set and ten check in the original, of which the published figures are: it is easier than the name says.
REORDER_20 = reorder(20, checks=10)
reorder_3_natural, reorder_3_spawned_1, reorder_3_spawned_4, reorder_3_fixed = REORDER_3
reorder_5_natural, reorder_5_spawned_1, reorder_5_spawned_4, reorder_5_fixed = REORDER_5
reorder_10_natural, reorder_10_spawned_1, reorder_10_spawned_4, reorder_10_fixed = REORDER_10
reorder_20_natural, reorder_20_spawned_1, reorder_20_spawned_4, reorder_20_fixed = REORDER_20
reorder_100_natural, reorder_100_spawned_1, reorder_100_spawned_4, reorder_100_fixed = REORDER_100
