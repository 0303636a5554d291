"""What a run of the demo came to: the figures, and what is wrong with them.

Frozen values and functions over them. Owns no state and spawns nothing; only `collect` looks at living things.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import attrs

from changeover import Audit, Balance, VersionKey
from changeover_plugins.demo.clients import FINISH_S, Traffic, Window, percentile
from changeover_plugins.demo.digits import MODEL
from changeover_plugins.demo.repository import KINDS
from changeover_plugins.demo.series import Series
from changeover_plugins.demo.witness import Ledger

_NOTHING = Series()


@attrs.frozen
class ActRow:
    """How one act went."""

    number: int
    title: str
    ok: bool
    said: str
    """What there is to say about it; where it failed, the expectation that did not hold."""


@attrs.frozen
class VersionRow:
    """The counts of one version."""

    version: str
    kind: str
    """What it is, in a word."""
    answered: int
    right: int
    """Answers that named the digit that the image shows."""
    lost: int
    """Requests that ended in an error that names this version."""
    stood_in: int
    """Answers that it gave because a newer version had raised."""
    raised: int
    """Requests on which it raised because it was told to, as the witness counts them."""
    acquired: int
    """References that were taken, as the engine counts them."""
    released: int
    held: int
    over_released: int
    """References that were given back without being held."""
    loaded: int
    """Models that were loaded, as the witness counts them."""
    closed: int
    used_after_close: int

    @property
    def sent(self) -> int:
        """How many requests reached it."""
        return self.answered + self.lost

    @property
    def accuracy(self) -> float | None:
        """The share of right answers; None where it gave none."""
        return self.right / self.answered if self.answered else None


@attrs.frozen
class WindowRow:
    """The latencies of one stretch of the run."""

    name: str
    at_rest: bool
    answered: int
    duration_s: float
    p50_ms: float
    p99_ms: float
    max_ms: float
    order_s: float | None
    """How long what was ordered in it took; None: nothing was."""
    order_p99_ms: float | None
    """p99 of what was answered in that time alone; None: nothing was."""


@attrs.frozen
class AtEnd:
    """What the engine says of itself once no client asks any more."""

    audit: Audit
    stuck_loads: int
    """Load threads that hang still."""
    fallbacks: int = 0
    """Requests that were answered by a fallback."""


@attrs.frozen
class Report:
    """All of it."""

    clients: int
    sent: int
    """Requests that the clients began."""
    answered: int
    reasons: Mapping[str, int]
    """How often a client saw which error."""
    acts: tuple[ActRow, ...]
    versions: tuple[VersionRow, ...]
    windows: tuple[WindowRow, ...]
    balanced: bool
    """Whether the engine's own audit found every reference given back."""
    stuck_loads: int
    """Load threads that hang still."""
    total_s: float
    """How long the run took, training included."""
    fell_back: int = 0
    """Answers that the old version gave because the new one had raised, as the clients count them."""
    fallbacks: int = 0
    """The same as the engine counts them."""
    series: Series = _NOTHING
    """The same over time."""

    @property
    def lost(self) -> int:
        """Requests that were sent and not answered, whatever became of them."""
        return self.sent - self.answered

    @property
    def held(self) -> int:
        """References that are still held."""
        return sum(row.held for row in self.versions)

    @property
    def used_after_close(self) -> int:
        """Predictions on a model whose `close()` had been called."""
        return sum(row.used_after_close for row in self.versions)

    @property
    def rest_p99_ms(self) -> float:
        """The median of the p99 of the windows at rest; NaN where there are none."""
        return statistics.median([w.p99_ms for w in self.windows if w.at_rest] or [math.nan])

    def faults(self) -> tuple[str, ...]:
        """Return one sentence for everything that must not be; empty: the run is good."""
        return (*self._act_faults(), *self._request_faults(), *self._version_faults())

    def as_json(self) -> dict[str, Any]:
        """Return the report as JSON has it, the verdict included."""
        whole = attrs.asdict(self)
        for row, values in zip(self.versions, whole["versions"], strict=True):
            values |= {"sent": row.sent, "accuracy": row.accuracy}
        sums = {"lost": self.lost, "held": self.held, "used_after_close": self.used_after_close}
        return {"ok": not self.faults(), "faults": self.faults(), **sums, **whole}

    def _act_faults(self) -> Iterable[str]:
        for act in self.acts:
            if not act.ok:
                yield f"act {act.number}, {act.title}: {act.said}"

    def _request_faults(self) -> Iterable[str]:
        if self.answered == 0:
            yield "no request was answered, so nothing was shown"
        if self.lost:
            seen = "; ".join(f"{reason} ({times} times)" for reason, times in self.reasons.items())
            yield f"{self.lost:,} of {self.sent:,} requests were lost: {seen or f'no answer within {FINISH_S:g} s'}"
        if self.fell_back != self.fallbacks:
            yield f"{self.fell_back:,} answers came from a fallback, and the engine counts {self.fallbacks:,}"
        if not self.balanced:
            yield f"references leaked: {self.held:,} are still held, or taken and given back do not add up"
        if self.stuck_loads:
            yield f"{self.stuck_loads:,} loads still hang, so what they bring was never seen to be closed"

    def _version_faults(self) -> Iterable[str]:
        for row in self.versions:
            if row.over_released:
                yield f"version {row.version}: {row.over_released:,} references were given back twice"
            if row.used_after_close:
                yield f"version {row.version} was used {row.used_after_close:,} times after its close()"
            if row.loaded != row.closed:
                yield f"version {row.version} was loaded {row.loaded:,} times and closed {row.closed:,} times"


def collect(
    clients: int,
    acts: Sequence[ActRow],
    traffic: Traffic,
    ledger: Ledger,
    at_end: AtEnd,
    total_s: float,
    series: Series = _NOTHING,
) -> Report:
    """Return the report of a run that is over."""
    return Report(
        clients=clients,
        sent=traffic.sent,
        answered=traffic.answered_count,
        reasons=dict(traffic.reasons),
        acts=tuple(acts),
        versions=tuple(_version_row(version, traffic, ledger, at_end.audit) for version in KINDS),
        windows=tuple(_window_row(window) for window in traffic.windows if window.latencies_ms),
        balanced=at_end.audit.clean,
        stuck_loads=at_end.stuck_loads,
        total_s=total_s,
        fell_back=traffic.fell_back.total(),
        fallbacks=at_end.fallbacks,
        series=series,
    )


def _version_row(version: str, traffic: Traffic, ledger: Ledger, audit: Audit) -> VersionRow:
    balance = audit.balances.get(VersionKey(MODEL, version), Balance(0, 0, 0))
    return VersionRow(
        version=version,
        kind=KINDS[version],
        answered=traffic.answered[version],
        right=traffic.right[version],
        lost=traffic.lost[version],
        stood_in=traffic.fell_back[version],
        raised=ledger.raised[version],
        acquired=balance.acquired,
        released=balance.released,
        held=balance.held,
        over_released=balance.over_releases,
        loaded=ledger.loaded[version],
        closed=ledger.closed[version],
        used_after_close=ledger.used_after_close[version],
    )


def _window_row(window: Window) -> WindowRow:
    latencies_ms = sorted(window.latencies_ms)
    during_ms = sorted(window.latencies_ms[: window.answered_by_then])
    return WindowRow(
        name=window.name,
        at_rest=window.at_rest,
        answered=len(latencies_ms),
        duration_s=window.ended_s - window.began_s,
        p50_ms=percentile(latencies_ms, 0.50),
        p99_ms=percentile(latencies_ms, 0.99),
        max_ms=latencies_ms[-1],
        order_s=window.order_s,
        order_p99_ms=percentile(during_ms, 0.99) if during_ms else None,
    )
