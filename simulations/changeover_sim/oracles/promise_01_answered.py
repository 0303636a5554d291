"""Promise 1: no admitted request is lost; each has one outcome, and that is true.

What models really ran is counted by the models themselves, and compared with the answers and with the `ran` of errors.
"""

# pyright: reportPrivateUsage=false

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import trio

from changeover import Reply
from changeover_sim.oracles import excuses, expected
from changeover_sim.oracles.base import Oracle
from changeover_sim.oracles.facts import Facts, about_models
from changeover_sim.oracles.runs import Ran
from changeover_sim.simulate.calls import Call
from changeover_sim.simulate.cast import CHUNKS, WARM_UP, numbers_of

if TYPE_CHECKING:
    from changeover import Event
    from changeover_sim.simulate.cast import Made
    from changeover_sim.simulate.life import Left, Life
    from changeover_sim.simulate.run import Run

_PHASES = 4
"""A close has so many phases, each of which is bounded by its timeout: then everybody has his answer."""


class Promise01Answered(Oracle):
    """Counts outcomes and runs, and looks at every answer and every error."""

    promise = 1
    says = "no admitted request is lost: exactly one outcome each, and a true one"

    def __init__(self, run: Run) -> None:
        """Know of no request yet."""
        super().__init__(run)
        self._facts: Facts
        self._asked: dict[int, Ran] = {}
        self._never: set[int] = set()
        """Requests that were taken out of a queue, and must never run."""
        self._claimed: list[Ran] = []
        """Requests that were told that they ran, while that was still to come."""
        self._closing_s: float | None = None

    def life_began(self, life: Life) -> None:
        """Begin new books; the requests of the life before are gone with it."""
        self._facts = Facts(life)
        self._asked, self._never, self._claimed, self._closing_s = {}, set(), [], None

    def event(self, life: Life, event: Event) -> None:
        """Keep the facts."""
        self._facts.event(event)
        self._note_closing(life)

    def began(self, call: Call) -> None:
        """Expect an outcome."""
        self._facts.began(call)
        self._asked[call.number] = Ran(call)

    # --- runs ---------------------------------------------------------------------------------------------------------

    def used(self, made: Made, numbers: tuple[int, ...]) -> None:
        """Count a run of each request."""
        if len(set(numbers)) < len(numbers) and WARM_UP not in numbers:
            self.broken(f"{made} was asked the same twice in one call: {numbers}")
        for number in numbers:
            if number == WARM_UP:
                continue
            ran = self._asked.get(number)
            if ran is None:
                self.broken(f"{made} was asked by {number}, which nobody in this life has asked")
                continue
            if ran.call.does == "poison":
                self._facts.poisoned[made.name] = self._facts.poisoned.get(made.name, 0) + 1
            if made.part.model not in about_models(ran.call):
                self.broken(f"{made} was asked by {ran.call}, which is about another model")
            if ran.call.is_request:
                self._count(ran, made, numbers)

    def _count(self, ran: Ran, made: Made, numbers: tuple[int, ...]) -> None:
        """Look at one more run of a request."""
        self.judged += 1
        call, runs = ran.call, ran.note(made, numbers)
        wrong = ran.wrong(runs)
        if wrong is not None and not (call.kind == "infer_many" and self._may_begin_anew(call)):
            self.broken(f"{call}: {wrong}; {ran}")
        if runs.is_copy:
            return
        if call.version not in (None, made.part.version):
            self.broken(f"{call} was run by {made}, which it did not name")
        if call.end is not None and not self._may_still_run(call, made):
            self.broken(f"{call} was run by {made} after its end, which says that it would not be; {ran}")

    def _may_begin_anew(self, call: Call) -> bool:
        """Hold where a version may have gone before it began: then the whole set is asked again."""
        facts = self._facts
        return any(one(facts, call) for one in (excuses.may_have_crashed, excuses.forgotten, excuses.revoked))

    def _may_still_run(self, call: Call, made: Made) -> bool:
        """Hold where a thread had the request when its caller left."""
        if call.kind == "infer_many" and self._may_begin_anew(call):
            return True
        if call.number in self._never:
            return False
        if call.end == "returned":  # of a set that fell back the others are left where they were
            replies = call.value.values() if call.kind == "infer_many" else ()
            return any(reply.fell_back for reply in replies)
        if call.error is None:
            return True  # his caller went away
        if call.error.ran == "yes":  # the others of a set; the chunk that a stream did not wait for
            told = f"{call.error.model}/{call.error.version}"
            if call.life.closing and told != made.name:
                return True  # who stood in had it in a thread, and the engine's end did not wait for that
            return call.kind == "stream" or (call.kind == "infer_many" and told != made.name)
        return call.error.ran == "unknown"

    # --- ends ---------------------------------------------------------------------------------------------------------

    def ended(self, call: Call) -> None:
        """Look at an outcome."""
        self.judged += 1
        self._note_closing(call.life)
        if len(call.ends) != 1:
            self.broken(f"{call} ended {len(call.ends)} times: {', '.join(call.ends) or 'in no way'}")
        if call.error is not None:
            wrong = expected.unexcused(self._facts, call)
            if wrong is not None:
                self.broken(f"{call}: {wrong}; it says {call.error}")
        if call.is_request:
            self._look_at_time(call)
            self._look_at_end(call, self._asked[call.number])

    def _look_at_end(self, call: Call, ran: Ran) -> None:
        error = call.error
        if call.end != "returned" and self._still_waits(call):
            self.broken(f"{call} has ended, and still waits in a queue")
        if call.end == "returned":
            self._look_at_answers(call, ran)
        elif error is not None and error.ran == "no" and ran.count:
            self.broken(f"{call} is told that it did not run, and was {ran}: {error}")
        elif error is not None and error.ran == "yes" and not ran.count:
            self._look_at_claim(call, ran)
        elif not ran.count and (error is None or error.ran == "unknown") and not self._may_be_in_hands(call):
            self._never.add(call.number)

    @staticmethod
    def _still_waits(call: Call) -> bool:
        """Return whether it stands in the queue of a version, which nobody can see from outside before it is run."""
        models = about_models(call)
        return any(
            request.inputs and call.number in numbers_of(request.inputs)
            for loaded in call.life.engine._host.living()
            if loaded.key.model in models
            for request in loaded.lane._waiting
        )

    def _look_at_claim(self, call: Call, ran: Ran) -> None:
        """Look at an error that says that a request ran which has not: its thread may still be on the way."""
        if call.kind == "stream" and type(call.error).__name__ == "LeaseRevoked":
            self._claimed.append(ran)
        else:
            self.broken(f"{call} is told that it ran, and was {ran}: {call.error}")

    def _may_be_in_hands(self, call: Call) -> bool:
        """Return whether a thread may have the request just now.

        A worker that takes a request is at work from that step on; other threads take a step to begin.
        """
        if call.kind == "stream" or not all(
            part.execution == "worker" for part in self.run.shape.parts if part.model in about_models(call)
        ):
            return True
        models = about_models(call)
        return any(
            name.startswith("worker ") and name.split(" ")[1].partition("/")[0] in models
            for name in call.life.world.threads.at_work
        )

    def _look_at_time(self, call: Call) -> None:
        """Look whether the end came as late as it may."""
        ended_s = call.ended_s if call.ended_s is not None else call.began_s
        if call.timeout_s is not None and ended_s - call.began_s > call.timeout_s + excuses.EARLY_S:
            self.broken(f"{call} had {call.timeout_s:g} s, and took {ended_s - call.began_s:g} s")
        if self._closing_s is not None:
            patience_s: float = self.run.shape.options.get("close_timeout_s", 10.0)
            if ended_s > self._closing_s + _PHASES * max(1.0, patience_s) and call.kind != "stream":
                self.broken(f"{call} was left without an answer when the engine was closed at {self._closing_s:g}")

    def _note_closing(self, life: Life) -> None:
        if self._closing_s is None and life.closing:
            self._closing_s = trio.current_time()

    # --- answers ------------------------------------------------------------------------------------------------------

    def _look_at_answers(self, call: Call, ran: Ran) -> None:
        if call.kind == "infer":
            self._look_at_answer(call, ran, str(call.model), call.value)
        elif call.kind == "infer_many":
            replies: Mapping[str, Any] = call.value
            if tuple(replies) != call.models:
                self.broken(f"{call} was answered by {', '.join(replies)}")
            for model, reply in replies.items():
                self._look_at_answer(call, ran, model, reply)
        else:
            self._look_at_chunks(call, ran, call.value)

    def _look_at_answer(self, call: Call, ran: Ran, model: str, reply: Reply) -> None:
        """Look at one answer: the number that was asked, by a version that has run it, last of all."""
        if list(reply.outputs["y"]) != [call.number]:
            self.broken(f"{call} was answered with {reply.outputs['y']} by {reply.version}")
        begins_anew = call.kind == "infer_many" and self._may_begin_anew(call)
        made = ran.originals(model)
        if begins_anew:
            last = made
        elif call.kind == "infer_many" and reply.fell_back:  # what the set left behind may run later than who stood in
            last = [one for one in made if call.number not in one.failed]
        else:
            last = made[-1:]
        answerers = [one.part.version for one in last]
        if reply.version not in answerers:
            self.broken(f"{call} was answered by {model}/{reply.version}, and was {ran}")
        if call.version not in (None, reply.version):
            self.broken(f"{call} was answered by {reply.version}, which it did not name")
        if len(made) > 1 and not reply.fell_back and not begins_anew:
            self.broken(f"{call} says that nobody stood in, and was {ran}")

    def _look_at_chunks(self, call: Call, ran: Ran, replies: list[Reply]) -> None:
        """Look at a stream: all of its chunks, by one version."""
        for reply in replies:
            self._look_at_answer(call, ran, str(call.model), reply)
        if len({reply.version for reply in replies}) > 1:
            self.broken(f"{call} was answered by several versions: {[reply.version for reply in replies]}")
        leaves = call.options.get("leaves")
        most = CHUNKS if leaves is None else min(CHUNKS, leaves + 1)
        if len(replies) != most:
            self.broken(f"{call} was answered in {len(replies)} chunks, and not in {most}")

    # --- the end of all -----------------------------------------------------------------------------------------------

    def stuck(self, life: Life, left: Left) -> None:
        """Look for requests without an outcome."""
        self._all_ended(life)

    def at_rest(self, life: Life) -> None:
        """Do the same."""
        self._all_ended(life)

    def life_over(self, life: Life) -> None:
        """Do the same."""
        self._all_ended(life)

    def _all_ended(self, life: Life) -> None:
        self.judged += 1
        lost = [str(call) for call in life.calls if call.is_request and len(call.ends) != 1]
        if lost:
            self.broken(f"without an outcome: {'; '.join(lost)}")
        claimed = [f"{ran.call}: {ran.call.error}" for ran in self._claimed if not ran.count]
        if claimed:
            self.broken(f"told that they ran, and were never run: {'; '.join(claimed)}")
