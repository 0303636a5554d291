"""The published figures: schedules to the first bug, mean of 20 trials, at most 10,000 schedules each.

From the tables of SURW (Zhao et al.: Selectively Uniform Concurrency Testing, ASPLOS 2025), over the programs of
SCTBench (Thomson, Donaldson, Betts: PPoPP 2014). Values only.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import attrs

TRIALS = 20
CAP = 10_000
CAPS: Mapping[str, int] = MappingProxyType({"safestack": 1_000_000})
"""How many schedules a trial has at most, where that is not `CAP`."""

RANKED = ("surw", "pct-3", "pos", "random")
"""The policies that figures are published for, in the order of the tables below."""


@attrs.frozen
class Figure:
    """What is published of one policy on one kernel."""

    mean: float | None
    """Schedules to the first bug, over the trials that found it; None: none did, or nothing but that it is found."""
    found: int = TRIALS
    """In how many of the trials."""


_X = (None, 0)
_Given = int | tuple[int | None, int]


def _figures(*given: _Given) -> Mapping[str, Figure]:
    figures = (Figure(*one) if isinstance(one, tuple) else Figure(one) for one in given)
    return MappingProxyType(dict(zip(RANKED, figures, strict=True)))


PUBLISHED: Mapping[str, Mapping[str, Figure]] = MappingProxyType(
    {
        "account": _figures(6, 4, 4, 18),
        "bluetooth_driver": _figures(70, 112, 36, 215),
        "circular_buffer": _figures(3, 9, 2, 4),
        "deadlock01": _figures(2, 13, 4, 3),
        "lazy01": _figures(2, 5, 5, 21),
        "queue": _figures(2, 3, 1, 1),
        "stack": _figures(5, 3, 2, 176),
        "reorder_3": _figures(7, 185, 86, _X),
        "reorder_5": _figures(10, 647, 2_169, _X),
        "reorder_10": _figures(17, (3_225, 16), _X, _X),
        "reorder_20": _figures(6, 3_005, _X, _X),
        "reorder_100": _figures(194, _X, _X, _X),
        "twostage": _figures(8, 13, 15, 464),
        "twostage_20": _figures(6, 159, 156, _X),
        "twostage_100": _figures(454, (7_466, 3), (6_674, 3), _X),
        "safestack": _figures((368_921, 19), _X, _X, _X),
        "starvation": MappingProxyType({"pct-3": Figure(None), "random": Figure(None, 0)}),
    }
)
"""By kernel and policy; a kernel or a policy that is not here has no figure."""
