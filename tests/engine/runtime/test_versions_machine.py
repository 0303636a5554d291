"""An engine with too small a budget, step by step: whatever is ordered, what must never be is looked for after each.

The engine runs in a thread of its own, in virtual time, and only while a step waits for it.
"""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any

import pytest
import trio
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from changeover import Drain, VersionKey, VersionState
from changeover.core import lifecycle
from changeover.errors import AlreadyRegistered, VersionNotLoaded
from changeover.plugin import SourceAway
from changeover_sim import open_world
from tests.support.models import Broken, Cast
from tests.support.rig import LOADER, Rig, open_rig, settle
from tests.support.stepping import Looks, Loop, Order

MODELS, VERSIONS = "abc", "12"
KEYS = st.sampled_from([VersionKey(model, version) for model in MODELS for version in VERSIONS])
HINT = 10
UNKNOWN = {"ModelNotRegistered", "VersionNotLoaded", "NotReady"}
ENDS: dict[str, set[str]] = {
    "load": {
        "returned", "AlreadyLoaded", "OverBudget", "LoadFailed", "SourceUnavailable", "LoadCancelled", "LoadTimeout",
        "VersionCrashed", "TooManyStuckLoads", "VersionNotLoaded", "ModelNotRegistered",
    },
    "unload": {"returned", "VersionNotLoaded", "LastVersion", "SwapInProgress", "ModelNotRegistered", "VersionCrashed"},
    "infer": {"returned", "VersionCrashed", *UNKNOWN},
    "lease": {"returned", "Evicted", *UNKNOWN},
    "async lease": {"returned", "LeaseRevoked", *UNKNOWN},
    "swap": {"returned", "SwapFailed", "SwapRolledBack", "SwapInProgress", "SwapNotAllowed", *UNKNOWN},
    "rollback": {"returned", "SwapFailed", "SwapRolledBack", "SwapInProgress", "SwapNotAllowed", *UNKNOWN},
    "unregister": {"returned", "VersionInUse", "SwapInProgress", "ModelNotRegistered"},
}  # fmt: skip
"""How each kind of order may end, besides being cancelled where that was ordered."""


class Managed(RuleBasedStateMachine):
    """The engine, and everybody who orders something of it."""

    def __init__(self) -> None:
        super().__init__()
        self.cast = Cast()
        self.orders: list[Order] = []
        self.leases: list[Any] = []
        self.stays: list[trio.Event] = []
        """What those wait for who hold an async lease."""
        self.held_back: list[Order] = []
        """Calls that begin together with the next one."""
        self.is_held_back = False
        self.rig: Rig
        self.loop: Loop

    @initialize(budget=st.sampled_from([20, 25, 30]), patience_s=st.sampled_from([0.0, 5.0]))
    def open(self, budget: int, patience_s: float) -> None:
        """Open an engine with room for two or three models."""
        self.loop = Loop(lambda loop: self._main(loop, budget, patience_s))
        assert self.loop.failed is None
        for number, (model, version) in enumerate(itertools.product(MODELS, VERSIONS)):
            key = VersionKey(model, version)
            self.register(key, 10, "worker" if number % 2 else "inline", pinned=False)
            self.load(key, is_content=True)

    async def _main(self, loop: Loop, budget: int, patience_s: float) -> None:
        self.over = trio.Event()
        options: dict[str, Any] = {"memory_budget_bytes": budget, "close_timeout_s": patience_s}
        with trio.CancelScope() as everything:
            await self._serve(loop, everything, options)

    async def _serve(self, loop: Loop, everything: trio.CancelScope, options: Mapping[str, Any]) -> None:
        async with open_world() as world, trio.open_nursery() as callers:
            clock: Any = world.ports.clock
            clock.now = trio.lowlevel.current_clock().current_time  # the steps, in another thread, read it, too
            async with open_rig(world=world, cast=self.cast, debug_references=True, **options) as self.rig:
                self.world, self.callers, self.looks = world, callers, Looks(self.rig, loop, everything)
                trio.lowlevel.add_instrument(self.looks)
                loop.is_up()
                await self.over.wait()
                loop.runs_free()
            await trio.sleep(1_000)
            await settle()
            callers.cancel_scope.cancel()  # those without an end, which are looked at

    def order(self, kind: str, make: Callable[[], Awaitable[Any]]) -> None:
        """Begin a call."""
        rounds = self.rounds if self.held_back else 0
        self.orders.append(Order(kind, len(self.orders), make, rounds))
        self.held_back.append(self.orders[-1])
        if self.is_held_back:
            self.is_held_back = False
        else:
            self._begin()

    def _begin(self) -> None:
        """Begin all calls that were held back, at once."""

        def begin() -> None:
            for order in self.held_back:
                self.callers.start_soon(order.run)
            self.held_back.clear()

        self.loop.do(begin)

    @rule(rounds=st.integers(0, 5))
    def hold_back(self, rounds: int) -> None:
        """Have the next call begin in the moment in which the one behind it does, or some rounds before."""
        self.is_held_back, self.rounds = True, rounds

    # --- what is ordered ---

    @rule(
        key=KEYS, size=st.sampled_from([10, 10, 5, 20]), execution=st.sampled_from(["inline", "worker"]),
        pinned=st.sampled_from([False, False, False, True]),
    )  # fmt: skip
    def register(self, key: VersionKey, size: int, execution: str, *, pinned: bool) -> None:
        """Register a version, perhaps anew, that is as large as it says, or smaller, or larger."""
        self.loop.do(lambda: self._add(key, size, execution, pinned=pinned))

    def _add(self, key: VersionKey, size: int, execution: str, *, pinned: bool) -> None:
        if key in self.rig.engine._registry:
            with pytest.raises(AlreadyRegistered):
                self.rig.engine.register(*key, "script", loader=LOADER)
            return
        self.rig.add(
            *key, memory=size, memory_hint_bytes=HINT, execution=execution, pinned=pinned, load_timeout_s=4.0,
            load_retries=2, fatal_on=lambda asked: "poison" in asked,
        )  # fmt: skip

    @rule(key=KEYS, is_content=st.booleans())
    def load(self, key: VersionKey, *, is_content: bool) -> None:
        """Order a load."""
        engine = self.rig.engine
        self.order("load", lambda: (engine.ensure_loaded if is_content else engine.load)(*key))

    @rule(
        key=KEYS, force=st.sampled_from([True, True, False]), then=st.sampled_from(["quarantine", "rollback", "cancel"])
    )
    def unload(self, key: VersionKey, *, force: bool, then: Any) -> None:
        """Order an unload."""
        self.order("unload", lambda: self.rig.engine.unload(*key, force=force, drain=Drain(1.0, then, 1.0)))

    @rule(key=KEYS, is_named=st.booleans(), is_deadly=st.sampled_from([False, False, False, True]))
    def infer(self, key: VersionKey, *, is_named: bool, is_deadly: bool) -> None:
        """Send a request, which may kill the version."""
        inputs = {"n": len(self.orders), **({"poison": 1} if is_deadly else {})}
        self.order("infer", lambda: self.rig.engine.infer(key.model, inputs, version=key.version if is_named else None))

    @rule(key=KEYS, is_named=st.booleans())
    def lease(self, key: VersionKey, is_named: bool) -> None:
        """Take a lease, and keep it."""

        async def take() -> None:
            lease = self.rig.engine.lease(key.model, version=key.version if is_named else None)
            self.leases.append(lease.__enter__())

        self.order("lease", take)

    @precondition(lambda self: self.leases)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        """Give a lease back that was taken before; until then its model works."""
        lease = self.leases.pop(data.draw(st.integers(0, len(self.leases) - 1), "lease"))

        def leave() -> None:
            assert lease.infer({"n": -1})["n"] == -1
            lease.release()

        self.loop.do(leave)

    @rule(model=st.sampled_from(MODELS))
    def async_lease(self, model: str) -> None:
        """Take a lease that waits for its version, and is kept."""
        stay = trio.Event()
        self.stays.append(stay)

        async def take() -> None:
            async with self.rig.engine.lease(model) as lease:
                await stay.wait()
                try:
                    assert lease.infer({"n": -1})["n"] == -1
                except VersionNotLoaded as error:
                    self.looks.wrongs.append(str(error))

        self.order("async lease", take)

    @precondition(lambda self: self.stays)
    @rule()
    def leave(self) -> None:
        """End the oldest async lease."""
        self.loop.do(self.stays.pop(0).set)

    @rule(key=KEYS)
    def swap(self, key: VersionKey) -> None:
        """Order a swap."""
        self.order("swap", lambda: self.rig.engine.swap(*key, drain=Drain(1.0)))

    @rule()
    def rollback(self) -> None:
        """Order that the last swap is taken back."""
        swaps = self.rig.engine.swaps(limit=1)
        if swaps:
            self.order("rollback", lambda: self.rig.engine.rollback(swaps[0].id))

    @rule(key=KEYS, anew=st.sampled_from([True, True, False]))
    def unregister(self, key: VersionKey, *, anew: bool) -> None:
        """Order that a version is forgotten, and perhaps registered anew in the same moment."""

        async def forget() -> None:
            await self.rig.engine.unregister(*key)
            if anew:
                self._add(key, 10, "worker", pinned=False)

        self.order("unregister", forget)

    @precondition(lambda self: any(not order.ends for order in self.orders))
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        """Have somebody go away who waits."""
        order = data.draw(st.sampled_from([order for order in self.orders if not order.ends]), "order")
        self.loop.do(order.scope.cancel)

    @rule(key=KEYS, other=KEYS, rounds=st.integers(0, 6), kind=st.sampled_from(["lease", "infer", "unload", "forget"]))
    def meet(self, key: VersionKey, other: VersionKey, rounds: int, kind: str) -> None:
        """Order a load, and some rounds later use or end a version that may have to go for it."""
        self.hold_back(rounds)
        self.load(key, is_content=True)
        match kind:
            case "lease":
                self.async_lease(other.model)
            case "infer":
                self.infer(other, is_named=False, is_deadly=False)
            case "unload":
                self.unload(other, force=True, then="quarantine")
            case "forget":
                self.unregister(other, anew=True)

    # --- how it goes ---

    @rule(key=KEYS, work=st.sampled_from(["load", "close"]), takes_s=st.sampled_from([0.0, 0.25, 1.0, 6.0]))
    def slow(self, key: VersionKey, work: str, takes_s: float) -> None:
        """Have loads or closes take their time from now on."""
        self.rig.takes(f"{work} {key}", takes_s)

    @rule(key=KEYS, error=st.sampled_from([None, None, Broken("no"), SourceAway("later")]))
    def source(self, key: VersionKey, error: Exception | None) -> None:
        """Have a source there, broken or away from now on."""
        self.rig.script(*key).load_error = error

    @rule(key=KEYS, error=st.sampled_from([None, Broken("no")]))
    def closing(self, key: VersionKey, error: Exception | None) -> None:
        """Have its close fail, or not."""
        self.rig.script(*key).close_error = error

    @rule(pause_s=st.sampled_from([0.25, 0.5, 1.0, 2.0, 5.0]))
    def time_passes(self, pause_s: float) -> None:
        """Let time pass."""
        self.loop.do(lambda: None, pause_s=pause_s)

    # --- what is always true ---

    @invariant()
    def bytes_are_those_of_what_is_there(self) -> None:
        """What is reserved is the sum of what is being loaded, loaded and being closed, and within the budget."""
        engine = self.rig.engine
        host, store = engine._host, engine._store
        assert self.looks.wrongs == []
        bytes_by_number = {number: entry.bytes for number, entry in store._entries.items()}
        expected = {job.number: HINT for job in host.jobs.values() if job.want is None or job.loaded is not None}
        for number, loaded in host._living.items():
            size = loaded.memory[0]
            assert bytes_by_number[number] in (HINT, size)
            expected[number] = size if loaded.account.open else bytes_by_number[number]
        assert bytes_by_number == expected
        assert store.reserved_bytes == sum(expected.values()) <= store.budget_bytes

    @invariant()
    def models_are_as_their_versions_say(self) -> None:
        """Nothing is misused; each model that is open belongs to a load, a version or a close; ready are routed."""
        engine = self.rig.engine
        assert self.cast.wrongs() == []
        assert sorted(self.cast.open()) == sorted(str(loaded.key) for loaded in engine._host.living() if loaded.is_open)
        versions = engine._versions
        ready = {key for key, version in versions.items() if version.state is VersionState.READY}
        assert set(engine._router._open) == ready
        for key, account in engine._router._open.items():
            assert account is versions[key].loaded.account
            assert not versions[key].loaded.is_leaving, f"{key} is not on its way out"
        for key, version in versions.items():
            assert key in engine._registry
            if version.state is VersionState.EVICTED:
                assert key in engine._router._parked
                assert engine._router.active(key.model) is not None, f"{key} was evicted and has no traffic"
        for model, route in engine._router.snapshot.routes.items():
            for share in route.shares:
                assert VersionKey(model, share.version) in {*ready, *engine._router._parked}, "traffic to nothing"

    @invariant()
    def ends_are_those_that_may_be(self) -> None:
        """Every order has at most one end, of a kind that may be; what its error says of the model's part is true."""
        asked = [call["n"] for made in self.cast.made for call in made.calls]
        for order in self.orders:
            assert len(order.ends) <= 1, (order.kind, order.ends)
            assert set(order.ends) <= ENDS[order.kind] | {"cancelled"}, (order.kind, order.ends, order.error)
            if order.kind == "infer" and order.ends:
                times = asked.count(order.number)
                assert times <= 1, "run twice"
                assert order.ends != ["returned"] or times == 1
                if order.error is not None:
                    assert (order.error.ran == "no") == (times == 0), (order.error, order.error.ran, times)

    # --- the end ---

    def teardown(self) -> None:
        """Let all come to rest, look, use what is there, and close the engine."""
        if not hasattr(self, "loop") or self.loop.failed is not None:
            return
        try:
            self._come_to_rest()
            self._all_answer()
        finally:
            self.loop.end(self.over)
        assert self.cast.wrongs() == []
        assert [made.name for made in self.cast.made if made.closed != 1] == []
        assert self.rig.engine.audit().clean
        assert self.rig.engine.statistics().reserved_bytes == 0
        assert all(order.ends for order in self.orders)

    def _come_to_rest(self) -> None:
        self.is_held_back = False
        self._begin()

        def let_go() -> None:
            for script in self.cast.scripts.values():
                script.load_error = None
            self.world.durations.clear()
            for stay in self.stays:
                stay.set()
            for lease in self.leases:
                lease.release()

        self.loop.do(let_go, pause_s=60.0)
        engine = self.rig.engine
        for _ in range(20):
            if any(not order.ends for order in self.orders):
                self.loop.do(lambda: None, pause_s=60.0)
        assert [(order.kind, order.number) for order in self.orders if not order.ends] == [], "without an end"
        self.loop.do(lambda: None, pause_s=60.0)
        for check in (self.bytes_are_those_of_what_is_there, self.models_are_as_their_versions_say):
            check()
        self.ends_are_those_that_may_be()
        audit = engine.audit()
        assert (audit.clean, audit.total.held, audit.holders) == (True, 0, {}), audit
        assert (engine._host.jobs, list(engine._host.room._line), engine._host.stuck()) == ({}, [], ())
        for key, version in engine._versions.items():
            assert version.state is VersionState.READY or version.state in lifecycle.RESTING, (key, version.state)
            assert self.looks.lives[key][-1] is version.state
            assert (version._loading, version._draining, version._later) == (None, None, [])
        living = sorted(loaded.key for loaded in engine._host.living())
        assert living == sorted(key for key, v in engine._versions.items() if v.state is VersionState.READY)

    def _all_answer(self) -> None:
        """See that what is ready or was evicted answers, where nothing stands in the way that must not go."""
        versions = self.rig.engine._versions
        if any(version.spec.pinned for version in versions.values()):
            return
        able = [key for key, v in versions.items() if v.state in (VersionState.READY, VersionState.EVICTED)]
        for key in able:
            inputs = {"n": len(self.orders)}
            self.order("infer", partial(self.rig.engine.infer, key.model, inputs, version=key.version))
            assert self.orders[-1].ends == ["returned"], (key, self.orders[-1].ends, self.orders[-1].error)


Managed.TestCase.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)


class TestManaged(Managed.TestCase):
    """Whatever is ordered, the budget is kept, nothing is misused, and everybody is answered."""
