"""Which steps of a long schedule are shown: the deviations from first-in-first-out and what stands beside them.

Pure functions.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import attrs

from changeover_sim.explorer.trace import Step

_LAST = 3
_NEIGHBOURS = 1


@attrs.frozen
class Fold:
    """Steps in a row that are not shown."""

    count: int
    deviating: int
    """How many of them differ from first-in-first-out."""

    def __str__(self) -> str:
        steps = "1 step" if self.count == 1 else f"{self.count:,} steps"
        return (
            f"... {steps}, {self.deviating:,} of them out of order ..."
            if self.deviating
            else f"... {steps} in order ..."
        )


def folded(
    trace: Sequence[Step], heights: Sequence[int], lines_max: int | None, marked: Iterable[int] = ()
) -> list[int | Fold]:
    """Return the indices of the steps that fit into so many lines, in order, with a `Fold` for each gap.

    Where not all of them fit, the most telling go first: those numbered in `marked`, the last, the deviations from the
    last to the first, what stands beside all these, and then the rest from the end, what is only done again left out.
    """
    everything = list(range(len(trace)))
    if lines_max is None or sum(heights) <= lines_max:
        return list(everything)
    chosen: set[int] = set()
    for at in _by_weight(trace, set(marked)):
        more = {*chosen, at}
        if sum(heights[n] for n in more) + _gaps(more, len(trace)) <= lines_max:
            chosen = more
    lone = {n for n in everything if heights[n] == 1 and {n - 1, n + 1} <= chosen}  # as long as what would fold it
    return _with_folds(trace, sorted(chosen | lone))


def _by_weight(trace: Sequence[Step], marked: set[int]) -> Iterable[int]:
    """Return the indices of the steps, the most telling first, none of them twice."""
    last = len(trace) - 1
    ends = range(last, max(-1, last - _LAST), -1)
    first = [n for n, step in enumerate(trace) if step.number in marked]
    deviating = [n for n in range(last, -1, -1) if trace[n].deviates]
    told = [*first, last, *deviating]
    beside = [m for n in told for m in range(n - _NEIGHBOURS, n + _NEIGHBOURS + 1) if 0 <= m <= last]
    return dict.fromkeys([*first, *ends, *deviating, *beside, *_not_again(trace)])


def _not_again(trace: Sequence[Step]) -> Iterable[int]:
    """Return the last of all steps that are alike, from the end."""
    alike = {(step.task, step.begins, step.lines, step.ends): n for n, step in enumerate(trace)}
    return sorted(alike.values(), reverse=True)


def _gaps(chosen: set[int], count: int) -> int:
    """Return how many folds there are between, before and behind the steps chosen."""
    return sum(1 for n in chosen if n and n - 1 not in chosen) + (count - 1 not in chosen)


def _with_folds(trace: Sequence[Step], chosen: Sequence[int]) -> list[int | Fold]:
    found: list[int | Fold] = []
    before = -1
    for at in (*chosen, len(trace)):
        if at > before + 1:
            left_out = trace[before + 1 : at]
            found.append(Fold(len(left_out), sum(step.deviates for step in left_out)))
        found += [at] if at < len(trace) else []
        before = at
    return found
