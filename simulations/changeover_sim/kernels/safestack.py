"""safestack: a lock-free stack of three cells, of which three tasks pop one each, write to it, and push it, twice.

Two tasks own a cell at once: ABA, in spite of the two guards against it (never the last cell; its link is taken first).
Dmitry Vyukov's, posted to CHESS's forum in 2010, by way of SCTBench (Thomson, Donaldson, Betts 2014), SafeStack.cpp.
"""

from __future__ import annotations

from functools import partial

from changeover_sim.kernels.port import Cell, Program, Tasks, kernel

CELLS, TASKS, ROUNDS = 3, 3, 2
NONE = -1

Top = tuple[int, int]
"""The first cell, and how often it has changed; the latter is always 0 in the program with the bug."""


class Stack:
    """The stack; `corrected`, it is Treiber's with a counted top, and pop reads a link instead of taking it.

    Every atomic operation of the original is one step. It also yields where it finds nothing, which is no operation on
    anything shared, and is left out. A counted top alone would not do: a pop that comes to nothing puts back the link
    that it took, on top of what a push has written in between.
    """

    def __init__(self, *, corrected: bool) -> None:
        self._corrected = corrected
        self._top: Cell[Top] = Cell("top", (0, 0))
        self._count = Cell("count", CELLS)
        self._links = [Cell(f"link {n}", n + 1 if n + 1 < CELLS else NONE) for n in range(CELLS)]
        self.values = [Cell(f"value {n}", 0) for n in range(CELLS)]

    async def pop(self) -> int:
        """Take the first cell out, unless it could be the last; then, return `NONE`."""
        while await self._count.get() > 1:
            top = await self._top.get()
            link = self._links[top[0]]
            following = await (link.get() if self._corrected else link.exchange(NONE))
            if following == NONE:
                continue
            if await self._moves(top, following) == top:
                await self._count.add(-1)
                return top[0]
            if not self._corrected:
                await link.exchange(following)
        return NONE

    async def push(self, cell: int) -> None:
        """Put a cell in front."""
        top = await self._top.get()
        while True:
            await self._links[cell].set(top[0])
            found = await self._moves(top, cell)
            if found == top:
                break
            top = found
        await self._count.add(1)

    async def _moves(self, top: Top, first: int) -> Top:
        """Make `first` the top if that is still `top`; return which it was."""
        return await self._top.compare_exchange(top, (first, top[1] + 1 if self._corrected else 0))


def tasks(*, corrected: bool) -> Tasks:
    """Return three tasks that do the same; `corrected`, over a stack that keeps its promise."""
    stack = Stack(corrected=corrected)

    def user(number: int) -> Program:
        async def use() -> None:
            for _ in range(ROUNDS):
                while (cell := await stack.pop()) == NONE:
                    pass
                await stack.values[cell].set(number)
                found = await stack.values[cell].get()
                assert found == number, f"cell {cell} belongs to task {number}, and task {found} has written to it"
                await stack.push(cell)

        return use

    return {f"user {n}": user(n) for n in range(TASKS)}


SAFESTACK = kernel(__name__, "safestack", partial(tasks, corrected=False), partial(tasks, corrected=True), "exception")
natural, spawned_1, spawned_4, fixed = SAFESTACK
