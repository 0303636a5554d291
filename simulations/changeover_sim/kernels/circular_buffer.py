"""circular_buffer: one task puts numbers into a buffer, one takes them out; each counts its rounds, not the numbers.

Who finds nothing to do goes on to the next round: the writer skips a number, or the reader expects the one after.
From SCTBench (Thomson, Donaldson, Betts 2014), CS/circular_buffer_bad; its _ok is the corrected twin.
"""

from __future__ import annotations

from functools import partial

from changeover_sim.kernels.port import Cell, Mutex, Tasks, kernel

SIZE, ROUNDS = 10, 7
ERROR = -1


class Buffer:
    """The buffer of the original, each read and write a step; `first` is for taking out, and `next` for putting in."""

    def __init__(self) -> None:
        self._slots = [Cell(f"slot {n}", 0) for n in range(SIZE)]
        self._first, self._next = Cell("first", 0), Cell("next", 0)

    async def insert(self, number: int) -> None:
        """Put a number in, if there is room."""
        if await self._next.get() < SIZE:
            await self._slots[await self._next.get()].set(number)
            await self._next.set((await self._next.get() + 1) % SIZE)
            assert await self._next.get() < SIZE, "the writer is behind the end of the buffer"

    async def remove(self) -> int:
        """Take the number out that is next, or return `ERROR`."""
        if await self._next.get() > 0 and await self._first.get() < SIZE:
            await self._first.set(await self._first.get() + 1)
            return await self._slots[await self._first.get() - 1].get()
        return ERROR


def tasks(*, corrected: bool) -> Tasks:
    """Return the writer and the reader; `corrected`, the reader expects the number that was put in last."""
    lock = Mutex("lock")
    buffer = Buffer()
    may_send, may_receive = Cell("may send", value=True), Cell("may receive", value=False)
    value = Cell("value", 0)

    async def writer() -> None:
        for number in range(ROUNDS):
            async with lock:
                if await may_send.get():
                    await buffer.insert(number)
                    if corrected:
                        await value.set(number)
                    await may_send.set(value=False)
                    await may_receive.set(value=True)

    async def reader() -> None:
        for number in range(ROUNDS):
            async with lock:
                if await may_receive.get():
                    found = await buffer.remove()
                    expected = await value.get() if corrected else number
                    assert found == expected, f"the reader takes {found} out of the buffer and expects {expected}"
                    await may_receive.set(value=False)
                    await may_send.set(value=True)

    return {"writer": writer, "reader": reader}


CIRCULAR_BUFFER = kernel(
    __name__, "circular_buffer", partial(tasks, corrected=False), partial(tasks, corrected=True), "exception"
)
natural, spawned_1, spawned_4, fixed = CIRCULAR_BUFFER
