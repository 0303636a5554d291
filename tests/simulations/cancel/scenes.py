"""All scenes, by the awaitable that they are about and what goes on when it is called."""

from __future__ import annotations

from collections.abc import Mapping

from tests.simulations.cancel.blocks import BLOCKS
from tests.simulations.cancel.engines import ENGINES
from tests.simulations.cancel.past import PAST
from tests.simulations.cancel.requests import REQUESTS
from tests.simulations.cancel.scene import Play
from tests.simulations.cancel.streams import STREAMS
from tests.simulations.cancel.swaps import SWAPS
from tests.simulations.cancel.versions import VERSIONS

PARTS = (VERSIONS, REQUESTS, STREAMS, BLOCKS, SWAPS, PAST, ENGINES)
NAMES = tuple(dict.fromkeys(name for part in PARTS for name in part))
SCENES: Mapping[str, Mapping[str, Play]] = {
    name: {situation: scene for part in PARTS for situation, scene in part.get(name, {}).items()} for name in NAMES
}
