"""The drain of a version that two hold, under every order of its steps: who ends, in which way, and when.

What each program asserts comes on top of what `open_corner` and `open_stage` look at.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterator
from functools import partial
from typing import Any, Literal

import pytest
import trio

from changeover import Drain
from changeover.core.ledger import Account
from changeover.core.lifecycle import Event
from changeover.runtime.orders import Limit
from changeover.runtime.version import Version
from changeover_sim import PCT, Exhaustive, RandomWalk, choose, explore
from tests.simulations.first_use.corner import Kind, assert_bounds, assert_outcome, open_corner
from tests.simulations.first_use.stage import assert_explored, inputs, open_stage
from tests.support.rig import settle

Pair = tuple[Kind, Kind]
Policy = Literal["quarantine", "cancel", "rollback", "wait"]
EVERY = Exhaustive(delays=None)
LEASES: Pair = ("lease", "lease")
POLICIES: tuple[Policy, ...] = ("quarantine", "cancel", "rollback", "wait")
KINDS: tuple[Kind, ...] = ("lease", "async lease", "infer", "stream")
NOT_BY_WORKERS: tuple[Kind, ...] = ("lease", "async lease", "stream")
INLINE: tuple[Pair, ...] = (
    LEASES, ("lease", "async lease"), ("async lease", "async lease"), ("lease", "stream"),
    ("async lease", "stream"), ("stream", "stream"),
)  # fmt: skip
WORKER: tuple[Pair, ...] = (("lease", "infer"), ("async lease", "infer"), ("infer", "infer"), ("infer", "stream"))


# --- two who hold ---------------------------------------------------------------------------------------------------


async def two_hold_and_one_drains(pair: Pair, drain: Drain, execution: str = "inline", stay_s: float = 0.0) -> None:
    """Unload while two begin to hold, hold and end."""
    async with open_corner(execution) as corner:
        for number, kind in enumerate(pair):
            corner.hold(number, kind, stay_s)
        call = corner.drain(drain)
    assert_outcome(corner, drain, call)


def test_every_order_of_a_drain_and_two_leases() -> None:
    """In every order of two leases and a drain the model is closed once, by the last who leaves, and nobody waits."""
    assert_explored(partial(two_hold_and_one_drains, LEASES, Drain(then="wait")), policy=EVERY, exhausted=True)


async def two_who_hold_let_go(pair: Pair, drain: Drain) -> None:
    """Unload what two hold already, who let go in the same moment, and whose time is up."""
    go = trio.Event()
    async with open_corner("worker" if "infer" in pair else "inline", go) as corner:
        for number, kind in enumerate(pair):
            corner.hold(number, kind, go)
        await settle()
        call = corner.drain(drain)
        go.set()
    assert_outcome(corner, drain, call)


@pytest.mark.parametrize(
    "pair", [*INLINE[:-1], *WORKER, pytest.param(INLINE[-1], marks=pytest.mark.slow)], ids="-".join
)
def test_every_order_of_a_drain_and_two_who_let_go(pair: Pair) -> None:
    """In every order of a drain and two of any kind who let go, the last of them ends it and the model is closed."""
    by_worker = "infer" in pair  # whose thread makes too many orders for all of them
    policy = Exhaustive(delays=1) if by_worker else EVERY
    assert_explored(partial(two_who_hold_let_go, pair, Drain(then="wait")), policy=policy, exhausted=True)


@pytest.mark.slow
@pytest.mark.parametrize("then", ["quarantine", "cancel", "rollback"])
def test_every_order_of_two_who_let_go_and_a_drain_that_is_out_of_time(then: Policy) -> None:
    """In every order of two last holders and the deadline, the drain ends by one of them, as its policy says."""
    program = partial(two_who_hold_let_go, LEASES, Drain(0.0, then, grace_s=0.0))
    assert_explored(program, policy=EVERY, schedules=100_000, exhausted=True)


async def any_two_hold_and_one_drains() -> None:
    """Unload by any policy, its time up at once or later, while any two hold for a moment or for long."""
    execution = choose(["inline", "worker"])
    pair = choose(INLINE if execution == "inline" else WORKER)
    drain = Drain(choose([0.0, 1.0]), choose(POLICIES), grace_s=choose([0.0, 2.0]))
    async with open_corner(execution, work_s=choose([0.0, 1.0])) as corner:
        for number, kind in enumerate(pair):
            corner.hold(number, kind, choose([0.0, 1.0, 2.0]))
        call = corner.drain(drain)
    assert_outcome(corner, drain, call)


def test_a_drain_ends_as_its_policy_says() -> None:
    """Whoever holds, the drain ends in time, as its policy has it, and names exactly those who still hold."""
    assert_explored(any_two_hold_and_one_drains, policy=RandomWalk(), schedules=600)
    assert_explored(any_two_hold_and_one_drains, policy=PCT(depth=3), schedules=300)


@pytest.mark.slow
def test_a_drain_ends_as_its_policy_says_whoever_holds() -> None:
    """The same with every choice of holders, times and policies, and in the batches of stock Trio."""
    assert_explored(any_two_hold_and_one_drains, policy=Exhaustive(delays=0), exhausted=True)
    assert_explored(any_two_hold_and_one_drains, policy=RandomWalk(), schedules=2_000, mode="trio-batch")


async def streams_have_a_limit_of_their_own() -> None:
    """Unload with a limit for streams that is shorter or longer than that for all others."""
    drain = Drain(
        choose([0.0, 1.0, 2.0]), choose(["quarantine", "cancel", "rollback"]), grace_s=1.0,
        stream_deadline_s=choose([0.0, 1.0, 3.0]),
    )  # fmt: skip
    async with open_corner() as corner:
        corner.hold(0, "stream", choose([0.0, 1.0, 2.0]))
        corner.hold(1, choose(["lease", "stream"]), choose([0.0, 1.0, 2.0]))
        call = corner.drain(drain)
    assert_outcome(corner, drain, call)


def test_streams_are_given_a_time_of_their_own() -> None:
    """A stream that is in time holds no drain up and ends none, and neither does a lease for the streams' limit."""
    assert_explored(streams_have_a_limit_of_their_own, policy=Exhaustive(delays=0), exhausted=True)
    assert_explored(streams_have_a_limit_of_their_own, policy=RandomWalk(), schedules=300)


# --- who goes away --------------------------------------------------------------------------------------------------


async def somebody_goes_away(pair: Pair, drain: Drain, who: str, execution: str = "inline") -> None:
    """Cancel one who holds, who drains or who waits for zero, at any of its checkpoints."""
    async with open_corner(execution) as corner:
        for number, kind in enumerate(pair):
            corner.hold(number, kind, anywhere=who == f"holder {number}")
        call = corner.drain(drain, anywhere=who == "unload")
        if who == "wait":
            corner.wait(anywhere=True)
    if who != "unload":
        assert_outcome(corner, drain, call)


WHO = ("holder 0", "unload", "wait")


@pytest.mark.parametrize("who", WHO)
def test_who_goes_away_takes_nothing_with_him(who: str) -> None:
    """A holder, the unloader or one who waits is cancelled anywhere: the drain ends all the same, nothing is left."""
    program = partial(somebody_goes_away, LEASES, Drain(then="wait"), who)
    assert_explored(program, policy=Exhaustive(delays=1), exhausted=True)


@pytest.mark.slow
@pytest.mark.parametrize("who", WHO)
def test_who_goes_away_in_any_order_takes_nothing_with_him(who: str) -> None:
    """The same in every order of all steps of a holder, else in very many; other uses and policies in many orders."""
    program = partial(somebody_goes_away, LEASES, Drain(then="wait"), who)
    policy = EVERY if who == "holder 0" else Exhaustive(delays=2)
    assert_explored(program, policy=policy, exhausted=True)
    for pair in INLINE[1:] + WORKER:
        execution = "worker" if "infer" in pair else "inline"
        for then in POLICIES:
            program = partial(somebody_goes_away, pair, Drain(0.0, then), who, execution)
            assert_explored(program, policy=Exhaustive(delays=1), exhausted=True)


# --- news that is late ----------------------------------------------------------------------------------------------


async def a_zero_is_told_late(then: Literal["quarantine", "wait"] = "wait") -> None:
    """Release in a thread that tells somebody else first, and hold and drain the version meanwhile."""
    drain = Drain(1.0, then)
    async with open_corner(record=False) as corner:
        corner.late_zeros_max = 1
        lease = corner.engine.lease("m").__enter__()
        corner.loaded.account.watch(_tell_slowly)
        corner.call("release", partial(trio.to_thread.run_sync, lease.release))
        corner.hold(1, "lease", choose([0.0, 2.0]))
        corner.drain(drain)
    assert_bounds(corner)


def _tell_slowly() -> None:
    """Be a watcher that lets everybody else go on before the next one is told."""
    if not trio.lowlevel.in_trio_task():
        trio.from_thread.run_sync(int)


def test_a_zero_that_is_told_late_closes_nothing() -> None:
    """A zero of before the gate was shut, told by a slow thread, closes no model that is held, and ends no drain."""
    assert_explored(a_zero_is_told_late, policy=Exhaustive(), exhausted=True)


# --- several drains, and what ends them -----------------------------------------------------------------------------


async def two_drains_join() -> None:
    """Unload twice, by two policies and deadlines, and hold what can be revoked and what cannot."""
    first = Drain(choose([0.0, 1.0]), "cancel", grace_s=choose([0.5, 5.0]))
    drains = [first, Drain(choose([0.0, 0.25, 1.25]), choose(POLICIES), grace_s=choose([0.5, 5.0]))]
    async with open_corner() as corner:
        corner.hold(0, "async lease", 3.0)
        corner.hold(1, "lease", choose([0.0, 3.0]))
        for drain in drains:
            corner.drain(drain)
    assert_bounds(corner)
    outcomes = {call.value for _, _, call in corner.drains if call.end == "returned"}
    one_by_one = any(outcome.result == "given_back" for outcome in outcomes)
    assert len(outcomes) == 1 or one_by_one, outcomes


def test_drains_that_join_have_one_outcome_each_in_its_own_time() -> None:
    """Two drains of one version end with one outcome, within the bound of the shorter one."""
    assert_explored(two_drains_join, policy=Exhaustive(delays=0), exhausted=True)
    assert_explored(two_drains_join, policy=RandomWalk(), schedules=300)


async def an_engine_closes_amid_a_drain() -> None:
    """Close the engine at any moment of a drain of which two hold and one waits for zero."""
    async with open_stage(close_timeout_s=choose([0.0, 10.0])) as stage:
        engine = stage.engine
        stage.add("1", chunks=_two_chunks)
        await engine.load("m", "1")
        (loaded,) = engine._host.living()
        account = loaded.account

        async def lease() -> None:
            with engine.lease("m"):
                await trio.sleep(choose([0.0, 1.0]))

        async def stream() -> None:
            async with engine.infer_stream("m", inputs(1)) as chunks:
                async for _ in chunks:
                    await trio.sleep(choose([0.0, 1.0]))

        drain = Drain(choose([0.0, 1.0]), choose(POLICIES), grace_s=1.0)
        for make in (lease, stream):
            stage.call(make, make.__name__)
        stage.call(lambda: engine.unload("m", "1", force=True, drain=drain), "unload")
        stage.call(lambda: engine.references.wait_for_zero("m", "1", 5.0), "wait")
        for _ in range(choose(range(12))):
            await trio.lowlevel.checkpoint()
    assert (account._watchers, account._revokers) == ([], {})
    assert engine.references._world.waits._waiting == set()
    told = {
        "returned",
        "LeaseRevoked",
        "NotReady",
        "EngineClosed",
        "VersionCrashed",
        "VersionNotLoaded",
        "DrainTimeout",
    }
    assert {call.end for call in stage.calls} <= told, [call.end for call in stage.calls]


def _two_chunks(asked: Any) -> Iterator[Any]:
    yield asked
    yield asked


def test_a_drain_that_the_end_of_the_engine_meets_is_answered() -> None:
    """The engine is closed at any moment of a drain: each has one answer, and nobody waits for what is gone."""
    assert_explored(an_engine_closes_amid_a_drain, policy=RandomWalk(), schedules=200)


@pytest.mark.slow
def test_a_drain_that_the_end_of_the_engine_meets_in_any_order_is_answered() -> None:
    """The same at every single moment, and in many more orders."""
    assert_explored(an_engine_closes_amid_a_drain, policy=Exhaustive(delays=0), exhausted=True)
    assert_explored(an_engine_closes_amid_a_drain, policy=RandomWalk(), schedules=2_000)
    assert_explored(an_engine_closes_amid_a_drain, policy=PCT(depth=3), schedules=500)


# --- anything at once -----------------------------------------------------------------------------------------------


async def anything_meets_a_drain() -> None:
    """Hold, drain twice, load again and wait, all at once; one of them goes away anywhere."""
    execution = choose(["inline", "worker"])
    leaves = choose(["nobody", "holder", "unload", "wait", "load"])
    async with open_corner(execution, work_s=choose([0.0, 1.0])) as corner:
        kinds = KINDS if execution == "worker" else NOT_BY_WORKERS
        for number in range(2):
            corner.hold(number, choose(kinds), choose([0.0, 1.0, 2.0]), anywhere=leaves == "holder" and number == 0)
        corner.drain(any_drain(), anywhere=leaves == "unload")
        if choose([True, False]):
            corner.drain(any_drain(), choose([0.0, 0.25, 1.0]))
        if choose([True, False]):
            corner.wait(choose([0.0, 1.0, 10.0]), anywhere=leaves == "wait")
            corner.wait()
        if choose([True, False, False]):
            corner.load(choose([0.0, 1.0]), anywhere=leaves == "load")
    assert_bounds(corner)


def any_drain() -> Drain:
    """Return any drain."""
    stream_s = choose([None, 0.0, 1.0, 3.0])
    return Drain(choose([0.0, 1.0, 2.0]), choose(POLICIES), grace_s=choose([0.0, 1.0, 5.0]), stream_deadline_s=stream_s)


def test_whatever_meets_a_drain_everybody_has_one_answer_in_time() -> None:
    """Joined drains, loads, waits and cancellations: each call has one answer within its own bound, nothing is left."""
    assert_explored(anything_meets_a_drain, policy=RandomWalk(), schedules=600)


@pytest.mark.slow
def test_whatever_meets_a_drain_in_any_order_everybody_has_one_answer_in_time() -> None:
    """The same in many more orders."""
    assert_explored(anything_meets_a_drain, policy=RandomWalk(), schedules=2_500)
    assert_explored(anything_meets_a_drain, policy=PCT(depth=3), schedules=2_000)
    assert_explored(anything_meets_a_drain, schedules=500, mode="trio-batch")


# --- these tests see what is wrong ------------------------------------------------------------------------------------


def not_put_back(version: Version) -> None:
    """Forget the zero that is over, and the watcher with it."""
    assert version.loaded is not None
    if not version.loaded.account.held:
        version._settle_drain("drained")
        version._step(Event.ZERO)


def closed_at_the_deadline(version: Version) -> None:
    """Close the model when time is up."""
    version._settle_drain("drained")
    version._step(Event.ZERO)


def not_unwatched(account: Account, watcher: Callable[[], None]) -> None:
    """Leave the watcher where it is."""


def streams_in_time_do_not_count(limit: Limit, held: Collection[str], now: float) -> str:
    """Let the limit of the others decide about streams as well."""
    if limit.deadline_s is None or limit.deadline_s > now:
        return "wait"
    return "quarantine"


def watched_twice(account: Account, watcher: Callable[[], None]) -> None:
    """Have every watcher called twice."""
    account._watchers += [watcher, watcher]
    if not account.held:
        account._call_watchers()


def grace_above_all(limit: Limit, held: Collection[str], now: float) -> str:
    """Let the grace of one drain outlast the deadline of another."""
    verdict = EXPIRE(limit, held, now)
    if verdict == "revoke":
        limit.deadline_s = now + limit.drain.grace_s
    return verdict


EXPIRE = Limit.expire
Broken = tuple[type, str, Callable[..., Any], Callable[[], Awaitable[None]]]
BROKEN: dict[str, Broken] = {
    "not put back": (Version, "_on_zero", not_put_back, a_zero_is_told_late),
    "closed at the deadline": (
        Version, "_on_deadline", closed_at_the_deadline, partial(two_hold_and_one_drains, LEASES, Drain(0.0)),
    ),
    "not unwatched": (
        Account, "unwatch", not_unwatched, partial(somebody_goes_away, LEASES, Drain(then="wait"), "wait"),
    ),
    "streams do not count": (Limit, "expire", streams_in_time_do_not_count, streams_have_a_limit_of_their_own),
    "watched twice": (Account, "watch", watched_twice, partial(two_hold_and_one_drains, LEASES, Drain(0.0))),
    "grace above all": (Limit, "expire", grace_above_all, two_drains_join),
}  # fmt: skip


@pytest.mark.parametrize("broken", BROKEN)
def test_what_is_broken_is_found(broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of these programs fails where the drain is broken in the way that it is there for."""
    owner, name, wrong, program = BROKEN[broken]
    monkeypatch.setattr(owner, name, wrong)
    assert explore(program, policy=RandomWalk(), schedules=1_000).failure is not None
