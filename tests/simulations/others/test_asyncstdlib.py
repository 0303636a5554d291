"""asyncstdlib 3.14.0: caches, cached properties and `tee`, with the locks of Trio."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator

import asyncstdlib
import pytest
import trio

from changeover_sim import cancel_anywhere
from tests.simulations.others.record import Finding, Program, assert_fails_again, assert_found, assert_well, checkpoint


class Resource:
    """Has a property that takes a while to get."""

    def __init__(self) -> None:
        self.version = 1
        self.gets = 0

    @asyncstdlib.cached_property(trio.Lock)
    async def data(self) -> int:
        """Return the version there was at the beginning."""
        self.gets += 1
        seen = self.version
        await checkpoint()
        await checkpoint()
        return seen


async def deleted_property() -> None:
    """A property that was deleted is gotten anew."""
    resource = Resource()

    async def get() -> None:
        await resource.data

    async def change() -> None:
        await checkpoint()
        resource.version = 2
        if "data" in resource.__dict__:
            del resource.data

    async with trio.open_nursery() as nursery:
        nursery.start_soon(get)
        nursery.start_soon(change)
    assert await resource.data == 2, "an old value, got after the deletion"


async def cleared_cache() -> None:
    """A cache that was cleared has nothing from before."""
    version = 1

    @asyncstdlib.lru_cache
    async def data() -> int:
        seen = version
        await checkpoint()
        return seen

    async def change() -> None:
        nonlocal version
        version = 2
        data.cache_clear()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(data)
        nursery.start_soon(change)
    assert await data() == 2, "an old value, got after the cache was cleared"


async def numbers() -> AsyncGenerator[int, None]:
    """Yield three numbers."""
    for number in range(3):
        await checkpoint()
        yield number


async def cancelled_peer() -> None:
    """What one reader of a `tee` does, the others do not notice."""
    one, other = asyncstdlib.tee(numbers(), n=2, lock=trio.Lock())
    got: list[int] = []

    async def impatient() -> None:
        with trio.CancelScope() as scope:
            cancel_anywhere(scope)
            async for _ in one:
                pass

    async def patient() -> None:
        got.extend([number async for number in other])

    async with trio.open_nursery() as nursery:
        nursery.start_soon(impatient)
        nursery.start_soon(patient)
    assert got == [0, 1, 2], "a reader ended early, without an error"


FOUND = (
    Finding(
        "asyncstdlib==3.14.0",
        "cached_property(Lock)",
        deleted_property,
        "a getter that is on its way when the property is deleted puts its old value in afterwards, and it is "
        "answered from then on: `_get_attribute` in `functools.py` stores without looking",
        "The cached value can be cleared using del, in which case the next access will recompute the value",
        "AssertionError: an old value, got after the deletion",
    ),
    Finding(
        "asyncstdlib==3.14.0",
        "lru_cache.cache_clear",
        cleared_cache,
        "a call that is on its way when the cache is cleared puts its old result in afterwards: `__call__` in "
        "`_lrucache.py` stores what it has awaited without looking",
        "",
        "AssertionError: an old value, got after the cache was cleared",
    ),
    Finding(
        "asyncstdlib==3.14.0",
        "tee(lock=)",
        cancelled_peer,
        "when one reader is cancelled inside of the source, an asynchronous generator, the source is over, and the "
        "other readers end as if there were no more items: `_extend_buffer` in `itertools.py` awaits it in the "
        "reader's own task",
        "",
        "AssertionError: a reader ended early, without an error",
    ),
)


# --- what goes well ---------------------------------------------------------------------------------------------------


async def gotten_once() -> None:
    """With a lock the getter runs once, or once more for each that was cancelled inside of it."""
    resource, cancelled = Resource(), 0

    async def get(*, patient: bool) -> None:
        nonlocal cancelled
        with trio.CancelScope() as scope:
            if not patient:
                cancel_anywhere(scope)
            assert await resource.data == 1
        cancelled += scope.cancelled_caught

    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: get(patient=False))
        nursery.start_soon(lambda: get(patient=True))
        nursery.start_soon(lambda: get(patient=True))
    assert resource.gets <= 1 + cancelled


async def same_items() -> None:
    """Both readers of a `tee` see every item, in order."""
    got: list[list[int]] = []

    async def read(peer: AsyncIterator[int]) -> None:
        got.append([number async for number in peer])

    async with trio.open_nursery() as nursery:
        for peer in asyncstdlib.tee(numbers(), n=2, lock=trio.Lock()):
            nursery.start_soon(read, peer)
    assert got == [[0, 1, 2], [0, 1, 2]]


WELL = (gotten_once, same_items)


@pytest.mark.parametrize("finding", FOUND, ids=str)
def test_what_was_found_fails_again_and_is_found_again(finding: Finding) -> None:
    """The schedule that is kept fails in the same way, and a random walk comes to the same."""
    assert_fails_again(finding)
    assert_found(finding)


@pytest.mark.parametrize("program", WELL, ids=lambda program: program.__name__)
def test_the_rest_goes_well(program: Program, part: int) -> None:
    """No schedule of these fails."""
    assert_well(program, part)
