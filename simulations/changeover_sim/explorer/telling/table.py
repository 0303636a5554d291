"""The schedule as a table of text: a column per task where they fit, else one column with the task's name.

Pure functions.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from changeover_sim.explorer.places import Place
from changeover_sim.explorer.telling.folding import Fold, folded
from changeover_sim.explorer.telling.words import WIDTH, plain
from changeover_sim.explorer.trace import Step

_CELL_MIN = 24
_LINES_MAX = 5
_MARGIN = 10
_NAME_MAX = 40


def table(trace: Sequence[Step], lines_max: int | None = None, marked: Iterable[int] = ()) -> list[str]:
    """Return the schedule as lines of text, at most so many; of a longer one what tells most, see `folded`.

    A `*` marks a step that others, ready before it, had to let pass. `marked` are numbers of steps to be shown.
    """
    if not trace:
        return ["  (no step was recorded)"]
    files = {place.short for step in trace for place in _places(step)}
    is_full = lines_max is None
    cells = [cell(step, named=len(files) > 1, full=is_full) for step in trace]
    earlier = trace[0].number - 1
    room = None if lines_max is None else lines_max - 2 - (len(files) == 1) - bool(earlier)
    rows = folded(trace, list(map(len, cells)), room, marked)
    shown = [trace[row] for row in rows if isinstance(row, int)]
    widths = _widths(shown, [cells[row] for row in rows if isinstance(row, int)], full=is_full)
    head, lines = _listed(trace, cells, rows, full=is_full) if widths is None else _columns(trace, cells, rows, widths)
    file = [f"  in {plain(files.pop())}"] if len(files) == 1 else []
    before = [f"  ({earlier:,} earlier steps were not recorded)"] if earlier > 0 else []
    return [*file, head, *before, *lines]


def _places(step: Step) -> list[Place]:
    return [*step.lines, *([step.ends] if step.ends else [])]


def _widths(shown: Sequence[Step], cells: Sequence[list[str]], *, full: bool) -> dict[str, int] | None:
    """Return how wide each task's column is: as wide as it needs, or less for the widest; None where none is enough."""
    widths: dict[str, int] = {}
    for step, texts in zip(shown, cells, strict=True):
        widths[step.task] = max(widths.get(step.task, 0), *map(len, [step.task, *texts]))
    room = WIDTH - 8 - 2 * len(widths)
    if len(widths) * _CELL_MIN > room and sum(widths.values()) > room:
        return None
    while sum(widths.values()) > room and not full:
        widest = max(widths, key=widths.__getitem__)
        if widths[widest] <= _CELL_MIN:
            return None
        widths[widest] -= 1
    return widths


def _columns(
    trace: Sequence[Step], cells: Sequence[list[str]], rows: Sequence[int | Fold], widths: Mapping[str, int]
) -> tuple[str, list[str]]:
    before, found = 0, {}
    for task, width in widths.items():
        found[task] = before
        before += width + 2
    lines: list[str] = []
    for row in rows:
        if isinstance(row, Fold):
            lines.append(f"        {row}")
            continue
        step = trace[row]
        for n, text in enumerate(cells[row]):
            lines.append(f" {_mark(step, n)} {' ' * found[step.task]}{_cut(text, widths[step.task])}")
    return f"  step  {'  '.join(f'{plain(task):{width}.{width}}' for task, width in widths.items())}".rstrip(), lines


def _listed(
    trace: Sequence[Step], cells: Sequence[list[str]], rows: Sequence[int | Fold], *, full: bool
) -> tuple[str, list[str]]:
    names = {step.task: plain(step.task) for step in trace}
    wide = max(map(len, names.values())) if full else min(_NAME_MAX, max(map(len, names.values())))
    lines: list[str] = []
    for row in rows:
        if isinstance(row, Fold):
            lines.append(f"        {row}")
            continue
        step = trace[row]
        for n, text in enumerate(cells[row]):
            name = _cut(names[step.task], wide) if n == 0 else ""
            shown = text if full else _cut(text, WIDTH - _MARGIN - wide)
            lines.append(f" {_mark(step, n)} {name:{wide}}  {shown}")
    return "  step  task", lines


def _mark(step: Step, line: int) -> str:
    return " " * 6 if line else f"{step.number:5}{'*' if step.skipped else ' '}"


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 3].rstrip()}..."


def cell(step: Step, *, named: bool, full: bool = False) -> list[str]:
    """Return what a task did in a step: the lines that ran up to the checkpoint at which it stopped.

    With `named` each line has its file's name; with `full` none is left out.
    """
    lines = [f"{place if named else place.line}: {place.text}" for place in dict.fromkeys(step.lines)]
    if len(lines) > _LINES_MAX and not full:
        head, tail = lines[: _LINES_MAX // 2], lines[-(_LINES_MAX // 2) :]
        lines = [*head, f"... {len(lines) - len(head) - len(tail)} more lines", *tail]
    cause = [f"[{step.cause}]"] if step.cause else []
    cause += [f"[choose: option {taken + 1}]" for taken in step.choices if taken][: None if full else 2]
    if step.task and step.ends is None:
        lines.append("(ends)")
    elif step.ends is not None and (not step.lines or step.lines[-1] != step.ends):
        lines.append(f"{step.ends if named else step.ends.line}: {step.ends.text}")
    return [plain(line) for line in [*cause, *lines]] or ["(nothing of its own)"]
