"""What a policy asks for next: never more than it may, and until all that is wanted and loadable is there.

A `Model` plays the engine: it does chores and orders of people at once, and tells the record what happened.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from changeover.core.policy import (
    Chore,
    Load,
    ModelPolicy,
    Record,
    Standing,
    SwapTo,
    Unload,
    decide,
    newest_first,
    order_key,
)
from changeover.core.shift import Shift
from changeover.core.values import SwapState
from changeover.core.values import VersionState as S

AT_ONCE = Shift.at_once()
LATEST = ModelPolicy("latest", plan=AT_ONCE)
PAIR = ModelPolicy("latest", 2, plan=AT_ONCE)


class Model:
    """A model whose loads and swaps succeed or fail as a test says."""

    def __init__(
        self,
        *versions: str,
        bad: frozenset[str] = frozenset(),
        worse: frozenset[str] = frozenset(),
        policy: ModelPolicy,
    ) -> None:
        self.versions = list(versions)
        self.bad = bad
        """These do not load."""
        self.worse = worse
        """From these every swap comes back."""
        self.policy = policy
        self.record = Record()
        self.states: dict[str, S] = {}
        self.active: str | None = None
        self.by_policy: set[str] = set()
        """Whom the policy had loaded, by a count of our own."""
        self.tried: Counter[str] = Counter()
        """How often the policy has tried a version in vain since something forgave it."""

    # --- what happens ---

    def _see(self, version: str, *states: S) -> None:
        for state in states:
            self.states[version] = state
            self.record.note_state(version, state)
        if self.active is not None:
            self.record.note_traffic(self.active)

    def load(self, version: str) -> bool:
        """Load a version that rests; return whether that worked."""
        if self.states.get(version) is S.READY:
            return True
        if version in self.bad:
            self._see(version, S.LOADING, S.FAILED)
            return False
        self._see(version, S.LOADING, S.WARMING)
        self.active = self.active or version
        self._see(version, S.READY)
        return True

    def unload(self, version: str) -> None:
        """Unload a version; its traffic goes to the newest other one that is ready."""
        if self.states.get(version) is not S.READY:
            return
        self._see(version, S.DRAINING, S.UNLOADING, S.UNLOADED)
        self.by_policy.discard(version)
        if self.active == version:
            others = [v for v in self.versions if self.states.get(v) is S.READY]
            self.active = max(others, key=order_key, default=None)
        self._see(version)

    def swap(self, version: str) -> None:
        """Swap to a version, or fail to."""
        was_ready = self.states.get(version) is S.READY
        if not self.load(version):
            self.record.note_swap(version, SwapState.FAILED)
        elif version in self.worse:
            if not was_ready:
                self.unload(version)
            self.record.note_swap(version, SwapState.ROLLED_BACK)
        else:
            old, self.active = self.active, version
            self.record.note_swap(version, SwapState.COMPLETED)
            if old is not None and old != version:
                self.unload(old)

    def crash(self, version: str, *, again: bool) -> None:
        """Let a version crash, and come back or not."""
        if self.states.get(version) is not S.READY:
            return
        self._see(version, S.FAILED)
        self.record.note_crash(version, again=again)
        if self.active == version:
            others = [v for v in self.versions if self.states.get(v) is S.READY]
            self.active = max(others, key=order_key, default=None)
        if again:
            self.load(version)

    # --- what the policy does ---

    def standing(self, **known: Any) -> Standing:
        """Return how the model stands."""
        traffic = frozenset({self.active} - {None})
        return Standing(tuple(newest_first(self.versions)), self.states, self.active, traffic, **known)

    def asks(self, **known: Any) -> tuple[Chore, ...]:
        """Return what the policy asks for."""
        return decide(self.policy, self.standing(**known), self.record)

    def keep(self) -> list[Chore]:
        """Do what the policy asks for until it asks for nothing; return all of it."""
        done: list[Chore] = []
        for _ in range(4 * len(self.versions) + 4):
            chores = self.asks()
            if not chores:
                return done
            for chore in chores:
                self.record.note_order(chore)
                self._do(chore)
            done += chores
        raise AssertionError(f"it never comes to rest: {done}")

    def _do(self, chore: Chore) -> None:
        version = chore.version
        wanted = self.policy.wanted(self.versions)
        match chore:
            case Load():
                assert version in wanted
                assert self.states.get(version) in (None, S.UNLOADED, S.FAILED)
                self.by_policy.add(version)
                self.tried[version] += version in self.bad
                self.load(version)
            case SwapTo():
                assert version in wanted
                assert self.policy.plan is not None
                assert self.active is not None
                assert order_key(version) > order_key(self.active)
                if self.states.get(version) is not S.READY:
                    self.by_policy.add(version)
                self.tried[version] += version in self.bad | self.worse
                self.swap(version)
            case Unload():
                assert version not in wanted
                assert version != self.active
                assert version in self.by_policy
                assert [v for v in self.versions if self.states.get(v) is S.READY] != [version]
                self.unload(version)

    # --- what people do ---

    def by_hand(self, order: str, version: str) -> None:
        """Do what somebody orders."""
        if version not in self.versions:
            self.versions.append(version)
        match order:
            case "load" if self.states.get(version) is not S.READY:
                self.by_policy.discard(version)
                self.tried[version] = 0
                self.load(version)
            case "unload":
                self.unload(version)
                self.tried[version] = 0
            case "swap" if self.active not in (None, version):
                if self.states.get(version) is not S.READY:
                    self.by_policy.discard(version)
                    self.tried[version] = 0
                self.swap(version)
            case "crash":
                self.crash(version, again=False)
            case "restart":
                self.crash(version, again=True)
            case "policy":
                self.record.begin_anew()
                self.tried.clear()
            case _:
                pass


VERSIONS = ("1", "2", "3", "10")
POLICIES = st.builds(
    ModelPolicy,
    st.sampled_from(["none", "latest", "all", "specific"]),
    st.integers(1, 3),
    st.lists(st.sampled_from(VERSIONS), unique=True),
    st.sampled_from([None, AT_ONCE]),
)
ORDERS = st.tuples(
    st.sampled_from(["register", "load", "unload", "swap", "crash", "restart", "policy"]), st.sampled_from(VERSIONS)
)
SOME = st.frozensets(st.sampled_from(VERSIONS), max_size=2)


@settings(deadline=None)
@given(policy=POLICIES, other=POLICIES, bad=SOME, worse=SOME, orders=st.lists(ORDERS, max_size=12))
def test_it_comes_to_rest_with_all_that_is_wanted(
    policy: ModelPolicy, other: ModelPolicy, bad: frozenset[str], worse: frozenset[str], orders: list[tuple[str, str]]
) -> None:
    """Whatever people do between, it ends: what is wanted and loadable is loaded, and no failure is tried twice.

    `Model` checks at each chore that only what may be is loaded, swapped to or unloaded.
    """
    model = Model(bad=bad, worse=worse, policy=policy)
    for number, (order, version) in enumerate(orders):
        if number == len(orders) // 2:
            model.policy = other
            model.by_hand("policy", version)
        model.by_hand(order, version)
        model.keep()
        wanted = model.policy.wanted(model.versions)
        assert all(model.states.get(v) is S.READY for v in wanted if v not in model.record.failed), model.states
        assert all(model.tried[v] <= 1 for v in model.record.failed), model.tried
        assert (model.active is None) == (S.READY not in model.states.values())


# --- by name --------------------------------------------------------------------------------------------------------


def test_a_model_without_traffic_gets_the_newest() -> None:
    """Of several wanted versions the newest is loaded first, because it gets the traffic; then the others."""
    model = Model("1", "2", "3", policy=ModelPolicy("latest", 2))
    assert model.asks() == (Load("3"),)
    assert model.keep() == [Load("3"), Load("2")]
    assert model.active == "3"


def test_a_newest_version_that_does_not_load_gives_way() -> None:
    """Where the newest fails and nothing serves yet, the next one that is wanted is loaded."""
    model = Model("1", "2", bad=frozenset("2"), policy=PAIR)
    assert model.keep() == [Load("2"), Load("1")]
    assert model.active == "1"


def test_a_bad_version_is_tried_once_and_a_good_one_swapped_to() -> None:
    """Failing v2, then good v3: v1 serves throughout, v2 is tried once, v3 is swapped to."""
    model = Model("1", bad=frozenset("2"), policy=LATEST)
    model.keep()
    model.versions.append("2")
    assert model.keep() == [SwapTo("2")]
    assert model.active == "1"
    model.versions.append("3")
    assert model.keep() == [SwapTo("3")]
    assert (model.active, model.tried["2"]) == ("3", 1)


@pytest.mark.parametrize("forgiven", ["load", "policy"])
def test_a_failure_is_forgiven(forgiven: str) -> None:
    """A version that failed is tried again once the policy is set anew, or somebody else loads it."""
    model = Model("1", "2", worse=frozenset("2"), policy=LATEST)
    model.load("1")
    assert model.keep() == [SwapTo("2")]
    assert model.keep() == []
    model.by_hand(forgiven, "2")
    assert model.keep() == [SwapTo("2")]


def test_a_restart_forgives_nothing() -> None:
    """A standby that a guard has sent back is not swapped to again because it crashed and came back."""
    model = Model("1", "2", worse=frozenset("2"), policy=PAIR)
    for version in ("1", "2"):
        model.load(version)
    assert model.keep() == [SwapTo("2")]
    model.crash("2", again=True)
    assert model.keep() == []


def test_traffic_is_never_moved_without_a_plan() -> None:
    """Without a plan a newer version is loaded and stands by."""
    model = Model("1", policy=ModelPolicy("latest"))
    model.keep()
    model.versions.append("2")
    assert model.keep() == [Load("2")]
    assert model.active == "1"


def test_traffic_is_never_moved_down() -> None:
    """Neither where the newest goes, nor where the policy names an older one."""
    model = Model("1", "2", policy=ModelPolicy("specific", versions=["1"], plan=AT_ONCE))
    model.load("2")
    assert model.keep() == [Load("1")]
    assert model.active == "2"


def test_whoever_moved_the_traffic_down_had_reasons() -> None:
    """A version that had the traffic and lost it by hand is not swapped to again; a newer one is."""
    model = Model("1", "2", policy=PAIR)
    model.keep()
    model.by_hand("swap", "1")
    assert model.keep() == [Load("2")]
    assert model.active == "1"
    model.versions.append("3")
    assert model.keep() == [SwapTo("3")]
    assert model.states["2"] is S.READY


def test_an_old_version_is_loaded_again_as_standby() -> None:
    """After a swap the version before it, which the swap unloaded, is loaded again where two are wanted."""
    model = Model("1", policy=PAIR)
    model.keep()
    model.versions.append("2")
    assert model.keep() == [SwapTo("2"), Load("1")]
    model.versions.append("3")
    assert model.keep() == [Unload("1"), SwapTo("3"), Load("2")]


def test_what_others_loaded_stays() -> None:
    """A version that is wanted no more is unloaded only where the policy had loaded it, and nobody else since."""
    model = Model("1", "2", "3", policy=ModelPolicy("all"))
    model.load("2")
    model.keep()
    model.by_hand("unload", "1")
    model.by_hand("load", "1")
    model.policy = ModelPolicy("none")
    assert model.keep() == [Unload("3")]


def test_the_last_one_stays() -> None:
    """The version with the traffic is not unloaded, nor the only one that is ready beside one that was evicted."""
    model = Model("1", "2", policy=LATEST)
    model.keep()
    model.policy = ModelPolicy("none")
    assert model.asks() == ()
    model.policy = ModelPolicy("all")
    model.keep()
    model.states["2"] = S.EVICTED
    model.policy = ModelPolicy("none")
    assert model.asks() == ()


def test_what_takes_part_in_a_swap_is_left_alone() -> None:
    """Versions of a swap, or that somebody is just loading, are not touched; the others are."""
    model = Model("1", "2", "3", policy=ModelPolicy("all"))
    model.load("3")
    assert model.asks(busy=frozenset("2")) == (Load("1"),)
    model.keep()
    model.policy = ModelPolicy("none")
    assert model.asks(busy=frozenset("2")) == (Unload("1"),)


def test_a_target_that_somebody_loads_or_restarts_waits() -> None:
    """It is swapped to when it is there: until then its load is somebody else's, who may call it off."""
    model = Model("1", "2", policy=LATEST)
    model.load("1")
    assert model.asks(busy=frozenset("2")) == ()
    assert model.asks() == (SwapTo("2"),)


def test_a_swap_is_ordered_once() -> None:
    """While a swap leads to the newest, or to a newer one by hand, there is no other; an older one is superseded."""
    model = Model("1", "2", "3", policy=LATEST)
    model.load("1")
    assert model.asks(busy=frozenset({"1", "3"}), heading=frozenset("3")) == ()
    assert model.asks(busy=frozenset({"1", "4"}), heading=frozenset("4")) == (Load("3"),)
    assert model.asks(busy=frozenset({"1", "2"}), heading=frozenset("2")) == (SwapTo("3"),)


@pytest.mark.parametrize("state", [S.DRAINING, S.QUARANTINED, S.UNLOADING])
def test_what_is_on_its_way_out_is_not_called_back(state: S) -> None:
    """A wanted version that somebody unloads is loaded again when it is gone; meanwhile the next one serves."""
    model = Model("1", "2", policy=PAIR)
    model.states["2"] = state
    assert model.asks() == (Load("1"),)
    model.states["2"] = S.UNLOADED
    assert model.asks() == (Load("2"),)


def test_what_was_evicted_comes_back_when_it_is_asked_for() -> None:
    """A policy does not fight with the memory budget, unless the model has no traffic at all."""
    model = Model("1", "2", policy=PAIR)
    model.keep()
    model._see("1", S.EVICTED)
    assert model.keep() == []
    model.active = None
    model.states["2"] = S.EVICTED
    assert model.asks() == (Load("2"),)


def test_an_evicted_version_that_comes_back_is_still_the_policys() -> None:
    """Its reload is the engine's own, and so is that of a crashed one; retries of a load are one load."""
    model = Model("1", "2", policy=PAIR)
    model.keep()
    model._see("1", S.EVICTED, S.LOADING, S.LOADING, S.WARMING, S.READY)
    model.crash("1", again=True)
    model.policy = ModelPolicy("latest")
    assert model.keep() == [Unload("1")]


def test_a_drain_that_is_given_back_is_somebody_elses() -> None:
    """Who wants a version that the policy is just unloading gets it, and keeps it."""
    model = Model("1", "2", policy=PAIR)
    model.keep()
    model.policy = ModelPolicy("latest")
    assert model.asks() == (Unload("1"),)
    model._see("1", S.DRAINING, S.READY)
    assert model.asks() == ()


def test_a_version_that_is_gone_is_forgotten() -> None:
    """Another one by the same name starts with a clean record."""
    model = Model("1", "2", bad=frozenset("2"), policy=LATEST)
    model.load("1")
    assert model.keep() == [SwapTo("2")]
    model.record.note_gone("2")
    model.states.pop("2")
    assert model.keep() == [SwapTo("2")]


def test_a_swap_that_is_overtaken_is_no_failure() -> None:
    """A version whose swap was superseded may be swapped to where the newer one fails."""
    model = Model("1", "2", "3", bad=frozenset("3"), policy=PAIR)
    model.load("1")
    model.record.note_order(SwapTo("2"))
    model.record.note_swap("2", SwapState.SUPERSEDED)
    assert model.record.ordered == set()
    assert model.keep() == [SwapTo("3"), Load("2"), SwapTo("2")]
