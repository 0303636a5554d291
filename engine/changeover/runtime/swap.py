"""A swap as it was ordered, and the parts of an engine that swaps work with. Owns no state."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs

from changeover.core.shift import Shift
from changeover.core.values import Drain, Timeouts, VersionKey
from changeover.runtime.events import Bus
from changeover.runtime.host import Host
from changeover.runtime.ports import Journal, Ports
from changeover.runtime.router import Router
from changeover.runtime.slots import Slots
from changeover.runtime.version import Version


@attrs.frozen
class Swap:
    """What was ordered."""

    id: str
    old: VersionKey
    """Of an order that waits for its turn: the version that is active when it gets it."""
    new: VersionKey
    drain: Drain
    plan: Shift
    timeouts: Timeouts
    rollback_of: str | None = None
    waited: bool = False
    """True where it had to wait for another swap of its model."""
    expected: str | None = None
    """The version that must be active when its turn comes; None: any."""


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
    slots: Slots[Any]
    """Of `Saga`s, which this module stands below."""
