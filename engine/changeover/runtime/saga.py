"""The saga actor: runs one swap as `core/plan` decides, and writes each boundary down before it crosses it.

A task of the saga supervisor, never restarted. It owns its logbook and its model's slot; others it only asks.
Compensations are shielded from cancellation, and each may be called twice.
"""

from __future__ import annotations

from typing import Literal

import attrs
import trio

from changeover.core import plan
from changeover.core.checks import describe
from changeover.core.plan import Compensate, Done, Failed, Finish, Happening, Ordered, Progress, Run, Step, Undone
from changeover.core.snapshots import StepRecord, SwapOperation
from changeover.core.values import SwapState
from changeover.errors import Superseded, SwapFailed, SwapNotAllowed, SwapNotDone, SwapRolledBack
from changeover.runtime.logbook import Logbook
from changeover.runtime.mailbox import Promise
from changeover.runtime.shifting import TurnRound
from changeover.runtime.steps import Steps, settled
from changeover.runtime.supervisor import ChildSpec, Supervisor
from changeover.runtime.swap import Swap, SwapWorld

COMPENSATION_TRIES = 4
"""How often a compensation is tried before it is reported as failed."""

COMPENSATION_BACKOFF_S = 0.1
"""The wait before the second try; it doubles with each."""

Turn = Literal[SwapState.ROLLED_BACK, SwapState.CANCELLED, SwapState.SUPERSEDED]


class Saga:
    """One swap."""

    def __init__(self, swap: Swap, world: SwapWorld, supervisor: Supervisor) -> None:
        """Be one of the swaps of its model; `world.slots` says when its turn has come."""
        self.ended: Promise[SwapOperation] = Promise()
        self._world = world
        self._supervisor = supervisor
        operation = SwapOperation(
            swap.id, swap.new.model, swap.old.version, swap.new.version, SwapState.NOT_STARTED,
            world.ports.clock.wall(), rollback_of=swap.rollback_of,
        )  # fmt: skip
        self._book = Logbook(operation, world.ports, world.bus, world.journal)
        self._steps = Steps(
            swap, world, self._book, leave=self._give_up_slot, may_take_slot=self._may_take_slot
        )  # fmt: skip
        self._begun = False
        self._progress = Progress()
        self._turned: Turn | None = None
        self._why = "it was ordered back"
        self._is_finishing = False
        self._exposed = False
        self._scope = trio.CancelScope()
        self._shield = trio.CancelScope(shield=True)
        self._cause: Exception | None = None

    # --- what others call, on the loop ---

    def begin(self) -> None:
        """Hear that its turn has come: start the task."""
        self._begun = True
        self._steps.swap = settled(self.swap, self._world.router.active(self.swap.new.model))
        self._book.operation = attrs.evolve(self._book.operation, from_version=self.swap.old.version)
        task = ChildSpec(f"swap {self.swap.id}", self.run, lambda _error, _delay_s: None, ended=self.over)
        self._supervisor.start(task)

    @property
    def swap(self) -> Swap:
        """What was ordered; of an order that waited, the version to swap from is known when its turn has come."""
        return self._steps.swap

    @property
    def has_begun(self) -> bool:
        """Whether its turn has come."""
        return self._begun

    @property
    def operation(self) -> SwapOperation:
        """The swap as it stands."""
        shift = self._steps.shift
        return attrs.evolve(
            self._book.operation,
            share=self._world.router.share(self.swap.new),
            paused=shift.paused and not self.has_ended,
            guard=shift.verdict,
            fallbacks=shift.fallbacks,
            shadow=shift.shadow,
        )

    @property
    def has_ended(self) -> bool:
        """Whether nothing more will happen to it."""
        return self._book.operation.state.ended

    @property
    def holds_slot(self) -> bool:
        """True until the pivot, and again while it is turned round after it."""
        return self._world.slots.holder(self.swap.new.model) is self

    @property
    def can_turn(self) -> bool:
        """True while an order may still turn it round: it runs forward, and no younger swap of the model has begun."""
        ended = self._book.operation.state.ended
        open_ended = not ended and not self._is_finishing and self._turned is None
        return open_ended and self._progress.can_turn and self._may_take_slot()

    @property
    def is_before_pivot(self) -> bool:
        """True while it may be called off: it is on its way to its pivot, or its turn has not come."""
        return self.can_turn and not self._progress.past_pivot

    def turn(self, end: Turn, *, by: str | None = None, why: str = "it was ordered back") -> None:
        """Order the swap to be undone, for the newer swap `by`; raises `SwapNotAllowed` where nothing can turn it."""
        going_back = self._turned is not None or not self._progress.forward
        if going_back and not self.has_ended:
            return
        if not self.can_turn:
            raise SwapNotAllowed(
                f"swap {self.swap.id} of {self.swap.new.model} is {self._book.operation.state.value} and cannot be "
                "turned round any more; swap back to the old version instead",
                model=self.swap.new.model,
            )
        self._turned, self._why = end, why
        self._steps.hurried = end is SwapState.SUPERSEDED
        if by is not None:
            self._book.update(superseded_by=by)
        if self._begun:
            self._world.slots.take_back(self.swap.new.model, self)
            self._scope.cancel()
        else:
            self._give_up_slot()
            self._end(end, None)

    def steer(self, order: Literal["pause", "resume", "promote"]) -> None:
        """Stop, continue or shorten the way to the pivot; raises `SwapNotAllowed` where that is passed."""
        state = self._book.operation.state
        if not self.is_before_pivot:
            raise SwapNotAllowed(
                f"swap {self.swap.id} of {self.swap.new.model} is {state.value}; only a swap on its way to its pivot "
                f"can be told to {order}",
                model=self.swap.new.model,
            )
        getattr(self._steps.shift, order)()
        kinds = {"pause": "swap_paused", "resume": "swap_resumed", "promote": "swap_promoted"}
        self._world.bus.emit(kinds[order], self.swap.new, swap_id=self.swap.id)

    def abort(self) -> None:
        """Turn the swap round before its pivot; raises `SwapNotAllowed` behind it."""
        if self.has_ended or self._is_finishing or self._progress.past_pivot:
            raise SwapNotAllowed(
                f"swap {self.swap.id} of {self.swap.new.model} is {self._book.operation.state.value}; only a swap "
                "before its pivot can be aborted, and rollback is what takes back one behind it",
                model=self.swap.new.model,
            )
        self.turn(SwapState.CANCELLED)

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
                last = await self._steps.forward(step)()
        except TurnRound as reason:
            return self._turn_itself(step, began_s, reason)
        except Exception as error:  # noqa: BLE001 - whatever a step raises is the step's failure
            self._cause = error
            text = describe(error)
            self._book.note_step(StepRecord(step.value, "failed", self._now() - began_s, text))
            return Failed()
        outcome: Literal["done", "interrupted"] = "interrupted" if self._scope.cancelled_caught else "done"
        self._book.note_step(StepRecord(step.value, outcome, self._now() - began_s))
        if self._turned is not None and self._progress.can_turn:
            return Ordered(self._turned)
        return Done(last=last)

    def _turn_itself(self, step: Step, began_s: float, reason: TurnRound) -> Happening:
        """Be turned round by a step's own decision."""
        self._world.slots.take_back(self.swap.new.model, self)
        self._book.note_step(StepRecord(step.value, "failed", self._now() - began_s, str(reason)))
        self._book.update(error_message=str(reason))
        self._turned = self._turned or SwapState.ROLLED_BACK
        return Ordered(self._turned)

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
                await self._steps.back(step)()
            except Exception as error:  # noqa: BLE001 - it is tried again, then reported
                failure = error
            else:
                self._book.note_undone(step, None, None)
                return Undone()
        self._book.note_undone(step, failure, self._cause)
        return Undone(ok=False)

    async def _finish(self, state: SwapState) -> None:
        """Write the end down, then make it known."""
        self._is_finishing = True
        with self._protected():
            try:
                await self._book.write(self._progress.step, forward=self._progress.forward, end=state)
            except Exception as error:  # noqa: BLE001 - what happened has happened; it is reported
                self._cause = self._cause or error
        self._give_up_slot()
        self._end(state, f"{type(self._cause).__name__}: {self._cause}" if self._cause else None)

    def _end(self, state: SwapState, message: str | None) -> None:
        self._steps.shift.end()
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
        swap, superseded_by = self.swap, self._book.operation.superseded_by
        reason = f"swap {superseded_by} took its place" if superseded_by else self._why
        why = self._book.operation.error_message or reason
        text = f"the swap of {swap.new.model} from {swap.old.version} to {swap.new.version} did not happen: {why}"
        kind = kinds.get(state, SwapFailed)
        error = kind(text, operation=self.operation, model=swap.new.model, version=swap.new.version)
        error.__cause__ = self._cause
        return error

    # --- small things ---

    def _protected(self) -> trio.CancelScope:
        """Return a scope that nothing cancels from outside, unless the end of the engine has to."""
        self._shield = trio.CancelScope(shield=not self._exposed)
        return self._shield

    def _may_take_slot(self) -> bool:
        """Return whether no younger swap of the model has begun, or moved the traffic on."""
        if self.holds_slot or not self._begun:
            return True
        model = self.swap.new.model
        free = self._world.slots.holder(model) is None
        return free and self._world.router.active(model) == self.swap.new.version

    def _give_up_slot(self) -> None:
        self._world.slots.leave(self.swap.new.model, self)

    def _now(self) -> float:
        return self._world.ports.clock.now()
