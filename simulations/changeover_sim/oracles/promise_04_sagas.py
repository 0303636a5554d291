"""Promise 4: at most one saga per model before its pivot; every saga ends completed or fully compensated.

Judged by the events, the operations that the engine shows and the models of the run. Owns the course of every swap of
one life.
"""

# pyright: reportPrivateUsage=false
from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, cast

import trio

from changeover import SwapOperation, SwapState
from changeover.errors import ModelNotRegistered, Superseded, SwapFailed, SwapNotDone, SwapRolledBack
from changeover_sim.oracles.base import Oracle
from changeover_sim.oracles.saga_course import DRAIN, SHIFT, STEPS, UNLOAD, Course, Courses

if TYPE_CHECKING:
    from changeover import Event, Member
    from changeover_sim.simulate.calls import Call
    from changeover_sim.simulate.cast import Made
    from changeover_sim.simulate.life import Left, Life

TOLD: dict[type[SwapNotDone], tuple[SwapState, ...]] = {
    SwapFailed: (SwapState.FAILED,),
    SwapRolledBack: (SwapState.ROLLED_BACK, SwapState.CANCELLED),
    Superseded: (SwapState.SUPERSEDED,),
}
"""What each error says of the swap that did not happen."""
_CLOSED = "the engine was closed before"
_CRASHED = "its task crashed"
_WAITS = ("load", "ensure_loaded", "async lease", "lease_many", "infer", "infer_many", "stream", "warm_up")
"""The calls that may wait for a version that is being loaded."""
_GONE = ("unloaded", "failed", "quarantined", "unloading", "evicted", "registered")
_LEFT = ("draining", "quarantined", "unloading")


class Promise04Sagas(Oracle):
    """Every swap goes by the table of its steps, alone with its models until its pivot, and ends whole or undone."""

    promise: ClassVar[int] = 4
    says: ClassVar[str] = "one saga per model before its pivot; each ends completed or fully compensated"

    def life_began(self, life: Life) -> None:
        """Begin anew: swaps do not outlive their process, but for what the journal says."""
        self._courses = Courses()
        self._shares: dict[str, dict[str, float]] = {}
        self._left_ready: dict[tuple[str, str], int] = {}
        self._crashed: dict[tuple[str, str], int] = {}
        """By version, when it was last told to have left, and to have failed; in events."""
        self._fresh: dict[str, list[Member]] = {}
        """By swap, the members whose new version rested when it began to load."""
        self._restarting: set[tuple[str, str]] = set()
        """Versions that have crashed and are brought back by their supervisor ..."""
        self._restarted: dict[tuple[str, str], int] = {}
        """... and when they were so last, in events."""
        self._loads_since_s: dict[str, float] = {}
        self._served: dict[str, dict[str, Made]] = {}
        """By swap, the models of the old versions that were ready when their drain began."""
        self._movers: dict[str, list[str]] = {}
        """By model, the swaps that got past their pivot, in that order."""
        self._stands: dict[str, list[str]] = {}
        """By swap, what was true when its undoing was over."""

    # --- what is told -------------------------------------------------------------------------------------------------

    def event(self, life: Life, event: Event) -> None:
        """Follow every swap."""
        course = self._courses.hear(life, event)
        if event.kind == "traffic_shifted":
            self._shares[str(event.model)] = dict(event.detail["shares"])
        elif event.kind == "version_state" and event.detail["state"] != "ready":
            self._left_ready[str(event.model), str(event.version)] = self._courses.now
            if event.detail["state"] == "failed":
                self._crashed[str(event.model), str(event.version)] = self._courses.now
        elif event.kind == "version_restarting" and event.detail["delay_s"] is not None:
            self._restarting.add((str(event.model), str(event.version)))
        self._follow_restart(event)
        wrong = self._courses.take_wrong()
        self.holds(wrong is None, wrong or "")
        if course is not None and course.in_charge:
            self._is_alone(life, course)
        if course is not None and event.kind == "swap_step":
            self._on_step(life, course, STEPS.index(event.detail["step"]), str(event.detail["outcome"]))
        if event.kind == "swap_state" and event.swap_id is not None and SwapState(event.detail["state"]).ended:
            operation = life.engine.swap_status(event.swap_id)
            if event.model == operation.members[0].model:
                self._on_end(life, course, operation)

    def _on_step(self, life: Life, course: Course, step: int, outcome: str) -> None:
        if outcome == "undone":
            self._was_undone(life, course, step)
        if outcome.startswith("undo") and step == 0:
            self._stands[course.id] = [line for member in course.members for line in _stands(life, member)]
        if outcome != "running":
            return
        if STEPS[step] == "load":
            states = {member: status(life, member.model, member.to_version) for member in course.members}
            self._loads_since_s[course.id] = trio.current_time()
            self._fresh[course.id] = [m for m, state in states.items() if state in ("registered", "unloaded", "failed")]
        elif step == DRAIN:
            for member in course.members:
                self._movers.setdefault(member.model, []).append(course.id)
            self._served[course.id] = {
                member.model: made
                for member in course.members
                if (made := _serving(life, member.model, member.from_version)) is not None
            }

    # --- alone --------------------------------------------------------------------------------------------------------

    def _is_alone(self, life: Life, course: Course) -> None:
        others = self._courses.in_charge(course.models, course)
        self.judged += 1
        if others:
            self.broken(f"swaps {course.id} and {others[0].id} of {course.models} are both before their pivot")
        recovering = {model for unit in life.engine.recovery().waiting for model in unit.models}
        if not recovering.isdisjoint(course.models):
            self.broken(f"swap {course.id} has begun, and {'+'.join(sorted(recovering))} is still being recovered")

    # --- undone -------------------------------------------------------------------------------------------------------

    def _follow_restart(self, event: Event) -> None:
        """Note how long a version is being brought back: until it is ready, given up, or somebody wants it gone."""
        key = (str(event.model), str(event.version))
        if key in self._restarting:
            self._restarted[key] = self._courses.now
        given_up = event.kind == "version_restarting" and event.detail["delay_s"] is None
        if given_up or (event.kind == "version_state" and event.detail["state"] in ("ready", "unloaded")):
            self._restarting.discard(key)

    def _was_undone(self, life: Life, course: Course, step: int) -> None:
        """Look whether what is told to be undone is undone, in the moment in which it is told."""
        if life.closing:
            return  # the engine leads nobody anywhere any more, and empties every version
        for member in course.members:
            if step == SHIFT:
                self._takes_its_own_back(course, member)
                self._has_traffic_back(life, course, member)
            elif step == DRAIN:
                state, name = status(life, member.model, member.from_version), f"{member.model}/{member.from_version}"
                self.holds(state not in _LEFT, f"swap {course.id} has opened {name} again, which is {state}")
            elif STEPS[step] == "load" and member in self._fresh.get(course.id, ()):
                state = status(life, member.model, member.to_version)
                self.holds(
                    state in (*_GONE, None) or self._is_wanted_by_another(life, course, member),
                    f"swap {course.id} has unloaded {member.model}/{member.to_version} again, which is {state}",
                )

    def _takes_its_own_back(self, course: Course, member: Member) -> None:
        movers = self._movers.get(member.model, [])
        if course.id in movers:
            text = f"swap {course.id} has taken the traffic of {member.model} back, which {movers[-1]} has moved since"
            self.holds(movers[-1] == course.id, text)

    def _has_traffic_back(self, life: Life, course: Course, member: Member) -> None:
        shares = self._shares.get(member.model, {})
        text = f"swap {course.id} has given the traffic of {member.model} back to {member.from_version}: {shares}"
        self.holds(shares.get(member.to_version, 0.0) == 0.0, text)
        is_there = status(life, member.model, member.from_version) == "ready"
        went = self._left_ready.get((member.model, member.from_version), -1) > course.began
        if is_there and not went:
            self.holds(shares.get(member.from_version) == 1.0, text)

    def _is_wanted_by_another(self, life: Life, course: Course, member: Member) -> bool:
        """Return whether somebody else has waited for the version meanwhile: a load goes on for whoever joins it.

        Who names none waits for it where the old one has gone, and may have left nobody else.
        """
        since_s = self._loads_since_s.get(course.id, 0.0)
        went = self._left_ready.get((member.model, member.from_version), -1) > course.began
        restarted = self._restarted.get((member.model, member.to_version), -1) > course.began  # it had crashed before
        return restarted or any(
            (call.ended_s is None or call.ended_s >= since_s)
            and call.kind in _WAITS
            and (call.model == member.model or member.model in call.models)
            and (call.version == member.to_version or (call.version is None and went))
            for call in life.calls
        )

    # --- ended --------------------------------------------------------------------------------------------------------

    def _on_end(self, life: Life, course: Course | None, operation: SwapOperation) -> None:
        said = operation.error_message or ""
        self.holds(operation.end_time is not None, f"{_short(operation)} has no time at which it ended")
        self.holds(_CRASHED not in said, f"{_short(operation)}: {said}")
        if said.startswith(_CLOSED):
            self.holds(life.closing, f"{_short(operation)} ends by the end of an engine that is open")
        elif life.closing and operation.state is SwapState.FAILED:
            return  # the end of the engine has cut it off, and it had something else to tell
        elif course is None:  # it never began here: an order that waited, or what another process has left behind
            is_new = not operation.steps
            fits = not is_new or operation.state is not SwapState.COMPLETED
            self.holds(fits, f"{_short(operation)} is completed and had no steps")
        else:
            wrong = course.wrong_end() or self._wrong_record(course, operation)
            self.holds(wrong is None, f"{_short(operation)}: {wrong}")

    def _wrong_record(self, course: Course, operation: SwapOperation) -> str | None:
        """Return what an operation that has ended tells and is not so."""
        if operation.state is SwapState.COMPLETED:
            return self._wrong_success(course, operation)
        failed = [step.step for step in operation.steps if step.compensation == "failed"]
        left = [step.step for step in operation.steps if step.compensation == "none"]
        if left:
            return f"{left} were not undone"
        if operation.state is SwapState.FAILED and course.at >= DRAIN and not failed:
            return "a failure behind its pivot has turned it round"
        if bool(failed) != (operation.aftermath is not None) or (failed and operation.state is not SwapState.FAILED):
            return f"{failed} could not be undone, and its aftermath is {operation.aftermath}"
        if operation.aftermath is not None:
            stands = self._stands.get(course.id, [])
            if sorted(operation.aftermath.stands) != sorted(stands):
                return f"its aftermath says {operation.aftermath.stands}, and what stands is {stands}"
        return None

    def _wrong_success(self, course: Course, operation: SwapOperation) -> str | None:
        outcomes = {step.step: step.outcome for step in operation.steps}
        if any(step.compensation != "none" for step in operation.steps):
            return f"it is completed, and was undone: {operation.steps}"
        if course.at == 0:  # it had to wait, and meanwhile somebody else has done the same
            return None if list(outcomes.values()) == ["done"] else f"it is completed with {outcomes}"
        if any(outcomes.get(step) != "done" for step in STEPS[:DRAIN]):
            return f"it is completed with {outcomes}"
        behind = [outcomes[step] for step in STEPS[DRAIN:] if step in outcomes]
        if any(outcome not in ("done", "failed") for outcome in behind):
            return f"it is completed with {outcomes}"
        if "failed" in behind and operation.error_message is None:
            return f"a step behind its pivot has failed, and nobody is told: {outcomes}"
        return self._wrong_members(course, operation, behind)

    def _wrong_members(self, course: Course, operation: SwapOperation, behind: Sequence[str]) -> str | None:
        """Return what a completed swap tells of its old versions and is not so."""
        for member in operation.members:
            name = f"{member.model}/{member.from_version}"
            result = member.drain_outcome.result if member.drain_outcome is not None else None
            if course.at < UNLOAD and (result is None or result == "drained"):
                return f"it ends behind its drain, which has {result} {name}"
            if list(behind) == ["done", "done"] and result == "drained" and not member.old_unloaded:
                return f"it has unloaded its old versions, and {name} is not among them"
            made = self._served.get(course.id, {}).get(member.model)
            crashed = self._crashed.get((member.model, member.from_version), -1) > (course.drained or 0)
            if member.old_unloaded and made is not None and not (made.closes or crashed):
                return f"it says that {name} was unloaded, and {made} is open"
        return None

    # --- callers, rest and end ----------------------------------------------------------------------------------------

    def ended(self, call: Call) -> None:
        """`swap` returns only success, and an error says what became of the swap."""
        if isinstance(call.error, SwapNotDone):
            state = call.error.operation.state
            self.holds(state in TOLD[type(call.error)], f"{call} was told of a swap that is {state.value}")
        elif call.end == "returned" and isinstance(call.value, SwapOperation):
            states = (SwapState.COMPLETED, SwapState.ROLLED_BACK) if call.kind == "rollback" else (SwapState.COMPLETED,)
            state = call.value.state
            self.holds(state in states, f"{call} returned a swap that is {state.value}")

    def at_rest(self, life: Life) -> None:
        """No swap is on its way, and no model's traffic is left divided."""
        open_ones = [_short(operation) for operation in life.engine.swaps(limit=10_000) if not operation.state.ended]
        self.holds(not open_ones, f"at rest, and not ended: {open_ones}")
        opened = life.engine.statistics().swaps_open
        self.holds(opened == 0, f"at rest, and {opened} swaps are said to be open")
        # The routes are looked at themselves: of a trial that goes on for nobody no call and no event tells.
        for model, route in life.engine._router.snapshot.routes.items():
            whole = route.trial is None and [share.weight for share in route.shares] == [1.0]
            self.holds(whole, f"at rest, and the traffic of {model} is divided: {route}")

    def stuck(self, life: Life, left: Left) -> None:
        """Say so where it is a swap that has no end, and not what it waits for."""
        if left.swaps and not (left.holders or left.threads or left.versions):
            self.broken(f"these swaps do not end, and nothing holds them up: {', '.join(left.swaps)}")

    def life_over(self, life: Life) -> None:
        """Every swap of an engine that was closed has ended, or is what it has not recovered."""
        for operation in life.engine.swaps(limit=10_000):
            ended = operation.state.ended or operation.state is SwapState.RECOVERING
            self.holds(ended, f"the engine was closed, and {_short(operation)} has not ended")


def status(life: Life, model: str, version: str) -> str | None:
    """Return the state of a version in a word; None where it is not registered any more."""
    try:
        return life.engine.load_info(model, version).status.value
    except ModelNotRegistered:
        return None


def _stands(life: Life, member: Member) -> list[str]:
    """Return what an aftermath must tell of a model."""
    model = member.model
    shares = life.engine._router.active(model)
    traffic = f"{model}/{shares} has the traffic" if shares is not None else f"nobody has the traffic of {model}"
    versions = (member.from_version, member.to_version)
    return [traffic, *(f"{model}/{version} is {status(life, model, version)}" for version in versions)]


def _serving(life: Life, model: str, version: str) -> Made | None:
    """Return the model that a ready version serves with: only the engine knows which of several it is."""
    for key, known in life.engine._versions.items():
        if (key.model, key.version) == (model, version) and known.loaded is not None and known.state.value == "ready":
            return cast("Made", known.loaded.model)
    return None


def _short(operation: SwapOperation) -> str:
    steps = ", ".join(f"{s.step} {s.outcome}/{s.compensation}" for s in operation.steps)
    return (
        f"swap {operation.id} of {operation.model} from {operation.from_version} to {operation.to_version}, "
        f"{operation.state.value} ({steps})"
    )
