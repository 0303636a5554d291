"""The parts of an engine that its version actors work with. Owns no state."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import attrs

from changeover.core.values import VersionKey
from changeover.runtime.events import Bus
from changeover.runtime.host import Host
from changeover.runtime.loaded import LoadedModel
from changeover.runtime.ports import Ports
from changeover.runtime.supervisor import Supervisor


@attrs.frozen
class World:
    """What a version actor needs of the engine."""

    ports: Ports
    host: Host
    bus: Bus
    supervisor: Supervisor
    opened: Callable[[LoadedModel], None]
    """Called when a model can take requests."""
    shut: Callable[[LoadedModel], None]
    """Called when it takes no more."""
    park: Callable[[LoadedModel], None]
    """Called when it takes no more for now, and keeps its traffic."""
    unroute: Callable[[VersionKey], None]
    """Called when a version that is not loaded loses what traffic it had."""
    numbers: Iterator[int] = attrs.field(factory=itertools.count)
    """Tells tasks apart: a version that is registered anew may meet the task of its old self."""
