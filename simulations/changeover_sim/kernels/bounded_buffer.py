"""bounded_buffer: two tasks put numbers into a buffer of two, two take them out, with a lock and two conditions.

It has no bug: each number is taken once, and who waits is told. The monitor of Hoare (1974), with waits in loops.
"""

from __future__ import annotations

from changeover_sim.kernels.port import Cell, Condition, Mutex, Program, Tasks, correct

SIZE, EACH = 2, 3


def tasks() -> Tasks:
    """Return the producers, then the consumers, each of which moves three numbers."""
    lock = Mutex("lock")
    not_full, not_empty = Condition("not full", lock), Condition("not empty", lock)
    held: Cell[tuple[int, ...]] = Cell("held", ())
    left = Cell("left", frozenset(range(2 * EACH)))

    def producer(number: int) -> Program:
        async def produce() -> None:
            for item in range(number * EACH, (number + 1) * EACH):
                async with lock:
                    while len(await held.get()) == SIZE:
                        await not_full.wait()
                    before = await held.get()
                    assert len(before) < SIZE, f"{item} is put into a buffer that is full: {before}"
                    await held.set((*before, item))
                    await not_empty.notify_all()

        return produce

    async def consume() -> None:
        for _ in range(EACH):
            async with lock:
                while not await held.get():
                    await not_empty.wait()
                item, *rest = await held.get()
                await held.set(tuple(rest))
                await not_full.notify_all()
                expected = await left.get()
                assert item in expected, f"{item} was taken twice"
                await left.set(expected - {item})

    return {"producer 0": producer(0), "producer 1": producer(1), "consumer 0": consume, "consumer 1": consume}


BOUNDED_BUFFER = correct(__name__, "bounded_buffer", tasks)
natural, spawned_1, spawned_4 = BOUNDED_BUFFER
