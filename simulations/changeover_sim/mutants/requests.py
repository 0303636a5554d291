"""Bugs of requests: lanes that lose, reorder or overfill, batches that mix answers up, callers who are never woken."""

from changeover_sim.mutants.mutant import Mutant

MUTANTS: tuple[Mutant, ...] = (
    # --- batches ---
    Mutant(
        name="batch-gives-everybody-the-first-rows",
        promise=1,
        scenario="canary-storm",
        module="changeover.runtime.worker",
        old="        start = end\n",
        new="",
        says="the outputs of a batch are cut from its beginning for all: all but the first get a neighbour's",
    ),
    Mutant(
        name="bad-request-fails-its-batch",
        promise=1,
        scenario="canary-storm",
        module="changeover.runtime.worker",
        old=(
            "                if len(group) == 1:\n"
            "                    request.error = twin(error)\n"
            "                else:\n"
            "                    _run_again(loaded, request)\n"
        ),
        new="                request.error = twin(error)\n",
        says="a batch that raises is not run again request by request: good requests fail with a bad one",
    ),
    Mutant(
        name="half-full-batch-waits-for-ever",
        promise=8,
        scenario="swap-storm",
        module="changeover.runtime.mailbox",
        old="        return Step(at_least=self._max_batch, wait_s=late_s)\n",
        new="        return Step(at_least=self._max_batch)\n",
        says="a worker waits for a full batch without a bound: the last requests of a burst are never answered",
    ),
    Mutant(
        name="only-the-first-home-of-a-batch-hears-of-it",
        promise=1,
        scenario="canary-storm",
        module="changeover.runtime.worker",
        old="    if len(requests) == 1:\n",
        new="    if requests:\n",
        says="of a batch whose requests came from several places only the first one's is woken: the others sleep on",
    ),
    # --- lanes ---
    Mutant(
        name="lane-serves-the-newest-first",
        promise=8,
        scenario="swap-storm",
        module="changeover.runtime.mailbox",
        old="                request = self._waiting[0]\n",
        new="                request = self._waiting[-1]\n",
        says="a worker takes from the wrong end of the lane: requests overtake each other",
    ),
    Mutant(
        name="queue-takes-one-too-many",
        promise=8,
        scenario="swap-storm",
        module="changeover.runtime.mailbox",
        old="        if len(self._waiting) > self._limit or self.closed:\n",
        new="        if len(self._waiting) > self._limit + 1 or self.closed:\n",
        says="the bound is compared as if the new request were not in the lane yet, but it is: one too many waits",
    ),
    Mutant(
        name="actor-reads-its-newest-message-first",
        promise=8,
        scenario="swap-storm",
        module="changeover.runtime.mailbox",
        old="        return self._messages.popleft()\n",
        new="        return self._messages.pop()\n",
        says="the control lane is read as a stack: what was ordered last is done first, and then undone",
    ),
    # --- who waits, and who is asked ---
    Mutant(
        name="answer-wakes-a-caller-who-left",
        promise=1,
        scenario="swap-storm",
        module="changeover.runtime.worker",
        old="        request.waiter = None\n        self._expected",
        new="        self._expected",
        says="a caller who was cancelled while his request ran is woken by its answer, wherever he is by then",
    ),
    Mutant(
        name="failed-request-is-asked-again-elsewhere",
        promise=1,
        scenario="supervisor-storm",
        module="changeover.runtime.inference",
        old='        if self._version is not None or error.ran != "no" or told.ran != "no" or len(',
        new="        if self._version is not None or len(",
        says="a request moves on also where it has run already: one request is run again and again",
    ),
    Mutant(
        name="queued-request-does-not-move",
        promise=1,
        scenario="supervisor-storm",
        module="changeover.runtime.inference",
        old="MOVES_MAX = 8\n",
        new="MOVES_MAX = 0\n",
        says="a request that waited for a version which goes is told so, though another version would answer it",
    ),
)
