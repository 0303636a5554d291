"""The supervisor: restarts what crashes, with patience; children never meet; the youngest is stopped first."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any

import attrs
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from changeover.runtime.ports import Ports
from changeover.runtime.supervisor import ChildSpec, Restart, Supervisor
from changeover_sim import open_world
from tests.support.models import Broken
from tests.support.rig import settle


class Middle:
    """Chance that always draws the middle: delays are what they are without jitter."""

    def random(self) -> float:
        return 0.5

    def getrandbits(self, k: int, /) -> int:
        return 0


@asynccontextmanager
async def supervised(ports: Ports | None = None) -> AsyncGenerator[Supervisor, None]:
    """Run a supervisor in a world of virtual time, and stop it behind the block."""
    async with open_world() as world, trio.open_nursery() as nursery:
        supervisor = Supervisor(ports or attrs.evolve(world.ports, random=Middle()))
        await nursery.start(lambda task_status: supervisor.run(task_status=task_status))
        yield supervisor
        await supervisor.stop()


@attrs.define
class Child:
    """Crashes when it is told to, and notes when it began and what it was told."""

    name: str = "child"
    lives_s: float | None = 0.0
    """How long it runs before it crashes; None: for ever."""
    crashes: int = 1_000
    """How often; afterwards it runs for ever."""
    began: list[float] = attrs.field(factory=list)
    told: list[float | None] = attrs.field(factory=list)
    ended: list[str] = attrs.field(factory=list)

    async def run(self) -> None:
        self.began.append(trio.current_time())
        try:
            if self.lives_s is None or len(self.began) > self.crashes:
                await trio.sleep_forever()
            await trio.sleep(self.lives_s or 0.0)
            raise Broken(self.name)
        finally:
            self.ended.append(self.name)

    def spec(self, restart: Restart | None = None) -> ChildSpec:
        return ChildSpec(self.name, self.run, lambda _error, delay_s: self.told.append(delay_s), restart)


def gaps(times: list[float]) -> list[float]:
    """Return what lies between the times."""
    return [round(b - a, 6) for a, b in pairwise(times)]


async def test_each_restart_waits_twice_as_long_up_to_the_longest(autojump_clock: Any) -> None:
    """The delays before restarts double, and stop to grow at `longest_s`."""
    child = Child()
    async with supervised() as supervisor:
        supervisor.start(child.spec(Restart(most=7, within_s=1e9, first_s=0.1, longest_s=1.0)))
        await trio.sleep(100)
    assert gaps(child.began) == [0.1, 0.2, 0.4, 0.8, 1.0, 1.0, 1.0]


async def test_too_many_crashes_are_the_end_of_a_child(autojump_clock: Any) -> None:
    """One crash more than the policy allows within its time, and the child is given up and told so."""
    child = Child()
    async with supervised() as supervisor:
        supervisor.start(child.spec(Restart(most=3, within_s=60.0)))
        await trio.sleep(1_000)
        assert child.told == [0.1, 0.2, 0.4, None]
        assert "child" not in supervisor
        assert supervisor.restarts == 3


async def test_old_crashes_are_forgotten(autojump_clock: Any) -> None:
    """A child that crashes rarely enough is restarted for ever, each time after the first delay."""
    child = Child(lives_s=100.0)
    async with supervised() as supervisor:
        supervisor.start(child.spec(Restart(most=1, within_s=60.0)))
        await trio.sleep(1_000)
        assert set(child.told) == {0.1}
        assert len(child.told) == 9


async def test_a_child_without_a_policy_is_never_restarted(autojump_clock: Any) -> None:
    """A crash of a child that is not to be restarted is told, and that is all."""
    child = Child()
    async with supervised() as supervisor:
        supervisor.start(child.spec(None))
        await trio.sleep(100)
        assert (len(child.began), child.told, supervisor.restarts) == (1, [None], 0)


async def test_a_child_that_returns_has_ended(autojump_clock: Any) -> None:
    """A child that is done is not restarted, is not told of a crash, and its name is free again."""
    async with supervised() as supervisor:
        ended: list[int] = []

        async def run() -> None:
            ended.append(1)

        for _ in range(2):
            supervisor.start(ChildSpec("child", run, lambda _error, _delay: ended.append(-1), Restart()))
            await settle()
            assert "child" not in supervisor
        assert ended == [1, 1]


async def test_a_crash_never_reaches_the_siblings(autojump_clock: Any) -> None:
    """While one child crashes again and again the others run on undisturbed."""
    bad, good = Child("bad"), Child("good", lives_s=None)
    async with supervised() as supervisor:
        supervisor.start(good.spec(Restart()))
        supervisor.start(bad.spec(Restart()))
        await trio.sleep(1_000)
        assert (len(bad.began), len(good.began), good.ended) == (6, 1, [])


async def test_children_stop_in_the_reverse_order_of_their_start(autojump_clock: Any) -> None:
    """The youngest child is stopped first, and the next only when it has ended."""
    ended: list[str] = []

    def slow(name: str) -> ChildSpec:
        async def run() -> None:
            try:
                await trio.sleep_forever()
            finally:
                with trio.CancelScope(shield=True):
                    await trio.sleep(1 if name == "b" else 5)
                ended.append(name)

        return ChildSpec(name, run, lambda _error, _delay: None, Restart())

    async with supervised() as supervisor:
        for name in "abc":
            supervisor.start(slow(name))
        await settle()
        began_s = trio.current_time()
        await supervisor.stop()
        assert ended == ["c", "b", "a"]
        assert trio.current_time() - began_s == pytest.approx(11)


async def test_a_stop_while_a_child_waits_for_its_restart_is_at_once(autojump_clock: Any) -> None:
    """A stop ends the waiting of a child that crashed, and the child is not run again."""
    child = Child()
    async with supervised() as supervisor:
        supervisor.start(child.spec(Restart(first_s=50.0, longest_s=50.0)))
        await trio.sleep(1)
        began_s = trio.current_time()
        await supervisor.stop()
        assert (trio.current_time() - began_s, len(child.began), "child" in supervisor) == (0.0, 1, False)


async def test_a_child_that_crashes_while_it_is_stopped_is_not_restarted(autojump_clock: Any) -> None:
    """An error from a child's end is told as its last one."""
    told: list[float | None] = []

    async def run() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise Broken("at the end")

    async with supervised() as supervisor:
        supervisor.start(ChildSpec("child", run, lambda _error, delay_s: told.append(delay_s), Restart()))
        await settle()
        await supervisor.stop()
    assert told == [None]


async def test_a_stopped_supervisor_says_that_it_starts_nothing_more(autojump_clock: Any) -> None:
    """`is_running` is true from the start of `run` to `stop`."""
    async with supervised() as supervisor:
        assert supervisor.is_running
        await supervisor.stop()
        assert not supervisor.is_running


@given(draw=st.floats(0, 1, exclude_max=True), crashes=st.integers(1, 5))
def test_jitter_stays_within_its_part_of_the_delay(draw: float, crashes: int) -> None:
    """Whatever chance draws, a delay is within `jitter` of the doubled one."""
    policy = Restart(first_s=1.0, longest_s=4.0, jitter=0.2)
    delay_s = policy.delay_s([0.0] * crashes, draw)
    plain = min(4.0, 2.0 ** (crashes - 1))
    assert delay_s is not None
    assert plain * 0.8 - 1e-9 <= delay_s <= plain * 1.2 + 1e-9


def test_many_children_do_not_restart_at_once() -> None:
    """Different draws give different delays, over the whole width of the jitter."""
    policy = Restart(first_s=1.0, jitter=0.2)
    assert [policy.delay_s([0.0], draw) for draw in (0.0, 0.5, 1.0)] == pytest.approx([0.8, 1.0, 1.2])
