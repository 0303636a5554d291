"""What is to be done about the swaps and models that an earlier process has left behind: decided here, done elsewhere.

Pure. Nothing is loaded after a restart, so that to undo is to bring the old versions back, and to finish the new ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import attrs

from changeover.core.plan import ORDER, PIVOT
from changeover.core.records import DesiredVersion, SwapRecord
from changeover.core.values import SwapState, VersionKey, VersionSpec


@attrs.frozen
class Open:
    """A swap that had not ended, and how it will."""

    record: SwapRecord
    end: SwapState
    """COMPLETED where its pivot is written down, else what it was turned round for, else FAILED."""
    why: str
    """One sentence for its operation."""


@attrs.frozen
class Unit:
    """Models that are recovered together, because an open swap moves them together; mostly one."""

    wanted: Mapping[str, DesiredVersion]
    """By model: which version shall be active."""
    instead: tuple[Mapping[str, str], ...]
    """The sets, by model, to go back to where the wanted one cannot be loaded, the last that served first."""
    swaps: tuple[Open, ...]
    """Oldest first."""

    @property
    def models(self) -> tuple[str, ...]:
        """The names of its models, in order."""
        return tuple(self.wanted)

    @property
    def keys(self) -> frozenset[VersionKey]:
        """Every version that takes part."""
        instead = {VersionKey(model, version) for one in self.instead for model, version in one.items()}
        return frozenset(instead | {VersionKey(model, wanted.version) for model, wanted in self.wanted.items()})


def units(open_swaps: Iterable[SwapRecord], desired: Mapping[str, DesiredVersion]) -> tuple[Unit, ...]:
    """Return what is to be recovered: every model with an open swap, and every one that had an active version."""
    swaps = tuple(_ending(record) for record in open_swaps)
    wanted = dict(desired)
    for swap in swaps:  # a model whose row is missing: nothing is known of what its version was made of
        for member in swap.record.operation.members:
            version = member.to_version if swap.end is SwapState.COMPLETED else member.from_version
            wanted.setdefault(member.model, DesiredVersion(member.model, version, "", "", None))
    found: list[Unit] = []
    for models in _together(wanted, swaps):
        mine = tuple(swap for swap in swaps if _models(swap) & models)
        parts = {model: wanted[model] for model in sorted(models)}
        found.append(Unit(parts, _ways_back(parts, mine), mine))
    return tuple(found)


def _ending(record: SwapRecord) -> Open:
    progress = record.progress
    if progress.forward and ORDER.index(progress.step) > ORDER.index(PIVOT):
        why = f"the process ended in its {progress.step.value} step; it was finished when the journal was opened again"
        return Open(record, SwapState.COMPLETED, why)
    doing = "in its" if progress.forward else "while it was being undone, in its"
    why = f"the process ended {doing} {progress.step.value} step; it was undone when the journal was opened again"
    return Open(record, SwapState.FAILED if progress.forward else progress.end, why)


def _models(swap: Open) -> set[str]:
    return {member.model for member in swap.record.operation.members}


def _together(models: Iterable[str], swaps: Iterable[Open]) -> list[set[str]]:
    """Return the models in sets that no open swap goes across, in the order of their first names."""
    sets = [{model} for model in models]
    for swap in swaps:
        moved = _models(swap)
        touched = [one for one in sets if one & moved]
        sets = [one for one in sets if not one & moved] + [set().union(*touched)]
    return sorted(sets, key=min)


def _ways_back(wanted: Mapping[str, DesiredVersion], swaps: Sequence[Open]) -> tuple[Mapping[str, str], ...]:
    """Return the sets that served before the swaps that are to be finished, up to one in which every model is another.

    Swaps are taken back whole and the youngest first, so that each set has once served as it is. Nothing where some
    model has no other version: it may be the one that cannot be loaded.
    """
    serves = {model: one.version for model, one in wanted.items()}
    ways: list[Mapping[str, str]] = []
    moved: set[str] = set()
    for swap in reversed(swaps):
        members = swap.record.operation.members
        stands = swap.end is SwapState.COMPLETED and all(serves[one.model] == one.to_version for one in members)
        if stands and moved != serves.keys():
            serves.update((one.model, one.from_version) for one in members)
            moved |= _models(swap)
            ways.append(dict(serves))
    return tuple(ways) if moved == serves.keys() else ()


def mismatch(wanted: DesiredVersion, spec: VersionSpec) -> str | None:
    """Return why a registered version is not the one that was active, or None where it is.

    Its file may have moved: what it is made of is the loader and, where both were given, the digest.
    """
    if wanted.loader and wanted.loader != spec.loader:
        return f"{spec.key} is registered with the loader {spec.loader!r}; it was active with {wanted.loader!r}"
    if None not in (wanted.sha256, spec.sha256) and wanted.sha256 != spec.sha256:
        return f"{spec.key} is registered with the digest {spec.sha256}; it was active with {wanted.sha256}"
    return None
