"""Planted bugs of loads: single flight, loads that are called off, threads that hang, warm-ups.

Owns the list; plants nothing.
"""

from changeover_sim.mutants.mutant import Mutant

MUTANTS: tuple[Mutant, ...] = (
    # --- threads that nobody waits for ---
    Mutant(
        name="hung-load-is-started-a-second-time",
        promise=10,
        scenario="everything",
        module="changeover.runtime.host",
        old="        job = self.jobs.get(spec.key)\n",
        new="        job = None if spec.key in self.stuck() else self.jobs.get(spec.key)\n",
        says="a load that hangs is no load, so the next order starts another thread: one version is loaded twice",
    ),
    Mutant(
        name="hung-load-stays-open-when-it-comes",
        promise=10,
        scenario="everything",
        module="changeover.runtime.host",
        old="        elif listener is None:\n            self.close(loaded, _ignore)\n",
        new="        elif listener is None:\n            loaded.account.shut()\n",
        says="what a load brings that nobody waits for is put aside and not closed: its bytes are gone for good",
    ),
    Mutant(
        name="hung-load-gives-its-bytes-back-at-once",
        promise=10,
        scenario="eviction-pressure",
        module="changeover.runtime.host",
        old='        self._bus.emit("load_stuck", job.spec.key,',
        new="        self._store.correct(job.number, 0)\n"
        "        self.room.look()\n"
        '        self._bus.emit("load_stuck", job.spec.key,',
        says="who is not waited for needs no reservation: the thread goes on, and loads into bytes that others have",
    ),
    Mutant(
        name="load-that-ends-as-it-is-called-off-stays-open",
        promise=10,
        scenario="everything",
        module="changeover.runtime.version",
        old="                self._refuse(message)\n",
        new="                pass\n",
        says="a stale report is forgotten with the model in it: a load that is called off in the moment of its end",
    ),
    # --- warm-ups ---
    Mutant(
        name="failed-warm-up-leaves-its-model-open",
        promise=10,
        scenario="everything",
        module="changeover.core.lifecycle",
        old="        Event.WARM_FAILED: Transition(S.UNLOADING, (Action.CLOSE,)),\n",
        new="        Event.WARM_FAILED: Transition(S.FAILED, (Action.UNROUTE,)),\n",
        says="a failed warm-up ends like a failed load, which has no model yet: this one is never closed",
    ),
    Mutant(
        name="overdue-warm-up-is-closed-under-its-thread",
        promise=2,
        scenario="everything",
        module="changeover.core.lifecycle",
        old="        Event.OVERDUE: Transition(S.FAILED, (Action.RETIRE, Action.UNROUTE)),\n",
        new="        Event.OVERDUE: Transition(S.FAILED, (Action.CLOSE, Action.UNROUTE)),\n",
        says="time is up, so the model is closed: the thread that warms it up still holds it",
    ),
    # --- one load and the others ---
    Mutant(
        name="loads-wait-for-one-another",
        promise=7,
        scenario="everything",
        module="changeover.runtime.host",
        old="            take=lambda: self._store.reserve(job.number, hint, pinned=spec.pinned),\n",
        new="            take=lambda: all(other is job or other.want for other in self.jobs.values())\n"
        "            and self._store.reserve(job.number, hint, pinned=spec.pinned),\n",
        says="one load at a time is kinder to the disk: one that hangs keeps every other model from being loaded",
    ),
    Mutant(
        name="only-the-last-order-outlives-a-close",
        promise=8,
        scenario="eviction-pressure",
        module="changeover.runtime.version_drains",
        old="        for order in reversed(self._later):\n",
        new="        for order in reversed(self._later[-1:]):\n",
        says="the newest order wins, so the others that wait for the close are dropped, and with them who gave them",
    ),
)
