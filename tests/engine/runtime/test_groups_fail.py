"""One model of a group fails, at any step: before the pivot all are undone, behind it all go forward."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
import trio

from changeover import Shift, SwapState, Timeouts
from changeover.core.plan import Step
from changeover.errors import (
    JournalFailed,
    LoadFailed,
    LoadTimeout,
    NotReady,
    SwapFailed,
    SwapRolledBack,
    SwapTimeout,
    WarmUpFailed,
)
from tests.support.groups import (
    PAIR,
    TRIO,
    check_group_undone,
    check_one_side,
    crash,
    mixes,
    snapshots,
    swapping,
    to,
    two_of_each,
    versions,
)
from tests.support.journals import BOUNDARIES, FlakyJournal, at, use_journal
from tests.support.models import Broken
from tests.support.rig import Rig, later, open_rig, running, settle

STEPS = [step.value for step in Step]
EVERY_MEMBER = pytest.mark.parametrize(
    ("models", "who"), [(PAIR, who) for who in PAIR] + [(TRIO, who) for who in TRIO], ids="".join
)
HALF = Shift.canary([(0.5, 5.0)], confirm_s=5.0)


def break_router(rig: Rig, who: str, version: str, times: int = 1_000) -> list[float]:
    """Let the next so many moves of a model's traffic to a version fail, and return when they did."""
    router, failed = rig.engine._router, list[float]()
    shift, try_out = router.shift, router.try_out

    def look(found: str | None) -> None:
        if found == version and len(failed) < times:
            failed.append(trio.current_time())
            raise Broken("the router is stuck")

    def broken_shift(moves: Any) -> None:
        look(moves.get(who))
        shift(moves)

    def broken_trial(trials: Any, share: float) -> None:
        look(trials[who].new)
        try_out(trials, share)

    router.shift, router.try_out = broken_shift, broken_trial
    return failed


async def ask_all_along(rig: Rig, models: tuple[str, ...], seen: set[str]) -> None:
    """Ask sets for ever; one that is not answered is an error of the test."""
    while True:
        seen.add(await versions(rig, models))
        await trio.sleep(0.25)


# --- before the pivot -----------------------------------------------------------------------------------------------


@attrs.frozen
class Fault:
    """What goes wrong with one model of a group."""

    name: str
    cause: type[Exception]
    step: str
    """The step that fails."""
    script: dict[str, Any] = attrs.field(factory=dict)
    """What its new version does."""
    takes: str | None = None
    """Which work with it never ends by itself."""
    options: dict[str, Any] = attrs.field(factory=dict)
    """Of the order."""
    router: bool = False
    """Whether the router refuses its new version."""
    crashes_at: str | None = None
    """The boundary in which it crashes, while the journal is slow."""

    def __str__(self) -> str:
        """Return the name."""
        return self.name


FAULTS = [
    Fault("load raises", LoadFailed, "load", {"load_error": Broken("no weights")}),
    Fault("load returns nonsense", LoadFailed, "load", {"loads": 5}),
    Fault("load hangs", LoadTimeout, "load", takes="load", options={"timeouts": Timeouts(load_s=3.0)}),
    Fault("load hangs for all", SwapTimeout, "load", takes="load", options={"timeouts": Timeouts(total_s=3.0)}),
    Fault("warm-up raises", WarmUpFailed, "warm", {"raises": Broken("cold")}),
    Fault("warm-up hangs", LoadTimeout, "warm", takes="warm", options={"timeouts": Timeouts(load_s=3.0)}),
    Fault("crash before the shift", NotReady, "shift", crashes_at="shift"),
    Fault("crash before the trial", NotReady, "shift", crashes_at="shift", options={"plan": HALF}),
    Fault("router refuses", Broken, "shift", router=True),
    Fault("router refuses the trial", Broken, "shift", router=True, options={"plan": HALF}),
]


@EVERY_MEMBER
@pytest.mark.parametrize("fault", FAULTS, ids=str)
async def test_one_model_that_fails_before_the_pivot_undoes_all(
    rig: Rig, fault: Fault, models: tuple[str, ...], who: str, autojump_clock: Any
) -> None:
    """Every old version serves on, whatever was loaded of the new ones is closed; no set met a new version or a mix."""
    script = {name: {**dict.fromkeys(models), who: value} for name, value in fault.script.items()}
    await two_of_each(rig, models, warmup=[{}], **script)
    hang = trio.Event()
    if fault.takes:
        rig.takes(f"{fault.takes} {who}/2", hang)
    if fault.router:
        break_router(rig, who, "2")
    journal = use_journal(rig, slow_for=at(fault.crashes_at) if fault.crashes_at else None)
    answered: set[str] = set()
    seen, swap = snapshots(rig), swapping(rig, models, **fault.options)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask_all_along, rig, models, answered)
        async with running(swap):
            if fault.crashes_at:
                await trio.sleep(9.99)  # behind it a restart would be in time
                await crash(rig, who, "2")
        await settle()
        nursery.cancel_scope.cancel()
    assert isinstance(swap.error, SwapFailed)
    assert isinstance(swap.error.__cause__, fault.cause)
    operation = swap.error.operation
    assert (operation.state, operation.steps[-1].step) == (SwapState.FAILED, fault.step)
    assert all(step.compensation == "done" for step in operation.steps)
    assert journal.lines()[-1] == "failed"
    assert (answered, seen) == ({"1" * len(models)}, [])
    hang.set()
    await settle()
    await check_group_undone(rig, operation, models)


@pytest.mark.parametrize("restart_s", [0.0, 10.0])
@pytest.mark.parametrize("way", ["fails", "is aborted"])
async def test_a_new_version_that_has_got_the_traffic_by_a_crash_gives_it_back(
    rig: Rig, way: str, restart_s: float, autojump_clock: Any
) -> None:
    """An old version crashes while another model is loaded: undone, all is where it was, once that one is back."""
    await two_of_each(rig)
    rig.takes("load b/2", 5.0)
    rig.takes("load a/1", restart_s)
    rig.script("b", "2").load_error = Broken("no weights") if way == "fails" else None
    swap = swapping(rig)
    async with running(swap):
        await trio.sleep(1.0)
        await crash(rig, "a", "1")
        await trio.sleep(2.0)
        assert await versions(rig) == "21"
        if way == "is aborted":
            rig.engine.abort(rig.engine.swaps("a")[0].id)
    operation = swap.error.operation
    assert operation.state is (SwapState.FAILED if way == "fails" else SwapState.CANCELLED)
    assert all(step.compensation == "done" for step in operation.steps)
    await trio.sleep(10.0)
    await check_group_undone(rig, operation)


@EVERY_MEMBER
async def test_a_group_that_failed_can_be_ordered_again(
    rig: Rig, models: tuple[str, ...], who: str, autojump_clock: Any
) -> None:
    """Once what was wrong is mended."""
    await two_of_each(rig, models)
    rig.script(who, "2").load_error = Broken("no weights")
    with pytest.raises(SwapFailed, match="no weights"):
        await rig.engine.swap_group(to("2", models))
    rig.script(who, "2").load_error = None
    assert (await rig.engine.swap_group(to("2", models))).state is SwapState.COMPLETED
    check_one_side(rig, "2", models)


async def test_a_load_that_fails_calls_the_others_off_at_once(rig: Rig, autojump_clock: Any) -> None:
    """Nobody waits for the load of another model of the group, and what it brings is closed on arrival."""
    await two_of_each(rig, TRIO)
    rig.takes("load a/2", 50.0)
    rig.takes("load b/2", 2.0)
    rig.script("b", "2").load_error = Broken("no weights")
    swap = swapping(rig, TRIO)
    async with running(swap):
        pass
    assert isinstance(swap.error, SwapFailed)
    assert (swap.ended_s, rig.cast.of("a", "2")) == (2.0, [])
    await trio.sleep(100.0)
    await check_group_undone(rig, swap.error.operation, TRIO)


async def test_a_group_that_does_not_fit_into_memory_is_undone(autojump_clock: Any) -> None:
    """The budget has room for one new version and not for two."""
    async with open_rig(memory_budget_bytes=35) as rig:
        await two_of_each(rig, memory=10, memory_hint_bytes=10)
        with pytest.raises(SwapFailed, match="budget") as caught:
            await rig.engine.swap_group(to("2"))
        await check_group_undone(rig, caught.value.operation)
        assert (await rig.engine.swap("b", "2")).state is SwapState.COMPLETED


# --- a journal that fails -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("undone", [False, True], ids=["", "and all that is undone"])
@pytest.mark.parametrize("step", BOUNDARIES[:3])
@pytest.mark.parametrize("models", [PAIR, TRIO], ids="".join)
async def test_a_boundary_of_a_group_that_cannot_be_written_is_not_crossed(
    rig: Rig, step: str, undone: bool, models: tuple[str, ...], autojump_clock: Any
) -> None:
    """All is undone, the traffic of every model in one step, also where nothing of that can be written down."""
    await two_of_each(rig, models)
    journal, seen = FlakyJournal(), snapshots(rig)
    journal.refuses = lambda record: at(step)(record) or (undone and not record.progress.forward)
    rig.engine._swap_world = attrs.evolve(rig.engine._swap_world, journal=journal)
    with pytest.raises(SwapFailed) as caught:
        await rig.engine.swap_group(to("2", models))
    assert isinstance(caught.value.__cause__, JournalFailed)
    assert seen == ([{model: {version: 1.0} for model in models} for version in "21"] if step == "drain" else [])
    await check_group_undone(rig, caught.value.operation, models)


@pytest.mark.parametrize("step", [*BOUNDARIES[3:], "completed"])
async def test_behind_the_pivot_of_a_group_a_journal_that_fails_stops_nothing(
    rig: Rig, step: str, autojump_clock: Any
) -> None:
    """All go forward, and the operation says what was not written down."""
    await two_of_each(rig, TRIO)
    use_journal(rig, refuses=at(step))
    operation = await rig.engine.swap_group(to("2", TRIO))
    assert operation.state is SwapState.COMPLETED
    assert "no space left" in str(operation.error_message)
    check_one_side(rig, "2", TRIO)


@pytest.mark.parametrize("models", [("a",), PAIR, TRIO], ids="".join)
async def test_a_new_version_that_crashes_while_the_pivot_is_written_down_undoes_all(
    rig: Rig, models: tuple[str, ...], autojump_clock: Any
) -> None:
    """Its old version has the traffic again, and is not drained: all go back to theirs, and nobody is left without."""
    await two_of_each(rig, models)
    rig.takes("load a/2", 1.0)
    use_journal(rig, slow_for=at("drain"))
    swap, answered = swapping(rig, models), set[str]()
    async with running(swap):
        await trio.sleep(10.5)
        await crash(rig, "a", "2")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask_all_along, rig, models, answered)
            await trio.sleep(2.0)
            nursery.cancel_scope.cancel()
    assert isinstance(swap.error, SwapRolledBack)
    assert "a/2 stopped taking requests at its pivot" in str(swap.error)
    assert (swap.ended_s, "1" * len(models) in answered) == (11.0, True)
    await check_group_undone(rig, swap.error.operation, models)


# --- behind the pivot -----------------------------------------------------------------------------------------------


@EVERY_MEMBER
async def test_an_old_version_that_crashes_in_its_drain_stops_no_other(
    rig: Rig, models: tuple[str, ...], who: str, autojump_clock: Any
) -> None:
    """All go forward; the operation tells who went away by itself, and how the others ended."""
    await two_of_each(rig, models)
    leases, swap = {model: rig.lease(model) for model in models}, swapping(rig, models)
    async with running(swap):
        with pytest.raises(Exception, match="beyond use"):
            leases[who].infer({"poison": "1"})
        for lease in leases.values():
            lease.release()
    assert (swap.value.state, swap.value.old_unloaded) == (SwapState.COMPLETED, False)
    assert f"{who}/1 crashed" in swap.value.error_message
    ends = {m.model: m.drain_outcome and m.drain_outcome.result for m in swap.value.members}
    assert ends == {**dict.fromkeys(models, "drained"), who: None}
    assert {m.model for m in swap.value.members if m.old_unloaded} == set(models) - {who}
    await trio.sleep(100.0)
    check_one_side(rig, "2", models)


@EVERY_MEMBER
async def test_an_old_model_whose_close_hangs_is_the_only_one_that_is_not_unloaded(
    rig: Rig, models: tuple[str, ...], who: str, autojump_clock: Any
) -> None:
    """After `unload_s` in all the group is done; of each model it tells whether its old version is closed."""
    await two_of_each(rig, models)
    hang = trio.Event()
    for model in models:
        rig.takes(f"close {model}/1", hang if model == who else 3.0)
    operation = await rig.engine.swap_group(to("2", models), timeouts=Timeouts(unload_s=7.0))
    assert (operation.state, operation.old_unloaded, trio.current_time()) == (SwapState.COMPLETED, False, 7.0)
    assert {m.model for m in operation.members if m.old_unloaded} == set(models) - {who}
    assert f"{who}/1 did not return within 7 s" in str(operation.error_message)
    hang.set()
    await settle()
    check_one_side(rig, "2", models)


# --- compensations that fail ----------------------------------------------------------------------------------------


@EVERY_MEMBER
async def test_a_router_that_cannot_give_back_one_model_keeps_all_where_they_are(
    rig: Rig, models: tuple[str, ...], who: str, autojump_clock: Any
) -> None:
    """After four tries the swap has failed, with all of the new versions serving and the reason; no set is a mix."""
    await two_of_each(rig, models)
    use_journal(rig, refuses=at("drain"))
    failed, seen = break_router(rig, who, "1"), snapshots(rig)
    with pytest.raises(SwapFailed) as caught:
        await rig.engine.swap_group(to("2", models))
    operation = caught.value.operation
    assert (len(failed), mixes(seen), await versions(rig, models)) == (4, [], "2" * len(models))
    assert operation.aftermath is not None
    assert {f"{model}/2 has the traffic" for model in models} <= set(operation.aftermath.stands)
    assert "could not give the traffic back: Broken: the router is stuck" in operation.aftermath.does_not
    assert len(operation.aftermath.remedies) == len(models)
    assert rig.engine._slots.everybody() == ()


@EVERY_MEMBER
async def test_a_group_that_is_given_back_at_the_second_try_is_undone(
    rig: Rig, models: tuple[str, ...], who: str, autojump_clock: Any
) -> None:
    """As if nothing had been."""
    await two_of_each(rig, models)
    use_journal(rig, refuses=at("drain"))
    failed, seen = break_router(rig, who, "1", times=1), snapshots(rig)
    with pytest.raises(SwapFailed) as caught:
        await rig.engine.swap_group(to("2", models))
    assert (len(failed), mixes(seen), trio.current_time()) == (1, [], pytest.approx(0.1))
    await check_group_undone(rig, caught.value.operation, models)


@EVERY_MEMBER
async def test_one_new_version_that_cannot_be_closed_is_reported_and_the_others_are_gone(
    models: tuple[str, ...], who: str, autojump_clock: Any
) -> None:
    """Its `close()` hangs while the group is undone: bounded, named, and nothing of the others is left."""
    hang = trio.Event()
    async with trio.open_nursery() as nursery, open_rig() as rig:
        nursery.start_soon(later, 1_000.0, hang.set)
        await two_of_each(rig, models)
        use_journal(rig, refuses=at("shift"))
        rig.takes(f"close {who}/2", hang)
        with pytest.raises(SwapFailed) as caught:
            await rig.engine.swap_group(to("2", models), timeouts=Timeouts(unload_s=7.0))
        operation = caught.value.operation
        assert trio.current_time() < 60.0
        assert await versions(rig, models) == "1" * len(models)
        assert operation.aftermath is not None
        assert operation.aftermath.remedies == (f"{who}/2 goes when its close() returns",)
        assert [f"{model}/2 is unloaded" in operation.aftermath.stands for model in models] == [
            model != who for model in models
        ]
        hang.set()
        await settle()
        await check_group_undone(rig, operation, models)


@EVERY_MEMBER
async def test_one_new_version_that_is_held_delays_its_group_no_longer_than_the_deadline(
    rig: Rig, models: tuple[str, ...], who: str, autojump_clock: Any
) -> None:
    """Undone in its trial while somebody holds one new version: that one goes to quarantine, the others are closed."""
    await two_of_each(rig, models)
    swap = swapping(rig, models, plan=HALF)
    async with running(swap):
        await trio.sleep(1.0)
        lease = rig.lease(who, "2")
        rig.engine.abort(rig.engine.swaps(who)[0].id)
        await settle()
        assert await versions(rig, models) == "1" * len(models)
        assert [rig.engine.loaded_versions(model) for model in models if model != who] == [("1",)] * (len(models) - 1)
    assert swap.ended_s == 31.0
    lease.release()
    await settle()
    await check_group_undone(rig, swap.error.operation, models)


async def test_an_engine_that_ends_while_a_group_is_undone_says_why_it_was(autojump_clock: Any) -> None:
    """One load fails, and the other new model cannot be closed in time: the end names both that and the failure."""
    hang = trio.Event()
    async with open_rig(close_timeout_s=1.0) as rig:
        await two_of_each(rig, load_error={"a": None, "b": Broken("no weights")})
        rig.takes("load b/2", 3.0)
        rig.takes("close a/2", hang)
        rig.engine.start_group_swap(to("2"))
        await trio.sleep(30)
        assert rig.engine.swaps()[0].state is SwapState.ROLLING_BACK
    told = rig.engine.swaps()[0]
    hang.set()
    await settle()
    assert told.state is SwapState.FAILED
    assert told.error_message is not None
    assert told.error_message.startswith("LoadFailed: b/2 was not loaded")
    assert told.error_message.endswith("no weights; the engine was closed before the swap ended")
