"""Many swaps of one model under traffic, a third of them with a fault: nothing is lost, held or left over."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import attrs
import pytest
import trio

from changeover import Drain, Shift, SwapState, Timeouts
from changeover.core import wire
from changeover.core.records import SwapRecord
from changeover.errors import PredictFailed, SwapNotDone
from changeover_sim import open_world
from tests.support.models import Broken
from tests.support.rig import Rig, open_rig, settle, until

VERSIONS = "123"
CLIENTS = 4
PATIENCE_S = 1_000.0
"""Of virtual time, for a swap and for all that it leaves behind."""
CANARY = Shift.canary(((0.5, 1.5),), confirm_s=1.0)
QUICK = {"drain": Drain(deadline_s=1.0), "timeouts": Timeouts(load_s=1.0, unload_s=1.0, total_s=20.0)}


@attrs.define
class Storm:
    """The model's traffic, the swaps that it goes through, and what came of both."""

    rig: Rig
    chance: random.Random
    monkeypatch: pytest.MonkeyPatch
    over: bool = False
    asked: int = 0
    answered: int = 0
    lost: list[str] = attrs.field(factory=list)
    ends: Counter[str] = attrs.field(factory=Counter)
    faults: Counter[str] = attrs.field(factory=Counter)
    odd: list[str] = attrs.field(factory=list)
    """What swaps have raised that no swap should."""

    # --- traffic ---

    async def client(self, number: int) -> None:
        """Ask and ask; every second one through a lease."""
        while not self.over:
            self.asked += 1
            try:
                if number % 2:
                    with self.rig.engine.lease("m") as lease:
                        await trio.sleep(0.05)
                        with suppress(PredictFailed):  # nobody stands in for a lease: it hears what its model says
                            lease.infer({})
                else:
                    await self.rig.engine.infer("m", {}, key=str(number) if number else None)
                self.answered += 1
            except Exception as error:  # noqa: BLE001 - whatever it is, the request is lost
                self.lost.append(repr(error))
            await trio.sleep(0.1)

    # --- swaps ---

    async def swap_once(self) -> None:
        """Swap to another version, with or without a fault, and wait until nothing of it goes on."""
        rig = self.rig
        old = rig.engine._router.active("m")
        new = self.chance.choice([version for version in VERSIONS if version != old])
        fault = self.chance.choice(list(FAULTS)) if self.chance.random() < 1 / 3 else None
        plan = CANARY if fault == "raises on trial" or self.chance.random() < 0.2 else None
        mend: Callable[[], None] = lambda: None  # noqa: E731 - as short as it is
        if fault is not None:
            self.faults[fault] += 1
            mend = FAULTS[fault](self, str(old), new)
        swap_id = rig.engine.start_swap("m", new, plan=plan, **QUICK)
        async with trio.open_nursery() as nursery:
            if fault in ("rollback", "supersede", "abort"):
                nursery.start_soon(self._disturb, fault, swap_id)
            with trio.fail_after(PATIENCE_S):
                await self._ended(swap_id)
        mend()
        with trio.fail_after(PATIENCE_S):
            for saga in list(rig.engine._sagas.values()):
                await saga.ended.over()
            await until(lambda: len(rig.cast.open()) == 1 and rig.engine._slots.everybody() == ())

    async def _ended(self, swap_id: str) -> None:
        try:
            operation = await self.rig.engine.wait_for_swap(swap_id)
        except SwapNotDone as error:
            operation = error.operation
        except Exception as error:  # noqa: BLE001 - told at the end
            self.odd.append(repr(error))
            return
        self.ends[operation.state.value] += 1

    async def _disturb(self, how: str, swap_id: str) -> None:
        """Do something about a swap at any moment of its life, or behind it."""
        await trio.sleep(self.chance.choice([0.0, 0.1, 0.25, 0.5, 0.9, 1.5, 2.5]))
        engine = self.rig.engine
        try:
            if how == "rollback":
                await engine.rollback(swap_id)
            elif how == "abort":
                engine.abort(swap_id)
            else:
                others = [version for version in VERSIONS if version != engine.swap_status(swap_id).to_version]
                to = self.chance.choice(others)
                await self._ended(engine.start_swap("m", to, on_busy="supersede", **QUICK))
        except Exception as error:  # noqa: BLE001 - an order may come too late, and is told so
            self.ends[f"{how}: {type(error).__name__}"] += 1


# --- faults: each breaks something, and returns what mends it -------------------------------------------------------


def script_field(**fields: Any) -> Callable[[Storm, str, str], Callable[[], None]]:
    """Return a fault of the new version's script."""

    def begin(storm: Storm, _old: str, new: str) -> Callable[[], None]:
        script = storm.rig.script("m", new)
        before = {name: getattr(script, name) for name in fields}
        for name, value in fields.items():
            setattr(script, name, value)
        return lambda: [setattr(script, name, value) for name, value in before.items()] and None

    return begin


def hang(work: str) -> Callable[[Storm, str, str], Callable[[], None]]:
    """Return a fault in which a piece of work never ends before the swap has."""

    def begin(storm: Storm, old: str, new: str) -> Callable[[], None]:
        name = f"{work} m/{new if work == 'load' else old}"
        before, stuck = storm.rig.world.durations[name], trio.Event()
        storm.rig.takes(name, stuck)

        def mend() -> None:
            stuck.set()
            storm.rig.takes(name, before)

        return mend

    return begin


def router_fault(storm: Storm, _old: str, _new: str) -> Callable[[], None]:
    """Let up to three moves of the traffic fail."""
    router, shift, left = storm.rig.engine._router, storm.rig.engine._router.shift, [storm.chance.randint(1, 3)]

    def broken(moves: Any) -> None:
        if left[0] > 0:
            left[0] -= 1
            raise Broken("the router is stuck")
        shift(moves)

    storm.monkeypatch.setattr(router, "shift", broken)
    return lambda: storm.monkeypatch.setattr(router, "shift", shift)


def journal_fault(storm: Storm, _old: str, _new: str) -> Callable[[], None]:
    """Let the disk be full from some entry on."""
    disk, first = storm.rig.world.disk, storm.chance.randint(0, 8)
    seen = [0]

    def is_full(_entry: Any) -> bool:
        seen[0] += 1
        return seen[0] > first

    disk.fails(is_full, "full")
    return disk.heal


def nothing(_storm: Storm, _old: str, _new: str) -> Callable[[], None]:
    """Break nothing: somebody interferes."""
    return lambda: None


FAULTS: dict[str, Callable[[Storm, str, str], Callable[[], None]]] = {
    "load raises": script_field(load_error=Broken("no weights")),
    "load hangs": hang("load"),
    "warm-up raises": script_field(fails_on=lambda inputs: "warm" in inputs),
    "raises on trial": script_field(fails_on=lambda inputs: "warm" not in inputs),
    "router": router_fault,
    "journal": journal_fault,
    "close hangs": hang("close"),
    "rollback": nothing,
    "supersede": nothing,
    "abort": nothing,
}


# --- the storm ------------------------------------------------------------------------------------------------------


async def play(swaps: int, seed: int, monkeypatch: pytest.MonkeyPatch) -> Storm:
    """Swap so many times under traffic, and check that nothing is lost, held or left over."""
    async with open_world(seed) as world:
        world.ports = attrs.evolve(world.ports, journal=world.disk.journal())
        async with open_rig(world=world, stuck_loads_max=2) as rig:
            for version in VERSIONS:
                rig.add("m", version, warmup=[{"warm": 1}])
                for work, takes_s in (("load", 0.3), ("warm", 0.1), ("close", 0.1)):
                    rig.takes(f"{work} m/{version}", takes_s)
            await rig.engine.load("m", "1")
            storm = Storm(rig, random.Random(seed), monkeypatch)
            async with trio.open_nursery() as nursery:
                for number in range(CLIENTS):
                    nursery.start_soon(storm.client, number)
                for _ in range(swaps):
                    await storm.swap_once()
                storm.over = True
            await settle()
            check(storm)
    return storm


def check(storm: Storm) -> None:
    """Check that all was answered, nothing is held or left over, and the journal has what the engine tells."""
    engine, disk = storm.rig.engine, storm.rig.world.disk
    active = engine._router.active("m")
    assert storm.lost == []
    assert storm.answered == storm.asked
    assert storm.odd == []
    assert engine.audit().clean
    assert engine.audit().total.held == 0
    assert storm.rig.cast.open() == [f"m/{active}"]
    assert engine.statistics().swaps_open == engine.statistics().stuck_loads == 0
    told = {operation.id: operation.state for operation in engine.swaps(limit=100_000)}
    kept = {row.id: (row.ended, wire.decode(SwapRecord, row.record).operation.state) for row in disk.kept().swaps}
    assert kept == {swap_id: (True, state) for swap_id, state in told.items()}
    assert all(state.ended for state in told.values())
    assert {model: row.version for model, row in disk.desired().items()} == {"m": active}


@pytest.mark.parametrize("seed", [1, 2])
async def test_a_short_storm_loses_nothing(seed: int, monkeypatch: pytest.MonkeyPatch, autojump_clock: Any) -> None:
    """Thirty swaps, a third of them with a fault."""
    storm = await play(30, seed, monkeypatch)
    assert storm.ends[SwapState.COMPLETED.value] > 10
    assert storm.faults.total() >= 5


@pytest.mark.slow
async def test_a_storm_of_a_thousand_swaps_loses_nothing(monkeypatch: pytest.MonkeyPatch, autojump_clock: Any) -> None:
    """Every kind of fault many times, and the figure that is asked for: how many requests were lost."""
    storm = await play(1_000, 0, monkeypatch)
    assert all(storm.faults[fault] >= 10 for fault in FAULTS)
    text = f"lost {len(storm.lost)} of {storm.asked} requests in 1,000 swaps; {dict(storm.faults)}; {dict(storm.ends)}"
    print(text)  # noqa: T201 - the figure that is asked for
