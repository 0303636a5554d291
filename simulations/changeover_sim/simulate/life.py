"""One life of the engine: a process that opens it, has actors use it, and ends in order, in the middle, or by force.

Owns the engine, its world, its callers and its calls. Whoever acts in it is a task of its nursery of callers.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager, suppress
from random import Random
from typing import TYPE_CHECKING, Any

import attrs
import trio
import trio.testing

import changeover
from changeover import Engine, Event, VersionState
from changeover.core import lifecycle
from changeover.core.records import Entry
from changeover.errors import ChangeoverError
from changeover_sim.disk import line_of
from changeover_sim.simulate import behind
from changeover_sim.simulate.calls import Call, make
from changeover_sim.simulate.cast import LOADER, Cast, Part
from changeover_sim.simulate.shape import SUDDEN, Ending
from changeover_sim.simulate.world import HostileWorld

if TYPE_CHECKING:
    from changeover_sim.simulate.run import Run

Actor = Callable[["Life", Random], Awaitable[None]]

_ROUNDS = 40
_ROUND_S = 100.0
"""So often, and for so long each time, a life is given the time to come to rest."""


@attrs.frozen
class Left:
    """What goes on though nothing should."""

    calls: tuple[Call, ...]
    threads: tuple[str, ...]
    versions: tuple[str, ...]
    """With their states."""
    swaps: tuple[str, ...]
    holders: tuple[str, ...]

    def __bool__(self) -> bool:
        """Return whether anything is left."""
        return bool(self.calls or self.threads or self.versions or self.swaps or self.holders)

    def __str__(self) -> str:
        """Return a clause for each kind."""
        calls = [str(call) for call in self.calls]
        named = {"calls": calls, "threads": self.threads, "versions": self.versions, "swaps": self.swaps}
        named["holders"] = self.holders
        return "; ".join(f"{name}: {', '.join(left)}" for name, left in named.items() if left)


class Life:
    """One process."""

    def __init__(self, run: Run, number: int, ending: Ending, *, calm: bool) -> None:
        """Be the life of this number, without faults and actors where it is calm."""
        self.run = run
        self.number = number
        self.ending = ending
        self.calm = calm
        self.engine: Engine
        """There once it was opened: see `began`."""
        self.began = False
        self.cast = Cast(self)
        self.world: HostileWorld
        self.calls: list[Call] = []
        self.dead = False
        """Killed, or without power: nothing of it counts any more."""
        self.closing = False
        """Its block is being left, or was."""
        self.resting = False
        """Actors make no further calls."""
        self._rested = False
        self._acting = 0
        """How many actors are there."""
        self.journal = run.desk.disk.journal(run.shape.durability)
        self.callers: trio.Nursery
        self._threads: trio.Nursery
        self.told_to_leave = trio.Event()
        """Set where its block is to be left in the middle."""
        self._scope = trio.CancelScope()
        self._entries: list[Entry] = []
        self._entry_is_due = trio.Event()

    # --- for actors ---------------------------------------------------------------------------------------------------

    @property
    def goes_on(self) -> bool:
        """Whether actors shall go on."""
        return not (self.resting or self.closing or self.dead)

    async def call(self, kind: str, work: Callable[[Call], Awaitable[Any]], **fields: Any) -> Call:
        """Make a call; somebody may go away in the middle of it."""
        call = Call(self.run.count_call(), self, kind, **fields)
        self.calls.append(call)
        if not self.calm and self.run.faults.strikes("cancel", 0.12):
            chance = self.run.streams.faults
            self.callers.start_soon(_cancel, call, chance.choice((0.0, 0.0, 0.25, 1.0)), chance.randrange(12))
        return await make(call, work)

    async def sleep(self, seconds: float) -> None:
        """Return so much later on the virtual clock."""
        await self.world.ports.clock.sleep(seconds)

    def act(self, actor: Actor, chance: Random, name: str) -> None:
        """Let an actor begin."""

        async def play() -> None:
            self._acting += 1
            try:
                await actor(self, chance)
            finally:
                self._acting -= 1

        self.callers.start_soon(play, name=name)

    def start(self, work: Callable[..., Awaitable[Any]], *args: Any) -> None:
        """Start a task beside the caller's."""
        self.callers.start_soon(work, *args)

    def register(self, part: Part) -> None:
        """Make a version known."""
        self.cast.parts[part.name] = part
        self.engine.register(
            part.model, part.version, "simulated", loader=LOADER, execution=part.execution, workers=part.workers,
            batching=changeover.Batching(3, 0.25) if part.batched else None, queue_limit=part.queue_limit,
            memory_hint_bytes=part.memory, load_timeout_s=part.load_timeout_s, load_retries=0,
            errors_in_a_row_max=part.errors_in_a_row_max, warmup=[_warm_up()] * part.warm_ups,
        )  # fmt: skip

    # --- its course ---------------------------------------------------------------------------------------------------

    async def live(self, body: Callable[[], Awaitable[None]]) -> None:
        """Open the engine, run `body` in it, and come to an end; behind it nothing of it runs any more."""
        disk = self.run.desk.disk
        async with trio.open_nursery() as self._threads:
            self.world = HostileWorld(self, self._threads.start_soon, self.journal)
            self.run.desk.threads = self.world.threads
            async with trio.open_nursery() as self.callers:
                disk.heal()  # what was wrong with it in the life before
                disk.fails(self._count_entry, "full")
                if self.ending.how != "close" and not self.calm:
                    self.callers.start_soon(self._end)
                try:
                    with self._scope:
                        await self._serve(body)
                except ChangeoverError:
                    if not self.dead:  # a dead one hears that its journal is gone; of others it is a crash
                        raise
                self.closing = True
                if self.dead:
                    self.callers.cancel_scope.cancel()
                else:
                    await self._until(lambda: not self.callers.child_tasks)  # nobody waits for threads that hang
                    self.run.faults.stop()  # now they come back, and what they bring is closed
            if not self.dead:
                await self._until(lambda: not self._threads.child_tasks)
            self.world.threads.end()
            self._threads.cancel_scope.cancel()
        if self.began and not self.dead:
            self.run.judge.life_over(self)

    async def _serve(self, body: Callable[[], Awaitable[None]]) -> None:
        options: dict[str, Any] = {"debug_references": True, "close_timeout_s": 10.0, **self.run.shape.options}
        try:
            async with changeover.open_engine(ports=self.world.ports, **options) as self.engine:
                behind.add_loader(self.engine, LOADER, self.cast.loader)
                behind.listen(self.engine, _Ear(self))
                self.began = True
                self.run.judge.life_began(self)
                await body()
                self._leave()
        finally:
            self._leave()

    def _leave(self) -> None:
        self.closing = True
        self.run.judge.closing(self)

    async def _end(self) -> None:
        """End this life before its time."""
        ending = self.ending
        if ending.entry is not None or ending.line is not None:
            with trio.move_on_after(self.run.shape.horizon_s):
                await self._entry_is_due.wait()
        else:
            await self.sleep(ending.after_s)
        for _ in range(ending.rounds):
            await trio.lowlevel.checkpoint()
        if self.closing:
            return
        self.run.faults.note(ending.how)
        if ending.how in SUDDEN:
            self._die()
            return
        self.run.judge.note(f"life {self.number} ends by {ending.how}")
        self.told_to_leave.set()
        if ending.how == "cancel-early":
            self._leave()
            self._scope.cancel()

    def _die(self) -> None:
        """End as a process: nothing is told to anybody, and the disk holds what it holds."""
        disk, chance = self.run.desk.disk, self.run.streams.disk
        (disk.kill if self.ending.how == "kill" else disk.power_cut)(chance.choice)
        self.run.judge.died(self, self.ending.how)
        self._scope.cancel()
        for call in self.calls:
            call.scope.cancel()
        disk.bury()
        disk.heal()
        self.run.faults.let_go()

    def _count_entry(self, entry: Entry) -> bool:
        """Look at every entry that is written, and let each pass."""
        if not any(entry is known for known in self._entries):
            self._entries.append(entry)
            due = self.ending.entry is not None and len(self._entries) > self.ending.entry
            if due or (self.ending.line is not None and self.ending.line in line_of(entry)):
                self._entry_is_due.set()
        return False

    # --- coming to rest -----------------------------------------------------------------------------------------------

    async def rest(self) -> None:
        """Have actors stop and faults end; return when nothing goes on any more, and tell the judge."""
        self.resting = True
        self.run.faults.stop()
        self.run.desk.disk.heal()
        left = await self._until(self._is_quiet)
        if left:
            self.run.judge.stuck(self, self.left())
        else:
            self.run.judge.at_rest(self)

    def _is_quiet(self) -> bool:
        """Let nothing stand still, and return whether nothing goes on."""
        for operation in self.engine.swaps():
            with suppress(ChangeoverError):
                if operation.paused:
                    self.engine.resume(operation.id)
                elif not operation.state.ended and self._rested:
                    self.engine.promote(operation.id)  # it waits for requests that do not come any more
        self._rested = True
        return not self._acting and not self.left()

    async def _until(self, quiet: Callable[[], bool]) -> bool:
        """Return whether it is not quiet, though time was given."""
        for _ in range(_ROUNDS):
            await trio.testing.wait_all_tasks_blocked()
            if quiet():
                return False
            await self.sleep(_ROUND_S)
        return True

    def left(self) -> Left:
        """Return what goes on."""
        engine = self.engine
        versions = [
            f"{key} is {version.state.value}"
            for key, version in behind.versions(engine).items()
            if version.state is not VersionState.READY and (version.state not in lifecycle.RESTING or version.has_task)
        ]
        return Left(
            tuple(call for call in self.calls if call.end is None),
            tuple(sorted(t.name for t in self._threads.child_tasks if not t.name.startswith("worker "))),
            tuple(versions),
            tuple(operation.id for operation in engine.swaps() if not operation.state.ended),
            tuple(f"{key}: {holder}" for key, holders in engine.audit().holders.items() for holder in holders),
        )


class _Ear:
    """A reader of an engine's events that hears them at once."""

    def __init__(self, life: Life) -> None:
        self._life = life

    def put(self, event: Event) -> None:
        """Pass it on."""
        self._life.run.judge.event(self._life, event)

    def wake(self) -> None:
        """Hear that there are no more."""


async def _cancel(call: Call, after_s: float, rounds: int) -> None:
    """Have the caller go away."""
    if after_s:
        await call.life.sleep(after_s)
    for _ in range(rounds):
        await trio.lowlevel.checkpoint()
    call.scope.cancel()


def _warm_up() -> dict[str, Any]:
    from changeover_sim.simulate.cast import WARM_UP, inputs_of  # noqa: PLC0415 - NumPy comes with them

    return inputs_of(WARM_UP)


@contextmanager
def silenced() -> Generator[None, None, None]:
    """Have the engine log nothing for a while: what it says about its ends is of no use a thousand times."""
    logger = logging.getLogger("changeover")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(level)
