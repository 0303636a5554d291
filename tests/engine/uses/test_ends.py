"""Every way that a use can end gives its reference back: one row per way, in each world where it makes sense."""

from __future__ import annotations

import pytest

from tests.engine.uses.rows_crashes import CLOSINGS, CRASHES
from tests.engine.uses.rows_drains import QUARANTINES, REVOCATIONS
from tests.engine.uses.rows_leases import LEASES
from tests.engine.uses.rows_moves import MOVES
from tests.engine.uses.rows_requests import REQUESTS
from tests.engine.uses.rows_streams import STREAMS
from tests.engine.uses.rows_trials import TRIALS
from tests.engine.uses.stage import Way, play
from tests.engine.uses.worlds import OnUvloop, World

WAYS = (*REQUESTS, *LEASES, *STREAMS, *CRASHES, *CLOSINGS, *REVOCATIONS, *QUARANTINES, *TRIALS, *MOVES)
ROWS = [
    pytest.param(way, world, debug, id=f"{way.name} - {world.name}{' - debug' if debug else ''}")
    for way in WAYS
    for world in way.worlds
    for debug in ((False,) if world is OnUvloop else (False, True))  # uvloop is asyncio, but for its loop
]


@pytest.mark.parametrize(("way", "world", "debug"), ROWS)
def test_every_end_gives_its_reference_back(
    way: Way, world: type[World], debug: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the end exactly the expected holders are named; after it nothing is held and nobody is remembered."""
    play(way, world(), debug=debug, monkeypatch=monkeypatch)
