"""A version's life is the table, the whole table and nothing but the table.

`UPDATE_GOLDEN=1 pytest tests/engine/core/test_lifecycle.py` draws it again into tests/golden/lifecycle.txt, so that a
change of the table is seen in review. Owns no state.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from changeover.core.lifecycle import LOADED, RESTING, TABLE, Action, Event, IllegalEvent, Transition, knows, step
from changeover.core.values import VersionState as S

GOLDEN = Path(__file__).resolve().parents[2] / "golden" / "lifecycle.txt"
PAIRS = [(state, event) for state in S for event in Event]


def edges() -> Iterator[tuple[S, Event, Transition]]:
    """Yield every cell of the table that is filled."""
    for state, row in TABLE.items():
        for event, transition in row.items():
            yield state, event, transition


def drawn() -> str:
    """Return the table as text."""
    lines = ["A version's life, drawn from core/lifecycle.py: what happens -> the next state, and what is done."]
    for state in S:
        marks = [name for name, states in (("resting", RESTING), ("holds a warm model", LOADED)) if state in states]
        lines += ["", state.name + (f" ({', '.join(marks)})" if marks else "")]
        for event, (following, actions) in TABLE[state].items():
            lines.append(f"    {event.name:<14} -> {following.name:<11} {' '.join(a.name for a in actions)}".rstrip())
    return "\n".join(lines) + "\n"


def reachable(start: S) -> set[S]:
    """Return every state that can come after `start`, and itself."""
    seen, todo = {start}, [start]
    while todo:
        for transition in TABLE[todo.pop()].values():
            if transition.state not in seen:
                seen.add(transition.state)
                todo.append(transition.state)
    return seen


# --- the table ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("state", "event"), PAIRS, ids=[f"{s.name}-{e.name}" for s, e in PAIRS])
def test_every_pair_is_in_the_table_or_illegal(state: S, event: Event) -> None:
    """A pair does what its cell says; one without a cell raises, names state and event, and changes nothing."""
    before = drawn()
    if event in TABLE[state]:
        assert knows(state, event)
        assert step(state, event) is TABLE[state][event]
    else:
        assert not knows(state, event)
        with pytest.raises(IllegalEvent, match=f"{event.name} in state {state.name}"):
            step(state, event)
    assert drawn() == before


def test_the_table_is_complete() -> None:
    """Every state has a row, and every event and every action is used."""
    assert set(TABLE) == set(S)
    assert {event for _, event, _ in edges()} == set(Event)
    assert {action for _, _, (_, actions) in edges() for action in actions} == set(Action)


def test_the_table_is_the_one_that_was_reviewed() -> None:
    """The table drawn as text is the golden file; `UPDATE_GOLDEN=1` writes it, and the diff is reviewed."""
    if os.environ.get("UPDATE_GOLDEN"):
        GOLDEN.write_text(drawn())
    assert drawn() == GOLDEN.read_text(), "the table has changed; UPDATE_GOLDEN=1 draws it again"


def test_every_state_can_be_reached() -> None:
    """No state is there in vain: each can be reached from REGISTERED."""
    assert reachable(S.REGISTERED) == set(S)


@pytest.mark.parametrize("state", S)
def test_every_state_has_a_way_to_rest(state: S) -> None:
    """From every state some state can be reached in which the version needs no actor, and it can be loaded again."""
    assert reachable(state) & RESTING
    assert S.READY in reachable(state)


@pytest.mark.parametrize("state", [s for s in S if s not in RESTING])
def test_every_state_with_an_actor_survives_its_crash(state: S) -> None:
    """An actor may crash in each state that has one; the version is FAILED then, and nothing is closed in use."""
    following, actions = step(state, Event.CRASHED)
    assert following is S.FAILED
    assert Action.CLOSE not in actions


def test_resting_states_only_wait_to_be_loaded() -> None:
    """A resting state only waits for a load, which means the same in each; what was evicted may be dropped, too."""
    dropped = {Event.DROP: Transition(S.UNLOADED, (Action.UNROUTE,))}
    for state in RESTING:
        load = {Event.LOAD: Transition(S.LOADING, (Action.START_LOAD,))}
        assert TABLE[state] == (load | dropped if state is S.EVICTED else load)


def test_a_ready_version_is_never_closed_in_one_step() -> None:
    """READY leads to no CLOSE: between use and close there is always a drain, or the wait for the last holder."""
    assert all(Action.CLOSE not in transition.actions for transition in TABLE[S.READY].values())
    closing = {(state, event) for state, event, (_, actions) in edges() if Action.CLOSE in actions}
    assert closing == {(S.WARMING, Event.WARM_FAILED), (S.DRAINING, Event.ZERO), (S.QUARANTINED, Event.ZERO)}


def test_a_drain_can_be_given_back_until_the_close_begins() -> None:
    """A drain and a quarantine can be called off; an unload cannot."""
    assert {state for state in S if knows(state, Event.GIVE_BACK)} == {S.DRAINING, S.QUARANTINED}


# --- walks ----------------------------------------------------------------------------------------------------------


class Watcher:
    """What the actor, the load thread and the model do on a walk, and what they must never do."""

    def __init__(self) -> None:
        self.state = S.REGISTERED
        self.loading = False
        self.model = False
        self.gate_open = False
        self.closing = False
        self.routed_away = False
        """It has traffic and takes none."""

    def walk(self, event: Event) -> None:
        """Make a transition, and look at what it does."""
        crashed_while_closing = event is Event.CRASHED and self.closing
        if event in (Event.LOADED, Event.LOAD_FAILED):
            self.loading, self.model = False, event is Event.LOADED
        if event is Event.LOAD_RETRIED:
            self.loading = False  # the try before has failed
        if event in (Event.CLOSED, Event.CLOSED_FAILED, Event.CLOSED_EVICTED) or crashed_while_closing:
            assert self.closing, "closed without a close"
            self.closing = self.model = False
        self.state, actions = step(self.state, event)
        for action in actions:
            self.act(action)
        assert self.gate_open == (self.state is S.READY)
        assert self.loading == (self.state is S.LOADING)
        assert self.closing == (self.state is S.UNLOADING)
        assert self.model == (self.state in LOADED | {S.WARMING, S.UNLOADING}), "a model is lost or imagined"

    def act(self, action: Action) -> None:
        """Do one action; none of them may come where it makes no sense."""
        match action:
            case Action.START_LOAD:
                assert not self.loading, "two load threads"
                assert not self.model, "a model is there already"
                self.loading = True
            case Action.ABANDON_LOAD:
                assert self.loading
                self.loading = False
            case Action.START_WARM:
                assert self.model
            case Action.OPEN:
                assert self.model, "opened without a model"
                self.routed_away = False
                assert not self.closing, "opened while it is closed"
                self.gate_open = True
            case Action.SHUT:
                assert self.gate_open, "shut twice"
                self.gate_open = False
            case Action.PARK:
                assert self.gate_open, "parked though it is shut"
                self.gate_open, self.routed_away = False, True
            case Action.UNROUTE:
                self.routed_away = False
            case Action.CLOSE:
                assert self.model, "closed without a model"
                assert not self.gate_open, "closed with the gate open"
                assert not self.closing, "closed twice"
                self.closing = True
            case Action.RETIRE:
                assert self.model, "retired without a model"
                self.gate_open = self.model = False


@given(choices=st.lists(st.integers(0, 99), max_size=60))
def test_no_walk_loses_closes_twice_or_opens_in_vain(choices: list[int]) -> None:
    """On every walk through the table load threads, model and gate are where the state says that they are."""
    watcher = Watcher()
    for choice in choices:
        known = list(TABLE[watcher.state])
        watcher.walk(known[choice % len(known)])


@given(events=st.lists(st.sampled_from(Event), max_size=60))
def test_illegal_events_on_a_walk_change_nothing(events: list[Event]) -> None:
    """A walk with illegal events in it ends where the same walk without them ends."""
    state = S.REGISTERED
    legal: list[Event] = []
    for event in events:
        try:
            state = step(state, event).state
        except IllegalEvent:
            continue
        legal.append(event)
    again = S.REGISTERED
    for event in legal:
        again = step(again, event).state
    assert again is state
