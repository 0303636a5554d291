"""The saga actor: runs one swap as `core/plan` decides, and writes each boundary down before it crosses it.

A task of the saga supervisor, never restarted. It owns its logbook and its model's slot; others it only asks.
Compensations are shielded from cancellation, and each may be called twice.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Literal, TypeVar

import attrs
import trio

from changeover.core import aftermath, plan
from changeover.core.checks import describe
from changeover.core.operations import StepRecord, SwapOperation
from changeover.core.plan import Compensate, Done, Failed, Finish, Happening, Ordered, Progress, Run, Step, Undone
from changeover.core.records import SwapRecord
from changeover.core.values import SwapState, VersionKey
from changeover.errors import JournalFailed, SwapNotAllowed, SwapNotDone
from changeover.runtime import sites
from changeover.runtime.events import logger
from changeover.runtime.logbook import Logbook
from changeover.runtime.mailbox import Promise
from changeover.runtime.part import in_time
from changeover.runtime.shifting import TurnRound
from changeover.runtime.steps import Steps, backoff_s, mark_turn, settled
from changeover.runtime.supervisor import ChildSpec, Supervisor
from changeover.runtime.swap import Swap, SwapWorld
from changeover.runtime.why import cut_off, not_done, told_of

COMPENSATION_TRIES = 4
"""How often a compensation is tried before it is reported as failed."""

T = TypeVar("T")
Turn = Literal[SwapState.ROLLED_BACK, SwapState.CANCELLED, SwapState.SUPERSEDED]


class Saga:
    """One swap."""

    def __init__(self, swap: Swap, world: SwapWorld, supervisor: Supervisor) -> None:
        """Be one of the swaps of its model; `world.slots` says when its turn has come."""
        self.ended: Promise[SwapOperation] = Promise()
        self._world = world
        self._supervisor = supervisor
        self._book = Logbook(swap, world.ports, world.bus, world.journal)
        self._steps = Steps(swap, world, self._book, leave=self._give_up_slot, may_take_slot=self._may_take_slot)
        self._begun = False
        self._progress = Progress()
        self._turned: Turn | None = None
        self._why = "it was ordered back"
        self._is_finishing = self._has_crashed = False
        self._is_crossing = False
        """True from the moment in which the point of no return is being written down."""
        self._exposed = False
        self._scope = trio.CancelScope()
        self._shield = trio.CancelScope(shield=True)
        self._cause: Exception | None = None
        self._failures: list[str] = []
        """What could not be undone."""
        self._until_s = 0.0
        """When it must have come to its pivot, where there is a limit."""

    # --- what others call, on the loop ---

    def begin(self) -> None:
        """Hear that its turn has come: start the task."""
        self._begun = True
        self._steps.begin(settled(self.swap, self._world.router.active))
        self._book.begin(self.swap)
        self._until_s = self._now() + (self.swap.timeouts.total_s or 0.0)
        task = ChildSpec(f"swap {self.swap.id}", self.run, self._crashed, ended=self.over)
        self._supervisor.start(task)

    @property
    def swap(self) -> Swap:
        """What was ordered; of an order that waited, the version to swap from is known when its turn has come."""
        return self._steps.swap

    @property
    def models(self) -> tuple[str, ...]:
        """The models whose slots it needs."""
        return self.swap.models

    @property
    def keys(self) -> frozenset[VersionKey]:
        """Every version that takes part."""
        return self.swap.keys

    @property
    def news(self) -> frozenset[VersionKey]:
        """The versions that it swaps to."""
        return self.swap.news

    @property
    def record(self) -> SwapRecord:
        """The swap as the journal has it."""
        return SwapRecord(self.operation, self._progress, self.swap.drain, self.swap.timeouts)

    def told(self, model: str) -> str:
        """Return what somebody is told who wants to swap a model of it, and may not."""
        to = next(pair.new.version for pair in self.swap.pairs if pair.model == model)
        return (
            f"{model} is being swapped to {to} by swap {self.swap.id}; wait, roll it back, or "
            'use on_busy="queue" or "supersede"'
        )

    @property
    def has_begun(self) -> bool:
        """Whether its turn has come."""
        return self._begun

    @property
    def operation(self) -> SwapOperation:
        """The swap as it stands."""
        if self.has_ended:  # of its shift only copies may still be on their way
            return attrs.evolve(self._book.operation, shadow=self._steps.shift.shadow)
        return attrs.evolve(self._book.operation, paused=self._steps.shift.paused, **self._shift_facts())

    @property
    def has_ended(self) -> bool:
        """Whether nothing more will happen to it."""
        return self._book.operation.state.ended

    @property
    def holds_slot(self) -> bool:
        """True until the pivot, and again while it is turned round after it."""
        return all(self._world.slots.holder(model) is self for model in self.models)

    @property
    def can_turn(self) -> bool:
        """True while an order may still turn it round: it runs forward, and no younger swap of the model has begun."""
        ended = self._book.operation.state.ended
        open_ended = not (ended or self._is_finishing or self._is_crossing) and self._turned is None
        return open_ended and self._progress.can_turn and self._may_take_slot()

    @property
    def may_be_superseded(self) -> bool:
        """True while a newer order may take its place: it waits, or can be turned round."""
        return not self._begun or self.can_turn

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
                f"swap {self.swap.id} of {self.swap.name} is {self._book.operation.state.value} and cannot be "
                "turned round any more; swap back to the old version instead",
                model=self.swap.name,
            )
        self._turned, self._why = end, why
        self._steps.hurried = end is SwapState.SUPERSEDED
        if by is not None:
            if sites.ON:
                sites.sometimes("swap-superseded")
            self._book.update(superseded_by=by)
        if self._begun:
            self._world.slots.take_back(self)
            self._scope.cancel()
        else:
            self._give_up_slot()
            ended = self._ended(end)
            self._book.write_end(self._progress, ended)
            self._end(ended)

    def steer(self, order: Literal["pause", "resume", "promote"]) -> None:
        """Stop, continue or shorten the way to the pivot; raises `SwapNotAllowed` where that is passed."""
        state = self._book.operation.state
        if not self.is_before_pivot:
            raise SwapNotAllowed(
                f"swap {self.swap.id} of {self.swap.name} is {state.value}; only a swap on its way to its pivot "
                f"can be told to {order}",
                model=self.swap.name,
            )
        getattr(self._steps.shift, order)()
        kinds = {"pause": "swap_paused", "resume": "swap_resumed", "promote": "swap_promoted"}
        for pair in self.swap.pairs:
            self._world.bus.emit(kinds[order], pair.new, swap_id=self.swap.id)

    def abort(self) -> None:
        """Turn the swap round before its pivot; raises `SwapNotAllowed` behind it."""
        if self.has_ended or self._is_finishing or self._progress.past_pivot:
            raise SwapNotAllowed(
                f"swap {self.swap.id} of {self.swap.name} is {self._book.operation.state.value}; only a swap "
                "before its pivot can be aborted, and rollback is what takes back one behind it",
                model=self.swap.name,
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
            said = cut_off(self._book.operation.error_message, self._cause, crashed=self._has_crashed)
            self._book.update(error_message=said)
            self._end(self._ended(SwapState.FAILED))

    def _crashed(self, error: Exception, _delay_s: float | None) -> None:
        self._has_crashed, self._cause = True, error
        logger.error("swap %s crashed", self.swap.id, exc_info=error)

    async def _do(self, command: Run | Compensate) -> Happening:
        if isinstance(command, Run):
            happening = await self._run_step(command.step)
            if sites.ON and isinstance(happening, Ordered):
                mark_turn(command.step)
            return happening
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
                last = await self._forward(step)
        except TurnRound as reason:
            return self._turn_itself(step, began_s, reason)
        except Exception as error:  # noqa: BLE001 - whatever a step raises is the step's failure
            self._book.note_step(StepRecord(step.value, "failed", self._now() - began_s, describe(error)))
            if self._turned is not None and self._progress.can_turn:  # it was not to go on anyway
                return Ordered(self._turned)
            self._cause = error
            return Failed()
        outcome: Literal["done", "interrupted"] = "interrupted" if self._scope.cancelled_caught else "done"
        self._book.note_step(StepRecord(step.value, outcome, self._now() - began_s))
        if self._turned is not None and self._progress.can_turn:
            return Ordered(self._turned)
        return Done(last=last)

    async def _forward(self, step: Step) -> bool:
        """Do what a step does, and write down that the next one is begun; return whether there is none."""
        last = await self._in_time(self._steps.forward(step))
        following, command = plan.advance(self._progress, Done(last=last))
        if isinstance(command, Run) and command.step in plan.WRITTEN and self._turned is None:
            await self._cross(step, following)
        return last

    async def _cross(self, step: Step, following: Progress) -> None:
        """Write a boundary down; past the pivot the swap goes on even where that fails."""
        to = {pair.model: pair.new.version for pair in self.swap.pairs} if step is plan.PIVOT else {}
        olds = {} if self._book.is_written else {pair.model: pair.old.version for pair in self.swap.pairs}
        self._is_crossing = following.step is plan.NO_RETURN
        try:
            await self._write_in_time(following, self._world.desires.want(to | self._world.desires.news_of(olds)))
        except JournalFailed as error:
            if not self._progress.past_pivot:
                if sites.ON:
                    sites.sometimes("journal-failed-before-the-pivot")
                raise
            if sites.ON:
                sites.sometimes("journal-failed-behind-the-pivot")
            self._cause = error

    async def _write_in_time(self, progress: Progress, desired: Mapping[str, bytes | None]) -> None:
        """Write a boundary down, also where that is called off meanwhile; what is late may be kept all the same."""
        with self._protected():
            await self._in_time(lambda: self._book.write(progress, desired))

    async def _in_time(self, call: Callable[[], Awaitable[T]]) -> T:
        """Wait for something, on the way to the pivot for what is left of the whole; raises `SwapTimeout`."""
        limit_s = None if self._progress.past_pivot else self.swap.timeouts.total_s
        late = f"the swap of {self.swap} had not come to its pivot after"
        return await in_time(call, limit_s, late, rest_s=self._until_s - self._now())

    def _turn_itself(self, step: Step, began_s: float, reason: TurnRound) -> Happening:
        """Be turned round by a step's own decision."""
        self._world.slots.take_back(self)
        self._book.note_step(StepRecord(step.value, "failed", self._now() - began_s, str(reason)))
        self._book.update(error_message=str(reason))
        self._turned = self._turned or SwapState.ROLLED_BACK
        return Ordered(self._turned)

    async def _compensate(self, step: Step) -> Happening:
        """Undo a step, trying again where that fails."""
        self._book.update(state=SwapState.ROLLING_BACK)
        await self._write_undo(step)
        failure: Exception | None = None
        for attempt in range(COMPENSATION_TRIES):
            if attempt:
                if sites.ON:
                    sites.sometimes("compensation-tried-again")
                await self._world.ports.clock.sleep(backoff_s(attempt))
            try:
                await self._steps.back(step)()
            except Exception as error:  # noqa: BLE001 - it is tried again, then reported
                failure = error
            else:
                self._book.note_undone(step, None, None)
                return Undone()
        if sites.ON:
            sites.sometimes("compensation-given-up")
        self._failures.append(self._book.note_undone(step, failure, self._cause))
        return Undone(ok=False)

    async def _write_undo(self, step: Step) -> None:
        """Write down that a step is being undone; where that fails it is undone all the same: so would a recovery."""
        if not self._book.is_written:
            return  # it has done nothing yet
        past = plan.ORDER.index(step) >= plan.ORDER.index(plan.PIVOT)
        desires = self._world.desires
        desired = desires.want({pair.model: pair.old.version for pair in self.swap.pairs} if past else {})
        try:
            await self._book.write(self._progress, desired or desires.owed_for(self.models))
        except JournalFailed as error:
            self._cause = self._cause or error

    async def _finish(self, state: SwapState) -> None:
        """Write the end down, then make it known."""
        self._is_finishing = True
        told = told_of(self._cause)
        ended = self._ended(state, told)
        ours = [model for model in self.models if self._world.slots.holder(model) in (None, self)]
        try:
            with self._protected():
                await self._book.write(self._progress, self._world.desires.as_found(ours), ended)
        except JournalFailed as error:  # what happened has happened; it is reported
            self._cause = self._cause or error
            ended = self._ended(state, told or f"{type(error).__name__}: {error}")
        self._give_up_slot()
        self._world.desires.look(self.models)
        self._end(ended)

    def _ended(self, state: SwapState, message: str | None = None) -> SwapOperation:
        """Return the operation as it shall be told when it has ended."""
        facts = [part.facts for part in self._steps.parts] if self._failures else []
        told = aftermath.tell(facts, self._failures) if self._failures else None
        return self._book.ended(state, message, aftermath=told, **self._shift_facts())

    def _end(self, operation: SwapOperation) -> None:
        self._steps.shift.end()
        self._book.conclude(operation)
        if operation.state is SwapState.COMPLETED:
            self.ended.settle(operation)
        else:
            self.ended.fail(self._error())

    def _shift_facts(self) -> dict[str, Any]:
        """Return what the operation tells of its shift."""
        shift = self._steps.shift
        share = min(self._world.router.share(pair.new) for pair in self.swap.pairs)
        return {"share": share, "guard": shift.verdict, "fallbacks": shift.fallbacks, "shadow": shift.shadow}

    def _error(self) -> SwapNotDone:
        superseded_by = self._book.operation.superseded_by
        reason = f"swap {superseded_by} took its place" if superseded_by else self._why
        error = not_done(self.operation, self._book.operation.error_message or reason)
        error.__cause__ = self._cause
        return error

    # --- small things ---

    def _protected(self) -> trio.CancelScope:
        """Return a scope that nothing cancels from outside, unless the end of the engine has to."""
        self._shield = trio.CancelScope(shield=not self._exposed)
        return self._shield

    def _may_take_slot(self) -> bool:
        """Return whether no younger swap of its models has begun, or moved the traffic on."""
        if self.holds_slot or not self._begun:
            return True
        router, slots = self._world.router, self._world.slots
        ours = all(slots.holder(model) is None and slots.moved_by(model) == self.swap.id for model in self.models)
        return ours and all(router.active(pair.model) == pair.new.version for pair in self.swap.pairs)

    def _give_up_slot(self) -> None:
        self._world.slots.leave(self, moved=self.swap.id if self._progress.past_pivot else None)

    def _now(self) -> float:
        return self._world.ports.clock.now()
