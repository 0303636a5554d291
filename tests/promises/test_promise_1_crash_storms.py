"""Promise 1 in a storm: a version crashes again and again beside one that stands, and nobody who waits is lost."""

from __future__ import annotations

from contextlib import suppress
from typing import Any, Literal

import attrs
import numpy as np
import trio
from hypothesis import strategies as st

from changeover import Batching, Drain
from changeover.core.values import VersionKey
from changeover.errors import ChangeoverError, LeaseRevoked, PredictFailed, VersionCrashed
from tests.support.examples import examined
from tests.support.models import BATCHED, first_column
from tests.support.rig import Rig, open_rig, run_virtual, settle
from tests.support.workload import moments, numbers_of

GOOD, BAD, POISON = 0.0, 1.0, 2.0
"""What a request does to version 2: nothing, make it raise, kill it; version 1 answers them all."""


@attrs.frozen
class Ask:
    """One request."""

    at_s: float
    does: float
    stream: bool
    patience_s: float | None
    """Cancelled after so long; None: never."""


@attrs.frozen
class Storm:
    """What is asked, how the versions work, and when version 2 gets the traffic back, or is drained in a hurry."""

    asks: tuple[Ask, ...]
    execution: Literal["inline", "worker"]
    batched: bool
    thread_safe: bool
    """False only without streams: they keep their turn from chunk to chunk, which a world without threads cannot."""
    workers: int
    predict_s: float
    errors_in_a_row_max: int | None
    shifts_s: tuple[float, ...]
    unloads_s: tuple[float, ...]


@st.composite
def storms(draw: st.DrawFn) -> Storm:
    """Draw a storm; every third request or so kills."""
    execution: Literal["inline", "worker"] = draw(st.sampled_from(["worker", "worker", "inline"]))
    thread_safe = draw(st.booleans())
    streams = [False, False, False, thread_safe]
    asks = st.builds(
        Ask,
        at_s=moments(8),
        does=st.sampled_from([GOOD, GOOD, GOOD, BAD, POISON]),
        stream=st.sampled_from(streams),
        patience_s=st.sampled_from([None, None, None, 0.0, 0.25, 0.5]),
    )
    return Storm(
        asks=tuple(draw(st.lists(asks, min_size=10, max_size=40))),
        execution=execution,
        batched=execution == "worker" and draw(st.booleans()),
        thread_safe=thread_safe,
        workers=draw(st.integers(1, 2)) if execution == "worker" and thread_safe else 1,
        predict_s=draw(moments(1)),
        errors_in_a_row_max=draw(st.sampled_from([None, 1, 2])),
        shifts_s=tuple(draw(st.lists(moments(8), max_size=8))),
        unloads_s=tuple(draw(st.lists(moments(8), max_size=3))),
    )


@attrs.define
class Asked:
    """A request and what came of it."""

    ask: Ask
    outcomes: list[str] = attrs.field(factory=list)
    error: ChangeoverError | None = None
    right: bool = True
    """False where the answer was somebody else's."""


def _inputs(number: int, does: float) -> dict[str, Any]:
    return {"x": np.array([[float(number), does]])}


def _chunks(rig: Rig, version: str) -> Any:
    """Return a `predict_stream` that writes down that it was begun, as `predict` does."""

    def chunks(inputs: Any) -> Any:
        made = rig.cast.of("m", version)[-1]
        made.calls.append(inputs)
        yield first_column(inputs)

    return chunks


async def _ready(rig: Rig, storm: Storm, version: str) -> None:
    fatal = version == "2"
    await rig.ready(
        "m", version, execution=storm.execution, workers=storm.workers, thread_safe=storm.thread_safe,
        batching=Batching(4, 0.25) if storm.batched else None, signature=BATCHED, answers=first_column,
        chunks=_chunks(rig, version), errors_in_a_row_max=storm.errors_in_a_row_max,
        fatal_on=lambda inputs: fatal and bool((inputs["x"][:, 1] == POISON).any()),
        fails_on=lambda inputs: fatal and bool((inputs["x"][:, 1] == BAD).any()),
    )  # fmt: skip
    for work in ("worker m/{} 0", "worker m/{} 1", "predict m/{}", "stream m/{}"):
        rig.takes(work.format(version), storm.predict_s)


async def _ask(rig: Rig, number: int, asked: Asked) -> None:
    """Be a client with one request."""
    ask = asked.ask
    await trio.sleep(ask.at_s)
    outputs: Any = None
    scope = trio.CancelScope()
    if ask.patience_s is not None:
        scope.deadline = trio.current_time() + ask.patience_s
    try:
        with scope:
            outputs = await _outputs(rig, _inputs(number, ask.does), stream=ask.stream)
    except ChangeoverError as error:
        asked.error = error
        asked.outcomes.append(type(error).__name__)
    else:
        asked.outcomes.append("cancelled" if scope.cancelled_caught else "answered")
        asked.right = scope.cancelled_caught or outputs["y"].tolist() == [float(number)]


async def _outputs(rig: Rig, inputs: Any, *, stream: bool) -> Any:
    if not stream:
        return (await rig.engine.infer("m", inputs)).outputs
    async with rig.engine.infer_stream("m", inputs) as chunks:
        (chunk,) = [chunk async for chunk in chunks]
    return chunk.outputs


async def _shift(rig: Rig, at_s: float) -> None:
    """Give version 2 the traffic, where it takes requests."""
    await trio.sleep(at_s)
    if rig.engine._router.takes_requests(VersionKey("m", "2")):
        rig.engine._router.shift({"m": "2"})


async def _unload(rig: Rig, at_s: float) -> None:
    """Take version 2 out of use without any patience, and load it again."""
    await trio.sleep(at_s)
    with suppress(ChangeoverError):  # somebody else was quicker, or it has crashed
        await rig.engine.unload("m", "2", drain=Drain(0.0, "cancel", grace_s=0.0))
    with suppress(ChangeoverError):
        await rig.engine.load("m", "2")


async def _weather(storm: Storm) -> tuple[list[Asked], dict[int, int], bool]:
    """Play a storm; return who asked, how often models were given each request, and whether all is given back."""
    async with open_rig() as rig:
        await _ready(rig, storm, "2")
        await _ready(rig, storm, "1")
        asked = [Asked(ask) for ask in storm.asks]
        async with trio.open_nursery() as nursery:
            for number, one in enumerate(asked):
                nursery.start_soon(_ask, rig, number, one)
            for at_s in storm.shifts_s:
                nursery.start_soon(_shift, rig, at_s)
            for at_s in storm.unloads_s:
                nursery.start_soon(_unload, rig, at_s)
        await trio.sleep(30.0)
        await settle()
        given = [number for made in rig.cast.made for number in numbers_of(made)]
        return asked, {number: given.count(number) for number in range(len(asked))}, rig.engine.audit().clean


@examined(80, storm=storms())
def test_nobody_who_waits_is_lost_in_a_storm_of_crashes(storm: Storm) -> None:
    """Each has one outcome, and it is true: answered, cancelled, or failed by a model that was given the request."""
    asked, given, clean = run_virtual(_weather, storm)
    assert clean
    for number, one in enumerate(asked):
        assert len(one.outcomes) == 1, one
        assert one.right, one
        if one.outcomes == ["answered"]:
            assert given[number] >= 1, one
            assert given[number] == 1 or storm.batched, one
        elif isinstance(one.error, LeaseRevoked):  # a thread was on its way to its first chunk
            assert (one.ask.stream, one.error.ran) == (True, "yes"), one
        elif one.error is not None:
            # Nobody may be told to try again whom nobody has tried: version 1 stands there all the while.
            assert isinstance(one.error, PredictFailed | VersionCrashed), one
            assert (one.error.ran, given[number] > 0) == ("yes", True), one
