"""A process that does everything at once until it is killed: swaps of one model and of a group, most of them disturbed.

It tells what it begins and what has come of it, so that a test knows between which versions it died.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from typing import Any

import trio

import changeover
from changeover import Engine, SwapState
from changeover.errors import SwapNotDone
from tests.kill.lives import (
    BROKEN,
    CANARY,
    GROUP,
    LONG_CANARY,
    VERSIONS,
    Askers,
    Tell,
    X,
    register,
    report,
    until_state,
)

ALONE = ("m",)


class Storm:
    """Swaps of some models that always move together."""

    def __init__(self, tell: Tell, engine: Engine, models: tuple[str, ...], seed: int) -> None:
        self._tell = tell
        self._engine = engine
        self._models = models
        self._chance = random.Random(f"{seed} {models}")

    async def rage(self) -> None:
        """Swap for ever."""
        ways: list[Callable[[str], Awaitable[Any]]] = [
            self._plain, self._canary, self._rolled_back, self._superseded, self._broken, self._swapped_back,
        ]  # fmt: skip
        while True:
            active = (await self._engine.infer_many({model: {"x": X} for model in self._models}))[self._models[0]]
            self._tell(now=active.version, models=self._models)
            await self._chance.choice(ways)(self._other(active.version))

    def _other(self, *versions: str) -> str:
        return self._chance.choice([version for version in VERSIONS if version not in versions])

    def _to(self, version: str) -> dict[str, str]:
        """Return the order, and tell of it."""
        self._tell(begun=version, models=self._models)
        return dict.fromkeys(self._models, version)

    async def _plain(self, to: str) -> None:
        await self._engine.swap_group(self._to(to))

    async def _canary(self, to: str) -> None:
        await self._engine.swap_group(self._to(to), plan=CANARY)

    async def _rolled_back(self, to: str) -> None:
        with self._engine.lease_many(self._models):
            swap_id = self._engine.start_group_swap(self._to(to))
            await until_state(self._engine, swap_id, SwapState.OLD_VERSION_DRAINING)
            await self._engine.rollback(swap_id)

    async def _superseded(self, to: str) -> None:
        swap_id = self._engine.start_group_swap(self._to(to), plan=LONG_CANARY)
        await until_state(self._engine, swap_id, self._chance.choice([SwapState.NOT_STARTED, SwapState.TRANSITIONING]))
        last = self._to(self._other(to, self._engine.swap_status(swap_id).members[0].from_version))
        await self._engine.swap_group(last, on_busy="supersede")

    async def _swapped_back(self, to: str) -> None:
        done = await self._engine.swap_group(self._to(to))
        await self._engine.rollback(done.id)

    async def _broken(self, to: str) -> None:
        try:
            await self._engine.swap_group({**self._to(to), self._models[-1]: BROKEN})
        except SwapNotDone:
            return
        raise AssertionError("it cannot be loaded")


def storms(tell: Tell, path: str, durability: Any, seed: int) -> None:
    """Go on where another life has ended, and let storms rage."""
    models = (*GROUP, *ALONE)

    async def main() -> None:
        async with changeover.open_engine(journal=path, durability=durability) as engine:
            register(engine, models, (*VERSIONS, BROKEN))
            found = await report(engine, models)
            tell(report=found)
            for model, version in found["serves"].items():
                if version is None:
                    await engine.load(model, "1")
            async with trio.open_nursery() as nursery, Askers(tell, engine, GROUP).asking():
                for together in (GROUP, ALONE):
                    nursery.start_soon(Storm(tell, engine, together, seed).rage)
                await trio.sleep_forever()

    trio.run(main)
