"""How deep this folder searches: a part of each search by default, the whole of it in the slow run."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tests.simulations.first_use.stage import Search, assert_explored


@pytest.fixture(params=[pytest.param(4, id="a quarter"), pytest.param(1, id="all", marks=pytest.mark.slow)])
def search(request: pytest.FixtureRequest) -> Search:
    """Explore the first quarter of so many schedules, or all of them; a search that is to be exhausted always is."""

    def search(program: Callable[[], Awaitable[object]], *, schedules: int | None = None, **options: Any) -> None:
        if schedules is not None:
            options["schedules"] = schedules if options.get("exhausted") else -(-schedules // request.param)
        assert_explored(program, **options)

    return search
