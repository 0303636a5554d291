"""The faces of the engine, so that one scenario can be played on each: how it is run, opened, and its calls awaited.

A face owns nothing; `opened` closes what it opens. In plain threads nothing is awaited, and a scenario runs through.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import anyio
import attrs
import trio
import uvloop

import changeover
import changeover.aio
import changeover.threads
from tests.support.models import Cast

Scenario = Callable[["Face"], Coroutine[Any, Any, None]]


@attrs.frozen
class Face:
    """One way to use the engine."""

    name: str
    open_engine: Callable[..., Any]
    run: Callable[[Callable[[], Coroutine[Any, Any, None]]], None]

    def play(self, scenario: Scenario) -> None:
        """Run a scenario to its end."""
        self.run(lambda: scenario(self))

    @asynccontextmanager
    async def opened(self, cast: Cast | None = None, **options: Any) -> AsyncGenerator[Any, None]:
        """Open an engine that knows the scripted models of `cast`; none may have been misused in it."""
        cast = cast or Cast()
        async with entered(self.open_engine(**options)) as engine:
            engine._host.loaders.add("scripted", cast.loader)
            yield engine
        assert cast.wrongs() == []


@asynccontextmanager
async def entered(block: Any) -> AsyncGenerator[Any, None]:
    """Enter a block, with `async with` where it has that."""
    if hasattr(block, "__aenter__"):
        async with block as value:
            yield value
    else:
        with block as value:
            yield value


async def done(call: Any) -> Any:
    """Return what a call comes to, whether it is awaited or not."""
    return await call if inspect.isawaitable(call) else call


def run_through(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a coroutine that never waits for a loop."""
    coroutine = main()
    try:
        coroutine.send(None)
    except StopIteration:
        return
    coroutine.close()
    raise AssertionError("nothing in a plain thread waits for a loop")


def run_anyio(backend: str) -> Callable[[Callable[[], Awaitable[None]]], None]:
    """Return what runs a coroutine under AnyIO."""
    return lambda main: anyio.run(main, backend=backend)


TRIO = Face("trio", changeover.open_engine, trio.run)
ASYNCIO = Face("asyncio", changeover.aio.open_engine, lambda main: asyncio.run(main()))
UVLOOP = Face("uvloop", changeover.aio.open_engine, lambda main: uvloop.run(main()))
ANYIO_ASYNCIO = Face("anyio on asyncio", changeover.aio.open_engine, run_anyio("asyncio"))
ANYIO_TRIO = Face("anyio on trio", changeover.open_engine, run_anyio("trio"))
THREADS = Face("threads", changeover.threads.open_engine, run_through)

ON_ASYNCIO = (ASYNCIO, UVLOOP, ANYIO_ASYNCIO)
ALL = (TRIO, ANYIO_TRIO, *ON_ASYNCIO, THREADS)


def crash(engine: Any) -> None:
    """Let an engine crash that sits in another thread."""

    async def child() -> None:
        raise ZeroDivisionError("a bug of the engine")

    engine._seat.call(lambda: engine._version_supervisor._nursery.start_soon(child))
