"""Promise 6: a drain ends within its bound, with the outcome that its policy names; on Trio, in virtual time."""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import Any

import pytest
import trio

from changeover import Drain, DrainOutcome
from changeover.errors import LeaseRevoked, WrongLoop
from tests.support.rig import Outcome, Rig, open_rig, running, settle


async def hold(rig: Rig, *, until: float | None = None, careless_s: float = 0.0) -> str:
    """Hold an async lease until some time, and for so much longer where it is revoked; return how that ended."""
    try:
        async with rig.engine.lease("m"):
            try:
                await trio.sleep(float("inf") if until is None else until)
            finally:
                with trio.CancelScope(shield=True):
                    await trio.sleep(careless_s)
    except LeaseRevoked:
        return "revoked"
    return "left"


def unload(rig: Rig, *drain: Any) -> Outcome:
    """Return an unload that is out of time as `drain` says."""
    return Outcome(rig.engine.unload, "m", "1", drain=Drain(*drain), force=True)


async def test_cancel_ends_async_leases_at_the_deadline(rig: Rig, autojump_clock: Any) -> None:
    """With "cancel", whoever holds an async lease at the deadline gets `LeaseRevoked`, and the version is drained."""
    await rig.ready()
    holders = [Outcome(hold, rig) for _ in range(3)]
    order = unload(rig, 10.0, "cancel", 5.0)
    async with running(*holders, order):
        await trio.sleep(9)
        assert not any(holder.over for holder in holders)
    assert [(holder.value, holder.ended_s) for holder in holders] == [("revoked", 10.0)] * 3
    assert order.value == DrainOutcome("drained", (), 10.0)
    assert rig.engine.audit().clean


async def test_who_leaves_in_time_is_not_revoked(rig: Rig, autojump_clock: Any) -> None:
    """A holder who leaves before the deadline never hears of it."""
    await rig.ready()
    holder, order = Outcome(hold, rig, until=4.0), unload(rig, 10.0, "cancel")
    async with running(holder, order):
        pass
    assert (holder.value, order.value.duration_s) == ("left", 4.0)


async def test_who_ignores_it_meets_quarantine_after_the_grace(rig: Rig, autojump_clock: Any) -> None:
    """Who is still there after the grace keeps the version loaded; the outcome names him, a synchronous lease too."""
    await rig.ready()
    careless, order, lease = Outcome(hold, rig, careless_s=100.0), unload(rig, 10.0, "cancel", 5.0), rig.lease()
    async with running(careless, order):
        await trio.sleep(16)
        assert order.value.result == "quarantined"
        assert (order.ended_s, len(order.value.holders)) == (15.0, 2)
        assert not rig.cast.made[0].closed
        lease.release()
    assert (careless.value, careless.ended_s) == ("revoked", 110.0)
    await settle()
    assert rig.cast.made[0].closed == 1


async def test_a_revoked_version_that_is_given_back_revokes_nobody_else(rig: Rig, autojump_clock: Any) -> None:
    """Wanted again during the grace, it serves on: leases taken from then on stay."""
    await rig.ready()
    first, order = Outcome(hold, rig, careless_s=3.0), unload(rig, 1.0, "cancel", 5.0)
    async with running(first, order):
        await trio.sleep(2)
        await rig.engine.load("m", "1")
        async with rig.engine.lease("m"):
            await trio.sleep(50)
    assert (first.value, order.value.result) == ("revoked", "given_back")
    second, again = Outcome(hold, rig), unload(rig, 1.0, "cancel", 5.0)
    async with running(second, again):
        pass
    assert (second.value, again.value.result) == ("revoked", "drained")


@pytest.mark.parametrize(
    ("drains", "ends"),
    [
        (((20.0, "quarantine"), (5.0, "cancel")), ("revoked", "drained", 5.0)),
        (((20.0, "cancel"), (5.0, "quarantine")), ("left", "quarantined", 5.0)),
        (((20.0, "wait"), (5.0, "cancel")), ("revoked", "drained", 5.0)),
        (((5.0, "cancel"), (20.0, "wait")), ("revoked", "drained", 5.0)),
        (((5.0, "rollback"), (20.0, "cancel")), ("left", "given_back", 5.0)),
        (((20.0, "rollback"), (5.0, "cancel")), ("revoked", "drained", 5.0)),
    ],
)
async def test_of_joined_drains_the_earliest_deadline_decides(
    rig: Rig, drains: tuple[Any, ...], ends: tuple[Any, ...], autojump_clock: Any
) -> None:
    """Whose time is up first says what happens then, whoever came first; all hear the same."""
    await rig.ready()
    holder, orders = Outcome(hold, rig, until=50.0), [unload(rig, *drain) for drain in drains]
    async with running(holder, *orders):
        pass
    ended, result, duration_s = ends
    assert holder.value == ended
    assert {(order.value.result, order.value.duration_s) for order in orders} == {(result, duration_s)}


async def test_a_hurry_during_the_grace(rig: Rig, autojump_clock: Any) -> None:
    """An order that cannot wait for the grace ends it."""
    await rig.ready()
    careless, first = Outcome(hold, rig, careless_s=100.0), unload(rig, 1.0, "cancel", 50.0)
    async with running(careless, first):
        await trio.sleep(10)
        second = unload(rig, 0.0, "quarantine")
        async with running(second):
            pass
    assert (first.ended_s, first.value.result, second.value.result) == (10.0, "quarantined", "quarantined")


async def test_rollback_gives_the_traffic_back(rig: Rig, autojump_clock: Any) -> None:
    """With "rollback" a plain unload that is out of time is undone: the version is ready, and its holders keep it."""
    await rig.ready()
    lease, order = rig.lease(), unload(rig, 10.0, "rollback")
    async with running(order):
        pass
    assert (order.value.result, order.ended_s, [h.kind for h in order.value.holders]) == ("given_back", 10.0, ["lease"])
    assert (await rig.engine.infer("m", {})).version == "1"
    assert lease.infer({})["version"] == "1"
    lease.release()
    await settle()
    assert rig.cast.open() == ["m/1"]


async def test_a_swap_revokes_the_old_version(rig: Rig, autojump_clock: Any) -> None:
    """A swap may say so of the version that it replaces; holders of the new one are left alone."""
    await rig.ready()
    rig.add(version="2")
    old = Outcome(hold, rig)
    swap = Outcome(rig.engine.swap, "m", "2", drain=Drain(3.0, "cancel"))
    async with running(old, swap):
        await trio.sleep(1)
        new = Outcome(hold, rig, until=100.0)
        async with running(new):
            pass
    assert (old.value, old.ended_s, new.value) == ("revoked", 3.0, "left")
    assert swap.value.old_unloaded


async def test_a_cancellation_from_outside_stays_one(rig: Rig, autojump_clock: Any) -> None:
    """Cancelled from outside in the moment of its revocation, the block ends by that; the reference is given back."""
    await rig.ready()
    order, ended = unload(rig, 1.0, "cancel"), "cancelled"
    async with trio.open_nursery() as orders:
        with trio.CancelScope() as outside:
            async with rig.engine.lease("m") as lease:
                orders.start_soon(order.run)
                await settle()
                lease._stay.revoke()
                outside.cancel()
                await trio.sleep_forever()
            ended = "left"
    assert (outside.cancelled_caught, ended, order.value.result) == (True, "cancelled", "drained")


async def test_the_bodys_own_error_stays_one(rig: Rig, autojump_clock: Any) -> None:
    """What the body raises when it is revoked is not hidden, alone or beside other tasks of a nursery."""
    await rig.ready()
    order = unload(rig, 1.0, "cancel")

    async def fail() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise ZeroDivisionError

    async with trio.open_nursery() as orders:
        with pytest.raises(BaseExceptionGroup) as caught:  # noqa: PT012 - the block is what is tested
            async with rig.engine.lease("m"), trio.open_nursery() as nursery:
                nursery.start_soon(fail)
                orders.start_soon(order.run)
        assert [type(error) for error in caught.value.exceptions] == [ZeroDivisionError]
    assert order.value.result == "drained"


async def test_nested_leases_are_revoked_apart(rig: Rig, autojump_clock: Any) -> None:
    """Of two leases in each other, the one whose version is drained says so."""
    await rig.ready()
    await rig.ready("n")
    order = unload(rig, 1.0, "cancel")
    async with trio.open_nursery() as orders, rig.engine.lease("n"):
        with pytest.raises(LeaseRevoked) as caught:  # noqa: PT012 - the block is what is tested
            async with rig.engine.lease("m"):
                orders.start_soon(order.run)
                await trio.sleep_forever()
        assert caught.value.model == "m"
        await trio.lowlevel.checkpoint()


async def test_left_in_another_task(rig: Rig, autojump_clock: Any) -> None:
    """A lease that another task leaves than entered it says so, and gives its reference back."""
    await rig.ready()
    lease = rig.engine.lease("m")
    entered, over = trio.Event(), trio.Event()

    async def enter() -> None:
        await lease.__aenter__()
        entered.set()
        await over.wait()
        lease._stay._scope.__exit__(None, None, None)  # or Trio complains of this task, as it should

    async with trio.open_nursery() as nursery:
        nursery.start_soon(enter)
        await entered.wait()
        with pytest.raises(WrongLoop, match="another"):
            await lease.__aexit__(None, None, None)
        over.set()
    assert rig.engine.audit().clean


@pytest.mark.parametrize("ended", [False, True])
def test_a_lease_in_another_trio_run(ended: bool) -> None:
    """A lease is revoked in the run that took it; where that has ended, the drain meets quarantine."""
    holding, ends, leases = threading.Event(), [], []

    async def elsewhere(rig: Rig) -> None:
        if ended:
            leases.append(rig.engine.lease("m"))
            leases[0].__enter__()
            return
        with suppress(LeaseRevoked):
            async with rig.engine.lease("m"):
                holding.set()
                await trio.sleep_forever()
        ends.append("revoked")

    async def main() -> None:
        async with open_rig(real=True) as rig:
            await rig.ready()
            thread = threading.Thread(target=trio.run, args=(elsewhere, rig))
            thread.start()
            await trio.to_thread.run_sync(thread.join if ended else holding.wait)
            outcome = await rig.engine.unload("m", "1", force=True, drain=Drain(0.0, "cancel", 0.0 if ended else 30.0))
            assert outcome.result == ("quarantined" if ended else "drained")
            thread.join()
            for lease in leases:
                lease.release()

    trio.run(main)
    assert ends == ([] if ended else ["revoked"])


async def test_the_grace_of_one_drain_does_not_outlast_the_bound_of_another(rig: Rig, autojump_clock: Any) -> None:
    """A drain that cancels with a long grace joins one with a deadline: that one is answered at its own."""
    await rig.ready()
    lease = rig.lease()
    patient, hasty = unload(rig, 10.0), unload(rig, 5.0, "cancel", 100.0)
    async with running(patient, hasty):
        await trio.sleep(11.0)
        assert patient.ended_s == pytest.approx(10.0)
        lease.release()
