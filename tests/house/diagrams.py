"""Draws the README's diagrams from the engine's own tables; `python -m tests.house.diagrams --write` puts them there.

A diagram stands between two comments that name it. Owns no state; changes the README's text between those and nothing
else.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Mapping

import attrs

from changeover.core import plan
from changeover.core.lifecycle import RESTING, TABLE, Event
from changeover.core.plan import Compensate, Done, Failed, Finish, Ordered, Progress, Run, Step, Undone
from changeover.core.values import SwapState, VersionState
from tests.house.readme import README

REDRAW = "python -m tests.house.diagrams --write"

PLACE = re.compile(r"(?P<begin><!-- drawn: (?P<name>[a-z]+)[^>]*-->\n)(?P<body>.*?)(?P<end><!-- /drawn -->)", re.DOTALL)
"""Where a diagram stands; its name is a key of `DIAGRAMS`."""

ENDS_BY_ORDER = (SwapState.ROLLED_BACK, SwapState.CANCELLED, SwapState.SUPERSEDED)
"""What an order may call a swap that it turns round."""

_STEPS = [step.value for step in plan.ORDER]
MARKS = {
    (plan.PIVOT.value, _STEPS[_STEPS.index(plan.PIVOT.value) + 1]): "the pivot",
    (_STEPS[_STEPS.index(plan.NO_RETURN.value) - 1], plan.NO_RETURN.value): "the point of no return",
}
"""The arrows between two steps that stand for more than that the first is done."""

LAST = {Step.VALIDATE.value: "active already", Step.DRAIN.value: "ended in quarantine"}
"""How a step may leave nothing to do: an order that waited finds its version active, or nothing is left to unload."""


# --- a version's life -----------------------------------------------------------------------------------------------


def lifecycle() -> str:
    """Draw the table of `core/lifecycle`, one arrow per pair of states.

    What leads to the same state from every resting state, or from every other one, is a note there and no arrow: those
    arrows alone would be as many as all the rest.
    """
    first = next(iter(VersionState))
    arrows: dict[tuple[str, str], list[Event]] = {}
    notes: list[str] = []
    for states in ([s for s in VersionState if s in RESTING], [s for s in VersionState if s not in RESTING]):
        shared = dict(common(states))
        for event, to in shared.items():
            notes.append(
                f"    note right of {to.name}: {words(event)} leads here from {', '.join(s.name for s in states)}"
            )
        for state in states:
            for event, (to, _) in TABLE[state].items():
                if event not in shared or state is first:
                    arrows.setdefault((state.name, to.name), []).append(event)
    drawn = [f"    {start} --> {to}: {' / '.join(map(words, events))}" for (start, to), events in arrows.items()]
    return "\n".join(["stateDiagram-v2", f"    [*] --> {first.name}", *drawn, *notes])


def common(states: list[VersionState]) -> Iterator[tuple[Event, VersionState]]:
    """Yield the events that lead to the same state from all of these, with that state."""
    for event in Event:
        ends = {TABLE[state][event].state if event in TABLE[state] else None for state in states}
        if len(ends) == 1 and (end := ends.pop()) is not None:
            yield event, end


def words(event: Event) -> str:
    """Return an event as words."""
    return event.name.lower().replace("_", " ")


# --- a swap ---------------------------------------------------------------------------------------------------------


@attrs.frozen
class Arrow:
    """What follows one command of the plan, and after what."""

    start: plan.Command
    to: plan.Command
    after: plan.Happening


def walk() -> list[Arrow]:
    """Return every arrow that `plan.advance` knows, from the beginning of a swap to each of its ends."""
    seen, todo = [plan.start()], [plan.start()]
    arrows: list[Arrow] = []
    while todo:
        progress, command = todo.pop(0)
        for happening in [] if isinstance(command, Finish) else happenings(progress):
            try:
                following = plan.advance(progress, happening)
            except plan.IllegalHappening:
                continue
            arrows.append(Arrow(command, following[1], happening))
            if following not in seen:
                seen.append(following)
                todo.append(following)
    return arrows


def happenings(progress: Progress) -> list[plan.Happening]:
    """Return what may happen; only the steps in `LAST` may leave nothing to do behind them."""
    last: list[plan.Happening] = [Done(last=True)] if progress.step.value in LAST else []
    orders = [Ordered(end) for end in ENDS_BY_ORDER]
    return [Done(), *last, Failed(), *orders, Undone(), Undone(ok=False)]


def swap() -> str:
    """Draw `core/plan`: the steps in their order, what undoes each, the pivot and the point of no return."""
    arrows: dict[tuple[str, str], list[plan.Happening]] = {}
    ends: list[SwapState] = []
    for arrow in walk():
        arrows.setdefault((node(arrow.start), node(arrow.to)), []).append(arrow.after)
        if isinstance(arrow.to, Finish) and arrow.to.state not in ends:
            ends.append(arrow.to.state)
    lines = ["flowchart TB"]
    lines += [f'    undo_{step.value}["{undone}"]' for step, undone in plan.UNDONE_BY.items() if undone]
    lines.append(f'    completed(["{SwapState.COMPLETED.name}"])')
    lines.append(f'    turned(["{" / ".join(end.name for end in ends if end is not SwapState.COMPLETED)}"])')
    lines += [f"    {start} -->{label(start, to, after)} {to}" for (start, to), after in arrows.items()]
    return "\n".join(lines)


def node(command: plan.Command) -> str:
    """Return the name of a command's node; every end but COMPLETED is one node."""
    match command:
        case Run(step):
            return step.value
        case Compensate(step):
            return f"undo_{step.value}"
        case Finish(state):
            return "completed" if state is SwapState.COMPLETED else "turned"


def label(start: str, to: str, after: list[plan.Happening]) -> str:
    """Return an arrow's label, none where a step or what undoes it is simply done."""
    kinds = {type(happening) for happening in after}
    said = [MARKS[start, to]] if (start, to) in MARKS else []
    if Done(last=True) in after:
        said.append(LAST[start])
    elif Failed in kinds:
        said.append("done or failed" if Done in kinds else "failed or ordered back")
    elif Ordered in kinds:
        said.append("ordered back")
    return f'|"{", ".join(said)}"|' if said else ""


# --- in the README --------------------------------------------------------------------------------------------------

DIAGRAMS: Mapping[str, Callable[[], str]] = {"lifecycle": lifecycle, "swap": swap}


def redrawn(markdown: str) -> str:
    """Return the text with every diagram drawn again; raises KeyError for a place that names none."""
    return PLACE.sub(lambda found: f"{found['begin']}{fenced(found['name'])}{found['end']}", markdown)


def fenced(name: str) -> str:
    """Return a diagram as Markdown."""
    return f"```mermaid\n{DIAGRAMS[name]()}\n```\n"


def places(markdown: str) -> dict[str, str]:
    """Return what stands in each place, by name."""
    return {found["name"]: found["body"] for found in PLACE.finditer(markdown)}


def main(arguments: list[str]) -> None:
    """Print the diagrams or, with `--write`, put them into the README."""
    if arguments == ["--write"]:
        README.write_text(redrawn(README.read_text()))
    else:
        print("\n".join(fenced(name) for name in DIAGRAMS))  # noqa: T201 - a command prints


if __name__ == "__main__":
    main(sys.argv[1:])
