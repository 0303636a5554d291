"""What the steps of one swap do, and what undoes each; `core/plan` says which is next, `saga.py` calls it.

Owned by one saga. It owns the orders that it has given to the two versions, and the shift. It spawns nothing, and every
compensation may be called twice.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import attrs
import trio

from changeover.core.plan import Step
from changeover.core.values import Drain, VersionKey, VersionState
from changeover.errors import AlreadyLoaded, NotReady, SwapNotAllowed, VersionCrashed, VersionNotLoaded
from changeover.runtime.logbook import Logbook
from changeover.runtime.mailbox import Promise
from changeover.runtime.orders import CalledOff, DrainOrder, LoadOrder
from changeover.runtime.shifting import Shifting, TurnRound
from changeover.runtime.swap import Swap, SwapWorld

HURRIED_DRAIN_S = 1.0
"""How long a version that was superseded is waited for before quarantine: the newer order is waiting, too."""


class Steps:
    """The steps of one swap, forward and back."""

    def __init__(
        self,
        swap: Swap,
        world: SwapWorld,
        book: Logbook,
        *,
        leave: Callable[[], None],
        may_take_slot: Callable[[], bool],
    ) -> None:
        """Have done nothing yet; `leave` gives the slot up, `may_take_slot` says whether it could be taken back."""
        self.swap = swap
        self.shift = Shifting(swap.id, swap.old, swap.new, swap.plan, world)
        self.hurried = False
        """True where the new version is not to be waited for long, because a newer order is."""
        self._may_take_slot = may_take_slot
        self._world = world
        self._book = book
        self._leave = leave
        self._close_by_s: float | None = None
        self._load: LoadOrder | None = None
        self._called_off: CalledOff | None = None
        self._drain: DrainOrder | None = None
        self._undo: DrainOrder | None = None

    def forward(self, step: Step) -> Callable[[], Awaitable[bool]]:
        """Return what a step does; it returns True where nothing is left to do after it."""
        return {
            Step.VALIDATE: self._validate,
            Step.LOAD: self._load_new,
            Step.WARM: self._warm_new,
            Step.SHIFT: self._shift,
            Step.DRAIN: self._drain_old,
            Step.UNLOAD: self._unload_old,
        }[step]

    def back(self, step: Step) -> Callable[[], Awaitable[None]]:
        """Return what undoes a step; an unload is never undone."""
        return {
            Step.VALIDATE: self._leave_slot,
            Step.LOAD: self._unload_new,
            Step.WARM: self._take_new_out_of_use,
            Step.SHIFT: self._shift_back,
            Step.DRAIN: self._reopen_old,
        }[step]

    # --- forward ---

    async def _validate(self) -> bool:
        """Look again at what was true when the swap was ordered; an order that had to wait finds its place now."""
        swap, model = self.swap, self.swap.new.model
        active = self._world.router.active(model)
        if swap.waited and active == swap.new.version:
            return True
        expected = swap.expected or swap.old.version
        if active != expected:
            text = f"{model}/{expected} is not active any more; the active version is {active}"
            raise SwapNotAllowed(text, model=model)
        self._world.version(swap.new)
        self.shift.measure(swap.old)
        return False

    async def _load_new(self) -> bool:
        if self.swap.plan.tries_out and self._world.version(self.swap.old).is_evicted:
            await self._reopen_old()  # the two are going to be compared
        new = self._world.version(self.swap.new)
        if new.state is not VersionState.READY or new.is_leaving:  # a load comes behind a drain, and gives back
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
        """Move the traffic as the plan says; the last move is one step that nothing can split."""
        limit_s = self.swap.timeouts.shift_s
        with trio.move_on_after(float("inf") if limit_s is None else limit_s) as scope:
            await self.shift.run()
        if scope.cancelled_caught:
            raise NotReady(f"the shift to {self.swap.new} had not come to its end after {limit_s:g} s")
        return False

    async def _drain_old(self) -> bool:
        """Empty the old version; True where it stays behind in quarantine, or somebody wants it back."""
        self._leave()
        drain = self.swap.drain
        outcome = await self._order_drain(drain)
        if self._drain is not None and self._drain.rolled_back:
            if self._may_take_slot():
                raise TurnRound(f"{self.swap.old} was still held when its drain was out of time: it rolls back")
            if not self._is_old_wanted():
                outcome = await self._order_drain(Drain(0.0))  # the traffic has moved on: it goes when it is empty
        return outcome != "drained"

    def _is_old_wanted(self) -> bool:
        """Return whether the old version has traffic, or a newer swap is about to give it some."""
        newer = self._world.slots.holder(self.swap.old.model)
        return self._world.router.share(self.swap.old) > 0 or (newer is not None and newer.swap.new == self.swap.old)

    async def _order_drain(self, drain: Drain) -> str:
        self._drain = DrainOrder(drain)
        self._world.version(self.swap.old).post(self._drain)
        outcome = await self._drain.outcome.wait()
        self._book.update(drain_outcome=outcome)
        return outcome.result

    async def _unload_old(self) -> bool:
        assert self._drain is not None
        await self._closed(self._drain, self.swap.old)
        self._book.update(old_unloaded=True)
        return False

    # --- back ---

    async def _leave_slot(self) -> None:
        self._leave()

    async def _take_new_out_of_use(self) -> None:
        """Let no new request reach what this swap loaded; who holds it meanwhile keeps it until he leaves."""
        self._call_off()  # where the swap failed between its load and its warm-up, without waiting for either
        if self._called_off is not None:
            await self._called_off.done.wait()  # only then its state says whether the load came to an end
        new = self._world.version(self.swap.new)
        if self._world.router.active(self.swap.new.model) == self.swap.new.version:
            raise NotReady(f"{self.swap.new} has the traffic, and no other version could take it")
        if self._load is not None and self._load.began and self._undo is None:
            deadline_s = self.swap.drain.deadline_s
            self._undo = DrainOrder(Drain(min(deadline_s, HURRIED_DRAIN_S) if self.hurried else deadline_s))
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
        except (VersionNotLoaded, VersionCrashed):
            return  # it went away by itself

    async def _shift_back(self) -> None:
        """Give the traffic back; to a version that is away, perhaps to be restarted, once it is there again."""
        router = self._world.router
        if router.share(self.swap.new) > 0 and not router.takes_requests(self.swap.old):
            await self._reopen_old()
        self.shift.back()

    async def _reopen_old(self) -> None:
        """Bring the old version back, out of its drain or, if need be, from its source."""
        order = LoadOrder()
        self._world.version(self.swap.old).post(order)
        try:
            await order.ready.wait()
        except AlreadyLoaded:
            return

    async def _closed(self, order: DrainOrder, key: VersionKey) -> None:
        """Wait until a model is closed, for `unload_s` in all, however often it is asked; raises `NotReady`."""
        limit_s, now = self.swap.timeouts.unload_s, self._world.ports.clock.now()
        self._close_by_s = self._close_by_s or now + limit_s
        with trio.move_on_after(max(0.0, self._close_by_s - now)) as scope:
            await order.closed.wait()
        if scope.cancelled_caught:
            raise NotReady(f"close() of {key} did not return within {limit_s:g} s")


def settled(swap: Swap, active: str | None) -> Swap:
    """Return an order whose turn has come, from the version that is active now."""
    return swap if active is None or not swap.waited else attrs.evolve(swap, old=VersionKey(swap.new.model, active))
