"""Counters that any thread may move without a lock. `next` on `itertools.count` is one step that cannot be split."""

from __future__ import annotations

import itertools


def peek(counter: itertools.count[int]) -> int:
    """Read a counter without moving it: how often `next` was called on it."""
    return int(repr(counter)[6:-1])  # "count(7)"; copying it would do too, and is deprecated
