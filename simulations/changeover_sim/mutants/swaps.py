"""Planted bugs of swaps: the saga and its plan, compensations and the pivot, slots, the ramp and its sessions.

Owns the list; plants nothing.
"""

from changeover_sim.mutants.mutant import Mutant

MUTANTS: tuple[Mutant, ...] = (
    # --- compensations ---
    Mutant(
        name="compensation-skips-the-step-at-hand",
        promise=4,
        scenario="canary-storm",
        module="changeover.core.plan",
        old="    turned = attrs.evolve(progress, forward=False, end=end)\n",
        new="    before = ORDER[max(0, ORDER.index(progress.step) - 1)]\n"
        "    turned = attrs.evolve(progress, step=before, forward=False, end=end)\n",
        says="a step that failed is taken for one that did nothing: half a ramp, or half a group's loads, stays behind",
    ),
    Mutant(
        name="slot-is-free-before-the-new-version-is-unloaded",
        promise=4,
        scenario="swap-storm",
        module="changeover.runtime.steps",
        old="            Step.VALIDATE: self._leave_slot,\n"
        "            Step.LOAD: self._unload_new,\n"
        "            Step.WARM: self._take_new_out_of_use,\n",
        new="            Step.VALIDATE: self._unload_new,\n"
        "            Step.LOAD: self._take_new_out_of_use,\n"
        "            Step.WARM: self._leave_slot,\n",
        says="the compensations run out of order: the next swap begins while this one still takes its version away",
    ),
    Mutant(
        name="slot-is-given-up-twice",
        promise=4,
        scenario="swap-storm",
        module="changeover.runtime.slots",
        old="            if self._holders.get(model) is swap:\n",
        new="            if model in self._holders:\n",
        says="a compensation that is done twice undoes another's work: the second time it frees a newer swap's slot",
    ),
    Mutant(
        name="called-off-swap-lets-its-load-go-on",
        promise=4,
        scenario="swap-storm",
        module="changeover.runtime.part",
        old="        if self.load is not None and self._called_off is None and not self.load.ready.settled:\n",
        new="        if self.load is not None and self._called_off is None and self.load.loaded.settled:\n",
        says="a thread cannot be killed, so the order to load stands: a swap that is undone leaves its version behind",
    ),
    # --- the pivot and what comes behind it ---
    Mutant(
        name="failure-behind-the-pivot-turns-the-swap-round",
        promise=4,
        scenario="drain-race",
        module="changeover.core.plan",
        old="        case Failed() if progress.forward and progress.past_pivot:\n",
        new="        case Failed() if progress.forward and progress.step is NO_RETURN:\n",
        says="a drain that fails is compensated like any other step, though the swap has given up its slot",
    ),
    Mutant(
        name="rollback-runs-beside-a-newer-swap",
        promise=4,
        scenario="swap-storm",
        module="changeover.runtime.saga",
        old="        ours = all(slots.holder(model) is None and slots.moved_by(model) == self.swap.id for model "
        "in self.models)\n",
        new="        ours = slots is not None\n",
        says="whoever wants to turn round looks at the traffic and not at the slot: two swaps move it, one each way",
    ),
    Mutant(
        name="slot-is-given-up-before-the-pivot-is-written",
        promise=4,
        scenario="swap-storm",
        module="changeover.runtime.steps",
        old="        await in_time(self.shift.run, limit_s,"
        ' f"the shift to {self._news} had not come to its end after")\n',
        new="        await in_time(self.shift.run, limit_s,"
        ' f"the shift to {self._news} had not come to its end after")\n'
        "        self._leave()\n",
        says="the traffic has moved, so the next swap may begin: the pivot is not in the journal yet, and may fail",
    ),
    Mutant(
        name="swap-is-complete-before-the-old-model-is-closed",
        promise=4,
        scenario="swap-storm",
        module="changeover.runtime.part",
        old="            await self._closed(self.drain, self.pair.old, rest_s)\n",
        new="            await trio.lowlevel.checkpoint()\n",
        says="nobody holds the old version any more, so it is told to be unloaded while its close() still runs",
    ),
    # --- whose turn it is ---
    Mutant(
        name="swaps-of-different-models-wait-for-one-another",
        promise=7,
        scenario="swap-storm",
        module="changeover.runtime.slots",
        old="        return model in self._holders or bool(self.waiting(model))\n",
        new="        return bool(self._holders or self.waiting(model))\n",
        says="one swap at a time in the whole engine: a load that hangs keeps every other model where it is",
    ),
    # --- who gets the traffic ---
    Mutant(
        name="loaded-version-takes-the-traffic",
        promise=5,
        scenario="swap-storm",
        module="changeover.core.routes",
        old="            return {} if model in routes else {model: Route((Share(version, 1.0),))}\n",
        new="            return {model: Route((Share(version, 1.0),))}\n",
        says="a version that is ready is routed to: whatever is loaded, or comes back after a crash, takes all traffic",
    ),
    Mutant(
        name="canary-that-is-not-active-keeps-its-share",
        promise=5,
        scenario="canary-storm",
        module="changeover.runtime.shifting",
        old="        moved = [watch.pair for watch in self._watches"
        " if router.share(watch.pair.new) > 0 or self._lost(watch.pair)]\n",
        new="        moved = [watch.pair for watch in self._watches"
        " if router.active(watch.pair.model) == watch.pair.new.version or self._lost(watch.pair)]\n",
        says="only a version with most of the traffic is taken back: one that was there before keeps its share",
    ),
    Mutant(
        name="sticky-keys-are-drawn-anew-at-every-stage",
        promise=5,
        scenario="canary-storm",
        module="changeover.runtime.watch",
        old='        salt = self._swap_id if self._plan.sticky else ""\n',
        new="        share = self._world.router.share(self.pair.new)\n"
        '        salt = f"{self._swap_id} {share:g}" if self._plan.sticky else ""\n',
        says="each stage shall meet other keys first: a session that has seen the new version gets the old one again",
    ),
    Mutant(
        name="doubtful-guard-takes-the-ramp-a-stage-back",
        promise=5,
        scenario="canary-storm",
        module="changeover.core.ramp",
        old="    if doubtful or not enough or held.rest_s > 0:\n",
        new="    if doubtful:\n"
        "        return Ramp(ramp.stages, max(0, ramp.index - 1), 0.0, ended)\n"
        "    if not enough or held.rest_s > 0:\n",
        says="in doubt the share falls instead of standing still: sessions go back, and nobody has rolled back",
    ),
    # --- found by the simulation in the engine as it was, and mended ---
    Mutant(
        name="old-drain-takes-what-a-younger-swap-has-brought-back",
        promise=4,
        scenario="swap-storm",
        module="changeover.runtime.saga",
        old="slots.holder(model) is None and slots.moved_by(model) == self.swap.id for model",
        new="slots.holder(model) is None for model",
        says="the version is active again, by two younger swaps: an old one whose drain is out of time turns round",
    ),
)
