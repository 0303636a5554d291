"""What every lock and every queue must do, whoever made it: one inside, nobody asleep for nothing, nothing lost.

Owns nothing; a pattern makes the program for one primitive.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AbstractContextManager, suppress
from typing import Any

import trio

from changeover_sim import cancel_anywhere
from tests.simulations.others.record import Program, at_rest, cancel_later, checkpoint

Ends = tuple[Callable[[int], Awaitable[object]], Callable[[], Awaitable[int]], Callable[[], int]]
"""Of a queue: put, get, and a get that does not wait."""


def mutual_exclusion(name: str, make: Callable[[], AbstractAsyncContextManager[Any]]) -> Program:
    """Return a program in which three tasks want the same lock and two may be cancelled: afterwards it is free."""

    async def program() -> None:
        lock, inside, scope = make(), 0, trio.CancelScope()

        async def task(number: int) -> None:
            nonlocal inside
            with scope if number == 1 else trio.CancelScope() as mine:
                if number == 0:
                    cancel_anywhere(mine)
                async with lock:
                    inside += 1
                    try:
                        assert inside == 1
                        await checkpoint()
                    finally:
                        inside -= 1

        async with trio.open_nursery() as nursery:
            for number in range(3):
                nursery.start_soon(task, number)
            nursery.start_soon(cancel_later, scope)
        async with lock:
            pass

    program.__name__ = program.__qualname__ = name
    return program


def no_lost_wakeup(
    name: str,
    make: Callable[[], Any],
    waiting: Callable[[Any], int],
    wait: Callable[[Any], Awaitable[object]] = lambda condition: condition.wait(),
) -> Program:
    """Return a program that notifies one of two waiters, while the first may be cancelled and others want the lock."""

    async def program() -> None:
        condition, items, scope = make(), 0, trio.CancelScope()

        async def consumer(scope: trio.CancelScope) -> None:
            nonlocal items
            with scope:
                async with condition:
                    while not items:
                        await wait(condition)
                    items -= 1

        async def producer() -> None:
            nonlocal items
            async with condition:
                items += 1
                condition.notify()

        async def bystander() -> None:
            async with condition:
                await checkpoint()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(consumer, scope)
            nursery.start_soon(consumer, trio.CancelScope())
            await at_rest()
            nursery.start_soon(bystander)
            nursery.start_soon(producer)
            nursery.start_soon(cancel_later, scope)
            await at_rest()
            assert not (items and waiting(condition)), "an item is there, and a consumer sleeps"
            nursery.cancel_scope.cancel()

    program.__name__ = program.__qualname__ = name
    return program


def nothing_lost(
    name: str,
    make: Callable[[], AbstractContextManager[Ends]],
    empty: type[Exception],
) -> Program:
    """Return a program in which what `put` took comes out by `get` once, and what it refused does not.

    The get that does not wait raises `empty` instead.
    """

    async def program() -> None:
        sent, got, scopes = list[int](), list[int](), [trio.CancelScope() for _ in range(2)]

        with make() as (put, get, get_nowait):

            async def sender(item: int, scope: trio.CancelScope) -> None:
                with scope:
                    await put(item)
                    sent.append(item)

            async def receiver(scope: trio.CancelScope) -> None:
                with scope:
                    got.append(await get())

            async with trio.open_nursery() as nursery:
                nursery.start_soon(sender, 1, scopes[0])
                nursery.start_soon(sender, 2, trio.CancelScope())
                nursery.start_soon(receiver, scopes[1])
                for scope in scopes:
                    nursery.start_soon(cancel_later, scope, 3)
                await at_rest()
                with suppress(empty):
                    while True:
                        got.append(get_nowait())
                        await at_rest()
        assert sorted(sent) == sorted(got), "not what was sent was received"

    program.__name__ = program.__qualname__ = name
    return program
