"""Promise 9: recovery is idempotent; what was not written whole is ignored, and what was synced is never lost."""

from __future__ import annotations

from typing import Any, Literal

import attrs
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from changeover import Drain, SwapOperation, SwapState
from changeover.errors import ChangeoverError, SwapNotDone
from changeover_sim import VirtualDisk, World, open_world
from tests.support.models import Broken
from tests.support.rig import Rig, open_rig, run_virtual

Act = tuple[Literal["swap", "bad swap", "rollback", "group"], str]
ACTS = st.lists(
    st.one_of(
        st.tuples(st.just("swap"), st.sampled_from(["1", "2", "3"])),
        st.tuples(st.just("bad swap"), st.just("bad")),
        st.tuples(st.just("rollback"), st.just("")),
        st.tuples(st.just("group"), st.sampled_from(["1", "2", "3"])),
    ),
    min_size=1,
    max_size=4,
)
MODELS = ("m", "n")


@attrs.frozen
class Told:
    """What its user had been told when the journal had so many entries."""

    entries: int
    ends: tuple[tuple[str, SwapState], ...]
    """How every swap had ended until then, by its id."""


def register(rig: Rig) -> None:
    """Register every version of both models."""
    for model in MODELS:
        for version in ("1", "2", "3"):
            rig.add(model, version)
        rig.add(model, "bad", load_error=Broken("rotten"))


async def act(rig: Rig, kind: str, to: str) -> None:
    """Do one thing and wait until it is over."""
    try:
        match kind:
            case "group":
                await rig.engine.swap_group({model: to for model in MODELS if not rig.engine.is_active(model, to)})
            case "rollback":
                await rig.engine.rollback(rig.engine.swaps()[-1].id)
            case _:
                await rig.engine.swap("m", to, drain=Drain(1.0))
    except (ChangeoverError, SwapNotDone, IndexError):
        return  # there was nothing to do, or it was undone


async def lived(acts: list[Act], world: World, durability: Literal["process", "power"]) -> list[Told]:
    """Live through some acts, and return what was reported after each."""
    world.ports = attrs.evolve(world.ports, journal=world.disk.journal(durability))
    told: list[Told] = []
    async with open_rig(world=world) as rig:
        register(rig)
        for model in MODELS:
            await rig.engine.load(model, "1")
        await trio.sleep(1)
        for kind, to in acts:
            await act(rig, kind, to)
            ends = tuple((operation.id, operation.state) for operation in rig.engine.swaps())
            told.append(Told(len(world.disk.entries), ends))
    return told


async def recovered(disk: VirtualDisk, world: World) -> tuple[dict[str, str | None], list[tuple[str, SwapState]]]:
    """Open an engine on a disk, and return who is active and how every swap has ended once it is recovered."""
    world.ports = attrs.evolve(world.ports, journal=disk.journal())
    async with open_rig(world=world) as rig:
        register(rig)
        await rig.engine.recovered()
        active = {model: rig.engine._router.active(model) for model in MODELS}
        swaps = rig.engine.swaps()
        assert all(operation.state.ended for operation in swaps)
        assert active == by_history(swaps), "who serves is not who should, by the swaps that are told"
        assert rig.engine.audit().clean
    return active, [(operation.id, operation.state) for operation in swaps]


def by_history(swaps: tuple[SwapOperation, ...]) -> dict[str, str | None]:
    """Return who should be active after these swaps, oldest first."""
    active: dict[str, str | None] = dict.fromkeys(MODELS, "1")
    for operation in swaps:
        if operation.state is SwapState.COMPLETED:
            active.update((member.model, member.to_version) for member in operation.members)
    return active


@pytest.mark.parametrize("durability", ["process", "power"])
@settings(max_examples=15, derandomize=True)
@given(acts=ACTS, data=st.data())
def test_whatever_was_reported_is_there_again(durability: Any, acts: list[Act], data: st.DataObject) -> None:
    """Killed behind any entry, and behind any of the recovery's own: the same end each time, never behind a report."""

    async def live() -> None:
        async with open_world() as world:
            told = await lived(acts, world, durability)
            past, entries = world.disk, len(world.disk.entries)
        count = data.draw(st.integers(2, entries), "entries that are on the disk")  # behind the two first loads
        async with open_world() as world:
            disk = past.after(count, world)
            first = await recovered(disk, world)
            again = disk.entries
        for more in range(count, len(again) + 1):
            async with open_world() as world:
                assert await recovered(disk.after(more, world), world) == first, f"killed again at entry {more}"
        for report in told:
            if report.entries <= count:
                assert set(report.ends) <= set(first[1])

    run_virtual(live)


def test_a_power_cut_loses_nothing_that_was_reported_with_power() -> None:
    """With `durability="power"` what the cut leaves is what was reported; with "process" it may be older, and whole."""

    async def live(durability: Literal["process", "power"]) -> None:
        async with open_world() as world:
            world.ports = attrs.evolve(world.ports, journal=world.disk.journal(durability))
            async with open_rig(world=world) as rig:
                register(rig)
                await rig.engine.load("m", "1")
                await rig.engine.load("n", "1")
                await rig.engine.swap("m", "2")
                world.disk.power_cut()
                world.disk.bury()
            past = world.disk
        async with open_world() as world:
            world.ports = attrs.evolve(world.ports, journal=past.after(len(past.entries), world).journal())
            async with open_rig(world=world) as rig:
                register(rig)
                await rig.engine.recovered()
                active = {"m": rig.engine._router.active("m")}
                ends = [(operation.id, operation.state) for operation in rig.engine.swaps()]
        if durability == "power":
            assert (active["m"], [state for _, state in ends]) == ("2", [SwapState.COMPLETED])
        else:
            assert (active["m"], ends) == (None, [])  # the disk kept nothing at all

    run_virtual(live, "power")
    run_virtual(live, "process")
