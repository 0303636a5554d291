"""Planted bugs of sets: swaps of several models, leases and requests of several models, one draw for all.

Owns the list; plants nothing.
"""

from changeover_sim.mutants.mutant import Mutant

MUTANTS: tuple[Mutant, ...] = (
    # --- the traffic of a group ---
    Mutant(
        name="group-is-flipped-model-by-model",
        promise=5,
        scenario="group-swap",
        module="changeover.runtime.shifting",
        old="        self._world.router.shift({watch.pair.model: watch.pair.new.version for watch in self._watches})\n",
        new="        for watch in self._watches:\n"
        "            self._world.router.shift({watch.pair.model: watch.pair.new.version})\n"
        "            await trio.lowlevel.checkpoint()\n",
        says="the shift is a loop that lets others have a turn: a set that is taken in between is half new, half old",
    ),
    Mutant(
        name="group-canary-draws-for-each-model",
        promise=5,
        scenario="group-swap",
        module="changeover.runtime.router",
        old="                    point = route.point(key, lambda: drawn)\n",
        new="                    point = route.point(key, self._random.random)\n",
        says="each model of a set is sent to its canary by a draw of its own",
    ),
    Mutant(
        name="sets-forget-the-session-key",
        promise=5,
        scenario="group-swap",
        module="changeover.runtime.router",
        old="                    point = route.point(key, lambda: drawn)\n",
        new="                    point = drawn\n",
        says="one draw for all members replaces the key as well: a session's sets go to and fro during a canary",
    ),
    Mutant(
        name="crash-in-a-group-canary-moves-one-model-only",
        promise=5,
        scenario="group-swap",
        module="changeover.core.routes",
        old="{**_others(routes, model, version), model: _without(routes.get(model), version, fallback)}\n",
        new="{model: _without(routes.get(model), version, fallback)}\n",
        says="the traffic of who crashed goes to the other side, that of the other members stays: sets are torn",
    ),
    Mutant(
        name="group-ramp-goes-on-without-an-old-version",
        promise=5,
        scenario="group-swap",
        module="changeover.runtime.shifting",
        old="        share = 1.0 if len(there) < len(self._watches) else 0.0 if shadows else self._share\n",
        new="        share = 0.0 if shadows else self._share\n",
        says="one old version has crashed, so its new one has everything; the other members get their stage's share",
    ),
    Mutant(
        name="group-begins-while-one-of-its-models-is-swapped",
        promise=4,
        scenario="group-swap",
        module="changeover.runtime.slots",
        old="        if any(map(self.is_busy, swap.models)):\n",
        new="        if all(map(self.is_busy, swap.models)):\n",
        says="a group waits only where every slot is taken: it takes over the slot of a swap that runs",
    ),
    # --- sets of requests and of leases ---
    Mutant(
        name="set-that-cannot-be-pinned-keeps-a-part",
        promise=3,
        scenario="group-swap",
        module="changeover.runtime.router",
        old="            for pinned, _group in pins:\n",
        new="            for pinned, _group in pins[:-1]:\n",
        says="the last pin is taken for the one that failed: where the next model has nobody, a reference is lost",
    ),
    Mutant(
        name="set-that-falls-back-keeps-whom-it-had-not-asked",
        promise=3,
        scenario="group-swap",
        module="changeover.runtime.set_request",
        old="pinned.standby = (pinned.standby, pinned.standby_ref), None\n        self.let_go()\n",
        new="pinned.standby = (pinned.standby, pinned.standby_ref), None\n        self._dismiss()\n",
        says="only the failed member has nothing left to give back: the new version of the others is never let go",
    ),
    Mutant(
        name="only-the-member-that-failed-falls-back",
        promise=5,
        scenario="group-swap",
        module="changeover.runtime.gathering",
        old="            for one in group:\n"
        "                one.stand_in(member)\n"
        "            for one in group:\n"
        "                self._check(one)\n",
        new="            member.stand_in(member)\n            self._check(member)\n",
        says="the others have answered, so why ask again: one reply of the set is old, the others are new",
    ),
    Mutant(
        name="set-says-that-nothing-has-run",
        promise=1,
        scenario="group-swap",
        module="changeover.runtime.gathering",
        old='            if error.ran == "no" and self._has_run:\n',
        new='            if error.ran == "no" and self._was_heard:\n',
        says="only members that failed are looked at: the caller is told that it may send again what others have run",
    ),
)
