"""bluetooth_driver: a driver is stopped while a request comes in; the request is served after the stop.

The adder reads "not stopping"; the stopper sets the flag, counts down to zero, stops; the adder counts up, too late.
From KISS (Qadeer, Wu 2004), by way of SCTBench, CS/bluetooth_driver_bad.
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager, nullcontext
from functools import partial

from changeover_sim.kernels.port import Cell, Flag, Mutex, Tasks, kernel


def tasks(*, corrected: bool) -> Tasks:
    """Return the stopper and the adder; `corrected`, the test and the count are one, and the stop cannot fit between.

    SCTBench's stopper looks once whether the count is zero; this one waits, as the driver does. There the adder also
    counts down if it was turned away; that cannot fail the assertion, is a second mistake, and is left out.
    """
    gate: AbstractAsyncContextManager[None] = Mutex("gate") if corrected else nullcontext()
    stopping, stopped = Cell("stopping", value=False), Cell("stopped", value=False)
    pending = Cell("pending", 1)
    drained = Flag("drained")

    async def count_down() -> None:
        if await pending.add(-1) == 0:
            await drained.set()

    async def stopper() -> None:
        async with gate:
            await stopping.set(True)
        await count_down()
        await drained.wait()
        await stopped.set(True)

    async def adder() -> None:
        async with gate:
            turned_away = await stopping.get()
            if not turned_away:
                await pending.add(+1)
        if not turned_away:
            assert not await stopped.get(), f"a request is served by a stopped driver, {pending.value} pending"
            await count_down()

    return {"stopper": stopper, "adder": adder}


BLUETOOTH_DRIVER = kernel(
    __name__, "bluetooth_driver", partial(tasks, corrected=False), partial(tasks, corrected=True), "exception"
)
natural, spawned_1, spawned_4, fixed = BLUETOOTH_DRIVER
