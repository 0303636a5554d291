"""The sentences of a failure, as lines of text: what happened, what was raised, where it parts from what passes.

Pure functions.
"""

from __future__ import annotations

import shlex
import textwrap
import traceback
from collections.abc import Iterable, Sequence

from changeover_sim.explorer.compare import Parting
from changeover_sim.explorer.places import Place, is_own
from changeover_sim.explorer.results import Failure
from changeover_sim.explorer.schedule import leaves
from changeover_sim.explorer.telling.graph import NURSERY, edges, graph_lines
from changeover_sim.explorer.telling.held import held_at_the_end, others, wait_line
from changeover_sim.explorer.trace import CANCELLED, Step

WIDTH = 116
_MESSAGE_MAX = 8
_FRAMES_MAX = 8
_LETTERS_MAX = 240
_NAMED_MAX = 12

MEANING = {
    "exception": "the program raised",
    "deadlock": "tasks wait that nobody will wake",
    "livelock": "the program goes on and on: it had not ended after twice steps_max steps",
    "leftover": "the program returned and left tasks running",
    "nondeterminism": "the same schedule went another way when it was run again",
}


def plain(text: str) -> str:
    """Return text for a terminal or a page: part of it comes out of a token, which anybody may have written."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)


def header(failure: Failure) -> list[str]:
    """Return the verdict, and how it was found."""
    return [
        f"{failure.verdict}: {MEANING[failure.verdict]}",
        _short(plain(f"{failure.program}, schedule {failure.schedule_index} of {failure.policy}, seed {failure.seed}")),
    ]


def what(failure: Failure, lines_max: int | None = None) -> list[str]:
    """Return what was raised, what differed, or who waits for whom and who is still there."""
    is_full = lines_max is None
    found = [plain(line.expandtabs()) for line in _what(failure, full=is_full)]
    return cut_off(found if is_full else map(_short, found), lines_max)


def _what(failure: Failure, *, full: bool) -> list[str]:
    if failure.exception is not None:
        return exception_lines(failure.exception, full=full)
    if failure.difference:
        return textwrap.wrap(failure.difference, WIDTH)
    held = held_at_the_end(failure.trace)
    found = [f"still running: {task}" for task in failure.leftover]
    found += [wait_line(wait, held) for wait in failure.waiting]
    return [*found, *map(str, others(failure.waiting, held))]


def graph(failure: Failure, lines_max: int | None = None) -> list[str]:
    """Return the wait-for graph with its title; nothing where `what` says as much: nurseries and their own."""
    lines = graph_lines(failure.waiting, lines_max)
    is_more = any(edge.primitive != NURSERY for edge in edges(failure.waiting))
    return ["who waits for whom:", *map(plain, lines if lines_max is None else map(_short, lines))] if is_more else []


def exception_lines(error: BaseException, *, full: bool) -> list[str]:
    """Return the exceptions inside the groups that Trio wraps them in, each with its own frames."""
    found: list[str] = []
    for leaf in leaves(error):
        message = "".join(traceback.format_exception_only(leaf)).rstrip().splitlines()
        frames = [frame for frame in traceback.extract_tb(leaf.__traceback__) if is_own(frame.filename)]
        at = [
            f"  {Place(frame.filename, frame.lineno or 0, frame.name)} in {frame.name}: {frame.line}"
            for frame in (frames if full else frames[-_FRAMES_MAX:])
        ]
        found += [*(message if full else cut_off(message, _MESSAGE_MAX)), *at]
    return found


def _short(line: str) -> str:
    return line if len(line) <= _LETTERS_MAX else f"{line[:_LETTERS_MAX]}..."


def cut_off(given: Iterable[str], lines_max: int | None) -> list[str]:
    """Return at most so many lines; the last one says how many more there are."""
    lines = list(given)
    if lines_max is None or len(lines) <= lines_max:
        return lines
    return [*lines[: lines_max - 1], f"... and {len(lines) - lines_max + 1} more"]


def stock(failure: Failure) -> list[str]:
    """Return a sentence where stock Trio cannot do the same."""
    if failure.stock or failure.verdict == "nondeterminism":
        return []
    return ["Stock Trio runs every ready task once before any runs again, so today it does not make this schedule."]


def again(failure: Failure) -> list[str]:
    """Return how to run it again: a title, and what is to be copied."""
    if "<" in failure.program or failure.program.startswith("__main__:"):
        return ["Run it again with: replay(program, token), where the token is", failure.token]
    return ["Run it again with:", f"changeover replay {shlex.quote(failure.token)}"]


# --- the schedule in words --------------------------------------------------------------------------------------------


def deviations_line(trace: Sequence[Step], *, complete: bool) -> str:
    """Return the schedule as first-in-first-out and what differs from that."""
    found = [f"{step.number}{_kinds(step)}" for step in trace if step.deviates]
    seen = "" if complete else " in what was recorded"
    if not found:
        return f"First-in-first-out throughout{seen}."
    more = f" and {len(found) - _NAMED_MAX} more" if len(found) > _NAMED_MAX else ""
    steps = "step" if len(found) == 1 else "steps"
    return f"First-in-first-out{seen} but for {steps} {', '.join(found[:_NAMED_MAX])}{more}."


def _kinds(step: Step) -> str:
    kinds = ["cancelled"] if CANCELLED in step.cause else []
    kinds += ["chosen"] if any(step.choices) else []
    return f" ({' and '.join(kinds)})" if kinds else ""


def parting_lines(found: Parting) -> list[str]:
    """Return where a schedule parts from one that passes, as a sentence."""
    here, there = found.fails, found.passes
    if found.kind == "cancel":
        cancelled, other = ("here", "there") if here is not None and CANCELLED in here.cause else ("there", "here")
        told = f"{cancelled} a scope is cancelled right before it, {other} it is not"
    elif found.kind == "choice":
        told = f"here {_chosen(here)}, there {_chosen(there)}"
    else:
        told = f"here {_who(here)}, there {_who(there)}"
    sentence = f"Step {found.number} is the first that differs from the nearest schedule that passes: {told}."
    return textwrap.wrap(plain(sentence), WIDTH)


def _who(step: Step | None) -> str:
    if step is None:
        return "all is over"
    if not step.task:
        return f"{step.cause or 'something else'} comes first"
    if step.begins is None:
        return f"{step.task} begins"
    return f"{step.task} goes on from {step.begins}"


def _chosen(step: Step | None) -> str:
    options: Iterable[int] = () if step is None else step.choices
    numbers = [str(option + 1) for option in options]
    return f"choose() returns option {', '.join(numbers)}" if numbers else _who(step)
