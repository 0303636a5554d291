"""How policies are ranked by what they need, and how far two rankings agree.

Pure functions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations

import attrs

from changeover_sim.protocol.cells import Cell
from changeover_sim.protocol.published import CAP, CAPS, PUBLISHED, RANKED, TRIALS

CLEAR = 2.0
"""Two policies are told apart where one needs so many times as much as the other."""
BEYOND = 5.0
"""Who has run so many times as many schedules as another needs, and found nothing, comes behind the other. One that
needs as many would have found the bug but for once in 87 times, where that need is the mean of 20 bugs."""


@attrs.frozen
class Ranking:
    """The policies of `RANKED` on one kernel."""

    needs: tuple[float, ...]
    """Schedules to a bug; infinitely many where none was found."""
    ranks: tuple[float, ...]
    """1 for the one that needs the fewest schedules; those alike have the mean of the ranks that they share."""

    def __str__(self) -> str:
        """Return places in the order of `RANKED`; those alike have the first one that they share, and `=` behind it."""
        places = (1 + sum(other < rank for other in self.ranks) for rank in self.ranks)
        shared = ("=" if self.ranks.count(rank) > 1 else "" for rank in self.ranks)
        return " ".join(map("{}{}".format, places, shared))


def ranking(needs: Sequence[float | None]) -> Ranking:
    """Return the ranking of those who need so many schedules, None for more than anybody; those alike share the mean.

    Fractional ranks, as Spearman's coefficient takes them.
    """
    plain = tuple(math.inf if need is None else need for need in needs)
    less = [sum(other < need for other in plain) for need in plain]
    return Ranking(plain, tuple(below + (plain.count(need) + 1) / 2 for below, need in zip(less, plain, strict=True)))


def published(kernel: str) -> Ranking | None:
    """Return the ranking of the published figures; None where there are none for each."""
    figures = [PUBLISHED.get(kernel, {}).get(policy) for policy in RANKED]
    cap, needs = CAPS.get(kernel, CAP), list[float | None]()
    for figure in figures:
        if figure is None:
            return None
        # As `Cell.expected` has it: all schedules that were run over the bugs that were found.
        missed = (TRIALS - figure.found) * cap
        needs.append(None if figure.mean is None else figure.mean + missed / figure.found)
    return ranking(needs)


def measured(cells: Sequence[Cell | None]) -> Ranking | None:
    """Return the ranking of the cells of `RANKED`; None where one may come anywhere: it found nothing in little."""
    known = [cell for cell in cells if cell is not None]
    most = max((cell.expected or 0.0 for cell in known), default=0.0)
    enough = BEYOND * most if most else math.inf
    if len(known) < len(cells) or not all(cell.found or _in_vain(cell) or cell.run >= enough for cell in known):
        return None
    return ranking([cell.expected for cell in known])


def _in_vain(cell: Cell) -> bool:
    """Return whether it found nothing in as many trials as the published figures have."""
    return cell.tried_out and len(cell.trials) >= TRIALS


def spearman(one: Ranking, other: Ranking) -> float | None:
    """Return Spearman's coefficient, 1 for the same order and -1 for the reverse; None where one has no order."""
    middle = (len(one.ranks) + 1) / 2
    left, right = ([rank - middle for rank in each.ranks] for each in (one, other))
    product = sum(a * b for a, b in zip(left, right, strict=True))
    scale = (sum(a * a for a in left) * sum(b * b for b in right)) ** 0.5
    return product / scale if scale else None


def clear_pairs(said: Ranking, one: Ranking) -> tuple[int, int]:
    """Return how many pairs of policies the first ranking tells apart by `CLEAR`, and how many the second has likewise.

    Two policies that are close change their order from one set of seeds to the next; that says nothing.
    """
    pairs = [pair for pair in combinations(range(len(said.needs)), 2) if _clear(*(said.needs[i] for i in pair))]
    first = ((a, b) if said.needs[a] < said.needs[b] else (b, a) for a, b in pairs)
    same = sum(one.needs[better] < one.needs[worse] for better, worse in first)
    return same, len(pairs)


def _clear(a: float, b: float) -> bool:
    return max(a, b) >= CLEAR * min(a, b) if a != b else False
