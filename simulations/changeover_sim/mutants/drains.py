"""Bugs of drains: waiters that are missed, bounds that are none, models that are closed in use, ends without a word."""

from changeover_sim.mutants.mutant import Mutant

MUTANTS: tuple[Mutant, ...] = (
    # --- zero ---
    Mutant(
        name="only-the-first-waiter-for-zero-is-woken",
        promise=6,
        scenario="drain-race",
        module="changeover.core.ledger",
        old="            except IndexError:\n                return\n            watcher()\n",
        new="            except IndexError:\n                return\n            watcher()\n            return\n",
        says="whoever makes the zero wakes one waiter: a drain behind somebody else's wait is never told",
    ),
    Mutant(
        name="quarantine-does-not-watch-for-zero",
        promise=6,
        scenario="drain-race",
        module="changeover.runtime.version_drains",
        old='            self._settle_drain("quarantined")\n',
        new='            self._settle_drain("quarantined")\n            loaded.account.unwatch(draining.on_zero)\n',
        says="the drain is over, so its watcher is taken off: the model stays when the last holder leaves quarantine",
    ),
    Mutant(
        name="drain-forgets-streams",
        promise=6,
        scenario="drain-race",
        module="changeover.runtime.orders",
        old="        return streams.hurry(drain, now + stream_s) or sooner\n",
        new="        return sooner\n",
        says="only uses have a deadline: a drain waits for the end of a stream without a bound",
    ),
    # --- bounds ---
    Mutant(
        name="deadline-waits-behind-the-request-lane",
        promise=6,
        scenario="drain-race",
        module="changeover.runtime.version",
        old="            case Event.DEADLINE if self.loaded is not None and self.loaded.account.held:\n",
        new=(
            "            case Event.DEADLINE if self.loaded is not None and len(self.loaded.lane):\n"
            "                self._post_later(0.1, trio.CancelScope(), report)\n"
            "            case Event.DEADLINE if self.loaded is not None and self.loaded.account.held:\n"
        ),
        says="control waits until the request lane is empty: a long queue, or a worker that hangs, puts it off",
    ),
    Mutant(
        name="timer-is-dropped-while-the-mailbox-is-busy",
        promise=6,
        scenario="drain-race",
        module="changeover.runtime.actor",
        old="            await self._ports.clock.sleep(seconds)\n            self._lane.post(message)\n",
        new=(
            "            await self._ports.clock.sleep(seconds)\n"
            "            if not len(self._lane):\n"
            "                self._lane.post(message)\n"
        ),
        says="a timer that rings while another message waits says nothing: that deadline never comes again",
    ),
    Mutant(
        name="grace-has-no-end",
        promise=6,
        scenario="drain-race",
        module="changeover.runtime.orders",
        old="            self.deadline_s = min([now + self.drain.grace_s, *self._bounds_s])",
        new="            self.deadline_s = None",
        says="holders who were asked to leave are waited for as long as they like",
    ),
    Mutant(
        name="joined-drain-cannot-hurry",
        promise=6,
        scenario="drain-race",
        module="changeover.runtime.orders",
        old="        if self.deadline_s is not None and self.deadline_s <= deadline_s:\n",
        new="        if self.deadline_s is not None:\n",
        says="the first order decides alone: a second one with an earlier deadline waits for the first one's",
    ),
    Mutant(
        name="rollback-drain-ends-in-quarantine",
        promise=6,
        scenario="drain-race",
        module="changeover.runtime.orders",
        old='        if self.drain.then == "rollback":\n            return "give back"\n',
        new="",
        says="a drain that was to give the traffic back when it is out of time keeps the version in quarantine",
    ),
    # --- closed too early ---
    Mutant(
        name="deadline-closes-what-is-held",
        promise=2,
        scenario="drain-race",
        module="changeover.core.lifecycle",
        old="        Event.DEADLINE: Transition(S.QUARANTINED),\n",
        new="        Event.DEADLINE: Transition(S.UNLOADING, (Action.CLOSE,)),\n",
        says="at the deadline the model is closed, whoever holds it",
    ),
    Mutant(
        name="unload-returns-before-the-close",
        promise=6,
        scenario="drain-race",
        module="changeover.runtime.calls",
        old='        if outcome.result == "drained":\n            await order.closed.wait()\n',
        new="",
        says="an unload says that the version is gone when nobody holds it; its model is still being closed",
    ),
    # --- who is asked to leave ---
    Mutant(
        name="revocation-outlives-its-drain",
        promise=6,
        scenario="drain-race",
        module="changeover.core.ledger",
        old="        self._revoked = frozenset()\n        self.open = True\n",
        new="        self.open = True\n",
        says="a version that is given back still remembers whom it has asked to leave: new leases are revoked at once",
    ),
    Mutant(
        name="revoked-requests-are-never-answered",
        promise=8,
        scenario="drain-race",
        module="changeover.runtime.host",
        old='model=loaded.key.model, version=loaded.key.version, ran="no")\n        send(waiting)\n\n    def retire',
        new='model=loaded.key.model, version=loaded.key.version, ran="no")\n\n    def retire',
        says="a drain out of time takes the waiting requests out of the lane and forgets to tell who waits for them",
    ),
    # --- orders ---
    Mutant(
        name="joined-drain-is-never-answered",
        promise=8,
        scenario="drain-race",
        module="changeover.runtime.version_drains",
        old="        self._draining.orders.append(order)\n",
        new="        if not self._draining.orders:\n            self._draining.orders.append(order)\n",
        says="a second order to drain brings the deadline forward, and nobody keeps it to be answered",
    ),
    Mutant(
        name="orders-behind-a-close-are-forgotten",
        promise=8,
        scenario="drain-race",
        module="changeover.runtime.version_drains",
        old="        for order in reversed(self._later):\n            self._lane.post_first(order)",
        new="        for order in ():\n            self._lane.post_first(order)",
        says="a load or a drain that came while the old model was being closed is not looked at behind that",
    ),
    # --- the end of the engine ---
    Mutant(
        name="closed-engine-leaves-its-callers-asleep",
        promise=8,
        scenario="shutdown-any-time",
        module="changeover.runtime.engine",
        old="        self._host.replies.give_up()\n",
        new="",
        says="the engine ends, and whoever waits for a thread that hangs is not told",
    ),
    # --- found by the simulation in the engine as it was, and mended ---
    Mutant(
        name="unload-of-quarantine-does-not-see-whom-it-has-revoked",
        promise=6,
        scenario="drain-race",
        module="changeover.runtime.version_drains",
        old="            self._world.host.revoke(self.loaded)  # which may be the end of the last holder, if he was "
        "in the queue\n"
        "        if self.state is VersionState.QUARANTINED and self.loaded is not None and self.loaded.account.held:\n"
        "            order.outcome",
        new="            held = bool(self.loaded.account.held)\n"
        "            self._world.host.revoke(self.loaded)\n"
        "        else:\n"
        "            held = self.loaded is not None and bool(self.loaded.account.held)\n"
        "        if self.state is VersionState.QUARANTINED and self.loaded is not None and held:\n"
        "            order.outcome",
        says="who holds it is looked at before the last one is taken out of the queue: a quarantine of nobody is told",
    ),
)
