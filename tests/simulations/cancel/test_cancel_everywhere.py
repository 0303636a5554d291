"""Every awaitable of the engine: cancelled at every checkpoint inside it, and nothing is left of the call.

The list is made by `awaitables`, the moments by the explorer. What each play asserts is in `scene.py` and beside the
scenes; here is what holds for all of them.
"""

from __future__ import annotations

from functools import partial

import pytest

from changeover_sim import PCT, Exhaustive, RandomWalk, choose
from tests.simulations.cancel.awaitables import awaitables
from tests.simulations.cancel.scenes import SCENES
from tests.simulations.cancel.watch import Log, When
from tests.simulations.first_use.stage import assert_explored

ALL = [(name, situation) for name, scenes in SCENES.items() for situation in scenes]
each_scene = pytest.mark.parametrize(("name", "situation"), ALL, ids=[" ".join(one) for one in ALL])
ROUNDS = 40
"""So many rounds of the others are enough for most calls."""


def test_every_awaitable_has_a_scene() -> None:
    """What a user can await is cancelled here; a new one without a scene is named, and so is one that has gone."""
    missing = sorted(set(awaitables()) - set(SCENES))
    assert not missing, f"awaited by users, and nowhere cancelled: give {', '.join(missing)} a scene"
    gone = sorted(set(SCENES) - set(awaitables()))
    assert not gone, f"nobody awaits {', '.join(gone)} any more"
    assert all(SCENES.values()), "an awaitable has an empty list of scenes"


async def a_caller_goes_away(log: Log, situation: str, when: When) -> None:
    """Play a scene once."""
    await SCENES[log.name][situation].play(log, when)


@each_scene
def test_a_call_is_cancelled_at_each_of_its_checkpoints(name: str, situation: str) -> None:
    """Cancelled at any of its checkpoints, each once, a call leaves what it says, and an engine that works."""
    log, scene = Log(name), SCENES[name][situation]
    program = partial(a_caller_goes_away, log, situation, "inside")
    assert_explored(program, policy=Exhaustive(delays=0), exhausted=True)
    assert log.pause == scene.pause, f"{name} {log.pause} here, and this is to be a moment when it {scene.pause}"
    assert log.missed == [], "never cancelled at some of its checkpoints"


@each_scene
def test_a_call_is_cancelled_between_any_two_steps_of_others(name: str, situation: str) -> None:
    """The same, cancelled when those who work for it have made any number of steps, or wait for time to pass."""
    program = partial(a_caller_goes_away, Log(name), situation, "beside")
    assert_explored(program, policy=Exhaustive(delays=0), exhausted=True)


async def any_caller_goes_away() -> None:
    """Play any scene, with its caller gone at any moment."""
    name, situation = choose(ALL)
    when = choose(["inside", choose(range(ROUNDS))])
    await a_caller_goes_away(Log(name), situation, when)


@pytest.mark.slow
def test_a_call_is_cancelled_in_any_order_of_steps() -> None:
    """The same in other orders than that of the queue."""
    assert_explored(any_caller_goes_away, policy=RandomWalk(), schedules=400)
    assert_explored(any_caller_goes_away, policy=PCT(depth=3), schedules=400)
    assert_explored(any_caller_goes_away, schedules=400, mode="trio-batch")
