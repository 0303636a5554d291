"""Small concurrent programs with one known bug each, to measure schedule explorers by.

Ports of published thread benchmarks to plain Trio, with exactly one scheduling point before every shared read, write,
lock and unlock: a `checkpoint`, and none of `trio.Lock`'s own (`Mutex` in `port.py` says why). Owns no state.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from changeover_sim.kernels import account, bluetooth_driver, deadlock01, dining, lazy01, reorder, stack
from changeover_sim.kernels.port import Kernel as Kernel
from changeover_sim.kernels.port import Program as Program

__all__ = ["KERNELS", "Kernel", "Program"]

# The natural port starts its tasks in a row. With all of them ready at once a bug can be far easier to find than in the
# original, whose main thread starts the others one by one; hence the spawned ports, where the parent makes 1 or 4
# checkpoints between spawns. A task's start is a step of its own, as a thread's is.
KERNELS: Mapping[str, Kernel] = MappingProxyType(
    {
        kernel.name: kernel
        for kernel in (
            account.ACCOUNT,
            bluetooth_driver.BLUETOOTH_DRIVER,
            deadlock01.DEADLOCK01,
            lazy01.LAZY01,
            stack.STACK,
            reorder.REORDER_3,
            reorder.REORDER_5,
            reorder.REORDER_10,
            dining.DINING_3,
            dining.DINING_5,
        )
    }
)
"""By name; a program is called `changeover_sim.kernels.<module>:<port>`, with the name before it where it has sizes."""
