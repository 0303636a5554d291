"""aiometer 1.0.0: many calls with a limit on how many at once, and how many a second."""

from __future__ import annotations

import itertools

import aiometer
import pytest
import trio

from tests.simulations.others.record import Finding, Program, assert_fails_again, assert_found, assert_well, checkpoint


async def first_of_two() -> None:
    """The first result is there when it is there."""

    async def quick() -> str:
        await checkpoint()
        return "quick"

    async def slow() -> str:
        await trio.sleep(1_000)
        return "slow"

    assert await aiometer.run_any([quick, slow]) == "quick"
    assert trio.current_time() < 1_000, "it has waited for the slow one"


FOUND = (
    Finding(
        "aiometer==1.0.0",
        "run_any",
        first_of_two,
        "the first result is returned when the last function has ended: `run_any` in `_impl/run_any.py` leaves the "
        "block of `amap`, which waits for all of them",
        "run_any() can be used to run async functions until the first one completes",
        "AssertionError: it has waited for the slow one",
    ),
)


# --- what goes well ---------------------------------------------------------------------------------------------------


async def at_once() -> None:
    """No more than were allowed are on their way at once, and every result comes."""
    inside = 0

    async def work(number: int) -> int:
        nonlocal inside
        inside += 1
        assert inside <= 2
        await checkpoint()
        inside -= 1
        return number

    async with aiometer.amap(work, [1, 2, 3], max_at_once=2) as results:
        assert sorted([result async for result in results]) == [1, 2, 3]


async def per_second() -> None:
    """The calls begin a second apart."""
    begun: list[float] = []

    async def work(_: int) -> None:
        begun.append(trio.current_time())
        await checkpoint()

    await aiometer.run_on_each(work, [1, 2, 3], max_per_second=1)
    assert all(later - earlier >= 1 for earlier, later in itertools.pairwise(begun))


WELL = (at_once, per_second)


@pytest.mark.parametrize("finding", FOUND, ids=str)
def test_what_was_found_fails_again_and_is_found_again(finding: Finding) -> None:
    """The schedule that is kept fails in the same way, and a random walk comes to the same."""
    assert_fails_again(finding)
    assert_found(finding)


@pytest.mark.parametrize("program", WELL, ids=lambda program: program.__name__)
def test_the_rest_goes_well(program: Program, part: int) -> None:
    """No schedule of these fails."""
    assert_well(program, part)
