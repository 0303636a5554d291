"""The public interface as a user's type checker sees it: checked by mypy and pyright, and never run.

A line that stops to type-check here is a change that breaks other people's code.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, assert_type

import trio

import changeover
import changeover_sim
from changeover import (
    Acquire,
    Aftermath,
    Audit,
    Balance,
    Batching,
    Drain,
    DrainOutcome,
    Engine,
    Event,
    EventsDropped,
    Guard,
    Holder,
    Lease,
    Member,
    ModelPolicy,
    Recovered,
    Recovering,
    RecoveryReport,
    ReferenceStatistics,
    ReferenceTracker,
    Release,
    Reply,
    RequestTracker,
    Sample,
    SetAside,
    ShadowReport,
    Shift,
    Stage,
    Statistics,
    SwapOperation,
    SwapState,
    Timeouts,
    Verdict,
    VersionKey,
    VersionLoadInfo,
    VersionSpec,
    VersionState,
    VersionStatistics,
    WaitOutcome,
)
from changeover.errors import (
    ChangeoverError,
    DrainTimeout,
    LoadFailed,
    NotReady,
    PredictFailed,
    ReferenceLeakError,
    SwapFailed,
    SwapRolledBack,
)
from changeover.plugin import API_VERSION, BATCH, Loader, Model, Signature, Source, TensorSpec

# --- opening --------------------------------------------------------------------------------------------------------


async def opening() -> None:
    async with changeover.open_engine() as plain:
        assert_type(plain, Engine)
    async with changeover.open_engine(
        repository=Path("models"),
        watch_s=None,
        memory_budget_bytes=2**30,
        debug_references=True,
        strict_references=True,
    ) as engine:
        assert_type(engine, Engine)


# --- versions -------------------------------------------------------------------------------------------------------


def registering(engine: Engine) -> None:
    spec = VersionSpec(
        model="digits",
        version="1",
        source="models:digits",
        loader="callable",
        options={"scale": 2},
        warmup=({"x": object()},),
        isolation="inline",
        execution="worker",
        workers=2,
        batching=Batching(max_batch=16, max_delay_s=0.002),
        queue_limit=100,
        pinned=True,
        allow_code=True,
        sha256=None,
        memory_hint_bytes=1_000,
        load_timeout_s=30.0,
    )
    assert_type(spec.key, VersionKey)
    engine.register(spec)
    engine.register("digits", "2", "models:digits", loader="callable", allow_code=True, workers=1)
    engine.register("digits", "3", Path("digits.onnx"), loader="onnx")


def policies(engine: Engine) -> None:
    engine.set_policy("digits", ModelPolicy("latest", count=2, plan=Shift.canary()))
    engine.set_policy("digits", ModelPolicy("specific", versions=["1", "2"]))
    engine.set_policy("digits", None)
    assert_type(engine.policy("digits"), ModelPolicy)


async def versions(engine: Engine) -> None:
    await engine.load("digits", "1")
    await engine.ensure_loaded("digits", "1")
    await engine.warm_up("digits", "1", {"x": object()})
    await engine.warm_up("digits", "1", "signature")
    await engine.warm_up("digits", "1", Path("warmup.npz"))
    await engine.unload("digits", "1")
    await engine.unload("digits", "1", drain=Drain(deadline_s=5.0, then="quarantine"), force=True)
    await engine.unload("digits", "1", drain=Drain(stream_deadline_s=60.0))
    assert_type(engine.is_loaded("digits", "1"), bool)
    assert_type(engine.is_active("digits", "1"), bool)
    assert_type(engine.loaded_versions("digits"), tuple[str, ...])


def load_info(engine: Engine) -> None:
    info = engine.load_info("digits", "1")
    assert_type(info, VersionLoadInfo)
    assert_type(info.model, str)
    assert_type(info.version, str)
    assert_type(info.is_loaded, bool)
    assert_type(info.loaded_at, float | None)
    assert_type(info.load_s, float | None)
    assert_type(info.memory_bytes, int | None)
    assert_type(info.request_count, int)
    assert_type(info.is_warming_up, bool)
    assert_type(info.warmed_at, float | None)
    assert_type(info.warmup_done, int)
    assert_type(info.warmup_total, int | None)
    assert_type(info.status, VersionState)
    assert_type(info.error, str | None)
    method: str = info.memory_method
    del method


# --- using ----------------------------------------------------------------------------------------------------------


def leasing(engine: Engine) -> Mapping[str, Any]:
    with engine.lease("digits") as lease:
        assert_type(lease, Lease)
        assert_type(lease.version, str)
        assert_type(lease.model, Any)
        outputs = lease.infer({"x": object()})
        assert_type(outputs, Mapping[str, Any])
    with engine.lease("digits", version="1", request_id="r-1"):
        pass
    return outputs


async def leasing_and_waiting(engine: Engine) -> str:
    async with engine.lease("digits", wait_s=None) as lease:
        assert_type(lease, Lease)
    async with engine.lease("digits", version="1", wait_s=0.5) as lease:
        return lease.version


async def requests(engine: Engine) -> Any:
    reply = await engine.infer("digits", {"x": object()})
    assert_type(reply, Reply)
    assert_type(reply.version, str)
    assert_type(reply.fell_back, bool)
    assert_type(reply.outputs, Mapping[str, Any])
    other = await engine.infer("digits", {"x": object()}, version="1", timeout_s=0.5)
    await engine.infer("digits", {"x": object()}, key="user")
    return other.outputs["label"]


# --- swaps ----------------------------------------------------------------------------------------------------------


async def swapping(engine: Engine) -> None:
    plain = await engine.swap("digits", "2")
    assert_type(plain, SwapOperation)
    full = await engine.swap(
        "digits",
        to="2",
        from_="1",
        plan=Shift.at_once(),
        drain=Drain(deadline_s=30.0, then="quarantine"),
        on_busy="refuse",
        timeouts=Timeouts(load_s=10.0, unload_s=5.0),
    )
    assert_type(full.state, SwapState)
    assert_type(await engine.wait_for_swap(full.id), SwapOperation)
    assert_type(await engine.rollback(full.id), SwapOperation)


async def canaries(engine: Engine) -> None:
    guard = Guard(max_error_rate=0.01, max_latency_ratio=3.0, quantile=0.99, window_s=5.0, min_samples=50)
    plan = Shift.canary(
        stages=((0.05, 5.0), Stage(0.5, 10.0, samples=100)),
        confirm_s=5.0,
        confirm_samples=10,
        sticky=True,
        shadow=False,
        fallback=True,
        guard=guard,
    )
    assert_type(plan, Shift)
    assert_type(Shift.at_once(confirm_s=1.0, guard=None), Shift)
    swap = await engine.swap("digits", "2", plan=plan, on_busy="supersede", on_cancel="detach")
    assert_type(swap.guard, Verdict | None)
    assert_type(swap.shadow, ShadowReport | None)
    assert_type(swap.fallbacks, int)
    assert_type(swap.superseded_by, str | None)
    if swap.guard is not None:
        assert_type(swap.guard.new, Sample)
        assert_type(swap.guard.old.error_rate, float)
        assert_type(swap.guard.reason, str)
    await engine.swap("digits", "2", on_busy="later")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def steering(engine: Engine) -> None:
    swap_id = engine.start_swap("digits", "2", plan=Shift.canary(), on_busy="queue")
    engine.pause(swap_id)
    engine.resume(swap_id)
    engine.promote(swap_id)
    engine.abort(swap_id)


async def streaming(engine: Engine) -> None:
    async with engine.infer_stream("digits", {"x": object()}, key="user") as chunks:
        async for chunk in chunks:
            assert_type(chunk, Reply)


def starting_a_swap(engine: Engine) -> None:
    swap_id = engine.start_swap("digits", "2", plan=Shift.at_once(), drain=Drain(deadline_s=1.0, then="wait"))
    assert_type(swap_id, str)
    operation = engine.swap_status(swap_id)
    assert_type(operation.id, str)
    assert_type(operation.model, str)
    assert_type(operation.from_version, str)
    assert_type(operation.to_version, str)
    assert_type(operation.state.ended, bool)
    assert_type(operation.start_time, float)
    assert_type(operation.end_time, float | None)
    assert_type(operation.error_message, str | None)
    assert_type(operation.share, float)
    assert_type([step.step for step in operation.steps], list[str])
    assert_type(operation.drain_outcome, DrainOutcome | None)
    assert_type(operation.old_unloaded, bool)
    assert_type(engine.swaps(), tuple[SwapOperation, ...])
    assert_type(engine.swaps("digits", limit=10), tuple[SwapOperation, ...])
    assert_type(operation.members, tuple[Member, ...])
    assert_type(operation.aftermath, Aftermath | None)


async def groups(engine: Engine) -> None:
    swap = await engine.swap_group({"a": "2", "b": "2"}, from_={"a": "1"}, plan=Shift.canary(), on_busy="queue")
    assert_type(swap, SwapOperation)
    assert_type(engine.start_group_swap({"a": "2"}, timeouts=Timeouts(total_s=60.0)), str)
    await engine.swap_group("a")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def recovery(engine: Engine) -> None:
    report = await engine.recovered(timeout_s=10.0)
    assert_type(report, RecoveryReport)
    assert_type(engine.recovery(), RecoveryReport)
    assert_type(report.waiting, tuple[Recovering, ...])
    assert_type(report.done, tuple[Recovered, ...])
    assert_type(report.set_aside, SetAside | None)
    engine.give_up_recovery("digits")


# --- references -----------------------------------------------------------------------------------------------------


async def references(engine: Engine) -> None:
    tracker = engine.references
    assert_type(tracker, ReferenceTracker)
    tracker.acquire("digits", "1", "r-1")
    tracker.release("digits", "1", "r-1")
    assert_type(tracker.count("digits", "1"), int)
    assert_type(tracker.has_references("digits", "1"), bool)
    assert_type(tracker.counts(), dict[tuple[str, str], int])
    assert_type(await tracker.wait_for_zero("digits", "1", timeout_s=1.0), WaitOutcome)
    assert_type(await engine.wait_for_drain("digits", "1", timeout_s=1.0), WaitOutcome)
    for holder in engine.who_holds("digits", "1"):
        assert_type(holder, Holder)
        assert_type(holder.kind, str)
        assert_type(holder.holder, str)
        assert_type(holder.age_s, float)
        assert_type(holder.where, str | None)
        assert_type(holder.thread, str | None)


def tracker_alone() -> None:
    tracker = ReferenceTracker()
    debugged = ReferenceTracker(debug_references=True)
    with RequestTracker(tracker, "digits", "1", "r-1") as request:
        assert_type(request, RequestTracker)
    assert_type(request.release(), None)
    outcome = tracker.wait_for_zero_blocking("digits", "1", timeout_s=1.0)
    assert_type(outcome, WaitOutcome)
    assert_type(outcome.waited_s, float)
    assert_type(outcome.holders, tuple[Holder, ...])
    result: Literal["zero", "drained", "gone"] = outcome.result
    del result
    tracker.retire("digits", "1")
    tracker.forget("digits", "1")
    tracker.forget("digits", "1", force=True)
    assert_type(tracker.holders("digits", "1"), tuple[Holder, ...])
    assert_type(tracker.audit(), Audit)
    tracker.audit(suspect_after_s=5.0)
    tracker.audit(suspect_after_s={"lease": 5.0, "stream": 60})
    for message in debugged.messages("digits", "1"):
        assert_type(message, Acquire | Release)
        assert_type(message.at_s, float)
        assert_type(message.thread, str | None)
        assert_type(message.ref, int | str)
        if isinstance(message, Release):
            assert_type(message.was_held, bool)
        else:
            assert_type(message.kind, str)
            assert_type(message.where, str | None)


def figures(engine: Engine, tracker: ReferenceTracker) -> None:
    assert_type(tracker.statistics(), dict[VersionKey, ReferenceStatistics])
    version = engine.statistics().versions[VersionKey("digits", "1")]
    assert_type(version, VersionStatistics)
    assert_type(version.usage, ReferenceStatistics)
    assert_type(version.usage.current, int)
    assert_type(version.usage.peak, int)
    assert_type(version.usage.average, float)
    assert_type(version.usage.acquired, int)
    assert_type(version.usage.over_releases, int)
    assert_type(version.usage.drains_s, tuple[float, ...])


def auditing(engine: Engine) -> None:
    audit = engine.audit()
    assert_type(audit, Audit)
    assert_type(audit.clean, bool)
    assert_type(audit.balances, Mapping[VersionKey, Balance])
    assert_type(audit.holders, Mapping[VersionKey, tuple[Holder, ...]])
    assert_type(audit.suspected, tuple[tuple[VersionKey, Holder], ...])
    audit.raise_for_leaks()
    assert_type(engine.statistics(), Statistics)


async def listening(engine: Engine) -> None:
    async with engine.events(buffer=10) as events:
        async for event in events:
            assert_type(event, Event | EventsDropped)
            if isinstance(event, EventsDropped):
                assert_type(event.count, int)
            else:
                assert_type(event.kind, str)


# --- errors ---------------------------------------------------------------------------------------------------------


async def failing(engine: Engine) -> str | None:
    try:
        await engine.swap("digits", "2")
    except (SwapFailed, SwapRolledBack) as error:
        operation: SwapOperation = error.operation
        return operation.error_message
    except DrainTimeout as error:
        held: tuple[Holder, ...] = error.holders
        return str(held)
    except (NotReady, LoadFailed, PredictFailed, ReferenceLeakError) as error:
        assert_type(error.model, str | None)
        assert_type(error.version, str | None)
        assert_type(error.retryable, bool)
        ran: str = error.ran
        return ran
    except ChangeoverError as error:
        return error.acts
    return None


# --- a loader -------------------------------------------------------------------------------------------------------


class Doubler:
    """A model, by having what a model has."""

    signature = Signature(
        inputs=(TensorSpec("x", "float32", (BATCH, 4)),),
        outputs=(TensorSpec("y", "float32", (BATCH, 4)),),
    )
    thread_safe = True

    def predict(self, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        """Double."""
        return {"y": inputs["x"] * 2}

    def memory_bytes(self) -> int | None:
        """Tell nothing."""
        return None

    def close(self) -> None:
        """Keep nothing."""


class DoublerLoader:
    """A loader, by having what a loader has."""

    api_version: ClassVar[int] = API_VERSION
    executes_code_on_load: ClassVar[bool] = False

    def load(self, source: Source) -> Model:
        """Load."""
        assert_type(source.model, str)
        assert_type(source.location, str)
        assert_type(source.file(), Path)
        assert_type(source.options, Mapping[str, Any])
        return Doubler()


def loaders() -> Iterator[Loader]:
    yield DoublerLoader()


async def program() -> None:
    with trio.CancelScope() as scope:
        changeover_sim.cancel_anywhere(scope)
        changeover_sim.touch("stock")
        assert_type(changeover_sim.choose(["red", "blue"]), str)
        await trio.lowlevel.checkpoint()


def exploring() -> None:
    result = changeover_sim.explore(
        program,
        schedules=100,
        policy=changeover_sim.PCT(depth=3),
        seed=7,
        mode="trio-batch",
        timeouts="any-time",
        jobs=2,
        steps_max=1_000,
        stall_s=1.0,
    )
    assert_type(result, changeover_sim.Result)
    assert_type(result.schedules_run, int)
    assert_type(result.schedules_per_s, float)
    assert_type(result.exhausted, bool)
    if result.failure is not None:
        assert_type(result.failure, changeover_sim.Failure)
        assert_type(result.failure.token, str)
        assert_type(result.failure.exception, BaseException | None)
        assert_type(result.failure.schedule_index, int)
        assert_type(changeover_sim.shrink(program, result.failure.token), str)
        assert_type(changeover_sim.replay(program, result.failure.token), changeover_sim.Result)
    changeover_sim.explore(program, policy=changeover_sim.Exhaustive(delays=None))
    changeover_sim.explore(program, policy=changeover_sim.RandomWalk())
