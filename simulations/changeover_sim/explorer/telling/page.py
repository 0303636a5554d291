"""A failure as one page that needs nothing else: no network, no script, no other file.

Pure functions from values to HTML that is well-formed XML as well. Whatever a program or a token says is escaped.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from changeover_sim.explorer.compare import Parting
from changeover_sim.explorer.results import Failure
from changeover_sim.explorer.telling import words
from changeover_sim.explorer.telling.drawing import graph
from changeover_sim.explorer.telling.graph import graph_lines
from changeover_sim.explorer.telling.held import held_at_the_end
from changeover_sim.explorer.telling.markup import Markup, joined, lines, tag
from changeover_sim.explorer.telling.style import STYLE
from changeover_sim.explorer.telling.table import cell
from changeover_sim.explorer.telling.timeline import lane_name, legend, timeline
from changeover_sim.explorer.trace import Step

_COLUMNS_MAX = 10
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
"""Nothing may be loaded and nothing may run, whatever got onto the page."""


def page(failure: Failure, parting: Parting | None = None, notes: Iterable[str] = ()) -> str:
    """Return the page; the same failure makes the same page."""
    verdict, found = words.header(failure)
    top = [tag("h1", verdict), tag("p", found, class_="faint")]
    what = tag("pre", lines(words.what(failure)))
    inside = [*top, what, *_parting(parting), *_again(failure), *_schedule(failure, parting), *_graph(failure)]
    told = [tag("p", f"note: {note}", class_="faint") for note in notes]
    return f"<!DOCTYPE html>\n{tag('html', _head(failure), tag('body', *inside, *told), lang='en')}\n"


def _head(failure: Failure) -> Markup:
    return tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", content=_POLICY, **{"http-equiv": "Content-Security-Policy"}),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("title", f"{failure.verdict} in {failure.program}"),
        tag("style", Markup(STYLE)),
    )


def _parting(found: Parting | None) -> list[Markup]:
    return [] if found is None else [tag("p", " ".join(words.parting_lines(found)), class_="parting")]


def _again(failure: Failure) -> list[Markup]:
    """Return the command that runs it again; a click selects the whole of it."""
    title, command = words.again(failure)
    return [tag("h2", title), tag("pre", command, class_="command")]


def _schedule(failure: Failure, parting: Parting | None) -> list[Markup]:
    trace = failure.trace
    if not trace:
        return [tag("p", "No step was recorded.")]
    told = words.deviations_line(trace, complete=trace[0].number == 1)
    return [
        tag("h2", "The schedule"),
        tag("p", told),
        *(tag("p", line) for line in words.stock(failure)),
        timeline(failure, parting),
        legend(failure),
        tag("h2", "Step by step"),
        tag("div", _table(trace, parting), class_="scroll", tabindex="0"),
    ]


def _graph(failure: Failure) -> list[Markup]:
    drawn, held = graph(failure.waiting), held_at_the_end(failure.trace)
    found = [tag("h2", "Who waits for whom"), tag("pre", lines(graph_lines(failure.waiting))), drawn] if drawn else []
    return [*found, *([tag("h2", "Who holds what"), tag("pre", lines(map(str, held)))] if held else [])]


# --- the table --------------------------------------------------------------------------------------------------------


def _table(trace: Sequence[Step], parting: Parting | None) -> Markup:
    tasks = list(dict.fromkeys(step.task for step in trace))
    columns = tasks if len(tasks) <= _COLUMNS_MAX else []
    names = [lane_name(task) for task in columns] or ["task", "what it did"]
    head = tag("tr", *(tag("th", name) for name in ["step", "time", *names]))
    parts = None if parting is None else parting.number
    rows = [_row(step, columns, is_parting=step.number == parts) for step in trace]
    return tag("table", tag("thead", head), tag("tbody", *rows))


def _row(step: Step, columns: Sequence[str], *, is_parting: bool) -> Markup:
    first = tag("th", f"{step.number}{'*' if step.skipped else ''}", scope="row")
    notes = [f"passed over: {step.skipped}"] if step.skipped else []
    notes += ["first difference"] if is_parting else []
    notes += [f"takes {held.primitive}" if held.task == step.task else f"to {held.task}" for held in step.taken]
    notes += [f"gives back {held.primitive}" for held in step.given]
    done = tag(
        "td",
        joined(tag("span", note, class_="note") for note in notes),
        joined(tag("code", line) for line in cell(step, named=True, full=True)),
    )
    if columns:
        at = columns.index(step.task)
        cells = [*_empty(at), done, *_empty(len(columns) - at - 1)]
    else:
        cells = [tag("td", lane_name(step.task)), done]
    kinds = [*(["deviates"] if step.deviates else []), *(["parts"] if is_parting else [])]
    time = tag("td", f"{step.time_s:g} s")
    return tag("tr", first, time, *cells, id=f"step-{step.number}", class_=" ".join(kinds) or None)


def _empty(count: int) -> list[Markup]:
    return [tag("td", colspan=str(count))] if count else []
