"""Fixtures of this folder."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.kill.forge import Forge


@pytest.fixture(scope="session")
def forge() -> Iterator[Forge]:
    """Return what starts processes quickly."""
    with Forge() as forge:
        yield forge
