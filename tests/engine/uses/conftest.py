"""Fixtures of this folder; they live in `tests/support`."""

from __future__ import annotations

from tests.support.fixtures import engine, rig

__all__ = ["engine", "rig"]
