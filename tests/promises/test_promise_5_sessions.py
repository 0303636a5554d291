"""Promise 5: after a swap no new request reaches the old version, and per key the version never goes back.

"Unless a rollback or a fallback says so", and unless a version of the two crashes.
"""

from __future__ import annotations

import contextlib
from itertools import pairwise
from typing import Any

import attrs
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from changeover import Shift, SwapState
from changeover.errors import SwapNotAllowed, SwapNotDone, SwapRolledBack
from tests.support.canary import Clients, asking, check_quiet, two
from tests.support.rig import Outcome, Rig, open_rig, run_virtual, running, settle, until

KEYS = [f"session {number}" for number in range(20)]
RAMP = Shift.canary([(0.1, 2.0), (0.3, 2.0), (0.6, 2.0), (0.9, 2.0)], confirm_s=2.0, guard=None)


def backward(clients: Clients, until_s: float = float("inf")) -> list[str]:
    """Return, in words, every key whose version went back among the requests that began before `until_s`."""
    found: list[str] = []
    for key in {seen.key for seen in clients.seen if seen.key is not None}:
        mine = [seen for seen in clients.seen if seen.key == key and not seen.fell_back and seen.began_s < until_s]
        mine.sort(key=lambda seen: seen.began_s)
        for before, after in pairwise(mine):
            if int(after.version or 0) < int(before.version or 0):
                found.append(f"{key}: {before.version} at {before.began_s}, {after.version} at {after.began_s}")
    return found


@attrs.frozen
class Order:
    """What an operator does, and when."""

    at_s: float
    kind: str


@attrs.frozen
class Story:
    """A ramp, how its versions behave, and what is ordered meanwhile."""

    shares: tuple[float, ...]
    hold_s: float
    execution: str
    fails_every: int
    takes_s: tuple[float, float]
    orders: tuple[Order, ...]
    seed: int

    @property
    def plan(self) -> Shift:
        return Shift.canary([(share, self.hold_s) for share in self.shares], confirm_s=self.hold_s, guard=None)


STORIES = st.builds(
    Story,
    st.lists(st.sampled_from([0.05, 0.2, 0.5, 0.8, 0.95]), min_size=1, max_size=4, unique=True).map(sorted).map(tuple),
    st.sampled_from([0.3, 0.6]),
    st.sampled_from(["inline", "worker"]),
    st.sampled_from([2, 5, 1_000_000]),
    st.tuples(st.sampled_from([0.0, 0.01, 0.1]), st.sampled_from([0.0, 0.01, 0.1])),
    st.lists(
        st.builds(
            Order, st.sampled_from([0.1, 0.5, 1.1, 2.3]), st.sampled_from(["pause", "resume", "promote", "abort"])
        ),
        max_size=3,
    )
    .map(lambda orders: sorted(orders, key=lambda order: order.at_s))
    .map(tuple),
    st.integers(0, 1_000),
)


async def play(story: Story) -> None:
    """Let sessions run through a ramp, and check what they saw."""
    async with open_rig(seed=story.seed) as rig:
        await two(rig, story.execution, fails_on=lambda inputs: on_trial(rig) and inputs["n"] % story.fails_every == 1)
        for version, seconds in zip("12", story.takes_s, strict=True):
            rig.takes(f"worker m/{version} 0", seconds)
        async with asking(rig, 0.2, [*KEYS[:6], None]) as clients:
            await trio.sleep(0.3)
            swap = Outcome(rig.engine.swap, "m", "2", plan=story.plan)
            async with running(swap):
                turned_s = await steer(rig, story.orders)
            await trio.sleep(2.0)
        assert clients.errors == []
        assert backward(clients, turned_s) == []
        assert isinstance(swap.error, SwapRolledBack) is (turned_s < float("inf"))
        assert set(clients.versions(swap.ended_s + 1e-9)) <= {"1" if swap.error else "2"}
        await trio.sleep(10.0)  # workers finish what cancelled clients have left
        check_quiet(rig)


def on_trial(rig: Rig) -> bool:
    """Return whether somebody stands by for the new version."""
    return rig.engine._router.snapshot.routes["m"].trial is not None


async def steer(rig: Rig, orders: tuple[Order, ...]) -> float:
    """Give orders to the swap, as long as it takes any; return when it was turned round, if it was."""
    began_s, turned_s = trio.current_time(), float("inf")
    for order in (*orders, Order(2.5, "resume")):
        await trio.sleep(max(0.0, began_s + order.at_s - trio.current_time()))
        swap_id = rig.engine.swaps("m")[0].id
        with contextlib.suppress(SwapNotAllowed):
            getattr(rig.engine, order.kind)(swap_id)
            turned_s = min(turned_s, trio.current_time()) if order.kind == "abort" else turned_s
        await settle()
    return turned_s


@settings(derandomize=True, deadline=None, max_examples=25)
@given(story=STORIES)
def test_a_session_never_goes_back_and_a_swap_is_final(story: Story) -> None:
    """Whatever the ramp, the failures and the orders: only an abort takes a session back; then one version serves."""
    run_virtual(play, story)


@pytest.mark.parametrize("execution", ["inline", "worker"])
async def test_sessions_move_over_one_by_one(rig: Rig, execution: str, autojump_clock: Any) -> None:
    """Each moves once, from the old version to the new one, some in each stage; without a key they go either way."""
    await two(rig, execution)
    async with asking(rig, 0.25, [*KEYS, None]) as clients:
        await rig.engine.swap("m", "2", plan=RAMP)
        await trio.sleep(1.0)
    assert backward(clients) == []
    first_s = [min(s.began_s for s in clients.seen if s.key == key and s.version == "2") for key in KEYS]
    assert len({int(at_s / 2.0) for at_s in first_s}) >= 4
    assert {seen.version for seen in clients.seen if seen.key is None and 4.0 < seen.began_s < 6.0} == {"1", "2"}


async def test_a_session_has_the_same_version_by_request_lease_and_stream(rig: Rig, autojump_clock: Any) -> None:
    """The key decides, not the call."""
    await two(rig)
    rig.engine.start_swap("m", "2", plan=Shift.canary([(0.5, 100.0)]))
    await settle()
    split: set[str] = set()
    for key in KEYS:
        found = {(await rig.engine.infer("m", {}, key=key)).version}
        with rig.engine.lease("m", key=key) as lease:
            found.add(lease.version)
        async with rig.engine.lease("m", key=key) as lease:
            found.add(lease.version)
        async with rig.engine.infer_stream("m", {}, key=key) as chunks:
            found |= {chunk.version async for chunk in chunks}
        assert len(found) == 1
        split |= found
    assert split == {"1", "2"}


@pytest.mark.parametrize("plan", [None, RAMP, Shift.at_once(confirm_s=2.0)])
@pytest.mark.parametrize("execution", ["inline", "worker"])
async def test_after_the_swap_no_new_request_reaches_the_old_version(
    rig: Rig, plan: Shift | None, execution: str, autojump_clock: Any
) -> None:
    """From the pivot on, though a lease keeps the old version loaded; by then its model is asked no more."""
    await two(rig, execution)
    lease = rig.lease()
    async with asking(rig, 0.05, [*KEYS[:5], None]) as clients:
        swap = Outcome(rig.engine.swap, "m", "2", plan=plan)
        async with running(swap):
            await until(lambda: rig.engine.swaps("m")[0].state is SwapState.OLD_VERSION_DRAINING)
            pivot_s, asked = trio.current_time(), len(rig.cast.of("m", "1")[0].calls)
            await trio.sleep(5.0)
            lease.release()
        await trio.sleep(1.0)
    assert set(clients.versions(pivot_s + 1e-9)) == {"2"}
    assert len(rig.cast.of("m", "1")[0].calls) == asked
    assert (clients.errors, backward(clients)) == ([], [])


async def test_a_rollback_takes_every_session_back_at_once(rig: Rig, autojump_clock: Any) -> None:
    """In one step, and before the new version is drained."""
    await two(rig)
    async with asking(rig, 0.25, KEYS) as clients:
        swap_id = rig.engine.start_swap("m", "2", plan=RAMP)
        await trio.sleep(5.05)
        rig.engine.abort(swap_id)
        await settle()
        with pytest.raises(SwapNotDone):
            await rig.engine.wait_for_swap(swap_id)
        await trio.sleep(1.0)
    assert "2" in clients.versions(4.0, 5.05)
    assert set(clients.versions(5.06)) == {"1"}
    assert backward(clients, 5.05) == []


async def test_two_swaps_in_a_row_keep_every_session_in_order(rig: Rig, autojump_clock: Any) -> None:
    """1, then 2, then 3, for each of them: also where the second ramp begins at the pivot of the first."""
    await two(rig)
    rig.add("m", "3")
    async with asking(rig, 0.25, KEYS) as clients:
        swaps = [Outcome(rig.engine.swap, "m", version, plan=RAMP, on_busy="queue") for version in "23"]
        async with running(*swaps):
            pass
        await trio.sleep(1.0)
    assert backward(clients) == []
    assert {seen.version for seen in clients.seen if seen.key == KEYS[0]} == {"1", "2", "3"}
