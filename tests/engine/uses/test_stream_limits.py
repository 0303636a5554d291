"""A drain gives streams a limit of their own: shorter or longer than that of all others, under each policy."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

from changeover import Drain, DrainOutcome, Shift, VersionState
from changeover.errors import ChangeoverError, LeaseRevoked
from tests.support.rig import Outcome, Rig, open_rig, running, settle

POLICIES = ["quarantine", "cancel", "rollback"]


def endless(_inputs: object) -> Any:
    """Yield for ever."""
    while True:
        yield {"n": 0}


@asynccontextmanager
async def held(rig: Rig, *, lease_s: float, stream_s: float) -> AsyncGenerator[dict[str, tuple[float, str]], None]:
    """Hold m/1 by an async lease and a stream, each for so long; give when and how each has ended."""
    ends: dict[str, tuple[float, str]] = {}

    async def note(kind: str, use: Any) -> None:
        how = "left"
        try:
            await use()
        except ChangeoverError as error:
            how = type(error).__name__
        ends[kind] = (trio.current_time(), how)

    async def lease() -> None:
        async with rig.engine.lease("m"):
            await trio.sleep(lease_s)

    async def stream() -> None:
        async with rig.engine.infer_stream("m", {}) as chunks:
            for _ in range(int(stream_s)):
                await anext(chunks)
                await trio.sleep(1.0)

    async with trio.open_nursery() as nursery:
        for kind, use in (("lease", lease), ("stream", stream)):
            nursery.start_soon(note, kind, use)
            await settle()
        yield ends


async def unloaded(rig: Rig, drain: Drain) -> DrainOutcome:
    """Unload m/1 at once."""
    return await rig.engine.unload("m", "1", force=True, drain=drain)


async def ready(rig: Rig) -> None:
    """Load m/1, whose streams do not end."""
    await rig.ready(chunks=endless, execution="worker")


@pytest.mark.parametrize("then", POLICIES)
@pytest.mark.parametrize(("deadline_s", "stream_deadline_s"), [(10.0, 4.0), (10.0, 0.0), (10.0, 10.0), (10.0, None)])
async def test_a_stream_outlasts_a_limit_of_its_own_that_is_sooner(
    rig: Rig, then: Any, deadline_s: float, stream_deadline_s: float | None, autojump_clock: Any
) -> None:
    """The policy comes at the streams' limit, where only a stream is left or not; the lease had time until ten."""
    await ready(rig)
    limit_s = deadline_s if stream_deadline_s is None else stream_deadline_s
    drain = Drain(deadline_s, then, grace_s=2.0, stream_deadline_s=stream_deadline_s)
    async with held(rig, lease_s=1.0, stream_s=20.0) as ends:
        outcome = await unloaded(rig, drain)
    if then == "cancel":
        assert outcome.result == "drained"
        assert ends["stream"][1] == "LeaseRevoked"
        assert limit_s <= ends["stream"][0] <= limit_s + 1.0  # the next pull, at the latest after a second
        assert outcome.duration_s == ends["stream"][0]
        assert ends["lease"] == (1.0, "left")
    else:
        assert (outcome.result, outcome.duration_s) == ("given_back" if then == "rollback" else "quarantined", limit_s)
        assert [holder.kind for holder in outcome.holders] == (["lease", "stream"] if limit_s < 1.0 else ["stream"])
        assert ends == {"lease": (1.0, "left"), "stream": (20.0, "left")}


@pytest.mark.parametrize("then", POLICIES)
async def test_a_stream_has_more_time_than_the_others(rig: Rig, then: Any, autojump_clock: Any) -> None:
    """At the limit of the others a stream is not touched, and alone it is no reason for the policy."""
    await ready(rig)
    async with held(rig, lease_s=3.0, stream_s=20.0) as ends:
        outcome = await unloaded(rig, Drain(4.0, then, stream_deadline_s=30.0))
    assert (outcome.result, outcome.holders, outcome.duration_s) == ("drained", (), 20.0)
    assert ends == {"lease": (3.0, "left"), "stream": (20.0, "left")}


@pytest.mark.parametrize("then", POLICIES)
async def test_others_have_more_time_than_a_stream(rig: Rig, then: Any, autojump_clock: Any) -> None:
    """Where no stream is left at the streams' limit, it is no reason for the policy."""
    await ready(rig)
    async with held(rig, lease_s=9.0, stream_s=2.0) as ends:
        outcome = await unloaded(rig, Drain(10.0, then, stream_deadline_s=3.0))
    assert (outcome.result, outcome.duration_s) == ("drained", 9.0)
    assert ends == {"lease": (9.0, "left"), "stream": (2.0, "left")}


@pytest.mark.parametrize("sooner", ["lease", "stream"])
async def test_each_class_is_revoked_at_its_own_limit(rig: Rig, sooner: str, autojump_clock: Any) -> None:
    """`cancel` asks streams and the others to let go each at their own time."""
    await ready(rig)
    at_s = {"lease": 4.0, "stream": 8.0} if sooner == "lease" else {"lease": 8.0, "stream": 4.0}
    async with held(rig, lease_s=50.0, stream_s=50.0) as ends:
        outcome = await unloaded(rig, Drain(at_s["lease"], "cancel", grace_s=2.0, stream_deadline_s=at_s["stream"]))
    assert outcome.result == "drained"
    assert {kind: how for kind, (_, how) in ends.items()} == dict.fromkeys(at_s, "LeaseRevoked")
    assert ends["lease"][0] == at_s["lease"]
    assert at_s["stream"] <= ends["stream"][0] <= at_s["stream"] + 1.0


async def test_a_stream_that_does_not_let_go_is_waited_for_no_longer_than_its_grace(
    rig: Rig, autojump_clock: Any
) -> None:
    """The grace counts from the streams' own limit; but the drain ends when everybody was asked, each in its time."""
    await ready(rig)
    lease = rig.lease()
    async with rig.engine.infer_stream("m", {}) as chunks:
        outcome = await unloaded(rig, Drain(30.0, "cancel", grace_s=2.0, stream_deadline_s=5.0))
        assert (outcome.result, outcome.duration_s) == ("quarantined", 32.0)
        assert [(holder.kind, holder.age_s) for holder in outcome.holders] == [("lease", 32.0), ("stream", 32.0)]
        with pytest.raises(LeaseRevoked):
            await anext(chunks)
    lease.release()
    await settle()
    assert rig.engine.load_info("m", "1").status is VersionState.UNLOADED


async def test_who_joins_behind_the_grace_does_not_begin_the_waiting_anew(rig: Rig, autojump_clock: Any) -> None:
    """The leases' grace is spent and the streams' limit is to come: a later order leaves the first one its bound."""
    await ready(rig)
    lease = rig.lease()
    async with rig.engine.infer_stream("m", {}) as chunks:
        first = Outcome(unloaded, rig, Drain(1.0, "cancel", grace_s=1.0, stream_deadline_s=8.0))
        late = Outcome(unloaded, rig, Drain(100.0, "cancel"))
        async with running(first):
            await trio.sleep(4.0)
            async with running(late):
                await trio.sleep(4.5)
                with pytest.raises(LeaseRevoked):
                    await anext(chunks)
    assert [(order.value.result, order.ended_s) for order in (first, late)] == [("quarantined", 9.0)] * 2
    assert [holder.kind for holder in first.value.holders] == ["lease"]
    lease.release()


async def test_without_a_bound_streams_have_none_either(rig: Rig, autojump_clock: Any) -> None:
    """`wait` waits for streams, too, whatever limit is named for them."""
    await ready(rig)
    async with held(rig, lease_s=1.0, stream_s=500.0):
        outcome = await unloaded(rig, Drain(1.0, "wait", stream_deadline_s=2.0))
    assert (outcome.result, outcome.duration_s) == ("drained", 500.0)


@pytest.mark.parametrize("first", ["short", "long"])
async def test_of_two_drains_the_sooner_limit_of_each_class_holds(rig: Rig, first: str, autojump_clock: Any) -> None:
    """A drain that joins brings forward what it wants sooner, and nothing else."""
    await ready(rig)
    drains = {"short": Drain(20.0, stream_deadline_s=3.0), "long": Drain(6.0, stream_deadline_s=40.0)}
    order = [first, "long" if first == "short" else "short"]
    outcomes = [Outcome(unloaded, rig, drains[name]) for name in order]
    async with held(rig, lease_s=100.0, stream_s=2.0) as ends, running(*outcomes):
        pass
    assert [(o.value.result, o.value.duration_s) for o in outcomes] == [("quarantined", 6.0)] * 2
    assert ends["stream"] == (2.0, "left")


@pytest.mark.parametrize("execution", ["inline", "worker"])
async def test_a_swap_drains_with_the_streams_limit(autojump_clock: Any, execution: str) -> None:
    """A stream stays with the version that it began with, and has the time that the drain of the swap says."""
    async with open_rig(strict_references=True) as rig:
        for version in "12":
            rig.add(version=version, chunks=endless, execution=execution)
        await rig.engine.load("m", "1")
        async with rig.engine.infer_stream("m", {}) as old:
            await anext(old)
            swap = Outcome(rig.engine.swap, "m", "2", plan=Shift.at_once(), drain=Drain(1.0, stream_deadline_s=60.0))
            async with running(swap):
                for _ in range(30):
                    assert (await anext(old)).version == "1"
                    assert (await rig.engine.infer("m", {})).version == "2"
                    await trio.sleep(1.0)
                async with rig.engine.infer_stream("m", {}) as new:
                    assert (await anext(new)).version == "2"
                assert (swap.over, rig.cast.open()) == (False, ["m/1", "m/2"])
                await old.__aexit__(None, None, None)
            assert swap.value.old_unloaded
            assert swap.value.drain_outcome.result == "drained"
            assert swap.ended_s == 30.0
