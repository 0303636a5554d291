"""The simulated disk through crashes: any number of them, and at every moment under every order of steps.

What a crash leaves is compared with a model of two lists: what was on the disk, and what was ordered behind it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import attrs
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from changeover.errors import JournalFailed
from changeover_sim import Exhaustive, RandomWalk, World, cancel_anywhere, choose, explore, open_world
from changeover_sim.disk import VirtualDisk
from tests.simulations.scribe import Scribe, number_is, numbers, opened
from tests.support.rig import run_virtual

checkpoint = trio.lowlevel.checkpoint


def crash(
    disk: VirtualDisk, scribe: Scribe, how: str, chosen: Callable[[Sequence[int]], int], doomed: Any = ()
) -> None:
    """Crash; what stays is a prefix of what could be there, and holds all that must be. `doomed` ones cannot."""
    before, synced, heard = numbers(disk.entries), disk.synced, [number for number, _, _ in scribe.heard]
    could = before + [number for number in scribe.ordered if number not in heard and number not in doomed]
    least = len(before) if how == "kill" else synced
    offered: list[Sequence[int]] = []

    def choose_one(options: Sequence[int]) -> int:
        offered.append(options)
        return chosen(options)

    getattr(disk, how)(choose_one)
    after = numbers(disk.entries)
    assert offered == [range(least, len(could) + 1)]
    assert after == could[: len(after)]
    assert len(after) >= least, "lost"
    if how == "kill" or scribe.journal.durability == "power":
        assert set(scribe.delivered) <= set(after), "lost"
    assert disk.synced == (synced if how == "kill" else len(after))


# --- any number of crashes ------------------------------------------------------------------------------------------

ACTS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.integers(1, 3)),
        st.tuples(st.just("wait"), st.integers(0, 4)),
        st.tuples(st.sampled_from(["kill", "power_cut"]), st.integers(0, 9)),
        st.tuples(st.sampled_from(["close", "write and close"]), st.just(2)),
        st.tuples(st.sampled_from(["full", "fsync", "slow"]), st.integers(0, 3)),
    ),
    max_size=25,
)


@attrs.define(eq=False)
class Story:
    """A life of a disk, engine after engine."""

    world: World
    durability: str
    scribe: Scribe
    ordered: int = 0
    doomed: set[int] = attrs.field(factory=set)
    """Which entries cannot be kept."""

    async def act(self, what: str, much: int) -> None:
        """Do one thing."""
        if not self.scribe.journal.is_open:
            self.scribe = await opened(self.world, self.durability, sync_every=3)
        if what in ("write", "write and close"):
            self.scribe.write(*range(self.ordered, self.ordered + much))
            self.ordered += much
        if what == "wait":
            await trio.sleep(much)
        elif what in ("close", "write and close"):
            await self.scribe.journal.close()
            assert self.world.disk.synced == len(self.world.disk.entries)
        elif what in ("kill", "power_cut"):
            crash(self.world.disk, self.scribe, what, lambda options: options[: much + 1][-1], self.doomed)
        elif what != "write":
            self.fault(what, self.ordered + much)

    def fault(self, trouble: Any, number: int) -> None:
        """Have trouble with an entry that is still to come."""
        self.world.disk.fails(number_is(number), trouble, 3.0 if trouble == "slow" else 0.0)
        if trouble == "full" or (trouble == "fsync" and self.durability == "power"):
            self.doomed.add(number)


async def play(acts: list[tuple[str, int]], durability: str) -> None:
    """Play a story; at every step what is reported is true."""
    async with open_world() as world:
        world.durations["journal"] = 1.0
        story = Story(world, durability, await opened(world, durability, sync_every=3))
        for what, much in acts:
            await story.act(what, much)
            there = numbers(world.disk.entries)
            assert there == sorted(set(there)), "out of order"
            assert not story.doomed & set(there)
            assert {number for number, how, _ in story.scribe.heard if how != "kept"} <= story.doomed
            assert world.disk.synced <= len(there)


@settings(derandomize=True, deadline=None, max_examples=300)
@given(acts=ACTS, durability=st.sampled_from(["process", "power"]))
def test_what_survives_is_a_prefix_with_all_that_was_delivered(acts: list[tuple[str, int]], durability: str) -> None:
    """Through kills, power cuts and faults in any order; with "process" only a power cut takes what was delivered."""
    run_virtual(play, acts, durability)


# --- every order of steps -------------------------------------------------------------------------------------------


def search(program: Callable[[], Awaitable[object]], delays: int = 3) -> None:
    """Try every order with so many steps out of turn, and some hundred orders at random."""
    for policy, schedules in ((Exhaustive(delays=delays), 100_000), (RandomWalk(), 300)):
        result = explore(program, policy=policy, schedules=schedules)
        assert result.failure is None, str(result.failure)
        assert result.exhausted or policy.samples


async def a_crash_at_any_moment() -> None:
    """Crash an engine that opens, writes and closes, and have the next one recover, which is killed in that too."""
    async with open_world() as world, trio.open_nursery() as nursery:
        durability = choose(["process", "power"])
        first = Scribe(world.disk.journal(durability, sync_every=2))
        begun = trio.Event()

        async def live() -> None:
            begun.set()
            await first.journal.open()
            first.write(0, 1)
            await checkpoint()
            first.write(2)
            await first.journal.close()
            assert first.journal.killed or first.delivered == [0, 1, 2], "closed before all was written"

        nursery.start_soon(live)
        await begun.wait()
        for _ in range(choose(range(5))):
            await checkpoint()
        crash(world.disk, first, choose(["kill", "power_cut"]), choose)
        heard, left = list(first.heard), numbers(world.disk.entries)
        second = await opened(world, durability)
        second.write(10)
        await checkpoint()
        crash(world.disk, second, "kill", choose)
        third = world.disk.journal(durability)
        kept = await third.open()
        assert [int(row.record) for row in kept.swaps] in (left, [*left, 10])
        assert first.heard == heard, "delivered to the dead"
        await third.close()
        nursery.cancel_scope.cancel()


def test_a_crash_at_any_moment_leaves_what_was_delivered() -> None:
    """No order of opening, writing, delivering, closing and crashing breaks it, and the dead hear of nothing."""
    search(a_crash_at_any_moment, delays=1)


async def two_want_the_disk() -> None:
    """Two engines open it, write and close; one of them is cancelled anywhere, and whoever has it may be killed."""
    holders: set[int] = set()
    ends: list[str] = []
    async with open_world() as world:
        disk = world.disk

        async def live(number: int) -> None:
            scribe = Scribe(disk.journal())
            with trio.CancelScope() as scope:
                if number:
                    cancel_anywhere(scope)
                try:
                    await scribe.journal.open()
                except JournalFailed as error:
                    ends.append(type(error).__name__)
                    return
                assert not holders, "two have it"
                holders.add(number)
                scribe.write(number)
                try:
                    await checkpoint()
                finally:
                    holders.discard(number)
                    await scribe.journal.close()
                assert scribe.journal.killed or scribe.delivered == [number]
            ends.append("over")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(live, 0)
            nursery.start_soon(live, 1)
            if choose([True, False]):
                await checkpoint()
                disk.kill(choose)
                holders.clear()
                await checkpoint()
                disk.bury()
        assert len(ends) == 2
        await trio.sleep(1)  # time passes only when nothing can run: a closing that was cancelled has ended then
        await disk.journal().open()


def test_one_engine_has_the_disk_and_lets_it_go() -> None:
    """Whoever is refused, cancelled in opening or in closing, or killed: nobody shares it, and it is free again."""
    search(two_want_the_disk)


async def a_crash_while_another_waits() -> None:
    """Crash the engine that has the disk while another one is opening it."""
    async with open_world() as world, trio.open_nursery() as nursery:
        how = choose(["kill", "power_cut"])
        first, second = await opened(world), world.disk.journal()
        begun = trio.Event()
        ends: list[str] = []

        async def wait() -> None:
            begun.set()
            try:
                await second.open()
            except JournalFailed as error:
                ends.append(type(error).__name__)
            else:
                ends.append("open")

        nursery.start_soon(wait)
        await begun.wait()
        waits = second in world.disk.opening
        crash(world.disk, first, how, choose)
        await trio.sleep(1)
        assert first.journal.killed
        assert ends == (["JournalInUse"] if not waits else ["open"] if how == "kill" else [])
        third = world.disk.journal()
        if ends == ["open"]:
            await second.close()
        await third.open()
        world.disk.bury()
        await trio.sleep(1)
        assert ends != [], "it waits behind its burial"
        nursery.cancel_scope.cancel()


def test_a_kill_ends_one_process_and_a_power_cut_all() -> None:
    """Whoever is opening the disk when another one is killed gets it; when the power fails it dies too."""
    search(a_crash_while_another_waits)


async def an_opening_that_is_killed() -> None:
    """Kill an engine that opens the disk."""
    async with open_world() as world, trio.open_nursery() as nursery:
        journal = world.disk.journal()
        begun = trio.Event()

        async def start() -> None:
            begun.set()
            await journal.open()

        nursery.start_soon(start)
        await begun.wait()
        world.disk.kill()
        await trio.sleep(1)
        assert journal.killed
        assert not journal.is_open
        await journal.close()
        await opened(world)
        nursery.cancel_scope.cancel()


def test_an_engine_that_is_killed_while_it_opens_never_gets_the_disk() -> None:
    """Wherever its opening stands, the next engine opens the disk."""
    search(an_opening_that_is_killed)
