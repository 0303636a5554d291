"""Draws a run: traffic, latency, errors and saga steps below each other, over one time line with the acts marked.

Pure but for matplotlib, which draws into memory; no window, no global state of matplotlib's is touched. Knows nothing
of engines. Colours are those of Okabe and Ito, which colour-blind readers tell apart.
"""

from __future__ import annotations

import io
import logging
import re
from collections.abc import Mapping, Sequence
from itertools import pairwise, zip_longest
from typing import Any

import attrs

from changeover_plugins.demo.digits import need
from changeover_plugins.demo.series import Outcome, Series, StepSpan

# matplotlib has no types that a strict checker could follow, so its objects are Any here.

INCHES = (12.0, 9.2)
DPI = 150
"""Of the PNG: 1800 pixels wide, so that it stays sharp where it is shown at 1200."""
GROUND, INK, FAINT, GRID = "#ffffff", "#1f2328", "#59636e", "#d1d9e0"
"""The ground is opaque: the picture reads the same on a light page and on a dark one."""
ACT_GROUND = "#eef2f6"

COLOURS = ("#56b4e9", "#e69f00", "#009e73", "#cc79a7", "#f0e442")
"""The versions that answer, in order; a sixth begins again."""
FELL_BACK = "#d55e00"
BLUE = "#0072b2"

STEPS = ("validate", "load", "warm", "shift", "drain", "unload")
STEP_LOOKS: Mapping[Outcome, tuple[str, str, str]] = {
    "done": ("done", "|", BLUE),
    "failed": ("failed", "X", FELL_BACK),
    "interrupted": ("interrupted by a newer order", "s", COLOURS[1]),
    "undone": ("undone", "<", "#cc79a7"),
    "open": ("not ended", "|", FAINT),
}
"""How a step looks: the word for it, its mark, its colour."""
NEWLINE = "\n"
SHORT_S = 0.12
"""A shorter step is drawn as a mark: as a bar nobody would see it."""
NAME_SHARE = 0.06
"""How much of the time line the name of an act takes."""
SECONDS = 5
"""From one mark of the time line to the next."""
POINTS = 72
"""In an inch."""
UNDONE_POINTS = 7.0
"""How far to the right of its moment the mark of what was undone stands."""
LATENCIES_MS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
"""What is written at the axis of latencies, as far as it goes."""


@attrs.frozen
class Caption:
    """What is written on the picture."""

    title: str
    kinds: Mapping[str, str]
    """What each version is, in a word."""


def draw(series: Series, caption: Caption, formats: Sequence[str]) -> dict[str, bytes]:
    """Return the picture in each of the formats, `png` or `svg`; takes a second or two.

    Raises LoaderNotInstalled without matplotlib.
    """
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # that it builds its font cache is no news of ours
    matplotlib = need("matplotlib")
    # The same run gives the same file: no date in it, and ids that come from what is drawn.
    style = {"font.size": 10.0, "svg.hashsalt": "changeover", "text.color": INK, "axes.edgecolor": GRID,
             "axes.labelcolor": INK, "xtick.color": FAINT, "ytick.color": FAINT, "hatch.linewidth": 0.6}  # fmt: skip
    with matplotlib.rc_context(style):
        return {name: _saved(_figure(series, caption), name) for name in formats}  # each laid out afresh, hence alike


_NAME = re.compile(rb"(?<=[#\"])p[0-9a-f]{10}(?=[)\"])")


def _saved(figure: Any, name: str) -> bytes:
    into = io.BytesIO()
    figure.savefig(into, format=name, dpi=DPI, facecolor=GROUND, metadata={"Date": None} if name == "svg" else {})
    return _numbered(into.getvalue()) if name == "svg" else into.getvalue()


def _numbered(svg: bytes) -> bytes:
    """Give numbers to what an SVG names: Matplotlib's names come from the last bits of a layout, which vary."""
    names: dict[bytes, bytes] = {}
    return _NAME.sub(lambda found: names.setdefault(found[0], b"p%d" % len(names)), svg)


def _figure(series: Series, caption: Caption) -> Any:
    figure = need("matplotlib.figure").Figure(figsize=INCHES, layout="constrained")
    need("matplotlib.backends.backend_agg").FigureCanvasAgg(figure)
    figure.suptitle(caption.title, x=0.01, ha="left", fontsize=13, fontweight="bold")
    share, latency, errors, steps = figure.subplots(4, 1, sharex=True, height_ratios=(3.2, 2.4, 1.6, 2.2))
    for axes in (share, latency, errors, steps):
        _prepare(axes, series)
    _name_acts(share, series)
    _draw_share(share, series, caption)
    _draw_latency(latency, series)
    _draw_errors(errors, series)
    _draw_steps(steps, series)
    steps.set_xlabel("seconds since the clients began", color=FAINT)
    steps.xaxis.set_major_locator(need("matplotlib.ticker").MultipleLocator(SECONDS))
    steps.set_xlim(0, series.edges_s[-1] if series.edges_s else 1)
    return figure


def _prepare(axes: Any, series: Series) -> None:
    """Give a panel its frame, and shade the acts in it."""
    axes.set_facecolor(GROUND)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(length=3)
    for act in series.acts:
        axes.axvspan(act.began_s, act.ended_s, color=ACT_GROUND, zorder=0, lw=0)


def _heading(axes: Any, text: str) -> None:
    axes.set_title(text, loc="left", fontsize=10.5, fontweight="bold", color=INK)


def _legend(axes: Any, handles: Sequence[Any] | None = None) -> None:
    """Put the legend into the line of the heading: beside the panel it would take the time line's room."""
    found = axes.get_legend_handles_labels()[0] if handles is None else handles
    axes.legend(handles=found, loc="lower right", bbox_to_anchor=(1, 0.985), ncols=max(1, len(found)), frameon=False,
                fontsize=9.5, borderaxespad=0, handlelength=1.3, columnspacing=1.6)  # fmt: skip


def _name_acts(axes: Any, series: Series) -> None:
    """Write each act's number above its beginning, and its name where there is room."""
    for act, after in zip_longest(series.acts, series.acts[1:]):
        number, *name = act.name.split()
        room_s = (after.began_s if after else series.edges_s[-1]) - act.began_s
        label = NEWLINE.join([number, *name] if room_s > NAME_SHARE * series.edges_s[-1] else [number])
        axes.annotate(label, (act.began_s, 1), (0, 60), xycoords=("data", "axes fraction"),
                      textcoords="offset points", va="top", ha="left", fontsize=9, color=INK)  # fmt: skip
        axes.axvline(act.began_s, color=INK, lw=0.8, ls=(0, (2, 3)), zorder=3)


# --- the panels -----------------------------------------------------------------------------------------------------


def _draw_share(axes: Any, series: Series, caption: Caption) -> None:
    """Stack the shares of all versions, and on top of the old one's what it answered in the new one's place."""
    _heading(axes, "Who answered (share of the answers)")
    totals = [sum(counts) for counts in zip(*series.answered.values(), strict=True)]
    below = [0.0] * len(totals)
    for number, (version, counts) in enumerate(series.answered.items()):
        colour = COLOURS[number % len(COLOURS)]
        above = [low + (count / total if total else 0) for low, count, total in zip(below, counts, totals, strict=True)]
        label = f"{version}: {caption.kinds.get(version, '')}".rstrip(": ")
        _steps_between(axes, series.edges_s, below, above, facecolor=colour, label=label)
        below = above
    axes.set_ylim(0, 1)
    axes.yaxis.set_major_formatter(need("matplotlib.ticker").PercentFormatter(1, decimals=0))
    _legend(axes)


def _draw_latency(axes: Any, series: Series) -> None:
    _heading(axes, "Latency as the clients saw it (ms)")
    for values, colour, label in ((series.p99_ms, FAINT, "p99"), (series.p50_ms, BLUE, "p50")):
        known = [float("nan") if value is None else value for value in values]
        if known:
            axes.stairs(known, series.edges_s, baseline=None, color=colour, lw=1.1, label=label)
    ticker = need("matplotlib.ticker")
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(ticker.FixedLocator(LATENCIES_MS))
    axes.yaxis.set_major_formatter(ticker.FormatStrFormatter("%g"))
    axes.yaxis.set_minor_locator(ticker.NullLocator())
    axes.grid(axis="y", color=GRID, lw=0.6)
    _legend(axes)


def _draw_errors(axes: Any, series: Series) -> None:
    """Set what the fallback kept from the clients against what reached them."""
    _heading(axes, "Errors")
    widths = [b - a for a, b in pairwise(series.edges_s)]
    kept, seen = sum(series.fell_back), sum(series.lost)
    for counts, colour, label in (
        (series.fell_back, FELL_BACK, f"kept from the clients by the fallback: {kept:,}"),
        (series.lost, INK, f"seen by the clients: {seen:,}"),
    ):
        axes.bar(series.edges_s[:-1], counts, widths, align="edge", color=colour, label=label)
    axes.set_ylim(0, max(1.0, 1.15 * max((*series.fell_back, *series.lost), default=0)))
    axes.yaxis.set_major_locator(need("matplotlib.ticker").MaxNLocator(3, integer=True))
    _legend(axes)


def _draw_steps(axes: Any, series: Series) -> None:
    """Draw each step of each swap in its row: a bar, or a mark where a bar would be too short to see."""
    _heading(axes, "Steps of the sagas")
    for span in series.steps:
        _draw_span(axes, span)
    axes.set_yticks(range(len(STEPS)), STEPS)
    axes.set_ylim(len(STEPS) - 0.4, -0.6)
    axes.grid(axis="y", color=GRID, lw=0.6)
    axes.set_axisbelow(True)
    line = need("matplotlib.lines").Line2D
    handles = [
        line([], [], marker=mark, color=colour, lw=0, ms=7, mew=1.6, label=word)
        for outcome, (word, mark, colour) in STEP_LOOKS.items()
        if any(span.outcome == outcome for span in series.steps)
    ]
    _legend(axes, handles)


def _draw_span(axes: Any, span: StepSpan) -> None:
    row, (_, mark, colour) = STEPS.index(span.step), STEP_LOOKS[span.outcome]
    lasted_s = span.ended_s - span.began_s
    if lasted_s >= SHORT_S:
        axes.barh(row, lasted_s, 0.56, span.began_s, color=colour)
    if lasted_s < SHORT_S or span.outcome == "failed":
        # What was undone stands beside what was done or failed in the same moment.
        points = UNDONE_POINTS if span.outcome == "undone" else 0.0
        beside = need("matplotlib.transforms").ScaledTranslation(points / POINTS, 0, axes.figure.dpi_scale_trans)
        axes.plot(span.ended_s, row, mark, color=colour, ms=7, mew=1.6, transform=axes.transData + beside)


def _steps_between(axes: Any, edges: Sequence[float], low: Sequence[float], high: Sequence[float], **look: Any) -> None:
    """Fill between two flights of stairs."""
    if low:
        axes.fill_between(edges, [*low, low[-1]], [*high, high[-1]], step="post", lw=0, **look)
