"""What must fail fails, in the right way, and leaves nothing behind; what must not fail does not."""

from __future__ import annotations

import re
from typing import Any

import pytest
import trio
from trio.lowlevel import checkpoint

from changeover_sim import PCT, Exhaustive, Failure, RandomWalk, explore
from tests.simulations.explorer import must_fail, must_not, must_not_threads
from tests.simulations.explorer.must_fail import CASES, Broken, Case
from tests.simulations.explorer.orders import batches, merges
from tests.simulations.explorer.steady import nothing_left

POLICIES = (RandomWalk(), PCT(3), Exhaustive(2))
MUST_NOT = {**must_not.EVERY, **must_not_threads.EVERY}
TIMED = {"timeouts", "cancelled_anywhere", "shield", "idle", "cancelled_in_a_thread", "back_into_trio"}
"""These are right because no deadline comes before its time."""


def failure_of(program: Any, **how: Any) -> Failure:
    """Return how a program fails."""
    failure = explore(program, **{"schedules": 200, **how}).failure
    assert failure is not None
    return failure


# --- each fails, each does not ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES, ids=str)
def test_what_must_fail_fails_and_leaves_nothing_behind(case: Case) -> None:
    """Whatever mess a program leaves, its verdict is told under each policy, and the next run knows nothing of it."""
    with nothing_left():
        results = [explore(case.program, **{"schedules": 200, "policy": policy, **case.how}) for policy in POLICIES]
    for result in results:
        failure = result.failure
        assert failure is not None
        assert failure.verdict == case.verdict, result
        assert failure.program == f"{must_fail.__name__}:{case.program.__name__}"
        assert failure.schedule_index == result.schedules_run - 1
        assert failure.token in str(result)


@pytest.mark.parametrize("name", MUST_NOT)
def test_what_must_not_fail_does_not(name: str) -> None:
    """Trio's own primitives, timeouts and threads, used as they are meant to be, are never reported."""
    with nothing_left():
        results = [explore(MUST_NOT[name], policy=policy, schedules=60) for policy in POLICIES]
    for result in results:
        assert result.failure is None, result
        assert result.notes == ()


@pytest.mark.parametrize("how", [{"mode": "trio-batch"}, {"timeouts": "any-time"}], ids=str)
@pytest.mark.parametrize("name", MUST_NOT)
def test_what_must_not_fail_does_not_in_other_modes_either(name: str, how: dict[str, Any]) -> None:
    """In batches, and with deadlines that may come at any time, where the program does not count on time."""
    if "timeouts" in how and name in TIMED:
        return
    for policy in (RandomWalk(), Exhaustive(1)):
        result = explore(MUST_NOT[name], policy=policy, schedules=40, **how)
        assert result.failure is None, result


def test_both_modes_together() -> None:
    """Batches and deadlines at any time do not get into each other's way."""
    for name in MUST_NOT.keys() - TIMED:
        result = explore(MUST_NOT[name], schedules=20, mode="trio-batch", timeouts="any-time")
        assert result.failure is None, result


# --- exception --------------------------------------------------------------------------------------------------------


def test_an_exception_comes_with_its_own_frames() -> None:
    """The program's exception is handed over as it was raised, and the report names the line."""
    failure = failure_of(must_fail.raises)
    assert type(failure.exception) is Broken
    assert failure.exception.__traceback__ is not None
    assert "Broken: at once" in str(failure)
    assert 'raise Broken("at once")' in str(failure)
    assert (failure.waiting, failure.leftover, failure.difference) == ((), (), "")


def test_an_assertion_is_an_exception_and_its_text_is_in_the_report() -> None:
    """What was asserted, where, and the steps that led to it."""
    failure = failure_of(must_fail.loses_an_update)
    assert type(failure.exception) is AssertionError
    assert "AssertionError: an update is lost: 1" in str(failure)
    assert "seen = count" in str(failure)
    assert {"program", "add", "add 2"} == {step.task for step in failure.trace}


def test_every_leaf_of_a_group_is_in_the_report() -> None:
    """Groups within groups are taken apart: three errors, each with its line."""
    failure = failure_of(must_fail.three_leaves)
    assert isinstance(failure.exception, ExceptionGroup)
    for leaf in ("the outer leaf", "the inner leaf", "the second inner leaf"):
        assert f"Broken: {leaf}" in str(failure)
    assert str(failure).count("raise Broken(text)") >= 3


def test_the_end_of_the_process_is_only_an_exception() -> None:
    """SystemExit in a program ends the schedule and not the exploration's process."""
    failure = failure_of(must_fail.exits)
    assert isinstance(failure.exception, SystemExit)


# --- deadlock ---------------------------------------------------------------------------------------------------------


def waits(failure: Failure) -> dict[str, tuple[str, tuple[str, ...]]]:
    """Return primitive and holders of every task that waits, by its name."""
    return {wait.task: (wait.primitive, wait.holders) for wait in failure.waiting}


def test_two_locks_name_their_holders_and_lines() -> None:
    """Each waits in a lock that the other holds, and the program for both."""
    failure = failure_of(must_fail.two_locks)
    found = waits(failure)
    assert found["left"] == ("trio.Lock", ("right",))
    assert found["right"] == ("trio.Lock", ("left",))
    assert found["program"] == ("a nursery", ("left", "right"))
    assert all("async with first, second:" in wait.place.text for wait in failure.waiting if wait.task != "program")
    assert "waits in trio.Lock, held by right" in str(failure)
    assert failure.exception is None


def test_an_event_that_nobody_sets_has_no_holder() -> None:
    """Trio does not know who should have set it."""
    ((primitive, holders),) = waits(failure_of(must_fail.event_that_nobody_sets)).values()
    assert (primitive, holders) == ("trio.Event (1 waiting)", ())


def test_some_are_in_a_deadlock_while_others_go_on() -> None:
    """Time never stands still, and the two that hold each other's lock are found all the same."""
    failure = failure_of(must_fail.partial, steps_max=200)
    assert failure.verdict == "deadlock"
    assert waits(failure)["left"] == ("trio.Lock", ("right",))
    until = {wait.task: wait.until_s for wait in failure.waiting}
    assert until["left"] is None
    assert until.get("ticker", 1.0) is not None


def test_who_waits_for_one_that_still_goes_on_is_in_no_deadlock() -> None:
    """A lock held by a task that spins, or that sleeps again and again, is a livelock."""

    async def program() -> None:
        lock = trio.Lock()

        async def hold() -> None:
            async with lock:
                await must_fail.ticker()

        async def want() -> None:
            async with lock:
                pass

        async with trio.open_nursery() as nursery:
            nursery.start_soon(hold)
            await trio.sleep(1)
            nursery.start_soon(want)
            nursery.start_soon(must_fail.spins)

    assert failure_of(program, steps_max=100).verdict == "livelock"


def test_who_waits_for_any_of_several_is_in_no_deadlock_while_one_of_them_goes_on() -> None:
    """Two have a token of the limiter: one waits for whoever wants a token, the other goes on and may give his back."""

    async def program() -> None:
        limiter, lock = trio.CapacityLimiter(2), trio.Lock()

        async def stuck() -> None:
            async with limiter:
                await trio.sleep(2)
                async with lock:
                    pass

        async def busy() -> None:
            async with limiter:
                await must_fail.ticker()

        async def wants() -> None:
            async with lock:
                await trio.sleep(1)
                async with limiter:
                    pass

        async with trio.open_nursery() as nursery:
            for task in (stuck, busy, wants):
                nursery.start_soon(task)

    assert failure_of(program, steps_max=100).verdict == "livelock"


def test_who_gives_up_after_a_while_is_in_no_deadlock() -> None:
    """Each holds a lock and tries for the other's, a second at a time, for ever."""

    async def program() -> None:
        a, b = trio.Lock(), trio.Lock()

        async def tries(mine: trio.Lock, other: trio.Lock) -> None:
            async with mine:
                await trio.sleep(1)
                while True:
                    with trio.move_on_after(1):
                        await other.acquire()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(tries, a, b)
            nursery.start_soon(tries, b, a)

    assert failure_of(program, steps_max=100).verdict == "livelock"


PARKED = {
    "a memory channel's send() (0 of 0 buffered, 1 senders, 1 receivers)": must_fail.channel_without_reader,
    "trio.CapacityLimiter (1 of 1 borrowed)": must_fail.limiter_of_nobody,
    "trio.sleep_forever()": must_fail.shielded_for_ever,
    "trio.to_thread.run_sync()": must_fail.thread_waits_for_ever,
}


@pytest.mark.parametrize("primitive", PARKED)
def test_what_a_task_is_parked_in_is_named(primitive: str) -> None:
    """The report says in which of Trio's primitives each task waits, with what is known of its state."""
    assert any(found == primitive for found, _ in waits(failure_of(PARKED[primitive])).values())


HELD = {
    "Condition": ("trio.Lock", ("keeper",)),
    "Semaphore": ("trio.Semaphore", ()),
    "CapacityLimiter": ("trio.CapacityLimiter (1 of 1 borrowed)", ("keeper",)),
    "StrictFIFOLock": ("trio.StrictFIFOLock", ("keeper",)),
}


@pytest.mark.parametrize("name", HELD)
def test_what_others_hold_is_named(name: str) -> None:
    """Who waits for a thing that is never given back stands in the report with that thing."""

    async def program() -> None:
        thing: Any = {
            "Condition": trio.Condition,
            "Semaphore": lambda: trio.Semaphore(1),
            "CapacityLimiter": lambda: trio.CapacityLimiter(1),
            "StrictFIFOLock": trio.StrictFIFOLock,
        }[name]()

        async def keeper() -> None:
            await thing.acquire()
            await trio.sleep_forever()

        async def waiter() -> None:
            await trio.sleep(1)
            await thing.acquire()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(keeper)
            nursery.start_soon(waiter)

    assert waits(failure_of(program))["waiter"] == HELD[name]


# --- livelock ---------------------------------------------------------------------------------------------------------


def spinner(spins: list[int]) -> Any:
    """Return a program that is right if only somebody is fair: one yields until the other has set a flag."""

    async def program() -> None:
        done, spun = False, 0

        async def spin() -> None:
            nonlocal spun
            while not done:
                spun += 1
                await checkpoint()

        async def setter() -> None:
            nonlocal done
            await checkpoint()
            done = True

        async with trio.open_nursery() as nursery:
            nursery.start_soon(spin)
            nursery.start_soon(setter)
        spins.append(spun)

    return program


@pytest.mark.parametrize("policy", POLICIES, ids=str)
def test_a_program_that_only_needs_fairness_is_no_livelock(policy: Any) -> None:
    """Behind the limit of steps everybody gets his turn, and the one who was starved sets the flag."""
    spins: list[int] = []
    result = explore(spinner(spins), policy=policy, schedules=50, steps_max=100)
    assert result.failure is None, result
    if isinstance(policy, PCT):
        assert max(spins) > 90, "nobody was starved, so this proves nothing"


def test_the_limit_counts_steps() -> None:
    """What ends within twice the limit is no livelock, what does not is one."""

    def of(steps: int) -> Any:
        async def program() -> None:
            for _ in range(steps):
                await checkpoint()

        return program

    assert explore(of(150), schedules=1, steps_max=100).failure is None
    assert failure_of(of(250), schedules=1, steps_max=100).verdict == "livelock"


def test_a_livelock_shows_who_went_on() -> None:
    """The last steps are in the trace, and who waits meanwhile is named."""
    failure = failure_of(must_fail.ticks_for_ever, steps_max=100)
    assert str(failure).startswith("livelock: ")
    assert failure.trace[-1].task == "program"
    assert [wait.primitive for wait in failure.waiting] in ([], ["trio.sleep()"])


# --- leftover, nondeterminism -----------------------------------------------------------------------------------------


def test_a_task_left_over_is_named_with_its_line() -> None:
    """The program has returned, and its system task has not."""
    failure = failure_of(must_fail.leaves_a_system_task)
    (left,) = failure.leftover
    assert left.startswith("the forgotten one at ")
    assert "still running: the forgotten one" in str(failure)


def test_nondeterminism_says_what_differed_first() -> None:
    """A module's variable grows: one more alternative at the first decision."""
    failure = failure_of(must_fail.global_that_grows)
    assert failure.exception is None
    assert failure.difference
    assert failure.difference[:40] in str(failure)
    assert re.match(r"(step|decision) \d+ was .* and, run again, ", failure.difference)


def test_a_failure_that_depends_on_the_world_is_nondeterminism() -> None:
    """It raised, and run again it did not: that cannot be replayed, so it is not told as an exception."""
    runs: list[None] = []

    async def program() -> None:
        await checkpoint()
        runs.append(None)
        assert len(runs) != 3

    assert failure_of(program).verdict == "nondeterminism"


def test_a_failure_that_comes_by_another_way_each_time_is_nondeterminism() -> None:
    """It raises in every run, a step later each time: a replay would show something else."""
    runs: list[None] = []

    async def program() -> None:
        runs.append(None)
        for _ in runs:
            await checkpoint()
        raise Broken("sooner or later")

    assert failure_of(program).verdict == "nondeterminism"


# --- what stock Trio does ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", merges("aa", "bb"))
def test_a_failure_says_whether_stock_trio_makes_it(order: str) -> None:
    """Stock Trio runs both before it runs one again: of the 6 orders of two tasks with two steps it makes 4."""

    async def program() -> None:
        said: list[str] = []

        async def task(letter: str) -> None:
            said.append(letter)
            await checkpoint()
            said.append(letter)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(task, "a")
            nursery.start_soon(task, "b")
        assert "".join(said) != order

    possible = order in batches("ab", "ab")
    failure = failure_of(program, policy=Exhaustive(None))
    assert failure.stock is possible
    assert ("Stock Trio" in str(failure)) is not possible
    in_batches = explore(program, policy=Exhaustive(None), mode="trio-batch")
    assert (in_batches.failure is not None) is possible
