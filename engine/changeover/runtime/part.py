"""One model's part in a swap: the orders that the swap has given to its two versions, and what came of them.

Owned by the steps of one saga. It spawns nothing, and every order that undoes another may be given twice.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

import trio

from changeover.core.aftermath import Facts
from changeover.core.snapshots import DrainOutcome
from changeover.core.values import Drain, Timeouts, VersionKey, VersionState
from changeover.errors import NotReady, SwapTimeout, VersionCrashed, VersionNotLoaded
from changeover.runtime.mailbox import Promise
from changeover.runtime.orders import CalledOff, DrainOrder, LoadOrder
from changeover.runtime.swap import Pair, SwapWorld

T = TypeVar("T")


async def in_time(
    call: Callable[[], Awaitable[T]], limit_s: float | None, late: str, *, rest_s: float | None = None
) -> T:
    """Wait for a call, for so many seconds; raises `SwapTimeout`, `late` and the limit, where it has not returned.

    `rest_s` is what is left of the limit, where a part of it has passed already.
    """
    if limit_s is None:
        return await call()
    with trio.move_on_after(max(0.0, limit_s if rest_s is None else rest_s)):
        return await call()
    raise SwapTimeout(f"{late} {limit_s:g} s")


class Part:
    """What a swap does with one model."""

    def __init__(self, pair: Pair, timeouts: Timeouts, world: SwapWorld) -> None:
        """Have ordered nothing yet."""
        self.pair = pair
        self._timeouts = timeouts
        self.load: LoadOrder | None = None
        """The order to load the new version; None where it was loaded already."""
        self.drain: DrainOrder | None = None
        """The order to empty the old one."""
        self.undo: DrainOrder | None = None
        """The order to unload the new version again."""
        self.outcome: DrainOutcome | None = None
        """How the drain of the old version ended."""
        self.closed = False
        """True once the old version's `close()` has returned."""
        self._world = world
        self._called_off: CalledOff | None = None

    @property
    def facts(self) -> Facts:
        """How its model stands now."""
        old, new = self.pair.old, self.pair.new
        return Facts(
            old, new, self._world.router.active(self.pair.model), self._world.version(old).state,
            self._world.version(new).state, was_loaded=self.load is None or not self.load.began,
        )  # fmt: skip

    # --- the new version ---

    @property
    def loading(self) -> tuple[LoadOrder, ...]:
        """The order to load it, where there was one."""
        return () if self.load is None else (self.load,)

    def load_new(self) -> None:
        """Order the new version, unless it is there to stay: a load comes behind a drain, and gives back."""
        new = self._world.version(self.pair.new)
        if new.state is not VersionState.READY or new.is_leaving:
            self.load = LoadOrder(self._timeouts.load_s)
            new.post(self.load)

    def call_off(self) -> None:
        """Take the order back where it still stands."""
        if self.load is not None and self._called_off is None and not self.load.ready.settled:
            self._called_off = CalledOff(self.load)
            self._world.version(self.pair.new).post(self._called_off)

    async def take_out_of_use(self, drain: Drain) -> None:
        """Let no new request reach what this swap loaded; raises `NotReady` where it has the traffic."""
        self.call_off()
        if self._called_off is not None:
            await self._called_off.done.wait()  # only then its state says whether the load came to an end
        if self._world.router.active(self.pair.model) == self.pair.new.version:
            raise NotReady(f"{self.pair.new} has the traffic, and no other version could take it")
        if self.load is not None and self.load.began and self.undo is None:
            self.undo = DrainOrder(drain)
            self._world.version(self.pair.new).post(self.undo)

    async def new_unloaded(self, rest_s: float) -> None:
        """Wait until what this swap loaded is closed, or in quarantine with whoever holds it; raises `SwapTimeout`."""
        if self.undo is None:
            return
        try:
            outcome = await self.undo.outcome.wait()
            if outcome.result == "drained":
                await self._closed(self.undo, self.pair.new, rest_s)
        except (VersionNotLoaded, VersionCrashed):
            return  # it went away by itself

    # --- the old version ---

    def drain_old(self, drain: Drain) -> None:
        """Order the old version to be emptied and closed."""
        self.drain = DrainOrder(drain)
        self._world.version(self.pair.old).post(self.drain)

    @property
    def rolls_back(self) -> bool:
        """Whether the drain gave the old version back because its time was up and its policy says so."""
        return self.drain is not None and self.drain.rolled_back

    async def old_drained(self) -> None:
        """Wait for the outcome of the drain; raises `VersionCrashed` where the version went away by itself."""
        if self.drain is not None:
            self.outcome = await self.drain.outcome.wait()

    async def old_unloaded(self, rest_s: float) -> None:
        """Wait until the old version is closed, where it was drained; raises `SwapTimeout`."""
        if self.drain is not None and (self.outcome is None or self.outcome.result == "drained"):
            await self._closed(self.drain, self.pair.old, rest_s)
            self.closed = True

    def bring_old_back(self) -> Promise[None]:
        """Order the old version back, out of its drain or, if need be, from its source; `AlreadyLoaded` is fine."""
        order = LoadOrder()
        self._world.version(self.pair.old).post(order)
        return order.ready

    @property
    def is_old_wanted(self) -> bool:
        """Whether the old version has traffic, or a newer swap is about to give it some."""
        newer = self._world.slots.holder(self.pair.model)
        return self._world.router.share(self.pair.old) > 0 or (newer is not None and self.pair.old in newer.news)

    async def _closed(self, order: DrainOrder, key: VersionKey, rest_s: float) -> None:
        late = f"close() of {key} did not return within"
        limit_s = None if order.closed.settled else self._timeouts.unload_s  # another model may have used up the time
        await in_time(order.closed.wait, limit_s, late, rest_s=rest_s)
