"""Models that misbehave when they are closed: each is closed once, its bytes are free, and nobody else hears of it."""

from __future__ import annotations

import gc
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

from changeover import Drain, VersionState
from changeover.errors import (
    ChangeoverError,
    WarmUpFailed,
)
from changeover_sim import open_world
from tests.support.misbehaviour import (
    ERRORS,
    FEW,
    Plain,
    all_is_well,
    loads,
    name_of,
    play,
    reserved,
    serves_on,
    stage,
)
from tests.support.models import Broken
from tests.support.rig import Outcome, Rig, Watch, later, open_rig, running

WORLDS = pytest.mark.parametrize("real", [False, True], ids=["virtual", "real"])


async def by_unload(rig: Rig) -> None:
    """Have it unloaded."""
    await rig.ready()
    assert (await rig.engine.unload("m", "1", force=True)).result == "drained"


async def by_last_holder(rig: Rig) -> None:
    """Have it closed behind its last holder."""
    await rig.ready()
    lease = rig.lease()
    assert (await rig.engine.unload("m", "1", drain=Drain(0), force=True)).result == "quarantined"
    lease.release()


async def by_failed_warm_up(rig: Rig) -> None:
    """Have it fail its warm-up."""
    rig.add(fails_on=lambda inputs: "warm" in inputs, warmup=[{"warm": 1}])
    with pytest.raises(WarmUpFailed):
        await rig.engine.load("m", "1")


async def by_over_budget(rig: Rig) -> None:
    """Have it be too large."""
    rig.add(memory=10**6)
    with pytest.raises(ChangeoverError, match="m/1"):
        await rig.engine.load("m", "1")
    rig.script().memory = 10


async def by_swap_and_unload(rig: Rig) -> None:
    """Have another one take its place."""
    await rig.ready()
    await rig.ready("m", "3")
    await rig.engine.swap("m", "3")
    await rig.engine.unload("m", "3", force=True)


ENDS = [by_unload, by_last_holder, by_failed_warm_up, by_over_budget, by_swap_and_unload]


@asynccontextmanager
async def closed_badly(make: Callable[[], Any], real: bool) -> AsyncGenerator[Rig, None]:
    """Open a stage on which m/1 raises when it is closed; behind the block it has been, once, and that was told."""
    async with stage(real=real) as rig, Watch(rig.engine) as watch:
        rig.script().close_error = make()
        yield rig
        with trio.fail_after(30.0):
            while rig.engine.load_info("m", "1").status in {VersionState.UNLOADING, VersionState.QUARANTINED}:
                await trio.lowlevel.checkpoint()
        assert [made.closed for made in rig.cast.of("m", "1")] == [1]
        (told,) = await watch.kinds("close_failed", "error")
        assert name_of(make) in told
        rig.script().close_error = None
        await all_is_well(rig)
        rig.script().fails_on = lambda _inputs: False
        await rig.engine.load("m", "1")  # and it can be loaded again
        assert [made.closed for made in rig.cast.of("m", "1")] == [1, 0]
        await serves_on(rig)


@WORLDS
@pytest.mark.parametrize("make", FEW, ids=name_of)
@pytest.mark.parametrize("end", ENDS, ids=lambda end: end.__name__)
def test_a_close_that_raises_is_a_close(end: Any, make: Callable[[], Any], real: bool) -> None:
    """Wherever a model comes to its end: it is closed once, its bytes are free, and an event says what it raised."""

    async def check() -> None:
        async with closed_badly(make, real) as rig:
            await end(rig)

    play(real, check)


@WORLDS
@pytest.mark.parametrize("make", ERRORS, ids=name_of)
def test_a_close_that_raises_does_not_keep_an_engine_open(make: Callable[[], Any], real: bool) -> None:
    """An engine closes whatever its models raise at it, each of them once."""

    async def check() -> None:
        async with stage(real=real) as rig:
            await rig.ready(close_error=make())
        assert [made.closed for made in rig.cast.made] == [1, 1]
        assert reserved(rig) == 0

    play(real, check)


@pytest.mark.parametrize("make", FEW, ids=name_of)
def test_a_close_that_raises_after_the_engine_is_nothing_to_its_last_holder(make: Callable[[], Any]) -> None:
    """A lease that outlives engine and loop closes the model; what that raises is not raised at who gave it back."""
    kept = list[Any]()

    async def main() -> None:
        async with open_rig(real=True, close_timeout_s=0.0) as rig:
            await rig.ready(close_error=make())
            kept.extend([rig.lease(), rig])

    trio.run(main)
    lease, rig = kept
    lease.release()
    assert (rig.cast.made[0].closed, rig.engine.audit().clean) == (1, True)


@pytest.mark.parametrize("work", ["slow", "hung"])
async def test_a_close_that_takes_its_time_takes_nobody_elses(rig: Rig, work: str, autojump_clock: Any) -> None:
    """Its unload waits and its bytes stay reserved; others serve, load and unload; then it is over, once."""
    await rig.ready("other", "1", execution="worker")
    await rig.ready()
    hang = trio.Event()
    rig.takes("close m/1", 50.0 if work == "slow" else hang)
    unload = Outcome(rig.engine.unload, "m", "1", force=True)
    async with running(unload):
        await serves_on(rig)
        await rig.ready("m", "3")
        await rig.engine.unload("m", "3", force=True)
        assert (trio.current_time(), unload.over, reserved(rig)) == (0.0, False, 20)
        await later(50.0, hang.set)
    assert (unload.value.result, unload.ended_s) == ("drained", 50.0)
    assert [made.closed for made in rig.cast.of("m", "1")] == [1]
    await all_is_well(rig)


async def test_a_close_that_hangs_does_not_keep_an_engine_open_for_ever(autojump_clock: Any) -> None:
    """An engine waits for its limit and no longer; the model was closed once, and its thread stays behind."""
    async with open_world() as world:
        async with open_rig(world=world, close_timeout_s=7.0) as rig:
            await rig.ready()
            rig.takes("close m/1", trio.Event())
        assert trio.current_time() <= 2 * 7.0
    assert [made.closed for made in rig.cast.made] == [0]  # the virtual thread never came to it


async def test_an_async_close_is_told_as_one_that_failed(rig: Rig, autojump_clock: Any) -> None:
    """Nobody awaits it, so the model is not closed: that is said in an event, and leaves no warning behind."""

    class Asynchronous(Plain):
        async def close(self) -> None:
            self.closed += 1

    made = Asynchronous()
    rig.engine._host.loaders.add("asynchronous", loads(lambda: made))
    rig.engine.register("m", "1", "nowhere", loader="asynchronous")
    async with Watch(rig.engine) as watch:
        await rig.engine.load("m", "1")
        await rig.engine.unload("m", "1", force=True)
        (told,) = await watch.kinds("close_failed", "error")
    assert "coroutine" in told
    gc.collect()


async def test_a_model_that_closes_itself_is_closed_by_the_engine_too(rig: Rig, autojump_clock: Any) -> None:
    """The engine closes each model once, whatever the model does to itself."""

    class Suicidal(Plain):
        def predict(self, inputs: Any) -> Any:
            self.close()
            return {"closed": self.closed}

    made = Suicidal()
    rig.engine._host.loaders.add("suicidal", loads(lambda: made))
    rig.engine.register("m", "1", "nowhere", loader="suicidal")
    await rig.engine.load("m", "1")
    assert [(await rig.engine.infer("m", {})).outputs["closed"] for _ in range(2)] == [1, 2]
    await rig.engine.unload("m", "1", force=True)
    assert made.closed == 3


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # which is what Python makes of it
@WORLDS
def test_a_finalizer_that_raises_is_nothing_to_the_engine(real: bool) -> None:
    """`__del__` is Python's, which reports what it raises and goes on; so does the engine."""
    finalized = list[str]()

    class Clinging(Plain):
        def __del__(self) -> None:
            finalized.append("once")
            raise Broken("in __del__")

    loader = loads(Clinging)

    async def check() -> None:
        async with stage(real=real) as rig:
            rig.engine._host.loaders.add("clinging", loader)
            rig.engine.register("m", "1", "nowhere", loader="clinging")
            await rig.engine.load("m", "1")
            await rig.engine.infer("m", {})
            await rig.engine.unload("m", "1", force=True)
            loader.made.clear()
            gc.collect()
            assert finalized == ["once"]
            await all_is_well(rig)

    play(real, check)
