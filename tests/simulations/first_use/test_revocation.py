"""Leases that are revoked while their blocks begin, wait and end: each ends in one way, and gives back what it held."""

from __future__ import annotations

import trio

from changeover import Drain, Lease, SwapState
from changeover.errors import ChangeoverError, LeaseRevoked, NotReady, SwapNotAllowed, VersionNotLoaded
from changeover_sim import PCT, RandomWalk, cancel_anywhere, choose
from tests.simulations.first_use.stage import Search, Stage, assert_at_rest, inputs, open_stage


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


def test_a_revocation_against_the_end_of_the_block(search: Search) -> None:
    """Whatever the order of steps: the drain ends in time, and a block is left or revoked, never both."""
    search(leases_are_revoked_while_they_end, policy=RandomWalk(), schedules=300)
    search(leases_are_revoked_while_they_end, schedules=200, mode="trio-batch")


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


def test_a_version_that_is_given_back_revokes_no_new_lease(search: Search) -> None:
    """Leases taken after a version was given back live on, whatever was revoked before."""
    search(a_revoked_version_is_wanted_again, policy=RandomWalk(), schedules=300)


class Own(Exception):
    """What a block raises of its own."""


class Block:
    """A block with one or two leases in it that ends in some way of its own, unless it is revoked or cancelled."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.how = choose(["leaves", "raises", "is cancelled", "raises when it is cancelled", "releases itself"])
        self.nested = choose([False, True])
        self.end = ""
        self.held_to_the_end = False
        self.scope = trio.CancelScope()

    async def run(self) -> None:
        """Be in the block, then look whether anything of a cancellation is left behind it."""
        try:
            with self.scope:
                if self.how == "is cancelled":
                    cancel_anywhere(self.scope)
                await self._enter()
                self.end = "left"
        except LeaseRevoked:
            self.end = "revoked"
        except Own:
            self.end = "raised"
        except (NotReady, VersionNotLoaded):
            self.end = "never entered"
        if self.scope.cancelled_caught:
            assert self.end == "", self.end
            self.end = "cancelled"
        await trio.lowlevel.checkpoint()  # nothing of the revocation is left behind the block
        await trio.sleep(1.0)

    async def _enter(self) -> None:
        async with self.stage.engine.lease("m") as lease:
            if self.nested:
                async with self.stage.engine.lease("m", version=choose(["1", "2"])) as inner:
                    await self._stay(inner)
            else:
                await self._stay(lease)
            lease.infer(inputs(1))

    async def _stay(self, lease: Lease) -> None:
        try:
            for _ in range(choose(range(4))):
                await trio.lowlevel.checkpoint()
            await trio.sleep(choose([0.0, 1.0, 2.0]))
            lease.infer(inputs(1))
            self.held_to_the_end = True
        except trio.Cancelled:
            lease.infer(inputs(1))  # who is revoked holds the model until he has left
            if self.how == "raises when it is cancelled":
                raise Own from None
            raise
        if self.how == "raises":
            raise Own


async def blocks_end_in_every_way() -> None:
    """Revoke leases, one in the other perhaps, whose blocks leave, raise or are cancelled in the same moments."""
    async with open_stage() as stage:
        engine = stage.engine
        stage.add("1", "2")
        await engine.load("m", "1")
        await engine.load("m", "2")
        blocks = [Block(stage) for _ in range(2)]
        calls = [stage.call(block.run, f"block {number}") for number, block in enumerate(blocks)]
        drain = Drain(choose([0.0, 1.0]), "cancel", choose([0.0, 1.0]))
        order = stage.call(lambda: engine.unload("m", "1", drain=drain), "unload")
        await trio.sleep(10.0)
        await stage.rest()
        assert_at_rest(stage)
        assert order.end == "returned"
        assert order.value.result == "drained" or drain.grace_s == 0.0, order.value
        assert order.ended_s <= drain.deadline_s + drain.grace_s
        for block, call in zip(blocks, calls, strict=True):
            assert call.end == "returned"
            allowed = {"left", "revoked", "never entered"}
            allowed |= {"raised"} if "raises" in block.how else set()
            allowed |= {"cancelled"} if block.how == "is cancelled" else set()
            assert block.end in allowed, (block.how, block.end)
            if block.held_to_the_end and not block.nested:
                wanted = "raised" if block.how == "raises" else "left"
                assert block.end in {wanted, "cancelled"}, (block.how, block.end)


def test_a_revocation_against_every_end_of_a_block(search: Search) -> None:
    """A block ends by its own error, its own cancellation or the revocation, and leaves nothing pending."""
    search(blocks_end_in_every_way, policy=RandomWalk(), schedules=300)
    search(blocks_end_in_every_way, policy=PCT(depth=3), schedules=200)


async def a_drain_rolls_back() -> None:
    """Swap with a drain that rolls back, while its holder leaves, or the old version is wanted by somebody else."""
    async with open_stage() as stage:
        engine = stage.engine
        stage.add("1", "2", "3")
        await engine.load("m", "1")
        deadline_s = choose([0.0, 1.0])
        held_s = choose([0.0, 1.0, 2.0, 5.0])

        held = trio.Event()

        async def hold() -> None:
            async with engine.lease("m", version="1"):
                held.set()
                await trio.sleep(held_s)

        stage.call(hold, "hold")
        await held.wait()
        swap_id = engine.start_swap("m", "2", drain=Drain(deadline_s, "rollback"))
        swap = stage.call(lambda: engine.wait_for_swap(swap_id), "swap")
        event = choose(["nothing", "swap to 1", "swap to 3", "load 1", "rollback"])
        await trio.sleep(choose([0.0, 0.5, 1.0, 1.0]))
        made = None
        if event.startswith("swap"):
            try:
                made = engine.start_swap("m", event[-1], on_busy=choose(["queue", "supersede"]))
            except SwapNotAllowed:
                assert engine.is_active("m", event[-1])
        elif event == "load 1":
            stage.call(lambda: engine.ensure_loaded("m", "1"), event)
        elif event == "rollback":
            stage.call(lambda: engine.rollback(swap_id), event)
        await stage.rest()
        state = engine.swap_status(swap_id).state
        assert swap.end in {"returned", "SwapRolledBack", "Superseded"}, swap.error
        if made is not None:
            newer = engine.swap_status(made)
            assert newer.state is SwapState.COMPLETED, (event, newer)
            assert stage.traffic() == event[-1], (event, stage.traffic(), state)
        else:
            turned = state is not SwapState.COMPLETED
            assert stage.traffic() == ("1" if turned or event == "rollback" else "2")
            if event == "nothing" and held_s != deadline_s:
                assert turned == (held_s > deadline_s), (held_s, deadline_s, state)
            said = engine.swap_status(swap_id).error_message
            if said is not None and "still held" in said:
                assert held_s >= deadline_s, said
                assert swap.ended_s >= deadline_s, said
        wanted = {stage.traffic(), "1"} if event == "load 1" else {stage.traffic()}
        assert set(engine.loaded_versions("m")) <= wanted, engine.loaded_versions("m")
        assert_at_rest(stage)


def test_a_drain_that_rolls_back_against_release_and_newer_orders(search: Search) -> None:
    """A drain rolls its swap back where the old version is still held in time and nobody has moved on; else never."""
    search(a_drain_rolls_back, policy=RandomWalk(), schedules=300)
    search(a_drain_rolls_back, policy=PCT(depth=3), schedules=200)
