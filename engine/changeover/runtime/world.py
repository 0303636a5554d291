"""The parts of an engine that its version actors work with. Owns no state."""

from __future__ import annotations

from collections.abc import Callable

import attrs

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
