"""What is told of a swap that could not be undone: what stands, what does not, and what an operator can do.

Pure: the saga gathers the facts, this finds the words.
"""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from changeover.core.operations import Aftermath
from changeover.core.values import VersionKey, VersionState


@attrs.frozen
class Facts:
    """One model of the swap, as it was found at the end."""

    old: VersionKey
    new: VersionKey
    active: str | None
    """The version with the largest share of the traffic."""
    old_state: VersionState
    new_state: VersionState
    was_loaded: bool
    """True where the new version was loaded before the swap, and is none of its business."""


def tell(facts: Sequence[Facts], failures: Sequence[str]) -> Aftermath:
    """Return the aftermath of a swap whose compensations failed as told."""
    return Aftermath(
        stands=tuple(line for one in facts for line in _stands(one)),
        does_not=tuple(failures),
        remedies=tuple(line for one in facts for line in _remedies(one)) or ("nothing: all is as it was before",),
    )


def _stands(one: Facts) -> list[str]:
    model = one.old.model
    traffic = (
        f"{model}/{one.active} has the traffic" if one.active is not None else f"nobody has the traffic of {model}"
    )
    return [traffic, f"{one.old} is {one.old_state.value}", f"{one.new} is {one.new_state.value}"]


def _remedies(one: Facts) -> list[str]:
    model, old, new = one.old.model, one.old.version, one.new.version
    lines: list[str] = []
    if one.active is None:
        lines.append(f'await engine.load("{model}", "{old}") brings {one.old} back; its events say why it went')
    elif one.active == new:
        lines.append(f'{one.new} serves on until await engine.swap("{model}", "{old}") brings {one.old} back')
    if one.new_state is VersionState.QUARANTINED:
        lines.append(f'{one.new} goes when its last holder leaves: engine.who_holds("{model}", "{new}") names them')
    elif one.new_state is VersionState.UNLOADING:
        lines.append(f"{one.new} goes when its close() returns")
    elif one.new_state is VersionState.READY and one.active not in (None, new) and not one.was_loaded:
        lines.append(f'await engine.unload("{model}", "{new}") frees what {one.new} occupies')
    return lines
