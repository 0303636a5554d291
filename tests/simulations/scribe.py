"""Who writes numbered entries to a simulated disk and notes what is reported; spawns nothing."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import attrs
import trio

from changeover.core.records import Entry, SwapRow
from changeover_sim import World, open_world


def entry(number: int) -> Entry:
    """Return an entry that is like no other one."""
    return Entry(swaps=(SwapRow(f"swap {number}", ended=False, record=b"%d" % number),))


def numbers(entries: Sequence[Entry]) -> list[int]:
    """Return which entries those are."""
    return [int(each.swaps[0].record) for each in entries]


def number_is(wanted: int) -> Callable[[Entry], bool]:
    """Name an entry by what is in it."""
    return lambda each: numbers([each]) == [wanted]


@attrs.define(eq=False)
class Scribe:
    """Who writes: every entry that was ordered, and what was heard of it, with the time."""

    journal: Any
    ordered: list[int] = attrs.field(factory=list)
    heard: list[tuple[int, str, float]] = attrs.field(factory=list)
    """Its number, `kept` or the name of the error, and when."""
    errors: list[Exception] = attrs.field(factory=list)

    def write(self, *which: int) -> None:
        """Order some entries, one behind the other."""
        for number in which:
            self.ordered.append(number)
            self.journal.write(entry(number), self._ear(number))

    async def close(self) -> None:
        """Close the journal; fails, where that would hang for ever."""
        with trio.fail_after(1_000):
            await self.journal.close()

    def _ear(self, number: int) -> Callable[[Exception | None], None]:
        def hear(error: Exception | None) -> None:
            assert number not in [which for which, _, _ in self.heard], "delivered twice"
            self.heard.append((number, "kept" if error is None else type(error).__name__, trio.current_time()))
            self.errors += [error] if error else []

        return hear

    @property
    def delivered(self) -> list[int]:
        """What was reported as kept, in the order of the reports."""
        return [number for number, how, _ in self.heard if how == "kept"]


async def opened(world: World, durability: Any = "process", **options: Any) -> Scribe:
    """Open a journal on the world's disk."""
    scribe = Scribe(world.disk.journal(durability, **options))
    await scribe.journal.open()
    return scribe


@asynccontextmanager
async def one_scribe(durability: Any = "process", **options: Any) -> AsyncGenerator[tuple[World, Scribe], None]:
    """Open a world and a journal on its disk."""
    async with open_world() as world:
        yield world, await opened(world, durability, **options)
