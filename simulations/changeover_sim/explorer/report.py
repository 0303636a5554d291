"""How a failure reads: the verdict, the schedule as a table with a column per task, and how to run it again.

Pure functions from values to text.
"""

from __future__ import annotations

import shlex
import textwrap
import traceback
from collections.abc import Mapping, Sequence

from changeover_sim.explorer.places import Place, is_own
from changeover_sim.explorer.results import Failure, Result
from changeover_sim.explorer.schedule import leaves
from changeover_sim.explorer.trace import Step

_WIDTH = 116
_CELL_MIN = 24
_STEPS_MAX = 40
_LINES_MAX = 5
_FRAMES_MAX = 8
_WAITS_MAX = 20

_MEANING = {
    "exception": "the program raised",
    "deadlock": "tasks wait that nobody will wake",
    "livelock": "the program goes on and on: it had not ended after twice steps_max steps",
    "leftover": "the program returned and left tasks running",
    "nondeterminism": "the same schedule went another way when it was run again",
}


def failure_text(failure: Failure, again: Sequence[str] = ()) -> str:
    """Return the whole report; `again` are lines that say how to run it again, where there is a better way."""
    blocks = [
        f"{failure.verdict}: {_MEANING[failure.verdict]}",
        _plain(f"{failure.program}, schedule {failure.schedule_index} of {failure.policy}, seed {failure.seed}"),
        "",
        *_what(failure),
        "",
        *table(failure.trace),
        "",
        *_stock(failure),
        *(again or _again(failure)),
    ]
    return "\n".join(blocks)


def _plain(text: str) -> str:
    """Return text for a terminal: part of it comes out of a token, which anybody may have written."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)


def result_text(result: Result) -> str:
    """Return one line for a result without a failure, the report for one with."""
    how = "all there are" if result.exhausted else f"{result.policy}, seed {result.seed}"
    how += ", stopped by its time limit" if result.stopped else ""
    schedules = "schedule" if result.schedules_run == 1 else "schedules"
    count = f"{result.schedules_run:,} {schedules} ({how}), {result.schedules_per_s:,.0f}/s"
    found = (
        [f"no failure in {count}"] if result.failure is None else [f"failed within {count}", "", str(result.failure)]
    )
    return "\n".join([*found, *(f"note: {note}" for note in result.notes)])


def _what(failure: Failure) -> list[str]:
    if failure.exception is not None:
        return _exception(failure.exception)
    found = [failure.difference] if failure.difference else []
    found += [f"still running: {task}" for task in failure.leftover]
    if failure.difference:
        return textwrap.wrap(" ".join(found), _WIDTH)
    found += map(str, failure.waiting)
    more = [f"... and {len(found) - _WAITS_MAX} more"] if len(found) > _WAITS_MAX else []
    return [*found[:_WAITS_MAX], *more]


def _exception(error: BaseException) -> list[str]:
    """Return the exceptions inside the groups that Trio wraps them in, each with its own frames."""
    found: list[str] = []
    for leaf in leaves(error):
        frames = [frame for frame in traceback.extract_tb(leaf.__traceback__) if is_own(frame.filename)]
        found += [line.rstrip() for line in traceback.format_exception_only(leaf)]
        found += [
            f"  {Place(frame.filename, frame.lineno or 0, frame.name)} in {frame.name}: {frame.line}"
            for frame in frames[-_FRAMES_MAX:]
        ]
    return found


def _stock(failure: Failure) -> list[str]:
    if failure.stock or failure.verdict == "nondeterminism":
        return []
    return ["Stock Trio runs every ready task once before any runs again, so today it does not make this schedule."]


def _again(failure: Failure) -> list[str]:
    if "<" in failure.program or failure.program.startswith("__main__:"):
        return ["Run it again with: replay(program, token), where the token is", failure.token]
    return ["Run it again with:", f"changeover replay {shlex.quote(failure.token)}"]


# --- the table --------------------------------------------------------------------------------------------------------


def table(trace: Sequence[Step]) -> list[str]:
    """Return the schedule as lines of text: a column per task where they fit, else one column with the task's name.

    A `*` marks a step that others, ready before it, had to let pass.
    """
    shown, left_out = trace[-_STEPS_MAX:], max(0, len(trace) - _STEPS_MAX)
    files = {place.short for step in shown for place in _places(step)}
    cells = [_cell(step, named=len(files) > 1) for step in shown]
    tasks = list(dict.fromkeys(step.task for step in shown))
    widths = _widths(tasks, shown, cells)
    head, rows = _listed(shown, cells, left_out) if widths is None else _columns(shown, cells, left_out, widths)
    skipped = [f"  ({left_out} earlier steps are left out; failure.trace has them)"] if left_out else []
    file = [f"  in {files.pop()}"] if len(files) == 1 else []
    return [*file, head, *skipped, *rows]


def _places(step: Step) -> list[Place]:
    return [*step.lines, *([step.ends] if step.ends else [])]


def _widths(tasks: Sequence[str], shown: Sequence[Step], cells: Sequence[list[str]]) -> dict[str, int] | None:
    """Return how wide each task's column is: as wide as it needs, or less for the widest; None where none is enough."""
    widths = {
        task: max(
            len(text) for step, cell in zip(shown, cells, strict=True) if step.task == task for text in [task, *cell]
        )
        for task in tasks
    }
    room = _WIDTH - 8 - 2 * len(widths)
    while sum(widths.values()) > room:
        widest = max(widths, key=widths.__getitem__)
        if widths[widest] <= _CELL_MIN:
            return None
        widths[widest] -= 1
    return widths


def _columns(
    shown: Sequence[Step], cells: Sequence[list[str]], first: int, widths: Mapping[str, int]
) -> tuple[str, list[str]]:
    rows: list[str] = []
    for number, (step, cell) in enumerate(zip(shown, cells, strict=True), first + 1):
        before = " " * sum(widths[task] + 2 for task in list(widths)[: list(widths).index(step.task)])
        for n, text in enumerate(cell):
            mark = f"{number:5}{'*' if step.skipped else ' '}" if n == 0 else " " * 6
            rows.append(f" {mark} {before}{_cut(text, widths[step.task])}")
    return f"  step  {'  '.join(f'{task:{width}.{width}}' for task, width in widths.items())}".rstrip(), rows


def _listed(shown: Sequence[Step], cells: Sequence[list[str]], first: int) -> tuple[str, list[str]]:
    wide = max(len(step.task) for step in shown)
    rows: list[str] = []
    for number, (step, cell) in enumerate(zip(shown, cells, strict=True), first + 1):
        for n, text in enumerate(cell):
            mark = f"{number:5}{'*' if step.skipped else ' '} {step.task:{wide}}" if n == 0 else " " * (7 + wide)
            rows.append(f" {mark}  {_cut(text, _WIDTH - 10 - wide)}")
    return "  step  task", rows


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 3].rstrip()}..."


def _cell(step: Step, *, named: bool) -> list[str]:
    """Return what a task did in a step: the lines that ran up to the checkpoint at which it stopped."""
    lines = [f"{place if named else place.line}: {place.text}" for place in dict.fromkeys(step.lines)]
    if len(lines) > _LINES_MAX:
        head, tail = lines[: _LINES_MAX // 2], lines[-(_LINES_MAX // 2) :]
        lines = [*head, f"... {len(lines) - len(head) - len(tail)} more lines", *tail]
    cause = [f"[{step.cause}]"] if step.cause else []
    if step.task and step.ends is None:
        lines.append("(ends)")
    elif step.ends is not None and (not step.lines or step.lines[-1] != step.ends):
        lines.append(f"{step.ends if named else step.ends.line}: {step.ends.text}")
    return [*cause, *lines] or ["(nothing of its own)"]
