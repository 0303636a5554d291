"""Planted bugs of the journal and of recovery: what is written when, what shall be active, and how open swaps end.

Owns the list; plants nothing.
"""

from changeover_sim.mutants.mutant import Mutant

MUTANTS: tuple[Mutant, ...] = (
    # --- what is written when ---
    Mutant(
        name="boundary-is-written-behind-the-step",
        promise=4,
        scenario="crash-recovery",
        module="changeover.runtime.saga",
        old="            await self._write_in_time(following, self._world.desires.want(to",
        new="            await self._write_in_time(self._progress, self._world.desires.want(to",
        says="the journal names the step that is done and not the one that begins: a drain is found as a shift",
    ),
    Mutant(
        name="journal-is-not-waited-for",
        promise=9,
        scenario="crash-recovery",
        module="changeover.runtime.logbook",
        old="written.settle(None) if error is None else written.fail(error))\n        await written.wait()\n",
        new="written.settle(None) if error is None else written.fail(error))\n",
        says="a boundary is crossed when its entry is ordered: a kill loses a swap that was reported complete",
    ),
    Mutant(
        name="pivot-is-written-without-the-desired-version",
        promise=9,
        scenario="crash-recovery",
        module="changeover.runtime.saga",
        old="if step is plan.PIVOT else {}\n        olds",
        new="if following.step is plan.NO_RETURN else {}\n        olds",
        says="what shall be active is written with the unload, not with the pivot: recovery finishes towards the old",
    ),
    Mutant(
        name="undo-behind-the-pivot-leaves-the-new-version-desired",
        promise=9,
        scenario="crash-recovery",
        module="changeover.runtime.saga",
        old="        past = plan.ORDER.index(step) >= plan.ORDER.index(plan.PIVOT)\n",
        new="        past = plan.ORDER.index(step) < plan.ORDER.index(plan.PIVOT)\n",
        says="the old version is wanted again when its traffic is back and not before: a kill brings the new one up",
    ),
    Mutant(
        name="traffic-that-a-swap-moves-is-desired-at-once",
        promise=9,
        scenario="crash-recovery",
        module="changeover.runtime.desires",
        old="        if model is not None and self._is_settled(model):\n",
        new="        if model is not None:\n",
        says="every shift is written down, also before the pivot: a kill undoes the swap and keeps its new version",
    ),
    Mutant(
        name="first-active-version-is-not-written-down",
        promise=9,
        scenario="crash-recovery",
        module="changeover.runtime.desires",
        old='            if event.kind == "traffic_shifted" and self._has_changed(model):\n',
        new='            if event.kind == "traffic_shifted" and model in self.versions and self._has_changed(model):\n',
        says="only a change of what was desired before is written: a model that was never swapped is gone after a kill",
    ),
    # --- what recovery makes of it ---
    Mutant(
        name="recovery-finishes-a-shift-that-had-only-begun",
        promise=4,
        scenario="crash-recovery",
        module="changeover.core.recovery",
        old="    if progress.forward and ORDER.index(progress.step) > ORDER.index(PIVOT):\n",
        new="    if progress.forward and ORDER.index(progress.step) >= ORDER.index(PIVOT):\n",
        says="the pivot counts as passed when it begins: a swap is told to be complete whose old version serves",
    ),
    Mutant(
        name="recovery-goes-on-with-a-swap-that-was-turned-round",
        promise=4,
        scenario="crash-recovery",
        module="changeover.core.recovery",
        old="    if progress.forward and ORDER.index(progress.step) > ORDER.index(PIVOT):\n",
        new="    if ORDER.index(progress.step) > ORDER.index(PIVOT):\n",
        says="recovery looks at the step and not at its direction: what was being rolled back is told to be complete",
    ),
    Mutant(
        name="recovery-says-completed-where-it-went-back",
        promise=4,
        scenario="crash-recovery",
        module="changeover.runtime.rescue",
        old="        elif state is SwapState.COMPLETED and self._went_back(swap, chosen):\n",
        new="        elif state is SwapState.FAILED and self._went_back(swap, chosen):\n",
        says="the new version could not be loaded any more and the old one serves, under a swap that is complete",
    ),
    Mutant(
        name="recovered-swap-stays-open-in-the-journal",
        promise=9,
        scenario="crash-recovery",
        module="changeover.runtime.rescue",
        old="SwapRow(r.operation.id, ended=True, record=wire.encode(shortened(r)))",
        new="SwapRow(r.operation.id, ended=False, record=wire.encode(shortened(r)))",
        says="the end of a recovered swap is written as one more boundary: every start recovers it once more",
    ),
    Mutant(
        name="recovery-ends-only-the-newest-swap-of-a-model",
        promise=9,
        scenario="crash-recovery",
        module="changeover.core.recovery",
        old="        mine = tuple(swap for swap in swaps if _models(swap) & models)\n",
        new="        mine = tuple(swap for swap in swaps if _models(swap) & models)[-1:]\n",
        says="two swaps of a model may be open, one of them draining: the older one never ends",
    ),
    Mutant(
        name="closing-the-engine-ends-its-recovery",
        promise=9,
        scenario="crash-recovery",
        module="changeover.runtime.rescue",
        old="        if not self._is_stopped:\n",
        new="        if not self.ended.settled:\n",
        says="what is cut short is written down as failed, where the next engine would have brought it back",
    ),
    # --- found by the simulation in the engine as it was, and mended ---
    Mutant(
        name="closed-engine-forgets-whom-it-was-swapping",
        promise=9,
        scenario="shutdown-any-time",
        module="changeover.runtime.desires",
        old="        if self._router.refusal is not None:\n",
        new="        if self._router is None:\n",
        says="nobody is active in an engine that is being closed: a swap that it undoes has that written down",
    ),
)
