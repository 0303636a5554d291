"""Sets of leases and of requests against flips, trials, drains, crashes and their own callers, in every order.

What each program asserts comes on top of what `open_stage` and `assert_at_rest` look at: no set is a mix of the old and
the new versions of a group, every reference was given back, and nobody waits for ever.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import attrs
import pytest
import trio

from changeover import Drain, Reply, Shift
from changeover.core.routes import Trial
from changeover.errors import ChangeoverError, LeaseRevoked, NotReady, SwapNotAllowed
from changeover_sim import PCT, Exhaustive, RandomWalk, choose
from tests.simulations.first_use.stage import (
    Call,
    Search,
    Stage,
    assert_at_rest,
    assert_explored,
    cancel_later,
    inputs,
    open_stage,
)
from tests.support.models import BATCHED, first_column

MODELS = ("m", "n")
"""Both are swapped as one."""
ASKED = {model: inputs(number) for number, model in enumerate(MODELS)}
KINDS = (("inline", "inline"), ("worker", "worker"), ("inline", "worker"))
POISON = 13
"""What breaks the version that is asked it by name."""
MOMENTS = 12
HALF = ((0.5, 1.0),)
PLANS = (
    Shift.at_once(),
    Shift.at_once(confirm_s=1.0, guard=None),
    Shift.canary(HALF, confirm_s=1.0, guard=None),
    Shift.canary(HALF, confirm_s=0.0, guard=None, sticky=False),
    Shift.canary(HALF, confirm_s=0.5, guard=None, fallback=False),
)
TOLD = {"returned", "cancelled", "NotReady", "LeaseRevoked", "VersionCrashed", "RequestTimeout"}
"""How a set may end while versions come and go."""


async def two(stage: Stage, loaded: str = "12") -> None:
    """Register two versions of two models, and load them; the first of each has the traffic."""
    for model, execution in zip(MODELS, choose(KINDS), strict=True):
        for version in "12":
            stage.rig.add(
                model, version, execution=execution, signature=BATCHED, answers=first_column,
                fatal_on=lambda asked: bool((asked["x"] == POISON).any()),
            )  # fmt: skip
            if version in loaded:
                await stage.engine.load(model, version)


def shift(stage: Stage, version: str) -> None:
    """Move the traffic of the group, in one step, where all of it is there."""
    try:
        stage.engine._router.shift(dict.fromkeys(MODELS, version))
    except NotReady:
        return


def try_out(stage: Stage, share: float) -> None:
    """Try the new versions of the group out, in one step, where all of it is there."""
    try:
        stage.engine._router.try_out(dict.fromkeys(MODELS, Trial("2", "1", "salt", swap="swap")), share)
    except NotReady:
        return


def end_trials(stage: Stage) -> None:
    """Let a group be as a swap leaves it: one version of each has all of the traffic, and nobody stands by."""
    router = stage.engine._router
    router.end_trial(MODELS)
    shift(stage, "1")
    shift(stage, "2")


@attrs.define
class Seen:
    """The versions of every set that was held or answered."""

    sets: list[tuple[str, ...]] = attrs.field(factory=list)

    def assert_none_is_a_mix(self) -> None:
        """All of a set are old, or all are new."""
        assert all(len(set(versions)) == 1 for versions in self.sets), self.sets


async def ask(stage: Stage, seen: Seen, **options: Any) -> dict[str, Reply]:
    """Ask a set once, and look at the answers."""
    replies = await stage.engine.infer_many(ASKED, **options)
    assert [reply.outputs["y"].tolist() for reply in replies.values()] == [[0.0], [1.0]]
    assert list(replies) == list(MODELS)
    seen.sets.append(tuple(reply.version for reply in replies.values()))
    return replies


async def hold(stage: Stage, seen: Seen) -> None:
    """Hold a set for some time, and use it."""
    await hold_for(stage, seen, choose([0.0, 5.0]), choose(range(3)), choose([0.0, 1.0]))


async def hold_for(stage: Stage, seen: Seen, wait_s: float = 5.0, rounds: int = 1, rest_s: float = 1.0) -> None:
    """Hold a set for so many checkpoints, and then for so long."""
    async with stage.engine.lease_many(MODELS, wait_s=wait_s) as leases:
        seen.sets.append(tuple(lease.version for lease in leases.values()))
        for _ in range(rounds):
            await trio.lowlevel.checkpoint()
        await trio.sleep(rest_s)
        for lease in leases.values():
            lease.infer(inputs(1))


async def flip(stage: Stage, versions: str) -> None:
    """Flip the group some times."""
    for version in versions:
        for _ in range(choose(range(4))):
            await trio.lowlevel.checkpoint()
        shift(stage, version)


async def drain(stage: Stage, model: str, version: str) -> None:
    """Move the traffic away from a version, as far as that goes, and drain it."""
    await trio.sleep(choose([0.0, 0.5]))
    shift(stage, "2" if version == "1" else "1")
    outcome = await stage.engine.unload(model, version, force=True, drain=Drain(choose([0.0, 1.0]), "cancel", 5.0))
    assert outcome.result == "drained", outcome


async def crash(stage: Stage, model: str, version: str) -> None:
    """Break a version; it is started again."""
    await trio.sleep(choose([0.0, 0.5]))
    try:
        await stage.engine.infer(model, inputs(POISON), version=version)
    except ChangeoverError:
        return


# --- flips ----------------------------------------------------------------------------------------------------------


async def sets_meet_flips() -> None:
    """Take and ask sets while a group is flipped, without anything else."""
    async with open_stage() as stage:
        await two(stage)
        seen = Seen()
        stage.rig.takes("worker n/1 0", choose([0.0, 1.0]))
        calls = [
            stage.cancelled_call(partial(ask, stage, seen), "ask", most=MOMENTS),
            stage.call(partial(ask, stage, seen)),
        ]
        calls += [stage.cancelled_call(partial(hold, stage, seen), "hold", most=MOMENTS)]
        stage.call(partial(flip, stage, "212"), "flip")
        await stage.rest()
        assert_at_rest(stage)
        seen.assert_none_is_a_mix()
        assert {call.end for call in calls} <= {"returned", "cancelled"}
        assert calls[1].end == "returned"


def test_no_set_is_a_mix_whatever_the_order_of_steps(search: Search) -> None:
    """Cancelled or not, a set is of one moment, and leaves nothing behind."""
    search(sets_meet_flips, policy=RandomWalk(), schedules=200)
    search(sets_meet_flips, policy=PCT(depth=3), schedules=120)
    search(sets_meet_flips, schedules=80, mode="trio-batch")


# --- drains and crashes ---------------------------------------------------------------------------------------------


async def sets_meet_drains() -> None:
    """Take and ask sets while versions of the group are drained out of time, crash, and the group is flipped."""
    async with open_stage() as stage:
        await two(stage)
        seen = Seen()
        for model in MODELS:
            stage.rig.takes(f"worker {model}/1 0", choose([0.0, 1.0]))
        model, version = choose(MODELS), choose(["1", "1", "2"])
        calls = [stage.call(partial(ask, stage, seen, timeout_s=choose([None, 0.5]))) for _ in range(2)]
        calls += [stage.cancelled_call(partial(ask, stage, seen), "ask", most=MOMENTS)]
        calls += [stage.call(partial(hold, stage, seen), "hold")]
        ways: list[Callable[..., Any]] = [drain, crash]
        stage.call(partial(choose(ways), stage, model, version), "go")
        stage.call(partial(flip, stage, choose(["2", "21"])), "flip")
        await stage.rest()
        assert_at_rest(stage)
        assert {call.end for call in calls} <= TOLD, [call.end for call in calls]


def test_sets_against_drains_and_crashes(search: Search) -> None:
    """Whatever goes, and when: a set has one end, and every reference comes back."""
    search(sets_meet_drains, policy=RandomWalk(), schedules=300)
    search(sets_meet_drains, policy=PCT(depth=3), schedules=200)
    search(sets_meet_drains, schedules=80, mode="trio-batch")


# --- trials ---------------------------------------------------------------------------------------------------------


async def sets_meet_a_trial() -> None:
    """Ask sets while their new versions are on trial and fail on some of them, to its end one way or the other."""
    async with open_stage() as stage:
        await two(stage)
        seen = Seen()
        bad = choose(["m", "n", "mn", ""])
        for model in bad:
            stage.rig.script(model, "2").fails_on = lambda _inputs: True
        for key in ("m/1", "n/1", "m/2", "n/2"):
            stage.rig.takes(f"worker {key} 0", choose([0.0, 0.0, 1.0]))

        async def trial() -> None:
            for share in (0.5, 1.0):
                try_out(stage, share)
                await trio.sleep(choose([0.0, 0.5]))
            end_trials(stage)
            if choose([True, False]):
                shift(stage, "1")

        async def later() -> dict[str, Reply]:
            await trio.sleep(choose([0.0, 0.25]))
            return await ask(stage, seen)

        calls: list[Call] = [stage.call(later, "ask") for _ in range(2)]
        calls += [stage.cancelled_call(later, "ask", most=MOMENTS), stage.call(partial(hold, stage, seen), "hold")]
        stage.call(trial, "trial")
        await stage.rest()
        assert_at_rest(stage)
        seen.assert_none_is_a_mix()
        for call in calls:
            assert call.end in {"returned", "cancelled"} or (call.end == "PredictFailed" and bad), call.end
            if isinstance(call.value, dict) and bad:
                assert {reply.version for reply in call.value.values()} == {"1"}
            if isinstance(call.value, dict):
                assert len({reply.fell_back for reply in call.value.values()}) == 1


def test_sets_on_trial_fall_back_whole(search: Search) -> None:
    """Whenever a new version fails: the set is answered by the old ones, all of it, or told of the failure."""
    search(sets_meet_a_trial, policy=RandomWalk(), schedules=300)
    search(sets_meet_a_trial, policy=PCT(depth=3), schedules=200)
    search(sets_meet_a_trial, schedules=80, mode="trio-batch")


async def sets_meet_a_swap_of_their_models() -> None:
    """Ask and hold sets through a whole swap of the group, which is steered, and whose new versions may fail."""
    async with open_stage() as stage:
        engine, seen = stage.engine, Seen()
        await two(stage, loaded="1")
        bad = choose(["", "", "m", "n"])
        for model in bad:
            stage.rig.script(model, "2").fails_on = lambda asked: bool((asked["x"] < POISON).any())
        swap_id = engine.start_group_swap(dict.fromkeys(MODELS, "2"), plan=choose(PLANS), drain=Drain(30.0))
        stage.call(lambda: engine.wait_for_swap(swap_id), "swap")
        order, at_s = choose(["", "", "abort", "promote", "rollback"]), choose([0.0, 0.5, 1.0, 2.0])

        async def steer() -> None:
            await trio.sleep(at_s)
            try:
                made = getattr(engine, order)(swap_id)
                if order == "rollback":
                    await made
            except SwapNotAllowed:
                return

        async def later(work: Callable[[Stage, Seen], Awaitable[Any]]) -> Any:
            await trio.sleep(choose([0.0, 0.25, 0.5, 1.0, 2.0]))
            return await work(stage, seen)

        calls = [stage.call(partial(later, ask), "ask") for _ in range(3)]
        calls += [stage.cancelled_call(partial(later, ask), "ask", most=MOMENTS)]
        calls += [stage.call(partial(later, hold), "hold")]
        if order:
            stage.call(steer, order)
        await stage.rest()
        assert_at_rest(stage)
        seen.assert_none_is_a_mix()
        for call in calls:
            assert call.end in {"returned", "cancelled"} or (call.end == "PredictFailed" and bad), call.end


def test_sets_through_a_swap_of_their_models(search: Search) -> None:
    """From its first step to its last, and back: a set is all old or all new, and is answered where it can be."""
    search(sets_meet_a_swap_of_their_models, policy=RandomWalk(), schedules=300)
    search(sets_meet_a_swap_of_their_models, policy=PCT(depth=3), schedules=200)
    search(sets_meet_a_swap_of_their_models, schedules=80, mode="trio-batch")


# --- callers that go away -------------------------------------------------------------------------------------------


async def a_caller_of_a_set_goes_away() -> None:
    """Cancel either kind of set at any moment, look at what is left of it, and use everything once more."""
    async with open_stage() as stage:
        await two(stage)
        seen = Seen()
        if choose([True, False]):
            try_out(stage, 1.0)
            stage.rig.script("n", "2").fails_on = lambda _inputs: True
        call = stage.cancelled_call(partial(choose([ask, hold_for]), stage, seen), most=MOMENTS)
        await stage.rest()
        end_trials(stage)
        stage.rig.script("n", "2").fails_on = lambda _inputs: False
        assert_at_rest(stage)
        assert call.end in {"returned", "cancelled", "PredictFailed"}, call.end
        await ask(stage, seen)
        await hold_for(stage, seen)
        seen.assert_none_is_a_mix()
        await stage.rest()
        assert_at_rest(stage)


def test_a_caller_of_a_set_who_goes_away_leaves_nothing(search: Search) -> None:
    """Cancelled at any moment, a set leaves nothing held, and an engine that works as before."""
    search(a_caller_of_a_set_goes_away, policy=RandomWalk(), schedules=200)


@pytest.mark.slow
def test_a_caller_of_a_set_may_go_away_at_every_moment() -> None:
    """The same for each moment in turn."""
    assert_explored(a_caller_of_a_set_goes_away, policy=Exhaustive(delays=0), exhausted=True)


async def an_engine_is_closed_under_a_set() -> None:
    """Close the engine at any moment of a set; whoever asked is told one thing."""
    patience_s, rounds = choose([10.0, 0.0]), choose(range(MOMENTS))
    async with open_stage(close_timeout_s=patience_s) as stage:
        await two(stage)
        seen = Seen()
        stage.rig.takes("worker n/1 0", choose([0.0, 1.0]))
        calls = [stage.call(partial(ask, stage, seen)), stage.call(partial(hold, stage, seen))]
        scope = trio.CancelScope()
        await cancel_later(scope, rounds)
    told = {"returned", "EngineClosed", "VersionCrashed", LeaseRevoked.__name__}
    assert {call.end for call in calls} <= told, [call.end for call in calls]
    seen.assert_none_is_a_mix()


def test_a_set_is_answered_when_the_engine_is_closed(search: Search) -> None:
    """One end for each, and no model is left open."""
    search(an_engine_is_closed_under_a_set, policy=RandomWalk(), schedules=200)
    search(an_engine_is_closed_under_a_set, policy=PCT(depth=3), schedules=120)
