"""The states of one life's versions, as the engine's events tell them; what several oracles keep beside them.

Owns what was told last of each version. It judges nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import trio

if TYPE_CHECKING:
    from changeover import Event

EPS_S = 1e-6
"""Two virtual times that differ by less are the same: sums of floats are not exact."""
RESTING = ("registered", "unloaded", "evicted", "failed")


class Move(NamedTuple):
    """A version has gone from one state to another."""

    name: str
    """`model/version`."""
    model: str
    before: str
    now: str
    at_s: float


class States:
    """What state each version of one life is in."""

    def __init__(self) -> None:
        """Know of none."""
        self.of: dict[str, str] = {}
        """By `model/version`; what is not there is `registered`."""
        self.since_s: dict[str, float] = {}
        """By `model/version`, when its state was told last."""

    def hear(self, event: Event) -> Move | None:
        """Return how a version has moved, where an event tells of that; one that is forgotten is registered anew."""
        if event.kind not in ("version_state", "version_unregistered"):
            return None
        name, model = f"{event.model}/{event.version}", str(event.model)
        now = str(event.detail["state"]) if event.kind == "version_state" else "registered"
        before, at_s = self.of.get(name, "registered"), trio.current_time()
        self.of[name], self.since_s[name] = now, at_s
        return Move(name, model, before, now, at_s)

    def get(self, name: str) -> str:
        """Return the state of `model/version`."""
        return self.of.get(name, "registered")

    def ready(self, model: str) -> list[str]:
        """Return the names of a model's versions that are ready, in the order in which they were first heard of."""
        prefix = f"{model}/"
        return [name for name, state in self.of.items() if state == "ready" and name.startswith(prefix)]


class Clockwork:
    """Whether the virtual clock has moved since somebody looked; what is looked for at a move is judged once a time."""

    __slots__ = ("at_s",)

    def __init__(self) -> None:
        """Have never looked."""
        self.at_s = -1.0

    def has_moved(self) -> bool:
        """Return whether the clock has moved since the last look."""
        now = trio.current_time()
        if now == self.at_s:
            return False
        self.at_s = now
        return True
