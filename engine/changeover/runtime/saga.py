"""The saga actor: runs one swap as `core/plan` decides, and writes each boundary down before it crosses it.

A task of the saga supervisor, never restarted. It owns its logbook and its model's slot; others it only asks.
Compensations are shielded from cancellation, and each may be called twice.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Literal

import attrs
import trio

from changeover.core import plan
from changeover.core.plan import Compensate, Done, Failed, Finish, Happening, Ordered, Progress, Run, Step, Undone
from changeover.core.snapshots import StepRecord, SwapOperation
from changeover.core.values import Drain, SwapState, Timeouts, VersionKey, VersionState
from changeover.errors import (
    AlreadyLoaded,
    NotReady,
    Superseded,
    SwapFailed,
    SwapNotAllowed,
    SwapNotDone,
    SwapRolledBack,
    VersionNotLoaded,
)
from changeover.runtime.events import Bus
from changeover.runtime.logbook import Logbook
from changeover.runtime.mailbox import Promise
from changeover.runtime.orders import CalledOff, DrainOrder, LoadOrder
from changeover.runtime.ports import Journal, Ports
from changeover.runtime.router import Router
from changeover.runtime.version import Version

COMPENSATION_TRIES = 4
"""How often a compensation is tried before it is reported as failed."""

COMPENSATION_BACKOFF_S = 0.1
"""The wait before the second try; it doubles with each."""

Turn = Literal[SwapState.ROLLED_BACK, SwapState.CANCELLED, SwapState.SUPERSEDED]


@attrs.frozen
class Swap:
    """What was ordered."""

    id: str
    old: VersionKey
    new: VersionKey
    drain: Drain
    timeouts: Timeouts
    rollback_of: str | None = None


@attrs.frozen
class SagaWorld:
    """What a saga needs of the engine."""

    ports: Ports
    bus: Bus
    router: Router
    journal: Journal
    version: Callable[[VersionKey], Version]
    """Returns the version of a key; raises `ModelNotRegistered`."""
    slots: dict[str, Saga] = attrs.field(factory=dict[str, "Saga"])
    """The saga of each model that has not reached its pivot."""


class Saga:
    """One swap."""

    def __init__(self, swap: Swap, world: SagaWorld) -> None:
        """Take the model's swap slot, which must be free."""
        assert swap.new.model not in world.slots, swap.new.model
        self.swap = swap
        self.ended: Promise[SwapOperation] = Promise()
        self._world = world
        operation = SwapOperation(
            swap.id, swap.new.model, swap.old.version, swap.new.version, SwapState.NOT_STARTED,
            world.ports.clock.wall(), rollback_of=swap.rollback_of,
        )  # fmt: skip
        self._book = Logbook(operation, world.ports, world.bus, world.journal)
        self._progress = Progress()
        self._turned: Turn | None = None
        self._exposed = False
        self._scope = trio.CancelScope()
        self._shield = trio.CancelScope(shield=True)
        self._close_by_s: float | None = None
        self._cause: Exception | None = None
        self._load: LoadOrder | None = None
        self._called_off: CalledOff | None = None
        self._drain: DrainOrder | None = None
        self._undo: DrainOrder | None = None
        self._shifted = False
        world.slots[swap.new.model] = self

    # --- what others call, on the loop ---

    @property
    def operation(self) -> SwapOperation:
        """The swap as it stands."""
        return attrs.evolve(self._book.operation, share=self._world.router.share(self.swap.new))

    @property
    def has_ended(self) -> bool:
        """Whether nothing more will happen to it."""
        return self._book.operation.state.ended

    @property
    def holds_slot(self) -> bool:
        """True until the pivot, and again while it is turned round after it."""
        return self._world.slots.get(self.swap.new.model) is self

    @property
    def can_turn(self) -> bool:
        """True while an order may still turn it round: it runs forward, and no younger swap of the model has begun."""
        ended = self._book.operation.state.ended
        return not ended and self._turned is None and self._progress.can_turn and self._may_take_slot()

    def turn(self, end: Turn) -> None:
        """Order the swap to be undone; raises `SwapNotAllowed` where nothing can turn it round any more."""
        going_back = self._turned is not None or not self._progress.forward
        if going_back and not self._book.operation.state.ended:
            return
        if not self.can_turn:
            raise SwapNotAllowed(
                f"swap {self.swap.id} of {self.swap.new.model} is {self._book.operation.state.value} and cannot be "
                "turned round any more; swap back to the old version instead",
                model=self.swap.new.model,
            )
        self._world.slots[self.swap.new.model] = self
        self._turned = end
        self._scope.cancel()

    def expose(self) -> None:
        """Let the end of the engine cancel even what is being undone: it hangs, and nobody will wait for it."""
        self._exposed = True
        self._shield.shield = False

    async def run(self) -> None:
        """Be the task: step after step, forward or back, until the plan says that it is over."""
        self._progress, command = plan.start()
        while not isinstance(command, Finish):
            happening = await self._do(command)
            self._progress, command = plan.advance(self._progress, happening)
        await self._finish(command.state)

    def over(self) -> None:
        """Hear that the task has ended, or will never begin: nobody may wait for it in vain."""
        self._give_up_slot()
        if not self.ended.settled:
            state = self._book.operation.state
            self._end(state if state.ended else SwapState.FAILED, "the engine was closed before the swap ended")

    async def _do(self, command: Run | Compensate) -> Happening:
        if isinstance(command, Run):
            return await self._run_step(command.step)
        with self._protected():
            return await self._compensate(command.step)
        raise AssertionError("nothing cancels this scope")

    async def _run_step(self, step: Step) -> Happening:
        """Run a step until it is done, fails, or an order to turn round interrupts it."""
        began_s = self._now()
        self._book.update(state=plan.STATE_WHILE[step])
        self._book.note_step(StepRecord(step.value, "running", None))
        self._scope = trio.CancelScope()
        if self._turned is not None:
            self._scope.cancel()
        last = False
        try:
            with self._scope:
                await self._write_ahead(step)
                last = await self._steps()[step]()
        except Exception as error:  # noqa: BLE001 - whatever a step raises is the step's failure
            self._cause = error
            text = f"{type(error).__name__}: {error}"
            self._book.note_step(StepRecord(step.value, "failed", self._now() - began_s, text))
            return Failed()
        outcome: Literal["done", "interrupted"] = "interrupted" if self._scope.cancelled_caught else "done"
        self._book.note_step(StepRecord(step.value, outcome, self._now() - began_s))
        if self._turned is not None and self._progress.can_turn:
            return Ordered(self._turned)
        return Done(last=last)

    async def _write_ahead(self, step: Step) -> None:
        """Write the boundary down; past the pivot the swap goes on even where that fails."""
        try:
            await self._book.write(step, forward=True)
        except Exception as error:
            if not self._progress.past_pivot:
                raise
            self._cause = error

    async def _compensate(self, step: Step) -> Happening:
        """Undo a step, trying again where that fails."""
        self._book.update(state=SwapState.ROLLING_BACK)
        failure: Exception | None = None
        for attempt in range(COMPENSATION_TRIES):
            if attempt:
                await self._world.ports.clock.sleep(COMPENSATION_BACKOFF_S * 2 ** (attempt - 1))
            try:
                await self._book.write(step, forward=False)
                await self._compensations()[step]()
            except Exception as error:  # noqa: BLE001 - it is tried again, then reported
                failure = error
            else:
                self._book.note_undone(step, None, None)
                return Undone()
        self._book.note_undone(step, failure, self._cause)
        return Undone(ok=False)

    async def _finish(self, state: SwapState) -> None:
        """Write the end down, then make it known."""
        with self._protected():
            try:
                await self._book.write(self._progress.step, forward=self._progress.forward, end=state)
            except Exception as error:  # noqa: BLE001 - what happened has happened; it is reported
                self._cause = self._cause or error
        self._give_up_slot()
        self._end(state, f"{type(self._cause).__name__}: {self._cause}" if self._cause else None)

    def _end(self, state: SwapState, message: str | None) -> None:
        self._book.end(state, message)
        if state is SwapState.COMPLETED:
            self.ended.settle(self.operation)
        else:
            self.ended.fail(self._error(state))

    def _error(self, state: SwapState) -> SwapNotDone:
        kinds: dict[SwapState, type[SwapNotDone]] = {
            SwapState.ROLLED_BACK: SwapRolledBack,
            SwapState.CANCELLED: SwapRolledBack,
            SwapState.SUPERSEDED: Superseded,
        }
        swap, why = self.swap, self._book.operation.error_message or "it was ordered back"
        text = f"the swap of {swap.new.model} from {swap.old.version} to {swap.new.version} did not happen: {why}"
        kind = kinds.get(state, SwapFailed)
        error = kind(text, operation=self.operation, model=swap.new.model, version=swap.new.version)
        error.__cause__ = self._cause
        return error

    # --- steps ---

    def _steps(self) -> dict[Step, Callable[[], Awaitable[bool]]]:
        """Return what each step does; it returns True where nothing is left to do after it."""
        return {
            Step.VALIDATE: self._validate,
            Step.LOAD: self._load_new,
            Step.WARM: self._warm_new,
            Step.SHIFT: self._shift,
            Step.DRAIN: self._drain_old,
            Step.UNLOAD: self._unload_old,
        }

    async def _validate(self) -> bool:
        """Look again at what was true when the swap was ordered."""
        active = self._world.router.active(self.swap.old.model)
        if active != self.swap.old.version:
            text = f"{self.swap.old} is not active any more; the active version is {active}"
            raise SwapNotAllowed(text, model=self.swap.old.model)
        self._world.version(self.swap.new)
        return False

    async def _load_new(self) -> bool:
        new = self._world.version(self.swap.new)
        if new.state is not VersionState.READY:
            self._load = LoadOrder(self.swap.timeouts.load_s)
            new.post(self._load)
            await self._wait_for_load(self._load.loaded)
        return False

    async def _warm_new(self) -> bool:
        if self._load is not None:
            await self._wait_for_load(self._load.ready)
        return False

    async def _wait_for_load(self, promise: Promise[None]) -> None:
        """Wait for a load; where that is interrupted, call the order off."""
        assert self._load is not None
        try:
            await promise.wait()
        except AlreadyLoaded:
            return
        except trio.Cancelled:
            self._call_off()
            raise

    def _call_off(self) -> None:
        """Take the load order back where it still stands."""
        if self._load is not None and self._called_off is None and not self._load.ready.settled:
            self._called_off = CalledOff(self._load)
            self._world.version(self.swap.new).post(self._called_off)

    async def _shift(self) -> bool:
        """Move the traffic, in one step that nothing can split."""
        self._world.router.shift({self.swap.new.model: self.swap.new.version})
        self._shifted = True
        return False

    async def _drain_old(self) -> bool:
        """Empty the old version; True where it stays behind in quarantine, or somebody wants it back."""
        self._give_up_slot()
        self._drain = DrainOrder(self.swap.drain)
        self._world.version(self.swap.old).post(self._drain)
        outcome = await self._drain.outcome.wait()
        self._book.update(drain_outcome=outcome)
        return outcome.result != "drained"

    async def _unload_old(self) -> bool:
        assert self._drain is not None
        await self._closed(self._drain, self.swap.old)
        self._book.update(old_unloaded=True)
        return False

    # --- compensations ---

    def _compensations(self) -> dict[Step, Callable[[], Awaitable[None]]]:
        """Return what undoes each step; an unload is never undone."""
        return {
            Step.VALIDATE: self._leave_slot,
            Step.LOAD: self._unload_new,
            Step.WARM: self._take_new_out_of_use,
            Step.SHIFT: self._shift_back,
            Step.DRAIN: self._reopen_old,
        }

    async def _leave_slot(self) -> None:
        self._give_up_slot()

    async def _take_new_out_of_use(self) -> None:
        """Let no new request reach what this swap loaded; who holds it meanwhile keeps it until he leaves."""
        self._call_off()  # where the swap failed between its load and its warm-up, without waiting for either
        if self._called_off is not None:
            await self._called_off.done.wait()  # only then its state says whether the load came to an end
        new = self._world.version(self.swap.new)
        if self._world.router.active(self.swap.new.model) == self.swap.new.version:
            raise NotReady(f"{self.swap.new} has the traffic, and no other version could take it")
        if self._load is not None and self._load.began and self._undo is None:
            self._undo = DrainOrder(Drain(self.swap.drain.deadline_s))
            new.post(self._undo)

    async def _unload_new(self) -> None:
        """Wait until what this swap loaded is closed, or in quarantine with whoever still holds it."""
        await self._take_new_out_of_use()  # where the swap came no further than to its load
        if self._undo is None:
            return
        try:
            outcome = await self._undo.outcome.wait()
            if outcome.result == "drained":
                await self._closed(self._undo, self.swap.new)
        except VersionNotLoaded:
            return  # it went away by itself

    async def _shift_back(self) -> None:
        if self._shifted and self._world.router.active(self.swap.new.model) == self.swap.new.version:
            self._world.router.shift({self.swap.old.model: self.swap.old.version})
        self._shifted = False

    async def _reopen_old(self) -> None:
        """Bring the old version back, out of its drain or, if need be, from its source."""
        order = LoadOrder()
        self._world.version(self.swap.old).post(order)
        try:
            await order.ready.wait()
        except AlreadyLoaded:
            return

    # --- small things ---

    def _protected(self) -> trio.CancelScope:
        """Return a scope that nothing cancels from outside, unless the end of the engine has to."""
        self._shield = trio.CancelScope(shield=not self._exposed)
        return self._shield

    async def _closed(self, order: DrainOrder, key: VersionKey) -> None:
        """Wait until a model is closed, for `unload_s` in all, however often it is asked; raises `NotReady`."""
        limit_s = self.swap.timeouts.unload_s
        self._close_by_s = self._close_by_s or self._now() + limit_s
        with trio.move_on_after(max(0.0, self._close_by_s - self._now())) as scope:
            await order.closed.wait()
        if scope.cancelled_caught:
            raise NotReady(f"close() of {key} did not return within {limit_s:g} s")

    def _may_take_slot(self) -> bool:
        """Return whether no younger swap of the model has begun, or moved the traffic on."""
        if self.holds_slot:
            return True
        model = self.swap.new.model
        return model not in self._world.slots and self._world.router.active(model) == self.swap.new.version

    def _give_up_slot(self) -> None:
        if self.holds_slot:
            del self._world.slots[self.swap.new.model]

    def _now(self) -> float:
        return self._world.ports.clock.now()
