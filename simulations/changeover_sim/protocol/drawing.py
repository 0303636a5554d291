"""Draws the table: a row for each kernel, a mark for each policy, on a logarithmic axis of schedules to the first bug.

Pure but for matplotlib, which draws into memory, and the file at the end. The same view gives the same bytes. Colours
are those of Okabe and Ito, which colour-blind readers tell apart; the shapes say the same without colour.
"""

from __future__ import annotations

import importlib
import importlib.util
import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from changeover_sim.kernels.port import PORTS
from changeover_sim.protocol.published import PUBLISHED, RANKED
from changeover_sim.protocol.sheet import whole
from changeover_sim.protocol.view import Row, View

# matplotlib has no types that a strict checker could follow, so its objects are Any here.

WIDTH_INCHES = 9.4
"""Of 96 pixels each: as wide as a README."""
ROW_INCHES, TOP_INCHES, BOTTOM_INCHES = 0.34, 0.85, 0.6
LEFT, RIGHT = 0.155, 0.985
"""Shares of the width; fixed, because a layout that is computed differs in its last bits from time to time."""
GROUND, INK, FAINT, GRID, BAND = "#ffffff", "#1f2328", "#59636e", "#d1d9e0", "#f4f6f8"
"""The ground is opaque: the picture reads the same on a light page and on a dark one."""
CAP_COLOUR = "#8c959f"
SPREAD = 0.68
"""How much of a row's height its marks take."""
LEAST = 0.7
"""Where the axis begins: left of one schedule."""


@attrs.frozen
class Look:
    """How a policy is drawn."""

    mark: str
    colour: str


LOOKS: Mapping[str, Look] = {
    "surw": Look("o", "#0072b2"),
    "pct-3": Look("s", "#d55e00"),
    "pos": Look("^", "#009e73"),
    "random": Look("D", "#cc79a7"),
    "portfolio": Look("*", "#1f2328"),
    "starvation": Look("v", "#e69f00"),
}


class NotDrawn(ValueError):
    """The picture cannot be drawn, or not there."""


def check(path: Path) -> None:
    """Find out before hours of trials whether they can be drawn behind them; raises `NotDrawn`."""
    if path.suffix != ".svg":
        raise NotDrawn(f"--svg {path} must end in .svg")
    if not path.parent.is_dir():
        raise NotDrawn(f"--svg {path} is in no folder that there is")
    if importlib.util.find_spec("matplotlib") is None:
        raise NotDrawn(
            'the picture needs matplotlib; install it with: pip install "changeover[demo]", or leave out --svg'
        )


def write(view: View, path: Path) -> None:
    """Draw a view into a file; raises `NotDrawn`, and `OSError`."""
    check(path)
    whole(path, draw(view).decode())


def draw(view: View) -> bytes:
    """Return the picture as SVG."""
    matplotlib: Any = importlib.import_module("matplotlib")
    style = {"font.size": 9.0, "svg.hashsalt": "changeover", "text.color": INK, "axes.edgecolor": GRID,
             "axes.labelcolor": FAINT, "xtick.color": FAINT, "ytick.color": INK, "svg.fonttype": "path"}  # fmt: skip
    into = io.BytesIO()
    with matplotlib.rc_context(style):
        _figure(view).savefig(into, format="svg", facecolor=GROUND, metadata={"Date": None, "Creator": None})
    return _numbered(into.getvalue())


_NAME = re.compile(rb"(?<=[#\"])[mp][0-9a-f]{10}(?=[)\"])")


def _numbered(svg: bytes) -> bytes:
    """Give numbers to what an SVG names: Matplotlib's names come from the last bits of its figures."""
    names: dict[bytes, bytes] = {}
    return _NAME.sub(lambda found: names.setdefault(found[0], b"n%d" % len(names)), svg)


def _figure(view: View) -> Any:
    kernels = view.kernels()
    ports = [port for port in PORTS if any(port in by_port for by_port in kernels.values())]
    height = TOP_INCHES + BOTTOM_INCHES + ROW_INCHES * max(len(kernels), 1)
    figure: Any = importlib.import_module("matplotlib.figure").Figure(figsize=(WIDTH_INCHES, height))
    columns = figure.subplots(1, max(len(ports), 1), sharey=True, squeeze=False)[0]
    top, bottom = 1 - TOP_INCHES / height, BOTTOM_INCHES / height
    figure.subplots_adjust(left=LEFT, right=RIGHT, top=top, bottom=bottom, wspace=0.06)
    for axes, port in zip(columns, ports, strict=False):
        _panel(axes, port, [by_port.get(port) for by_port in kernels.values()], view)
    _frame(figure, columns, list(kernels), view, height)
    return figure


def _panel(axes: Any, port: str, rows: Sequence[Row | None], view: View) -> None:
    """Draw the kernels of one port."""
    axes.set_title(port, fontsize=9, color=FAINT, loc="left")
    axes.set_xscale("log")
    axes.set_xlim(LEAST, 2.4 * max((row.subject.cap for row in view.buggy), default=1))
    axes.set_axisbelow(True)
    axes.grid(axis="x", color=GRID, linewidth=0.6)
    axes.minorticks_off()
    axes.tick_params(length=0)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    for place, row in enumerate(rows):
        if place % 2 == 0:
            axes.axhspan(place - 0.5, place + 0.5, color=BAND, linewidth=0, zorder=0)
        if row is not None:
            _row(axes, place, row, view.policies)


def _row(axes: Any, place: int, row: Row, policies: Sequence[str]) -> None:
    """Draw the marks of one kernel: full where they were measured, hollow where they are published."""
    cap = row.subject.cap
    axes.plot([cap, cap], [place - 0.5, place + 0.5], color=CAP_COLOUR, linewidth=1.0, linestyle=(0, (3, 2)), zorder=1)
    for number, policy in enumerate(policies):
        height = place + ((number + 0.5) / len(policies) - 0.5) * SPREAD
        cell, said = row.cells.get(policy), PUBLISHED.get(row.subject.name, {}).get(policy)
        if said is not None and (said.mean is not None or not said.found):
            _mark(axes, cap if said.mean is None else said.mean, height, policy, full=False)
        if cell is not None and (cell.mean is not None or cell.done):
            _mark(axes, cap if cell.mean is None else cell.mean, height, policy, full=True)


def _mark(axes: Any, x: float, y: float, policy: str, *, full: bool) -> None:
    look = LOOKS.get(policy, Look("P", FAINT))
    size = (4.2 if full else 5.6) + 2.0 * (look.mark == "*")
    axes.plot(
        [x], [y], marker=look.mark, markersize=size, linestyle="none", clip_on=False, zorder=4 if full else 3,
        markerfacecolor=look.colour if full else "none", markeredgecolor=look.colour, markeredgewidth=0.8,
    )  # fmt: skip


def _frame(figure: Any, columns: Sequence[Any], names: Sequence[str], view: View, height: float) -> None:
    """Write what the picture is, whose mark is whose, and the kernels' names."""
    columns[0].set_yticks(range(len(names)), names)
    columns[0].set_ylim(max(len(names), 1) - 0.5, -0.5)
    figure.text(0.01, 1 - 0.2 / height, "Schedules to the first bug", fontsize=12, fontweight="bold", va="center")
    line: Any = importlib.import_module("matplotlib.lines").Line2D
    looks = {policy: LOOKS.get(policy, Look("P", FAINT)) for policy in view.policies}
    marks = [line([], [], marker=look.mark, color=look.colour, linestyle="none", label=name, markersize=5)
             for name, look in looks.items()]  # fmt: skip
    hollow = {"marker": "o", "markerfacecolor": "none", "color": FAINT, "linestyle": "none", "markersize": 5.6}
    if any(policy in RANKED for policy in view.policies):
        marks.append(line([], [], label="hollow: published", **hollow))
    marks.append(line([], [], color=CAP_COLOUR, linestyle=(0, (3, 2)), label="at the cap: not found"))
    place = {"loc": "upper left", "bbox_to_anchor": (0.0, 1 - 0.3 / height), "borderaxespad": 0.2}
    figure.legend(handles=marks, ncols=len(marks), frameon=False, fontsize=8, columnspacing=1.2,
                  handletextpad=0.3, **place)  # fmt: skip
    text = f"mean over those of {view.trials} trials that found it, logarithmic"
    figure.text((LEFT + RIGHT) / 2, 0.18 / height, text, ha="center", va="center", color=FAINT, fontsize=8)
