"""One run: the lives of one shape, one after the other on one disk, under the eyes of the judge.

Three phases: faults on, in one life or several; faults off until nothing goes on; started again from the disk, twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from itertools import count
from random import Random

import trio

from changeover.errors import ChangeoverError
from changeover.runtime import sites
from changeover_sim.oracles.base import Oracle
from changeover_sim.simulate import behind
from changeover_sim.simulate.actors import ACTORS
from changeover_sim.simulate.calls import Call
from changeover_sim.simulate.cast import Part
from changeover_sim.simulate.faults import Faults
from changeover_sim.simulate.judge import Judge
from changeover_sim.simulate.life import Life
from changeover_sim.simulate.shape import SUDDEN, Ending, Scenario, Shape
from changeover_sim.simulate.sites import Sink
from changeover_sim.simulate.streams import Streams
from changeover_sim.simulate.trouble import trouble_the_disk
from changeover_sim.simulate.world import Desk

CALM_LIVES = 2
"""The engine is started again so often when everything is over: recovering twice is recovering once."""


class Run:
    """What belongs to one run."""

    def __init__(self, scenario: Scenario, seed: int, oracles: Callable[[Run], Iterable[Oracle]]) -> None:
        """Draw what it is like; nothing runs yet."""
        self.scenario = scenario
        self.seed = seed
        self.streams = Streams(scenario.name, seed)
        self.shape: Shape = scenario.draw(self.streams)
        self.faults = Faults(self.shape.faults, self.streams.faults)
        self.desk: Desk
        self.judge = Judge()
        self.lives: list[Life] = []
        self.sink = Sink(self.streams.sites, may_fire=partial(self.faults.strikes, "buggify"))
        """What the engine's marks on rare branches tell."""
        for shaped in sorted(self.shape.faults & {"mailbox-of-one", "budget-of-one"}):
            self.faults.note(shaped)  # they are drawn with the shape, and strike all of the run
        self.judge.appoint(oracles(self))
        self._calls, self._made = count(), count()

    def count_call(self) -> int:
        """Return the number of the next call."""
        return next(self._calls)

    def count_made(self) -> int:
        """Return the number of the next model."""
        return next(self._made)

    @property
    def calls(self) -> Iterable[Call]:
        """All calls of all lives."""
        return (call for life in self.lives for call in life.calls)

    async def play(self) -> None:
        """Be the program that the explorer runs; raises `PromiseBroken`."""
        self.desk = Desk()
        trio.lowlevel.add_instrument(self.judge)
        sites.install(self.sink)
        try:
            with self.judge.scope:
                await self._lives()
                self.judge.over()
        finally:
            sites.install(None)
            self.judge.ended_s = trio.current_time()
            trio.lowlevel.remove_instrument(self.judge)
        self.judge.raise_if_broken()

    async def _lives(self) -> None:
        for number, ending in enumerate(self.shape.lives):
            self.faults.begin_anew()
            await self._live(number, ending, calm=False)
        self.faults.stop()
        for number in range(CALM_LIVES):
            await self._live(len(self.shape.lives) + number, Ending(), calm=True)

    async def _live(self, number: int, ending: Ending, *, calm: bool) -> None:
        life = Life(self, number, ending, calm=calm)
        self.lives.append(life)
        await life.live(partial(self._body, life))

    async def _body(self, life: Life) -> None:
        """Be what goes on in one life."""
        await self._prepare(life)
        if not life.calm:
            trouble_the_disk(life)
            for index, (name, many) in enumerate(self.shape.actors):
                for one in range(many):
                    chance = Random(f"{self.scenario.name} {self.seed} {life.number} {name} {index} {one}")
                    life.act(ACTORS[name], chance, f"{name} {one}")
            if life.ending.how in (*SUDDEN, "close-early", "cancel-early"):
                await life.told_to_leave.wait()
                return
            await life.sleep(self.shape.horizon_s)
        await life.rest()

    async def _prepare(self, life: Life) -> None:
        """Register all versions; load the first ones, or wait for what the life before has left."""
        self.faults.stopped |= life.number == 0  # who cannot be loaded even once takes no part
        late = [part for part in self.shape.parts if self.faults.strikes("not-registered", 0.1) and life.number]
        for part in self.shape.parts:
            if part not in late:
                life.register(part)
        if late:
            life.start(_register_late, life, late)
        if life.calm or not late:
            await life.engine.recovered()
        for model, version in self.shape.first.items():
            if not late and not life.engine.loaded_versions(model):  # else the model may not be registered at all yet
                await _load(life, model, version)
        self.faults.stopped = life.calm


async def _load(life: Life, model: str, version: str) -> None:
    """Load a first version; what faults do to it is the life that it is."""
    try:
        await life.engine.ensure_loaded(model, version)
    except ChangeoverError as error:
        life.run.judge.note(f"the first version of {model} is not there: {error}")


async def _register_late(life: Life, late: Iterable[Part]) -> None:
    await life.sleep(1.0)
    for part in late:
        if (life.goes_on or life.resting) and not behind.is_known(life.engine, part.model, part.version):
            life.register(part)
