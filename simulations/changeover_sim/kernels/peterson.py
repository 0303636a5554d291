"""peterson: two tasks enter a critical section by two flags and a turn, without any lock. It has no bug.

Right because each step is seen by all at once. From Peterson, Myths about the Mutual Exclusion Problem (1981).
"""

from __future__ import annotations

from changeover_sim.kernels.port import Cell, Program, Tasks, correct

LOOKS, ROUNDS = 4, 2


def tasks() -> Tasks:
    """Return the two tasks; one that has looked often enough gives up, so that no schedule is endless."""
    wants = [Cell(f"wants {n}", value=False) for n in range(2)]
    turn = Cell("turn", 0)
    inside = Cell("inside", 0)

    def entrant(me: int) -> Program:
        other = 1 - me

        async def may_enter() -> bool:
            for _ in range(LOOKS):
                if not await wants[other].get() or await turn.get() == me:
                    return True
            return False

        async def enter() -> None:
            for _ in range(ROUNDS):
                await wants[me].set(value=True)
                await turn.set(other)
                if await may_enter():
                    assert await inside.get() == 0, "both are in the critical section"
                    await inside.set(1)
                    await inside.set(0)
                await wants[me].set(value=False)

        return enter

    return {f"entrant {n}": entrant(n) for n in range(2)}


PETERSON = correct(__name__, "peterson", tasks)
natural, spawned_1, spawned_4 = PETERSON
