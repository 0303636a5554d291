"""What the entries of a disk say, read by rules that are not the engine's: those of the simulation's own oracle."""

from __future__ import annotations

from changeover_sim.oracles.reading import BEHIND_PIVOT, Reading, assert_follows, decode, read

__all__ = ["BEHIND_PIVOT", "Reading", "assert_follows", "decode", "read"]
