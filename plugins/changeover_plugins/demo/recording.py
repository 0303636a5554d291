"""The demo's recorder: looks at the clients' counts ten times a second, and listens to what the engine says of swaps.

Owns what it has noted; `look` is a task that ends with the clients, `listen` one that ends with the engine. A request
costs nothing for it: the clients count as they do anyway, and the recorder notes where the counts stood.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

import attrs
import trio

from changeover import Engine, Event
from changeover_plugins.demo.clients import Traffic, percentile
from changeover_plugins.demo.series import Outcome, Series, ShareChange, StepSpan, Stretch

BIN_S = 0.1
"""How long a bin lasts, or a little longer."""
EVENTS_BUFFER = 10_000
"""A run has a few hundred events; none of them must be dropped."""

_OUTCOMES: Mapping[str, Outcome] = {"running": "open", "done": "done", "interrupted": "interrupted", "undone": "undone"}
"""What a step's event says, in the words of the picture; anything else has failed."""


@attrs.frozen
class Mark:
    """Where the counts stood at one moment."""

    at_s: float
    latencies: int
    """How many latencies had been taken."""
    answered: Mapping[str, int]
    fell_back: int
    lost: int


class Recorder:
    """Records one run."""

    def __init__(self, traffic: Traffic) -> None:
        """Record nothing yet."""
        self._traffic = traffic
        self._marks: list[Mark] = []
        self._events: list[Event] = []
        self._offset_s = math.inf
        """What takes an event's own time to that of the clients."""

    async def look(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Mark where the counts stand until the clients have ended; cancelled, what was marked stays."""
        self._mark()
        task_status.started()
        while not await self._traffic.ended_within(BIN_S):
            self._mark()
        self._mark()

    async def listen(self, engine: Engine, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Note every event until the engine has closed; cancelled, what was noted stays."""
        async with engine.events(buffer=EVENTS_BUFFER) as events:
            task_status.started()
            async for event in events:
                assert isinstance(event, Event), "the buffer holds a whole run"
                self.note(event, trio.current_time())

    def note(self, event: Event, heard_s: float) -> None:
        """Note an event; the one that was heard soonest after it happened tells how far the two clocks are apart."""
        self._offset_s = min(self._offset_s, heard_s - event.at_s)
        self._events.append(event)

    def series(self) -> Series:
        """Return what was recorded; empty where the clients never began."""
        if len(self._marks) < 2:  # noqa: PLR2004 - a bin has two ends
            return Series()
        began_s = self._marks[0].at_s
        bins = list(pairwise(self._marks))
        latencies_ms = [sorted(self._traffic.latencies_ms[a.latencies : b.latencies]) for a, b in bins]
        # What came before the clients, the first load, is not on their time line.
        events = [attrs.evolve(event, at_s=event.at_s + self._offset_s - began_s) for event in self._events]
        events = [event for event in events if event.at_s >= 0]
        return Series(
            edges_s=tuple(mark.at_s - began_s for mark in self._marks),
            answered={
                version: tuple(b.answered.get(version, 0) - a.answered.get(version, 0) for a, b in bins)
                for version in sorted(self._marks[-1].answered)
            },
            fell_back=tuple(b.fell_back - a.fell_back for a, b in bins),
            lost=tuple(b.lost - a.lost for a, b in bins),
            p50_ms=_percentiles(latencies_ms, 0.50),
            p99_ms=_percentiles(latencies_ms, 0.99),
            shares=tuple(_shares(events)),
            steps=tuple(_steps(events)),
            acts=tuple(
                Stretch(window.name, window.began_s - began_s, window.ended_s - began_s)
                for window in self._traffic.windows
                if not window.at_rest
            ),
        )

    def _mark(self) -> None:
        traffic = self._traffic
        self._marks.append(
            Mark(
                trio.current_time(),
                len(traffic.latencies_ms),
                dict(traffic.answered),
                traffic.fell_back.total(),
                traffic.lost.total(),
            )
        )


def _shares(events: Iterable[Event]) -> Iterable[ShareChange]:
    for event in events:
        if event.kind == "traffic_shifted":
            yield ShareChange(event.at_s, event.detail["shares"])


def _steps(events: Iterable[Event]) -> list[StepSpan]:
    """Return one span for each step that was begun, and one for each that was undone."""
    spans: list[StepSpan] = []
    swaps: dict[str, int] = {}
    for event in events:
        if event.kind == "swap_step":
            swap, step = swaps.setdefault(event.swap_id or "", len(swaps) + 1), event.detail["step"]
            outcome = _OUTCOMES.get(event.detail["outcome"], "failed")
            begun = [i for i, span in enumerate(spans) if (span.swap, span.step, span.outcome) == (swap, step, "open")]
            if begun:
                spans[begun[0]] = attrs.evolve(spans[begun[0]], ended_s=event.at_s, outcome=outcome)
            else:
                spans.append(StepSpan(swap, event.version or "", step, event.at_s, event.at_s, outcome))
    return spans


def _percentiles(sorted_ms: Sequence[Sequence[float]], share: float) -> tuple[float | None, ...]:
    return tuple(percentile(values, share) if values else None for values in sorted_ms)
