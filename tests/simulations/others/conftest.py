"""How deep this folder looks, and at which Trio: what was found with one says nothing about another."""

from __future__ import annotations

import pytest
import trio

from tests.simulations.others.record import TRIO


@pytest.fixture(params=[pytest.param(8, id="a part"), pytest.param(1, id="all", marks=pytest.mark.slow)])
def part(request: pytest.FixtureRequest) -> int:
    """One in how many schedules of a search is tried."""
    return int(request.param)


@pytest.fixture(autouse=True)
def _this_trio() -> None:
    if trio.__version__ != TRIO:
        pytest.skip(f"what was found was found with Trio {TRIO}, and here is {trio.__version__}")
