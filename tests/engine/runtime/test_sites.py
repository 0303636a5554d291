"""Marks on rare branches: nobody hears of them unless a simulator does, and what they do when they fire is legal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import attrs
import pytest
import trio

from changeover import Guard, ModelPolicy, Shift, SwapState
from changeover.errors import SwapFailed, SwapRolledBack, VersionCrashed
from changeover.plugin import SourceAway
from changeover.runtime import sites
from changeover_sim import World, open_world
from changeover_sim.simulate.sites import names
from tests.support.canary import asking
from tests.support.models import Broken
from tests.support.rig import Outcome, Rig, Watch, open_rig, run_virtual, running, settle

RARE = names("buggify")
UNSEEN = {
    *("crash-told-twice", "ended-swap-forgotten-early", "keeper-thinks-once-more", "owed-desires-written-later"),
}
"""What changes no event: somebody is told what he knows, or looks elsewhere."""


class Listener:
    """Counts what it is told, and lets some rare things be done."""

    def __init__(self, *fire: str) -> None:
        self.reached: Counter[str] = Counter()
        self.asked: Counter[str] = Counter()
        self.fired: Counter[str] = Counter()
        self._fire = fire

    def reach(self, name: str) -> None:
        self.reached[name] += 1

    def fires(self, name: str) -> bool:
        self.asked[name] += 1
        fires = name in self._fire and self.asked[name] % 3 == 1  # always would not be rare: a guard would never judge
        self.fired[name] += fires
        return fires


@contextmanager
def told(listener: Listener) -> Generator[Listener, None, None]:
    """Have somebody listen for the block."""
    sites.install(listener)
    try:
        yield listener
    finally:
        sites.install(None)


# --- a day in the life of an engine: each part comes by some of the marks -------------------------------------------


async def crashes(rig: Rig, _world: World) -> None:
    """A source is away, then the version crashes, and is served again."""
    rig.add(load_error=SourceAway("later"), fatal_on=lambda inputs: "poison" in inputs)
    load = Outcome(rig.engine.load, "m", "1")
    async with running(load):
        rig.script().load_error = None
    with pytest.raises(VersionCrashed):
        await rig.engine.infer("m", {"poison": 1})
    await trio.sleep(5.0)
    assert (await rig.engine.infer("m", {})).version == "1"
    assert rig.engine.statistics().children_restarted == 1


async def fills_its_memory(rig: Rig, world: World) -> None:
    """There is room for two of three models; each answers when it is asked."""
    world.memory.resident = 1_000
    for model in "abc":
        rig.add(model, "1", memory=40, memory_hint_bytes=40)
        await rig.engine.load(model, "1")
        await trio.sleep(1.0)
    for model in "abc":
        assert (await rig.engine.infer(model, {})).version == "1"
        statistics = rig.engine.statistics()
        assert statistics.reserved_bytes <= 100
        await trio.sleep(1.0)
    for model in "abc":
        await rig.engine.unload(model, "1", force=True) if rig.engine.loaded_versions(model) else None


async def keeps_to_its_policy(rig: Rig, _world: World) -> None:
    """The newest version of a model serves; to warm it up again is nothing that a policy asks about."""
    rig.engine.set_policy("p", ModelPolicy("latest", plan=Shift.at_once()))
    for version in "12":
        rig.add("p", version)
        await trio.sleep(1.0)
    await rig.engine.warm_up("p", "2", [{}, {}])
    await trio.sleep(1.0)
    assert (rig.engine.loaded_versions("p"), len(rig.engine.swaps("p"))) == (("2",), 1)


async def swaps(rig: Rig, _world: World) -> None:
    """A bad version is taken back by its guard, a good one stays; both swaps are remembered."""
    rig.add("m", "2", fails_on=lambda _inputs: True)
    rig.add("m", "3")
    async with asking(rig, 0.1) as clients:
        with pytest.raises(SwapRolledBack):
            await rig.engine.swap("m", "2", plan=Shift.canary([(0.5, 2.0)], guard=Guard(min_samples=10)))
        done = await rig.engine.swap("m", "3", plan=Shift.canary([(0.5, 2.0)], guard=Guard(min_samples=10)))
    assert clients.errors == []
    assert [swap.state for swap in rig.engine.swaps("m")] == [SwapState.ROLLED_BACK, SwapState.COMPLETED]
    assert (await rig.engine.wait_for_swap(done.id)).id == done.id


async def has_a_full_disk(rig: Rig, world: World) -> None:
    """The pivot cannot be written, nor can the traffic be given back at first; later what is active is wanted."""
    router, failed = rig.engine._router, list[str]()
    shift = router.shift

    def broken(moves: Any) -> None:
        if "3" in moves.values() and not failed:
            failed.append("once")
            raise Broken("stuck")
        shift(moves)

    world.disk.fails(lambda entry: bool(entry.desired) and "m" in entry.desired, "full")
    router.shift = broken  # type: ignore[method-assign]
    rig.add("m", "4")
    with pytest.raises(SwapFailed):
        await rig.engine.swap("m", "4")
    del router.shift
    assert (await rig.engine.infer("m", {})).version == "3"
    world.disk.fails(lambda _entry: True, "full")
    await rig.ready("n", "1")
    world.disk.heal()
    await trio.sleep(2.0)
    await rig.ready("o", "1")
    await rig.engine.unload("o", "1", force=True)
    await settle()
    assert world.disk.desired()["n"].version == "1"


async def a_day(listener: Listener | None) -> list[tuple[Any, ...]]:
    """Live through all of it, and return every event."""
    if listener is not None:
        sites.install(listener)
    try:
        async with open_world(seed=1) as world:
            world.ports = attrs.evolve(world.ports, journal=world.disk.journal())
            async with open_rig(world=world, memory_budget_bytes=100) as rig, Watch(rig.engine) as watch:
                for part in (fills_its_memory, crashes, keeps_to_its_policy, swaps, has_a_full_disk):
                    await part(rig, world)
                events = await watch.read()
                assert rig.engine.audit().clean
            assert rig.cast.open() == []
            return [(trio.current_time(), e.kind, e.model, e.version, str(e.detail)) for e in events]
    finally:
        sites.install(None)


def test_nobody_hears_unless_somebody_listens() -> None:
    """Off is how the engine comes; a mark that is asked all the same says no."""
    assert not sites.ON
    sites.sometimes("load-joined")
    assert not sites.buggify("restart-at-once")
    with told(Listener("restart-at-once")) as listener:
        assert sites.ON
        sites.sometimes("load-joined")
        assert sites.buggify("restart-at-once")
        assert not sites.buggify("memory-not-told")
    assert not sites.ON
    assert (listener.reached, listener.asked) == ({"load-joined": 1}, {"restart-at-once": 1, "memory-not-told": 1})


def test_an_engine_does_the_same_whether_or_not_somebody_listens() -> None:
    """Every event of a day is the same, at the same time, as long as nothing fires; and marks were passed."""
    listener = Listener()
    assert run_virtual(a_day, None) == run_virtual(a_day, listener)
    assert {"version-evicted", "evicted-version-reloaded", "guard-tripped", "compensation-tried-again"} < set(
        listener.reached
    )
    assert set(listener.asked) == set(RARE)


@pytest.mark.parametrize("name", RARE)
def test_what_is_rare_is_legal(name: str) -> None:
    """Where one of them fires the day goes as promised; and what can be seen of it is seen."""
    listener = Listener(name)
    differs = run_virtual(a_day, listener) != run_virtual(a_day, None)
    assert listener.fired[name] > 0
    assert differs is (name not in UNSEEN)


def test_all_that_is_rare_at_once_is_legal() -> None:
    """They may meet."""
    listener = Listener(*RARE)
    run_virtual(a_day, listener)
    assert set(listener.fired) == set(RARE)
