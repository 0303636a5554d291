"""What an engine makes of the journal that it finds: the history, and a rescue for all that was left behind.

It owns the rescues and what came of them; each is a task of the saga supervisor. A reader of the engine's events.
"""

from __future__ import annotations

from functools import partial

import attrs
import trio

from changeover.core import recovery, wire
from changeover.core.operations import Recovered, RecoveryReport, SetAside
from changeover.core.records import DesiredVersion, Kept, SwapRecord
from changeover.core.snapshots import Event
from changeover.core.values import SwapState
from changeover.core.wire import BadRecord, NewerRecord
from changeover.errors import ChangeoverError, InvalidValue, NotReady
from changeover.runtime.events import logger
from changeover.runtime.rescue import Rescue, RescueWorld

WAITING_TOLD = 10
"""So many units are named in an error."""


class Recovery:
    """Everything that an earlier process has left behind; belongs to the loop, the report to any thread."""

    def __init__(self, world: RescueWorld) -> None:
        """Know of nothing."""
        self._world = world
        self._rescues: tuple[Rescue, ...] = ()
        self._by_model: dict[str, Rescue] = {}
        """Those that are not done."""
        self._by_swap: dict[str, Rescue] = {}
        """The same by the swaps that they end."""
        self._done: tuple[Recovered, ...] = ()
        self._set_aside: SetAside | None = None

    # --- the start ---

    async def open(self) -> None:
        """Open the journal, and hold whatever it speaks of; cancelled, it may be open, and holds nothing.

        Raises `JournalInUse` and `JournalFailed`.
        """
        journal = self._world.swaps.journal
        kept = await journal.open()
        try:
            units = self._units(kept)
        except BadRecord as error:
            kept = await journal.begin_anew(str(error), newer=isinstance(error, NewerRecord))
            units = self._units(kept)
        self._set_aside = kept.set_aside
        self._world.history.take(row for row in kept.swaps if row.ended)
        desires, rescues = self._world.swaps.desires, list[Rescue]()
        for unit in units:
            desires.versions.update((model, wanted.version) for model, wanted in unit.wanted.items())
            rescue = Rescue(unit, self._world, self._note)
            rescues.append(rescue)
            self._by_model.update(dict.fromkeys(rescue.models, rescue))
            self._by_swap.update(dict.fromkeys(rescue.swap_ids, rescue))
            rescue.ended.tell(partial(self._forget, rescue))
            self._world.swaps.slots.enter(rescue)
            for swap in unit.swaps:
                operation = attrs.evolve(swap.record.operation, state=SwapState.RECOVERING)
                self._world.history.put(attrs.evolve(swap.record, operation=operation))
        self._rescues = tuple(rescues)

    @staticmethod
    def _units(kept: Kept) -> tuple[recovery.Unit, ...]:
        open_swaps = [wire.decode(SwapRecord, row.record) for row in kept.swaps if not row.ended]
        desired = {model: wire.decode(DesiredVersion, data) for model, data in kept.desired.items()}
        return recovery.units(open_swaps, desired)

    def start(self) -> None:
        """Start to bring back what was left behind."""
        for rescue in self._rescues:
            rescue.start()
        self._world.swaps.bus.readers.append(self)

    def stop(self) -> None:
        """Begin no load any more: what is not done the next engine does."""
        for rescue in self._rescues:
            rescue.stop()

    # --- what others call ---

    def of(self, model: str) -> Rescue | None:
        """Return what brings a model back; None where that is done, or there is nothing to do."""
        return self._by_model.get(model)

    def of_swap(self, swap_id: str) -> Rescue | None:
        """Return what will end a swap that an earlier process has begun."""
        return self._by_swap.get(swap_id)

    @property
    def swaps_open(self) -> int:
        """How many swaps it has not ended yet."""
        return len(self._by_swap)

    def report(self) -> RecoveryReport:
        """Return what is done and what is not."""
        waiting = tuple(one.report() for one in self._rescues if not one.ended.settled)
        return RecoveryReport(waiting, self._done, self._set_aside)

    async def wait(self, timeout_s: float | None) -> RecoveryReport:
        """Return once everything is done, whatever came of it; raises `NotReady`, which says what is missing."""
        if not self._by_model:
            await trio.lowlevel.checkpoint()
            return self.report()
        with trio.move_on_after(float("inf") if timeout_s is None else timeout_s):
            for one in self._rescues:  # who asks every second must leave nothing behind
                await one.ended.wait()
            return self.report()
        waits = "; ".join([clause for one in self.report().waiting[:WAITING_TOLD] for clause in one.waits_for])
        raise NotReady(f"not everything was recovered within {timeout_s:g} s: {waits}")

    def give_up(self, model: str) -> None:
        """Bring a model, and those that go with it, back no more; raises `InvalidValue` where it is not recovering."""
        rescue = self.of(model)
        if rescue is None:
            raise InvalidValue(f"{model} is not being recovered; engine.recovery() lists what is")
        rescue.give_up()

    def explain(self, model: str) -> ChangeoverError | None:
        """Return what a request for a model is told that is being brought back, or None."""
        rescue = self.of(model)
        return None if rescue is None else NotReady(rescue.told(model), model=model)

    # --- a reader of events ---

    def put(self, event: Event) -> None:
        """Hear that a version was registered."""
        rescue = self._by_model.get(event.model or "")
        if rescue is not None and event.kind in ("version_registered", "version_unregistered"):
            rescue.look()

    def wake(self) -> None:
        """Hear that there are no more events."""

    # --- inside ---

    def _forget(self, rescue: Rescue, _error: BaseException | None) -> None:
        """Hear that one is over: done, or left to the next engine."""
        for model in rescue.models:
            del self._by_model[model]
        for swap_id in rescue.swap_ids:
            del self._by_swap[swap_id]

    def _note(self, done: Recovered) -> None:
        self._done += (done,)
        what = "+".join(done.models)
        logger.info("%s: %s%s", what, done.result, f": {done.error}" if done.error else "")
