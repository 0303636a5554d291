"""Whose turn it is: each model has one slot, and the swaps that are ordered while it is taken wait in a line.

A swap holds the slot until its pivot, and again while it is turned round after it. Belongs to the loop; spawns nothing.
"""

from __future__ import annotations

from collections import deque
from typing import Generic, Protocol, TypeVar

WAITING_MAX = 100
"""So many swaps of one model wait at most."""


class Contender(Protocol):
    """A swap, as far as its turn is concerned."""

    def begin(self) -> None:
        """Hear that its turn has come."""
        ...


S = TypeVar("S", bound=Contender)


class Slots(Generic[S]):
    """The slots of all models."""

    def __init__(self) -> None:
        """Begin with every slot free."""
        self._holders: dict[str, S] = {}
        self._waiting: dict[str, deque[S]] = {}

    def holder(self, model: str) -> S | None:
        """Return the swap whose turn it is, or None."""
        return self._holders.get(model)

    def waiting(self, model: str) -> tuple[S, ...]:
        """Return the swaps that wait, the next one first."""
        return tuple(self._waiting.get(model, ()))

    def everybody(self) -> tuple[S, ...]:
        """Return every swap that waits, the last one first, then those whose turn it is."""
        lines = [swap for line in self._waiting.values() for swap in reversed(line)]
        return (*lines, *self._holders.values())

    def enter(self, model: str, swap: S) -> None:
        """Give the swap the slot, or let it wait at the end of the line."""
        if model in self._holders:
            self._waiting.setdefault(model, deque()).append(swap)
        else:
            self._holders[model] = swap
            swap.begin()

    def take_back(self, model: str, swap: S) -> bool:
        """Give the slot to a swap that has passed its pivot; False where it is taken."""
        return self._holders.setdefault(model, swap) is swap

    def leave(self, model: str, swap: S) -> None:
        """Free the slot, or leave the line; nothing happens where the swap is in neither."""
        if self._holders.get(model) is swap:
            del self._holders[model]
            line = self._waiting.get(model)
            if line:
                following = self._holders[model] = line.popleft()
                following.begin()
        elif swap in self._waiting.get(model, ()):
            self._waiting[model].remove(swap)
        if not self._waiting.get(model):
            self._waiting.pop(model, None)
