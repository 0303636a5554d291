"""The version-manager spec, tasks 5 to 8: what its methods are to do, line by line, in its own words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio

from changeover import Drain, VersionState
from changeover.errors import PredictFailed, VersionNotLoaded, WarmUpFailed
from changeover.plugin import Source
from tests.support.rig import Outcome, Rig, running

# --- Task 5: implement LoadVersion logic ----------------------------------------------------------------------------


async def test_spec_a_load_goes_by_the_path(rig: Rig, tmp_path: Path, autojump_clock: Any) -> None:
    """Load model from path; track memory usage; initialize request counter; store in loaded models."""
    path, seen = tmp_path / "weights", list[Source]()
    path.write_bytes(b"x" * 321)

    class Reader(rig.cast.loader):  # type: ignore[name-defined]
        def load(self, source: Source) -> Any:
            seen.append(source)
            return super().load(source)

    rig.engine._host.loaders.add("reader", Reader)
    rig.script().memory = None
    rig.engine.register("m", "1", path, loader="reader")
    await rig.engine.load("m", "1")
    assert [(source.location, source.model, source.version) for source in seen] == [(str(path), "m", "1")]
    info = rig.engine.load_info("m", "1")
    assert (info.memory_bytes, info.memory_method, info.request_count) == (321, "source_size", 0)
    assert rig.engine.loaded_versions("m") == ("1",)


async def test_spec_a_second_load_has_the_outcome_of_its_moment(rig: Rig, autojump_clock: Any) -> None:
    """Thread-safe loading: one that finds it loading joins, one that finds it leaving has it back or loads afresh."""
    rig.add()
    rig.takes("load m/1", 5.0)
    rig.takes("close m/1", 3.0)
    first, second = (Outcome(rig.engine.load, "m", "1") for _ in range(2))
    async with running(first, second):
        pass
    assert [first.ended_s, second.ended_s, len(rig.cast.made)] == [5.0, 5.0, 1]
    lease = rig.lease()
    unload = Outcome(rig.engine.unload, "m", "1", force=True)
    async with running(unload):
        await rig.engine.load("m", "1")  # while it drains: it is given back
    assert (unload.value.result, len(rig.cast.made)) == ("given_back", 1)
    lease.release()
    unload = Outcome(rig.engine.unload, "m", "1", force=True)
    async with running(unload):
        await rig.engine.load("m", "1")  # while it is closed: another one
    assert (unload.value.result, [made.closed for made in rig.cast.made]) == ("drained", [1, 0])


# --- Task 6: implement UnloadVersion logic --------------------------------------------------------------------------


async def test_spec_an_unload_waits_for_its_requests(rig: Rig, autojump_clock: Any) -> None:
    """Decrement request count; dispose model instance; remove from loaded models: in this order."""
    await rig.ready()
    leases = [rig.lease() for _ in range(3)]
    unload = Outcome(rig.engine.unload, "m", "1", drain=Drain(100.0), force=True)
    async with running(unload):
        for left in (2, 1, 0):
            assert (rig.cast.made[0].closed, unload.over) == (0, False)
            leases.pop().release()
            assert rig.engine.load_info("m", "1").request_count == left
    assert (unload.value.result, rig.cast.made[0].closed, rig.engine.loaded_versions("m")) == ("drained", 1, ())


async def test_spec_a_second_unload_has_the_outcome_of_its_moment(rig: Rig, autojump_clock: Any) -> None:
    """Thread-safe unloading: one that finds it draining or closing joins, one that finds it gone is refused."""
    await rig.ready()
    rig.takes("close m/1", 4.0)
    first, second = (Outcome(rig.engine.unload, "m", "1", force=True) for _ in range(2))
    async with running(first, second):
        await trio.sleep(1.0)
        third = Outcome(rig.engine.unload, "m", "1", force=True)
        await third.run()
    assert [(one.value.result, one.ended_s) for one in (first, second, third)] == [("drained", 4.0)] * 3
    assert rig.cast.made[0].closed == 1
    with pytest.raises(VersionNotLoaded):
        await rig.engine.unload("m", "1", force=True)


# --- Task 7: implement WarmUpVersion logic --------------------------------------------------------------------------


async def test_spec_the_warming_up_flag_is_set_and_cleared(rig: Rig, autojump_clock: Any) -> None:
    """Set warming up flag; run inference on warmup data; clear warming up flag; track warmup completion."""
    await rig.ready()
    rig.takes("warm m/1", 5.0)
    assert rig.engine.load_info("m", "1").warmed_at is None
    one, other = (Outcome(rig.engine.warm_up, "m", "1", [{}]) for _ in range(2))
    async with running(one):
        await trio.sleep(2.0)
        async with running(other):
            await trio.sleep(4.0)
            assert one.over
            assert rig.engine.load_info("m", "1").is_warming_up  # the other one still runs
    info = rig.engine.load_info("m", "1")
    assert (info.is_warming_up, info.status, info.warmed_at) == (False, VersionState.READY, 1_700_000_007.0)
    assert len(rig.cast.made[0].calls) == 2


async def test_spec_a_failed_warm_up_clears_the_flag_and_is_no_completion(rig: Rig, autojump_clock: Any) -> None:
    """Clear warming up flag, also behind data that fails; what did not complete is not tracked as completed."""
    await rig.ready(fails_on=lambda inputs: "bad" in inputs)
    with pytest.raises(WarmUpFailed, match="m/1"):
        await rig.engine.warm_up("m", "1", [{}, {"bad": 1}, {}])
    info = rig.engine.load_info("m", "1")
    assert (info.is_warming_up, info.warmed_at, info.request_count) == (False, None, 0)
    assert (info.status, len(rig.cast.made[0].calls)) == (VersionState.READY, 2)


# --- Task 8: implement version isolation ----------------------------------------------------------------------------


async def test_spec_versions_share_nothing(rig: Rig, autojump_clock: Any) -> None:
    """Each version maintains separate state; no shared state between versions; separate request counters."""
    for version in "12":
        await rig.ready("m", version, fails_on=lambda inputs: "bad" in inputs)
    await rig.engine.infer("m", {}, version="1")
    with pytest.raises(PredictFailed):
        await rig.engine.infer("m", {"bad": 1}, version="1")
    lease = rig.lease(version="2")
    versions = [rig.engine.statistics().versions[("m", version)] for version in "12"]
    assert [(one.predictions, one.errors, one.references.acquired) for one in versions] == [(1, 1, 2), (0, 0, 1)]
    assert [rig.engine.load_info("m", version).request_count for version in "12"] == [0, 1]
    assert rig.cast.of("m", "1")[0] is not rig.cast.of("m", "2")[0]
    await rig.engine.unload("m", "1")
    assert [rig.engine.is_loaded("m", version) for version in "12"] == [False, True]
    assert (lease.infer({})["version"], rig.engine.load_info("m", "2").request_count) == ("2", 1)
    lease.release()
