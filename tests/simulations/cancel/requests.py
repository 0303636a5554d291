"""The scenes of the calls that ask: one request, or a set of them. They leave nothing behind."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import trio

from changeover import Drain, Shift, VersionState
from tests.simulations.cancel.scene import DONE, TWO, WORKER, Play, Scene, evict, until_held
from tests.simulations.cancel.watch import Watch
from tests.simulations.first_use.stage import Call, Stage, inputs

BAD = 5.0
"""What the new version fails on."""
POISON = 13.0
"""What ends a version."""
RAMP = Shift.canary(((0.5, 1.0),), confirm_s=0.25, guard=None)
KEYS = "abcd"
"""One of them at least finds the version on trial."""
TIMED_OUT = DONE | {"RequestTimeout"}


# --- what may be left -------------------------------------------------------------------------------------------------


def a_swap(stage: Stage, call: Call) -> None:
    """The swap that goes on meanwhile comes to its end."""
    (operation,) = stage.engine.swaps()
    assert operation.state.value == "completed", operation


def two_serve(stage: Stage, call: Call) -> None:
    """Both versions serve as before."""
    assert (stage.state("1"), stage.state("2")) == (VersionState.READY, VersionState.READY)


def never_run(stage: Stage, call: Call) -> None:
    """Whoever goes away before the second that his turn comes in has never asked the model."""
    (model,) = stage.rig.cast.of("m", "1")
    was_asked = any((asked["x"] == 1).any() for asked in model.calls)
    assert not was_asked or call.ended_s >= 1.0
    assert call.end == "cancelled" or was_asked


def whatever_is_there(stage: Stage, call: Call) -> None:
    """What was evicted is there again, if its caller stayed; else it may be."""
    assert stage.state("1") is VersionState.READY or call.end != "returned"


# --- one request ------------------------------------------------------------------------------------------------------


async def _infer(stage: Stage, here: Watch) -> None:
    reply = await here(stage.engine.infer("m", inputs(1)))
    assert reply.outputs["y"].tolist() == [1.0]


async def _infer_for_long(stage: Stage, here: Watch) -> None:
    stage.rig.takes("worker m/1 0", 1.0)
    await _infer(stage, here)


async def _infer_in_time(stage: Stage, here: Watch) -> None:
    stage.rig.takes("worker m/1 0", 1.0)
    await here(stage.engine.infer("m", inputs(1), timeout_s=2.0))


async def _infer_out_of_time(stage: Stage, here: Watch) -> None:
    stage.rig.takes("worker m/1 0", 1.0)
    await here(stage.engine.infer("m", inputs(1), timeout_s=0.5))


async def _infer_with_others(stage: Stage, here: Watch) -> None:
    stage.rig.takes("worker m/1 0", 0.5)
    for number in (2, 3):
        stage.call(lambda number=number: stage.engine.infer("m", inputs(number)), "infer")
    await until_held(stage, 2)
    await _infer(stage, here)


async def _infer_by_name(stage: Stage, here: Watch) -> None:
    reply = await here(stage.engine.infer("m", inputs(1), version="1", timeout_s=5.0))
    assert reply.version == "1"


async def _infer_what_was_evicted(stage: Stage, here: Watch) -> None:
    await evict(stage)
    stage.rig.takes("load m/1", 0.5)
    await _infer(stage, here)


async def _infer_what_was_evicted_in_time(stage: Stage, here: Watch) -> None:
    await evict(stage)
    stage.rig.takes("load m/1", 1.0)
    await here(stage.engine.infer("m", inputs(1), timeout_s=0.5))


async def _infer_on_trial(stage: Stage, here: Watch) -> None:
    stage.rig.script("m", "2").fails_on = lambda asked: bool((asked["x"] == BAD).any())
    stage.engine.start_swap("m", "2", plan=RAMP)
    await trio.sleep(0.25)
    stage.rig.takes("worker m/1 0", 0.25)
    fell_back = 0
    for key in KEYS:
        fell_back += (await stage.engine.infer("m", inputs(BAD), key=key)).fell_back
        if fell_back:
            break
    else:
        raise AssertionError("none of these keys finds the version on trial")
    reply = await here(stage.engine.infer("m", inputs(BAD), key=key))
    assert (reply.fell_back, reply.version, reply.outputs["y"].tolist()) == (True, "1", [BAD])


async def crash(stage: Stage) -> None:
    """Load the second version too, and have somebody end the first one in half a second."""
    stage.rig.script("m", "1").fatal_on = lambda asked: bool((asked["x"] == POISON).any())
    await stage.engine.load("m", "2")
    stage.rig.takes("worker m/1 0", 0.5)
    stage.call(lambda: stage.engine.infer("m", inputs(POISON), version="1"), "poison")
    await until_held(stage)


async def _infer_what_crashes(stage: Stage, here: Watch) -> None:
    await crash(stage)
    reply = await here(stage.engine.infer("m", inputs(1)))
    assert reply.version == "2"


async def _infer_what_is_drained(stage: Stage, here: Watch) -> None:
    stage.rig.takes("worker m/1 0", 1.0)
    stage.call(lambda: stage.engine.infer("m", inputs(2)), "infer")
    await until_held(stage)
    stage.call(lambda: stage.engine.swap("m", "2", drain=Drain(0.25, "cancel", 5.0)), "swap")
    reply = await here(stage.engine.infer("m", inputs(1)))
    assert reply.version == "2"


# --- a set ------------------------------------------------------------------------------------------------------------


async def add_second(stage: Stage, execution: str) -> None:
    """Have a second model, of one kind or the other."""
    stage.add("1", "2", model="n", execution=execution)
    await stage.engine.load("n", "1")


async def _ask_both(stage: Stage, here: Watch, **options: Any) -> None:
    replies = await here(stage.engine.infer_many({"m": inputs(1), "n": inputs(2)}, **options))
    assert [reply.outputs["y"].tolist() for reply in replies.values()] == [[1.0], [2.0]]


async def _infer_many(stage: Stage, here: Watch) -> None:
    await add_second(stage, "inline")
    await _ask_both(stage, here)


async def _infer_many_by_workers(stage: Stage, here: Watch) -> None:
    await add_second(stage, "worker")
    stage.rig.takes("worker m/1 0", 0.5)
    stage.rig.takes("worker n/1 0", 1.0)
    await _ask_both(stage, here)


async def _infer_many_of_either_kind(stage: Stage, here: Watch) -> None:
    await add_second(stage, "worker")
    stage.rig.takes("worker n/1 0", 0.5)
    await _ask_both(stage, here)


async def _infer_many_out_of_time(stage: Stage, here: Watch) -> None:
    await add_second(stage, "worker")
    stage.rig.takes("worker n/1 0", 1.0)
    await _ask_both(stage, here, timeout_s=0.5)


async def _infer_many_of_what_was_evicted(stage: Stage, here: Watch) -> None:
    await evict(stage)
    stage.rig.takes("load m/1", 0.5)
    await _ask_both(stage, here)


async def _infer_many_of_what_is_drained(stage: Stage, here: Watch) -> None:
    await add_second(stage, "inline")
    stage.rig.takes("worker m/1 0", 1.0)
    stage.call(lambda: stage.engine.infer("m", inputs(2)), "infer")
    await until_held(stage)
    drain = Drain(0.25, "cancel", 5.0)
    stage.call(lambda: stage.engine.swap_group({"m": "2", "n": "2"}, drain=drain), "swap")
    await _ask_both(stage, here)


async def _infer_many_on_trial(stage: Stage, here: Watch) -> None:
    await add_second(stage, "worker")
    stage.rig.script("n", "2").fails_on = lambda asked: bool((asked["x"] == 2).any())
    stage.engine.start_group_swap({"m": "2", "n": "2"}, plan=Shift.at_once(confirm_s=1.0, guard=None))
    await trio.sleep(0.25)
    for model in "mn":
        stage.rig.takes(f"worker {model}/1 0", 0.25)
    replies = await here(stage.engine.infer_many({"m": inputs(1), "n": inputs(2)}))
    assert [(reply.version, reply.fell_back) for reply in replies.values()] == [("1", True)] * 2


BATCHES = {**WORKER, "batched": True}
REQUESTS: Mapping[str, Mapping[str, Play]] = {
    "Engine.infer": {
        "inline": Scene(_infer, pause="yields"),
        "by a worker": Scene(_infer_for_long, versions=WORKER),
        "in a batch": Scene(_infer_with_others, versions=BATCHES),
        "behind others": Scene(_infer_with_others, never_run, versions=WORKER),
        "by name": Scene(_infer_by_name, versions=WORKER),
        "in time": Scene(_infer_in_time, versions=WORKER),
        "out of time": Scene(_infer_out_of_time, versions=WORKER, ends=TIMED_OUT),
        "with a fallback": Scene(_infer_on_trial, a_swap, versions=WORKER),
        "with a fallback, inline": Scene(_infer_on_trial, a_swap, pause="yields"),
        "of what was evicted": Scene(_infer_what_was_evicted, whatever_is_there, engine=TWO),
        "of what was evicted, out of time": Scene(
            _infer_what_was_evicted_in_time, whatever_is_there, engine=TWO, ends=TIMED_OUT
        ),
        "of what crashes": Scene(_infer_what_crashes, two_serve, versions=WORKER, others=frozenset({"VersionCrashed"})),
        "of what is drained": Scene(_infer_what_is_drained, a_swap, versions=WORKER),
    },
    "Engine.infer_many": {
        "inline": Scene(_infer_many, pause="yields"),
        "by workers": Scene(_infer_many_by_workers, versions=WORKER),
        "of either kind": Scene(_infer_many_of_either_kind),
        "out of time": Scene(_infer_many_out_of_time, ends=TIMED_OUT),
        "of what was evicted": Scene(_infer_many_of_what_was_evicted, whatever_is_there, engine=TWO),
        "of what is drained": Scene(_infer_many_of_what_is_drained, a_swap, versions=WORKER),
        "with a fallback": Scene(_infer_many_on_trial, a_swap, versions=WORKER),
    },
}
