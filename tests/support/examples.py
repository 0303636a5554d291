"""Hypothesis at two depths: a part of the examples by default, all of them in the slow run."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis.strategies import SearchStrategy


def examined(
    examples: int, **strategies: SearchStrategy[object]
) -> Callable[[Callable[..., None]], Callable[[int], None]]:
    """Make a test of a check that is to hold for so many examples: one of a quarter of them, and a slow one of all."""
    quarter = pytest.param(examples // 4, id="a quarter")
    whole = pytest.param(examples, id="all", marks=pytest.mark.slow)

    def decorate(check: Callable[..., None]) -> Callable[[int], None]:
        @pytest.mark.parametrize("count", [quarter, whole])
        def test(count: int) -> None:
            settings(derandomize=True, deadline=None, max_examples=count)(given(**strategies)(check))()

        test.__name__, test.__qualname__, test.__module__ = check.__name__, check.__qualname__, check.__module__
        test.__doc__ = check.__doc__
        return test

    return decorate
