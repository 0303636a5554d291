"""readers_writer: two readers share, a writer is alone; it changes two values that must agree. It has no bug.

The first problem of Courtois, Heymans, Parnas (1971): readers do not wait for a writer that only waits.
"""

from __future__ import annotations

from changeover_sim.kernels.port import Cell, Condition, Mutex, Tasks, correct

READERS, ROUNDS = 2, 2


def tasks() -> Tasks:
    """Return the writer and the readers."""
    lock = Mutex("lock")
    free = Condition("free", lock)
    reading, writing = Cell("reading", 0), Cell("writing", value=False)
    one, other = Cell("one", 0), Cell("other", 0)

    async def write() -> None:
        for number in range(1, ROUNDS + 1):
            async with lock:
                while await writing.get() or await reading.get():
                    await free.wait()
                await writing.set(value=True)
            await one.set(number)
            await other.set(number)
            async with lock:
                await writing.set(value=False)
                await free.notify_all()

    async def read() -> None:
        for _ in range(ROUNDS):
            async with lock:
                while await writing.get():
                    await free.wait()
                await reading.add(1)
            first, second = await one.get(), await other.get()
            assert first == second, f"a reader sees a half-written pair: {first} and {second}"
            async with lock:
                if await reading.add(-1) == 0:
                    await free.notify_all()

    return {"writer": write, **{f"reader {n}": read for n in range(READERS)}}


READERS_WRITER = correct(__name__, "readers_writer", tasks)
natural, spawned_1, spawned_4 = READERS_WRITER
