"""account: one task deposits, one withdraws, and one checks the balance; the sum that it checks is wrong.

It fails only if the check comes last, although it is started first: deposit, withdraw, check.
From SCTBench (Thomson, Donaldson, Betts 2014), CS/account_bad, after the suite of Cordeiro and Fischer (2011).
"""

from __future__ import annotations

from functools import partial

from changeover_sim.kernels.port import Cell, Mutex, Tasks, kernel

X, Y, Z = 1, 2, 4


def tasks(expected: int) -> Tasks:
    """Return the check, which requires `expected` after both movements, the deposit of Y, and the withdrawal of Z."""
    lock = Mutex("lock")
    balance = Cell("balance", X)
    deposited, withdrawn = Cell("deposited", value=False), Cell("withdrawn", value=False)

    async def check() -> None:
        async with lock:
            if await deposited.get() and await withdrawn.get():
                found = await balance.get()
                assert found == expected, f"after {X} + {Y} - {Z} the balance is {found}; the check wants {expected}"

    async def deposit() -> None:
        async with lock:
            await balance.set(await balance.get() + Y)
            await deposited.set(True)

    async def withdraw() -> None:
        async with lock:
            await balance.set(await balance.get() - Z)
            await withdrawn.set(True)

    return {"check": check, "deposit": deposit, "withdraw": withdraw}


ACCOUNT = kernel(__name__, "account", partial(tasks, X - Y - Z), partial(tasks, X + Y - Z), "exception")
natural, spawned_1, spawned_4, fixed = ACCOUNT
