"""What the steps of one swap do, and what undoes each; `core/plan` says which is next, `saga.py` calls it.

Owned by one saga. It owns one part for each model, and the shift. It spawns nothing, and every compensation may be
called twice.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import attrs
import trio

from changeover.core.plan import Step
from changeover.core.snapshots import DrainOutcome
from changeover.core.values import Drain, VersionKey
from changeover.errors import AlreadyLoaded, SwapNotAllowed
from changeover.runtime import sites
from changeover.runtime.logbook import Logbook
from changeover.runtime.mailbox import all_of
from changeover.runtime.part import Part, in_time
from changeover.runtime.shifting import Shifting, TurnRound
from changeover.runtime.swap import Swap, SwapWorld

COMPENSATION_BACKOFF_S = 0.1
"""The wait before the second try of a compensation; it doubles with each."""

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
        """Have done nothing yet; `leave` gives the slots up, `may_take_slot` says whether they could be taken back."""
        self.hurried = False
        """True where the new versions are not to be waited for long, because a newer order is."""
        self._may_take_slot = may_take_slot
        self._world = world
        self._book = book
        self._leave = leave
        self._close_by_s: float | None = None
        self._has_shifted = False
        """True from the shift on until it is undone: meanwhile giving the traffic back is what undoes that step."""
        self.swap = swap
        self.shift = Shifting(swap, world)
        self.parts = [Part(pair, swap.timeouts, world) for pair in swap.pairs]

    def begin(self, swap: Swap) -> None:
        """Hear what the swap is now that its turn has come; orders about its shift stand."""
        self.swap = swap
        self.shift = self.shift.anew(swap)
        self.parts = [Part(pair, swap.timeouts, self._world) for pair in swap.pairs]

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
        active = {pair.model: self._world.router.active(pair.model) for pair in self.swap.pairs}
        if self.swap.waited and all(active[pair.model] == pair.new.version for pair in self.swap.pairs):
            return True
        for pair in self.swap.pairs:
            model, expected = pair.model, pair.expected or pair.old.version
            if active[model] is None:
                raise SwapNotAllowed(f"{model} has no active version to swap from", model=model)
            if active[model] != expected:
                text = f"{model}/{expected} is not active any more; the active version is {active[model]}"
                raise SwapNotAllowed(text, model=model)
            if active[model] == pair.new.version:  # a group that waited meanwhile, and the others are not
                raise SwapNotAllowed(f"{pair.new} is active already; there is nothing to swap", model=model)
            self._world.version(pair.new)
        self.shift.measure()
        return False

    async def _load_new(self) -> bool:
        if self.swap.plan.tries_out and any(self._world.version(part.pair.old).is_evicted for part in self.parts):
            await self._reopen_old()  # the two are going to be compared
        for part in self.parts:
            part.load_new()
        await self._wait_for_loads(warm=False)
        return False

    async def _warm_new(self) -> bool:
        await self._wait_for_loads(warm=True)
        return False

    async def _wait_for_loads(self, *, warm: bool) -> None:
        """Wait for every load, or for the first that fails; where that is interrupted, call the orders off."""
        orders = [order for part in self.parts for order in part.loading]
        try:
            await all_of((order.ready if warm else order.loaded for order in orders), happy_with=AlreadyLoaded)
        except trio.Cancelled:
            for part in self.parts:
                part.call_off()
            raise

    async def _shift(self) -> bool:
        """Move the traffic as the plan says; the last move is one step that nothing can split."""
        self._has_shifted = True
        limit_s = self.swap.timeouts.shift_s
        await in_time(self.shift.run, limit_s, f"the shift to {self._news} had not come to its end after")
        return False

    async def _drain_old(self) -> bool:
        """Empty the old versions; True where all stay behind in quarantine, or somebody wants them back."""
        router = self._world.router
        lost = [pair for pair in self.swap.pairs if router.active(pair.model) != pair.new.version]
        if sites.ON and lost:
            sites.sometimes("version-lost-at-the-pivot")
        if lost:  # it went while its pivot was being written down, and another version has its traffic
            raise TurnRound(" and ".join(f"{pair.new} stopped taking requests at its pivot" for pair in lost))
        self._leave()
        for part in self.parts:
            part.drain_old(self.swap.drain)
        failure = await self._drained(self.parts)
        rolled_back = [part for part in self.parts if part.rolls_back]
        if rolled_back and self._may_take_slot():
            olds = " and ".join(str(part.pair.old) for part in rolled_back)
            raise TurnRound(f"{olds} was still held when its drain was out of time: it rolls back")
        unwanted = [part for part in rolled_back if not part.is_old_wanted]
        for part in unwanted:
            part.drain_old(Drain(0.0))  # the traffic has moved on: it goes when it is empty
        later = await self._drained(unwanted)
        failure = failure or later
        if failure is not None:
            raise failure
        return all(part.outcome is not None and part.outcome.result != "drained" for part in self.parts)

    async def _drained(self, parts: list[Part]) -> Exception | None:
        """Wait until every drain has an outcome; return why one has none."""
        try:
            await self._each(Part.old_drained, parts)
        except Exception as error:  # noqa: BLE001 - what became of the others is looked at first
            return error
        finally:
            self._note_members()
        return None

    async def _unload_old(self) -> bool:
        """Wait until the models are closed, for `unload_s` in all."""
        try:
            await self._each(lambda part: part.old_unloaded(self._rest_s()), self.parts)
        finally:
            self._note_members()
        return False

    def _note_members(self) -> None:
        """Write into the operation what became of each old version."""
        members = zip(self._book.operation.members, self.parts, strict=True)
        outcomes = [part.outcome for part in self.parts if part.outcome is not None]
        self._book.update(
            members=tuple(attrs.evolve(m, drain_outcome=part.outcome, old_unloaded=part.closed) for m, part in members),
            drain_outcome=_together(outcomes) if outcomes else None,
            old_unloaded=all(part.closed for part in self.parts),
        )

    # --- back ---

    async def _leave_slot(self) -> None:
        self._leave()

    async def _take_new_out_of_use(self) -> None:
        """Let no new request reach what this swap loaded; who holds it meanwhile keeps it until he leaves."""
        if not self._has_shifted:
            await self._shift_back()  # an old version crashed meanwhile, and what was loaded has its traffic
        for part in self.parts:
            part.call_off()  # where the swap failed between its load and its warm-up, without waiting for either
        deadline_s = self.swap.drain.deadline_s
        drain = Drain(min(deadline_s, HURRIED_DRAIN_S) if self.hurried else deadline_s)
        await self._each(lambda part: part.take_out_of_use(drain), self.parts)

    async def _unload_new(self) -> None:
        """Wait until what this swap loaded is closed, or in quarantine with whoever still holds it."""
        await self._take_new_out_of_use()  # where the swap came no further than to its load
        await self._each(lambda part: part.new_unloaded(self._rest_s()), self.parts)

    async def _shift_back(self) -> None:
        """Give the traffic back, all models in one step; to versions that are away, once they are there again."""
        router = self._world.router
        pairs = [pair for pair in self.swap.pairs if router.share(pair.new) > 0]
        if any(not router.takes_requests(pair.old) for pair in pairs):
            await self._reopen_old()
        self.shift.back()
        self._has_shifted = False

    async def _reopen_old(self) -> None:
        await all_of([part.bring_old_back() for part in self.parts], happy_with=AlreadyLoaded)

    async def _each(self, call: Callable[[Part], Awaitable[None]], parts: list[Part]) -> None:
        """Do it with every part, also where one of them fails; raises the first failure."""
        failure: Exception | None = None
        for part in parts:
            try:
                await call(part)
            except Exception as error:  # noqa: BLE001 - the other models have their turn all the same
                failure = failure or error
        if failure is not None:
            raise failure

    # --- small things ---

    def _rest_s(self) -> float:
        """Return how much of `unload_s` is left, in seconds, however often it is asked."""
        now = self._world.ports.clock.now()
        self._close_by_s = self._close_by_s or now + self.swap.timeouts.unload_s
        return max(0.0, self._close_by_s - now)

    @property
    def _news(self) -> str:
        return " and ".join(str(pair.new) for pair in self.swap.pairs)


def _together(outcomes: list[DrainOutcome]) -> DrainOutcome:
    """Return several drains as one: the worst result, every holder, the longest time."""
    order = ("drained", "given_back", "quarantined")
    worst = max(outcomes, key=lambda outcome: order.index(outcome.result))
    holders = tuple(holder for outcome in outcomes for holder in outcome.holders)
    return DrainOutcome(worst.result, holders, max(outcome.duration_s for outcome in outcomes))


def settled(swap: Swap, active: Callable[[str], str | None]) -> Swap:
    """Return an order whose turn has come, from the versions that are active now."""
    if not swap.waited:
        return swap
    pairs = [
        attrs.evolve(pair, old=VersionKey(pair.model, active(pair.model) or pair.old.version)) for pair in swap.pairs
    ]
    return attrs.evolve(swap, pairs=tuple(pairs))


def backoff_s(attempt: int) -> float:
    """Return the wait before a compensation is tried again, where `attempt` tries have failed."""
    if sites.ON and sites.buggify("compensation-tried-again-at-once"):
        return 0.0
    wait_s: float = COMPENSATION_BACKOFF_S * 2 ** (attempt - 1)
    return wait_s


def mark_turn(step: Step) -> None:
    """Tell a simulator in which step a swap was turned round."""
    if sites.ON and step is Step.VALIDATE:
        sites.sometimes("swap-turned-in-validate")
    if sites.ON and step is Step.LOAD:
        sites.sometimes("swap-turned-in-load")
    if sites.ON and step is Step.WARM:
        sites.sometimes("swap-turned-in-warm")
    if sites.ON and step is Step.SHIFT:
        sites.sometimes("swap-turned-in-shift")
    if sites.ON and step is Step.DRAIN:
        sites.sometimes("swap-turned-in-drain")
