"""Promise 10: the sum of reservations never exceeds the budget, and nothing is loaded twice."""

from __future__ import annotations

from collections import Counter
from typing import Any

import attrs
import pytest
import trio
from hypothesis import strategies as st

from changeover import VersionState
from changeover.errors import NotReady
from changeover.runtime.host import Host
from tests.support.examples import examined
from tests.support.rig import Outcome, Rig, open_rig, running
from tests.support.threads import Crowd
from tests.support.witness import Witness, budget
from tests.support.workload import Plan, Record, plans, play

SIZE = 10
"""What each model of these runs takes, in bytes."""


@attrs.define
class Loads:
    """The threads that load or close, by the version that they are at work for."""

    running: Counter[str] = attrs.field(factory=Counter[str])
    most: Counter[str] = attrs.field(factory=Counter[str])
    begun: int = 0
    evicted: int = 0

    def watch(self, rig: Rig, budget_bytes: int) -> None:
        """Give the engine a budget, and note who begins and ends."""
        rig.engine._store.budget_bytes = budget_bytes
        offload: Any = rig.world.threads
        start = offload.start

        def watched(name: str, work: Any, deliver: Any, orphaned: Any = None) -> None:
            def delivered(value: Any, error: BaseException | None) -> None:
                self.running[name] -= 1
                deliver(value, error)

            self.begun += name.startswith("load ")
            self.running[name] += 1
            self.most[name] = max(self.most[name], self.running[name])
            start(name, work, delivered, orphaned)

        offload.start = watched

    def look(self, witness: Witness) -> None:
        """See that the budget is kept, that the bytes are those of what is there, and that nothing is there twice."""
        budget(witness)
        host, store = witness.engine._host, witness.engine._store
        for wrong in bytes_of_nothing(host, set(store._entries)):
            witness.wrong(wrong)
        serving = Counter(loaded.key for loaded in host.living() if loaded.account.open and loaded.on_evict)
        for key, count in serving.items():
            if count > 1:
                witness.wrong(f"{key} serves {count} times over")
        versions = witness.engine._versions.values()
        self.evicted = max(self.evicted, sum(version.state is VersionState.EVICTED for version in versions))


def bytes_of_nothing(host: Host, reserved: set[int]) -> list[str]:
    """Return what is wrong with the reservations: each is of a load that runs, or of a model that is not closed."""
    loading = {job.number for job in host.jobs.values() if job.want is None or job.loaded is not None}
    living = {loaded.number for loaded in host.living()}
    wrong = [f"bytes are kept for {number}, which is nowhere" for number in sorted(reserved - loading - living)]
    return wrong + [f"{number} is there without bytes" for number in sorted((loading | living) - reserved)]


def played(plan: Plan, budget_bytes: int) -> tuple[Record, Loads]:
    """Play a plan under a budget."""
    loads = Loads()
    return play(plan, loads.look, lambda rig: loads.watch(rig, budget_bytes)), loads


@examined(40, plan=plans(faults=True), models=st.integers(2, 4))
def test_the_budget_is_kept_and_nothing_is_loaded_twice(plan: Plan, models: int) -> None:
    """At every step: reserved is at most the budget, and no version has two load threads or two models that serve."""
    record, loads = played(plan, models * SIZE)
    assert record.witness.wrongs == []
    assert record.cast.wrongs() == []
    assert {name for name, most in loads.most.items() if most > 1 and name.startswith("load ")} == set()
    assert len(record.cast.made) <= loads.begun
    assert record.statistics is not None
    assert record.statistics.reserved_bytes == 0
    assert [made.name for made in record.cast.made if made.closed != 1] == []


@examined(40, plan=plans(faults=True), models=st.integers(2, 3))
def test_a_request_is_answered_once_whoever_has_to_make_room(plan: Plan, models: int) -> None:
    """Every request has exactly one outcome, no model sees it twice, and what was answered was seen."""
    record, _loads = played(plan, models * SIZE)
    assert record.strangers == []
    for asked in record.asked:
        assert len(asked.outcomes) == 1, asked
        assert asked.right, asked
        if asked.outcomes == ["answered"]:
            assert record.seen_by_models(asked.number) >= 1
    assert sorted(asked.number for asked in record.asked) == list(range(len(record.plan.asks)))


async def test_a_load_reserves_before_it_begins(autojump_clock: Any) -> None:
    """While ten loads run, wait and end, what the running ones were promised is reserved before their threads start."""
    async with open_rig(memory_budget_bytes=30) as rig:
        reserved: list[int] = []
        for number in range(10):
            rig.add(
                "m", str(number), memory=10, memory_hint_bytes=10,
                on_load=lambda: reserved.append(rig.engine.statistics().reserved_bytes),
            )  # fmt: skip
            rig.takes(f"load m/{number}", 1.0 + number % 3)
        calls = [Outcome(rig.engine.load, "m", str(number)) for number in range(10)]
        async with running(*calls):
            pass
        assert max(reserved) == 30
        assert min(reserved) >= 10
        assert {type(call.error).__name__ for call in calls} <= {"NoneType", "OverBudget"}
        assert len(rig.engine.loaded_versions("m")) == 3


@pytest.mark.parametrize("times", [2, 20])
async def test_who_joins_a_load_does_not_load_again(times: int, autojump_clock: Any) -> None:
    """Requests, leases and loads that want a version while it is loaded, or loaded again, share the one load."""
    async with open_rig(memory_budget_bytes=10) as rig:
        for model in "ab":
            rig.add(model, "1", memory=10, memory_hint_bytes=10)
            rig.takes(f"load {model}/1", 5.0)

        async def lease(model: str) -> None:
            async with rig.engine.lease(model) as lease:
                lease.infer({})

        for turn, model in enumerate("aba"):
            calls = [Outcome(rig.engine.ensure_loaded, model, "1")]
            if turn == 2:
                calls += [Outcome(rig.engine.infer, model, {}), Outcome(lease, model)]
            calls += [Outcome(rig.engine.ensure_loaded, model, "1") for _ in range(times)]
            async with running(*calls):
                pass
            assert [call.error for call in calls] == [None] * len(calls)
        assert (len(rig.cast.of("a", "1")), len(rig.cast.of("b", "1"))) == (2, 1)


async def test_threads_and_tasks_keep_the_budget_on_the_real_machine() -> None:
    """Four threads and four tasks want six models where two fit: at every event the budget is kept, and all ends."""
    async with open_rig(real=True, memory_budget_bytes=2 * SIZE) as rig:
        engine, over_budget, answered = rig.engine, [], Counter[str]()
        for model in "abcdef":
            rig.add(model, "1", memory=SIZE, memory_hint_bytes=SIZE)
            await engine.load(model, "1")

        class Reader:
            def put(self, event: Any) -> None:
                if engine._store.reserved_bytes > 2 * SIZE:
                    over_budget.append(event)

            def wake(self) -> None:
                """Nobody waits."""

        engine._bus.readers.append(Reader())
        crowd = Crowd()
        for number in range(4):
            crowd.add(_lease_often, rig, number, answered)
        crowd.start()
        async with trio.open_nursery() as nursery:
            for number in range(4):
                nursery.start_soon(_infer_often, rig, number, answered)
        await trio.to_thread.run_sync(crowd.join)
        assert over_budget == []
        assert answered["infer"] > 0
        for model in "abcdef":
            assert (await engine.infer(model, {})).version == "1"
        assert engine.statistics().reserved_bytes <= 2 * SIZE
        assert engine.audit().clean
    assert all(made.closed == 1 for made in rig.cast.made)


def _lease_often(rig: Rig, number: int, answered: Counter[str]) -> None:
    for turn in range(100):
        try:
            with rig.engine.lease("abcdef"[(turn + number) % 6]) as lease:
                lease.infer({})
            answered["lease"] += 1
        except NotReady:
            continue


async def _infer_often(rig: Rig, number: int, answered: Counter[str]) -> None:
    for turn in range(50):
        try:
            await rig.engine.infer("abcdef"[(turn * 5 + number) % 6], {})
            answered["infer"] += 1
        except NotReady:
            continue
