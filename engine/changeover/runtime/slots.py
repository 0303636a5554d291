"""Whose turn it is: each model has one slot, and the swaps that are ordered while it is taken wait in a line.

A swap holds the slots of all its models until its pivot, and again while it is turned round after it; a group waits
until every one of them is free. Belongs to the loop; spawns nothing.
"""

from __future__ import annotations

from typing import Protocol

from changeover.core.values import VersionKey
from changeover.runtime import sites

WAITING_MAX = 100
"""So many swaps of one model wait at most."""


class Contender(Protocol):
    """A swap, as far as its turn is concerned."""

    @property
    def models(self) -> tuple[str, ...]:
        """The models whose slots it needs, all at once."""
        ...

    @property
    def keys(self) -> frozenset[VersionKey]:
        """Every version that takes part."""
        ...

    @property
    def news(self) -> frozenset[VersionKey]:
        """The versions that are about to get traffic."""
        ...

    def told(self, model: str) -> str:
        """Return what somebody is told who wants to swap a model of it, and may not."""
        ...

    def begin(self) -> None:
        """Hear that its turn has come."""
        ...


class Slots:
    """The slots of all models."""

    def __init__(self) -> None:
        """Begin with every slot free."""
        self._holders: dict[str, Contender] = {}
        self._line: list[Contender] = []
        self._moved_by: dict[str, str] = {}

    def holder(self, model: str) -> Contender | None:
        """Return the swap whose turn it is, or None."""
        return self._holders.get(model)

    def moved_by(self, model: str) -> str | None:
        """Return the id of the youngest swap of a model that has passed its pivot, also where it was undone since."""
        return self._moved_by.get(model)

    def waiting(self, model: str) -> tuple[Contender, ...]:
        """Return the swaps of a model that wait, the next one first."""
        return tuple(swap for swap in self._line if model in swap.models)

    def is_busy(self, model: str) -> bool:
        """Return whether a new swap of the model would have to wait."""
        return model in self._holders or bool(self.waiting(model))

    def everybody(self) -> tuple[Contender, ...]:
        """Return every swap that waits, the last one first, then those whose turn it is."""
        return (*reversed(self._line), *dict.fromkeys(self._holders.values()))

    def enter(self, swap: Contender) -> None:
        """Give the swap its slots, or let it wait at the end of the line."""
        if any(map(self.is_busy, swap.models)):
            if sites.ON:
                sites.sometimes("swap-waited-in-line")
            self._line.append(swap)
        else:
            self._take(swap)

    def take_back(self, swap: Contender) -> bool:
        """Give the slots to a swap that has passed its pivot; False, and nothing changes, where one is taken."""
        if any(self._holders.get(model, swap) is not swap for model in swap.models):
            return False
        self._holders.update(dict.fromkeys(swap.models, swap))
        return True

    def leave(self, swap: Contender, *, moved: str | None = None) -> None:
        """Free the slots, or leave the line; nothing happens where the swap is in neither.

        `moved` is the id of a swap that has passed its pivot.
        """
        for model in swap.models:
            if self._holders.get(model) is swap:
                del self._holders[model]
                if moved is not None:
                    self._moved_by[model] = moved
        self._line = [other for other in self._line if other is not swap]
        self._go_on()

    def _go_on(self) -> None:
        """Give everybody who can begin a turn, first come, first served; nobody passes by one who wants the same."""
        wanted: set[str] = set()
        for swap in tuple(self._line):
            if wanted.isdisjoint(swap.models) and self._holders.keys().isdisjoint(swap.models) and swap in self._line:
                self._line.remove(swap)
                self._take(swap)
            wanted.update(swap.models)

    def _take(self, swap: Contender) -> None:
        self._holders.update(dict.fromkeys(swap.models, swap))
        swap.begin()
