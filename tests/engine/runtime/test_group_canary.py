"""A group on trial: one share and one draw for all of its models, and one verdict over all of them."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from itertools import product
from typing import Any

import pytest
import trio

from changeover import Guard, Shift, SwapState
from changeover.core.shift import Stage
from changeover.errors import NotReady, SwapFailed, SwapNotAllowed, SwapRolledBack
from changeover_sim.ports import EPOCH_S
from tests.support.groups import (
    PAIR,
    TRIO,
    check_group_undone,
    check_one_side,
    crash,
    leased,
    mixes,
    shares,
    snapshots,
    swapping,
    to,
    two_of_each,
    versions,
)
from tests.support.rig import Rig, Watch, running, settle

RAMP = Shift.canary([(0.25, 4.0), (0.5, 2.0)], confirm_s=3.0)
HALF = Shift.canary([(0.5, 10.0)], confirm_s=5.0)
KEYS = [f"user {number}" for number in range(20)]
EVERY_WAY = pytest.mark.parametrize("ways", [*product(("inline", "worker"), repeat=2)], ids="/".join)


def the_id(rig: Rig) -> str:
    """Return the id of the first swap of `a`."""
    return rig.engine.swaps("a")[0].id


class Storm:
    """What a storm of sets and of singles has seen."""

    def __init__(self, rig: Rig, models: tuple[str, ...]) -> None:
        self.rig = rig
        self.models = models
        self.sets: list[tuple[float, str | None, str]] = []
        """When, with which key, and which versions."""
        self.singles: list[tuple[float, str, str, str]] = []
        """When, with which key, of which model, and which version."""

    async def blow(self, key: str | None, *, every_s: float = 0.1) -> None:
        """Take sets and ask singles for ever."""
        while True:
            now = trio.current_time()
            self.sets.append((now, key, await versions(self.rig, self.models, key)))
            self.sets.append((now, key, leased(self.rig, self.models, key)))
            if key is not None:
                for model in self.models:
                    reply = await self.rig.engine.infer(model, {}, key=key)
                    self.singles.append((now, key, model, reply.version))
            await trio.sleep(every_s)

    def sides(self) -> set[str]:
        """Return what sets there were."""
        return {found for _, _, found in self.sets}

    def share(self, since_s: float, until_s: float, version: str = "2") -> float:
        """Return which part of the sets of a span of time was of a version."""
        found = [versions[0] for at_s, key, versions in self.sets if since_s <= at_s < until_s and key is None]
        return found.count(version) / len(found)


@asynccontextmanager
async def storm(
    rig: Rig, models: tuple[str, ...] = PAIR, keys: tuple[str | None, ...] = (None, *KEYS[:3]), **options: Any
) -> AsyncGenerator[Storm, None]:
    """Let sets and singles come for as long as the block; none of them may fail."""
    found = Storm(rig, models)
    async with trio.open_nursery() as nursery:
        for key in keys:
            nursery.start_soon(lambda key=key: found.blow(key, **options))
        yield found
        nursery.cancel_scope.cancel()


# --- the ramp -------------------------------------------------------------------------------------------------------


async def test_all_models_have_the_same_share_at_every_stage(rig: Rig, autojump_clock: Any) -> None:
    """Each stage is one step of the snapshot, at the moment that the plan says; no snapshot is a mix."""
    await two_of_each(rig, TRIO)
    seen = snapshots(rig)
    async with Watch(rig.engine) as watch:
        operation = await rig.engine.swap_group(to("2", TRIO), plan=RAMP)
        told = [(e.model, e.at_s - EPOCH_S, e.detail["shares"]["2"]) for e in await watch.kinds("traffic_shifted")]
    assert (operation.state, trio.current_time()) == (SwapState.COMPLETED, 9.0)
    stages = [(0.0, 0.25), (4.0, 0.5), (6.0, 1.0)]
    assert sorted(told) == [(model, at_s, part) for model in TRIO for at_s, part in stages]
    assert mixes(seen) == []
    assert [one["a"].get("2") for one in seen] == [0.25, 0.5, 1.0, 1.0]
    check_one_side(rig, "2", TRIO)


@EVERY_WAY
async def test_no_set_is_ever_a_mix(rig: Rig, ways: tuple[str, str], autojump_clock: Any) -> None:
    """With and without a key, leased or asked, a set is all old or all new at every moment of a swap there and back."""
    for model, way in zip(PAIR, ways, strict=True):
        await rig.ready(model, "1", execution=way)
        rig.add(model, "2", execution=way)
        rig.takes(f"worker {model}/1 0", 0.01)
    async with storm(rig) as found:
        await rig.engine.swap_group(to("2"), plan=RAMP)
        await trio.sleep(1.0)
        await rig.engine.swap_group(to("1"))
    assert found.sides() == {"11", "22"}
    assert found.share(6.2, 9.0) == 1.0
    check_one_side(rig, "1")


async def test_sets_are_split_as_the_stage_says(rig: Rig, autojump_clock: Any) -> None:
    """One draw for each set, so that the new versions get the share of the sets and not of the models."""
    await two_of_each(rig)
    async with storm(rig, keys=(None,), every_s=0.01) as found:
        await rig.engine.swap_group(to("2"), plan=RAMP)
    for since_s, until_s, part in ((0.0, 4.0, 0.25), (4.0, 6.0, 0.5), (6.0, 9.0, 1.0)):
        assert found.share(since_s, until_s) == pytest.approx(part, abs=0.08)


async def test_a_key_finds_the_same_side_in_every_model(rig: Rig, autojump_clock: Any) -> None:
    """Asked one by one or as a set: the same key is on the same side, and never goes back to the old one."""
    await two_of_each(rig, TRIO)
    async with storm(rig, TRIO, tuple(KEYS)) as found:
        await trio.sleep(0.5)
        await rig.engine.swap_group(to("2", TRIO), plan=HALF)
    assert found.sides() == {"111", "222"}
    for key in KEYS:
        ways = [version for _, of, _, version in found.singles if of == key]
        assert ways == sorted(ways), key
        trial = {version for at_s, of, _, version in found.singles if of == key and 1.0 < at_s < 10.0}
        assert trial == {v[0] for at_s, of, v in found.sets if of == key and 1.0 < at_s < 10.0}
        assert len(trial) == 1, key
    assert {version for at_s, _, _, version in found.singles if 1.0 < at_s < 10.0} == {"1", "2"}


async def test_shares_that_are_not_sticky_split_no_set_either(rig: Rig, autojump_clock: Any) -> None:
    """With `sticky=False` a key changes sides, and takes its whole set with it."""
    await two_of_each(rig)
    async with storm(rig, keys=("one",)) as found:
        await rig.engine.swap_group(to("2"), plan=Shift.canary([(0.5, 10.0)], sticky=False))
    assert found.sides() == {"11", "22"}
    assert {version for at_s, _, _, version in found.singles if 1.0 < at_s < 9.0} == {"1", "2"}


async def test_a_stage_waits_for_the_requests_of_every_model(rig: Rig, autojump_clock: Any) -> None:
    """Ten were asked for: where one model has them and the other has not, all stand still."""
    await two_of_each(rig)
    swap = swapping(rig, plan=Shift.canary([Stage(0.5, 1.0, samples=10)], confirm_s=0.0))
    async with running(swap):
        for _ in range(100):
            await rig.engine.infer("a", {})
        await trio.sleep(50.0)
        assert shares(rig)["a"] == shares(rig)["b"] == {"1": 0.5, "2": 0.5}
        for _ in range(100):
            await rig.engine.infer("b", {})
        await trio.sleep(1.0)
        assert swap.over
    check_one_side(rig, "2")


# --- orders ---------------------------------------------------------------------------------------------------------


async def test_a_group_is_paused_resumed_and_promoted_as_one(rig: Rig, autojump_clock: Any) -> None:
    """The shares of all stand still, go on, and come to the whole in one step; each order is told of each model."""
    await two_of_each(rig)
    seen, swap = snapshots(rig), swapping(rig, plan=RAMP)
    async with Watch(rig.engine) as watch, running(swap):
        await trio.sleep(1.0)
        rig.engine.pause(the_id(rig))
        assert rig.engine.swaps("b")[0].paused
        await trio.sleep(100.0)
        assert shares(rig) == {model: {"2": 0.25, "1": 0.75} for model in PAIR}
        rig.engine.resume(the_id(rig))
        await trio.sleep(4.0)
        assert shares(rig) == {model: {"2": 0.5, "1": 0.5} for model in PAIR}
        rig.engine.promote(the_id(rig))
        await settle()
        told = [(e.kind, e.model) for e in await watch.read() if e.kind in ("swap_paused", "swap_promoted")]
    assert told == [(kind, model) for kind in ("swap_paused", "swap_promoted") for model in PAIR]
    assert (swap.value.state, swap.ended_s, mixes(seen)) == (SwapState.COMPLETED, 105.0, [])
    with pytest.raises(SwapNotAllowed):
        rig.engine.abort(the_id(rig))


@pytest.mark.parametrize("at_s", [1.0, 5.0, 7.0])
@pytest.mark.parametrize("paused", [False, True])
async def test_a_group_is_aborted_in_one_step(rig: Rig, at_s: float, paused: bool, autojump_clock: Any) -> None:
    """In each stage and in the confirmation: all old versions have everything again at once."""
    await two_of_each(rig, TRIO)
    seen, swap = snapshots(rig), swapping(rig, TRIO, plan=RAMP)
    async with running(swap), storm(rig, TRIO, (None,)) as found:
        await trio.sleep(at_s)
        if paused:
            rig.engine.pause(the_id(rig))
        rig.engine.abort(the_id(rig))
        await trio.sleep(1.0)
    assert isinstance(swap.error, SwapRolledBack)
    assert (swap.error.operation.state, mixes(seen), swap.ended_s) == (SwapState.CANCELLED, [], at_s)
    assert found.sides() <= {"111", "222"}
    await check_group_undone(rig, swap.error.operation, TRIO)


# --- the guard ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("who", TRIO)
async def test_a_guard_that_trips_for_one_model_takes_all_back(rig: Rig, who: str, autojump_clock: Any) -> None:
    """In one step, with the name of whom; no client has seen a failure or a mix."""
    await two_of_each(rig, TRIO)
    rig.script(who, "2").fails_on = lambda _inputs: True
    seen, swap = snapshots(rig), swapping(rig, TRIO, plan=HALF)
    async with Watch(rig.engine) as watch, storm(rig, TRIO) as found, running(swap):
        await trio.sleep(20.0)
        told = await watch.kinds("guard_tripped")
    assert isinstance(swap.error, SwapRolledBack)
    operation = swap.error.operation
    assert f"the guard has tripped for {who}/2" in str(operation.error_message)
    assert [(event.model, event.version, event.swap_id) for event in told] == [(who, "2", operation.id)]
    assert (operation.guard.old.errors, operation.guard.new.errors >= 6) == (0, True)
    assert operation.fallbacks > 0
    assert mixes(seen) == []
    assert found.sides() <= {"111", "222"}
    await check_group_undone(rig, operation, TRIO)


@pytest.mark.parametrize("who", PAIR)
async def test_a_doubt_about_one_model_holds_all(rig: Rig, who: str, autojump_clock: Any) -> None:
    """Three early failures are no proof; the stage of the whole group is held until they have left the window."""
    failures = iter([True] * 3)
    await two_of_each(rig)
    rig.script(who, "2").fails_on = lambda _inputs: next(failures, False)
    swap = swapping(rig, plan=Shift.canary([(0.5, 5.0)], confirm_s=5.0))
    async with storm(rig, keys=(None,)), running(swap):
        await trio.sleep(9.5)
        assert shares(rig) == {model: {"2": 0.5, "1": 0.5} for model in PAIR}
    assert swap.value.state is SwapState.COMPLETED
    assert swap.ended_s > 14.0


# --- fallback and shadow --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("who", PAIR)
async def test_what_one_new_version_fails_on_the_old_ones_answer(rig: Rig, who: str, autojump_clock: Any) -> None:
    """A set falls back whole, a single by itself; the operation counts them over all models."""
    await two_of_each(rig)
    rig.script(who, "2").fails_on = lambda _inputs: True
    swap = swapping(rig, plan=Shift.at_once(confirm_s=10.0, guard=None))
    async with running(swap):
        replies = await rig.engine.infer_many({model: {} for model in PAIR})
        assert {(reply.version, reply.fell_back) for reply in replies.values()} == {("1", True)}
        counted = rig.engine.swaps("a")[0].fallbacks
        assert 1 <= counted <= 2
        single = await rig.engine.infer(who, {})
        assert (single.version, single.fell_back) == ("1", True)
        assert rig.engine.swaps("b")[0].fallbacks == counted + 1
        (other,) = set(PAIR) - {who}
        assert (await rig.engine.infer(other, {})).version == "2"
    assert swap.value.state is SwapState.COMPLETED


async def test_a_shadowed_group_answers_with_the_old_versions(rig: Rig, autojump_clock: Any) -> None:
    """Every model's new version gets copies, the report counts all of them; the confirmation is the first to ask it."""
    await two_of_each(rig)
    for model, version in product(PAIR, "12"):
        rig.script(model, version).answers = lambda _inputs: {"y": 1.0}
    swap = swapping(rig, plan=Shift.canary([(1.0, 5.0)], shadow=True, confirm_s=2.0))
    async with storm(rig, keys=("one",)) as found, running(swap):
        await trio.sleep(4.0)
        assert found.sides() == {"11"}
        calls = {model: len(rig.cast.of(model, "2")[0].calls) for model in PAIR}
    report = swap.value.shadow
    assert min(calls.values()) >= 30
    assert report.copied == report.agreed >= sum(calls.values())
    assert found.sides() == {"11", "22"}
    check_one_side(rig, "2")


# --- crashes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shadow", [False, True], ids=["", "shadow"])
@pytest.mark.parametrize("who", PAIR)
async def test_an_old_version_that_crashes_gives_all_to_the_new_ones(
    rig: Rig, who: str, shadow: bool, autojump_clock: Any
) -> None:
    """Of every model, until it is back; then the stage goes on where it was."""
    await two_of_each(rig)
    rig.takes(f"load {who}/1", 2.0)
    seen, swap = snapshots(rig), swapping(rig, plan=Shift.canary([(0.5, 10.0)], shadow=shadow, confirm_s=1.0))
    async with running(swap):
        await trio.sleep(2.0)
        await crash(rig, who, "1")
        assert shares(rig) == {model: {"2": 1.0} for model in PAIR}
        await trio.sleep(4.0)
        stage = {"1": 1.0} if shadow else {"2": 0.5, "1": 0.5}
        assert shares(rig) == dict.fromkeys(PAIR, stage)
    assert (swap.value.state, mixes(seen)) == (SwapState.COMPLETED, [])
    check_one_side(rig, "2")


@pytest.mark.parametrize("at_s", [2.0, 12.0], ids=["in a stage", "in the confirmation"])
@pytest.mark.parametrize("who", PAIR)
async def test_a_new_version_that_crashes_on_trial_undoes_all(
    rig: Rig, who: str, at_s: float, autojump_clock: Any
) -> None:
    """The old versions have everything, of every model, from one moment on."""
    await two_of_each(rig)
    seen, swap = snapshots(rig), swapping(rig, plan=HALF)
    async with running(swap):
        await trio.sleep(at_s)
        await crash(rig, who, "2")
        assert shares(rig) == {model: {"1": 1.0} for model in PAIR}
    assert mixes(seen) == []
    assert isinstance(swap.error, SwapFailed)
    assert isinstance(swap.error.__cause__, NotReady)
    assert f"{who}/2 stopped taking requests while it was on trial" in str(swap.error)
    await trio.sleep(100.0)
    await check_group_undone(rig, swap.error.operation)


@pytest.mark.parametrize("who", PAIR)
async def test_an_abort_waits_for_an_old_version_that_is_away(rig: Rig, who: str, autojump_clock: Any) -> None:
    """It crashed and is not loaded yet: until then the new versions have everything, then all go back at once."""
    await two_of_each(rig)
    rig.takes(f"load {who}/1", 5.0)
    seen, swap = snapshots(rig), swapping(rig, plan=HALF)
    async with running(swap):
        await trio.sleep(1.0)
        await crash(rig, who, "1")
        await trio.sleep(1.0)
        rig.engine.abort(the_id(rig))
        await trio.sleep(2.0)
        assert (await versions(rig), mixes(seen)) == ("22", [])
    assert isinstance(swap.error, SwapRolledBack)
    assert (mixes(seen), swap.ended_s > 6.0) == ([], True)
    await check_group_undone(rig, swap.error.operation)


async def test_an_old_version_that_is_lost_for_good_ends_the_trial_of_all(rig: Rig, autojump_clock: Any) -> None:
    """It cannot be loaded again: there is nothing to go back to, so the group goes through."""
    await two_of_each(rig)
    rig.script("b", "1").load_error = RuntimeError("gone")
    swap = swapping(rig, plan=Shift.canary([(0.5, 1_000.0)], guard=Guard()))
    async with running(swap):
        await trio.sleep(1.0)
        await crash(rig, "b", "1")
        await trio.sleep(500.0)
        assert swap.over
    assert swap.value.state is SwapState.COMPLETED
    check_one_side(rig, "2")
