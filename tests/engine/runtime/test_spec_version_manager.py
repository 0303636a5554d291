"""The version-manager spec, line by line, in its own words: its twelve tests and its validation.

Its tasks 5 to 8 are in `test_spec_version_manager_tasks.py`.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
import trio

import changeover.threads
from changeover import VersionState
from changeover.errors import (
    AlreadyLoaded,
    ChangeoverError,
    LoadCancelled,
    ModelNotRegistered,
    NotReady,
    PredictFailed,
    VersionNotLoaded,
    WarmUpFailed,
)
from tests.support.models import Cast
from tests.support.rig import Outcome, Rig, open_rig, running
from tests.support.threads import Crowd

# --- Testing: create unit tests for ---------------------------------------------------------------------------------


async def test_spec_load_version_loads_a_model(rig: Rig, autojump_clock: Any) -> None:
    """1. LoadVersion successfully loads model."""
    rig.add()
    await rig.engine.load("m", "1")
    assert rig.engine.is_loaded("m", "1")
    assert (await rig.engine.infer("m", {})).version == "1"


async def test_spec_load_version_throws_for_what_is_not_registered(rig: Rig, autojump_clock: Any) -> None:
    """2. LoadVersion throws for non-existent model: it must exist in the registry before loading."""
    with pytest.raises(ModelNotRegistered, match="m"):
        await rig.engine.load("m", "1")


async def test_spec_unload_version_unloads_a_model(rig: Rig, autojump_clock: Any) -> None:
    """3. UnloadVersion successfully unloads model: it is disposed of, and gone from the loaded ones."""
    await rig.ready()
    await rig.engine.unload("m", "1", force=True)
    assert not rig.engine.is_loaded("m", "1")
    assert rig.cast.made[0].closed == 1


async def test_spec_unload_version_throws_for_what_is_not_loaded(rig: Rig, autojump_clock: Any) -> None:
    """4. UnloadVersion throws for non-loaded version, registered or not."""
    with pytest.raises(ModelNotRegistered):
        await rig.engine.unload("m", "1")
    rig.add()
    with pytest.raises(VersionNotLoaded):
        await rig.engine.unload("m", "1")


async def test_spec_is_version_loaded_tells_the_truth(rig: Rig, autojump_clock: Any) -> None:
    """5. IsVersionLoaded returns correct status, from registration to unload."""
    rig.add()
    rig.takes("load m/1", 5.0)
    seen = [rig.engine.is_loaded("m", "1")]
    async with running(Outcome(rig.engine.load, "m", "1")):
        seen.append(rig.engine.is_loaded("m", "1"))
    seen.append(rig.engine.is_loaded("m", "1"))
    await rig.engine.unload("m", "1", force=True)
    seen.append(rig.engine.is_loaded("m", "1"))
    assert seen == [False, False, True, False]


async def test_spec_get_loaded_versions_lists_them(rig: Rig, autojump_clock: Any) -> None:
    """6. GetLoadedVersions returns loaded versions, in the order of their registration."""
    for version in ("3", "1", "2"):
        rig.add("m", version)
    await rig.engine.load("m", "2")
    await rig.engine.load("m", "3")
    assert rig.engine.loaded_versions("m") == ("3", "2")


async def test_spec_warm_up_runs_the_data(rig: Rig, autojump_clock: Any) -> None:
    """7. WarmUpVersion runs warmup data: the flag is set while it runs, and its end is tracked."""
    await rig.ready()
    rig.takes("warm m/1", 5.0)
    async with running(Outcome(rig.engine.warm_up, "m", "1", [{"n": 1}, {"n": 2}])):
        assert rig.engine.load_info("m", "1").is_warming_up
    info = rig.engine.load_info("m", "1")
    assert (info.is_warming_up, info.warmed_at) == (False, pytest.approx(1_700_000_005.0))
    assert [call["n"] for call in rig.cast.made[0].calls] == [1, 2]


async def test_spec_warm_up_throws_for_what_is_not_loaded(rig: Rig, autojump_clock: Any) -> None:
    """8. WarmUpVersion throws for non-loaded version."""
    rig.add()
    with pytest.raises(VersionNotLoaded, match="m/1"):
        await rig.engine.warm_up("m", "1", [{}])


async def test_spec_get_load_info_knows_everything(rig: Rig, autojump_clock: Any) -> None:
    """9. GetLoadInfo returns correct information, loaded and not."""
    rig.add(memory=123)
    info = rig.engine.load_info("m", "1")
    assert (info.is_loaded, info.loaded_at, info.memory_bytes, info.status) == (
        False, None, None, VersionState.REGISTERED,
    )  # fmt: skip
    rig.takes("load m/1", 5.0)
    await rig.engine.load("m", "1")
    lease = rig.lease()
    info = rig.engine.load_info("m", "1")
    assert (info.model, info.version, info.is_loaded, info.status) == ("m", "1", True, VersionState.READY)
    assert (info.memory_bytes, info.memory_method, info.request_count) == (123, "model", 1)
    assert info.loaded_at == pytest.approx(1_700_000_005.0)
    lease.release()


async def test_spec_concurrent_loads(rig: Rig, autojump_clock: Any) -> None:
    """10. Concurrent load operations: of one version there is one load, of different ones as many as it takes."""
    for version in "12":
        rig.add("m", version)
        rig.takes(f"load m/{version}", 5.0)
    loads = [Outcome(rig.engine.load, "m", version) for version in "12" * 5]
    async with running(*loads):
        pass
    assert [load.ended_s for load in loads] == [5.0] * 10
    assert len(rig.cast.made) == 2


async def test_spec_concurrent_unloads(rig: Rig, autojump_clock: Any) -> None:
    """11. Concurrent unload operations: each has an outcome, the model is closed once."""
    await rig.ready("m", "1")
    await rig.ready("m", "2")
    lease = rig.lease(version="1")
    unloads = [Outcome(rig.engine.unload, "m", "1") for _ in range(5)]
    async with running(*unloads):
        lease.release()
    assert [unload.value.result for unload in unloads] == ["drained"] * 5
    assert rig.cast.of("m", "1")[0].closed == 1


async def test_spec_concurrent_loads_and_unloads_from_many_tasks() -> None:
    """10 and 11, on the real machine: whatever the order, one model at a time and none left open."""
    async with open_rig(real=True) as rig:
        await rig.ready("m", "0")
        rig.add("m", "1")

        async def churn() -> None:
            for _ in range(10):
                await rig.engine.ensure_loaded("m", "1")
                try:
                    await rig.engine.unload("m", "1")
                except VersionNotLoaded:
                    continue

        async with trio.open_nursery() as nursery:
            for _ in range(6):
                nursery.start_soon(churn)
        assert len([made for made in rig.cast.of("m", "1") if not made.closed]) <= 1
    assert rig.cast.open() == []


async def test_spec_requests_are_counted(rig: Rig, autojump_clock: Any) -> None:
    """12. Request count tracking: those that are held now, those that were answered, and those that failed."""
    await rig.ready(fails_on=lambda inputs: "bad" in inputs)
    leases = [rig.lease() for _ in range(3)]
    assert rig.engine.load_info("m", "1").request_count == 3
    for lease in leases:
        lease.release()
    await rig.engine.infer("m", {})
    with pytest.raises(PredictFailed):
        await rig.engine.infer("m", {"bad": 1})
    counts = rig.engine.statistics().versions[("m", "1")]
    assert (counts.predictions, counts.errors, counts.references.acquired) == (1, 1, 5)
    assert rig.engine.load_info("m", "1").request_count == 0


# --- Validation -----------------------------------------------------------------------------------------------------


async def test_spec_a_model_must_be_registered_before_it_is_loaded(rig: Rig, autojump_clock: Any) -> None:
    """Model must exist in registry before loading; the refusal registers nothing and loads nothing."""
    rig.add("m", "1")
    for model, version in (("nobody", "1"), ("m", "9")):
        with pytest.raises(ModelNotRegistered, match=version if model == "m" else model):
            await rig.engine.load(model, version)
    assert rig.cast.made == []
    assert rig.engine.statistics().registered == 1


async def test_spec_the_same_version_is_not_loaded_twice(rig: Rig, autojump_clock: Any) -> None:
    """Cannot load same version twice; the one that is there goes on, and `ensure_loaded` is content with it."""
    await rig.ready()
    with pytest.raises(AlreadyLoaded, match="m/1"):
        await rig.engine.load("m", "1")
    await rig.engine.ensure_loaded("m", "1")
    assert [made.closed for made in rig.cast.made] == [0]
    assert (await rig.engine.infer("m", {})).version == "1"


async def test_spec_what_does_not_exist_is_not_unloaded(rig: Rig, autojump_clock: Any) -> None:
    """Cannot unload non-existent version: of no model, of another, never loaded, or unloaded before."""
    await rig.ready("m", "1")
    rig.add("m", "2")
    for model, version in (("nobody", "1"), ("m", "9")):
        with pytest.raises(ModelNotRegistered):
            await rig.engine.unload(model, version)
    with pytest.raises(VersionNotLoaded, match="m/2"):
        await rig.engine.unload("m", "2")
    await rig.engine.unload("m", "1", force=True)
    with pytest.raises(VersionNotLoaded, match="m/1"):
        await rig.engine.unload("m", "1", force=True)
    assert rig.cast.made[0].closed == 1


@pytest.mark.parametrize("state", ["registered", "loading", "unloading", "unloaded"])
async def test_spec_a_warm_up_requires_a_loaded_version(rig: Rig, state: str, autojump_clock: Any) -> None:
    """Warmup requires loaded version; no state but ready is one, and nothing runs."""
    rig.add()
    rig.takes("load m/1", 5.0)
    rig.takes("close m/1", 5.0)
    orders = [Outcome(rig.engine.load, "m", "1")] if state == "loading" else []
    if state.startswith("unload"):
        await rig.engine.load("m", "1")
        orders = [Outcome(rig.engine.unload, "m", "1", force=True)]
    async with running(*orders):
        if state == "unloaded":
            await trio.sleep(6.0)
        with pytest.raises(VersionNotLoaded, match=f"m/1.*{state}"):
            await rig.engine.warm_up("m", "1", [{}])
    assert [made.calls for made in rig.cast.made] == [[]] * len(rig.cast.made)


def test_spec_operations_are_thread_safe() -> None:
    """Thread-safe operations: eight threads load, unload, warm up, ask and look, and every one of them is answered."""
    cast = Cast()
    with changeover.threads.open_engine() as engine:
        engine._host.loaders.add("scripted", cast.loader)
        for version in "123":
            engine.register("m", version, "script", loader="scripted")
        engine.load("m", "3")
        crowd, answered = Crowd(), list[str]()

        def work(number: int) -> None:
            for turn in range(20):
                version = "12"[(number + turn) % 2]
                with suppress(LoadCancelled):
                    engine.ensure_loaded("m", version)
                with suppress(VersionNotLoaded, NotReady, WarmUpFailed):  # another thread has unloaded it meanwhile
                    engine.warm_up("m", version, [{}])
                    answered.append(engine.infer("m", {}, version=version).version)
                with suppress(VersionNotLoaded):
                    engine.unload("m", version)
                assert "3" in engine.loaded_versions("m")
                assert engine.load_info("m", version).request_count >= 0

        for number in range(8):
            crowd.add(work, number)
        crowd.start()
        crowd.join()
        assert set(answered) <= {"1", "2"}
        assert answered
        assert engine.infer("m", {}).version == "3"
        assert {key: balance.held for key, balance in engine.audit().balances.items() if balance.held} == {}
        assert all(len([m for m in cast.of("m", v) if not m.closed]) <= 1 for v in "123")
    assert cast.wrongs() == []
    assert cast.open() == []


def test_spec_one_load_for_many_threads() -> None:
    """Thread-safe loading: ten threads that load one version get one model, and the same error once it is ready."""
    cast, crowd = Cast(), Crowd()
    with changeover.threads.open_engine() as engine:
        engine._host.loaders.add("scripted", cast.loader)
        engine.register("m", "1", "script", loader="scripted")
        ends = list[ChangeoverError | None]()

        def load() -> None:
            try:
                engine.load("m", "1")
            except AlreadyLoaded as error:
                ends.append(error)
            else:
                ends.append(None)

        for _ in range(10):
            crowd.add(load)
        crowd.start()
        crowd.join()
        assert None in ends
        assert (len(ends), len(cast.made)) == (10, 1)
        with pytest.raises(AlreadyLoaded, match="m/1"):
            engine.load("m", "1")
