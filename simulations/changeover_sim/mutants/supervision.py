"""Bugs of supervision: storms without a bound, crashes that reach others, traffic and requests left with the dead."""

from changeover_sim.mutants.mutant import Mutant

MUTANTS: tuple[Mutant, ...] = (
    # --- restarts ---
    Mutant(
        name="restart-storm-is-not-bounded",
        promise=7,
        scenario="supervisor-storm",
        module="changeover.runtime.supervisor",
        old="        crashes[:] = [at for at in crashes if at > now - policy.within_s]\n",
        new="        crashes[:] = crashes[-policy.most :]\n",
        says="the list of crashes is kept as short as restarts are allowed: there is never one too many",
    ),
    Mutant(
        name="restart-intensity-is-shared",
        promise=7,
        scenario="supervisor-storm",
        module="changeover.runtime.supervisor",
        old="        crashes: list[float] = []\n",
        new='        crashes: list[float] = self.__dict__.setdefault("_crashes", [])\n',
        says="all children count their crashes in one list: a model that crashes often has another one given up",
    ),
    Mutant(
        name="one-backoff-at-a-time",
        promise=7,
        scenario="supervisor-storm",
        module="changeover.runtime.supervisor",
        old="                with child.scope:\n                    await self._ports.clock.sleep(delay_s)\n",
        new=(
            "                with child.scope:\n"
            '                    async with self.__dict__.setdefault("_turn", trio.Lock()):\n'
            "                        await self._ports.clock.sleep(delay_s)\n"
        ),
        says="a child waits for its restart under a lock of the supervisor: the others' restarts wait behind it",
    ),
    Mutant(
        name="given-up-child-takes-its-siblings-along",
        promise=7,
        scenario="supervisor-storm",
        module="changeover.runtime.supervisor",
        old="                    if delay_s is None:\n                        return\n",
        new="                    if delay_s is None:\n                        raise\n",
        says="the crash that is one too many leaves the child: the supervisor's nursery, and the engine, end with it",
    ),
    # --- traffic ---
    Mutant(
        name="crashed-version-stays-routed",
        promise=1,
        scenario="supervisor-storm",
        module="changeover.runtime.version",
        old="                self.loaded = None\n                self._world.shut(loaded)\n",
        new="                self.loaded = None\n",
        says="a version that is taken out of service at once keeps its traffic: requests find a gate that is shut",
    ),
    Mutant(
        name="crash-leaves-the-traffic-to-nobody",
        promise=1,
        scenario="supervisor-storm",
        module="changeover.runtime.router",
        old="        self._apply(VersionGone(key.model, key.version, self._heir(key)))\n        del self._open[key]\n",
        new="        self._apply(VersionGone(key.model, key.version))\n        del self._open[key]\n",
        says="a version that goes leaves its traffic to nobody, though another one of its model is ready",
    ),
    # --- what a crash leaves behind ---
    Mutant(
        name="crashed-model-is-closed-at-once",
        promise=2,
        scenario="supervisor-storm",
        module="changeover.runtime.host",
        old=(
            "            if loaded.account.held:\n"
            "                loaded.is_leaving = False\n"
            "                loaded.account.watch(zero)  # a zero of before the gate was shut, told late\n"
            "            else:\n"
            "                self.close(loaded, _ignore)\n"
            "\n"
            "        loaded.account.watch(zero)\n"
        ),
        new="            self.close(loaded, _ignore)\n\n        zero()\n",
        says="it has crashed, so it is closed: under the streams and leases that still hold it",
    ),
    Mutant(
        name="crash-forgets-the-queue",
        promise=1,
        scenario="supervisor-storm",
        module="changeover.runtime.host",
        old="        send(waiting)\n\n        # In use it goes when",
        new="\n        # In use it goes when",
        says="the requests that waited for a version that crashed are taken out of its lane, and nobody is told",
    ),
    Mutant(
        name="drain-of-a-crashed-version-is-never-answered",
        promise=6,
        scenario="supervisor-storm",
        module="changeover.runtime.version",
        old="        for attempt in (self._loading, self._draining):\n",
        new="        for attempt in (self._loading,):\n",
        says="a version that crashes while it is drained forgets who waits for the end of the drain",
    ),
    Mutant(
        name="orders-behind-a-crash-are-dropped",
        promise=8,
        scenario="supervisor-storm",
        module="changeover.runtime.actor",
        old=(
            "        for message in ([] if current is None else [current]) + self._lane.take_all():\n"
            "            self._refuse(message)\n"
        ),
        new="        self._lane.take_all()\n        if current is not None:\n            self._refuse(current)\n",
        says="the mailbox of an actor that crashes is emptied, and nobody answers what was in it",
    ),
)
