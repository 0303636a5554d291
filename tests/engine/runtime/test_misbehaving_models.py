"""Models that misbehave when they are asked: every request has its outcome, and what it did stays its own affair.

Those that misbehave when they are closed are in `test_misbehaving_closes.py`, streams in `test_misbehaving_streams.py`.
"""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import trio

import changeover.threads
from changeover import Drain, Shift
from changeover.errors import (
    NotReady,
    PredictFailed,
    RequestTimeout,
    VersionCrashed,
)
from changeover.plugin import FatalModelError
from tests.support.misbehaviour import (
    EXCEPTIONS,
    HALTS,
    Plain,
    all_is_well,
    goes_on,
    loads,
    name_of,
    play,
    serves_on,
    stage,
)
from tests.support.models import Broken, Cast
from tests.support.rig import Outcome, Rig, running, settle
from tests.support.threads import Crowd

EXECUTIONS = ["inline", "worker"]
WORLDS = pytest.mark.parametrize("real", [False, True], ids=["virtual", "real"])


# --- predict --------------------------------------------------------------------------------------------------------


@WORLDS
@pytest.mark.parametrize("execution", EXECUTIONS)
@pytest.mark.parametrize("make", EXCEPTIONS, ids=name_of)
def test_what_a_model_raises_is_one_requests_failure(make: Callable[[], Any], execution: str, real: bool) -> None:
    """The error names version and kind and keeps the model's own as its cause; the next request is answered."""
    play(real, raising, make, execution, PredictFailed, real)


@WORLDS
@pytest.mark.parametrize("make", HALTS, ids=name_of)
def test_what_is_no_exception_ends_no_worker(make: Callable[[], Any], real: bool) -> None:
    """A worker outlives `SystemExit` and its like; the request failed as with any other error."""
    play(real, raising, make, "worker", PredictFailed, real)


@pytest.mark.parametrize("make", HALTS, ids=name_of)
def test_what_is_no_exception_comes_out_of_an_inline_call(make: Callable[[], Any]) -> None:
    """In the caller's own thread it is the caller's, as from any function; the version is given back."""
    play(False, raising, make, "inline", type(make()), False)


async def raising(make: Callable[[], Any], execution: str, error: type[BaseException], real: bool) -> None:
    """Have m/1 raise, by `infer`, and see what comes of it."""
    async with stage(real=real) as rig:
        await rig.ready(raises=make(), execution=execution)
        with pytest.raises(error) as caught:
            await rig.engine.infer("m", {})
        assert type(caught.value) is error
        if error is PredictFailed:
            assert isinstance(caught.value, PredictFailed)
            assert all(text in str(caught.value) for text in ("m/1", name_of(make)))
            assert (caught.value.model, caught.value.version, caught.value.ran) == ("m", "1", "yes")
            assert caught.value.__cause__ is rig.script().raises
        await serves_on(rig)
        rig.script().raises = None
        await goes_on(rig)


class MuteFatal(FatalModelError):
    """Beyond use, and beyond words."""

    def __str__(self) -> str:
        raise MuteFatal


@pytest.mark.parametrize("execution", EXECUTIONS)
async def test_a_fatal_error_without_words_is_one_crash(rig: Rig, execution: str, autojump_clock: Any) -> None:
    """A model that is beyond use and cannot say why is closed and loaded again; nobody else notices."""
    await rig.ready("other", "1", execution="worker")
    await rig.ready(raises=MuteFatal(), execution=execution)
    with pytest.raises(VersionCrashed, match="m/1 raised MuteFatal"):
        await rig.engine.infer("m", {})
    rig.script().raises = None
    await trio.sleep(5.0)
    assert (await rig.engine.infer("m", {})).version == "1"
    assert [made.closed for made in rig.cast.of("m", "1")] == [1, 0]
    assert rig.engine.statistics().children_restarted == 1
    await serves_on(rig)


async def coroutine() -> dict[str, int]:
    """Be what an async `predict` returns."""
    return {}


ANSWERS: list[tuple[str, Callable[[Any], Any]]] = [
    ("NoneType", lambda _: None),
    ("list", lambda _: [{"y": 1}]),
    ("tuple", lambda _: ({"y": 1},)),
    ("str", lambda _: "y"),
    ("set", lambda _: {"y"}),
    ("type", lambda _: dict),
    ("generator", lambda _: (part for part in [{"y": 1}])),
    ("coroutine", lambda _: coroutine()),
]


@pytest.mark.parametrize("execution", EXECUTIONS)
@pytest.mark.parametrize(("kind", "answer"), ANSWERS, ids=[kind for kind, _ in ANSWERS])
async def test_an_answer_of_another_kind_is_a_failure(
    rig: Rig, kind: str, answer: Any, execution: str, autojump_clock: Any
) -> None:
    """What is no mapping is refused by its type, and whatever it was leaves no warning behind when it is dropped."""
    await rig.ready("other", "1", execution="worker")
    await rig.ready(answers=answer, execution=execution)
    with pytest.raises(PredictFailed, match=f"m/1 returned {kind}; predict must return a mapping"):
        await rig.engine.infer("m", {})
    gc.collect()
    rig.script().answers = None
    await goes_on(rig)


async def test_names_of_outputs_are_not_looked_at(rig: Rig, autojump_clock: Any) -> None:
    """A mapping is handed on as it is, whatever its names: what a signature says of outputs is not checked."""
    await rig.ready(answers=lambda _: {"neither": 1, 5: None})
    assert (await rig.engine.infer("m", {})).outputs == {"neither": 1, 5: None}


class Untrue(Plain):
    """A model that is neither true nor false, as an array is."""

    def __bool__(self) -> bool:
        raise ValueError("neither true nor false")


class Empty(Plain):
    """A model that has a length, of nothing."""

    def __len__(self) -> int:
        return 0


@pytest.mark.parametrize("execution", EXECUTIONS)
@pytest.mark.parametrize("kind", [Untrue, Empty])
async def test_a_model_is_not_asked_whether_it_is_true(
    rig: Rig, kind: type[Plain], execution: str, autojump_clock: Any
) -> None:
    """A model may say what it likes of its own truth; it is used and closed as any other."""
    made = kind()
    rig.engine._host.loaders.add("untrue", loads(lambda: made))
    rig.engine.register("m", "1", "nowhere", loader="untrue", execution=execution, warmup=[{}])
    await rig.engine.load("m", "1")
    assert (await rig.engine.infer("m", {})).outputs == {"y": 1}
    with rig.engine.lease("m") as lease:
        assert lease.infer({}) == {"y": 1}
    await rig.engine.unload("m", "1", force=True)
    assert made.closed == 1


@pytest.mark.parametrize("execution", EXECUTIONS)
async def test_inputs_that_a_model_empties_are_whole_for_the_one_that_stands_by(
    rig: Rig, execution: str, autojump_clock: Any
) -> None:
    """A version on trial that takes its inputs apart and fails has not changed the question for the old one."""
    await rig.ready("m", "1", execution=execution)

    def take_apart(inputs: Any) -> None:
        inputs.clear()
        raise Broken("taken apart")

    rig.add("m", "2", on_predict=take_apart, execution=execution)
    swap = Outcome(rig.engine.swap, "m", "2", plan=Shift.canary(stages=((1.0, 5.0),)))
    async with running(swap):
        await trio.sleep(1.0)
        reply = await rig.engine.infer("m", {"n": 1})
        assert (reply.version, reply.fell_back, reply.outputs) == ("1", True, {"version": "1", "n": 1})


async def test_the_engine_keeps_no_inputs(rig: Rig, autojump_clock: Any) -> None:
    """Inputs that a model keeps are kept by the model alone: once it lets them go, they are gone."""
    for version, execution in (("1", "inline"), ("2", "worker")):
        await rig.ready("m", version, execution=execution, answers=lambda _: {})
        array = np.zeros(3)
        await rig.engine.infer("m", {"x": array}, version=version)
        kept, array = weakref.ref(array), None
        assert kept() is not None
        rig.cast.of("m", version)[0].calls.clear()
        gc.collect()
        assert kept() is None


async def test_a_model_that_hangs_hangs_for_itself(rig: Rig, autojump_clock: Any) -> None:
    """Its callers leave in time, its drain ends in quarantine, and it is closed once, when its thread comes back."""
    await rig.ready("other", "1", execution="worker")
    await rig.ready(execution="worker")
    hang = trio.Event()
    rig.takes("worker m/1 0", hang)
    with pytest.raises(RequestTimeout, match="m/1") as caught:
        await rig.engine.infer("m", {}, timeout_s=2.0)
    assert caught.value.ran == "unknown"
    outcome = await rig.engine.unload("m", "1", drain=Drain(3.0), force=True)
    assert (outcome.result, [holder.kind for holder in outcome.holders], trio.current_time()) == (
        "quarantined", ["request"], 5.0,
    )  # fmt: skip
    await serves_on(rig)
    with pytest.raises(NotReady):
        await rig.engine.infer("m", {})
    hang.set()
    await settle()
    assert [made.closed for made in rig.cast.of("m", "1")] == [1]
    await all_is_well(rig)


# --- a model that asks itself ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["lease", "infer"])
@pytest.mark.parametrize("execution", EXECUTIONS)
@pytest.mark.parametrize("thread_safe", [True, False], ids=["thread-safe", "not thread-safe"])
def test_a_model_that_asks_its_own_version_hangs_nobody(thread_safe: bool, execution: str, how: str) -> None:
    """It is answered where that can be, and else is told why not; it never waits for itself, and the engine closes."""
    cast, crowd, ends = Cast(), Crowd(), list[Any]()

    def ask_again(engine: Any, inputs: Any) -> None:
        if "again" in inputs:
            return
        if how == "infer":
            engine.infer("m", {"again": 1}, timeout_s=0.1)
        else:
            with engine.lease("m") as lease:
                lease.infer({"again": 1})

    def main() -> None:
        with changeover.threads.open_engine(close_timeout_s=0.5) as engine:
            engine._host.loaders.add("scripted", cast.loader)
            script = cast.script("m", "1")
            script.thread_safe, script.on_predict = thread_safe, lambda inputs: ask_again(engine, inputs)
            engine.register("m", "1", "script", loader="scripted", execution=execution)
            engine.load("m", "1")
            turn = engine._host.living()[0]._turn
            release = threading.Timer(5.0, lambda: turn and turn.locked() and (ends.append("hung"), turn.release()))
            release.start()
            try:
                ends.append(engine.infer("m", {}).version)
            except PredictFailed as error:
                ends.append(str(error))
            release.cancel()
            engine.wait_for_drain("m", "1", 10.0)  # nobody holds it any more
            assert engine.audit().clean

    crowd.add(main)
    crowd.start()
    crowd.join()
    assert ends[0] != "hung"
    assert ends == ["1"] or "m/1" in ends[0]
