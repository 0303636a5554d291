"""What a run is like: its models, its actors, its faults and how its lives end; and what a scenario is, that draws it.

Values only. Everything in a shape is drawn before the first step, and stands in the header of a failure.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import attrs

from changeover_sim.simulate.cast import Part
from changeover_sim.simulate.streams import Streams

End = Literal["close", "close-early", "cancel-early", "kill", "power-cut"]
"""How a life ends: in order with nothing going on, in the middle of everything, or with its process."""
SUDDEN = ("kill", "power-cut")


@attrs.frozen
class Ending:
    """When and how a life ends."""

    how: End = "close"
    after_s: float = 0.0
    """So many seconds behind its beginning, ..."""
    rounds: int = 0
    """... and so many rounds of everybody else."""
    entry: int | None = None
    """Instead: when this many entries of the journal were ordered in it, and so many rounds later."""
    line: str | None = None
    """Instead: when an entry was ordered that tells of this, such as `undo` or `drain`, and so many rounds later."""

    def __str__(self) -> str:
        """Return a clause."""
        at = f"entry {self.entry}" if self.entry is not None else self.line or f"{self.after_s:g} s"
        return f"{self.how} at {at}+{self.rounds}"


@attrs.frozen
class Shape:
    """What a run is like."""

    parts: tuple[Part, ...]
    """Every version that there is."""
    first: Mapping[str, str]
    """By model, the version that is loaded before the actors begin."""
    actors: tuple[tuple[str, int], ...]
    """Who acts, by name, and how many of each."""
    faults: frozenset[str] = frozenset()
    lives: tuple[Ending, ...] = (Ending(),)
    """How the lives with faults end; behind the last one come two without."""
    horizon_s: float = 6.0
    """How long actors act in a life that ends in order."""
    options: Mapping[str, Any] = attrs.field(factory=dict[str, Any])
    """What the engine is opened with."""
    durability: Literal["process", "power"] = "process"
    traits: Mapping[str, Any] = attrs.field(factory=dict[str, Any])
    """What else the scenario has told its actors: the plans they use, the drains, how hurried they are."""

    @property
    def models(self) -> tuple[str, ...]:
        """The models, without bystanders."""
        return tuple(dict.fromkeys(part.model for part in self.parts if not part.bystander))

    def versions(self, model: str) -> tuple[str, ...]:
        """Return the versions of a model."""
        return tuple(part.version for part in self.parts if part.model == model)

    def lines(self) -> list[str]:
        """Return it in words, for the header of a failure."""
        models = [f"{model} {'/'.join(self.versions(model))}" for model in dict.fromkeys(p.model for p in self.parts)]
        return [
            f"models: {', '.join(models)}",
            f"actors: {', '.join(f'{count} {name}' for name, count in self.actors)}",
            f"faults: {', '.join(sorted(self.faults)) or 'none'}",
            f"lives: {', '.join(map(str, self.lives))}; journal: {self.durability}",
            f"engine: {', '.join(f'{name}={value}' for name, value in self.options.items()) or 'as it comes'}",
        ]


@attrs.frozen
class Scenario:
    """A kind of run."""

    name: str
    says: str
    """What it is about, in a sentence."""
    draw: Callable[[Streams], Shape]
    """Returns what one run of it is like."""
