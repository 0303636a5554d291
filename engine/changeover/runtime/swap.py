"""A swap as it was ordered, and the parts of an engine that swaps work with. Owns no state."""

from __future__ import annotations

from collections.abc import Callable

import attrs

from changeover.core.shift import Shift
from changeover.core.values import Drain, Timeouts, VersionKey
from changeover.runtime.desires import Desires
from changeover.runtime.events import Bus
from changeover.runtime.host import Host
from changeover.runtime.ports import Journal, Ports
from changeover.runtime.router import Router
from changeover.runtime.slots import Slots
from changeover.runtime.version import Version


@attrs.frozen
class Pair:
    """One model's part in a swap."""

    old: VersionKey
    """Of an order that waits for its turn: the version that is active when it gets it."""
    new: VersionKey
    expected: str | None = None
    """The version that must be active when its turn comes; None: any."""

    @property
    def model(self) -> str:
        """The model's name."""
        return self.new.model

    def __str__(self) -> str:
        """Return one readable clause."""
        return f"{self.model} from {self.old.version} to {self.new.version}"


@attrs.frozen
class Swap:
    """What was ordered."""

    id: str
    pairs: tuple[Pair, ...]
    """One for each model, in order of their names."""
    drain: Drain
    plan: Shift
    timeouts: Timeouts
    rollback_of: str | None = None
    waited: bool = False
    """True where it had to wait for another swap of one of its models."""

    @property
    def models(self) -> tuple[str, ...]:
        """The names of its models, in order."""
        return tuple(pair.model for pair in self.pairs)

    @property
    def news(self) -> frozenset[VersionKey]:
        """The versions that it swaps to."""
        return frozenset(pair.new for pair in self.pairs)

    @property
    def name(self) -> str:
        """The model, or the group's models joined by "+"."""
        return "+".join(self.models)

    @property
    def keys(self) -> frozenset[VersionKey]:
        """Every version that takes part."""
        return frozenset(key for pair in self.pairs for key in (pair.old, pair.new))

    def __str__(self) -> str:
        """Return one readable clause."""
        return " and ".join(map(str, self.pairs))


@attrs.frozen
class SwapWorld:
    """What a swap needs of the engine."""

    ports: Ports
    bus: Bus
    host: Host
    router: Router
    journal: Journal
    version: Callable[[VersionKey], Version]
    """Returns the version of a key; raises `ModelNotRegistered`."""
    desires: Desires
    """Which versions shall be active, as the journal has it."""
    slots: Slots
    """Of `Saga`s, which this module stands below."""
