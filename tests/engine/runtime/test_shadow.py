"""A shadow: the old version answers everybody, the new one gets copies, and what it says is compared and dropped."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import trio

from changeover import ShadowReport, Shift, SwapState
from changeover.core.shift import Stage
from changeover.errors import PredictFailed, SwapRolledBack
from changeover.runtime.shadow import COPIES_MAX, agree
from tests.support.canary import asking, check_quiet, check_undone, two
from tests.support.models import BATCHED, Broken, first_column
from tests.support.rig import Outcome, Rig, open_rig, running, settle

EXECUTIONS = ["inline", "worker"]


def shadow(share: float = 1.0, hold_s: float = 100.0, **options: Any) -> Shift:
    """Return a plan with one stage of copies and no confirmation."""
    return Shift.canary([(share, hold_s)], **{"confirm_s": 0.0, "shadow": True, "guard": None, **options})


async def shadowed(rig: Rig, plan: Shift | None = None, execution: str = "inline", **fields: Any) -> str:
    """Let version 2 shadow version 1, both answering with what they were asked; return the swap's id."""
    await two(rig, execution, **fields)
    for version in "12":
        rig.script("m", version).answers = rig.script("m", version).answers or dict
    swap_id = rig.engine.start_swap("m", "2", plan=plan or shadow())
    await settle()
    return swap_id


def report(rig: Rig, swap_id: str) -> ShadowReport:
    """Return what became of the copies."""
    found = rig.engine.swap_status(swap_id).shadow
    assert found is not None
    assert found.copied == found.agreed + found.differed + found.failed + flying(rig, swap_id)
    return found


def flying(rig: Rig, swap_id: str) -> int:
    """Return how many copies are on their way."""
    sender = rig.engine._saga(swap_id)._steps.shift._watches[0].shadow
    assert sender is not None
    return len(sender._flying)


def calls(rig: Rig, version: str) -> list[Any]:
    """Return what a version was asked."""
    return [call for made in rig.cast.of("m", version) for call in made.calls]


async def ask(rig: Rig, count: int = 1, inputs: Any = None, **options: Any) -> None:
    """Ask so many times; the old version has to answer."""
    for _ in range(count):
        reply = await rig.engine.infer("m", {"n": 1} if inputs is None else inputs, **options)
        assert (reply.version, reply.fell_back) == ("1", False)
    await settle()


# --- what clients see -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("execution", EXECUTIONS)
async def test_clients_only_ever_see_the_old_version(rig: Rig, execution: str, autojump_clock: Any) -> None:
    """In every stage, whatever the copies come to; the new version has no share of the traffic."""
    plan = Shift.canary([(0.2, 5.0), (0.8, 5.0)], confirm_s=0.0, shadow=True, guard=None)
    swap_id = await shadowed(rig, plan, execution, fails_on=lambda inputs: inputs["n"] % 2 == 1)
    async with asking(rig, 0.01, keys=[None] * 3) as clients:
        await trio.sleep(4.9)
        assert (rig.engine.swap_status(swap_id).share, rig.engine.is_active("m", "1")) == (0.0, True)
        early = report(rig, swap_id).copied
        assert 0.1 < early / len(clients.seen) < 0.9
        await trio.sleep(5.0)
        assert report(rig, swap_id).copied > 1.4 * early
        assert (clients.errors, set(clients.versions())) == ([], {"1"})
    await rig.engine.wait_for_swap(swap_id)
    check_quiet(rig)


async def test_a_shadow_costs_clients_no_time(rig: Rig, autojump_clock: Any) -> None:
    """They are answered when the old version has answered, though the copies take a minute."""
    await shadowed(rig, execution="worker")
    rig.takes("worker m/1 0", 0.5)
    rig.takes("worker m/2 0", 60.0)
    outcomes = [Outcome(rig.engine.infer, "m", {"n": n}) for n in range(4)]
    async with running(*outcomes):
        pass
    assert [outcome.ended_s for outcome in outcomes] == [0.5, 1.0, 1.5, 2.0]


async def test_an_error_of_the_old_version_is_not_copied(rig: Rig, autojump_clock: Any) -> None:
    """Its client gets the error; there is nothing to compare an answer with."""
    swap_id = await shadowed(rig)
    rig.script("m", "1").raises = Broken("m/1 cannot")
    with pytest.raises(PredictFailed) as caught:
        await rig.engine.infer("m", {})
    assert (caught.value.version, calls(rig, "2"), report(rig, swap_id).copied) == ("1", [], 0)


async def test_only_requests_that_the_traffic_chose_are_copied(rig: Rig, autojump_clock: Any) -> None:
    """Not those that name a version, and no leases."""
    swap_id = await shadowed(rig)
    await ask(rig, version="1")
    with rig.engine.lease("m") as lease:
        lease.infer({"n": 1})
    assert (calls(rig, "2"), report(rig, swap_id).copied) == ([], 0)


async def test_in_the_confirmation_the_new_version_answers(rig: Rig, autojump_clock: Any) -> None:
    """A shadow is over by then: real traffic, no copies, and the old version stands by."""
    plan = Shift.canary([(1.0, 5.0)], confirm_s=5.0, shadow=True, guard=None)
    swap_id = await shadowed(rig, plan, fails_on=lambda inputs: "bad" in inputs)
    await ask(rig, 3)
    await trio.sleep(6.0)
    assert (await rig.engine.infer("m", {"n": 1})).version == "2"
    assert (await rig.engine.infer("m", {"bad": 1})).fell_back
    assert report(rig, swap_id) == ShadowReport(3, 3, 0, 0, 0)
    operation = await rig.engine.wait_for_swap(swap_id)
    assert (operation.shadow, operation.fallbacks) == (ShadowReport(3, 3, 0, 0, 0), 1)
    check_quiet(rig)


# --- what becomes of copies -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("execution", EXECUTIONS)
async def test_copies_are_counted_by_what_they_came_to(rig: Rig, execution: str, autojump_clock: Any) -> None:
    """Two agree, three differ, one fails."""
    swap_id = await shadowed(
        rig, execution=execution, fails_on=lambda inputs: inputs["n"] == "bad",
        answers=lambda inputs: {"n": 0} if inputs["n"] == "other" else dict(inputs),
    )  # fmt: skip
    for kind in ("same", "other", "bad", "other", "same", "other"):
        await ask(rig, inputs={"n": kind})
    assert report(rig, swap_id) == ShadowReport(copied=6, agreed=2, differed=3, failed=1, skipped=0)
    assert [call["n"] for call in calls(rig, "2")] == ["same", "other", "bad", "other", "same", "other"]


async def test_an_input_that_the_new_version_does_not_take_is_a_failure(rig: Rig, autojump_clock: Any) -> None:
    """A changed signature is found before any client meets it."""
    swap_id = await shadowed(rig, signature=BATCHED)
    await ask(rig, 2)
    assert (report(rig, swap_id), calls(rig, "2")) == (ShadowReport(2, 0, 0, 2, 0), [])
    assert rig.engine.audit().clean


@pytest.mark.parametrize("execution", EXECUTIONS)
async def test_buffers_may_be_used_again(rig: Rig, execution: str, autojump_clock: Any) -> None:
    """What the client does to its inputs and to its answer afterwards is nothing that the copy sees."""
    swap_id = await shadowed(rig, execution=execution, answers=first_column, signature=BATCHED)
    rig.script("m", "1").answers = first_column
    rig.takes("worker m/2 0", 5.0)
    rig.takes("predict m/2", 5.0)
    inputs = {"x": np.array([[7.0, 0.0]])}
    reply = await rig.engine.infer("m", inputs)
    inputs["x"][:] = -1.0
    if execution == "worker":
        reply.outputs["y"][:] = -2.0
    await trio.sleep(6.0)
    assert calls(rig, "2")[0]["x"].tolist() == [[7.0, 0.0]]
    assert report(rig, swap_id).agreed == 1


@pytest.mark.parametrize("execution", EXECUTIONS)
async def test_copies_on_their_way_are_bounded(rig: Rig, execution: str, autojump_clock: Any) -> None:
    """While the new version hangs, so many wait and the rest is skipped; when they are done, copies are made again."""
    swap_id = await shadowed(rig, execution=execution)
    gate = trio.Event()
    rig.takes("worker m/2 0", gate)
    rig.takes("predict m/2", gate)
    await ask(rig, COPIES_MAX + 10)
    assert (report(rig, swap_id).copied, report(rig, swap_id).skipped) == (COPIES_MAX, 10)
    assert [holder.kind for holder in rig.engine.who_holds("m", "2")] == ["shadow"] * COPIES_MAX
    gate.set()
    await settle()
    await ask(rig, 5)
    assert report(rig, swap_id) == ShadowReport(COPIES_MAX + 5, COPIES_MAX + 5, 0, 0, 10)
    assert rig.engine.audit().clean


@pytest.mark.parametrize("execution", EXECUTIONS)
async def test_a_copy_that_finds_no_room_is_skipped(rig: Rig, execution: str, autojump_clock: Any) -> None:
    """The new version's queue is full: nobody hears of it but the report."""
    swap_id = await shadowed(rig, execution=execution, queue_limit=2)
    rig.takes("worker m/2 0", 10.0)
    rig.takes("predict m/2", 10.0)
    await ask(rig, 5)
    assert report(rig, swap_id).skipped == (3 if execution == "inline" else 2)
    await trio.sleep(60.0)
    assert report(rig, swap_id).failed == 0
    assert rig.engine.audit().clean


async def test_what_cannot_be_copied_is_not_the_clients_trouble(rig: Rig, autojump_clock: Any) -> None:
    """An input whose `copy` is no method, or raises, is skipped; its client has its answer and nothing is held."""

    class Stubborn:
        def copy(self) -> Any:
            raise Broken("there is only one of me")

    swap_id = await shadowed(rig)
    await ask(rig, inputs={"n": Stubborn()})
    assert rig.engine.audit().clean
    assert report(rig, swap_id).agreed == 0


# --- the end of a shadow --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("execution", EXECUTIONS)
async def test_a_shadow_that_raises_trips_the_guard(rig: Rig, execution: str, autojump_clock: Any) -> None:
    """The swap rolls back on the evidence of copies alone."""
    plan = Shift.canary([(0.5, 60.0)], shadow=True)
    swap_id = await shadowed(rig, plan, execution, fails_on=lambda _inputs: True)
    async with asking(rig) as clients:
        with pytest.raises(SwapRolledBack, match="20 of 20 requests failed") as caught:
            await rig.engine.wait_for_swap(swap_id)
        assert (clients.errors, set(clients.versions())) == ([], {"1"})
    assert (caught.value.operation.shadow.failed, caught.value.operation.fallbacks) == (20, 0)
    await check_undone(rig, caught.value.operation)


async def test_a_shadow_that_is_slow_trips_the_guard(rig: Rig, autojump_clock: Any) -> None:
    """Workers' copies are timed like requests."""
    plan = Shift.canary([(1.0, 60.0)], shadow=True)
    swap_id = await shadowed(rig, plan, "worker")
    rig.takes("worker m/1 0", 0.002)
    rig.takes("worker m/2 0", 0.040)
    async with asking(rig, 0.06) as clients:
        with pytest.raises(SwapRolledBack, match="the 95% latency is 40 ms"):
            await rig.engine.wait_for_swap(swap_id)
        assert clients.errors == []


async def test_copies_count_for_the_requests_that_a_stage_wants(rig: Rig, autojump_clock: Any) -> None:
    """A stage of ten samples is over after ten copies."""
    plan = Shift.canary([Stage(1.0, 0.0, samples=10)], confirm_s=0.0, shadow=True)
    swap_id = await shadowed(rig, plan)
    await ask(rig, 9)
    await trio.sleep(10.0)
    assert not rig.engine.swap_status(swap_id).state.ended
    await ask(rig)
    assert (await rig.engine.wait_for_swap(swap_id)).shadow == ShadowReport(10, 10, 0, 0, 0)


@pytest.mark.parametrize("execution", EXECUTIONS)
@pytest.mark.parametrize("way", ["abort", "promote"])
async def test_copies_on_their_way_outlive_the_trial(rig: Rig, way: str, execution: str, autojump_clock: Any) -> None:
    """No more are made, the last ones are still counted, and the new version is not closed under them."""
    swap_id = await shadowed(rig, execution=execution)
    rig.takes("worker m/2 0", 3.0)
    rig.takes("predict m/2", 3.0)
    await ask(rig, 2)
    getattr(rig.engine, way)(swap_id)
    await settle()
    assert flying(rig, swap_id) == 2
    assert rig.engine._router.snapshot.routes["m"].trial is None
    await rig.engine.infer("m", {"n": 1})
    await trio.sleep(10.0)
    status = rig.engine.swap_status(swap_id)
    assert status.state is (SwapState.CANCELLED if way == "abort" else SwapState.COMPLETED)
    assert status.shadow == ShadowReport(2, 2, 0, 0, 0)
    check_quiet(rig)


async def test_a_version_that_was_loaded_before_is_shadowed_no_longer(rig: Rig, autojump_clock: Any) -> None:
    """An abort leaves it loaded as it was, and no trial and no copies behind."""
    await two(rig)
    await rig.engine.load("m", "2")
    swap_id = rig.engine.start_swap("m", "2", plan=shadow())
    await settle()
    rig.engine.abort(swap_id)
    await settle()
    await ask(rig)
    assert (rig.engine.loaded_versions("m"), calls(rig, "2")) == (("1", "2"), [])
    check_quiet(rig)


@pytest.mark.parametrize("execution", EXECUTIONS)
@pytest.mark.parametrize("thread_safe", [True, False])
async def test_copies_run_beside_clients_on_the_real_machine(execution: str, thread_safe: bool) -> None:
    """With real threads every request has its answer, every copy its count, and nothing is held in the end."""
    async with open_rig(real=True, strict_references=True) as rig:
        await rig.ready("m", "1", execution=execution, thread_safe=thread_safe, answers=dict)
        rig.add("m", "2", execution=execution, thread_safe=thread_safe, answers=dict)
        swap_id = rig.engine.start_swap("m", "2", plan=Shift.canary([(1.0, 1_000.0)], shadow=True))
        while rig.engine._router.snapshot.routes["m"].trial is None:
            await trio.lowlevel.checkpoint()
        async with trio.open_nursery() as nursery:
            for _ in range(8):
                nursery.start_soon(ask_often, rig, 25)
        rig.engine.abort(swap_id)
        with pytest.raises(SwapRolledBack) as caught:
            await rig.engine.wait_for_swap(swap_id)
        found = caught.value.operation.shadow
        assert found.copied + found.skipped == 200
        assert (found.agreed, found.differed, found.failed) == (found.copied, 0, 0)


async def ask_often(rig: Rig, count: int) -> None:
    """Ask so many times without waiting in between."""
    for number in range(count):
        assert (await rig.engine.infer("m", {"n": number})).version == "1"


# --- when two answers agree -----------------------------------------------------------------------------------------


class Incomparable:
    """What raises when it is compared."""

    def __eq__(self, other: object) -> bool:
        raise Broken("not with me")

    __hash__ = None  # type: ignore[assignment]


NAN = float("nan")


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (1.0, 1.0005, True), (1.0, 1.01, False), (1e6, 1e6 + 500, True), (1e6, 1e6 + 5_000, False), (0.0, 9e-4, True),
        (NAN, NAN, True), (NAN, 1.0, False), (1, 1, True), (1, 2, False), ("a", "a", True), ("a", "b", False),
        ([1, 2], [1, 2], True), (None, None, True), (Incomparable(), Incomparable(), False),
        (np.array([1.0, NAN]), np.array([1.0005, NAN]), True), (np.array([1.0]), np.array([1.1]), False),
        (np.array([1.0]), np.array([1.0, 1.0]), False), (np.array([1.0]), np.array([[1.0]]), False),
        (np.array([1, 2]), np.array([1, 2]), True), (np.array([1, 2]), np.array([1, 3]), False),
        (np.array([1.0], np.float32), np.array([1.0]), True), (np.array(["a"]), np.array(["a"]), True),
        (np.array(["a"]), np.array([1.0]), False), (np.float64(1.0), 1.0, True), (np.array([1.0]), [1.0], True),
        (np.array([], float), np.array([], float), True),
    ],
)  # fmt: skip
def test_answers_agree_but_for_the_rounding_of_floats(one: Any, other: Any, same: bool) -> None:
    """Numbers within a thousandth, NaN with NaN, everything else exactly; what cannot be compared does not agree."""
    assert agree({"y": one}, {"y": other}) is same
    assert agree({"y": other}, {"y": one}) is same


def test_answers_with_other_names_do_not_agree() -> None:
    """Missing, more, or called otherwise."""
    for names in ({}, {"x": 1}, {"y": 1, "z": 1}):
        assert not agree({"y": 1}, names)
    assert agree({}, {})
    assert agree({"a": 1, "b": 2}, {"b": 2, "a": 1})
