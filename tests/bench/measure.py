"""What every benchmark needs: rounds that alternate, medians with their spread, and the table at the end.

Owns no state and spawns nothing. It never judges a time: a figure that is missed is printed, and no test fails.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import attrs
import trio


@attrs.frozen
class Figure:
    """One line of the table."""

    name: str
    wanted: str
    """Empty where nothing is wanted and the line stands there to compare with."""
    measured: str
    met: bool | None = None
    """None where nothing is wanted."""

    @property
    def mark(self) -> str:
        """Return one word for whether it is what was wanted."""
        return {True: "yes", False: "MISSED", None: ""}[self.met]


@attrs.frozen
class Spread:
    """A handful of measurements of the same thing."""

    values: tuple[float, ...]

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        """Keep some values, at least one."""
        return cls(tuple(values))

    @classmethod
    def ratio(cls, over: Sequence[float], under: Sequence[float]) -> Spread:
        """Return the ratios of what was measured in the same round."""
        return cls(tuple(a / b for a, b in zip(over, under, strict=True)))

    @property
    def median(self) -> float:
        """Return the middle one."""
        return statistics.median(self.values)

    @property
    def most(self) -> float:
        """Return the largest one."""
        return max(self.values)

    def text(self, unit: str, *, scale: float = 1.0, digits: int = 2) -> str:
        """Return the median and, in brackets, the least and the most, each times `scale`."""
        middle, least, most = (f"{v * scale:,.{digits}f}" for v in (self.median, min(self.values), max(self.values)))
        return f"{middle} {unit} [{least}-{most}]" if unit != "x" else f"{middle}x [{least}-{most}]"


def alternate(rounds: int, *sides: Callable[[], float]) -> list[list[float]]:
    """Measure every side once a round, so that what the machine does meanwhile meets all; the first is waste."""
    for side in sides:
        side()
    measured: list[list[float]] = [[] for _ in sides]
    for _ in range(rounds):
        for values, side in zip(measured, sides, strict=True):
            values.append(side())
    return measured


def percentile(values: Iterable[float], share: float) -> float:
    """Return the value that `share` of them do not exceed; there must be at least one."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def conditions() -> str:
    """Return what the figures depend on besides the code."""
    load = " ".join(f"{x:.2f}" for x in os.getloadavg())
    return f"Python {platform.python_version()}, Trio {trio.__version__}, {os.cpu_count()} CPUs, load {load}"


def table(figures: Sequence[Figure]) -> str:
    """Return the figures in columns."""
    rows = [("figure", "wanted", "measured", ""), *((f.name, f.wanted, f.measured, f.mark) for f in figures)]
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    lines = [" | ".join((*(cell.ljust(w) for cell, w in zip(row, widths, strict=False)), row[3])) for row in rows]
    return "\n".join(line.rstrip(" |") if row[3] == "" else line for line, row in zip(lines, rows, strict=True))


def command(title: str, bench: Callable[[bool], list[Figure]]) -> None:
    """Be the command line of one benchmark: measure, print, and write the figures down where `run.py` wants them."""
    parser = argparse.ArgumentParser(description=title)
    parser.add_argument("--quick", action="store_true", help="fewer rounds: to see that it runs, not to quote")
    parser.add_argument("--into", type=Path, help="write the figures to this file as JSON")
    options = parser.parse_args()
    say(f"{title}\n{conditions()}")
    figures = bench(options.quick)
    say(f"{table(figures)}\nafterwards: {conditions()}\n")
    if options.into is not None:
        options.into.write_text(json.dumps([attrs.asdict(figure) for figure in figures]), "utf-8")


def say(text: str) -> None:
    """Print at once, also into a pipe."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
