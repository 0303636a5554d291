"""The catalogue: every mutant there is, field by field, and the lookup by name.

Owns no state, and imports nothing of the engine: a trial looks its mutant up before it plants it.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from changeover_sim.mutants import (
    drains,
    groups,
    journals,
    loads,
    memory,
    references,
    requests,
    supervision,
    swaps,
)
from changeover_sim.mutants.mutant import Mutant

FIELDS: Mapping[str, tuple[Mutant, ...]] = MappingProxyType(
    {
        "references": references.MUTANTS,
        "requests": requests.MUTANTS,
        "drains": drains.MUTANTS,
        "supervision": supervision.MUTANTS,
        "swaps": swaps.MUTANTS,
        "journals": journals.MUTANTS,
        "groups": groups.MUTANTS,
        "loads": loads.MUTANTS,
        "memory": memory.MUTANTS,
    }
)
"""The mutants of each field, in the order in which they are tried."""


def _by_name() -> dict[str, Mutant]:
    """Return every mutant under its name; no name may come twice."""
    found: dict[str, Mutant] = {}
    for mutants in FIELDS.values():
        for mutant in mutants:
            assert mutant.name not in found, f"two mutants are called {mutant.name}"
            found[mutant.name] = mutant
    return found


MUTANTS: Mapping[str, Mutant] = MappingProxyType(_by_name())
"""Every mutant, by its name."""
