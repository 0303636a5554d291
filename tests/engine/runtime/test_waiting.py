"""Waits for zero references: on Trio, on asyncio and in threads at once, cancelled, given up, and each woken once."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
import trio

from changeover import Balance, ReferenceTracker, VersionKey, WaitOutcome
from changeover.errors import DrainTimeout, EngineClosed, EngineFailed, WrongLoop
from tests.support.faces import THREADS, TRIO, Face, crash, run_through
from tests.support.rig import Outcome, Rig, open_rig, running, settle
from tests.support.threads import Crowd
from tests.support.trackers import KINDS, eventually, in_thread, open_tracker, start_calmly, until_watched, watchers

of_each_kind = pytest.mark.parametrize("kind", KINDS)
RUNS: dict[str, Callable[[Callable[[], Any]], Any]] = {
    "trio": trio.run,
    "asyncio": lambda main: asyncio.run(main()),
    "a thread": lambda main: main(),
}
"""How whoever waits is run."""


def wait(tracker: ReferenceTracker, where: str, timeout_s: float = 60.0) -> WaitOutcome:
    """Wait for zero in a world of one's own."""
    call = tracker.wait_for_zero_blocking if where == "a thread" else tracker.wait_for_zero
    outcome: WaitOutcome = RUNS[where](lambda: call("m", "1", timeout_s))
    return outcome


# --- anywhere -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", RUNS)
def test_a_wait_for_what_is_not_held_is_none(where: str) -> None:
    """A version that nobody holds, or that nobody knows, is zero at once, also in no time."""
    tracker = ReferenceTracker()
    assert wait(tracker, where, 0.0).result == "zero"
    tracker.acquire("m", "1", "request")
    tracker.release("m", "1", "request")
    assert wait(tracker, where, 0.0).result == "zero"


@pytest.mark.parametrize("where", RUNS)
@pytest.mark.parametrize("timeout_s", [0.0, 0.01])
def test_a_wait_runs_out_of_time(where: str, timeout_s: float) -> None:
    """`DrainTimeout` names holders and version, and leaves no watcher."""
    tracker = ReferenceTracker()
    tracker.acquire("m", "1", "order-7")
    with pytest.raises(DrainTimeout, match=f"m/1 is still held after {timeout_s:g} s by request order-7") as caught:
        wait(tracker, where, timeout_s)
    assert ([holder.holder for holder in caught.value.holders], caught.value.version) == (["order-7"], "1")
    assert watchers(tracker) == 0


@of_each_kind
async def test_waits_in_every_world_are_woken_by_one_release(kind: str) -> None:
    """Three waits each on Trio runs, asyncio loops and in threads: the one release wakes all, and none is left."""
    async with open_tracker(kind, real=True) as tracker:
        tracker.acquire("m", "1", "request")
        crowd, outcomes = Crowd(), list[tuple[str, WaitOutcome]]()
        for where in (*RUNS, *RUNS, *RUNS):
            crowd.add(lambda where=where: outcomes.append((where, wait(tracker, where))))
        here = Outcome(tracker.wait_for_zero, "m", "1", 60.0)
        async with running(here):
            crowd.start()
            await eventually(lambda: watchers(tracker) == 20)
            assert (outcomes, here.over) == ([], False)
            tracker.release("m", "1", "request")
        await trio.to_thread.run_sync(crowd.join)
        assert sorted(where for where, _ in outcomes) == sorted([*RUNS, *RUNS, *RUNS])
        assert {outcome.result for _, outcome in outcomes} | {here.value.result} == {"zero"}
        assert watchers(tracker) == 0


async def test_a_waiter_is_woken_once(autojump_clock: Any) -> None:
    """Whoever waited has heard of this zero; the account forgets it, and a later zero rings nobody."""
    async with open_tracker("alone") as tracker:
        tracker.acquire("m", "1", "request")
        (account,) = tracker._world.books.of("m", "1")
        rung = list[str]()
        account.watch(lambda: rung.append("another watcher"))
        outcome = Outcome(tracker.wait_for_zero, "m", "1", 60.0)
        async with running(outcome):
            assert watchers(tracker) == 3
            tracker.release("m", "1", "request")
            assert len(account._watchers) == 0  # taken out by whoever made the zero, before the waiter runs
        for _ in range(3):
            tracker.acquire("m", "1", "request")
            tracker.release("m", "1", "request")
        assert (outcome.value.result, rung, watchers(tracker)) == ("zero", ["another watcher"], 0)


async def test_a_zero_counts_also_where_it_is_over_when_it_is_heard(autojump_clock: Any) -> None:
    """Zero is reported though somebody took the version before the waiter ran: it was zero."""
    async with open_tracker("alone") as tracker:
        tracker.acquire("m", "1", "request")
        outcome = Outcome(tracker.wait_for_zero, "m", "1", 60.0)
        async with running(outcome):
            tracker.release("m", "1", "request")
            tracker.acquire("m", "1", "next")
        assert outcome.value == WaitOutcome("zero", 0.0)


async def test_waits_for_one_version_do_not_hear_of_another(autojump_clock: Any) -> None:
    """The zero of m/2 wakes nobody who waits for m/1."""
    async with open_tracker("alone") as tracker:
        for version in "12":
            tracker.acquire("m", version, "request")
        one, two = (Outcome(tracker.wait_for_zero, "m", version, 60.0) for version in "12")
        async with running(one, two):
            tracker.release("m", "2", "request")
            await settle()
            assert (one.over, two.over) == (False, True)
            await trio.sleep(1)
            tracker.release("m", "1", "request")


def test_a_wait_belongs_to_a_loop() -> None:
    """Awaited where there is none, it says which call to make instead."""
    tracker = ReferenceTracker()

    async def main() -> None:
        with pytest.raises(WrongLoop, match="wait_for_zero_blocking"):
            await tracker.wait_for_zero("m", "1", 1.0)

    run_through(main)
    assert watchers(tracker) == 0


# --- cancelled ------------------------------------------------------------------------------------------------------


@of_each_kind
async def test_a_wait_cancelled_on_trio_leaves_nothing(kind: str, autojump_clock: Any) -> None:
    """Any number of them; who goes on waiting is woken all the same."""
    async with open_tracker(kind) as tracker:
        tracker.acquire("m", "1", "request")
        stays = Outcome(tracker.wait_for_zero, "m", "1", 60.0)
        async with running(stays):
            for _ in range(5):
                with trio.move_on_after(1):
                    await tracker.wait_for_zero("m", "1", 60.0)
            assert watchers(tracker) == 2
            tracker.release("m", "1", "request")
        assert (stays.value.result, watchers(tracker)) == ("zero", 0)


def test_a_wait_cancelled_on_asyncio_leaves_nothing() -> None:
    """The task ends with its cancellation, and no other one is pending in it."""
    tracker = ReferenceTracker()
    tracker.acquire("m", "1", "request")

    async def main() -> None:
        tasks = [asyncio.create_task(tracker.wait_for_zero("m", "1", 60.0)) for _ in range(5)]
        while watchers(tracker) < 10:  # noqa: ASYNC110 - the tasks tell nobody that they wait
            await asyncio.sleep(0)
        for task in tasks[1:]:
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert watchers(tracker) == 2
        tracker.release("m", "1", "request")
        assert (await tasks[0]).result == "zero"
        assert watchers(tracker) == 0

    asyncio.run(main())


async def test_a_cancellation_in_the_moment_of_the_zero_loses_neither(autojump_clock: Any) -> None:
    """The waiter ends as it was told to, the others are woken, and nothing is left."""
    async with open_tracker("alone") as tracker:
        tracker.acquire("m", "1", "request")
        stays = Outcome(tracker.wait_for_zero, "m", "1", 60.0)
        async with running(stays), trio.open_nursery() as nursery:
            nursery.start_soon(tracker.wait_for_zero, "m", "1", 60.0)
            await settle()
            tracker.release("m", "1", "request")
            nursery.cancel_scope.cancel()
        assert (stays.value.result, watchers(tracker)) == ("zero", 0)


# --- the version goes away ------------------------------------------------------------------------------------------


def goes(tracker: ReferenceTracker, end: str) -> None:
    """Let the version m/1, which `request` holds, go away in one of four ways."""
    if end == "forced":
        tracker.forget("m", "1", force=True)
    if end == "retired":
        tracker.retire("m", "1")
    if end != "forced":
        tracker.release("m", "1", "request")
    if end in ("forgotten", "forgotten and used anew"):
        tracker.forget("m", "1")
    if end == "forgotten and used anew":
        tracker.acquire("m", "1", "next")


@pytest.mark.parametrize("where", RUNS)
@pytest.mark.parametrize(("end", "result"), [("retired", "drained"), ("forced", "gone"), ("stays", "zero")])
def test_a_version_goes_away_while_somebody_waits(where: str, end: str, result: str) -> None:
    """The outcome says whether it can be taken again, cannot, or was forgotten while somebody held it."""
    tracker, crowd, outcomes = ReferenceTracker(), Crowd(), list[WaitOutcome]()
    tracker.acquire("m", "1", "request")
    crowd.add(lambda: outcomes.append(wait(tracker, where)))
    crowd.start()
    until_watched(tracker)
    goes(tracker, end)
    crowd.join()
    (outcome,) = outcomes
    assert outcome.result == result
    assert [holder.holder for holder in outcome.holders] == (["request"] if end == "forced" else [])
    if end == "forced":
        tracker.release("m", "1", "request")  # for which the old account has waited, to be struck out
    assert watchers(tracker) == 0


@pytest.mark.parametrize(
    ("end", "result"),
    [
        ("retired", "drained"),
        ("forced", "gone"),
        ("forgotten", "drained"),
        ("forgotten and used anew", "zero"),
        ("stays", "zero"),
    ],
)
async def test_the_outcome_is_that_of_the_moment_in_which_it_is_heard(
    end: str, result: str, autojump_clock: Any
) -> None:
    """What happens to the version between the zero and the waiter's turn is known to the waiter."""
    async with open_tracker("alone") as tracker:
        tracker.acquire("m", "1", "request")
        outcome = Outcome(tracker.wait_for_zero, "m", "1", 60.0)
        async with running(outcome):
            await trio.sleep(5)
            goes(tracker, end)
        assert (outcome.value.result, outcome.value.waited_s) == (result, 5.0)


def test_who_was_told_that_a_version_is_gone_may_wait_again() -> None:
    """The old holder is still counted, so a second wait is for it; its release works as ever."""
    tracker = ReferenceTracker()
    tracker.acquire("m", "1", "request")
    tracker.forget("m", "1", force=True)
    with pytest.raises(DrainTimeout, match="request"):
        tracker.wait_for_zero_blocking("m", "1", 0.0)
    tracker.release("m", "1", "request")
    assert tracker.wait_for_zero_blocking("m", "1", 0.0).result == "zero"


@pytest.mark.parametrize(
    ("face", "error"),
    [(TRIO, EngineClosed), (THREADS, EngineClosed), (THREADS, EngineFailed)],
    ids=lambda it: getattr(it, "name", None),
)
def test_an_engine_ends_while_somebody_waits(face: Face, error: type[Exception]) -> None:
    """Whoever waits in a thread hears why nobody keeps the count any more, and so does who asks later."""
    found: list[object] = []

    async def scenario(face: Face) -> None:
        with suppress(EngineFailed):
            async with face.opened(close_timeout_s=0.0) as engine:
                await prepare(engine)
                engine.references.acquire("m", "1", "request")
                thread.start()
                until_watched(engine.references)
                if error is EngineFailed:
                    crash(engine)
                    thread.join(30)

    async def prepare(engine: Any) -> None:
        tracked.append(engine.references)
        engine.register("m", "1", "s", loader="scripted")
        loading = engine.load("m", "1")
        if loading is not None:
            await loading

    tracked: list[ReferenceTracker] = []
    thread = threading.Thread(
        target=lambda: found.append(in_thread(tracked[0].wait_for_zero_blocking, "m", "1", 60.0)), daemon=True
    )
    face.play(scenario)
    thread.join(30)
    assert [type(outcome) for outcome in found] == [error]
    assert isinstance(in_thread(tracked[0].wait_for_zero_blocking, "m", "1", 60.0), error)


@pytest.mark.parametrize(("first", "last"), [("old", "new"), ("new", "old")])
async def test_a_version_that_crashes_leaves_its_holders_to_be_waited_for(
    first: str, last: str, rig: Rig, autojump_clock: Any
) -> None:
    """Both incarnations are waited for, the old one and the one that took its place."""
    await rig.ready(fatal_on=lambda inputs: "poison" in inputs)
    tracker = rig.engine.references
    tracker.acquire("m", "1", "old")
    with pytest.raises(Exception, match="beyond use"):
        await rig.engine.infer("m", {"poison": 1})
    await trio.sleep(1)
    tracker.acquire("m", "1", "new")
    outcome = Outcome(tracker.wait_for_zero, "m", "1", 60.0)
    async with running(outcome):
        tracker.release("m", "1", first)
        await trio.sleep(1)
        assert not outcome.over
        tracker.release("m", "1", last)
    assert outcome.value.result == "zero"


# --- many -----------------------------------------------------------------------------------------------------------


@of_each_kind
async def test_waits_and_uses_in_many_threads_lose_nobody(kind: str) -> None:
    """Uses and waits cross each other in eight threads: every wait ends, and at the end nobody watches."""
    async with open_rig(real=True) as rig:
        await rig.ready()
        tracker = rig.engine.references if kind != "alone" else ReferenceTracker()
        crowd, results = Crowd(), list[str]()

        def work(name: str) -> None:
            for _ in range(60):
                tracker.acquire("m", "1", name)
                tracker.release("m", "1", name)
                results.append(tracker.wait_for_zero_blocking("m", "1", 60.0).result)

        for number in range(8):
            crowd.add(work, str(number))
        crowd.start()
        await trio.to_thread.run_sync(crowd.join)
        assert (results, watchers(tracker)) == (["zero"] * 480, 0)


def test_a_thousand_threads_and_a_watcher_each() -> None:
    """Each takes, gives back and waits: the books balance, every wait ends, and no watcher is lost."""
    tracker, crowd, start, results = ReferenceTracker(), Crowd(), threading.Event(), list[WaitOutcome]()

    def work(name: str) -> None:
        start.wait()
        tracker.acquire("m", "1", name)
        tracker.release("m", "1", name)
        results.append(tracker.wait_for_zero_blocking("m", "1", 60.0))

    for number in range(1_000):
        crowd.add(work, str(number))
    start_calmly(crowd)
    start.set()
    crowd.join()
    assert tracker.audit().total == Balance(1_000, 1_000, 0)
    assert 1 <= tracker.statistics()[VersionKey("m", "1")].peak <= 1_000
    assert {outcome.result for outcome in results} == {"zero"}
    (account,) = tracker._world.books.of("m", "1")
    assert (len(results), account._watchers, account.usage.timed, tracker._world.waits._waiting) == (
        1_000,
        [],
        {},
        set(),
    )
