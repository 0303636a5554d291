"""Planted bugs of memory: reservations and the budget, the line before it, evictions and reloads.

Owns the list; plants nothing.
"""

from changeover_sim.mutants.mutant import Mutant

MUTANTS: tuple[Mutant, ...] = (
    # --- reservations ---
    Mutant(
        name="bytes-are-reserved-when-the-load-has-ended",
        promise=10,
        scenario="eviction-pressure",
        module="changeover.runtime.host",
        old="            take=lambda: self._store.reserve(job.number, hint, pinned=spec.pinned),\n",
        new="            take=lambda: self._store.reserve(job.number, 0, pinned=spec.pinned),\n",
        says="a reservation is counted late: two loads begin for which there is room for one",
    ),
    Mutant(
        name="bytes-are-free-when-the-close-begins",
        promise=10,
        scenario="eviction-pressure",
        module="changeover.runtime.host",
        old='        self._ports.offload.start(f"close {loaded.key}",',
        new='        self._free(loaded.number)\n        self._ports.offload.start(f"close {loaded.key}",',
        says="a reservation ends when close() is called and not when it returns: the next model is loaded beside it",
    ),
    Mutant(
        name="failed-load-keeps-its-reservation",
        promise=10,
        scenario="eviction-pressure",
        module="changeover.runtime.host",
        old="            self._hand_over(job, None, error)\n            self._free(job.number)\n",
        new="            self._hand_over(job, None, error)\n",
        says="who has loaded nothing has nothing to free: each failed load takes its hint out of the budget for good",
    ),
    Mutant(
        name="measured-size-is-not-checked",
        promise=10,
        scenario="eviction-pressure",
        module="changeover.core.store",
        old="        if measured < 0 or not self.room_for(measured - entry.bytes):\n",
        new="        if measured < 0:\n",
        says="it is loaded already, so what it really takes is only written down: the budget is exceeded",
    ),
    Mutant(
        name="model-over-budget-is-not-closed",
        promise=10,
        scenario="eviction-pressure",
        module="changeover.runtime.host",
        old="            self.close(loaded, lambda _error: listener(None, error))\n",
        new="            listener(None, error)\n",
        says="who ordered a load hears that there was no room; the model that was found too large stays",
    ),
    # --- the line before the budget ---
    Mutant(
        name="load-that-never-fits-blocks-the-line",
        promise=7,
        scenario="eviction-pressure",
        module="changeover.runtime.room",
        old="        if victims is None:\n",
        new="        if victims is None:\n            return False\n",
        says="somebody may make room one day, so it waits at the head of the line, and all others behind it",
    ),
    Mutant(
        name="freed-bytes-wake-nobody",
        promise=7,
        scenario="eviction-pressure",
        module="changeover.runtime.host",
        old="        self._store.free(number)\n        self.room.look()\n",
        new="        self._store.free(number)\n",
        says="a lost wake-up: who waits for an eviction is not served when the bytes are back, and runs out of time",
    ),
    Mutant(
        name="quarantined-bytes-are-waited-for",
        promise=7,
        scenario="eviction-pressure",
        module="changeover.runtime.version_drains",
        old="            loaded.is_leaving = False\n",
        new="            loaded.is_leaving = True\n",
        says="a version in quarantine counts as one that goes: loads wait for its last holder, and others behind them",
    ),
    # --- evictions and reloads ---
    Mutant(
        name="evicted-model-is-not-looked-at-again",
        promise=2,
        scenario="eviction-pressure",
        module="changeover.runtime.version_drains",
        old="        self._step(Event.GIVE_BACK if order.loaded.account.held else Event.ZERO)\n",
        new="        self._step(Event.ZERO)\n",
        says="who is idle was looked up a turn ago, when room was made: a model that was taken since is closed in use",
    ),
    Mutant(
        name="cancelled-reload-stays-routed",
        promise=5,
        scenario="eviction-pressure",
        module="changeover.core.lifecycle",
        old="        Event.LOAD_CANCELLED: Transition(S.UNLOADED, (Action.ABANDON_LOAD, Action.UNROUTE)),\n",
        new="        Event.LOAD_CANCELLED: Transition(S.UNLOADED, (Action.ABANDON_LOAD,)),\n",
        says="a load that is called off has no traffic to lose; that of an evicted version has, and keeps it",
    ),
    Mutant(
        name="reloaded-version-stays-among-the-evicted",
        promise=5,
        scenario="eviction-pressure",
        module="changeover.runtime.router",
        old="        self._open[loaded.key] = loaded.account\n        self._parked.pop(loaded.key, None)\n",
        new="        self._open[loaded.key] = loaded.account\n",
        says="a stale entry: once its version was swapped away, the traffic of the next one that goes is led to it",
    ),
)
