"""Bugs of references: pins that are forgotten, and releases that come early, late, twice or on the wrong version."""

from changeover_sim.mutants.mutant import Mutant

MUTANTS: tuple[Mutant, ...] = (
    # --- early ---
    Mutant(
        name="stream-is-ended-under-its-own-pull",
        promise=3,
        scenario="drain-race",
        module="changeover.runtime.streaming",
        old="            return not self._pulling\n",
        new="            return True\n",
        says="who leaves a stream ends it also while a thread pulls: released early, and again by the thread",
    ),
    Mutant(
        name="revocation-takes-the-reference-itself",
        promise=2,
        scenario="drain-race",
        module="changeover.core.ledger",
        old="            if use is not None and use[0] in kinds:\n                revoke()\n",
        new=(
            "            if use is not None and use[0] in kinds:\n"
            "                revoke()\n"
            "                self._drop(ref)\n"
        ),
        says="a drain strikes out the holders whom it asks to leave: the model is closed under their blocks",
    ),
    # --- late, or never ---
    Mutant(
        name="withdrawn-request-keeps-its-reference",
        promise=3,
        scenario="swap-storm",
        module="changeover.runtime.inference",
        old="            request.withdrawn = True\n            request.account.release(request.ref)\n",
        new="            request.withdrawn = True\n",
        says="a caller who goes takes his request out of the lane; nobody gives its reference back",
    ),
    Mutant(
        name="cancelled-request-stays-queued",
        promise=3,
        scenario="swap-storm",
        module="changeover.runtime.inference",
        old=(
            "        if request.account.owner.lane.withdraw(request):\n"
            "            request.withdrawn = True\n"
            "            request.account.release(request.ref)\n"
        ),
        new="",
        says="a cancelled request stays in the lane: a worker runs it in vain, and gives its reference back late",
    ),
    Mutant(
        name="refused-request-keeps-its-reference",
        promise=3,
        scenario="swap-storm",
        module="changeover.runtime.inference",
        old="        self._home.forget(request)\n        account.release(ref)\n",
        new="        self._home.forget(request)\n",
        says="a request that a full lane refuses keeps its version held",
    ),
    Mutant(
        name="left-stream-is-never-ended",
        promise=3,
        scenario="drain-race",
        module="changeover.runtime.streaming",
        old="        if left:\n            self.end()\n        return not left\n",
        new="        return not left\n",
        says="a stream whose reader goes in the middle of a pull is ended by nobody: each leaves it to the other",
    ),
    Mutant(
        name="stream-that-moved-keeps-what-failed",
        promise=3,
        scenario="supervisor-storm",
        module="changeover.runtime.streaming",
        old=(
            "        standby, self._pinned = self._pinned, None  # not dismissed with the run that has failed\n"
            "        self._end()\n"
            "        self._pinned = standby\n"
        ),
        new="",
        says="a stream that goes on with another version forgets to close its run of the one that failed",
    ),
    # --- twice ---
    Mutant(
        name="standby-is-released-twice",
        promise=3,
        scenario="canary-storm",
        module="changeover.runtime.inference",
        old="            standby, pinned.standby = pinned.standby, None\n            standby.release(",
        new="            standby = pinned.standby\n            standby.release(",
        says="who stands by for a stream is let go with the first chunk, and once more when the stream is closed",
    ),
    Mutant(
        name="fallback-gives-its-pin-back-twice",
        promise=3,
        scenario="canary-storm",
        module="changeover.runtime.inference",
        old="            pinned.standby = None\n            if self._meter is not None:\n",
        new="            if self._meter is not None:\n",
        says="the version before answers under the pin of the standby, which is then let go of once more",
    ),
    # --- on the wrong version ---
    Mutant(
        name="standby-is-released-on-the-new-version",
        promise=3,
        scenario="canary-storm",
        module="changeover.runtime.inference",
        old="            standby.release(pinned.standby_ref)\n",
        new="            pinned.account.release(pinned.standby_ref)\n",
        says="the standby's reference is given back to the other account, where its number may be somebody else's",
    ),
    Mutant(
        name="standby-is-pinned-on-the-new-version",
        promise=3,
        scenario="canary-storm",
        module="changeover.runtime.router",
        old="pinned.standby_ref = standby.acquire((",
        new="pinned.standby_ref = pinned.account.acquire((",
        says="the fallback's pin is taken on the version that was picked: the one that stands by is held by nobody",
    ),
    Mutant(
        name="release-goes-to-the-newest-incarnation",
        promise=3,
        scenario="drain-race",
        module="changeover.runtime.references",
        old=(
            "        for account in accounts:\n"
            "            if request_id in account.held:\n"
            "                account.release(request_id)\n"
            "                return\n"
        ),
        new="",
        says="a reference by id is given back to the newest incarnation, also where an older one is held",
    ),
    # --- forgotten ---
    Mutant(
        name="cancelled-request-forgets-its-standby",
        promise=3,
        scenario="canary-storm",
        module="changeover.runtime.inference",
        old="            request.account.release(request.ref)\n        self._dismiss()\n",
        new="            request.account.release(request.ref)\n",
        says="the fallback's pin is forgotten where the caller goes away before the new version has answered",
    ),
    Mutant(
        name="first-reference-counts-as-none",
        promise=3,
        scenario="swap-storm",
        module="changeover.runtime.inference",
        old="        if account is None or ref is None:\n            self._pinned",
        new="        if account is None or not ref:\n            self._pinned",
        says="the first reference of an account is number 0, which is false: a request takes two, and forgets one",
    ),
    Mutant(
        name="request-forgets-its-key",
        promise=5,
        scenario="canary-storm",
        module="changeover.runtime.inference",
        old="world.router.pin_request(use, self._model, self._key)",
        new="world.router.pin_request(use, self._model, None)",
        says="a request is picked for without its key: a session meets the new version, and then the old one again",
    ),
    # --- check and act ---
    Mutant(
        name="infer-picks-before-it-waits",
        promise=1,
        scenario="swap-storm",
        module="changeover.runtime.calls",
        old="        await trio.lowlevel.checkpoint()  # a loop of inline requests must not starve its neighbours\n",
        new=(
            "        if version is None and model in self._router.direct:\n"
            "            version = self._router.active(model)\n"
            "        await trio.lowlevel.checkpoint()\n"
        ),
        says="the version is picked, then the task yields, then it is pinned: a swap in between fails the request",
    ),
)
