"""The wait-for graph as a drawing: tasks on a ring, an arrow from each that waits to whom it waits for.

Pure functions from waits to SVG.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from changeover_sim.explorer.telling.graph import Edge, cycle, edges
from changeover_sim.explorer.telling.markup import Markup, tag
from changeover_sim.explorer.telling.timeline import lane_name
from changeover_sim.explorer.waits import Wait

_NODES_MAX = 24
_LETTER = 7.4
_HIGH = 28
_BEND = 34
"""How far an arrow is bent aside, in pixels, so that two in opposite directions are two."""
_AT = 0.4
"""Where along an arrow its label stands: not in the middle, where arrows cross."""

Point = tuple[float, float]


def graph(waiting: Sequence[Wait]) -> Markup:
    """Return the drawing, the circle in thick lines; empty where nobody waits for anybody that is known."""
    every = edges(waiting)
    if not every:
        return Markup()
    inside = [wait.task for wait in cycle(waiting)]
    tasks = list(dict.fromkeys([*inside, *(task for edge in every for task in (edge.waiter, edge.holder))]))
    shown = tasks[:_NODES_MAX]
    at, (wide, high) = _ring(shown)
    told = {wait.task: str(wait) for wait in waiting}
    arrows = [_arrow(edge, at) for edge in every if edge.waiter in at and edge.holder in at]
    nodes = [_node(task, at[task], told.get(task, task), in_cycle=task in inside) for task in shown]
    parts = [
        tag("title", "Who waits for whom"),
        _heads(),
        *(line for line, _ in arrows),
        *(label for _, label in arrows),
        *nodes,
    ]
    more = [tag("p", f"{len(tasks) - len(shown)} more tasks are not drawn.")] if len(tasks) > len(shown) else []
    return tag("div", tag("svg", *parts, width=wide, height=high, role="group"), *more, class_="scroll")


def _ring(tasks: Sequence[str]) -> tuple[dict[str, Point], Point]:
    """Return the middle of each task's box, and the size of the drawing."""
    half = max(_wide(task) for task in tasks) / 2
    across, down = max(170.0, half + 24.0 * len(tasks)), max(50.0, 22.0 * len(tasks))
    middle = across + half + 20, down + _HIGH + 20
    found: dict[str, Point] = {}
    for n, task in enumerate(tasks):
        angle = 2 * math.pi * n / len(tasks) + math.pi
        found[task] = (middle[0] + across * math.cos(angle), middle[1] + down * math.sin(angle))
    return found, (2 * middle[0], 2 * middle[1])


def _wide(task: str) -> float:
    return len(lane_name(task)) * _LETTER + 20


def _node(task: str, at: Point, told: str, *, in_cycle: bool) -> Markup:
    (x, y), wide = at, _wide(task)
    box = tag("rect", x=x - wide / 2, y=y - _HIGH / 2, width=wide, height=_HIGH, rx=6)
    name = tag("text", lane_name(task), x=x, y=y + 4, text_anchor="middle")
    return tag("g", tag("title", told), box, name, class_="node cycle" if in_cycle else "node")


def _arrow(edge: Edge, at: Mapping[str, Point]) -> tuple[Markup, Markup]:
    """Return a bent arrow from the border of one box to that of the other, and what is waited for, to go beside it."""
    (x1, y1), (x2, y2) = at[edge.waiter], at[edge.holder]
    length = math.hypot(x2 - x1, y2 - y1) or 1.0
    bend = (x1 + x2) / 2 - (y2 - y1) / length * _BEND, (y1 + y2) / 2 + (x2 - x1) / length * _BEND
    begin, end = _border(edge.waiter, (x1, y1), bend), _border(edge.holder, (x2, y2), bend)
    way = f"M {begin[0]:.1f} {begin[1]:.1f} Q {bend[0]:.1f} {bend[1]:.1f} {end[0]:.1f} {end[1]:.1f}"
    name = "arrow cycle" if edge.in_cycle else "arrow"
    line = tag("path", d=way, class_=name, marker_end=f"url(#{'head-cycle' if edge.in_cycle else 'head'})")
    x, y = ((1 - _AT) ** 2 * begin[n] + 2 * _AT * (1 - _AT) * bend[n] + _AT**2 * end[n] for n in (0, 1))
    told = f"{edge.primitive} (cycle)" if edge.in_cycle else edge.primitive
    return line, tag("text", told, x=x, y=y + 4, text_anchor="middle", class_="label")


def _border(task: str, middle: Point, towards: Point) -> Point:
    """Return where the way from the middle of a box to a point leaves it."""
    dx, dy = towards[0] - middle[0], towards[1] - middle[1]
    share = min((_wide(task) / 2 + 4) / max(abs(dx), 0.01), (_HIGH / 2 + 4) / max(abs(dy), 0.01), 1.0)
    return middle[0] + dx * share, middle[1] + dy * share


def _heads() -> Markup:
    return tag("defs", _head("head", None), _head("head-cycle", "cycle"))


def _head(name: str, class_: str | None) -> Markup:
    point = tag("path", d="M 0 0 L 10 5 L 0 10 z")
    size = {"viewBox": "0 0 10 10", "refX": "9", "refY": "5", "markerWidth": "9", "markerHeight": "9"}
    return tag("marker", point, id=name, class_=class_, orient="auto", markerUnits="userSpaceOnUse", **size)
