"""The oracle of promise 4 finds sagas that meet, go astray, end half undone, or tell what is not so."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import attrs
import pytest

from changeover import SwapOperation, SwapState
from changeover.core import aftermath, plan
from changeover.core.plan import Compensate, Finish, Progress, Step
from changeover.runtime.part import Part
from changeover.runtime.saga import Saga
from changeover.runtime.steps import Steps
from changeover_sim.oracles.promise_04_sagas import Promise04Sagas
from changeover_sim.oracles.saga_course import STEPS
from changeover_sim.simulate.shape import Ending, Shape
from tests.simulations.oracles.small_runs import assert_found, assert_silent, parts, shape

ONES = parts("1", "2", "3", close_s=(0.0, 0.5))
SWAPPED = shape((("swapper", 3), ("leaser", 2)), ONES, on_busy=("refuse", "queue"), horizon_s=5.0)
RAMPED = shape(
    (("swapper", 2), ("steerer", 2), ("undoer", 2), ("asker", 2)), ONES, plans=("canary", "confirmed"), horizon_s=6.0
)
DRAINED = shape(
    (("swapper", 2), ("undoer", 3), ("leaser", 4)), ONES, drains=("patient", "rollback"), horizon_s=8.0, hurry=0.1
)
FAILING = shape((("swapper", 3),), parts("1", "2", "3", load_s=(0.25,)), faults=["load-raises"], horizon_s=5.0)
TURNED = shape((("turner", 1),), ONES, horizon_s=8.0, hurry=0.1)
GROUPED = shape((("group swapper", 3), ("undoer", 1)), (*ONES, *parts("1", "2", model="b")), horizon_s=5.0)
KILLED = shape(
    (("swapper", 3), ("undoer", 1)), ONES, lives=(Ending("kill", entry=5, rounds=2), Ending("close-early", 1.5))
)


@pytest.mark.parametrize("small", [SWAPPED, RAMPED, DRAINED, FAILING, TURNED, GROUPED, KILLED])
def test_silent(small: Shape) -> None:
    """Nothing is wrong with the engine as it is."""
    assert_silent(Promise04Sagas, small)


def test_the_steps_are_the_engines() -> None:
    """The oracle's own table has the steps of the engine, in their order."""
    assert tuple(step.value for step in Step) == STEPS


def test_a_slot_that_is_given_up_before_the_pivot_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two swaps of a model are not both on their way to their pivots."""
    load = Steps._load_new

    async def leave_first(steps: Steps) -> bool:
        steps._leave()
        return await load(steps)

    monkeypatch.setattr(Steps, "_load_new", leave_first)
    assert_found(Promise04Sagas, SWAPPED, "are both before their pivot")


def test_an_old_drain_that_takes_back_what_younger_swaps_have_moved_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The version has the traffic again, by a younger swap: that of the old one is not to be given back."""

    def may(saga: Saga) -> bool:
        slots = saga._world.slots
        return saga.holds_slot or all(slots.holder(model) is None for model in saga.models)

    monkeypatch.setattr(Saga, "_may_take_slot", may)
    assert_found(Promise04Sagas, TURNED, "has taken the traffic of a back")


@pytest.mark.parametrize("small", [RAMPED, FAILING])
def test_a_compensation_that_is_left_out_is_found(small: Shape, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each step that was begun is undone, one after the other."""

    def by_two(progress: Progress, *, ok: bool) -> tuple[Progress, Compensate | Finish]:
        if progress.step is Step.VALIDATE:
            return progress, Finish(progress.end if ok else SwapState.FAILED)
        step = plan.ORDER[max(plan.ORDER.index(progress.step) - 2, 0)]
        back = attrs.evolve(progress, step=step)
        return back, Compensate(step)

    monkeypatch.setattr(plan, "_backward", by_two)
    assert_found(Promise04Sagas, small, "was next")


async def do_nothing(*_args: Any, **_options: Any) -> None:
    """Undo nothing."""


@pytest.mark.parametrize(
    ("owner", "name", "small", "says"),
    [
        (Steps, "_shift_back", RAMPED, "has given the traffic of a back"),
        (Part, "take_out_of_use", RAMPED, "again, which is ready"),
        (Steps, "_reopen_old", DRAINED, "again, which is draining"),
    ],
)
def test_a_compensation_that_does_nothing_is_found(
    owner: Any, name: str, small: Shape, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is told to be undone is undone."""
    monkeypatch.setattr(owner, name, do_nothing)
    assert_found(Promise04Sagas, small, says)


def test_a_version_that_is_said_to_be_closed_and_is_not_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A swap is complete once its old version is closed, and not before."""

    async def say_so(part: Part, _rest_s: float) -> None:
        part.closed = True

    monkeypatch.setattr(Part, "old_unloaded", say_so)
    assert_found(Promise04Sagas, SWAPPED, "was unloaded, and a/")


def test_a_success_that_is_none_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is returned a swap that did not happen."""

    def settle(saga: Saga, operation: SwapOperation) -> None:
        saga._steps.shift.end()
        saga._book.conclude(operation)
        saga.ended.settle(operation)

    monkeypatch.setattr(Saga, "_end", settle)
    assert_found(Promise04Sagas, FAILING, "returned a swap that is")


def test_a_failure_behind_the_pivot_that_turns_a_swap_round_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Past its pivot a swap rolls forward, unless somebody orders otherwise."""

    async def fail(_steps: Steps) -> bool:
        raise RuntimeError("the drain has failed")

    monkeypatch.setattr(Steps, "_drain_old", fail)
    assert_silent(Promise04Sagas, SWAPPED)
    monkeypatch.setattr(Progress, "past_pivot", property(lambda _progress: False))
    assert_found(Promise04Sagas, SWAPPED, "a failure behind its pivot has turned it round")


def test_a_saga_that_crashes_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A saga's task ends by its plan."""
    finish: Callable[..., Awaitable[None]] = Saga._finish

    async def crash(saga: Saga, state: SwapState) -> None:
        if state is SwapState.FAILED:
            raise RuntimeError("no end")
        await finish(saga, state)

    monkeypatch.setattr(Saga, "_finish", crash)
    assert_found(Promise04Sagas, FAILING, "its task crashed")


def test_an_aftermath_that_tells_what_is_not_so_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """What could not be undone is told as it is."""

    async def fail(_steps: Steps) -> None:
        raise RuntimeError("not to be undone")

    monkeypatch.setattr(Steps, "_shift_back", fail)
    tell = aftermath.tell
    monkeypatch.setattr(aftermath, "tell", lambda *args: attrs.evolve(tell(*args), stands=("all is well",)))
    assert_found(Promise04Sagas, RAMPED, "its aftermath says")


def test_a_swap_without_an_end_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every saga ends."""
    back = Steps.back

    def never(steps: Steps, step: Step) -> Callable[[], Awaitable[None]]:
        if step is not Step.VALIDATE:
            return back(steps, step)

        async def wait() -> None:
            await steps._world.ports.clock.sleep(1e9)

        return wait

    monkeypatch.setattr(Steps, "back", never)
    assert_found(Promise04Sagas, FAILING, "these swaps do not end")
