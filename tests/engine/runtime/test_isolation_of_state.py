"""Isolation of state: versions of one source share no counts, options or data; many bad loads hold up nobody."""

from __future__ import annotations

import threading
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

import pytest
import trio

from changeover import VersionState
from changeover.errors import ChangeoverError, LoadTimeout, Overloaded, PredictFailed, TooManyStuckLoads
from changeover.plugin import Source
from changeover_sim import open_world
from tests.support.misbehaviour import Bad, Plain
from tests.support.models import Broken
from tests.support.rig import Outcome, Rig, open_rig, running, settle
from tests.support.threads import patient

WORK_S = 0.25

# --- counters, references and errors --------------------------------------------------------------------------------


async def test_counts_references_and_errors_are_each_versions_own(rig: Rig, autojump_clock: Any) -> None:
    """What one version is asked, holds and gets wrong is written down under its own name, and under no other."""
    for version in "12":
        await rig.ready("m", version, fails_on=lambda inputs: "bad" in inputs, execution="worker", queue_limit=1)
    rig.takes("worker m/1 0", 1.0)
    asked = [Outcome(rig.engine.infer, "m", {"bad": 1}, version="1") for _ in range(4)]
    held = rig.lease(version="1")
    async with running(*asked):
        assert [rig.engine.load_info("m", v).request_count for v in "12"] == [3, 0]
        assert [len(rig.engine.who_holds("m", v)) for v in "12"] == [3, 0]
        reply = await rig.engine.infer("m", {}, version="2")
        assert (reply.version, trio.current_time()) == ("2", 0.0)
    assert [type(one.error) for one in asked] == [PredictFailed, PredictFailed, Overloaded, Overloaded]
    assert all("m/1" in str(one.error) for one in asked)
    counts = [rig.engine.statistics().versions[("m", v)] for v in "12"]
    assert [(one.predictions, one.errors, one.references.held) for one in counts] == [(0, 2, 1), (1, 0, 0)]
    held.release()
    assert rig.engine.load_info("m", "2").error is None


async def test_a_failed_version_leaves_its_error_to_itself(rig: Rig, autojump_clock: Any) -> None:
    """The reason why one version is not there is no news of its sibling, which was never tried."""
    rig.add("m", "1", load_error=Broken("only mine"))
    rig.add("m", "2")
    with pytest.raises(ChangeoverError, match="m/1"):
        await rig.engine.load("m", "1")
    infos = [rig.engine.load_info("m", version) for version in "12"]
    assert [info.status for info in infos] == [VersionState.FAILED, VersionState.REGISTERED]
    assert "only mine" in str(infos[0].error)
    assert infos[1].error is None


# --- the same source, the same loader -------------------------------------------------------------------------------


async def test_versions_of_one_source_share_nothing_that_the_engine_makes(rig: Rig, autojump_clock: Any) -> None:
    """One source object, one loader, one set of options: and yet an account, a queue, counts and a turn for each."""
    source, options, warmup = Path("same"), {"depth": 1}, [{"n": 1}]
    for model, version in (("m", "1"), ("m", "2"), ("other", "1")):
        rig.add(model, version, source=source, options=options, warmup=warmup, thread_safe=False)
        await rig.engine.load(model, version)
    living = rig.engine._host.living()
    for name in ("account", "lane", "predictions", "errors", "aside", "running", "_turn", "_model"):
        assert len({id(getattr(loaded, name)) for loaded in living}) == 3, name
    assert len({loaded.number for loaded in living}) == 3
    assert len(rig.cast.made) == 3


class Greedy(Bad):
    """A loader that takes its options apart, as `options.pop` in many a constructor does."""

    seen: ClassVar[list[Any]] = []

    def load(self, source: Source) -> Any:
        options: Any = source.options
        self.seen.append(dict(options))
        with suppress(AttributeError, TypeError):  # where it cannot be changed: as good
            options.clear()
        return Plain()


async def test_options_that_a_loader_takes_apart_are_whole_for_the_next(rig: Rig, autojump_clock: Any) -> None:
    """Another version with the same options, and the same version loaded again, get what was registered."""
    Greedy.seen.clear()
    rig.engine._host.loaders.add("greedy", Greedy)
    options = {"depth": 1}
    for version in "12":
        rig.engine.register("m", version, "same", loader="greedy", options=options)
        await rig.engine.load("m", version)
    await rig.engine.unload("m", "1")
    await rig.engine.load("m", "1")
    assert (Greedy.seen, options) == ([{"depth": 1}] * 3, {"depth": 1})


async def test_warm_up_data_that_a_model_takes_apart_is_whole_for_the_next(rig: Rig, autojump_clock: Any) -> None:
    """Another version with the same data, and the same version loaded again, are warmed up with what was registered."""
    seen, data = list[Any](), [{"n": 1}]

    def take_apart(inputs: Any) -> None:
        seen.append(dict(inputs))
        inputs.clear()

    for version in "12":
        rig.add("m", version, on_predict=take_apart, warmup=data)
        await rig.engine.load("m", version)
    await rig.engine.unload("m", "1")
    await rig.engine.load("m", "1")
    assert (seen, data) == ([{"n": 1}] * 3, [{"n": 1}])


async def test_a_model_that_a_loader_hands_out_twice_is_closed_for_each(rig: Rig, autojump_clock: Any) -> None:
    """The engine keeps its own books of each version; an object that two share is its loader's affair."""
    shared = Plain()

    class Sharing(Bad):
        def load(self, source: Source) -> Any:
            return shared

    rig.engine._host.loaders.add("sharing", Sharing)
    for version in "12":
        rig.engine.register("m", version, "same", loader="sharing")
        await rig.engine.load("m", version)
    await rig.engine.unload("m", "2")
    assert shared.closed == 1
    assert (await rig.engine.infer("m", {})).version == "1"
    await rig.engine.unload("m", "1", force=True)
    assert shared.closed == 2


# --- many loads -----------------------------------------------------------------------------------------------------


async def test_slow_and_hung_loads_hold_up_nobody(autojump_clock: Any) -> None:
    """Beside twenty slow loads and three hung ones requests and loads take their usual time; only the cap refuses."""
    hang = trio.Event()
    async with open_world() as world, open_rig(world=world, stuck_loads_max=4) as rig:
        rig.takes("worker other/1 0", WORK_S)
        await rig.ready("other", "1", execution="worker")
        for number in range(27):
            rig.add("m", str(number), load_timeout_s=2.0 if number >= 20 else 60.0)
            rig.takes(f"load m/{number}", 10.0 if number < 20 else hang)
        slow = [Outcome(rig.engine.load, "m", str(number)) for number in range(20)]
        hung = [Outcome(rig.engine.load, "m", str(number)) for number in range(20, 23)]
        async with running(*slow, *hung):
            for turn in range(16):
                rig.add("quick", str(turn))
                rig.takes(f"load quick/{turn}", 0.25)
                began_s = trio.current_time()
                await rig.engine.infer("other", {})
                assert trio.current_time() - began_s == WORK_S
                await rig.engine.load("quick", str(turn))
                assert trio.current_time() - began_s == WORK_S + 0.25
            assert rig.engine.statistics().stuck_loads == 3
            with pytest.raises(LoadTimeout):
                await rig.engine.load("m", "23")
            assert rig.engine.statistics().stuck_loads == 4  # the cap: not slow ones, only those nobody waits for
            rig.add("late")
            with pytest.raises(TooManyStuckLoads, match=r"late/1.*m/20, m/21, m/22, m/23"):
                await rig.engine.load("late", "1")
            await rig.engine.infer("other", {})
        assert {one.ended_s for one in slow} == {10.0}
        assert [(type(one.error), one.ended_s) for one in hung] == [(LoadTimeout, 2.0)] * 3
        hang.set()
        await settle()
        await rig.engine.load("late", "1")
        assert (rig.engine.statistics().stuck_loads, rig.engine.audit().clean) == (0, True)
        assert sorted(made.name for made in rig.cast.made if made.closed) == ["m/20", "m/21", "m/22", "m/23"]
        assert rig.engine.statistics().reserved_bytes == 10 * len(rig.cast.open())


async def test_slow_and_hung_loads_and_requests_hold_up_nobody_on_the_real_machine() -> None:
    """Twenty loads that wait, three workers that hang, a close that hangs: others load, answer and go meanwhile."""
    gate = threading.Event()

    def hang(*_ignored: Any) -> None:
        assert patient(gate)

    async with open_rig(real=True, close_timeout_s=5.0) as rig:
        for number in range(20):
            rig.add("slow", str(number), on_load=hang)
        await rig.ready("m", "1", execution="worker")
        await rig.ready("m", "2", execution="worker", workers=3, on_predict=hang)
        await rig.ready("m", "3", on_close=hang)
        trouble = [Outcome(rig.engine.load, "slow", str(number)) for number in range(20)]
        trouble += [Outcome(rig.engine.infer, "m", {}, version="2") for _ in range(3)]
        trouble += [Outcome(rig.engine.unload, "m", "3")]
        async with trio.open_nursery() as nursery:
            for one in trouble:
                nursery.start_soon(one.run)
            for turn in range(20):
                assert (await rig.engine.infer("m", {"n": turn})).outputs == {"version": "1", "n": turn}
                await rig.ready("quick", str(turn))
                await rig.engine.unload("quick", str(turn), force=True)
            assert not any(one.over for one in trouble)
            gate.set()
        assert all(one.error is None for one in trouble)
        assert (rig.engine.statistics().stuck_loads, rig.engine.audit().clean) == (0, True)
