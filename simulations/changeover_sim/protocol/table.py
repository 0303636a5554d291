"""The table as text, below 120 columns: each kernel's published figures, and under them what was measured.

Pure functions from a view to lines.
"""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from changeover_sim.kernels.port import PORTS
from changeover_sim.protocol import ranks
from changeover_sim.protocol.cells import LONG, Cell, Key, Trial
from changeover_sim.protocol.published import PUBLISHED, RANKED, TRIALS, Figure
from changeover_sim.protocol.view import Row, View

WIDTH = 118
_THOUSANDS = 100_000
_EXACT = 10
_NOTES_MAX = 12


def table(view: View) -> list[str]:
    """Return all of it."""
    parts = [
        [*_legend(view), "", *_matrix(view)],
        _notes(view),
        _scores(view),
        _ranks(view),
        _alarms(view),
        _wrong("NOT ITS BUG", view.strange()),
        _wrong("NO TRIAL", view.broken()),
        _made(view),
    ]
    return [line for part in parts if part for line in (*part, "")][:-1]


def number(value: float) -> str:
    """Return a mean or a deviation in at most five characters below a hundred million."""
    if value < _EXACT:
        return f"{value:.1f}".removesuffix(".0")
    return f"{value / 1000:.0f}k" if value >= _THOUSANDS else f"{value:.0f}"


def figure_text(figure: Figure | None) -> str:
    """Return a published figure."""
    if figure is None:
        return ""
    if figure.mean is None:
        return "found" if figure.found else "x"
    return number(figure.mean) + ("" if figure.found == TRIALS else f" ({figure.found})")


def cell_text(cell: Cell | None, trials: int, *, old: bool) -> str:
    """Return what was measured: `*` behind a cell whose trials are not all run, `'` behind one of another source."""
    if cell is None or not cell.trials:
        return ""
    marks = ("*" if cell.done < trials else "") + ("'" if old else "")
    found = len(cell.found)
    if cell.mean is None:
        return ("x" if cell.done >= trials else "(0)") + marks
    spread = "" if cell.deviation is None else f"±{number(cell.deviation)}"
    few = "" if found == cell.done == trials else f" ({found})"
    return f"{number(cell.mean)}{spread}{few}{marks}"


def _legend(view: View) -> list[str]:
    caps = {row.subject.name: row.subject.cap for row in view.buggy}
    [(usual, _)] = Counter(caps.values()).most_common(1) or [(0, 0)]
    more = "".join(f", {cap:,} for {name}" for name, cap in caps.items() if cap != usual)
    text = (
        f"Schedules to the first bug: mean±deviation over those of {view.trials} trials that found it, "
        f"(k): k did, x: none did. At most {usual:,} schedules a trial{more}. "
        "In the line of a kernel's name stands what is published."
    )
    return textwrap.wrap(text, WIDTH)


def _matrix(view: View) -> list[str]:
    rows: list[tuple[str, ...]] = [("kernel", *view.policies)]
    for name, by_port in view.kernels().items():
        figures = PUBLISHED.get(name, {})
        rows.append((name, *(figure_text(figures.get(policy)) for policy in view.policies)))
        rows += [(f"  {port}", *_cells(row, view)) for port, row in by_port.items()]
    return aligned(rows)


def _cells(row: Row, view: View) -> Iterator[str]:
    return (cell_text(row.cells.get(one), view.trials, old=one in row.old) for one in view.policies)


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return rows of cells as lines."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [" ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


# --- what the marks mean ----------------------------------------------------------------------------------------------


def _notes(view: View) -> list[str]:
    notes = [
        *(f"* {row.subject.name}, {row.port}: {text}" for row in view.rows if (text := _unfinished(row, view))),
        *_old(view),
    ]
    always = [f"{row.subject.name} {row.port}" for row in view.buggy if row.always]
    if always:
        notes.append(f"In every trial the first schedule failed, so kept out of all that follows: {', '.join(always)}.")
    return [line for note in notes for line in textwrap.wrap(note, WIDTH, subsequent_indent="  ")]


def _unfinished(row: Row, view: View) -> str:
    """Return which cells of a row are not complete, and why."""
    why: dict[str, list[str]] = {}
    for policy, cell in row.cells.items():
        if cell.done < view.trials:
            why.setdefault(_why(cell, view), []).append(f"{policy} {cell.done}")
    return "; ".join(f"{reason}: {', '.join(cells)}" for reason, cells in why.items())


def _why(cell: Cell, view: View) -> str:
    """Return why a cell has fewer trials than are wanted, as what stands before how many it has."""
    if cell.ended("short"):
        return (
            f"of {view.trials} trials, others with {min(one.schedules for one in cell.ended('short')):,} schedules only"
        )
    if cell.out_of_time or sum(one.seconds for one in cell.trials) >= view.seconds_a_cell:
        return f"of {view.trials} trials, out of time"
    return f"of {view.trials} trials, not all run"


def _old(view: View) -> Iterator[str]:
    old = [cell.done for row in view.rows for policy, cell in row.cells.items() if policy in row.old]
    if old:
        yield (
            f"' made before explorer, policy or kernel changed: {sum(old):,} trials; "
            "`changeover kernels` runs them anew."
        )


# --- what it comes to -------------------------------------------------------------------------------------------------


def _scores(view: View) -> list[str]:
    scores = view.scores()
    rows = [
        ("", *view.policies),
        ("trials that found it", *(f"{score.found} of {score.done}" for score in scores)),
        ("rows found in full", *(f"{score.whole} of {score.rows}" for score in scores)),
        (f"mean over {len(view.common)} rows", *(_or_dash(score.average) for score in scores)),
        ("schedules/s", *(_or_dash(score.per_second) for score in scores)),
    ]
    text = (
        "The mean is geometric, over the rows in which each of these policies found the bug in every trial; that of "
        f"schedules a second is over those in which each has a trial of {LONG} schedules or more."
    )
    arms = view.arms("portfolio").most_common() if "portfolio" in view.policies else []
    told = [f"found by these arms of the portfolio: {', '.join(f'{arm} {n}' for arm, n in arms)}"] if arms else []
    return [*aligned(rows), *(line for one in (text, *told) for line in textwrap.wrap(one, WIDTH))]


def _or_dash(value: float | None) -> str:
    return "-" if value is None else number(value)


def _ranks(view: View) -> list[str]:
    """Return the rankings beside each other, and how far they agree."""
    ports = [port for port in PORTS if any(row.port == port for row in view.buggy)]
    rows, pairs = [("kernel", "published", *ports)], dict[str, list[tuple[ranks.Ranking, ranks.Ranking]]]()
    for name, by_port in view.kernels().items():
        said = ranks.published(name)
        cells = [(port, by_port[port].ranking if port in by_port else None) for port in ports]
        if said is None or all(one is None for _, one in cells):
            continue
        rows.append((name, str(said), *(_rank_text(said, one) for _, one in cells)))
        for port, one in cells:
            if one is not None:
                pairs.setdefault(port, []).append((said, one))
    if not pairs:
        return []
    return [
        *textwrap.wrap(
            f"Ranks of {', '.join(RANKED)}, `=`: shared; by all schedules that were run over the bugs that were found. "
            f"Behind them Spearman's coefficient against the published ones.",
            WIDTH,
        ),
        *aligned(rows),
        *(_agreement(port, ranked) for port, ranked in pairs.items()),
    ]


def _rank_text(said: ranks.Ranking, one: ranks.Ranking | None) -> str:
    if one is None:
        return "-"
    value = ranks.spearman(said, one)
    return f"{one}" if value is None else f"{one} {value:+.2f}"


def _agreement(port: str, pairs: Sequence[tuple[ranks.Ranking, ranks.Ranking]]) -> str:
    values = [value for said, one in pairs if (value := ranks.spearman(said, one)) is not None]
    same, clear = (sum(counts) for counts in zip(*(ranks.clear_pairs(*pair) for pair in pairs), strict=True))
    mean = f", mean coefficient {sum(values) / len(values):+.2f}" if values else ""
    return (
        f"{port}: {same} of the {clear} pairs that differ by a factor of {ranks.CLEAR:g} as published are in that "
        f"order here{mean}"
    )


# --- what should not be -----------------------------------------------------------------------------------------------


def _alarms(view: View) -> list[str]:
    if not view.correct:
        return []
    cells = [cell for row in view.correct for cell in row.cells.values()]
    run = sum(one.schedules for cell in cells for one in cell.trials)
    alarms = list(view.false_alarms())
    names = ", ".join(dict.fromkeys(row.subject.name for row in view.correct))
    told = f"False alarms: {len(alarms)} in {run:,} schedules of programs without a bug ({names})."
    return [*textwrap.wrap(told, WIDTH), *_wrong("FALSE ALARM", alarms)]


def _wrong(what: str, found: Iterable[tuple[Key, Trial]]) -> list[str]:
    lines = [f"{what}: {key.kernel}, {key.port}, {key.policy}, seed {one.seed}: {one.note}" for key, one in found]
    more = [f"... and {len(lines) - _NOTES_MAX:,} more"] if len(lines) > _NOTES_MAX else []
    return lines[:_NOTES_MAX] + more


def _made(view: View) -> list[str]:
    used = sorted({one.made for row in view.rows for cell in row.cells.values() for one in cell.trials})
    made = (view.made[place] for place in used)
    return [
        f"made at {one.commit}: Python {one.python}, Trio {one.trio}, {one.cores} cores, {one.jobs} trials at a time"
        for one in made
    ]
