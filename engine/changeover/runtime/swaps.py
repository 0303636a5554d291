"""The calls of the engine that wait for swaps, on Trio: swap, wait, take back. Spawns nothing."""

from __future__ import annotations

import trio

from changeover.core.shift import Shift
from changeover.core.snapshots import SwapOperation
from changeover.core.values import Drain, SwapState, Timeouts
from changeover.errors import InvalidValue, SwapNotAllowed, SwapNotDone
from changeover.runtime.ordering import OnBusy, OnCancel, Ordering


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
        if on_cancel not in ("abort", "detach"):
            raise InvalidValue(f'on_cancel must be "abort" or "detach", not {on_cancel!r}')
        swap_id = self.start_swap(model, to, from_=from_, plan=plan, drain=drain, timeouts=timeouts, on_busy=on_busy)
        saga = self._saga(swap_id)
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
        return await self._saga(swap_id).ended.wait()

    async def rollback(self, swap_id: str) -> SwapOperation:
        """Take a swap back: turn it round while it runs, or swap back after it; return the operation that did.

        Cancelled, the rollback goes on. Raises `SwapNotFound`, `SwapNotAllowed` where it did not happen or the traffic
        has moved on, `SwapInProgress`, `SwapFailed` where it could not be undone, and `SwapRolledBack` where the swap
        back was itself turned round.
        """
        self._check_open()
        saga = self._saga(swap_id)
        await trio.lowlevel.checkpoint()
        state = saga.operation.state
        if state.ended and state is not SwapState.COMPLETED:
            text = f"swap {swap_id} did not happen ({state.value}), so there is nothing to roll back"
            raise SwapNotAllowed(text, model=saga.swap.new.model)
        if saga.can_turn:
            saga.turn(SwapState.ROLLED_BACK)
        try:
            await saga.ended.wait()
        except SwapNotDone as error:
            if error.operation.state is SwapState.ROLLED_BACK:
                return saga.operation
            raise
        self._check_open()  # it may have been closed meanwhile
        done = saga.swap
        self._swap_from(done.old, done.new.version, "refuse")
        back = self._make_saga(done.new, done.old, done.drain, Shift(), done.timeouts, rollback_of=swap_id)
        self._slots.enter(done.new.model, back)
        return await back.ended.wait()
