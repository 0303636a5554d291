"""Opening and closing: what comes out of the block, what a crash of the engine does, and what is left behind."""

# ruff: noqa: PT012 - it is the block of an engine that raises, and what stands in it is why

from __future__ import annotations

import logging
import threading
from typing import Any

import attrs
import pytest
import trio

import changeover
from changeover import Engine, VersionKey, open_engine
from changeover.errors import (
    ChangeoverError,
    EngineClosed,
    EngineFailed,
    InvalidValue,
    NotReady,
    ReferenceLeakError,
)
from changeover_sim import World, open_world
from tests.support.models import Broken, Cast
from tests.support.rig import Outcome, Rig, later, open_rig, settle
from tests.support.threads import Crowd, patient

# --- what comes out of the block ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [
        ValueError("mine"),
        ExceptionGroup("mine", [ValueError("inner")]),
        KeyboardInterrupt("mine"),
        SystemExit(3),
        NotReady("mine"),
        BaseExceptionGroup("mine", [KeyboardInterrupt()]),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_an_exception_of_the_body_comes_out_as_it_is(error: BaseException) -> None:
    """No group is put around a user's exception; it is the very same object, and every model is closed behind it."""
    raised: BaseException | None = None
    try:
        async with open_rig(real=True) as rig:
            cast = rig.cast
            await rig.ready()
            raise error  # noqa: TRY301 - the engine's block stands between the two
    except BaseException as caught:  # noqa: BLE001 - that is the question
        raised = caught
    assert raised is error
    assert cast.open() == []


@pytest.mark.parametrize("error", [ValueError("mine"), KeyboardInterrupt("mine")], ids=lambda e: type(e).__name__)
def test_an_exception_of_the_body_is_the_one_of_the_run(error: BaseException) -> None:
    """With nothing but `trio.run` round the engine, it raises what the body raised."""

    async def main() -> None:
        async with open_engine():
            raise error

    with pytest.raises(type(error), match="mine") as caught:
        trio.run(main)
    assert caught.value is error


async def test_a_cancellation_from_outside_stays_a_cancellation(autojump_clock: Any) -> None:
    """A cancelled engine closes everything, and the scope round it ends as any cancelled scope."""
    async with open_world() as world:
        with trio.move_on_after(5) as scope:
            async with open_rig(world=world) as rig:
                await rig.ready()
                rig.takes("close m/1", 3.0)
                await trio.sleep_forever()
        assert scope.cancelled_caught
        assert (trio.current_time(), rig.cast.open()) == (8.0, [])


async def test_a_value_is_returned_out_of_the_block(autojump_clock: Any) -> None:
    """Leaving the block early is no error."""

    async def body() -> int:
        async with open_rig() as rig:
            await rig.ready()
            return 5

    assert await body() == 5


# --- a crash of the engine itself -----------------------------------------------------------------------------------


class BrokenClock:
    """A clock that can be broken: then sleeping raises, and with it the supervisor that waits for a restart."""

    def __init__(self, clock: Any) -> None:
        self.now, self.wall, self._clock = clock.now, clock.wall, clock
        self.broken = False

    async def sleep(self, seconds: float) -> None:
        """Sleep, or raise."""
        if self.broken:
            raise Broken("the clock")
        await self._clock.sleep(seconds)


async def break_engine(rig: Rig) -> None:
    """Crash a version, so that its supervisor, whose clock breaks now, crashes too."""
    rig.engine._ports.clock.broken = True
    with pytest.raises(ChangeoverError):
        await rig.engine.infer("m", {"poison": 1})


def brittle(world: World) -> Any:
    """Return an engine's block whose clock can be broken."""
    return open_engine(ports=attrs.evolve(world.ports, clock=BrokenClock(world.ports.clock)))


async def test_a_crash_of_the_engine_cancels_the_body_and_says_so(autojump_clock: Any) -> None:
    """The body is cancelled, `EngineFailed` comes out with the cause, and all models are closed."""
    reached: list[str] = []
    async with open_world() as world:
        with pytest.raises(EngineFailed, match="the clock") as caught:
            async with brittle(world) as engine:
                rig = Rig(engine, cast := Cast(), world)
                await rig.ready(fatal_on=lambda inputs: "poison" in inputs)
                await rig.ready("other")
                await break_engine(rig)
                try:
                    await trio.sleep_forever()
                finally:
                    reached.append("cancelled")
        await settle()
        assert isinstance(root(caught.value.__cause__), Broken)
        assert reached == ["cancelled"]
        assert cast.open() == []
        assert cast.wrongs() == []


def root(error: BaseException | None) -> BaseException | None:
    """Return the first exception in nested groups."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


async def test_calls_after_a_crash_of_the_engine_raise_it(autojump_clock: Any) -> None:
    """Synchronous and waiting calls alike say that the engine failed, each with an error of its own."""
    async with open_world() as world:
        with pytest.raises(EngineFailed):
            async with brittle(world) as engine:
                rig = Rig(engine, Cast(), world)
                await rig.ready(fatal_on=lambda inputs: "poison" in inputs)
                await rig.ready("other")
                await break_engine(rig)
                with trio.CancelScope(shield=True):
                    await settle()
                    await check_refuses(engine, EngineFailed)
        await check_refuses(engine, EngineFailed)


async def check_refuses(engine: Engine, kind: type[ChangeoverError]) -> None:
    """Check that every call that would do something raises `kind`."""
    waiting = {
        "load": lambda: engine.load("other", "1"),
        "ensure_loaded": lambda: engine.ensure_loaded("other", "1"),
        "unload": lambda: engine.unload("other", "1"),
        "warm_up": lambda: engine.warm_up("other", "1", {}),
        "infer": lambda: engine.infer("other", {}),
        "swap": lambda: engine.swap("other", "1"),
        "scan": engine.scan,
        "wait_for_drain": lambda: engine.wait_for_drain("other", "1"),
        "lease": lambda: engine.lease("other").__aenter__(),
    }
    for name, call in waiting.items():
        with pytest.raises(kind):
            await call()
            pytest.fail(f"{name} did not raise")
    at_once = {
        "lease": lambda: engine.lease("other").__enter__(),
        "acquire": lambda: engine.references.acquire("other", "1", "mine"),
        "register": lambda: engine.register("new", "1", "script", loader="scripted"),
        "start_swap": lambda: engine.start_swap("other", "1"),
    }
    for name, call in at_once.items():
        with pytest.raises(kind):
            call()
            pytest.fail(f"{name} did not raise")


async def test_a_crash_of_the_engine_beside_an_error_of_the_body_names_both(autojump_clock: Any) -> None:
    """What the body raised on its way out is a note on `EngineFailed`."""
    async with open_world() as world:
        with pytest.raises(EngineFailed) as caught:
            async with brittle(world) as engine:
                rig = Rig(engine, Cast(), world)
                await rig.ready(fatal_on=lambda inputs: "poison" in inputs)
                await break_engine(rig)
                try:
                    await trio.sleep_forever()
                finally:
                    raise Broken("of the body")
        assert any("of the body" in note for note in caught.value.__notes__)


async def test_a_crash_of_the_engine_closes_nothing_that_is_held(autojump_clock: Any) -> None:
    """A lease outlives even that; the model is closed when it ends."""
    async with open_world() as world:
        with pytest.raises(EngineFailed):
            async with brittle(world) as engine:
                rig = Rig(engine, cast := Cast(), world)
                await rig.ready(fatal_on=lambda inputs: "poison" in inputs)
                lease = rig.lease()
                await break_engine(rig)
                await trio.sleep_forever()
        assert cast.open() == ["m/1"]
        assert lease.infer({})["version"] == "1"
        lease.release()
        await settle()
        assert (cast.open(), cast.wrongs()) == ([], [])


async def test_who_waits_elsewhere_hears_of_a_crash_of_the_engine(autojump_clock: Any) -> None:
    """An order from outside of the body does not wait for ever."""
    async with open_world() as world, trio.open_nursery() as nursery:
        with pytest.raises(EngineFailed):
            async with brittle(world) as engine:
                rig = Rig(engine, Cast(), world)
                await rig.ready(fatal_on=lambda inputs: "poison" in inputs)
                rig.add("slow")
                rig.takes("load slow/1", 1_000.0)
                load = Outcome(engine.load, "slow", "1")
                nursery.start_soon(load.run)
                await settle()
                await break_engine(rig)
                await trio.sleep_forever()
        await settle()
        assert load.over
        assert isinstance(load.error, EngineClosed | EngineFailed)


# --- a closed engine ------------------------------------------------------------------------------------------------


async def test_calls_on_a_closed_engine_say_so(autojump_clock: Any) -> None:
    """Everything that would do something raises `EngineClosed`; looking is still allowed."""
    async with open_rig() as rig:
        await rig.ready("other")
        engine = rig.engine
    await check_refuses(engine, EngineClosed)
    assert engine.audit().clean
    assert engine.load_info("other", "1").status.value == "unloaded"
    assert engine.statistics().registered == 1


async def test_closing_unloads_every_model(autojump_clock: Any) -> None:
    """Behind the block every model is closed and every byte given back."""
    async with open_rig(memory_budget_bytes=1_000) as rig:
        for n in range(20):
            await rig.ready(f"m{n}", execution="worker" if n % 2 else "inline")
    assert rig.cast.open() == []
    assert rig.engine.statistics().reserved_bytes == 0


async def test_closing_waits_for_requests_that_run(autojump_clock: Any) -> None:
    """A request that a worker has in its hands when the engine is closed is answered."""
    async with open_world() as world, trio.open_nursery() as nursery, open_rig(world=world) as rig:
        await rig.ready(execution="worker")
        rig.takes("worker m/1 0", 5.0)
        asked = [Outcome(rig.engine.infer, "m", {"n": n}) for n in range(2)]
        for outcome in asked:
            nursery.start_soon(outcome.run)
        await settle()
    assert [outcome.value.version for outcome in asked] == ["1", "1"]


async def test_closing_does_not_wait_for_ever(autojump_clock: Any) -> None:
    """A holder that never leaves, a load, a warm-up and a `close` that hang cost `close_timeout_s` and no more."""
    hang = trio.Event()
    async with open_world() as world, trio.open_nursery() as nursery:
        nursery.start_soon(later, 1_000.0, hang.set)
        async with open_rig(world=world, close_timeout_s=5.0) as rig:
            await rig.ready("held")
            lease = rig.lease("held")
            for model, work in (("a", "load"), ("b", "warm"), ("c", "close")):
                rig.add(model, warmup=[{}])
                rig.takes(f"{work} {model}/1", hang)
                with trio.move_on_after(1):
                    await rig.engine.load(model, "1")
            began_s = trio.current_time()
        assert trio.current_time() - began_s <= 10.0
        assert lease.infer({})["version"] == "1"
        lease.release()
        hang.set()
        await settle()
        assert rig.cast.open() == []


def test_a_lease_in_another_thread_outlives_engine_and_loop() -> None:
    """Closed with a lease held elsewhere, even with the loop gone, the model is open until that thread lets go."""
    taken, go = threading.Event(), threading.Event()
    crowd = Crowd()
    answers: list[Any] = []

    async def main() -> Any:
        async with open_rig(real=True, close_timeout_s=0.01) as rig:
            await rig.ready()

            def hold() -> None:
                with rig.engine.lease("m") as lease:
                    taken.set()
                    assert patient(go)
                    answers.append(lease.infer({})["version"])

            crowd.add(hold)
            crowd.start()
            await trio.to_thread.run_sync(patient, taken)
            return rig.cast

    cast = trio.run(main)
    assert cast.open() == ["m/1"]
    go.set()
    crowd.join()
    assert (answers, cast.open(), cast.wrongs()) == (["1"], [], [])


# --- leaks ----------------------------------------------------------------------------------------------------------


async def test_a_leak_is_logged_when_the_engine_is_closed(
    caplog: pytest.LogCaptureFixture, autojump_clock: Any
) -> None:
    """What is still held is named in the log: version, kind and age; with debugging on, also the line."""
    caplog.set_level(logging.WARNING)
    async with open_world() as world:
        async with open_rig(world=world, close_timeout_s=1.0, debug_references=True) as rig:
            await rig.ready()
            lease = rig.lease()
        assert "still held when the engine was closed: m/1: lease" in caplog.text
        assert f"{__file__.rsplit('/', 1)[-1]}" in caplog.text or "rig.py:" in caplog.text
        lease.release()


async def test_a_leak_is_an_error_where_references_are_strict(autojump_clock: Any) -> None:
    """With `strict_references` the block raises `ReferenceLeakError` with the model, the version and the holder."""
    async with open_world() as world:
        with pytest.raises(ReferenceLeakError, match=r"m/1: lease") as caught:
            async with open_rig(world=world, close_timeout_s=1.0, strict_references=True) as rig:
                await rig.ready()
                lease = rig.lease()
        assert (caught.value.model, caught.value.version) == ("m", "1")
        lease.release()


async def test_an_exception_of_the_body_comes_before_a_leak(autojump_clock: Any) -> None:
    """The user's own exception is not hidden by one about references."""
    async with open_world() as world:
        with pytest.raises(Broken):
            async with open_rig(world=world, close_timeout_s=1.0, strict_references=True) as rig:
                await rig.ready()
                lease = rig.lease()
                raise Broken("mine")
        lease.release()


async def test_nothing_is_raised_where_nothing_leaks(autojump_clock: Any) -> None:
    """A strict engine that is used well closes in silence, whatever was swapped and unloaded in it."""
    async with open_rig(strict_references=True, debug_references=True) as rig:
        await rig.ready(execution="worker")
        rig.add("m", "2")
        await rig.engine.infer("m", {})
        async with rig.engine.lease("m"):
            await rig.engine.infer("m", {})
        await rig.engine.swap("m", "2")
        await rig.engine.unload("m", "2", force=True)


# --- settings -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"memory_budget_bytes": 0}, "memory_budget_bytes"),
        ({"memory_budget_bytes": 1.5}, "memory_budget_bytes"),
        ({"close_timeout_s": -1.0}, "close_timeout_s"),
        ({"close_timeout_s": float("nan")}, "close_timeout_s"),
        ({"stuck_loads_max": 0}, "stuck_loads_max"),
    ],
)
async def test_a_setting_that_makes_no_sense_is_refused_by_name(
    options: dict[str, Any], name: str, autojump_clock: Any
) -> None:
    """Nothing is opened."""
    with pytest.raises(InvalidValue, match=name):
        async with open_engine(**options):
            pytest.fail("the body ran")


async def test_two_engines_know_nothing_of_each_other(autojump_clock: Any) -> None:
    """Each has its own versions, references and counts."""
    async with open_rig() as one, open_rig() as two:
        await one.ready()
        two.add()
        assert (one.engine.is_loaded("m", "1"), two.engine.is_loaded("m", "1")) == (True, False)


async def test_an_engine_can_be_looked_at_from_any_thread() -> None:
    """Status calls work from plain threads while the loop works."""
    async with open_rig(real=True) as rig:
        await rig.ready(execution="worker")
        rig.add("m", "2")

        def look() -> None:
            for _ in range(50):
                assert rig.engine.audit().total.conserved
                assert rig.engine.statistics().registered == 2
                assert VersionKey("m", "1") in rig.engine.statistics().versions
                assert rig.engine.load_info("m", "1").model == "m"
                rig.engine.swaps()

        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(trio.to_thread.run_sync, look)
            for n in range(50):
                await rig.engine.infer("m", {"n": n})
            for to in ("2", "1") * 5:
                await rig.engine.swap("m", to)


def test_the_package_is_what_opens_it() -> None:
    """`changeover.open_engine` is the one way in."""
    assert changeover.open_engine is open_engine
