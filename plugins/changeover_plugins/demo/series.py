"""What a run came to over time: bins of answers, latencies and errors, the steps of its sagas, and its acts.

Frozen values, as the picture and `--json` show them; times are seconds since the clients began. Owns no state and
spawns nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import attrs

Outcome = Literal["done", "failed", "interrupted", "undone", "open"]


@attrs.frozen
class StepSpan:
    """One step of one swap, from its beginning to its end."""

    swap: int
    """The number of the swap in this run, from 1."""
    to: str
    """The version that it brings."""
    step: str
    """`validate`, `load`, `warm`, `shift`, `drain` or `unload`."""
    began_s: float
    ended_s: float
    outcome: Outcome
    """How it ended; `interrupted`: by an order; `undone`: it was taken back, done or not; `open`: it has not ended."""


@attrs.frozen
class ShareChange:
    """The traffic as the engine split it from one moment on."""

    at_s: float
    shares: Mapping[str, float]
    """By version, above 0 to 1."""


@attrs.frozen
class Stretch:
    """One act on the time line."""

    name: str
    """Number and name, as the tables have them."""
    began_s: float
    ended_s: float
    """When its window ended; what it ordered had ended before."""


@attrs.frozen
class Series:
    """All of it; the series of bins are equally long, and bin `i` lies between `edges_s[i]` and `edges_s[i + 1]`."""

    edges_s: tuple[float, ...] = ()
    """When the counts were looked at; not quite even, because the clients come first."""
    answered: Mapping[str, tuple[int, ...]] = attrs.field(factory=dict[str, tuple[int, ...]])
    """Answers in each bin, by the version that gave them; every version that gave one is there."""
    fell_back: tuple[int, ...] = ()
    """Those among them that the old version gave because the new one had raised."""
    lost: tuple[int, ...] = ()
    """Errors that clients saw."""
    p50_ms: tuple[float | None, ...] = ()
    """The latency that half of the answers of a bin did not exceed; None where there were none."""
    p99_ms: tuple[float | None, ...] = ()
    shares: tuple[ShareChange, ...] = ()
    steps: tuple[StepSpan, ...] = ()
    """In the order in which they began."""
    acts: tuple[Stretch, ...] = ()
