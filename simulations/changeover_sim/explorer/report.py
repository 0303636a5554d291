"""How a failure reads in a terminal: what happened, who holds what, the schedule as a table, how to run it again.

Pure functions from values to text, of at most `LINES_MAX` lines unless all of it is asked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from changeover_sim.explorer.compare import Parting
from changeover_sim.explorer.results import Failure, Result
from changeover_sim.explorer.telling import words
from changeover_sim.explorer.telling.graph import cycle
from changeover_sim.explorer.telling.held import telling_steps
from changeover_sim.explorer.telling.table import table

LINES_MAX = 52
"""How long the report of a failure is at most: with what others write above and below it, less than 60 lines."""

_WHAT_MAX = 17
_GRAPH_MAX = 5
_AGAIN_MAX = 4
_NOTES_MAX = 5


def failure_text(
    failure: Failure,
    again: Sequence[str] = (),
    *,
    parting: Parting | None = None,
    full: bool = False,
    spare: int = 0,
) -> str:
    """Return the whole report; `again` are lines that say how to run it again, where there is a better way.

    `parting` is where it first differs from a schedule that passes, if known; `full` leaves nothing out; `spare` is how
    many lines the caller writes besides, and fewer are returned.
    """
    told = words.cut_off(again or words.again(failure), None if full else _AGAIN_MAX)
    above = [
        words.header(failure),
        words.what(failure, None if full else _WHAT_MAX - spare // 2),
        words.graph(failure, None if full else _GRAPH_MAX),
        [] if parting is None else words.parting_lines(parting),
    ]
    below = [*words.stock(failure), *told]
    room = LINES_MAX - spare - sum(len(block) + 1 for block in above if block) - 1 - len(below)
    blocks = [*above, _schedule(failure, None if full else room, parting), below]
    return "\n\n".join("\n".join(block) for block in blocks if block)


def _schedule(failure: Failure, lines_max: int | None, parting: Parting | None) -> list[str]:
    """Return the schedule: how it differs from first-in-first-out, and the table."""
    trace = failure.trace
    marked = [*([] if parting is None else [parting.number]), *telling_steps(trace, cycle(failure.waiting))]
    told = words.deviations_line(trace, complete=not trace or trace[0].number == 1)
    return [told, *table(trace, None if lines_max is None else lines_max - 1, marked)]


def result_text(result: Result) -> str:
    """Return one line for a result without a failure, the report for one with."""
    how = "all there are" if result.exhausted else f"{result.policy}, seed {result.seed}"
    how += ", stopped by its time limit" if result.stopped else ""
    schedules = "schedule" if result.schedules_run == 1 else "schedules"
    count = f"{result.schedules_run:,} {schedules} ({how}), {result.schedules_per_s:,.0f}/s"
    found = (
        [f"no failure in {count}"] if result.failure is None else [f"failed within {count}", "", str(result.failure)]
    )
    return "\n".join([*found, *notes(result.notes)])


def notes(told: Iterable[str]) -> list[str]:
    """Return what could not be controlled, a line for each; part of it may come out of a token."""
    return words.cut_off([words.plain(f"note: {note}") for note in told], _NOTES_MAX)
