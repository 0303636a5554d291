"""A warm-up as it runs: which request failed, how far it is, when it stops, and that no request comes before its end.

Owns no state; files lie in the test's own folder.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trio

from changeover import Drain, VersionState
from changeover.errors import InvalidValue, NotReady, PredictFailed, VersionCrashed, WarmUpFailed
from changeover.plugin import FatalModelError
from changeover.runtime import samples, warming
from changeover.runtime.warming import PROGRESS_MOST, next_told
from tests.support.faces import ALL, Face, done
from tests.support.models import Broken, Cast
from tests.support.rig import Outcome, Rig, Watch, open_rig, running, settle
from tests.support.threads import Crowd, patient
from tests.support.warmups import GOOD, SIGNED, failure, seen, write

# --- what is wrong with a request -----------------------------------------------------------------------------------


async def test_a_failed_warm_up_names_the_request_of_how_many(rig: Rig) -> None:
    """The caller's own data: which of them it was; the model's exception is the cause of the cause."""
    error = await failure(rig, [{"n": 1}, {"n": 2}, {"n": 3}], fails_on=lambda inputs: inputs["n"] == 2)
    assert str(error) == "m/1 failed its warm-up: request 2 of 3: m/1 raised Broken: m/1 cannot answer that"
    assert isinstance(error.__cause__.__cause__, Broken)  # type: ignore[union-attr]
    assert (error.model, error.version) == ("m", "1")


async def test_a_failed_warm_up_names_the_entry_of_the_file(rig: Rig, tmp_path: Path) -> None:
    """Of several files, the request's number in all, where that is known, and its place in its file."""
    write(tmp_path / "a.json", {"n": 1})
    path = write(tmp_path / "b.json", [{"n": 2}, {"n": 3}])
    error = await failure(rig, tmp_path, fails_on=lambda inputs: inputs["n"] == 3)
    assert f"request 3 of 3 (entry 2 of {path}): m/1 raised Broken" in str(error)


async def test_a_file_that_cannot_be_read_after_others_says_so(rig: Rig, tmp_path: Path) -> None:
    """The error names the file and how many requests were done."""
    write(tmp_path / "a.json", {"n": 1})
    path = write(tmp_path / "b.json", "nonsense")
    error = await failure(rig, tmp_path)
    assert f"{path}: JSONDecodeError" in str(error)
    assert "(after 1 requests)" in str(error)


@pytest.mark.parametrize("raised", [SystemExit(3), KeyboardInterrupt(), BaseExceptionGroup("g", [SystemExit()])])
async def test_a_model_that_ends_the_program_ends_its_warm_up(rig: Rig, raised: BaseException) -> None:
    """It fails its own load, and nothing else."""
    error = await failure(rig, {}, raises=raised)
    assert "request 1 of 1: " in str(error)
    assert type(raised).__name__ in str(error)


async def test_a_swap_to_a_version_that_fails_its_warm_up_does_not_happen(rig: Rig, tmp_path: Path) -> None:
    """The old version goes on, and the swap's error has the file in it."""
    await rig.ready("m", "1")
    path = write(tmp_path / "w.json", "[]")
    rig.add("m", "2", warmup=path)
    swap = Outcome(rig.engine.swap, "m", "2")
    async with running(swap):
        pass
    assert str(path) in str(swap.error)
    assert (await rig.engine.infer("m", {})).version == "1"
    assert rig.cast.open() == ["m/1"]


# --- by hand, on every face -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("face", ALL, ids=lambda face: face.name)
def test_a_ready_version_is_warmed_by_file_and_by_signature(face: Face, tmp_path: Path) -> None:
    """`warm_up` takes what a spec takes: mappings, "signature", a name and a path; all else is refused at once."""
    path = write(tmp_path / "w.json", GOOD)

    async def scenario(face: Face) -> None:
        cast = Cast()
        cast.script("m", "1").signature = SIGNED
        async with face.opened(cast=cast) as engine:
            engine.register("m", "1", "s", loader="scripted")
            await done(engine.load("m", "1"))
            for data in ("signature", str(path), path, tmp_path):
                await done(engine.warm_up("m", "1", data))
            with pytest.raises(InvalidValue, match="warm-up data"):
                await done(engine.warm_up("m", "1", "w.txt"))
            with pytest.raises(WarmUpFailed, match="none"):
                await done(engine.warm_up("m", "1", "none.json"))
            assert len(cast.made[0].calls) == 4
            assert (engine.load_info("m", "1").status, engine.audit().clean) == (VersionState.READY, True)

    face.play(scenario)


# --- how far it is --------------------------------------------------------------------------------------------------


async def progress(rig: Rig, **fields: Any) -> list[tuple[int, int | None]]:
    """Load a version, whether or not it comes to be; return what was told of its warm-up."""
    rig.add(**fields)
    async with Watch(rig.engine) as watch:
        load = Outcome(rig.engine.load, "m", "1")
        async with running(load):
            pass
        events = await watch.kinds("warmup_progress")
        assert all((event.model, event.version) == ("m", "1") for event in events)
        return [(event.detail["done"], event.detail["total"]) for event in events]


async def test_progress_is_told_at_most_so_often_and_at_the_end(rig: Rig) -> None:
    """A thousand requests are twenty events in even steps; the last one is told before the version is ready."""
    rig.add(warmup=[{}] * 1000)
    async with Watch(rig.engine) as watch:
        await rig.engine.load("m", "1")
        told = [
            event.detail.get("done", event.detail.get("state"))
            for event in await watch.read()
            if event.kind in {"warmup_progress", "version_state"}
        ]
    assert told == ["loading", "warming", *range(50, 1001, 50), "ready"]
    info = rig.engine.load_info("m", "1")
    assert (info.warmup_done, info.warmup_total) == (1000, 1000)


@pytest.mark.parametrize("count", [1, 2, 19, 20, 21, 39, 1001])
async def test_a_few_requests_are_told_one_by_one(rig: Rig, count: int) -> None:
    """Each event counts on; up to twenty there is one for each request, above that never more."""
    told = await progress(rig, warmup=[{}] * count)
    assert told == sorted(set(told))
    assert told[-1] == (count, count)
    assert len(told) == count if count <= PROGRESS_MOST else len(told) <= PROGRESS_MOST


async def test_the_number_of_requests_in_unread_files_is_not_known(rig: Rig, tmp_path: Path) -> None:
    """Files of JSON are counted when they are read, NPZ files are one each: the total is told once it is sure."""
    write(tmp_path / "a.json", [{}, {}])
    write(tmp_path / "b.json", [{}])
    write(tmp_path / "c.npz", {"x": np.ones(1)})
    assert await progress(rig, warmup=tmp_path) == [(1, None), (2, None), (4, 4)]


async def test_progress_of_many_unread_files_is_bounded_too(rig: Rig, tmp_path: Path, monkeypatch: Any) -> None:
    """Where the total is not known, the steps double; once all but one have been told, only the last one is."""
    monkeypatch.setattr(warming, "PROGRESS_MOST", 4)
    for name in "ab":
        write(tmp_path / f"{name}.json", [{}] * 50)
    assert await progress(rig, warmup=tmp_path) == [(1, None), (2, None), (4, None), (100, 100)]


async def test_a_failed_warm_up_tells_how_far_it_came(rig: Rig) -> None:
    """The last event counts what was done before the request that failed."""
    requests = [{"n": n} for n in range(100)]
    told = await progress(rig, warmup=requests, fails_on=lambda inputs: inputs["n"] == 42)
    assert told[-1] == (42, 100)


@pytest.mark.parametrize("total", [None, *range(1, 50), 10**6, 10**9])
def test_the_steps_of_progress_are_bounded(total: int | None) -> None:
    """However many requests there are, the plan of when to tell comes to at most twenty times, the last included."""
    told, done, left = 0, next_told(0, total, PROGRESS_MOST - 1), PROGRESS_MOST - 1
    while left > 0 and (total is None or done < total):
        told, left, before = told + 1, left - 1, done
        done = next_told(done, total, left)
        assert done > before
    assert told < PROGRESS_MOST
    assert total is None or told == min(total, PROGRESS_MOST) - 1 or total > PROGRESS_MOST


async def test_how_far_it_is_can_be_seen_while_it_runs() -> None:
    """`load_info` counts with the thread, and so do the events; before it, nothing is known."""
    gate, reached = threading.Semaphore(0), trio.Event()
    token = trio.lowlevel.current_trio_token()

    def wait(inputs: Mapping[str, Any]) -> None:
        if inputs["n"] == 3:
            token.run_sync_soon(reached.set)
            gate.acquire(timeout=30)

    async with open_rig(real=True) as rig:
        rig.add(warmup=[{"n": n} for n in range(5)], on_predict=wait)
        info = rig.engine.load_info("m", "1")
        assert (info.warmup_done, info.warmup_total) == (0, None)
        async with Watch(rig.engine) as watch, trio.open_nursery() as nursery:
            nursery.start_soon(rig.engine.load, "m", "1")
            with trio.fail_after(30):
                await reached.wait()
            info = rig.engine.load_info("m", "1")
            assert (info.warmup_done, info.warmup_total, info.is_warming_up) == (3, 5, True)
            assert await watch.kinds("warmup_progress", "done") == [1, 2, 3]
            gate.release()
        assert await watch.kinds("warmup_progress", "done") == [1, 2, 3, 4, 5]


# --- given up -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["overdue", "cancelled"])
async def test_a_warm_up_that_is_given_up_runs_nothing_more(rig: Rig, how: str, autojump_clock: Any) -> None:
    """Its version has gone: the thread does not begin another request, and gives its reference back."""
    rig.add(warmup=[{}, {}], load_timeout_s=3.0 if how == "overdue" else 60.0)
    rig.takes("warm m/1", 5.0)
    load = Outcome(rig.engine.load, "m", "1")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(load.run)
        await trio.sleep(3.5)
        nursery.cancel_scope.cancel()
    await settle()
    assert rig.engine.statistics().stuck_loads == 1
    assert [holder.kind for holder in rig.engine.who_holds("m", "1")] == ["warmup"]
    await trio.sleep(5)
    assert (seen(rig), rig.cast.open(), rig.engine.statistics().stuck_loads) == ([], [], 0)
    assert rig.engine.audit().clean


async def test_a_warm_up_stops_before_its_next_request(tmp_path: Path, monkeypatch: Any) -> None:
    """On the real machine: the request that runs ends, the next one is not begun, nor is its file read."""
    read: list[str] = []
    in_file = samples._in_file
    monkeypatch.setattr(samples, "_in_file", lambda file, *rest: read.append(file.name) or in_file(file, *rest))
    gate, reached = threading.Semaphore(0), trio.Event()
    token = trio.lowlevel.current_trio_token()
    write(tmp_path / "a.json", {})
    write(tmp_path / "b.json", {})

    def wait(_inputs: object) -> None:
        token.run_sync_soon(reached.set)
        gate.acquire(timeout=30)

    async with open_rig(real=True) as rig:
        rig.add(warmup=tmp_path, on_predict=wait)
        with trio.fail_after(30):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(rig.engine.load, "m", "1")
                await reached.wait()
                nursery.cancel_scope.cancel()
            while rig.engine.load_info("m", "1").status is not VersionState.UNLOADED:
                await trio.lowlevel.checkpoint()
            gate.release()
            await rig.engine.wait_for_drain("m", "1")
            while rig.cast.open():
                await trio.lowlevel.checkpoint()
        assert (len(seen(rig)), read) == (1, ["a.json"])
        assert rig.engine.audit().clean


async def test_a_warm_up_by_hand_ends_with_the_version(rig: Rig, autojump_clock: Any) -> None:
    """A drain does not wait for the rest of the data, and who ordered the warm-up hears how far it came."""
    await rig.ready()
    rig.takes("warm m/1", 5.0)
    warm_up = Outcome(rig.engine.warm_up, "m", "1", [{}, {}])
    async with running(warm_up):
        outcome = await rig.engine.unload("m", "1", force=True, drain=Drain(deadline_s=20.0))
    assert (outcome.result, trio.current_time(), seen(rig)) == ("drained", 5.0, [])
    assert "taken out of use after 0 of 2 requests" in str(warm_up.error)


@pytest.mark.parametrize("errors_max", [None, 1])
async def test_a_warm_up_by_hand_stops_once_the_model_is_beyond_use(
    rig: Rig, errors_max: int | None, autojump_clock: Any
) -> None:
    """Another request ends the model between two of its own: it is asked nothing more, and the caller hears of it."""
    await rig.ready(raises=None, errors_in_a_row_max=errors_max)
    lease, (made,) = rig.lease(), rig.cast.made

    def end_it(inputs: Mapping[str, Any]) -> None:
        if "poison" in inputs:
            raise Broken("poisoned") if errors_max else FatalModelError("poisoned")
        if made.calls == [inputs]:
            with pytest.raises(PredictFailed if errors_max else VersionCrashed):
                lease.infer({"poison": 1})

    rig.script().on_predict = end_it
    with pytest.raises(WarmUpFailed, match=r"after 1 of 3 requests|poisoned"):
        await rig.engine.warm_up("m", "1", [{"n": 1}, {"n": 2}, {"n": 3}])
    lease.release()
    assert made.calls == [{"n": 1}, {"poison": 1}]
    await trio.sleep(10)
    assert (rig.cast.open(), made.closed) == (["m/1"], 1)


async def test_a_warm_up_that_waits_for_its_turn_does_not_take_that_of_a_model_beyond_use() -> None:
    """On the real machine: the request that had the turn has ended the model, and the warm-up asks it nothing."""
    begun, gate = threading.Event(), threading.Event()

    def end_it(inputs: Mapping[str, Any]) -> None:
        if "poison" in inputs:
            begun.set()
            assert patient(gate)
            raise FatalModelError("poisoned")

    def ask(lease: Any) -> None:
        with pytest.raises(VersionCrashed):
            lease.infer({"poison": 1})

    async with open_rig(real=True) as rig:
        await rig.ready(on_predict=end_it, thread_safe=False)
        (made,), crowd, lease = rig.cast.made, Crowd(), rig.lease()
        crowd.add(ask, lease)
        warm_up = Outcome(rig.engine.warm_up, "m", "1", [{}])
        crowd.start()
        assert await trio.to_thread.run_sync(patient, begun)
        async with running(warm_up):
            while not any(holder.kind == "warmup" for holder in rig.engine.who_holds("m", "1")):
                await trio.lowlevel.checkpoint()
            gate.set()
        await trio.to_thread.run_sync(crowd.join)
        lease.release()
        assert isinstance(warm_up.error, WarmUpFailed)
        assert made.calls == [{"poison": 1}]


# --- no request before it has ended ---------------------------------------------------------------------------------


async def stream(rig: Rig, **fields: Any) -> str:
    """Ask for a stream; return the version of its first chunk."""
    async with rig.engine.infer_stream("m", {}, **fields) as chunks:
        return (await anext(chunks)).version


async def lease(rig: Rig, **fields: Any) -> str:
    """Take a lease without waiting; return its version."""
    with rig.engine.lease("m", **fields) as held:
        held.infer({})
        return held.version


async def infer(rig: Rig, **fields: Any) -> str:
    """Ask for one answer; return its version."""
    return (await rig.engine.infer("m", {}, **fields)).version


@pytest.mark.parametrize("execution", ["inline", "worker"])
@pytest.mark.parametrize("ask", [infer, lease, stream])
async def test_no_request_reaches_a_version_before_its_first_warm_up_has_ended(
    rig: Rig, ask: Any, execution: str, autojump_clock: Any
) -> None:
    """By request, lease and stream, with its version named or not: nothing but warm-up data reaches it."""
    rig.add(warmup={"warm": 1}, execution=execution)
    rig.takes("warm m/1", 5.0)
    load = Outcome(rig.engine.load, "m", "1")
    async with running(load):
        assert rig.engine.load_info("m", "1").status is VersionState.WARMING
        for fields in ({}, {"version": "1"}, {"key": "somebody"}):
            with pytest.raises(NotReady):
                await ask(rig, **fields)
        assert [holder.kind for holder in rig.engine.who_holds("m", "1")] == ["warmup"]
    assert (trio.current_time(), seen(rig)) == (5.0, [{"warm": 1}])
    assert await ask(rig, version="1") == "1"


async def test_a_lease_that_waits_gets_a_warm_version(rig: Rig, autojump_clock: Any) -> None:
    """`async with` waits for the load that runs, warm-up included."""
    rig.add(warmup={"warm": 1})
    rig.takes("warm m/1", 5.0)
    async with running(Outcome(rig.engine.load, "m", "1")), rig.engine.lease("m") as held:
        assert (held.version, trio.current_time(), seen(rig)) == ("1", 5.0, [{"warm": 1}])


@pytest.mark.parametrize("ask", [infer, lease, stream])
async def test_no_request_reaches_a_swaps_new_version_while_it_warms(rig: Rig, ask: Any, autojump_clock: Any) -> None:
    """The old version answers all of them, and asking for the new one by name is refused."""
    await rig.ready("m", "1")
    rig.add("m", "2", warmup={"warm": 1})
    rig.takes("warm m/2", 5.0)
    swap = Outcome(rig.engine.swap, "m", "2")
    async with running(swap):
        assert rig.engine.load_info("m", "2").status is VersionState.WARMING
        assert await ask(rig) == "1"
        with pytest.raises(NotReady):
            await ask(rig, version="2")
    await settle()
    assert (seen(rig, "2"), await ask(rig)) == ([{"warm": 1}], "2")
