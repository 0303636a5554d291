"""So many errors in a row are a crash: what counts, what ends the row, and what becomes of those who wait."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pytest
import trio

from changeover import Batching, Shift, SwapState
from changeover.errors import ChangeoverError, InvalidInput, PredictFailed, SwapFailed, VersionCrashed
from tests.support.models import BATCHED, Broken, first_column
from tests.support.rig import Outcome, Rig, Watch, open_rig, running, settle, until_ready_again
from tests.support.threads import Crowd


def bad(inputs: Mapping[str, Any]) -> bool:
    """Return whether a request is one that the model raises on."""
    return "bad" in inputs


async def ask(rig: Rig, what: str, model: str = "m") -> None:
    """Make one request for each letter: `b` is one that the model raises on, `g` one that it answers."""
    for letter in what:
        try:
            await rig.engine.infer(model, {"bad": 1} if letter == "b" else {"good": 1})
            assert letter == "g"
        except PredictFailed:
            assert letter == "b"
    await settle()


def crashes(rig: Rig) -> int:
    """Return how often a version was started again, or is waiting for it."""
    return rig.engine.statistics().children_restarted


# --- the row --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("execution", ["inline", "worker"])
async def test_so_many_errors_in_a_row_are_a_crash(rig: Rig, execution: str, autojump_clock: Any) -> None:
    """The fifth is told to its caller like the others; then the version is started again, and says why."""
    await rig.ready(fails_on=bad, execution=execution, errors_in_a_row_max=5)
    async with Watch(rig.engine) as watch:
        await ask(rig, "bbbb")
        assert (crashes(rig), rig.engine.is_loaded("m", "1")) == (0, True)
        await ask(rig, "b")
        assert (crashes(rig), rig.engine.is_loaded("m", "1")) == (1, False)
        await trio.sleep(1.0)
        await ask(rig, "g")
        assert await watch.states("1") == ["failed", "loading", "warming", "ready"]
        (error,) = await watch.kinds("version_restarting", "error")
    assert "5 errors in a row, the last: Broken: m/1 cannot answer that" in error
    assert [made.closed for made in rig.cast.made] == [1, 0]


async def test_one_error_is_a_row_of_one(rig: Rig, autojump_clock: Any) -> None:
    """The smallest limit: any error at all."""
    await rig.ready(fails_on=bad, errors_in_a_row_max=1)
    async with Watch(rig.engine) as watch:
        await ask(rig, "gb")
        (error,) = await watch.kinds("version_restarting", "error")
    assert "1 error in a row" in error


@pytest.mark.parametrize("what", ["bbgbb", "gbbggbb", "bbgbbgbb"])
async def test_an_answer_ends_the_row(rig: Rig, what: str, autojump_clock: Any) -> None:
    """However many errors there are: not three of them came one after the other."""
    await rig.ready(fails_on=bad, errors_in_a_row_max=3)
    await ask(rig, what)
    assert crashes(rig) == 0
    await ask(rig, "b")
    assert crashes(rig) == 1


async def test_without_a_limit_no_row_is_too_long(rig: Rig, autojump_clock: Any) -> None:
    """It is None by default."""
    await rig.ready(fails_on=bad)
    await ask(rig, "b" * 100)
    assert crashes(rig) == 0


async def test_a_new_start_begins_a_new_row(rig: Rig, autojump_clock: Any) -> None:
    """What the model before it raised is forgotten with it."""
    await rig.ready(fails_on=bad, errors_in_a_row_max=3)
    await ask(rig, "bbb")
    await trio.sleep(1.0)
    await ask(rig, "bb")
    assert crashes(rig) == 1
    await ask(rig, "b")
    assert crashes(rig) == 2


async def test_versions_and_models_count_for_themselves(rig: Rig, autojump_clock: Any) -> None:
    """Two errors here and two there are no row of three."""
    for model in ("m", "n"):
        await rig.ready(model, fails_on=bad, errors_in_a_row_max=3)
    await ask(rig, "bb", "m")
    await ask(rig, "bb", "n")
    assert crashes(rig) == 0


# --- what counts ----------------------------------------------------------------------------------------------------


async def test_bad_input_does_not_count(rig: Rig, autojump_clock: Any) -> None:
    """Neither where the signature says so, nor where the model itself does: the request is to blame."""
    await rig.ready(signature=BATCHED, answers=first_column, errors_in_a_row_max=3)
    for _ in range(5):
        with pytest.raises(InvalidInput):
            await rig.engine.infer("m", {"bad": 1})
    rig.script().raises = InvalidInput("not like this")
    for _ in range(5):
        with pytest.raises(PredictFailed, match="not like this"):
            await rig.engine.infer("m", {"x": np.zeros((1, 2))})
    assert crashes(rig) == 0


async def test_an_answer_that_is_no_mapping_ends_the_row(rig: Rig, autojump_clock: Any) -> None:
    """It is refused, and stands for a fault that no new start mends: the model was called, and it returned."""
    await rig.ready(fails_on=bad, answers=lambda _inputs: [1, 2], errors_in_a_row_max=3)
    for _ in range(5):
        with pytest.raises(PredictFailed, match="returned list"):
            await rig.engine.infer("m", {})
    await ask(rig, "bb")
    with pytest.raises(PredictFailed, match="returned list"):
        await rig.engine.infer("m", {})
    await ask(rig, "bb")
    assert crashes(rig) == 0


async def test_a_batch_counts_its_requests_and_not_itself(rig: Rig, autojump_clock: Any) -> None:
    """A batch that fails is tried again request by request: four bad ones are four errors, and not five."""
    fields = {"execution": "worker", "batching": Batching(4, 0.1), "signature": BATCHED, "answers": first_column}
    await rig.ready(fails_on=lambda inputs: bool((inputs["x"] < 0).any()), errors_in_a_row_max=5, **fields)
    batch = [Outcome(rig.engine.infer, "m", {"x": np.array([[-1.0, 0.0]])}) for _ in range(5)]
    async with running(*batch[:4]):
        pass
    assert [len(call["x"]) for call in rig.cast.made[0].calls] == [4, 1, 1, 1, 1]
    assert crashes(rig) == 0
    await batch[4].run()
    assert [type(outcome.error) for outcome in batch] == [PredictFailed] * 5
    await settle()
    assert crashes(rig) == 1


async def test_a_good_request_of_a_batch_ends_the_row(rig: Rig, autojump_clock: Any) -> None:
    """However often the batches around it raise."""
    fields = {"execution": "worker", "batching": Batching(4, 0.1), "signature": BATCHED, "answers": first_column}
    await rig.ready(fails_on=lambda inputs: bool((inputs["x"] < 0).any()), errors_in_a_row_max=4, **fields)
    for _ in range(5):
        batch = [Outcome(rig.engine.infer, "m", {"x": np.array([[x, 0.0]])}) for x in (-1.0, -1.0, 1.0, -1.0)]
        async with running(*batch):
            pass
        assert [outcome.error is None for outcome in batch] == [False, False, True, False]
    assert crashes(rig) == 0


async def test_errors_of_leases_and_streams_count(rig: Rig, autojump_clock: Any) -> None:
    """It is the same model, whoever calls it; a stream that comes to its end is an answer."""

    def chunks(inputs: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
        if bad(inputs):
            raise Broken("no chunk")
        yield {}

    await rig.ready(fails_on=bad, chunks=chunks, errors_in_a_row_max=3)

    async def stream(**inputs: Any) -> None:
        async with rig.engine.infer_stream("m", inputs) as replies:
            async for _reply in replies:
                pass

    async def failures() -> None:
        with rig.engine.lease("m") as lease, pytest.raises(PredictFailed):
            lease.infer({"bad": 1})
        with pytest.raises(PredictFailed):
            await stream(bad=1)

    await failures()
    await stream()
    await failures()
    assert crashes(rig) == 0
    await ask(rig, "b")
    assert crashes(rig) == 1


# --- what becomes of the others -------------------------------------------------------------------------------------


async def test_what_waits_behind_the_last_error_moves(rig: Rig, autojump_clock: Any) -> None:
    """The model is not called any more, and those whom it had not begun are answered by the other version."""
    await rig.ready("m", "2", execution="worker", raises=Broken("always"), errors_in_a_row_max=3)
    await rig.ready("m", "1", execution="worker")
    rig.takes("worker m/2 0", 1.0)
    outcomes = [Outcome(rig.engine.infer, "m", {"n": n}) for n in range(6)]
    async with running(*outcomes):
        pass
    assert [type(outcome.error) for outcome in outcomes] == [PredictFailed] * 3 + [type(None)] * 3
    assert [outcome.value.version for outcome in outcomes[3:]] == ["1"] * 3
    assert len(rig.cast.of("m", "2")[0].calls) == 3


async def test_the_rest_of_a_batch_has_run(rig: Rig, autojump_clock: Any) -> None:
    """Where the row is full in the middle of a batch, the others were in the call that failed, and say so."""
    fields = {"execution": "worker", "batching": Batching(8, 0.1), "signature": BATCHED, "answers": first_column}
    await rig.ready("m", "2", raises=Broken("always"), errors_in_a_row_max=3, **fields)
    await rig.ready("m", "1", **fields)
    batch = [Outcome(rig.engine.infer, "m", {"x": np.zeros((1, 2))}) for _ in range(5)]
    async with running(*batch):
        pass
    assert [type(outcome.error) for outcome in batch] == [PredictFailed] * 3 + [VersionCrashed] * 2
    assert [getattr(outcome.error, "ran", None) for outcome in batch] == ["yes"] * 5
    assert [len(call["x"]) for call in rig.cast.of("m", "2")[0].calls] == [5, 1, 1, 1]
    assert rig.cast.of("m", "1")[0].calls == []


async def test_a_version_that_only_raises_is_given_up(rig: Rig, autojump_clock: Any) -> None:
    """Started again five times within a minute, it has failed; `load_info` says with what."""
    await rig.ready(raises=Broken("always"), errors_in_a_row_max=2)
    async with Watch(rig.engine) as watch:
        for _ in range(6):
            await ask(rig, "bb")
            await trio.sleep(2.5)
        delays = await watch.kinds("version_restarting", "delay_s")
    assert [delay is None for delay in delays] == [False] * 5 + [True]
    info = rig.engine.load_info("m", "1")
    assert (info.status.value, crashes(rig)) == ("failed", 5)
    assert "2 errors in a row, the last: Broken: always" in str(info.error)


async def test_a_version_on_trial_that_only_raises_ends_its_swap(rig: Rig, autojump_clock: Any) -> None:
    """Without any guard: the old version answers each of its requests, and the crash turns the swap round."""
    await rig.ready()
    rig.add(version="2", raises=Broken("always"), errors_in_a_row_max=3)
    swap_id = rig.engine.start_swap("m", "2", plan=Shift.at_once(confirm_s=1_000.0, guard=None))
    await settle()
    for _ in range(10):
        assert (await rig.engine.infer("m", {})).version == "1"
    with pytest.raises(SwapFailed):
        await rig.engine.wait_for_swap(swap_id)
    assert rig.engine.swap_status(swap_id).state is SwapState.FAILED
    assert len(rig.cast.of("m", "2")[0].calls) == 3


# --- threads --------------------------------------------------------------------------------------------------------


async def test_errors_in_many_threads_are_one_crash() -> None:
    """However many raise at once, and go on raising: one model, one crash."""
    async with open_rig(real=True) as rig:
        await rig.ready(fails_on=bad, errors_in_a_row_max=20)
        crowd, ready = Crowd(), threading.Barrier(8)

        def hammer() -> None:
            with rig.engine.lease("m") as lease:
                ready.wait()
                for _ in range(50):
                    with pytest.raises(ChangeoverError):
                        lease.infer({"bad": 1})

        for _ in range(8):
            crowd.add(hammer)
        await until_ready_again(rig, crowd)
        assert (crashes(rig), len(rig.cast.made)) == (1, 2)
