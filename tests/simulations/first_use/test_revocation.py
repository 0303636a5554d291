"""Leases that are revoked while their blocks begin, wait and end: each ends in one way, and gives back what it held."""

from __future__ import annotations

import trio

from changeover import Drain
from changeover.errors import ChangeoverError, LeaseRevoked, NotReady
from changeover_sim import RandomWalk, choose
from tests.simulations.first_use.stage import assert_explored, open_stage


async def leases_are_revoked_while_they_end() -> None:
    """Drain with "cancel" against blocks that begin and end in the same moments."""
    async with open_stage() as stage:
        engine = stage.engine
        stage.add("1")
        await engine.load("m", "1")
        ends: list[str] = []

        async def hold() -> None:
            end = "cancelled"
            try:
                async with engine.lease("m"):
                    for _ in range(choose(range(4))):
                        await trio.lowlevel.checkpoint()
                    await trio.sleep(choose([0.0, 1.0, 2.0]))
                end = "left"
            except LeaseRevoked:
                end = "revoked"
            except NotReady:
                end = "never entered"
            finally:
                ends.append(end)
            await trio.lowlevel.checkpoint()  # nothing of the revocation is left behind the block
            await trio.sleep(1.0)

        async def drain() -> None:
            outcome = await engine.unload("m", "1", force=True, drain=Drain(choose([0.0, 1.0]), "cancel", 1.0))
            assert outcome.result == "drained", outcome

        calls = [stage.call(hold, f"hold {number}") for number in range(2)]
        order = stage.call(drain, "drain")
        await trio.sleep(10.0)
        assert order.end == "returned"
        assert {call.end for call in calls} == {"returned"}
        assert len(ends) == 2
        assert "cancelled" not in ends
        assert engine.references.count("m", "1") == 0


def test_a_revocation_against_the_end_of_the_block() -> None:
    """Whatever the order of steps: the drain ends in time, and a block is left or revoked, never both."""
    assert_explored(leases_are_revoked_while_they_end, policy=RandomWalk(), schedules=300)
    assert_explored(leases_are_revoked_while_they_end, schedules=200, mode="trio-batch")


async def a_revoked_version_is_wanted_again() -> None:
    """Load a version again while its leases are being revoked."""
    async with open_stage() as stage:
        engine = stage.engine
        stage.add("1")
        await engine.load("m", "1")

        async def hold() -> None:
            try:
                async with engine.lease("m"):
                    await trio.sleep(choose([0.0, 1.0, 3.0]))
            except (LeaseRevoked, NotReady):
                return

        async def want() -> None:
            await trio.sleep(choose([0.0, 1.0]))
            try:
                await engine.ensure_loaded("m", "1")
            except ChangeoverError as error:
                raise AssertionError from error
            async with engine.lease("m"):
                await trio.sleep(5.0)

        stage.call(hold, "hold")
        stage.call(lambda: engine.unload("m", "1", force=True, drain=Drain(choose([0.0, 1.0]), "cancel", 1.0)), "drain")
        stage.call(want, "want")
        await trio.sleep(20.0)
        assert engine.references.count("m", "1") == 0


def test_a_version_that_is_given_back_revokes_no_new_lease() -> None:
    """Leases taken after a version was given back live on, whatever was revoked before."""
    assert_explored(a_revoked_version_is_wanted_again, policy=RandomWalk(), schedules=300)
