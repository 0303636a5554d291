"""Promise 5: after a swap is told completed nobody new reaches the old version, and no session goes back by itself.

Judged by every snapshot of the routes, by what callers got and models were asked, and by the swaps' events. A set of
models is met as one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from changeover import Reply, SwapState
from changeover.errors import ModelNotRegistered
from changeover_sim.oracles.base import Oracle
from changeover_sim.oracles.saga_course import Course, Courses
from changeover_sim.oracles.sessions import Seen, Sessions
from changeover_sim.oracles.traffic import Traffic

if TYPE_CHECKING:
    from changeover import Event
    from changeover.core.routes import Route
    from changeover_sim.simulate.calls import Call
    from changeover_sim.simulate.cast import Made
    from changeover_sim.simulate.life import Life

_MEETS = ("infer", "infer_many", "stream", "lease", "async lease", "lease_many")
"""The calls that are led by the routes where they name no version."""
_NOTHING = 1e-9
"""What two shares differ by that are the same."""
_COMING = ("ready", "evicted", "loading", "warming", "draining", "unloading")
"""What a version that has traffic may be: those that were evicted keep it, and are loaded again on demand."""
_GONE = ("unloaded", "failed")
"""What it may not be: nobody loads it again for a request."""


class Promise05Traffic(Oracle):
    """Requests meet what has the traffic, which moves by swaps, or because what had it has gone."""

    promise: ClassVar[int] = 5
    says: ClassVar[str] = "after a swap no new request reaches the old version; no session goes back by itself"

    def life_began(self, life: Life) -> None:
        """Begin with the routes as they are."""
        self._traffic = Traffic(life.engine)
        self._courses = Courses()
        self._sessions = Sessions()
        self._moment = 0
        self._began: dict[int, tuple[Call, int, int]] = {}
        """By the number of a call: with the snapshot and the moment in which it began."""
        self._shares: dict[str, dict[str, float]] = {}
        self._went: dict[str, int] = {}
        """By model, when a version that had traffic, or was tried out, last changed its state; in events."""

    # --- the routes ---------------------------------------------------------------------------------------------------

    def step(self, life: Life) -> None:
        """Look at the routes where they have changed."""
        if self._traffic.has_changed:
            self._look(life)

    def _look(self, life: Life) -> None:
        before, snapshot = self._traffic.last, self._traffic.look()
        self._moment += 1
        for model, route in snapshot.routes.items():
            if route.trial is not None:
                self._is_tried(life, model, before.routes.get(model), route)
        for course in self._courses.by_id.values():
            if len(course.members) > 1 and course.shifts and course.shifted is not None:
                self._moves_as_one(course, snapshot.routes)

    def _is_tried(self, life: Life, model: str, before: Route | None, route: Route) -> None:
        """See that the share of a version on trial does not fall, as long as its swap goes forward."""
        trial = route.trial
        if trial is None:
            return
        if not trial.salt:
            self._sessions.is_loose(model, self._moment)
        was, now = before.share_of(trial.new) if before is not None else 0.0, route.share_of(trial.new)
        if before is None or before.trial is None or before.trial.swap != trial.swap:
            # It had stood in for an old version that was away, which now takes its part again.
            if now < was - _NOTHING and self._has_gone(life, trial.swap):
                self._sessions.upset(model, self._moment)
            return
        self.judged += 1
        if now < was - _NOTHING and not self._has_gone(life, trial.swap):
            self.broken(f"the share of {model}/{trial.new} on trial has fallen from {was:g} to {now:g}")

    def _has_gone(self, life: Life, swap_id: str) -> bool:
        """Return whether a version of a swap has come or gone since it began to shift, or is away just now."""
        course = self._courses.by_id.get(swap_id)
        if course is None or any(self._went.get(model, -1) > (course.shifted or 0) for model in course.models):
            return True
        names = [(one.model, version) for one in course.members for version in (one.from_version, one.to_version)]
        return any(_status(life, model, version) != "ready" for model, version in names)

    def _moves_as_one(self, course: Course, routes: Mapping[str, Route]) -> None:
        """See that a group has the same share everywhere; without a trial, unless one of its versions has just gone."""
        known = [(member, routes[member.model]) for member in course.members if member.model in routes]
        shares = {
            member.model: route.share_of(member.to_version)
            for member, route in known
            if route.share_of(member.to_version) + route.share_of(member.from_version) > 1 - _NOTHING
        }
        tried = any(route.trial is not None and route.trial.swap == course.id for _, route in known)
        if not tried and any(self._went.get(model, -1) > (course.shifted or 0) for model in course.models):
            return
        alone = {shares[member.model] for member, route in known if route.trial is None and member.model in shares}
        far = {max(shares.values(), default=0.0), min(shares.values(), default=0.0)}
        if tried and (len(alone) > 1 or (len(alone) == 1 and far == {0.0, 1.0})):
            return  # here the old version has gone and there the new one, or first the one and then the other
        self.judged += 1
        if shares and max(shares.values()) - min(shares.values()) > _NOTHING:
            self.broken(f"the group of swap {course.id} is torn: {shares}")

    # --- what is told -------------------------------------------------------------------------------------------------

    def event(self, life: Life, event: Event) -> None:
        """Follow the swaps, and see that each move has its reason."""
        self._moment += 1
        course = self._courses.hear(life, event)
        self._courses.take_wrong()  # is another promise
        if course is not None:
            self._on_swap(life, course, event)
        if event.kind == "version_state":
            self._on_state(life, event)
        elif event.kind == "guard_tripped":
            self._sessions.upset(str(event.model), self._moment)
        elif event.kind == "traffic_shifted":
            self._on_move(life, str(event.model), dict(event.detail["shares"]))
        if self._traffic.has_changed:
            self._look(life)

    def _on_swap(self, life: Life, course: Course, event: Event) -> None:
        if event.kind == "swap_step" and (event.detail["step"], event.detail["outcome"]) == ("shift", "running"):
            for member in course.members:
                self._sessions.shifts(member.model, member.from_version, member.to_version, self._moment)
        elif course.turned or course.end not in (None, SwapState.COMPLETED):
            for model in course.models:
                self._sessions.upset(model, self._moment)
        if course.end is SwapState.COMPLETED and not life.closing:
            self._is_completed(course)

    def _on_state(self, life: Life, event: Event) -> None:
        """Note that a version has come or gone that traffic depends on: sessions of its whole group may go back."""
        model, version = str(event.model), str(event.version)
        if event.detail["state"] in _GONE and self._shares.get(model, {}).get(version) and not life.closing:
            self.broken(f"{model}/{version} has traffic, and is {event.detail['state']}")
        route = self._traffic.last.routes.get(model)
        trial = route.trial if route is not None else None
        has_part = version in self._shares.get(model, {}) or (trial is not None and version in (trial.new, trial.old))
        courses = [one for one in self._courses.of(model) if one.in_charge and _moves(one, model, version)]
        if not (has_part or courses):
            return
        models = {model, *(other for one in courses for other in one.models)}
        for name in sorted(models):
            self._went[name] = self._courses.now
            self._sessions.upset(name, self._moment)

    def _on_move(self, life: Life, model: str, shares: dict[str, float]) -> None:
        """See that a version got traffic by a swap, because another one went, or where nobody had any."""
        before, self._shares[model] = self._shares.get(model, {}), shares
        gained = sorted(version for version, share in shares.items() if share > 0 and not before.get(version))
        for version in gained:
            state = _status(life, model, version)
            self.holds(state in _COMING, f"{model}/{version} got traffic, and is {state}")
        lost = sorted(version for version in before if not shares.get(version))
        if not before or any(_status(life, model, version) != "ready" for version in lost):
            self._went[model] = self._courses.now
            self._sessions.upset(model, self._moment)
            return
        self.judged += 1
        for version in gained:
            given = any(one.shifts and _may_give(one, model, version) for one in self._courses.of(model))
            if not given and not self._goes_along(model, version):
                self.broken(f"{model}/{version} got traffic, and no swap gave it: {before} before, {shares} now")

    def _goes_along(self, model: str, version: str) -> bool:
        """Return whether a version on trial has everything because the old version of another member has gone."""
        routes = self._traffic.newest.routes
        trial = routes[model].trial if model in routes else None
        course = self._courses.by_id.get(trial.swap) if trial is not None and trial.new == version else None
        others = [(one, routes.get(one.model)) for one in course.members if one.model != model] if course else []
        return any(
            route is not None and route.trial is None and route.share_of(one.to_version) > 1 - _NOTHING
            for one, route in others
        )

    def _is_completed(self, course: Course) -> None:
        """See that a swap which is told as completed has brought what it tells."""
        for member in course.members:
            if course.drained is None or self._has_moved_on(course, member.model):
                continue
            shares = self._shares.get(member.model, {})
            self.holds(
                shares == {member.to_version: 1.0},
                f"swap {course.id} of {member} is told as completed, and the traffic is {shares}",
            )

    def _has_moved_on(self, course: Course, model: str) -> bool:
        """Return whether something else has moved a model's traffic since: a newer swap, or a version that went."""
        since = course.shifted or 0
        newer = any(
            one.shifted is not None and one.shifted > since for one in self._courses.of(model) if one is not course
        )
        return newer or self._went.get(model, -1) > since

    def at_rest(self, life: Life) -> None:
        """Whatever has traffic takes requests, or does so again once somebody asks."""
        for model, route in self._traffic.look().routes.items():
            for share in route.shares:
                state = _status(life, model, share.version)
                self.holds(state in ("ready", "evicted"), f"{model}/{share.version} has traffic, and is {state}")

    # --- who meets whom -----------------------------------------------------------------------------------------------

    def began(self, call: Call) -> None:
        """Remember what it may meet."""
        self._moment += 1
        if call.version is None and call.kind in _MEETS:
            self._began[call.number] = (call, self._traffic.now, self._moment)

    def took(self, call: Call, name: str) -> None:
        """Look at what a lease or a stream has met."""
        self._moment += 1
        if call.number not in self._began:
            return
        model, _, version = name.partition("/")
        self._meets(call, model, version)
        if call.models and len(call.used) == len(call.models):
            self._meet_as_one(call, dict(one.split("/", 1) for one in call.used))
        self._sees(call, model, version)

    def ended(self, call: Call) -> None:
        """Look at who has answered a request."""
        self._moment += 1
        if call.number not in self._began or call.end != "returned":
            return
        value: Any = call.value
        if call.kind == "infer":
            self._answered(call, {str(call.model): value})
        elif call.kind == "infer_many":
            replies: dict[str, Reply] = value
            self._answered(call, replies)
            self._meet_as_one(call, {model: reply.version for model, reply in replies.items()})

    def used(self, made: Made, numbers: tuple[int, ...]) -> None:
        """Look at a model that is asked by requests which named no version."""
        for number in numbers:
            known = self._began.get(number)
            if known is not None and known[0].is_request:
                self._meets(known[0], made.part.model, made.part.version)

    def _answered(self, call: Call, replies: Mapping[str, Reply]) -> None:
        for model, reply in replies.items():
            self._meets(call, model, reply.version)
            if not reply.fell_back:
                self._sees(call, model, reply.version)

    def _meets(self, call: Call, model: str, version: str) -> None:
        _, snapshot, _ = self._began[call.number]
        self.judged += 1
        if not self._traffic.reached(snapshot, model, version):
            self.broken(f"{call} met {model}/{version}, which had no traffic since it began")

    def _meet_as_one(self, call: Call, versions: Mapping[str, str]) -> None:
        _, snapshot, _ = self._began[call.number]
        self.judged += 1
        if not self._traffic.reached_as_one(snapshot, versions):
            self.broken(f"{call} met {dict(versions)}, which was at no moment one set since it began")

    def _sees(self, call: Call, model: str, version: str) -> None:
        if call.key is None:
            return
        _, _, began = self._began[call.number]
        self.judged += 1
        wrong = self._sessions.take(model, call.key, Seen(call.number, version, began, self._moment))
        if wrong is not None:
            self.broken(wrong)


def _moves(course: Course, model: str, version: str) -> bool:
    """Return whether a version takes part in a swap."""
    return any(one.model == model and version in (one.from_version, one.to_version) for one in course.members)


def _may_give(course: Course, model: str, version: str) -> bool:
    """Return whether a swap may give a version traffic: to its new one only on its way forward."""
    for member in course.members:
        if member.model == model:
            return version == member.from_version or (version == member.to_version and not course.turned)
    return False


def _status(life: Life, model: str, version: str) -> str | None:
    try:
        return life.engine.load_info(model, version).status.value
    except ModelNotRegistered:
        return None
