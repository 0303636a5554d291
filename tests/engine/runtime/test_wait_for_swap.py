"""Waiting for a swap that was begun by `start_swap`."""

from __future__ import annotations

import pytest
import trio

from changeover import SwapState
from changeover.errors import SwapFailed, SwapNotFound


async def test_a_swap_that_was_begun_can_be_waited_for(rig, autojump_clock):
    """`wait_for_swap` returns the completed operation, and again when it is asked later."""
    await rig.ready(version="1")
    rig.add(version="2")
    rig.takes("load m/2", 5.0)
    swap_id = rig.engine.start_swap("m", "2")
    operation = await rig.engine.wait_for_swap(swap_id)
    assert (operation.state, trio.current_time()) == (SwapState.COMPLETED, 5.0)
    assert await rig.engine.wait_for_swap(swap_id) == operation


async def test_waiting_for_a_swap_that_fails_raises_what_swap_raises(rig, autojump_clock):
    """`wait_for_swap` raises `SwapFailed` with the operation."""
    await rig.ready(version="1")
    rig.add(version="2", source="script")
    rig.takes("load m/2", 500.0)
    swap_id = rig.engine.start_swap("m", "2")
    with pytest.raises(SwapFailed) as failed:
        await rig.engine.wait_for_swap(swap_id)
    assert failed.value.operation == rig.engine.swap_status(swap_id)


async def test_giving_up_waiting_leaves_the_swap_alone(rig, autojump_clock):
    """A cancelled `wait_for_swap` changes nothing: the swap goes on to its end."""
    await rig.ready(version="1")
    rig.add(version="2")
    rig.takes("load m/2", 5.0)
    swap_id = rig.engine.start_swap("m", "2")
    with trio.move_on_after(1) as scope:
        await rig.engine.wait_for_swap(swap_id)
    assert scope.cancelled_caught
    assert (await rig.engine.wait_for_swap(swap_id)).state is SwapState.COMPLETED


async def test_an_unknown_swap_cannot_be_waited_for(rig, autojump_clock):
    """`wait_for_swap` names an id that no swap has."""
    with pytest.raises(SwapNotFound, match="nonsense"):
        await rig.engine.wait_for_swap("nonsense")
