"""dining_N: N philosophers at a round table with a fork between neighbours; each takes the left one, then the right.

Each takes the left fork before anybody takes the right one: all wait for their neighbour.
From Dijkstra's EWD 310 (1971); the common first example of a deadlock of more than two.
"""

from __future__ import annotations

from functools import partial

from changeover_sim.kernels.port import Kernel, Mutex, Program, Tasks, kernel


def tasks(number: int, *, corrected: bool) -> Tasks:
    """Return the `number` philosophers; `corrected`, each takes the fork of the lower number first: the last, right."""
    forks = [Mutex(f"fork {n}") for n in range(number)]

    def philosopher(left: int) -> Program:
        right = (left + 1) % number
        first, second = (right, left) if corrected and right < left else (left, right)

        async def dine() -> None:
            async with forks[first], forks[second]:
                pass  # the forks are all that is shared

        return dine

    return {f"philosopher {n}": philosopher(n) for n in range(number)}


def dining(number: int) -> Kernel:
    """Return the kernel with `number` philosophers."""
    name = f"dining_{number}"
    buggy, right = partial(tasks, number, corrected=False), partial(tasks, number, corrected=True)
    return kernel(__name__, name, buggy, right, "deadlock", prefix=f"{name}_")


DINING_3, DINING_5 = dining(3), dining(5)
dining_3_natural, dining_3_spawned_1, dining_3_spawned_4, dining_3_fixed = DINING_3
dining_5_natural, dining_5_spawned_1, dining_5_spawned_4, dining_5_fixed = DINING_5
