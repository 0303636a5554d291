"""The scenes of the calls that wait for swaps, or order them back; those of earlier processes are in `past.py`.

Cancelled before its pivot, a swap is undone; behind it, or where its caller only waits for it, it goes on.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from functools import partial

import trio

from changeover import Drain, Engine, Shift, SwapState
from changeover.errors import SwapNotAllowed
from tests.simulations.cancel.scene import WORKER, Left, Play, Scene, hold, later
from tests.simulations.cancel.watch import Watch
from tests.simulations.first_use.stage import Call, Stage

RAMP = Shift.canary(((0.5, 0.5),), confirm_s=0.25, guard=None)
PATIENT = Drain(5.0)
BOTH = {"m": "2", "n": "2"}


# --- what may be left -------------------------------------------------------------------------------------------------


def states(engine: Engine) -> list[str]:
    """Return how each swap stands, in the order in which they were ordered."""
    return [operation.state.value for operation in engine.swaps()]


def is_shifted(stage: Stage) -> bool:
    """Return whether the last swap has moved the traffic and has not taken it back."""
    steps = stage.engine.swaps()[-1].steps
    return any((step.step, step.outcome) == ("shift", "done") and step.compensation != "done" for step in steps)


def all_or_nothing(stage: Stage, call: Call) -> None:
    """The swap was undone, or it is complete; undone it is only where its caller went before the pivot."""
    loaded = stage.engine.loaded_versions("m")
    assert (states(stage.engine), loaded) in (([], ("1",)), (["cancelled"], ("1",)), (["completed"], ("2",)))
    if stage.engine.swaps():
        assert is_shifted(stage) == (loaded == ("2",))
    assert call.end == "cancelled" or loaded == ("2",)


def pivot_at(pivot_s: float, whole: Left = all_or_nothing) -> Left:
    """Return what looks whether a swap was undone, where its caller went before the pivot, and whether it went on."""

    def left(stage: Stage, call: Call) -> None:
        whole(stage, call)
        if call.end == "cancelled" and call.ended_s != pivot_s:
            assert (states(stage.engine) == ["completed"]) == (call.ended_s > pivot_s), (call.ended_s, pivot_s)

    return left


def a_swap(stage: Stage, call: Call) -> None:
    """The swap goes on without its caller."""
    assert states(stage.engine) == ["completed"]
    assert stage.engine.loaded_versions("m") == ("2",)


def one_after_the_other(stage: Stage, call: Call) -> None:
    """The swap that was there first is complete; the one that waited was never begun, or was undone, or is complete."""
    first, second = states(stage.engine)
    assert (first, second) in (("completed", "completed"), ("completed", "cancelled"))
    assert call.end == "cancelled" or second == "completed"
    assert second == "cancelled" or call.ended_s >= 0.75, "its caller was gone before its turn came"
    assert stage.traffic() == ("3" if second == "completed" else "2")


def the_newest(stage: Stage, call: Call) -> None:
    """The older swap gave way; the newer one is complete, or was undone."""
    first, second = states(stage.engine)
    assert (first, second) in (("superseded", "completed"), ("superseded", "cancelled"))
    assert call.end == "cancelled" or second == "completed"
    assert stage.traffic() == ("3" if second == "completed" else "1")


def what_was(stage: Stage, call: Call) -> None:
    """The swap away from the first version gave way to the one back to it, whatever became of that."""
    first, second = states(stage.engine)
    assert (first, second) in (("superseded", "completed"), ("superseded", "cancelled"))
    assert call.end == "cancelled" or second == "completed"
    assert stage.traffic() == "1"


def nothing_new(stage: Stage, call: Call) -> None:
    """The swap has failed, or was undone; the first version serves as before."""
    assert states(stage.engine) in (["failed"], ["cancelled"])
    assert call.end == "cancelled" or states(stage.engine) == ["failed"]
    assert stage.engine.loaded_versions("m") == ("1",)


def both_or_none(stage: Stage, call: Call) -> None:
    """Both models have moved, or none of them."""
    loaded = {stage.engine.loaded_versions(model) for model in BOTH}
    assert (states(stage.engine), loaded) in ((["cancelled"], {("1",)}), (["completed"], {("2",)}))
    assert call.end == "cancelled" or loaded == {("2",)}


def a_way_back(ordered_s: float) -> Left:
    """Return what looks whether a swap was turned round, or taken back; where its caller went too early, neither."""

    def left(stage: Stage, call: Call) -> None:
        ended = states(stage.engine)
        is_back = ended in (["rolled_back"], ["completed", "completed"])
        went_early = call.end == "cancelled" and call.ended_s <= ordered_s
        assert is_back or (went_early and ended == ["completed"]), (ended, call.end, call.ended_s)
        assert stage.traffic() == ("1" if is_back else "2")
        if len(ended) == 2:
            first, second = stage.engine.swaps()
            assert second.rollback_of == first.id

    return left


# --- swap -------------------------------------------------------------------------------------------------------------


async def _swap(stage: Stage, here: Watch) -> None:
    hold(stage, 0.5)
    stage.rig.takes("load m/2", 0.25)
    stage.rig.takes("close m/1", 0.25)
    operation = await here(stage.engine.swap("m", "2", drain=PATIENT))
    assert (operation.state, operation.old_unloaded) == (SwapState.COMPLETED, True)


async def _swap_at_once(stage: Stage, here: Watch) -> None:
    await here(stage.engine.swap("m", "2"))


async def _swap_on_a_slow_disk(stage: Stage, here: Watch) -> None:
    stage.rig.takes("journal", 0.25)
    await here(stage.engine.swap("m", "2", plan=RAMP))


async def _swap_back_instead(stage: Stage, here: Watch) -> None:
    stage.call(partial(stage.engine.swap, "m", "2", plan=RAMP), "swap")
    await trio.sleep(0.25)
    await here(stage.engine.swap("m", "1", on_busy="supersede"))


async def _swap_by_a_canary(stage: Stage, here: Watch) -> None:
    await here(stage.engine.swap("m", "2", plan=RAMP))


async def _swap_detached(stage: Stage, here: Watch) -> None:
    hold(stage, 0.5)
    await here(stage.engine.swap("m", "2", plan=RAMP, drain=PATIENT, on_cancel="detach"))


async def _swap_in_line(stage: Stage, here: Watch) -> None:
    stage.add("3")
    stage.call(partial(stage.engine.swap, "m", "2", plan=RAMP), "swap")
    await stage.until(lambda: bool(stage.engine.swaps()))
    await here(stage.engine.swap("m", "3", on_busy="queue"))


async def _swap_instead(stage: Stage, here: Watch) -> None:
    stage.add("3")
    stage.call(partial(stage.engine.swap, "m", "2", plan=RAMP), "swap")
    await trio.sleep(0.25)
    await here(stage.engine.swap("m", "3", on_busy="supersede"))


async def _swap_in_vain(stage: Stage, here: Watch) -> None:
    script = stage.rig.script("m", "2")
    script.load_error = RuntimeError("cannot be loaded")
    stage.rig.takes("load m/2", 0.25)
    try:
        await here(stage.engine.swap("m", "2"))
    finally:
        with trio.CancelScope(shield=True):
            await trio.sleep(1.0)  # its load comes to its end
        script.load_error = None


async def _swap_steered(stage: Stage, here: Watch) -> None:
    async def steer(order: str) -> None:
        swaps = [one for one in stage.engine.swaps() if not one.state.ended]
        if swaps:  # else its caller has taken it with him
            with suppress(SwapNotAllowed):  # or is being taken
                getattr(stage.engine, order)(swaps[0].id)

    for seconds, order in ((0.1, "pause"), (1.0, "resume"), (1.25, "promote")):
        later(stage, seconds, partial(steer, order), order)
    await here(stage.engine.swap("m", "2", plan=Shift.canary(((0.5, 5.0),), confirm_s=0.25, guard=None)))


# --- swap_group -------------------------------------------------------------------------------------------------------


async def add_second(stage: Stage) -> None:
    """Have a second model, whose versions take longer."""
    stage.add("1", "2", model="n")
    await stage.engine.load("n", "1")
    stage.rig.takes("load n/2", 0.25)


async def _swap_group(stage: Stage, here: Watch) -> None:
    await add_second(stage)
    hold(stage, 0.5, "n")
    await here(stage.engine.swap_group(BOTH, drain=PATIENT))


async def _swap_group_by_a_canary(stage: Stage, here: Watch) -> None:
    await add_second(stage)
    await here(stage.engine.swap_group(BOTH, plan=RAMP))


async def _swap_group_behind_one(stage: Stage, here: Watch) -> None:
    await add_second(stage)
    stage.add("3", model="n")
    stage.call(partial(stage.engine.swap, "n", "3", plan=RAMP), "swap")
    await stage.until(lambda: bool(stage.engine.swaps()))
    await here(stage.engine.swap_group(BOTH, on_busy="queue"))


def a_group_in_line(stage: Stage, call: Call) -> None:
    """Both models have moved, or only the one whose swap was there first."""
    ended = states(stage.engine)
    assert ended[0] == "completed"
    moved = {"m": stage.engine._router.active("m"), "n": stage.engine._router.active("n")}
    assert (ended[1], moved) in (("completed", BOTH), ("cancelled", {"m": "1", "n": "3"}))
    assert call.end == "cancelled" or ended[1] == "completed"


# --- those who wait for one -------------------------------------------------------------------------------------------


async def _wait_for_swap(stage: Stage, here: Watch) -> None:
    hold(stage, 0.5)
    swap_id = stage.engine.start_swap("m", "2", drain=PATIENT)
    await here(stage.engine.wait_for_swap(swap_id))


async def _rollback_at_once(stage: Stage, here: Watch) -> None:
    await here(stage.engine.rollback(stage.engine.start_swap("m", "2")))


async def _rollback_on_a_slow_disk(stage: Stage, here: Watch) -> None:
    swap_id = stage.engine.start_swap("m", "2", plan=RAMP)
    await trio.sleep(0.25)
    stage.rig.takes("journal", 0.25)
    await here(stage.engine.rollback(swap_id))


async def _rollback_before_the_pivot(stage: Stage, here: Watch) -> None:
    swap_id = stage.engine.start_swap("m", "2", plan=RAMP)
    await trio.sleep(0.25)
    stage.rig.takes("close m/2", 0.25)
    await here(stage.engine.rollback(swap_id))


async def _rollback_in_the_drain(stage: Stage, here: Watch) -> None:
    hold(stage, 1.0)
    swap_id = stage.engine.start_swap("m", "2", drain=PATIENT)
    await trio.sleep(0.25)
    await here(stage.engine.rollback(swap_id))


async def _rollback_behind_the_end(stage: Stage, here: Watch) -> None:
    operation = await stage.engine.swap("m", "2")
    stage.rig.takes("load m/1", 0.25)
    await here(stage.engine.rollback(operation.id))


SWAPS: Mapping[str, Mapping[str, Play]] = {
    "Engine.swap": {
        "at once": Scene(_swap_at_once, all_or_nothing),
        "of what is held": Scene(_swap, pivot_at(0.25), versions=WORKER),
        "by a canary": Scene(_swap_by_a_canary, pivot_at(0.75), versions=WORKER),
        "that is detached": Scene(_swap_detached, a_swap),
        "that is steered": Scene(_swap_steered, all_or_nothing),
        "on a slow disk": Scene(_swap_on_a_slow_disk, all_or_nothing, on_disk="process"),
        "in line": Scene(_swap_in_line, one_after_the_other),
        "instead of another": Scene(_swap_instead, the_newest, others=frozenset({"Superseded"})),
        "back, instead of another": Scene(_swap_back_instead, what_was, others=frozenset({"Superseded"})),
        "in vain": Scene(_swap_in_vain, nothing_new, ends=frozenset({"SwapFailed", "cancelled"})),
    },
    "Engine.swap_group": {
        "at once": Scene(_swap_group, pivot_at(0.25, both_or_none)),
        "by a canary": Scene(_swap_group_by_a_canary, pivot_at(1.0, both_or_none), versions=WORKER),
        "in line": Scene(_swap_group_behind_one, a_group_in_line),
    },
    "Engine.wait_for_swap": {
        "that runs": Scene(_wait_for_swap, a_swap),
    },
    "Engine.rollback": {
        "at once": Scene(_rollback_at_once, a_way_back(0.0)),
        "on a slow disk": Scene(_rollback_on_a_slow_disk, a_way_back(0.25), on_disk="process"),
        "before the pivot": Scene(_rollback_before_the_pivot, a_way_back(0.25)),
        "in the drain": Scene(_rollback_in_the_drain, a_way_back(0.25)),
        "behind the end": Scene(_rollback_behind_the_end, a_way_back(0.0)),
    },
}
