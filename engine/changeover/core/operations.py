"""What is told of a swap and of a recovery: the operation with its steps, its evidence and what it left behind.

Frozen values; owns no state.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import attrs

from changeover.core.snapshots import DrainOutcome
from changeover.core.values import SwapState


@attrs.frozen
class StepRecord:
    """One step of a swap that was begun."""

    step: str
    """`validate`, `load`, `warm`, `shift`, `drain` or `unload`."""
    outcome: Literal["running", "done", "failed", "interrupted"]
    duration_s: float | None
    """How long it ran, in seconds; None while it runs."""
    error: str | None = None
    """Why it failed."""
    compensation: Literal["none", "done", "failed"] = "none"
    """Whether it was undone."""


@attrs.frozen
class Sample:
    """One version's side of a comparison: the requests that ended in the guard's window."""

    requests: int
    """How many ended."""
    errors: int
    """How many of them failed."""
    latency_s: float | None
    """The guard's quantile of the latency of those that were answered, in seconds; None where none was."""

    @property
    def error_rate(self) -> float:
        """The share that failed, 0 to 1; 0 of nothing."""
        return self.errors / self.requests if self.requests else 0.0


@attrs.frozen
class Verdict:
    """What a guard found, with its evidence."""

    reason: str
    """One clause: what is worse, by how much, and what is allowed."""
    new: Sample
    """The version on trial."""
    old: Sample
    """The version before it."""


@attrs.frozen
class ShadowReport:
    """What became of the copies that a shadowed version was sent."""

    copied: int
    """How many requests were copied to it."""
    agreed: int
    """How many of its answers were the old version's, floats within a thousandth."""
    differed: int
    """How many were not."""
    failed: int
    """How many copies it raised on."""
    skipped: int
    """How many it never saw, because too many were on their way or it was going."""


@attrs.frozen
class Member:
    """One model's part in a swap."""

    model: str
    from_version: str
    to_version: str
    drain_outcome: DrainOutcome | None = None
    """How the drain of its old version ended."""
    old_unloaded: bool = False
    """True once its old version's `close()` has returned."""

    def __str__(self) -> str:
        """Return one readable clause."""
        return f"{self.model} from {self.from_version} to {self.to_version}"


@attrs.frozen
class Aftermath:
    """What a swap left behind that could not be undone or carried through, for whoever operates the engine."""

    stands: tuple[str, ...]
    """What is true now: who has the traffic, what is loaded."""
    does_not: tuple[str, ...]
    """What should be true and is not, and why."""
    remedies: tuple[str, ...]
    """What an operator can do, each as a call."""


@attrs.frozen
class SwapOperation:
    """One swap as it stands, or as it ended."""

    id: str
    model: str
    """Of a group: the names of all models, in order, joined by "+"; the same for the versions."""
    from_version: str
    to_version: str
    state: SwapState
    start_time: float
    """In seconds since 1970."""
    end_time: float | None = None
    """In seconds since 1970; None while it runs."""
    error_message: str | None = None
    """Why it failed or was turned round; also what went wrong after the pivot without turning it round."""
    share: float = 0.0
    """The share of the traffic that the new version has, 0 to 1."""
    steps: tuple[StepRecord, ...] = ()
    """Every step that was begun, in order."""
    drain_outcome: DrainOutcome | None = None
    """How the drain of the old version ended."""
    old_unloaded: bool = False
    """True once the old version's `close()` has returned."""
    rollback_of: str | None = None
    """The id of the swap that this one takes back."""
    superseded_by: str | None = None
    """The id of the newer swap that took its place."""
    paused: bool = False
    """True while its ramp stands still."""
    guard: Verdict | None = None
    """Why its guard rolled it back; None where it did not."""
    fallbacks: int = 0
    """How many requests the old version answered because the new one failed on them."""
    shadow: ShadowReport | None = None
    """What became of the copies; None for a swap without a shadow."""
    members: tuple[Member, ...] = ()
    """Every model that it moves, in order of their names; one where it is no group swap."""
    aftermath: Aftermath | None = None
    """What stands, what does not and what can be done, where a step could not be undone; else None."""


@attrs.frozen
class SetAside:
    """A journal that could not be read, and was neither trusted nor deleted."""

    path: str
    """Where it lies now."""
    reason: str
    """What was wrong with it."""


@attrs.frozen
class Recovering:
    """Models that an earlier process has left behind and that are not brought back yet."""

    models: tuple[str, ...]
    swaps: tuple[str, ...]
    """The ids of the swaps that will be finished or undone with them."""
    waits_for: tuple[str, ...]
    """Why it is not done yet, a clause each: a version that is not registered, or is another one; a load that runs."""


@attrs.frozen
class Recovered:
    """Models that were brought back, or could not be."""

    models: tuple[str, ...]
    active: Mapping[str, str | None]
    """By model: the version that has the traffic now; None: nobody."""
    result: Literal["restored", "finished", "undone", "failed", "given_up"]
    """`restored`: no swap was open; `finished`: the last open swap was past its pivot; `undone`: it was not, or its new
    version could not be loaded any more; `failed`: no version could be loaded; `given_up`: somebody said so."""
    swaps: tuple[str, ...]
    """The ids of the swaps that have ended by it."""
    error: str | None = None
    """What could not be done."""


@attrs.frozen
class RecoveryReport:
    """What an engine made of the journal that it found."""

    waiting: tuple[Recovering, ...]
    """What is not done yet."""
    done: tuple[Recovered, ...]
    """In the order in which it was done."""
    set_aside: SetAside | None
    """The journal that could not be read, where there was one."""
