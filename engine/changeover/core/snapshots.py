"""What the engine answers: the reply of a request, and frozen snapshots of versions, swaps, references and counts.

Owns no state; nothing here changes after it was made, but for `Reply`, which is slotted and cheap.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import attrs

from changeover.core.occupancy import MemoryMethod
from changeover.core.values import VersionKey, VersionState
from changeover.errors import ReferenceLeakError


class Reply:
    """The answer to one request; slotted and mutable, because a frozen value costs several times as much to make."""

    __slots__ = ("fell_back", "outputs", "version")

    def __init__(self, outputs: Mapping[str, Any], version: str, fell_back: bool = False) -> None:  # noqa: FBT001, FBT002 - the request path
        """Keep the output arrays by name, the version that made them, and whether it stood in for another."""
        self.outputs = outputs
        self.version = version
        self.fell_back = fell_back

    def __repr__(self) -> str:
        """Name the version and the outputs, not their contents."""
        return f"<Reply of version {self.version!r}: {', '.join(self.outputs)}>"


@attrs.frozen
class Holder:
    """One reference that is held just now."""

    kind: str
    """What the use is: `request`, `lease`, `warmup`, ..."""
    holder: str
    """The caller's request id, or the kind with the number of the reference."""
    age_s: float
    """How long it has been held, in seconds."""
    where: str | None
    """`file:line` that took it, with `debug_references=True`; else None."""
    thread: str | None = None
    """The engine's thread that runs it and cannot be interrupted: a worker, a warm-up, a stream's. With
    `debug_references=True` else the one that took it."""

    def __str__(self) -> str:
        """Return one readable clause."""
        thread = f", in thread {self.thread}" if self.thread else ""
        place = f", taken at {self.where}" if self.where else ""
        return f"{self.kind} {self.holder} ({self.age_s:.1f} s{thread}{place})"


@attrs.frozen
class Balance:
    """The fold over one version's reference messages."""

    acquired: int
    """How many references were ever taken, also those taken back at once because the version was just being shut."""
    released: int
    """How many were given back."""
    held: int
    """How many are held now."""
    over_releases: int = 0
    """How often somebody released what was not held."""

    @property
    def conserved(self) -> bool:
        """True where every reference that was taken was given back or is held."""
        return self.acquired == self.released + self.held

    def __add__(self, other: Balance) -> Balance:
        """Add two balances, as of two incarnations of one version."""
        return Balance(
            self.acquired + other.acquired,
            self.released + other.released,
            self.held + other.held,
            self.over_releases + other.over_releases,
        )


@attrs.frozen
class Audit:
    """All references at one moment."""

    balances: Mapping[VersionKey, Balance]
    """The balance of every version that was ever loaded."""
    holders: Mapping[VersionKey, tuple[Holder, ...]]
    """Who holds what, for every version that is held."""
    suspected: tuple[tuple[VersionKey, Holder], ...]
    """Those held for longer than the audit's limit for their kind."""

    @property
    def clean(self) -> bool:
        """True where nothing is held and every balance adds up; at rest, anything else is a leak."""
        return not self.holders and all(b.conserved and b.held == 0 for b in self.balances.values())

    @property
    def total(self) -> Balance:
        """The sum over all versions."""
        return sum(self.balances.values(), Balance(0, 0, 0))

    def raise_for_leaks(self) -> None:
        """Raise `ReferenceLeakError`, naming every holder, unless the audit is clean."""
        if self.clean:
            return
        held = [f"{key}: {holder}" for key, holders in self.holders.items() for holder in holders]
        torn = [f"{key}: {b.acquired} taken, {b.released} given back, {b.held} held"
                for key, b in self.balances.items() if not b.conserved]  # fmt: skip
        key = next(iter(self.holders), None) or next(k for k, b in self.balances.items() if not b.conserved or b.held)
        raise ReferenceLeakError(
            f"{len(held)} reference(s) still held: " + "; ".join(held + torn), model=key.model, version=key.version
        )


@attrs.frozen
class ReferenceStatistics:
    """How one version was used, over all times that it was loaded."""

    current: int
    """How many references are held now."""
    peak: int
    """The most that were held at once; one that lasted for less than a step of another thread may be missed."""
    average: float
    """How many were held on average while it was loaded; exact for 1,024 uses, from an even sample of more."""
    acquired: int
    """How many were ever taken."""
    over_releases: int
    """How often somebody released what was not held."""
    drains_s: tuple[float, ...]
    """How long its last 100 drains took, oldest first, in seconds."""


@attrs.frozen
class WaitOutcome:
    """How a wait for zero references ended."""

    result: Literal["zero", "drained", "gone"]
    """`zero`: nobody holds the version, and it can be taken, or soon can; `drained`: nobody holds it, nor can take it,
    because it is not loaded, or about to be unloaded; `gone`: it was forgotten by force while `holders` held it."""
    waited_s: float
    """How long that took, in seconds."""
    holders: tuple[Holder, ...] = ()
    """Who still held it; empty but for `gone`."""


@attrs.frozen
class VersionLoadInfo:
    """One version, as `load_info` sees it."""

    model: str
    version: str
    is_loaded: bool
    """True from the end of its warm-up until it is closed."""
    loaded_at: float | None
    """When it was loaded, in seconds since 1970; None where it is not."""
    load_s: float | None
    """How long the loader took, in seconds."""
    memory_bytes: int | None
    """What it occupies; None where nobody knows."""
    memory_method: MemoryMethod
    """Where `memory_bytes` comes from: the model's own figure, what the process grew by while it was loaded, the spec's
    hint, the size of the source file. Growth is a figure only where no other load, warm-up or close ran meanwhile."""
    request_count: int
    """How many references of any kind are held on it now."""
    is_warming_up: bool
    """True while warm-up data runs through it."""
    warmed_at: float | None
    """When its last warm-up ended, in seconds since 1970; None: never."""
    warmup_done: int
    """How many requests the warm-up that began last has done; 0 where there was none."""
    warmup_total: int | None
    """How many it has; None where that is not known, because files are still unread, or there was none."""
    status: VersionState
    error: str | None
    """Why it failed, or None."""
    memory_returned_bytes: int | None = None
    """What its last unload gave back to the system; None: it was never unloaded, or nobody could tell."""


@attrs.frozen
class DrainOutcome:
    """How a drain ended."""

    result: Literal["drained", "quarantined", "given_back"]
    """`drained`: nobody held it; `quarantined`: out of time; `given_back`: the traffic came back to it."""
    holders: tuple[Holder, ...]
    """Who held it when the drain ended; empty where it was drained."""
    duration_s: float
    """How long it took, in seconds."""


@attrs.frozen
class Event:
    """Something that happened to a version or a swap."""

    at_s: float
    """In seconds since 1970."""
    kind: str
    """What happened, `"version_ready"`; `EVENT_KINDS` lists them."""
    model: str | None = None
    version: str | None = None
    swap_id: str | None = None
    detail: Mapping[str, Any] = attrs.field(factory=dict[str, Any])
    """More, by kind: `error`, `state`, `step`, `duration_s`, ..."""


@attrs.frozen
class EventsDropped:
    """The reader was slow: so many events were dropped at this place in the stream."""

    count: int


EVENT_KINDS = frozenset(
    {
        "version_registered",
        "version_unregistered",
        "load_retrying",
        "version_state",
        "warmup_progress",
        "load_stuck",
        "load_stuck_ended",
        "close_failed",
        "memory_returned",
        "version_restarting",
        "policy_set",
        "repository_lost",
        "repository_found",
        "traffic_shifted",
        "guard_tripped",
        "model_recovered",
        "swap_paused",
        "swap_resumed",
        "swap_promoted",
        "swap_state",
        "swap_step",
    }
)
"""Every `Event.kind` that this version of the engine emits."""


@attrs.frozen
class VersionStatistics:
    """The counts of one version that was ever loaded."""

    state: VersionState
    references: Balance
    usage: ReferenceStatistics
    """How it was used: the most references at once, their average, its drains."""
    queued: int
    """Requests that wait for a worker."""
    predictions: int
    """Calls of `predict` that ended, batches counted once."""
    errors: int
    """Calls of `predict` that raised."""


@attrs.frozen
class Statistics:
    """The engine's counts at one moment."""

    versions: Mapping[VersionKey, VersionStatistics]
    registered: int
    """How many versions are registered."""
    stuck_loads: int
    """How many load threads hang."""
    swaps_open: int
    """How many swaps have not ended."""
    reserved_bytes: int
    """The sum of all memory reservations."""
    budget_bytes: int | None
    """What may be reserved; None: no limit."""
    resident_bytes: int | None
    """What the process occupies; None where the system does not tell."""
    baseline_bytes: int | None
    """What it occupied when the engine was opened; the same."""
    children_restarted: int
    """How often a supervisor restarted something."""
