"""A soak of references: from plain threads, Trio runs and asyncio loops at once, with random cancellation in between.

At the end nothing is held, nobody watches, and memory is as it was after a warm-up.
"""

from __future__ import annotations

import asyncio
import gc
import random
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import trio

from changeover import RequestTracker
from changeover.errors import DrainTimeout
from tests.support.faces import THREADS
from tests.support.threads import Crowd
from tests.support.trackers import watchers

BLOCKS_MAX = 5_000
"""So many objects more than after the warm-up may be alive at the end, of however many uses: a leak of one for every
hundredth use of the short run is seen, and of one for every four hundredth of the long run."""

RESIDENT_MAX = 32 * 2**20
"""So many bytes more than after the warm-up may the process occupy."""

TURN = 20
"""So many uses are made before other tasks have their turn."""

STATM = Path("/proc/self/statm")


class Soak:
    """Everybody who uses one engine; `run` makes so many uses and returns when all have ended."""

    def __init__(self, engine: Any) -> None:
        self.engine = engine
        self.tracker = engine.references
        self.cancelled = 0
        self.rounds = 0

    def run(self, pairs: int) -> None:
        """Split the uses between three threads, two Trio runs and two asyncio loops."""
        self.rounds += 1
        crowd, interval_s = Crowd(), sys.getswitchinterval()
        for number, (user, share) in enumerate(self.users()):
            crowd.add(user, f"{self.rounds}-{number}", -(-pairs * share // 10), random.Random(number))
        crowd.start()
        sys.setswitchinterval(interval_s)  # two million uses are interrupted often enough
        for thread in crowd._threads:
            thread.join(600)
        crowd.join()

    def users(self) -> tuple[tuple[Callable[..., None], int], ...]:
        """Return who uses it, and for how many tenths of all uses."""
        return (
            (self.in_thread, 2), (self.in_thread, 2), (self.with_engine, 2),
            (self.on_trio, 1), (self.on_trio, 1), (self.on_asyncio, 1), (self.on_asyncio, 1),
        )  # fmt: skip

    def in_thread(self, me: str, uses: int, chance: random.Random) -> None:
        """Use the tracker under ids of one's own; sometimes wait in vain."""
        tracker = self.tracker
        for number in range(uses):
            name = f"{me} {number}"
            tracker.acquire("m", "1", name)
            if not number % 1_000:
                self.wait_in_vain()
            tracker.release("m", "1", name)

    def with_engine(self, me: str, uses: int, chance: random.Random) -> None:
        """Take leases, and ask the model now and then."""
        for number in range(uses):
            if number % 50:
                with self.engine.lease("m"):
                    pass
            else:
                self.engine.infer("m", {"n": number})

    def wait_in_vain(self) -> None:
        """Wait for what one holds oneself."""
        with pytest.raises(DrainTimeout):
            self.tracker.wait_for_zero_blocking("m", "1", 0.0)

    def on_trio(self, me: str, uses: int, chance: random.Random) -> None:
        """Use it in tasks of a Trio run, each cancelled in the midst of its turns as often as not."""
        left = uses

        async def turns(task: int) -> None:
            nonlocal left
            while left > 0:
                with trio.CancelScope() as scope:
                    if chance.random() < 0.5:
                        scope.cancel()
                    with RequestTracker(self.tracker, "m", "1", f"{me} {task}"):
                        left -= 1
                        left -= self.leases(TURN)
                        await trio.lowlevel.checkpoint()
                        with suppress(DrainTimeout):
                            await self.tracker.wait_for_zero("m", "1", 0.0)
                self.cancelled += scope.cancelled_caught

        async def main() -> None:
            async with trio.open_nursery() as nursery:
                for task in range(5):
                    nursery.start_soon(turns, task)

        trio.run(main)

    def on_asyncio(self, me: str, uses: int, chance: random.Random) -> None:
        """Use it in tasks of an asyncio loop, which others cancel at random while they wait."""
        left = uses

        async def turn(task: str) -> None:
            nonlocal left
            with RequestTracker(self.tracker, "m", "1", task):
                left -= 1
                left -= self.leases(TURN)
                await asyncio.sleep(0)
                with suppress(DrainTimeout):
                    await self.tracker.wait_for_zero("m", "1", 0.001)

        async def main() -> None:
            while left > 0:
                tasks = [asyncio.create_task(turn(f"{me} {task}")) for task in range(5)]
                for task in chance.sample(tasks, 3):
                    for _ in range(chance.randrange(3)):
                        await asyncio.sleep(0)
                    task.cancel()
                ends = await asyncio.gather(*tasks, return_exceptions=True)
                assert all(end is None or isinstance(end, asyncio.CancelledError) for end in ends), ends
                self.cancelled += sum(end is not None for end in ends)

        asyncio.run(main())

    def leases(self, count: int) -> int:
        """Take so many leases; return how many."""
        for _ in range(count):
            with self.engine.lease("m"):
                pass
        return count


def resident() -> int:
    """Return how many bytes the process occupies; 0 where the system does not tell."""
    if not STATM.exists():
        return 0
    pages = int(STATM.read_text().split()[1])
    return pages * 4_096


async def soaked(pairs: int) -> None:
    """Make so many uses behind a warm-up of a quarter of them, at most 10,000; then look at everything."""
    async with THREADS.opened() as engine:
        engine.register("m", "1", "s", loader="scripted")
        engine.load("m", "1")
        for made in engine._host.living():
            made.model.calls = Forgetful()
        soak = Soak(engine)
        warm_up = min(10_000, pairs // 4)
        soak.run(warm_up)
        gc.collect()
        blocks, occupied = sys.getallocatedblocks(), resident()
        soak.run(pairs)
        gc.collect()
        assert sys.getallocatedblocks() - blocks < BLOCKS_MAX
        assert resident() - occupied < RESIDENT_MAX
        audit = engine.audit()
        (account,) = engine.references._world.books.of("m", "1")
        assert audit.clean
        assert audit.total.acquired >= pairs + warm_up
        assert (audit.total.over_releases, watchers(engine.references)) == (0, 0)
        assert (account.held, account.usage.timed, account._revokers) == ({}, {}, {})
        assert soak.cancelled > pairs // 1_000
        assert 1 <= engine.references.statistics()["m", "1"].peak <= 3 + 2 * 6 + 2 * 6


class Forgetful(list[Any]):
    """What a scripted model is asked, and does not remember here."""

    def append(self, _asked: Any) -> None:
        return


def soak_through(pairs: int) -> None:
    """Run it in this thread."""
    THREADS.run(lambda: soaked(pairs))


def test_twenty_thousand_uses_from_everywhere() -> None:
    """20,000 uses in short."""
    soak_through(20_000)


@pytest.mark.slow
def test_two_million_uses_from_everywhere() -> None:
    """2,000,000 uses: the balance is zero, and memory is flat."""
    soak_through(2_000_000)
