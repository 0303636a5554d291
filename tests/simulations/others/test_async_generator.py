"""async_generator 1.10: asynchronous generators written in Python, beside those of Python itself."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from typing import Any

import pytest
import trio
from async_generator import async_generator, yield_

from changeover_sim import cancel_anywhere
from tests.simulations.others.record import Finding, Program, assert_fails_again, assert_found, assert_well, checkpoint


async def closed_in_use(make: Callable[[list[str]], Any]) -> None:
    """Read a generator and close it at once, and close it again when nobody uses it: now its end must have run."""
    log: list[str] = []
    generator = make(log)

    async def read() -> None:
        async for _ in generator:
            break

    async def close() -> None:
        try:
            await generator.aclose()
        except (RuntimeError, ValueError):  # somebody is inside
            log.append("refused")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        nursery.start_soon(close)
    await generator.aclose()
    assert ("begun" in log) == ("ended" in log), "closed, and its end has not run"


@async_generator
async def library(log: list[str]) -> Any:
    """Yield by the library."""
    log.append("begun")
    try:
        await checkpoint()
        await yield_(1)
    finally:
        log.append("ended")


async def python(log: list[str]) -> AsyncGenerator[int, None]:
    """Yield by Python."""
    log.append("begun")
    try:
        await checkpoint()
        yield 1
    finally:
        log.append("ended")


async def close_in_use() -> None:
    """See `closed_in_use`."""
    await closed_in_use(library)


FOUND = (
    Finding(
        "async_generator==1.10",
        "AsyncGenerator.aclose",
        close_in_use,
        "after an `aclose` that was refused, because another task was inside, the generator can never be closed: "
        "every later `aclose` returns and does nothing, and `finally` blocks do not run (`_impl.py`, `_closed` is set "
        "before it is tried)",
        "",
        "AssertionError: closed, and its end has not run",
    ),
)


# --- what goes well ---------------------------------------------------------------------------------------------------


async def python_close_in_use() -> None:
    """The same with a generator of Python."""
    await closed_in_use(python)


async def cancelled_inside() -> None:
    """A reader that is cancelled inside of a generator ends it, and its end has run."""
    log: list[str] = []
    generator = library(log)
    with trio.CancelScope() as scope:
        cancel_anywhere(scope)
        async for _ in generator:
            await checkpoint()
    await generator.aclose()
    assert ("begun" in log) == ("ended" in log)


WELL = (python_close_in_use, cancelled_inside)


@pytest.mark.parametrize("finding", FOUND, ids=str)
def test_what_was_found_fails_again_and_is_found_again(finding: Finding) -> None:
    """The schedule that is kept fails in the same way, and a random walk comes to the same."""
    assert_fails_again(finding)
    assert_found(finding)


@pytest.mark.parametrize("program", WELL, ids=lambda program: program.__name__)
def test_the_rest_goes_well(program: Program, part: int) -> None:
    """No schedule of these fails."""
    assert_well(program, part)
