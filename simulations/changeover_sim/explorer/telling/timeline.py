"""The timeline of a schedule as a drawing: a lane per task, step by step, with what was held and who waits at the end.

Pure functions from steps to SVG.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from changeover_sim.explorer.compare import Parting
from changeover_sim.explorer.results import Failure
from changeover_sim.explorer.telling.markup import Markup, joined, lines, tag
from changeover_sim.explorer.telling.table import cell
from changeover_sim.explorer.trace import CANCELLED, Step

_TOP, _LANE, _BOTTOM = 44, 40, 30
_WIDE, _NARROW, _MANY = 34, 18, 80
"""How wide a step is in pixels, how wide where there are many, and how many that is."""
_LABEL_GAP = 60
"""How many pixels two labels of an axis are apart at least."""
_WORDS = 130
"""How many pixels the words beside the first difference take."""
_LETTER = 7.4
_NAME_MAX = 32
_NOBODY = "(time and threads)"


def timeline(failure: Failure, parting: Parting | None) -> Markup:
    """Return the drawing: the names beside it stay where they are while the steps are scrolled."""
    trace = failure.trace
    lanes = {task: n for n, task in enumerate(dict.fromkeys(step.task for step in trace))}
    height = _TOP + _LANE * len(lanes) + _BOTTOM
    drawing = _Drawing(trace, lanes, height)
    names = [lane_name(task) for task in lanes]
    wide = _LETTER * max(map(len, names)) + 20
    labels = [tag("text", name, x=10, y=drawing.middle(n) + 4) for n, name in enumerate(names)]
    axes = [
        tag("text", "time", x=10, y=16, class_="axis"),
        tag("text", "step", x=10, y=height - 8, class_="axis"),
    ]
    left = tag("svg", *axes, *labels, width=wide, height=height, aria_hidden="true")
    right = tag(
        "svg",
        tag("title", "The schedule, a lane for each task"),
        *drawing.all(failure, parting),
        width=drawing.width,
        height=height,
        role="group",
    )
    return tag("div", left, tag("div", right, tabindex="0"), class_="timeline")


def lane_name(task: str) -> str:
    """Return what a task's lane or column is called."""
    name = task or _NOBODY
    return name if len(name) <= _NAME_MAX else f"{name[: _NAME_MAX - 3]}..."


class _Drawing:
    """One timeline."""

    def __init__(self, trace: Sequence[Step], lanes: Mapping[str, int], height: int) -> None:
        self._trace = trace
        self._lanes = lanes
        self._height = height
        self._first = trace[0].number
        self._step = _WIDE if len(trace) <= _MANY else _NARROW
        self.width = max(self._x(trace[-1].number + 2), 2 * _WORDS)

    def _x(self, number: int) -> int:
        """Return where a step begins."""
        return (number - self._first) * self._step + 10

    def middle(self, lane: int) -> int:
        """Return the height of a lane."""
        return _TOP + _LANE * lane + _LANE // 2

    def all(self, failure: Failure, parting: Parting | None) -> Iterator[Markup]:
        """Yield everything that is drawn, what is below first."""
        for n in self._lanes.values():
            yield tag("line", x1=0, x2=self.width, y1=self.middle(n), y2=self.middle(n), class_="lane")
        yield from self._held()
        yield from self._waiting(failure)
        yield from self._axes()
        yield self._way()
        if parting is not None and self._first <= parting.number <= self._trace[-1].number:
            yield self._parts(parting.number)
        named = len({place.file for step in self._trace for place in step.lines}) > 1
        yield from (self._mark(step, named=named) for step in self._trace)

    def _way(self) -> Markup:
        """Return the line that goes from each step to the next."""
        half = self._step / 2 - 2
        at = [f"{self._x(step.number) + half:g},{self.middle(self._lanes[step.task])}" for step in self._trace]
        return tag("polyline", points=" ".join(at), class_="way")

    def _mark(self, step: Step, *, named: bool) -> Markup:
        x, y, wide = self._x(step.number), self.middle(self._lanes[step.task]), self._step - 4
        parts = [tag("rect", x=x, y=y - 9, width=wide, height=18, rx=3)]
        sign = "x" if CANCELLED in step.cause else "?" if any(step.choices) else "*" if step.skipped else ""
        if sign:
            parts.append(tag("text", sign, x=x + wide / 2, y=y - 12, text_anchor="middle"))
        if step.task and step.ends is None:
            parts.append(tag("line", x1=x + wide, x2=x + wide, y1=y - 12, y2=y + 12, class_="ends"))
        told = [f"step {step.number} at {step.time_s:g} s: {step.task or _NOBODY}", *cell(step, named=named, full=True)]
        inside = tag("g", tag("title", lines(told)), *parts, class_="step deviates" if step.deviates else "step")
        return tag("a", inside, href=f"#step-{step.number}")

    def _held(self) -> Iterator[Markup]:
        """Yield a bar below the lane of each holder, from where it took something to where it gave it back."""
        last = self._trace[-1].number + 1
        until = {held: step.number for step in self._trace for held in step.given}
        for held in (held for step in self._trace for held in step.taken):
            if held.task in self._lanes:
                y = self.middle(self._lanes[held.task]) + 14
                x1, x2 = self._x(held.step or self._first), self._x(until.get(held, last)) + self._step - 4
                yield tag("line", tag("title", str(held)), x1=x1, x2=x2, y1=y, y2=y, class_="held")

    def _waiting(self, failure: Failure) -> Iterator[Markup]:
        """Yield a dotted line behind the last step of everybody who waits at the end."""
        last = {step.task: step.number for step in self._trace}
        for wait in failure.waiting:
            if wait.task in last:
                y, x = self.middle(self._lanes[wait.task]), self._x(last[wait.task]) + self._step
                yield tag("line", tag("title", str(wait)), x1=x, x2=self.width, y1=y, y2=y, class_="waits")

    def _parts(self, number: int) -> Markup:
        x = self._x(number) - 2
        line = tag("line", x1=x, x2=x, y1=22, y2=self._height - 22)
        is_right = x + _WORDS > self.width
        told = tag(
            "text", "first difference", x=x - 4 if is_right else x + 4, y=34, text_anchor="end" if is_right else None
        )
        return tag("g", line, told, class_="parts")

    def _axes(self) -> Iterator[Markup]:
        """Yield the virtual time above, where it has moved, and the steps' numbers below."""
        time_s, time_x, step_x = -1.0, -_LABEL_GAP, -_LABEL_GAP
        for step in self._trace:
            x = self._x(step.number)
            if step.time_s != time_s and x - time_x >= _LABEL_GAP:
                time_s, time_x = step.time_s, x
                yield tag("text", f"{time_s:g} s", x=x, y=16, class_="axis")
            if x - step_x >= _LABEL_GAP:
                step_x = x
                yield tag("text", str(step.number), x=x, y=self._height - 8, class_="axis")


def legend(failure: Failure) -> Markup:
    """Return what the signs mean that are on the drawing."""
    trace = failure.trace
    told = ["Click a step to find it in the table; hover to see its lines."]
    told += ["* others, ready before, were passed over."] if any(step.skipped for step in trace) else []
    told += ["x a scope is cancelled right before it."] if any(CANCELLED in step.cause for step in trace) else []
    told += ["? choose() returns another option than the first."] if any(any(step.choices) for step in trace) else []
    told += ["A bar below a lane: a lock or a token is held."] if any(step.taken for step in trace) else []
    told += ["Dotted: waits at the end."] if failure.waiting else []
    return tag("p", joined(told, " "), class_="faint")
