"""Small concurrent programs with one known bug each, and some with none, to measure schedule explorers by.

Ports of published thread benchmarks to plain Trio, with exactly one scheduling point before every shared read, write,
lock and unlock: a `checkpoint`, and none of `trio.Lock`'s own (`Mutex` in `port.py` says why). Owns no state.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from changeover_sim.kernels import (
    account,
    barrier,
    bluetooth_driver,
    bounded_buffer,
    circular_buffer,
    counter,
    deadlock01,
    dining,
    lazy01,
    peterson,
    queue,
    readers_writer,
    reorder,
    safestack,
    stack,
    starvation,
    twostage,
)
from changeover_sim.kernels.port import Correct as Correct
from changeover_sim.kernels.port import Kernel as Kernel
from changeover_sim.kernels.port import Program as Program

__all__ = ["CORRECT", "KERNELS", "Correct", "Kernel", "Program"]

# The natural port starts its tasks in a row. With all of them ready at once a bug can be far easier to find than in the
# original, whose main thread starts the others one by one; hence the spawned ports, where the parent makes 1 or 4
# checkpoints between spawns. A task's start is a step of its own, as a thread's is.
KERNELS: Mapping[str, Kernel] = MappingProxyType(
    {
        kernel.name: kernel
        for kernel in (
            account.ACCOUNT,
            bluetooth_driver.BLUETOOTH_DRIVER,
            circular_buffer.CIRCULAR_BUFFER,
            deadlock01.DEADLOCK01,
            lazy01.LAZY01,
            queue.QUEUE,
            stack.STACK,
            reorder.REORDER_3,
            reorder.REORDER_5,
            reorder.REORDER_10,
            reorder.REORDER_20,
            reorder.REORDER_100,
            twostage.TWOSTAGE,
            twostage.TWOSTAGE_20,
            twostage.TWOSTAGE_100,
            safestack.SAFESTACK,
            dining.DINING_3,
            dining.DINING_5,
            starvation.STARVATION,
        )
    }
)
"""By name; a program is called `changeover_sim.kernels.<module>:<port>`, with the name before it where it has sizes."""

CORRECT: Mapping[str, Correct] = MappingProxyType(
    {
        program.name: program
        for program in (
            peterson.PETERSON,
            bounded_buffer.BOUNDED_BUFFER,
            readers_writer.READERS_WRITER,
            barrier.BARRIER,
            counter.COUNTER,
        )
    }
)
"""Programs without a bug, by name, in the same ports: what is found in one of them is a false alarm."""
