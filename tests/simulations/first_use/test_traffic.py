"""Traffic on its way from version to version, against crashes, operators, drains and callers, in every order.

What each program asserts comes on top of what `open_stage` and `assert_at_rest` look at: no trial, listener, meter or
half of the traffic is left, every reference was given back, and every model that was loaded was closed once.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import attrs
import trio

from changeover import Drain, Guard, Reply, Shift, SwapState, VersionState
from changeover.errors import ChangeoverError, NotReady, SwapNotAllowed
from changeover_sim import PCT, RandomWalk, choose
from tests.simulations.first_use.stage import Call, Search, Stage, assert_at_rest, inputs, open_stage
from tests.support.models import Broken

KINDS = ({"execution": "inline"}, {"execution": "worker"}, {"execution": "worker", "batched": True})
HALF = ((0.5, 1.0),)
PLANS = (
    Shift.at_once(),
    Shift.at_once(confirm_s=1.0),
    Shift.canary(HALF, confirm_s=0.0),
    Shift.canary(HALF, confirm_s=1.0, sticky=False),
    Shift.canary(((0.5, 0.5), (1.0, 0.5)), confirm_s=0.0, fallback=False, guard=None),
    Shift.canary(HALF, confirm_s=1.0, shadow=True),
)
STRICT = Guard(min_samples=1, min_errors=1, max_error_rate=0.01)
POISON = 13
"""What breaks the version that is asked it by name."""
BAD = 7
"""What the new version raises on."""


def add_two(stage: Stage, **fields: Any) -> None:
    """Register two versions that a poisonous request breaks."""
    kind = choose(KINDS)
    stage.add("1", "2", **kind, **fields, fatal_on=lambda asked: bool((asked["x"] == POISON).any()))


async def crash(stage: Stage, version: str, *, for_good: bool) -> None:
    """Break a version, once or so that it can never be loaded again; nothing happens where it takes no requests."""
    script = stage.rig.script("m", version)
    script.load_error = Broken(f"{version} is gone") if for_good else script.load_error
    try:
        await stage.engine.infer("m", inputs(POISON), version=version)
    except ChangeoverError:
        return


async def later(after_s: float, call: Callable[[], Awaitable[Any]]) -> Any:
    """Make a call in a while."""
    await trio.sleep(after_s)
    return await call()


async def steer(stage: Stage, swap_id: str, orders: tuple[str, ...]) -> None:
    """Give orders to a swap, half a second apart; one that comes too late is refused."""
    for order in orders:
        try:
            getattr(stage.engine, order)(swap_id)
        except SwapNotAllowed:
            assert stage.engine.swap_status(swap_id).state not in {SwapState.NOT_STARTED, SwapState.TRANSITIONING}
        await trio.sleep(0.5)


# --- a ramp against crashes -----------------------------------------------------------------------------------------


async def a_ramp_meets_crashes() -> None:
    """Break the new version, the old one or both, once or for good, while a ramp rises and is steered."""
    async with open_stage() as stage:
        engine = stage.engine
        add_two(stage)
        await engine.load("m", "1")
        was_there = choose([False, False, True])
        if was_there:
            await engine.load("m", "2")
        swap_id = engine.start_swap("m", "2", plan=choose(PLANS), drain=Drain(choose([0.0, 5.0])))
        swap = stage.call(lambda: engine.wait_for_swap(swap_id), "swap")
        gone = choose([(), ("1",), ("2",), ("1", "2")])
        broken = choose([(), ("1",), ("2",), ("1", "2")])
        for version in broken:
            break_it = partial(crash, stage, version, for_good=version in gone)
            stage.call(partial(later, choose([0.0, 0.0, 0.5, 1.0, 1.5]), break_it), "crash")
        orders = choose(
            [(), (), ("pause", "resume"), ("pause", "promote"), ("promote",), ("abort",), ("pause", "abort")]
        )
        stage.call(partial(later, choose([0.0, 0.5, 1.0]), partial(steer, stage, swap_id, orders)), "steer")
        for number in range(3):
            ask = partial(engine.infer, "m", inputs(number), key=str(number))
            stage.call(partial(later, choose([0.0, 0.5, 1.0]), ask), f"ask {number}")
        await stage.rest()
        assert_at_rest(stage)
        heir = was_there and "1" in broken  # then the new version has the traffic, whatever becomes of the swap
        assert_where_it_belongs(stage, engine.swap_status(swap_id).state, swap.end, moved=heir)


def assert_where_it_belongs(stage: Stage, state: SwapState, end: str, *, moved: bool) -> None:
    """The traffic is where the end of the swap says, unless nothing works there."""
    told = {
        SwapState.COMPLETED: "returned",
        SwapState.FAILED: "SwapFailed",
        SwapState.CANCELLED: "SwapRolledBack",
        SwapState.ROLLED_BACK: "SwapRolledBack",
    }
    assert told[state] == end
    works = [version for version in "12" if stage.state(version) is VersionState.READY]
    assert (stage.traffic() is None) == (not works), (stage.traffic(), works)
    wanted = "2" if state is SwapState.COMPLETED else "1"
    if wanted in works and state is not SwapState.FAILED and not moved:
        assert stage.traffic() == wanted, (state, works)
    if state is SwapState.COMPLETED:
        assert "1" not in works or stage.traffic() == "1", "the old version is left behind"


def test_a_ramp_against_crashes(search: Search) -> None:
    """Whatever crashes and whoever steers: the swap ends, and exactly one version that works has all of the traffic."""
    search(a_ramp_meets_crashes, policy=RandomWalk(), schedules=300)
    search(a_ramp_meets_crashes, policy=PCT(depth=3), schedules=200)
    search(a_ramp_meets_crashes, schedules=100, mode="trio-batch")


async def a_version_breaks_as_it_is_to_leave() -> None:
    """Break the old version about when it is drained, or the new one about when its swap is aborted."""
    async with open_stage() as stage:
        engine = stage.engine
        add_two(stage)
        await engine.load("m", "1")
        swap_id = engine.start_swap("m", "2", plan=choose([Shift.at_once(), Shift.at_once(confirm_s=1.0)]))
        swap = stage.call(lambda: engine.wait_for_swap(swap_id), "swap")
        version, orders = choose([("1", ()), ("2", ("abort",))])

        async def after(rounds: int, call: Callable[[], Awaitable[None]]) -> None:
            await stage.until(lambda: engine.swap_status(swap_id).share == 1.0 or swap.is_over)
            for _ in range(rounds):
                await trio.lowlevel.checkpoint()
            await call()

        stage.call(partial(after, choose(range(8)), partial(crash, stage, version, for_good=False)), "crash")
        stage.call(partial(after, choose(range(8)), partial(steer, stage, swap_id, orders)), "steer")
        await stage.rest()
        assert_at_rest(stage)
        state = engine.swap_status(swap_id).state
        assert_where_it_belongs(stage, state, swap.end, moved=False)
        wanted = "2" if state is SwapState.COMPLETED else "1"
        assert engine.loaded_versions("m") == (wanted,), "what was to leave was started again"


def test_a_version_that_breaks_as_it_is_to_leave_is_not_started_again(search: Search) -> None:
    """A crash in the moment in which a drain is ordered ends the version, as the drain would have."""
    search(a_version_breaks_as_it_is_to_leave, policy=RandomWalk(), schedules=300)


# --- fallback against drain, pivot, crash and rollback --------------------------------------------------------------


@attrs.define
class Pins:
    """What the router gave to each request, by the number that it asks."""

    seen: dict[float, tuple[str, bool]] = attrs.field(factory=dict)
    """The version that was picked, and whether the other one stood by."""

    def watch(self, stage: Stage, fallback: bool) -> None:
        """Look at every pin as it is made."""
        router = stage.engine._router
        pin = router.pin_request

        def noted(use: Any, model: str, key: str | None) -> Any:
            pinned = pin(use, model, key)
            version = pinned.account.owner.key.version
            self.seen[float(key or "-1")] = (version, pinned.standby is not None)
            on_trial = router.snapshot.routes[model].trial is not None
            if version == "2" and on_trial:
                assert (pinned.standby is not None) == fallback, "nobody stands by, or somebody who was not asked to"
            return pinned

        router.pin_request = noted  # type: ignore[method-assign]  # the engine's own pin, with a look at it


async def a_new_version_fails() -> None:
    """Ask what the new version cannot answer, through its whole ramp, its pivot and what may come between."""
    async with open_stage() as stage:
        engine, pins = stage.engine, Pins()
        add_two(stage)
        await engine.load("m", "1")
        stage.rig.script("m", "2").fails_on = lambda asked: bool((asked["x"] // 1 == BAD).any())
        for version in "12":
            stage.rig.takes(f"worker m/{version} 0", choose([0.0, 0.0, 1.0]))
        fallback, guard = choose([True, True, False]), choose([None, STRICT])
        plan = Shift.canary(HALF, confirm_s=choose([0.0, 1.0]), fallback=fallback, guard=guard)
        pins.watch(stage, fallback)
        swap_id = engine.start_swap("m", "2", plan=plan, drain=Drain(30.0))
        stage.call(lambda: engine.wait_for_swap(swap_id), "swap")
        event = choose(["nothing", "abort", "promote", "roll back", "crash 1", "crash 2"])
        stage.call(partial(later, choose([0.0, 0.5, 1.0, 2.0]), partial(happen, stage, swap_id, event)), event)
        asks = [ask_later(stage, number) for number in (1, BAD, 2, BAD + 0.5)]
        await stage.rest()
        assert_at_rest(stage)
        for call, number in asks:
            assert_answered(stage, call, number, pins, safe=event != "crash 1")
        fell_back = [call for call, _ in asks if isinstance(call.value, Reply) and call.value.fell_back]
        if "crash" not in event and all(call.end == "returned" for call, _ in asks):
            assert engine.swap_status(swap_id).fallbacks == len(fell_back)


def ask_later(stage: Stage, number: float) -> tuple[Call, float]:
    """Ask at some time of the ramp; the caller may go away, or have no patience."""
    how = choose(["stays", "stays", "stays", "goes", "hurries"])
    timeout_s = 0.5 if how == "hurries" else None

    async def ask() -> Reply:
        try:
            return await stage.engine.infer("m", inputs(number), key=str(number), timeout_s=timeout_s)
        except NotReady:
            assert stage.state("1") is not VersionState.READY, "the old version works, and nobody was let in"
            raise

    wait_s = choose([0.0, 0.25, 0.5, 1.0, 1.5])
    make = stage.cancelled_call if how == "goes" else stage.call
    return make(lambda: later(wait_s, ask), f"ask {number}"), number


async def happen(stage: Stage, swap_id: str, event: str) -> None:
    """Let something come between."""
    match event:
        case "abort" | "promote":
            await steer(stage, swap_id, (event,))
        case "roll back":
            await stage.engine.rollback(swap_id)
        case "crash 1" | "crash 2":
            await crash(stage, event[-1], for_good=choose([True, False]))
        case _:
            return


def assert_answered(stage: Stage, call: Call, number: float, pins: Pins, *, safe: bool) -> None:
    """A request that had the old version, or had it standing by, is answered, where that works."""
    asked = [float(x) for made in stage.rig.cast.made for batch in made.calls for x in batch["x"][:, 0]]
    assert asked.count(number) <= 4, "asked more than once of each version, or twice where a batch had failed"
    if call.end == "returned":
        reply: Reply = call.value
        assert reply.outputs["y"].tolist() == [number]
        assert reply.version == "1" or int(number) != BAD
        assert not reply.fell_back or (reply.version == "1" and pins.seen[number] == ("2", True))
    elif call.end not in {"cancelled", "RequestTimeout"}:
        assert call.end in {"PredictFailed", "VersionCrashed", "NotReady"}
        held = pins.seen.get(number, ("2", False))
        assert not safe or held == ("2", False), (call.end, held)


def test_fallback_against_drain_pivot_crash_and_rollback(search: Search) -> None:
    """A request that the new version fails on is answered once, by the old one, wherever the swap is meanwhile."""
    search(a_new_version_fails, policy=RandomWalk(), schedules=300)
    search(a_new_version_fails, policy=PCT(depth=3), schedules=200)
    search(a_new_version_fails, schedules=100, mode="trio-batch")
