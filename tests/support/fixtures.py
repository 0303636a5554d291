"""Fixtures that the tests of runtime, promises and simulations share; each folder's conftest imports them.

They own an engine for one test; it is closed behind it, and then no model may have been misused.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

import pytest

from changeover import Engine
from tests.support.rig import Rig, open_rig


@pytest.fixture
async def rig(autojump_clock: Any) -> AsyncGenerator[Rig, None]:
    """Open an engine in a world of virtual time."""
    async with open_rig() as rig:
        yield rig


@pytest.fixture
def engine(rig: Rig) -> Engine:
    """Return the rig's engine."""
    return rig.engine
