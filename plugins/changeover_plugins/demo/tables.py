"""The demo's closing tables as text, from a report; how a terminal or a file shows them is the screen's business.

Owns no state and spawns nothing.
"""

from __future__ import annotations

from collections.abc import Iterable

import attrs

from changeover_plugins.demo.report import Report, VersionRow, WindowRow


@attrs.frozen
class Table:
    """A table as text; words stand left in their columns, numbers right."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    words: int
    """So many columns, from the left, are words."""
    note: str = ""
    """What a reader has to know about it."""


def tables(report: Report) -> tuple[Table, ...]:
    """Return all of them."""
    return _requests(report), _references(report), _latencies(report)


def _requests(report: Report) -> Table:
    rows = [
        (row.version, row.kind, *map(_count, (row.sent, row.answered, row.stood_in, row.lost)), _percent(row.accuracy))
        for row in report.versions
    ]
    right = sum(row.right for row in report.versions)
    accuracy = right / report.answered if report.answered else None
    sums = map(_count, (report.sent, report.answered, report.fell_back, report.lost))
    total = ("all", "", *sums, _percent(accuracy))
    return Table(
        f"Requests of {report.clients} clients, one held-out image each",
        ("version", "what it is", "sent", "answered", "as fallback", "lost", "accuracy"),
        (*rows, total),
        words=2,
    )


def _references(report: Report) -> Table:
    rows = [(row.version, *map(_count, _references_of(row))) for row in report.versions]
    sums = [sum(column) for column in zip(*map(_references_of, report.versions), strict=True)]
    return Table(
        "References (the engine's count) and models (a witness's count)",
        ("version", "acquired", "released", "held", "loaded", "closed", "raised", "used after close"),
        (*rows, ("all", *map(_count, sums))),
        words=1,
    )


def _references_of(row: VersionRow) -> tuple[int, ...]:
    return row.acquired, row.released, row.held, row.loaded, row.closed, row.raised, row.used_after_close


def _latencies(report: Report) -> Table:
    """Set each act against the windows at rest, and those against each other: that is how much p99 moves by itself."""
    rest_p99_ms = report.rest_p99_ms
    ratios = [window.p99_ms / rest_p99_ms for window in report.windows if window.at_rest]
    return Table(
        "Latency in ms: windows at rest, and one around each act; the order itself, and p99 in its time alone",
        ("window", "answered", "p50", "p99", "p99/rest", "most", "order", "p99 in it"),
        tuple(_window_cells(report.windows, rest_p99_ms)),
        words=1,
        note=f"Rest is the median window at rest; the p99 of those is {min(ratios):.2f} to {max(ratios):.2f} of its."
        if ratios
        else "",
    )


def _window_cells(windows: Iterable[WindowRow], rest_p99_ms: float) -> Iterable[tuple[str, ...]]:
    for window in windows:
        yield (
            window.name,
            _count(window.answered),
            f"{window.p50_ms:.2f}",
            f"{window.p99_ms:.2f}",
            f"{window.p99_ms / rest_p99_ms:.2f}",
            f"{window.max_ms:.1f}",
            "" if window.order_s is None else f"{window.order_s * 1000:,.0f}",
            "" if window.order_p99_ms is None else f"{window.order_p99_ms:.2f}",
        )


def _count(number: int) -> str:
    return f"{number:,}"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"
