"""What an oracle has to know of a life to tell whether an error has its reason: which version was ready when, and more.

Fed by the events that the engine tells and by the beginnings of calls; it judges nothing. Moments are counted by the
versions' changes of state and by the calls that begin, so that two at the same virtual time are still in order.
"""

# pyright: reportPrivateUsage=false

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import attrs
import trio

from changeover import SwapState
from changeover_sim.simulate.calls import Call

if TYPE_CHECKING:
    from changeover import Event
    from changeover_sim.simulate.life import Life

READY = "ready"
RESTING = ("registered", "unloaded", "evicted", "failed")
ORDERS = (
    "load", "ensure_loaded", "unload", "unregister", "swap", "swap_group", "start_swap", "rollback", "abort", "promote",
    "pause", "resume",
)  # fmt: skip
"""The calls that change what is loaded, or who has the traffic."""


@attrs.define(eq=False)
class Begun:
    """How things stood when a call began."""

    moment: int
    struck: dict[str, int]
    """How often each fault had struck."""


@attrs.define(eq=False)
class Span:
    """Something that is so, and when it was so before."""

    holds: bool
    last: int = 0
    """The last moment at which it was so; what holds now holds at every later moment."""

    def set(self, moment: int, *, holds: bool) -> None:
        """Note how it is from now on."""
        if self.holds:
            self.last = moment
        self.holds = holds

    def held_since(self, moment: int) -> bool:
        """Return whether it was so at any time from a moment on."""
        return self.holds or self.last > moment


class Facts:
    """What is known of one life."""

    def __init__(self, life: Life) -> None:
        """Know nothing yet."""
        self.life = life
        self.moment = 0
        self.states: dict[str, str] = {}
        """By `model/version`, the state that was told last."""
        self.told_s: dict[str, float] = {}
        """By `model/version`, when it was."""
        self.poisoned: dict[str, int] = {}
        """By `model/version`, how often it ran a request that puts a model beyond use."""
        self.orders: list[Call] = []
        """The calls that order something, in order of their beginning."""
        self.stuck = 0
        """How many loads have ever been left behind with their threads."""
        self._ready: dict[str, Span] = {}
        self._not_ready: dict[str, Span] = {}
        self._dark: dict[str, Span] = {}
        self._busy: dict[str, Span] = {}
        self._unknown: dict[str, Span] = {}
        self._active: dict[str, Span] = {}
        self._swaps: dict[str, dict[str, Span]] = {}
        """By model and id, when a swap was on its way."""
        self._failed: dict[str, int] = {}
        """By model, when a version of it has failed last."""
        self._recovered: dict[str, int] = {}
        self._begun: dict[int, Begun] = {}

    # --- what it is told ----------------------------------------------------------------------------------------------

    def event(self, event: Event) -> None:
        """Hear what the engine tells."""
        self.moment += 1
        name = f"{event.model}/{event.version}"
        if event.swap_id is not None:
            ended = event.kind == "swap_state" and SwapState(event.detail["state"]).ended
            spans = self._swaps.setdefault(str(event.model), {})
            _span(spans, event.swap_id, holds=True).set(self.moment, holds=not ended)
        if event.kind == "version_state":
            self._note_state(str(event.model), name, str(event.detail["state"]))
        elif event.kind in ("version_registered", "version_unregistered"):
            unknown = event.kind == "version_unregistered"
            self._unknown.setdefault(name, Span(holds=True)).set(self.moment, holds=unknown)
        elif event.kind == "model_recovered":
            self._recovered[str(event.model)] = self.moment
        elif event.kind == "load_stuck":
            self.stuck += 1
        elif event.kind == "traffic_shifted":
            self._note_traffic(str(event.model), event.detail["shares"])

    def _note_state(self, model: str, name: str, state: str) -> None:
        self.states[name], self.told_s[name] = state, trio.current_time()
        if state == "failed":
            self._failed[model] = self.moment
        _span(self._ready, name, holds=False).set(self.moment, holds=state == READY)
        _span(self._not_ready, name, holds=True).set(self.moment, holds=state != READY)
        _span(self._busy, name, holds=False).set(self.moment, holds=state not in RESTING)
        self._look_at(model)

    def _note_traffic(self, model: str, shares: dict[str, float]) -> None:
        prefix = f"{model}/"
        for name, span in self._active.items():
            if name.startswith(prefix):
                span.set(self.moment, holds=False)
        for version in shares:
            _span(self._active, prefix + version, holds=False).set(self.moment, holds=True)
        self._look_at(model)

    def _look_at(self, model: str) -> None:
        """Note whether a model takes requests: one that was evicted keeps its traffic, and its requests wait for it."""
        ready, prefix = self.ready(model), f"{model}/"
        routed = [name for name, span in self._active.items() if span.holds and name.startswith(prefix)]
        dark = not ready or not all(name in ready for name in routed)
        _span(self._dark, model, holds=True).set(self.moment, holds=dark)

    def began(self, call: Call) -> None:
        """Hear of a call's beginning."""
        self.moment += 1
        self._begun[call.number] = Begun(self.moment, dict(self.life.run.faults.struck))
        if call.kind in ORDERS:
            self.orders.append(call)

    # --- what it is asked, all of it about the time from a call's beginning until now ---------------------------------

    def ready(self, model: str) -> list[str]:
        """Return the versions of a model that are ready just now."""
        prefix = f"{model}/"
        return [name for name, state in self.states.items() if state == READY and name.startswith(prefix)]

    def was_dark(self, call: Call, model: str) -> bool:
        """Return whether at some time no version of a model took requests."""
        return _held(self._dark, model, self._since(call), unknown=True)

    def was_ready(self, call: Call, name: str) -> bool:
        """Return whether a version was ready at some time."""
        return _held(self._ready, name, self._since(call), unknown=False)

    def was_not_ready(self, call: Call, name: str) -> bool:
        """Return whether a version was not ready at some time."""
        return _held(self._not_ready, name, self._since(call), unknown=True)

    def was_busy(self, call: Call, name: str) -> bool:
        """Return whether at some time a version was loaded, on its way, or leaving."""
        return _held(self._busy, name, self._since(call), unknown=False)

    def was_unknown(self, call: Call, name: str) -> bool:
        """Return whether a version was not registered at some time."""
        return _held(self._unknown, name, self._since(call), unknown=True)

    def was_active(self, call: Call, name: str) -> bool:
        """Return whether a version had traffic at some time."""
        return _held(self._active, name, self._since(call), unknown=False)

    def has_failed(self, call: Call, model: str) -> bool:
        """Return whether a version of a model has failed: a load, or one that served."""
        return self._failed.get(model, -1) > self._since(call)

    def was_swapping(self, call: Call, model: str, *, but: str | None = None) -> bool:
        """Return whether a swap of a model was on its way at some time, besides the one of an id."""
        since = self._since(call)
        return any(span.held_since(since) for swap, span in self._swaps.get(model, {}).items() if swap != but)

    def is_in_line(self, model: str) -> bool:
        """Return whether a swap that somebody has started and left alone has not begun, as far as was told."""
        told = self._swaps.get(model, {})
        started = (order for order in self.ordered((model,)) if order.kind == "start_swap" and order.value is not None)
        return any(order.value not in told for order in started)

    def was_recovering(self, call: Call, model: str) -> bool:
        """Return whether a model was being brought back at some time."""
        recovery = self.life.engine._recovery
        return recovery.of(model) is not None or self._recovered.get(model, -1) > self._since(call)

    def grew(self, call: Call, *faults: str) -> bool:
        """Return whether one of these faults has struck since."""
        before = self._begun[call.number].struck if call.number in self._begun else {}
        return any(self.life.run.faults.struck[fault] > before.get(fault, 0) for fault in faults)

    def ordered(self, models: Iterable[str], *, but: Call | None = None) -> list[Call]:
        """Return the orders of this life, until now, that are about one of these models."""
        about = set(models)
        return [call for call in self.orders if call is not but and about.intersection(about_models(call))]

    def overlapped(self, call: Call) -> list[Call]:
        """Return the other orders about the same models that had not ended when a call began.

        One that was cancelled may go on for ever.
        """
        orders = self.ordered(about_models(call), but=call)
        return [one for one in orders if one.end == "cancelled" or one.ended_s is None or one.ended_s >= call.began_s]

    def _since(self, call: Call) -> int:
        begun = self._begun.get(call.number)
        return begun.moment if begun is not None else -1


def about_models(call: Call) -> tuple[str, ...]:
    """Return all models that a call is about."""
    return (call.model,) if call.model is not None else call.models


def names_of(call: Call) -> list[str]:
    """Return `model/version` of every version that a call names."""
    if call.model is not None and call.version is not None:
        return [f"{call.model}/{call.version}"]
    return [f"{model}/{version}" for model, version in call.options.get("to", {}).items()]


def _span(spans: dict[str, Span], name: str, *, holds: bool) -> Span:
    return spans.setdefault(name, Span(holds))


def _held(spans: dict[str, Span], name: str, moment: int, *, unknown: bool) -> bool:
    span = spans.get(name)
    return unknown if span is None else span.held_since(moment)
