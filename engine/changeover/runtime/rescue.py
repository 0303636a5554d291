"""Brings the models of one unit back, as an earlier process has left them, and ends the swaps that were open.

A task of the saga supervisor that holds the slots of its models meanwhile. It owns the orders that it gives; what it
has begun when it is cancelled, the next process begins again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

import attrs
import trio

from changeover.core import wire
from changeover.core.checks import describe
from changeover.core.operations import Aftermath, Recovered, Recovering
from changeover.core.records import Entry, SwapRecord, SwapRow, shortened
from changeover.core.recovery import Open, Unit, mismatch
from changeover.core.values import Drain, SwapState, VersionKey
from changeover.errors import AlreadyLoaded, ChangeoverError, EngineClosed, JournalFailed
from changeover.runtime import sites
from changeover.runtime.events import logger
from changeover.runtime.history import History
from changeover.runtime.mailbox import Promise, all_of
from changeover.runtime.orders import CalledOff, DrainOrder, LoadOrder
from changeover.runtime.registry import Registry
from changeover.runtime.supervisor import ChildSpec, Supervisor
from changeover.runtime.swap import SwapWorld

Result = Literal["restored", "finished", "undone", "failed", "given_up"]


@attrs.frozen
class RescueWorld:
    """What a rescue needs of the engine."""

    swaps: SwapWorld
    registry: Registry
    history: History
    supervisor: Supervisor


class Rescue:
    """The recovery of one unit; everything but the task is called on the loop."""

    def __init__(self, unit: Unit, world: RescueWorld, done: Callable[[Recovered], None]) -> None:
        """Keep the traffic of the models for the versions that shall have it."""
        self.unit = unit
        self.ended: Promise[Recovered] = Promise()
        self._world = world
        self._done = done
        self._lot = trio.lowlevel.ParkingLot()
        self._scope = trio.CancelScope()
        self._given_up = self._is_stopped = False
        self._orders: dict[VersionKey, LoadOrder] = {}
        """Replaced whole and never changed: other threads look at it."""
        self._troubles: list[str] = []
        self._versions: Mapping[str, str] = {model: wanted.version for model, wanted in unit.wanted.items()}
        """Those that it is bringing back now."""
        self._hold()

    # --- a contender for the slots of its models ---

    @property
    def models(self) -> tuple[str, ...]:
        """The models whose slots it needs."""
        return self.unit.models

    @property
    def keys(self) -> frozenset[VersionKey]:
        """Every version that takes part."""
        return self.unit.keys

    @property
    def news(self) -> frozenset[VersionKey]:
        """The versions that are about to get traffic."""
        return self.unit.keys

    def told(self, model: str) -> str:
        """Return what somebody is told who wants to swap a model of it."""
        waits = "; ".join(self.report().waits_for)
        return f'{model} is being recovered ({waits}); wait for engine.recovered(), or use on_busy="queue"'

    def begin(self) -> None:
        """Hear that it has the slots: nobody had them before."""

    # --- what others call ---

    def start(self) -> None:
        """Start the task."""
        name = f"recovery {' '.join(self.models)}"  # no name has a blank in it, so no two units are called the same
        self._world.supervisor.start(ChildSpec(name, self.run, self._crashed, ended=self._over))

    def look(self) -> None:
        """Hear that a version was registered."""
        self._lot.unpark_all()

    @property
    def swap_ids(self) -> tuple[str, ...]:
        """The ids of the swaps that it ends."""
        return tuple(swap.record.operation.id for swap in self.unit.swaps)

    def stop(self) -> None:
        """End the task, and leave everything to the next engine."""
        self._is_stopped = True
        self._scope.cancel()

    def give_up(self) -> None:
        """Bring nothing back any more; whatever is loaded gets the traffic."""
        self._given_up = True
        self._scope.cancel()

    def report(self) -> Recovering:
        """Return what it waits for."""
        waits = self._missing() or tuple(f"{key} is being loaded" for key in self._orders)
        return Recovering(self.models, self.swap_ids, waits or ("its end is being written down",))

    # --- the task ---

    async def run(self) -> None:
        """Load what shall be active, or what was before it; then write down how every open swap has ended."""
        chosen: Mapping[str, str] | None = None
        with self._scope:
            chosen = await self._restore()
        if not self._is_stopped:
            await self._conclude(chosen)

    async def _restore(self) -> Mapping[str, str] | None:
        """Return the versions that are ready; None where none could be had."""
        ways = (self._versions, *self.unit.instead)
        for versions in ways:
            self._versions = versions
            self._hold()
            await self._registered()
            try:
                await self._load(is_last=versions is ways[-1])
            except ChangeoverError as error:
                self._troubles.append(describe(error))
                logger.error("%s could not be recovered: %s", "+".join(self.models), error)
            else:
                return versions
        return None

    def _hold(self) -> None:
        """Keep the traffic for the versions that are being brought back.

        Where a group may have to go back nobody gets any before all are there, or some would be new and others old.
        """
        by_itself = len(self._versions) == 1 or not self.unit.instead
        for model, version in self._versions.items():
            self._world.swaps.router.hold(model, version if by_itself else "")

    async def _registered(self) -> None:
        """Wait until every version is registered, as what it was."""
        told: tuple[str, ...] = ()
        while missing := self._missing():
            if sites.ON:
                sites.sometimes("recovery-waited-for-a-version")
            if missing != told:
                logger.warning("%s waits to be recovered: %s", "+".join(self.models), "; ".join(missing))
                told = missing
            await self._lot.park()

    def _missing(self) -> tuple[str, ...]:
        """Return what is not as it must be, one clause for each version."""
        found: list[str] = []
        for model, version in self._versions.items():
            key, wanted = VersionKey(model, version), self.unit.wanted[model]
            if key not in self._world.registry:
                found.append(f"{key} is not registered")
            elif wanted.version == version and (wrong := mismatch(wanted, self._world.registry.get(key))):
                found.append(wrong)
        return tuple(found)

    async def _load(self, *, is_last: bool) -> None:
        """Load all of them; where one fails, what was loaded goes again, if there is another set to be tried.

        Else what is ready serves, whatever became of the others: also where nobody wants to wait for them any more.
        """
        orders = self._orders = {VersionKey(model, version): LoadOrder() for model, version in self._versions.items()}
        for key, order in orders.items():
            self._world.swaps.version(key).post(order)
        try:
            await all_of([order.ready for order in orders.values()], happy_with=AlreadyLoaded)
        except BaseException as error:
            goes_again = isinstance(error, Exception) and not is_last
            for key, order in orders.items():
                if not order.ready.settled:
                    self._world.swaps.version(key).post(CalledOff(order))
                elif order.began and goes_again:
                    self._world.swaps.version(key).post(DrainOrder(Drain()))
            raise
        finally:
            self._orders = {}

    async def _conclude(self, chosen: Mapping[str, str] | None) -> None:
        """Let the traffic go its way, write the ends down, and tell everybody."""
        swaps, world = self._world.swaps, self._world
        swaps.router.release({model: (chosen or self._versions).get(model) for model in self.models})
        before = {model: swaps.router.active(model) for model in self.models}
        records = [self._end(swap, chosen) for swap in self.unit.swaps]
        written: Promise[None] = Promise()
        try:
            rows = tuple(SwapRow(r.operation.id, ended=True, record=wire.encode(shortened(r))) for r in records)
            swaps.journal.write(
                Entry(rows, self._desired(before)),
                lambda error: written.settle(None) if error is None else written.fail(error),
            )
            await written.wait()
        except JournalFailed as error:  # the next process does the same again
            self._troubles.append(describe(error))
        for record in records:
            world.history.put(record)
        active = {model: swaps.router.active(model) for model in self.models}
        ids = tuple(record.operation.id for record in records)
        trouble = "; ".join(self._troubles) or None
        swaps.slots.leave(self)
        # What is wanted of a group is more than what is active, so only what has changed since says anything.
        swaps.desires.look(model for model in self.models if len(active) == 1 or active[model] != before[model])
        self._tell(records, Recovered(self.models, active, self._result(chosen), ids, trouble))

    def _desired(self, active: Mapping[str, str | None]) -> Mapping[str, bytes | None]:
        """Return what shall be active from now on: as before where nothing could be had; what is, where given up.

        Where a part of a set could be had, the whole of it: half of a group must not be wanted with half of another.
        """
        desires = self._world.swaps.desires
        if self._given_up:
            return desires.want(active)
        if not any(active.values()):
            return desires.as_found(self.models)
        if any(active[model] == version for model, version in self._versions.items()):
            if sites.ON and any(active[model] != version for model, version in self._versions.items()):
                sites.sometimes("half-of-a-group-wanted-as-a-whole")
            return desires.want(self._versions)
        return desires.want({model: version for model, version in active.items() if version is not None})

    def _result(self, chosen: Mapping[str, str] | None) -> Result:
        if chosen is None:
            if sites.ON:
                sites.sometimes("recovery-given-up-or-failed")
            return "given_up" if self._given_up else "failed"
        if not self.unit.swaps:
            return "restored"
        last = self.unit.swaps[-1]
        finished = last.end is SwapState.COMPLETED and not self._went_back(last, chosen)
        if sites.ON and finished:
            sites.sometimes("recovery-finished-a-swap")
        if sites.ON and not finished:
            sites.sometimes("recovery-undid-a-swap")
        return "finished" if finished else "undone"

    def _went_back(self, swap: Open, chosen: Mapping[str, str]) -> bool:
        """Return whether what this swap had brought could not be had; one before it stands, whatever came later."""
        moved = [(m.model, m.to_version) for m in swap.record.operation.members]
        return any(self.unit.wanted[model].version == to != chosen[model] for model, to in moved)

    def _end(self, swap: Open, chosen: Mapping[str, str] | None) -> SwapRecord:
        """Return an open swap as it has ended."""
        state, why, left = swap.end, swap.why, None
        if chosen is None:
            state = SwapState.FAILED
            why = "its recovery was given up" if self._given_up else "; ".join(self._troubles)
            left = self._aftermath(why)
        elif state is SwapState.COMPLETED and self._went_back(swap, chosen):
            state, why = SwapState.ROLLED_BACK, f"{swap.why}, and turned round: {'; '.join(self._troubles)}"
        operation = swap.record.operation
        message = f"{operation.error_message}; {why}" if operation.error_message else why
        ended = attrs.evolve(
            operation, state=state, end_time=self._world.swaps.ports.clock.wall(), error_message=message,
            aftermath=left or operation.aftermath,
        )  # fmt: skip
        return attrs.evolve(swap.record, operation=ended)

    def _aftermath(self, why: str) -> Aftermath:
        active = {model: self._world.swaps.router.active(model) for model in self.models}
        return Aftermath(
            tuple(f"{f'{model}/{v}' if v else 'nobody'} has the traffic of {model}" for model, v in active.items()),
            (why,),
            tuple(f'await engine.load("{m}", ...) gives {m} a version' for m, v in active.items() if v is None),
        )

    def _tell(self, records: list[SwapRecord], recovered: Recovered) -> None:
        bus = self._world.swaps.bus
        for record in records:
            operation = record.operation
            for member in operation.members:
                bus.emit(
                    "swap_state", VersionKey(member.model, member.to_version), swap_id=operation.id,
                    state=operation.state.value, error=operation.error_message,
                )  # fmt: skip
        for model in self.models:
            active = recovered.active[model]
            bus.emit("model_recovered", model=model, result=recovered.result, active=active, error=recovered.error)
        self._done(recovered)
        self.ended.settle(recovered)

    def _crashed(self, error: Exception, _delay_s: float | None) -> None:
        logger.error("the recovery of %s crashed", "+".join(self.models), exc_info=error)

    def _over(self) -> None:
        """Hear that the task has ended: where the engine was closed before it was done, the next one begins again."""
        if not self.ended.settled:
            self._world.swaps.slots.leave(self)
            self.ended.fail(EngineClosed(f"the engine was closed before {self.models[0]} was recovered"))
