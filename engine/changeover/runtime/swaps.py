"""The calls of the engine that wait for swaps, on Trio: swap, wait, take back. Spawns nothing."""

from __future__ import annotations

from collections.abc import Mapping

import trio

from changeover.core.shift import Shift
from changeover.core.snapshots import SwapOperation
from changeover.core.values import Drain, SwapState, Timeouts
from changeover.errors import InvalidValue, SwapNotAllowed, SwapNotDone
from changeover.runtime.ordering import OnBusy, OnCancel, Ordering
from changeover.runtime.saga import Saga


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
            raise SwapNotAllowed(text, model=saga.swap.name)
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
        pairs = tuple(self._pair(pair.old, pair.new.version, "refuse") for pair in done.pairs)
        back = self._make_saga(pairs, done.drain, Shift(), done.timeouts, rollback_of=swap_id)
        self._slots.enter(back)
        return await back.ended.wait()


def _check_cancel(on_cancel: str) -> None:
    if on_cancel not in ("abort", "detach"):
        raise InvalidValue(f'on_cancel must be "abort" or "detach", not {on_cancel!r}')
