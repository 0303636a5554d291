"""A version's life as one table: (state, event) -> (next state, what must be done).

`step` is pure. `runtime/version.py` is the thin task that does what `step` says. An event that a state does not know
raises `IllegalEvent` and changes nothing; `tests/engine/core/test_lifecycle.py` walks every pair.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, auto
from typing import NamedTuple

from changeover.core.values import VersionState as S


class Event(Enum):
    """What can happen to a version."""

    LOAD = auto()
    """Somebody, or its supervisor, wants it loaded."""
    LOADED = auto()
    """The loader returned a model."""
    LOAD_FAILED = auto()
    """The loader raised or returned no model."""
    OVERDUE = auto()
    """Loading and warming up took too long."""
    LOAD_RETRIED = auto()
    """The loader said that trying again may help, and it is time to."""
    LOAD_CANCELLED = auto()
    """Nobody wants it any more."""
    LOAD_PUT_OFF = auto()
    """A version that stays routed is not loaded again just now: nobody waits for it, or there is no room."""
    WARMED = auto()
    """It answered all its warm-up data."""
    WARM_FAILED = auto()
    """It raised on its warm-up data."""
    DRAIN = auto()
    """No new use; wait for the present ones."""
    GIVE_BACK = auto()
    """The drain is called off."""
    DEADLINE = auto()
    """The drain is out of time."""
    ZERO = auto()
    """Nobody holds it."""
    EVICT = auto()
    """Its memory is wanted for another one, and nobody seems to hold it; ZERO or GIVE_BACK follows at once."""
    DROP = auto()
    """Nobody wants it back: take its traffic away, or let it go without waiting for who holds it."""
    CLOSED = auto()
    """Its `close()` has returned after an orderly end."""
    CLOSED_FAILED = auto()
    """Its `close()` has returned after a failed warm-up."""
    CLOSED_EVICTED = auto()
    """Its `close()` has returned and it stays routed, to be reloaded on demand."""
    CRASHED = auto()
    """Its actor failed, or its model declared a fatal error."""


class Action(Enum):
    """What the actor must do when it makes a transition."""

    START_LOAD = auto()
    """Start, or adopt, a load thread."""
    ABANDON_LOAD = auto()
    """Leave the load thread behind as a zombie."""
    START_WARM = auto()
    """Run the warm-up data."""
    OPEN = auto()
    """Let references be taken, and tell the router."""
    SHUT = auto()
    """Take it out of the router; no new references; then watch for zero."""
    PARK = auto()
    """No new references; it stays routed, so that the next request finds out that it is to be loaded again."""
    UNROUTE = auto()
    """Take the traffic away that it has though it is not loaded."""
    CLOSE = auto()
    """Close the model, which nobody holds, in a thread of its own."""
    RETIRE = auto()
    """Take it out of service at once; the host closes the model after its last holder left."""


class Transition(NamedTuple):
    """One cell of the table."""

    state: S
    actions: tuple[Action, ...] = ()


class IllegalEvent(Exception):
    """An event that the state does not know; nothing was changed."""


_LOADABLE: Mapping[Event, Transition] = {Event.LOAD: Transition(S.LOADING, (Action.START_LOAD,))}

TABLE: Mapping[S, Mapping[Event, Transition]] = {
    S.REGISTERED: _LOADABLE,
    S.UNLOADED: _LOADABLE,
    S.EVICTED: {**_LOADABLE, Event.DROP: Transition(S.UNLOADED, (Action.UNROUTE,))},
    S.FAILED: _LOADABLE,
    S.LOADING: {
        Event.LOADED: Transition(S.WARMING, (Action.START_WARM,)),
        Event.LOAD_FAILED: Transition(S.FAILED, (Action.UNROUTE,)),
        Event.LOAD_RETRIED: Transition(S.LOADING, (Action.START_LOAD,)),
        Event.OVERDUE: Transition(S.FAILED, (Action.ABANDON_LOAD, Action.UNROUTE)),
        Event.LOAD_CANCELLED: Transition(S.UNLOADED, (Action.ABANDON_LOAD, Action.UNROUTE)),
        Event.LOAD_PUT_OFF: Transition(S.EVICTED, (Action.ABANDON_LOAD,)),
        Event.CRASHED: Transition(S.FAILED, (Action.ABANDON_LOAD, Action.UNROUTE)),
    },
    S.WARMING: {
        Event.WARMED: Transition(S.READY, (Action.OPEN,)),
        Event.WARM_FAILED: Transition(S.UNLOADING, (Action.CLOSE,)),
        # The thread that runs the warm-up data cannot be stopped, so the model is closed when it comes back.
        Event.OVERDUE: Transition(S.FAILED, (Action.RETIRE, Action.UNROUTE)),
        Event.LOAD_CANCELLED: Transition(S.UNLOADED, (Action.RETIRE, Action.UNROUTE)),
        Event.LOAD_PUT_OFF: Transition(S.EVICTED, (Action.RETIRE,)),
        Event.CRASHED: Transition(S.FAILED, (Action.RETIRE, Action.UNROUTE)),
    },
    S.READY: {
        Event.DRAIN: Transition(S.DRAINING, (Action.SHUT,)),
        Event.EVICT: Transition(S.DRAINING, (Action.PARK,)),
        Event.CRASHED: Transition(S.FAILED, (Action.RETIRE,)),
    },
    S.DRAINING: {
        Event.ZERO: Transition(S.UNLOADING, (Action.CLOSE,)),
        Event.DEADLINE: Transition(S.QUARANTINED),
        Event.GIVE_BACK: Transition(S.READY, (Action.OPEN,)),
        Event.CRASHED: Transition(S.FAILED, (Action.RETIRE,)),
    },
    S.QUARANTINED: {
        Event.ZERO: Transition(S.UNLOADING, (Action.CLOSE,)),
        Event.GIVE_BACK: Transition(S.READY, (Action.OPEN,)),
        Event.DROP: Transition(S.UNLOADED, (Action.RETIRE,)),
        Event.CRASHED: Transition(S.FAILED, (Action.RETIRE,)),
    },
    S.UNLOADING: {
        Event.CLOSED: Transition(S.UNLOADED),
        Event.CLOSED_FAILED: Transition(S.FAILED, (Action.UNROUTE,)),
        Event.CLOSED_EVICTED: Transition(S.EVICTED),
        # The close thread goes on by itself; whatever it closes is already nobody's.
        Event.CRASHED: Transition(S.FAILED, (Action.UNROUTE,)),
    },
}

RESTING = frozenset({S.REGISTERED, S.UNLOADED, S.EVICTED, S.FAILED})
"""States in which a version needs no actor."""

COMING = frozenset({S.LOADING, S.WARMING, S.READY})
"""States in which a version takes requests, or is about to."""

LOADED = frozenset({S.READY, S.DRAINING, S.QUARANTINED})
"""States in which a version holds a warm model."""


def knows(state: S, event: Event) -> bool:
    """Return whether `event` is in the table for `state`."""
    return event in TABLE[state]


def step(state: S, event: Event) -> Transition:
    """Return the transition for `event` in `state`; raises `IllegalEvent` where there is none."""
    transition = TABLE[state].get(event)
    if transition is None:
        raise IllegalEvent(f"{event.name} in state {state.name}")
    return transition
