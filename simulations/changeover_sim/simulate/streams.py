"""Where a run's chance comes from: a stream for each purpose, so that one more draw does not reshuffle the rest.

Owns the streams of one run; every draw of a simulation is from one of them, but for those of the policy.
"""

from __future__ import annotations

from random import Random


class Streams:
    """The chance of one run, all of it from one seed."""

    def __init__(self, scenario: str, seed: int) -> None:
        """Draw by the scenario's name and the seed."""

        def stream(purpose: str) -> Random:
            return Random(f"{scenario} {seed} {purpose}")  # a text is hashed by SHA-512: the same everywhere

        self.shape = stream("shape")
        """What the run is like: models, actors, faults, ends."""
        self.workload = stream("workload")
        """What the actors do next."""
        self.timing = stream("timing")
        """How long blocking work takes."""
        self.faults = stream("faults")
        """When a fault strikes."""
        self.disk = stream("disk")
        """What is left on the disk by a death."""
        self.sites = stream("sites")
        """Which of the engine's own rare behaviours are on."""
        self.engine = stream("engine")
        """The engine's own chance: jitter, shares, ids."""
