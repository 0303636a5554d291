"""The course of one swap, put together from the events that tell of it: how far it is, and where it may go from there.

Owns what it was told; an oracle hands it the events of one life, and hears what contradicts the table of steps.
"""

from __future__ import annotations

from collections.abc import Iterable

import attrs

from changeover import Event, SwapOperation, SwapState
from changeover.core.operations import Member
from changeover_sim.simulate.life import Life

STEPS = ("validate", "load", "warm", "shift", "drain", "unload")
"""By the design page; the pivot is the end of `shift`, and nothing turns a swap round once `unload` has begun."""
SHIFT, DRAIN, UNLOAD = (STEPS.index(name) for name in ("shift", "drain", "unload"))
_NOT_BEGUN = -1


@attrs.define(eq=False)
class Course:
    """How far one swap is."""

    id: str
    members: tuple[Member, ...]
    began: int
    """When, in events of its life."""
    at: int = 0
    """The step that runs forward, or ran last."""
    shifted: int | None = None
    """When its shift began, in events of its life."""
    drained: int | None = None
    """The same of its drain: when it had passed its pivot."""
    outcomes: dict[int, str] = attrs.field(factory=dict[int, str])
    undone: int | None = None
    """The step that was undone last; None while it goes forward."""
    turned: bool = False
    """Whether it is being undone."""
    end: SwapState | None = None

    @property
    def models(self) -> tuple[str, ...]:
        """The models that it moves."""
        return tuple(member.model for member in self.members)

    @property
    def in_charge(self) -> bool:
        """Whether it alone decides about the traffic of its models: until its pivot, and while it is being undone."""
        return self.end is None and self.undone != 0 and (self.turned or self.at < DRAIN)

    @property
    def shifts(self) -> bool:
        """Whether it moves traffic just now."""
        return self.end is None and (self.turned or self.at == SHIFT)

    def run(self, step: int, now: int) -> str | None:
        """Take that a step begins; return what is wrong with that."""
        if self.turned:
            return f"{STEPS[step]} begins behind its turn"
        if step != self.at + 1:
            return f"{STEPS[step]} begins behind {STEPS[self.at]}"
        if self.outcomes.get(self.at) not in ("done", "failed") or (self.at < DRAIN and not self._is_done(self.at)):
            return f"{STEPS[step]} begins though {STEPS[self.at]} has ended as {self.outcomes.get(self.at)}"
        self.at = step
        if step == SHIFT:
            self.shifted = now
        elif step == DRAIN:
            self.drained = now
        return None

    def over(self, step: int, outcome: str) -> str | None:
        """Take that a step has ended, forward; return what is wrong with that."""
        self.outcomes[step] = outcome
        return None if step == self.at and not self.turned else f"{STEPS[step]} ends and is not what runs"

    def undo(self, step: int) -> str | None:
        """Take that a step was undone, or could not be; return what is wrong with that."""
        expected = self.at if self.undone is None else self.undone - 1
        self.undone = step
        if self.at == UNLOAD:
            return f"{STEPS[step]} was undone behind the point of no return"
        if not self.turned:
            return f"{STEPS[step]} was undone, and nobody has turned it round"
        if step != expected:
            return f"{STEPS[step]} was undone, and {STEPS[expected] if expected >= 0 else 'nothing'} was next"
        return None

    def wrong_end(self) -> str | None:
        """Return what is wrong with a swap that ends now."""
        if self.end is SwapState.COMPLETED:
            return "it ends as completed, and was turned round" if self.turned else None
        if self.undone != 0:
            behind = "nothing" if self.undone is None else STEPS[self.undone]
            return f"it ends behind {STEPS[self.at]} with {behind} undone last: it is neither whole nor undone"
        return None

    def _is_done(self, step: int) -> bool:
        return self.outcomes.get(step) == "done"


class Courses:
    """The swaps of one life, by what is told of them."""

    def __init__(self) -> None:
        """Know of none."""
        self.now = 0
        """How many events there were."""
        self.by_id: dict[str, Course] = {}
        self.wrong: list[str] = []
        """What contradicts the table, until somebody takes it."""

    def hear(self, life: Life, event: Event) -> Course | None:
        """Take an event; return the swap that it is about, once for all models of a group, where it has begun here."""
        self.now += 1
        if event.swap_id is None or event.kind not in ("swap_step", "swap_state"):
            return None
        course = self.by_id.get(event.swap_id)
        if course is None:
            course = self._begin(life, event)
        if course is None or event.model != course.members[0].model:
            return None  # of a group each event comes once for each model
        wrong = self._take(course, event)
        if wrong is not None:
            self.wrong.append(f"swap {course.id} of {'+'.join(course.models)}: {wrong}")
        return course

    def in_charge(self, models: Iterable[str], but: Course) -> list[Course]:
        """Return who else decides about the traffic of any of these models."""
        mine = set(models)
        others = [one for one in self.by_id.values() if one is not but and one.in_charge]
        return [one for one in others if not mine.isdisjoint(one.models)]

    def of(self, model: str) -> list[Course]:
        """Return the swaps of a model, in the order in which they began."""
        return [one for one in self.by_id.values() if model in one.models]

    def take_wrong(self) -> str | None:
        """Return what contradicts the table, and forget it."""
        told, self.wrong = "; ".join(self.wrong), []
        return told or None

    def _begin(self, life: Life, event: Event) -> Course | None:
        if event.kind != "swap_step" or event.swap_id is None:
            return None  # it never began, or its process has ended
        operation: SwapOperation = life.engine.swap_status(event.swap_id)
        course = self.by_id[event.swap_id] = Course(event.swap_id, operation.members, self.now, _NOT_BEGUN)
        course.outcomes[_NOT_BEGUN] = "done"
        return course

    def _take(self, course: Course, event: Event) -> str | None:
        if course.end is not None:
            return f"{event.kind} {dict(event.detail)} behind its end"
        if event.kind == "swap_state":
            state = SwapState(event.detail["state"])
            course.turned = course.turned or state is SwapState.ROLLING_BACK
            course.end = state if state.ended else None
            return None
        step, outcome = STEPS.index(event.detail["step"]), str(event.detail["outcome"])
        if outcome == "running":
            return course.run(step, self.now)
        return course.undo(step) if outcome.startswith("undo") or outcome == "undone" else course.over(step, outcome)
