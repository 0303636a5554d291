"""The calls of the engine that wait for swaps, on Trio: swap, wait, take back. Spawns nothing."""

from __future__ import annotations

from collections.abc import Mapping

import trio

from changeover.core.checks import seconds
from changeover.core.operations import RecoveryReport, SwapOperation
from changeover.core.shift import Shift
from changeover.core.values import Drain, SwapState, Timeouts, VersionKey
from changeover.errors import InvalidValue, SwapNotAllowed, SwapNotDone
from changeover.runtime.ordering import OnBusy, OnCancel, Ordering
from changeover.runtime.saga import Saga
from changeover.runtime.why import not_done


class Swapping(Ordering):
    """The part of an engine that swaps."""

    async def swap(
        self,
        model: str,
        to: str,
        *,
        from_: str | None = None,
        plan: Shift | None = None,
        drain: Drain | None = None,
        timeouts: Timeouts | None = None,
        on_busy: OnBusy = "refuse",
        on_cancel: OnCancel = "abort",
    ) -> SwapOperation:
        """Load the new version, move the traffic to it, drain and unload the old one; return once that is true.

        Cancelled before the pivot, the swap is undone in the background, or goes on with `on_cancel="detach"`; after
        it, it goes on. Raises `SwapFailed`, `SwapRolledBack` and `Superseded`, each with its `operation`, and what
        `start_swap` raises.
        """
        _check_cancel(on_cancel)
        swap_id = self.start_swap(model, to, from_=from_, plan=plan, drain=drain, timeouts=timeouts, on_busy=on_busy)
        return await self._ended(self._saga(swap_id), on_cancel)

    async def swap_group(
        self,
        to: Mapping[str, str],
        *,
        from_: Mapping[str, str] | None = None,
        plan: Shift | None = None,
        drain: Drain | None = None,
        timeouts: Timeouts | None = None,
        on_busy: OnBusy = "refuse",
        on_cancel: OnCancel = "abort",
    ) -> SwapOperation:
        """Swap several models as one: all are prepared, then flipped in one step; a failure in one undoes all.

        `to` and `from_` map models to versions. `lease_many` and `infer_many` see all of the old versions or all of the
        new ones. A canary sends the same requests to all of the new versions. Cancelled, and raising, as `swap`.
        """
        _check_cancel(on_cancel)
        swap_id = self.start_group_swap(to, from_=from_, plan=plan, drain=drain, timeouts=timeouts, on_busy=on_busy)
        return await self._ended(self._saga(swap_id), on_cancel)

    async def _ended(self, saga: Saga, on_cancel: OnCancel) -> SwapOperation:
        """Wait for a swap; who goes away may take it with him."""
        try:
            return await saga.ended.wait()
        except trio.Cancelled:
            if on_cancel == "abort" and saga.is_before_pivot:
                saga.turn(SwapState.CANCELLED, why="its caller went away")
            raise

    async def wait_for_swap(self, swap_id: str) -> SwapOperation:
        """Return a swap once it is completed, or raise what `swap` would have raised.

        Cancelled, the swap goes on. Raises `SwapNotFound`, `SwapFailed`, `SwapRolledBack` and `Superseded`.
        """
        saga = self._sagas.get(swap_id)
        return await saga.ended.wait() if saga is not None else await self._past_ended(swap_id)

    async def rollback(self, swap_id: str) -> SwapOperation:
        """Take a swap back: turn it round while it runs, or swap back after it; return the operation that did.

        Cancelled, the rollback goes on. Raises `SwapNotFound`, `SwapNotAllowed` where it did not happen or the traffic
        has moved on, `SwapInProgress`, `SwapFailed` where it could not be undone, and `SwapRolledBack` where the swap
        back was itself turned round.
        """
        self._check_open()
        saga = self._sagas.get(swap_id)
        if saga is None:
            done = self._undoable(await self._past_ended(swap_id, anyhow=True))
            pairs = [(VersionKey(m.model, m.to_version), VersionKey(m.model, m.from_version)) for m in done.members]
            record = self._past(swap_id)
            return await self._swap_back(swap_id, pairs, record.drain, record.timeouts)
        await trio.lowlevel.checkpoint()
        self._undoable(saga.operation)
        if saga.can_turn:
            saga.turn(SwapState.ROLLED_BACK)
        try:
            await saga.ended.wait()
        except SwapNotDone as error:
            if error.operation.state is SwapState.ROLLED_BACK:
                return saga.operation
            raise
        swap = saga.swap
        return await self._swap_back(swap_id, [(p.new, p.old) for p in swap.pairs], swap.drain, swap.timeouts)

    async def recovered(self, timeout_s: float | None = None) -> RecoveryReport:
        """Return once all that an earlier process has left in the journal was brought back, finished or undone.

        It waits for versions to be registered. Cancelled, that goes on. Raises `NotReady`, which says what is missing,
        after `timeout_s`; what could not be brought back is in the report.
        """
        if timeout_s is not None:
            seconds("timeout_s", timeout_s)
        self._check_open()
        return await self._recovery.wait(timeout_s)

    # --- inside ---

    @staticmethod
    def _undoable(operation: SwapOperation) -> SwapOperation:
        """Return a swap that runs or is completed; raises `SwapNotAllowed`."""
        state = operation.state
        if state.ended and state is not SwapState.COMPLETED:
            text = f"swap {operation.id} did not happen ({state.value}), so there is nothing to roll back"
            raise SwapNotAllowed(text, model=operation.model)
        return operation

    async def _past_ended(self, swap_id: str, *, anyhow: bool = False) -> SwapOperation:
        """Return a swap of an earlier process, when it is recovered; raises what `swap` would have raised."""
        rescue = self._recovery.of_swap(swap_id)
        if rescue is not None:
            await rescue.ended.wait()
        else:
            self._past(swap_id)
            await trio.lowlevel.checkpoint()
        operation = self._past(swap_id).operation
        if not operation.state.ended:
            self._check_open()  # it was closed before the swap could be finished or undone: the next engine does it
        if operation.state is SwapState.COMPLETED or anyhow:
            return operation
        raise not_done(operation, operation.error_message or operation.state.value)

    async def _swap_back(
        self, swap_id: str, pairs: list[tuple[VersionKey, VersionKey]], drain: Drain, timeouts: Timeouts
    ) -> SwapOperation:
        """Swap from what a swap has brought to what was before it."""
        self._check_open()  # it may have been closed meanwhile
        moves = tuple(self._pair(self._named(*old).key, new.version, "refuse") for new, old in pairs)
        back = self._make_saga(moves, drain, Shift(), timeouts, rollback_of=swap_id)
        self._slots.enter(back)
        return await back.ended.wait()


def _check_cancel(on_cancel: str) -> None:
    if on_cancel not in ("abort", "detach"):
        raise InvalidValue(f'on_cancel must be "abort" or "detach", not {on_cancel!r}')
