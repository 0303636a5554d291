"""queue: a writer fills a ring of 20 and a list of what it should hold; a reader compares them, and counts its rounds.

Who finds nothing to do goes on to the next round: the reader compares what it takes with a later entry of the list.
From SCTBench (Thomson, Donaldson, Betts 2014), CS/queue_bad, after the suite of Cordeiro and Fischer (2011).
"""

from __future__ import annotations

from functools import partial

from changeover_sim.kernels.port import Cell, Mutex, Tasks, kernel

SIZE = 20


class Ring:
    """The queue of the original, each read and write a step; it is not asked whether it is full, nor wraps in time."""

    def __init__(self) -> None:
        self.head, self.tail, self.amount = Cell("head", 0), Cell("tail", 0), Cell("amount", 0)
        self.elements = [Cell(f"element {n}", 0) for n in range(SIZE)]

    async def enqueue(self, number: int) -> None:
        """Put a number behind the last."""
        await self.elements[await self.tail.get()].set(number)
        await self.amount.set(await self.amount.get() + 1)
        await self.tail.set(1 if await self.tail.get() == SIZE else await self.tail.get() + 1)

    async def dequeue(self) -> int:
        """Take the first out, whether there is one or not."""
        number = await self.elements[await self.head.get()].get()
        await self.amount.set(await self.amount.get() - 1)
        await self.head.set(1 if await self.head.get() == SIZE else await self.head.get() + 1)
        return number


def tasks(*, corrected: bool) -> Tasks:
    """Return the writer and the reader; `corrected`, both count what they have put in or taken out, and no rounds."""
    lock = Mutex("lock")
    ring = Ring()
    stored = [Cell(f"stored {n}", 0) for n in range(SIZE)]
    may_enqueue, may_dequeue = Cell("may enqueue", value=True), Cell("may dequeue", value=False)

    async def writer() -> None:
        number = 0
        async with lock:
            await ring.enqueue(number)
            await stored[0].set(number)
            assert await ring.head.get() != await ring.tail.get(), "the queue is empty behind the first number"
        for round_ in range(1, SIZE):
            async with lock:
                if await may_enqueue.get():
                    number += 1
                    await ring.enqueue(number)
                    await stored[number if corrected else round_].set(number)
                    await may_enqueue.set(value=False)
                    await may_dequeue.set(value=True)

    async def reader() -> None:
        taken = 0
        for round_ in range(SIZE):
            async with lock:
                if await may_dequeue.get():
                    found, expected = await ring.dequeue(), await stored[taken if corrected else round_].get()
                    assert found == expected, f"the reader takes {found} out of the queue and expects {expected}"
                    taken += 1
                    await may_dequeue.set(value=False)
                    await may_enqueue.set(value=True)

    return {"writer": writer, "reader": reader}


QUEUE = kernel(__name__, "queue", partial(tasks, corrected=False), partial(tasks, corrected=True), "exception")
natural, spawned_1, spawned_4, fixed = QUEUE
