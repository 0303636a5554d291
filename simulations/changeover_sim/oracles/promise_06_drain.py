"""Promise 6: a drain ends within its bound, with the outcome that its policy names, and the outcome names the holders.

Owns the drains that go on and those that are over. What was ordered of each it reads in the engine, because the orders
of swaps are told to nobody; the moments, the states and who holds are as everybody sees them.
"""

# pyright: reportPrivateUsage=false

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import trio

from changeover import DrainOutcome, SwapOperation, VersionKey
from changeover.core.lifecycle import Event as Happening
from changeover.errors import LeaseRevoked
from changeover.runtime.orders import Happened, LoadOrder
from changeover_sim.oracles.base import Oracle
from changeover_sim.oracles.drains import Episode, bound_s, limit_s
from changeover_sim.oracles.states import EPS_S, Clockwork, Move, States

if TYPE_CHECKING:
    from changeover import Drain, Event
    from changeover_sim.simulate.calls import Call
    from changeover_sim.simulate.cast import Made
    from changeover_sim.simulate.life import Left, Life
    from changeover_sim.simulate.run import Run

_LEAVING = (" is draining", " is quarantined", " is unloading")
_RESULTS = {"quarantined": "quarantined", "given_back": "ready"}
"""What state a version has gone to, by what is told of its drain."""


class Promise06Drain(Oracle):
    """Times every drain."""

    promise = 6
    says = "a drain ends within its bound with the outcome that its policy names"

    def __init__(self, run: Run) -> None:
        """Watch a run."""
        super().__init__(run)
        self._begin_anew()

    def _begin_anew(self) -> None:
        self._clock = Clockwork()
        self._states = States()
        self._open: dict[str, Episode] = {}
        """Those that drain, and those in quarantine."""
        self._over: dict[str, list[Episode]] = {}
        """By `model/version`, those that had an outcome."""
        self._closing_s: float | None = None
        """When the engine was first seen to close."""

    def life_began(self, life: Life) -> None:
        """Forget the drains of the process before."""
        self._begin_anew()
        self._close_timeout_s: float = life.run.shape.options.get("close_timeout_s", 10.0)

    # --- while it goes on ---------------------------------------------------------------------------------------------

    def step(self, life: Life) -> None:
        """Note who joins a drain; when time has passed, look whether one should have ended in the time before."""
        if not self._open:
            return
        for episode in self._open.values():
            if len(episode.orders) != len(episode.known):
                episode.look()
        if self._clock.has_moved():
            for episode in tuple(self._open.values()):
                self._look_at(episode, self._clock.at_s)

    def _look_at(self, episode: Episode, now: float) -> None:
        """Look at a drain at the first step of a new moment: all that was due before it has happened."""
        if episode.left_s is None and now > episode.due_s + EPS_S:
            self.broken(f"{episode} goes on at {now:g}, and was to end by {episode.due_s:g}")
        loaded = episode.version.loaded
        if loaded is None or loaded.account.held or not episode.orders:
            episode.empty_s = None
        elif episode.empty_s is None:
            episode.empty_s = now
        else:
            state = self._states.get(episode.name)
            self.broken(f"nobody holds {episode.name} since {episode.empty_s:g}, and it is still {state} at {now:g}")

    # --- its end ------------------------------------------------------------------------------------------------------

    def event(self, life: Life, event: Event) -> None:
        """Hear that a version begins to go, or has gone on."""
        if life.closing and self._closing_s is None:
            self._closing_s = trio.current_time()
        move = self._states.hear(event)
        if move is None:
            return
        if move.now == "draining":
            self._begin(life, move)
            return
        episode = self._open.get(move.name)
        if episode is not None:
            if move.before == "draining":
                self._leave(life, episode, move)
            if move.now != "quarantined":
                del self._open[move.name]

    def _begin(self, life: Life, move: Move) -> None:
        model, _, number = move.name.partition("/")
        version = life.engine._versions[VersionKey(model, number)]  # nobody tells what a swap has ordered
        draining = version._draining  # the same; it is the very list that the drain is decided by
        self._open[move.name] = Episode(move.name, version, move.at_s, draining.orders if draining is not None else [])

    def _leave(self, life: Life, episode: Episode, move: Move) -> None:
        """Judge how a drain has ended, which is what its version becomes."""
        episode.look(late=life.closing)  # then nobody looks at every step
        loaded = episode.version.loaded
        episode.left_s, episode.result = move.at_s, move.now
        episode.held = len(loaded.account.held) if loaded is not None else 0
        ids = {holder.holder for holder in loaded.account.holders(move.at_s)} if loaded is not None else set[str]()
        holding = [call for call in life.calls if move.name in call.held and f"{call.kind} {call.number}" in ids]
        episode.named = tuple(f"{call.kind} {call.number}" for call in holding)  # of this model, not of one before
        self._over.setdefault(move.name, []).append(episode)
        if not episode.orders:
            return  # it makes room for another, or could not: nobody has ordered a drain
        self._judge_time(episode, move.at_s)
        kinds = loaded.account.kinds() if loaded is not None else frozenset[str]()
        if move.now == "unloading":
            episode.made = cast("Made | None", loaded._model) if loaded is not None else None
            self.holds(not episode.held, f"{episode} is closed at {move.at_s:g} though {episode.held} hold it")
        elif move.now == "quarantined":
            self._judge_quarantine(episode, kinds, holding, move.at_s)
        elif move.now == "ready":
            self._judge_return(episode, kinds, move.at_s)

    def _judge_time(self, episode: Episode, now: float) -> None:
        self.holds(now <= episode.due_s + EPS_S, f"{episode} ended at {now:g}, and was to end by {episode.due_s:g}")
        if self._closing_s is not None:
            until_s = self._closing_s + self._close_timeout_s
            told = f"{episode} ended at {now:g}, in an engine that was to be closed by {until_s:g}"
            self.holds(now <= until_s + EPS_S, told)

    def _judge_quarantine(self, episode: Episode, kinds: frozenset[str], holding: list[Call], now: float) -> None:
        told = f"{episode} ended in quarantine at {now:g}"
        self.holds(episode.held, f"{told}, and nobody holds it")
        wants = not episode.policies.isdisjoint(("quarantine", "cancel"))
        self.holds(wants, f"{told}, which is nobody's policy")
        if not episode.is_certain:
            return
        early_s = episode.earliest_s(kinds, "quarantine", "cancel", "rollback")
        self.holds(now >= early_s - EPS_S, f"{told}, and {', '.join(sorted(kinds))} had time until {early_s:g}")
        order = episode.only
        if order is None:
            return
        times = [order.at_s + limit_s(order.drain, kind) for kind in kinds]
        if order.drain.then == "quarantine":
            self.holds(now <= min(times) + EPS_S, f"{told}, and its time was up at {min(times):g}")
        else:
            self.holds(now >= max(times) - EPS_S, f"{told}, and not all of {sorted(kinds)} had been asked to leave")
            asked = [call for call in holding if call.kind == "async lease" or call.options.get("waits")]
            self.holds(not asked, f"{told}, and {', '.join(map(str, asked))} was never asked to let go")

    def _judge_return(self, episode: Episode, kinds: frozenset[str], now: float) -> None:
        """Judge a drain that was taken back: by its own policy, or because somebody wants the version again."""
        cause = episode.version._current  # the message that was just acted on; nothing else tells it
        told = f"{episode} was given back at {now:g}"
        if isinstance(cause, Happened) and cause.event is Happening.DEADLINE:
            self.holds("rollback" in episode.policies, f"{told} by its deadline, which is nobody's policy")
            early_s = episode.earliest_s(kinds, "rollback")
            in_time = now >= early_s - EPS_S or not episode.is_certain
            self.holds(in_time, f"{told} by its deadline, which was {early_s:g}")
        else:
            self.holds(isinstance(cause, LoadOrder), f"{told}, and nobody wanted that, but {cause}")

    # --- what is told of it -------------------------------------------------------------------------------------------

    def ended(self, call: Call) -> None:
        """Compare what a caller is told of a drain with what has happened."""
        value = call.value
        if isinstance(call.error, LeaseRevoked):
            self._judge_revocation(call, f"{call.error.model}/{call.error.version}")
        if call.end == "returned" and isinstance(value, DrainOutcome):
            self._judge_outcome(call, value, call.options["drain"])
        elif call.end == "returned" and isinstance(value, SwapOperation):
            self._judge_operation(call, value)

    def _judge_revocation(self, call: Call, name: str) -> None:
        """Judge whether somebody was asked to let go by a drain that cancels, and not before its time."""
        now, open_one = call.ended_s or 0.0, self._open.get(name)
        drains = [one for one in self._over.get(name, ()) if one is open_one or (one.left_s or 0) >= call.began_s]
        drains += [open_one] if open_one is not None and open_one not in drains else []
        orders = [order for one in drains for order in one.known]
        asked = any(order.asks_s <= now + EPS_S for order in orders) or any(
            _asks_at_once(one, call, name) for one in call.life.calls
        )
        told = "; ".join(map(str, orders)) or "none"
        self.holds(asked, f"{call}: revoked at {now:g}, and the drains of {name} are {told}")

    def _came_back(self, call: Call, told: DrainOutcome) -> bool:
        """Return whether a version came back out of quarantine, to somebody who wanted it loaded."""
        known = self._over.get(f"{call.model}/{call.version}", ())
        began_s = (call.ended_s or 0.0) - told.duration_s
        status = call.life.engine.load_info(str(call.model), str(call.version)).status.value
        was = any(one.result == "quarantined" and abs(began_s - one.began_s) <= EPS_S for one in known)
        return was and status != "quarantined"

    def _judge_outcome(self, call: Call, told: DrainOutcome, drain: Drain) -> None:
        """Judge what an unload has returned."""
        assert call.ended_s is not None
        if told.result == "drained":
            self.holds(not told.holders, f"{call}: drained, and held by {told.holders}")
            self._judge_close(call, f"{call.model}/{call.version}")
            return
        late_s = call.began_s + bound_s(drain)
        self.holds(call.ended_s <= late_s + EPS_S, f"{call}: {told.result}, and it was to be told by {late_s:g}")
        drains = [
            one for one in self._over.get(f"{call.model}/{call.version}", ()) if one.result == _RESULTS[told.result]
        ]
        now = [one for one in drains if one.is_at(call.ended_s)]
        if any(_fits(told, one) for one in now):
            self.judged += 1
            return
        # It was in quarantine when the order was read: then those are named who held it at that moment.
        since = [one for one in drains if abs(call.ended_s - told.duration_s - one.began_s) <= EPS_S]
        if told.result == "given_back" and self._came_back(call, told):
            return
        self.holds(told.result == "quarantined" and since, f"{call}: {told}, and what has happened is {_tell(now)}")
        self.holds(told.holders, f"{call}: in quarantine, and nobody is named who holds it")
        named = {holder.holder for holder in told.holders}
        missing = [name for one in drains[-1:] for name in _held_by(call, one) if name not in named]
        self.holds(not missing, f"{call}: in quarantine, and {', '.join(missing)} is not named, only {sorted(named)}")

    def _judge_close(self, call: Call, name: str) -> None:
        """Judge what is told to be gone: a model that was drained meanwhile must be closed."""
        drains = [one for one in self._over.get(name, ()) if one.made is not None and (one.left_s or 0) >= call.began_s]
        crashed = any(one.result == "failed" for one in drains)  # a model that is beyond use is closed when it can be
        closed = not drains or crashed or any(one.made is not None and one.made.closes for one in drains)
        self.holds(
            closed, f"{call}: {name} is told to be unloaded, and {drains[-1].made if drains else 0} is not closed"
        )

    def _judge_operation(self, call: Call, told: SwapOperation) -> None:
        """Judge what a swap tells of the drains of its old versions."""
        for member in told.members:
            outcome, old = member.drain_outcome, f"{member.model}/{member.from_version}"
            if outcome is None:
                continue
            named = bool(outcome.holders) == (outcome.result == "quarantined") or outcome.result == "given_back"
            self.holds(named, f"{call}: {old} is {outcome.result}, and held by {outcome.holders}")
            ordered = call.options.get("drain")
            if member.old_unloaded and call.kind in ("swap", "swap_group"):  # others may ask long behind its drain
                self._judge_close(call, old)
            if ordered is not None and outcome.duration_s > 0:
                self._judge_order(call, old, ordered)

    def _judge_order(self, call: Call, old: str, ordered: Drain) -> None:
        """Judge whether a swap has drained its old version as it was told to."""
        known = [*self._over.get(old, ()), *(one for one in (self._open.get(old),) if one is not None)]
        drains = [one for one in known if one.left_s is None or one.left_s >= call.began_s]
        found = any(order.drain == ordered for one in drains for order in one.orders)
        late = any(one.result == "quarantined" for one in drains)  # whoever comes later has no more to order
        self.holds(found or late, f"{call}: {old} was not drained by {ordered}, but {'; '.join(map(str, drains))}")

    # --- what has no end ----------------------------------------------------------------------------------------------

    def at_rest(self, life: Life) -> None:
        """Look whether all drains are over."""
        self.holds(not self._open, f"at rest there is still {'; '.join(map(str, self._open.values()))}")

    def stuck(self, life: Life, left: Left) -> None:
        """Look whether a version goes on leaving, though nobody holds it, or a drain that is over is not told."""
        for call in left.calls:
            waits = call.kind == "unload" and f"{call.model}/{call.version}" not in self._open
            self.holds(not waits, f"{call}, without end, and its version is not being drained: {left}")
        for version in left.versions:
            key = version.partition(" is ")[0]
            held = [holder for holder in left.holders if holder.startswith(f"{key}: ")]
            self.holds(held or not version.endswith(_LEAVING), f"{version}, without end, and nobody holds it: {left}")


def _fits(told: DrainOutcome, drain: Episode) -> bool:
    """Return whether an outcome is the one of a drain: how long it took, and who held the version at its end."""
    assert drain.left_s is not None
    named = {holder.holder for holder in told.holders}
    same_time = abs(told.duration_s - (drain.left_s - drain.began_s)) <= EPS_S
    return same_time and len(told.holders) == drain.held and named.issuperset(drain.named)


def _held_by(call: Call, drain: Episode) -> list[str]:
    """Return who held a version when its drain ended, and holds it now that a caller has heard of that."""
    holding = {f"{one.kind} {one.number}" for one in call.life.calls if drain.name in one.held}
    return [name for name in drain.named if name in holding]


def _tell(drains: list[Episode]) -> str:
    """Return how some drains have ended, and with whom."""
    ends = [f"{one}: {one.result} with {one.held}, among them {', '.join(one.named) or 'none'}" for one in drains]
    return "; ".join(ends) or "nothing"


def _asks_at_once(one: Call, call: Call, name: str) -> bool:
    """Return whether another call may have asked those to let go who hold a version in quarantine."""
    drain, model = one.options.get("drain"), name.partition("/")[0]
    if drain is None or drain.then != "cancel" or one.began_s > (call.ended_s or 0.0):
        return False
    if one.kind == "unload":
        return f"{one.model}/{one.version}" == name and (one.ended_s is None or one.ended_s >= call.began_s)
    return model == one.model or model in one.models  # a swap, which drains in the background
